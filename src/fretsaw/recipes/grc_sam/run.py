"""A run of GrC-SAM's recipe."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch

from fretsaw.errors import ConfigError
from fretsaw.methods.grc_sam.build import Description, build_network, layers_of
from fretsaw.methods.grc_sam.model import chosen_layers, with_taps
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.recipes.grc_sam.config import GrcSamConfig, check_settings
from fretsaw.recipes.grc_sam.data import GrcData, LabelledViews, batches, fill, open_data
from fretsaw.recipes.grc_sam.steps import GrcTraining, parameter_groups
from fretsaw.recipes.grc_sam.validation import GrcValidation
from fretsaw.training.embedding_cache import EmbeddingCache
from fretsaw.training.loop import Schedule, Watcher, cosine, fit
from fretsaw.training.precision import precision_named

Config = GrcSamConfig
"""What `fretsaw train` fills in for this recipe."""


def length(config: GrcSamConfig) -> int:
    """Return the number of steps of a run."""
    return steps_per_epoch(config, open_data(config)) * config.epochs


def steps_per_epoch(config: GrcSamConfig, data: GrcData) -> int:
    """Return the steps that show every training image once."""
    return max(1, math.ceil(len(data.train) / config.batch))


def run(config: GrcSamConfig, watcher: Watcher | None = None) -> int:
    """Encode, train, choose; every part goes on where it was interrupted. Returns the number of steps made.

    Raises:
        ConfigError: If a setting does not fit.
        DataError: If data are missing or wrong.
        WeightsError: If the model's weights are missing and cannot be fetched.
    """
    from fretsaw import catalog

    check_settings(config)
    data = open_data(config)
    base = catalog.build(config.model, size=config.size).clicks
    if base is None:
        raise ConfigError(f"model: expected one that takes clicks, got {config.model}")
    return train(config, data, base, watcher)


def train(config: GrcSamConfig, data: GrcData, base: SamClicks, watcher: Watcher | None = None) -> int:
    """Run the recipe on a model, or continue it; returns the number of steps made."""
    layers = chosen_layers(base.image_encoder, layers_of(config.layers))  # the baseline keeps them too, to share the stored features
    read = layers if config.head == "grc" else ()
    about = Description(config.stated or config.model, config.size, data.names, read, config.strategy, config.width, config.above, config.head)
    torch.manual_seed(config.seed)  # pyright: ignore[reportUnknownMemberType]
    base = base.to(config.device).requires_grad_(False)
    network = build_network(base, about).to(config.device).requires_grad_(True)
    model = with_taps(base, layers, base.checksum, config.size).to_precision(torch.float32 if config.unfreeze else precision_named(config.dtype))
    per_epoch = steps_per_epoch(config, data)
    joins_at = round(config.unfreeze * per_epoch) if config.unfreeze else None
    if joins_at is not None:
        model.image_encoder.requires_grad_(True)
    training = GrcTraining(network, model, config, data.foreground, joins_at).train()
    cache, stored = None, None
    if config.views:
        folder = Path(config.cache) if config.cache else Path(config.out) / "cache"
        name = "-".join(map(str, (base.checksum[:12], config.size, *layers)))
        cache = EmbeddingCache(folder / name, f"{base.checksum}:{','.join(map(str, layers))}", model.preprocessing.key)
        stored = LabelledViews(data.val, config.size, 1, config.seed, cache)
        fill(stored, stored.keys(), model, cache, config.device, _say)
    views = LabelledViews(data.train, config.size, config.views, config.seed, cache)
    if cache is not None:
        fill(views, views.keys(), model, cache, config.device, _say)
    steps = per_epoch * config.epochs
    return fit(
        training,
        training.step,
        lambda first: batches(views, config, first, steps),
        torch.optim.AdamW(parameter_groups(training, config)),
        Schedule(steps, config.warmup, decay=cosine),
        Path(config.out),
        seed=config.seed,
        minutes=config.minutes or None,
        watcher=watcher,
        validate=GrcValidation(training, model, config, data, about, stored, cache),
        validate_every=config.validate_every or per_epoch,
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
