"""From the fused levels to the pre-mask.

Source: PMG-SAM (paper 001), section 3.4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FeatRefiner(nn.Module):
    """All levels at the finest one's size, concatenated, and a light convolution: the pre-mask's logits.

    Args:
        channels: C of every fused level.
        levels: How many there are.
        hidden: Channels between the convolution over the concatenation and the last one.
        groups: Of the norm.

    Source: PMG-SAM (paper 001), section 3.4.

    Deviation: the light convolution is 1 x 1, norm, ReLU, 3 x 3, ReLU, 1 x 1: the paper gives no sizes. The first runs on each level before it is
        enlarged, which gives the same numbers as on their concatenation, because both are linear and neither looks at the other's axis.
    """

    def __init__(self, channels: int, levels: int = 6, hidden: int = 64, groups: int = 8) -> None:
        super().__init__()
        self.compress = nn.ModuleList(nn.Conv2d(channels, hidden, 1, bias=i == 0) for i in range(levels))
        self.norm = nn.GroupNorm(groups, hidden)
        self.near = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.last = nn.Conv2d(hidden, 1, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, fused: Sequence[Tensor]) -> Tensor:
        """Map the fused levels (B, C, ., .), the finest first, to logits (B, 1, h, w) on the finest one's grid."""
        size = fused[0].shape[-2:]
        small = [compress(level) for compress, level in zip(self.compress, fused, strict=True)]
        total = torch.stack([F.interpolate(x, size=size, mode="bilinear", align_corners=False) if x.shape[-2:] != size else x for x in small]).sum(0)
        return self.last(torch.relu(self.near(torch.relu(self.norm(total)))))
