"""Windows over one or several token maps as index maps, and attention inside them.

Legend: B images, L tokens of all maps (one map after the other, each row by row), h w rows and columns of a map, k side of a window, s shift, C channels,
W windows.

A map is cut into windows of k x k places. With shift s the first window of a row holds s columns and the last what is left, so windows at the border are
ragged: some of their places are *virtual*. Three index maps say all there is to know, and depend on the sizes alone:

- `shift_window_map`: the tokens in the order of their windows, the way back, and each window's number of tokens;
- `kv_padding_map`: the token at each of a window's k x k places, L at the virtual ones;
- `window_groups`: the same windows, those with the same virtual places together, so that plain batched attention applies.

Source: HRSAM (paper 003), sec. 3.2 to 3.4 and 3.6, eq. 2 to 8 and 11 to 19, listings 1 to 4.
Deviation: any h and w and any shift from 0 to k - 1; the paper takes multiples of k and k / 2. Equal where the paper's formulas hold, and to its
published code elsewhere.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fretsaw.errors import ShapeError
from fretsaw.layers.attention import attend, fused_kernel, rotary_table, rotate

Shapes = tuple[tuple[int, int], ...]
"""(h, w) of each map."""


@dataclass(frozen=True, slots=True, eq=False)
class WindowMap:
    """A bijection between the maps' order of tokens and the windows' order.

    Attributes:
        order: (L,) tokens by window: `x[order]` lies window after window.
        inverse: (L,) the way back: `x[order][inverse]` is x.
        lengths: Tokens of each window.
    """

    order: Tensor
    inverse: Tensor
    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class WindowGroup:
    """Windows whose real tokens lie at the same places.

    Attributes:
        tokens: (G, n) the tokens of each window.
        places: (n,) their places in the window, row by row from 0 to k * k - 1.
        virtual: (k * k - n,) the places without a token.
    """

    tokens: Tensor
    places: Tensor
    virtual: Tensor


@functools.lru_cache(maxsize=64)
def kv_padding_map(shapes: Shapes, window: int, shift: int = 0) -> Tensor:
    """Return the token at each place of each window, (W, k * k); L stands for a virtual place.

    Args:
        shapes: (h, w) of each map; windows of a later map follow those of an earlier one.
        window: k.
        shift: s, 0 <= s < k: the first window of a row or column holds s tokens; k if s is 0.

    Returns:
        int64; do not change it, it is cached.

    Raises:
        ShapeError: If a map is empty, or the shift is not in 0 .. k - 1.

    Source: HRSAM (paper 003), eq. 16 and 17, listings 2 and 4.
    """
    if window < 1 or not 0 <= shift < window or not shapes or any(h < 1 or w < 1 for h, w in shapes):
        raise ShapeError(f"expected maps of at least one token, a window of at least 1 and a shift below it, got {shapes}, window {window}, shift {shift}")
    total = sum(h * w for h, w in shapes)
    before = -shift % window
    rows, first = [], 0
    for h, w in shapes:
        down, across = -(-(h + before) // window), -(-(w + before) // window)
        places = np.full((down * window, across * window), total, dtype=np.int64)
        places[before : before + h, before : before + w] = first + np.arange(h * w).reshape(h, w)
        rows.append(places.reshape(down, window, across, window).transpose(0, 2, 1, 3).reshape(-1, window * window))
        first += h * w
    return _kept(np.concatenate(rows))


@functools.lru_cache(maxsize=64)
def shift_window_map(shapes: Shapes, window: int, shift: int = 0) -> WindowMap:
    """Return the order of tokens by window, its inverse and the windows' lengths. Arguments as for `kv_padding_map`.

    Source: HRSAM (paper 003), eq. 14, 15 and 19, listings 1 and 3.
    """
    places = kv_padding_map(shapes, window, shift).numpy()
    real = places < sum(h * w for h, w in shapes)
    order = places[real]
    return WindowMap(_kept(order), _kept(np.argsort(order)), tuple(real.sum(axis=1).tolist()))


@functools.lru_cache(maxsize=64)
def window_groups(shapes: Shapes, window: int, shift: int = 0) -> tuple[WindowGroup, ...]:
    """Return the windows of `kv_padding_map`, in groups with the same virtual places (at most nine for a map). Arguments as there."""
    places = kv_padding_map(shapes, window, shift).numpy()
    real = places < sum(h * w for h, w in shapes)
    kinds, kind_of = np.unique(real, axis=0, return_inverse=True)
    groups = []
    for index, kind in enumerate(kinds):
        tokens = places[kind_of.reshape(-1) == index][:, kind]
        groups.append(WindowGroup(_kept(tokens), _kept(np.flatnonzero(kind)), _kept(np.flatnonzero(~kind))))
    return tuple(groups)


@functools.lru_cache(maxsize=64)
def group_inverse(shapes: Shapes, window: int, shift: int = 0) -> Tensor:
    """Return the way back, (L,), from the order in which `window_groups` lists the tokens."""
    order = np.concatenate([group.tokens.numpy().reshape(-1) for group in window_groups(shapes, window, shift)])
    return _kept(np.argsort(order))


class WindowAttention(nn.Module):
    """Flash Swin: multi-head attention inside windows, with rotary positions and without any mask or bias.

    Args:
        dim: C.
        heads: Number of heads; C / heads is a multiple of 4.
        window: k; None takes one window that holds a whole map: global attention.
        shift: s.

    Source: HRSAM (paper 003), sec. 3.3.
    """

    def __init__(self, dim: int, heads: int, window: int | None, shift: int = 0) -> None:
        super().__init__()
        if dim % heads or (dim // heads) % 4:
            raise ShapeError(f"expected channels that split into heads whose width is a multiple of 4, got {dim} channels and {heads} heads")
        self.heads = heads
        self.window = window
        self.shift = shift if window else 0
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def side(self, shapes: Shapes) -> int:
        """Return k for the given maps."""
        return self.window or max(max(shape) for shape in shapes)

    def forward(self, x: Tensor, shapes: Shapes) -> Tensor:
        """Attend inside the windows of all maps.

        Args:
            x: (B, L, C), maps one after the other.
            shapes: (h, w) of each map.

        Raises:
            ShapeError: If the maps do not have L tokens.
        """
        check_tokens(x, shapes)
        side = self.side(shapes)
        kernel = fused_kernel(x.device)
        if kernel is None:
            groups = window_groups(shapes, side, self.shift)
            pieces = [self.attend_group(x[:, group.tokens.to(x.device)], group).flatten(1, 2) for group in groups]
            return torch.cat(pieces, dim=1)[:, group_inverse(shapes, side, self.shift).to(x.device)]
        layout = shift_window_map(shapes, side, self.shift)
        order, inverse = layout.order.to(x.device), layout.inverse.to(x.device)
        places = kv_padding_map(shapes, side, self.shift).to(x.device).reshape(-1)
        seen, lengths = self.visible(places, layout, x.shape[1])
        q, k, v = self.split(self.qkv(x))
        table = rotary_table(side, q.shape[3], q.dtype, q.device)
        padding = self.padding_parts()
        if padding is not None:
            k, v = (torch.cat((part, extra.expand(len(x), -1, -1, -1)), dim=2) for part, extra in zip((k, v), padding, strict=True))
        own = torch.nonzero(places < x.shape[1])[:, 0]
        q = rotate(q[:, :, order], *(part[own % side**2] for part in table))
        k, v = rotate(k[:, :, places[seen]], *(part[seen % side**2] for part in table)), v[:, :, places[seen]]
        return self.proj(kernel(q, k, v, layout.lengths, lengths).transpose(1, 2).flatten(2)[:, inverse])

    def attend_group(self, x: Tensor, group: WindowGroup) -> Tensor:
        """Attend inside windows of one kind: x (B, G, n, C) -> (B, G, n, C)."""
        batch, count, length, dim = x.shape
        q, k, v = self.split(self.qkv(x.reshape(batch * count, length, dim)))
        cosines, sines = rotary_table(math.isqrt(len(group.places) + len(group.virtual)), q.shape[3], q.dtype, q.device)
        places, virtual = group.places.to(x.device), group.virtual.to(x.device)
        q, k = rotate(q, cosines[places], sines[places]), rotate(k, cosines[places], sines[places])
        padding = self.padding_parts() if len(group.virtual) else None
        if padding is not None:
            # The order of keys does not matter, so the virtual ones follow the real ones.
            extra_k = rotate(padding[0].expand(-1, -1, len(virtual), -1), cosines[virtual], sines[virtual])
            k = torch.cat((k, extra_k.to(k.dtype).expand(len(k), -1, -1, -1)), dim=2)
            v = torch.cat((v, padding[1].expand(len(v), -1, len(virtual), -1)), dim=2)
        return self.proj(attend(q, k, v).transpose(1, 2).reshape(batch, count, length, dim))

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, n, 3 C) -> queries, keys, values (B, heads, n, d)."""
        q, k, v = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def padding_parts(self) -> tuple[Tensor, Tensor] | None:
        """Return key and value of the virtual places, each (1, heads, 1, d); None where they are left out."""
        return None

    def visible(self, places: Tensor, layout: WindowMap, tokens: int) -> tuple[Tensor, tuple[int, ...]]:
        """Return which of all windows' places hold keys, and each window's number of keys: here the real ones."""
        return torch.nonzero(places < tokens)[:, 0], layout.lengths


class PaddedWindowAttention(WindowAttention):
    """Window attention in which every query sees k x k keys: virtual places hold one learnable token, as key and value only. Queries are never padded.

    Args:
        dim: C.
        heads: Number of heads.
        window: k; None takes one window for a whole map.
        shift: s.

    Source: HRSAM (paper 003), sec. 3.4, eq. 16 and 17, fig. 6.
    Deviation: the published code pads the queries too and drops what they give: the same result for more work.
    """

    def __init__(self, dim: int, heads: int, window: int | None, shift: int = 0) -> None:
        super().__init__(dim, heads, window, shift)
        self.padding = nn.Parameter(torch.zeros(1, dim))

    def padding_parts(self) -> tuple[Tensor, Tensor] | None:
        _, k, v = self.split(self.qkv(self.padding[None]))
        return k, v

    def visible(self, places: Tensor, layout: WindowMap, tokens: int) -> tuple[Tensor, tuple[int, ...]]:
        return torch.arange(len(places), device=places.device), (len(places) // len(layout.lengths),) * len(layout.lengths)


def check_tokens(x: Tensor, shapes: Shapes) -> None:
    """Raise ShapeError unless x (B, L, C) holds the tokens of all maps."""
    total = sum(h * w for h, w in shapes)
    if x.ndim != 3 or x.shape[1] != total:
        raise ShapeError(f"expected tokens (B, {total}, C) for maps {shapes}, got {tuple(x.shape)}")


def _kept(array: np.ndarray) -> Tensor:
    # Outside of inference mode: the tensor is kept, and later used where gradients are wanted.
    with torch.inference_mode(False):
        return torch.as_tensor(np.ascontiguousarray(array, dtype=np.int64))
