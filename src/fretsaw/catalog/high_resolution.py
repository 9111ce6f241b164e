"""fretsaw-hr: SAM 2's image encoder with HRSAM's parts, as its change over a published one; everything behind the encoder is that model's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from fretsaw.catalog.entries import OtherModels, Parts
from fretsaw.catalog.first_cut import with_first_cut
from fretsaw.errors import ModelError, ShapeError
from fretsaw.weights import fitting, load_state_dict, read_metadata
from fretsaw.weights.metadata import stated, stated_side


def build_high_resolution(path: Path, size: int | None, checksum: str, others: OtherModels) -> Parts:
    """Build what `fretsaw train fretsaw_hr` made, with the training-free automatic cut; its sessions zoom in.

    Args:
        path: `model.safetensors` of such a run.
        size: Side of the input in pixels, a multiple of 16; None for the side that the file states.
        checksum: Names the model; "" takes the file's own.
        others: The catalogue's other models.

    Raises:
        ShapeError: If the side is no multiple of 16.
        ModelError: If the file does not say what it stands on, or that is no SAM 2.
        WeightsError: If the file is damaged or holds another network, or the weights underneath are missing and cannot be fetched.
    """
    from fretsaw.backbones.sam2 import Sam2ImageEncoder
    from fretsaw.frames import Preprocessing
    from fretsaw.methods.fretsaw_hr import STRIDE, WHOLE_STRIDE, build_encoder, stated_parts
    from fretsaw.weights.files import sha256_of

    metadata = read_metadata(path)
    name, text = stated(path, metadata, "the encoder's", "base", "fretsaw_hr")
    side, parts = size or stated_side(path, metadata), stated_parts(text)
    if side % STRIDE:
        raise ShapeError(f"expected a side that is a multiple of {STRIDE}, got {side}")
    stored = load_state_dict(path)  # a damaged file is refused before anything is fetched for it
    base: Any = others.underneath(path, name, side + -side % WHOLE_STRIDE).clicks
    if not isinstance(base.image_encoder, Sam2ImageEncoder):
        raise ModelError(f"expected {path} to stand on a SAM 2, got {name}")
    with fitting(path, "what fretsaw train fretsaw_hr wrote"):
        encoder = build_encoder(base.image_encoder, parts, stored)
    plain = base.preprocessing
    preprocessing = Preprocessing(plain.frame, side, plain.mean, plain.std)
    clicks = base.with_encoder(encoder.requires_grad_(False), preprocessing, checksum or sha256_of(path)).eval()
    return replace(with_first_cut(clicks), zooms=True)  # no published model behaves like this one, so zoom is on by default
