"""The recipe pseudo_masks: a photo's mask is kept where saliency map and decoder agree, and no photo is cut twice."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import fretsaw.recipes.pseudo_masks.run as pseudo_masks
from fretsaw.data.datasets import open_dataset
from tiny import tiny_sam2


@pytest.fixture
def data(tmp_path, rng):
    """Six images with one bright square each."""
    folder = tmp_path / "shapes"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for i in range(6):
        mask = np.zeros((60, 80), bool)
        y, x = rng.integers(5, 25, 2)
        mask[y : y + 30, x : x + 30] = True
        image = rng.integers(0, 60, (60, 80, 3)) + 180 * mask[..., None]
        Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"{i}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{i}.png")
    return folder


def test_pseudo_masks_are_kept_where_map_and_decoder_agree_and_made_once(data, tmp_path, monkeypatch):
    calls = []

    class Agreeing:
        saliency = None

        def __call__(self, image, embedding, frame):
            from fretsaw.segmentation import Segmentation

            calls.append(1)
            mask = image[..., 0] > 150 if len(calls) != 2 else image[..., 0] < 150
            return Segmentation(np.where(mask, 5.0, -5.0).astype(np.float32), 0.9, image=image)

    monkeypatch.setattr(pseudo_masks, "saliency_map", lambda network, image: (image[..., 0] > 150).astype(np.float32))
    config = pseudo_masks.Config(photos=str(data / "images"), out=str(tmp_path / "pseudo"), side=40)
    photos = sorted((data / "images").iterdir())
    assert pseudo_masks.make(config, photos[:3], tiny_sam2(64), Agreeing()) == 3  # type: ignore[arg-type]
    assert pseudo_masks.make(config, photos, tiny_sam2(64), Agreeing()) == 6  # type: ignore[arg-type]
    assert len(calls) == 6
    made = open_dataset(tmp_path / "pseudo", "folder")
    assert [s.name for s in made.samples] == ["0", "2", "3", "4", "5"]
    image, truth = made.samples[0].read()
    assert max(image.shape[:2]) == 40
    assert ((truth == 1) == (image[..., 0] > 150)).mean() > 0.95
