"""EfficientNet-Lite0: a small convolutional trunk, pretrained on ImageNet; feature maps at strides 4, 8, 16 and 32.

Legend: B images, H W pixels.

    pixels (B, 3, H, W)
      -> stem, block 0             stride 2
      -> blocks 1, 2               stride 4,   24 channels
      -> blocks 3, 4               stride 8,   40
      -> blocks 5 to 10            stride 16, 112
      -> blocks 11 to 15           stride 32, 320
      [-> head, pooling, classes]

Against EfficientNet-B0: ReLU6 for Swish, no squeeze-and-excitation, stem and head not scaled. Parameter names are the published ones.

Source: EfficientNet (Tan and Le 2019), table 1; EfficientNet-Lite (TensorFlow's models, 2020).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw.errors import ConfigError, ShapeError, StateDictError, WeightsError

MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
"""The normalisation of the weights, for values in [0, 1]: 90 % of 200 ImageNet photos are named rightly, against 80 % with ImageNet's own mean and std."""

NORM_EPSILON = 1e-3

BANDED_FROM = 128 * 128
"""Maps of so many pixels are run in bands where no gradient is wanted: a third of the processor time up to stride 4 at 1024 x 1024."""

BAND_ROWS = 32


@dataclass(frozen=True, slots=True)
class BlockRun:
    """A run of blocks: the first has the stride, the others keep the size.

    Attributes:
        blocks: Number of blocks.
        kernel: Side of the depthwise kernel.
        stride: Of the first block.
        expand: Inner channels over input channels.
        channels: Of the output.
    """

    blocks: int
    kernel: int
    stride: int
    expand: int
    channels: int


STEM_CHANNELS, HEAD_CHANNELS, CLASSES = 32, 1280, 1000
STAGES = (
    BlockRun(1, 3, 1, 1, 16),
    BlockRun(2, 3, 2, 6, 24),
    BlockRun(2, 5, 2, 6, 40),
    BlockRun(3, 3, 2, 6, 80),
    BlockRun(3, 5, 1, 6, 112),
    BlockRun(4, 5, 2, 6, 192),
    BlockRun(1, 3, 1, 6, 320),
)
CHANNELS = {4: 24, 8: 40, 16: 112, 32: 320}
"""Channels of the feature map at each stride."""


class ConvNormAct(NamedTuple):
    """Convolution, batch norm and ReLU6, to be run on a whole map or on a band of it."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d

    @property
    def filter(self) -> nn.Conv2d:
        return self.conv

    def __call__(self, x: Tensor, edges: tuple[int, int] | None = None) -> Tensor:
        return F.relu6(conv_norm(x, self.conv, self.norm, edges), inplace=True)


class InvertedBottleneck(nn.Module):
    """Widen by 1 x 1, filter each channel by itself, narrow by 1 x 1; added to the input where sizes agree.

    Source: MobileNetV2 (Sandler et al. 2018), sec. 3.3; EfficientNet (Tan and Le 2019), table 1.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = channels_in * expand
        if expand > 1:
            self._expand_conv = nn.Conv2d(channels_in, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, NORM_EPSILON)
        self._depthwise_conv = nn.Conv2d(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = nn.BatchNorm2d(inner, NORM_EPSILON)
        self._project_conv = nn.Conv2d(inner, channels_out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(channels_out, NORM_EPSILON)
        self.has_expansion = expand > 1
        self.has_shortcut = stride == 1 and channels_in == channels_out

    @property
    def filter(self) -> nn.Conv2d:
        """The one convolution that looks beyond a pixel."""
        return self._depthwise_conv

    def forward(self, x: Tensor, edges: tuple[int, int] | None = None) -> Tensor:
        """Run on a map, or on a band of one.

        Args:
            x: (B, C, H, W).
            edges: Rows of zeros that stand above and below x; None: as a whole map wants them.
        """
        out = ConvNormAct(self._expand_conv, self._bn0)(x) if self.has_expansion else x
        out = ConvNormAct(self._depthwise_conv, self._bn1)(out, edges)
        out = conv_norm(out, self._project_conv, self._bn2)
        if not self.has_shortcut:
            return out
        halo = 0 if edges is None else self._depthwise_conv.kernel_size[0] // 2 - edges[0]
        return out.add_(x[:, :, halo : halo + out.shape[2]]) if not out.requires_grad else out + x


class EfficientNetLite0(nn.Module):
    """The trunk up to a stride.

    Batch norms are folded into the convolutions at every call and keep the statistics they were loaded with, in training too: that makes small batches, a batch
    of one included, give the same as large ones.

    Args:
        stride: Of the coarsest map: 4, 8, 16 or 32; deeper blocks are left out.

    Raises:
        ConfigError: If there is no map of that stride.

    Source: EfficientNet (Tan and Le 2019), table 1; EfficientNet-Lite (TensorFlow's models, 2020).
    Deviation: batch statistics are never updated, see above.
    """

    def __init__(self, stride: int = 32) -> None:
        super().__init__()
        if stride not in CHANNELS:
            raise ConfigError(f"expected a stride among {sorted(CHANNELS)}, got {stride}")
        self.stride = stride
        self._conv_stem = nn.Conv2d(3, STEM_CHANNELS, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(STEM_CHANNELS, NORM_EPSILON)
        self._blocks = nn.ModuleList()
        self._last_of = {}  # block -> stride of the map it completes
        channels, reached = STEM_CHANNELS, 2
        for stage in STAGES:
            reached *= stage.stride
            if reached > stride:
                break
            for index in range(stage.blocks):
                self._blocks.append(InvertedBottleneck(channels, stage.channels, stage.kernel, stage.stride if index == 0 else 1, stage.expand))
                channels = stage.channels
            self._last_of = {block: of for block, of in self._last_of.items() if of != reached} | {len(self._blocks) - 1: reached}

    def forward(self, pixels: Tensor) -> dict[int, Tensor]:
        """Return the feature maps by stride: {4: (B, 24, H/4, W/4), 8: ..., ...}.

        Args:
            pixels: (B, 3, H, W) normalised by `MEAN` and `STD`; sides that a stride does not divide are rounded up.

        Raises:
            ShapeError: If the pixels do not have three channels.
        """
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ShapeError(f"expected pixels (B, 3, H, W), got {tuple(pixels.shape)}")
        runs: list[list[Any]] = [[ConvNormAct(self._conv_stem, self._bn0)]]
        maps, x = {}, pixels
        for index, block in enumerate(self._blocks):
            runs[-1].append(block)
            if self._last_of.get(index, 2) > 2:
                x = run_in_bands(runs[-1], x) if x.shape[2] * x.shape[3] >= BANDED_FROM and not torch.is_grad_enabled() else run(runs[-1], x)
                maps[self._last_of[index]] = x
                runs.append([])
        return maps

    def load_published(self, weights: Mapping[str, Tensor]) -> None:
        """Load the published parameters strictly; those of blocks and of the head that this network leaves out are dropped.

        Raises:
            StateDictError: If names or shapes do not fit.
        """
        dropped = [f"_blocks.{index}." for index in range(len(self._blocks), sum(stage.blocks for stage in STAGES))]
        _load(self, weights, () if isinstance(self, EfficientNetLite0Classifier) else (*dropped, "_conv_head.", "_bn1.", "_fc."))


class EfficientNetLite0Classifier(EfficientNetLite0):
    """The whole network with its 1000 ImageNet classes. Source: EfficientNet (Tan and Le 2019), table 1, stage 9."""

    def __init__(self) -> None:
        super().__init__(32)
        self._conv_head = nn.Conv2d(CHANNELS[32], HEAD_CHANNELS, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(HEAD_CHANNELS, NORM_EPSILON)
        self._fc = nn.Linear(HEAD_CHANNELS, CLASSES)

    def classify(self, pixels: Tensor) -> Tensor:
        """Return class logits (B, 1000) of pixels (B, 3, H, W); 224 x 224 is the size of training."""
        x = F.relu6(conv_norm(self(pixels)[32], self._conv_head, self._bn1))
        return self._fc(x.mean(dim=(2, 3)))


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d, edges: tuple[int, int] | None = None) -> Tensor:
    """Convolve with the batch norm folded in, padded as TensorFlow does: outputs are as many as input / stride, rounded up, an odd zero goes right and below.

    Args:
        x: (B, C, H, W).
        conv: Without bias and padding.
        norm: Its statistics are used, not updated.
        edges: Rows of zeros above and below x; None: as a whole map wants them.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    bias = norm.bias - norm.running_mean * scale
    above, below = padding(x.shape[2], conv) if edges is None else edges
    left, right = padding(x.shape[3], conv)
    if above != below or left != right:
        x = F.pad(x, (left, right, above, below))
        above = left = 0
    return F.conv2d(x, conv.weight * scale[:, None, None, None], bias, conv.stride, (above, left), groups=conv.groups)


def padding(size: int, conv: nn.Conv2d) -> tuple[int, int]:
    """Return the zeros before and after a side of a map."""
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    both = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return both // 2, both - both // 2


def run(steps: Sequence[Any], x: Tensor) -> Tensor:
    """Run steps one after the other on the whole map."""
    for step in steps:
        x = step(x)
    return x


def run_in_bands(steps: Sequence[Any], x: Tensor, rows: int = BAND_ROWS) -> Tensor:
    """Run steps band by band: the same result, without the wide maps in between, which do not fit a CPU's caches.

    Args:
        steps: Each with a `filter`, its only convolution that is wider than a pixel, and called with a band and the rows of zeros above and below it.
        x: (B, C, H, W).
        rows: Rows of a band of the result.
    """
    heights = [x.shape[2]]
    for step in steps:
        heights.append(-(-heights[-1] // step.filter.stride[0]))
    bands = []
    for top in range(0, heights[-1], rows):
        first, last = top, min(top + rows, heights[-1])  # rows of each step's result that are wanted, from the last step to the first
        edges: list[tuple[int, int]] = []
        for step, height in zip(reversed(steps), reversed(heights[:-1]), strict=True):
            stride, kernel = step.filter.stride[0], step.filter.kernel_size[0]
            before = padding(height, step.filter)[0]
            first, last = first * stride - before, (last - 1) * stride - before + kernel
            edges.append((max(-first, 0), max(last - height, 0)))
            first, last = max(first, 0), min(last, height)
        band = x[:, :, first:last]
        for step, edge in zip(steps, reversed(edges), strict=True):
            band = step(band, edge)
        bands.append(band)
    return torch.cat(bands, dim=2)


def convert(path: str | Path) -> dict[str, Tensor]:
    """Read the published file (`efficientnet-lite0-57934424.pth`) and check that it is the whole network.

    Raises:
        WeightsError: If the file holds anything but tensors.
        StateDictError: If names or shapes do not fit.
    """
    weights = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise WeightsError(f"expected a mapping from names to tensors in {path}, got {type(weights).__name__}")
    with torch.device("meta"):
        network = EfficientNetLite0Classifier()
    _check_names(network, weights)
    return dict(weights)


def _load(network: nn.Module, weights: Mapping[str, Tensor], ignored: Collection[str]) -> None:
    kept = {name: value for name, value in weights.items() if not name.startswith(tuple(ignored))}
    _check_names(network, kept)
    network.load_state_dict(kept)


def _check_names(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    if wanted != given:
        wrong = sorted(wanted.items() ^ given.items())
        raise StateDictError(f"expected the {len(wanted)} parameters of EfficientNet-Lite0, got {len(given)}; first difference: {wrong[0][0]} {wrong[0][1]}")
