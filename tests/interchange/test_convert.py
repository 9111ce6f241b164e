"""`fretsaw convert`: what it says, when it fails, and when its files appear."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fretsaw
from fretsaw import cli
from fretsaw.api import Segmenter
from fretsaw.catalog import Parts
from fretsaw.images import write_bytes, write_image
from fretsaw.interchange import coco, labelme, reading
from fretsaw.interchange.formats import WRITERS
from fretsaw.interchange.losses import LACKS, Losses
from fretsaw.interchange.names import Stems
from fretsaw.interchange.pictures import AnnotatedPicture, NamedBox, NamedMask
from fretsaw.interchange.report import ReadingReport, counted
from fretsaw.interchange.untrusted import Remark
from fretsaw.types import Box
from tiny import tiny_sam2

SQUARE = [[2.0, 2.0, 9.0, 2.0, 9.0, 8.0, 2.0, 8.0]]


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def mask(y0: int, y1: int, x0: int, x1: int, size=(20, 30)) -> np.ndarray:
    made = np.zeros(size, bool)
    made[y0:y1, x0:x1] = True
    return made


def shapes(*kinds: str) -> bytes:
    points = {"polygon": [[2, 2], [9, 2], [9, 8]], "line": [[1, 1], [5, 5]], "point": [[3, 3]]}
    rows = [{"label": "cat", "shape_type": kind, "points": points[kind], "group_id": None} for kind in kinds]
    return json.dumps({"shapes": rows, "imagePath": "a.jpg", "imageHeight": 20, "imageWidth": 30}).encode()


def coco_file(path: Path, annotations: list[dict], count: int = 1, names: list[str] | None = None) -> Path:
    images = [{"id": k + 1, "file_name": (names or [f"{k}.jpg" for k in range(count)])[k], "height": 20, "width": 30} for k in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "categories": [{"id": 1, "name": "cat"}], "annotations": annotations}))
    return path


# The report


def test_a_count_names_kinds_the_most_frequent_first():
    assert counted(3, {"line": 1, "box": 2, "point": 1}) == "3 objects, 4 left out: 2 boxes, 1 line, 1 point"
    assert counted(1, {}) == "1 object"


def test_a_report_counts_by_file_and_holds_sentences():
    good = AnnotatedPicture("a.jpg", (20, 30), (NamedMask("cat", mask(1, 5, 1, 5)),), left_out=(Remark("shape 2: no", "line"), Remark("a key stands twice")))
    boxed = AnnotatedPicture("b.jpg", (20, 30), boxes=(NamedBox("cat", Box(1, 1, 5, 5), place="annotation 9"),))

    def broken():
        yield good
        raise fretsaw.errors.DataError("expected more, got less")

    report = ReadingReport()
    for name, reader in (("a", lambda: [good]), ("b", lambda: [boxed]), ("c", broken)):
        list(report.read(name, reader))
    assert str(report) == "2 objects, 3 left out: 2 lines, 1 box; 1 file not read"
    assert [row.name for row in report.failed] == ["b", "c"]
    assert report.sentences == [
        "a: shape 2: no",
        "a: a key stands twice",
        "b: annotation 9: expected a mask, got a box",
        "c: shape 2: no",
        "c: a key stands twice",
    ]
    assert report.to_dict()["files"][2] == {"file": "c", "pictures": 1, "objects": 1, "left_out": {"line": 1}, "error": "c: expected more, got less"}


def test_what_is_left_out_is_counted_and_named_and_is_no_failure_unless_strict(tmp_path, capsys):
    (tmp_path / "a.json").write_bytes(shapes("polygon", "line", "point", "line"))
    assert run("convert", tmp_path / "a.json", "-o", tmp_path / "out", "--to", "png") == 0
    said = capsys.readouterr()
    assert "1 picture, 1 object, 3 left out: " in said.out
    assert "shape 2: " in said.err
    assert (tmp_path / "out" / "a" / "01-cat.png").exists()
    assert run("convert", tmp_path / "a.json", "-o", tmp_path / "strict", "--to", "png", "--strict", "--json") == 1
    facts = json.loads(capsys.readouterr().out)
    assert (facts["objects"], facts["left_out"], sum(facts["left_out_kinds"].values()), len(facts["left_out_first"])) == (1, 3, 3, 3)


def test_a_file_that_gives_no_object_it_should_have_given_is_a_failure_and_costs_no_other(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name, kinds in (("a", ["polygon"]), ("b", ["point"]), ("c", ["polygon", "polygon"])):
        (tmp_path / "in" / f"{name}.json").write_bytes(shapes(*kinds).replace(b"a.jpg", f"{name}.jpg".encode()))
    (tmp_path / "in" / "d.json").write_bytes(shapes("polygon")[:-9])
    assert run("convert", tmp_path / "in", "-o", tmp_path / "out", "--to", "coco", "--from", "labelme", "--json") == 1
    facts = json.loads(capsys.readouterr().out)
    assert (facts["pictures"], facts["objects"]) == (2, 3)
    assert [row["file"] for row in facts["failures"]] == ["b.json", "d.json"]
    assert [row["file_name"] for row in json.loads((tmp_path / "out" / coco.PATH).read_text())["images"]] == ["a.jpg", "c.jpg"]


def test_boxes_alone_are_named_as_boxes_and_nothing_is_written(tmp_path, capsys, monkeypatch):
    boxed = AnnotatedPicture("b.jpg", (20, 30), boxes=(NamedBox("cat", Box(1, 1, 5, 5), place="annotation 1"),) * 2)
    monkeypatch.setitem(reading.WHOLE, "coco", (coco.PATH, lambda files, sizes: [boxed]))
    assert run("convert", coco_file(tmp_path / "b.json", []), "-o", tmp_path / "out", "--to", "png") == 1
    assert "expected masks, got 0 objects, 2 left out: 2 boxes; --masks MODEL makes masks of boxes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_broken_file_writes_nothing_and_leaves_what_is_there(tmp_path):
    coco_file(tmp_path / "a.json", []).write_text('{"images": [], "annotations": [], "categories": [')
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert run("convert", tmp_path / "a.json", "-o", tmp_path / "out", "--to", "png", "--overwrite") == 1
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["mine.txt"]


def test_files_appear_when_all_of_them_are_there(tmp_path, monkeypatch):
    seen = []
    before = labelme.read

    def read(files, sizes):
        seen.append(sorted(path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")))
        return before(files, sizes)

    monkeypatch.setattr(labelme, "read", read)
    for name in "abc":
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.json").write_bytes(shapes("polygon").replace(b"a.jpg", f"{name}.jpg".encode()))
    assert run("convert", tmp_path / "in", "-o", tmp_path / "out", "--to", "yolo") == 0
    assert seen == [[], [], []]
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.txt")) == [f"labels/{name}.txt" for name in "abc"]
    assert run("convert", tmp_path / "in", "-o", tmp_path / "out", "--to", "yolo") == 1  # not empty
    assert run("convert", tmp_path / "in", "-o", tmp_path / "out", "--to", "png", "--overwrite") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a", "b", "c", "labels", "data.yaml"}


FAULTS = [
    *(
        ValueError("x\ny"),
        LookupError("x"),
        KeyError(2),
        AttributeError("x"),
        IndexError("x"),
        TypeError("x"),
        MemoryError(),
        RecursionError(),
        OSError(5, "x"),
    ),
    *(UnicodeDecodeError("utf-8", b"x", 0, 1, "x"), ZeroDivisionError(), OverflowError("x"), Image.DecompressionBombError("x"), struct.error("x")),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("format", sorted(set(reading.READABLE) & set(WRITERS)))
def test_whatever_a_reader_raises_is_one_line_that_names_the_file(format, fault, tmp_path, capsys, monkeypatch):
    """One boundary for all formats: the file is named, and neither Python's words nor its exceptions get through."""
    picture = AnnotatedPicture("a.png", (20, 30), (NamedMask("cat", mask(1, 5, 1, 5)),))
    for path, content in WRITERS[format]([picture]):
        write_bytes(tmp_path / "in" / path, content)
    if format == "yolo":
        write_image(tmp_path / "in" / "images" / "a.png", np.zeros((20, 30, 3), np.uint8))

    def broken(*arguments, **options):
        raise fault

    monkeypatch.setattr(AnnotatedPicture, "__post_init__", broken)
    assert run("convert", tmp_path / "in", "-o", tmp_path / "out", "--to", "png") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    [line] = said.err.splitlines()
    assert line.startswith("fretsaw: ")
    assert "KeyError" not in line
    assert not (tmp_path / "out").exists()


# Names


@pytest.mark.parametrize("to", ["png", "yolo", "voc", "labelme"])
def test_pictures_of_one_stem_keep_their_labels_in_every_format(to, tmp_path, capsys):
    names = ["a.jpg", "a.png", "A.jpg", "img\\b.jpg", "../up.png", "C:\\x\\c.jpg", "https://host/d.jpg?x=1"]
    rows = [{"id": k, "image_id": k + 1, "category_id": 1, "segmentation": SQUARE} for k in range(len(names))]
    coco_file(tmp_path / "a.json", rows, len(names), names)
    assert run("convert", tmp_path / "a.json", "-o", tmp_path / "out", "--to", to) == 0
    said = capsys.readouterr().err
    assert "a.json: a.png: another picture has its name but for suffix or case; its files are called a.png" in said
    assert said.count("another picture has its name") == 2
    written = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len({name.casefold() for name in written}) == len(written)
    for number, stem in enumerate(["a", "a.png", "A.jpg", "img/b", "up", "c", "d"]):
        place = {"png": f"{stem}/01-cat.png", "yolo": f"labels/{stem}.txt", "voc": f"SegmentationObject/{stem}.png", "labelme": f"{stem}.json"}[to]
        assert place in written, (number, written)
    if to in ("png", "voc", "labelme"):
        assert run("convert", tmp_path / "out", "-o", tmp_path / "back", "--to", "coco") == 0
        back = coco.read({coco.PATH: (tmp_path / "back" / coco.PATH).read_bytes()})
        assert sorted(picture.file_name for picture in back) == sorted(["a.jpg", "a.png", "A.jpg", "img/b.jpg", "up.png", "c.jpg", "d.jpg"])
        assert all(len(picture.objects) == 1 for picture in back)


# Losses


def test_what_voc_cannot_hold_is_said_object_by_object(tmp_path, capsys):
    ring = [[2.0, 2.0, 9.0, 2.0, 9.0, 8.0, 2.0, 8.0]]
    inner = [[4.0, 4.0, 6.0, 4.0, 6.0, 6.0, 4.0, 6.0]]
    half = [[5.0, 2.0, 12.0, 2.0, 12.0, 8.0, 5.0, 8.0]]
    rows = [{"id": k, "image_id": 1, "category_id": 1, "segmentation": polygon} for k, polygon in enumerate([inner, ring, half])]
    coco_file(tmp_path / "a.json", rows)
    assert run("convert", tmp_path / "a.json", "-o", tmp_path / "out", "--to", "voc") == 0
    said = capsys.readouterr()
    assert said.out.endswith("3 objects; voc does not hold 24 pixels, 1 object\n")
    assert "lost in voc: 0.jpg: object 1 (cat) is lost: it lies wholly under others" in said.err
    assert "lost in voc: 0.jpg: object 2 (cat) loses 24 of its 42 pixels, which lie under others" in said.err
    assert run("convert", tmp_path / "a.json", "-o", tmp_path / "strict", "--to", "voc", "--strict") == 1


def test_a_picture_of_too_many_objects_costs_only_those():
    objects = tuple(NamedMask("cat", mask(k // 30, k // 30 + 1, k % 30, k % 30 + 1)) for k in range(300))
    losses = Losses("voc")
    assert len(losses.fitted(AnnotatedPicture("a.jpg", (20, 30), objects)).objects) == 254
    assert losses.counts == {"object": 46}
    names = tuple(NamedMask(f"class {k}", mask(k // 30, k // 30 + 1, k % 30, k % 30 + 1)) for k in range(250))
    losses = Losses("voc")
    for picture in (names, names[:5], tuple(NamedMask(f"other {k}", item.mask) for k, item in enumerate(names[:9]))):
        losses.fitted(AnnotatedPicture("a.jpg", (20, 30), picture))
    assert losses.counts == {"object": 5}


def test_holes_parts_and_scores_are_counted():
    ring = mask(2, 9, 2, 9) & ~mask(4, 6, 4, 6)
    objects = (
        NamedMask("cat", ring, score=0.5, attributes={"colour": "red"}),
        NamedMask("cat", ring | mask(12, 14, 2, 4)),
        NamedMask("cat", np.zeros((20, 30), bool)),
    )
    picture = AnnotatedPicture("a.jpg", (20, 30), objects)
    found = {format: Losses(format) for format in ("png", "coco", "coco-polygons", "yolo")}
    for losses in found.values():
        losses.fitted(picture)
    assert found["png"].counts == {"score": 1, "attribute": 1}
    assert found["coco"].counts == {"object": 1}
    assert found["coco-polygons"].counts == {"object": 1, "hole": 2}
    assert found["yolo"].counts == {"object": 1, "score": 1, "attribute": 1, "hole": 2, "separate part": 1}


def test_every_format_says_what_it_lacks():
    assert set(LACKS) == set(WRITERS)


# Boxes in, masks out


@pytest.fixture
def model(monkeypatch) -> None:
    monkeypatch.setattr(fretsaw, "load", lambda name=None, **options: Segmenter(name or "tiny", Parts(clicks=tiny_sam2(128))), raising=False)


def test_boxes_become_masks_with_a_score(tmp_path, capsys, monkeypatch, model):
    write_image(tmp_path / "photos" / "deep" / "b.jpg", np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8))
    write_image(tmp_path / "photos" / "c.jpg", np.zeros((9, 9, 3), np.uint8))
    boxes = (NamedBox("cat", Box(2, 2, 20, 15), 0.25, "annotation 1"), NamedBox("dog", Box(90, 90, 95, 95), place="annotation 2"))
    pictures = [
        AnnotatedPicture("b.jpg", (20, 30), boxes=boxes),
        AnnotatedPicture("c.jpg", (20, 30), boxes=boxes),
        AnnotatedPicture("d.jpg", (20, 30), boxes=boxes),
    ]
    monkeypatch.setitem(reading.WHOLE, "coco", (coco.PATH, lambda files, sizes: pictures))
    made = coco_file(tmp_path / "b.json", [])
    assert run("convert", made, "--masks", "tiny", "--images", tmp_path / "photos", "-o", tmp_path / "out", "--to", "coco", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["objects"], facts["left_out_kinds"]) == (1, {"box": 5})
    assert any("expected a picture of 30 x 20 pixels" in sentence for sentence in facts["left_out_first"])
    assert any("found none of this name" in sentence for sentence in facts["left_out_first"])
    content = json.loads((tmp_path / "out" / coco.PATH).read_text())
    [row] = content["annotations"]
    assert 0 <= row["score"] <= 1
    assert row["score"] != 0.25  # the mask's own, not the detector's
    assert row["area"] > 0
    assert run("convert", made, "--masks", "tiny", "--images", made.parent / "none", "-o", tmp_path / "x", "--to", "coco") == 1


# Large files


def test_a_large_file_is_read_as_a_small_one(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    rows = [{"id": k, "image_id": int(rng.integers(1, 60)), "category_id": 1, "segmentation": SQUARE, "score": float("nan")} for k in range(300)]
    path = coco_file(tmp_path / "a.json", rows, 50)
    [(_, read)] = reading.readers(reading.the_source(path))
    whole = list(read())
    monkeypatch.setattr(reading, "LARGE", 10)
    [(_, read)] = reading.readers(reading.the_source(path))
    streamed = list(read())
    assert [picture.file_name for picture in streamed] == [picture.file_name for picture in whole]
    for one, other in zip(streamed, whole, strict=True):
        assert (one.left_out, len(one.objects)) == (other.left_out, len(other.objects))
        assert all((a.mask == b.mask).all() for a, b in zip(one.objects, other.objects, strict=True))
    assert sum(len(picture.left_out) for picture in whole) > 10  # orphans


def test_stems_are_taken_in_order():
    stems = Stems()
    assert [stems.take("a.jpg"), stems.take("a.png")] == ["a", "a.png"]
