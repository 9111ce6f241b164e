"""What SAM's last block attends to, for methods that spread features by it; a few rows at a time, since the whole takes 0.8 GB at 1024.

Source: Segment Anything (Kirillov et al. 2023), appendix A; used by Trident (Shi et al. 2024), section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fretsaw.backbones.sam import FoldedAttention, SamImageEncoder, relative_table


def last_attention(encoder: SamImageEncoder, tokens: Tensor, content: tuple[int, int]) -> tuple[Tensor, Callable[[slice], Tensor]]:
    """Return values and attention of SAM's last block, on the part of the grid that the image fills.

    Args:
        encoder: SAM's.
        tokens: (1, h, w, C) that enter its last block, see `SamImageEncoder.available_taps`.
        content: Rows h' and columns w' of the grid, from the top left.

    Returns:
        values (heads, h' w', c), and a function that maps a slice of the h' w' places to their attention (heads, rows, h' w') after the softmax over the whole
        grid, padding included.
    """
    layer = encoder.layers[-1]
    attention = layer.attn
    assert isinstance(attention, FoldedAttention)
    tokens = layer.layer_norm1(tokens.to(attention.qkv.weight.dtype))
    _, height, width, _ = tokens.shape
    query, key, value = attention.qkv(tokens)[0].float().unflatten(-1, (3, attention.heads, -1)).permute(2, 3, 0, 1, 4).unbind(0)
    rows, columns = content
    query, value = query[:, :rows, :columns].flatten(1, 2), value[:, :rows, :columns].flatten(1, 2)
    down, across = relative_table(attention.rel_pos_h, height).float(), relative_table(attention.rel_pos_w, width).float()
    scale = query.shape[-1] ** -0.5

    def attend(places: slice) -> Tensor:
        own = query[:, places]
        numbers = torch.arange(rows * columns, device=own.device)[places]
        vertical = torch.einsum("anc,nkc->ank", own, down[numbers // columns])
        horizontal = torch.einsum("anc,nkc->ank", own, across[numbers % columns])
        logits = (own * scale) @ key.flatten(1, 2).transpose(1, 2)
        logits = logits.unflatten(2, (height, width)) + vertical[..., None] + horizontal[:, :, None, :]
        weights = logits.flatten(2).softmax(dim=-1).unflatten(2, (height, width))
        return weights[:, :, :rows, :columns].flatten(2)

    return value, attend
