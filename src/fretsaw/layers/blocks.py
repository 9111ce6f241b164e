"""Transformer blocks that work inside windows.

Legend: B images, L tokens of all maps, C channels, k side of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from fretsaw.layers.attention import fused_kernel
from fretsaw.layers.windows import PaddedWindowAttention, Shapes, WindowAttention, WindowGroup, check_tokens, group_inverse, window_groups

TOKENS_AT_ONCE = 2048
"""Tokens that a block handles together where no gradient is wanted: bounds the memory of its inner layers, and keeps them in the caches."""

AttentionLayer = Callable[[int, int, int | None, int], WindowAttention]
"""dim, heads, window, shift -> the attention of a block: `WindowAttention` or `PaddedWindowAttention`."""


class Mlp(nn.Module):
    """Two linear layers with GELU in between, on the last axis. Source: ViT (Dosovitskiy et al. 2021), eq. 3."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class DropPath(nn.Module):
    """Stochastic depth: in training, leaves a residual branch out for some of the images, and enlarges it for the others.

    Args:
        rate: Probability that a branch is left out, 0 <= rate < 1.

    Source: Huang et al. 2016, sec. 3; rate from HRSAM's published configuration.
    Deviation: drawn per image; HRSAM's published code flattens images and tokens first and so draws per token.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def scales(self, x: Tensor) -> Tensor | None:
        """Return the factor of each image's branch, (B, 1, ..., 1), or None where all are 1."""
        if not self.training or not self.rate:
            return None
        kept = torch.rand(x.shape[0], *(1,) * (x.ndim - 1), device=x.device) >= self.rate
        return kept.to(x.dtype) / (1 - self.rate)

    def forward(self, x: Tensor) -> Tensor:
        scales = self.scales(x)
        return x if scales is None else x * scales


class FlashSwinBlock(nn.Module):
    """LayerNorm, attention inside windows, LayerNorm, MLP, with residuals. The whole block works window by window, so its memory does not grow with the map.

    Args:
        dim: C.
        heads: Number of heads; C / heads is a multiple of 4.
        window: k; None takes one window for a whole map: global attention.
        shift: Shift of the windows, 0 <= shift < k.
        mlp_ratio: Hidden channels of the MLP over C.
        drop_path: Rate of stochastic depth.
        attention: `PaddedWindowAttention`, or `WindowAttention` for windows that are ragged at the border.

    Source: HRSAM (paper 003), sec. 3.1, 3.3 and 3.4, fig. 2.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        window: int | None,
        shift: int = 0,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        attention: AttentionLayer = PaddedWindowAttention,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attention(dim, heads, window, shift)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, shapes: Shapes) -> Tensor:
        """Transform the tokens of one or several maps.

        Args:
            x: (B, L, C), maps one after the other, each row by row.
            shapes: (h, w) of each map.

        Returns:
            (B, L, C).

        Raises:
            ShapeError: If the maps do not have L tokens.
        """
        check_tokens(x, shapes)
        if fused_kernel(x.device) is not None:
            x = x + self.drop_path(self.attn(self.norm1(x), shapes))
            return x + self.drop_path(self.mlp(self.norm2(x)))
        side = self.attn.side(shapes)
        scales = self.drop_path.scales(x[..., None]), self.drop_path.scales(x[..., None])
        if torch.is_grad_enabled():
            pieces = [self._windows(x[:, part.tokens.to(x.device)], part, scales) for part in window_groups(shapes, side, self.attn.shift)]
            return torch.cat(pieces, dim=1)[:, group_inverse(shapes, side, self.attn.shift).to(x.device)]
        out = torch.empty_like(x)
        for part in self._parts(x, shapes, side):
            tokens = part.tokens.to(x.device)
            out[:, tokens.reshape(-1)] = self._windows(x[:, tokens], part, scales)
        return out

    def _parts(self, x: Tensor, shapes: Shapes, side: int) -> Iterator[WindowGroup]:
        """Yield the windows by kind, in parts of bounded size."""
        for group in window_groups(shapes, side, self.attn.shift):
            for tokens in group.tokens.split(max(1, TOKENS_AT_ONCE // (group.tokens.shape[1] * len(x)))):
                yield WindowGroup(tokens, group.places, group.virtual)

    def _windows(self, x: Tensor, group: WindowGroup, scales: tuple[Tensor | None, Tensor | None]) -> Tensor:
        """Run the block on windows of one kind: x (B, G, n, C) -> (B, G * n, C)."""
        for branch, scale in ((lambda y: self.attn.attend_group(self.norm1(y), group), scales[0]), (lambda y: self.mlp(self.norm2(y)), scales[1])):
            out = branch(x)
            x = x + (out if scale is None else out * scale)
        return x.flatten(1, 2)
