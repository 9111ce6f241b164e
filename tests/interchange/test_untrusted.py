"""What a stranger's annotations may do: cost a row, or a file, with one line that says why. Never more, and never an exception of another kind."""

from __future__ import annotations

import base64
import json
import shutil
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from fretsaw.cli.convert import convert
from fretsaw.errors import DataError, FretsawError
from fretsaw.images import encode_image, write_image
from fretsaw.interchange import coco, cvat, label_studio, labelme, png, voc, yolo
from fretsaw.interchange.names import MOST_CHARACTERS, class_name, picture_name
from fretsaw.interchange.pictures import AnnotatedPicture, NamedMask
from fretsaw.interchange.reading import find_annotations, readers, the_source
from fretsaw.interchange.untrusted import parse_xml
from fretsaw.types import Box
from hostile import png as png_file

SQUARE = [[1.0, 1.0, 5.0, 1.0, 5.0, 4.0, 1.0, 4.0]]
MASK = np.zeros((8, 10), bool)
MASK[1:4, 1:5] = True


def written(writer, *names: str) -> dict[str, bytes]:
    return dict(writer([AnnotatedPicture("a.png", (8, 10), tuple(NamedMask(name, MASK) for name in names))]))


def coco_file(**changes) -> dict[str, bytes]:
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 8, "width": 10}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": SQUARE}],
    }
    return {coco.PATH: json.dumps(content | changes).encode()}


def one_line(message: str) -> None:
    assert message.isprintable(), message
    assert 0 < len(message) < 1000
    for word in ("Error(", "Traceback", "object is not", "NoneType"):
        assert word not in message, message


class TestNames:
    @pytest.mark.parametrize(
        ("value", "name"),
        [
            ("cat", "cat"),
            (" a dog\n", "a dog"),
            ("\ufeff cat\ufeff ", "cat"),
            (7, "7"),
            ("猫", "猫"),
            ("👩‍🚒", "👩‍🚒"),
            ("x" * MOST_CHARACTERS, "x" * MOST_CHARACTERS),
        ],
    )
    def test_good_ones(self, value, name):
        assert class_name(value) == name

    @pytest.mark.parametrize(
        "value",
        [
            ["x"],
            {"x": 1},
            None,
            True,
            1.5,
            float("nan"),
            b"x",
            "",
            "  ",
            "a\nb",
            "a\tb",
            "a\x00",
            "\x1b[2J",
            "a\u2028b",
            "\ud800",
            "\ufffe",
            "x" * 201,
            " " * 10**6,
        ],
    )
    def test_others_are_refused_with_one_line(self, value):
        for function in (class_name, picture_name):
            if function is picture_name and value == "x" * 201:
                continue
            with pytest.raises(DataError, match=r"^annotation 3: expected a") as error:
                function(value, "annotation 3")
            one_line(str(error.value))

    @pytest.mark.parametrize("name", ["a\nb", "\ud800", ["x"], "", "x" * 500])
    def test_every_reader_refuses_them(self, name):
        """The one constructor is asked by each: a row with such a name is left out, and the row beside it stays."""
        files = {
            coco.read: {coco.PATH: json.loads(written(coco.write, "good", "odd")[coco.PATH])},
            label_studio.read: {label_studio.PATH: json.loads(written(label_studio.write, "good", "odd")[label_studio.PATH])},
            labelme.read: {"a.json": json.loads(written(labelme.write, "good", "odd")["a.json"])},
        }
        text = json.dumps(name)
        for read, contents in files.items():
            [(path, content)] = contents.items()
            [picture] = read({path: json.dumps(content).replace('"odd"', text).encode()})
            assert [item.name for item in picture.objects] == ["good"]
            assert len(picture.left_out) >= 1
            for sentence in picture.left_out:
                one_line(sentence)

    @pytest.mark.parametrize("name", ["a\nb", "", "x" * 500])
    def test_and_those_of_text_files(self, name):
        escaped = name.replace("\n", "&#10;")
        for writer, read in ((cvat.write, cvat.read), (voc.write, voc.read)):
            files = {
                path: content.replace(b"odd", escaped.encode()) if path.endswith(".xml") else content
                for path, content in written(writer, "good", "odd").items()
            }
            [picture] = read(files)
            # In VOC the other object covers this one, of which the box is left.
            assert ([item.name for item in (*picture.objects, *picture.boxes)], len(picture.left_out)) == (["good"], 1)
        files = written(yolo.write, "good", "odd")
        files[yolo.NAMES] = files[yolo.NAMES].replace(b'"odd"', json.dumps(name).encode())
        [picture] = yolo.read(files, {"a.png": (8, 10)})
        assert ([item.name for item in picture.objects], len(picture.left_out)) == (["good"], 1)
        files = written(png.write, "good", "odd")
        files["a/objects.json"] = files["a/objects.json"].replace(b'"odd"', json.dumps(name).encode())
        [picture] = png.read(files)
        assert ([item.name for item in picture.objects], len(picture.left_out)) == (["good"], 1)


ODD_VALUES = [None, True, 3, -1, 1.5, 1e400, 10**30, "", "x", "\ud800", [], [[]], [1], {}, {"x": 1}]


def _variations(value: object) -> list[object]:
    """A JSON value with each of its parts, one after the other, replaced by each odd value or left out."""
    if not isinstance(value, dict | list):
        return [*ODD_VALUES]
    found: list[object] = [*ODD_VALUES]
    for key in range(len(value)) if isinstance(value, list) else list(value):
        for other in _variations(value[key]):
            changed = value.copy()
            changed[key] = other
            found.append(changed)
        shorter = value.copy()
        del shorter[key]
        found.append(shorter)
    return found


@pytest.mark.parametrize(
    ("read", "writer", "path"),
    [
        (coco.read, coco.write, coco.PATH),
        (coco.read, coco.write_polygons, coco.PATH),
        (labelme.read, labelme.write, "a.json"),
        (png.read, png.write, "a/objects.json"),
        (label_studio.read, label_studio.write, label_studio.PATH),
    ],
)
def test_any_part_of_a_json_file_may_be_anything(read, writer, path):
    files = written(writer, "cat")
    refused = usable = 0
    for value in _variations(json.loads(files[path])):
        said: list[str] = []
        try:
            pictures = read(files | {path: json.dumps(value).encode()})
        except DataError as error:
            said = [str(error).removeprefix(f"{path}: ")]
            refused += said != [str(error)]
        else:
            usable += 1
            said = [sentence for picture in pictures for sentence in picture.left_out]
        for sentence in said:
            one_line(sentence)
    assert refused > 30
    assert usable > 5


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        b"\xff\xfe",
        b"[" * 10**6,
        b'{"a":' * 10**5,
        b"1" * 10**5,
        b"NaN",
        b'{"images": NaN}',
        b"\xef\xbb\xbf{}",
        b'"\\ud800"',
        b"null",
        b"{}",
        b"[[]]",
    ],
)
@pytest.mark.parametrize(
    ("read", "path"), [(coco.read, coco.PATH), (label_studio.read, label_studio.PATH), (labelme.read, "a.json"), (png.read, "a/objects.json")]
)
def test_files_that_are_no_annotations_are_refused_with_one_line(read, path, content):
    with pytest.raises(DataError, match=rf"^{path}: expected ") as error:
        read({path: content})
    one_line(str(error.value))


def test_a_byte_order_mark_is_no_fault():
    assert len(coco.read({coco.PATH: b"\xef\xbb\xbf" + coco_file()[coco.PATH]})[0].objects) == 1


LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY l0 "lol">'
    + "".join(f'<!ENTITY l{k} "{f"&l{k - 1};" * 10}">' for k in range(1, 10))
    + "]><annotations>&l9;</annotations>"
)
BLOWN = '<!DOCTYPE a [<!ENTITY x "' + "x" * 10**6 + '">]><annotations>' + "&x;" * 2000 + "</annotations>"
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotations>&x;</annotations>'


@pytest.mark.parametrize(
    "content",
    [
        *(LAUGHS, BLOWN, OUTSIDE, "<annotations>" + "<a>" * 10**6, "<a>" * 200 + "</a>" * 200, "", "<annotations", "<annotations/><annotations/>", "<x/>"),
        *("<annotations>&#0;</annotations>", "<annotations>\x00</annotations>", '<?xml version="1.0" encoding="klingon"?><annotations/>'),
    ],
)
@pytest.mark.parametrize(("read", "path"), [(cvat.read, cvat.PATH), (voc.read, "Annotations/a.xml")])
def test_xml_that_unfolds_or_nests_or_is_none_is_refused(read, path, content):
    started = time.process_time()
    tracemalloc.start()
    with pytest.raises(DataError, match=rf"^{path}: expected ") as error:
        read({path: content.encode(), "SegmentationObject/a.png": encode_image(MASK, ".png")})
    assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    tracemalloc.stop()
    one_line(str(error.value))
    assert time.process_time() - started < 5


def test_ordinary_xml_is_read_as_elementtree_reads_it():
    root = parse_xml('<?xml version="1.0" encoding="latin-1"?><!-- c --><a x="é&amp;"><b>t<![CDATA[<x>]]></b><c/>tail</a>'.encode("latin-1"))
    assert (root.tag, root.attrib, root.findtext("b"), root[1].tail) == ("a", {"x": "é&"}, "t<x>", "tail")


class TestRows:
    """One odd row costs itself, and is said."""

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"category_id": 9}, "annotation 2: expected the id of one of the categories, got 9"),
            ({"image_id": 9}, "annotation 2: expected the id of one of the images, got 9"),
            ({"segmentation": []}, "annotation 2: expected a segmentation or a bbox, got neither"),
            ({"segmentation": "x"}, "annotation 2: expected run lengths or a list of polygons, got 'x'"),
            ({"segmentation": [[1, 2, 3]]}, "annotation 2: polygon: expected vertices"),
            (
                {"segmentation": {"size": [8, 10], "counts": [2**62] * 4 + [80]}},
                "annotation 2: run lengths: expected lengths of 0 to 80, got 80 to 4611686018427387904",
            ),
            ({"segmentation": {"size": [9, 10], "counts": [90]}}, "annotation 2: run lengths: expected the size (8, 10) (height, width), got (9, 10)"),
            ({"segmentation": {"size": [10**9, 10**9], "counts": [10**18]}}, "annotation 2: size: expected two sides"),
        ],
    )
    def test_of_coco(self, row, message):
        good = {"image_id": 1, "category_id": 1, "segmentation": SQUARE}
        [picture] = coco.read(coco_file(annotations=[good, good | row, good]))
        assert len(picture.objects) == 2
        [sentence] = picture.left_out
        assert sentence.startswith(message)
        with pytest.raises(DataError, match=rf"^{coco.PATH}: expected COCO's annotations, got none that can be used; annotation 1: "):
            coco.read(coco_file(annotations=[good | row]))

    def test_a_category_that_is_no_text_costs_its_objects(self):
        """It used to be taken for a name, which the server's store then could not read back."""
        rows = [{"image_id": 1, "category_id": number, "segmentation": SQUARE} for number in (1, 2)]
        [picture] = coco.read(coco_file(annotations=rows, categories=[{"id": 1, "name": ["x"]}, {"id": 2, "name": "dog"}]))
        assert [item.name for item in picture.objects] == ["dog"]
        assert picture.left_out == (
            "category 1: expected a class name, got ['x'], which is no text",
            "annotation 1: expected the id of one of the categories, got 1",
        )

    def test_what_is_said_about_pictures_goes_with_those_that_are_left(self):
        images = [{"id": number, "file_name": f"{number}.png", "height": 8, "width": 10} for number in range(3)]
        images[2]["height"] = "high"
        found = coco.read(coco_file(images=images))
        assert [picture.file_name for picture in found] == ["0.png", "1.png"]
        assert [len(picture.left_out) for picture in found] == [1, 0]
        tasks = json.loads(written(label_studio.write, "cat")[label_studio.PATH])
        found = label_studio.read({label_studio.PATH: json.dumps([tasks[0], {"data": {}}]).encode()})
        assert found[0].left_out == ("task 2: expected text as 'image', found nothing",) or "task 2" in found[0].left_out[0]

    def test_a_key_that_stands_twice_is_said(self):
        content = coco_file()[coco.PATH].replace(b'"category_id": 1', b'"category_id": 7, "category_id": 1')
        [picture] = coco.read({coco.PATH: content})
        assert len(picture.objects) == 1
        assert picture.left_out == ("the key 'category_id' stands twice in 1 object; the last value counts",)

    def test_of_yolo(self):
        files = {yolo.NAMES: b"names:\n  0: cat\n", "labels/a.txt": b"0 0 0 1 0 1 1\n7 0 0 1 0 1 1\n0 0.5 0.5 0.2 0.2\n0 0 0 nan 1 1 1\n\xc2\xb2 0 0 1 0 1 1\n"}
        [picture] = yolo.read(files, {"a.png": (8, 10)})
        assert len(picture.objects) == 1
        assert [sentence.partition(": ")[0] for sentence in picture.left_out] == ["line 2", "line 4", "line 5"]
        assert [(box.name, box.box) for box in picture.boxes] == [("cat", Box(4.0, 3.2, 6.0, 4.8))]
        assert picture.left_out[1].endswith("as a share of the picture's sides, got 'nan'")

    def test_of_cvat(self):
        shapes = '<box label="b"/><polygon label="p" points="1,1;5,1;5,4"/><mask label="m" left="8" top="0" width="5" height="2" rle="0,10"/>'
        shapes += f'<mask label="m" left="0" top="0" width="2" height="2" rle="{",".join([str(2**62)] * 4 + ["4"])}"/>'
        [picture] = cvat.read({cvat.PATH: f'<annotations><image name="a.png" width="10" height="8">{shapes}</image></annotations>'.encode()})
        assert [item.name for item in picture.objects] == ["p"]
        assert [sentence.partition(":")[0] for sentence in picture.left_out] == ["image 1, box 1", "image 1, mask 3", "image 1, mask 4"]

    def test_of_png_masks(self):
        files = written(png.write, "cat", "dog")
        files["a/02-dog.png"] = encode_image(np.ones((9, 9), bool), ".png")
        [picture] = png.read(files)
        assert [item.name for item in picture.objects] == ["cat"]
        assert picture.left_out == ("object 2: bytes: expected an image of 10 x 8 pixels (width x height), got 9 x 9",)

    def test_of_labelme_a_mask_larger_than_its_picture_is_not_decoded(self):
        files = written(labelme.write, "cat", "dog")
        content = json.loads(files["a.json"])
        content["shapes"][1]["mask"] = base64.b64encode(png_file(10_000, 10_000, color=0, data=bytes(10_001 * 10_000))).decode()
        tracemalloc.start()
        [picture] = labelme.read({"a.json": json.dumps(content).encode()})
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
        tracemalloc.stop()
        assert [item.name for item in picture.objects] == ["cat"]
        assert "at most 80 pixels" in picture.left_out[0]


def test_brush_values_need_no_memory_for_what_they_claim():
    for rle in (10**11, "x" * 100, None, [256], [-1], [1.5], ["1"], [[1]]):
        with pytest.raises(FretsawError, match="brush: expected a list of bytes"):
            label_studio.decode_brush(rle, (8, 10))  # type: ignore[arg-type]


def test_many_rings_on_a_large_picture_take_the_time_of_what_they_cover():
    ring = [10, 10, 20, 10, 20, 20]
    image = {"id": 1, "file_name": "a.png", "height": 12_000, "width": 12_000}
    started = time.process_time()
    [picture] = coco.read(coco_file(images=[image], annotations=[{"image_id": 1, "category_id": 1, "segmentation": [ring] * 2000}]))
    assert picture.objects[0].mask.sum() == 45  # as pycocotools draws it
    assert time.process_time() - started < 10


class TestFolders:
    def test_a_file_that_cannot_be_opened_costs_no_other(self, tmp_path):
        (tmp_path / "good.json").write_bytes(coco_file()[coco.PATH])
        (tmp_path / "dead.json").symlink_to("nowhere.json")
        assert [source.name for source in find_annotations(tmp_path)] == ["good.json"]

    @pytest.mark.parametrize("mask", ["../secret.png", "/etc/passwd", "a\x00b.png", "x" * 900, "\udc80\ud800.png", "."])
    def test_masks_are_looked_for_inside_the_folder_alone(self, mask, tmp_path):
        (tmp_path / "in" / "a").mkdir(parents=True)
        (tmp_path / "secret.png").write_bytes(encode_image(MASK, ".png"))
        content = {"file_name": "a.png", "size": [8, 10], "objects": [{"name": "cat", "mask": mask}]}
        (tmp_path / "in" / "a" / "objects.json").write_text(json.dumps(content))
        [(_, read)] = readers(the_source(tmp_path / "in"))
        with pytest.raises(DataError, match=r"^a/objects\.json: expected") as error:
            list(read())
        one_line(str(error.value))

    def test_the_size_of_yolos_pictures_is_that_of_read_image(self, tmp_path):
        """An orientation that does not exist, and a TIFF, which Pillow turns by itself, used to be turned."""
        (tmp_path / "labels").mkdir()
        (tmp_path / yolo.NAMES).write_text("names:\n  0: cat\n")
        for kind, orientation in (("a.jpg", 99), ("b.tif", 6), ("c.jpg", 6)):
            exif = Image.Exif()
            exif[0x0112] = orientation
            (tmp_path / "images").mkdir(exist_ok=True)
            Image.new("RGB", (40, 30)).save(tmp_path / "images" / kind, exif=exif)
            (tmp_path / "labels" / f"{kind[0]}.txt").write_text("0 0 0 1 0 1 1\n")
        found = {picture.file_name: picture.size for _, read in readers(the_source(tmp_path)) for picture in read()}
        assert found == {"a.jpg": (30, 40), "b.tif": (40, 30), "c.jpg": (40, 30)}

    def test_a_picture_of_more_pixels_than_are_read_is_named(self, tmp_path):
        (tmp_path / "labels").mkdir()
        (tmp_path / yolo.NAMES).write_text("names:\n  0: cat\n")
        (tmp_path / "labels" / "a.txt").write_text("0 0 0 1 0 1 1\n")
        (tmp_path / "a.png").write_bytes(png_file(20_000, 20_000))
        [(_, read)] = readers(the_source(tmp_path))
        with pytest.raises(DataError, match=r"labels/a\.txt: a\.png: .*expected at most 178956970 pixels"):
            list(read())


FORMATS = ("png", "coco", "coco-polygons", "yolo", "voc", "labelme", "label-studio", "cvat")


def _cases() -> list[Path]:
    folder = Path(__file__).resolve().parents[3] / "shared" / "cases" / "interchange"
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "images") if folder.is_dir() else []


@pytest.mark.skipif(not _cases(), reason="needs the odd annotations in ../shared/cases, which are not part of the repository")
@pytest.mark.parametrize("case", _cases(), ids=lambda path: path.name)
def test_odd_annotations_of_other_programs_give_a_value_or_one_line(case, tmp_path, capsys):
    copied = shutil.copytree(case, tmp_path / "in", copy_function=shutil.copyfile)
    for source in (copied, *(path for path in copied.rglob("*") if path.suffix in (".json", ".xml"))):
        for to in FORMATS:
            try:
                convert(source, tmp_path / f"{source.name}-{to}", to)
            except (FretsawError, typer.Exit) as error:
                message = str(error) if isinstance(error, FretsawError) else capsys.readouterr().err.strip()
                for line in message.splitlines():
                    one_line(line.replace(str(tmp_path), ""))


def test_convert_says_what_was_left_out(tmp_path, capsys):
    rows = [{"image_id": 1, "category_id": 1 + (k > 0), "segmentation": SQUARE} for k in range(8)]
    (tmp_path / "a.json").write_bytes(coco_file(annotations=rows)[coco.PATH])
    convert(tmp_path / "a.json", tmp_path / "out", "voc")
    said = capsys.readouterr()
    assert said.out.endswith(": from coco to voc: 1 picture, 1 object, 7 left out: 7 annotations\n")
    assert said.err.splitlines()[:2] == [
        "fretsaw: a.json: 1 object, 7 left out: 7 annotations",
        "fretsaw: left out: a.json: annotation 2: expected the id of one of the categories, got 2",
    ]
    assert said.err.splitlines()[-1] == "fretsaw: left out: 2 more; --json names up to 7"
    convert(tmp_path / "a.json", tmp_path / "again", "voc", as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert (facts["left_out"], len(facts["left_out_first"])) == (7, 7)


def test_a_written_picture_is_still_found(tmp_path):
    write_image(tmp_path / "a.png", np.zeros((8, 10, 3), np.uint8))
    assert find_annotations(tmp_path) == []
