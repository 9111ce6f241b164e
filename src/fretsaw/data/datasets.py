"""The image sets with objects that papers measure on, as they lie on disk when unpacked; those with class maps are in `class_sets.py`.

Each loader checks the layout first and names the folder that is missing. `open_dataset` finds the loader by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fretsaw.data import truths
from fretsaw.data.layouts import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    after_underscore,
    counted,
    pair,
    pair_beside,
    read_list,
    require_file,
    require_folder,
    suffix_letter,
)
from fretsaw.data.parts import known_name, part_by_list, part_in, require_part, stated_part
from fretsaw.data.samples import Dataset, Reader, Sample
from fretsaw.errors import ConfigError, DataError
from fretsaw.interchange.names import picture_name
from fretsaw.interchange.pictures import checked_size
from fretsaw.interchange.untrusted import LeftOut, boundary, field, parse_json, whole_number

Loader = Callable[[Path], Dataset]

_HQSEG_VAL = (
    ("DIS5K-VD", "DIS5K/DIS-VD/im", "DIS5K/DIS-VD/gt", 470),
    ("ThinObject5K-TE", "thin_object_detection/ThinObject5K/images_test", "thin_object_detection/ThinObject5K/masks_test", 500),
    ("COIFT", "thin_object_detection/COIFT/images", "thin_object_detection/COIFT/masks", 280),
    ("HRSOD", "thin_object_detection/HRSOD/images", "thin_object_detection/HRSOD/masks_max255", 287),
)


_HQSEG_TRAIN = (
    ("DIS5K-TR", "DIS5K/DIS-TR/im", "DIS5K/DIS-TR/gt", 3000),
    ("ThinObject5K-TR", "thin_object_detection/ThinObject5K/images_train", "thin_object_detection/ThinObject5K/masks_train", 4748),
    ("FSS", "cascade_psp/fss_all", "", 10000),
    ("DUTS-TR", "cascade_psp/DUTS-TR", "", 10553),
    ("DUTS-TE", "cascade_psp/DUTS-TE", "", 5019),
    ("ECSSD", "cascade_psp/ecssd", "", 1000),
    ("MSRA-10K", "cascade_psp/MSRA_10K", "", 10000),
)
"""As SAM-HQ's authors lay it out; where there is no folder of masks they lie beside the images."""


def grabcut(root: Path) -> Dataset:
    """GrabCut: 50 images, one object each."""
    images, masks = require_folder(root, "images", "data_GT"), require_folder(root, "masks", "boundary_GT")
    return counted("grabcut", root, pair(images, masks, truths.grabcut), 50)


def berkeley(root: Path) -> Dataset:
    """Berkeley: 100 objects in 96 images; masks `<image>a` and `<image>b` show two objects of one image."""
    images, masks = require_folder(root, "images"), require_folder(root, "masks")
    return counted("berkeley", root, pair(images, masks, truths.any_channel, suffix_letter), 100)


def davis(root: Path) -> Dataset:
    """DAVIS-345: 345 frames of DAVIS's videos, all objects of a frame as one."""
    images, masks = require_folder(root, "img", "images"), require_folder(root, "gt", "masks")
    return counted("davis", root, pair(images, masks, truths.any_channel, suffix_letter), 345)


def coco_mval(root: Path) -> Dataset:
    """COCO-MVal: 800 objects of COCO's validation part, 10 per class."""
    images, masks = require_folder(root, "img", "images"), require_folder(root, "gt", "masks")
    return counted("coco_mval", root, pair(images, masks, truths.any_channel, after_underscore), 800)


def sbd(root: Path, name: str = "sbd", listing: str = "val.txt", expected: int = 6671) -> Dataset:
    """SBD, test part: 6671 instances in 2857 images; or its train part, 20172 in 8498. Reads every instance map once to list the instances."""
    images, instances, listed = require_folder(root, "img"), require_folder(root, "inst"), require_file(root, listing)
    samples = []
    for stem in read_list(listed):
        path = instances / f"{stem}.mat"
        try:
            ids = [int(i) for i in np.unique(truths.sbd_instances(path)) if i != 0]
        except DataError:
            ids = [1]  # The sample fails when it is read, and the run names it.
        samples += [Sample(f"{stem}_{i:02d}", images / f"{stem}.jpg", path, partial(truths.sbd_object, index=i)) for i in ids]
    return counted(name, root, samples, expected)


def hqseg44k(root: Path, name: str = "hqseg44k", pieces: Sequence[tuple[str, str, str, int]] = _HQSEG_VAL) -> Dataset:
    """HQSeg-44K, validation part: DIS-VD 470, ThinObject-5K 500, COIFT 280, HRSOD 287, together 1537; or its train part, 44320 of seven sets."""
    places = [(piece, require_folder(root, images), require_folder(root, masks) if masks else None, count) for piece, images, masks, count in pieces]
    samples: list[Sample] = []
    warnings = []
    for piece, images, masks, count in places:
        prefix = f"{piece}/"
        found = pair(images, masks, truths.any_channel, prefix=prefix) if masks else pair_beside(images, truths.any_channel, prefix)
        if len(found) != count:
            warnings.append(f"{name}: expected {count} samples of {piece}, found {len(found)}")
        samples += found
    return counted(name, root, samples, sum(count for *_, count in pieces), warnings)


def dis5k(root: Path, part: str, expected: int) -> Dataset:
    """One part of DIS5K: DIS-TR, DIS-VD, DIS-TE1 to DIS-TE4, each with `im` and `gt`."""
    folder = root if root.name == part else require_folder(root, part)
    samples = pair(require_folder(folder, "im"), require_folder(folder, "gt"), truths.upper_half)
    return counted(part.lower().replace("dis-", "dis5k-"), root, samples, expected)


def cod10k(root: Path, part: str, expected: int) -> Dataset:
    """COD10K's camouflaged images: as published (`Train`, `Test` with `Image`, `GT_Object`) or in the usual bundle (`Imgs`, `GT`)."""
    folder = root if (root / "Imgs").is_dir() or (root / "Image").is_dir() else require_folder(root, part, "Imgs")
    images, masks = require_folder(folder, "Imgs", "Image"), require_folder(folder, "GT", "GT_Object")
    samples = [sample for sample in pair(images, masks, truths.upper_half) if "NonCAM" not in sample.name]
    return counted(f"cod10k-{part.lower()}", root, samples, expected)


def two_folders(root: Path, name: str, images: tuple[str, ...], masks: tuple[str, ...], reader: Reader, expected: int | None) -> Dataset:
    """A data set of one folder of images and one of masks with equal stems."""
    return counted(name, root, pair(require_folder(root, *images), require_folder(root, *masks), reader), expected)


def isic(root: Path, part: str, expected: int) -> Dataset:
    """ISIC 2018, task 1 (lesion boundaries): `<image>_segmentation.png` belongs to `<image>.jpg`."""
    images = require_folder(root, f"ISIC2018_Task1-2_{part}_Input")
    masks = require_folder(root, f"ISIC2018_Task1_{part}_GroundTruth")
    samples = pair(images, masks, truths.upper_half, lambda stem, _: stem.removesuffix("_segmentation"))
    return counted(f"isic-{part.lower()}", root, samples, expected)


def oxford_pet(root: Path, part: str, expected: int) -> Dataset:
    """Oxford-IIIT Pet: animal against background; the edge between them is not judged."""
    images, masks, listed = require_folder(root, "images"), require_folder(root, "annotations/trimaps"), require_file(root, f"annotations/{part}.txt")
    samples = [Sample(stem, images / f"{stem}.jpg", masks / f"{stem}.png", truths.trimap) for stem in read_list(listed)]
    return counted(f"oxford-pet-{part}", root, samples, expected)


def voc_objects(root: Path) -> Dataset:
    """PASCAL VOC 2012, validation part, every instance by itself: RITM counts 3417, and leaves some out by a list of its own, so the number is not checked."""
    images, masks = require_folder(root, "JPEGImages"), require_folder(root, "SegmentationObject")
    samples = []
    for stem in read_list(require_file(root, "ImageSets/Segmentation/val.txt")):
        path = masks / f"{stem}.png"
        try:
            ids = [int(i) for i in np.unique(truths.class_ids(path)) if i not in (0, truths.IGNORED)]
        except DataError:
            ids = [1]  # The sample fails when it is read, and the run names it.
        samples += [Sample(f"{stem}_{i:02d}", images / f"{stem}.jpg", path, partial(truths.voc_object, index=i)) for i in ids]
    return counted("voc-objects", root, samples, None)


def folder(root: Path) -> Dataset:
    """A folder of one's own: `images` and `masks` (or `img`, `im` and `gt`) with equal stems, object where any channel is above 0."""
    images, masks = require_folder(root, *IMAGE_FOLDERS), require_folder(root, *MASK_FOLDERS)
    return counted(root.resolve().name, root, pair(images, masks, truths.any_channel), None)


def coco_json(path: Path) -> Dataset:
    """Every annotation of a COCO or LVIS file that is no crowd, by itself; the images lie beside the file, in `images`, or where COCO puts them (`../val2017`).

    Raises:
        DataError: If the file is no COCO file, or no folder holds its first image.
    """
    rows = coco_rows(path)
    place = coco_image_folder(path, [name for name, _ in rows.images.values()])
    samples = []
    for number, (name, size) in rows.images.items():
        for row in rows.annotations[number]:
            if not row.get("iscrowd"):
                reader = partial(truths.coco_object, segmentation=row.get("segmentation"), size=size)
                samples.append(Sample(f"{Path(name).stem}_{row.get('id')!s:.40}", place / name, path, reader))
    return counted(path.stem, path, samples, None, rows.warnings)


@dataclass(frozen=True)
class CocoRows:
    """What can be used of a COCO file that is measured on.

    Attributes:
        images: File name and size (H, W) by id.
        annotations: The rows of each image, by its id; a mask that cannot be drawn is a fault of its sample, which is named when it is read.
        warnings: One for each row that cannot be used, up to ten, and how many more there are.
    """

    images: Mapping[int, tuple[str, tuple[int, int]]]
    annotations: Mapping[int, Sequence[dict[str, Any]]]
    warnings: Sequence[str]


def coco_rows(path: Path) -> CocoRows:
    """Read a COCO or LVIS file.

    Raises:
        DataError: If the file is no COCO file, or none of its images can be used.
    """
    expected = "a COCO file with images and annotations"
    images: dict[int, tuple[str, tuple[int, int]]] = {}
    annotations: dict[int, list[dict[str, Any]]] = {}
    left = LeftOut()
    with boundary(str(path), expected):
        content = parse_json(path.read_bytes(), left)
        listed, rows = (field(content, key, list, f"expected {expected}") for key in ("images", "annotations"))
        for number, image in enumerate(listed, 1):
            with left.row(f"image {number}", "an image"):
                identity = whole_number(field(image, "id", object), "an id")
                size = checked_size(field(image, "height", object), field(image, "width", object))
                images[identity] = picture_name(_file_name(image), f"image {number}"), size
                annotations[identity] = []
        left.require_some(expected)
        for number, row in enumerate(rows, 1):
            with left.row(f"annotation {number}", "an annotation"):
                identity = whole_number(field(row, "image_id", object), "an image's id")
                if identity not in annotations:
                    raise DataError(f"expected the id of one of the images, got {identity}")
                annotations[identity].append(row)
    said = [f"{path.name}: left out: {sentence}" for sentence in left.sentences[:10]]
    more = [f"{path.name}: left out: {len(left.sentences) - 10} more"] if len(left.sentences) > 10 else []
    return CocoRows(images, annotations, (*said, *more))


def _file_name(image: dict[str, Any]) -> Any:
    """Return where a COCO file says an image lies; LVIS names an address instead, whose last two parts are COCO's folder and file."""
    if "file_name" in image:
        return image["file_name"]
    return "/".join(field(image, "coco_url", str).split("/")[-2:])


def coco_image_folder(path: Path, names: Iterable[str]) -> Path:
    """Return the folder that holds the images of a COCO file.

    Raises:
        DataError: If no place that is looked at holds one of them.
    """
    part = path.stem.removeprefix("instances_")
    beside, above = path.parent, path.parent.parent
    places = [beside, above, beside / "images", above / part, above / "images", above / "images" / part]
    for name in names:
        for place in places:
            try:
                if (place / name).is_file():
                    return place
            except (OSError, ValueError):  # a name that no file can have
                continue
    raise DataError(f"expected the images of {path} in one of {', '.join(dict.fromkeys(map(str, places)))}; none is there")


OBJECT_SETS: dict[str, Loader] = {
    "grabcut": grabcut,
    "berkeley": berkeley,
    "davis": davis,
    "sbd": sbd,
    "sbd-train": partial(sbd, name="sbd-train", listing="train.txt", expected=20172),
    "coco_mval": coco_mval,
    "hqseg44k": hqseg44k,
    "hqseg44k-train": partial(hqseg44k, name="hqseg44k-train", pieces=_HQSEG_TRAIN),
    "dis5k-tr": partial(dis5k, part="DIS-TR", expected=3000),
    "dis5k-vd": partial(dis5k, part="DIS-VD", expected=470),
    "dis5k-te1": partial(dis5k, part="DIS-TE1", expected=500),
    "dis5k-te2": partial(dis5k, part="DIS-TE2", expected=500),
    "dis5k-te3": partial(dis5k, part="DIS-TE3", expected=500),
    "dis5k-te4": partial(dis5k, part="DIS-TE4", expected=500),
    "cod10k-train": partial(cod10k, part="Train", expected=3040),
    "cod10k-test": partial(cod10k, part="Test", expected=2026),
    "nc4k": partial(two_folders, name="nc4k", images=("Imgs",), masks=("GT",), reader=truths.upper_half, expected=4121),
    "duts-tr": partial(two_folders, name="duts-tr", images=("DUTS-TR-Image",), masks=("DUTS-TR-Mask",), reader=truths.upper_half, expected=10553),
    "duts-te": partial(two_folders, name="duts-te", images=("DUTS-TE-Image",), masks=("DUTS-TE-Mask",), reader=truths.upper_half, expected=5019),
    "ecssd": partial(two_folders, name="ecssd", images=("images",), masks=("ground_truth_mask",), reader=truths.upper_half, expected=1000),
    "isic-train": partial(isic, part="Training", expected=2594),
    "isic-val": partial(isic, part="Validation", expected=100),
    "isic-test": partial(isic, part="Test", expected=1000),
    "oxford-pet-trainval": partial(oxford_pet, part="trainval", expected=3680),
    "oxford-pet-test": partial(oxford_pet, part="test", expected=3669),
    "voc-objects": voc_objects,
    "coco": coco_json,
    "folder": folder,
}
"""Data sets whose truth is one object a sample, by name: for clicks and automatic masks."""


def open_part(place: Path | str, wanted: str = "train", allowed: Collection[str] = ()) -> Dataset:
    """Read a data set to learn from, or to choose by, see `open_dataset`.

    Args:
        place: Its folder, a COCO file, or "NAME:PATH".
        wanted: "train" or "val".
        allowed: Names of sets that are taken although they are another part.

    Raises:
        ConfigError: If it is another part that is not allowed; before it is read.
        DataError: As `open_dataset`.
    """
    name, path = check_part(place, wanted, allowed)
    return open_dataset(path, name)


def check_part(place: Path | str, wanted: str = "train", allowed: Collection[str] = ()) -> tuple[str, Path]:
    """Return the layout and the path of a data set that `open_part` takes, without reading it; for arguments and errors see there."""
    name, path = stated_name(place)
    name = name or guess_name(path)
    require_part(name, stated_part(name, path), wanted, allowed)
    return name, path


def open_dataset(path: Path | str, name: str | None = None, sets: dict[str, Loader] = OBJECT_SETS) -> Dataset:
    """Read a data set.

    Args:
        path: Its folder, or a COCO file; "NAME:PATH" names the layout as well.
        name: Which layout it has and how its masks are read; None: by the folder's name, "folder" for an unknown one, "coco" for a JSON file.
        sets: `OBJECT_SETS`, or `fretsaw.data.class_sets.CLASS_SETS`.

    Raises:
        ConfigError: If the name is unknown.
        DataError: If the layout is not as expected; the message names the folder that is missing.
    """
    stated, path = stated_name(path, sets)
    name = name or stated or guess_name(path, sets)
    if name not in sets:
        raise ConfigError(f"expected a data set out of {', '.join(sets)}; got {name!r}")
    if not path.exists():
        known = f"; NAME:PATH takes a NAME out of {', '.join(sets)}" if ":" in str(path) else ""
        raise DataError(f"expected a data set at {path}, which does not exist{known}")
    return replace(opened := sets[name](path), part=opened.part or stated_part(name, path))


def stated_name(place: Path | str, sets: dict[str, Loader] = OBJECT_SETS) -> tuple[str | None, Path]:
    """Return the layout and the path of "NAME:PATH"; the layout is None where the text does not begin with the name of one, or such a file exists."""
    name, colon, rest = str(place).partition(":")
    if colon and rest and name in sets and not Path(place).exists():
        return name, Path(rest)
    return None, Path(place)


def guess_name(path: Path, sets: dict[str, Loader] = OBJECT_SETS) -> str:
    """Return the data set that a folder's name stands for: "GrabCut", "DAVIS345" and "COCO_MVal" are found, whatever their case.

    Raises:
        ConfigError: If the name says nothing and there is no layout for plain folders.
    """
    if path.suffix.lower() == ".json" and "coco" in sets:
        return "coco"
    if (name := known_name(path.resolve().name, sets)) is not None:
        return name
    if "folder" in sets:
        return "folder"
    raise ConfigError(f"expected the name of the data set in {path} with --dataset, one of {', '.join(sets)}")


def split(dataset: Dataset, names: Iterable[str], label: str) -> Dataset:
    """Return the samples whose image is in a list, so that every model is measured on the same held-out part.

    Args:
        dataset: The whole.
        names: Stems of image files.
        label: Put behind the data set's name, "test"; where it names a part ("ccp_val"), the samples are that part.

    Raises:
        DataError: If a listed image is not in the data set.
    """
    wanted = set(names)
    samples = tuple(sample for sample in dataset.samples if sample.image.stem in wanted)
    missing = sorted(wanted - {sample.image.stem for sample in samples})
    if missing:
        raise DataError(f"expected every image of the list in {dataset.root}; missing: {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}")
    return replace(
        dataset, name=f"{dataset.name}-{label}", samples=samples, expected=None, warnings=(), part=part_by_list(dataset.name, dataset.part, part_in(label))
    )
