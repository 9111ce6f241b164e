"""Writes what fretsaw.masks makes of some masks, for the tests of the page's own decoder: `python tests/page/golden.py` renews golden.json beside it.

tests/server/test_page_units.py checks that the file is what this program writes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from fretsaw import masks

FILE = Path(__file__).with_name("golden.json")


def small() -> dict[str, np.ndarray]:
    """Masks that a test can hold as text."""
    y, x = np.mgrid[:23, :31]
    noise = np.random.default_rng(3).random((17, 13)) < 0.4
    shapes = {
        "empty": np.zeros((5, 7), bool),
        "full": np.ones((5, 7), bool),
        "first pixel": (np.arange(35) == 0).reshape(5, 7),
        "last pixel": (np.arange(35) == 34).reshape(5, 7),
        "one pixel of one": np.ones((1, 1), bool),
        "one row": np.array([[0, 1, 1, 0, 1]], bool),
        "one column": np.array([[1], [0], [0], [1], [1]], bool),
        "disk": (x - 16) ** 2 + (y - 10) ** 2 < 80,
        "ring": abs((x - 15) ** 2 + (y - 11) ** 2 - 70) < 30,
        "chequers": (x + y) % 2 == 0,
        "noise": noise,
        "run over the end of a column": (np.arange(12) % 11 < 5).reshape(3, 4).T,
    }
    return {name: np.ascontiguousarray(mask, dtype=bool) for name, mask in shapes.items()}


def large() -> np.ndarray:
    """A mask of 48 megapixels, of which both sides know the formula; its runs need up to five characters."""
    mask = np.zeros((6000, 8000), bool)
    mask[1000:5999, 2500:2520] = True
    mask[:, 7001:7900] = True
    return mask


def make() -> dict[str, Any]:
    """Return everything the tests of masks.js compare with."""
    cases = []
    for name, mask in small().items():
        rows = ["".join("#" if pixel else "." for pixel in row) for row in mask]
        plain = masks.uncompressed_rle(mask)["counts"]
        cases.append({"name": name, "rows": rows, "rle": masks.encode_rle(mask), "counts": plain, "box": [int(side) for side in masks.mask_to_box(mask)]})
    mask = large()
    big = {"rle": masks.encode_rle(mask), "counts": masks.uncompressed_rle(mask)["counts"], "box": [int(side) for side in masks.mask_to_box(mask)]}
    return {"cases": cases, "large": big | {"area": int(mask.sum())}}


def text() -> str:
    """Return the file's content."""
    return json.dumps(make(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
