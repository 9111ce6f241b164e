"""Every format gives back what it was given; figures worked out by hand pin each one's own conventions."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from typer.testing import CliRunner

from fretsaw import cli, masks
from fretsaw.errors import DataError, FretsawError, ShapeError
from fretsaw.images import write_bytes, write_image
from fretsaw.interchange import coco, cvat, label_studio, labelme, png, voc, yolo
from fretsaw.interchange.formats import WRITERS
from fretsaw.interchange.pictures import AnnotatedPicture, NamedMask, file_part
from fretsaw.interchange.rings import joined_ring, part_rings

READERS = {
    "png": png.read,
    "coco": coco.read,
    "coco-polygons": coco.read,
    "voc": voc.read,
    "labelme": labelme.read,
    "label-studio": label_studio.read,
    "cvat": cvat.read,
}
NAMES = ("cat", "a dog", 'odd "name" <&> / ..', "猫")


def ring_mask() -> np.ndarray:
    """A square with a hole, in the hole an island, and a part that touches the square at one corner."""
    mask = np.zeros((12, 14), bool)
    mask[1:9, 1:9] = True
    mask[3:7, 3:7] = False
    mask[4, 5] = True
    mask[9:11, 9:13] = True
    return mask


def bool_masks():
    return st.tuples(st.integers(2, 9), st.integers(2, 9), st.integers(0, 2**81 - 1)).map(
        lambda t: np.array([t[2] >> i & 1 for i in range(t[0] * t[1])], bool).reshape(t[0], t[1])
    )


def disjoint_pictures(labels: np.ndarray) -> list[AnnotatedPicture]:
    """Two pictures whose objects do not overlap, so that formats with one number a pixel hold them too."""
    size = (labels.shape[0], labels.shape[1])
    objects = [NamedMask(NAMES[k], labels == k + 1) for k in range(4)]
    filled = tuple(item for item in objects if item.mask.any())
    return [AnnotatedPicture("folder/one.jpg", size, filled), AnnotatedPicture("two.png", size, filled[:1])]


def same(found: list[AnnotatedPicture], expected: list[AnnotatedPicture]) -> None:
    by_name = {picture.file_name: picture for picture in found}
    assert len(found) == len(expected)
    for picture in expected:
        other = by_name[picture.file_name]
        assert other.size == picture.size
        assert [item.name for item in other.objects] == [item.name for item in picture.objects]
        for a, b in zip(other.objects, picture.objects, strict=True):
            np.testing.assert_array_equal(a.mask, b.mask)


@pytest.mark.parametrize("name", sorted(READERS))
@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.integers(0, 4), min_size=72, max_size=72), width=st.sampled_from([2, 6, 9, 36]))
def test_round_trip(name, values, width):
    pictures = disjoint_pictures(np.array(values).reshape(-1, width))
    same(READERS[name](dict(WRITERS[name](iter(pictures)))), pictures)


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.integers(0, 4), min_size=72, max_size=72), width=st.sampled_from([2, 6, 9, 36]))
def test_yolo_round_trip(values, width):
    pictures = disjoint_pictures(np.array(values).reshape(-1, width))
    same(yolo.read(dict(yolo.write(pictures)), {picture.file_name: picture.size for picture in pictures}), pictures)


@pytest.mark.parametrize("name", ["png", "coco", "coco-polygons", "label-studio", "labelme", "cvat"])
def test_overlapping_objects_survive(name):
    one, two = ring_mask(), np.zeros((12, 14), bool)
    two[2:6, 2:12] = True
    pictures = [AnnotatedPicture("a.jpg", (12, 14), (NamedMask("one", one), NamedMask("two", two)))]
    same(READERS[name](dict(WRITERS[name](pictures))), pictures)


def test_voc_gives_shared_pixels_to_the_later_object():
    one, two = np.zeros((4, 5), bool), np.zeros((4, 5), bool)
    one[:, :3], two[:, 2:] = True, True
    found = voc.read(dict(voc.write([AnnotatedPicture("a.jpg", (4, 5), (NamedMask("x", one), NamedMask("y", two)))])))
    np.testing.assert_array_equal(found[0].objects[0].mask, one & ~two)
    np.testing.assert_array_equal(found[0].objects[1].mask, two)


@settings(max_examples=150, deadline=None)
@given(bool_masks())
def test_rings_without_holes_give_the_mask_back(mask):
    united = np.zeros(mask.shape, bool)
    for ring in part_rings(mask):
        united |= masks.from_polygons([ring], mask.shape)
    np.testing.assert_array_equal(united, mask)
    np.testing.assert_array_equal(masks.from_polygons([joined_ring(mask)], mask.shape), mask)


def test_pycocotools_reads_our_polygons_as_the_same_mask():
    mask = np.kron(ring_mask(), np.ones((5, 5), bool))  # COCO's own filling is only exact away from one-pixel details
    decoded = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(coco.polygons(mask), *mask.shape))).astype(bool)
    assert masks.mask_iou(decoded, mask) > 0.97
    assert not decoded[22, 17]  # inside the hole


def test_opencv_fills_a_yolo_line_by_the_same_rule():
    """YOLO's tools fill with cv2.fillPoly, which also paints the outline itself: the interior of the hole must stay empty."""
    import cv2

    mask = np.kron(ring_mask(), np.ones((8, 8), bool))
    canvas = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(canvas, [joined_ring(mask).astype(np.int32)], 1)
    assert masks.mask_iou(canvas.astype(bool), mask) > 0.9
    assert not canvas[30, 34] or mask[30, 34]


@settings(max_examples=150, deadline=None)
@given(bool_masks())
def test_opencv_paints_rings_through_pixels_as_the_mask(mask):
    """What Ultralytics and Supervision do: shares times the sides, cut or rounded to whole numbers, and cv2.fillPoly."""
    import cv2

    canvas, rounded = np.zeros(mask.shape, np.uint8), np.zeros(mask.shape, np.uint8)
    for line in dict(yolo.write_painted([AnnotatedPicture("a.png", mask.shape, (NamedMask("x", mask),))]))["labels/a.txt"].splitlines():
        ring = np.array(list(map(float, line.split()[1:]))).reshape(-1, 2)
        assert len(ring) >= 3
        cv2.fillPoly(canvas, [(ring * np.array(mask.shape[::-1])).astype(np.int32)], 1)
        cv2.fillPoly(rounded, [np.round(ring * np.array(mask.shape[::-1])).astype(np.int32)], 1)
    np.testing.assert_array_equal(canvas.astype(bool), mask)
    np.testing.assert_array_equal(rounded.astype(bool), mask)


def test_brush_stream_by_hand():
    """One pixel: 32 bits say 4 values, 8 - 1 in 5 bits, sizes 3 4 8 16 less one, then one record: repeated, first size, length 4 - 1, value 255."""
    bits = f"{4:032b}" + "00111" + "0010" + "0011" + "0111" + "1111" + "1" + "00" + "011" + "11111111"
    expected = [int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8)]
    assert label_studio.encode_brush(np.ones((1, 1), bool)) == expected
    assert label_studio.decode_brush(expected, (1, 1)).all()


def test_brush_stream_with_literal_values_is_read():
    """Label Studio's editor also writes records of different values: here 8 values for two pixels, the second of which is half opaque at most."""
    bits = f"{8:032b}" + "00111" + "0010" + "0011" + "0111" + "1111" + "0" + "00" + "111" + "11111111" * 4 + "01111111" * 4
    content = [int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8)]
    np.testing.assert_array_equal(label_studio.decode_brush(content, (1, 2)), [[True, False]])


def test_brush_runs_longer_than_a_length_field():
    mask = np.zeros((300, 400), bool)
    mask[10:290, 20:390] = True
    assert len(label_studio.encode_brush(~np.zeros((300, 400), bool))) < 60
    np.testing.assert_array_equal(label_studio.decode_brush(label_studio.encode_brush(mask), mask.shape), mask)


@pytest.mark.parametrize("change", [lambda b: b[:-3], lambda b: b[:3], lambda b: [*b[:4], 300], lambda b: "text", lambda b: [0, 0, 0, 8, *b[4:]]])
def test_broken_brush_streams_are_refused(change):
    with pytest.raises(ShapeError, match="brush"):
        label_studio.decode_brush(change(label_studio.encode_brush(ring_mask())), (12, 14))


def test_cvat_mask_by_hand():
    mask = np.zeros((5, 6), bool)
    mask[1, 2:4], mask[2, 3] = True, True
    [(_, content)] = cvat.write([AnnotatedPicture("a.jpg", (5, 6), (NamedMask("x", mask),))])
    attributes = ElementTree.fromstring(content).find(".//mask").attrib
    assert (attributes["left"], attributes["top"], attributes["width"], attributes["height"]) == ("2", "1", "2", "2")
    assert attributes["rle"] == "0, 2, 1, 1"


def test_voc_counts_from_one_and_colours_as_published():
    mask = np.zeros((5, 6), bool)
    mask[1:3, 2:4] = True
    files = dict(voc.write([AnnotatedPicture("a.jpg", (5, 6), (NamedMask("x", mask),))]))
    box = ElementTree.fromstring(files["Annotations/a.xml"]).find(".//bndbox")
    assert [box.findtext(name) for name in ("xmin", "ymin", "xmax", "ymax")] == ["3", "2", "4", "3"]
    assert voc._palette()[3:12] == [128, 0, 0, 0, 128, 0, 128, 128, 0]
    assert voc._palette()[3 * 15 : 3 * 16] == [192, 128, 128]  # the person's colour


def test_yolo_line_by_hand():
    mask = np.zeros((4, 8), bool)
    mask[1:3, 2:4] = True
    files = dict(yolo.write([AnnotatedPicture("a.jpg", (4, 8), (NamedMask("x", mask),))]))
    assert files["labels/a.txt"] == b"0 0.25 0.25 0.5 0.25 0.5 0.75 0.25 0.75\n"


def test_labelme_polygons_of_a_group_are_one_object():
    square = [[0, 0], [2, 0], [2, 2], [0, 2]]
    shapes = [{"label": "x", "points": [[a + 3 * k, b] for a, b in square], "group_id": 7, "shape_type": "polygon"} for k in (0, 1)]
    content = {
        "shapes": [*shapes, {"label": "y", "points": [[0, 2], [1, 4]], "shape_type": "rectangle"}],
        "imagePath": "a.jpg",
        "imageHeight": 4,
        "imageWidth": 6,
    }
    [picture] = labelme.read({"a.json": json.dumps(content).encode()})
    assert [(item.name, int(item.mask.sum())) for item in picture.objects] == [("x", 8), ("y", 2)]


@pytest.mark.parametrize(
    ("read", "path"),
    [(coco.read, coco.PATH), (cvat.read, cvat.PATH), (label_studio.read, label_studio.PATH), (labelme.read, "a.json"), (png.read, "a/objects.json")],
)
@pytest.mark.parametrize("content", [b"", b"<html>", b"[1]", b'{"images": 3}', b"\xff\xfe", b'[{"data": {}}]'])
def test_files_of_another_kind_are_refused_by_name(read, path, content):
    with pytest.raises(FretsawError, match=path.replace(".", r"\.")):
        read({path: content})


def test_sizes_that_no_memory_holds_are_refused():
    image = {"id": 1, "file_name": "a.png", "height": 100_000, "width": 100_000}
    row = {"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 1, 0, 1, 1]]}
    content = json.dumps({"images": [image], "annotations": [row], "categories": [{"id": 1, "name": "x"}]})
    with pytest.raises(DataError, match=r"image 1: expected a size .* at most 178956970 pixels, got 100000 x 100000"):
        coco.read({coco.PATH: content.encode()})


def test_masks_that_no_memory_holds_are_refused(monkeypatch):
    monkeypatch.setattr(coco, "MOST_MASK_PIXELS", 42 * 1000 + 999)
    image = {"id": 1, "file_name": "a.png", "height": 10, "width": 100}
    rows = [{"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 1, 0, 1, 1]]}] * 50
    content = json.dumps({"images": [image], "annotations": rows, "categories": [{"id": 1, "name": "x"}]})
    [picture] = coco.read({coco.PATH: content.encode()})
    assert (len(picture.objects), len(picture.left_out)) == (42, 8)
    assert picture.left_out[0] == "annotation 43: expected masks of at most 42999 pixels on one picture, got more"


@settings(max_examples=40, deadline=None)
@given(mask=bool_masks(), times=st.sampled_from([1, 200]), noise=st.booleans())
def test_large_masks_are_kept_small_and_come_back(mask, times, noise):
    large = np.kron(mask, np.ones((times, times), bool))
    large = large ^ (np.random.default_rng(0).random(large.shape) > 0.5) if noise else large
    item = NamedMask("x", large)
    np.testing.assert_array_equal(item.mask, large)
    assert item.size == large.shape
    if large.size > 2**16:
        assert item._kept.nbytes <= large.size // 8 + 8


def test_missing_files_are_named():
    with pytest.raises(DataError, match=r"annotations\.json.*found other"):
        coco.read({"other": b""})


def test_names_become_safe_file_names():
    assert file_part("../../etc/passwd") == "etc_passwd"
    assert file_part("") == file_part("...") == "object"
    assert len(file_part("x" * 500)) == 60


def test_masks_of_another_size_are_refused():
    with pytest.raises(ShapeError, match=r"a\.jpg, x"):
        AnnotatedPicture("a.jpg", (3, 3), (NamedMask("x", np.zeros((3, 4), bool)),))


# Folders


@pytest.mark.parametrize("name", sorted(WRITERS.keys() - {"yolo-painted"}))
def test_what_is_written_to_a_folder_is_found_and_converted(name, tmp_path):
    pictures = disjoint_pictures(np.arange(72).reshape(8, 9) // 15)
    for path, content in WRITERS[name](pictures):
        write_bytes(tmp_path / "in" / path, content)
    for picture in pictures if name.startswith("yolo") else ():
        write_image(tmp_path / "in" / "images" / picture.file_name, np.zeros((*picture.size, 3), np.uint8))
    result = CliRunner().invoke(cli.app, ["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--to", "coco"])
    assert result.exit_code == 0, result.output
    found = coco.read({coco.PATH: (tmp_path / "out" / coco.PATH).read_bytes()})
    assert f"2 pictures, {sum(len(picture.objects) for picture in pictures)} objects" in result.output
    same(sorted(found, key=lambda picture: picture.file_name), pictures)


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({}, ["--to", "coco"], "expected one set of annotations, found none"),
        ({"a.json": b"{}"}, ["--to", "docx"], "expected --to out of png, coco"),
        ({"a.json": b"{}"}, ["--to", "coco", "--from", "docx"], "expected a format out of coco"),
        ({"a.json": b'{"shapes": [{}], "imagePath": "a.png", "imageHeight": 2, "imageWidth": 2}'}, ["--to", "coco"], r"a\.json: expected labelme's shapes"),
        ({"x.xml": b"<annotations><image"}, ["--to", "coco"], r"x\.xml: expected CVAT's annotations"),
        ({"c.json": b'{"images": [], "annotations": [], "categories"'}, ["--to", "yolo"], r"c\.json: expected COCO's annotations"),
        ({"x.xml": b"<annotations/>", "y.xml": b"<annotations/>"}, ["--to", "coco"], r"found cvat \(x\.xml\), cvat \(y\.xml\)"),
    ],
)
def test_annotations_that_cannot_be_converted_are_refused_by_name(files, options, message, tmp_path):
    (tmp_path / "in").mkdir()
    for path, content in files.items():
        (tmp_path / "in" / path).write_bytes(content)
    with pytest.raises(FretsawError, match=message):
        CliRunner().invoke(cli.app, ["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out"), *options], catch_exceptions=False)
