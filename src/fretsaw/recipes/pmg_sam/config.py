"""The settings of PMG-SAM's recipe: the paper's two stages and its two networks."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from fretsaw.errors import ConfigError
from fretsaw.methods.pmg_sam.build import PAPER, TINY, PmgSettings

STAGES: dict[str, dict[str, Any]] = {
    "dis": {"epochs": 300, "rate": 1e-4, "patience": 40, "decay_every": 40, "halve_after": 0},
    "cos": {"epochs": 90, "rate": 1e-5, "patience": 20, "decay_every": 0, "halve_after": 5},
}
"""The paper's two trainings: what a setting of 0 stands for. Source: PMG-SAM (paper 001), section 4.3."""

NETWORKS = {"tiny": TINY, "paper": PAPER}


@dataclass(frozen=True, slots=True)
class PmgSamConfig:
    """Everything that `--set key=value` can change.

    Attributes:
        data: A folder with `images` and `masks`, or one that holds several sets.
        out: Folder of the run: checkpoint, log, curves, best.safetensors.
        sets: Names of the sets in `data`, separated by commas; "" takes `data` itself.
        pseudo: A folder of images with made masks (`fretsaw train pseudo_masks`), added to the training part; "" adds none.
        held_out: Share of a plain folder that is kept for validation.
        allow_held_out: Names of sets, separated by commas, that are learned from although they are held out to choose by or to report on.
        salient: Objects that U²-Net's map covers less than this are left out: they are not what stands out. 0 keeps all.
        stage: "dis", or "cos" for camouflaged objects after it.
        start: Weights to start from, an earlier run's best.safetensors, over this encoder or another; "" starts from SAM 2's decoder.
        encoder: Catalogue name or file of the model whose image encoder is the local branch.
        saliency: A safetensors file of the whole U²-Net's published weights; "" takes U²-Netp.
        network: "tiny" or "paper".
        fusion: "drfm", "none", "residual"; "" as the network has it, like all below.
        injection: "hiera", "none", "u2net", "both", "encoder".
        pyramid: "stages", "encoder".
        width: Channels of the fusion; 0 as the network has it, like all below.
        blocks: Number of SRBs.
        iterations: M.
        interactions: Number of BAIMs.
        directions: 2 or 1.
        size: Side of the views.
        batch: Views per step.
        epochs: Passes over the training part; 0 as the stage has it, like the next two.
        rate: Peak learning rate.
        patience: Validations without improvement until the run ends.
        warmup_epochs: Of linear warm-up.
        decay: "stage" lowers the rate as the stage does; "cosine" to nothing at the last step, for runs of few epochs.
        weight_decay: Of AdamW.
        iou_weight: Of the IoU loss; BCE and dice have 1 each.
        pre_mask_weight: Of the pre-mask's losses.
        edge_weight: Of the decoder's losses on a coarse truth.
        features: "live" computes the frozen features in every step; "cached" once, in half precision, for `views` fixed views an image and for validation.
        cache: Folder of those features, shared by runs; "" is `out`/features.
        views: Fixed views per image when cached.
        limit: Learn from the first so many images of each set only; 0 from all.
        validations: At most so many images are validated on, evenly out of the sets; 0 takes all.
        validate_steps: Steps between validations; 0 validates once an epoch.
        rank: The file holds what training changed of SAM 2's decoder as matrices of this rank, two fifths of its size; 0 stores the decoder whole.
        seed: Of everything drawn.
        workers: Processes that read photos.
        minutes: Stop after so long, to be continued; 0 trains to the end.
        device: "cpu", "cuda", "mps".
        dtype: Of the image encoder, and of autocast in the trained part: "float32" or "bfloat16".
    """

    data: str
    out: str
    sets: str = ""
    pseudo: str = ""
    held_out: float = 0.1
    allow_held_out: str = ""
    salient: float = 0.0
    stage: str = "dis"
    start: str = ""
    encoder: str = "sam2-hiera-tiny"
    saliency: str = ""
    network: str = "tiny"
    fusion: str = ""
    injection: str = ""
    pyramid: str = ""
    width: int = 0
    blocks: int = 0
    iterations: int = 0
    interactions: int = 0
    directions: int = 0
    size: int = 512
    batch: int = 4
    epochs: int = 0
    rate: float = 0.0
    patience: int = 0
    warmup_epochs: float = 10
    decay: str = "stage"
    weight_decay: float = 1e-4
    iou_weight: float = 10.0
    pre_mask_weight: float = 0.5
    edge_weight: float = 0.25
    features: str = "live"
    cache: str = ""
    views: int = 2
    limit: int = 0
    validations: int = 0
    validate_steps: int = 0
    rank: int = 0
    seed: int = 0
    workers: int = 1
    minutes: float = 0.0
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"


def with_stage_defaults(config: PmgSamConfig) -> PmgSamConfig:
    """Return the configuration with the stage's numbers in place of zeros.

    Raises:
        ConfigError: If stage, network, features or size is not one of those that exist.
    """
    for name, value, known in (
        ("stage", config.stage, STAGES),
        ("network", config.network, NETWORKS),
        ("features", config.features, ("live", "cached")),
        ("decay", config.decay, ("stage", "cosine")),
    ):
        if value not in known:
            raise ConfigError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
    if config.size % 64 or config.size < 64:
        raise ConfigError(f"size: expected a multiple of 64, got {config.size}")
    usual = STAGES[config.stage]
    return replace(config, **{name: getattr(config, name) or usual[name] for name in ("epochs", "rate", "patience")})


def settings_of(config: PmgSamConfig, stages: tuple[int, ...], levels: tuple[int, ...]) -> PmgSettings:
    """Return the network's settings: the named network, the encoder's channels, and what the configuration changes."""
    changed = {f.name: getattr(config, f.name) for f in fields(PmgSettings) if getattr(config, f.name, None)}
    return replace(NETWORKS[config.network], stages=stages, levels=levels, **changed)
