"""A COCO annotation file that grows image by image and survives a kill: what was finished is in it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from fretsaw.errors import OutputError
from fretsaw.images import write_bytes
from fretsaw.segmentation import Segmentation

CATEGORY = {"id": 1, "name": "object", "supercategory": "object"}
WRITE_INTERVAL = 5.0
"""Seconds between two writes of the whole file while images are added."""


class CocoFile:
    """Collects one annotation per object; use as a context manager. An existing file is continued unless `overwrite` is set.

    Raises:
        OutputError: If the file exists and is not COCO JSON, or cannot be written.
    """

    def __init__(self, path: Path, overwrite: bool = False) -> None:
        self._path = path
        self._content: dict[str, Any] = {"images": [], "annotations": [], "categories": [CATEGORY]}
        if path.exists() and not overwrite:
            try:
                self._content = json.loads(path.read_text())
                self._images = {image["file_name"]: image["id"] for image in self._content["images"]}
                self._next = max((annotation["id"] for annotation in self._content["annotations"]), default=0) + 1
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise OutputError(f"expected COCO JSON in the existing file {path}, got: {error}; --overwrite starts it anew") from error
        else:
            self._images, self._next = {}, 1
        self._written = time.monotonic()

    def __contains__(self, file_name: str) -> bool:
        return file_name in self._images

    def add(self, file_name: str, result: Segmentation) -> None:
        """Add an image and its object, or its instances where the result has any; an empty mask adds the image alone."""
        height, width = result.mask.shape
        image_id = max(self._images.values(), default=0) + 1
        self._images[file_name] = image_id
        self._content["images"].append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        for part in result.instances or (result,):
            if not part.mask.any():
                continue
            self._content["annotations"].append(part.to_coco(image_id, self._next, CATEGORY["id"]))
            self._next += 1
        if time.monotonic() - self._written >= WRITE_INTERVAL:
            self.write()

    def write(self) -> None:
        """Write the file atomically."""
        write_bytes(self._path, json.dumps(self._content).encode())
        self._written = time.monotonic()

    def __enter__(self) -> CocoFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.write()
