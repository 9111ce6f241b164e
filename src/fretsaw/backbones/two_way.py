"""The two-way transformer of SAM's and SAM 2's mask decoder: a few tokens and an image look at each other.

Nearly all of its work is projecting thousands of image places for a handful of tokens. Attention is linear in what it attends to before the softmax and
after it, so the projection may as well be applied to the tokens: with h heads and N tokens h N rows meet each place in place of the projection's own width.
`Folded` does so, `Projected` does it the usual way round, for many tokens, and for many prompt sets that share one image.

Source: Segment Anything (Kirillov et al. 2023), appendix A, figure 14.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SHARED_BY = 3
"""Prompt sets from which on it is cheaper to project their common image once than to fold the projection into each set's tokens."""


class ImageView(Protocol):
    """The image as one layer sees it."""

    def read(self, query: Tensor) -> Tensor:
        """Let tokens (P, N, C) attend to the image; returns (P, N, C)."""
        ...

    def write(self, key: Tensor, value: Tensor) -> Tensor:
        """Let the image attend to tokens `key` and `value` (P, N, C); returns (P, h * w, C)."""
        ...


class Projected:
    """The image (P or 1, h * w, C), projected for one layer.

    Args:
        layer: transformers' two-way layer.
        image: Embedding plus dense prompt, or what earlier layers made of it.
        positions: (1, h * w, C).
    """

    def __init__(self, layer: Any, image: Tensor, positions: Tensor) -> None:
        self._layer = layer
        placed = image + positions
        read, heads = layer.cross_attn_token_to_image, layer.cross_attn_token_to_image.num_attention_heads
        self._key, self._value = split_heads(read.k_proj(placed), heads), split_heads(read.v_proj(image), heads)
        self._query = split_heads(layer.cross_attn_image_to_token.q_proj(placed), heads)

    def read(self, query: Tensor) -> Tensor:
        """See `ImageView`."""
        attention = self._layer.cross_attn_token_to_image
        return attend(attention, split_heads(attention.q_proj(query), attention.num_attention_heads), self._key, self._value)

    def write(self, key: Tensor, value: Tensor) -> Tensor:
        """See `ImageView`."""
        attention = self._layer.cross_attn_image_to_token
        heads = attention.num_attention_heads
        own = split_heads(attention.k_proj(key), heads)
        if not is_few(attention, key.shape[1]):
            return attend(attention, self._query, own, split_heads(attention.v_proj(value), heads))
        return mix_tokens(attention, (own * own.shape[-1] ** -0.5) @ self._query.transpose(2, 3), value)


class Folded:
    """The image as it is; the layer's projections are applied to the tokens. For the arguments see `Projected`."""

    def __init__(self, layer: Any, image: Tensor, positions: Tensor) -> None:
        self._layer, self._image, self._placed = layer, image, image + positions

    def read(self, query: Tensor) -> Tensor:
        """See `ImageView`."""
        return read_folded(self._layer.cross_attn_token_to_image, query, self._image, self._placed)

    def write(self, key: Tensor, value: Tensor) -> Tensor:
        """See `ImageView`."""
        attention = self._layer.cross_attn_image_to_token
        heads = attention.num_attention_heads
        own = split_heads(attention.k_proj(key), heads)
        own = own * own.shape[-1] ** -0.5
        bias = (own @ attention.q_proj.bias.view(heads, -1, 1)).flatten(1, 2)
        scores = fold(own, attention.q_proj.weight) @ self._placed.transpose(1, 2) + bias
        return mix_tokens(attention, scores.unflatten(1, (heads, -1)), value)


def two_way_transformer(transformer: Any, tokens: Tensor, image: Tensor, first: ImageView | None, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Let the tokens look at the image and the image at the tokens, twice, then the tokens once more.

    Args:
        transformer: transformers' `SamTwoWayTransformer` or `Sam2TwoWayTransformer`.
        tokens: (P, N, C) output and prompt tokens; they serve as their own positional encoding.
        image: (P or 1, h * w, C) image embedding plus dense prompt.
        first: The image as the first layer sees it, where several prompt sets share it; None where they do not.
        positions: (1, h * w, C).

    Returns:
        tokens (P, N, C) and image (P, h * w, C).

    Source: Segment Anything (Kirillov et al. 2023), figure 14.
    """
    queries, keys, view = tokens, image, first
    for layer in transformer.layers:
        view = view or view_of(layer, keys, positions, tokens.shape[1])
        if layer.skip_first_layer_pe:
            queries = attend_tokens(layer.self_attn, queries, queries)
        else:
            queries = queries + attend_tokens(layer.self_attn, queries + tokens, queries)
        queries = layer.layer_norm1(queries)
        queries = layer.layer_norm2(queries + view.read(queries + tokens))
        queries = layer.layer_norm3(queries + layer.mlp(queries))
        keys = layer.layer_norm4(keys + view.write(queries + tokens, queries))
        view = None
    final, placed = transformer.final_attn_token_to_image, keys + positions
    if is_few(final, tokens.shape[1]):
        found = read_folded(final, queries + tokens, keys, placed)
    else:
        heads = final.num_attention_heads
        query, key, value = final.q_proj(queries + tokens), final.k_proj(placed), final.v_proj(keys)
        found = attend(final, *(split_heads(part, heads) for part in (query, key, value)))
    return transformer.layer_norm_final_attn(queries + found), keys


def first_view(transformer: Any, image: Tensor, positions: Tensor, sets: int) -> Projected | None:
    """Return the image as the first layer sees it, if so many prompt sets share it that projecting it once pays; else None."""
    return Projected(transformer.layers[0], image, positions) if len(image) == 1 and sets >= SHARED_BY else None


def view_of(layer: Any, image: Tensor, positions: Tensor, tokens: int) -> ImageView:
    """Return the image as a layer sees it, by the way that takes less work for so many tokens."""
    return (Folded if is_few(layer.cross_attn_token_to_image, tokens) else Projected)(layer, image, positions)


def is_few(attention: Any, tokens: int) -> bool:
    """Say whether tokens are so few that folding the projections into them takes less work than projecting the image."""
    return attention.num_attention_heads * tokens <= attention.q_proj.out_features


def read_folded(attention: Any, query: Tensor, image: Tensor, placed: Tensor) -> Tensor:
    """Let tokens (P, N, C) attend to the image (P or 1, h * w, C), keys with positions and values without; returns (P, N, C)."""
    heads = attention.num_attention_heads
    own = split_heads(attention.q_proj(query), heads)
    # the key's bias adds the same to all places of a row, which the softmax does not see
    scores = fold(own * own.shape[-1] ** -0.5, attention.k_proj.weight) @ placed.transpose(1, 2)
    mixed = (scores.softmax(dim=-1) @ image).unflatten(1, (heads, -1))
    values = mixed @ attention.v_proj.weight.unflatten(0, (heads, -1)).transpose(1, 2)
    return output_of(attention)(values.transpose(1, 2).flatten(2) + attention.v_proj.bias)


def mix_tokens(attention: Any, scores: Tensor, value: Tensor) -> Tensor:
    """Give each place its mean of the tokens' values (P, N, C) by scores (P, heads, N, h * w), output projection included; returns (P, h * w, C)."""
    heads, output = attention.num_attention_heads, output_of(attention)
    values = fold(split_heads(attention.v_proj(value), heads), output.weight.T)
    return torch.baddbmm(output.bias.expand(1, 1, -1), scores.softmax(dim=2).flatten(1, 2).transpose(1, 2), values)


def fold(tokens: Tensor, weight: Tensor) -> Tensor:
    """Take tokens (P, heads, N, c) through a weight (heads c, C), head by head: (P, heads N, C)."""
    return (tokens @ weight.unflatten(0, (tokens.shape[1], -1))).flatten(1, 2)


def attend(attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Multi-head attention with heads apart, (P or 1, heads, N or M, C / heads), followed by the output projection; returns (P, N, C)."""
    count = max(len(query), len(key))
    query, key, value = (part.expand(count, -1, -1, -1) for part in (query, key, value))
    return output_of(attention)(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


def attend_tokens(attention: Any, query: Tensor, value: Tensor) -> Tensor:
    """Let tokens (P, N, C) attend to each other; `value` lacks the positional encoding that `query`, which is also the key, may have."""
    parts = (attention.q_proj(query), attention.k_proj(query), attention.v_proj(value))
    return attend(attention, *(split_heads(part, attention.num_attention_heads) for part in parts))


def output_of(attention: Any) -> nn.Linear:
    """Return the output projection, which SAM and SAM 2 name differently."""
    return attention.o_proj if hasattr(attention, "o_proj") else attention.out_proj


def split_heads(values: Tensor, heads: int) -> Tensor:
    """(P, N, heads c) to (P, heads, N, c)."""
    return values.unflatten(-1, (heads, -1)).transpose(1, 2)
