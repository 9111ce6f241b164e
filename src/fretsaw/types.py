"""The values that travel between the parts, and the seams that let parts be exchanged.

Shape legend: B images, P prompt sets, N points, M masks per prompt set, H W original size, S model side, h w embedding grid, C channels,
k side of the logits that a prompt starts from.

The seams are plain signatures:

1. `ImageEncoder`: pixels -> `ImageEmbedding`;
2. prompt embedding: anything -> `PromptEmbedding`, which is all that SAM's mask decoder consumes beside the image;
3. `Refiner`: `prepare` once per image, `refine` once per interaction, its state explicit;
4. `ClickModel`: all that a session asks of a model, whatever runs the three above. What passes is numpy, or opaque; `fretsaw.runtimes` implements it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from fretsaw.frames import Frame, Preprocessing


POSITIVE, NEGATIVE, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT, PADDING = 1, 0, 2, 3, -1
"""What a point label means to the prompt encoder."""


@dataclass(frozen=True, slots=True)
class Click:
    """One click in the original frame: x right, y down, the centre of the top-left pixel is (0, 0); fractions are allowed."""

    x: float
    y: float
    positive: bool = True


@dataclass(frozen=True, slots=True)
class Stroke:
    """A line drawn over the object, or over what is not the object.

    Attributes:
        points: Its corners (x, y) in the original frame, from where it begins to where it ends; one alone is a dot.
        positive: Whether what lies under it belongs to the object.
    """

    points: tuple[tuple[float, float], ...]
    positive: bool = True


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open box in pixels of the original frame: it covers columns x0 .. x1 - 1 and rows y0 .. y1 - 1."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True)
class Prompt:
    """Everything a person has said about one object so far.

    Attributes:
        clicks: In the order they were made, original frame.
        box: The object's box, original frame, or None.
        previous_logits: (1, 1, S/4, S/4) float32 mask logits in the decoder's frame that the decoder starts from, or None; finer where a refiner made them.
            Read-only.
        strokes: Lines drawn so far. SAM's prompt encoder takes no lines: a few places along each stand among the clicks as well.
    """

    clicks: tuple[Click, ...] = ()
    box: Box | None = None
    previous_logits: np.ndarray | None = None
    strokes: tuple[Stroke, ...] = ()


class Embedding(Protocol):
    """What a runtime keeps of an image, on whatever device: opaque to a session but for the memory it takes."""

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What is computed once of an image, or of a view of it.

    Attributes:
        frame: How it lies in the model's input.
        embedding: Of the image encoder.
        features: What a refiner prepared, or None.
    """

    frame: Frame
    embedding: Embedding
    features: Any = None

    @property
    def nbytes(self) -> int:
        """Memory of the embedding and of what the refiner prepared."""
        return self.embedding.nbytes + _bytes_of(self.features)


RefinerState = Mapping[str, np.ndarray]
"""What a refiner carries from one interaction to the next: read-only arrays by name."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a model says to one prompt.

    Attributes:
        logits: (1, 1, k, k) float32 mask logits in the model's frame, read-only.
        score: The model's own quality estimate, [0, 1].
        state: What the refiner must be told at the next interaction; None where there is no refiner.
    """

    logits: np.ndarray
    score: float
    state: RefinerState | None = None


class ClickModel(Protocol):
    """Seam 4. All that a session asks of a model that takes clicks. One object serves any number of sessions and threads."""

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image lies in the model's input."""
        ...

    @property
    def checksum(self) -> str:
        """Names the weights; a session file is bound to it."""
        ...

    @property
    def logit_side(self) -> int:
        """k, the side of the logits that it answers with and that prompts start from."""
        ...

    @property
    def refines(self) -> bool:
        """Whether it mends a mask that came from elsewhere (a person's own, an automatic cut) around the last click, and leaves the rest as it is."""
        ...

    def look(self, image: np.ndarray, embedding: Embedding | None = None, taps: Sequence[str] = ()) -> Seen:
        """Return what is computed once of an image.

        Args:
            image: (H, W, 3) uint8 RGB.
            embedding: Of this image, where it is known; it is not computed again then.
            taps: Intermediate tensors of the image encoder that the embedding is to hold, for methods that read them.
        """
        ...

    def answer(self, seen: Seen, prompt: Prompt, state: RefinerState | None = None) -> Answer:
        """Answer a prompt.

        Args:
            seen: What `look` returned.
            prompt: In pixels of the image that was looked at; its `previous_logits` are (1, 1, k, k).
            state: Of the answer before; None at the first, and where the mask before came from elsewhere; empty where the answer before was on another part
                of the image.
        """
        ...

    def pack(self, embedding: Embedding) -> dict[str, np.ndarray]:
        """Return an embedding as arrays by name, to be kept in a file."""
        ...

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> Embedding:
        """Undo `pack`.

        Raises:
            ShapeError: If an array is missing, or has not the shape that the model's decoder takes.
        """
        ...


@dataclass(frozen=True, slots=True)
class ImageEmbedding:
    """What an image encoder returns; it depends on the image alone.

    Attributes:
        final: (B, C, h, w) embedding at 1/16 of the model frame, the `image_embedding` of SAM's decoder.
        high_res: Maps that the decoder adds while it upscales, finest first: (B, C/8, 4h, 4w), (B, C/4, 2h, 2w). Empty where the decoder takes none.
        taps: Intermediate tensors by name, for methods that read inside the encoder (attention taps, trunk stages).
    """

    final: Tensor
    high_res: tuple[Tensor, ...] = ()
    taps: Mapping[str, Tensor] = field(default_factory=dict[str, "Tensor"])

    @property
    def nbytes(self) -> int:
        """Memory of all its tensors."""
        return sum(tensor.nbytes for tensor in (self.final, *self.high_res, *self.taps.values()))


@dataclass(frozen=True, slots=True)
class PromptEmbedding:
    """What SAM's mask decoder consumes beside the image.

    Attributes:
        sparse: (P, N, C) one token per click, box corner and padding point; N may be 0.
        dense: (P, C, h, w) the mask prompt, or the learned "no mask" vector at every place.
    """

    sparse: Tensor
    dense: Tensor


class ImageEncoder(Protocol):
    """Seam 1. A `torch.nn.Module` whose forward maps pixels (B, 3, S, S), normalised, to an `ImageEmbedding`. It keeps no state between calls."""

    @property
    def available_taps(self) -> tuple[str, ...]:
        """Names of the intermediate tensors that a call may ask for."""
        ...

    def __call__(self, pixels: Tensor, taps: Sequence[str] = ()) -> ImageEmbedding:
        """Encode pixels.

        Args:
            pixels: (B, 3, S, S), normalised.
            taps: Which of `available_taps` the embedding is to hold.
        """
        ...


class Refiner(Protocol):
    """Seam 3. Improves a coarse mask; the state it carries from click to click is a value of its own, which the session keeps in its undo list.

    Attributes:
        map_scale: Side of the logits that it returns over that of the decoder's, k below.
    """

    map_scale: int

    def prepare(self, pixels: Tensor, embedding: ImageEmbedding) -> Any:
        """Return the features that depend on the image alone; called once per image."""
        ...

    def refine(
        self,
        features: Any,
        point_coords: Tensor,
        point_labels: Tensor,
        logits: Tensor,
        previous_logits: Tensor | None,
        state: Mapping[str, Tensor] | None,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return better logits (1, 1, k S/4, k S/4) and the next state, a mapping of tensors so that a session can be written to disk. It changes none of them.

        Args:
            features: What `prepare` returned.
            point_coords: (1, N, 2) xy in the model frame of all clicks so far, in the order they were made, then the box's corners.
            point_labels: (1, N) 1 positive, 0 negative, 2 and 3 a box's corners.
            logits: (1, 1, S/4, S/4) coarse mask logits of this interaction.
            previous_logits: (1, 1, k S/4, k S/4) the mask before this interaction, or None; it may be a user's own.
            state: What the previous call returned; None at the first, and where the mask before came from elsewhere; empty where the previous call was on
                another part of the image.
        """
        ...


def _bytes_of(value: Any) -> int:
    """Return the memory of an array or tensor, or of a nest of lists, tuples, mappings and objects with fields, as refiners prepare them."""
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if isinstance(value, Mapping):
        return sum(map(_bytes_of, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_bytes_of, value))
    if is_dataclass(value):
        return sum(_bytes_of(getattr(value, row.name)) for row in fields(value))
    return 0
