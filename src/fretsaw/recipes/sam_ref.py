"""SAM-REF: first the decoder of a frozen model is fine-tuned on clicks, then a refiner learns on top of it.

paper    SAM-REF (Yu et al. 2024), sections 3.5 and 4.1.3
command  fretsaw train sam_ref --set data=FOLDER --set photos=FOLDER --set out=runs/sam_ref
         fretsaw train sam_ref --set stage=decoder --set data=FOLDER --set out=runs/sam_ref_decoder      (stage 1; left out where the decoder is good as it is)
         on a GPU: --set device=cuda --set dtype=bfloat16 --set batch=8 --set workers=8
model    sam2-hiera-tiny, or any that takes clicks
data     objects of labelled sets (train parts; coco_mval, ccp and human_seg unless `sets` says others), masks that the model finds by itself on photos
         without labels, and objects pasted on photos
decides  the val parts of the sets, the mean over which counts: the refiner with the lowest NoC@90 + NoC@95 is kept as refiner.safetensors,
         what the last step left as last.safetensors

Every photo is encoded once. A step clicks a batch of objects with the model in the loop; stage 1 learns from the answer to the last click, stage 2 from crops
of the answers to any.

Deviation: Stage 2 learns from the answers to all clicks of an object alike, InterFormer's strategy from one, the n-th with probability gamma^n: at its gamma,
0.6, n rarely goes beyond three, the refiner is there for the later ones, and clicking is what takes the time. Stage 1 learns from one, at gamma 0.75.

Deviation: GlobalDiff learns on crops of half the map's side, since errors are where the object is and a crop costs a quarter.

Deviation: Targets are the share of a map's pixel that the object covers, not a decision, so that a mask enlarged four times keeps its edge.

Deviation: The best of SAM's three masks is refined at every click, as sessions answer, not token 0 from the second click on.

Deviation: Stage 1 learns dice and predicted IoU beside the normalised focal loss, since sessions choose among three masks by that prediction.

Deviation: The paper learns from COCO and LVIS. Outlines drawn by people lie beside the edge; photos with pasted objects, whose masks are exact, are mixed in.

Deviation: AdamW at 5e-4 for some thousand steps in place of 1e-4 for 80 thousand.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from fretsaw.catalog.refiners import DECODER_PREFIX
from fretsaw.data.click_samples import Photo
from fretsaw.errors import ConfigError
from fretsaw.evaluation.held_out import held_out_figures
from fretsaw.layers.roi_align import roi_align
from fretsaw.methods.sam_clicks import SamClicks, pad_points
from fretsaw.methods.sam_ref.model import GLOBAL_FROM, SamRef, check_map_scale
from fretsaw.methods.sam_ref.networks import RefinerFeatures
from fretsaw.methods.sam_ref.places import click_place
from fretsaw.recipes.click_data import ClickData, Places, collect, fill, make_close_ups, make_photos
from fretsaw.recipes.sam_ref_crops import CELL, MARGIN, CropBatch, cut_crop, draw_crop, patch_box, together
from fretsaw.recipes.sam_ref_losses import decoder_losses, refinement_losses
from fretsaw.training.click_batches import ClickBatch, ClickObjects, collate
from fretsaw.training.clicking import answered_clicks, click_through, draw_clicks
from fretsaw.training.embedding_cache import EmbeddingCache
from fretsaw.training.loop import Schedule, Watcher, cosine, fit, say
from fretsaw.training.losses import normalised_focal
from fretsaw.training.processes import ONE, Processes, device_of, launch, shares
from fretsaw.training.provenance import settings_text
from fretsaw.types import ImageEmbedding
from fretsaw.weights import load_state_dict, load_strictly, low_rank

if TYPE_CHECKING:
    from fretsaw.backbones.sam_decoder import MaskDecoder

NORM_MOMENTUM = 0.01
"""Of the running statistics of batch normalisation: a batch holds a few crops, and what is measured must not hang on the last ten of them."""

LEARNING_FROM = 1, 6
"""While it learns GlobalDiff answers from the first click on and PatchDiff from the sixth, so that both learn from what they made of many masks."""

STAGES = ("refiner", "decoder")


@dataclass(frozen=True, slots=True)
class SamRefConfig:
    """Everything that `--set key=value` can change.

    Attributes:
        out: Folder of the run: checkpoint, log, weights.
        data: Folder of labelled sets with their `splits`; "" where `train` says all.
        stage: "refiner", or "decoder", the paper's first stage.
        sets: Labelled sets of `data`, separated by commas; NAME@COUNT learns from so many photos of a set, drawn by the seed.
        train: Other data sets to learn from, separated by commas: folders, COCO or LVIS files, NAME:PATH as in evaluation (`hqseg44k-train:PATH`), each with
            @COUNT or without; they must be train parts.
        val: Such sets to decide by, beside `deciding`; they must be val parts. Where nothing decides, the last step's weights are kept.
        allow_held_out: Names of sets, separated by commas, that are taken although they are another part.
        fine: Of these, the sets that objects to paste and close-ups are taken from, in the same spelling; "" takes all of them, for close-ups those with fine
            outlines.
        photos: Folders of photos without labels, separated by commas.
        teacher_photos: At most so many of these photos are searched for objects.
        pasted: So many photos are made by pasting objects of the labelled sets on photos without labels (or on their own photos): exact masks.
        close_ups: So many parts of photos around one object are learned from beside the photos, as a session that zooms in sees them: of pasted objects and of
            the labelled sets other than COCO's, whose outlines are too coarse to be looked at closely.
        limit: Learn from the first so many photos only; 0 from all.
        cache: Folder of embeddings and teacher masks, shared by runs; "" is `out`/cache.
        encode_minutes: Stop encoding after so long and learn from what is there; the same command goes on encoding. 0 encodes everything first.
        model: Name or file of the frozen model.
        decoder: File of stage 1's decoder, to take the place of the model's own; it travels in the refiner's file.
        share: How far the decoder goes from the model's own to the learned one: 1 takes that, less keeps more of what training did not speak of. It is what
            a refiner learns over, and what stage 1 writes as model.safetensors beside the decoder; a finished stage 1, run again, writes another share.
        rank: Such files hold what the decoder learned as matrices of this rank; 0 stores it whole.
        start: File of a refiner to go on from, in place of a new one.
        size: Side of the model's input; 512 lets a CPU see four times as many photos, and a refiner of that size refines at half the resolution.
        width: Channels of the refiner: 64 (paper) or 32.
        blocks: Residual blocks.
        map_scale: Side of the refiner's maps over that of the decoder's: 1, or 2 for an input so small that the decoder's map lacks thin parts.
        crop: Side of the crops that GlobalDiff learns on, in pixels of the refiner's maps; 0 is the whole map.
        crops: Crops a step.
        patches: Of these, PatchDiff learns from so many: its crops are 256 pixels wide whatever they show.
        clicks: Clicks an object, at most in stage 1, where the last of them is learned from.
        average: Of stage 1; decay of the moving average of the decoder's weights, which decides and is kept in place of the weights of a step (0.99: about the
            last hundred steps); 0 keeps those of the step.
        gamma: Of stage 1; the probability of n clicks before the last falls as gamma^n.
        real: Of stage 1; the share of objects that are clicked as people click, around the deepest place of what is wrong in place of at it.
        batch: Objects a step.
        steps: Steps in all.
        rate: Peak learning rate.
        weight_decay: Of AdamW.
        warmup: Steps.
        held_out: At most so many objects to decide by.
        deciding: Sets of `data` whose val parts they come from in equal shares, separated by commas; "" is `sets`.
        validate_every: Steps between two decisions.
        seed: Of everything drawn.
        workers: Processes that read photos.
        minutes: Stop training after so long, to be continued; 0 trains to the end.
        devices: Processes that share a step, by Lightning Fabric; on CUDA each takes a GPU. Each takes `batch` objects.
        device: "cpu", "cuda", "mps".
        dtype: "float32", or "bfloat16" for the encoder and autocast in the refiner, on CUDA.
    """

    out: str
    data: str = ""
    stage: str = "refiner"
    sets: str = "coco_mval,ccp,human_seg"
    train: str = ""
    val: str = ""
    allow_held_out: str = ""
    fine: str = ""
    photos: str = ""
    teacher_photos: int = 600
    pasted: int = 0
    close_ups: int = 0
    limit: int = 0
    cache: str = ""
    encode_minutes: float = 0.0
    model: str = "sam2-hiera-tiny"
    decoder: str = ""
    share: float = 1.0
    rank: int = 32
    start: str = ""
    size: int = 1024
    width: int = 32
    blocks: int = 3
    map_scale: int = 1
    crop: int = 128
    crops: int = 16
    patches: int = 4
    clicks: int = 12
    average: float = 0.0
    gamma: float = 0.75
    real: float = 0.0
    batch: int = 2
    steps: int = 8000
    rate: float = 5e-4
    weight_decay: float = 1e-4
    warmup: int = 200
    held_out: int = 48
    deciding: str = ""
    validate_every: int = 1000
    seed: int = 0
    workers: int = 1
    minutes: float = 0.0
    devices: int = 1
    device: str = "cpu"
    dtype: str = "float32"


Config = SamRefConfig
"""What `fretsaw train` fills in for this recipe."""


# Steps -------------------------------------------------------------------------------------------------------------------------------------------


class RefinerStage(nn.Module):
    """Stage 2: the refiner learns, the model stays as it is."""

    def __init__(self, refiner: SamRef, model: SamClicks, config: SamRefConfig, change: Mapping[str, Tensor] | None = None, processes: Processes = ONE) -> None:
        super().__init__()
        self.refiner = refiner
        self.change = change or {}
        """What the refiner's file holds of the decoder that stage 1 made."""
        self._model = [model.requires_grad_(False)]  # in a list: not a submodule, so it is not part of the checkpoint
        self._config, self._rank, self._device = config, processes.rank, device_of(processes, config.device)

    def forward(self, batch: ClickBatch, done: int) -> Mapping[str, Tensor]:
        """Return the losses of equation 3 for crops of a batch at any of its clicks; "decoder" is the frozen decoder's own, for comparison."""
        config, refiner = self._config, self.refiner
        rng = _drawing(config.seed, done, self._rank)
        seen = self._crops(batch.to(self._device), rng)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
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
        """Click every object with model and refiner in the loop, and cut crops at clicks that are drawn among all."""
        config, refiner = self._config, self.refiner
        refiner.eval()
        features = refiner.global_diff.prepare(batch.pixels, batch.embedding)
        clicked = answered_clicks(self._model[0], batch, config.clicks, rng, lambda *asked: refine_batch(refiner, features, *asked))
        refiner.train()
        crops = []
        for _ in range(config.crops):
            point, answer = clicked[int(rng.integers(len(clicked)))]
            row, coarse = int(rng.integers(len(answer))), refiner.enlarged(answer)
            place = click_place(point.point_coords[row : row + 1], point.point_labels[row : row + 1], batch.pixels.shape[-1], coarse)
            wrong = ((coarse[row, 0] > 0) != (batch.coverage[row, 0] > 0.5)) & (batch.valid[row, 0] > 0)
            crops.append(cut_crop(batch, point, coarse, row, draw_crop(rng, place, wrong, config.crop, CELL * refiner.map_scale)))
        return together(crops)


class DecoderStage(nn.Module):
    """Stage 1: the mask decoder learns, encoders stay as they are.

    Source: SAM-REF, sections 3.5 (normalised focal loss) and 4.1.3; averaging: Polyak & Juditsky 1992.
    """

    def __init__(self, model: SamClicks, config: SamRefConfig, processes: Processes = ONE) -> None:
        super().__init__()
        self._model = [model.requires_grad_(False)]
        self.decoder = model.mask_decoder.requires_grad_(True)
        self.averaged = AveragedModel(self.decoder, multi_avg_fn=get_ema_multi_avg_fn(config.average)).requires_grad_(False) if config.average else None
        self._config, self._rank, self._device = config, processes.rank, device_of(processes, config.device)

    @property
    def kept(self) -> MaskDecoder:
        """The decoder that decides and is kept: the one that learns, or the moving average of its weights before every step."""
        return self.decoder if self.averaged is None else cast("MaskDecoder", self.averaged.module)

    def forward(self, batch: ClickBatch, done: int) -> Mapping[str, Tensor]:
        """Return the losses of the answer to the last click."""
        if self.averaged is not None:
            self.averaged.update_parameters(self.decoder)
        batch = batch.to(self._device)
        rng = _drawing(self._config.seed, done, self._rank)
        point = click_through(self._model[0], batch, draw_clicks(rng, self._config.clicks, self._config.gamma), rng, self._config.real)
        prompt = self._model[0].embed_prompt(*pad_points(point.point_coords, point.point_labels), point.previous_logits)
        losses, answer = decoder_losses(*self._model[0].decode(batch.embedding, prompt), batch.coverage, batch.valid, first=point.previous_logits is None)
        return {"loss": torch.stack([*losses.values()]).sum(), **losses, "wrong": _wrong(answer.detach(), batch.coverage, batch.valid)}


def refine_batch(
    refiner: SamRef, features: RefinerFeatures, coords: Tensor, labels: Tensor, coarse: Tensor, previous: Tensor | None, before: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`SamRef.refine` for several images; the state is GlobalDiff's error map, (B, 1, s, s)."""
    answers, errors = [], []
    for row in range(len(coarse)):
        rows = slice(row, row + 1)
        own = RefinerFeatures(features.fused[rows], features.embedding[rows], features.model_size)
        state = None if before is None else {"error_map": before[rows]}
        answer, state = refiner.refine(own, coords[rows], labels[rows], coarse[rows], None if previous is None else previous[rows], state)
        answers.append(answer)
        errors.append(state["error_map"])
    return torch.cat(answers), torch.cat(errors)


def _drawing(seed: int, done: int, rank: int) -> np.random.Generator:
    """What a step draws with: the first process as if it were alone."""
    return np.random.default_rng((seed, 1, done, rank) if rank else (seed, 1, done))


def _wrong(logits: Tensor, coverage: Tensor, valid: Tensor) -> Tensor:
    """Return the share of pixels on the wrong side."""
    return (((logits > 0) != (coverage > 0.5)).float() * valid).sum() / valid.sum().clamp(min=1)


# Runs --------------------------------------------------------------------------------------------------------------------------------------------


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
        return Decision(config, model, learner, data, cache) if processes.rank == 0 else lambda done: {}  # the first process alone is asked

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


Result = TypeVar("Result")


class Decision:
    """Measures the held-out objects, remembers the best and keeps its weights; called by the loop."""

    def __init__(self, config: SamRefConfig, model: SamClicks, learner: RefinerStage | DecoderStage, data: ClickData, cache: EmbeddingCache) -> None:
        self._config, self._model, self._learner, self._data, self._cache = config, model, learner, data, cache
        self._keys = {photo.path: photo.key for photo in data.held_out_photos}
        self._best = Path(config.out) / "best.json"
        start = Path(config.out) / "start.json"
        if not start.exists():
            Path(config.out).mkdir(parents=True, exist_ok=True)
            start.write_text(json.dumps(self._measure(None), indent=1))
        self.start: dict[str, float] = json.loads(start.read_text())

    def __call__(self, done: int) -> Mapping[str, float]:
        """Return the held-out figures, of each set by itself as well, and by how much they differ from those before training ("less NoC@90" is better)."""
        self._learner.eval()
        if isinstance(self._learner, RefinerStage):
            figures = dict(self._measure(_as_used(self._learner.refiner)))
        else:
            learning, self._model.mask_decoder = self._model.mask_decoder, self._learner.kept
            figures = dict(self._measure(None))
            self._model.mask_decoder = learning
        best = json.loads(self._best.read_text()) if self._best.exists() else None
        if best is None or _order(figures) < _order(best):
            export(self._learner, self._config, self._model, done)
            self._best.write_text(json.dumps({"step": done, **figures}, indent=1))
        self._learner.train()
        return figures | {f"less {name}": self.start[name] - figures[name] for name in ("NoC@90", "NoC@95")}

    def _measure(self, refiner: SamRef | None) -> Mapping[str, float]:
        def stored(path: Path) -> ImageEmbedding:
            embedding = self._cache.get(self._keys[path])
            return ImageEmbedding(embedding.final.to(self._model.device), tuple(level.to(self._model.device) for level in embedding.high_res))

        sets = self._data.held_out_sets
        groups = {name: [sample for sample, own in zip(self._data.held_out, sets, strict=True) if own == name] for name in dict.fromkeys(sets)}
        parts = {name: held_out_figures(samples, self._model, refiner, stored) for name, samples in groups.items()}
        means = {figure: float(np.mean([part[figure] for part in parts.values()])) for figure in next(iter(parts.values()))}
        return means | {f"{name} {figure}": part[figure] for name, part in parts.items() if len(parts) > 1 for figure in ("NoC@90", "NoC@95", "boundary IoU")}


def _as_used(refiner: SamRef) -> SamRef:
    """Return a refiner that answers when one that was loaded does."""
    copy = refiner.for_answers()
    copy.global_from, copy.patch_from = GLOBAL_FROM, None
    return copy


def _order(figures: Mapping[str, float]) -> tuple[float, float]:
    """Lower is better: clicks to 0.90 and 0.95 together, then the boundary."""
    return figures["NoC@90"] + figures["NoC@95"], -figures["boundary IoU"]


def export(learner: RefinerStage | DecoderStage, config: SamRefConfig, model: SamClicks, done: int, name: str = "") -> Path:
    """Write `out`/refiner.safetensors, `out`/decoder.safetensors or another name: matrices in half precision, vectors as they are, what they were made from."""
    from safetensors.torch import save

    from fretsaw.images import write_bytes

    stage = learner.refiner if isinstance(learner, RefinerStage) else learner.kept
    tensors = {name: _halved(tensor) for name, tensor in stage.state_dict().items()}
    metadata = {"recipe": "sam_ref", "steps": str(done), "model": config.model, "model_checksum": model.checksum, "settings": settings_text(config)}
    if isinstance(learner, RefinerStage):
        metadata["config"] = json.dumps(learner.refiner.config)
        tensors |= {f"{DECODER_PREFIX}{name}": tensor for name, tensor in learner.change.items()}
        metadata |= {low_rank.RANK: str(config.rank)} if learner.change and config.rank else {}
    path = Path(config.out) / f"{name or config.stage}.safetensors"
    write_bytes(path, save(tensors, metadata))
    return path


def _places(config: SamRefConfig) -> tuple[Places, list[str], list[str], list[str]]:
    """Return where objects are found, and the names of the sets to learn from, of those with fine outlines, and of those that decide; all are checked."""

    def parts(text: str) -> list[str]:
        return [part for part in text.split(",") if part]

    sets = parts(config.sets) if config.data else []
    names = sets + parts(config.train)
    if not names:
        raise ConfigError("expected sets to learn from, in data or in train, got none")
    deciding = (parts(config.deciding) or [name.partition("@")[0] for name in sets]) + parts(config.val)
    fine = parts(config.fine) or names
    places = Places(Path(config.data) if config.data else None, parts(config.allow_held_out))
    for part, asked in (("train", [*names, *fine]), ("val", deciding)):
        for name in asked:
            places.check(name, part)
    return places, names, fine, deciding


def _collect(config: SamRefConfig, folder: Path) -> ClickData:
    places, names, fine, deciding = _places(config)
    grounds = [Path(photos) for photos in config.photos.split(",") if photos]
    made = make_photos(places, fine, grounds, config.pasted, folder / "pasted", config.seed) if config.pasted else []
    close = make_close_ups(places, fine, made, config.close_ups, folder / "close_ups", config.seed) if config.close_ups else []
    return collect(places, names, grounds, config.teacher_photos, config.held_out, config.seed, config.limit, deciding, (made, close))


def run(config: SamRefConfig, watcher: Watcher | None = None) -> int:
    """Encode, find teacher masks, train, decide; every part goes on where it was interrupted.

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
    _places(config)
    processes = launch(config.devices, config.device)
    folder = Path(config.cache) if config.cache else Path(config.out) / "cache"
    data = _first(processes, lambda: _collect(config, folder))
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
    model = model.to(device_of(processes, config.device)).to_precision(torch.bfloat16 if config.dtype == "bfloat16" else torch.float32)
    place, checksum, key = folder / f"{model.checksum[:12]}-{config.size}", model.checksum, model.preprocessing.key

    def filled() -> tuple[EmbeddingCache, list[Photo]]:
        cache = EmbeddingCache(place, checksum, key)  # by each process when its turn comes, so that it knows what the first one stored
        minutes = config.encode_minutes or None
        return cache, fill(data, model, cache, folder / "teacher", minutes if processes.rank == 0 else 1e-9, lambda text: say(watcher, text))

    cache, photos = _first(processes, filled)
    data = replace(data, training=photos)
    if config.stage == "decoder":
        stage = DecoderStage(model, config, processes)
        done = train(config, model, stage, data, cache, watcher, processes)
        if processes.rank == 0:
            if not data.held_out:
                export(stage, config, model, done)  # nothing decides: what the last step left is the result
            export_model(config, own, model.checksum)
        processes.wait()
        return done
    torch.manual_seed(config.seed)
    stored = cache.get((*data.held_out_photos, *data.training)[0].key)
    levels = [level.shape[1] for level in stored.high_res]
    new = SamRef(config.width, config.blocks, stored.final.shape[1], config.map_scale, levels)
    refiner = catalog.build_refiner(config.start) if config.start else new
    refiner.global_from, refiner.patch_from = LEARNING_FROM
    # With the channels last in memory a CPU's step takes a third of the time.
    device = device_of(processes, config.device)
    refiner = refiner.requires_grad_(True).to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (torch's stubs lack it)
    for module in refiner.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = NORM_MOMENTUM
    stage = RefinerStage(refiner, model, config, change, processes)
    done = train(config, model, stage, data, cache, watcher, processes)
    if processes.rank == 0:
        export(stage, config, model, done, "last")
    processes.wait()
    return done


def _first(processes: Processes, make: Callable[[], Result]) -> Result:
    """Return what `make` makes in every process, made by the first one before the others: what that one writes the others read."""
    if processes.rank == 0:
        made = make()
        processes.wait()
        return made
    processes.wait()
    return make()


def learned_change(file: Path, own: Mapping[str, Tensor], config: SamRefConfig) -> dict[str, Tensor]:
    """Return what stage 1 learned, part of the way and at the rank that the configuration says, as `low_rank.restore` takes it.

    Args:
        file: Stage 1's decoder.
        own: The model's own decoder.
        config: Its `share` and `rank`; rank 0 keeps whole parameters.
    """
    learned = low_rank.part_way(load_state_dict(file), own, config.share)
    return {name: _halved(tensor) for name, tensor in (low_rank.compress(learned, own, config.rank) if config.rank else learned).items()}


def export_model(config: SamRefConfig, own: Mapping[str, Tensor], checksum: str) -> None:
    """Write `out`/model.safetensors: the model's name and its learned decoder's change; it loads by its path, a few MB over the model's own."""
    from safetensors.torch import save

    from fretsaw.images import write_bytes

    file = Path(config.out) / "decoder.safetensors"
    if file.exists():
        metadata = {"recipe": "sam_ref", "model": config.model, "model_checksum": checksum, "settings": settings_text(config)}
        write_bytes(Path(config.out) / "model.safetensors", save(learned_change(file, own, config), metadata))


def _halved(tensor: Tensor) -> Tensor:
    """Return matrices in half precision, vectors as they are."""
    return (tensor.detach().cpu().half() if tensor.ndim > 1 else tensor.detach().cpu()).contiguous()
