"""Pictures and label pictures in two folders, boxes in metadata.jsonl, and Parquet files of the Hugging Face hub."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image
from test_layouts import SIZE, read, summary
from test_untrusted import one_line

from fretsaw.errors import DataError
from fretsaw.images import encode_image, write_bytes, write_image
from fretsaw.interchange.reading import readers, the_source


def grey(labels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, "PNG")
    return buffer.getvalue()


def labels() -> np.ndarray:
    found = np.zeros(SIZE, np.uint8)
    found[5:12, 5:15], found[20:22, 20:30], found[0] = 2, 7, 255
    return found


def folder(place, names=None):
    for part in ("training", "validation"):
        write_image(place / "images" / part / "a.jpg", np.zeros((*SIZE, 3), np.uint8))
        write_bytes(place / "annotations" / part / "a.png", grey(labels()))
    if names is not None:
        write_bytes(place / "id2label.json", json.dumps(names).encode())
    return place


def test_numbers_are_named_by_id2label(tmp_path):
    found = read(folder(tmp_path, {"0": "unlabeled", "2": "cat", "7": "dog"}))
    assert [picture.file_name for picture in found] == ["images/training/a.jpg", "images/validation/a.jpg"]
    assert summary(found[:1]) == ([("cat", 70), ("dog", 20)], [], [])
    assert found[0].classes.ids() == {"unlabeled": 0, "cat": 2, "dog": 7}


def test_numbers_without_names_are_names(tmp_path):
    assert summary(read(folder(tmp_path))[:1]) == ([("2", 70), ("7", 20)], [], [])


def test_a_number_that_no_class_has_is_said_and_a_zero_that_is_one_counts(tmp_path):
    masks, _, left = summary(read(folder(tmp_path, {"0": "wall", "2": "cat"}))[:1])
    assert (masks, left) == ([("wall", 40 * 29 - 90), ("cat", 70)], ["class"])


def test_masks_of_black_and_white_are_one_object(tmp_path):
    write_image(tmp_path / "images" / "a.jpg", np.zeros((*SIZE, 3), np.uint8))
    write_bytes(tmp_path / "masks" / "a.png", grey(np.where(labels() == 2, 255, 0).astype(np.uint8)))
    assert summary(read(tmp_path)) == ([("object", 70)], [], [])


def test_label_pictures_in_colour_or_without_a_picture_are_named(tmp_path):
    folder(tmp_path)
    write_bytes(tmp_path / "annotations" / "training" / "a.png", encode_image(np.full((*SIZE, 3), (1, 2, 3), np.uint8), ".png"))
    write_bytes(tmp_path / "annotations" / "validation" / "b.png", grey(labels()))
    said = {}
    for name, reader in readers(the_source(tmp_path)):
        try:
            said[name] = list(reader())
        except DataError as error:
            one_line(str(error))
            said[name] = str(error)
    assert "expected class ids" in said["annotations/training/a.png"]
    assert "expected a picture called b" in said["annotations/validation/b.png"]
    assert len(said["annotations/validation/a.png"]) == 1


@pytest.mark.parametrize(
    "objects",
    [
        {"bbox": [[5, 5, 10, 7], [0, 0, 4, 4]], "categories": ["cat", "dog"]},
        [{"bbox": [5, 5, 10, 7], "category": "cat"}, {"bbox": [0, 0, 4, 4], "category": "dog"}],
    ],
)
def test_boxes_in_metadata(objects, tmp_path):
    write_image(tmp_path / "train" / "a.png", np.zeros((*SIZE, 3), np.uint8))
    lines = [{"file_name": "a.png", "objects": objects}, {"file_name": "none.png", "objects": objects}, {"file_name": "a.png", "objects": {"bbox": [[1]]}}]
    write_bytes(tmp_path / "train" / "metadata.jsonl", "\n".join(map(json.dumps, lines)).encode())
    for place in (tmp_path, tmp_path / "train" / "metadata.jsonl"):
        _, boxes, left = summary(read(place))
        assert (boxes, left) == ([("cat", (5, 5, 15, 12)), ("dog", (0, 0, 4, 4))], ["line", "object"])


def test_parquet(tmp_path):
    pytest.importorskip("pyarrow", reason="reading Parquet needs pyarrow: pip install 'fretsaw[parquet]'")
    import pyarrow
    import pyarrow.parquet

    picture = encode_image(np.zeros((*SIZE, 3), np.uint8), ".png")
    rows = {
        "image": [{"bytes": picture, "path": "a.png"}, {"bytes": picture, "path": None}, {"bytes": b"x", "path": "c.png"}],
        "label": [{"bytes": grey(np.where(labels() == 255, 0, labels()).astype(np.uint8)), "path": None}, None, None],
        "objects": [{"bbox": [], "category": []}, {"bbox": [[5.0, 5.0, 10.0, 7.0], [99.0, 0.0, 1.0, 1.0]], "category": [1, 0]}, None],
        "caption": ["x", "y", "z"],
    }
    names = {"_type": "ClassLabel", "names": ["dog", "cat"]}
    features = {"image": {"_type": "Image"}, "objects": {"feature": {"bbox": {}, "category": names}, "_type": "Sequence"}}
    table = pyarrow.table(rows).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path = tmp_path / "train-00000.parquet"
    pyarrow.parquet.write_table(table, path)
    for place in (tmp_path, path):
        found = read(place)
        assert [picture.file_name for picture in found] == ["a.png", "train-00000-000002.png"]
        assert summary(found) == ([("2", 70), ("7", 20)], [("cat", (5, 5, 15, 12))], ["object", "row"])
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x"]}), path)
    with pytest.raises(DataError, match=r"train-00000\.parquet: .*expected a column 'image'"):
        read(path)
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"train-00000\.parquet: expected rows with a picture") as error:
        read(path)
    one_line(str(error.value))
