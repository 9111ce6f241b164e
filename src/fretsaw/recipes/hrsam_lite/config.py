"""The settings of the recipe hrsam_lite."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class HrsamLiteConfig:
    """Everything that `--set key=value` can change.

    Attributes:
        photos: Folders of photos, separated by commas.
        out: Folder of the run: checkpoint, log, the student's weights.
        exclude: Files that list stems of photos to leave out, separated by commas.
        allow_held_out: Names of sets, separated by commas, that are learned from although they are held out to choose by or to report on.
        size: Side of the views in pixels.
        batch: Views per step.
        steps: Steps in all.
        rate: Peak learning rate of the new layers.
        trunk_rate: Factor on it for the pretrained trunk.
        frozen: Blocks of the pretrained trunk, from the pixels on, that stay as they are; 3 of them end at stride 4 and cost a third of a step.
        weight_decay: Of AdamW.
        warmup: Steps.
        prompts: Prompt sets per view for the loss through the decoder; 0 leaves that loss out.
        mask_weight: Weight of the loss through the decoder.
        seed: Of everything drawn.
        workers: Processes that read photos.
        minutes: Stop after so long, to be continued; 0 trains to the end.
        device: "cpu", "cuda", "mps".
        dtype: Of the teacher, and of autocast in the student: "float32" or "bfloat16".
        start: Weights to start from, an earlier stage's student.safetensors; without, the trunk starts from ImageNet.
        trunk: File of the trunk's ImageNet weights; "" takes the catalogue's.
        teacher: Name or file of the teacher.
        stated: The catalogue's name of the teacher where `teacher` is a file: what the student's file says it stands on.
    """

    photos: str
    out: str
    exclude: str = ""
    allow_held_out: str = ""
    size: int = 512
    batch: int = 2
    steps: int = 20000
    rate: float = 1e-3
    trunk_rate: float = 0.3
    frozen: int = 3
    weight_decay: float = 0.01
    warmup: int = 300
    prompts: int = 6
    mask_weight: float = 1.0
    seed: int = 0
    workers: int = 1
    minutes: float = 0.0
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    start: str = ""
    trunk: str = ""
    teacher: str = "sam2-hiera-tiny"
    stated: str = ""
    map_weights: tuple[float, float, float] = field(default=(1.0, 0.25, 0.25))
