"""HRSAM and HRSAM++: the paper's three settings, each one command from photos to a checkpoint that loads by its path.

paper    HRSAM (Huang et al. 2024), section 4.1 and appendix D.3
command  1 clicks    fretsaw train hrsam --set stage=clicks --set photos=coco/instances_train2017.json,lvis/lvis_v1_train.json --set click_decay=0.6,0.9 \\
                     --set start=mae_pretrain_vit_base.pth --set out=runs/clicks --set devices=4 --set device=cuda --set dtype=bfloat16
         2 distil    fretsaw train hrsam --set stage=distil --set photos=coco/train2017 --set start=mae_pretrain_vit_base.pth --set out=runs/distil
         3 finetune  fretsaw train hrsam --set stage=finetune --set photos=hqseg44k-train:hqseg44k --set start=runs/distil/model.safetensors \\
                     --set out=runs/finetune
         with anchor=512: HRSAM++
teacher  sam-vit-h, whose prompt encoder and mask decoder the student keeps
data     folders of photos; folders with images and masks; COCO and LVIS files

The same command run again continues. `out` holds checkpoint.pt, log.jsonl, curves.png, model.safetensors and, for distil, the teacher's embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.data import DataLoader

from fretsaw.backbones.sam import SamMaskDecoder
from fretsaw.data.datasets import open_part
from fretsaw.data.samples import Sample
from fretsaw.data.whole_views import ObjectViews, photo_files, stack
from fretsaw.errors import ConfigError
from fretsaw.layers.blocks import FlashSwinBlock
from fretsaw.methods.hrsam import HRSAMEncoder, build_hrsam, build_hrsam_clicks, describe_encoder
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.recipes.hrsam_steps import ClickLearning, HrsamDistillation
from fretsaw.training.distillation import VIEWS, DistilViews, fill
from fretsaw.training.embedding_cache import EmbeddingCache
from fretsaw.training.loop import Schedule, Watcher, fit, linear, say
from fretsaw.training.processes import ONE, Processes, device_of, launch, shares
from fretsaw.training.provenance import settings_text


@dataclass(frozen=True, slots=True)
class HrsamStage:
    """What the paper's settings differ in; each can be set.

    Attributes:
        steps: Iterations.
        drop_path: Rate of stochastic depth of the last block.
        layer_decay: Factor on the rate from block to block, from the last to the first.
    """

    steps: int
    drop_path: float
    layer_decay: float


STAGES = {"clicks": HrsamStage(160_000, 0.2, 0.9), "distil": HrsamStage(160_000, 0.2, 0.9), "finetune": HrsamStage(40_000, 0.0, 1.0)}

ON_THE_FLY = "none"
"""`cache=none`: the teacher runs at every step instead."""


@dataclass(frozen=True)
class HrsamConfig:
    """Everything that `--set key=value` can change. What is None is taken from the stage.

    Attributes:
        photos: Places, separated by commas: for distil folders of photos, COCO or LVIS files; for clicks and finetune folders with images and masks,
            COCO or LVIS files; NAME:PATH where a folder's name does not say its layout. Places are train parts, see `allow_held_out`.
        out: Folder of the run.
        stage: The paper's setting: clicks, distil or finetune.
        exclude: Files that list stems of photos to leave out, separated by commas; distil only.
        allow_held_out: Names of sets, separated by commas, that are learned from although they are held out to choose by or to report on.
        encoder: A key of `SIZES`; left to the file where `start` is a model of this recipe.
        anchor: Side of HRSAM++'s anchor map in pixels; 0: HRSAM.
        size: Side of the model's input.
        batch: Images per step and process.
        steps: Iterations.
        rate: Peak learning rate.
        weight_decay: Of AdamW.
        warmup: Steps of linear warm-up from a hundredth of the rate; then the rate falls linearly to 0.
        layer_decay: See `HrsamStage`.
        drop_path: See `HrsamStage`.
        views: Fixed views of a photo whose embeddings are stored: 1 whole, 2 also mirrored.
        cache: Folder of the teacher's embeddings; "" puts it into `out`, "none" lets the teacher run at every step.
        most_clicks: Clicks after the first, at most.
        click_decay: n more clicks come with a probability that is proportional to this to the n-th power; one number for all places, or one each.
        click_spread: k of the clicks after the first.
        decoder: "trained" or "frozen": prompt encoder and mask decoder, in clicks and finetune.
        teacher: Name or file of a SAM.
        start: A masked autoencoder's weights, or a model of this recipe; "" starts from random numbers.
        seed: Of everything drawn.
        workers: Processes that read photos.
        devices: Processes that share a step, by Lightning Fabric; on CUDA each takes a GPU.
        minutes: Stop after so long, to be continued; 0 trains to the end.
        device: "cpu", "cuda", "mps".
        dtype: Of autocast in the encoder: "float32" or "bfloat16".
        log_every: Steps between two lines of the log.
        save_every: Seconds between checkpoints.
    """

    photos: str
    out: str
    stage: Literal["clicks", "distil", "finetune"] = "distil"
    exclude: str = ""
    allow_held_out: str = ""
    encoder: str = "b"
    anchor: int = 0
    size: int = 1024
    batch: int = 1
    steps: int | None = None
    rate: float = 1e-4
    weight_decay: float = 0.05
    warmup: int = 1500
    layer_decay: float | None = None
    drop_path: float | None = None
    views: int = 1
    cache: str = ""
    most_clicks: int = 20
    click_decay: tuple[float, ...] = (0.6,)
    click_spread: float = 1.7
    decoder: Literal["trained", "frozen"] = "trained"
    teacher: str = "sam-vit-h"
    start: str = ""
    seed: int = 0
    workers: int = 4
    devices: int = 1
    minutes: float = 0.0
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    log_every: int = 20
    save_every: float = 120.0

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ConfigError(f"expected a stage out of {', '.join(STAGES)}; got {self.stage!r}")
        for name in ("steps", "drop_path", "layer_decay"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(STAGES[self.stage], name))
        places = len(self.photos.split(","))
        if len(self.click_decay) not in (1, places):
            raise ConfigError(f"expected one click_decay for all places or one for each of {places}, got {len(self.click_decay)}")
        if not 1 <= self.views <= len(VIEWS):
            raise ConfigError(f"expected 1 to {len(VIEWS)} views, got {self.views}")

    @property
    def allowed(self) -> list[str]:
        """The parts of `allow_held_out`."""
        return self.allow_held_out.split(",")

    @property
    def places(self) -> list[Path]:
        """The parts of `photos`."""
        return [Path(place) for place in self.photos.split(",")]


Config = HrsamConfig
"""What `fretsaw train` fills in for this recipe."""


def run(config: HrsamConfig, watcher: Watcher | None = None) -> int:
    """Train, or continue, and write `out`/model.safetensors; returns the number of steps made.

    Raises:
        ConfigError: If settings or files do not fit each other, or a place is held out.
        DataError: If there are no photos or objects.
        MissingExtraError: If several processes are wanted and Lightning Fabric is missing.
        WeightsError: If the teacher's or the starting weights are missing or damaged.
    """
    if config.stage == "distil":
        _photos(config)
    else:
        _objects(config)
    processes = launch(config.devices, config.device)
    teacher = load_teacher(config) if config.stage == "distil" or not is_model(config.start) else None
    return train(config, load_student(config, teacher), teacher, watcher, processes)


def train(config: HrsamConfig, student: SamClicks, teacher: SamClicks | None, watcher: Watcher | None = None, processes: Processes = ONE) -> int:
    """Run the recipe on networks that are built already; see `run`."""
    device = device_of(processes, config.device)
    student.to(device).train()
    for network in (student.prompt_encoder, student.mask_decoder):
        network.requires_grad_(config.stage != "distil" and config.decoder == "trained")
    if config.stage == "distil":
        assert teacher is not None
        teacher.to(device).eval().requires_grad_(False)
        module, views = _distillation(config, student, teacher, watcher, processes, device)
        collate = None
    else:
        module = ClickLearning(student, device, config.dtype, config.most_clicks, config.click_decay, config.click_spread, config.seed, processes.rank)
        views, collate = ObjectViews(_objects(config), student.preprocessing, config.seed), stack
    optimizer = torch.optim.AdamW(parameter_groups(module, config), lr=config.rate, betas=(0.9, 0.999))
    assert config.steps is not None, "filled in from the stage"
    steps = config.steps

    def batches(first: int) -> Iterator[Any]:
        order = shares(first, steps, config.batch, processes)
        return iter(DataLoader(views, batch_sampler=order, collate_fn=collate, num_workers=config.workers, persistent_workers=config.workers > 0))

    folder = Path(config.out)
    done = fit(
        module,
        processes.setup(module),
        batches,
        optimizer,
        Schedule(steps, config.warmup, decay=linear),
        folder,
        seed=config.seed,
        minutes=config.minutes or None,
        watcher=watcher,
        processes=processes,
        log_every=config.log_every,
        save_every=config.save_every,
    )
    if processes.rank == 0:
        export(student, folder / "model.safetensors", {"stage": config.stage, "steps": str(done), "config": settings_text(config)})
    processes.wait()
    return done


def _objects(config: HrsamConfig) -> list[list[Sample]]:
    return [list(open_part(place, allowed=config.allowed).samples) for place in config.places]


def _photos(config: HrsamConfig) -> list[Path]:
    return photo_files(config.places, [Path(file) for file in config.exclude.split(",") if file], config.allowed)


def load_teacher(config: HrsamConfig) -> SamClicks:
    """Return the SAM whose decoder is kept and, in distil, whose embeddings are learned.

    Raises:
        ConfigError: If the model is no SAM: a decoder that wants finer maps, which HRSAM does not make, cannot be kept.
    """
    from fretsaw import catalog

    clicks = catalog.build(config.teacher, size=config.size).clicks
    if clicks is None or not isinstance(clicks.mask_decoder, SamMaskDecoder):
        raise ConfigError(f"expected a SAM as teacher (sam-vit-b, sam-vit-l, sam-vit-h or a file of one), got {config.teacher}")
    return clicks


def load_student(config: HrsamConfig, teacher: SamClicks | None) -> SamClicks:
    """Return the network to train, with the settings' rate of stochastic depth.

    Raises:
        ConfigError: If `start` is a model of another kind than `anchor` asks for.
        WeightsError: If `start` is missing, damaged or does not fit.
    """
    from fretsaw.weights import load_state_dict, read_metadata

    if is_model(config.start):
        path = Path(config.start)
        stated = read_metadata(path).get("hrsam") if path.suffix == ".safetensors" else None
        student = build_hrsam_clicks(load_state_dict(path), stated, config.size)
    else:
        assert teacher is not None
        encoder = build_hrsam(config.encoder, config.anchor or None)
        if config.start:
            encoder.load_mae(load_state_dict(Path(config.start)))
        student = SamClicks(encoder, teacher.prompt_encoder, teacher.mask_decoder, teacher.preprocessing)
    encoder = student.image_encoder
    assert isinstance(encoder, HRSAMEncoder)
    if config.anchor and encoder.anchor_size != config.anchor:
        raise ConfigError(f"expected a start with an anchor map of {config.anchor} pixels, got {encoder.anchor_size or 'none'} in {config.start}")
    assert config.drop_path is not None, "filled in from the stage"
    for index, block in enumerate(encoder.blocks):
        assert isinstance(block, FlashSwinBlock)
        block.drop_path.rate = config.drop_path * index / max(len(encoder.blocks) - 1, 1)
    return student


def is_model(start: str) -> bool:
    """Whether a file holds a whole HRSAM, its decoder included, rather than a masked autoencoder or nothing.

    Raises:
        MissingWeightsError: If there is no such file.
    """
    from fretsaw.weights import load_state_dict

    return bool(start) and any(name.startswith(("image_encoder.", "backbone.")) for name in load_state_dict(Path(start)))


def parameter_groups(module: nn.Module, config: HrsamConfig) -> list[dict[str, Any]]:
    """Group what is trained: the rate falls from the last block to the first, and vectors (norms, biases) are not decayed.

    Block i of D has the rate's factor layer_decay^(D - i). Scans, positions and patches keep the full rate, and so do outputs and decoder.

    Source: HRSAM (paper 003), appendix D.3; the numbers and the exceptions are those of its published configuration.
    """
    assert config.layer_decay is not None, "filled in from the stage"
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    blocks = [int(name.partition(".blocks.")[2].split(".")[0]) for name, _ in named if ".blocks." in name]
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        number = name.partition(".blocks.")[2].split(".")[0]
        rate = config.rate * (config.layer_decay ** (1 + max(blocks) - int(number)) if number else 1)
        groups.setdefault((rate, config.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def export(student: SamClicks, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a model that `fretsaw.load(path)` takes, with what it was made from."""
    from safetensors.torch import save

    from fretsaw.images import write_bytes

    assert isinstance(student.image_encoder, HRSAMEncoder)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in student.state_dict().items()}
    write_bytes(path, save(tensors, {"recipe": "hrsam", "hrsam": describe_encoder(student.image_encoder), **metadata}))


def _distillation(
    config: HrsamConfig, student: SamClicks, teacher: SamClicks, watcher: Watcher | None, processes: Processes, device: torch.device
) -> tuple[nn.Module, DistilViews]:
    """Return the module and its data; the first process stores what the teacher makes of the photos, the others wait for it."""
    photos = _photos(config)
    if config.cache == ON_THE_FLY:
        return HrsamDistillation(student.image_encoder, teacher, device, config.dtype), DistilViews(photos, config.views, teacher.preprocessing, config.seed)
    folder = Path(config.cache) if config.cache else Path(config.out) / "teacher"

    def said(done: int, total: int) -> None:
        if done == total or done % 50 == 0:
            say(watcher, f"teacher's embeddings: {done} of {total} photos")

    def store() -> tuple[EmbeddingCache, dict[str, str]]:
        cache = EmbeddingCache(folder, teacher.checksum, teacher.preprocessing.key)
        return cache, fill(cache, photos, config.views, teacher, folder / "photos.json", config.workers, said)

    if processes.rank == 0:
        cache, keys = store()
        processes.wait()
    else:
        processes.wait()
        cache, keys = store()  # all of it is there by now
    return HrsamDistillation(student.image_encoder, None, device, config.dtype), DistilViews(
        photos, config.views, teacher.preprocessing, config.seed, keys, cache
    )
