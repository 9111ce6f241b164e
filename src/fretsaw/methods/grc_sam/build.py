"""From a trained file to a model: its metadata says what it is, its tensors are what differs from the base model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fretsaw.errors import ConfigError, ModelError, shown
from fretsaw.images import write_bytes
from fretsaw.layers.attention_taps import TokenTaps
from fretsaw.methods.grc_sam.cut import FOREGROUND, GrcForeground, GrcLabels
from fretsaw.methods.grc_sam.model import GrcSam, LinearHead, with_taps
from fretsaw.methods.grc_sam.scores import ClassTokenScores, ReadScores, ReceivedScores
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.segmentation import BACKGROUND
from fretsaw.weights import load_strictly, low_rank
from fretsaw.weights.metadata import SIDES, check_numbers, read_object

METADATA = "grc_sam"
"""Key of the description in a file's metadata."""

STRATEGIES: Mapping[str, ReadScores] = {"class_token": ClassTokenScores, "received": ReceivedScores}
"""How attention is read, by the name in a model's file."""

HEADS = ("grc", "linear")

DECODER = "decoder."
"""Prefix of the mask decoder's parameters in a network."""

ENCODER = "encoder."
"""Prefix of the image encoder's parameters in the file of a model that was trained together with it."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a trained file is.

    Attributes:
        base: Name of the model whose encoders and decoder it stands on.
        size: Side S that it was trained at.
        names: Classes in the order of their ids; () for a binary model.
        layers: Layers that are read.
        strategy: How; a name of `STRATEGIES`.
        width: Of the generator.
        above: Coarse response from which a window is refined.
        head: "grc", or "linear" for the 1 x 1 baseline.
        rank: Of the change that the file holds in place of a whole decoder; 0 where it holds it whole.
    """

    base: str
    size: int
    names: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    strategy: str = "class_token"
    width: int = 64
    above: float = 0.5
    head: str = "grc"
    rank: int = 0

    @property
    def outputs(self) -> int:
        """K."""
        return max(1, len(self.names))

    @property
    def shown_names(self) -> tuple[str, ...]:
        """The names of the labels that the model gives."""
        return self.names or (BACKGROUND, FOREGROUND)

    def to_metadata(self) -> dict[str, str]:
        """Return the metadata of a file."""
        return {METADATA: json.dumps(asdict(self))}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Description:
        """Read the metadata of a file.

        Raises:
            ModelError: If it describes no GrC-SAM.
        """
        try:
            fields: dict[str, Any] = read_object(metadata[METADATA], METADATA)
            check_numbers(METADATA, fields, {"size": SIDES, "layers": (0, 1023), "width": (1, 4096), "rank": (0, 4096)})
            fields |= {name: tuple(fields.get(name, ())) for name in ("names", "layers")}
            about = cls(**fields)
        except (KeyError, TypeError, ConfigError) as error:
            raise ModelError(f"expected metadata {METADATA} that describes a trained GrC-SAM, got {shown(dict(metadata), 200)} ({error})") from error
        texts = (about.base, about.strategy, about.head, *about.names)
        if not all(isinstance(text, str) and text and text.isprintable() for text in texts) or len(set(about.names)) != len(about.names):
            raise ModelError(f"expected a base, a head and different names of classes as printable texts in {METADATA}, got {shown(texts, 200)}")
        if isinstance(about.above, bool) or not isinstance(about.above, int | float) or not 0 <= about.above <= 1:
            raise ModelError(f"expected the response from which a window is refined as a number from 0 to 1 in {METADATA}, got {shown(about.above)}")
        return about


def build_network(base: SamClicks, about: Description) -> GrcSam | LinearHead:
    """Return an untrained network on a base model.

    Raises:
        ModelError: If the kind of head is unknown.
        ConfigError: If the base model's encoder cannot be read.
    """
    if about.head == "linear":
        return LinearHead(base.prompt_encoder.no_mask.shape[-1], about.outputs)
    if about.head != "grc":
        raise ModelError(f"expected a head out of {', '.join(HEADS)}; got {shown(about.head)}")
    if about.strategy not in STRATEGIES:
        raise ConfigError(f"expected a strategy out of {', '.join(STRATEGIES)}; got {shown(about.strategy)}")
    return GrcSam(base, about.outputs, about.width, about.layers, STRATEGIES[about.strategy], about.above)


def assemble(
    base: SamClicks, about: Description, state: Mapping[str, Tensor], size: int | None, checksum: str
) -> tuple[SamClicks, GrcForeground | None, GrcLabels]:
    """Build what a trained file holds.

    Args:
        base: The model that the file stands on.
        about: The file's description.
        state: Its tensors.
        size: Side of the input, None for the one of training.
        checksum: Names the file.

    Returns:
        The model that takes clicks and keeps taps, the foreground's cut (None where no class is the background), and the labels.

    Raises:
        StateDictError: If the tensors do not fit.
    """
    own = {name.removeprefix(ENCODER): tensor for name, tensor in state.items() if name.startswith(ENCODER)}
    network = build_network(base, about).eval()
    if own:
        load_strictly(base.image_encoder, own)
    trained = {name: tensor for name, tensor in state.items() if not name.startswith(ENCODER)}
    low_rank.load_trained(network, trained, network.state_dict() if about.rank else {})
    network.requires_grad_(False)
    layers = network.numbers if isinstance(network, GrcSam) else ()
    clicks = with_taps(base, layers, f"{base.checksum}+{checksum}", size or about.size)
    names = about.shown_names
    return clicks, GrcForeground(network, names) if BACKGROUND in names else None, GrcLabels(clicks, network, names)


def export(
    network: nn.Module,
    about: Description,
    path: Path,
    facts: Mapping[str, str],
    encoder: nn.Module | None = None,
    start: Mapping[str, Tensor] | None = None,
    rank: int = 32,
) -> Path:
    """Write a trained network, matrices in half precision, vectors as they are, with its description and further facts.

    Args:
        network: Trained.
        about: What it is.
        path: The file.
        facts: Further metadata.
        encoder: The image encoder, where it was trained too (with or without its taps).
        start: The base model's mask decoder: of the network's own, what differs from it is stored. None stores it whole.
        rank: Of that difference; see `fretsaw.weights.low_rank`.
    """
    from safetensors.torch import save

    state = dict(network.state_dict())
    if start is not None:
        state = low_rank.compress(state, {DECODER + name: value for name, value in start.items()}, rank)
        about = replace(about, rank=rank)
    if encoder is not None:
        state |= {ENCODER + name: value for name, value in (encoder.encoder if isinstance(encoder, TokenTaps) else encoder).state_dict().items()}
    tensors = {name: value.detach().cpu().to(torch.float16 if value.ndim > 1 else torch.float32).contiguous() for name, value in state.items()}
    return write_bytes(path, save(tensors, {**about.to_metadata(), **facts}))


def layers_of(text: str) -> Sequence[int] | str:
    """Read "C" or "1,4,8,11"; "" is the encoder's own choice."""
    return tuple(int(part) for part in text.split(",")) if text[:1].isdigit() else text or ()
