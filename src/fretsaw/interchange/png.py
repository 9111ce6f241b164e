"""One PNG for each object, 8 bit, 0 and 255, and beside them a JSON file with the names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from fretsaw import images
from fretsaw.errors import DataError
from fretsaw.interchange.pictures import AnnotatedPicture, Files, NamedMask, file_part, required

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

    Raises:
        DataError: If a mask is missing or the names are no JSON.
    """
    found = []
    for path in sorted(path for path in files if path.endswith("/" + NAMES)):
        stem = path.removesuffix("/" + NAMES)
        try:
            content = json.loads(files[path])
            objects = [NamedMask(row["name"], images.read_mask(required(files, f"{stem}/{row['mask']}")) > 127) for row in content["objects"]]
            found.append(AnnotatedPicture(content["file_name"], (content["size"][0], content["size"][1]), tuple(objects), stem))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: expected file_name, size and objects, got: {error!r:.120}") from error
    return found
