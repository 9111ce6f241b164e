"""One training step of fretsaw_hr, and how near the student comes to its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fretsaw.methods.fretsaw_hr import HighResolutionBlock, HighResolutionEncoder
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.recipes.fretsaw_hr.config import FretsawHrConfig
from fretsaw.recipes.fretsaw_hr.data import ENTRY, attended
from fretsaw.training.embeddings import to_device
from fretsaw.training.losses import standardised_mse
from fretsaw.training.prompt_losses import prompted_losses, random_prompts
from fretsaw.training.stored_views import StoredViews
from fretsaw.types import ImageEmbedding

NEW = ("padding", "scan.")
"""How the names of a changed block's parameters begin that are not SAM 2's; the anchor map's keys and values begin as SAM 2's own."""


class FretsawHrDistillation(nn.Module):
    """The part of the student that learns, and the frozen teacher; `step` is what the loop calls."""

    def __init__(self, student: HighResolutionEncoder, teacher: SamClicks, config: FretsawHrConfig) -> None:
        super().__init__()
        student.requires_grad_(False)
        blocks = {str(number): student.trunk.blocks[number] for number in student.changed}
        projections = student.neck.convs[: len(student.neck.convs) - 2]
        self.learns = nn.ModuleDict({"blocks": nn.ModuleDict(blocks), "projections": projections}).requires_grad_(True)
        self._student, self._teacher = [student], [teacher.requires_grad_(False)]  # in lists: not submodules, so not part of the checkpoint
        self._config = config

    def step(self, views: ImageEmbedding, done: int) -> Mapping[str, Tensor]:
        """Return the losses for stored views."""
        config, teacher, student = self._config, self._teacher[0], self._student[0]
        behind: dict[int, Tensor] = {}
        hooks = [keep_attended(student.trunk.blocks[number], number, behind) for number in student.changed]
        try:
            ours = ImageEmbedding(student.rest(views.taps[ENTRY], student.changed[0]), views.high_res)
        finally:
            for hook in hooks:
                hook.remove()
        distances = [standardised_mse(tokens, views.taps[attended(number)]) for number, tokens in behind.items()]
        losses = {"final": standardised_mse(ours.final, views.final), "blocks": torch.stack(distances).mean()}
        total = losses["final"] + config.block_weight * losses["blocks"]
        if config.prompts:
            losses |= prompted_losses(teacher, ours, views, config.prompts, config.size, config.seed * 1_000_003 + done)
            total = total + config.mask_weight * (losses["mask"] + losses["iou"])
        return {"loss": total, **losses}


def keep_attended(block: HighResolutionBlock, number: int, kept: dict[int, Tensor]) -> Any:
    """Let a block's map behind its attention be written into `kept`; returns the hook."""
    return block.layer_norm2.register_forward_pre_hook(lambda _module, inputs: kept.__setitem__(number, inputs[0]))


def parameter_groups(model: FretsawHrDistillation, config: FretsawHrConfig) -> list[dict[str, object]]:
    """Group the parameters: what was SAM 2's at a lower rate, no weight decay on vectors and on the scan's decays."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        new = name.startswith("learns.blocks.") and name.split(".", 3)[3].startswith(NEW)
        rate = config.rate * (1 if new else config.trunk_rate)
        decays = parameter.ndim > 1 and not name.endswith(("As_log", "gamma", "padding"))
        groups.setdefault((rate, config.weight_decay if decays else 0.0), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def agreement(student: HighResolutionEncoder, teacher: SamClicks, views: StoredViews, config: FretsawHrConfig) -> dict[str, float]:
    """Return how near the student comes on held-out views: "final", as in training, and "mask IoU", mean and median, of its masks with the teacher's."""
    distances: list[float] = []
    overlaps: list[Tensor] = []
    for index in range(config.views, config.views + config.held_out):
        view = to_device(views[index], config.device)
        with torch.no_grad():
            ours = ImageEmbedding(student.rest(view.taps[ENTRY], student.changed[0]), view.high_res)
            coords, labels = random_prompts(1, 6, config.size, torch.Generator().manual_seed(index))
            prompt = teacher.embed_prompt(coords[0].to(config.device), labels[0].to(config.device))
            mine, theirs = (teacher.decode(embedding, prompt)[0] > 0 for embedding in (ours, view))
        distances.append(standardised_mse(ours.final, view.final).item())
        union = (mine | theirs).sum((-2, -1))
        overlaps.append(((mine & theirs).sum((-2, -1)) / union.clamp(min=1))[union > 0])
    overlap = torch.cat(overlaps)
    return {"final": sum(distances) / len(distances), "mask IoU": overlap.mean().item(), "mask IoU median": overlap.median().item()}
