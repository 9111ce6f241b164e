"""Read what the layers of a frozen encoder attend to, without changing what they compute and without their full attention matrices.

Legend: B images, h w the grid of tokens, N = h w, C channels of a layer, H heads, d = C / H.

An encoder that can be read states its layers once, as `AttentionLayer`s; `TokenTaps` then records the tokens on which their attention runs, and the two
functions below turn them into the attention of one learned query, or into the attention that each token receives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from fretsaw.errors import ConfigError
from fretsaw.types import ImageEmbedding, ImageEncoder

QUERIES_AT_ONCE = 256
"""Rows of an attention matrix that exist at the same time."""

TAP = "attention"
"""Prefix of the taps' names: "attention.7" are the tokens of layer 7."""

_recorded: ContextVar[dict[int, Tensor] | None] = ContextVar("recorded", default=None)


@dataclass(frozen=True, slots=True, eq=False)
class AttentionLayer:
    """How to read one layer of an encoder.

    Attributes:
        block: The layer; its first argument is its tokens, (B, h, w, C) or (B, N, C).
        norm: What the tokens pass before the projections.
        qkv: (C) -> queries, keys and values behind each other, (3, H, d) in row order.
        heads: H.
        query_key: For a layer whose attention is global: normalised tokens (B, h, w, C) -> (query, key), (B, H, N, e) each, whose scalar products are the
            layer's logits, scale and positions included. None where attention runs inside windows.
    """

    block: nn.Module
    norm: nn.Module
    qkv: nn.Linear
    heads: int
    query_key: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None


@runtime_checkable
class ReadableEncoder(Protocol):
    """An image encoder whose attention can be read; these two methods are all that it needs."""

    def attention_layers(self) -> Sequence[AttentionLayer]:
        """Return all layers in their order."""
        ...

    def mixed_layers(self) -> tuple[int, ...]:
        """Return the layers that are read unless others are named, local and global ones where it has both."""
        ...


class TokenTaps(nn.Module):
    """An image encoder that also returns the normalised tokens of some of its layers.

    Args:
        encoder: pixels -> `ImageEmbedding`, a `ReadableEncoder`.
        layers: Numbers of the layers to read. They must work on the embedding's grid.

    Raises:
        ConfigError: If the encoder states no layers, or has no layer of a number.
    """

    def __init__(self, encoder: nn.Module, layers: Sequence[int]) -> None:
        super().__init__()
        chosen = readable_layers(encoder, layers)
        self.encoder = encoder
        self.layers = tuple(layers)
        self._norms = [layer.norm for layer in chosen]  # in a list: they are the encoder's
        for number, layer in zip(layers, chosen, strict=True):
            layer.block.register_forward_pre_hook(_Recorder(number))

    @property
    def available_taps(self) -> tuple[str, ...]:
        """Those of the encoder; the layers that are read come with every call."""
        return cast("ImageEncoder", self.encoder).available_taps

    def forward(self, pixels: Tensor, taps: Sequence[str] = ()) -> ImageEmbedding:
        """Return the encoder's embedding with one tap more a layer, "attention.<number>" (B, C, h, w)."""
        token = _recorded.set({})
        try:
            embedding = self.encoder(pixels, taps)
            tokens = _recorded.get() or {}
        finally:
            _recorded.reset(token)
        grid = embedding.final.shape[-2:]
        kept = dict(embedding.taps)
        for number, norm in zip(self.layers, self._norms, strict=True):
            values = norm(tokens[number])
            if values.ndim == 3:
                values = values.unflatten(1, grid)
            if values.shape[1:3] != grid:
                raise ConfigError(f"expected layers on the embedding's grid {tuple(grid)}, got {tuple(values.shape[1:3])} in layer {number}")
            kept[f"{TAP}.{number}"] = values.permute(0, 3, 1, 2)
        return ImageEmbedding(embedding.final, embedding.high_res, kept)


class _Recorder:
    """Keeps a layer's input for the `TokenTaps` that runs in this thread, if any."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __call__(self, block: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        recorded = _recorded.get()
        if recorded is not None:
            recorded[self._number] = arguments[0]


def readable(encoder: nn.Module) -> ReadableEncoder:
    """Return an encoder as one whose attention can be read.

    Raises:
        ConfigError: If it states no layers.
    """
    if not isinstance(encoder, ReadableEncoder):
        raise ConfigError(f"expected an image encoder that states its attention layers, got {type(encoder).__name__}")
    return encoder


def readable_layers(encoder: nn.Module, numbers: Sequence[int]) -> list[AttentionLayer]:
    """Return the chosen layers of an encoder.

    Raises:
        ConfigError: If it states no layers, or has no layer of a number.
    """
    layers = readable(encoder).attention_layers()
    if not numbers or any(not 0 <= number < len(layers) for number in numbers):
        raise ConfigError(f"expected layers out of 0 .. {len(layers) - 1}, got {tuple(numbers)}")
    return [layers[number] for number in numbers]


def tapped(taps: Mapping[str, Tensor], number: int) -> Tensor:
    """Return a layer's normalised tokens (B, C, h, w) out of an embedding's taps.

    Raises:
        ConfigError: If they are not there.
    """
    if f"{TAP}.{number}" not in taps:
        raise ConfigError(f"expected an embedding with the tap {TAP}.{number}, got {', '.join(taps) or 'none'}")
    return taps[f"{TAP}.{number}"]


def query_attention(layer: AttentionLayer, tokens: Tensor, query: Tensor) -> Tensor:
    """Return the attention that a query from outside pays to every token of a layer.

    The query passes the layer's norm and query projection and sees all keys, without positions, since it stands nowhere. Its projection is folded into the
    keys' weights, so the keys themselves are never made; the keys' bias adds the same to every token and leaves the softmax.

    Args:
        layer: The layer.
        tokens: (B, C, h, w) normalised.
        query: (C,).

    Returns:
        (B, H, h, w), summing to one over the grid.
    """
    channels, heads = tokens.shape[1], layer.heads
    width = layer.qkv.out_features // (3 * heads)
    weight = layer.qkv.weight.float().view(3, heads, width, channels)
    own = torch.einsum("hdc,c->hd", weight[0], layer.norm(query.to(layer.qkv.weight.dtype)).float())
    if layer.qkv.bias is not None:
        own = own + layer.qkv.bias.float().view(3, heads, width)[0]
    folded = torch.einsum("hd,hdc->hc", own, weight[1]) * width**-0.5
    logits = torch.einsum("hc,bcn->bhn", folded, tokens.flatten(2))
    return logits.softmax(-1).unflatten(-1, tokens.shape[-2:])


def received_attention(layer: AttentionLayer, tokens: Tensor) -> Tensor:
    """Return the mean attention that each token of a layer receives from all tokens, exact, a few queries at a time.

    Args:
        layer: A layer whose attention is global.
        tokens: (B, C, h, w) normalised.

    Returns:
        (B, H, h, w), summing to one over the grid.

    Raises:
        ConfigError: If the layer's attention runs inside windows: the mean over a window's tokens says nothing about the image.
    """
    if layer.query_key is None:
        raise ConfigError("expected layers with global attention for the attention received, got one whose attention runs inside windows")
    query, key = layer.query_key(tokens.permute(0, 2, 3, 1).to(layer.qkv.weight.dtype))
    query, key = query.float(), key.float().transpose(-2, -1)
    total = query.new_zeros(*query.shape[:2], query.shape[2])
    for rows in query.split(QUERIES_AT_ONCE, dim=2):
        total = total + (rows @ key).softmax(-1).sum(2)
    return (total / query.shape[2]).unflatten(-1, tokens.shape[-2:])
