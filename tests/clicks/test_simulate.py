"""The simulated annotator: equal to RITM's click by click; HRSAM's rule where it differs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fretsaw.clicks.simulate import depths, error_regions, simulate_click, simulate_click_around, simulate_click_hrsam
from fretsaw.errors import ConfigError, ShapeError
from fretsaw.types import Click

SHAPE = (16, 12)
BOOLS = hnp.arrays(bool, SHAPE)
TRUTHS = hnp.arrays(np.int8, SHAPE, elements=st.integers(-1, 1))


def region(*boxes: tuple[int, int, int, int], shape: tuple[int, int] = (20, 30)) -> np.ndarray:
    """Boxes are x0, y0, x1, y1, half open."""
    mask = np.zeros(shape, bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


def test_every_click_equals_ritms(shared: Path):
    golden = np.load(shared / "golden" / "clicks_ritm.npz")
    cases = [name[: -len("_truth")] for name in golden.files if name.endswith("_truth")]
    compared = 0
    for case in cases:
        truth = golden[f"{case}_truth"]
        shape = tuple(golden[f"{case}_shape"])
        predictions = np.unpackbits(golden[f"{case}_predictions"])[: int(np.prod(shape))].reshape(shape).astype(bool)
        clicked = np.zeros(truth.shape, bool)
        prediction = np.zeros(truth.shape, bool)
        for k, (x, y, positive) in enumerate(golden[f"{case}_clicks"]):
            assert simulate_click(prediction, truth, clicked) == Click(x, y, bool(positive)), (case, k)
            clicked[y, x] = True
            prediction = predictions[k]
            compared += 1
    assert compared == 108


def test_the_first_click_is_the_centre_of_the_object():
    truth = region((4, 6, 11, 13)).astype(np.int8)
    assert simulate_click(np.zeros(truth.shape, bool), truth) == Click(7, 9, True)


def test_ties_go_to_the_first_pixel_in_row_order_and_ties_between_regions_are_negative():
    truth = region((2, 2, 5, 5), (12, 2, 15, 5)).astype(np.int8)
    assert simulate_click(np.zeros(truth.shape, bool), truth) == Click(3, 3, True)
    assert simulate_click(region((2, 2, 5, 5), (20, 10, 23, 13)), truth) == Click(21, 11, False)


def test_a_perfect_mask_still_gives_a_negative_click_at_the_corner():
    truth = region((4, 6, 11, 13)).astype(np.int8)
    assert simulate_click(truth == 1, truth) == Click(0, 0, False)


def test_the_image_edge_counts_as_border():
    # Without padding the depth would grow to the image's corner; with it the centre of the object is deepest.
    truth = np.ones((9, 9), np.int8)
    assert simulate_click(np.zeros((9, 9), bool), truth) == Click(4, 4, True)


def test_ignored_pixels_are_never_wrong():
    truth = np.full((9, 9), -1, np.int8)
    truth[2:5, 2:5] = 1
    assert simulate_click(np.ones((9, 9), bool), truth) == Click(0, 0, False)
    assert simulate_click(np.zeros((9, 9), bool), truth) == Click(3, 3, True)


def test_clicked_pixels_are_zeroed_after_the_transform_by_ritms_rule_and_before_it_by_hrsams():
    truth = region((0, 0, 9, 1), shape=(1, 9)).astype(np.int8)
    truth = np.repeat(truth, 9, axis=0)
    clicked = np.zeros((9, 9), bool)
    clicked[4, 4] = True
    empty = np.zeros((9, 9), bool)
    # The centre (depth 5) is taken: its first neighbour in row order (depth 4) is next.
    assert simulate_click(empty, truth, clicked) == Click(3, 3, True)
    # As border, the centre pushes the deepest places away from itself.
    hrsam = simulate_click_hrsam(empty, truth, clicked, np.random.default_rng(0))
    assert hrsam is not None
    assert np.hypot(hrsam.x - 4, hrsam.y - 4) >= 2


@settings(max_examples=300, deadline=None)
@given(BOOLS, TRUTHS, BOOLS)
def test_the_bounding_box_gives_the_same_click_as_the_whole_image(prediction, truth, clicked):
    valid = truth != -1
    fields = []
    for wrong in ((truth == 1) & ~prediction & valid, (truth != 1) & prediction & valid):
        padded = np.pad(wrong, 1).astype(np.uint8)
        fields.append(cv2.distanceTransform(padded, cv2.DIST_L2, 0)[1:-1, 1:-1] * ~clicked)
    positive = fields[0].max() > fields[1].max()
    field = fields[0 if positive else 1]
    y, x = np.argwhere(field == field.max())[0]
    assert simulate_click(prediction, truth, clicked) == Click(x, y, bool(positive))


@settings(max_examples=100, deadline=None)
@given(BOOLS, TRUTHS, BOOLS, st.integers(0, 3))
def test_hrsams_click_is_one_of_the_deepest_and_repeats_with_its_seed(prediction, truth, clicked, seed):
    click = simulate_click_hrsam(prediction, truth, clicked, np.random.default_rng(seed))
    assert click == simulate_click_hrsam(prediction, truth, clicked, np.random.default_rng(seed))
    missed, taken = (wrong & ~clicked for wrong in error_regions(prediction, truth))
    if click is None:
        assert not missed.any()
        assert not taken.any()
        return
    wrong, other = (missed, taken) if click.positive else (taken, missed)
    y, x = int(click.y), int(click.x)
    assert wrong[y, x]
    assert depths(wrong)[y, x] == pytest.approx(depths(wrong).max(), rel=1e-6)
    assert depths(wrong).max() >= depths(other).max()


def test_hrsams_ties_are_drawn_among_all_deepest_pixels():
    truth = region((2, 2, 5, 5), (12, 2, 15, 5), (22, 12, 25, 15)).astype(np.int8)
    empty = np.zeros(truth.shape, bool)
    clicks = {simulate_click_hrsam(empty, truth, None, np.random.default_rng(seed)) for seed in range(40)}
    assert clicks == {Click(3, 3, True), Click(13, 3, True), Click(23, 13, True)}


def test_hrsam_makes_no_click_on_a_perfect_mask_nor_where_every_wrong_pixel_is_clicked():
    truth = region((4, 6, 11, 13)).astype(np.int8)
    rng = np.random.default_rng(0)
    assert simulate_click_hrsam(truth == 1, truth, None, rng) is None
    assert simulate_click_hrsam(np.zeros(truth.shape, bool), truth, truth == 1, rng) is None


@pytest.mark.parametrize(
    ("prediction", "truth", "clicked"),
    [
        (np.zeros((4, 4), bool), np.zeros((4, 5), np.int8), None),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.int8), None),
        (np.zeros((4, 4), bool), np.zeros((4, 4), np.uint8), None),
        (np.zeros((4, 4), bool), np.zeros((4, 4), np.int8), np.zeros((5, 4), bool)),
        (np.zeros((4, 4, 1), bool), np.zeros((4, 4, 1), np.int8), None),
    ],
)
def test_arrays_that_do_not_fit_are_refused(prediction, truth, clicked):
    with pytest.raises(ShapeError, match="expected"):
        simulate_click(prediction, truth, clicked)


@settings(max_examples=60, deadline=None)
@given(BOOLS, TRUTHS, BOOLS, st.integers(0, 5), st.floats(0, 3))
def test_a_click_around_the_centre_falls_on_the_same_error_and_repeats_with_its_seed(prediction, truth, clicked, seed, spread):
    click = simulate_click_around(prediction, truth, clicked, np.random.default_rng(seed), spread)
    centre = simulate_click_hrsam(prediction, truth, clicked, np.random.default_rng(seed))
    assert (click is None) == (centre is None)
    if click is None or centre is None:
        return
    place = int(click.y), int(click.x)
    assert click.positive == centre.positive
    assert error_regions(prediction, truth)[0 if click.positive else 1][place]
    assert not clicked[place]
    assert click == simulate_click_around(prediction, truth, clicked, np.random.default_rng(seed), spread)


def test_clicks_scatter_in_proportion_to_the_depth_of_the_error_and_spread_0_is_the_centre():
    truth = region((10, 10, 91, 91), shape=(101, 101)).astype(np.int8)
    nothing = np.zeros(truth.shape, bool)

    def scatter(spread: float) -> tuple[np.ndarray, np.ndarray]:
        clicks = [simulate_click_around(nothing, truth, None, np.random.default_rng(seed), spread) for seed in range(400)]
        places = np.array([(click.x, click.y) for click in clicks if click is not None])
        return places.mean(0), places.std(0)

    for spread in (0.0, 0.1, 0.2):
        mean, deviation = scatter(spread)
        assert np.allclose(mean, 50, atol=1)
        assert np.allclose(deviation, spread * 41, rtol=0.15, atol=1e-6)
    with pytest.raises(ConfigError, match="expected a spread of at least 0, got -1"):
        simulate_click_around(nothing, truth, None, np.random.default_rng(0), -1)


def test_an_error_that_is_missed_by_every_draw_is_clicked_at_its_centre():
    truth = region((5, 5, 6, 6)).astype(np.int8)
    click = simulate_click_around(np.zeros(truth.shape, bool), truth, None, np.random.default_rng(0), 1e6)
    assert click == Click(5, 5, True)
