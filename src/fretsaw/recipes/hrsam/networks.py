"""The student and the teacher of HRSAM's recipe: how they are built, which parameters learn, and the file that a run writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from fretsaw.backbones.sam import SamMaskDecoder
from fretsaw.errors import ConfigError
from fretsaw.layers.blocks import FlashSwinBlock
from fretsaw.methods.hrsam import HRSAMEncoder, build_hrsam, build_hrsam_clicks, describe_encoder
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.recipes.hrsam.config import HrsamConfig


def load_teacher(config: HrsamConfig) -> SamClicks:
    """Return the SAM whose decoder is kept and, in distil, whose embeddings are learned.

    Raises:
        ConfigError: If the model is no SAM: a decoder that wants finer maps, which HRSAM does not make, cannot be kept.
    """
    from fretsaw import catalog

    clicks = catalog.build(config.teacher, size=config.size).clicks
    if clicks is None or not isinstance(clicks.mask_decoder, SamMaskDecoder):
        raise ConfigError(f"expected a SAM as teacher (sam-vit-b, sam-vit-l, sam-vit-h or a file of one), got {config.teacher}")
    return clicks


def load_student(config: HrsamConfig, teacher: SamClicks | None) -> SamClicks:
    """Return the network to train, with the settings' rate of stochastic depth.

    Raises:
        ConfigError: If `start` is a model of another kind than `anchor` asks for.
        WeightsError: If `start` is missing, damaged or does not fit.
    """
    from fretsaw.weights import load_state_dict, read_metadata

    if is_model(config.start):
        path = Path(config.start)
        stated = read_metadata(path).get("hrsam") if path.suffix == ".safetensors" else None
        student = build_hrsam_clicks(load_state_dict(path), stated, config.size)
    else:
        assert teacher is not None
        encoder = build_hrsam(config.encoder, config.anchor or None)
        if config.start:
            encoder.load_mae(load_state_dict(Path(config.start)))
        student = SamClicks(encoder, teacher.prompt_encoder, teacher.mask_decoder, teacher.preprocessing)
    encoder = student.image_encoder
    assert isinstance(encoder, HRSAMEncoder)
    if config.anchor and encoder.anchor_size != config.anchor:
        raise ConfigError(f"expected a start with an anchor map of {config.anchor} pixels, got {encoder.anchor_size or 'none'} in {config.start}")
    assert config.drop_path is not None, "filled in from the stage"
    for index, block in enumerate(encoder.blocks):
        assert isinstance(block, FlashSwinBlock)
        block.drop_path.rate = config.drop_path * index / max(len(encoder.blocks) - 1, 1)
    return student


def is_model(start: str) -> bool:
    """Whether a file holds a whole HRSAM, its decoder included, rather than a masked autoencoder or nothing.

    Raises:
        MissingWeightsError: If there is no such file.
    """
    from fretsaw.weights import load_state_dict

    return bool(start) and any(name.startswith(("image_encoder.", "backbone.")) for name in load_state_dict(Path(start)))


def parameter_groups(module: nn.Module, config: HrsamConfig) -> list[dict[str, Any]]:
    """Group what is trained: the rate falls from the last block to the first, and vectors (norms, biases) are not decayed.

    Block i of D has the rate's factor layer_decay^(D - i). Scans, positions and patches keep the full rate, and so do outputs and decoder.

    Source: HRSAM (paper 003), appendix D.3; the numbers and the exceptions are those of its published configuration.
    """
    assert config.layer_decay is not None, "filled in from the stage"
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    blocks = [int(name.partition(".blocks.")[2].split(".")[0]) for name, _ in named if ".blocks." in name]
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        number = name.partition(".blocks.")[2].split(".")[0]
        rate = config.rate * (config.layer_decay ** (1 + max(blocks) - int(number)) if number else 1)
        groups.setdefault((rate, config.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def export(student: SamClicks, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a model that `fretsaw.load(path)` takes, with what it was made from."""
    from safetensors.torch import save

    from fretsaw.images import write_bytes

    assert isinstance(student.image_encoder, HRSAMEncoder)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in student.state_dict().items()}
    write_bytes(path, save(tensors, {"recipe": "hrsam", "hrsam": describe_encoder(student.image_encoder), **metadata}))
