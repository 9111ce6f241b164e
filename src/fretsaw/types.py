"""The values that travel between the parts, and the three seams that let parts be exchanged.

Shape legend: B images, P prompt sets, N points, M masks per prompt set, H W original size, S model side, h w embedding grid, C channels.

The seams are plain signatures:

1. image encoder: pixels -> `ImageEmbedding`;
2. prompt embedding: anything -> `PromptEmbedding`, which is all that SAM's mask decoder consumes;
3. refiner: `prepare` once per image, `refine` once per interaction, its state explicit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


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
        strokes: Lines drawn so far. SAM's prompt encoder takes no lines: a few places along each stand among the clicks as well.
    """

    clicks: tuple[Click, ...] = ()
    box: Box | None = None
    previous_logits: Tensor | None = None
    strokes: tuple[Stroke, ...] = ()


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
    taps: Mapping[str, Tensor] = field(default_factory=dict)

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
    """Seam 1. A `torch.nn.Module` whose forward maps pixels (B, 3, S, S), normalised, to an `ImageEmbedding`."""

    def __call__(self, pixels: Tensor) -> ImageEmbedding: ...


class Refiner(Protocol):
    """Seam 3. Improves a coarse mask; the state it carries from click to click is a frozen value that the session keeps in its undo stack.

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
        """Return better logits (1, 1, k S/4, k S/4) and the next state, a mapping of tensors so that a session can be written to disk.

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
