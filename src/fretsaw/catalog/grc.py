"""GrC-SAM's trained files: what they hold stands on another model of the catalogue, which their metadata names."""

from __future__ import annotations

from pathlib import Path

from fretsaw import catalog
from fretsaw.catalog.entries import Parts
from fretsaw.errors import ModelError
from fretsaw.weights import load_state_dict, read_metadata


def build_grc(path: Path, size: int | None = None, checksum: str = "") -> Parts:
    """Build the model whose trained part lies in a file; the model that the file stands on answers the clicks.

    Args:
        path: Written by `fretsaw train grc_sam`.
        size: Side of the input in pixels; None for the side of training.
        checksum: Names the trained part; "" takes the file's own.

    Raises:
        ModelError: If the file lacks its description, or stands on a model that takes no clicks.
        WeightsError: If the file is damaged, or the weights of the model underneath are missing and cannot be fetched.
    """
    from fretsaw.methods.grc_sam.build import Description, assemble
    from fretsaw.weights.files import sha256_of

    about = Description.from_metadata(read_metadata(path))
    base = catalog.build(about.base, size=size or about.size).clicks
    if base is None:
        raise ModelError(f"expected a model that takes clicks in the metadata of {path}, got {about.base!r}")
    clicks, automatic, labels = assemble(base, about, load_state_dict(path), size, checksum or sha256_of(path))
    return Parts(clicks=clicks, automatic=automatic, semantic=labels)
