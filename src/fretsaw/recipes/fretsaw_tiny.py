"""fretsaw-tiny: SAM 2 Hiera-T cut down to a size that ships, then taught by the network that it was cut from.

paper    HRSAM (Huang et al. 2024), section 4 and appendix D, setting 2: distillation without labels
command  fretsaw train fretsaw_tiny --set photos=FOLDER --set out=runs/tiny
teacher  sam2-hiera-tiny, whose first two stages, prompt encoder and mask decoder the student keeps as they are
data     any folder of photos; no mask is read

    photo -> view (3, S, S) -> [stem: two stages, frozen] -> (192, S/8, S/8) -> third stage, narrower -> final (256, S/16, S/16)
                                     |                                                                        |
                                     +-> the two fine maps, the teacher's own                                 +-> against the teacher's

What is frozen is computed once a view and kept on disk together with the teacher's embedding, so that a step costs the third stage and the decoder alone.

Deviation: the student is the teacher without its fourth stage and with a narrower third one, in place of HRSAM's network: what it starts from is fitted, so
that a CPU's hour is enough to teach it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw.backbones import sam2
from fretsaw.data.views import PhotoViews, fingerprint, list_photos
from fretsaw.errors import StateDictError
from fretsaw.images import write_bytes
from fretsaw.methods.sam_clicks import SamClicks, build_sam2
from fretsaw.recipes.grc_data import moved, normalised, stack
from fretsaw.recipes.hrsam_lite import prompted_losses, random_prompts
from fretsaw.recipes.pruning import fit_linear, narrow
from fretsaw.training.embedding_cache import SHARD_VIEWS, EmbeddingCache
from fretsaw.training.loop import Schedule, Watcher, cosine, fit, say
from fretsaw.training.losses import standardised_mse
from fretsaw.training.provenance import settings_text
from fretsaw.types import ImageEmbedding
from fretsaw.weights import load_state_dict
from fretsaw.weights.low_rank import part_way

STEM = "stage2"
"""The tap that holds what the stem computes."""

FINE_MAPS = ("mask_decoder.conv_s0.", "mask_decoder.conv_s1.")
"""SAM 2 counts the projections of the two fine maps to the decoder; here the image encoder computes them."""


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


Config = FretsawTinyConfig
"""What `fretsaw train` fills in for this recipe."""


class StoredViews:
    """Fixed views of photos as the teacher and the frozen stem see them; stored a shard at a time, when the first of it is asked for.

    Args:
        photos: Files; their names and sizes are part of a view's key, so that another selection does not take these views for its own.
        teacher: Whose image encoder is SAM 2's.
        size: Side of a view.
        seed: Of the views.
        cache: Where they lie.
        device: Where the teacher computes.
    """

    def __init__(self, photos: list[Path], teacher: SamClicks, size: int, seed: int, cache: EmbeddingCache, device: str) -> None:
        self._views = PhotoViews(photos, size, seed)
        self._prefix = f"{fingerprint(photos)[:12]}-{size}-{seed}-"
        self._teacher, self._cache, self._device = teacher, cache, device

    def __getitem__(self, index: int) -> ImageEmbedding:
        """Return the teacher's embedding of a view, B = 1, with the stem's map as the tap `STEM`."""
        if self._key(index) not in self._cache:
            first = index - index % SHARD_VIEWS
            self._cache.fill((self._key(i) for i in range(first, first + SHARD_VIEWS)), self._compute)
        return self._cache.get(self._key(index))

    def _key(self, index: int) -> str:
        return f"{self._prefix}{index}"

    def _compute(self, key: str) -> ImageEmbedding:
        pixels = normalised(self._views[int(key.removeprefix(self._prefix))][None], self._teacher, self._device)
        with torch.no_grad():
            return self._teacher.encoder(pixels, (STEM,))


def cut(
    weights: Mapping[str, Tensor],
    table: Mapping[str, Any],
    teacher: SamClicks,
    views: StoredViews,
    config: FretsawTinyConfig,
    said: Callable[[str], None] = lambda text: None,
) -> SamClicks:
    """Return the student before training: the teacher without its fourth stage, third stage narrowed, refitted on the first views.

    Args:
        weights: The teacher's, under transformers' names.
        table: The student's configuration, the teacher's with three stages.
        teacher: Whose answers are fitted.
        views: Of which the first `config.calibration` are fitted on.
        config: The recipe's.
        said: Told how far it is, which takes minutes.
    """
    theirs: Any = teacher.image_encoder
    student = build_sam2(without_fourth_stage(weights, theirs.trunk.stage_ends), table, config.size).to(config.device)
    encoder: Any = student.image_encoder
    known = []
    for index in range(config.calibration):
        known.append(views[index])
        if (index + 1) % SHARD_VIEWS == 0:
            said(f"{index + 1} of {config.calibration} views to fit on are encoded")
    with torch.no_grad():
        ours = [view.taps[STEM].permute(0, 2, 3, 1).to(config.device) for view in known]
        goals = list(ours)
        blocks = third_stage(encoder)
        for number, (block, original) in enumerate(zip(blocks, third_stage(theirs), strict=False), 1):
            ours, goals = refit(block, original, ours, goals, config.width)
            said(f"{number} of {len(blocks)} blocks are narrowed")
        project = encoder.neck.convs[0]
        weight, bias = fit_linear(rows(ours), rows([view.final.permute(0, 2, 3, 1).to(config.device) for view in known]) - encoder.no_memory)
        project.weight.copy_(weight[:, :, None, None])
        project.bias.copy_(bias)
    return student


def refit(block: Any, original: Any, ours: list[Tensor], goals: list[Tensor], width: int) -> tuple[list[Tensor], list[Tensor]]:
    """Narrow one block and fit what it adds so that it makes up for the errors of the blocks before it; in place.

    Args:
        block: The student's, a copy of the teacher's.
        original: The teacher's.
        ours: What the student brings to the block, (1, h, w, C) each.
        goals: What the teacher brings to it.
        width: Hidden units that stay.

    Returns:
        What student and teacher have behind the block.
    """
    attended: list[Tensor] = []
    with original.layer_norm2.register_forward_hook(lambda _module, inputs, _output: attended.append(inputs[0])):
        goals = [original(tokens) for tokens in goals]
    mixed: list[Tensor] = []
    projection, block.attn.proj = block.attn.proj, nn.Identity()
    with block.layer_norm2.register_forward_hook(lambda _module, inputs, _output: mixed.append(inputs[0])):
        for tokens in ours:
            block(tokens)
    block.attn.proj = projection
    ours = [_residual(block, tokens) for tokens in ours]
    mixed = [both - tokens for both, tokens in zip(mixed, ours, strict=True)]
    weight, bias = fit_linear(rows(mixed), rows([goal - tokens for goal, tokens in zip(attended, ours, strict=True)]))
    projection.weight.copy_(weight)
    projection.bias.copy_(bias)
    ours = [tokens + projection(mix) for tokens, mix in zip(ours, mixed, strict=True)]
    normed = [block.layer_norm2(tokens) for tokens in ours]
    narrow(block.mlp, rows(normed), rows([goal - tokens for goal, tokens in zip(goals, ours, strict=True)]), width)
    return [tokens + block.mlp(norm) for tokens, norm in zip(ours, normed, strict=True)], goals


def without_fourth_stage(weights: Mapping[str, Tensor], stage_ends: Sequence[int]) -> dict[str, Tensor]:
    """Return SAM 2's weights without the fourth stage, under the names of the network that has three.

    Args:
        weights: Under transformers' names.
        stage_ends: Number of the last block of each of the four stages.
    """
    blocks, convs = "vision_encoder.backbone.blocks.", "vision_encoder.neck.convs."
    gone = tuple(f"{blocks}{number}." for number in range(stage_ends[2] + 1, stage_ends[3] + 1))
    kept: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name.startswith((*gone, f"{convs}0.")):
            continue
        # The neck counts its convolutions from the coarsest stage on.
        number, _, rest = name.removeprefix(convs).partition(".") if name.startswith(convs) else ("", "", "")
        kept[f"{convs}{int(number) - 1}.{rest}" if number else name] = value.clone()  # not the teacher's own tensor: the student changes it
    return kept


def stem_blocks(encoder: Any) -> int:
    """Return how many blocks the first two stages have."""
    return encoder.trunk.stage_ends[1] + 1


def third_stage(encoder: Any) -> Any:
    """Return the blocks that a student learns."""
    return encoder.trunk.blocks[stem_blocks(encoder) :]


def continued(encoder: Any, stem: Tensor) -> Tensor:
    """Return the student's final map from what the stem computes, (B, C, S/8, S/8)."""
    tokens = stem.permute(0, 2, 3, 1)
    for block in third_stage(encoder):
        tokens = block(tokens)
    project = encoder.neck.convs[0]
    return (F.linear(tokens, project.weight.flatten(1), project.bias) + encoder.no_memory).permute(0, 3, 1, 2)


class FretsawTinyDistillation(nn.Module):
    """The part of the student that learns, and the frozen teacher; `step` is what the loop calls."""

    def __init__(self, student: SamClicks, teacher: SamClicks, config: FretsawTinyConfig) -> None:
        super().__init__()
        encoder: Any = student.image_encoder
        self.learns = nn.ModuleList([*third_stage(encoder), encoder.neck.convs[0]]).requires_grad_(True)
        self._encoder, self._teacher = [encoder], [teacher.requires_grad_(False)]  # in lists: not submodules, so not part of the checkpoint
        self._config = config

    def step(self, views: ImageEmbedding, done: int) -> Mapping[str, Tensor]:
        """Return the losses for stored views."""
        config, teacher = self._config, self._teacher[0]
        ours = ImageEmbedding(continued(self._encoder[0], views.taps[STEM]), views.high_res)
        losses = {"final": standardised_mse(ours.final, views.final)}
        total = losses["final"]
        if config.prompts:
            losses |= prompted_losses(teacher, ours, views, config.prompts, config.size, config.seed * 1_000_003 + done)
            total = total + config.mask_weight * (losses["mask"] + losses["iou"])
        return {"loss": total, **losses}


def agreement(student: SamClicks, teacher: SamClicks, views: StoredViews, config: FretsawTinyConfig) -> dict[str, float]:
    """Return how near the student comes on held-out views: "final", as in training, and "mask IoU", of its masks with the teacher's."""
    distances: list[float] = []
    overlaps: list[Tensor] = []
    for index in range(config.views, config.views + config.held_out):
        view = moved(views[index], config.device)
        with torch.no_grad():
            ours = ImageEmbedding(continued(student.image_encoder, view.taps[STEM]), view.high_res)
            coords, labels = random_prompts(1, 6, config.size, torch.Generator().manual_seed(index))
            prompt = teacher.embed_prompt(coords[0].to(config.device), labels[0].to(config.device))
            mine, theirs = (teacher.decode(embedding, prompt)[0] > 0 for embedding in (ours, view))
        distances.append(standardised_mse(ours.final, view.final).item())
        union = (mine | theirs).sum((-2, -1))
        overlaps.append(((mine & theirs).sum((-2, -1)) / union.clamp(min=1))[union > 0])
    return {"final": sum(distances) / len(distances), "mask IoU": torch.cat(overlaps).mean().item()}


def run(config: FretsawTinyConfig, watcher: Watcher | None = None) -> int:
    """Cut, train, and write `out`/student.safetensors: a whole SAM 2 with three stages in half precision, which `fretsaw.load` opens.

    Returns:
        The number of steps made.

    Raises:
        ConfigError: If the photos are a set's that is held out.
        DataError: If there are no photos.
        WeightsError: If the teacher's weights are missing and cannot be fetched.
    """
    from fretsaw import catalog

    excluded = [Path(file) for file in config.exclude.split(",") if file]
    photos = list_photos([Path(folder) for folder in config.photos.split(",")], excluded, config.allow_held_out.split(","))
    file = Path(config.teacher) if config.teacher not in catalog.CATALOGUE else catalog.weights_path(config.teacher)
    weights = load_state_dict(file)
    teacher = catalog.build(config.teacher, size=config.size).clicks
    assert teacher is not None
    done, student = train(config, weights, sam2.HIERA_SHORT, teacher, photos, watcher)
    facts = {"steps": str(done), "base": config.teacher, "base_checksum": teacher.checksum, "size": str(config.side), "settings": settings_text(config)}
    state = state_of(student, weights, teacher)
    if config.decoder:
        state = with_decoder(state, Path(config.decoder), config.share)
    export(state, Path(config.out) / "student.safetensors", facts)
    return done


def train(
    config: FretsawTinyConfig, weights: Mapping[str, Tensor], table: Mapping[str, Any], teacher: SamClicks, photos: list[Path], watcher: Watcher | None = None
) -> tuple[int, SamClicks]:
    """Cut the student out of the teacher and let it learn, or go on with both; returns the number of steps made and the student."""
    teacher.requires_grad_(False).to(config.device)
    cache = EmbeddingCache(Path(config.cache or f"{config.out}/views"), teacher.checksum, teacher.preprocessing.key)
    views = StoredViews(photos, teacher, config.size, config.seed, cache, config.device)
    started = Path(config.out) / "start.safetensors"
    if started.exists():  # the cut is fitted once a run
        student = build_sam2(load_state_dict(started), table, config.size)
    else:
        if config.start:
            student = build_sam2(load_state_dict(Path(config.start)), table, config.size)
        else:
            student = cut(weights, table, teacher, views, config, partial(say, watcher))
        started.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(started, save(state_of(student, weights, teacher)))
    student.to(config.device)
    model = FretsawTinyDistillation(student, teacher, config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=config.rate, weight_decay=config.weight_decay)

    def batches(first: int) -> Iterator[ImageEmbedding]:
        for step in range(first, config.steps):
            places = [(step * config.batch + i) % config.views for i in range(config.batch)]
            yield moved(stack([views[place] for place in places]), config.device)

    done = fit(
        model,
        model.step,
        batches,
        optimizer,
        Schedule(config.steps, config.warmup, decay=cosine),
        Path(config.out),
        seed=config.seed,
        minutes=config.minutes or None,
        watcher=watcher,
        validate=lambda _: agreement(student, teacher, views, config),
        validate_every=config.validate_every,
    )
    return done, student


def state_of(student: SamClicks, weights: Mapping[str, Tensor], teacher: SamClicks) -> dict[str, Tensor]:
    """Return the student's weights under transformers' names: its encoder's own, all others the teacher's."""
    encoder: Any = student.image_encoder
    theirs: Any = teacher.image_encoder
    own = {f"vision_encoder.backbone.{name}": value for name, value in encoder.trunk.state_dict().items()}
    own |= {f"vision_encoder.neck.{name}": value for name, value in encoder.neck.state_dict().items()}
    state = without_fourth_stage(weights, theirs.trunk.stage_ends) | own
    return {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}


def with_decoder(state: Mapping[str, Tensor], file: Path, share: float) -> dict[str, Tensor]:
    """Return a student's weights with a mask decoder between its own and that of a file.

    A decoder that learned from a few hundred objects forgets what they do not show, such as parts of things; half the way it keeps both.

    Args:
        state: The student's weights.
        file: The learned decoder's.
        share: 0 for the student's own, 1 for the learned one.

    Raises:
        StateDictError: If a name or a shape does not fit.

    Source: Robust fine-tuning of zero-shot models (Wortsman et al. 2022), section 3, equation 1.
    """
    # What stands outside `decoder.` is no parameter: the frequencies of the positions, which are the prompt encoder's.
    learned = {f"mask_{name}": value.float() for name, value in load_state_dict(file).items() if name.startswith("decoder.")}
    wrong = [name for name, value in learned.items() if name not in state or state[name].shape != value.shape]
    missing = [name for name in state if name.startswith("mask_decoder.") and not name.startswith(FINE_MAPS) and name not in learned]
    if wrong or missing:
        raise StateDictError(f"expected the decoder of this student in {file}, got {wrong[:3]} that do not fit and {missing[:3]} that are missing")
    return {**state, **part_way(learned, state, share)}


def export(state: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a student in half precision with what it was made from."""
    write_bytes(path, save({name: value.half() for name, value in state.items()}, {"recipe": "fretsaw_tiny", **metadata}))


def _residual(block: Any, tokens: Tensor) -> Tensor:
    """Return what a block adds its attention to: its input, pooled and widened where a stage begins."""
    if block.dim == block.dim_out:
        return tokens
    wide = block.proj(block.layer_norm1(tokens)).permute(0, 3, 1, 2)
    return F.max_pool2d(wide, block.query_stride, block.query_stride).permute(0, 2, 3, 1)


def rows(maps: list[Tensor]) -> Tensor:
    """Return every third token of maps (1, h, w, C) as rows: neighbours say nearly the same, but not every second one.

    Hiera's position table repeats every two tokens of the third stage, so that even columns alone would be fitted and odd ones guessed.
    """
    return torch.cat([one.flatten(0, 2)[::3] for one in maps])
