"""HRSAM's recipe at a size that ships, over EfficientNet-Lite0: an image encoder in place of SAM 2 Hiera-T's in front of its prompt encoder and mask decoder.

Legend: B images, S side of the input, C channels of the tokens, O = 256 channels of the embedding.

    pixels (B, 3, S, S)
      -> EfficientNet-Lite0                      maps at strides 4, 8, 16 and 32
      -> tokens at stride 16: map 16 + map 32 enlarged + position table       (B, h w, C)
      -> Flash Swin blocks, every second one shifted, a cycle-scan before some
      -> final                                   (B, O, S/16, S/16)
      -> down the pyramid: map 8, map 4, patches of the pixels
      -> high_res                                (B, O/8, S/4, S/4), (B, O/4, S/8, S/8)

Source: HRSAM (paper 003), sec. 3.3 to 3.5; feature pyramid (Lin et al. 2017), sec. 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw.backbones.efficientnet_lite import CHANNELS, MEAN, STD, EfficientNetLite0
from fretsaw.errors import ConfigError, ShapeError
from fretsaw.layers.attention_taps import AttentionLayer
from fretsaw.layers.blocks import FlashSwinBlock
from fretsaw.layers.cycle_scan import CycleScan
from fretsaw.types import ImageEmbedding

STRIDE = 16

TRUNK_DEVIATION = {4: 13.0, 8: 8.0, 16: 4.0, 32: 2.4}
"""Standard deviation of the pretrained trunk's maps by stride, measured on normalised noise; the layers that take them start smaller by it."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The normalisation of the pixels that arrive, SAM 2's."""


class HrsamLiteEncoder(nn.Module):
    """A small image encoder with the outputs of SAM 2's.

    Args:
        dim: C.
        depth: Number of Flash Swin blocks.
        heads: Heads of each block.
        scans: Blocks before which a cycle-scan runs.
        window: Side of the windows in tokens; blocks with an odd index are shifted by half of it.
        state_size: States per channel of the cycle-scans.
        out_channels: O.
        table_side: Side of the position table.
        drop_path: Rate of stochastic depth of every block.

    Raises:
        ConfigError: If a scan stands before a block that does not exist.

    Source: HRSAM (paper 003), sec. 3.3 to 3.5; feature pyramid (Lin et al. 2017), sec. 3.
    Deviation: a convolutional trunk in place of HRSAM's patches and first stages, and maps of two finer strides for SAM 2's decoder.
    """

    def __init__(
        self,
        dim: int = 192,
        depth: int = 4,
        heads: int = 6,
        scans: Sequence[int] = (1, 3),
        window: int = 16,
        state_size: int = 16,
        out_channels: int = 256,
        table_side: int = 16,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if any(not 0 <= scan < depth for scan in scans):
            raise ConfigError(f"expected scans before blocks 0 to {depth - 1}, got {tuple(scans)}")
        middle, fine = out_channels // 4, out_channels // 8
        self.trunk = EfficientNetLite0(32)
        self.patches = nn.Conv2d(3, fine, 7, stride=4, padding=3)
        self.enter_16 = nn.Conv2d(CHANNELS[16], dim, 1)
        self.enter_32 = nn.Conv2d(CHANNELS[32], dim, 1)
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, table_side, table_side))
        self.blocks = nn.ModuleList(FlashSwinBlock(dim, heads, window, window // 2 * (index % 2), drop_path=drop_path) for index in range(depth))
        self.scans = nn.ModuleDict({str(index): CycleScan(dim, state_size) for index in scans})
        self.norm = nn.LayerNorm(dim)
        self.final = nn.Sequential(nn.Conv2d(dim, out_channels, 1), Neighbours(out_channels))
        self.down_8 = nn.Conv2d(dim, middle, 1)
        self.enter_8 = nn.Conv2d(CHANNELS[8], middle, 1)
        self.middle = PyramidLevel(middle, middle)
        self.down_4 = nn.Conv2d(middle, fine, 1)
        self.enter_4 = nn.Conv2d(CHANNELS[4], fine, 1)
        self.fine = PyramidLevel(fine, fine)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for stride, enter in {4: self.enter_4, 8: self.enter_8, 16: self.enter_16, 32: self.enter_32}.items():
            with torch.no_grad():
                enter.weight /= TRUNK_DEVIATION[stride]

    def load_trunk(self, weights: Mapping[str, Tensor]) -> None:
        """Start from EfficientNet-Lite0's published parameters.

        Raises:
            StateDictError: If names or shapes do not fit.
        """
        self.trunk.load_published(weights)

    @property
    def available_taps(self) -> tuple[str, ...]:
        """The trunk's maps at strides 4, 8, 16 and 32."""
        return ("stage1", "stage2", "stage3", "stage4")

    def forward(self, pixels: Tensor, taps: Sequence[str] = ()) -> ImageEmbedding:
        """Encode images.

        Args:
            pixels: (B, 3, S, S) normalised by ImageNet's mean and standard deviation; S a multiple of 32.
            taps: Of `available_taps`.

        Returns:
            `final` (B, O, S/16, S/16) and `high_res` (B, O/8, S/4, S/4), (B, O/4, S/8, S/8).

        Raises:
            ShapeError: If the pixels are of another shape.
        """
        if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[2] % 32 or pixels.shape[3] % 32 or not pixels.numel():
            raise ShapeError(f"expected pixels (B, 3, H, W) with sides that are multiples of 32, got {tuple(pixels.shape)}")
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        maps = self.trunk(for_trunk(pixels))
        x = self.enter_16(maps[16]) + enlarge(self.enter_32(maps[32]))
        x = x + F.interpolate(self.pos_embed, x.shape[2:], mode="bilinear", align_corners=False)
        shape = (x.shape[2], x.shape[3])
        tokens = x.flatten(2).transpose(1, 2)
        for index, block in enumerate(self.blocks):
            if str(index) in self.scans:
                tokens = self.scans[str(index)](tokens)
            tokens = block(tokens, (shape,))
        x = self.norm(tokens).transpose(1, 2).unflatten(2, shape)
        middle = self.middle(self.enter_8(maps[8]) + enlarge(self.down_8(x)))
        fine = self.fine(self.enter_4(maps[4]) + self.patches(pixels) + enlarge(self.down_4(middle)))
        kept = {name: maps[stride] for name, stride in zip(self.available_taps, (4, 8, 16, 32), strict=True) if name in taps}
        return ImageEmbedding(self.final(x), (fine, middle), kept)

    def attention_layers(self) -> tuple[AttentionLayer, ...]:
        """Return how the attention of each block is read; see `fretsaw.layers.attention_taps`. All of it runs inside windows."""
        blocks = [block for block in self.blocks if isinstance(block, FlashSwinBlock)]
        return tuple(AttentionLayer(block, block.norm1, block.attn.qkv, block.attn.heads) for block in blocks)

    def mixed_layers(self) -> tuple[int, ...]:
        """Return the blocks that are read by default: all."""
        return tuple(range(len(self.blocks)))


class Neighbours(nn.Module):
    """Add what each channel's 3 x 3 neighbours say."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class PyramidLevel(nn.Module):
    """Two residual mixes of neighbours and channels, ending linear: the maps that are imitated take any sign."""

    def __init__(self, channels: int, channels_out: int) -> None:
        super().__init__()
        self.near = Neighbours(channels)
        self.wide = nn.Conv2d(channels, 2 * channels, 1)
        self.act = nn.GELU()
        self.narrow = nn.Conv2d(2 * channels, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.near(x)
        return x + self.narrow(self.act(self.wide(x)))


def enlarge(x: Tensor) -> Tensor:
    """Double both sides, bilinearly."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def for_trunk(pixels: Tensor) -> Tensor:
    """Bring pixels from ImageNet's normalisation to the trunk's."""
    mean, std, own_mean, own_std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD, MEAN, STD))
    return pixels * (std / own_std) + (mean - own_mean) / own_std
