"""Swin-style attention guided by a soft mask, computed in active windows only.

Legend: B images, h w grid of fine tokens, N = h w, k side of a window, W windows of a map, A windows that are computed, C channels, H heads, d = C / H.

Source: GrC-SAM (paper 000), equations 4 to 10, algorithm 3, section A.7.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw.layers.blocks import Mlp
from fretsaw.layers.windows import kv_padding_map

WINDOWS_AT_ONCE = 256
"""Windows that are handled together where no gradient is wanted: what they need in between stays in the caches."""


class RefinedSwinBlock(nn.Module):
    """Attention inside windows whose keys, values and logits follow a soft mask, then an MLP with residual.

    Args:
        dim: C.
        heads: H.
        window: k.
        shift: Of the windows, 0 <= shift < k.
        mlp_ratio: Hidden channels of the MLP over C.

    Source: GrC-SAM (paper 000), algorithm 3, equations 4 to 10.
    Deviation: the pairwise weight of equation 8, which algorithm 3 leaves out, follows the relative position bias.
    """

    def __init__(self, dim: int, heads: int = 8, window: int = 6, shift: int = 0, mlp_ratio: float = 2.0) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = nn.Linear(dim, 3 * dim)
        self.guidance = nn.Parameter(torch.ones(()))
        self.position_bias = nn.Parameter(nn.init.trunc_normal_(torch.empty((2 * window - 1) ** 2, heads), std=0.02))
        self.norm = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def places(self, grid: tuple[int, int]) -> Tensor:
        """Return the token at each place of each window, (W, k * k), N at places outside of the map."""
        return kv_padding_map((grid,), self.window, self.shift)

    def forward(self, tokens: Tensor, mask_probs: Tensor, grid: tuple[int, int], active: Tensor) -> Tensor:
        """Compute the active windows; tokens of all others pass unchanged.

        Args:
            tokens: (B, N, C).
            mask_probs: (B, N) in [0, 1].
            grid: (h, w).
            active: (B, W) bool, by the order of `places`.

        Returns:
            (B, N, C).
        """
        batch, count, channels = tokens.shape
        every = self.places(grid).to(tokens.device)
        ragged = (every == count).any(1)
        # Whole windows first: only the others need a mask.
        images, windows = torch.cat([(active & ~ragged).nonzero(), (active & ragged).nonzero()]).unbind(1)
        places = every[windows]
        virtual = places == count
        rows = places + images[:, None] * count
        flat, mask_flat = tokens.reshape(-1, channels), mask_probs.reshape(-1)
        result = flat.clone()
        for part in self._parts(len(rows)):
            outside, own = virtual[part], rows[part]
            whole = not bool(outside.any())
            if not whole:
                own = torch.where(outside, images[part, None] * count, own)  # any token will do: it is masked as a key and dropped as a query
            x = flat[own.reshape(-1)].view(*own.shape, channels)
            mixed = self.attend(x, mask_flat[own.reshape(-1)].view(own.shape), None if whole else outside)
            mixed = mixed + self.mlp(self.norm(mixed))
            inside = slice(None) if whole else ~outside
            result = _written(result, own[inside].reshape(-1), mixed[inside].reshape(-1, channels))
        return result.view(batch, count, channels)

    def dense(self, tokens: Tensor, mask_probs: Tensor, grid: tuple[int, int]) -> Tensor:
        """Compute every window, as Swin does: pad, roll, cut into windows, mask what a window must not see; what the sparse form is measured against."""
        (height, width), k = grid, self.window
        below, right = -height % k, -width % k
        x = F.pad(tokens.unflatten(1, grid), (0, 0, 0, right, 0, below)).roll((-self.shift, -self.shift), (1, 2))
        m = F.pad(mask_probs.unflatten(1, grid), (0, right, 0, below)).roll((-self.shift, -self.shift), (1, 2))
        region = rolled_regions(height, width, k, self.shift).to(tokens.device)
        windows, guides, regions = _partition(x, k), _partition(m[..., None], k)[..., 0], _partition(region[None, ..., None], k)[..., 0]
        apart = (regions[:, :, None] != regions[:, None, :]).repeat(len(tokens), 1, 1)
        pieces = []
        for part in self._parts(len(windows)):
            piece = self.attend(windows[part], guides[part], apart[part] if bool(apart[part].any()) else None)
            pieces.append(piece + self.mlp(self.norm(piece)))
        mixed = torch.cat(pieces)
        shape = (len(tokens), (height + below) // k, (width + right) // k, k, k, tokens.shape[2])
        whole = mixed.view(shape).permute(0, 1, 3, 2, 4, 5).reshape(len(tokens), height + below, width + right, -1)
        return whole.roll((self.shift, self.shift), (1, 2))[:, :height, :width].flatten(1, 2)

    def attend(self, x: Tensor, mask_probs: Tensor, unseen: Tensor | None) -> Tensor:
        """Attend inside windows.

        Args:
            x: (A, n, C), n = k * k.
            mask_probs: (A, n) in [0, 1].
            unseen: (A, n) bool, keys that nobody sees; or (A, n, n), keys that a query does not see; or None.

        Returns:
            (A, n, C).

        Source: GrC-SAM (paper 000), equations 5 to 10.
        """
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        amplify = (1 + self.guidance * mask_probs)[:, None, :, None]
        key, value = key * amplify, value * amplify
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1) + self.bias()
        logits = logits * (mask_probs[:, :, None] * mask_probs[:, None, :])[:, None]
        if unseen is not None:
            logits = logits.masked_fill(unseen[:, None, None, :] if unseen.ndim == 2 else unseen[:, None], float("-inf"))
        return (logits.softmax(-1) @ value).transpose(1, 2).flatten(2)

    def bias(self) -> Tensor:
        """Return the relative position bias of each head, (H, k * k, k * k)."""
        return self.position_bias[relative_places(self.window).to(self.position_bias.device)].permute(2, 0, 1)

    def _parts(self, count: int) -> Iterator[slice]:
        step = count if torch.is_grad_enabled() else WINDOWS_AT_ONCE
        return (slice(start, start + step) for start in range(0, count, max(step, 1)))


def active_windows(places: Tensor, mask_probs: Tensor, above: float = 0.5) -> Tensor:
    """Return which windows hold a token above a limit, (B, W) bool; in an image without any, those with its largest value.

    Args:
        places: (W, k * k) from `RefinedSwinBlock.places`.
        mask_probs: (B, N).
        above: The limit.

    Deviation: GrC-SAM (paper 000) speaks of a portion of each window that takes part; leaving out whole windows is what saves time.
    """
    peak = F.pad(mask_probs, (0, 1), value=-1.0)[:, places.reshape(-1)].unflatten(1, places.shape).amax(2)
    highest = peak.amax(1, keepdim=True)
    return torch.where(highest > above, peak > above, peak == highest)


def tokens_of(places: Tensor, active: Tensor, count: int) -> Tensor:
    """Return which tokens lie in active windows, (B, N) bool, from (W, k * k) and (B, W)."""
    found = torch.zeros(len(active), count + 1, dtype=torch.bool, device=active.device)
    images, windows = active.nonzero(as_tuple=True)
    found[images[:, None], places[windows]] = True
    return found[:, :count]


def windows_of(places: Tensor, tokens: Tensor) -> Tensor:
    """Return which windows hold any of the tokens, (B, W) bool, from (W, k * k) and (B, N) bool."""
    return F.pad(tokens, (0, 1))[:, places.reshape(-1)].unflatten(1, places.shape).any(2)


@functools.lru_cache(maxsize=8)
def relative_places(window: int) -> Tensor:
    """Return the row of the bias table for each pair of places, (k * k, k * k) int64."""
    with torch.inference_mode(False):
        y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        rows, columns = y.flatten(), x.flatten()
        span = 2 * window - 1
        return (rows[:, None] - rows[None, :] + window - 1) * span + (columns[:, None] - columns[None, :] + window - 1)


def rolled_regions(height: int, width: int, window: int, shift: int) -> Tensor:
    """Return a number for each place of the padded, rolled map; places of different numbers must not see each other. (h', w') int64."""

    def along(length: int) -> Tensor:
        padded = length + -length % window
        numbers = torch.ones(padded, dtype=torch.int64)
        numbers[:shift] = 0  # what the roll brings to the far end
        numbers[length:] = 2
        return numbers.roll(-shift)

    return along(height)[:, None] * 3 + along(width)[None, :]


def _partition(x: Tensor, k: int) -> Tensor:
    """(B, h, w, C) -> (B * windows, k * k, C)."""
    batch, height, width, channels = x.shape
    return x.view(batch, height // k, k, width // k, k, channels).permute(0, 1, 3, 2, 4, 5).reshape(-1, k * k, channels)


def _written(result: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """Put values (n, C) into the rows of a tensor that was made for it."""
    return result.index_copy(0, rows, values) if torch.is_grad_enabled() else result.index_copy_(0, rows, values)
