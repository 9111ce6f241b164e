"""A run of PMG-SAM's recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fretsaw.backbones.sam_decoder import MaskDecoder
from fretsaw.errors import ConfigError
from fretsaw.methods.pmg_sam.build import PmgSettings, build_pmg_sam, start_from_sam2
from fretsaw.methods.pmg_sam.model import PmgSam
from fretsaw.methods.pmg_sam.stored import read_network, write_network
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.recipes.pmg_sam.config import STAGES, PmgSamConfig, settings_of, with_stage_defaults
from fretsaw.recipes.pmg_sam.data import PmgSplits, open_parts
from fretsaw.recipes.pmg_sam.features import CachedFeatures, LiveFeatures
from fretsaw.recipes.pmg_sam.frozen import Frozen, resolve
from fretsaw.recipes.pmg_sam.steps import PmgTraining, groups, schedule_of
from fretsaw.training.best import BestSoFar
from fretsaw.training.curves import draw_run
from fretsaw.training.loop import Watcher, fit
from fretsaw.training.provenance import settings_text
from fretsaw.weights import read_metadata

Config = PmgSamConfig
"""What `fretsaw train` fills in for this recipe."""

READS_FROZEN = ("fusions.", "pyramid.", "injection.")
"""Parts of the network whose first convolutions fit the frozen networks' channels."""


def length(config: PmgSamConfig) -> int:
    """Return how many steps the recipe makes at most, for the progress bar."""
    config = with_stage_defaults(config)
    return config.epochs * math.ceil(len(open_parts(config, None).train) / config.batch)


def run(config: PmgSamConfig, watcher: Watcher | None = None) -> int:
    """Build everything, train, and keep the best network in `out`/best.safetensors, half precision.

    Raises:
        ConfigError: If a setting does not exist or does not fit.
        DataError: If there are no images.
        WeightsError: If weights are missing and cannot be fetched.
    """
    config = with_stage_defaults(config)
    open_parts(config, None)  # raises for bad data before any network is loaded
    frozen = resolve(config)
    settings = settings_of(config, frozen.stage_channels, frozen.level_channels)
    parts = open_parts(config, frozen)
    torch.manual_seed(config.seed)  # pyright: ignore[reportUnknownMemberType]
    network = build_pmg_sam(settings)
    if config.start:
        start_network(network, read_network(Path(config.start), stands_on(Path(config.start))).state_dict())
    else:
        start_decoder(network, frozen)
    return train(config, network, frozen, parts, settings, watcher)


def train(config: PmgSamConfig, network: PmgSam, frozen: Frozen, parts: PmgSplits, settings: PmgSettings, watcher: Watcher | None = None) -> int:
    """Run the recipe, or continue it; returns the number of steps made. The best network so far lies in `out`/best.safetensors."""
    config, out = with_stage_defaults(config), Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    training = PmgTraining(network.to(config.device), config).train()
    optimizer = torch.optim.AdamW(groups(network, config), betas=(0.9, 0.999))
    per_epoch = math.ceil(len(parts.train) / config.batch)
    facts = {"encoder": config.encoder, "size": str(config.size), "config": settings_text(config)}

    def keep() -> None:
        write_network(network, settings, out / "best.safetensors", facts, frozen.model, config.rank)

    watch = BestSoFar(out, keep, patience=config.patience, halve_after=STAGES[config.stage]["halve_after"])
    features = (LiveFeatures if config.features == "live" else CachedFeatures)(frozen, parts, config)

    def validate(done: int) -> Mapping[str, float]:
        figures = watch.see(training.validate(features.validation_batches()))
        draw_run(out)
        return figures

    return fit(
        training,
        training.step,
        lambda first: features.training_batches(first),
        optimizer,
        schedule_of(config, per_epoch, watch),
        out,
        seed=config.seed,
        minutes=config.minutes or None,
        watcher=watcher,
        validate=validate,
        validate_every=config.validate_steps or per_epoch,
        enough=watch.enough,
    )


def start_network(network: PmgSam, earlier: Mapping[str, Tensor]) -> None:
    """Load an earlier run's parameters. Layers that read the frozen networks' channels keep their initial values where the number of channels differs.

    Raises:
        StateDictError: If anything else differs.
    """
    from fretsaw.weights import load_strictly

    own = network.state_dict()
    fresh = {name for name in own.keys() & earlier.keys() if name.startswith(READS_FROZEN) and own[name].shape != earlier[name].shape}
    load_strictly(network, {name: own[name] if name in fresh else tensor for name, tensor in earlier.items()})


def stands_on(path: Path) -> SamClicks:
    """Build the model whose image encoder a trained file names."""
    from fretsaw import catalog

    model = catalog.build(read_metadata(path).get("encoder", "")).clicks
    if model is None:
        raise ConfigError(f"start: expected a file of fretsaw train pmg_sam, whose encoder takes clicks, got {path}")
    return model


def start_decoder(network: PmgSam, frozen: Frozen) -> None:
    """Load the mask decoder of the encoder's model, if it is SAM 2's."""
    if isinstance(frozen.model.mask_decoder, MaskDecoder):  # pyright: ignore[reportUnnecessaryIsInstance]
        start_from_sam2(network, frozen.model)
