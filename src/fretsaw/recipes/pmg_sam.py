"""PMG-SAM: learn to find and cut the object of an image without a prompt; U²-Net and the image encoder stay as they are.

paper    PMG-SAM (Sensors 2026, 26, 365), sections 4.3 and 4.7
command  fretsaw train pmg_sam --set data=FOLDER --set out=runs/pmg
         fretsaw train pmg_sam --set data=../shared/data --set sets=coco_mval,ccp,human_seg --set out=runs/pmg
camouflage  the same with --set data=COD10K --set start=runs/pmg/best.safetensors --set stage=cos (90 epochs, a tenth of the rate, halved when it stalls)
data     a folder with `images` and `masks` (a tenth is held out), or several sets by name with lists of their parts in DATA/splits

Three masks are compared with the truth: the final one at the size of the view, the pre-mask, and what the decoder makes of a coarse truth in the pre-mask's
place, which is how tiles of large images are refined.

Source: PMG-SAM (paper 001), section 4.3.

Deviation: the pre-mask is supervised as well, which the paper leaves to the decoder's gradient; without it the pre-mask need not look like a mask at all.
Deviation: a third term, the decoder on a coarse truth, prepares the high-resolution pathway; 0 leaves it out.
Deviation: numbers that the paper's text lost: rate 1e-4 (camouflage 1e-5), weight decay 1e-4, betas 0.9 and 0.999, steps of 0.5, rotations of 15 degrees.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw.errors import ConfigError
from fretsaw.methods.pmg_sam.build import PAPER, TINY, PmgSettings, build_pmg_sam, start_from_sam2
from fretsaw.methods.pmg_sam.model import PmgSam
from fretsaw.methods.pmg_sam.pairing import DualFeatures
from fretsaw.methods.pmg_sam.stored import read_network, write_network
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.recipes.pmg_data import CachedFeatures, Frozen, LiveFeatures, PmgSplits, open_parts, resolve
from fretsaw.training.best import BestSoFar
from fretsaw.training.curves import draw_run
from fretsaw.training.loop import Schedule, Watcher, cosine, fit
from fretsaw.training.losses import bce, dice, soft_iou
from fretsaw.training.provenance import settings_text
from fretsaw.weights import read_metadata

STAGES: dict[str, dict[str, Any]] = {
    "dis": {"epochs": 300, "rate": 1e-4, "patience": 40, "decay_every": 40, "halve_after": 0},
    "cos": {"epochs": 90, "rate": 1e-5, "patience": 20, "decay_every": 0, "halve_after": 5},
}
"""The paper's two trainings: what a setting of 0 stands for. Source: PMG-SAM (paper 001), section 4.3."""

READS_FROZEN = ("fusions.", "pyramid.", "injection.")
"""Parts of the network whose first convolutions fit the frozen networks' channels."""

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
    dtype: str = "float32"


Config = PmgSamConfig
"""What `fretsaw train` fills in for this recipe."""


def settled(config: PmgSamConfig) -> PmgSamConfig:
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


def mask_losses(logits: Tensor, target: Tensor, iou_weight: float) -> Tensor:
    """Return BCE + dice + iou_weight x IoU loss, a mean over the batch; the target is brought to the logits' size or the logits to the target's.

    Args:
        logits: (B, 1, h, w), enlarged where the target is larger.
        target: (B, 1, S, S) in [0, 1].
        iou_weight: See `PmgSamConfig`.

    Source: PMG-SAM (paper 001), section 4.3, the total loss.
    """
    if logits.shape[-2:] != target.shape[-2:]:
        logits = F.interpolate(logits, size=target.shape[-2:], mode="bilinear", align_corners=False)
    return (bce(logits, target) + dice(logits, target) + iou_weight * soft_iou(logits, target)).mean()


def coarse_pre_mask(target: Tensor, generator: torch.Generator) -> Tensor:
    """Return a truth (B, 1, S, S) as the logits (B, 1, S/4, S/4) of a pre-mask from a map 4 to 16 times coarser, with its contrast lost in part."""
    side = target.shape[-1] // 4
    factor = int(torch.randint(4, 17, (1,), generator=generator))
    small = F.adaptive_avg_pool2d(target, max(2, side // factor))
    probs = F.interpolate(small, size=(side, side), mode="bilinear", align_corners=False)
    return (2 * probs - 1) * (3 + 5 * torch.rand(1, generator=generator).item())


class PmgTraining(nn.Module):
    """The trained part and the frozen one; `step` is what the loop calls, with (features, masks (B, 1, S, S))."""

    def __init__(self, network: PmgSam, config: PmgSamConfig) -> None:
        super().__init__()
        self.network = network
        self._config = config

    def step(self, batch: tuple[DualFeatures, Tensor], done: int) -> Mapping[str, Tensor]:
        """Return the losses of a batch."""
        config = self._config
        features, target = batch
        small = F.avg_pool2d(target, 4)
        with torch.autocast(target.device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
            result = self.network(features)
        losses = {
            "final": mask_losses(result.mask_logits.float(), target, config.iou_weight),
            "pre_mask": mask_losses(result.pre_mask.float(), small, config.iou_weight),
        }
        total = losses["final"] + config.pre_mask_weight * losses["pre_mask"]
        if config.edge_weight:
            guide = coarse_pre_mask(target, torch.Generator().manual_seed(config.seed * 1_000_003 + done))
            with torch.autocast(target.device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
                refined = self.network.refine(features, guide)
            losses["edge"] = mask_losses(refined.float(), target, config.iou_weight)
            total = total + config.edge_weight * losses["edge"]
        return {"loss": total, **losses}

    @torch.no_grad()
    def validate(self, batches: Iterator[tuple[DualFeatures, Tensor]]) -> dict[str, float]:
        """Return the mean loss of the final mask, and IoU and mean absolute error of both masks, over the validation part."""
        self.eval()
        sums: dict[str, float] = {}
        count = 0
        for features, target in batches:
            result = self.network(features)
            found = {"loss": mask_losses(result.mask_logits, target, self._config.iou_weight) * len(target)}
            for name, logits in (("pre_mask", result.pre_mask), ("final", result.mask_logits)):
                logits = F.interpolate(logits, size=target.shape[-2:], mode="bilinear", align_corners=False)
                mask, truth = logits > 0, target > 0.5
                found[f"{name} IoU"] = ((mask & truth).sum((1, 2, 3)) / (mask | truth).sum((1, 2, 3)).clamp(min=1)).sum()
                found[f"{name} MAE"] = (logits.sigmoid() - target).abs().mean((1, 2, 3)).sum()
            count += len(target)
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        self.train()
        return {name: value / max(1, count) for name, value in sums.items()}


def schedule_of(config: PmgSamConfig, per_epoch: int, watch: BestSoFar) -> Schedule:
    """Return the rate's course: warm-up, then halved every so many epochs (dichotomous), or when validation stalls (camouflage), or a cosine.

    Source: PMG-SAM (paper 001), section 4.3.
    """
    steps, warmup = config.epochs * per_epoch, min(round(config.warmup_epochs * per_epoch), config.epochs * per_epoch // 2)
    if config.decay == "cosine":
        return Schedule(steps, warmup, decay=cosine)
    every = STAGES[config.stage]["decay_every"] * per_epoch

    def decay(way: float) -> float:
        passed = 0.5 ** int(way * (steps - warmup) / every + 1e-9) if every else 1.0
        return passed * watch.factor()

    return Schedule(steps, warmup, decay=decay)


def train(config: PmgSamConfig, network: PmgSam, frozen: Frozen, parts: PmgSplits, settings: PmgSettings, watcher: Watcher | None = None) -> int:
    """Run the recipe, or continue it; returns the number of steps made. The best network so far lies in `out`/best.safetensors."""
    config, out = settled(config), Path(config.out)
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


def groups(network: nn.Module, config: PmgSamConfig) -> list[dict[str, object]]:
    """Group the parameters: no weight decay on vectors and scales."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "lr": config.rate, "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "lr": config.rate, "weight_decay": 0.0},
    ]


def length(config: PmgSamConfig) -> int:
    """Return how many steps the recipe makes at most, for the progress bar."""
    config = settled(config)
    return config.epochs * math.ceil(len(open_parts(config, None).train) / config.batch)


def run(config: PmgSamConfig, watcher: Watcher | None = None) -> int:
    """Build everything, train, and keep the best network in `out`/best.safetensors, half precision.

    Raises:
        ConfigError: If a setting does not exist or does not fit.
        DataError: If there are no images.
        WeightsError: If weights are missing and cannot be fetched.
    """
    config = settled(config)
    open_parts(config, None)  # what is wrong with the data is said before networks are read
    frozen = resolve(config)
    settings = settings_of(config, frozen.stage_channels, frozen.level_channels)
    parts = open_parts(config, frozen)
    torch.manual_seed(config.seed)
    network = build_pmg_sam(settings)
    if config.start:
        start_network(network, read_network(Path(config.start), stands_on(Path(config.start))).state_dict())
    else:
        start_decoder(network, frozen)
    return train(config, network, frozen, parts, settings, watcher)


def start_network(network: PmgSam, earlier: Mapping[str, Tensor]) -> None:
    """Start from an earlier run's parameters; what reads the frozen networks' channels stays fresh where those have another number of them.

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
    """Start from the decoder of the model that the image encoder belongs to, where it is SAM 2's."""
    if hasattr(getattr(frozen.model.mask_decoder, "decoder", None), "upscale_layer_norm"):
        start_from_sam2(network, frozen.model)
