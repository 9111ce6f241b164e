"""PMG-SAM's weight files: settings in the metadata; parameters whole, or the decoder's as what training changed of the decoder that it started from.

Source: storing the change as thin matrices: see `fretsaw.weights.low_rank`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fretsaw.errors import StateDictError
from fretsaw.images import write_bytes
from fretsaw.methods.pmg_sam.build import PmgSettings, build_pmg_sam, start_from_sam2
from fretsaw.methods.pmg_sam.model import PmgSam
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.weights import load_state_dict, low_rank, read_metadata
from fretsaw.weights.metadata import read_object, stated

RECIPE = "pmg_sam"
"""What such a file's metadata says under "recipe"."""

FRESH = "decoder.patches."
"""The decoder's parameters that have no counterpart in SAM 2's."""


def write_network(network: PmgSam, settings: PmgSettings, path: Path, facts: Mapping[str, str], model: SamClicks | None = None, rank: int = 0) -> Path:
    """Write a trained network in half precision.

    Args:
        network: Trained.
        settings: Of the network.
        path: The file.
        facts: Metadata beside the settings: what `fretsaw.catalog.auto` needs is "encoder".
        model: Whose decoder training started from; needed for a rank.
        rank: The decoder is stored as its difference from the model's, as matrices of this rank; 0 stores it whole.
    """
    from safetensors.torch import save

    state: Mapping[str, Tensor] = network.state_dict()
    facts = {"recipe": RECIPE, "settings": json.dumps(settings.write()), **facts}
    if model is not None and rank:
        state = low_rank.compress(state, started(build_pmg_sam(settings), model), rank)
        facts[low_rank.RANK] = str(rank)
    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in state.items()}
    return write_bytes(path, save(tensors, facts))


def read_network(path: Path, model: SamClicks) -> PmgSam:
    """Build the network of a file, in float32 and frozen.

    Args:
        path: Written by `write_network`.
        model: The one whose image encoder the file stands on.

    Raises:
        ModelError: If the file lacks its settings.
        ConfigError: If a setting is unknown, or no network has it.
        StateDictError: If the parameters do not fit the settings.
    """
    metadata = read_metadata(path)
    settings = PmgSettings.read(read_object(stated(path, metadata, "PMG-SAM's", "settings")[0], "PMG-SAM's settings"))
    state = load_state_dict(path)
    _require_fit(settings, state, model if low_rank.RANK in metadata else None)
    network = build_pmg_sam(settings)
    low_rank.load_trained(network, state, started(network, model) if low_rank.RANK in metadata else {})
    return network.requires_grad_(False).eval()


def _require_fit(settings: PmgSettings, state: Mapping[str, Tensor], model: SamClicks | None) -> None:
    """Refuse settings that ask for a larger network than the file fills, before memory is taken for it.

    Args:
        settings: Of the file.
        state: Its parameters.
        model: Whose decoder the rest comes from, or None where the file holds all.

    Raises:
        StateDictError: If there are fewer numbers than the settings ask for.
    """
    with torch.device("meta"):
        wanted = sum(value.numel() for value in build_pmg_sam(settings).state_dict().values())
    given = [value.numel() for name, value in state.items() if not name.endswith((low_rank.LEFT, low_rank.RIGHT))]
    below = [value.numel() for value in model.state_dict().values()] if model is not None else []
    if wanted > sum(given) + sum(below):
        raise StateDictError(f"expected {wanted} numbers, as the settings ask for, got {sum(given)} and {sum(below)} of the model underneath")


def started(network: PmgSam, model: SamClicks) -> dict[str, Tensor]:
    """Give a fresh network the decoder of a SAM 2 model, and return what of its parameters comes from there, by name."""
    start_from_sam2(network, model)
    return {name: value for name, value in network.state_dict().items() if name.startswith("decoder.") and not name.startswith(FRESH)}
