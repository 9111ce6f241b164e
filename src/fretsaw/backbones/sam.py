"""SAM: plain ViT with windows and relative positions, prompt encoder and mask decoder, on transformers' modules and under its parameter names.

Source: Segment Anything (Kirillov et al. 2023), appendix A; ViTDet (Li et al. 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw.backbones.sam_decoder import PATCH, MaskDecoder, PromptEncoder, load_strict
from fretsaw.errors import ShapeError
from fretsaw.layers.attention_taps import AttentionLayer
from fretsaw.types import ImageEmbedding

VIT_BASE: dict[str, Any] = {"vision": {}}
"""SAM ViT-B, transformers' default. A table holds keyword arguments of transformers' configurations: `vision`, `prompt`, `decoder`."""

VIT_LARGE: dict[str, Any] = {"vision": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "global_attn_indexes": [5, 11, 17, 23]}}
"""SAM ViT-L."""

VIT_HUGE: dict[str, Any] = {"vision": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "global_attn_indexes": [7, 15, 23, 31]}}
"""SAM ViT-H."""


FREQUENCIES = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")
"""The two names of the frequencies of the positional encoding."""


LAST_INPUT = "last_input"
"""Name of the tap (B, h, w, C) with the tokens that enter the last block."""


class FoldedAttention(nn.Module):
    """Attention with decomposed relative positions that never builds the (heads, h w, h w) bias; takes the place of transformers' `SamVisionAttention`.

    The bias of query i and key j is rel_h(i, row of j) + rel_w(i, column of j). It is a scalar product: of the two lists of a query's biases with the
    one-hot row and column of a key. So both are appended to the head dimension, and any fused kernel computes the sum: at 1024 the bias would take
    0.8 GB, at 2048 12.9 GB.

    Args:
        attention: transformers' module, whose projections and tables are taken over.

    Source: MViTv2 (Li et al. 2022), equation 4, as SAM's encoder uses it; the fold is exact up to rounding.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.qkv = attention.qkv
        self.proj = attention.proj
        self.rel_pos_h = attention.rel_pos_h
        self.rel_pos_w = attention.rel_pos_w
        self.heads = attention.num_attention_heads

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, None]:
        """Map (B, h, w, C) to the same shape; the None stands where transformers' module returns attention weights."""
        batch, height, width, channels = hidden_states.shape
        query, key, value = self.fold(hidden_states)
        # Kernels want a head size that is a multiple of eight, and the same one for values.
        size, filler = value.shape[-1], -query.shape[-1] % 8
        query, key = F.pad(query, (0, filler)), F.pad(key, (0, filler))
        value = F.pad(value, (0, query.shape[-1] - size))
        mixed = F.scaled_dot_product_attention(query, key, value, scale=1.0)[..., :size]
        return self.proj(mixed.transpose(1, 2).reshape(batch, height, width, channels)), None

    def fold(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return query, key (B, heads, h w, C / heads + h + w) and value (B, heads, h w, C / heads); query times key are the logits, positions included."""
        batch, height, width, _channels = hidden_states.shape
        query, key, value = self.qkv(hidden_states).reshape(batch, height * width, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        places = query.unflatten(2, (height, width))
        rows = torch.einsum("nahwc,hkc->nahwk", places, relative_table(self.rel_pos_h, height)).flatten(2, 3)
        columns = torch.einsum("nahwc,wkc->nahwk", places, relative_table(self.rel_pos_w, width)).flatten(2, 3)
        marks = one_hot_places(height, width, key).expand(batch, self.heads, -1, -1)
        return torch.cat([query * query.shape[-1] ** -0.5, rows, columns], dim=-1), torch.cat([key, marks], dim=-1), value


def relative_table(table: Tensor, length: int) -> Tensor:
    """Return (length, length, C): the entry of each query place for each key place along one axis.

    Args:
        table: (2 L - 1, C), entry by offset; resampled linearly where L is not `length`, as SAM does.
        length: Places along the axis.
    """
    if len(table) != 2 * length - 1:
        table = F.interpolate(table.T[None].float(), size=2 * length - 1, mode="linear")[0].T.to(table.dtype)
    places = torch.arange(length, device=table.device)
    return table[places[:, None] - places[None, :] + length - 1]


def one_hot_places(height: int, width: int, like: Tensor) -> Tensor:
    """Return (height * width, height + width): one-hot row, then one-hot column, of each place in row order."""
    rows = torch.eye(height, dtype=like.dtype, device=like.device).repeat_interleave(width, dim=0)
    columns = torch.eye(width, dtype=like.dtype, device=like.device).repeat(height, 1)
    return torch.cat([rows, columns], dim=1)


class SamImageEncoder(nn.Module):
    """SAM's ViT for any input size; the tables of another size than the training's are resampled.

    Args:
        encoder: transformers' `SamVisionEncoder`; the attention of its layers is replaced by `FoldedAttention`.

    Source: Segment Anything (Kirillov et al. 2023), appendix A, "Image encoder"; ViTDet (Li et al. 2022).
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        for layer in encoder.layers:
            layer.attn = FoldedAttention(layer.attn)
        self.patches = encoder.patch_embed.projection
        self.pos_embed = encoder.pos_embed
        self.layers = encoder.layers
        self.neck = encoder.neck

    @property
    def available_taps(self) -> tuple[str, ...]:
        """`LAST_INPUT`, the tokens that enter the last block, for `sam_attention.last_attention`."""
        return (LAST_INPUT,)

    def forward(self, pixels: Tensor, taps: Sequence[str] = ()) -> ImageEmbedding:
        """Return `final` (B, C, H/16, W/16) for pixels (B, 3, H, W), both sides multiples of 16."""
        tokens = self.patches(pixels).permute(0, 2, 3, 1)
        tokens = tokens + self._positions(tokens.shape[1], tokens.shape[2])
        for layer in self.layers[:-1]:
            tokens = layer(tokens)
        return ImageEmbedding(self.neck(self.layers[-1](tokens)), taps={LAST_INPUT: tokens} if LAST_INPUT in taps else {})

    def attention_layers(self) -> tuple[AttentionLayer, ...]:
        """Return how the attention of each layer is read; see `fretsaw.layers.attention_taps`."""
        return tuple(
            AttentionLayer(layer, layer.layer_norm1, layer.attn.qkv, layer.attn.heads, None if layer.window_size else lambda x, a=layer.attn: a.fold(x)[:2])
            for layer in self.layers
        )

    def mixed_layers(self) -> tuple[int, ...]:
        """Return the layers that are read by default: before the first half of the global layers the local one, then the global ones; ViT-B: 1, 4, 8, 11."""
        whole = [number for number, layer in enumerate(self.layers) if not layer.window_size]
        half = len(whole) // 2
        return tuple(number - 1 if i < half else number for i, number in enumerate(whole))

    def _positions(self, height: int, width: int) -> Tensor:
        """Return the position table (1, height, width, C), bicubically resampled as in ViTDet where it was trained at another size."""
        if self.pos_embed.shape[1:3] == (height, width):
            return self.pos_embed
        table = self.pos_embed.permute(0, 3, 1, 2).float()
        return F.interpolate(table, size=(height, width), mode="bicubic").permute(0, 2, 3, 1).to(self.pos_embed.dtype)


class SamMaskDecoder(MaskDecoder):
    """SAM's decoder: nothing leads the IoU token, nothing is added while upscaling.

    Source: Segment Anything (Kirillov et al. 2023), appendix A, figure 14.
    """


def build_model(config: Mapping[str, Any], size: int) -> Any:
    """Return transformers' `SamModel` without weights (on the meta device) for a table and an input side."""
    from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

    with torch.device("meta"):
        return SamModel(
            SamConfig(
                vision_config=SamVisionConfig(image_size=size, **config.get("vision", {})),
                prompt_encoder_config=SamPromptEncoderConfig(image_size=size, **config.get("prompt", {})),
                mask_decoder_config=SamMaskDecoderConfig(**config.get("decoder", {})),
            )
        )


def build_parts(state_dict: Mapping[str, Tensor], config: Mapping[str, Any], size: int) -> tuple[SamImageEncoder, PromptEncoder, SamMaskDecoder]:
    """Return image encoder, prompt encoder and mask decoder with the given weights.

    The network is built at the side that the weights were trained at, which their position table tells, and then used at `size`.

    Raises:
        StateDictError: If names or shapes do not fit the network.
        ShapeError: If `size` is not a multiple of 16.
    """
    if size % PATCH:
        raise ShapeError(f"expected a side that is a multiple of {PATCH}, got {size}")
    table = state_dict.get("vision_encoder.pos_embed")
    model = build_model(config, size if table is None else table.shape[1] * PATCH)
    # One tensor under two names in the network; files hold it under one or both.
    shared = {name: state_dict[other] for name, other in (FREQUENCIES, FREQUENCIES[::-1]) if other in state_dict}
    load_strict(model, {**shared, **state_dict})
    return SamImageEncoder(model.vision_encoder), *_prompt_parts(model, size)


def build_prompt_parts(state_dict: Mapping[str, Tensor] | None, size: int, config: Mapping[str, Any] | None = None) -> tuple[PromptEncoder, SamMaskDecoder]:
    """Return prompt encoder and mask decoder alone, for another image encoder.

    Args:
        state_dict: Of transformers' `SamModel`, its image encoder left out; None leaves the parts on the meta device, to be loaded.
        size: Side S of the model frame.
        config: See `build_parts`; the sizes of all published decoders by default.

    Raises:
        StateDictError: If names or shapes do not fit.
        ShapeError: If `size` is not a multiple of 16.
    """
    if size % PATCH:
        raise ShapeError(f"expected a side that is a multiple of {PATCH}, got {size}")
    model = build_model(config or {}, size)
    del model.vision_encoder
    if state_dict is not None:
        shared = {name: state_dict[other] for name, other in (FREQUENCIES, FREQUENCIES[::-1]) if other in state_dict}
        load_strict(model, {**shared, **state_dict})
    return _prompt_parts(model, size)


def _prompt_parts(model: Any, size: int) -> tuple[PromptEncoder, SamMaskDecoder]:
    prompt = model.prompt_encoder
    gaussian = model.shared_image_embedding.positional_embedding.detach()
    prompt_encoder = PromptEncoder(
        gaussian,
        torch.cat([embed.weight.detach() for embed in prompt.point_embed]),
        prompt.not_a_point_embed.weight.detach(),
        prompt.no_mask_embed.weight.detach(),
        prompt.mask_embed,
        size,
        pads_beside_box=False,
    )
    return prompt_encoder, SamMaskDecoder(model.mask_decoder, gaussian)
