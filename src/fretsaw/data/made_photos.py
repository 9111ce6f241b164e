"""Photos that are made to learn from, each kept with its objects' masks in a folder, so that an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fretsaw.data.click_samples import Photo, content_key
from fretsaw.data.samples import Sample
from fretsaw.data.teacher_masks import read_object
from fretsaw.images import encode_image, write_bytes
from fretsaw.masks import encode_rle


def make_once(folder: Path, count: int, suffix: str, draw: Callable[[int], tuple[np.ndarray, Sequence[np.ndarray]]]) -> list[Photo]:
    """Make photos, or find those that an earlier run made.

    Args:
        folder: They lie here: `00012` with the suffix, and its masks, `00012.json`.
        count: How many.
        suffix: ".jpg" or ".png".
        draw: Makes photo i, (H, W, 3) uint8, and its objects' masks, (H, W) bool each; always the same ones.
    """
    photos = []
    for i in range(count):
        path, masks = folder / f"{i:05d}{suffix}", folder / f"{i:05d}.json"
        if not masks.exists():
            image, found = draw(i)
            write_bytes(path, encode_image(image, path.suffix))
            write_bytes(masks, json.dumps({"masks": [encode_rle(mask) for mask in found]}).encode())
        kept = len(json.loads(masks.read_text())["masks"])
        photos.append(Photo(path, content_key(path), tuple(Sample(f"{path.stem}_{n}", path, masks, partial(read_object, index=n)) for n in range(kept))))
    return photos
