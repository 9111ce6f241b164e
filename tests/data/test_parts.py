"""Which part a data set is, and what recipes refuse to learn from: every loader states it, lists divide what may be divided, a name allows the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fretsaw.data.class_sets import CLASS_SETS
from fretsaw.data.datasets import OBJECT_SETS, open_dataset, open_part, split, stated_name
from fretsaw.data.label_folders import open_masks, part_of
from fretsaw.data.parts import PARTS, SET_PARTS, part_by_list, part_in, require_part, stated_part
from fretsaw.data.views import list_photos
from fretsaw.data.whole_views import photo_files
from fretsaw.errors import ConfigError, DataError


def pictures(folder: Path, stems: str = "abc") -> Path:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
        for stem in stems:
            Image.fromarray(np.full((6, 8), 255, np.uint8)).convert("RGB").save(folder / kind / f"{stem}.png")
    return folder


def test_every_loader_states_its_part():
    assert set(SET_PARTS) == (set(OBJECT_SETS) | set(CLASS_SETS)) - {"folder", "coco"}
    assert set(SET_PARTS.values()) == set(PARTS)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("instances_train2017", "train"),
        ("instances_val2017", "val"),
        ("image_info_test-dev2017", "test"),
        ("lvis_v1_train", "train"),
        ("ccp_val", "val"),
        ("train_but_val", "val"),
        ("trainval", "train"),
        ("validation", "val"),
        ("testing", "test"),
        ("annotations", None),
        ("constraints", None),
        ("contest", None),
        ("evaluated", None),
        ("", None),
    ],
)
def test_the_part_that_a_files_name_says(name, part):
    assert part_in(name) == part
    assert stated_part("coco", Path(f"/x/{name or 'x'}.json")) == part
    assert stated_part("folder", Path(f"/x/{name}")) is None


def test_what_is_held_out_is_refused_by_name_and_taken_by_name():
    for name, part in SET_PARTS.items():
        for wanted in ("train", "val"):
            if part == wanted:
                require_part(name, part, wanted)
                continue
            with pytest.raises(ConfigError, match=f"expected a {wanted} part, got {name}, which is a {part} part; .*allow_held_out={name} "):
                require_part(name, part, wanted, [other for other in SET_PARTS if other != name])
            require_part(name, part, wanted, [name])
    require_part("mine", None)


def test_lists_divide_coco_mval_and_folders_of_ones_own_but_make_no_test_set_a_train_part(tmp_path):
    assert part_by_list("coco_mval", "test", "train") == "train"
    assert part_by_list("ccp", None, "val") == "val"
    assert part_by_list("duts-tr", "train", "val") == "val"
    assert part_by_list("davis", "test", "train") == "test"
    assert part_by_list("davis", "test", None) == "test"
    own = open_dataset(pictures(tmp_path / "mine"))
    assert own.part is None
    assert split(own, ["a"], "mine_val").part == "val"
    assert split(own, ["a"], "some").part is None
    davis = open_dataset(pictures(tmp_path / "DAVIS"))
    assert (davis.part, split(davis, ["a"], "davis_train").part) == ("test", "test")


def test_the_layout_may_stand_before_the_path(tmp_path):
    place = pictures(tmp_path / "mine")
    assert stated_name(f"davis:{place}") == ("davis", place)
    assert stated_name(str(place)) == (None, place)
    assert open_dataset(f"davis:{place}").name == "davis"
    assert open_dataset(Path(f"davis:{place}")).name == "davis"
    assert open_dataset(place).name == "mine"
    odd = pictures(tmp_path / "davis:mine")  # a folder that exists is what it is
    assert stated_name(str(odd)) == (None, odd)
    with pytest.raises(DataError, match=r"expected a data set at .*davls:.*, which does not exist; NAME:PATH takes a NAME out of .*davis"):
        open_dataset(f"davls:{place}")


def test_held_out_sets_are_refused_before_they_are_read(tmp_path):
    with pytest.raises(ConfigError, match="expected a train part, got hqseg44k, which is a val part; hqseg44k-train is one"):
        open_part(tmp_path / "HQSeg44K")  # does not exist
    with pytest.raises(ConfigError, match="got coco, which is a val part"):
        open_part(tmp_path / "instances_val2017.json")
    place = pictures(tmp_path / "DAVIS")
    with pytest.raises(ConfigError, match="got davis, which is a test part"):
        open_part(place)
    assert len(open_part(place, allowed=["davis"])) == 3
    assert len(open_part(pictures(tmp_path / "mine"))) == 3


@pytest.mark.parametrize("files", [list_photos, photo_files])
def test_photos_of_held_out_sets_are_refused_without_their_masks_too(tmp_path, files):
    place = pictures(tmp_path / "grabcut")
    others = tmp_path / "grabcut_test.txt"
    others.write_text("b\nc\n")
    for folder in (place, place / "images"):
        for excluded in ([], [others]):
            with pytest.raises(ConfigError, match="expected a train part, got grabcut, which is a test part"):
                files([folder], excluded)
        assert files([folder], [], ["grabcut"])
    divided = pictures(tmp_path / "coco_mval") / "images"
    with pytest.raises(ConfigError, match="got coco_mval, which is a test part"):
        files([divided])
    assert [path.stem for path in files([divided], [others])] == ["a"]
    assert len(files([pictures(tmp_path / "mine") / "images"])) == 3


def test_folders_of_masks_of_held_out_sets_are_refused_with_and_without_lists(tmp_path):
    place = pictures(tmp_path / "ECSSD", "abcdefghijkl")
    samples = open_masks(place)
    assert part_of(samples, place, "test")
    for lists in (None, tmp_path / "splits"):
        with pytest.raises(ConfigError, match="expected a train part, got ecssd, which is a test part"):
            part_of(samples, place, "train", lists)
        (tmp_path / "splits").mkdir(exist_ok=True)
        (tmp_path / "splits" / "ECSSD_train.txt").write_text("a\n")
    assert [sample.name for sample in part_of(samples, place, "train", tmp_path / "splits", ["ecssd"])] == ["a"]
