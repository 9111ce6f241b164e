"""Attention kernels that know nothing of images: rotary positions, and attention inside consecutive parts of a sequence.

Shape legend: B images, h heads, L tokens (Lq queries, Lk keys), d width of a head, G parts, n tokens of a part.

Source: RoFormer (Su et al. 2021), sec. 3.2.2 (rotary positions); HRSAM (paper 003), sec. 3.2 and fig. 3 (block-diagonal attention).
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fretsaw.errors import ShapeError

ROTARY_SCALE = 0.5
"""Positions are halved before they become angles, in the published weights."""

ROTARY_BASE = 10000.0

FLEX_BLOCK = 128
"""Side of the tiles that flex_attention computes or skips as a whole."""

BlockDiagonal = Callable[[Tensor, Tensor, Tensor, Sequence[int], Sequence[int]], Tensor]


@functools.lru_cache(maxsize=16)
def rotary_table(side: int, width: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return the cosines and signed sines that turn queries and keys by their place in a square.

    The first half of a head is turned by the row, the second by the column; two neighbouring channels are one plane. Scores depend on differences of places
    alone, so a table of one window serves all windows.

    Args:
        side: Rows and columns of the square.
        width: d, a multiple of 4.
        dtype: Of the tables.
        device: Of the tables.

    Returns:
        Two (side * side, d) tables, row by row, for `rotate`.

    Raises:
        ShapeError: If d is no multiple of 4.

    Source: HRSAM (paper 003), sec. 3.1; frequencies and the factor 0.5 from its published weights.
    """
    if width % 4:
        raise ShapeError(f"expected heads whose width is a multiple of 4 for rotary positions in two directions, got {width}")
    # Outside of inference mode: the table is kept, and later used where gradients are wanted.
    with torch.inference_mode(False), torch.no_grad():
        frequencies = ROTARY_BASE ** (-torch.arange(0, width // 2, 2, dtype=torch.float64) / (width // 2))
        angles = (ROTARY_SCALE * torch.arange(side, dtype=torch.float64)[:, None] * frequencies).repeat_interleave(2, dim=1)
        rows = angles[:, None].expand(side, side, -1)
        turned = torch.cat((rows, rows.transpose(0, 1)), dim=2).reshape(side * side, width)
        signs = torch.tensor((1.0, -1.0), dtype=torch.float64).repeat(width // 2)
        return turned.cos().to(device, dtype), (signs * turned.sin()).to(device, dtype)


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn (..., n, d) by tables (n, d); see `rotary_table`."""
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(x * cosines, swapped, sines)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention over (..., n, d), each leading index by itself: parts of equal length as one batch, on any device."""
    return F.scaled_dot_product_attention(q, k, v)


def attend_flex(q: Tensor, k: Tensor, v: Tensor, query_lengths: Sequence[int], key_lengths: Sequence[int]) -> Tensor:
    """Attention inside consecutive parts as one flex_attention kernel, which skips the tiles between parts. On a CPU it runs uncompiled and slowly.

    Args:
        q: (B, h, Lq, d); part i is the i-th run of `query_lengths` tokens.
        k: (B, h, Lk, d); queries of part i see the i-th run of `key_lengths` keys and no others.
        v: Like k.
        query_lengths: They add up to Lq.
        key_lengths: They add up to Lk, as many as `query_lengths`.

    Returns:
        (B, h, Lq, d).

    Source: HRSAM (paper 003), eq. 4 and fig. 3.

    Raises:
        ShapeError: If the lengths do not add up.
    """
    from torch.nn.attention.flex_attention import flex_attention

    _check_lengths(q, k, query_lengths, key_lengths)
    mask = flex_block_mask(tuple(query_lengths), tuple(key_lengths), q.device)
    run = _compiled(flex_attention) if q.is_cuda else flex_attention
    out = run(q, k, v, block_mask=mask)
    assert isinstance(out, Tensor)
    return out


def attend_xformers(q: Tensor, k: Tensor, v: Tensor, query_lengths: Sequence[int], key_lengths: Sequence[int]) -> Tensor:
    """`attend_flex` by xformers' block-diagonal kernel, where xformers is installed. The B images are further parts."""
    from xformers.ops import memory_efficient_attention  # pyright: ignore[reportMissingImports]
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask  # pyright: ignore[reportMissingImports]

    _check_lengths(q, k, query_lengths, key_lengths)
    batch, heads, _, width = q.shape
    bias = BlockDiagonalMask.from_seqlens(list(query_lengths) * batch, list(key_lengths) * batch)
    flat = [tensor.transpose(1, 2).reshape(1, -1, heads, width) for tensor in (q, k, v)]
    return memory_efficient_attention(*flat, attn_bias=bias).reshape(batch, -1, heads, width).transpose(1, 2)


def fused_kernel(device: torch.device) -> BlockDiagonal | None:
    """Return the kernel for attention inside consecutive parts that a device has: xformers' or flex_attention on CUDA, none elsewhere."""
    if device.type != "cuda":
        return None
    if importlib.util.find_spec("xformers") is not None:
        return attend_xformers
    return attend_flex if importlib.util.find_spec("triton") is not None else None


@functools.lru_cache(maxsize=16)
def flex_block_mask(query_lengths: tuple[int, ...], key_lengths: tuple[int, ...], device: torch.device) -> Any:
    """Return flex_attention's block mask for consecutive parts, made from the lengths alone: no table of Lq x Lk is ever built."""
    from torch.nn.attention.flex_attention import BlockMask

    with torch.inference_mode(False):
        query_part = torch.arange(len(query_lengths)).repeat_interleave(torch.tensor(query_lengths)).to(device)
        key_part = torch.arange(len(key_lengths)).repeat_interleave(torch.tensor(key_lengths)).to(device)
        key_ends = torch.tensor(key_lengths).cumsum(0)
        first_part, last_part = _tile_ends(query_part.cpu())
        first_tile = (key_ends[first_part] - torch.tensor(key_lengths)[first_part]) // FLEX_BLOCK
        last_tile = (key_ends[last_part] - 1) // FLEX_BLOCK
        counts = last_tile - first_tile + 1
        tiles = -(-int(key_ends[-1]) // FLEX_BLOCK)
        indices = (first_tile[:, None] + torch.arange(tiles)).clamp(max=tiles - 1)

        def same_part(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return query_part[query] == key_part[key]

        return BlockMask.from_kv_blocks(
            counts[None, None].int().to(device),
            indices[None, None].int().to(device),
            BLOCK_SIZE=FLEX_BLOCK,
            mask_mod=same_part,
            seq_lengths=(len(query_part), len(key_part)),
        )


def _tile_ends(part: Tensor) -> tuple[Tensor, Tensor]:
    """Return the parts of each tile's first and last query."""
    starts = torch.arange(0, len(part), FLEX_BLOCK)
    return part[starts], part[(starts + FLEX_BLOCK - 1).clamp(max=len(part) - 1)]


@functools.lru_cache(maxsize=1)
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function)


def _check_lengths(q: Tensor, k: Tensor, query_lengths: Sequence[int], key_lengths: Sequence[int]) -> None:
    if sum(query_lengths) != q.shape[2] or sum(key_lengths) != k.shape[2] or len(query_lengths) != len(key_lengths):
        raise ShapeError(
            f"expected as many query parts as key parts, adding up to {q.shape[2]} and {k.shape[2]} tokens, "
            f"got {len(query_lengths)} parts of {sum(query_lengths)} and {len(key_lengths)} of {sum(key_lengths)}"
        )
