"""fretsaw-hr: SAM 2's image encoder with HRSAM's parts, untrained over a model of the catalogue, or as a file's change over one.

Everything behind the encoder is that model's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fretsaw.catalog.entries import Network, OtherModels, Parts
from fretsaw.catalog.first_cut import with_first_cut
from fretsaw.errors import ModelError, ShapeError
from fretsaw.weights import fitting, load_state_dict, read_metadata
from fretsaw.weights.metadata import stated, stated_side

SIDE = 2048
"""Of the untrained model's input where nobody asks for another: up to 1024 pixels it answers as SAM 2 does."""


def assemble_high_resolution(networks: Mapping[str, Network], size: int | None, others: OtherModels) -> Parts:
    """Build SAM 2 with windows and an anchor map in place of global attention, untrained; its sessions zoom in. There is no scan, which does nothing untrained.

    Args:
        networks: "sam": a SAM 2, from the catalogue or a file.
        size: Side of the input in pixels, a multiple of 16; None for `SIDE`.
        others: The catalogue's other models.

    Raises:
        ShapeError: If the side is no multiple of 16.
        ModelError: If the network is no SAM 2.
        WeightsError: If its weights are damaged.
    """
    from fretsaw.methods.fretsaw_hr import HighResolutionParts, build_encoder

    side = checked(size or SIDE)
    base: Any = others.of_network(networks["sam"], whole(side)).clicks
    require_sam2(base, f"a SAM 2 in the place of SAM, got {networks['sam'].name}")
    encoder = build_encoder(base.image_encoder, HighResolutionParts(state_size=0), {})
    return with_side(base, encoder, side, hashlib.sha256(f"fretsaw-hr {networks['sam'].checksum}".encode()).hexdigest())


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
    from fretsaw.methods.fretsaw_hr import build_encoder, stated_parts
    from fretsaw.weights.files import sha256_of

    metadata = read_metadata(path)
    name, text = stated(path, metadata, "the encoder's", "base", "fretsaw_hr")
    side, parts = checked(size or stated_side(path, metadata)), stated_parts(text)
    stored = load_state_dict(path)  # a damaged file is refused before anything is fetched for it
    base: Any = others.underneath(path, name, whole(side)).clicks
    require_sam2(base, f"{path} to stand on a SAM 2, got {name}")
    with fitting(path, "what fretsaw train fretsaw_hr wrote"):
        encoder = build_encoder(base.image_encoder, parts, stored)
    return with_side(base, encoder, side, checksum or sha256_of(path))


def checked(side: int) -> int:
    """Return a side that the encoder can have.

    Raises:
        ShapeError: If it is none.
    """
    from fretsaw.methods.fretsaw_hr import STRIDE

    if side % STRIDE:
        raise ShapeError(f"expected a side that is a multiple of {STRIDE}, got {side}")
    return side


def whole(side: int) -> int:
    """Return the next side that SAM 2 itself can have."""
    from fretsaw.methods.fretsaw_hr import WHOLE_STRIDE

    return side + -side % WHOLE_STRIDE


def require_sam2(base: Any, wanted: str) -> None:
    """Refuse a model whose image encoder is not SAM 2's; the message says what was expected and what came."""
    from fretsaw.backbones.sam2 import Sam2ImageEncoder

    if not isinstance(base.image_encoder, Sam2ImageEncoder):
        raise ModelError(f"expected {wanted}")


def with_side(base: Any, encoder: Any, side: int, checksum: str) -> Parts:
    """Return the parts of a model with another encoder and side and everything else of `base`, and the training-free automatic cut."""
    from fretsaw.frames import Preprocessing

    plain = base.preprocessing
    clicks = base.with_encoder(encoder.requires_grad_(False), Preprocessing(plain.frame, side, plain.mean, plain.std), checksum).eval()
    return replace(with_first_cut(clicks), zooms=True)  # no published model behaves like this one, so zoom is on by default
