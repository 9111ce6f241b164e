"""The student before training: what is linear in it, set to what comes nearest to the teacher's maps.

Block by block, the last layer of the attention makes up for what its keys and values lack and for the errors of the blocks before; at the end, so do the
projections to the embedding. Layers keep their weights where the views say nothing: what is fitted is the change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fretsaw.backbones.sam2 import join_final
from fretsaw.methods.fretsaw_hr import HighResolutionBlock, HighResolutionEncoder
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.recipes.fretsaw_hr.data import ENTRY, attended
from fretsaw.training.least_squares import fit_change
from fretsaw.training.stored_views import StoredViews

ROWS = 3
"""Every third token is fitted on: neighbours say nearly the same. Odd, since Hiera's position table repeats every two tokens of the third stage."""

KEPT = 4
"""One view of so many decides how far a fit goes."""


@torch.no_grad()
def fit_student(student: HighResolutionEncoder, teacher: SamClicks, views: StoredViews, count: int, said: Callable[[str], None] = lambda text: None) -> None:
    """Fit a student whose layers are the teacher's, in place.

    Args:
        student: The encoder.
        teacher: Which it was made of, unchanged.
        views: Of which the first `count` are fitted on.
        count: See `views`.
        said: Told how far it is, which takes minutes.
    """
    theirs: Any = teacher.image_encoder
    known = [views[index] for index in range(count)]
    said(f"{count} views to fit on are encoded")
    ours = [view.taps[ENTRY] for view in known]
    goals = list(ours)
    stages: list[list[Tensor]] = []
    for number in range(student.changed[0], len(student.trunk.blocks)):
        block, original = student.trunk.blocks[number], theirs.trunk.blocks[number]
        if isinstance(block, HighResolutionBlock):
            behind = [view.taps[attended(number)] for view in known]
            residual, mixed = zip(*(block.mixed(tokens) for tokens in ours), strict=True)
            correct(block.proj, list(mixed), [goal - tokens for goal, tokens in zip(behind, residual, strict=True)])
            ours = [tokens + block.proj(mix) for tokens, mix in zip(residual, mixed, strict=True)]
            ours = [tokens + block.mlp(block.layer_norm2(tokens)) for tokens in ours]
            goals = [tokens + original.mlp(original.layer_norm2(tokens)) for tokens in behind]
        else:
            goals, ours = [original(tokens) for tokens in goals], [student.run_block(number, tokens) for tokens in ours]
        if number in student.trunk.stage_ends:
            stages.append(ours)
        said(f"block {number} is fitted")
    fit_projections(student, [list(maps) for maps in zip(*stages, strict=True)], [view.final.permute(0, 2, 3, 1) for view in known])


def correct(layer: nn.Linear, inputs: list[Tensor], targets: list[Tensor]) -> None:
    """Add to a linear layer what brings it nearest to the targets, maps (1, h, w, C)."""
    weight, bias = fitted(inputs, [target - layer(tokens) for tokens, target in zip(inputs, targets, strict=True)])
    layer.weight.add_(weight)
    layer.bias.add_(bias)


def fit_projections(student: HighResolutionEncoder, stages: list[list[Tensor]], finals: list[Tensor]) -> None:
    """Add to the projections to the embedding what brings it nearest to the teacher's; a view's stages are those from the third on."""
    *to_coarse, to_final = student.neck.convs[: len(stages[0])]
    projections = [to_final, *to_coarse]
    inputs = [torch.cat([maps[0], *(coarse.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2) for coarse in maps[1:])], dim=3) for maps in stages]
    missing = [final - join_final(maps, student.neck, student.no_memory) for maps, final in zip(stages, finals, strict=True)]
    weight, bias = fitted(inputs, missing)
    for project, part in zip(projections, weight.split([project.in_channels for project in projections], dim=1), strict=True):
        project.weight.add_(part[:, :, None, None])
    to_final.bias.add_(bias)


def fitted(inputs: list[Tensor], missing: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the change of a linear layer that brings what is missing, of maps (1, h, w, C); the last views decide how far it goes."""
    kept = max(1, len(inputs) // KEPT)
    return fit_change(rows(inputs[:-kept]), rows(missing[:-kept]), rows(inputs[-kept:]), rows(missing[-kept:]))


def rows(maps: list[Tensor]) -> Tensor:
    """Return every third token of maps (1, h, w, C) as rows."""
    return torch.cat([one.flatten(0, 2)[::ROWS] for one in maps])
