"""The settings of SAM-REF's recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
        val: Such sets to validate on, beside `deciding`; they must be val parts. Without any, the last step's weights are stored.
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
        share: How far the decoder goes from the model's own to the learned one: 1 takes the learned one; less keeps more of the model's own
            answers. The refiner is trained over this decoder, and stage 1 writes it as model.safetensors; a finished stage 1, run again, writes another share.
        rank: Such files hold what the decoder learned as matrices of this rank; 0 stores it whole.
        start: File of a refiner to go on from, in place of a new one.
        size: Side of the model's input; 512 lets a CPU see four times as many photos, and a refiner of that size refines at half the resolution.
        width: Channels of the refiner: 64 (paper) or 32.
        blocks: Residual blocks.
        map_scale: Side of the refiner's maps over that of the decoder's: 1, or 2 if the input is small and the decoder's map lacks thin parts.
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
    dtype: Literal["float32", "bfloat16"] = "float32"
