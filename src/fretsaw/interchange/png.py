"""One PNG for each object, 8 bit, 0 and 255, and beside them a JSON file with the names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fretsaw import images
from fretsaw.errors import DataError, shown
from fretsaw.interchange.names import class_name, picture_name
from fretsaw.interchange.pictures import AnnotatedPicture, Files, NamedMask, checked_size, file_part, required, told
from fretsaw.interchange.untrusted import LeftOut, boundary, field, parse_json

NAMES = "objects.json"


def mask_path(picture: AnnotatedPicture, number: int) -> str:
    """Return where the mask of a picture's object goes: <stem>/<number>-<name>.png, numbers from 1."""
    return f"{picture.stem}/{number:02d}-{file_part(picture.objects[number - 1].name)}.png"


def write(pictures: Iterable[AnnotatedPicture]) -> Files:
    """Yield the masks of each picture, and their names."""
    for picture in pictures:
        rows = []
        for number, item in enumerate(picture.objects, 1):
            rows.append({"name": item.name, "mask": mask_path(picture, number).rpartition("/")[2]})
            yield mask_path(picture, number), images.encode_image(item.mask, ".png")
        content = {"file_name": picture.file_name, "size": list(picture.size), "objects": rows}
        yield f"{picture.stem}/{NAMES}", json.dumps(content, indent=1).encode()


def read(files: Mapping[str, bytes]) -> list[AnnotatedPicture]:
    """Return the pictures whose names and masks are among the files.

    An object whose mask is missing or cannot be used is left out with a sentence; see `AnnotatedPicture.left_out`.

    Raises:
        DataError: If the names are no JSON, or none of the objects can be used.
    """
    return [picture for path in sorted(path for path in files if path.endswith("/" + NAMES)) for picture in _each(path, files)]


def _each(path: str, files: Mapping[str, bytes]) -> Iterator[AnnotatedPicture]:
    expected = "file_name, size and objects"
    with boundary(path, expected):
        entries, rows = LeftOut(), LeftOut()
        content = parse_json(files[path], entries)
        if not isinstance(content, dict):
            raise DataError(f"expected {expected}, got {shown(content)}")
        yield from told([_picture(path.removesuffix("/" + NAMES), content, files, rows)], entries, rows, expected)


def _picture(stem: str, content: dict[str, Any], files: Mapping[str, bytes], rows: LeftOut) -> AnnotatedPicture:
    listed, sides = field(content, "objects", list), field(content, "size", list)
    if len(sides) != 2:
        raise DataError(f"expected height and width as 'size', got {shown(sides)}")
    size = checked_size(sides[0], sides[1], len(listed))
    objects = []
    for number, row in enumerate(listed, 1):
        with rows.row(f"object {number}", "a name and a mask"):
            name = class_name(field(row, "name", object), f"object {number}")
            mask = images.read_mask(required(files, f"{stem}/{picture_name(field(row, 'mask', object), f'object {number}')}"), size=size, smallest=1)
            objects.append(NamedMask(name, mask > 127))
    return AnnotatedPicture(picture_name(field(content, "file_name", object)), size, tuple(objects), stem)
