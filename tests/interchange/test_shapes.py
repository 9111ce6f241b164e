"""Shapes become masks by one rule: the pixels whose centres lie inside, edges as COCO counts them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from fretsaw import masks
from fretsaw.errors import DataError
from fretsaw.interchange import shapes
from fretsaw.types import Box

SIZE = (30, 40)
quarter = st.integers(-40, 200).map(lambda n: n / 4)


def centres(size=SIZE):
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return x, y


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 39), st.integers(0, 29), st.integers(1, 40), st.integers(1, 30))
def test_a_box_is_the_pixels_that_pycocotools_counts(x, y, width, height):
    """COCO's [x, y, width, height] in whole pixels: the same mask, by its own code."""
    [rle] = coco_mask.frPyObjects(np.array([[x, y, min(width, 40 - x), min(height, 30 - y)]], float), *SIZE)
    np.testing.assert_array_equal(shapes.box_mask(shapes.box(x, y, x + width, y + height, SIZE), SIZE), coco_mask.decode(rle).astype(bool))


@settings(max_examples=60, deadline=None)
@given(quarter, quarter, quarter, quarter)
def test_a_box_and_the_polygon_of_its_corners_are_one_mask(x0, y0, x1, y1):
    try:
        found = shapes.box(x0, y0, x1, y1, SIZE)
    except DataError:
        assert min(max(x0, x1), 40) <= max(min(x0, x1), 0) or min(max(y0, y1), 30) <= max(min(y0, y1), 0)
        return
    np.testing.assert_array_equal(shapes.box_mask(found, SIZE), shapes.polygon(shapes.box_corners(found), SIZE))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 30)), min_size=3, max_size=8))
def test_polygons_differ_from_pycocotools_only_along_slanted_edges(points):
    ring = np.array(points, float)
    ours = shapes.polygon(ring, SIZE)
    theirs = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([ring.ravel().tolist()], *SIZE))).astype(bool)
    x, y = centres()
    differing = np.argwhere(ours != theirs)
    for row, column in differing:
        start, way = ring, np.roll(ring, -1, axis=0) - ring
        offset = np.array([x[row, column], y[row, column]]) - start
        share = np.clip((offset * way).sum(axis=1) / np.maximum((way**2).sum(axis=1), 1e-9), 0, 1)
        assert np.hypot(*(offset - share[:, None] * way).T).min() <= 1


@settings(max_examples=60, deadline=None)
@given(quarter, quarter, st.integers(1, 80).map(lambda n: n / 4), st.integers(1, 80).map(lambda n: n / 4), st.integers(-180, 180))
def test_an_ellipse_is_where_its_equation_says(x, y, radius_x, radius_y, degrees):
    mask = shapes.ellipse(x, y, radius_x, radius_y, SIZE, degrees)
    turn = np.deg2rad(degrees)
    px, py = centres()
    along = (px - x) * np.cos(turn) + (py - y) * np.sin(turn)
    across = -(px - x) * np.sin(turn) + (py - y) * np.cos(turn)
    distance = np.hypot(along / radius_x, across / radius_y)
    assert not (mask & (distance > 1 + 1e-9)).any()
    assert mask[distance < 1 - 1e-9].all()


def test_areas_are_those_of_geometry():
    size = (400, 400)
    assert shapes.ellipse(200, 200, 60, 30, size, 30).sum() == pytest.approx(np.pi * 60 * 30, rel=0.005)
    assert shapes.ellipse(200, 200, 50, 50, size).sum() == pytest.approx(np.pi * 50**2, rel=0.005)
    assert shapes.line([[100, 100], [300, 100]], 10, size).sum() == pytest.approx(2000 + np.pi * 25, rel=0.01)
    corners = shapes.rotated(shapes.box_corners(Box(100, 100, 200, 160)), (150, 130), 33)
    assert shapes.polygon(corners, size).sum() == pytest.approx(6000, rel=0.01)


def test_turning_is_clockwise_on_the_picture():
    """Ninety degrees about the upper left corner: what pointed right points down."""
    np.testing.assert_allclose(shapes.rotated(np.array([[10.0, 5.0]]), (4, 5), 90), [[4, 11]], atol=1e-12)
    tall = shapes.ellipse(20, 15, 10, 2, SIZE, 90)
    assert masks.mask_to_box(tall) == (18, 5, 22, 25)


def test_a_line_is_as_wide_as_it_is_said_to_be():
    mask = shapes.line([[5, 10], [30, 10]], 4, SIZE)
    assert mask[:, 20].nonzero()[0].tolist() == [8, 9, 10, 11]
    np.testing.assert_array_equal(mask, shapes.line([[5, 10], [18, 10], [30, 10]], 4, SIZE))
    np.testing.assert_array_equal(shapes.line([[20, 15]], 8, SIZE), shapes.ellipse(20, 15, 4, 4, SIZE))


def test_holes_are_taken_away():
    ring, hole = [[5, 5], [15, 5], [15, 12], [5, 12]], [[7, 7], [9, 7], [9, 9], [7, 9]]
    assert shapes.polygon(ring, SIZE).sum() == 70
    assert shapes.polygon(ring, SIZE, [hole]).sum() == 66
    assert shapes.polygon(ring, SIZE, [hole, hole]).sum() == 66


def test_percent_and_shares():
    np.testing.assert_allclose(shapes.from_percent(np.array([[50.0, 10.0]]), SIZE), [[20, 3]])
    np.testing.assert_allclose(shapes.from_share(np.array([[0.5, 0.1]]), SIZE), [[20, 3]])


@pytest.mark.parametrize("points", [[[5, 5], [15, 5, 0]], [{"x": 5, "y": 5}, {"x": "15", "y": 5.0}], [5, 5, 15, 5], np.array([[5.0, 5.0], [15.0, 5.0]])])
def test_vertices_however_they_are_written(points):
    np.testing.assert_array_equal(shapes.vertices(points), [[5, 5], [15, 5]])


@pytest.mark.parametrize("points", [None, [], "1,2", [1, 2, 3], [[1]], [[1, "x"]], [{"x": 1}], [[float("nan"), 1]], [[1e300, 1]], [[True, 1]], [None], 5])
def test_odd_vertices_are_refused_in_words(points):
    with pytest.raises(DataError, match="expected"):
        shapes.vertices(points)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: shapes.ellipse(5, 5, 0, 1, SIZE),
        lambda: shapes.ellipse(5, 5, float("nan"), 1, SIZE),
        lambda: shapes.line([[1, 1]], 0, SIZE),
        lambda: shapes.polygon([[1, 1], [2, 2]], SIZE),
        lambda: shapes.box(50, 1, 60, 2, SIZE),
        lambda: shapes.number("x", "width"),
        lambda: shapes.numbers([1, 2], "bbox", 4),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw):
    with pytest.raises(DataError, match="expected"):
        draw()


def test_upright_boxes_are_told_from_turned_ones():
    assert shapes.is_upright_box(np.array([[5.0, 5], [15, 5], [15, 12], [5, 12]]))
    assert shapes.is_upright_box(np.array([[15.0, 12], [5, 12], [5, 5], [15, 5]]))
    assert not shapes.is_upright_box(np.array([[10.0, 5], [15, 10], [10, 15], [5, 10]]))
    assert not shapes.is_upright_box(np.array([[5.0, 5], [15, 5], [15, 5], [5, 12]]))
