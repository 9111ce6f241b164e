"""The settings of the recipe fretsaw_tiny."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FretsawTinyConfig:
    """Everything that `--set key=value` can change.

    Attributes:
        photos: Folders of photos, separated by commas.
        out: Folder of the run: checkpoint, log, the student's weights, and the stored views unless `cache` says where.
        exclude: Files that list stems of photos to leave out, separated by commas.
        allow_held_out: Names of sets, separated by commas, that are learned from although they are held out to choose by or to report on.
        width: Hidden units of the third stage's feed-forward layers, of 1536.
        calibration: Views that the cut is fitted on.
        size: Side of the views in pixels, a multiple of 32.
        side: Side of the student's input where nobody asks for another.
        views: Fixed views to learn from; each is encoded when it is first needed.
        held_out: Views to decide by, of photos that are not learned from where there are enough.
        cache: Folder of the encoded views.
        batch: Views per step.
        steps: Steps in all.
        rate: Peak learning rate.
        weight_decay: Of AdamW.
        warmup: Steps.
        start: A student's file to go on from, in place of cutting one.
        decoder: File of a mask decoder that learned to answer clicks on this student's embeddings (`fretsaw train sam_ref --set stage=decoder
            --set model=STUDENT`), to be written into the student's file.
        share: How far its weights go from the teacher's decoder's (0) to those of the file (1).
        prompts: Prompt sets per view for the loss through the decoder; 0 leaves that loss out.
        mask_weight: Weight of the loss through the decoder.
        validate_every: Steps; 0 validates at the end only.
        seed: Of everything drawn.
        minutes: Stop after so long, to be continued; 0 trains to the end.
        device: "cpu", "cuda", "mps".
        teacher: Name or file of SAM 2 Hiera-T.
    """

    photos: str
    out: str
    exclude: str = ""
    allow_held_out: str = ""
    width: int = 592
    calibration: int = 192
    size: int = 512
    side: int = 672
    views: int = 640
    held_out: int = 32
    cache: str = ""
    batch: int = 4
    steps: int = 700
    rate: float = 2e-5
    weight_decay: float = 0.01
    warmup: int = 30
    start: str = ""
    decoder: str = ""
    share: float = 0.5
    prompts: int = 0
    mask_weight: float = 1.0
    validate_every: int = 100
    seed: int = 0
    minutes: float = 0.0
    device: str = "cpu"
    teacher: str = "sam2-hiera-tiny"
