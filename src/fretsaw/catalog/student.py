"""Trained files of the recipe hrsam_lite: a small image encoder before the prompt encoder and the mask decoder of its teacher, which the metadata names."""

from __future__ import annotations

from pathlib import Path

from fretsaw import catalog
from fretsaw.catalog.entries import Parts
from fretsaw.errors import ModelError
from fretsaw.frames import Preprocessing
from fretsaw.weights import load_state_dict, load_strictly, read_metadata


def build_student(path: Path, size: int | None = None, checksum: str = "") -> Parts:
    """Build the student whose encoder lies in a file; everything behind the encoder is its teacher's.

    Args:
        path: `student.safetensors`, as `fretsaw train hrsam_lite` writes it.
        size: Side of the input in pixels, a multiple of 32; None for the side of training.
        checksum: Names the student; "" takes the file's own.

    Raises:
        ModelError: If the file does not say how it was trained, or its teacher is neither in the catalogue nor a file here, or takes no clicks.
        WeightsError: If the file is damaged or holds another network, or the teacher's weights are missing and cannot be fetched.
    """
    from fretsaw.methods.hrsam_lite import HrsamLiteEncoder
    from fretsaw.weights.files import sha256_of

    metadata = read_metadata(path)
    teacher, side = metadata.get("base"), size or int(metadata.get("size", 0))
    if not teacher or not side:
        raise ModelError(f"expected a student of fretsaw train hrsam_lite, whose metadata names its teacher and its size; got {path} without them")
    if teacher not in catalog.CATALOGUE and not Path(teacher).is_file():
        raise ModelError(
            f"expected the teacher of {path} in the catalogue or as a file here, got {teacher!r}; "
            "--set stated=NAME at the training gives a teacher's file its name in the catalogue"
        )
    base = catalog.build(teacher, size=side).clicks
    if base is None:
        raise ModelError(f"expected a teacher that takes clicks in the metadata of {path}, got {teacher!r}")
    encoder = HrsamLiteEncoder()
    load_strictly(encoder, {name: tensor.float() for name, tensor in load_state_dict(path).items()})
    plain = base.preprocessing
    return catalog.with_first_cut(
        base.with_encoder(encoder.requires_grad_(False).eval(), Preprocessing(plain.frame, side, plain.mean, plain.std), checksum or sha256_of(path)).eval()
    )
