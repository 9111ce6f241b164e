"""YOLO's segmentation labels: a text file a picture, a line an object, and data.yaml with the names.

A line holds the class number and one ring of x y pairs, divided by the picture's width and height. The format knows neither holes nor parts; both are
joined into the one ring by cuts of no width, which the even-odd filling of YOLO's own tools undoes.

Source: Ultralytics' documentation, "Instance Segmentation Datasets Overview".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

import numpy as np

from fretsaw import masks
from fretsaw.errors import DataError, shown
from fretsaw.interchange.names import class_name
from fretsaw.interchange.pictures import AnnotatedPicture, Files, NamedMask, checked_size, required, told
from fretsaw.interchange.rings import joined_ring
from fretsaw.interchange.untrusted import LeftOut, boundary, whole_number

NAMES = "data.yaml"


def write(pictures: Iterable[AnnotatedPicture]) -> Files:
    """Yield labels/<stem>.txt for each picture, also where it has no object, and data.yaml. Empty masks are left out."""
    numbers: dict[str, int] = {}
    for picture in pictures:
        lines = []
        for item in picture.objects:
            ring = joined_ring(item.mask) / np.array(picture.size[::-1], float)
            if len(ring):
                lines.append(f"{numbers.setdefault(item.name, len(numbers))} {' '.join(f'{value:.8g}' for value in ring.ravel())}\n")
        yield f"labels/{picture.stem}.txt", "".join(lines).encode()
    # A JSON string is a YAML string.
    names = "".join(f"  {number}: {json.dumps(name, ensure_ascii=False)}\n" for name, number in numbers.items())
    yield NAMES, f"path: .\ntrain: images\nval: images\nnames:{' {}' if not names else ''}\n{names}".encode()


def read(files: Mapping[str, bytes], sizes: Mapping[str, tuple[int, int]]) -> list[AnnotatedPicture]:
    """Return the pictures whose labels are among the files.

    Args:
        files: labels/<stem>.txt and data.yaml as `write` lays them out.
        sizes: (H, W) by file name: the labels themselves do not say.

    A line that cannot be used is left out with a sentence; see `AnnotatedPicture.left_out`.

    Raises:
        DataError: If data.yaml cannot be used, or there are lines about a picture and none of them can be.
    """
    with boundary(NAMES, "names by number"):
        names = _names(required(files, NAMES))
    return [picture for file_name, size in sizes.items() for picture in _each(file_name, size, names, files)]


def _each(file_name: str, size: tuple[int, int], names: Mapping[int, str], files: Mapping[str, bytes]) -> Iterator[AnnotatedPicture]:
    stem = AnnotatedPicture(file_name, size).stem
    path, expected = f"labels/{stem}.txt", "lines of a class number and x y pairs"
    with boundary(path, expected):
        rows = LeftOut()
        yield from told([_picture(file_name, size, stem, names, files.get(path, b""), rows)], LeftOut(), rows, expected)


def _picture(file_name: str, size: tuple[int, int], stem: str, names: Mapping[int, str], content: bytes, rows: LeftOut) -> AnnotatedPicture:
    lines = [(f"line {number}", line) for number, line in enumerate(content.decode("utf-8-sig").splitlines(), 1) if line.strip()]
    checked_size(*size, len(lines))
    objects = []
    for place, line in lines:
        with rows.row(place, "a class number and x y pairs"):
            objects.append(_object(line, names, size))
    return AnnotatedPicture(file_name, size, tuple(objects), stem)


def _names(content: bytes) -> dict[int, str]:
    """Return the class names by number: the indented lines `number: name` of data.yaml. A name that cannot be used is as good as none to its labels."""
    names = {}
    for line in content.decode("utf-8-sig").splitlines():
        found = re.match(r"[ \t]+(\d{1,6})[ \t]*:", line)
        if found and (text := line[found.end() :].strip()):
            with suppress(DataError):
                names[int(found[1])] = class_name(_plain(text), "name")
    return names


def _plain(text: str) -> str:
    if text.startswith('"'):
        try:
            return str(json.loads(text))
        except ValueError as error:
            raise DataError(f"expected a quoted name, got {shown(text)}") from error
    return text.strip("'")


def _object(line: str, names: Mapping[int, str], size: tuple[int, int]) -> NamedMask:
    number, *numbers = line.split()
    index = whole_number(number, "the class number")
    if index not in names:
        raise DataError(f"expected the number of one of the {len(names)} classes, got {index}")
    if len(numbers) < 6 or len(numbers) % 2:
        raise DataError(f"expected x y pairs of at least three vertices, got {len(numbers)} numbers{', which make a box' if len(numbers) == 4 else ''}")
    ring = np.array(list(map(float, numbers))).reshape(-1, 2)
    return NamedMask(names[index], masks.from_polygons([ring * np.array(size[::-1])], size))
