"""SAM 2 and SAM 2.1: Hiera with a feature pyramid, prompt encoder and mask decoder, on transformers' modules and under its parameter names.

Source: SAM 2 (Ravi et al. 2024), section 4 and appendix D; Hiera (Ryali et al. 2023); windowed position tables (Bolya et al. 2023).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw.backbones.sam2_onnx import convert_onnx as convert_onnx
from fretsaw.backbones.sam_decoder import MaskDecoder, PromptEncoder, load_strict
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


class Sam2ImageEncoder(nn.Module):
    """Hiera trunk, feature pyramid and the decoder's two projections of the fine levels.

    Args:
        trunk: transformers' `Sam2HieraDetModel`.
        neck: transformers' `Sam2VisionNeck`.
        fine: The decoder's `conv_s0`.
        middle: The decoder's `conv_s1`.
        no_memory: (C,) the vector that says "no earlier frame"; it is part of every still image's embedding.
    """

    def __init__(self, trunk: Any, neck: Any, fine: nn.Conv2d, middle: nn.Conv2d, no_memory: Tensor) -> None:
        super().__init__()
        self.trunk = trunk
        self.neck = neck
        self.fine = fine
        self.middle = middle
        self.no_memory = nn.Parameter(no_memory)

    def forward(self, pixels: Tensor) -> ImageEmbedding:
        """Return `final` (B, C, S/16, S/16) and `high_res` (B, C/8, S/4, S/4), (B, C/4, S/8, S/8)."""
        stages = [stage.permute(0, 3, 1, 2) for stage in self.trunk(pixels).intermediate_hidden_states]
        # The neck lists its convolutions from the coarsest stage to the finest; only the two coarsest stages are merged.
        coarse, final, middle, fine = (conv(stage) for conv, stage in zip(self.neck.convs, reversed(stages), strict=True))
        final = final + F.interpolate(coarse, scale_factor=2.0, mode="nearest") + self.no_memory[:, None, None]
        return ImageEmbedding(final, (self.fine(fine), self.middle(middle)))


class Sam2MaskDecoder(MaskDecoder):
    """SAM 2's decoder: an object token leads, finer maps are added while upscaling, the predicted IoU passes a sigmoid."""

    def leading_tokens(self) -> list[Tensor]:
        return [self.decoder.obj_score_token.weight]


def build_model(config: Mapping[str, Any], size: int) -> Any:
    """Return transformers' `Sam2Model` without weights (on the meta device) for a table and an input side."""
    from transformers import Sam2Config, Sam2HieraDetConfig, Sam2MaskDecoderConfig, Sam2Model, Sam2PromptEncoderConfig, Sam2VisionConfig

    trunk = Sam2HieraDetConfig(image_size=[size, size], **config.get("trunk", {}))
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


def build_parts(state_dict: Mapping[str, Tensor], config: Mapping[str, Any], size: int) -> tuple[Sam2ImageEncoder, PromptEncoder, Sam2MaskDecoder]:
    """Return image encoder, prompt encoder and mask decoder with the given weights.

    Raises:
        StateDictError: If names or shapes do not fit the network.
    """
    model = build_model(config, size)
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
