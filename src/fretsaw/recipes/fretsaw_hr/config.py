"""The settings of the recipe fretsaw_hr."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FretsawHrConfig:
    """Everything that `--set key=value` can change.

    Attributes:
        photos: Folders of photos, separated by commas.
        out: Folder of the run: checkpoint, log, the student's weights, and the stored views unless `cache` says where.
        exclude: Files that list stems of photos to leave out, separated by commas.
        allow_held_out: Names of sets, separated by commas, that are learned from although they are held out to choose by or to report on.
        window: Side of the windows in tokens.
        shift: Of the windows.
        anchor: Side of the anchor map in tokens; 0 leaves it out.
        state_size: States per channel of the cycle-scan; 0 leaves it out.
        calibration: Views that the student is fitted on before the first step; 0 starts from SAM 2's layers as they are.
        size: Side of the views in pixels, a multiple of 32; larger than 16 times `anchor`, up to where the untrained student is the teacher itself.
        side: Side of the student's input where nobody asks for another.
        views: Fixed views to learn from; each is encoded when it is first needed.
        held_out: Views to decide by, which come after those.
        cache: Folder of the encoded views.
        batch: Views per step.
        steps: Steps in all.
        rate: Peak learning rate of the new layers.
        trunk_rate: Factor on it for the layers that were SAM 2's.
        weight_decay: Of AdamW.
        warmup: Steps.
        block_weight: Weight of the distance behind each changed block's attention.
        prompts: Prompt sets per view for the loss through the decoder; 0 leaves that loss out.
        mask_weight: Weight of the loss through the decoder.
        rank: Of the change of a matrix, as the file stores it.
        log_every: Steps between two lines of the log.
        validate_every: Steps; 0 validates at the end only.
        seed: Of everything drawn.
        minutes: Stop after so long, to be continued; 0 trains to the end.
        device: "cpu", "cuda", "mps".
        teacher: Name or file of a SAM 2.
    """

    photos: str
    out: str
    exclude: str = ""
    allow_held_out: str = ""
    window: int = 14
    shift: int = 7
    anchor: int = 64
    state_size: int = 8
    calibration: int = 32
    size: int = 1536
    side: int = 2048
    views: int = 512
    held_out: int = 16
    cache: str = ""
    batch: int = 1
    steps: int = 1000
    rate: float = 1e-4
    trunk_rate: float = 0.1
    weight_decay: float = 0.01
    warmup: int = 20
    block_weight: float = 0.3
    prompts: int = 0
    mask_weight: float = 0.05
    rank: int = 64
    log_every: int = 10
    validate_every: int = 100
    seed: int = 0
    minutes: float = 0.0
    device: str = "cpu"
    teacher: str = "sam2-hiera-tiny"
