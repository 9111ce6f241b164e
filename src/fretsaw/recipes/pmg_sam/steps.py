"""One training step of PMG-SAM, its validation, and the course of the learning rate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw.methods.pmg_sam.model import PmgSam
from fretsaw.methods.pmg_sam.pairing import DualFeatures
from fretsaw.recipes.pmg_sam.config import STAGES, PmgSamConfig
from fretsaw.recipes.pmg_sam.losses import coarse_pre_mask, mask_losses
from fretsaw.training.best import BestSoFar
from fretsaw.training.loop import Schedule, cosine
from fretsaw.training.precision import autocast, precision_named


class PmgTraining(nn.Module):
    """The trained part and the frozen one; `step` is what the loop calls, with (features, masks (B, 1, S, S))."""

    def __init__(self, network: PmgSam, config: PmgSamConfig) -> None:
        super().__init__()
        self.network = network
        self._config = config

    def step(self, batch: tuple[DualFeatures, Tensor], done: int) -> Mapping[str, Tensor]:
        """Return the losses of a batch."""
        config = self._config
        features, target = batch
        small = F.avg_pool2d(target, 4)
        with autocast(target.device, precision_named(config.dtype)):
            result = self.network(features)
        losses = {
            "final": mask_losses(result.mask_logits.float(), target, config.iou_weight),
            "pre_mask": mask_losses(result.pre_mask.float(), small, config.iou_weight),
        }
        total = losses["final"] + config.pre_mask_weight * losses["pre_mask"]
        if config.edge_weight:
            guide = coarse_pre_mask(target, torch.Generator().manual_seed(config.seed * 1_000_003 + done))
            with autocast(target.device, precision_named(config.dtype)):
                refined = self.network.refine(features, guide)
            losses["edge"] = mask_losses(refined.float(), target, config.iou_weight)
            total = total + config.edge_weight * losses["edge"]
        return {"loss": total, **losses}

    @torch.no_grad()
    def validate(self, batches: Iterator[tuple[DualFeatures, Tensor]]) -> dict[str, float]:
        """Return the mean loss of the final mask, and IoU and mean absolute error of both masks, over the validation part."""
        self.eval()
        sums: dict[str, float] = {}
        count = 0
        for features, target in batches:
            result = self.network(features)
            found = {"loss": mask_losses(result.mask_logits, target, self._config.iou_weight) * len(target)}
            for name, logits in (("pre_mask", result.pre_mask), ("final", result.mask_logits)):
                logits = F.interpolate(logits, size=target.shape[-2:], mode="bilinear", align_corners=False)
                mask, truth = logits > 0, target > 0.5
                found[f"{name} IoU"] = ((mask & truth).sum((1, 2, 3)) / (mask | truth).sum((1, 2, 3)).clamp(min=1)).sum()
                found[f"{name} MAE"] = (logits.sigmoid() - target).abs().mean((1, 2, 3)).sum()
            count += len(target)
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        self.train()
        return {name: value / max(1, count) for name, value in sums.items()}


def schedule_of(config: PmgSamConfig, per_epoch: int, watch: BestSoFar) -> Schedule:
    """Return the rate's course: warm-up, then halved every so many epochs (dichotomous), or when validation stalls (camouflage), or a cosine.

    Source: PMG-SAM (paper 001), section 4.3.
    """
    steps, warmup = config.epochs * per_epoch, min(round(config.warmup_epochs * per_epoch), config.epochs * per_epoch // 2)
    if config.decay == "cosine":
        return Schedule(steps, warmup, decay=cosine)
    every = STAGES[config.stage]["decay_every"] * per_epoch

    def decay(way: float) -> float:
        passed = 0.5 ** int(way * (steps - warmup) / every + 1e-9) if every else 1.0
        return passed * watch.factor()

    return Schedule(steps, warmup, decay=decay)


def groups(network: nn.Module, config: PmgSamConfig) -> list[dict[str, object]]:
    """Group the parameters: no weight decay on vectors and scales."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "lr": config.rate, "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "lr": config.rate, "weight_decay": 0.0},
    ]
