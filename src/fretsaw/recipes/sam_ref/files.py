"""The weight files that SAM-REF's recipe writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fretsaw.catalog.refiners import DECODER_PREFIX
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.recipes.sam_ref.config import SamRefConfig
from fretsaw.recipes.sam_ref.stages import DecoderStage, RefinerStage
from fretsaw.training.provenance import settings_text
from fretsaw.weights import load_state_dict, low_rank


def export(learner: RefinerStage | DecoderStage, config: SamRefConfig, model: SamClicks, done: int, name: str = "") -> Path:
    """Write `out`/refiner.safetensors, `out`/decoder.safetensors or another name. Matrices are stored in half precision."""
    from safetensors.torch import save

    from fretsaw.images import write_bytes

    stage = learner.refiner if isinstance(learner, RefinerStage) else learner.kept
    tensors = {name: _halved(tensor) for name, tensor in stage.state_dict().items()}
    metadata = {"recipe": "sam_ref", "steps": str(done), "model": config.model, "model_checksum": model.checksum, "settings": settings_text(config)}
    if isinstance(learner, RefinerStage):
        metadata["config"] = json.dumps(learner.refiner.config)
        tensors |= {f"{DECODER_PREFIX}{name}": tensor for name, tensor in learner.change.items()}
        metadata |= {low_rank.RANK: str(config.rank)} if learner.change and config.rank else {}
    path = Path(config.out) / f"{name or config.stage}.safetensors"
    write_bytes(path, save(tensors, metadata))
    return path


def learned_change(file: Path, own: Mapping[str, Tensor], config: SamRefConfig) -> dict[str, Tensor]:
    """Return the change of the decoder by stage 1, scaled by the setting `share` and reduced to the setting `rank`, as `low_rank.restore` takes it.

    Args:
        file: Stage 1's decoder.
        own: The model's own decoder.
        config: Its `share` and `rank`; rank 0 keeps whole parameters.
    """
    learned = low_rank.part_way(load_state_dict(file), own, config.share)
    return {name: _halved(tensor) for name, tensor in (low_rank.compress(learned, own, config.rank) if config.rank else learned).items()}


def export_model(config: SamRefConfig, own: Mapping[str, Tensor], checksum: str) -> None:
    """Write `out`/model.safetensors: the model's name and its learned decoder's change; it loads by its path, a few MB over the model's own."""
    from safetensors.torch import save

    from fretsaw.images import write_bytes

    file = Path(config.out) / "decoder.safetensors"
    if file.exists():
        metadata = {"recipe": "sam_ref", "model": config.model, "model_checksum": checksum, "settings": settings_text(config)}
        write_bytes(Path(config.out) / "model.safetensors", save(learned_change(file, own, config), metadata))


def _halved(tensor: Tensor) -> Tensor:
    """Return matrices in half precision, vectors as they are."""
    return (tensor.detach().cpu().half() if tensor.ndim > 1 else tensor.detach().cpu()).contiguous()
