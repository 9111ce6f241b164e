"""The settings of GrC-SAM's recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fretsaw.errors import ConfigError
from fretsaw.methods.grc_sam.build import HEADS


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
    dtype: Literal["float32", "bfloat16"] = "float32"


def check_settings(config: GrcSamConfig) -> None:
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
