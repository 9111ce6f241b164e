"""One training step of GrC-SAM, and the learning rate of each parameter."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fretsaw.methods.grc_sam.model import GrcSam, LinearHead
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.recipes.grc_sam.config import GrcSamConfig
from fretsaw.recipes.grc_sam.data import GrcBatch
from fretsaw.recipes.grc_sam.losses import composite_losses, final_loss
from fretsaw.training.embeddings import normalise, to_device
from fretsaw.training.precision import autocast, precision_named


class GrcTraining(nn.Module):
    """The network that learns over a model that stays as it is, or joins after some epochs."""

    def __init__(self, network: GrcSam | LinearHead, model: SamClicks, config: GrcSamConfig, foreground: tuple[int, ...], joins_at: int | None) -> None:
        super().__init__()
        self.network = network
        self._model = [model]  # in a list: part of the checkpoint only where it is trained
        self.encoder = model.image_encoder if joins_at is not None else None
        self._config, self._foreground, self._joins_at = config, foreground, joins_at

    def step(self, batch: GrcBatch, done: int) -> Mapping[str, Tensor]:
        """Return the losses of a batch."""
        config, model = self._config, self._model[0]
        if batch.embedding is not None:
            embedding = to_device(batch.embedding, config.device)
        else:
            assert batch.pixels is not None
            with torch.set_grad_enabled(self._joins_at is not None and done >= self._joins_at):
                embedding = model.encode(normalise(batch.pixels, model.preprocessing, config.device))
        offset = config.stride // 2
        labels = batch.labels[:, offset :: config.stride, offset :: config.stride].to(config.device, torch.int64)
        with autocast(config.device, precision_named(config.dtype)):
            result = self.network(embedding)
        if isinstance(result, Tensor):
            return {"loss": final_loss(result.float(), labels)}
        losses = composite_losses(result, labels, self._foreground)
        with torch.no_grad():
            rho, thresholds = result.active.float().mean(), result.thresholds.mean(0)
        return losses | {"rho": rho, "coarse threshold": thresholds[0], "fine threshold": thresholds[1]}


def parameter_groups(training: GrcTraining, config: GrcSamConfig) -> list[dict[str, object]]:
    """Group the parameters: decoder and encoder at rates of their own, and no weight decay on vectors."""
    factors = {"network.decoder.": config.decoder_rate, "encoder.": config.encoder_rate}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in training.named_parameters():
        factor = next((value for prefix, value in factors.items() if name.startswith(prefix)), 1.0)
        groups.setdefault((config.rate * factor, config.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]
