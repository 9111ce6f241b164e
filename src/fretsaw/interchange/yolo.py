"""YOLO's segmentation labels: a text file a picture, a line an object, and data.yaml with the names.

A line holds the class number and one ring of x y pairs, divided by the picture's width and height. The format knows neither holes nor parts; both are
joined into the one ring by cuts of no width, which the even-odd filling of YOLO's own tools undoes.

Source: Ultralytics' documentation, "Instance Segmentation Datasets Overview".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

import numpy as np

from fretsaw import masks
from fretsaw.errors import DataError
from fretsaw.interchange.pictures import AnnotatedPicture, Files, NamedMask, required
from fretsaw.interchange.rings import joined_ring

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

    Raises:
        DataError: If data.yaml has no names or a line is malformed.
    """
    text = required(files, NAMES).decode(errors="replace")
    names = {int(number): _plain(name) for number, name in re.findall(r"^\s+(\d+):\s*(.+?)\s*$", text, re.M)}
    found = []
    for file_name, size in sizes.items():
        picture = AnnotatedPicture(file_name, size)
        lines = files.get(f"labels/{picture.stem}.txt", b"").decode(errors="replace").splitlines()
        objects = tuple(_object(line, names, size, picture.stem) for line in lines if line.strip())
        found.append(AnnotatedPicture(file_name, size, objects, picture.stem))
    return found


def _plain(text: str) -> str:
    if text.startswith('"'):
        try:
            return str(json.loads(text))
        except ValueError as error:
            raise DataError(f"{NAMES}: expected a quoted name, got {text:.60}") from error
    return text.strip("'")


def _object(line: str, names: Mapping[int, str], size: tuple[int, int], stem: str) -> NamedMask:
    number, *numbers = line.split()
    try:
        name, ring = names[int(number)], np.array(numbers, float).reshape(-1, 2)
    except (ValueError, KeyError) as error:
        raise DataError(f"labels/{stem}.txt: expected a known class number and x y pairs, got {line:.60!r}") from error
    return NamedMask(name, masks.from_polygons([ring * np.array(size[::-1])], size))
