"""The settings of HRSAM's recipe: the paper's three stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fretsaw.errors import ConfigError
from fretsaw.training.distillation import VIEWS


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
