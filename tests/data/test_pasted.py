"""Photos made by pasting: the masks are the edges that were made, the same list gives the same photos, and an interrupted run goes on."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from fretsaw.data import pasted
from fretsaw.data.pasted import SIDE, VISIBLE, make, paste_objects
from fretsaw.data.samples import Sample
from fretsaw.errors import DataError


def read_grey(path):
    return (np.asarray(Image.open(path)) > 0).astype(np.int8)


@pytest.fixture
def objects(tmp_path):
    """Yellow discs; a blue rim around each stands for the background that a loose outline takes along."""
    samples = []
    for i, radius in enumerate((150, 200, 0)):
        image = np.zeros((500, 500, 3), np.uint8)
        mask = np.zeros((500, 500), np.uint8)
        if radius:
            cv2.circle(mask, (250, 250), radius, 255, -1)
            cv2.circle(image, (250, 250), radius, (0, 0, 255), -1)
            cv2.circle(image, (250, 250), radius - 1, (220, 220, 0), -1)
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        Image.fromarray(mask).save(tmp_path / f"{i}_mask.png")
        samples.append(Sample(str(i), tmp_path / f"{i}.png", tmp_path / f"{i}_mask.png", read_grey))
    return samples


@pytest.fixture
def grounds(tmp_path):
    Image.fromarray(np.full((60, 90, 3), 40, np.uint8)).save(tmp_path / "ground.png")
    return [tmp_path / "ground.png"]


def test_the_mask_ends_where_the_object_does_and_takes_no_rim_along(objects, monkeypatch):
    monkeypatch.setattr(pasted, "VISIBLE", 0)
    ground = np.full((60, 90, 3), 40, np.uint8)
    for seed in range(12):
        image, masks = paste_objects(np.random.default_rng(seed), objects, ground)
        assert image.shape == (round(SIDE * 60 / 90), SIDE, 3)
        assert all(mask.any() for mask in masks)
        assert sum(mask.astype(int) for mask in masks).max() <= 1, "each pixel belongs to the object in front"
        union = np.logical_or.reduce(masks)
        edges = [cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((9, 9))) > 0 for mask in masks]
        yellow = image[..., 0].astype(int) - image[..., 2] > 80  # an object, in any light
        assert (yellow == union)[~np.logical_or.reduce(edges)].all()
        assert (image[..., 2].astype(int) - image[..., 0] < 60).all(), "no blue rim"


def test_what_is_hidden_is_not_learned_from(objects, monkeypatch):
    ground = np.full((60, 90, 3), 40, np.uint8)
    kept = [len(paste_objects(np.random.default_rng(seed), objects, ground)[1]) for seed in range(30)]
    monkeypatch.setattr(pasted, "VISIBLE", 0)
    every = [len(paste_objects(np.random.default_rng(seed), objects, ground)[1]) for seed in range(30)]
    assert sum(kept) < sum(every), f"at least one of {sum(every)} objects shows less than {VISIBLE:.0%}"
    assert max(every) == 3


def test_empty_objects_are_passed_over_and_nothing_else_is_an_error(objects):
    with pytest.raises(DataError, match="at least 400 pixels"):
        paste_objects(np.random.default_rng(0), objects[2:], np.zeros((20, 30, 3), np.uint8))


def test_a_photo_is_a_function_of_the_lists_and_its_number(objects, grounds, tmp_path):
    first = make(tmp_path / "a", 3, objects, grounds, seed=1)
    again = make(tmp_path / "b", 2, objects, grounds, seed=1)
    assert [photo.key for photo in first[:2]] == [photo.key for photo in again]
    assert first[0].key != make(tmp_path / "c", 1, objects, grounds, seed=2)[0].key
    image, truth = first[0].objects[0].read()
    assert image.shape[:2] == truth.shape


def test_photos_that_were_made_are_not_made_again(objects, grounds, tmp_path):
    make(tmp_path / "a", 2, objects, grounds)
    (tmp_path / "a" / "00001.json").unlink()  # the masks are written last: this photo was interrupted
    before = (tmp_path / "a" / "00000.jpg").stat().st_mtime_ns
    photos = make(tmp_path / "a", 2, objects, grounds)
    assert len(photos) == 2
    assert (tmp_path / "a" / "00001.json").exists()
    assert (tmp_path / "a" / "00000.jpg").stat().st_mtime_ns == before
