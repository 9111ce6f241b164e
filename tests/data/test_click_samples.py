"""Objects to learn clicks from: labelled sets by their splits, classes as objects, a teacher's masks on disk, and an order that any beginning of is fair."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fretsaw.data import teacher_masks
from fretsaw.data.click_samples import Photo, any_class, interleaved, labelled_objects, large_class, photos_of, unlabelled_photos, with_teacher_masks
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


def test_train_parts_of_the_real_sets_meet_no_held_out_image(shared):
    if not (shared / "data" / "coco_mval").is_dir():
        pytest.skip("needs the image sets")
    stems = {part: {sample.image.stem for sample in labelled_objects(shared / "data", "coco_mval", part)} for part in ("train", "val", "test")}
    assert stems["train"]
    assert not stems["train"] & (stems["val"] | stems["test"])


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
    embedding = model.encode(model.preprocessing.pixels_of(image))
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
