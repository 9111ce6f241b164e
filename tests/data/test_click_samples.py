"""Objects to learn clicks from: labelled sets by their splits, classes as objects, a teacher's masks on disk, and an order that any beginning of is fair."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fretsaw.data import teacher_masks
from fretsaw.data.click_samples import (
    LABELLED,
    Photo,
    any_class,
    class_region,
    interleaved,
    labelled_objects,
    large_class,
    photos_of,
    unlabelled_photos,
    with_teacher_masks,
)
from fretsaw.errors import ConfigError, DataError
from fretsaw.masks import encode_rle
from fretsaw.methods.grid import GridMasks
from tiny import tiny_sam2


@pytest.fixture
def class_map(tmp_path):
    labels = np.zeros((10, 12), np.uint8)
    labels[:6, :6], labels[6:, :3], labels[0, 8:] = 41, 19, 7
    Image.fromarray(labels).save(tmp_path / "map.png")
    return tmp_path / "map.png"


def test_all_classes_together_and_the_largest_by_themselves(class_map):
    assert np.count_nonzero(any_class(class_map) == 1) == 36 + 12 + 4
    assert [np.count_nonzero(large_class(class_map, rank)) for rank in range(4)] == [36, 12, 4, 0]
    assert large_class(class_map, 1)[7, 1] == 1


def test_a_part_of_a_set_holds_the_listed_images_and_no_others(tmp_path, class_map):
    for folder in ("images", "masks"):
        (tmp_path / "ccp" / folder).mkdir(parents=True)
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "ccp_train.txt").write_text("0001\n")
    for stem in ("0001", "0002"):
        Image.fromarray(np.zeros((10, 12, 3), np.uint8)).save(tmp_path / "ccp" / "images" / f"{stem}.jpg")
        (tmp_path / "ccp" / "masks" / f"{stem}.png").write_bytes(class_map.read_bytes())
    samples = labelled_objects(tmp_path, "ccp", "train")
    assert [sample.name for sample in samples] == ["0001", "0001_0", "0001_1", "0001_2"]
    [photo] = photos_of(samples)
    assert len(photo.objects) == 4
    with pytest.raises(ConfigError, match="coco_mval, ccp, human_seg"):
        labelled_objects(tmp_path, "davis", "train")


def labelled_set(root, name: str, stems: dict[str, str], **maps: dict[str, np.ndarray]) -> None:
    """A set with lists of its parts ({stem: part}) and, by folder, the maps of its photos."""
    (root / "splits").mkdir(exist_ok=True)
    for part in ("train", "val"):
        (root / "splits" / f"{name}_{part}.txt").write_text("".join(f"{stem}\n" for stem, own in stems.items() if own == part))
    for folder in ("images", *maps):
        (root / name / folder).mkdir(parents=True)
    for stem in stems:
        shape = next(iter(maps.values()))[stem].shape
        Image.fromarray(np.zeros((*shape, 3), np.uint8)).save(root / name / "images" / f"{stem}.webp")
        for folder, of_photo in maps.items():
            Image.fromarray(of_photo[stem]).save(root / name / folder / f"{stem}.png")


def animals() -> np.ndarray:
    """Two sheep (17), a crumb of one, a person (15) against the first sheep, and a border that is not judged around the second."""
    labels = np.zeros((60, 100), np.uint8)
    labels[10:40, 5:35], labels[10:40, 35:50] = 17, 15
    labels[9:41, 59:91] = 255
    labels[10:40, 60:90] = 17
    labels[50:53, 5:10] = 17
    return labels


def test_every_connected_region_of_a_class_is_an_object(tmp_path):
    labelled_set(tmp_path, "voc_animals", {"a": "train", "b": "val"}, masks={"a": animals(), "b": animals()})
    samples = labelled_objects(tmp_path, "voc_animals", "train")
    assert [sample.name for sample in samples] == ["a_0", "a_1", "a_2"]
    person, left, right = (sample.read()[1] for sample in samples)
    border = animals() == 255
    for truth, columns in ((person, slice(35, 50)), (left, slice(5, 35)), (right, slice(60, 90))):
        expected = np.zeros(truth.shape, bool)
        expected[10:40, columns] = True
        assert truth.dtype == np.int8
        assert np.array_equal(truth == 1, expected)
        assert (truth[border] == -1).all()
    # The crumb may belong to a sheep, never to the person; the other sheep is background.
    assert [int(truth[51, 7]) for truth in (person, left, right)] == [0, -1, -1]
    assert (left[10:40, 60:90] == 0).all()
    assert (left[10:40, 35:50] == 0).all()


def test_regions_that_touch_a_border_alone_stay_apart_and_small_ones_are_none(tmp_path):
    labels = np.zeros((200, 200), np.uint8)
    labels[50:71, 50:71], labels[100:119, 50:71] = 3, 3  # 441 and 399 pixels; the least is 400
    Image.fromarray(labels).save(tmp_path / "m.png")
    assert np.count_nonzero(class_region(tmp_path / "m.png", 0) == 1) == 441
    with pytest.raises(IndexError):
        class_region(tmp_path / "m.png", 1)


def test_fine_masks_alone_by_the_sets_own_list(tmp_path):
    labelled_set(tmp_path, "voc_animals", {"a": "train", "b": "train", "c": "val"}, masks=dict.fromkeys("abc", animals()))
    info = tmp_path / "voc_animals" / "info.json"
    info.write_text(json.dumps({"a": {"part": "sbd_train"}, "b": {"part": "voc_train"}, "c": {"part": "voc_val"}}))
    names = {part: {sample.image.stem for sample in labelled_objects(tmp_path, "voc_animals_fine", part)} for part in ("train", "val")}
    assert names == {"train": {"b"}, "val": {"c"}}
    assert {sample.image.stem for sample in labelled_objects(tmp_path, "voc_animals", "train")} == {"a", "b"}
    info.write_text('["a"]')
    with pytest.raises(DataError, match=r"expected .* in .*info.json"):
        labelled_objects(tmp_path, "voc_animals_fine", "train")


def test_every_instance_is_an_object_and_crowds_are_not_judged(tmp_path):
    numbers, names = np.zeros((40, 60), np.uint8), np.zeros((40, 60), np.uint8)
    numbers[:20, :20], numbers[:20, 20:30], numbers[35, 50:55] = 1, 4, 2
    names[numbers > 0], names[30:, :20] = 7, 255
    labelled_set(tmp_path, "coco_multi", {"a": "train", "b": "val"}, masks={"a": names, "b": names}, instances={"a": numbers, "b": numbers})
    first, second = labelled_objects(tmp_path, "coco_multi", "train")  # five pixels are no object
    assert (first.name, second.name) == ("a_01", "a_04")
    for sample, index in ((first, 1), (second, 4)):
        truth = sample.read()[1]
        assert np.array_equal(truth == 1, numbers == index)
        assert np.array_equal(truth == -1, names == 255)
    Image.fromarray(names[:20]).save(tmp_path / "coco_multi" / "masks" / "a.png")
    with pytest.raises(DataError, match="expected the size of the class map in `masks`, 60 x 20, got 60 x 40"):
        first.read()


@pytest.mark.parametrize("name", ["weizmann_horses", "msrc_cows", "bags", "coco_person"])
def test_sets_of_one_object_a_photo(tmp_path, name):
    mask = np.zeros((10, 12), np.uint8)
    mask[2:5, 3:9] = 255
    labelled_set(tmp_path, name, {"a": "train", "b": "val"}, masks={"a": mask, "b": mask})
    [sample] = labelled_objects(tmp_path, name, "train")
    assert np.array_equal(sample.read()[1] == 1, mask == 255)
    assert [sample.name for sample in labelled_objects(tmp_path, name, "val")] == ["b"]


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name.startswith("voc") else ()) for name in LABELLED])
def test_train_parts_of_the_real_sets_meet_no_held_out_image(shared, name):
    if not (shared / "data" / name.removesuffix("_fine")).is_dir():
        pytest.skip("needs the image sets")
    stems = {part: {sample.image.stem for sample in labelled_objects(shared / "data", name, part)} for part in ("train", "val")}
    assert stems["train"]
    assert stems["val"]
    assert not stems["train"] & stems["val"]


def test_any_beginning_is_a_fair_sample():
    groups = [[Photo(path, f"{name}{i}") for i in range(count)] for name, count, path in (("a", 40, None), ("b", 10, None))]
    order = [photo.key for photo in interleaved(groups, seed=3)]
    assert len(set(order)) == 50
    assert all(abs(sum(key[0] == "b" for key in order[:n]) - n / 5) <= 1 for n in range(51))
    assert order == [photo.key for photo in interleaved(groups, seed=3)]
    assert order != [photo.key for photo in interleaved(groups, seed=4)]


def test_teacher_masks_are_written_once_read_back_and_filtered(tmp_path, rng, monkeypatch):
    image = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    [photo] = unlabelled_photos([tmp_path / "photo.png"])
    assert with_teacher_masks([photo], tmp_path / "teacher")[0].objects == ()
    model = tiny_sam2(64)
    embedding = model.encode(model.pixels_of(image))
    everything = GridMasks(points_per_side=4, min_predicted_iou=0, min_stability=0, box_nms_iou=1.0)
    path = teacher_masks.path_of(photo.key, tmp_path / "teacher")
    with torch.no_grad():
        count = teacher_masks.make(image, model, embedding, path, everything)
    [found] = with_teacher_masks([photo], tmp_path / "teacher")
    assert count == len(found.objects) > 0
    areas = [np.count_nonzero(sample.read()[1]) / image[..., 0].size for sample in found.objects]
    assert all(teacher_masks.SMALLEST <= area <= teacher_masks.LARGEST for area in areas)


def test_masks_come_back_as_they_were_and_a_broken_file_is_named(tmp_path, rng):
    masks = rng.random((2, 9, 11)) > 0.5
    path = tmp_path / "key.json"
    path.write_text(json.dumps({"masks": [encode_rle(mask) for mask in masks]}))
    assert np.array_equal(teacher_masks.read_object(path, 1), masks[1].astype(np.int8))
    path.write_text("{")
    with pytest.raises(DataError, match=r"key\.json"):
        teacher_masks.objects_of(tmp_path / "photo.png", "key", tmp_path)
