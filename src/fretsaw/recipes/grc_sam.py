"""GrC-SAM: learn to segment without a prompt, foreground or classes, on top of a frozen encoder.

paper    GrC-SAM (paper 000), section A.4
command  fretsaw train grc_sam --set data=FOLDER --set classes=FILE --set out=runs/semantic       (label maps, classes grouped by a file)
         fretsaw train grc_sam --set data=FOLDER,FOLDER --set out=runs/binary                     (masks)
         add --set head=linear for the baseline: a 1 x 1 convolution on the frozen encoder
         on a GPU: --set device=cuda --set dtype=bfloat16 --set size=1024 --set width=256 --set views=0 --set unfreeze=5
data     DATA/images and DATA/masks (labels, annotations); DATA/classes.txt for label maps; lists of parts in `splits`, else a tenth each is held out
decides  the val part: the network with the highest mIoU (classes) or Dice (foreground) is kept as model.safetensors, which `fretsaw.load` takes by path

The encoder's features of a few fixed views of each image are stored once in half precision; then a step costs the generator and the decoder only.

Deviation: the encoder stays frozen unless `unfreeze` says after how many epochs it joins, 5 in the paper, which takes a GPU.

Deviation: views are fixed where features are stored: the whole image, its mirror image, and crops that are drawn once; `views=0` draws new ones as the paper
does.

Deviation: `width` is 64 in place of 256, so that a step takes a second or two on a CPU.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fretsaw.data.samples import Sample
from fretsaw.errors import ConfigError
from fretsaw.evaluation.stages import StageTally, stage_tally
from fretsaw.methods.grc_sam.build import HEADS, Description, build_network, export, layers_of
from fretsaw.methods.grc_sam.model import GrcSam, LinearHead, chosen_layers, with_taps
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.recipes.grc_data import GrcBatch, GrcData, LabelledViews, batches, fill, moved, normalised, open_data
from fretsaw.recipes.grc_losses import composite_losses, final_loss
from fretsaw.training.embedding_cache import EmbeddingCache
from fretsaw.training.loop import Schedule, Watcher, cosine, fit
from fretsaw.training.provenance import settings_text
from fretsaw.types import ImageEmbedding


@dataclass(frozen=True, slots=True)
class GrcSamConfig:
    """Everything that `--set key=value` can change.

    Attributes:
        data: Folder of label maps; or folders of masks, separated by commas.
        out: Folder of the run: checkpoint, log, curves, model.safetensors.
        classes: File of groups (`group: class, class`), or "ccp8"; "" trains foreground against background.
        splits: Folder of `<name>_train.txt` and so on; "" looks beside and inside of the data.
        allow_held_out: Names of sets, separated by commas, that are learned from although they are held out to choose by or to report on.
        foreground: Classes that the coarse and the fine mask are to find, separated by commas; "" is all but "background".
        model: Name or file of the model underneath.
        stated: Name by which the trained file asks for that model; "" is `model`. For a run over a file that stands for a model of the catalogue.
        head: "grc", or "linear" for the baseline.
        layers: Layers whose attention is read: "A" to "D", numbers with commas, or "" for the encoder's own choice.
        strategy: "class_token" or "received".
        width: Of the generator.
        rank: The file holds what the decoder learned as matrices of this rank, a fifth of its size; 0 stores the decoder whole.
        above: Coarse response from which a window is refined.
        size: Side of the views.
        stride: The labels are compared at a side of size / stride.
        views: Fixed views an image whose features are stored; 0 draws new views and encodes them in every step.
        cache: Folder of stored features, shared by runs; "" is `out`/cache.
        batch: Views a step.
        epochs: Passes over the train part.
        rate: Peak learning rate of generator and head.
        decoder_rate: Factor on it for SAM's decoder.
        encoder_rate: Factor on it for the encoder, once it joins.
        unfreeze: Epochs after which the encoder joins; 0 never. Needs views=0.
        weight_decay: Of AdamW.
        warmup: Steps.
        limit: Learn from the first so many images; 0 from all.
        held_out: Choose by the first so many images; 0 by all.
        validate_every: Steps between two choices; 0 once an epoch.
        seed: Of everything drawn.
        workers: Processes that read images.
        minutes: Stop training after so long, to be continued; 0 trains to the end.
        device: "cpu", "cuda", "mps".
        dtype: "float32", or "bfloat16" for the encoder and autocast in what is trained, on CUDA.
    """

    data: str
    out: str
    classes: str = ""
    splits: str = ""
    allow_held_out: str = ""
    foreground: str = ""
    model: str = "sam2-hiera-tiny"
    stated: str = ""
    head: str = "grc"
    layers: str = ""
    strategy: str = "class_token"
    width: int = 64
    rank: int = 32
    above: float = 0.5
    size: int = 512
    stride: int = 2
    views: int = 4
    cache: str = ""
    batch: int = 4
    epochs: int = 50
    rate: float = 1e-4
    decoder_rate: float = 1.0
    encoder_rate: float = 0.1
    unfreeze: float = 0.0
    weight_decay: float = 1e-4
    warmup: int = 100
    limit: int = 0
    held_out: int = 0
    validate_every: int = 0
    seed: int = 0
    workers: int = 1
    minutes: float = 0.0
    device: str = "cpu"
    dtype: str = "float32"


Config = GrcSamConfig
"""What `fretsaw train` fills in for this recipe."""


def length(config: GrcSamConfig) -> int:
    """Return the number of steps of a run."""
    return steps_per_epoch(config, open_data(config)) * config.epochs


def steps_per_epoch(config: GrcSamConfig, data: GrcData) -> int:
    """Return the steps that show every training image once."""
    return max(1, math.ceil(len(data.train) / config.batch))


class GrcTraining(nn.Module):
    """The network that learns over a model that stays as it is, or joins after some epochs."""

    def __init__(self, network: GrcSam | LinearHead, model: SamClicks, config: GrcSamConfig, foreground: tuple[int, ...], joins_at: int | None) -> None:
        super().__init__()
        self.network = network
        self._model = [model]  # in a list: part of the checkpoint only where it is trained
        if joins_at is not None:
            self.encoder = model.image_encoder
        self._config, self._foreground, self._joins_at = config, foreground, joins_at

    def step(self, batch: GrcBatch, done: int) -> Mapping[str, Tensor]:
        """Return the losses of a batch."""
        config, model = self._config, self._model[0]
        if batch.embedding is not None:
            embedding = moved(batch.embedding, config.device)
        else:
            assert batch.pixels is not None
            with torch.set_grad_enabled(self._joins_at is not None and done >= self._joins_at):
                embedding = model.encode(normalised(batch.pixels, model, config.device))
        offset = config.stride // 2
        labels = batch.labels[:, offset :: config.stride, offset :: config.stride].to(config.device, torch.int64)
        with torch.autocast(config.device.split(":")[0], torch.bfloat16, enabled=config.dtype == "bfloat16"):
            result = self.network(embedding)
        if isinstance(result, Tensor):
            return {"loss": final_loss(result.float(), labels)}
        losses = composite_losses(result, labels, self._foreground)
        with torch.no_grad():
            rho, thresholds = result.active.float().mean(), result.thresholds.mean(0)
        return losses | {"rho": rho, "coarse threshold": thresholds[0], "fine threshold": thresholds[1]}


def parameter_groups(training: GrcTraining, config: GrcSamConfig) -> list[dict[str, object]]:
    """Group the parameters: decoder and encoder at rates of their own, and no weight decay on vectors."""
    factors = {"network.decoder.": config.decoder_rate, "encoder.": config.encoder_rate}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in training.named_parameters():
        factor = next((value for prefix, value in factors.items() if name.startswith(prefix)), 1.0)
        groups.setdefault((config.rate * factor, config.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


class Choice:
    """Measures the val part, remembers the best and keeps its weights; called by the loop."""

    def __init__(
        self,
        training: GrcTraining,
        model: SamClicks,
        config: GrcSamConfig,
        data: GrcData,
        about: Description,
        stored: LabelledViews | None,
        cache: EmbeddingCache | None,
    ) -> None:
        self._training, self._model, self._config, self._data, self._about = training, model, config, data, about
        self._views, self._cache = stored, cache
        self._best = Path(config.out) / "best.json"

    def __call__(self, done: int) -> Mapping[str, float]:
        """Return the figures of the val part; keep the network if it is the best so far."""
        tally = self.measure()
        figures = tally.figures()
        decides = "mIoU" if self._data.names else "Dice"
        best = json.loads(self._best.read_text()) if self._best.exists() else None
        if best is None or figures[decides] > best[decides]:
            facts = {
                "recipe": "grc_sam",
                "steps": str(done),
                "val": json.dumps(figures),
                "base_checksum": self._model.checksum,
                "settings": settings_text(self._config),
            }
            encoder = getattr(self._training, "encoder", None)
            start = self._model.mask_decoder.state_dict() if self._config.rank else None
            export(self._training.network, self._about, Path(self._config.out) / "model.safetensors", facts, encoder, start, self._config.rank)
            ious = dict(zip(self._about.shown_names, tally.ious().tolist(), strict=True))
            self._best.write_text(json.dumps({"step": done, **figures, "IoU by class": ious}, indent=1))
        return figures

    def measure(self) -> StageTally:
        """Run the network over the val part."""
        network = self._training.network.eval()

        def embedding_of(sample: Sample, image: np.ndarray) -> ImageEmbedding:
            if self._cache is not None:
                assert self._views is not None
                return moved(self._cache.get(self._views.key(sample, 0)), self._config.device)
            return self._model.encode(self._model.pixels_of(image))

        tally = stage_tally(self._data.val, network, embedding_of, self._model.preprocessing.frame_of, len(self._about.shown_names), self._data.foreground)
        network.train()
        return tally


def run(config: GrcSamConfig, watcher: Watcher | None = None) -> int:
    """Encode, train, choose; every part goes on where it was interrupted. Returns the number of steps made.

    Raises:
        ConfigError: If a setting does not fit.
        DataError: If data are missing or wrong.
        WeightsError: If the model's weights are missing and cannot be fetched.
    """
    from fretsaw import catalog

    checked(config)
    data = open_data(config)
    base = catalog.build(config.model, size=config.size).clicks
    if base is None:
        raise ConfigError(f"model: expected one that takes clicks, got {config.model}")
    return train(config, data, base, watcher)


def train(config: GrcSamConfig, data: GrcData, base: SamClicks, watcher: Watcher | None = None) -> int:
    """Run the recipe on a model, or continue it; returns the number of steps made."""
    layers = chosen_layers(base.image_encoder, layers_of(config.layers))  # the baseline keeps them too, to share the stored features
    read = layers if config.head == "grc" else ()
    about = Description(config.stated or config.model, config.size, data.names, read, config.strategy, config.width, config.above, config.head)
    torch.manual_seed(config.seed)
    base = base.to(config.device).requires_grad_(False)
    network = build_network(base, about).to(config.device).requires_grad_(True)
    model = with_taps(base, layers, base.checksum, config.size).to_precision(
        torch.bfloat16 if config.dtype == "bfloat16" and not config.unfreeze else torch.float32
    )
    per_epoch = steps_per_epoch(config, data)
    joins_at = round(config.unfreeze * per_epoch) if config.unfreeze else None
    if joins_at is not None:
        model.image_encoder.requires_grad_(True)
    training = GrcTraining(network, model, config, data.foreground, joins_at).train()
    cache, stored = None, None
    if config.views:
        folder = Path(config.cache) if config.cache else Path(config.out) / "cache"
        name = "-".join(map(str, (base.checksum[:12], config.size, *layers)))
        cache = EmbeddingCache(folder / name, f"{base.checksum}:{','.join(map(str, layers))}", model.preprocessing.key)
        stored = LabelledViews(data.val, config.size, 1, config.seed, cache)
        fill(stored, stored.keys(), model, cache, config.device, _say)
    views = LabelledViews(data.train, config.size, config.views, config.seed, cache)
    if cache is not None:
        fill(views, views.keys(), model, cache, config.device, _say)
    steps = per_epoch * config.epochs
    return fit(
        training,
        training.step,
        lambda first: batches(views, config, first, steps),
        torch.optim.AdamW(parameter_groups(training, config)),
        Schedule(steps, config.warmup, decay=cosine),
        Path(config.out),
        seed=config.seed,
        minutes=config.minutes or None,
        watcher=watcher,
        validate=Choice(training, model, config, data, about, stored, cache),
        validate_every=config.validate_every or per_epoch,
    )


def checked(config: GrcSamConfig) -> None:
    """Refuse settings that do not fit together.

    Raises:
        ConfigError: If one does not.
    """
    if config.head not in HEADS:
        raise ConfigError(f"head: expected one of {', '.join(HEADS)}, got {config.head!r}")
    if config.size % 32 or config.size < 64:
        raise ConfigError(f"size: expected a multiple of 32 from 64 on, got {config.size}")
    if config.stride not in (1, 2, 4, 8, 16):
        raise ConfigError(f"stride: expected 1, 2, 4, 8 or 16, got {config.stride}")
    if config.unfreeze and config.views:
        raise ConfigError(f"unfreeze: expected views=0, since features of an encoder that learns cannot be stored; got views={config.views}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
