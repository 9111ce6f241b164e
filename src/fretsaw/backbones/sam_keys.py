"""Parameter names of SAM's original checkpoints (`sam_vit_b_01ec64.pth` and its sisters) <-> those of transformers' `SamModel`.

The map is one dictionary, written out from SAM's structure for a given depth of the image encoder, so that a file with a name too many or too few is
refused instead of being loaded in part.

Three things to know about the two naming schemes:

- a three-layer perceptron is `layers.0`, `layers.1`, `layers.2` in the original and `proj_in`, `layers.0`, `proj_out` in transformers;
- `Sequential` positions (`neck.0`, `mask_downscaling.3`, `output_upscaling.1`) have proper names in transformers;
- transformers keeps the table of random Fourier frequencies under two names that share one tensor, the original under one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from fretsaw.errors import StateDictError

TensorLike = TypeVar("TensorLike")

DECODER_DEPTH = 2
MASK_TOKENS = 4
POINT_KINDS = 4

IGNORED = frozenset({"pixel_mean", "pixel_std"})
"""Names that some copies of the checkpoints hold and no network needs: how pixels are normalised is part of `Preprocessing`."""

FREQUENCIES = "prompt_encoder.shared_embedding.positional_embedding"
SHARED_FREQUENCIES = "shared_image_embedding.positional_embedding"


def key_map(depth: int) -> dict[str, str]:
    """Return original name -> transformers' name for every parameter of a SAM whose image encoder has `depth` blocks."""
    return {**dict(_image_encoder(depth)), **dict(_prompt_encoder()), **dict(_mask_decoder())}


def is_original(state_dict: Mapping[str, object]) -> bool:
    """Whether the names are those of an original checkpoint rather than transformers'."""
    return any(name.startswith("image_encoder.") for name in state_dict)


def from_original(state_dict: Mapping[str, TensorLike]) -> dict[str, TensorLike]:
    """Rename the parameters of an original checkpoint to transformers' names.

    Args:
        state_dict: Of an original SAM checkpoint, any size of encoder; the names in `IGNORED` may be there.

    Returns:
        The same tensors under the names of `SamModel.state_dict()`, both names of the Fourier frequencies included.

    Raises:
        StateDictError: If a name is missing or unknown.
    """
    given = {name: tensor for name, tensor in state_dict.items() if name not in IGNORED}
    names = key_map(_depth(given, "image_encoder.blocks."))
    _check_names(given, names, "an original SAM checkpoint")
    renamed = {names[name]: tensor for name, tensor in given.items()}
    renamed[SHARED_FREQUENCIES] = renamed[FREQUENCIES]
    return renamed


def from_hrsam(state_dict: Mapping[str, TensorLike]) -> dict[str, TensorLike]:
    """Return prompt encoder and mask decoder of a published HRSAM checkpoint (its `neck.` and `decode_head.`) under transformers' names.

    Raises:
        StateDictError: If a name is missing or unknown.
    """
    given = {_original_of_hrsam(name): tensor for name, tensor in state_dict.items() if name.startswith(("neck.", "decode_head."))}
    names = {**dict(_prompt_encoder()), **dict(_mask_decoder())}
    _check_names(given, names, "SAM's prompt encoder and mask decoder")
    renamed = {names[name]: tensor for name, tensor in given.items()}
    renamed[SHARED_FREQUENCIES] = renamed[FREQUENCIES]
    return renamed


def _original_of_hrsam(name: str) -> str:
    part, _, rest = name.partition(".")
    rest = rest.replace("pos_embed_layer.", "pe_layer.").replace("point_embeds.", "point_embeddings.")
    return f"{'prompt_encoder' if part == 'neck' else 'mask_decoder'}.{rest}"


def to_original(state_dict: Mapping[str, TensorLike]) -> dict[str, TensorLike]:
    """Undo `from_original`.

    Raises:
        StateDictError: If a name is missing or unknown.
    """
    given = {name: tensor for name, tensor in state_dict.items() if name != SHARED_FREQUENCIES}
    names = {ours: original for original, ours in key_map(_depth(given, "vision_encoder.layers.")).items()}
    _check_names(given, names, "transformers' SamModel")
    return {names[name]: tensor for name, tensor in given.items()}


def _depth(state_dict: Mapping[str, object], prefix: str) -> int:
    """Return how many blocks the image encoder has: counted, since a name may hold a number of any size."""
    return len({name[len(prefix) :].split(".", 1)[0] for name in state_dict if name.startswith(prefix)})


def _check_names(given: Mapping[str, object], expected: Mapping[str, object], kind: str) -> None:
    missing, unknown = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    if missing or unknown:
        parts = [
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in (("missing", missing), ("unknown", unknown))
            if names
        ]
        raise StateDictError(f"expected the {len(expected)} parameter names of {kind}, got {len(given)}: {'; '.join(parts)}")


def _both(original: str, ours: str, parameters: tuple[str, ...] = ("weight", "bias")) -> Iterator[tuple[str, str]]:
    for parameter in parameters:
        yield f"{original}.{parameter}", f"{ours}.{parameter}"


def _perceptron(original: str, ours: str) -> Iterator[tuple[str, str]]:
    """Three linear layers: the first and last have names of their own in transformers, and the middle one starts to count anew."""
    for number, name in enumerate(("proj_in", "layers.0", "proj_out")):
        yield from _both(f"{original}.layers.{number}", f"{ours}.{name}")


def _image_encoder(depth: int) -> Iterator[tuple[str, str]]:
    yield "image_encoder.pos_embed", "vision_encoder.pos_embed"
    yield from _both("image_encoder.patch_embed.proj", "vision_encoder.patch_embed.projection")
    for block in range(depth):
        original, ours = f"image_encoder.blocks.{block}", f"vision_encoder.layers.{block}"
        yield from _both(f"{original}.norm1", f"{ours}.layer_norm1")
        yield from _both(f"{original}.attn", f"{ours}.attn", ("rel_pos_h", "rel_pos_w"))
        yield from _both(f"{original}.attn.qkv", f"{ours}.attn.qkv")
        yield from _both(f"{original}.attn.proj", f"{ours}.attn.proj")
        yield from _both(f"{original}.norm2", f"{ours}.layer_norm2")
        yield from _both(f"{original}.mlp.lin1", f"{ours}.mlp.lin1")
        yield from _both(f"{original}.mlp.lin2", f"{ours}.mlp.lin2")
    for position, name in enumerate(("conv1", "layer_norm1", "conv2", "layer_norm2")):
        parameters = ("weight",) if name.startswith("conv") else ("weight", "bias")
        yield from _both(f"image_encoder.neck.{position}", f"vision_encoder.neck.{name}", parameters)


def _prompt_encoder() -> Iterator[tuple[str, str]]:
    yield "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", FREQUENCIES
    for kind in range(POINT_KINDS):
        yield f"prompt_encoder.point_embeddings.{kind}.weight", f"prompt_encoder.point_embed.{kind}.weight"
    for name in ("not_a_point_embed.weight", "no_mask_embed.weight"):
        yield f"prompt_encoder.{name}", f"prompt_encoder.{name}"
    # Positions 2 and 5 are activations.
    for position, name in ((0, "conv1"), (1, "layer_norm1"), (3, "conv2"), (4, "layer_norm2"), (6, "conv3")):
        yield from _both(f"prompt_encoder.mask_downscaling.{position}", f"prompt_encoder.mask_embed.{name}")


def _mask_decoder() -> Iterator[tuple[str, str]]:
    for name in ("iou_token.weight", "mask_tokens.weight"):
        yield f"mask_decoder.{name}", f"mask_decoder.{name}"
    transformer = "mask_decoder.transformer"
    attentions = [
        f"layers.{layer}.{name}" for layer in range(DECODER_DEPTH) for name in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")
    ]
    for attention in (*attentions, "final_attn_token_to_image"):
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _both(f"{transformer}.{attention}.{projection}", f"{transformer}.{attention}.{projection}")
    for layer in range(DECODER_DEPTH):
        for number in range(1, 5):
            yield from _both(f"{transformer}.layers.{layer}.norm{number}", f"{transformer}.layers.{layer}.layer_norm{number}")
        for name in ("mlp.lin1", "mlp.lin2"):
            yield from _both(f"{transformer}.layers.{layer}.{name}", f"{transformer}.layers.{layer}.{name}")
    yield from _both(f"{transformer}.norm_final_attn", f"{transformer}.layer_norm_final_attn")
    for position, name in ((0, "upscale_conv1"), (1, "upscale_layer_norm"), (3, "upscale_conv2")):
        yield from _both(f"mask_decoder.output_upscaling.{position}", f"mask_decoder.{name}")
    for token in range(MASK_TOKENS):
        yield from _perceptron(f"mask_decoder.output_hypernetworks_mlps.{token}", f"mask_decoder.output_hypernetworks_mlps.{token}")
    yield from _perceptron("mask_decoder.iou_prediction_head", "mask_decoder.iou_prediction_head")
