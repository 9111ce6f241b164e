"""Tiny random SAM and SAM 2 models, a few hundred kB each, for every test that needs a model but no weights. Deterministic."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor

from fretsaw.backbones import sam, sam2, sam_keys
from fretsaw.frames import Preprocessing, longest_side
from fretsaw.methods.hrsam import build_hrsam
from fretsaw.methods.sam_clicks import SamClicks, build_sam, build_sam2

CHANNELS = 32
"""C, the width of the tiny models' embeddings."""

TINY_SAM2 = {
    "trunk": {
        "hidden_size": 8,
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "global_attention_blocks": [3],
    },
    "neck": {"fpn_hidden_size": CHANNELS},
    "prompt": {"hidden_size": CHANNELS, "mask_input_channels": 8},
    "decoder": {"hidden_size": CHANNELS, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": CHANNELS},
}

TINY_SAM = {
    "vision": {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "output_channels": CHANNELS,
        "num_pos_feats": CHANNELS // 2,
        "global_attn_indexes": [1, 3],
        "window_size": 3,
    },
    "prompt": {"hidden_size": CHANNELS, "mask_input_channels": 8},
    "decoder": {"hidden_size": CHANNELS, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": CHANNELS},
}


def random_weights(model: torch.nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Return a state dict of random numbers for a network on the meta device, of the size that keeps activations near one.

    transformers' own initialisation of SAM (range 1e-10) and its zero tables would make outputs that are zero whatever the code does.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, value in model.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if "positional_embedding" in name:
            weights[name] = noise
        elif value.ndim < 2:
            weights[name] = 0.05 * noise + float("norm" in name and name.endswith("weight"))
        else:
            weights[name] = noise * (len(value) / value.numel()) ** 0.5
    if "shared_image_embedding.positional_embedding" in weights:
        weights["prompt_encoder.shared_embedding.positional_embedding"] = weights["shared_image_embedding.positional_embedding"]
    return weights


def built_once(build: Callable[..., SamClicks]) -> Callable[..., SamClicks]:
    """Copy a model that was built before with the same arguments: building takes six times as long, and tests ask for hundreds."""
    first = cache(build)

    @wraps(build)
    def model(*arguments, **named) -> SamClicks:
        return copy.deepcopy(first(*arguments, **named))

    return model


@built_once
def tiny_sam2(size: int = 128, seed: int = 0) -> SamClicks:
    """Return a SAM 2 with random weights, for inputs of size x size (a multiple of 32)."""
    return build_sam2(random_weights(sam2.build_model(TINY_SAM2, size), seed), TINY_SAM2, size, checksum=f"tiny-sam2-{seed}")


@built_once
def tiny_sam(size: int = 128, seed: int = 0) -> SamClicks:
    """Return a SAM with random weights, for inputs of size x size (a multiple of 16)."""
    return build_sam(random_weights(sam.build_model(TINY_SAM, size), seed), TINY_SAM, size, checksum=f"tiny-sam-{seed}")


def tiny_hrsam(size: int = 128, anchor_size: int | None = None, seed: int = 0) -> SamClicks:
    """Return HRSAM at its smallest, or HRSAM++ with an anchor map, with a decoder of the published size and random weights (18 MB)."""
    model = sam.build_model({}, size)
    del model.vision_encoder
    parts = sam.build_prompt_parts(random_weights(model, seed), size)
    torch.manual_seed(seed)
    return SamClicks(build_hrsam("t", anchor_size), *parts, Preprocessing(longest_side, size), f"tiny-hrsam-{seed}").eval()


TINY_TEACHER = {
    "vision": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_pos_feats": 128, "global_attn_indexes": [1], "window_size": 3}
}
"""A SAM with a small encoder in front of a decoder of the published size."""


@built_once
def tiny_teacher(size: int = 128, seed: int = 0) -> SamClicks:
    """Return a SAM whose embeddings have the published 256 channels, with random weights."""
    return build_sam(random_weights(sam.build_model(TINY_TEACHER, size), seed), TINY_TEACHER, size, checksum=f"tiny-teacher-{seed}")


def published_names(model: SamClicks) -> dict[str, Tensor]:
    """Return the parameters of a `tiny_hrsam` of seed 0 under the names of a published checkpoint: backbone, neck, decode_head."""
    decoder = sam.build_model({}, 128)
    del decoder.vision_encoder
    sam_names = random_weights(decoder, 0)
    originals = {ours: name for name, ours in sam_keys.key_map(0).items()}
    encoder: Any = model.image_encoder
    state = {f"backbone.{name}": value for name, value in encoder.state_dict().items()}
    width = encoder.size.dim // encoder.size.heads // 2
    state["backbone.rope.freqs"] = 10000.0 ** (-torch.arange(0, width, 2) / width)
    for name, value in sam_names.items():
        if name == sam_keys.SHARED_FREQUENCIES:
            continue
        original = originals[name].replace("pe_layer.", "pos_embed_layer.").replace("point_embeddings.", "point_embeds.")
        state[original.replace("prompt_encoder.", "neck.", 1).replace("mask_decoder.", "decode_head.", 1)] = value
    return state
