"""PMG-SAM's weight files: settings in the metadata; parameters whole, or the decoder's as what training changed of the decoder that it started from.

Source: storing the change as thin matrices: see `fretsaw.weights.low_rank`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fretsaw.images import write_bytes
from fretsaw.methods.pmg_sam.build import Settings, build_pmg_sam, start_from_sam2
from fretsaw.methods.pmg_sam.model import PmgSam
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.weights import load_state_dict, low_rank, read_metadata

RECIPE = "pmg_sam"
"""What such a file's metadata says under "recipe"."""

FRESH = "decoder.patches."
"""The decoder's parameters that have no counterpart in SAM 2's."""


def write_network(network: PmgSam, settings: Settings, path: Path, facts: Mapping[str, str], model: SamClicks | None = None, rank: int = 0) -> Path:
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
        StateDictError: If the parameters do not fit the settings.
    """
    metadata = read_metadata(path)
    network = build_pmg_sam(Settings.read(json.loads(metadata["settings"])))
    low_rank.load_trained(network, load_state_dict(path), started(network, model) if low_rank.RANK in metadata else {})
    return network.requires_grad_(False).eval()


def started(network: PmgSam, model: SamClicks) -> dict[str, Tensor]:
    """Give a fresh network the decoder of a SAM 2 model, and return what of its parameters comes from there, by name."""
    start_from_sam2(network, model)
    return {name: value for name, value in network.state_dict().items() if name.startswith("decoder.") and not name.startswith(FRESH)}
