"""Masks against pycocotools, scipy, naive references and values worked out by hand."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tracemalloc

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask
from scipy import ndimage

from fretsaw import masks, outlines
from fretsaw.errors import ConfigError, ShapeError
from fretsaw.layers.stability import stability_score

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))
MASKS = hnp.arrays(np.bool_, SIZES)

RING = np.array([[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 0, 1, 0], [0, 1, 1, 1, 0]], bool)
CHESS = np.array([[1, 0], [0, 1]], bool)


def polygon_area(ring: np.ndarray) -> float:
    x, y = ring.T.astype(float)
    return float(x @ np.roll(y, -1) - np.roll(x, -1) @ y) / 2


def inside(x: float, y: float, rings: list[np.ndarray]) -> bool:
    """The even-odd rule by a ray to the left, point by point."""
    crossings = 0
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if (y0 <= y) != (y1 <= y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x:
                crossings += 1
    return crossings % 2 == 1


HOSTILE_RUNS = """
import tracemalloc
import numpy as np
from fretsaw import masks
from fretsaw.errors import ShapeError

def text(numbers):  # COCO's compression, which takes any number
    characters = []
    for place, number in enumerate(numbers):
        number -= numbers[place - 2] if place > 2 else 0
        more = True
        while more:
            digit, number = number & 31, number >> 5
            more = number != (-1 if digit & 16 else 0)
            characters.append(chr(48 + digit + 32 * more))
    return "".join(characters)

pixels = 12 * 10
wrapping = [2**62] * 4 + [pixels]
steps = [0, 0, 0] + [2**43 * (k // 2) for k in range(1, 2**17)]
hostile = [
    wrapping,
    np.array(wrapping, np.int64),
    np.array([2**63, 2**63, pixels], np.uint64),
    [2**64 + pixels],
    [2**63 - 1, 2**63 - 1, 2, pixels],
    [-1, pixels + 1],
    [pixels + 1, -1],
    [0] * 10**6 + [pixels],
    text([2**43, -(2**43), pixels]),
    text([pixels * 2, -pixels]),
    text([0, 0, 0] + steps[-50:]),
    text(steps),
]
for counts in hostile:
    tracemalloc.start()
    try:
        masks.decode_rle({"size": [12, 10], "counts": counts})
    except ShapeError:
        print("refused" if tracemalloc.get_traced_memory()[1] < 64 * 2**20 else "refused too late")
    tracemalloc.stop()
try:
    masks.decode_rle({"size": [10**9, 10**9], "counts": [10**18]})
except ShapeError:
    print("refused")
"""


class TestRunLengths:
    def test_runs_are_column_major_and_start_with_background(self):
        mask = np.array([[0, 1, 1], [0, 0, 1]], bool)
        assert masks.uncompressed_rle(mask) == {"size": [2, 3], "counts": [2, 1, 1, 2]}
        assert masks.uncompressed_rle(~mask) == {"size": [2, 3], "counts": [0, 2, 1, 1, 2]}

    @given(MASKS)
    @example(np.zeros((1, 1), bool))
    @example(np.ones((1, 1), bool))
    @example(np.ones((40, 1), bool))
    def test_both_ways_of_writing_agree_with_pycocotools_and_come_back(self, mask):
        runs = masks.uncompressed_rle(mask)
        compressed = masks.encode_rle(mask)
        theirs = coco_mask.frPyObjects({"size": list(mask.shape), "counts": list(runs["counts"])}, *mask.shape)
        assert compressed == {"size": list(mask.shape), "counts": theirs["counts"].decode()}
        for rle in (runs, compressed, theirs):
            decoded = masks.decode_rle(rle)
            assert decoded.dtype == bool
            assert decoded.flags.c_contiguous
            np.testing.assert_array_equal(decoded, mask)

    def test_long_runs_need_several_digits(self, rng):
        mask = ndimage.gaussian_filter(rng.standard_normal((700, 900)), 25) > 0.005
        rle = masks.encode_rle(mask)
        np.testing.assert_array_equal(masks.decode_rle(rle), mask)
        np.testing.assert_array_equal(coco_mask.decode(rle).astype(bool), mask)

    @pytest.mark.parametrize("file", ["grid_plain.npz", "grid_crops_small_regions.npz"])
    def test_run_lengths_and_boxes_equal_the_reference_generators(self, shared, file):
        records = json.loads(str(np.load(shared / "golden" / file)["records"]))
        assert records
        for record in records:
            mask = masks.decode_rle(record["segmentation"])
            assert masks.encode_rle(mask) == record["segmentation"]
            assert mask.sum() == record["area"]
            x0, y0, x1, y1 = masks.mask_to_box(mask)
            assert [x0, y0, x1 - 1 - x0, y1 - 1 - y0] == record["bbox"], "the reference's boxes end at the last pixel itself"

    def test_memory_layout_does_not_matter(self, rng):
        base = rng.random((12, 10)) > 0.5
        for view in (base[::2, ::-3], base.T, np.asfortranarray(base)):
            assert masks.encode_rle(view) == masks.encode_rle(view.copy())
            np.testing.assert_array_equal(masks.decode_rle(masks.encode_rle(view)), view)

    @pytest.mark.parametrize(
        "counts", ["", "1", "o", "PPPPPPPPPPP", "9999", "é", "\x00", "01", [], [3], [5, -1, 16], [2.5, 17.5], ["a"], [[20]], [[1], [1, 2]], 20, None]
    )
    def test_malformed_counts_are_refused(self, counts):
        """pycocotools decodes the first of these to memory it never wrote."""
        with pytest.raises(ShapeError, match=r"run lengths: expected .*got"):
            masks.decode_rle({"size": [4, 5], "counts": counts})

    @pytest.mark.parametrize(
        "rle",
        [
            {},
            {"size": [2, 2]},
            "0",
            None,
            {"size": [2], "counts": [4]},
            {"size": [0, 2], "counts": [0]},
            {"size": "ab", "counts": [4]},
            {"size": [10**9, 10**9], "counts": [10**18]},
        ],
    )
    def test_malformed_mappings_are_refused(self, rle):
        with pytest.raises(ShapeError, match=r"expected .*got"):
            masks.decode_rle(rle)

    def test_lengths_that_wrap_round_are_refused_and_corrupt_nothing(self):
        """In a process of its own: before each length was checked, these made numpy write beyond its memory. Nothing that is refused takes memory first."""
        ran = subprocess.run([sys.executable, "-c", HOSTILE_RUNS], capture_output=True, text=True)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout == "refused\n" * 13

    def test_another_size_than_the_pictures_is_refused_before_anything_is_decoded(self):
        rle = {"size": [4, 5], "counts": "no run lengths at all"}
        with pytest.raises(ShapeError, match=r"expected the size \(5, 4\) \(height, width\), got \(4, 5\)"):
            masks.decode_rle(rle, size=(5, 4))
        assert masks.decode_rle({"size": [4, 5], "counts": [20]}, size=(4, 5)).shape == (4, 5)

    def test_sizes_above_the_limit_need_a_caller_who_knows_them(self, monkeypatch):
        monkeypatch.setattr(masks, "MOST_PIXELS", 99)
        with pytest.raises(ShapeError, match="at most 99 pixels, got 10 x 10"):
            masks.decode_rle({"size": [10, 10], "counts": [100]})
        assert masks.decode_rle({"size": [10, 10], "counts": [100]}, size=(10, 10)).shape == (10, 10)

    def test_whole_sides_may_be_written_as_floats(self):
        assert masks.decode_rle({"size": [4.0, 5.0], "counts": [20]}).shape == (4, 5)

    @given(st.binary(max_size=30))
    @settings(max_examples=300)
    def test_any_bytes_decode_to_a_mask_or_are_refused(self, counts):
        with contextlib.suppress(ShapeError):
            assert masks.decode_rle({"size": [4, 5], "counts": counts}).shape == (4, 5)


class TestPolygons:
    def test_one_pixel_has_four_corners(self):
        mask = np.zeros((4, 5), bool)
        mask[2, 3] = True
        [ring] = masks.to_polygons(mask)
        np.testing.assert_array_equal(ring, [[3, 2], [4, 2], [4, 3], [3, 3]])
        assert ring.dtype == np.int32

    def test_a_hole_is_a_ring_that_runs_the_other_way(self):
        outer, hole = masks.to_polygons(RING)
        np.testing.assert_array_equal(outer, [[1, 1], [4, 1], [4, 4], [1, 4]])
        assert (polygon_area(outer), polygon_area(hole)) == (9, -1)

    def test_pixels_that_touch_at_a_corner_lie_in_separate_rings(self):
        assert [ring.tolist() for ring in masks.to_polygons(CHESS)] == [[[0, 0], [1, 0], [1, 1], [0, 1]], [[1, 1], [2, 1], [2, 2], [1, 2]]]
        assert len(masks.to_polygons(CHESS[:, ::-1])) == 2

    def test_empty_and_full(self):
        assert masks.to_polygons(np.zeros((3, 4), bool)) == []
        assert [ring.tolist() for ring in masks.to_polygons(np.ones((3, 4), bool))] == [[[0, 0], [4, 0], [4, 3], [0, 3]]]
        assert not masks.from_polygons([], (3, 4)).any()

    @given(MASKS)
    @settings(max_examples=300)
    @example(np.indices((8, 9)).sum(0) % 2 == 0)
    def test_rasterising_gives_exactly_the_mask_back(self, mask):
        rings = masks.to_polygons(mask)
        np.testing.assert_array_equal(masks.from_polygons(rings, mask.shape), mask)
        np.testing.assert_array_equal(masks.from_polygons([ring.ravel().tolist() for ring in rings], mask.shape), mask)

    @given(MASKS)
    def test_rings_turn_at_every_vertex_and_enclose_the_area(self, mask):
        rings = masks.to_polygons(mask)
        for ring in rings:
            steps = np.roll(ring, -1, axis=0) - ring
            assert ((steps != 0).sum(axis=1) == 1).all()
            assert (steps * np.roll(steps, 1, axis=0) == 0).all()
        assert sum(map(polygon_area, rings)) == mask.sum()
        # 4-connected objects and 8-connected holes.
        objects = ndimage.label(mask)[1]
        assert sum(polygon_area(ring) > 0 for ring in rings) == objects

    @given(MASKS)
    def test_without_holes_coco_rasterises_them_to_the_same_mask(self, mask):
        filled = ndimage.binary_fill_holes(mask, np.ones((3, 3)))
        rings = [ring for ring in masks.to_polygons(filled) if polygon_area(ring) > 0]
        if rings and len(rings) == len(masks.to_polygons(filled)):
            theirs = coco_mask.merge(coco_mask.frPyObjects([ring.ravel().astype(float).tolist() for ring in rings], *mask.shape))
            np.testing.assert_array_equal(coco_mask.decode(theirs).astype(bool), filled)

    def test_a_large_noisy_mask_comes_back(self, rng):
        mask = rng.random((150, 170)) > 0.5
        np.testing.assert_array_equal(masks.from_polygons(masks.to_polygons(mask), mask.shape), mask)

    @given(st.lists(hnp.arrays(np.float64, st.tuples(st.integers(0, 6), st.just(2)), elements=st.integers(-12, 40).map(lambda v: v / 4)), max_size=3))
    @settings(max_examples=100)
    def test_any_polygon_follows_the_even_odd_rule_at_pixel_centres(self, rings):
        mask = masks.from_polygons(rings, (6, 7))
        expected = [[inside(x + 0.5, y + 0.5, rings) for x in range(7)] for y in range(6)]
        np.testing.assert_array_equal(mask, expected)

    def test_neighbours_share_no_pixel(self):
        left, right = [[0, 0], [4.5, 0], [2.5, 6], [0, 6]], [[4.5, 0], [8, 0], [8, 6], [2.5, 6]]
        a, b = masks.from_polygons([left], (6, 8)), masks.from_polygons([right], (6, 8))
        assert not (a & b).any()
        assert (a | b).all()

    @settings(max_examples=30)
    @given(MASKS, st.sampled_from([1, 7, 64]))
    def test_filling_in_bands_and_portions_changes_nothing(self, mask, band):
        rings = masks.to_polygons(mask)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(outlines, "BAND", band)
            np.testing.assert_array_equal(masks.from_polygons(rings, mask.shape), mask)

    def test_a_small_polygon_takes_hardly_more_memory_than_its_mask(self):
        size = (4000, 5000)
        tracemalloc.start()
        masks.from_polygons([[[10, 10], [4000, 20], [30, 3900]]], size)
        assert tracemalloc.get_traced_memory()[1] < 4 * size[0] * size[1]
        tracemalloc.stop()

    def test_outlines_that_cross_everything_again_and_again_are_refused(self):
        zigzag = [[x % 50, (0, 2000)[x % 2]] for x in range(10_000)]
        with pytest.raises(ShapeError, match="polygon: expected outlines that cross at most"):
            masks.from_polygons([zigzag], (2000, 50))

    def test_parts_outside_the_image_are_cut_off(self):
        assert masks.from_polygons([[[-1e6, -1e6], [1e6, -1e6], [1e6, 1e6], [-1e6, 1e6]]], (3, 4)).all()
        assert not masks.from_polygons([[[9, 0], [12, 0], [12, 3], [9, 3]]], (3, 4)).any()

    def test_tolerance_drops_vertices_and_stays_near(self):
        y, x = np.mgrid[:80, :80]
        disc = (x - 40) ** 2 + (y - 38) ** 2 < 900
        [exact], [simple] = masks.to_polygons(disc), masks.to_polygons(disc, tolerance=1.0)
        assert len(simple) < len(exact) / 4
        coarse = masks.from_polygons([simple], disc.shape)
        distance = np.minimum(ndimage.distance_transform_edt(disc), 99) + ndimage.distance_transform_edt(~disc)
        assert distance[coarse != disc].max() <= 2
        assert masks.mask_iou(coarse, disc) > 0.96

    @pytest.mark.parametrize(
        "ring",
        [
            [10**400, 0, 1, 1],
            [1, 2, 3],
            [[1, 2, 3]],
            [[0, np.nan]],
            [[0, np.inf], [1, 1], [2, 2]],
            "abc",
            [["a", "b"]],
            None,
            [[1, 2], [3]],
            [[1e300, 0], [0, 1]],
        ],
    )
    def test_rings_of_another_kind_are_refused(self, ring):
        with pytest.raises(ShapeError, match="polygon: expected vertices"):
            masks.from_polygons([ring], (4, 4))

    @pytest.mark.parametrize("tolerance", [-1, np.nan, np.inf])
    def test_a_tolerance_is_a_distance(self, tolerance):
        with pytest.raises(ConfigError, match="tolerance"):
            masks.to_polygons(RING, tolerance)


class TestCocosTools:
    """pycocotools believes what it is given; `checked_coco` looks at it first."""

    @pytest.mark.parametrize(
        ("segmentation", "message"),
        [
            ([[0, 0, 1e9, 0, 0, 1e9]], "outlines of at most"),
            ([[0, 0, 5, 0, 0, 5], [1e9, 1e9, 1e9, 1e9, 1e9, 1e9]], "away"),
            ([[0, 0, np.nan, 0, 0, 1]], "polygon: expected vertices"),
            ([[0, 0, 1, 0, 1]], "polygon: expected vertices"),
            ([[0, 0, 1, 0]], "three vertices"),
            ([], "list of polygons"),
            ("[]", "list of polygons"),
            (None, "list of polygons"),
            ({"size": [5, 4], "counts": [20]}, "expected the size"),
            ({"size": [4, 5], "counts": [2**31, 2**31, 2**32 - 2**32 + 20]}, "lengths of 0 to 20"),
            ({"size": [4, 5], "counts": "PPPP"}, "compressed counts"),
        ],
    )
    def test_what_they_would_choke_on_is_refused(self, segmentation, message):
        with pytest.raises(ShapeError, match=message):
            masks.checked_coco(segmentation, (4, 5))

    @given(MASKS)
    def test_run_lengths_come_through(self, mask):
        for rle in (masks.encode_rle(mask), masks.uncompressed_rle(mask)):
            np.testing.assert_array_equal(coco_mask.decode(masks.checked_coco(rle, mask.shape)).astype(bool), mask)

    def test_polygons_are_drawn_as_they_do(self):
        rings = [[1.2, 1.0, 7.9, 2.0, 4.0, 8.0], [5, 5, 9, 5, 9, 9, 5, 9]]
        theirs = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(rings, 10, 12)))
        np.testing.assert_array_equal(coco_mask.decode(masks.checked_coco(rings, (10, 12))), theirs)


class TestBoxesAndComponents:
    def test_boxes_are_half_open(self):
        mask = np.zeros((6, 9), bool)
        assert masks.mask_to_box(mask) == (0, 0, 0, 0)
        mask[2, 7] = True
        assert masks.mask_to_box(mask) == (7, 2, 8, 3)
        mask[4, 1] = True
        assert masks.mask_to_box(mask) == (1, 2, 8, 5)
        assert masks.mask_to_box(np.ones((6, 9), bool)) == (0, 0, 9, 6)
        assert masks.mask_to_box(mask.T[::-1]) == (2, 1, 5, 8)
        assert all(type(side) is int for side in masks.mask_to_box(mask))

    @given(MASKS, st.sampled_from([4, 8]))
    @settings(max_examples=200)
    def test_components_are_scipys_in_the_order_of_their_first_pixel(self, mask, connectivity):
        labels, stats = masks.components(mask, connectivity)
        structure = np.ones((3, 3)) if connectivity == 8 else None
        theirs, count = ndimage.label(mask, structure)
        assert labels.dtype == np.int32
        assert len(stats) == count + 1
        first = [int(np.flatnonzero(theirs == label)[0]) for label in range(1, count + 1)]
        for label, old in enumerate(np.argsort(first) + 1, 1):
            part = theirs == old
            np.testing.assert_array_equal(labels == label, part)
            x0, y0, x1, y1 = masks.mask_to_box(part)
            assert stats[label].tolist() == [x0, y0, x1 - x0, y1 - y0, part.sum()]
        assert stats[0, cv2.CC_STAT_AREA] == (~mask).sum()

    def test_larger_masks_keep_that_order(self, rng):
        labels, stats = masks.components(ndimage.gaussian_filter(rng.standard_normal((200, 300)), 2) > 0.1)
        first = [int(np.flatnonzero(labels == label)[0]) for label in range(1, len(stats))]
        assert len(first) > 50
        assert first == sorted(first)

    def test_largest_component(self):
        mask = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 0, 1]], bool)
        np.testing.assert_array_equal(masks.largest_component(mask), np.array([[0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]], bool))
        assert not masks.largest_component(np.zeros((3, 3), bool)).any()
        assert masks.largest_component(np.ones((3, 3), bool)).all()
        assert masks.largest_component(CHESS).sum() == 2
        assert masks.largest_component(CHESS, connectivity=4).sum() == 1

    def test_holes_below_the_area_are_filled(self):
        mask = np.ones((8, 10), bool)
        mask[2, 2] = mask[4:6, 5:7] = mask[7, 9] = False
        filled = masks.fill_holes(mask, area=4)
        assert filled[2, 2]
        assert filled[7, 9], "the border makes no difference"
        assert not filled[4:6, 5:7].any(), "four pixels are not below four"
        assert masks.fill_holes(mask, area=5).all()
        np.testing.assert_array_equal(masks.fill_holes(mask, 0), mask)
        assert not mask[2, 2], "the argument is left alone"

    def test_a_chain_of_diagonal_background_is_one_hole(self):
        mask = ~np.pad(np.eye(4, dtype=bool), 2)
        np.testing.assert_array_equal(masks.fill_holes(mask, 4), mask)
        assert masks.fill_holes(mask, 5).all()

    def test_islands_below_the_area_are_removed(self):
        mask = np.zeros((6, 12), bool)
        mask[0, 0] = mask[2:4, 4:6] = mask[1:5, 8:11] = True
        assert masks.remove_islands(mask, 4).sum() == 4 + 12
        assert masks.remove_islands(mask, 5).sum() == 12
        assert masks.remove_islands(mask, 100).sum() == 12, "the largest one stays"
        assert not masks.remove_islands(np.zeros((3, 3), bool), 9).any()
        assert masks.remove_islands(np.ones((3, 3), bool), 99).all()

    def test_connectivity_is_four_or_eight(self):
        with pytest.raises(ConfigError, match="expected 4 or 8, got 6"):
            masks.components(RING, 6)


def naive_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        for j in kept:
            width = min(boxes[i][2], boxes[j][2]) - max(boxes[i][0], boxes[j][0])
            height = min(boxes[i][3], boxes[j][3]) - max(boxes[i][1], boxes[j][1])
            shared = max(width, 0) * max(height, 0)
            union = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (boxes[i], boxes[j])) - shared
            if union > 0 and shared / union > threshold:
                break
        else:
            kept.append(i)
    return kept


class TestChoosing:
    @given(st.lists(st.tuples(*[st.integers(0, 8)] * 4, st.integers(0, 4)), max_size=20), st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))
    def test_nms_agrees_with_the_definition(self, rows, threshold):
        table = np.array(rows, float).reshape(-1, 5)
        boxes = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], axis=1)
        kept = masks.nms(boxes, table[:, 4], threshold)
        assert kept.tolist() == naive_nms(boxes, table[:, 4], threshold)
        assert kept.dtype == np.int64

    def test_equal_scores_keep_their_order(self):
        boxes = np.array([[0, 0, 4, 4]] * 3 + [[10, 10, 12, 12]] * 2)
        assert masks.nms(boxes, np.array([0.5, 0.9, 0.9, 0.5, 0.5], np.float32), 0.5).tolist() == [1, 3]

    def test_an_overlap_of_exactly_the_threshold_stays(self):
        boxes = np.array([[0, 0, 4, 1], [1, 0, 5, 1]], np.float32)  # 3 of 5
        assert len(masks.nms(boxes, np.ones(2), 0.6)) == 2
        assert len(masks.nms(boxes, np.ones(2), 0.59)) == 1

    def test_boxes_without_area_suppress_nothing(self):
        assert len(masks.nms(np.zeros((3, 4)), np.arange(3.0), 0.5)) == 3

    @pytest.mark.parametrize(("boxes", "scores"), [(np.zeros((3, 4)), np.zeros(2)), (np.zeros((3, 5)), np.zeros(3)), (np.zeros(4), np.zeros(1))])
    def test_nms_needs_boxes_and_scores_that_fit(self, boxes, scores):
        with pytest.raises(ShapeError, match=r"expected boxes \(n, 4\) and scores \(n,\)"):
            masks.nms(boxes, scores, 0.5)
        with pytest.raises(ConfigError, match="iou_threshold"):
            masks.nms(np.zeros((0, 4)), np.zeros(0), 1.5)

    def test_stability_score_by_hand(self):
        logits = np.array([[[2.0, 1.5, 0.5, -0.5], [0.5, -2.0, -3.0, 1.0]], [[-5.0] * 4] * 2, [[5.0] * 4] * 2], np.float32)
        # Above 1: 2 and 1.5 (1.0 itself is not). Above -1: those, 0.5, -0.5, 0.5, 1.0.
        np.testing.assert_allclose(masks.stability_score(logits, 0.0, 1.0), [2 / 6, 0, 1])
        assert masks.stability_score(logits[0], 0.0, 1.0) == pytest.approx(2 / 6)
        assert masks.stability_score(logits[0], 0.0, 0.0) == 1

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_stability_score_is_the_same_for_torch(self, rng, dtype):
        logits = torch.from_numpy(rng.standard_normal((2, 3, 20, 30)).astype(np.float32) * 2).to(dtype)
        ours = stability_score(logits, 0.25, 0.75)
        assert isinstance(ours, torch.Tensor)
        np.testing.assert_allclose(ours.numpy(), masks.stability_score(logits.float().numpy(), 0.25, 0.75), rtol=1e-6)

    @pytest.mark.parametrize(
        "logits", [np.zeros(4), np.zeros((4, 4), int), np.zeros((4, 4), bool), torch.zeros(4), torch.zeros(4, 4, dtype=torch.bool), [[0.0]], None]
    )
    def test_stability_score_needs_logits(self, logits):
        with pytest.raises(ShapeError, match="mask_logits: expected floats"):
            masks.stability_score(logits)
        with pytest.raises(ConfigError, match="offset"):
            masks.stability_score(np.zeros((2, 2)), offset=-1.0)

    def test_mask_iou(self):
        a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
        assert masks.mask_iou(a, b) == 1
        a[:2], b[1:3] = True, True
        assert masks.mask_iou(a, b) == pytest.approx(4 / 12)
        assert masks.mask_iou(a, ~a) == 0
        assert masks.mask_iou(a.T, b.T) == pytest.approx(4 / 12)
        with pytest.raises(ShapeError, match=r"one size, got \(4, 4\) and \(4, 3\)"):
            masks.mask_iou(a, b[:, :3])


TAKES_A_MASK = [
    masks.encode_rle,
    masks.uncompressed_rle,
    masks.to_polygons,
    masks.mask_to_box,
    masks.components,
    masks.largest_component,
    lambda mask: masks.fill_holes(mask, 3),
    lambda mask: masks.remove_islands(mask, 3),
    lambda mask: masks.mask_iou(np.ones((4, 4), bool), mask),
]


@pytest.mark.parametrize("function", TAKES_A_MASK)
@pytest.mark.parametrize(
    ("value", "came"),
    [
        (np.zeros((4, 4), np.uint8), "uint8"),
        (np.zeros((4, 4), np.float32), "float32; compare it with a threshold"),
        (np.zeros((1, 4, 4), bool), r"\(1, 4, 4\)"),
        (np.zeros((0, 4), bool), r"\(0, 4\)"),
        (torch.zeros(4, 4, dtype=torch.bool), "Tensor"),
        ([[True]], "list"),
        (None, "NoneType"),
    ],
)
def test_other_values_than_masks_are_named_in_the_error(function, value, came):
    with pytest.raises(ShapeError, match=rf"expected a numpy array \(H, W\) of bool .*got .*{came}"):
        function(value)


def test_the_parts_about_results_do_not_import_torch():
    code = "import sys, fretsaw.masks, fretsaw.images, fretsaw.segmentation; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
