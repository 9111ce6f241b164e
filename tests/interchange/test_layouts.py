"""What people bring: each kind of file that was reported to fail, made here, and its siblings. One row of a table is one file and what must come of it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_untrusted import _variations, one_line

import foreign
from fretsaw.errors import DataError
from fretsaw.images import encode_image, write_bytes, write_image
from fretsaw.interchange import geojson, yolo
from fretsaw.interchange.pictures import AnnotatedPicture, NamedMask
from fretsaw.interchange.reading import format_of, readers, the_source
from pairs import example

SIZE = (30, 40)
RING = [[5, 5], [15, 5], [15, 12], [5, 12]]
FLAT = [5, 5, 15, 5, 15, 12, 5, 12]
COUNTS = {"size": [30, 40], "counts": [155, *[7, 23] * 9, 7, 768]}


def read(path: Path, images: Path | None = None) -> list[AnnotatedPicture]:
    return [picture for _, reader in readers(the_source(path), images) for picture in reader()]


def summary(pictures: list[AnnotatedPicture]) -> tuple[list[tuple[str, int]], list[tuple[str, tuple[float, ...]]], list[str]]:
    """Return the masks (name, pixels), the boxes (name, corners), and the kinds of what was left out."""
    masks = [(item.name, int(item.mask.sum())) for picture in pictures for item in picture.objects]
    boxes = [(item.name, tuple(round(side, 3) for side in (item.box.x0, item.box.y0, item.box.x1, item.box.y1))) for row in pictures for item in row.boxes]
    return masks, boxes, [sentence.kind for picture in pictures for sentence in picture.left_out if sentence.kind]


def put(path: Path, content: Any) -> Path:
    write_bytes(path, content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


CAT = ("cat", 70)
"""RING's name and pixels."""


# COCO


def coco_file(row: dict[str, Any], **changes: Any) -> dict[str, Any]:
    image = {"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}
    return {"images": [image], "categories": [{"id": 1, "name": "cat"}], "annotations": [{"id": 1, "image_id": 1, "category_id": 1, **row}], **changes}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (coco_file({"segmentation": FLAT}), ([CAT], [], [])),
        (coco_file({"segmentation": [FLAT]}), ([CAT], [], [])),
        (coco_file({"segmentation": COUNTS}), ([CAT], [], [])),
        (coco_file({"segmentation": COUNTS, "iscrowd": 1}), ([CAT], [], [])),
        (coco_file({"segmentation": [FLAT], "image_id": "1", "category_id": "1"}), ([CAT], [], [])),
        (coco_file({"segmentation": [FLAT], "image_id": 1.0, "category_id": 1.0, "iscrowd": float("nan")}), ([CAT], [], [])),
        (coco_file({"segmentation": [FLAT]}, categories=[{"id": 1, "name": 7}]), ([("7", 70)], [], [])),
        (coco_file({"segmentation": [FLAT]}, images=[{"id": 1, "file_name": "a.jpg", "width": 40.0, "height": "30"}]), ([CAT], [], [])),
        (coco_file({"segmentation": [], "bbox": [5, 5, 10, 7]}), ([], [("cat", (5, 5, 15, 12))], [])),
        (coco_file({"segmentation": [[]], "bbox": [5.5, 5, 10, 7], "score": 0.5}), ([], [("cat", (5.5, 5, 15.5, 12))], [])),
        (coco_file({"segmentation": float("nan"), "bbox": [-5, 5, 10, 70]}), ([], [("cat", (0, 5, 5, 30))], [])),
        (coco_file({"bbox": [5, 5, 10, 7]}), ([], [("cat", (5, 5, 15, 12))], [])),
    ],
)
def test_coco(content, found, tmp_path):
    assert summary(read(put(tmp_path / "x.json", content))) == found


def test_coco_without_categories_and_with_orphans(tmp_path):
    content = coco_file({"segmentation": [FLAT]})
    del content["categories"]
    content["annotations"].append({"id": 2, "image_id": 99, "segmentation": [FLAT]})
    assert summary(read(put(tmp_path / "x.json", content))) == ([("object", 70)], [], ["annotation"])


def test_crowds_stay_crowds(tmp_path):
    [picture] = read(put(tmp_path / "x.json", coco_file({"segmentation": COUNTS, "iscrowd": 1})))
    assert picture.objects[0].attributes == {"iscrowd": "1"}
    from fretsaw.interchange import coco

    [row] = json.loads(dict(coco.write([picture]))[coco.PATH])["annotations"]
    assert (row["iscrowd"], "attributes" in row) == (1, False)


def test_panoptic_files_are_refused_by_name(tmp_path):
    segments = [{"id": 5, "category_id": 1, "area": 70, "bbox": [5, 5, 10, 7], "iscrowd": 0}]
    content = coco_file({})
    content["annotations"] = [{"image_id": 1, "file_name": "a.png", "segments_info": segments}]
    with pytest.raises(DataError, match=r"x\.json: .*panoptic files keep their masks in PNGs"):
        read(put(tmp_path / "x.json", content))


def test_results_have_scores_and_those_without_a_size_are_named(tmp_path):
    rows = [{"image_id": 7, "category_id": 3, "segmentation": COUNTS, "score": 0.25}, {"image_id": 8, "category_id": 3, "bbox": [5, 5, 10, 7], "score": 0.5}]
    [picture] = read(put(tmp_path / "x.json", rows))
    assert (picture.file_name, [(item.name, item.score) for item in picture.objects]) == ("7", [("3", 0.25)])
    assert [sentence.kind for sentence in picture.left_out] == ["image"]


# labelme and X-AnyLabeling


def labelme_file(*shapes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    rows = [{"label": "cat", "group_id": None, "flags": {}, **shape} for shape in shapes]
    return {"version": "5.2.1", "flags": {}, "shapes": rows, "imagePath": "a.jpg", "imageData": None, "imageHeight": 30, "imageWidth": 40, **changes}


PICTURE = base64.b64encode(encode_image(np.zeros((30, 40, 3), np.uint8), ".png")).decode()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (labelme_file({"points": RING}), ([CAT], [], [])),
        (labelme_file({"points": [[5, 5], [15, 12]], "shape_type": "rectangle"}), ([CAT], [], [])),
        (labelme_file({"points": [[15, 12], [5, 5]], "shape_type": "rectangle"}), ([CAT], [], [])),
        (labelme_file({"points": RING, "shape_type": "rectangle"}), ([CAT], [], [])),
        (labelme_file({"points": [[10, 5], [15, 10], [10, 15], [5, 10]], "shape_type": "rotation", "direction": 0.78}), ([("cat", 50)], [], [])),
        (labelme_file({"points": [[20, 15], [25, 15]], "shape_type": "circle"}), ([("cat", 80)], [], [])),
        (labelme_file({"points": RING}, {"points": [[1, 1], [9, 9]], "shape_type": "line"}), ([CAT], [], ["line"])),
        (labelme_file({"points": RING}, {"points": [[1, 1], [9, 9], [1, 9]], "shape_type": "linestrip"}), ([CAT], [], ["line"])),
        (labelme_file({"points": RING}, {"points": [[1, 1]], "shape_type": "point"}), ([CAT], [], ["point"])),
        (labelme_file({"points": RING}, {"points": [[1, 1]], "shape_type": "points"}), ([CAT], [], ["point"])),
        (labelme_file({"points": RING}, imageHeight=None, imageWidth=None, imageData=PICTURE), ([CAT], [], [])),
    ],
)
def test_labelme(content, found, tmp_path):
    assert summary(read(put(tmp_path / "x.json", content))) == found


def test_labelmes_old_files_take_the_size_from_the_picture(tmp_path):
    content = labelme_file({"points": RING})
    for key in ("imageHeight", "imageWidth"):
        del content[key]
    put(tmp_path / "in" / "x.json", content)
    with pytest.raises(DataError, match=r"expected the picture's size in 'imageHeight'"):
        read(tmp_path / "in" / "x.json")
    write_image(tmp_path / "elsewhere" / "a.jpg", np.zeros((*SIZE, 3), np.uint8))
    assert summary(read(tmp_path / "in" / "x.json", tmp_path / "elsewhere"))[0] == [CAT]
    write_image(tmp_path / "in" / "a.jpg", np.zeros((*SIZE, 3), np.uint8))
    assert summary(read(tmp_path / "in"))[0] == [CAT]


# CVAT


def cvat_file(shapes: str) -> bytes:
    return f'<annotations><version>1.1</version><image id="0" name="a.jpg" width="40" height="30">{shapes}</image></annotations>'.encode()


@pytest.mark.parametrize(
    ("shapes", "found"),
    [
        ('<polygon label="cat" points="5,5;15,5;15,12;5,12"/>', ([CAT], [], [])),
        ('<box label="cat" xtl="5" ytl="5" xbr="15" ybr="12"/>', ([], [("cat", (5, 5, 15, 12))], [])),
        ('<box label="cat" xtl="5" ytl="5" xbr="15" ybr="15" rotation="45"/>', ([], [("cat", (2.929, 2.929, 17.071, 17.071))], [])),
        ('<ellipse label="cat" cx="25" cy="20" rx="6" ry="3"/>', ([("cat", 56)], [], [])),
        ('<ellipse label="cat" cx="25" cy="20" rx="6" ry="3" rotation="90"/>', ([("cat", 56)], [], [])),
        ('<polygon label="cat" points="5,5;15,5;15,12;5,12"/><polyline label="l" points="1,1;9,9"/>', ([CAT], [], ["line"])),
        ('<polygon label="cat" points="5,5;15,5;15,12;5,12"/><points label="p" points="3,3"/>', ([CAT], [], ["point"])),
        ('<polygon label="cat" points="5,5;15,5;15,12;5,12"/><skeleton label="s"><points label="1" points="3,3"/></skeleton>', ([CAT], [], ["skeleton"])),
        ('<polygon label="cat" points="5,5;15,5;15,12;5,12"/><cuboid label="c" xtl1="1"/>', ([CAT], [], ["cuboid"])),
        ('<polygon label="cat" points="5,5;15,5;15,12;5,12"/><tag label="indoors"/>', ([CAT], [], [])),
    ],
)
def test_cvat(shapes, found, tmp_path):
    assert summary(read(put(tmp_path / "x.xml", cvat_file(shapes)))) == found


def test_what_lies_on_top_in_cvat_is_the_last_object(tmp_path):
    shapes = '<polygon label="top" points="5,5;15,5;15,12;5,12" z_order="2"/><polygon label="under" points="0,0;40,0;40,30;0,30" z_order="-1"/>'
    [picture] = read(put(tmp_path / "x.xml", cvat_file(shapes)))
    assert [item.name for item in picture.objects] == ["under", "top"]


# Label Studio


def task(*results: dict[str, Any], **changes: Any) -> dict[str, Any]:
    about = {"original_width": 40, "original_height": 30, "image_rotation": 0}
    return {"data": {"image": "a.jpg"}, "annotations": [{"result": [about | row for row in results], "was_cancelled": False}], "predictions": [], **changes}


POLYGON = {"id": "p", "type": "polygonlabels", "value": {"points": [[12.5, 50 / 3], [37.5, 50 / 3], [37.5, 40], [12.5, 40]], "polygonlabels": ["cat"]}}
TURNED = {"x": 25, "y": 100 / 3, "width": 25, "height": 100 / 3, "rotation": 90, "rectanglelabels": ["cat"]}
ROUND = {"x": 50, "y": 50, "radiusX": 15, "radiusY": 10, "rotation": 30, "ellipselabels": ["cat"]}


@pytest.mark.parametrize(
    ("tasks", "found"),
    [
        ([task(POLYGON)], ([CAT], [], [])),
        ([task({"type": "rectanglelabels", "value": TURNED | {"rotation": 0}})], ([], [("cat", (10, 10, 20, 20))], [])),
        ([task({"type": "rectanglelabels", "value": TURNED})], ([], [("cat", (0, 10, 10, 20))], [])),
        ([task({"type": "ellipselabels", "value": ROUND})], ([("cat", 58)], [], [])),
        ([task(POLYGON, {"type": "keypointlabels", "value": {"x": 1, "y": 1, "width": 0.5, "keypointlabels": ["k"]}})], ([CAT], [], ["keypoint"])),
        ([task(POLYGON, {"type": "choices", "value": {"choices": ["blurred"]}})], ([CAT], [], [])),
        ([task({**POLYGON, "value": {**POLYGON["value"], "polygonlabels": []}})], ([("object", 70)], [], [])),
        ([task({**POLYGON, "type": "polygon"}, {"id": "p", "type": "labels", "value": {"labels": ["dog"]}})], ([CAT], [], [])),
        ([task(POLYGON, data={"img": "a.jpg"})], ([CAT], [], [])),
        ([task(POLYGON, data={"id": "7", "photo": "s3://bucket/a.jpg?x=1"})], ([CAT], [], [])),
        ([task(POLYGON), task(annotations=[])], ([CAT], [], ["task"])),
        ([task(POLYGON), task(annotations=[{"result": [], "was_cancelled": True}])], ([CAT], [], ["task"])),
        ([{**task(POLYGON), "predictions": task(POLYGON)["annotations"], "annotations": []}], ([CAT], [], [])),
        ([{"completions": task(POLYGON)["annotations"], "data": {"image": "a.jpg"}}], ([CAT], [], [])),
    ],
)
def test_label_studio(tasks, found, tmp_path):
    assert summary(read(put(tmp_path / "x.json", tasks))) == found


def test_label_studio_takes_the_first_annotation_that_was_not_cancelled(tmp_path):
    wrong = {**POLYGON, "value": {**POLYGON["value"], "polygonlabels": ["wrong"]}}
    annotations = [*task(wrong, annotations=[])["annotations"], {"result": task(wrong)["annotations"][0]["result"], "was_cancelled": True}]
    annotations += task(POLYGON)["annotations"] + task(wrong)["annotations"]
    [picture] = read(put(tmp_path / "x.json", [task(annotations=annotations)]))
    assert [item.name for item in picture.objects] == ["cat"]
    assert picture.left_out == ("task 1: has 2 annotations; the first counts",)


def test_label_studios_short_form_is_refused_by_name(tmp_path):
    content = [{"image": "a.jpg", "id": 1, "label": [{"x": 1}], "annotator": 1, "annotation_id": 2, "lead_time": 3.5}]
    with pytest.raises(DataError, match=r"x\.json: .*expected Label Studio's JSON export, got its JSON-MIN"):
        read(put(tmp_path / "x.json", content))


# YOLO

LINE = "0 0.125 0.16666667 0.375 0.16666667 0.375 0.4 0.125 0.4\n"


def yolo_folder(folder: Path, line: str = LINE, name: str = "data.yaml", names: str = "names: [cat, dog]\n") -> Path:
    write_image(folder / "images" / "a.png", np.zeros((*SIZE, 3), np.uint8))
    put(folder / "labels" / "a.txt", line.encode())
    put(folder / name, names.encode())
    return folder


@pytest.mark.parametrize(
    "names",
    [
        "names:\n  0: cat\n  1: dog\n",
        "names:\n- cat\n- dog\n",
        "names:\n  - cat\n  - dog\n",
        "names: [cat, dog]\n",
        "names: ['cat', \"dog\"]  # comment\n",
        "names: {0: cat, 1: dog}\n",
        "{names: [cat, dog], nc: 2}\n",
        "# head\n---\npath: ../datasets/x # root\ntrain: [a, b]\nval: images\n\nnames:\n  0: cat # the first\n  1: dog\ndownload: |\n  import os\n",
        "names:\n  0: cat\n  1: dog\nkpt_names:\n  0:\n    - nose\n  1:\n    - tail\nlr:\n  0: 0.01\n",
        "\ufeffnames: [cat, dog]\r\nnc: 2\r\n",
        "names: ['cat', no, 1e3, null]\n",
    ],
)
@pytest.mark.parametrize("name", ["data.yaml", "my-seg.yml"])
def test_yolos_names_are_read_as_yaml(names, name, tmp_path):
    assert summary(read(yolo_folder(tmp_path, name=name, names=names))) == ([CAT], [], [])
    assert summary(read(tmp_path / name)) == ([CAT], [], [])


def test_words_that_yaml_takes_for_something_else_stay_names():
    assert yolo.about("data.yaml", b"names: [no, on, 1e3, null, 2024-01-01]").classes.names == ("no", "on", "1e3", "null", "2024-01-01")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (LINE.replace("0 ", "0.0 ", 1), ([CAT], [], [])),
        (LINE.replace("\n", " 0.9\n"), ([CAT], [], [])),
        ("1 0.25 0.28333333 0.25 0.23333333\n", ([], [("dog", (5, 5, 15, 12))], [])),
        ("1 0.25 0.28333333 0.25 0.23333333 0.5\n", ([], [("dog", (5, 5, 15, 12))], [])),
        ("1 0.25 0.28333333 0.25 0.23333333 0.5 12\n", ([], [("dog", (5, 5, 15, 12))], [])),
        (LINE + "5 0.1 0.1 0.2 0.1 0.2 0.2\n", ([CAT], [], ["line"])),
        (LINE + "0 120 80 200 80 200 90\n", ([CAT], [], ["line"])),
        (LINE + "0 0.1 0.1\n", ([CAT], [], ["line"])),
        ("", ([], [], [])),
    ],
)
def test_yolos_lines(line, found, tmp_path):
    assert summary(read(yolo_folder(tmp_path, line))) == found


def test_yolos_keypoints_are_boxes(tmp_path):
    folder = yolo_folder(tmp_path, "0 0.25 0.28333333 0.25 0.23333333 0.3 0.3 2 0.1 0.1 0\n", names="kpt_shape: [2, 3]\nnames: [cat]\n")
    assert summary(read(folder)) == ([], [("cat", (5, 5, 15, 12))], [])


def test_yolo_without_names_calls_classes_by_number(tmp_path):
    (yolo_folder(tmp_path) / "data.yaml").unlink()
    [picture] = read(tmp_path)
    assert [item.name for item in picture.objects] == ["0"]
    assert picture.left_out == ("no file tells the names of the classes: they are called by their numbers",)


def test_a_label_file_without_a_picture_is_named(tmp_path):
    put(yolo_folder(tmp_path) / "labels" / "b.txt", LINE.encode())
    found = dict(readers(the_source(tmp_path)))
    assert len(list(found["labels/a.txt"]())) == 1
    with pytest.raises(DataError, match=r"labels/b\.txt: .*expected a picture called b"):
        list(found["labels/b.txt"]())


def test_pictures_of_one_stem_have_labels_of_their_own():
    labels = ["labels/a.png.txt", "labels/a.txt"]
    assert yolo.pairs(labels, ["a.jpg", "a.png"]) == [("labels/a.png.txt", "a.png"), ("labels/a.txt", "a.jpg")]
    assert yolo.pairs(["train/labels/a.txt", "val/labels/a.txt"], ["train/images/a.jpg", "val/images/a.jpg"]) == [
        ("train/labels/a.txt", "train/images/a.jpg"),
        ("val/labels/a.txt", "val/images/a.jpg"),
    ]
    assert yolo.pairs(["labels/train/a.txt"], ["images/train/a.jpg", "images/val/b.jpg"]) == [("labels/train/a.txt", "images/train/a.jpg")]
    decomposed = "labels/Ba\u0308ckerei.txt"
    assert yolo.pairs([decomposed], ["B\u00e4ckerei.jpg"]) == [(decomposed, "B\u00e4ckerei.jpg")]


@pytest.mark.parametrize("content", [b"names: 3", b"names: [a", b"names: *x", b"nc: 2\nnames", b"names:\n\t0: a", b"\xff\xfe", b"- a\n- b"])
def test_yaml_that_holds_no_names_is_refused_with_its_place(content):
    with pytest.raises(DataError, match=r"^data\.yaml: expected") as error:
        yolo.about("data.yaml", content)
    one_line(str(error.value))


# Pascal VOC and its relatives


def square_picture() -> AnnotatedPicture:
    mask = np.zeros(SIZE, bool)
    mask[5:12, 5:15] = True
    return AnnotatedPicture("a.jpg", SIZE, (NamedMask("cat", mask),))


def test_labelimgs_boxes_are_boxes(tmp_path):
    put(tmp_path / "a.xml", foreign.polygon_xml(square_picture(), boxes=True))
    for path in (tmp_path, tmp_path / "a.xml"):
        assert summary(read(path)) == ([], [("cat", (5, 5, 15, 12))], [])
    put(tmp_path / "voc" / "Annotations" / "a.xml", foreign.polygon_xml(square_picture(), boxes=True))
    assert summary(read(tmp_path / "voc")) == ([], [("cat", (5, 5, 15, 12))], [])


def test_a_file_name_without_suffix_is_that_of_the_picture_which_is_there(tmp_path):
    foreign.cvat_masks([square_picture()], tmp_path)
    xml = foreign.polygon_xml(square_picture(), boxes=True).replace(b"a.jpg", b"a")
    put(tmp_path / "Annotations" / "a.xml", xml)
    [picture] = read(tmp_path)
    assert (picture.file_name, summary([picture])[0]) == ("a.jpg", [CAT])


def test_masks_of_classes_alone_are_an_object_each(tmp_path):
    foreign.cvat_masks([square_picture()], tmp_path)
    (tmp_path / "SegmentationObject" / "a.png").unlink()
    assert summary(read(tmp_path))[0] == [CAT]


def test_colours_of_a_label_map_are_numbers(tmp_path):
    foreign.cvat_masks([square_picture()], tmp_path)
    image = np.zeros((*SIZE, 3), np.uint8)
    image[5:12, 5:15] = (250, 50, 83)
    put(tmp_path / "SegmentationClass" / "a.png", encode_image(image, ".png"))
    put(tmp_path / "labelmap.txt", b"# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\n")
    assert summary(read(tmp_path))[0] == [CAT]
    put(tmp_path / "labelmap.txt", b"# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:1,2,3::\n")
    with pytest.raises(DataError, match=r"SegmentationClass/a\.png: expected colours of the label map .* got \(250, 50, 83\)"):
        read(tmp_path)


def test_a_label_map_without_colours_means_vocs(tmp_path):
    """As Datumaro writes it."""
    foreign.cvat_masks([square_picture()], tmp_path)
    put(tmp_path / "labelmap.txt", b"# label:color_rgb:parts:actions\nbackground:::\ncat:::\ndog:::\n")
    assert summary(read(tmp_path))[0] == [CAT]


# New formats


def test_sa1b_has_scores_and_no_names(tmp_path):
    foreign.sa1b(example(), tmp_path)
    assert {(item.name, item.score, item.attributes["stability_score"]) for picture in read(tmp_path) for item in picture.objects} == {("object", 0.9, "0.95")}


def test_isats_background_cuts_holes_and_layers_lie_on_each_other(tmp_path):
    hole = {"category": "__background__", "group": 2, "segmentation": [[7, 7], [9, 7], [9, 9], [7, 9]], "layer": 2.0}
    top = {"category": "dog", "group": 3, "segmentation": [[8, 8], [10, 8], [10, 10], [8, 10]], "layer": 3.0}
    cat = {"category": "cat", "group": 1, "segmentation": RING, "layer": 1.0}
    info = {"description": "ISAT", "name": "a.jpg", "width": 40, "height": 30}
    [picture] = read(put(tmp_path / "a.json", {"info": info, "objects": [top, hole, cat]}))
    assert summary([picture])[0] == [("cat", 66), ("dog", 4)]


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ({"name": "rect", "x": 5, "y": 5, "width": 10, "height": 7}, ([], [("cat", (5, 5, 15, 12))], [])),
        ({"name": "circle", "cx": 20, "cy": 15, "r": 5}, ([("cat", 80)], [], [])),
        ({"name": "ellipse", "cx": 25, "cy": 20, "rx": 6, "ry": 3, "theta": 1.5707963}, ([("cat", 56)], [], [])),
        ({"name": "polyline", "all_points_x": [5, 15, 15, 5, 5], "all_points_y": [5, 5, 12, 12, 5]}, ([CAT], [], [])),
    ],
)
@pytest.mark.parametrize("kind", [{"name": "cat"}, {"colour": "", "type": "cat"}, {"label": {"cat": True, "dog": False}}])
def test_via(shape, kind, found, tmp_path):
    write_image(tmp_path / "a.jpg", np.zeros((*SIZE, 3), np.uint8))
    line = {"shape_attributes": {"name": "point", "cx": 1, "cy": 1}, "region_attributes": {}}
    regions = {"0": {"shape_attributes": shape, "region_attributes": kind}, "1": line}
    content = {"a.jpg1": {"filename": "a.jpg", "size": 1, "regions": regions, "file_attributes": {}}}
    assert summary(read(put(tmp_path / "via.json", content))) == (found[0], found[1], ["point"])


def test_via_without_pictures_says_what_it_needs(tmp_path):
    foreign.via(example(), tmp_path / "in")
    (tmp_path / "in" / "one.jpg").unlink()
    found = read(tmp_path / "in")
    assert [picture.file_name for picture in found] == ["two.jpg"]
    assert "expected the picture one.jpg beside the file" in found[0].left_out[0]


def test_geojson_has_colours_and_leaves_lines_out():
    square = {"type": "Polygon", "coordinates": [[*RING, RING[0]]]}
    rows = [
        {"type": "Feature", "geometry": square, "properties": {"classification": {"name": "cat", "colorRGB": -3670016}, "measurements": {"Area": 3.5}}},
        {"type": "Feature", "geometry": {"type": "LineString", "coordinates": [[1, 1], [5, 5]]}, "properties": {}},
        {"type": "Feature", "geometry": {**square, "coordinates": [[*RING, RING[0]], [[7, 7], [9, 7], [9, 9], [7, 9], [7, 7]]]}, "properties": None},
    ]
    [picture] = geojson.each("a.geojson", json.dumps(rows).encode(), lambda name: (f"{name}.tif", SIZE))
    assert summary([picture]) == ([CAT, ("object", 66)], [], ["linestring"])
    assert picture.classes["cat"].color == "#c80000"
    assert (picture.file_name, dict(picture.objects[0].attributes)) == ("a.tif", {"Area": "3.5"})


def test_supervisely_polygons_rectangles_and_lines(tmp_path):
    rows = [
        {"classTitle": "cat", "geometryType": "polygon", "points": {"exterior": RING, "interior": [[[7, 7], [9, 7], [9, 9], [7, 9]]]}},
        {"classTitle": "dog", "geometryType": "rectangle", "points": {"exterior": [[5, 5], [15, 12]], "interior": []}},
        {"classTitle": "road", "geometryType": "line", "points": {"exterior": [[5, 5], [15, 12]], "interior": []}},
    ]
    content = {"description": "", "tags": [], "size": {"height": 30, "width": 40}, "objects": rows}
    assert summary(read(put(tmp_path / "ann" / "a.jpg.json", content))) == ([("cat", 66)], [("dog", (5, 5, 15, 12))], ["line"])


# All of them


JSON_LAYOUTS = ("coco-results", "sa1b", "datumaro", "isat", "via", "supervisely", "geojson (QuPath)", "label-studio (polygons)", "labelme (polygons)")


@pytest.mark.parametrize("layout", JSON_LAYOUTS)
def test_any_part_of_a_file_may_be_anything(layout, tmp_path):
    """Each part in turn becomes something else: the reader gives pictures, or one line that names the file."""
    mask = np.zeros((5, 6), bool)
    mask[1:3, 1:4] = True
    pictures = [AnnotatedPicture("a.jpg", (5, 6), (NamedMask("cat", mask),))]
    foreign.LAYOUTS[layout](pictures, tmp_path)
    [path] = [path for path in tmp_path.rglob("*json") if path.name != "meta.json"]
    content = json.loads(path.read_text())
    source = the_source(tmp_path)
    good = bad = 0
    for value in _variations(content):
        path.write_text(json.dumps(value))
        for _, reader in readers(source):
            try:
                said = [str(sentence) for picture in reader() for sentence in picture.left_out]
                good += 1
            except DataError as error:
                said = [str(error)]
                bad += path.name in str(error)
            for sentence in said:
                one_line(sentence)
    assert good + bad > 50


@pytest.mark.parametrize("layout", sorted(foreign.LAYOUTS))
def test_a_file_by_itself_is_told_like_its_folder(layout, tmp_path):
    foreign.LAYOUTS[layout](example(), tmp_path)
    whole = the_source(tmp_path)
    singles = {format_of(path) for path in tmp_path.rglob("*") if path.suffix in (".json", ".geojson", ".xml", ".yaml")} - {None}
    assert singles <= {whole.format}
