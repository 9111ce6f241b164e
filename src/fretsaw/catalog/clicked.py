"""Models of the catalogue whose mask decoder was trained further on clicks: the files of `fretsaw train sam_ref --set stage=decoder`, SAM-REF's first stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fretsaw.catalog.entries import OtherModels, Parts
from fretsaw.weights import fitting, load_state_dict, read_metadata
from fretsaw.weights.metadata import stated

if TYPE_CHECKING:
    from fretsaw.methods.sam_clicks import SamClicks


def build_clicked(path: Path, size: int | None, checksum: str, others: OtherModels) -> Parts:
    """Build the model that a file stands on, with the decoder that the file holds as its change; its sessions zoom in.

    Args:
        path: `model.safetensors` of such a run.
        size: Side of the input in pixels; None for the model's own.
        checksum: Names the decoder; unused, because embeddings and sessions depend on the encoder alone.
        others: The catalogue's other models.

    Raises:
        ModelError: If the file does not name its model, or one that takes no clicks.
        WeightsError: If the file is damaged or does not fit, or the model's weights are missing and cannot be fetched.
    """
    (name,) = stated(path, read_metadata(path), "the decoder's", "model")
    load_state_dict(path)  # a damaged file is refused before anything is fetched for it
    parts = others.underneath(path, name, size)
    assert parts.clicks is not None  # `underneath` saw to it
    install_change(path, parts.clicks)
    return replace(parts, zooms=True)  # no published model behaves like this one, so zoom is on by default


def install_change(path: Path, clicks: SamClicks) -> None:
    """Give a model the decoder that such a file holds as its change.

    Raises:
        WeightsError: If the file is damaged or does not fit.
    """
    from fretsaw.weights import low_rank

    with fitting(path, "a mask decoder's change, as fretsaw train sam_ref --set stage=decoder writes it"):
        low_rank.load_trained(clicks.mask_decoder, load_state_dict(path), clicks.mask_decoder.state_dict())
