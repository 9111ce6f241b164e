"""SA-1B: the JSON file that Segment Anything's own data set has for each picture, and that its automatic mask generator's users write.

Source: the data set's README (github.com/facebookresearch/segment-anything, "Dataset").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fretsaw.interchange import coco
from fretsaw.interchange.json_files import Shapes, json_pictures
from fretsaw.interchange.names import picture_name
from fretsaw.interchange.pictures import AnnotatedPicture, checked_size
from fretsaw.interchange.untrusted import LeftOut, field

SCORE = "predicted_iou"
KEPT = (SCORE, "stability_score")


def read(files: Mapping[str, bytes]) -> list[AnnotatedPicture]:
    """Return the picture of each .json file. Its masks have no names and are called "object"; the predicted IoU is their score.

    Raises:
        DataError: If a file is not SA-1B's, or none of its masks can be used.
    """
    return [picture for path in sorted(path for path in files if path.endswith(".json")) for picture in _each(path, files[path])]


def _each(path: str, content: bytes) -> Iterator[AnnotatedPicture]:
    def pictures(found: dict[str, Any], entries: LeftOut, rows: LeftOut) -> Iterator[AnnotatedPicture]:
        image, annotations = field(found, "image", dict), field(found, "annotations", list)
        size = checked_size(field(image, "height", object), field(image, "width", object), len(annotations))
        items = Shapes()
        for number, row in enumerate(annotations, 1):
            with rows.row(f"annotation {number}", "a mask"):
                field(row, "segmentation", object)
                said = {key: row[key] for key in KEPT if key in row}
                items.add(coco.shape(row | {"score": row.get(SCORE), "attributes": said}, coco.UNNAMED, size, f"annotation {number}"))
        name = picture_name(image.get("file_name", f"{path.removesuffix('.json')}.jpg"), "file_name", path.rpartition("/")[0])
        yield AnnotatedPicture(name, size, items.masks, path.removesuffix(".json"), boxes=items.boxes)

    return json_pictures(path, content, "SA-1B's image and annotations", dict, pictures)
