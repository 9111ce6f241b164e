"""GrC-SAM's trained files: what they hold stands on another model of the catalogue, which their metadata names."""

from __future__ import annotations

from pathlib import Path

from fretsaw.catalog.entries import OtherModels, Parts
from fretsaw.weights import fitting, load_state_dict, read_metadata

EXPECTED = "what fretsaw train grc_sam wrote"
"""In such a file, for messages."""


def build_grc(path: Path, size: int | None, checksum: str, others: OtherModels) -> Parts:
    """Build the model whose trained part lies in a file; the model that the file stands on answers the clicks.

    Args:
        path: Written by `fretsaw train grc_sam`.
        size: Side of the input in pixels; None for the side of training.
        checksum: Names the trained part; "" takes the file's own.
        others: The catalogue's other models.

    Raises:
        ModelError: If the file lacks its description, or stands on a model that takes no clicks.
        WeightsError: If the file is damaged, or the weights of the model underneath are missing and cannot be fetched.
    """
    from fretsaw.methods.grc_sam.build import Description, assemble
    from fretsaw.weights.files import sha256_of

    with fitting(path, EXPECTED):
        about = Description.from_metadata(read_metadata(path))
        state = load_state_dict(path)  # a damaged file is refused before anything is fetched for it
    base = others.underneath(path, about.base, size or about.size).clicks
    assert base is not None  # `underneath` saw to it
    with fitting(path, EXPECTED):
        clicks, automatic, labels = assemble(base, about, state, size, checksum or sha256_of(path))
    return Parts(clicks=clicks, automatic=automatic, semantic=labels)
