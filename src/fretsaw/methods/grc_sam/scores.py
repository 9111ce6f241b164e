"""From the attention of several layers to one score map.

Legend: B images, h w grid of tokens, H heads of a layer, L layers.

    tapped layers -> attention of each (B, H, h, w) -> mean over heads, min-max -> sum weighted by softmaxed layer weights -> score map (B, 1, h, w)

Source: GrC-SAM (paper 000), section 3.3, equations 2 and 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fretsaw.errors import ConfigError
from fretsaw.layers.attention_taps import query_attention, readable_layers, received_attention, tapped

CONFIGURATIONS: Mapping[str, tuple[int, ...]] = {"A": (0, 3, 6, 9), "B": (1, 4, 7, 10), "C": (1, 4, 8, 11), "D": (2, 5, 8, 11)}
"""Layers of an encoder of twelve, by the paper's names. Source: GrC-SAM (paper 000), table 4."""

TINY = 1e-12


class ClassTokenScores(nn.Module):
    """Attention that a learned query of each layer pays to the image.

    The query passes the layer's own norm and query projection and attends to all its keys. It only reads: the encoder's features stay as they are.

    Args:
        encoder: States the layers.
        layers: Their numbers.

    Source: GrC-SAM (paper 000), equation 2.
    Deviation: the paper reads the attention of a class token, which SAM's encoder does not have; a learned query stands in for it.
    Deviation: the query sees the keys of the whole image in layers with windows too, since inside one window there is nothing to compare.
    """

    def __init__(self, encoder: nn.Module, layers: Sequence[int]) -> None:
        super().__init__()
        self.numbers = tuple(layers)
        self._layers = readable_layers(encoder, layers)  # in a list: they are the encoder's
        self.queries = nn.ParameterList(nn.init.trunc_normal_(torch.empty(layer.qkv.in_features), std=0.02) for layer in self._layers)

    def forward(self, taps: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the attention of each layer, (B, H, h, w), from an embedding's taps."""
        read = zip(self.numbers, self._layers, self.queries, strict=True)
        return [query_attention(layer, tapped(taps, number), query) for number, layer, query in read]


class ReceivedScores(nn.Module):
    """Mean attention that each token receives from all others; nothing is learned.

    Args:
        encoder: States the layers.
        layers: Their numbers; only layers with global attention.

    Raises:
        ConfigError: If a layer's attention runs inside windows.

    Source: GrC-SAM (paper 000), equation 2.
    Deviation: the paper reads the attention of a class token, which SAM's encoder does not have; the mean over all queries stands in for it.
    Deviation: layers with windows cannot be read so, because the mean inside a window is the same for every token of a uniform one.
    """

    def __init__(self, encoder: nn.Module, layers: Sequence[int]) -> None:
        super().__init__()
        self.numbers = tuple(layers)
        self._layers = readable_layers(encoder, layers)
        local = [number for number, layer in zip(layers, self._layers, strict=True) if layer.query_key is None]
        if local:
            raise ConfigError(f"expected layers with global attention for the attention received, got layers {local}, whose attention runs inside windows")

    def forward(self, taps: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the attention of each layer, (B, H, h, w), from an embedding's taps."""
        return [received_attention(layer, tapped(taps, number)) for number, layer in zip(self.numbers, self._layers, strict=True)]


ReadScores = type[ClassTokenScores] | type[ReceivedScores]
"""How attention is read: built from the encoder and the numbers of its layers."""


class LayerFusion(nn.Module):
    """Fuses the layers' attention with learned weights.

    Args:
        layers: L.

    Source: GrC-SAM (paper 000), equation 3.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layer_weights = nn.Parameter(torch.zeros(layers))

    def alpha(self) -> Tensor:
        """Return the softmaxed layer weights (L,)."""
        return self.layer_weights.softmax(0)

    def forward(self, attentions: Sequence[Tensor]) -> Tensor:
        """Fuse L maps (B, H, h, w), whose heads may differ in number, into (B, 1, h, w)."""
        maps = torch.stack([layer_score(attention) for attention in attentions])
        return torch.einsum("l,lbhw->bhw", self.alpha(), maps)[:, None]


def layer_score(attention: Tensor) -> Tensor:
    """Return the mean over heads of (B, H, h, w), brought to [0, 1] by its own extremes in each image: (B, h, w).

    Source: GrC-SAM (paper 000), equation 2 and the sentence after it.
    """
    return min_max(attention.mean(1).flatten(1)).unflatten(1, attention.shape[-2:])


def min_max(values: Tensor) -> Tensor:
    """Bring each row of (B, N) to [0, 1]; a constant row becomes 0."""
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    return (values - low) / (high - low).clamp(min=TINY)
