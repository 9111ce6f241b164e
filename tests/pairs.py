"""Every format that is read to every format that is written, and read again: `python tests/pairs.py` prints how many objects come back whole."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

import foreign
from fretsaw import masks
from fretsaw.images import write_bytes
from fretsaw.interchange.formats import WRITERS
from fretsaw.interchange.names import Stems
from fretsaw.interchange.pictures import AnnotatedPicture, NamedMask
from fretsaw.interchange.reading import readers, the_source


def example() -> list[AnnotatedPicture]:
    """Two pictures of one size; objects with a hole, an island in it, two parts, and a pixel; none overlap, which not every format holds."""
    ring, two, dot, bar = (np.zeros((12, 14), bool) for _ in range(4))
    ring[1:9, 1:9], ring[3:7, 3:7] = True, False
    ring[4, 5] = True
    two[9:11, 9:13], two[0:2, 10:12] = True, True
    dot[11, 0] = True
    bar[5, 9:14] = True
    objects = [NamedMask("cat", ring), NamedMask("a dog", two), NamedMask("猫", dot), NamedMask("a dog", bar)]
    return [AnnotatedPicture("one.jpg", (12, 14), tuple(objects)), AnnotatedPicture("two.jpg", (12, 14), tuple(objects[1:3]))]


def put(pictures: list[AnnotatedPicture], format: str, folder: Path) -> None:
    """Write pictures into a folder in a format of Fretsaw's own, as `fretsaw convert` does, with plain pictures where their size is needed."""
    stems = Stems()
    for path, content in WRITERS[format](replace(picture, stem=stems.take(picture.file_name)) for picture in pictures):
        write_bytes(folder / path, content)
    if format in ("yolo", PAINTED):
        foreign.put_pictures(pictures, folder / "images")


def got(folder: Path) -> list[AnnotatedPicture]:
    """Read what lies in a folder, as `fretsaw convert` does."""
    return [picture for _, read in readers(the_source(folder)) for picture in read()]


PAINTED = "yolo-painted"
"""The format in which each part of an object becomes an object."""

SOURCES: dict[str, Callable[[list[AnnotatedPicture], Path], None]] = {
    **{name: lambda pictures, folder, name=name: put(pictures, name, folder) for name in WRITERS},
    **foreign.LAYOUTS,
}


def objects_of(pictures: Iterable[AnnotatedPicture], with_names: bool = True, parts: bool = False) -> list[tuple[str, bytes]]:
    """Return what should come back of pictures: the names and pixels of all their objects, or of all parts of these, sorted."""
    found = []
    for picture in pictures:
        for item in picture.objects:
            labels, stats = masks.components(item.mask)
            shown = [labels == number for number in range(1, len(stats))] if parts else [item.mask]
            found += [(item.name if with_names else "", np.packbits(mask).tobytes()) for mask in shown]
    return sorted(found)


def there_and_back(source: str, target: str, place: Path) -> tuple[int, int, int]:
    """Return how many objects the example has, how many of them are read of one format, and how many after they were written in another and read again."""
    expected, named = example(), source not in foreign.NAMELESS
    SOURCES[source](expected, place / "a")
    read = got(place / "a")
    put(read, target, place / "b")
    again = got(place / "b")
    parts = PAINTED in (source, target)
    wanted = objects_of(expected, named, parts)
    return len(wanted), *(_shared(wanted, objects_of(found, named, parts)) for found in (read, again))


def _shared(wanted: list[tuple[str, bytes]], found: list[tuple[str, bytes]]) -> int:
    left, count = list(found), 0
    for row in wanted:
        if row in left:
            left.remove(row)
            count += 1
    return count if len(found) == len(wanted) else min(count, len(wanted) - 1)


def main() -> int:
    """Print the table: rows are read, columns are written."""
    width = max(map(len, SOURCES))
    print(f"{'objects that come back':{width}}  read  " + "  ".join(f"{target:>13}" for target in WRITERS))
    whole = pairs = 0
    for source in SOURCES:
        cells = []
        for target in WRITERS:
            with tempfile.TemporaryDirectory() as place:
                count, read, again = there_and_back(source, target, Path(place))
            cells.append(f"{again:>10}/{count:<2}")
            pairs, whole = pairs + 1, whole + (again == count)
        print(f"{source:{width}}  {read}/{count}   " + "  ".join(cells))
    print(f"{whole} of {pairs} pairs bring back every object with its name and every pixel")
    return 0 if whole == pairs else 1


if __name__ == "__main__":
    sys.exit(main())
