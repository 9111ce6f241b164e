"""Results: what they say about themselves, that they cannot be altered by accident, and that every file they write says the same."""

from __future__ import annotations

import dataclasses
import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools.coco import COCO

from fretsaw import images, masks
from fretsaw.errors import ConfigError, ImageError, OutputError, ShapeError
from fretsaw.segmentation import LABEL_MAP_WRITERS, SEGMENTATION_WRITERS, LabelMap, Segmentation, distinct_color, edge_opacity

H, W = 40, 60


def disc(x: float, y: float, radius: float) -> np.ndarray:
    """Logits whose zero line is a circle: twice the signed distance to it."""
    rows, columns = np.mgrid[:H, :W]
    return (2 * (radius - np.hypot(columns - x, rows - y))).astype(np.float32)


@pytest.fixture
def image(rng) -> np.ndarray:
    return rng.integers(0, 200, (H, W, 3), dtype=np.uint8)


@pytest.fixture
def result(image) -> Segmentation:
    return Segmentation(disc(20, 15, 9.3), 0.875, image)


@pytest.fixture
def scene(image) -> Segmentation:
    cat, dog = Segmentation(disc(15, 15, 9), 0.9, image, name="cat"), Segmentation(disc(42, 22, 12), 0.7, image, name="dog")
    return Segmentation(np.maximum(cat.logits, dog.logits), 0.8, image, (cat, dog))


class TestSegmentation:
    def test_what_it_says_about_its_object(self, result):
        np.testing.assert_array_equal(result.mask, result.logits > 0)
        assert result.mask.dtype == bool
        assert result.box == (11, 6, 30, 25)
        assert result.area == result.mask.sum() > 0
        assert result.mask is result.mask, "computed once"

    def test_the_zero_logit_is_background(self):
        assert not Segmentation(np.zeros((2, 2), np.float32), 0.5).mask.any()

    def test_empty_and_full(self, image):
        empty, full = (Segmentation(np.full((H, W), value, np.float32), 0.5, image) for value in (-1, 1))
        assert (empty.box, empty.area, empty.to_polygons()) == ((0, 0, 0, 0), 0, [])
        assert (full.box, full.area, len(full.to_polygons())) == ((0, 0, W, H), W * H, 1)
        assert (np.asarray(empty.cutout()) == 0).all()
        assert (np.asarray(full.cutout())[..., 3] == 255).all()
        np.testing.assert_array_equal(np.asarray(empty.overlay()), image)

    @pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
    def test_logits_become_float32(self, dtype):
        result = Segmentation(disc(9, 9, 4).astype(dtype), np.float64(0.5))
        assert result.logits.dtype == np.float32
        assert type(result.score) is float

    @pytest.mark.parametrize(("given_score", "kept"), [(1.04, 1.0), (-0.1, 0.0), (0.5, 0.5)])
    def test_the_score_stays_between_0_and_1(self, given_score, kept):
        assert Segmentation(disc(9, 9, 4), given_score).score == kept

    def test_nothing_can_be_altered_by_accident(self, result, image):
        for array in (result.logits, result.mask, result.image):
            with pytest.raises(ValueError, match="read-only"):
                array[0, 0] = 1
        with pytest.raises(dataclasses.FrozenInstanceError):
            result.score = 1.0
        image[0, 0] = 1, 2, 3  # The caller's own array stays the caller's.
        assert image.flags.writeable

    def test_results_are_told_apart_by_identity(self, result):
        assert result == result
        assert result != Segmentation(result.logits, result.score, result.image)
        assert len({result, result}) == 1

    def test_the_text_form_is_short(self, result, scene):
        assert repr(result) == "Segmentation(60 x 40, score 0.875, box (11, 6, 30, 25))"
        assert repr(scene.instances[0]).startswith("Segmentation(60 x 40, cat, score 0.900")
        assert repr(scene).endswith("2 instances)")

    def test_run_lengths_and_polygons_are_the_masks(self, result):
        np.testing.assert_array_equal(masks.decode_rle(result.to_rle()), result.mask)
        np.testing.assert_array_equal(masks.from_polygons(result.to_polygons(), result.mask.shape), result.mask)
        assert sum(map(len, result.to_polygons(tolerance=1))) < sum(map(len, result.to_polygons()))

    def test_a_cutout_is_opaque_inside_and_smooth_at_the_edge(self, image):
        result = Segmentation(disc(20.3, 15.6, 9.3), 0.875, image)
        cutout = result.cutout()
        assert isinstance(cutout, Image.Image)
        assert (cutout.mode, cutout.size) == ("RGBA", (W, H))
        pixels = np.asarray(cutout)
        distance = result.logits / 2
        assert (pixels[distance >= 1, 3] == 255).all()
        assert (pixels[distance <= -1] == 0).all()
        np.testing.assert_array_equal(pixels[distance >= 1, :3], image[distance >= 1])
        assert len(np.unique(pixels[np.abs(distance) < 0.5, 3])) > 10
        assert ((pixels[..., 3] > 127) == result.mask).all()

    def test_an_overlay_shows_each_instance_in_its_own_colour(self, scene, image):
        pixels = np.asarray(scene.overlay()).astype(int)
        tints = [pixels[15, 15] - image[15, 15] * 0.6, pixels[22, 42] - image[22, 42] * 0.6]
        for number, tint in enumerate(tints):
            np.testing.assert_allclose(tint, np.array(distinct_color(number)) * 0.4, atol=1)
        np.testing.assert_array_equal(pixels[0, 0], image[0, 0])

    @pytest.mark.parametrize("format", ["cutout", "overlay"])
    def test_pictures_need_the_image(self, tmp_path, format):
        with pytest.raises(ImageError, match="expected a result that holds its image"):
            Segmentation(disc(9, 9, 4), 0.5).save(tmp_path / "a.png", format)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"logits": np.zeros((H, W), bool)}, r"logits: expected a numpy array .*floats .*bool"),
            ({"logits": np.zeros((1, H, W), np.float32)}, r"logits: .*\(1, 40, 60\)"),
            ({"logits": np.zeros((0, W), np.float32)}, r"logits: .*\(0, 60\)"),
            ({"logits": None}, "logits: .*NoneType"),
            ({"score": float("nan")}, "score: expected a finite number, got nan"),
            ({"image": np.zeros((H, W + 1, 3), np.uint8)}, r"expected an image of the result's size \(40, 60\), got \(40, 61\)"),
            ({"image": np.zeros((H, W), np.uint8)}, "image: expected a numpy array"),
            ({"instances": (Segmentation(np.zeros((2, 2), np.float32), 1),)}, r"instance 0: expected the whole's size \(40, 60\), got \(2, 2\)"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, changes, message):
        with pytest.raises(ShapeError, match=message):
            Segmentation(**{"logits": np.zeros((H, W), np.float32), "score": 0.5} | changes)


class TestEdgeOpacity:
    @given(hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.floats(-9, 9, width=32)))
    def test_more_than_half_covered_means_inside(self, logits):
        opacity = edge_opacity(logits)
        assert opacity.dtype == np.float32
        assert ((opacity >= 0) & (opacity <= 1)).all()
        np.testing.assert_array_equal(opacity > 0.5, logits > 0)

    def test_a_slanted_edge_covers_as_geometry_says(self):
        """The half plane x + 2 y < c cut through pixels: the true share of each pixel, by 32 x 32 samples, against the estimate from the logits."""
        rows, columns = np.mgrid[:20, :20]
        logits = (3 * (29.7 - columns - 2 * rows)).astype(np.float32)
        offsets = (np.arange(32) + 0.5) / 32 - 0.5
        y, x = (axis[..., None, None] + step for axis, step in zip((rows, columns), np.meshgrid(offsets, offsets, indexing="ij"), strict=True))
        share = (x + 2 * y < 29.7).mean(axis=(2, 3))
        assert np.abs(edge_opacity(logits) - share)[1:-1, 1:-1].max() < 0.13

    def test_uncertain_insides_are_opaque(self):
        logits = np.full((9, 9), -0.01, np.float32)
        logits[2:7, 2:7] = 0.01
        assert (edge_opacity(logits)[3:6, 3:6] == 1).all()

    def test_scale_does_not_matter(self):
        np.testing.assert_allclose(edge_opacity(disc(20, 15, 9.3)), edge_opacity(disc(20, 15, 9.3) * np.float32(0.01)), atol=1e-5)

    def test_infinities_and_nan(self):
        logits = np.array([[np.inf, -np.inf, np.nan], [np.inf, np.inf, -np.inf]], np.float32)
        np.testing.assert_array_equal(edge_opacity(logits) > 0.5, logits > 0)


class TestSaving:
    def test_a_mask_is_8_bit_0_and_255(self, tmp_path, result):
        path = result.save(tmp_path / "deep" / "mask.png")
        assert path == tmp_path / "deep" / "mask.png"
        assert Image.open(path).mode == "L"
        np.testing.assert_array_equal(images.read_mask(path), np.where(result.mask, 255, 0))

    def test_pictures_are_what_the_methods_return(self, tmp_path, result):
        for format, picture in (("cutout", result.cutout()), ("overlay", result.overlay())):
            with Image.open(result.save(str(tmp_path / f"{format}.png"), format)) as saved:
                assert saved.mode == picture.mode
                np.testing.assert_array_equal(np.asarray(saved), np.asarray(picture))

    def test_json_holds_everything_and_comes_back(self, tmp_path, scene):
        path = scene.save(tmp_path / "scene.json")
        content = json.loads(path.read_text())
        assert content == json.loads(json.dumps(scene.to_dict()))
        assert set(content) == {"size", "score", "box", "area", "name", "rle", "polygons", "instances"}
        np.testing.assert_array_equal(masks.decode_rle(content["rle"]), scene.mask)
        np.testing.assert_array_equal(masks.from_polygons(content["polygons"], content["size"]), scene.mask)
        assert [part["name"] for part in content["instances"]] == ["cat", "dog"]
        assert content["instances"][1]["box"] == list(scene.instances[1].box)

    def test_coco_reads_what_is_written(self, tmp_path, scene, capsys):
        data = COCO(scene.save(tmp_path / "photo.json", "coco"))
        assert data.imgs[1] == {"id": 1, "file_name": "photo", "height": H, "width": W}
        assert {category["name"] for category in data.loadCats(data.getCatIds())} == {"cat", "dog"}
        annotations = data.loadAnns(data.getAnnIds(imgIds=[1]))
        for annotation, part in zip(annotations, scene.instances, strict=True):
            np.testing.assert_array_equal(data.annToMask(annotation), part.mask)
            assert data.cats[annotation["category_id"]]["name"] == part.name
            x, y, width, height = annotation["bbox"]
            assert (x, y, x + width, y + height) == part.box
            assert annotation["area"] == part.area
            assert annotation["score"] == part.score

    def test_coco_of_one_object_and_of_none(self, tmp_path, result):
        content = json.loads(result.save(tmp_path / "a.json", "coco").read_text())
        assert [annotation["id"] for annotation in content["annotations"]] == [1]
        assert content["categories"] == [{"id": 1, "name": "object", "supercategory": "object"}]
        empty = Segmentation(np.full((H, W), -1, np.float32), 0.5)
        assert json.loads(empty.save(tmp_path / "b.json", "coco").read_text())["annotations"] == []

    def test_an_annotation_takes_the_ids_of_a_larger_data_set(self, result):
        annotation = result.to_coco(image_id=7, annotation_id=31, category_id=3)
        assert (annotation["image_id"], annotation["id"], annotation["category_id"]) == (7, 31, 3)
        assert annotation["iscrowd"] == 0

    def test_every_format_has_a_writer(self):
        assert list(SEGMENTATION_WRITERS) == ["mask", "cutout", "overlay", "coco", "json"]
        assert list(LABEL_MAP_WRITERS) == ["labels", "overlay", "json"]

    @pytest.mark.parametrize(
        ("name", "format", "message"),
        [
            ("a.png", "svg", "expected a format out of mask, cutout, overlay, coco, json, got 'svg'"),
            ("a.txt", None, "expected an image suffix"),
            ("a", None, "expected an image suffix"),
            ("a.json", "mask", "expected an image suffix"),
            ("a.png", "json", r"expected a path that ends in \.json"),
            ("a.png", "coco", r"expected a path that ends in \.json"),
            ("a.jpg", None, "expected a lossless format"),
            ("a.jpg", "cutout", "expected a format with transparency"),
        ],
    )
    def test_formats_and_suffixes_must_fit(self, tmp_path, result, name, format, message):
        with pytest.raises(OutputError, match=message):
            result.save(tmp_path / name, format)
        assert list(tmp_path.iterdir()) == []

    def test_a_place_that_cannot_be_written_is_named(self, tmp_path, result):
        (tmp_path / "file").write_text("x")
        for format in ("mask", "json"):
            with pytest.raises(OutputError, match="expected a place that can be written"):
                result.save(tmp_path / "file" / f"a.{'png' if format == 'mask' else 'json'}", format)


@pytest.fixture
def labels(image) -> LabelMap:
    ids = np.full((H, W), -1)
    ids[5:30, 5:25] = 0
    ids[10:38, 30:58] = 2
    ids[0, 0] = 2
    return LabelMap(ids, ["cat", "unicorn", "dog"], image=image)


class TestLabelMap:
    def test_masks_by_name(self, labels):
        np.testing.assert_array_equal(labels.mask("dog"), labels.labels == 2)
        assert not labels.mask("unicorn").any()
        assert list(labels.masks) == ["cat", "unicorn", "dog"]
        assert all(mask.dtype == bool for mask in labels.masks.values())
        assert labels.areas == {"cat": 500, "unicorn": 0, "dog": 28 * 28 + 1}
        assert labels.present == ("cat", "dog")
        assert labels.names == ("cat", "unicorn", "dog")
        with pytest.raises(ConfigError, match="expected one of the names cat, unicorn, dog, got 'bird'"):
            labels.mask("bird")

    def test_nothing_can_be_altered_by_accident(self, labels, rng):
        probabilities = rng.random((3, H, W))
        held = LabelMap(labels.labels, labels.names, probabilities, labels.image)
        assert held.probabilities.dtype == np.float32
        for array in (held.labels, held.image, held.probabilities, held.mask("cat"), held.masks["dog"]):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1
        assert held.labels.dtype == np.int32

    def test_the_text_form_names_what_was_found(self, labels):
        assert repr(labels) == "LabelMap(60 x 40, cat, dog)"
        assert repr(LabelMap(np.full((2, 2), -1), ("cat",))) == "LabelMap(2 x 2, nothing found)"

    def test_the_palette_image_holds_the_labels_and_the_legend_explains_them(self, tmp_path, labels):
        path = labels.save(tmp_path / "out" / "photo.png")
        assert sorted(file.name for file in path.parent.iterdir()) == ["photo.json", "photo.png"]
        values = images.read_labels(path)
        np.testing.assert_array_equal(values, np.where(labels.labels < 0, 255, labels.labels))
        legend = json.loads(path.with_suffix(".json").read_text())
        assert (legend["size"], legend["unlabelled"]) == ([H, W], 255)
        colours = np.asarray(Image.open(path).convert("RGB"))
        for row in legend["labels"]:
            assert labels.names[row["id"]] == row["name"]
            assert row["area"] == (values == row["id"]).sum()
            assert (colours[values == row["id"]] == row["color"]).all()
        assert (colours[values == 255] == 0).all()

    def test_more_names_than_a_palette_has_colours(self, tmp_path, rng):
        names = [f"class {number}" for number in range(300)]
        many = LabelMap(rng.integers(-1, 300, (H, W)), names)
        path = many.save(tmp_path / "many.png")
        np.testing.assert_array_equal(images.read_labels(path), np.where(many.labels < 0, 65535, many.labels))
        assert json.loads(path.with_suffix(".json").read_text())["unlabelled"] == 65535
        full = LabelMap(rng.integers(-1, 255, (H, W)), names[:255])
        np.testing.assert_array_equal(images.read_labels(full.save(tmp_path / "full.png")), np.where(full.labels < 0, 255, full.labels))

    def test_the_json_form_holds_the_masks(self, tmp_path, labels):
        content = json.loads(labels.save(tmp_path / "a.json").read_text())
        cat, unicorn, dog = content["labels"]
        np.testing.assert_array_equal(masks.decode_rle(dog["rle"]), labels.mask("dog"))
        assert cat["box"] == [5, 5, 25, 30]
        assert "rle" not in unicorn

    def test_an_overlay_tints_every_name_but_background_and_writes_them(self, image):
        ids = np.zeros((200, 300), int)
        ids[20:180, 40:200] = 1
        grey = np.full((200, 300, 3), 100, np.uint8)
        named, blank = (LabelMap(ids, ("background", name), image=grey).overlay() for name in ("elephant", " "))
        assert (np.asarray(named)[:15] == 100).all()
        tint = np.rint(100 * 0.6 + np.array(distinct_color(1)) * 0.4)
        np.testing.assert_allclose(np.asarray(named)[30, 50], tint, atol=1)
        written = (np.asarray(named) != np.asarray(blank)).any(axis=2)
        x0, y0, x1, y1 = masks.mask_to_box(written)
        assert written.sum() > 200
        assert 40 < x0 < x1 < 200, "the name lies on its object"
        assert y0 < 100 < y1
        assert (np.asarray(named)[written] > 200).all(axis=1).sum() > 50, "in white"

    def test_a_name_near_the_border_stays_in_the_picture(self):
        ids = np.full((60, 200), -1)
        ids[0:4, 190:] = 0
        grey = np.full((60, 200, 3), 100, np.uint8)
        named, blank = (np.asarray(LabelMap(ids, (name,), image=grey).overlay()) for name in ("hippopotamus", " "))
        x0, y0, x1, y1 = masks.mask_to_box((named != blank).any(axis=2))
        assert (named[:, -1] == blank[:, -1]).all() or x1 == 200
        assert x1 - x0 > 60, "no letter is cut off"
        assert y1 - y0 >= 10

    def test_pictures_need_the_image(self, labels):
        with pytest.raises(ImageError, match="holds its image"):
            LabelMap(labels.labels, labels.names).overlay()

    @pytest.mark.parametrize(
        ("name", "format", "message"),
        [
            ("a.jpg", None, r"ends in \.png for labels"),
            ("a.png", "mask", "expected a format out of labels, overlay, json, got 'mask'"),
            ("a.png", "json", r"ends in \.json"),
        ],
    )
    def test_formats_and_suffixes_must_fit(self, tmp_path, labels, name, format, message):
        with pytest.raises(OutputError, match=message):
            labels.save(tmp_path / name, format)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"labels": np.zeros((H, W))}, ShapeError, "labels: expected .*integers .*float64"),
            ({"labels": np.zeros((H, W, 1), int)}, ShapeError, r"labels: .*\(40, 60, 1\)"),
            ({"labels": np.full((H, W), 2)}, ShapeError, "labels: expected -1 to 1 for 2 names, got 2 to 2"),
            ({"labels": np.full((H, W), 255, np.uint8)}, ShapeError, "got 255 to 255"),
            ({"labels": np.full((H, W), -2)}, ShapeError, "got -2 to -2"),
            ({"names": ("cat", "cat")}, ConfigError, "names: expected different names, got 'cat' twice"),
            ({"probabilities": np.zeros((H, W, 2))}, ShapeError, r"probabilities: expected \(K, H, W\) = \(2, 40, 60\), got .*\(40, 60, 2\)"),
            ({"image": np.zeros((H, 2, 3), np.uint8)}, ShapeError, "image of the result's size"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, changes, error, message):
        with pytest.raises(error, match=message):
            LabelMap(**{"labels": np.zeros((H, W), int), "names": ("cat", "dog")} | changes)


def test_the_first_colours_are_told_apart():
    colours = np.array([distinct_color(number) for number in range(20)], float)
    assert len({tuple(colour) for colour in colours}) == 20
    assert all(0 <= value <= 255 for colour in colours for value in colour)
    neighbours = np.linalg.norm(colours[1:] - colours[:-1], axis=1)
    assert neighbours.min() > 100


def test_a_blurred_real_mask_keeps_its_outline(shared):
    truth = images.read_mask(shared / "data" / "berkeley" / "masks" / "38092.png") > 0
    image = images.read_image(shared / "data" / "berkeley" / "images" / "38092.jpg")
    result = Segmentation(cv2.GaussianBlur(np.where(truth, 8, -8).astype(np.float32), (0, 0), 2), 0.9, image)
    assert masks.mask_iou(result.mask, truth) > 0.97
    alpha = np.asarray(result.cutout())[..., 3]
    assert ((alpha > 0) & (alpha < 255)).sum() < 3 * sum(map(len, result.to_polygons()))
