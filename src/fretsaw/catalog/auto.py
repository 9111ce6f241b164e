"""Models that cut without a prompt by a trained network on another model's image encoder: PMG-SAM's weight files."""

from __future__ import annotations

import json
from pathlib import Path

from fretsaw import catalog
from fretsaw.catalog.entries import Parts
from fretsaw.errors import ModelError
from fretsaw.weights import load_state_dict, load_strictly, read_metadata

RECIPE = "pmg_sam"
"""What such a file's metadata says under "recipe"."""


def is_pmg(path: Path) -> bool:
    """Return whether a safetensors file is one that `fretsaw train pmg_sam` wrote."""
    return path.suffix == ".safetensors" and read_metadata(path).get("recipe") == RECIPE


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
    from fretsaw.backbones.u2net import load_u2netp
    from fretsaw.methods.pmg_sam.build import Settings, build_pmg_sam
    from fretsaw.methods.pmg_sam.cut import PmgCut

    metadata = read_metadata(path)
    missing = [name for name in ("settings", "encoder") if name not in metadata]
    if missing:
        raise ModelError(f"expected PMG-SAM's {' and '.join(missing)} in the metadata of {path}, got {', '.join(metadata) or 'none'}")
    network = build_pmg_sam(Settings.read(json.loads(metadata["settings"])))
    load_strictly(network, {name: tensor.float() for name, tensor in load_state_dict(path).items()})
    model = catalog.build(metadata["encoder"], size=size).clicks
    if model is None:
        raise ModelError(f"expected an encoder that takes clicks in the metadata of {path}, got {metadata['encoder']!r}")
    return Parts(clicks=model, automatic=PmgCut(load_u2netp(), network.requires_grad_(False), model))
