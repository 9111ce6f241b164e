"""A run of SAM-REF's recipe."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fretsaw.data.click_samples import Photo
from fretsaw.errors import ConfigError
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.methods.sam_ref.model import SamRef, check_map_scale
from fretsaw.recipes.sam_ref.config import STAGES, SamRefConfig
from fretsaw.recipes.sam_ref.crops import MARGIN
from fretsaw.recipes.sam_ref.data import ClickData, collect_from, fill, find_places
from fretsaw.recipes.sam_ref.files import export, export_model, learned_change
from fretsaw.recipes.sam_ref.stages import DecoderStage, RefinerStage
from fretsaw.recipes.sam_ref.validation import SamRefValidation
from fretsaw.training.click_batches import ClickBatch, ClickObjects, collate
from fretsaw.training.embedding_cache import EmbeddingCache
from fretsaw.training.loop import Schedule, Watcher, cosine, fit, say
from fretsaw.training.precision import precision_named
from fretsaw.training.processes import ONE, Processes, device_of, launch, shares
from fretsaw.weights import load_state_dict, load_strictly, low_rank

Config = SamRefConfig
"""What `fretsaw train` fills in for this recipe."""

NORM_MOMENTUM = 0.01
"""Momentum of batch normalisation's running statistics. It is low because a batch holds a few crops, and evaluation must not depend on the last few batches."""

LEARNING_FROM = 1, 6
"""During training GlobalDiff answers from the first click on and PatchDiff from the sixth, so that both learn on masks that they have changed before."""

Result = TypeVar("Result")


def length(config: SamRefConfig) -> int:
    """Return the number of steps of a run."""
    return config.steps


def run(config: SamRefConfig, watcher: Watcher | None = None) -> int:
    """Encode the photos, find teacher masks, train, and validate. An interrupted run continues, whichever of these it was doing.

    Raises:
        ConfigError: If the stage is unknown, the crops are too small, there is nothing to learn from, or it is held out.
        MissingExtraError: If several processes are wanted and Lightning Fabric is missing.
        DataError: If sets or photos are missing.
        WeightsError: If the model's weights are missing and cannot be fetched.
    """
    from fretsaw import catalog

    if config.stage not in STAGES:
        raise ConfigError(f"expected a stage out of {', '.join(STAGES)}; got {config.stage!r}")
    check_map_scale(config.map_scale)
    if not 0 <= config.average < 1:
        raise ConfigError(f"expected a decay of the average from 0 to below 1, got {config.average}")
    if 0 < config.crop <= 2 * MARGIN:
        raise ConfigError(f"expected crops of more than {2 * MARGIN} pixels, or 0 for the whole map, got {config.crop}")
    find_places(config)
    processes = launch(config.devices, config.device)
    folder = Path(config.cache) if config.cache else Path(config.out) / "cache"
    data = _first(processes, lambda: collect_from(config, folder))
    model = catalog.build(config.model, size=config.size).clicks
    if model is None:
        raise ConfigError(f"expected a model that takes clicks, got {config.model}")
    own = {name: tensor.clone() for name, tensor in model.mask_decoder.state_dict().items()}
    change: dict[str, Tensor] = {}
    if config.decoder and config.stage == "decoder":
        load_strictly(model.mask_decoder, {name: tensor.float() for name, tensor in load_state_dict(Path(config.decoder)).items()})
    elif config.decoder:
        change = learned_change(Path(config.decoder), own, config)
        low_rank.load_trained(model.mask_decoder, change, own)
    model = model.to(device_of(processes, config.device)).to_precision(precision_named(config.dtype))
    place, checksum, key = folder / f"{model.checksum[:12]}-{config.size}", model.checksum, model.preprocessing.key

    def filled() -> tuple[EmbeddingCache, list[Photo]]:
        cache = EmbeddingCache(place, checksum, key)  # opened after the first process has filled it, so that every process sees all of its content
        minutes = config.encode_minutes or None
        return cache, fill(data, model, cache, folder / "teacher", minutes if processes.rank == 0 else 1e-9, lambda text: say(watcher, text))

    cache, photos = _first(processes, filled)
    data = replace(data, training=photos)
    if config.stage == "decoder":
        stage = DecoderStage(model, config, processes)
        done = train(config, model, stage, data, cache, watcher, processes)
        if processes.rank == 0:
            if not data.held_out:
                export(stage, config, model, done)  # without a validation set, the last step's weights are the result
            export_model(config, own, model.checksum)
        processes.wait()
        return done
    torch.manual_seed(config.seed)  # pyright: ignore[reportUnknownMemberType]
    stored = cache.get((*data.held_out_photos, *data.training)[0].key)
    levels = [level.shape[1] for level in stored.high_res]
    new = SamRef(config.width, config.blocks, stored.final.shape[1], config.map_scale, levels)
    refiner = catalog.build_refiner(config.start) if config.start else new
    refiner.global_from, refiner.patch_from = LEARNING_FROM
    # With the channels last in memory a CPU's step takes a third of the time.
    device = device_of(processes, config.device)
    refiner = cast("Any", refiner.requires_grad_(True)).to(device, memory_format=torch.channels_last)  # torch's stubs lack `memory_format`
    assert isinstance(refiner, SamRef)
    for module in refiner.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = NORM_MOMENTUM
    stage = RefinerStage(refiner, model, config, change, processes)
    done = train(config, model, stage, data, cache, watcher, processes)
    if processes.rank == 0:
        export(stage, config, model, done, "last")
    processes.wait()
    return done


def train(
    config: SamRefConfig,
    model: SamClicks,
    learner: RefinerStage | DecoderStage,
    data: ClickData,
    cache: EmbeddingCache,
    watcher: Watcher | None,
    processes: Processes = ONE,
) -> int:
    """Run a stage, or continue it; returns the number of steps made."""
    map_scale = learner.refiner.map_scale if isinstance(learner, RefinerStage) else 1
    objects = ClickObjects(data.training, cache, model.preprocessing, config.seed, map_scale)
    say(watcher, f"learning from {objects.photos} photos, deciding by {len(data.held_out)} objects")
    learned = [(name, parameter) for name, parameter in learner.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for _, p in learned if p.ndim > 1], "lr": config.rate, "weight_decay": config.weight_decay},
        {"params": [p for _, p in learned if p.ndim <= 1], "lr": config.rate, "weight_decay": 0.0},
    ]

    def batches(first: int) -> Iterator[ClickBatch]:
        order = shares(first, config.steps, config.batch, processes)
        loader = DataLoader(objects, batch_sampler=order, num_workers=config.workers, collate_fn=collate, persistent_workers=config.workers > 0)
        return itertools.chain(loader)

    def decision() -> Callable[[int], Mapping[str, float]] | None:
        if not data.held_out:
            return None
        return SamRefValidation(config, model, learner, data, cache) if processes.rank == 0 else lambda done: {}  # only the first process validates

    return fit(
        learner,
        processes.setup(learner),
        batches,
        torch.optim.AdamW(groups),
        Schedule(config.steps, config.warmup, decay=cosine),
        Path(config.out),
        seed=config.seed,
        minutes=config.minutes or None,
        watcher=watcher,
        validate=decision(),
        validate_every=config.validate_every,
        processes=processes,
    )


def _first(processes: Processes, make: Callable[[], Result]) -> Result:
    """Call `make` in every process, in the first one before the others, and return its result: the others read the files that the first one wrote."""
    if processes.rank == 0:
        made = make()
        processes.wait()
        return made
    processes.wait()
    return make()
