"""Cut the student out of SAM 2 Hiera-T and fit it by least squares, before any training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw.methods.sam_clicks import SamClicks, build_sam2
from fretsaw.recipes.fretsaw_tiny.config import FretsawTinyConfig
from fretsaw.recipes.fretsaw_tiny.pruning import narrow
from fretsaw.recipes.fretsaw_tiny.views import STEM
from fretsaw.training.embedding_cache import SHARD_VIEWS
from fretsaw.training.least_squares import fit_linear
from fretsaw.training.stored_views import StoredViews
from fretsaw.types import ImageEmbedding


def cut(
    weights: Mapping[str, Tensor],
    table: Mapping[str, Any],
    teacher: SamClicks,
    views: StoredViews,
    config: FretsawTinyConfig,
    said: Callable[[str], None] = lambda text: None,
) -> SamClicks:
    """Return the student before training: the teacher without its fourth stage, third stage narrowed, refitted on the first views.

    Args:
        weights: The teacher's, under transformers' names.
        table: The student's configuration, the teacher's with three stages.
        teacher: Whose answers are fitted.
        views: Of which the first `config.calibration` are fitted on.
        config: The recipe's.
        said: Told how far it is, which takes minutes.
    """
    theirs: Any = teacher.image_encoder
    student = build_sam2(without_fourth_stage(weights, theirs.trunk.stage_ends), table, config.size).to(config.device)
    encoder: Any = student.image_encoder
    known: list[ImageEmbedding] = []
    for index in range(config.calibration):
        known.append(views[index])
        if (index + 1) % SHARD_VIEWS == 0:
            said(f"{index + 1} of {config.calibration} views to fit on are encoded")
    with torch.no_grad():
        ours = [view.taps[STEM].permute(0, 2, 3, 1).to(config.device) for view in known]
        goals = list(ours)
        blocks = third_stage(encoder)
        for number, (block, original) in enumerate(zip(blocks, third_stage(theirs), strict=False), 1):
            ours, goals = refit(block, original, ours, goals, config.width)
            said(f"{number} of {len(blocks)} blocks are narrowed")
        project = encoder.neck.convs[0]
        weight, bias = fit_linear(rows(ours), rows([view.final.permute(0, 2, 3, 1).to(config.device) for view in known]) - encoder.no_memory)
        project.weight.copy_(weight[:, :, None, None])
        project.bias.copy_(bias)
    return student


def refit(block: Any, original: Any, ours: list[Tensor], goals: list[Tensor], width: int) -> tuple[list[Tensor], list[Tensor]]:
    """Narrow one block and fit what it adds so that it makes up for the errors of the blocks before it; in place.

    Args:
        block: The student's, a copy of the teacher's.
        original: The teacher's.
        ours: What the student brings to the block, (1, h, w, C) each.
        goals: What the teacher brings to it.
        width: Hidden units that stay.

    Returns:
        What student and teacher have behind the block.
    """
    attended: list[Tensor] = []
    with original.layer_norm2.register_forward_hook(partial(_keep_input, attended)):
        goals = [original(tokens) for tokens in goals]
    mixed: list[Tensor] = []
    projection, block.attn.proj = block.attn.proj, nn.Identity()
    with block.layer_norm2.register_forward_hook(partial(_keep_input, mixed)):
        for tokens in ours:
            block(tokens)
    block.attn.proj = projection
    ours = [_residual(block, tokens) for tokens in ours]
    mixed = [both - tokens for both, tokens in zip(mixed, ours, strict=True)]
    weight, bias = fit_linear(rows(mixed), rows([goal - tokens for goal, tokens in zip(attended, ours, strict=True)]))
    projection.weight.copy_(weight)
    projection.bias.copy_(bias)
    ours = [tokens + projection(mix) for tokens, mix in zip(ours, mixed, strict=True)]
    normed = [block.layer_norm2(tokens) for tokens in ours]
    narrow(block.mlp, rows(normed), rows([goal - tokens for goal, tokens in zip(goals, ours, strict=True)]), width)
    return [tokens + block.mlp(norm) for tokens, norm in zip(ours, normed, strict=True)], goals


def _keep_input(kept: list[Tensor], _module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
    """Forward hook: keep what enters a module."""
    kept.append(inputs[0])


def without_fourth_stage(weights: Mapping[str, Tensor], stage_ends: Sequence[int]) -> dict[str, Tensor]:
    """Return SAM 2's weights without the fourth stage, under the names of the network that has three.

    Args:
        weights: Under transformers' names.
        stage_ends: Number of the last block of each of the four stages.
    """
    blocks, convs = "vision_encoder.backbone.blocks.", "vision_encoder.neck.convs."
    gone = tuple(f"{blocks}{number}." for number in range(stage_ends[2] + 1, stage_ends[3] + 1))
    kept: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name.startswith((*gone, f"{convs}0.")):
            continue
        # The neck counts its convolutions from the coarsest stage on.
        number, _, rest = name.removeprefix(convs).partition(".") if name.startswith(convs) else ("", "", "")
        kept[f"{convs}{int(number) - 1}.{rest}" if number else name] = value.clone()  # not the teacher's own tensor: the student changes it
    return kept


def stem_blocks(encoder: Any) -> int:
    """Return how many blocks the first two stages have."""
    return encoder.trunk.stage_ends[1] + 1


def third_stage(encoder: Any) -> Any:
    """Return the blocks that a student learns."""
    return encoder.trunk.blocks[stem_blocks(encoder) :]


def _residual(block: Any, tokens: Tensor) -> Tensor:
    """Return what a block adds its attention to: its input, pooled and widened where a stage begins."""
    if block.dim == block.dim_out:
        return tokens
    wide = block.proj(block.layer_norm1(tokens)).permute(0, 3, 1, 2)
    return F.max_pool2d(wide, block.query_stride, block.query_stride).permute(0, 2, 3, 1)


def rows(maps: list[Tensor]) -> Tensor:
    """Return every third token of maps (1, h, w, C) as rows, because neighbouring tokens are nearly equal.

    Every second token would be wrong: Hiera's position table repeats every two tokens of the third stage, so the fit would see even columns only.
    """
    return torch.cat([one.flatten(0, 2)[::3] for one in maps])
