"""The grid: equal to the published generator's golden records, its parts against hand-computed values, its memory bounded."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from experiments.grid_mode import sam_crops
from fretsaw import frames, masks
from fretsaw.errors import ConfigError, ShapeError
from fretsaw.methods import grid
from fretsaw.methods.grid import GridMask, GridMasks, crop_boxes, inclusive_box, point_grid, remove_small_regions, suppress, touches_inner_edge
from recorded_grid import NAMES, Recorded, load_golden
from recorded_grid import image_of as recorded_image
from tiny import tiny_sam, tiny_sam2


class Discs:
    """A `CropDecoder` whose logits are three numbers, x, y and a radius, until they are enlarged to a soft disc; one mask a point and radius."""

    def __init__(self, crop: np.ndarray, radii: Sequence[float] = (4.5,), iou: Sequence[float] = (0.9,), slope: float = 100.0) -> None:
        self.size, self.radii, self.iou, self.slope = crop.shape[:2], torch.tensor(radii), torch.tensor(iou), slope
        self.enlarged: list[int] = []

    def decode(self, points: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        centres = torch.from_numpy(points).float()[:, None].expand(-1, len(self.radii), -1)
        discs = torch.cat([centres, self.radii.expand(len(points), -1)[..., None]], dim=-1)
        return discs[:, :, None], self.iou.expand(len(points), -1)

    def enlarge(self, logits: Tensor) -> Tensor:
        self.enlarged.append(len(logits))
        y, x = torch.meshgrid(*(torch.arange(side).float() for side in self.size), indexing="ij")
        centre_x, centre_y, radius = logits[:, 0, :, None, None].unbind(1)
        return self.slope * (radius - torch.hypot(x - centre_x, y - centre_y))


def settings_of(arguments: dict[str, Any]) -> GridMasks:
    return GridMasks(
        points_per_side=arguments["points_per_side"],
        points_per_batch=arguments["points_per_batch"],
        min_predicted_iou=arguments["pred_iou_thresh"],
        min_stability=arguments["stability_score_thresh"],
        stability_offset=arguments["stability_score_offset"],
        box_nms_iou=arguments["box_nms_thresh"],
        crop_layers=arguments["crop_n_layers"],
        crop_nms_iou=arguments["crop_nms_thresh"],
        crop_overlap=arguments["crop_overlap_ratio"],
        points_downscale=arguments["crop_n_points_downscale_factor"],
        min_region_area=arguments["min_mask_region_area"],
    )


def image_of(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def xywh(box: tuple[int, int, int, int]) -> list[int]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_published_generator(shared: Path, name: str) -> None:
    golden, arguments, records = load_golden(shared, name)
    recorded = Recorded(golden)
    found = settings_of(arguments).generate(recorded_image(golden), recorded.open_crop)
    assert recorded.finished, "not every recorded batch was asked for"
    assert len(found) == len(records) > 0
    for mask, record in zip(found, records, strict=True):
        assert masks.encode_rle(mask.mask) == record["segmentation"]
        assert xywh(inclusive_box(mask.box)) == record["bbox"]
        assert xywh(mask.crop) == record["crop_box"]
        assert [list(mask.point)] == record["point_coords"]
        assert mask.area == record["area"]
        assert mask.predicted_iou == pytest.approx(record["predicted_iou"], abs=1e-6)
        assert mask.stability == pytest.approx(record["stability_score"], abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_chunks_do_not_change_the_result(shared: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    golden, arguments, records = load_golden(shared, name)
    monkeypatch.setattr(grid, "CHUNK_ELEMENTS", 1)
    found = settings_of(arguments).generate(recorded_image(golden), Recorded(golden).open_crop)
    assert [masks.encode_rle(mask.mask) for mask in found] == [record["segmentation"] for record in records]


def test_a_grid_is_made_of_the_centres_of_equal_cells() -> None:
    np.testing.assert_allclose(point_grid(2), [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
    np.testing.assert_allclose(point_grid(1), [[0.5, 0.5]])


def test_crops_by_hand() -> None:
    # The short side 72 gives an overlap of int(24.6) = 24, so crops are (96 + 24) / 2 by (72 + 24) / 2.
    assert list(crop_boxes(72, 96, 1, 512 / 1500)) == [
        (0, (0, 0, 96, 72)),
        (1, (0, 0, 60, 48)),
        (1, (0, 24, 60, 72)),
        (1, (36, 0, 96, 48)),
        (1, (36, 24, 96, 72)),
    ]


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 3), st.floats(0, 0.9))
def test_crops_of_every_layer_cover_the_image_and_stay_inside(height: int, width: int, layers: int, overlap: float) -> None:
    covered = np.zeros((layers + 1, height, width), bool)
    for layer, (x0, y0, x1, y1) in crop_boxes(height, width, layers, overlap):
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        covered[layer, y0:y1, x0:x1] = True
    assert covered.all()


def test_segment_anything_writes_the_last_column_and_row() -> None:
    assert inclusive_box((3, 4, 10, 5)) == (3, 4, 9, 4)
    assert inclusive_box((7, 7, 8, 8)) == (7, 7, 7, 7)
    assert inclusive_box((0, 0, 0, 0)) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("box", "dropped"),
    [
        ((150, 150, 250, 250), False),
        ((121, 150, 250, 250), False),  # 21 from the crop's left side
        ((120, 150, 250, 250), True),
        ((150, 150, 280, 250), False),  # the last column, 279, is 21 from the crop's right side
        ((150, 150, 281, 250), True),
        ((150, 150, 250, 400), False),  # the crop's lower side is the image's
    ],
)
def test_masks_cut_off_by_their_crop_are_recognised(box: tuple[int, int, int, int], dropped: bool) -> None:
    assert touches_inner_edge(box, crop=(100, 100, 300, 400), size=(400, 600)) is dropped


def test_nothing_is_cut_off_in_a_crop_that_is_the_image() -> None:
    assert not touches_inner_edge((0, 0, 90, 60), crop=(0, 0, 90, 60), size=(60, 90))


def mask_of(pixels: np.ndarray, **values: Any) -> GridMask:
    counts = np.array(masks.uncompressed_rle(pixels)["counts"], np.int32)
    height, width = pixels.shape
    given = {"box": masks.mask_to_box(pixels), "predicted_iou": 0.9, "stability": 1.0, "point": (0.0, 0.0), "crop": (0, 0, width, height), **values}
    return GridMask((height, width), counts, **given)


def rectangle(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = (8, 100)) -> np.ndarray:
    pixels = np.zeros(size, bool)
    pixels[y0:y1, x0:x1] = True
    return pixels


def test_a_mask_gives_back_its_pixels() -> None:
    pixels = rectangle(2, 1, 7, 4)
    mask = mask_of(pixels)
    np.testing.assert_array_equal(mask.mask, pixels)
    assert mask.area == 15
    assert mask.rle == masks.uncompressed_rle(pixels)


def test_duplicates_are_judged_on_inclusive_boxes_and_an_overlap_of_the_threshold_stays() -> None:
    # Written inclusively these are 90 x 1, 63 x 1 and 64 x 1: overlaps of exactly 0.7, and of more.
    long, exact, more = (mask_of(rectangle(0, 0, width, 2)) for width in (91, 64, 65))
    assert suppress([exact, long], [0.5, 0.9], 0.7) == [long, exact]
    assert suppress([more, long], [0.5, 0.9], 0.7) == [long]
    assert suppress([], [], 0.7) == []


def test_small_regions_go_and_untouched_duplicates_are_preferred() -> None:
    clean, ragged = rectangle(10, 0, 40, 8), rectangle(10, 0, 40, 8)
    ragged[3, 20:22] = False  # a hole of 2
    ragged[4, 60:63] = True  # an island of 3
    found = [mask_of(ragged, predicted_iou=0.99), mask_of(clean, predicted_iou=0.9)]
    assert [mask.predicted_iou for mask in remove_small_regions(found, 4, 0.7)] == [0.9]
    (cleaned,) = remove_small_regions(found[:1], 4, 0.7)
    np.testing.assert_array_equal(cleaned.mask, clean)
    assert (cleaned.box, cleaned.area) == ((10, 0, 40, 8), 240)
    (kept,) = remove_small_regions(found[:1], 3, 0.7)  # only the hole is below 3
    np.testing.assert_array_equal(kept.mask, clean | (rectangle(60, 4, 63, 5)))


def test_a_mask_of_small_pieces_keeps_the_largest_and_counts_as_changed() -> None:
    tiny, other = mask_of(rectangle(0, 0, 3, 2), predicted_iou=0.99), mask_of(rectangle(50, 0, 60, 8), predicted_iou=0.9)
    cleaned = remove_small_regions([tiny, other], 10, 0.7)
    assert [mask.predicted_iou for mask in cleaned] == [0.9, 0.99]
    assert cleaned[1].area == 6


def test_masks_are_found_where_the_points_are() -> None:
    (found,) = GridMasks(points_per_side=1).generate(image_of(41, 61), Discs)
    y, x = np.mgrid[:41, :61]
    np.testing.assert_array_equal(found.mask, np.hypot(x - 30.5, y - 20.5) < 4.5)
    assert (found.point, found.crop) == ((30.5, 20.5), (0, 0, 61, 41))
    assert (found.box, found.area) == (masks.mask_to_box(found.mask), found.mask.sum())


def test_masks_of_crops_lie_in_the_image() -> None:
    found = GridMasks(points_per_side=3, crop_layers=1, crop_overlap=0.2).generate(image_of(200, 300), Discs)
    assert {mask.crop for mask in found} == {crop for _, crop in crop_boxes(200, 300, 1, 0.2)}
    y, x = np.mgrid[:200, :300]
    for mask in found:
        np.testing.assert_array_equal(mask.mask, np.hypot(x - mask.point[0], y - mask.point[1]) < 4.5)


def test_smaller_crops_win_and_within_a_crop_the_predicted_iou() -> None:
    found = GridMasks(points_per_side=4, crop_layers=1, points_downscale=2, crop_overlap=0.0).generate(image_of(200, 200), Discs)
    # The image's own 4 x 4 points are the crops' 2 x 2: every disc is found twice.
    assert len(found) == 16
    assert all(mask.crop != (0, 0, 200, 200) for mask in found)
    found = GridMasks(points_per_side=1).generate(image_of(40, 40), lambda crop: Discs(crop, radii=(8, 8, 8.2), iou=(0.9, 0.95, 0.93)))
    assert [mask.predicted_iou for mask in found] == [pytest.approx(0.95)]


def test_the_filters_take_what_they_say_and_zero_switches_them_off() -> None:
    def areas(decoder: Callable[[np.ndarray], Discs], **settings: Any) -> list[int]:
        return sorted(mask.area for mask in GridMasks(points_per_side=1, box_nms_iou=1.0, **settings).generate(image_of(50, 50), decoder))

    def steep(crop: np.ndarray) -> Discs:
        return Discs(crop, radii=(3.5, 6.5, 12.5), iou=(0.87, 0.88, 0.89))

    def soft(crop: np.ndarray) -> Discs:
        return Discs(crop, radii=(3.5, -0.9), iou=(0.9, 0.9), slope=1.0)

    assert len(areas(steep)) == 1
    assert len(areas(steep, min_predicted_iou=0)) == 3
    assert areas(soft) == []
    # A mask that is empty at its threshold is kept when nothing filters, and its box is empty.
    assert areas(soft, min_stability=0)[0] == 0
    assert len(areas(soft, min_stability=0)) == 2


def test_only_confident_masks_are_enlarged_and_few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "CHUNK_ELEMENTS", 3 * 50 * 50)
    decoder = Discs(image_of(50, 50), radii=(2, 3), iou=(0.95, 0.5))
    found = GridMasks(points_per_side=4, points_per_batch=8).generate(image_of(50, 50), lambda crop: decoder)
    assert len(found) == 16
    assert decoder.enlarged == [3, 3, 2, 3, 3, 2]


def test_memory_does_not_grow_with_the_number_of_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """196 masks of 150 000 pixels would be 29 MB as booleans; run lengths and one chunk at a time stay far below."""
    monkeypatch.setattr(grid, "CHUNK_ELEMENTS", 1 << 18)
    image = image_of(300, 500)
    tracemalloc.start()
    found = GridMasks(points_per_side=14, min_region_area=5).generate(image, Discs)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 196
    assert peak < 6e6
    assert sum(mask.counts.nbytes for mask in found) < 1e5


def test_nothing_found_is_an_empty_list() -> None:
    settings = GridMasks(points_per_side=2, crop_layers=1, min_region_area=10)
    assert settings.generate(image_of(30, 40), lambda crop: Discs(crop, iou=(0.1,))) == []


def test_own_points_are_asked_for_layer_by_layer() -> None:
    asked: list[np.ndarray] = []

    class Noted(Discs):
        def decode(self, points: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
            asked.append(points)
            return super().decode(points, labels)

    grids = [np.array([[0.5, 0.5], [0.25, 0.1]], np.float32), np.array([[0.0, 1.0]])]
    GridMasks(points_per_side=None, point_grids=grids, crop_layers=1, crop_overlap=0.0, points_per_batch=1).generate(image_of(100, 200), Noted)
    np.testing.assert_allclose(asked, [[[100, 50]], [[50, 10]], *([[[0, 50]]] * 4)], rtol=1e-6)


def test_progress_counts_prompts_to_the_end() -> None:
    seen: list[tuple[int, int]] = []
    GridMasks(points_per_side=3, points_per_batch=4, crop_layers=1).generate(image_of(60, 60), Discs, lambda done, total: seen.append((done, total)))
    assert {total for _, total in seen} == {5 * 9}
    assert [done for done, _ in seen] == [4, 8, 9, 13, 17, 18, 22, 26, 27, 31, 35, 36, 40, 44, 45]


@pytest.mark.parametrize("build", [tiny_sam, tiny_sam2])
def test_any_model_that_takes_clicks_can_be_the_decoder(build: Any, rng: np.random.Generator) -> None:
    model, image = build(), rng.integers(0, 256, (90, 70, 3), dtype=np.uint8)
    everything = GridMasks(points_per_side=1, min_predicted_iou=0, min_stability=0, box_nms_iou=1.0)
    found = everything.generate(image, sam_crops(model))
    frame = model.preprocessing.frame_of(image)
    coords, labels = torch.tensor([[[35.0, 45.0], [0, 0]]]), torch.tensor([[1, -1]])
    coords[0, 0] *= torch.tensor([frame.scale_x, frame.scale_y])
    with torch.no_grad():
        logits, iou = model.decode(model.encode(model.pixels_of(image)), model.embed_prompt(coords, labels))
    full = frames.logits_to_image(logits.numpy(), frame)[0, 1:]
    assert 0 < (full > 0).mean() < 1, "the random model must answer something"
    expected = {round(score, 5): mask for score, mask in zip(iou[0, 1:].tolist(), full > 0, strict=True)}
    assert len(found) == 3
    for mask in found:
        np.testing.assert_array_equal(mask.mask, expected[round(mask.predicted_iou, 5)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"points_per_side": None}, "exactly one"),
        ({"point_grids": [np.zeros((1, 2))]}, "exactly one"),
        ({"points_per_side": 0}, "points_per_side"),
        ({"points_per_side": 3, "crop_layers": 2, "points_downscale": 2}, "at least 4"),
        ({"points_per_side": None, "point_grids": [np.zeros((1, 2))], "crop_layers": 1}, "each of the 2 layers"),
        ({"points_per_side": None, "point_grids": [np.zeros((1, 3))]}, r"point_grids\[0\]"),
        ({"points_per_side": None, "point_grids": [np.full((1, 2), 5.0)]}, r"in \[0, 1\]"),
        ({"points_per_side": None, "point_grids": [np.full((1, 2), np.nan)]}, r"in \[0, 1\]"),
        ({"points_per_batch": 0}, "points_per_batch"),
        ({"points_downscale": 0}, "points_downscale"),
        ({"crop_layers": -1}, "crop_layers"),
        ({"crop_overlap": 1.0}, "crop_overlap"),
        ({"box_nms_iou": 1.5}, "box_nms_iou"),
        ({"crop_nms_iou": -0.1}, "crop_nms_iou"),
        ({"stability_offset": -1.0}, "stability_offset"),
        ({"min_region_area": -1}, "min_region_area"),
        ({"min_stability": float("nan")}, "min_stability"),
    ],
)
def test_settings_outside_their_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GridMasks(**settings)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), [[0]]])
def test_what_is_no_image_is_refused(image: Any) -> None:
    with pytest.raises(ShapeError, match="image"):
        GridMasks().generate(image, Discs)


def test_a_decoder_that_answers_in_other_shapes_is_refused() -> None:
    class Short(Discs):
        def decode(self, points: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
            logits, iou = super().decode(points, labels)
            return logits[:-1], iou

    class Small(Discs):
        def enlarge(self, logits: Tensor) -> Tensor:
            return super().enlarge(logits)[..., 1:]

    for decoder in (Short, Small):
        with pytest.raises(ShapeError, match="expected logits"):
            GridMasks(points_per_side=2).generate(image_of(30, 30), decoder)
