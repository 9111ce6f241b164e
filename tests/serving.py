"""A server over a tiny random model, for every test of it: in the test's own process, or as `python tests/serving.py FOLDER DATA` in one that can be killed."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fretsaw.api import Segmenter
from fretsaw.catalog import Parts
from fretsaw.frames import Frame
from fretsaw.images import write_image
from fretsaw.segmentation import LabelMap, Segmentation
from fretsaw.server.settings import ServerSettings
from fretsaw.types import ImageEmbedding
from tiny import tiny_sam2


class Bright:
    """An automatic cut that anybody can check: what is brighter than the middle; `pause` seconds make it slow."""

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause

    def __call__(self, image: np.ndarray, embedding: ImageEmbedding, frame: Frame) -> Segmentation:
        time.sleep(self.pause)
        return Segmentation(image.mean(axis=2).astype(np.float32) - 127.5, 0.5, image=image)

    def split(self, cut: Segmentation, embedding: ImageEmbedding, frame: Frame) -> Segmentation:
        """Left and right half of what is bright."""
        columns = np.arange(cut.logits.shape[1]) < cut.logits.shape[1] // 2
        halves = [np.where(side, cut.logits, np.float32(-127.5)) for side in (columns, ~columns)]
        return replace(cut, instances=tuple(Segmentation(half, 0.5) for half in halves))


def halves(image: np.ndarray, names: list[str], *settings: object, **more: object) -> LabelMap:
    """A text mode that calls the left half by the first name and the right half background."""
    labels = np.zeros(image.shape[:2], np.int32)
    labels[:, image.shape[1] // 2 :] = len(names)
    return LabelMap(labels, (*names, "background"), image=image)


def tiny_segmenter(pause: float = 0.0, **parts: Any) -> Segmenter:
    return Segmenter("tiny", Parts(**{"clicks": tiny_sam2(128), "automatic": Bright(pause), "text": halves} | parts))


def photo(number: int = 0, height: int = 90, width: int = 120) -> np.ndarray:
    """A dark picture with a bright disk, different for every number."""
    y, x = np.mgrid[:height, :width]
    disk = (y - height / 2) ** 2 + (x - width / 2 - 3 * number) ** 2 < (height / 3) ** 2
    picture = np.full((height, width, 3), 40 + number, np.uint8)
    picture[disk] = (230, 200 - number, 180)
    return picture


def make_folder(folder: Path, count: int = 3) -> Path:
    """Write pictures 0.png, 1.png, ..., the last one in a subfolder."""
    for number in range(count):
        write_image(folder / ("deep" if number == count - 1 else "") / f"{number}.png", photo(number))
    return folder


def settings_of(folder: Path | None, data: Path, **changes: Any) -> ServerSettings:
    return ServerSettings(**{"data": data, "folder": folder, "hosts": ("testserver", "127.0.0.1", "localhost"), "workers": 2} | changes)


def main() -> None:
    """Serve on a free port of this machine and print it."""
    import uvicorn

    from fretsaw.server.app import create_app

    folder, data = Path(sys.argv[1]), Path(sys.argv[2])
    pause = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    config = uvicorn.Config(create_app(tiny_segmenter(pause), settings_of(folder, data)), log_level="warning", timeout_graceful_shutdown=1)
    config.port = 0
    socket = config.bind_socket()
    print(socket.getsockname()[1], flush=True)
    uvicorn.Server(config).run([socket])


if __name__ == "__main__":
    main()
