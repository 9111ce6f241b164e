"""Simulated clicks with the model in the loop: where they fall, what is fed back, how many there are, and the batches they are made on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fretsaw.data.click_samples import photos_of
from fretsaw.data.samples import Sample
from fretsaw.data.truths import any_channel
from fretsaw.errors import DataError
from fretsaw.frames import Preprocessing, longest_side, squash
from fretsaw.training import clicking
from fretsaw.training.click_batches import ClickBatch, ClickObjects, collate, truth_maps
from fretsaw.training.clicking import answered_clicks, click_through, draw_clicks
from fretsaw.training.embedding_cache import EmbeddingCache
from fretsaw.types import ImageEmbedding
from tiny import CHANNELS, tiny_sam2


def test_the_number_of_clicks_falls_geometrically():
    rng = np.random.default_rng(0)
    counts = np.bincount([draw_clicks(rng, 4, 0.5) for _ in range(6000)], minlength=4)
    assert len(counts) == 4
    assert np.allclose(counts / 6000, np.array([8, 4, 2, 1]) / 15, atol=0.02)
    assert {draw_clicks(rng, 1, 0.6) for _ in range(10)} == {0}


def batch() -> ClickBatch:
    model = tiny_sam2(64)
    torch.manual_seed(0)
    pixels = torch.randn(2, 3, 64, 64)
    coverage = torch.zeros(2, 1, 16, 16)
    coverage[0, 0, 4:9, 4:9] = 1
    coverage[1, 0, 2:13, 9:14] = 1
    with torch.no_grad():
        return ClickBatch(pixels, model.encode(pixels), coverage, torch.ones(2, 1, 16, 16))


def test_the_first_click_is_the_deepest_place_of_the_object():
    point = click_through(tiny_sam2(64), batch(), 0, np.random.default_rng(0))
    assert point.previous_logits is None
    assert point.point_labels.tolist() == [[1], [1]]
    assert point.point_coords[0, 0].tolist() == [(6 + 0.5) * 4 - 0.5] * 2  # pixel (6, 6) of the map
    assert point.point_coords[1, 0, 0].item() == (11 + 0.5) * 4 - 0.5


def test_some_objects_are_clicked_as_people_click():
    model, objects = tiny_sam2(64), batch()

    def first_places(real: float) -> list[list[float]]:
        point = [click_through(model, objects, 0, np.random.default_rng(seed), real) for seed in range(60)]
        assert all((one.point_labels == 1).all() for one in point)
        return [one.point_coords[0, 0].tolist() for one in point]

    centre = [(6 + 0.5) * 4 - 0.5] * 2
    assert all(place == centre for place in first_places(0.0))
    beside = [place != centre for place in first_places(1.0)]
    assert np.mean(beside) > 0.6
    assert 0.25 < np.mean([place != centre for place in first_places(0.5)]) / np.mean(beside) < 0.75
    inside = [[(value + 0.5) / 4 - 0.5 for value in place] for place in first_places(1.0)]
    assert all(4 <= value <= 8 for place in inside for value in place), "a click lies on the object"
    assert first_places(0.7) == first_places(0.7)


def test_every_click_answers_the_refined_mask_before(monkeypatch):
    """A refiner that answers with the truth but for one hole: the next click falls into the hole, and its state travels."""
    objects, seen = batch(), []

    def refine(coords, labels, coarse, previous, state):
        seen.append((coords.shape[1], previous, state))
        answer = torch.where(objects.coverage > 0.5, 5.0, -5.0)
        answer[:, :, 6:8, 10:12] *= -1
        return answer, len(seen)

    asked = answered_clicks(tiny_sam2(64), objects, 3, np.random.default_rng(0), refine)
    point = asked[-1][0]
    assert [point.point_coords.shape[1] for point, _ in asked] == [1, 2, 3]
    assert [entry[0] for entry in seen] == [1, 2, 3]
    assert [entry[2] for entry in seen] == [None, 1, 2]
    assert seen[0][1] is None
    assert torch.equal(seen[2][1], point.previous_logits)
    assert point.state == 2
    assert point.point_coords.shape == (2, 3, 2)
    # In the first image the hole is outside the object and taken for it, in the second it is missed.
    assert point.point_labels[:, 1].tolist() == [0, 1]
    assert all(6 <= (y + 0.5) / 4 - 0.5 <= 7 and 10 <= (x + 0.5) / 4 - 0.5 <= 11 for x, y in point.point_coords[:, 1].tolist())


def test_a_perfect_answer_gets_another_click_on_the_object(monkeypatch):
    objects = batch()
    perfect = torch.where(objects.coverage > 0.5, 5.0, -5.0)
    point = answered_clicks(tiny_sam2(64), objects, 4, np.random.default_rng(0), lambda *asked: (perfect, None))[-1][0]
    assert (point.point_labels == 1).all()
    assert len({tuple(xy) for xy in point.point_coords[0].tolist()}) == 4


def test_unknown_pixels_are_never_clicked():
    objects = batch()
    objects.valid[0, 0, :, :7] = 0
    point = click_through(tiny_sam2(64), objects, 0, np.random.default_rng(0))
    assert (point.point_coords[0, 0, 0].item() + 0.5) / 4 - 0.5 >= 7


def test_coarse_logits_equal_a_sessions_answer(rng):
    from fretsaw.runtimes.torch import TorchClickModel
    from fretsaw.session import Session

    model, image = tiny_sam2(64), rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    session = Session(image, TorchClickModel(model))
    session.click(20, 30)
    point = clicking.Interaction(torch.tensor([[[20.0, 30.0]]]), torch.tensor([[1]]), None, None)
    one = ClickBatch(model.pixels_of(image), session.embedding, torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16))
    with torch.no_grad():
        assert torch.equal(clicking.coarse_logits(model, one, point), torch.tensor(session.step.prompt.previous_logits))


@pytest.mark.parametrize("frame", [squash, longest_side])
def test_truth_maps_hold_shares_and_leave_padding_and_unknown_pixels_out(frame):
    truth = np.zeros((32, 64), np.int8)
    truth[:, 32:] = 1
    truth[:8, :8] = -1
    coverage, valid = truth_maps(truth, Preprocessing(frame, 64))
    rows = 16 if frame is squash else 8
    assert coverage.shape == valid.shape == (1, 1, 16, 16)
    assert torch.allclose(coverage[0, 0, :rows, 10:], torch.ones(rows, 6), atol=1e-6)
    assert torch.allclose(coverage[0, 0, :, :6], torch.zeros(16, 6), atol=1e-6)
    assert (coverage[0, 0, rows:] < 1e-6).all()
    assert (valid[0, 0, rows:] == 0).all()
    assert valid[0, 0, 0, 0] == 0
    assert valid[0, 0, rows - 1, 15] == 1


def test_objects_are_a_function_of_seed_and_index_and_need_a_stored_embedding(tmp_path, rng):
    samples = []
    for i in range(3):
        mask = np.zeros((20, 24), np.uint8)
        mask[3 + i : 15, 5:20] = 255
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        Image.fromarray(mask if i else mask * 0).save(tmp_path / f"mask{i}.png")
        samples.append(Sample(str(i), tmp_path / f"{i}.png", tmp_path / f"mask{i}.png", any_channel))
    photos, preprocessing = photos_of(samples), Preprocessing(squash, 64)
    cache = EmbeddingCache(tmp_path / "cache", "model", preprocessing.key)
    with pytest.raises(DataError, match="got none among 3"):
        ClickObjects(photos, cache, preprocessing)
    cache.fill([photo.key for photo in photos[:2]], lambda key: ImageEmbedding(torch.full((1, CHANNELS, 4, 4), 0.5)))
    objects = ClickObjects(photos, cache, preprocessing, seed=5)
    assert objects.photos == 2
    both = collate([objects[0], objects[7]])
    assert both.pixels.shape == (2, 3, 64, 64)
    assert (both.coverage.flatten(1).max(1).values > 0.9).all()  # the photo with an empty mask is drawn again
    assert torch.equal(objects[7].pixels, ClickObjects(photos, cache, preprocessing, seed=5)[7].pixels)


def test_both_ways_of_clicking_make_the_same_clicks():
    model, objects = tiny_sam2(64), batch()
    whole = answered_clicks(model, objects, 3, np.random.default_rng(5), lambda coords, labels, coarse, previous, state: (coarse, None))[-1][0]
    last = click_through(model, objects, 2, np.random.default_rng(5))
    assert torch.equal(whole.point_coords, last.point_coords)
    assert torch.equal(whole.previous_logits, last.previous_logits)
