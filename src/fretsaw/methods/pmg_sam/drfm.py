"""Fusion of one pair: the dense residual fusion module, and the two that the paper compares it with.

Legend: B images, h w the pair's grid, C = 64 channels of the fusion.

    U²-Net's level --align--> X ---------------------------------------- + --> fused
    Hiera's stage  --align--> H --> SRB --> SRB --> SRB --> times scale --/
                                    (each takes H again)

Source: PMG-SAM (paper 001), section 3.3, figure 3, algorithms 1 and 2; section 4.7.2 and figure 8 for the alternatives.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Fusion = Callable[[int, int, int], nn.Module]
"""(channels of the level, channels of the stage, channels of the result) -> module from two maps (B, ., h, w) to (B, C, h, w)."""


class Align(nn.Module):
    """Bring a frozen network's map to C channels of one scale: 1 x 1 convolution, GroupNorm.

    Deviation: the paper does not say how channels meet; the norm makes up for the different scales of two networks that were never trained together.
    """

    def __init__(self, channels_in: int, channels: int, groups: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, 1)
        self.norm = nn.GroupNorm(groups, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class StabilisedResidualBlock(nn.Module):
    """SRB: M new features, each from all before it and H; their sum, scaled, is added to the input and normalised.

    f_m = ReLU(conv_m(x + f_1 + ... + f_(m-1) + H)),   Y = GroupNorm(x + scale (f_1 + ... + f_M))

    Args:
        channels: C.
        iterations: M.
        groups: Of the norm.
        scale: Start of the learned scale.

    Source: PMG-SAM (paper 001), section 3.3, figure 3 and algorithm 2.

    Deviation: algorithm 2's lines are lost; "all preceding features as well as H" is read as their sum under one 3 x 3 convolution with ReLU.
    """

    def __init__(self, channels: int, iterations: int = 4, groups: int = 8, scale: float = 0.1) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(iterations))
        self.scale = nn.Parameter(torch.tensor(scale))
        self.norm = nn.GroupNorm(groups, channels)

    def forward(self, x: Tensor, local: Tensor) -> Tensor:
        start = seen = x + local
        for conv in self.convs:
            seen = seen + torch.relu(conv(seen))
        return self.norm(x + self.scale * (seen - start))


class DenseResidualFusion(nn.Module):
    """DRFM: a cascade of SRBs refines U²-Net's level with Hiera's stage; its result, scaled, is added to the level.

    Args:
        level_channels: Of U²-Net's level.
        stage_channels: Of Hiera's stage.
        channels: C.
        blocks: Number of SRBs.
        iterations: M of each.
        groups: Of the norms.
        scale: Start of the learned scales.

    Source: PMG-SAM (paper 001), section 3.3, figure 3 and algorithm 1.

    Deviation: 64 channels, 8 groups and scale 0.1 are this project's choice; the paper's numbers are lost.
    """

    def __init__(
        self, level_channels: int, stage_channels: int, channels: int = 64, blocks: int = 3, iterations: int = 4, groups: int = 8, scale: float = 0.1
    ) -> None:
        super().__init__()
        self.align_level = Align(level_channels, channels, groups)
        self.align_stage = Align(stage_channels, channels, groups)
        self.blocks = nn.ModuleList(StabilisedResidualBlock(channels, iterations, groups, scale) for _ in range(blocks))
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, level: Tensor, stage: Tensor) -> Tensor:
        start = y = self.align_level(level)
        local = self.align_stage(stage)
        for block in self.blocks:
            y = block(y, local)
        return start + self.scale * y


class NoFusion(nn.Module):
    """U²-Net's level alone. Source: PMG-SAM (paper 001), table 4 (a), without fusion."""

    def __init__(self, level_channels: int, stage_channels: int, channels: int = 64, groups: int = 8) -> None:
        super().__init__()
        self.align_level = Align(level_channels, channels, groups)

    def forward(self, level: Tensor, stage: Tensor) -> Tensor:
        return self.align_level(level)


class ResidualFusion(nn.Module):
    """Addition, then Conv-BN-ReLU. Source: PMG-SAM (paper 001), table 4 (a) and figure 8."""

    def __init__(self, level_channels: int, stage_channels: int, channels: int = 64, groups: int = 8) -> None:
        super().__init__()
        self.align_level = Align(level_channels, channels, groups)
        self.align_stage = Align(stage_channels, channels, groups)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, level: Tensor, stage: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(self.align_level(level) + self.align_stage(stage))))
