"""What every format holds in its own way: pictures and the named masks on them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fretsaw.errors import DataError, ShapeError
from fretsaw.masks import require_mask

Files = Iterator[tuple[str, bytes]]
"""Paths below a folder, with forward slashes, and what stands in each file."""


MOST_MASK_BYTES = 2**32
"""Of one picture's masks together; a file of a few bytes may promise any size."""


@dataclass(frozen=True, slots=True, eq=False)
class NamedMask:
    """One object: its class name, which may be shared, and its mask (H, W) bool."""

    name: str
    mask: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedPicture:
    """A picture's name and size and the objects on it.

    Attributes:
        file_name: As the picture's own file is called, with forward slashes.
        size: (H, W).
        objects: Masks of that size, the lowest first where they overlap.
        stem: Path without suffix for files that are written about this picture; "" means the file name without its suffix.

    Raises:
        ShapeError: If a mask is not (H, W) bool of the size.
    """

    file_name: str
    size: tuple[int, int]
    objects: tuple[NamedMask, ...] = ()
    stem: str = ""

    def __post_init__(self) -> None:
        for item in self.objects:
            if require_mask(item.mask, item.name).shape != tuple(self.size):
                raise ShapeError(f"{self.file_name}, {item.name}: expected a mask {tuple(self.size)}, got {item.mask.shape}")
        if not self.stem:
            object.__setattr__(self, "stem", re.sub(r"\.[^./]*$", "", self.file_name))


def checked_size(height: object, width: object, count: int = 1) -> tuple[int, int]:
    """Return a picture's size (H, W) as a file tells it, if that many masks of it fit into memory.

    Raises:
        DataError: If the sides are no whole numbers from 1, or the masks would be larger than `MOST_MASK_BYTES`.
    """
    try:
        size = int(str(height)), int(str(width))
    except ValueError:
        size = (0, 0)
    if min(size) < 1 or size[0] * size[1] * max(count, 1) > MOST_MASK_BYTES:
        raise DataError(
            f"expected a size of whole numbers whose masks fit into {MOST_MASK_BYTES // 2**20} MiB, got {height!s:.20} x {width!s:.20}, {count} masks"
        )
    return size


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
        raise DataError(f"expected the file {path}, found {', '.join(sorted(files)[:5]) or 'none'}")
    return files[path]
