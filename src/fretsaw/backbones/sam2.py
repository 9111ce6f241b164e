"""SAM 2 and SAM 2.1: Hiera with a feature pyramid, prompt encoder and mask decoder, on transformers' modules and under its parameter names.

Source: SAM 2 (Ravi et al. 2024), section 4 and appendix D; Hiera (Ryali et al. 2023); windowed position tables (Bolya et al. 2023).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw.backbones.sam2_onnx import convert_onnx as convert_onnx
from fretsaw.backbones.sam_decoder import MaskDecoder, PromptEncoder, load_strict
from fretsaw.errors import ShapeError
from fretsaw.layers.attention_taps import AttentionLayer
from fretsaw.types import ImageEmbedding

HIERA_TINY: dict[str, Any] = {"trunk": {}}
"""SAM 2 and SAM 2.1 Hiera-T, transformers' default. A table holds keyword arguments of transformers' configurations: `trunk`, `neck`, `prompt`, `decoder`."""

HIERA_SMALL: dict[str, Any] = {"trunk": {"blocks_per_stage": [1, 2, 11, 2], "global_attention_blocks": [7, 10, 13]}}
"""SAM 2 and SAM 2.1 Hiera-S."""

HIERA_BASE_PLUS: dict[str, Any] = {
    "trunk": {
        "hidden_size": 112,
        "num_attention_heads": 2,
        "blocks_per_stage": [2, 3, 16, 3],
        "embed_dim_per_stage": [112, 224, 448, 896],
        "num_attention_heads_per_stage": [2, 4, 8, 16],
        "global_attention_blocks": [12, 16, 20],
        "window_positional_embedding_background_size": [14, 14],
    }
}
"""SAM 2 and SAM 2.1 Hiera-B+."""

HIERA_LARGE: dict[str, Any] = {
    "trunk": {
        "hidden_size": 144,
        "num_attention_heads": 2,
        "blocks_per_stage": [2, 6, 36, 4],
        "embed_dim_per_stage": [144, 288, 576, 1152],
        "num_attention_heads_per_stage": [2, 4, 8, 16],
        "window_size_per_stage": [8, 4, 16, 8],
        "global_attention_blocks": [23, 33, 43],
    }
}
"""SAM 2 and SAM 2.1 Hiera-L."""

HIERA_SHORT: dict[str, Any] = {
    "trunk": {
        "blocks_per_stage": [1, 2, 7],
        "embed_dim_per_stage": [96, 192, 384],
        "num_attention_heads_per_stage": [1, 2, 4],
        "window_size_per_stage": [8, 4, 14],
        "num_query_pool_stages": 2,
    }
}
"""Hiera-T without its fourth stage, the trunk of `fretsaw-tiny`; the file says how wide the feed-forward layers are. Not a published network."""

WINDOW_TABLE = 32
"""Model pixels that the trunk's repeated position table covers, along one axis."""

IGNORED = (
    r"mask_decoder\.pred_obj_score_head\.",
    r"memory_",
    r"mask_downsample",
    r"object_pointer_proj",
    r"temporal_positional_encoding_projection_layer",
    r"no_memory_positional_encoding",
    r"no_object_pointer",
    r"occlusion_spatial_embedding_parameter",
)
"""Names a file may hold and this network does not use: the video model's memory, and the head that says whether an object is in the frame."""


class HieraAttention(nn.Module):
    """Attention of a Hiera block, with queries pooled at the start of a stage; takes the place of transformers' `Sam2MultiScaleAttention`.

    transformers' own forward also computes attention weights between heads that nothing uses, which costs a twentieth of the encoder's time.

    Args:
        attention: transformers' module, whose projections are taken over.

    Source: Hiera (Ryali et al. 2023), figure 3; SAM 2 (Ravi et al. 2024), appendix D.1.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.qkv = attention.qkv
        self.proj = attention.proj
        self.heads = attention.num_attention_heads
        self.query_stride = attention.query_stride

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        """Map windows (B, h, w, C) to (B, h', w', C'), h' and w' being h and w over the query stride."""
        batch, height, width, _channels = hidden_states.shape
        query, key, value = self.qkv(hidden_states).reshape(batch, height * width, 3, self.heads, -1).unbind(2)
        if self.query_stride:
            grid = query.reshape(batch, height, width, -1).permute(0, 3, 1, 2)
            pooled = F.max_pool2d(grid, self.query_stride, self.query_stride).permute(0, 2, 3, 1)
            height, width = pooled.shape[1:3]
            query = pooled.reshape(batch, height * width, self.heads, -1)
        mixed = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        return self.proj(mixed.transpose(1, 2).reshape(batch, height, width, -1))

    def query_key(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """Return query and key (B, heads, h w, C / heads) whose scalar products are the logits, for a block that does not pool its queries."""
        query, key, _value = self.qkv(hidden_states).flatten(1, 2).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return query * query.shape[-1] ** -0.5, key


class Sam2ImageEncoder(nn.Module):
    """Hiera trunk, feature pyramid and the decoder's two projections of the fine levels.

    Args:
        trunk: transformers' `Sam2HieraDetModel`; the attention of its blocks is replaced by `HieraAttention`.
        neck: transformers' `Sam2VisionNeck`.
        fine: The decoder's `conv_s0`.
        middle: The decoder's `conv_s1`.
        no_memory: (C,) the vector that says "no earlier frame"; it is part of every still image's embedding.

    Source: SAM 2 (Ravi et al. 2024), section 4, "Image encoder", and appendix D.1.
    """

    def __init__(self, trunk: Any, neck: Any, fine: nn.Conv2d, middle: nn.Conv2d, no_memory: Tensor) -> None:
        super().__init__()
        for block in trunk.blocks:
            block.attn = HieraAttention(block.attn)
        self.trunk = trunk
        self.neck = neck
        self.fine = fine
        self.middle = middle
        self.no_memory = nn.Parameter(no_memory)

    @property
    def available_taps(self) -> tuple[str, ...]:
        """The trunk's stages, "stage1" (B, C, S/4, S/4) to "stage4"; 48 MB at 1024 that only some methods read."""
        return tuple(f"stage{i}" for i in range(1, len(self.trunk.stage_ends) + 1))

    def forward(self, pixels: Tensor, taps: Sequence[str] = ()) -> ImageEmbedding:
        """Encode pixels (B, 3, S, S).

        Args:
            pixels: Normalised.
            taps: Of `available_taps`.

        Returns:
            `final` (B, C, S/16, S/16) and `high_res` (B, C/8, S/4, S/4), (B, C/4, S/8, S/8). Their memory runs channels last, as the decoder reads them.
        """
        stages = self.trunk(pixels).intermediate_hidden_states
        kept = {name: stage.permute(0, 3, 1, 2) for name, stage in zip(self.available_taps, stages, strict=True) if name in taps}
        levels = join_levels(stages, self.neck, self.fine, self.middle, self.no_memory)
        final, fine, middle = (level.permute(0, 3, 1, 2) for level in levels)
        return ImageEmbedding(final, (fine, middle), kept)

    def attention_layers(self) -> tuple[AttentionLayer, ...]:
        """Return how the attention of each block is read; see `fretsaw.layers.attention_taps`. Only the blocks of the third stage work at S/16."""
        return tuple(
            AttentionLayer(block, block.layer_norm1, block.attn.qkv, block.attn.heads, None if block.window_size else block.attn.query_key)
            for block in self.trunk.blocks
        )

    def mixed_layers(self) -> tuple[int, ...]:
        """Return the blocks that are read by default: those with global attention; Hiera-T: 5, 7, 9."""
        return tuple(number for number, block in enumerate(self.trunk.blocks) if not block.window_size)


def join_final(coarse: Sequence[Tensor], neck: Any, no_memory: Tensor) -> Tensor:
    """Return the embedding at S/16, (B, h, w, C), from the trunk's third stage and those behind it, (B, h, w, C') each."""
    # The neck lists its convolutions from the coarsest stage to the finest; only a fourth stage is merged, into the third.
    *to_coarse, to_final, _middle, _fine = neck.convs
    final = _project(coarse[0], to_final.weight, to_final.bias) + no_memory
    for project, stage in zip(to_coarse, coarse[1:], strict=True):
        final = final + _project(stage, project.weight, project.bias).repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    return final


def join_levels(stages: Sequence[Tensor], neck: Any, fine: nn.Conv2d, middle: nn.Conv2d, no_memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the embedding and the decoder's two finer maps, (B, h, w, C) at S/16, S/4 and S/8, from all stages of the trunk."""
    *_, to_middle, to_fine = neck.convs
    maps = _project(stages[0], *_chain(to_fine, fine)), _project(stages[1], *_chain(to_middle, middle))
    return join_final(stages[2:], neck, no_memory), *maps


def _project(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply a 1 x 1 convolution to (B, h, w, C)."""
    return F.linear(tokens, weight.flatten(1), bias)


def _chain(first: nn.Conv2d, second: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias of two 1 x 1 convolutions in a row, made one: the 256 channels between them at S/4 would cost eight times the product."""
    outer, inner = second.weight.flatten(1).float(), first.weight.flatten(1).float()
    assert first.bias is not None  # both published convolutions have one
    assert second.bias is not None
    bias = outer @ first.bias.float() + second.bias.float()
    return (outer @ inner).to(first.weight.dtype), bias.to(first.weight.dtype)


class Sam2MaskDecoder(MaskDecoder):
    """SAM 2's decoder: an object token leads, finer maps are added while upscaling, the predicted IoU passes a sigmoid, logits stay within +-32.

    Source: SAM 2 (Ravi et al. 2024), section 4, "Prompt encoder and mask decoder"; the limit is that of its image predictor.
    """

    LIMIT = 32.0

    def _masks(self, image: Tensor, high_res: tuple[Tensor, ...], weights: Tensor) -> Tensor:
        return super()._masks(image, high_res, weights).clamp(-self.LIMIT, self.LIMIT)

    def leading_tokens(self) -> list[Tensor]:
        return [self.decoder.obj_score_token.weight]


def build_model(config: Mapping[str, Any], size: int) -> Any:
    """Return transformers' `Sam2Model` without weights (on the meta device) for a table and an input side."""
    from transformers import Sam2Config, Sam2HieraDetConfig, Sam2MaskDecoderConfig, Sam2Model, Sam2PromptEncoderConfig, Sam2VisionConfig

    trunk = Sam2HieraDetConfig(image_size=[size, size], **config.get("trunk", {}))
    assert trunk.embed_dim_per_stage is not None  # the configuration fills in its defaults
    levels = [[size // stride, size // stride] for stride in (4, 8, 16)]
    vision = Sam2VisionConfig(
        backbone_config=trunk, backbone_channel_list=trunk.embed_dim_per_stage[::-1], backbone_feature_sizes=levels, **config.get("neck", {})
    )
    with torch.device("meta"):
        model = Sam2Model(
            Sam2Config(
                vision_config=vision,
                prompt_encoder_config=Sam2PromptEncoderConfig(image_size=size, **config.get("prompt", {})),
                mask_decoder_config=Sam2MaskDecoderConfig(**config.get("decoder", {})),
            )
        )
    del model.mask_decoder.pred_obj_score_head
    return model


def _narrow(trunk: Any, state_dict: Mapping[str, Tensor]) -> None:
    """Give the trunk's feed-forward layers as many hidden units as the weights have: `fretsaw-tiny` has fewer than Hiera's four times the channels."""
    for number, block in enumerate(trunk.blocks):
        weight = state_dict.get(f"vision_encoder.backbone.blocks.{number}.mlp.proj_in.weight")
        if weight is not None and weight.shape[0] < block.mlp.proj_in.out_features:
            with torch.device("meta"):
                block.mlp.proj_in, block.mlp.proj_out = nn.Linear(block.dim_out, weight.shape[0]), nn.Linear(weight.shape[0], block.dim_out)


def build_parts(state_dict: Mapping[str, Tensor], config: Mapping[str, Any], size: int) -> tuple[Sam2ImageEncoder, PromptEncoder, Sam2MaskDecoder]:
    """Return image encoder, prompt encoder and mask decoder with the given weights.

    Raises:
        StateDictError: If names or shapes do not fit the network.
        ShapeError: If `size` is not a multiple of 32.
    """
    if size % WINDOW_TABLE:
        raise ShapeError(f"expected a side that is a multiple of {WINDOW_TABLE}, got {size}")
    model = build_model(config, size)
    _narrow(model.vision_encoder.backbone, state_dict)
    weights = {name: value for name, value in state_dict.items() if not any(re.match(pattern, name) for pattern in IGNORED)}
    load_strict(model, weights)
    decoder, prompt = model.mask_decoder, model.prompt_encoder
    gaussian = model.shared_image_embedding.positional_embedding
    encoder = Sam2ImageEncoder(
        model.vision_encoder.backbone, model.vision_encoder.neck, decoder.conv_s0, decoder.conv_s1, model.no_memory_embedding.detach()[0, 0]
    )
    del decoder.conv_s0, decoder.conv_s1
    prompt_encoder = PromptEncoder(
        prompt.shared_embedding.positional_embedding,
        prompt.point_embed.weight.detach(),
        prompt.not_a_point_embed.weight.detach(),
        prompt.no_mask_embed.weight.detach(),
        prompt.mask_embed,
        size,
        pads_beside_box=True,
    )
    return encoder, prompt_encoder, Sam2MaskDecoder(decoder, gaussian)
