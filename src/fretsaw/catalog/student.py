"""Trained files of the recipe hrsam_lite: a small image encoder before the prompt encoder and the mask decoder of its teacher, which the metadata names."""

from __future__ import annotations

from pathlib import Path

from fretsaw.catalog.entries import OtherModels, Parts
from fretsaw.catalog.first_cut import with_first_cut
from fretsaw.errors import ModelError, shown
from fretsaw.weights import fitting, load_state_dict, load_strictly, read_metadata
from fretsaw.weights.metadata import stated, stated_side
from fretsaw.weights.states import is_file


def build_student(path: Path, size: int | None, checksum: str, others: OtherModels) -> Parts:
    """Build the student whose encoder lies in a file; everything behind the encoder is its teacher's.

    Args:
        path: `student.safetensors`, as `fretsaw train hrsam_lite` writes it.
        size: Side of the input in pixels, a multiple of 32; None for the side of training.
        checksum: Names the student; "" takes the file's own.
        others: The catalogue's other models.

    Raises:
        ModelError: If the file does not say how it was trained, or its teacher is neither in the catalogue nor a file here, or takes no clicks.
        WeightsError: If the file is damaged or holds another network, or the teacher's weights are missing and cannot be fetched.
    """
    from fretsaw.frames import Preprocessing
    from fretsaw.methods.hrsam_lite import HrsamLiteEncoder
    from fretsaw.weights.files import sha256_of

    metadata = read_metadata(path)
    teacher, _ = stated(path, metadata, "the student's", "base", "size")
    side = size or stated_side(path, metadata)
    if not others.has(teacher) and not is_file(Path(teacher)):
        raise ModelError(
            f"expected the teacher of {path} in the catalogue or as a file here, got {shown(teacher)}; "
            "--set stated=NAME at the training gives a teacher's file its name in the catalogue"
        )
    encoder = HrsamLiteEncoder()
    with fitting(path, "what fretsaw train hrsam_lite wrote"):
        load_strictly(encoder, load_state_dict(path))
    base = others.underneath(path, teacher, side).clicks
    assert base is not None  # `underneath` saw to it
    plain = base.preprocessing
    return with_first_cut(
        base.with_encoder(encoder.requires_grad_(False).eval(), Preprocessing(plain.frame, side, plain.mean, plain.std), checksum or sha256_of(path)).eval()
    )
