"""Parameter names of CLIP's original checkpoints (OpenAI, OpenCLIP) -> those of transformers' `CLIPModel`.

Two things differ beyond names: the originals keep query, key and value in one matrix, and their two projections the other way round (features x width).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fretsaw.errors import StateDictError

IGNORED = frozenset({"input_resolution", "context_length", "vocab_size", "attn_mask", "visual.input_resolution"})
"""Names that copies of the originals hold beside the parameters."""

TOP = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
"""Names outside the transformer blocks."""

PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
"""Matrices (features, width) in the originals, (width, features) here."""

TOWERS = {"visual.transformer.resblocks.": "vision_model.encoder.layers.", "transformer.resblocks.": "text_model.encoder.layers."}

BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


def is_original(state: Mapping[str, object]) -> bool:
    """Whether the names are those of an original checkpoint rather than transformers'."""
    return "visual.class_embedding" in state


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an original checkpoint's parameters; unknown names are refused.

    Args:
        state: {name: tensor}; the names in `IGNORED` may be there.

    Raises:
        StateDictError: If a name is unknown.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        if name in IGNORED:
            continue
        if name in TOP:
            renamed[TOP[name]] = value
        elif name in PROJECTIONS:
            renamed[PROJECTIONS[name]] = value.T.contiguous()
        else:
            renamed |= _block(name, value)
    return renamed


def _block(name: str, value: Tensor) -> dict[str, Tensor]:
    tower = next((prefix for prefix in TOWERS if name.startswith(prefix)), None)
    if tower is None:
        raise StateDictError(f"expected the parameter names of an original CLIP checkpoint, got {name!r}")
    number, _, rest = name.removeprefix(tower).partition(".")
    target = f"{TOWERS[tower]}{number}."
    if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
        parts = zip(("q_proj", "k_proj", "v_proj"), value.chunk(3), strict=True)
        return {f"{target}self_attn.{part}.{rest.rpartition('_')[2]}": chunk.contiguous() for part, chunk in parts}
    module, _, parameter = rest.rpartition(".")
    if module not in BLOCK:
        raise StateDictError(f"expected the parameter names of an original CLIP checkpoint, got {name!r}")
    return {f"{target}{BLOCK[module]}.{parameter}": value}
