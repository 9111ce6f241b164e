"""What every format holds in its own way: pictures and the named masks on them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from fretsaw.errors import DataError, ShapeError, shown
from fretsaw.images import PIXEL_LIMIT
from fretsaw.interchange.classes import NO_CLASSES, ClassList
from fretsaw.interchange.untrusted import LeftOut, Remark, whole_number
from fretsaw.masks import MaskRuns, require_mask
from fretsaw.types import Box

Files = Iterator[tuple[str, bytes]]
"""Paths below a folder, with forward slashes, and what stands in each file."""


MOST_MASK_PIXELS = 2**32
"""Of one picture's masks together; a file of a few bytes may promise any size. Time is spent on each pixel, memory on few: see `NamedMask`."""
SMALL = 2**16
"""Pixels up to which a mask is kept as it is."""


class NamedMask:
    """One object: its class name, which may be shared, and its mask.

    A large mask is kept as run lengths, or as bits where these are fewer bytes, so that a picture with hundreds of objects fits into memory.

    Args:
        name: See `fretsaw.interchange.names.class_name` for names out of files.
        mask: (H, W) bool.
        score: How sure its maker was, in [0, 1]; None where nobody said.
        box: The box that the mask fills, where it was drawn as a box and nothing finer is known; see `NamedBox`.
        attributes: What else the file says of the object, as texts by name.

    Raises:
        ShapeError: If the mask is not such an array.
    """

    __slots__ = ("_kept", "attributes", "box", "name", "score", "size")

    def __init__(self, name: str, mask: np.ndarray, score: float | None = None, box: Box | None = None, attributes: Mapping[str, str] | None = None) -> None:
        self.name, self.score, self.box = name, score, box
        self.attributes: Mapping[str, str] = attributes or {}
        self.size: tuple[int, int] = (require_mask(mask, name).shape[0], mask.shape[1])
        self._kept: np.ndarray | MaskRuns = mask
        if mask.size > SMALL:
            runs = MaskRuns.of(mask)
            self._kept = runs if runs.nbytes < mask.size // 8 else np.packbits(mask)

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool; made anew at every access where the mask is large."""
        if isinstance(self._kept, MaskRuns):
            return self._kept.mask()
        if self._kept.dtype == np.bool_:
            return self._kept
        return np.unpackbits(self._kept, count=self.size[0] * self.size[1]).view(np.bool_).reshape(self.size)


@dataclass(frozen=True, slots=True)
class NamedBox:
    """An object of which a file says no more than the box around it. It becomes a mask when a model is asked (`fretsaw convert --masks`).

    Attributes:
        name: Its class name.
        box: In pixels, half open, edge coordinates.
        score: How sure a detector was, in [0, 1]; None where nobody said.
        place: Which row of the file it was, for example "annotation 3".
        attributes: What else the file says of the object, as texts by name.
    """

    name: str
    box: Box
    score: float | None = None
    place: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedPicture:
    """A picture's name and size and the objects on it.

    Attributes:
        file_name: As the picture's own file is called, with forward slashes.
        size: (H, W).
        objects: Masks of that size, the lowest first where they overlap.
        stem: Path without suffix for files that are written about this picture; "" means the file name without its suffix.
        left_out: One sentence for each row about this picture that its reader could not use, and, at a file's first picture, for those about no picture;
            each knows what it counts as, see `Remark`.
        boxes: Objects of which only the box is known. They are no `objects`, and whoever cannot use them reports them as left out.

    Raises:
        ShapeError: If a mask is of another size.
    """

    file_name: str
    size: tuple[int, int]
    objects: tuple[NamedMask, ...] = ()
    stem: str = ""
    left_out: tuple[Remark, ...] = ()
    boxes: tuple[NamedBox, ...] = ()
    classes: ClassList = NO_CLASSES

    def __post_init__(self) -> None:
        for item in self.objects:
            if item.size != tuple(self.size):
                raise ShapeError(f"{self.file_name}, {item.name}: expected a mask {tuple(self.size)}, got {item.size}")
        if not self.stem:
            object.__setattr__(self, "stem", re.sub(r"\.[^./]*$", "", self.file_name))


def checked_size(height: object, width: object, count: int = 1) -> tuple[int, int]:
    """Return a picture's size (H, W) as a file tells it, if that many masks of it are worth reading.

    Raises:
        DataError: If the sides are no whole numbers from 1, a picture of this size could not be read, or the masks together have more pixels than
            `MOST_MASK_PIXELS`.
    """
    size = whole_number(height, "the picture's height"), whole_number(width, "the picture's width")
    if min(size) < 1 or size[0] * size[1] > PIXEL_LIMIT:
        raise DataError(f"expected a size of at least 1 x 1 and at most {PIXEL_LIMIT} pixels, got {size[0]} x {size[1]} (height x width)")
    if size[0] * size[1] * count > MOST_MASK_PIXELS:
        raise DataError(f"expected masks of at most {MOST_MASK_PIXELS} pixels together, got {count} of {size[0]} x {size[1]}")
    return size


def told(pictures: Iterable[AnnotatedPicture], entries: LeftOut, rows: LeftOut, expected: str) -> Iterator[AnnotatedPicture]:
    """Yield a file's pictures, each with the sentences that were noted before it; what is noted behind the last one goes with that.

    Args:
        pictures: As they are read.
        entries: What is noted about pictures that could not be read, while they are.
        rows: The same about rows of pictures.
        expected: For the message: what the file should hold.

    Raises:
        DataError: If there were pictures and none could be read, or rows and none could be used. Then the last picture is not given.
    """
    held: AnnotatedPicture | None = None
    said = [0, 0]

    def carrying(picture: AnnotatedPicture) -> AnnotatedPicture:
        new = (*entries.sentences[said[0] :], *rows.sentences[said[1] :])
        said[:] = len(entries.sentences), len(rows.sentences)
        return replace(picture, left_out=(*picture.left_out, *new)) if new else picture

    for picture in pictures:
        if held is not None:
            yield held
        held = carrying(picture)
    if held is None:
        entries.require_some(expected)
    rows.require_some(expected)
    if held is not None:
        yield carrying(held)


def file_part(name: str) -> str:
    """Return a name as it may stand in a file name on any system: letters, digits, - and _, at most 60 of them; "object" where nothing is left."""
    return re.sub(r"[^\w-]+", "_", name).strip("_")[:60] or "object"


def class_names(pictures: Iterable[AnnotatedPicture]) -> list[str]:
    """Return the names that occur, in the order in which they first do."""
    return list(dict.fromkeys(item.name for picture in pictures for item in picture.objects))


def required(files: Mapping[str, bytes], path: str) -> bytes:
    """Return a file's content.

    Raises:
        DataError: If it is not there.
    """
    if path not in files:
        raise DataError(f"expected the file {shown(path)[1:-1]}, found {', '.join(shown(name)[1:-1] for name in sorted(files)[:5]) or 'none'}")
    return files[path]
