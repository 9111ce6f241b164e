"""The values that parts pass to each other, and the seams at which one part can replace another.

Shape legend: B images, P prompt sets, N points, M masks per prompt set, H W original size, S model side, h w embedding grid, C channels,
k side of the logits that a prompt starts from.

The seams are plain signatures:

1. `ImageEncoder`: pixels -> `ImageEmbedding`;
2. prompt embedding: anything -> `PromptEmbedding`, which is all that SAM's mask decoder consumes beside the image;
3. `Refiner`: `prepare` once per image, `refine` once per interaction; its state is a `RefinerState`;
4. `ClickModel`: all that a session asks of a model. Its arguments and results are numpy arrays, or values that a session does not look into.
   `fretsaw.runtimes` implements it.

Beside clicks a model may offer other modes: `AutomaticCut` (some are a `SplittingCut`), `SemanticLabels` and `TextLabels`. What has networks on a device
is `Movable`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, device

    from fretsaw.frames import Frame, Preprocessing
    from fretsaw.methods.s2clip.settings import TextSettings
    from fretsaw.segmentation import LabelMap, Segmentation


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
    """What a runtime keeps of an image, on any device. A session knows only how much memory it takes."""

    @property
    def nbytes(self) -> int: ...


class Features(Protocol):
    """What a refiner prepares of an image, on any device. A session knows only how much memory it takes."""

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What is computed once of an image, or of a view of it.

    Attributes:
        frame: How it lies in the model's input.
        embedding: The image encoder's output.
        features: What a refiner prepared, or None.
    """

    frame: Frame
    embedding: Embedding
    features: Features | None = None

    @property
    def nbytes(self) -> int:
        """Memory of the embedding and of the refiner's features."""
        return self.embedding.nbytes + (self.features.nbytes if self.features is not None else 0)


ErrorMap = TypeVar("ErrorMap")
"""A numpy array where a session keeps the state, a tensor where a refiner computes."""


@dataclass(frozen=True, eq=False)
class RefinerState(Generic[ErrorMap]):
    """What a refiner knows from the interactions before the next one.

    Before the first click it is `RefinerState()`, and again when the next click is answered on another part of the image. After `Session.mask` or an
    automatic cut it is `RefinerState(given=True)`.

    Attributes:
        given: Whether the mask before came from elsewhere (a person's own, an automatic cut). A refiner changes such a mask only around the clicks.
        error_map: (1, 1, k, k) float32 logits of where the mask before was expected to be wrong, or None if there is no map yet. Read-only.
    """

    given: bool = False
    error_map: ErrorMap | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A model's answer to one prompt.

    Attributes:
        logits: (1, 1, k, k) float32 mask logits in the model's frame, read-only.
        score: The model's own quality estimate, [0, 1].
        state: What the refiner needs at the next interaction, or None if the model has no refiner.
    """

    logits: np.ndarray
    score: float
    state: RefinerState[np.ndarray] | None = None


class ClickModel(Protocol):
    """Seam 4. All that a session asks of a model that takes clicks. One object may serve many sessions and threads at once."""

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
        """k, the side of the logits in its answers and in the prompts that it takes."""
        ...

    @property
    def refines(self) -> bool:
        """Whether it has a refiner, which changes a mask that came from elsewhere only around the last click."""
        ...

    def look(self, image: np.ndarray, embedding: Embedding | None = None, taps: Sequence[str] = ()) -> Seen:
        """Return what is computed once of an image.

        Args:
            image: (H, W, 3) uint8 RGB.
            embedding: Of this image, if it is known; then it is not computed again.
            taps: Intermediate tensors of the image encoder that the embedding must hold, for methods that read them.
        """
        ...

    def answer(self, seen: Seen, prompt: Prompt, state: RefinerState[np.ndarray] | None = None) -> Answer:
        """Answer a prompt.

        Args:
            seen: What `look` returned.
            prompt: In pixels of the image that was looked at; its `previous_logits` are (1, 1, k, k).
            state: What the refiner knows so far, see `RefinerState`; None means `RefinerState()`. A model without a refiner ignores it.
        """
        ...

    def pack(self, embedding: Embedding) -> dict[str, np.ndarray]:
        """Return an embedding as arrays by name, for a file."""
        ...

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> Embedding:
        """Undo `pack`.

        Raises:
            ShapeError: If an array is missing or has another shape than the model's decoder takes.
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


OwnFeatures = TypeVar("OwnFeatures", bound=Features)
"""The features that one kind of refiner prepares and takes."""


class Refiner(Protocol[OwnFeatures]):
    """Seam 3. Improves a coarse mask. It keeps nothing between calls: the session keeps its state in the undo list.

    Attributes:
        map_scale: Side of the logits that it returns over that of the decoder's, k below.
    """

    map_scale: int

    def prepare(self, pixels: Tensor, embedding: ImageEmbedding) -> OwnFeatures:
        """Return the features that depend on the image alone; called once per image."""
        ...

    def refine(
        self,
        features: OwnFeatures,
        point_coords: Tensor,
        point_labels: Tensor,
        logits: Tensor,
        previous_logits: Tensor | None,
        state: RefinerState[Tensor],
    ) -> tuple[Tensor, RefinerState[Tensor]]:
        """Return better logits (1, 1, k S/4, k S/4) and the next state. It changes none of its arguments.

        Args:
            features: What `prepare` returned.
            point_coords: (1, N, 2) xy in the model frame of all clicks so far, in the order they were made, then the box's corners.
            point_labels: (1, N) 1 positive, 0 negative, 2 and 3 a box's corners.
            logits: (1, 1, S/4, S/4) coarse mask logits of this interaction.
            previous_logits: (1, 1, k S/4, k S/4) the mask before this interaction, or None; it may be a user's own.
            state: What the previous call returned, or where there was none, what `RefinerState` says.
        """
        ...


@runtime_checkable
class Movable(Protocol):
    """A part of a model whose networks lie on a device, such as any `torch.nn.Module`. A part without networks need not be one."""

    def to(self, device: device, /) -> Any:
        """Move the networks to a device."""
        ...


class AutomaticCut(Protocol):
    """Cuts without a prompt, on an embedding that exists already."""

    def __call__(self, image: np.ndarray, embedding: Any, frame: Frame) -> Segmentation:
        """Cut an image.

        Args:
            image: (H, W, 3) uint8 RGB.
            embedding: Of this image, by the model that the cut was built for.
            frame: How this image lies in that model's input.
        """
        ...


@runtime_checkable
class SplittingCut(AutomaticCut, Protocol):
    """An automatic cut that can also look for the separate objects in its result."""

    def split(self, result: Segmentation, embedding: Any, frame: Frame) -> Segmentation:
        """Return a cut with its objects in `instances`; the arguments are those of the call that made it."""
        ...


class SemanticLabels(Protocol):
    """Gives every pixel one of the classes that a network was trained on."""

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, in the order of their labels."""
        ...

    def __call__(self, image: np.ndarray) -> LabelMap:
        """Label an image (H, W, 3) uint8 RGB."""
        ...


class TextLabels(Protocol):
    """Gives every pixel one of several names, or none."""

    def __call__(
        self,
        image: np.ndarray,
        names: Sequence[str | Sequence[str]],
        background: Sequence[str] | None = None,
        settings: TextSettings | None = None,
        *,
        embedding: Any = None,
    ) -> LabelMap:
        """Label an image; see `Segmenter.text`.

        Args:
            image: (H, W, 3) uint8 RGB.
            names: One item per class.
            background: Words for what is none of the classes, or None for common ones.
            settings: Sizes and thresholds, or None for the defaults.
            embedding: Of this image, by the click model of the same model, if it is known.
        """
        ...
