"""Masked autoencoders (MAE ViT-S/B/L): their encoder's parameters under the names of the published file, whichever program saved them.

Source: Masked Autoencoders Are Scalable Vision Learners (He et al. 2021).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fretsaw.errors import StateDictError
from fretsaw.weights.states import rename

IGNORED = ("cls_token", "mask_token", "decoder_pos_embed", "decoder_embed.", "decoder_blocks.", "decoder_norm.", "decoder_pred.", "norm.", "decoder.")
"""What an encoder does not need."""

TRANSFORMERS = {
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.cls_token": "cls_token",
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "layernorm.": "norm.",
}
LAYER = {
    "attention.q_proj.": "attn.0.",
    "attention.k_proj.": "attn.1.",
    "attention.v_proj.": "attn.2.",
    "attention.o_proj.": "attn.proj.",
    "attention.attention.query.": "attn.0.",
    "attention.attention.key.": "attn.1.",
    "attention.attention.value.": "attn.2.",
    "attention.output.dense.": "attn.proj.",
    "layernorm_before.": "norm1.",
    "layernorm_after.": "norm2.",
    "mlp.": "mlp.",
    "intermediate.dense.": "mlp.fc1.",
    "output.dense.": "mlp.fc2.",
}


def mae_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a masked autoencoder's encoder under the published file's names; queries, keys and values are joined.

    Raises:
        StateDictError: If a layer lacks one of the three.
    """
    layers = {
        f"{prefix}{index}.{theirs}": f"blocks.{index}.{ours}"
        for prefix in ("layers.", "encoder.layer.")
        for index in range(64)
        for theirs, ours in LAYER.items()
    }
    renamed = rename(rename(weights, {"vit.": ""}), {**TRANSFORMERS, **layers})
    renamed = rename(renamed, {}, IGNORED)
    for name in [name for name in renamed if ".attn.0." in name]:
        parts = [name.replace(".attn.0.", f".attn.{part}.") for part in range(3)]
        if any(part not in renamed for part in parts):
            raise StateDictError(f"expected query, key and value of {name}, got only {[part for part in parts if part in renamed]}")
        renamed[name.replace(".attn.0.", ".attn.qkv.")] = torch.cat([renamed.pop(part) for part in parts])
    return renamed
