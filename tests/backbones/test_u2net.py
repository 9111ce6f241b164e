"""U²-Net: names and sizes as published, the shipped weights against figures of onnxruntime, and the reading of the published ONNX file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn

from fretsaw.backbones import u2net
from fretsaw.backbones.u2net import FULL, SMALL, U2Net
from fretsaw.errors import ChecksumError, MissingWeightsError, OutputError, ShapeError, StateDictError

ROOT = Path(__file__).resolve().parents[2]
CHELSEA = ROOT / "examples" / "chelsea.png"


@pytest.fixture(scope="module")
def shipped() -> U2Net:
    return u2net.load_u2netp()


@pytest.fixture(scope="module")
def chelsea() -> np.ndarray:
    return np.array(Image.open(CHELSEA).convert("RGB"))


def random_network(seed: int = 0) -> U2Net:
    torch.manual_seed(seed)
    network = U2Net(SMALL)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


# --- the network -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("table", "parameters"), [(SMALL, 1131181), (FULL, 44009869)])
def test_sizes_are_the_published_ones(table, parameters):
    with torch.device("meta"):
        network = U2Net(table)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_parameter_names_are_the_published_ones():
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in U2Net(FULL).state_dict().items()}
    assert len(shapes) == 112 * 7 + 7 * 2  # 112 convolutions with norms, six sides and the fusion
    assert shapes["stage1.rebnconvin.conv_s1.weight"] == (64, 3, 3, 3)
    assert shapes["stage1.rebnconv7.bn_s1.running_var"] == (32,)
    assert shapes["stage1.rebnconv6d.conv_s1.weight"] == (32, 64, 3, 3)
    assert shapes["stage6.rebnconv4.conv_s1.weight"] == (256, 256, 3, 3)
    assert shapes["stage4d.rebnconvin.conv_s1.weight"] == (128 * 2, 1024, 3, 3)
    assert shapes["stage1d.rebnconv1d.conv_s1.weight"] == (64, 32, 3, 3)
    assert shapes["side4.weight"] == (1, 256, 3, 3)
    assert shapes["outconv.weight"] == (1, 6, 1, 1)
    assert not any(name.startswith(("stage6d", "stage1.rebnconv7d")) for name in shapes)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (75, 53)])
def test_taps_halve_from_level_to_level_and_maps_are_full_size(height, width):
    network = random_network()
    with torch.no_grad():
        encoded = network.encode(torch.randn(2, 3, height, width))
        decoded = network.decode(encoded)
        maps = network.maps(decoded)
    sizes = [(-(-height // 2**level), -(-width // 2**level)) for level in range(6)]  # odd sides are rounded up
    assert [tuple(x.shape) for x in encoded] == [(2, 64, *size) for size in sizes]
    assert [tuple(x.shape) for x in decoded] == [(2, 64, *size) for size in sizes]
    assert decoded[-1] is encoded[-1]
    assert [tuple(x.shape) for x in maps] == [(2, 1, height, width)] * 7


def test_a_silent_small_u_returns_its_entry():
    """RSU's definition: the U's output is added to the entry convolution's, so a U that outputs zero changes nothing."""
    block = u2net.PooledU(5, 3, 8, 16).eval()
    nn.init.zeros_(block.rebnconv1d.conv_s1.weight)
    nn.init.zeros_(block.rebnconv1d.conv_s1.bias)
    x = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        assert torch.equal(block(x), block.rebnconvin(x))


def test_norms_folded_into_convolutions_load_as_identities():
    network, pixels = random_network(), torch.rand(1, 3, 64, 64)
    state = {}
    for name, module in network.named_modules():
        if isinstance(module, u2net.ConvNormReLU):
            fused = nn.utils.fuse_conv_bn_eval(module.conv_s1, module.bn_s1)
            state |= {f"{name}.conv_s1.weight": fused.weight, f"{name}.conv_s1.bias": fused.bias}
        elif name.startswith(("side", "outconv")):
            state |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
    folded = U2Net(SMALL)
    folded.load_state_dict(u2net.with_identity_norms(state, folded))
    with torch.no_grad():
        expected, got = network(pixels), folded.eval()(pixels)
    assert expected[0].std() > 1e-3
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


# --- preprocessing and the map -----------------------------------------------------------------------------------------------------------


def test_pixels_do_not_depend_on_exposure(rng):
    dark = rng.integers(0, 128, (320, 320, 3), dtype=np.uint8)
    torch.testing.assert_close(u2net.pixels_of(dark), u2net.pixels_of(dark * 2))


def test_pixels_of_a_white_and_of_a_black_image():
    white = u2net.pixels_of(np.full((10, 20, 3), 200, np.uint8))  # its own maximum counts as 1
    assert white.shape == (1, 3, 320, 320)
    assert white[0, :, 5, 5].numpy() == pytest.approx([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225], abs=1e-5)
    black = u2net.pixels_of(np.zeros((10, 20, 3), np.uint8))
    assert black[0, :, 5, 5].numpy() == pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], abs=1e-5)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 4), np.uint8)])
def test_other_arrays_are_refused(image, shipped):
    with pytest.raises(ShapeError, match="expected an image"):
        u2net.saliency_map(shipped, image)


class FixedLogits(nn.Module):
    """Stands in for the network: always returns the same fused logits."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.logits[None, None], *[torch.full((1, 1, 320, 320), torch.nan)] * 6)


def test_the_map_is_the_first_output_stretched_to_0_and_1():
    probabilities = torch.full((320, 320), 0.2)
    probabilities[:160], probabilities[80:160] = 0.4, 0.6
    saliency = u2net.saliency_map(FixedLogits(probabilities.logit()), np.zeros((64, 32, 3), np.uint8))
    assert (saliency.shape, saliency.dtype) == ((64, 32), np.float32)
    assert saliency[4, 4] == pytest.approx(0.5, abs=1e-5)
    assert saliency[24, 4] == pytest.approx(1.0, abs=1e-5)
    assert saliency[60, 4] == pytest.approx(0.0, abs=1e-5)


def test_a_map_without_contrast_is_empty():
    assert not u2net.saliency_map(FixedLogits(torch.full((320, 320), 3.0)), np.zeros((8, 8, 3), np.uint8)).any()


# --- the weights -------------------------------------------------------------------------------------------------------------------------


def test_shipped_weights_agree_with_onnxruntime_on_a_photo(shipped, chelsea):
    """The figures are every eighth value, from the fifth on, of the first output of onnxruntime with u2netp.onnx for `pixels_of(chelsea)`."""
    expected = np.load(Path(__file__).with_name("u2netp_chelsea.npz"))["fused"]
    with torch.no_grad():
        fused = shipped(u2net.pixels_of(chelsea))[0].sigmoid()[0, 0, 4::8, 4::8].numpy()
    assert 0.2 < (expected > 0.5).mean() < 0.8
    assert iou(fused > 0.5, expected > 0.5) > 0.999
    assert np.abs(fused - expected).max() < 0.01  # half-precision weights


def test_the_map_of_a_photo_has_its_size_and_range(shipped, chelsea):
    saliency = u2net.saliency_map(shipped, chelsea)
    assert saliency.shape == chelsea.shape[:2]
    assert 0 <= saliency.min() < 0.01
    assert 0.99 < saliency.max() <= 1


def test_shipped_file_says_where_it_comes_from():
    with safe_open(ROOT / "src" / "fretsaw" / "shipped" / u2net.SHIPPED, "pt") as file:
        metadata = file.metadata()
        dtypes = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 (not a mapping)
    assert metadata["source_sha256"] == u2net.U2NETP_ONNX_SHA256
    assert metadata["licence"].startswith("Apache-2.0")
    assert {name for name, dtype in dtypes.items() if dtype == torch.float32} == {name for name in dtypes if name.startswith(u2net.SENSITIVE)}
    assert all(dtype in (torch.float16, torch.float32) for dtype in dtypes.values())


@pytest.fixture(scope="module")
def origin() -> Path:
    """The published u2netp.onnx in the cache of weights, or a skip."""
    pytest.importorskip("onnxruntime")
    from fretsaw import catalog
    from fretsaw.weights import Cache

    files = [file for route in catalog.find("u2netp").weights.routes for file in route.files.values()]
    for file in files:
        path = Cache().raw_path("u2netp", file)
        if path.suffix == ".onnx" and path.is_file():
            return path
    pytest.skip("needs u2netp.onnx in the cache of weights: fretsaw models convert u2netp --from FILE")


@pytest.mark.slow
def test_published_network_agrees_with_onnxruntime(origin):
    """In double precision, so that only onnxruntime's own rounding is left; in single precision both round, and differ by up to 1.5e-4."""
    import onnxruntime

    session = onnxruntime.InferenceSession(origin)
    network = U2Net(SMALL)
    network.load_state_dict(u2net.convert_onnx(origin))
    network = network.double().eval()
    for name in ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg"):
        pixels = u2net.pixels_of(np.array(Image.open(ROOT / "examples" / name).convert("RGB")))
        with torch.no_grad():
            maps = [logits.sigmoid().numpy() for logits in network(pixels.double())]
        for ours, theirs in zip(maps, session.run(None, {session.get_inputs()[0].name: pixels.numpy()}), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_shipped_file_can_be_made_again(origin, tmp_path):
    u2net.convert(origin, tmp_path / u2net.SHIPPED)
    made, present = (folder / u2net.SHIPPED for folder in (tmp_path, ROOT / "src" / "fretsaw" / "shipped"))
    with safe_open(made, "pt") as a, safe_open(present, "pt") as b:  # the order of the metadata, and so the bytes, differ from run to run
        assert a.metadata() == b.metadata()
        assert sorted(a.keys()) == sorted(b.keys())
        for name in a.keys():  # noqa: SIM118 (not a mapping)
            assert torch.equal(a.get_tensor(name), b.get_tensor(name)), name
            assert a.get_tensor(name).dtype == b.get_tensor(name).dtype, name


# --- reading the ONNX file ---------------------------------------------------------------------------------------------------------------


def write_onnx(path: Path, network: nn.Module, change: str = "") -> str:
    """Write a graph like the published one: convolutions in running order, anonymous but for the sides; return the file's checksum."""
    onnx = pytest.importorskip("onnx")

    nodes, tensors = [], []
    for number, (name, module) in enumerate((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d)):
        label = name if name.startswith(("side", "outconv")) else f"{1000 + number}"
        weight, bias = module.weight.detach().numpy(), module.bias.detach().numpy()
        tensors += [onnx.numpy_helper.from_array(weight, f"{label}.weight"), onnx.numpy_helper.from_array(bias, f"{label}.bias")]
        dilations = [1, 1] if change == "dilation" else list(module.dilation)
        nodes.append(onnx.helper.make_node("Conv", [f"x{number}", f"{label}.weight", f"{label}.bias"], [f"x{number + 1}"], dilations=dilations))
    if change == "fewer":
        del nodes[7]
    graph = onnx.helper.make_graph(nodes, "u2netp", [], [], initializer=tensors[::-1])
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_convolutions_are_read_in_running_order(tmp_path):
    network = random_network()
    checksum = write_onnx(tmp_path / "u2netp.onnx", network)
    state = u2net.convert_onnx(tmp_path / "u2netp.onnx", checksum)
    read = U2Net(SMALL)
    read.load_state_dict(state)
    expected = network.state_dict()
    for name in expected:
        if ".bn_s1." not in name:
            assert torch.equal(read.state_dict()[name], expected[name]), name


@pytest.mark.parametrize(("change", "message"), [("fewer", "expected 119 convolutions, got 118"), ("dilation", "dilation")])
def test_another_network_is_refused(tmp_path, change, message):
    checksum = write_onnx(tmp_path / "u2netp.onnx", random_network(), change)
    with pytest.raises(StateDictError, match=message):
        u2net.convert_onnx(tmp_path / "u2netp.onnx", checksum)


def test_an_altered_file_is_refused(tmp_path):
    (tmp_path / "u2netp.onnx").write_bytes(b"not the published file")
    with pytest.raises(ChecksumError, match=u2net.U2NETP_ONNX_SHA256):
        u2net.convert_onnx(tmp_path / "u2netp.onnx")


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(MissingWeightsError, match=r"u2netp\.onnx"):
        u2net.convert_onnx(tmp_path / "u2netp.onnx")
    with pytest.raises(OutputError, match="existing folder"):
        u2net.convert(tmp_path / "u2netp.onnx", tmp_path / "absent" / "out.safetensors")
