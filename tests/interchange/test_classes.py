"""Class lists survive a format that has them, ids never follow first occurrence, and unnamed colours are told from named ones."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fretsaw.errors import DataError
from fretsaw.interchange import coco, cvat, datumaro, supervisely, voc, yolo
from fretsaw.interchange.classes import ClassAttribute, ClassList, Gathered, ObjectClass, color_numbers, color_text, voc_color
from fretsaw.interchange.pictures import AnnotatedPicture, NamedMask

LIST = ClassList(
    (
        ObjectClass("cat", 17, "#ff0000", "animal", (ClassAttribute("tame", "checkbox", ("false",), "false"),)),
        ObjectClass("car", 3, "#00ff00", "vehicle"),
        ObjectClass("unused", 90),
    )
)


def pictures(*names: str, classes: ClassList = LIST) -> list[AnnotatedPicture]:
    mask = np.zeros((6, 8), bool)
    found = []
    for number, name in enumerate(names):
        part = mask.copy()
        part[1:3, 1:4] = True
        found.append(AnnotatedPicture(f"{number}.png", (6, 8), (NamedMask(name, part),), classes=classes))
    return found


def test_coco_keeps_ids_colours_and_supercategories_also_of_classes_without_an_object():
    [picture, _] = coco.read(dict(coco.write(pictures("cat", "car"))))
    assert {entry.name: (entry.id, entry.color, entry.supercategory) for entry in picture.classes} == {
        entry.name: (entry.id, entry.color, entry.supercategory) for entry in LIST
    }
    assert [row["category_id"] for row in json.loads(dict(coco.write(pictures("cat", "car")))[coco.PATH])["annotations"]] == [17, 3]


def test_cvat_keeps_colours_and_attributes():
    [picture] = cvat.read(dict(cvat.write(pictures("cat"))))
    assert picture.classes["cat"] == ObjectClass("cat", None, "#ff0000", "", LIST["cat"].attributes)
    assert set(picture.classes.names) == set(LIST.names)


def test_cvat_keeps_what_is_said_of_an_object():
    one = pictures("cat")[0]
    item = NamedMask("cat", one.objects[0].mask, attributes={"tame": "true", "occluded": "1"})
    [picture] = cvat.read(dict(cvat.write([AnnotatedPicture("a.png", (6, 8), (item,))])))
    assert picture.objects[0].attributes == {"tame": "true", "occluded": "1"}
    [picture] = coco.read(dict(coco.write([picture])))
    assert picture.objects[0].attributes == {"tame": "true", "occluded": "1"}


def test_voc_keeps_ids_and_colours_in_its_label_map():
    [picture] = voc.read(dict(voc.write(pictures("cat"))))
    assert [(entry.name, entry.color) for entry in picture.classes] == [("car", "#00ff00"), ("cat", "#ff0000"), ("unused", color_text(list(voc_color(90))))]
    files = dict(voc.write(pictures("car", classes=ClassList((ObjectClass("car", 7), ObjectClass("bus", 6))))))
    assert files["labelmap.txt"].decode().splitlines()[1:] == ["background:0,0,0::", "bus:0,128,128::", "car:128,128,128::"]
    [picture] = voc.read(files)
    assert picture.classes.ids() == {"bus": 6, "car": 7}


def test_yolo_counts_without_gaps_in_the_order_of_the_ids():
    files = dict(yolo.write(pictures("cat", "car")))
    assert [files[f"labels/{k}.txt"].split()[0] for k in (0, 1)] == [b"1", b"0"]
    [picture, _] = yolo.read(files, {"0.png": (6, 8), "1.png": (6, 8)})
    assert picture.classes.ids() == {"car": 0, "cat": 1, "unused": 2}


@pytest.mark.parametrize("write", [coco.write, yolo.write, voc.write, cvat.write])
def test_numbers_do_not_follow_first_occurrence(write):
    """Two orders of the same pictures without a class list: the same classes in the files."""

    def classes(files: dict[str, bytes]) -> object:
        if coco.PATH in files:
            return json.loads(files[coco.PATH])["categories"]
        if cvat.PATH in files:
            return [label.findtext("name") for label in ElementTree.fromstring(files[cvat.PATH]).iter("label")]
        return files.get(yolo.NAMES) or files["labelmap.txt"]

    made = [classes(dict(write(pictures(*names, classes=ClassList())))) for names in (("b", "a", "C"), ("C", "b", "a"))]
    assert made[0] == made[1]


def test_datumaro_and_supervisely_tell_their_classes():
    labels = [{"name": "animal", "parent": "", "attributes": []}, {"name": "cat", "parent": "animal", "attributes": ["tame"]}]
    categories = {"label": {"labels": labels}, "mask": {"colormap": [{"label_id": 1, "r": 255, "g": 0, "b": 1}]}}
    item = {"id": "a", "annotations": [], "image": {"path": "a.jpg", "size": [6, 8]}}
    [picture] = datumaro.read({datumaro.PATH: json.dumps({"info": {}, "categories": categories, "items": [item]}).encode()})
    assert picture.classes["cat"] == ObjectClass("cat", 1, "#ff0001", "animal", (ClassAttribute("tame"),))
    meta = {"classes": [{"title": "cat", "shape": "bitmap", "color": "#0A0B0C", "id": 12}], "tags": []}
    content = {"description": "", "tags": [], "size": {"height": 6, "width": 8}, "objects": []}
    [picture] = supervisely.read({"meta.json": json.dumps(meta).encode(), "ds/ann/a.jpg.json": json.dumps(content).encode()})
    assert (picture.file_name, picture.classes["cat"]) == ("ds/a.jpg", ObjectClass("cat", 12, "#0a0b0c"))


def test_two_categories_of_one_name_or_id_are_said():
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}, {"id": 2, "name": "dog"}]
    image, row = {"id": 1, "file_name": "a.png", "height": 6, "width": 8}, {"image_id": 1, "segmentation": [[0, 0, 3, 0, 3, 3]]}
    content = {"images": [image], "categories": categories, "annotations": [{**row, "category_id": 1}, {**row, "category_id": 2}]}
    [picture] = coco.read({coco.PATH: json.dumps(content).encode()})
    assert [item.name for item in picture.objects] == ["cat", "dog"]
    assert len(picture.left_out) == 2
    assert not any(sentence.kind for sentence in picture.left_out)


# The list itself

entries = st.lists(
    st.builds(ObjectClass, st.text("abcAB", min_size=1, max_size=2), st.none() | st.integers(0, 6), st.sampled_from(["", "#010203"])),
    max_size=6,
    unique_by=(lambda entry: entry.name, lambda entry: entry.id if entry.id is not None else object()),
).map(lambda rows: ClassList(tuple(rows)))


@given(entries, entries)
def test_merging_keeps_the_first_list_and_loses_no_name(one, other):
    both = one.merged(other)
    assert set(both.names) == set(one.names) | set(other.names)
    for entry in one:
        assert both[entry.name].id == entry.id or entry.id is None
        assert not entry.color or both[entry.name].color == entry.color


@given(entries, st.integers(0, 3))
def test_numbering_keeps_ids_and_gives_each_class_one(classes, first):
    made = classes.numbered(first)
    assert set(made.names) == set(classes.names)
    assert all(entry.id is not None for entry in made)
    assert all(made[entry.name].id == entry.id for entry in classes if entry.id is not None)
    assert [entry.id for entry in classes.dense(first)] == list(range(first, first + len(classes)))


@given(st.lists(st.text("abAB", min_size=1, max_size=2), max_size=6), st.randoms())
def test_what_is_gathered_does_not_depend_on_the_order(names, random):
    mixed = list(names)
    random.shuffle(mixed)
    found = []
    for order in (names, mixed):
        gathered = Gathered()
        for name in order:
            gathered.add(ClassList(), [name])
        found.append(gathered.all().numbered().ids())
    assert found[0] == found[1]


def test_lists_with_a_name_or_id_twice_are_refused():
    for rows in ((ObjectClass("a", 1), ObjectClass("a", 2)), (ObjectClass("a", 1), ObjectClass("b", 1))):
        with pytest.raises(DataError, match="different names and ids"):
            ClassList(rows)


@pytest.mark.parametrize(
    ("value", "color"),
    [("#A0b1C2", "#a0b1c2"), ("a0b1c2", "#a0b1c2"), ("#abc", "#aabbcc"), ("#a0b1c2ff", "#a0b1c2"), ([1, 2, 255], "#0102ff"), ((1, 2, 3, 4), "#010203")]
    + [(odd, "") for odd in ("red", "", None, [1, 2], [1, 2, 300], {"r": 1}, "#12345g", 7)],
)
def test_colours_however_they_are_written(value, color):
    assert color_text(value) == color
    assert not color or color_text(list(color_numbers(color))) == color


def test_the_lists_of_semantic_data_sets_are_class_lists():
    from fretsaw.data.classes import class_list, class_words

    assert class_list("voc20").names == tuple(words[0] for words in class_words("voc20"))
    assert [entry.id for entry in class_list("cityscapes")] == list(range(19))
