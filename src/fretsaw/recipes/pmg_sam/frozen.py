"""The frozen networks of PMG-SAM's training: the image encoder and U²-Net."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fretsaw.backbones.u2net import FULL, SIDE, U2Net, load_u2netp, saliency_map
from fretsaw.data.samples import Sample
from fretsaw.errors import ConfigError, ModelError
from fretsaw.images import write_bytes
from fretsaw.methods.pmg_sam.build import U2NET_FULL, U2NET_SMALL
from fretsaw.methods.pmg_sam.pairing import DualBranch, DualFeatures, stage_taps, stages_of
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.recipes.pmg_sam.config import PmgSamConfig
from fretsaw.training.embeddings import normalise
from fretsaw.training.precision import precision_named


class Frozen:
    """The image encoder and U²-Net, which make the features of views.

    Args:
        model: Whose image encoder is used; its side must be the views'.
        saliency: U²-Net, whole or small.
        level_channels: Of its six levels.
        device: Where they run.
        side: Of U²-Net's input.
    """

    def __init__(self, model: SamClicks, saliency: U2Net, level_channels: tuple[int, ...], device: str = "cpu", side: int = SIDE) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.branch = DualBranch(saliency, side, mean=model.preprocessing.mean, std=model.preprocessing.std).to(device)
        self.level_channels, self._device = level_channels, device

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of the encoder's four stages, found by encoding an empty image."""
        side = self.model.preprocessing.size
        with torch.no_grad():
            embedding = self.model.encode(torch.zeros(1, 3, side, side), stage_taps(self.model.encoder))
        try:
            return tuple(stage.shape[1] for stage in stages_of(embedding))
        except ModelError as error:
            raise ConfigError(str(error)) from error

    @torch.no_grad()
    def features(self, views: Tensor) -> DualFeatures:
        """Return the features of views (B, 3, S, S) uint8."""
        pixels = normalise(views, self.model.preprocessing, self._device)
        return self.branch(pixels, self.model.encode(pixels, stage_taps(self.model.encoder)))

    def salient_only(self, samples: Sequence[Sample], least: float, known_file: Path) -> list[Sample]:
        """Return the samples whose object stands out: the share of U²-Net's map that lies on the object is at least `least`.

        Measured shares are stored in `known_file` and not measured again.
        """
        known: dict[str, float] = json.loads(known_file.read_text()) if known_file.exists() else {}
        fresh = [sample for sample in samples if sample.name not in known]
        for number, sample in enumerate(fresh):
            image, truth = sample.read()
            found = saliency_map(self.branch.saliency, image)  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
            known[sample.name] = float(found[truth == 1].sum() / max(float(found.sum()), 1e-6))
            if number % 100 == 99 or number == len(fresh) - 1:
                write_bytes(_made(known_file), json.dumps(known).encode())
                print(f"{number + 1} of {len(fresh)} images are judged by how much stands out", file=sys.stderr, flush=True)
        return [sample for sample in samples if known[sample.name] >= least]


def resolve(config: PmgSamConfig) -> Frozen:
    """Build the frozen networks of a configuration.

    Raises:
        ModelError: If there is no such encoder.
        WeightsError: If weights are missing and cannot be fetched.
    """
    from fretsaw import catalog
    from fretsaw.weights import load_state_dict, load_strictly

    model = catalog.build(config.encoder, size=config.size).clicks
    if model is None:
        raise ConfigError(f"expected a model with an image encoder, got {config.encoder}")
    model.to_precision(precision_named(config.dtype))
    if not config.saliency:
        return Frozen(model, load_u2netp(), U2NET_SMALL, config.device)
    saliency = U2Net(FULL)
    load_strictly(saliency, load_state_dict(Path(config.saliency)))
    return Frozen(model, saliency, U2NET_FULL, config.device)


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
