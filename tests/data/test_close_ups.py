"""Close-ups: parts of photos around one object, as a session that zooms in sees them."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from fretsaw.data import close_ups
from fretsaw.data.close_ups import FACTORS, LARGEST, SMALLEST, draw_part, make, surroundings
from fretsaw.data.samples import Sample
from fretsaw.errors import DataError
from fretsaw.types import Box


def read_truth(path):
    return np.asarray(Image.open(path)).astype(np.int8)


def sample(folder, name: str, radius: int, ignored: bool = False) -> Sample:
    """A disc of one colour on a ground of another, in a photo of 300 x 400."""
    truth = np.zeros((300, 400), np.uint8)
    if radius:
        cv2.circle(truth, (200, 150), radius, 1, -1)
    image = np.where(truth[..., None] > 0, np.uint8([200, 40, 40]), np.uint8([20, 60, 200]))
    if ignored:
        truth[0, 0] = 255  # -1
    Image.fromarray(image).save(folder / f"{name}.png")
    Image.fromarray(truth).save(folder / f"{name}_mask.png")
    return Sample(name, folder / f"{name}.png", folder / f"{name}_mask.png", read_truth)


@pytest.fixture
def groups(tmp_path):
    return [[sample(tmp_path, "large", 148), sample(tmp_path, "none", 0)], [sample(tmp_path, "small", 40)], [sample(tmp_path, "unknown", 40, ignored=True)], []]


def test_a_part_holds_its_object_whole_and_little_else(groups):
    for seed in range(20):
        image, mask = draw_part(np.random.default_rng(seed), groups)
        assert image.shape[:2] == mask.shape
        assert mask.sum() == (groups[1][0].read_truth() == 1).sum(), "the small one, whole: the others are too large, empty or not known everywhere"
        assert mask.size <= LARGEST * 300 * 400
        assert np.array_equal(image[..., 0] == 200, mask), "the mask belongs to the pixels"
        assert FACTORS[0] - 0.05 <= max(mask.shape) / 81 <= FACTORS[1] + 0.3


def test_surroundings_hold_the_box_and_stay_in_the_image():
    rng = np.random.default_rng(0)
    for box in (Box(0, 0, 30, 20), Box(380, 280, 400, 300), Box(100, 50, 300, 250), Box(7, 9, 8, 10)):
        for _ in range(50):
            part = surroundings(rng, box, 300, 400)
            assert 0 <= part.x0 <= box.x0 < box.x1 <= part.x1 <= 400
            assert 0 <= part.y0 <= box.y0 < box.y1 <= part.y1 <= 300
            assert min(part.x1 - part.x0, part.y1 - part.y0) >= SMALLEST / 2


def test_the_same_lists_give_the_same_parts_and_an_interrupted_run_goes_on(groups, tmp_path, monkeypatch):
    whole = make(tmp_path / "a", 4, groups, seed=1)
    make(tmp_path / "b", 2, groups, seed=1)
    drawn = []
    original = close_ups.draw_part
    monkeypatch.setattr(close_ups, "draw_part", lambda *asked: drawn.append(1) or original(*asked))
    parts = make(tmp_path / "b", 4, groups, seed=1)
    assert len(drawn) == 2
    assert [photo.key for photo in parts] == [photo.key for photo in whole]
    assert len({photo.key for photo in whole}) == 4
    image, truth = parts[3].objects[0].read()
    assert image.shape[:2] == truth.shape
    assert truth.any()
    assert len(json.loads((tmp_path / "b" / "00003.json").read_text())["masks"]) == 1


@pytest.mark.parametrize("kept", [0, 3, 2])
def test_a_set_without_small_objects_is_said(groups, tmp_path, kept):
    with pytest.raises(DataError, match="expected objects whose surroundings"):
        make(tmp_path / "c", 1, [groups[kept][:1]])
