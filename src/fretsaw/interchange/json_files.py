"""What readers of JSON files share: parsing inside the boundary, and finding how large a picture is of which a file does not say it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from fretsaw.errors import DataError, shown
from fretsaw.interchange.pictures import AnnotatedPicture, NamedBox, NamedMask, told
from fretsaw.interchange.untrusted import LeftOut, boundary, parse_json

T = TypeVar("T", dict, list)
PictureSizes = Callable[[str], "tuple[str, tuple[int, int]] | None"]
"""From a picture's name, with or without suffix, to the name of its file and its size (H, W) as it is shown; None where there is no such picture."""


def no_pictures(name: str) -> None:
    """`PictureSizes` of who has none."""
    return None


def json_pictures(
    path: str, content: bytes, expected: str, root: type[T], pictures: Callable[[T, LeftOut, LeftOut], Iterable[AnnotatedPicture]]
) -> Iterator[AnnotatedPicture]:
    """Yield the pictures of a JSON file, each with what was left out.

    Args:
        path: Of the file.
        content: Of the file.
        expected: What should be in it, for messages.
        root: What the file should be: `dict` or `list`.
        pictures: Makes them of the parsed file, and notes what it leaves out: entries about no picture, and rows of pictures.

    Raises:
        DataError: If it is no such file, or nothing in it can be used.
    """
    with boundary(path, expected):
        entries, rows = LeftOut(), LeftOut()
        found = parse_json(content, entries)
        if not isinstance(found, root):
            raise DataError(f"expected {expected}, got {shown(found)}")
        yield from told(pictures(found, entries, rows), entries, rows, expected)


class Shapes:
    """The masks and boxes of one picture as they are read, in their order."""

    def __init__(self) -> None:
        self._masks: list[tuple[float, NamedMask]] = []
        self._boxes: list[NamedBox] = []

    def add(self, item: NamedMask | NamedBox, layer: float = 0.0) -> None:
        """Add an object; the higher its layer, the farther up it lies, and among equals the later one."""
        if isinstance(item, NamedBox):
            self._boxes.append(item)
        else:
            self._masks.append((layer, item))

    @property
    def masks(self) -> tuple[NamedMask, ...]:
        """The masks, the lowest first."""
        return tuple(item for _, item in sorted(self._masks, key=lambda row: row[0]))

    @property
    def boxes(self) -> tuple[NamedBox, ...]:
        """The boxes."""
        return tuple(self._boxes)
