"""Loaders: every layout from a miniature of it, what is missing by name, counts, and how masks are read."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from fretsaw.data import datasets, truths
from fretsaw.data.class_sets import CLASS_SETS
from fretsaw.data.datasets import OBJECT_SETS, guess_name, open_dataset, split
from fretsaw.data.label_folders import read_class_names
from fretsaw.data.parts import SET_PARTS
from fretsaw.errors import ConfigError, DataError, ImageError

SIZE = (10, 14)


def write(path: Path, array: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)


def image(path: Path, size: tuple[int, int] = SIZE) -> None:
    write(path, np.full((*size, 3), 90, np.uint8))


def mask(path: Path, value: int = 255) -> np.ndarray:
    truth = np.zeros(SIZE, np.uint8)
    truth[2:6, 3:9] = value
    write(path, truth)
    return truth == value


# Layout -> (images, masks), relative to the root, with the names of one sample's files.
PAIRS = {
    "grabcut": ("data_GT/a.jpg", "boundary_GT/a.png"),
    "berkeley": ("images/a.jpg", "masks/a.png"),
    "davis": ("img/a.jpg", "gt/a.png"),
    "coco_mval": ("images/0001.jpg", "masks/dog00_0001.png"),
    "dis5k-tr": ("DIS-TR/im/a.jpg", "DIS-TR/gt/a.png"),
    "dis5k-vd": ("DIS-VD/im/a.jpg", "DIS-VD/gt/a.png"),
    "dis5k-te1": ("DIS-TE1/im/a.jpg", "DIS-TE1/gt/a.png"),
    "dis5k-te2": ("DIS-TE2/im/a.jpg", "DIS-TE2/gt/a.png"),
    "dis5k-te3": ("DIS-TE3/im/a.jpg", "DIS-TE3/gt/a.png"),
    "dis5k-te4": ("DIS-TE4/im/a.jpg", "DIS-TE4/gt/a.png"),
    "cod10k-train": ("Train/Image/COD10K-CAM-1.jpg", "Train/GT_Object/COD10K-CAM-1.png"),
    "cod10k-test": ("Imgs/COD10K-CAM-1.jpg", "GT/COD10K-CAM-1.png"),
    "nc4k": ("Imgs/a.jpg", "GT/a.png"),
    "duts-tr": ("DUTS-TR-Image/a.jpg", "DUTS-TR-Mask/a.png"),
    "duts-te": ("DUTS-TE-Image/a.jpg", "DUTS-TE-Mask/a.png"),
    "ecssd": ("images/a.jpg", "ground_truth_mask/a.png"),
    "isic-train": ("ISIC2018_Task1-2_Training_Input/ISIC_1.jpg", "ISIC2018_Task1_Training_GroundTruth/ISIC_1_segmentation.png"),
    "isic-val": ("ISIC2018_Task1-2_Validation_Input/ISIC_1.jpg", "ISIC2018_Task1_Validation_GroundTruth/ISIC_1_segmentation.png"),
    "isic-test": ("ISIC2018_Task1-2_Test_Input/ISIC_1.jpg", "ISIC2018_Task1_Test_GroundTruth/ISIC_1_segmentation.png"),
    "folder": ("images/a.jpg", "masks/a.png"),
}
EXPECTED = {
    "grabcut": 50,
    "berkeley": 100,
    "davis": 345,
    "coco_mval": 800,
    "sbd": 6671,
    "hqseg44k": 1537,
    "dis5k-tr": 3000,
    "dis5k-vd": 470,
    "dis5k-te1": 500,
    "dis5k-te2": 500,
    "dis5k-te3": 500,
    "dis5k-te4": 500,
    "cod10k-train": 3040,
    "cod10k-test": 2026,
    "nc4k": 4121,
    "duts-tr": 10553,
    "duts-te": 5019,
    "ecssd": 1000,
    "isic-train": 2594,
    "isic-val": 100,
    "isic-test": 1000,
    "oxford-pet-trainval": 3680,
    "oxford-pet-test": 3669,
    "voc": 1449,
    "ade20k": 2000,
}


@pytest.mark.parametrize("name", PAIRS)
def test_one_sample_of_every_layout_of_two_folders(tmp_path, name):
    image(tmp_path / PAIRS[name][0])
    expected = mask(tmp_path / PAIRS[name][1])
    dataset = open_dataset(tmp_path, name)
    assert len(dataset) == 1
    photo, truth = dataset.samples[0].read()
    assert photo.shape == (*SIZE, 3)
    assert truth.dtype == np.int8
    assert np.array_equal(truth == 1, expected)
    assert dataset.expected == EXPECTED.get(name)
    assert dataset.part == SET_PARTS.get(name)
    assert bool(dataset.warnings) == (name in EXPECTED)
    if name in EXPECTED:
        assert f"expected {EXPECTED[name]} samples, found 1" in dataset.warnings[-1]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("which", [0, 1])
def test_the_missing_folder_is_named(tmp_path, name, which):
    kept = PAIRS[name][1 - which]
    (tmp_path / kept).parent.mkdir(parents=True)
    image(tmp_path / kept)
    missing = Path(PAIRS[name][which]).parent.name
    with pytest.raises(DataError, match=f"expected a folder .*{missing}.* in "):
        open_dataset(tmp_path, name)


def test_every_loader_is_tested_here():
    special = {"sbd", "sbd-train", "hqseg44k", "hqseg44k-train", "oxford-pet-trainval", "oxford-pet-test", "voc-objects", "coco"}
    assert set(OBJECT_SETS) == set(PAIRS) | special
    assert set(CLASS_SETS) == {"voc", "context", "ade20k", "cityscapes", "coco-stuff", "coco-object", "folder"}


def test_grabcuts_band_is_ignored(tmp_path):
    values = np.zeros(SIZE, np.uint8)
    values[:, 3:9], values[:, 5:7] = 128, 255
    write(tmp_path / "m.png", values)
    truth = truths.grabcut(tmp_path / "m.png")
    assert truth[0].tolist() == [0, 0, 0, -1, -1, 1, 1, -1, -1, 0, 0, 0, 0, 0]


def test_any_channel_counts_also_with_alpha_palette_and_one_bit(tmp_path):
    colours = np.zeros((*SIZE, 4), np.uint8)
    colours[..., 3] = 255
    colours[2:6, 3:9, 2] = 1
    write(tmp_path / "alpha.png", colours)
    write(tmp_path / "palette.png", np.where(colours[..., 2:3] > 0, 200, 0).astype(np.uint8).repeat(3, axis=2), "P")
    write(tmp_path / "bits.png", np.where(colours[..., 2] > 0, 255, 0).astype(np.uint8), "1")
    for name in ("alpha", "palette", "bits"):
        assert np.array_equal(truths.any_channel(tmp_path / f"{name}.png") == 1, colours[..., 2] > 0), name


def test_saliency_masks_are_cut_at_128(tmp_path):
    write(tmp_path / "m.png", np.array([[0, 127, 128, 129, 255]] * 2, np.uint8))
    assert truths.upper_half(tmp_path / "m.png")[0].tolist() == [0, 0, 0, 1, 1]


def test_trimaps_ignore_the_edge(tmp_path):
    write(tmp_path / "m.png", np.array([[1, 2, 3]] * 2, np.uint8))
    assert truths.trimap(tmp_path / "m.png")[0].tolist() == [1, 0, -1]


def test_ade20k_counts_from_one_and_ignores_other(tmp_path):
    write(tmp_path / "m.png", np.array([[0, 1, 150]] * 2, np.uint8))
    assert truths.ade20k_classes(tmp_path / "m.png")[0].tolist() == [truths.IGNORED, 0, 149]


def test_berkeleys_two_objects_belong_to_one_image(tmp_path):
    image(tmp_path / "images" / "296059.jpg")
    mask(tmp_path / "masks" / "296059a.png")
    mask(tmp_path / "masks" / "296059b.png")
    dataset = open_dataset(tmp_path, "berkeley")
    assert [(sample.name, sample.image.name) for sample in dataset.samples] == [("296059a", "296059.jpg"), ("296059b", "296059.jpg")]


def test_cod10k_leaves_images_without_camouflage_out(tmp_path):
    for stem in ("COD10K-CAM-1", "COD10K-NonCAM-1"):
        image(tmp_path / "Test" / "Image" / f"{stem}.jpg")
        mask(tmp_path / "Test" / "GT_Object" / f"{stem}.png")
    assert [sample.name for sample in open_dataset(tmp_path, "cod10k-test").samples] == ["COD10K-CAM-1"]


def test_hqseg44k_joins_its_four_parts_and_counts_each(tmp_path):
    for name, images, masks, _ in datasets._HQSEG_VAL:
        image(tmp_path / images / f"{name}.jpg")
        mask(tmp_path / masks / f"{name}.png", value=1)
    dataset = open_dataset(tmp_path, "hqseg44k")
    assert [sample.name for sample in dataset.samples] == ["DIS5K-VD/DIS5K-VD", "ThinObject5K-TE/ThinObject5K-TE", "COIFT/COIFT", "HRSOD/HRSOD"]
    assert all((sample.read()[1] == 1).any() for sample in dataset.samples)
    assert len(dataset.warnings) == 5
    assert "expected 470 samples of DIS5K-VD, found 1" in dataset.warnings[0]
    assert sum(count for *_, count in datasets._HQSEG_VAL) == 1537


def test_hqseg44ks_train_part_lies_as_sam_hq_lays_it_out(tmp_path):
    for name, images, masks, _ in datasets._HQSEG_TRAIN:
        image(tmp_path / images / f"{name}.jpg")
        mask(tmp_path / (masks or images) / f"{name}.png")
    dataset = open_dataset(tmp_path, "hqseg44k-train")
    assert [sample.name.partition("/")[0] for sample in dataset.samples] == [name for name, *_ in datasets._HQSEG_TRAIN]
    assert all((sample.read()[1] == 1).any() for sample in dataset.samples)
    assert (dataset.part, dataset.expected) == ("train", 44320)
    # In the folders that hold both, what lacks its partner fails when it is read, by name.
    image(tmp_path / "cascade_psp" / "ecssd" / "alone.jpg")
    [alone] = [sample for sample in open_dataset(tmp_path, "hqseg44k-train").samples if sample.name == "ECSSD/alone"]
    with pytest.raises(DataError, match=r"expected a mask at .*ecssd/alone\.png"):
        alone.read()


def test_hqseg44k_names_the_missing_part(tmp_path):
    for _, images, masks, _ in datasets._HQSEG_VAL[:3]:
        (tmp_path / images).mkdir(parents=True)
        (tmp_path / masks).mkdir(parents=True)
    with pytest.raises(DataError, match="thin_object_detection/HRSOD/images"):
        open_dataset(tmp_path, "hqseg44k")


def test_sbd_lists_every_instance(tmp_path):
    instances = np.zeros(SIZE, np.uint8)
    instances[:4, :5], instances[6:, 8:] = 1, 2
    image(tmp_path / "img" / "2008_1.jpg")
    (tmp_path / "inst").mkdir()
    savemat(tmp_path / "inst" / "2008_1.mat", {"GTinst": {"Segmentation": instances}})
    (tmp_path / "inst" / "2008_2.mat").write_bytes(b"broken")
    (tmp_path / "val.txt").write_text("2008_1\n2008_2\n")
    dataset = open_dataset(tmp_path, "sbd")
    assert [sample.name for sample in dataset.samples] == ["2008_1_01", "2008_1_02", "2008_2_01"]
    assert np.array_equal(dataset.samples[1].read()[1] == 1, instances == 2)
    with pytest.raises(DataError, match=r"2008_2\.mat"):
        dataset.samples[2].read_truth()
    (tmp_path / "val.txt").unlink()
    with pytest.raises(DataError, match=r"expected a file val\.txt"):
        open_dataset(tmp_path, "sbd")
    (tmp_path / "train.txt").write_text("2008_1\n")
    train = open_dataset(tmp_path, "sbd-train")
    assert ([sample.name for sample in train.samples], train.part, train.expected) == (["2008_1_01", "2008_1_02"], "train", 20172)


@pytest.mark.parametrize("part", ["trainval", "test"])
def test_oxford_pet(tmp_path, part):
    image(tmp_path / "images" / "cat_1.jpg")
    write(tmp_path / "annotations" / "trimaps" / "cat_1.png", np.full(SIZE, 3, np.uint8))
    with pytest.raises(DataError, match=f"expected a file annotations/{part}.txt"):
        open_dataset(tmp_path, f"oxford-pet-{part}")
    (tmp_path / "annotations" / f"{part}.txt").write_text("# header\ncat_1 1 1 1\n")
    dataset = open_dataset(tmp_path, f"oxford-pet-{part}")
    assert (dataset.samples[0].name, dataset.expected) == ("cat_1", EXPECTED[f"oxford-pet-{part}"])
    assert (dataset.samples[0].read()[1] == -1).all()


def test_voc_as_classes_and_as_objects(tmp_path):
    image(tmp_path / "JPEGImages" / "2007_1.jpg")
    labels = np.zeros(SIZE, np.uint8)
    labels[:3], labels[3], labels[4:] = 1, 255, 2
    for kind in ("SegmentationClass", "SegmentationObject"):
        path = tmp_path / kind / "2007_1.png"
        path.parent.mkdir()
        palette = Image.fromarray(labels)
        palette.putpalette(list(range(256)) * 3)
        palette.save(path)
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("2007_1\n")
    classes = open_dataset(tmp_path, "voc", CLASS_SETS)
    assert np.array_equal(classes.samples[0].read()[1], labels)
    objects = open_dataset(tmp_path, "voc-objects")
    assert [sample.name for sample in objects.samples] == ["2007_1_01", "2007_1_02"]
    truth = objects.samples[1].read()[1]
    assert (truth[4:] == 1).all()
    assert (truth[3] == -1).all()
    assert (truth[:3] == 0).all()


def test_ade20k(tmp_path):
    image(tmp_path / "images" / "validation" / "ADE_val_1.jpg")
    write(tmp_path / "annotations" / "validation" / "ADE_val_1.png", np.full(SIZE, 5, np.uint8))
    dataset = open_dataset(tmp_path, "ade20k", CLASS_SETS)
    assert (dataset.samples[0].read()[1] == 4).all()
    assert dataset.expected == 2000


def test_pascal_context(tmp_path):
    image(tmp_path / "JPEGImages" / "2008_1.jpg")
    write(tmp_path / "SegmentationClassContext" / "2008_1.png", np.full(SIZE, 59, np.uint8))
    with pytest.raises(DataError, match=r"ImageSets/SegmentationContext/val\.txt"):
        open_dataset(tmp_path, "context", CLASS_SETS)
    listed = tmp_path / "ImageSets" / "SegmentationContext" / "val.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("2008_1\n")
    dataset = open_dataset(tmp_path, "context", CLASS_SETS)
    assert (dataset.samples[0].read()[1] == 59).all()
    assert (dataset.expected, len(dataset.warnings)) == (5104, 1)


def test_cityscapes_pairs_images_with_label_ids_city_by_city(tmp_path):
    for city, value in (("bonn", 26), ("ulm", 9)):
        image(tmp_path / "leftImg8bit" / "val" / city / f"{city}_1_leftImg8bit.png")
        write(tmp_path / "gtFine" / "val" / city / f"{city}_1_gtFine_labelIds.png", np.full(SIZE, value, np.uint8))
    dataset = open_dataset(tmp_path, "cityscapes", CLASS_SETS)
    assert [sample.name for sample in dataset.samples] == ["bonn_1", "ulm_1"]
    assert (dataset.samples[0].read()[1] == 13).all()  # car
    assert (dataset.samples[1].read()[1] == truths.IGNORED).all()  # parking is not evaluated
    assert dataset.expected == 500


@pytest.mark.parametrize(("name", "expected"), [("coco-stuff", [0, 170, truths.IGNORED]), ("coco-object", [1, 0, 0])])
def test_cocos_pixel_maps(tmp_path, name, expected):
    image(tmp_path / "images" / "val2017" / "1.jpg", (2, 3))
    with pytest.raises(DataError, match="annotations/val2017"):
        open_dataset(tmp_path, name, CLASS_SETS)
    write(tmp_path / "annotations" / "val2017" / "1.png", np.array([[0, 181, 255]] * 2, np.uint8))  # person, wood, unlabelled
    dataset = open_dataset(tmp_path, name, CLASS_SETS)
    assert dataset.samples[0].read_truth().tolist() == [expected] * 2
    assert dataset.expected == 5000


def test_a_folder_of_class_maps(tmp_path):
    image(tmp_path / "images" / "a.jpg")
    write(tmp_path / "labels" / "a.png", np.full(SIZE, 255, np.uint8))
    assert (open_dataset(tmp_path, "folder", CLASS_SETS).samples[0].read()[1] == truths.IGNORED).all()


def coco_file(path: Path) -> None:
    image(path.parent / "images" / "1.jpg")
    runs = {"size": list(SIZE), "counts": [0, 10, 130]}
    annotations = [
        {"id": 7, "image_id": 1, "iscrowd": 0, "segmentation": [[3, 2, 9, 2, 9, 6, 3, 6]]},
        {"id": 8, "image_id": 1, "iscrowd": 1, "segmentation": runs},
        {"id": 9, "image_id": 1, "segmentation": runs},
        {"id": 10, "image_id": 1, "segmentation": []},
    ]
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": "1.jpg", "height": SIZE[0], "width": SIZE[1]}], "annotations": annotations}))


def test_coco_files_give_one_sample_per_annotation_that_is_no_crowd(tmp_path):
    coco_file(tmp_path / "a.json")
    dataset = open_dataset(tmp_path / "a.json")
    assert [sample.name for sample in dataset.samples] == ["1_7", "1_9", "1_10"]
    square = np.zeros(SIZE, bool)
    square[2:6, 3:9] = True
    assert np.array_equal(dataset.samples[0].read()[1] == 1, square)
    runs = np.zeros(SIZE, bool)
    runs[:, 0] = True
    assert np.array_equal(dataset.samples[1].read()[1] == 1, runs)
    with pytest.raises(DataError, match="cannot be drawn"):
        dataset.samples[2].read()


@pytest.mark.parametrize("content", ["{", "[]", '{"images": [{"id": 1}]}', '{"images": [], "annotations": []}'])
def test_files_that_are_no_coco_are_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match="expected"):
        open_dataset(tmp_path / "a.json")


def test_files_without_a_partner_become_samples_that_fail_by_name(tmp_path):
    image(tmp_path / "images" / "a.jpg")
    mask(tmp_path / "masks" / "b.png")
    dataset = open_dataset(tmp_path, "folder")
    assert [sample.name for sample in dataset.samples] == ["a", "b"]
    with pytest.raises(DataError, match=r"a: expected a mask at .*masks/a\.png, which does not exist"):
        dataset.samples[0].read()
    with pytest.raises(DataError, match=r"b: expected an image at .*images/b\.jpg, which does not exist"):
        dataset.samples[1].read()


def test_images_whose_stems_collide_keep_their_full_name(tmp_path):
    image(tmp_path / "images" / "a.jpg")
    image(tmp_path / "images" / "a.png")
    mask(tmp_path / "masks" / "a.png")
    names = [sample.name for sample in open_dataset(tmp_path, "folder").samples]
    assert len(set(names)) == len(names) == 3


def test_a_mask_of_another_size_and_broken_files_are_told_apart(tmp_path):
    image(tmp_path / "images" / "a.jpg", size=(8, 9))
    mask(tmp_path / "masks" / "a.png")
    (tmp_path / "images" / "b.jpg").write_bytes(b"\xff\xd8broken")
    mask(tmp_path / "masks" / "b.png")
    image(tmp_path / "images" / "c.jpg")
    (tmp_path / "masks" / "c.png").write_bytes(b"broken")
    samples = open_dataset(tmp_path, "folder").samples
    with pytest.raises(DataError, match="a: expected a mask of the image's size 9 x 8, got 14 x 10"):
        samples[0].read()
    with pytest.raises(ImageError, match=r"b\.jpg"):
        samples[1].read()
    with pytest.raises(DataError, match=r"mask .*c\.png"):
        samples[2].read()


def test_names_are_guessed_from_folders():
    guesses = {"GrabCut": "grabcut", "DAVIS345": "davis", "COCO_MVal": "coco_mval", "DUTS-TE": "duts-te", "holiday": "folder", "ann.json": "coco"}
    assert {word: guess_name(Path("/x") / word) for word in guesses} == guesses
    with pytest.raises(ConfigError, match="--dataset"):
        guess_name(Path("/x/holiday"), {"voc": CLASS_SETS["voc"]})


def test_unknown_names_and_missing_folders_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="got 'grapcut'"):
        open_dataset(tmp_path, "grapcut")
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(tmp_path / "none", "grabcut")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        open_dataset(tmp_path / "file", "grabcut")


def test_samples_travel_to_workers(tmp_path):
    coco_file(tmp_path / "a.json")
    dataset = open_dataset(tmp_path / "a.json")
    again = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(again.samples[0].read()[1], dataset.samples[0].read()[1])


def test_the_file_list_hash_follows_names_and_sizes_but_not_the_place(tmp_path):
    for place in ("one", "two"):
        image(tmp_path / place / "images" / "a.jpg")
        mask(tmp_path / place / "masks" / "a.png")
    one, two = (open_dataset(tmp_path / place, "folder").file_list_hash() for place in ("one", "two"))
    assert one == two
    (tmp_path / "two" / "masks" / "a.png").write_bytes((tmp_path / "two" / "masks" / "a.png").read_bytes() + b"x")
    assert open_dataset(tmp_path / "two", "folder").file_list_hash() != one


def test_a_split_keeps_the_listed_images(tmp_path):
    for stem in "abc":
        image(tmp_path / "images" / f"{stem}.jpg")
        mask(tmp_path / "masks" / f"{stem}.png")
    dataset = open_dataset(tmp_path, "folder")
    part = split(dataset, ["c", "a"], "test")
    assert [sample.name for sample in part.samples] == ["a", "c"]
    assert part.name.endswith("-test")
    with pytest.raises(DataError, match="missing: d"):
        split(dataset, ["a", "d"], "test")


@pytest.mark.parametrize(("name", "count"), [("grabcut", 50), ("berkeley", 100), ("coco_mval", 800), ("human_seg", 290), ("ccp", 1004)])
def test_the_image_sets_beside_the_checkout_load_without_warnings(shared, name, count):
    dataset = open_dataset(shared / "data" / name)
    assert len(dataset) == count
    assert dataset.warnings == ()
    for sample in dataset.samples[::97]:
        assert (sample.read()[1] == 1).any(), sample.name


def test_the_splits_beside_the_checkout_cover_their_sets(shared):
    dataset = open_dataset(shared / "data" / "coco_mval")
    parts = [split(dataset, (shared / "data" / "splits" / f"coco_mval_{part}.txt").read_text().split(), part) for part in ("train", "val", "test")]
    assert sum(len(part) for part in parts) == 800


def test_odd_rows_of_a_coco_file_are_said_and_cost_no_other(tmp_path):
    """A row without a picture's size used to end everything with a KeyError; a mask whose run lengths wrap round ended the process."""
    image(tmp_path / "a.jpg")
    height, width = np.asarray(Image.open(tmp_path / "a.jpg")).shape[:2]
    square = [[1, 1, 4, 1, 4, 4, 1, 4]]
    images = [
        {"id": 1, "file_name": "a.jpg", "height": height, "width": width},
        {"id": 2, "file_name": "b.jpg"},
        {"id": 3, "file_name": ["x"], "height": 2, "width": 2},
    ]
    rows = [{"id": k, "image_id": 1, "category_id": 1, "segmentation": square} for k in range(4)]
    rows[1]["image_id"], rows[2]["segmentation"] = 2, {"size": [height, width], "counts": [2**62] * 4 + [height * width]}
    rows[3]["segmentation"] = [[0, 0, 1e9, 0, 0, 1e9]]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"images": images, "annotations": [*rows, None], "categories": []}))
    dataset = open_dataset(path)
    assert len(dataset.warnings) == 4
    assert "rows.json: left out: image 2: expected something as 'height'" in dataset.warnings[0]
    first, *bad = dataset.samples
    assert (first.read_truth() == 1).any()
    for sample in bad:
        with pytest.raises(DataError, match="cannot be drawn"):
            sample.read_truth()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"[" * 10**5, b'{"images": {}, "annotations": []}', b'{"images": [3], "annotations": []}', b"\xff"])
def test_files_that_are_no_coco_files_are_refused_by_name(content, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json: expected a COCO file with images and annotations") as error:
        open_dataset(tmp_path / "a.json")
    assert str(error.value).isprintable()


@pytest.mark.parametrize("line", ["\u00b2 skin", "9" * 5000 + " skin", "1 \x1b[2J", "x" * 500])
def test_odd_lines_of_a_class_list_are_names_or_refused(line, tmp_path):
    (tmp_path / "classes.txt").write_text(f"hair\n{line}\n")
    try:
        assert len(read_class_names(tmp_path / "classes.txt")) == 2
    except DataError as error:
        message = str(error)
        assert message.isprintable()
        assert len(message) < 1000
