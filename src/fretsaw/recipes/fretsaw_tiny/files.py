"""The student's weight file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from fretsaw.errors import StateDictError
from fretsaw.images import write_bytes
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.recipes.fretsaw_tiny.cut import without_fourth_stage
from fretsaw.weights import load_state_dict
from fretsaw.weights.low_rank import part_way

FINE_MAPS = ("mask_decoder.conv_s0.", "mask_decoder.conv_s1.")
"""SAM 2 counts the projections of the two fine maps to the decoder; here the image encoder computes them."""


def state_of(student: SamClicks, weights: Mapping[str, Tensor], teacher: SamClicks) -> dict[str, Tensor]:
    """Return the student's weights under transformers' names: its encoder's own, all others the teacher's."""
    encoder: Any = student.image_encoder
    theirs: Any = teacher.image_encoder
    own = {f"vision_encoder.backbone.{name}": value for name, value in encoder.trunk.state_dict().items()}
    own |= {f"vision_encoder.neck.{name}": value for name, value in encoder.neck.state_dict().items()}
    state = without_fourth_stage(weights, theirs.trunk.stage_ends) | own
    return {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}


def with_decoder(state: Mapping[str, Tensor], file: Path, share: float) -> dict[str, Tensor]:
    """Return a student's weights with a mask decoder between its own and that of a file.

    A decoder that learned from a few hundred objects forgets what they do not show, such as parts of things; half the way it keeps both.

    Args:
        state: The student's weights.
        file: The learned decoder's.
        share: 0 for the student's own, 1 for the learned one.

    Raises:
        StateDictError: If a name or a shape does not fit.

    Source: Robust fine-tuning of zero-shot models (Wortsman et al. 2022), section 3, equation 1.
    """
    # What stands outside `decoder.` is no parameter: the frequencies of the positions, which are the prompt encoder's.
    learned = {f"mask_{name}": value.float() for name, value in load_state_dict(file).items() if name.startswith("decoder.")}
    wrong = [name for name, value in learned.items() if name not in state or state[name].shape != value.shape]
    missing = [name for name in state if name.startswith("mask_decoder.") and not name.startswith(FINE_MAPS) and name not in learned]
    if wrong or missing:
        raise StateDictError(f"expected the decoder of this student in {file}, got {wrong[:3]} that do not fit and {missing[:3]} that are missing")
    return {**state, **part_way(learned, state, share)}


def export(state: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a student in half precision with what it was made from."""
    write_bytes(path, save({name: value.half() for name, value in state.items()}, {"recipe": "fretsaw_tiny", **metadata}))
