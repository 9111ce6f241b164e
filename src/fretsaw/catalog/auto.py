"""Models that cut without a prompt by a trained network on another model's image encoder: PMG-SAM's weight files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fretsaw.catalog.entries import OtherModels, Parts
from fretsaw.weights import fitting, load_state_dict, read_metadata
from fretsaw.weights.metadata import stated

if TYPE_CHECKING:
    from fretsaw.methods.pmg_sam.cut import PmgCut
    from fretsaw.methods.sam_clicks import SamClicks


def build_pmg(path: Path, size: int | None, checksum: str, others: OtherModels) -> Parts:
    """Build the model whose trained part lies in a file; the model that the file names as its encoder answers the clicks.

    Args:
        path: Written by `fretsaw train pmg_sam`.
        size: Side of the encoder's input in pixels; None for the encoder's own.
        checksum: Names the trained part; unused, because embeddings and sessions depend on the encoder alone.
        others: The catalogue's other models.

    Raises:
        ModelError: If the file lacks its settings, or names a model that takes no clicks.
        WeightsError: If the file is damaged, or the encoder's weights are missing and cannot be fetched.
    """
    _, encoder = stated(path, read_metadata(path), "PMG-SAM's", "settings", "encoder")
    load_state_dict(path)  # a damaged file is refused before anything is fetched for it
    parts = others.underneath(path, encoder, size)
    assert parts.clicks is not None  # `underneath` saw to it
    cut = pmg_cut(path, parts.clicks)
    return replace(parts, automatic=cut, taps=cut.taps)


def pmg_cut(path: Path, model: SamClicks) -> PmgCut:
    """Build the automatic cut whose trained part lies in a file, over a model that is built already.

    Raises:
        WeightsError: If the file is damaged or does not fit.
    """
    from fretsaw.backbones.u2net import load_u2netp
    from fretsaw.methods.pmg_sam.cut import PmgCut
    from fretsaw.methods.pmg_sam.stored import read_network

    with fitting(path, "what fretsaw train pmg_sam wrote"):
        return PmgCut(load_u2netp(), read_network(path, model), model)
