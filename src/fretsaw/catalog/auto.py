"""Models that cut without a prompt by a trained network on another model's image encoder: PMG-SAM's weight files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fretsaw import catalog
from fretsaw.catalog.entries import Parts
from fretsaw.errors import ModelError
from fretsaw.weights import read_metadata

if TYPE_CHECKING:
    from fretsaw.methods.pmg_sam.cut import PmgCut
    from fretsaw.methods.sam_clicks import SamClicks


def build_pmg(path: Path, size: int | None = None, checksum: str = "") -> Parts:
    """Build the model whose trained part lies in a file; the model that the file names as its encoder answers the clicks.

    Args:
        path: Written by `fretsaw train pmg_sam`.
        size: Side of the encoder's input in pixels; None for the encoder's own.
        checksum: Names the trained part; unused, because embeddings and sessions depend on the encoder alone.

    Raises:
        ModelError: If the file lacks its settings, or names a model that takes no clicks.
        WeightsError: If the file is damaged, or the encoder's weights are missing and cannot be fetched.
    """
    metadata = read_metadata(path)
    missing = [name for name in ("settings", "encoder") if name not in metadata]
    if missing:
        raise ModelError(f"expected PMG-SAM's {' and '.join(missing)} in the metadata of {path}, got {', '.join(metadata) or 'none'}")
    parts = catalog.build(metadata["encoder"], size=size)
    if parts.clicks is None:
        raise ModelError(f"expected an encoder that takes clicks in the metadata of {path}, got {metadata['encoder']!r}")
    return replace(parts, automatic=pmg_cut(path, parts.clicks))


def pmg_cut(path: Path, model: SamClicks) -> PmgCut:
    """Build the automatic cut whose trained part lies in a file, over a model that is built already.

    Raises:
        WeightsError: If the file is damaged or does not fit.
    """
    from fretsaw.backbones.u2net import load_u2netp
    from fretsaw.methods.pmg_sam.cut import PmgCut
    from fretsaw.methods.pmg_sam.stored import read_network

    return PmgCut(load_u2netp(), read_network(path, model), model)
