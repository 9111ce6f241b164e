"""Models of the catalogue whose mask decoder was trained further on clicks: the files of `fretsaw train sam_ref --set stage=decoder`, SAM-REF's first stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fretsaw import catalog
from fretsaw.catalog.entries import Parts
from fretsaw.errors import ModelError
from fretsaw.weights import load_state_dict, read_metadata

if TYPE_CHECKING:
    from fretsaw.methods.sam_clicks import SamClicks


def build_clicked(path: Path, size: int | None = None, checksum: str = "") -> Parts:
    """Build the model that a file stands on, with the decoder that the file holds as its change; its sessions zoom in.

    Args:
        path: `model.safetensors` of such a run.
        size: Side of the input in pixels; None for the model's own.
        checksum: Names the decoder; unused, because embeddings and sessions depend on the encoder alone.

    Raises:
        ModelError: If the file does not name its model, or one that takes no clicks.
        WeightsError: If the file is damaged or does not fit, or the model's weights are missing and cannot be fetched.
    """
    name = read_metadata(path).get("model", "")
    parts = catalog.build(name, size=size) if name else Parts()
    if parts.clicks is None:
        raise ModelError(f"expected a file of fretsaw train sam_ref --set stage=decoder, whose metadata names a model that takes clicks, got {path}")
    install_change(path, parts.clicks)
    return replace(parts, zooms=True)  # it answers as nobody published, so that nothing speaks against its better answers


def install_change(path: Path, clicks: SamClicks) -> None:
    """Give a model the decoder that such a file holds as its change.

    Raises:
        WeightsError: If the file is damaged or does not fit.
    """
    from fretsaw.weights import low_rank

    low_rank.load_trained(clicks.mask_decoder, load_state_dict(path), clicks.mask_decoder.state_dict())
