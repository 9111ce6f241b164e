"""A COCO annotation file that grows image by image and survives a kill: what was finished is in it."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from fretsaw.errors import OutputError
from fretsaw.images import write_bytes
from fretsaw.ownership import own
from fretsaw.segmentation import Segmentation

CATEGORY = {"id": 1, "name": "object", "supercategory": "object"}
WRITE_INTERVAL = 5.0
"""Seconds between two writes of the whole file while images are added."""


class CocoFile:
    """Collects one annotation per object; use as a context manager, in which this process alone owns the file. An existing file is continued unless `overwrite`
    is set.

    Entering raises:
        BusyError: If another process writes the file; the message names it.
        OutputError: If the file exists and is not COCO JSON, or cannot be written.
    """

    def __init__(self, path: Path, overwrite: bool = False) -> None:
        self._path, self._overwrite = path, overwrite
        self._content: dict[str, Any] = {"images": [], "annotations": [], "categories": [dict(CATEGORY)]}
        self._images: dict[str, int] = {}
        self._next, self._next_image, self._category = 1, 1, CATEGORY["id"]
        self._changed = False
        self._written = time.monotonic()
        self._held = ExitStack()

    def __contains__(self, file_name: str) -> bool:
        return file_name in self._images

    def add(self, file_name: str, result: Segmentation) -> None:
        """Add an image and its object, or its instances where the result has any; an empty mask adds the image alone."""
        height, width = result.mask.shape
        image_id, parts = self._next_image, [part for part in result.instances or (result,) if part.mask.any()]
        # All of it is made before any of it is added: an image without its objects would count as finished.
        annotations = [part.to_coco(image_id, number, self._category) for number, part in enumerate(parts, self._next)]
        self._images[file_name] = image_id
        self._content["images"].append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        self._content["annotations"].extend(annotations)
        self._next, self._next_image, self._changed = self._next + len(parts), image_id + 1, True
        if time.monotonic() - self._written >= WRITE_INTERVAL:
            self.write()

    def write(self) -> None:
        """Write the file atomically."""
        write_bytes(self._path, json.dumps(self._content).encode())
        self._written, self._changed = time.monotonic(), False

    def __enter__(self) -> CocoFile:
        self._held.enter_context(own(self._path, "another run that writes COCO annotations"))
        try:
            if self._path.exists() and not self._overwrite:
                self._take_over()
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._held:
            # A run that broke off before its first image leaves the file as it was.
            if self._changed or (kind is None and (self._overwrite or not self._path.exists())):
                self.write()

    def _take_over(self) -> None:
        try:
            content = json.loads(self._path.read_bytes())
            images = {str(image["file_name"]): _number(image["id"]) for image in content["images"]}
            numbers = [_number(annotation["id"]) for annotation in content["annotations"]]
            categories = {_number(category["id"]): category["name"] for category in content["categories"]}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
            raise OutputError(f"expected COCO JSON in the existing file {self._path}, got: {reason}; --overwrite starts it anew") from error
        own_number = next((number for number, name in categories.items() if name == CATEGORY["name"]), None)
        if own_number is None:  # its numbers mean something else there
            own_number = max(categories, default=0) + 1
            content["categories"].append({**CATEGORY, "id": own_number})
        self._content, self._images, self._category = content, images, own_number
        self._next, self._next_image = max(numbers, default=0) + 1, max(images.values(), default=0) + 1


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"an id that is no whole number: {value!r:.60}")
    return value
