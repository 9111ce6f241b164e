"""SAM: plain ViT with windows and relative positions, prompt encoder and mask decoder, on transformers' modules and under its parameter names.

Source: Segment Anything (Kirillov et al. 2023), appendix A; ViTDet (Li et al. 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fretsaw.backbones.sam_decoder import MaskDecoder, PromptEncoder, load_strict
from fretsaw.types import ImageEmbedding

VIT_BASE: dict[str, Any] = {"vision": {}}
"""SAM ViT-B, transformers' default. A table holds keyword arguments of transformers' configurations: `vision`, `prompt`, `decoder`."""

VIT_LARGE: dict[str, Any] = {"vision": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "global_attn_indexes": [5, 11, 17, 23]}}
"""SAM ViT-L."""

VIT_HUGE: dict[str, Any] = {"vision": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "global_attn_indexes": [7, 15, 23, 31]}}
"""SAM ViT-H."""


class SamImageEncoder(nn.Module):
    """SAM's ViT on transformers' `SamVisionEncoder`."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> ImageEmbedding:
        """Return `final` (B, C, S/16, S/16)."""
        return ImageEmbedding(self.encoder(pixels).last_hidden_state)


class SamMaskDecoder(MaskDecoder):
    """SAM's decoder."""


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

    Raises:
        StateDictError: If names or shapes do not fit the network.
    """
    model = build_model(config, size)
    load_strict(model, state_dict)
    prompt = model.prompt_encoder
    prompt_encoder = PromptEncoder(
        prompt.shared_embedding.positional_embedding.detach(),
        torch.cat([embed.weight.detach() for embed in prompt.point_embed]),
        prompt.not_a_point_embed.weight.detach(),
        prompt.no_mask_embed.weight.detach(),
        prompt.mask_embed,
        size,
        pads_beside_box=False,
    )
    return SamImageEncoder(model.vision_encoder), prompt_encoder, SamMaskDecoder(model.mask_decoder, model.shared_image_embedding.positional_embedding.detach())
