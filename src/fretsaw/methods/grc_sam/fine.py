"""The fine stage: features and soft mask enlarged four times, refined inside active windows, to a mask as fine as SAM's mask prompt.

Legend: B images, h w the embedding's grid, C width of the generator, N = 16 h w fine tokens.

Source: GrC-SAM (paper 000), section 3.4, algorithm 2, appendix A.3.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw.methods.grc_sam.coarse import TEMPERATURE, ThresholdSelector
from fretsaw.methods.grc_sam.scores import TINY
from fretsaw.methods.grc_sam.windows import RefinedSwinBlock, active_windows, tokens_of, windows_of

SCALE = 4
"""Fine tokens per coarse one, along one axis."""

WINDOW = 6


class Fine(NamedTuple):
    """What the fine stage returns.

    Attributes:
        logits: (B, 1, 4h, 4w); `fine_mask` is their sigmoid.
        threshold: (B, 1).
        active: (B, 4h, 4w) bool, the tokens that were computed.
    """

    logits: Tensor
    threshold: Tensor
    active: Tensor


class FineStage(nn.Module):
    """Refines the coarse mask where it found something.

    Args:
        dim: C.
        heads: Of the window attention.
        above: Coarse response from which a window is active.

    Source: GrC-SAM (paper 000), section 3.4, algorithm 2.
    Deviation: the algorithm enlarges the mask's probability to the image; here what is under the sigmoid is enlarged, so that losses take logits.
    """

    def __init__(self, dim: int, heads: int = 8, above: float = 0.5) -> None:
        super().__init__()
        self.above = above
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)
        self.plain = RefinedSwinBlock(dim, heads, WINDOW)
        self.shifted = RefinedSwinBlock(dim, heads, WINDOW, WINDOW // 2)
        self.selector = ThresholdSelector()

    def forward(self, features: Tensor, coarse_mask: Tensor) -> Fine:
        """Run the stage on features (B, C, h, w) and coarse mask (B, 1, h, w) in [0, 1]."""
        tokens, guide, grid = self.enter(features, coarse_mask)
        tokens, active = self.refine(tokens, guide, grid, active_windows(self.shifted.places(grid).to(guide.device), guide, self.above))
        scores = token_scores(tokens, active)
        threshold = self.selector(scores, active)
        logits = ((scores - threshold) * TEMPERATURE).unflatten(1, grid)[:, None]
        return Fine(logits, threshold, active.unflatten(1, grid))

    def enter(self, features: Tensor, coarse_mask: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Return fine tokens (B, N, C), their guide (B, N) and their grid (4h, 4w)."""
        enlarged = F.interpolate(features, scale_factor=SCALE, mode="bilinear", align_corners=False)
        guide = F.interpolate(coarse_mask, scale_factor=SCALE, mode="bilinear", align_corners=False).flatten(1)
        tokens = self.conv(enlarged.contiguous(memory_format=torch.channels_last))
        return tokens.permute(0, 2, 3, 1).flatten(1, 2), guide, (enlarged.shape[2], enlarged.shape[3])

    def refine(self, tokens: Tensor, guide: Tensor, grid: tuple[int, int], active: Tensor) -> tuple[Tensor, Tensor]:
        """Run both blocks in active windows.

        Args:
            tokens: (B, N, C).
            guide: (B, N).
            grid: Of the tokens.
            active: (B, W) bool, windows of the shifted block. They decide which plain windows are computed: all that share a token with them, so that what
                the shifted block reads is what it would read if everything were computed.

        Returns:
            Tokens (B, N, C), and which of them were computed, (B, N) bool.
        """
        shifted, plain = (block.places(grid).to(tokens.device) for block in (self.shifted, self.plain))
        computed = tokens_of(shifted, active, tokens.shape[1])
        tokens = self.plain(tokens, guide, grid, windows_of(plain, computed))
        return self.shifted(tokens, guide, grid, active), computed


def token_scores(tokens: Tensor, active: Tensor) -> Tensor:
    """Return the length of each token (B, N, C), brought to [0, 1] by the extremes among the active ones (B, N) bool; 0 for the others.

    Source: GrC-SAM (paper 000), equation 11 and the sentence after it.
    """
    lengths = tokens.square().sum(-1).clamp(min=TINY).sqrt()
    infinity = torch.full_like(lengths, float("inf"))
    low = torch.where(active, lengths, infinity).amin(1, keepdim=True)
    high = torch.where(active, lengths, -infinity).amax(1, keepdim=True)
    return torch.where(active, (lengths - low) / (high - low).clamp(min=TINY), 0.0)
