"""The two stages of SAM-REF's training: what each step computes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fretsaw.layers.roi_align import roi_align
from fretsaw.methods.sam_clicks import SamClicks, pad_points
from fretsaw.methods.sam_ref.model import SamRef
from fretsaw.methods.sam_ref.networks import RefinerFeatures
from fretsaw.methods.sam_ref.places import click_place
from fretsaw.recipes.sam_ref.config import SamRefConfig
from fretsaw.recipes.sam_ref.crops import CELL, CropBatch, cut_crop, draw_crop, patch_box, together
from fretsaw.recipes.sam_ref.losses import answered, decoder_losses, nearest, refinement_losses
from fretsaw.training.click_batches import ClickBatch
from fretsaw.training.clicking import answered_clicks, click_through, draw_clicks
from fretsaw.training.losses import normalised_focal
from fretsaw.training.precision import autocast, precision_named
from fretsaw.training.processes import ONE, Processes, device_of
from fretsaw.types import RefinerState

if TYPE_CHECKING:
    from fretsaw.backbones.sam_decoder import MaskDecoder


class RefinerStage(nn.Module):
    """Stage 2: the refiner is trained, the model is frozen."""

    def __init__(self, refiner: SamRef, model: SamClicks, config: SamRefConfig, change: Mapping[str, Tensor] | None = None, processes: Processes = ONE) -> None:
        super().__init__()
        self.refiner = refiner
        self.change = change or {}
        """The change of the decoder by stage 1, which the refiner's file also holds."""
        self._model = [model.requires_grad_(False)]  # in a list: not a submodule, so it is not part of the checkpoint
        self._config, self._rank, self._device = config, processes.rank, device_of(processes, config.device)

    def forward(self, batch: ClickBatch, done: int) -> Mapping[str, Tensor]:
        """Return the losses of equation 3 on crops of a batch after randomly chosen clicks. "decoder" is the frozen decoder's loss, for comparison."""
        config, refiner = self._config, self.refiner
        rng = _drawing(config.seed, done, self._rank)
        seen = self._crops(batch.to(self._device), rng)
        with autocast(self._device, precision_named(config.dtype)):
            result = refiner.global_diff(refiner.global_diff.prepare(seen.pixels, seen.embedding), seen.disks, seen.coarse)
            few = slice(0, config.patches)
            boxes = torch.tensor([patch_box(rng, result, seen, row) for row in range(len(seen.coarse[few]))], device=seen.coarse.device)
            local, local_errors, _ = refiner.patch_diff(result.feature[few], seen.coarse[few], boxes)
        around = refinement_losses(result.logits, result.error_map, seen.coarse, seen.coverage, seen.valid)
        crops = [roi_align(values[few], boxes, local.shape[-1]) for values in (seen.coarse, seen.coverage, seen.valid)]
        close = refinement_losses(local, local_errors, crops[0], crops[1], (crops[2] > 0.999).float())
        losses = {f"global {name}": value for name, value in around.items()} | {f"patch {name}": value for name, value in close.items()}
        with torch.no_grad():
            losses |= {
                "decoder": normalised_focal(seen.coarse, seen.coverage, weight=seen.valid).mean(),
                "wrong before": _wrong(seen.coarse, seen.coverage, seen.valid),
                "wrong after": _wrong(result.logits, seen.coverage, seen.valid),
                "patch wrong before": _wrong(crops[0], crops[1], crops[2]),
                "patch wrong after": _wrong(local, crops[1], crops[2]),
            }
        return {"loss": torch.stack([*around.values(), *close.values()]).sum(), **losses}

    @torch.no_grad()
    def _crops(self, batch: ClickBatch, rng: np.random.Generator) -> CropBatch:
        """Click every object with model and refiner in the loop, and cut crops after randomly chosen clicks."""
        config, refiner = self._config, self.refiner
        refiner.eval()
        features = refiner.global_diff.prepare(batch.pixels, batch.embedding)
        clicked = answered_clicks(self._model[0], batch, config.clicks, rng, partial(refine_batch, refiner, features))
        refiner.train()
        crops: list[CropBatch] = []
        for _ in range(config.crops):
            point, answer = clicked[int(rng.integers(len(clicked)))]
            row, coarse = int(rng.integers(len(answer))), refiner.enlarged(answer)
            place = click_place(point.point_coords[row : row + 1], point.point_labels[row : row + 1], batch.pixels.shape[-1], coarse)
            wrong = ((coarse[row, 0] > 0) != (batch.coverage[row, 0] > 0.5)) & (batch.valid[row, 0] > 0)
            crops.append(cut_crop(batch, point, coarse, row, draw_crop(rng, place, wrong, config.crop, CELL * refiner.map_scale)))
        return together(crops)


class DecoderStage(nn.Module):
    """Stage 1: the mask decoder is trained, the encoders are frozen.

    Source: SAM-REF, sections 3.5 (normalised focal loss) and 4.1.3; averaging: Polyak & Juditsky 1992.
    """

    def __init__(self, model: SamClicks, config: SamRefConfig, processes: Processes = ONE) -> None:
        super().__init__()
        self._model = [model.requires_grad_(False)]
        self.decoder = model.mask_decoder.requires_grad_(True)
        self.averaged = AveragedModel(self.decoder, multi_avg_fn=get_ema_multi_avg_fn(config.average)).requires_grad_(False) if config.average else None  # pyright: ignore[reportUnknownArgumentType]
        self._config, self._rank, self._device = config, processes.rank, device_of(processes, config.device)

    @property
    def kept(self) -> MaskDecoder:
        """The decoder that is validated and stored: the one in training, or the moving average of its weights."""
        return self.decoder if self.averaged is None else cast("MaskDecoder", self.averaged.module)

    def forward(self, batch: ClickBatch, done: int) -> Mapping[str, Tensor]:
        """Return the losses of the answer to the last click."""
        if self.averaged is not None:
            self.averaged.update_parameters(self.decoder)
        batch = batch.to(self._device)
        rng = _drawing(self._config.seed, done, self._rank)
        point = click_through(self._model[0], batch, draw_clicks(rng, self._config.clicks, self._config.gamma), rng, self._config.real)
        prompt = self._model[0].embed_prompt(*pad_points(point.point_coords, point.point_labels), point.previous_logits)
        choose = nearest if point.previous_logits is None else answered
        losses, answer = decoder_losses(*self._model[0].decode(batch.embedding, prompt), batch.coverage, batch.valid, choose)
        return {"loss": torch.stack([*losses.values()]).sum(), **losses, "wrong": _wrong(answer.detach(), batch.coverage, batch.valid)}


def refine_batch(
    refiner: SamRef, features: RefinerFeatures, coords: Tensor, labels: Tensor, coarse: Tensor, previous: Tensor | None, before: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`SamRef.refine` for several images; the state is GlobalDiff's error map, (B, 1, s, s)."""
    answers: list[Tensor] = []
    errors: list[Tensor] = []
    for row in range(len(coarse)):
        rows = slice(row, row + 1)
        own = RefinerFeatures(features.fused[rows], features.embedding[rows], features.model_size)
        state = RefinerState(error_map=None if before is None else before[rows])
        answer, state = refiner.refine(own, coords[rows], labels[rows], coarse[rows], None if previous is None else previous[rows], state)
        assert state.error_map is not None  # SAM-REF always returns one
        answers.append(answer)
        errors.append(state.error_map)
    return torch.cat(answers), torch.cat(errors)


def _drawing(seed: int, done: int, rank: int) -> np.random.Generator:
    """Return the random numbers of a step. Those of the first process are the same as in a run of one process."""
    return np.random.default_rng((seed, 1, done, rank) if rank else (seed, 1, done))


def _wrong(logits: Tensor, coverage: Tensor, valid: Tensor) -> Tensor:
    """Return the share of pixels on the wrong side."""
    return (((logits > 0) != (coverage > 0.5)).float() * valid).sum() / valid.sum().clamp(min=1)
