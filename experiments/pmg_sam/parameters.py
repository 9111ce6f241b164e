"""Trained parameters of PMG-SAM's network by part."""

from __future__ import annotations

from fretsaw.methods.pmg_sam.build import trainable_parameters
from fretsaw.methods.pmg_sam.model import PmgSam


def parameters_by_part(network: PmgSam) -> dict[str, int]:
    """Count the trained parameters of fusions, refiner, pyramid, injection and decoder."""
    return {name: trainable_parameters(module) for name, module in network.named_children()}
