"""The golden records of segment-anything's automatic mask generator, and a decoder that plays its recorded answers back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

NAMES = ("grid_plain", "grid_crops_small_regions")


class Recorded:
    """A `CropDecoder` that answers batch after batch what was recorded; the logits have the crop's size already."""

    def __init__(self, golden: dict[str, np.ndarray]) -> None:
        self.golden, self.batch = golden, 0

    def open_crop(self, crop: np.ndarray) -> Recorded:
        self.crop = crop
        return self

    def decode(self, points: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        recorded = {name: self.golden[f"batch{self.batch}_{name}"] for name in ("points", "logits", "iou")}
        self.batch += 1
        np.testing.assert_array_equal(points, recorded["points"])
        np.testing.assert_array_equal(labels, 1)
        assert recorded["logits"].shape[2:] == self.crop.shape[:2]
        return torch.from_numpy(recorded["logits"]).float(), torch.from_numpy(recorded["iou"])

    def enlarge(self, logits: Tensor) -> Tensor:
        return logits

    @property
    def finished(self) -> bool:
        return f"batch{self.batch}_points" not in self.golden


def load_golden(shared: Path, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any], list[dict[str, Any]]]:
    """Return the file's arrays, the generator's arguments and its final records."""
    with np.load(shared / "golden" / f"{name}.npz") as file:
        golden = dict(file)
    return golden, json.loads(str(golden["arguments"])), json.loads(str(golden["records"]))


def image_of(golden: dict[str, np.ndarray]) -> np.ndarray:
    """Return an image of the recorded size; what it shows does not matter to a recorded decoder."""
    return np.zeros((*golden["image_size"].tolist(), 3), np.uint8)
