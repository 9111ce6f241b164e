"""Edges at the image's own resolution: the filter against its definition, tiles with a decoder whose answers are known, and the automatic cut."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.pmg_sam.scenes import thin_scene
from fretsaw import edges, frames
from fretsaw.edges import at_own_resolution, band, guided_filter, guided_logits, plan_tiles, refine_edges, tent
from fretsaw.evaluation.overlap import boundary_iou


def test_the_filter_is_the_mean_over_windows_of_least_squares_fits(rng):
    """Equations 8, 14 and 15, window by window, away from the border."""
    guide, values = rng.random((13, 13, 3), np.float32), rng.random((13, 13), np.float32)
    radius, noise, found = 2, 0.01, []
    for y in range(4, 9):
        for x in range(4, 9):
            window = guide[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).astype(float)
            target = values[y - 2 : y + 3, x - 2 : x + 3].reshape(-1).astype(float)
            covariance = np.cov(window.T, bias=True) + noise * np.eye(3)
            slope = np.linalg.solve(covariance, (window * target[:, None]).mean(0) - window.mean(0) * target.mean())
            found.append([*slope, target.mean() - slope @ window.mean(0)])
    mean = np.mean(found, 0)
    result = guided_filter(guide, values, radius, noise)
    assert result[6, 6] == pytest.approx(mean[:3] @ guide[6, 6] + mean[3], abs=1e-4)


def test_a_flat_image_blurs_and_a_mask_like_the_image_stays(rng):
    mask = np.zeros((64, 64), np.float32)
    mask[:, 20:40] = 1
    assert np.allclose(guided_filter(np.full((64, 64, 3), 0.5, np.float32), np.full((64, 64), 0.7, np.float32), 4, 1e-4), 0.7, atol=1e-5)
    assert np.abs(guided_filter(np.repeat(mask[..., None], 3, 2), mask, 4, 1e-4) - mask).max() < 0.02


def test_an_edge_moves_to_where_the_colours_change():
    image = np.full((80, 80, 3), (40, 90, 60), np.uint8)
    image[:, 43:] = (200, 120, 80)
    logits = np.broadcast_to((np.arange(80, dtype=np.float32) - 39.5)[None], (80, 80)).copy()  # 3 pixels off
    found = guided_logits(image, logits, 8) > 0
    assert found[40].argmax() == 43
    assert np.isfinite(guided_logits(image, logits * 1e6, 8)).all()


@pytest.mark.parametrize("side", [512, 160])
def test_only_images_much_larger_than_the_frame_are_looked_at_again(side):
    image, truth = thin_scene(side, seed=2, width=0.006)
    frame = frames.squash(side, side, 128)
    low = frames.mask_to_logits(truth, frame, 32)
    enlarged = frames.logits_to_image(low, frame)[0, 0]
    result = at_own_resolution(low, image, frame)
    if side == 160:
        assert np.array_equal(result, enlarged)
    else:
        assert boundary_iou(result > 0, truth, 0.002) > boundary_iou(enlarged > 0, truth, 0.002) + 0.1


def test_tiles_change_nothing_but_how_much_is_held_at_once(monkeypatch):
    """Where tiles overlap by more than the filter reaches, many small ones and one large one agree."""
    image, truth = thin_scene(512, seed=2, width=0.006)
    frame = frames.squash(512, 512, 128)
    low = frames.mask_to_logits(truth, frame, 32)
    whole = at_own_resolution(low, image, frame)
    monkeypatch.setattr(edges, "TILE", 320)
    parts = at_own_resolution(low, image, frame)
    assert ((whole > 0) != (parts > 0)).mean() < 2e-3


def test_tiles_cover_the_image_and_overlap():
    seen = np.zeros((300, 450), int)
    for box in plan_tiles(300, 450, 128):
        assert (box.x1 - box.x0, box.y1 - box.y0) == (128, 128)
        seen[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] += 1
    assert seen.min() == 1
    starts = sorted({box.x0 for box in plan_tiles(300, 450, 128)})
    assert np.diff(starts).max() <= 128 * 7 / 8
    assert len(plan_tiles(100, 90, 128)) == 1


def test_the_band_is_full_at_the_edge_and_gone_at_its_reach():
    mask = np.zeros((60, 60), bool)
    mask[:, 30:] = True
    share = band(mask, 10)
    assert share[5, 29] == share[5, 30] == 1
    assert share[5, 15] == share[5, 45] == 0
    assert 0 < share[5, 22] < 1
    assert not band(np.zeros((8, 8), bool), 5).any()
    assert tent(9, 9).argmax() == 40


def test_tiles_bring_thin_parts_back_and_leave_the_rest_alone():
    image, truth = thin_scene(512, seed=1, width=0.006)
    small = frames.resize_map(truth.astype(np.float32), 32, 32)
    coarse = frames.resize_map((2 * small - 1) * 8, 512, 512)
    calls = []

    def perfect(tile: np.ndarray, logits: np.ndarray) -> np.ndarray:
        calls.append(tile.shape)
        places = np.argwhere((np.lib.stride_tricks.sliding_window_view(image[:, :, 0], tile.shape[:2])[::1, ::1, 0, :8] == tile[0, :8, 0]).all(-1))
        y, x = next((y, x) for y, x in places if np.array_equal(image[y : y + 128, x : x + 128], tile))
        return np.where(truth[y : y + 128, x : x + 128], 9.0, -9.0).astype(np.float32)

    refined = refine_edges(image, coarse, 128, perfect, 24 * 4)
    assert boundary_iou(refined > 0, truth, 0.002) > boundary_iou(coarse > 0, truth, 0.002) + 0.2
    outside = band(coarse > 0, 24 * 4) == 0
    assert np.array_equal(refined[outside], coarse[outside])
    assert set(calls) == {(128, 128, 3)}


def test_nothing_is_decoded_where_there_is_no_edge():
    image = np.zeros((300, 300, 3), np.uint8)
    logits = np.full((300, 300), -3, np.float32)
    assert np.array_equal(refine_edges(image, logits, 128, lambda *_: 1 / 0, 50), logits)


def test_a_scene_is_reproducible_and_has_thin_parts():
    image, mask = thin_scene(256, seed=3)
    again = thin_scene(256, seed=3)
    assert np.array_equal(image, again[0])
    assert np.array_equal(mask, again[1])
    import cv2

    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)) > 0
    assert 0.005 < (mask & ~opened).mean() < 0.1
