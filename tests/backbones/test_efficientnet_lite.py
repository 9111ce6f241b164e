"""EfficientNet-Lite0: the published layout, TensorFlow's padding, bands, and real weights on real photos where they are at hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from fretsaw.backbones import efficientnet_lite
from fretsaw.backbones.efficientnet_lite import (
    CHANNELS,
    MEAN,
    STAGES,
    STD,
    EfficientNetLite0,
    EfficientNetLite0Classifier,
    convert,
    run,
    run_in_bands,
)
from fretsaw.errors import ConfigError, ShapeError, StateDictError, WeightsError


def random_weights(seed=0):
    """Random parameters of the whole network, with statistics far from 0 and 1."""
    torch.manual_seed(seed)
    weights = EfficientNetLite0Classifier().state_dict()
    for name, value in weights.items():
        if "running_mean" in name or name.endswith("bias"):
            weights[name] = torch.randn_like(value) * 0.3
        elif "running_var" in name or (value.ndim == 1 and name.endswith("weight")):
            weights[name] = torch.rand_like(value) + 0.5
        elif value.ndim > 1:
            weights[name] = torch.randn_like(value) * (2.0 / value[0].numel()) ** 0.5
    return weights


def reference(weights, pixels):
    """The network written out: zeros as TensorFlow's "SAME" puts them, batch norm after each convolution."""

    def same(x, weight, stride, groups):
        pads = []
        for size in (x.shape[3], x.shape[2]):
            both = max((math.ceil(size / stride) - 1) * stride + weight.shape[-1] - size, 0)
            pads += [both // 2, both - both // 2]
        return F.conv2d(F.pad(x, pads), weight, None, stride, 0, 1, groups)

    def norm(x, name):
        return F.batch_norm(x, *(weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")), eps=1e-3)

    x = F.relu6(norm(same(pixels, weights["_conv_stem.weight"], 2, 1), "_bn0"))
    maps, strides = [], [stage.stride if first == 0 else 1 for stage in STAGES for first in range(stage.blocks)]
    for index, stride in enumerate(strides):
        name, out = f"_blocks.{index}", x
        if f"{name}._expand_conv.weight" in weights:
            out = F.relu6(norm(same(out, weights[f"{name}._expand_conv.weight"], 1, 1), f"{name}._bn0"))
        depthwise = weights[f"{name}._depthwise_conv.weight"]
        out = F.relu6(norm(same(out, depthwise, stride, len(depthwise)), f"{name}._bn1"))
        out = norm(same(out, weights[f"{name}._project_conv.weight"], 1, 1), f"{name}._bn2")
        x = out + x if out.shape == x.shape else out
        maps.append(x)
    head = F.relu6(norm(same(x, weights["_conv_head.weight"], 1, 1), "_bn1"))
    return {4: maps[2], 8: maps[4], 16: maps[10], 32: maps[15]}, F.linear(head.mean((2, 3)), weights["_fc.weight"], weights["_fc.bias"])


@pytest.mark.parametrize(("height", "width"), [(64, 96), (67, 45), (33, 32)])
def test_it_equals_the_network_written_out(height, width):
    weights = random_weights()
    network = EfficientNetLite0Classifier()
    network.load_published(weights)
    pixels = torch.randn(2, 3, height, width)
    maps, logits = reference(weights, pixels)
    found = network(pixels)
    assert list(found) == [4, 8, 16, 32]
    for stride, wanted in maps.items():
        assert found[stride].shape == (2, CHANNELS[stride], math.ceil(height / stride), math.ceil(width / stride))
        torch.testing.assert_close(found[stride], wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(network.classify(pixels), logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 3, 32])
@pytest.mark.parametrize(("height", "width"), [(32, 24), (35, 21), (66, 12)])
def test_bands_give_the_whole_map(rows, height, width):
    torch.manual_seed(0)
    network = EfficientNetLite0(16)
    network.load_published(random_weights())
    x = torch.randn(1, 16, height, width)
    steps = list(network.double()._blocks[1:8])  # three strides, both kernels, shortcuts
    with torch.no_grad():
        torch.testing.assert_close(run_in_bands(steps, x.double(), rows), run(steps, x.double()), atol=1e-10, rtol=0)


def test_bands_and_gradients_are_chosen_by_need(monkeypatch):
    network = EfficientNetLite0(8)
    network.load_published(random_weights())
    pixels = torch.randn(1, 3, 80, 64)
    whole = network(pixels)
    monkeypatch.setattr(efficientnet_lite, "BANDED_FROM", 1)
    monkeypatch.setattr(efficientnet_lite, "run", None)
    with torch.no_grad():
        banded = network(pixels)
    for stride in (4, 8):
        torch.testing.assert_close(banded[stride], whole[stride].detach(), atol=1e-5, rtol=1e-5)
    monkeypatch.undo()
    whole[8].sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_statistics_stay_in_training():
    network = EfficientNetLite0(4).train()
    network.load_published(random_weights())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    pixels = torch.randn(2, 3, 32, 32)
    alone = torch.cat([network(image[None])[4] for image in pixels])
    torch.testing.assert_close(network(pixels)[4], alone, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(("stride", "blocks"), [(4, 3), (8, 5), (16, 11), (32, 16)])
def test_a_shorter_trunk_takes_its_part_of_the_file(stride, blocks):
    weights = random_weights()
    network = EfficientNetLite0(stride)
    network.load_published(weights)
    assert len(network._blocks) == blocks
    maps, _ = reference(weights, pixels := torch.randn(1, 3, 64, 64))
    torch.testing.assert_close(network(pixels)[stride], maps[stride], atol=1e-4, rtol=1e-4)


def test_other_files_are_refused(tmp_path):
    weights = random_weights()
    lacking = {name: value for name, value in weights.items() if name != "_blocks.3._bn1.running_var"}
    for wrong in (lacking, {**weights, "_blocks.3.extra": torch.zeros(1)}, {**weights, "_bn0.weight": torch.zeros(3)}):
        with pytest.raises(StateDictError, match="EfficientNet-Lite0"):
            EfficientNetLite0(16).load_published(wrong)
    torch.save(weights, tmp_path / "whole.pth")
    assert convert(tmp_path / "whole.pth").keys() == weights.keys()
    torch.save(lacking, tmp_path / "lacking.pth")
    with pytest.raises(StateDictError, match=r"_blocks\.3\._bn1\.running_var"):
        convert(tmp_path / "lacking.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="mapping"):
        convert(tmp_path / "list.pth")


def test_impossible_calls_are_refused():
    with pytest.raises(ConfigError, match="4, 8, 16, 32"):
        EfficientNetLite0(2)
    with pytest.raises(ShapeError, match=r"\(B, 3, H, W\)"):
        EfficientNetLite0(4)(torch.zeros(1, 1, 32, 32))


# Real weights: where a person has fetched them (fretsaw models pull efficientnet-lite0).


@pytest.fixture(scope="module")
def classifier():
    from fretsaw.catalog import CATALOGUE
    from fretsaw.weights import Cache, load_state_dict, locate

    path = locate(CATALOGUE["efficientnet-lite0"].weights, Cache())
    if path is None:
        pytest.skip("needs the published weights in the cache: fretsaw models pull efficientnet-lite0")
    network = EfficientNetLite0Classifier()
    network.load_published(load_state_dict(path))
    return network


def pixels_of(image):
    """The middle 224 pixels of the image at 256, normalised."""
    image = image.convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    values = torch.from_numpy(np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255).permute(2, 0, 1)
    return (values - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def test_real_weights_know_a_cat(classifier):
    data = pytest.importorskip("skimage.data")
    with torch.no_grad():
        probabilities = classifier.classify(pixels_of(Image.fromarray(data.chelsea()))[None]).softmax(1)[0]
    assert probabilities.argmax().item() in (281, 282, 285)  # tabby, tiger cat, Egyptian cat
    assert probabilities[[281, 282, 285]].sum() > 0.5


def test_real_weights_name_imagenet_photos(classifier, shared):
    """One photo a class, in the order of the classes; symmetric padding costs seven points, ImageNet's own mean and deviation ten."""
    photos = sorted((shared / "data" / "unlabelled").glob("in_*"))
    if len(photos) != 1000:
        pytest.skip("needs the thousand ImageNet samples, one a class")
    chosen = range(0, 1000, 25)
    with torch.no_grad():
        found = classifier.classify(torch.stack([pixels_of(Image.open(photos[index])) for index in chosen])).argmax(1)
    assert (found == torch.tensor(chosen)).float().mean() >= 0.8
