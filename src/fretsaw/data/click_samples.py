"""Objects to click while training: one photo and one object's mask each, from labelled sets and from a teacher's masks on photos without labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from fretsaw.data import teacher_masks
from fretsaw.data.datasets import open_dataset, split
from fretsaw.data.layouts import pair, read_list, require_file, require_folder
from fretsaw.data.samples import Sample
from fretsaw.data.truths import IGNORED, class_ids
from fretsaw.errors import ConfigError, DataError

SINGLE = ("human_seg", "weizmann_horses", "msrc_cows", "bags", "coco_person")
"""Sets of `images` and `masks` with one object a photo."""

LABELLED = ("coco_mval", "ccp", *SINGLE, "voc_animals", "voc_animals_fine", "coco_multi")
"""Sets that `labelled_objects` knows."""

FINE_PARTS = ("voc_train", "voc_val")
"""Of voc_animals the parts, by its `info.json`, whose masks are VOC's own; those of SBD are coarser."""

SMALLEST_REGION = 400, 0.003
"""A connected region of a class is an object if it has so many pixels and such a share of the photo."""

SMALLEST_INSTANCE = 150
"""Pixels of an instance, in its own photo, below which nobody would cut it out by clicks."""

CLASSES_PER_PHOTO = 3
"""Of a photo with class ids, so many of its largest classes are objects by themselves, beside all classes together."""


@dataclass(frozen=True)
class Photo:
    """A photo and the objects in it.

    Attributes:
        path: The image file.
        key: Names the file's content, for caches.
        objects: One sample each; empty for a photo whose objects a teacher has yet to find.
    """

    path: Path
    key: str
    objects: tuple[Sample, ...] = ()


def labelled_objects(data: Path, name: str, part: str) -> list[Sample]:
    """Return the objects of one part of a labelled set.

    Args:
        data: Folder that holds the sets, each in a folder of its name, and `splits/<name>_<part>.txt`, stems of images.
        name: One of `LABELLED`. Of "ccp", whose masks hold classes, the person (all classes) and the largest classes by themselves; of "voc_animals" every
            connected region of a class ("voc_animals_fine": of the photos with fine masks alone); of "coco_multi" every instance.
        part: "train", "val" or "test".

    Raises:
        ConfigError: If the name is unknown.
        DataError: If a folder or the list is missing, or an image of the list.
    """
    if name not in LABELLED:
        raise ConfigError(f"expected a labelled set out of {', '.join(LABELLED)}; got {name!r}")
    folder = data / name.removesuffix("_fine")
    stems = set(read_list(require_file(data, f"splits/{folder.name}_{part}.txt")))
    if name == "coco_mval" or name in SINGLE:
        return list(split(open_dataset(folder, "coco_mval" if name == "coco_mval" else "folder"), stems, part).samples)
    if name == "coco_multi":
        return _instances(folder, stems)
    maps = [sample for sample in pair(require_folder(folder, "images"), require_folder(folder, "masks"), any_class) if sample.image.stem in stems]
    if name != "ccp":
        fine = _fine_stems(folder) if name.endswith("_fine") else stems
        return [region for sample in maps if sample.image.stem in fine for region in _regions(sample)]
    objects = list(maps)
    for sample in maps:
        objects += [Sample(f"{sample.name}_{rank}", sample.image, sample.mask, partial(large_class, rank=rank)) for rank in range(CLASSES_PER_PHOTO)]
    return objects


def any_class(path: Path) -> np.ndarray:
    """Return what has any class but 0 in a map of class ids: (H, W) int8, 1 object, 0 background, -1 ignored."""
    labels = class_ids(path)
    return np.where(labels == IGNORED, -1, labels > 0).astype(np.int8)


def large_class(path: Path, rank: int) -> np.ndarray:
    """Return one class of a map of class ids, the largest but `rank`; (H, W) int8, all 0 where there are not so many classes."""
    labels = class_ids(path)
    ids, counts = np.unique(labels[(labels != 0) & (labels != IGNORED)], return_counts=True)
    if rank >= len(ids):
        return np.zeros(labels.shape, np.int8)
    chosen = ids[np.argsort(-counts, kind="stable")[rank]]
    return np.where(labels == IGNORED, -1, labels == chosen).astype(np.int8)


def class_regions(labels: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Return the connected regions of classes that are large enough to be objects (`SMALLEST_REGION`), by class, then from the top.

    Args:
        labels: (H, W) class ids, 0 none, 255 ignored.

    Returns:
        (class id, (H, W) bool) each.
    """
    least = max(SMALLEST_REGION[0], SMALLEST_REGION[1] * labels.size)
    found = []
    for index in np.unique(labels[(labels != 0) & (labels != IGNORED)]):
        _, pieces, stats, _ = cv2.connectedComponentsWithStats((labels == index).astype(np.uint8), connectivity=8)
        found += [(int(index), pieces == piece) for piece in range(1, len(stats)) if stats[piece, cv2.CC_STAT_AREA] >= least]
    return found


def class_region(path: Path, index: int) -> np.ndarray:
    """Return one of `class_regions`: (H, W) int8, 1 object, 0 background, -1 ignored; small pieces of its class, which may belong to it, are ignored."""
    labels = class_ids(path)
    regions = class_regions(labels)
    name, mask = regions[index]
    truth = np.where((labels == IGNORED) | (labels == name), -1, 0).astype(np.int8)
    for other, region in regions:
        if other == name:
            truth[region] = 0
    truth[mask] = 1
    return truth


def instance(path: Path, index: int) -> np.ndarray:
    """Return one of a map's numbered instances: (H, W) int8; crowds, 255 in the class map of the same name in `masks` beside, are ignored."""
    numbers, crowd = class_ids(path), class_ids(path.parent.parent / "masks" / path.name) == IGNORED
    if numbers.shape != crowd.shape:
        raise DataError(
            f"{path}: expected the size of the class map in `masks`, {crowd.shape[1]} x {crowd.shape[0]}, got {numbers.shape[1]} x {numbers.shape[0]}"
        )
    return np.where(numbers == index, 1, np.where(crowd, -1, 0)).astype(np.int8)


def _regions(sample: Sample) -> list[Sample]:
    count = len(class_regions(class_ids(sample.mask)))
    return [Sample(f"{sample.name}_{i}", sample.image, sample.mask, partial(class_region, index=i)) for i in range(count)]


def _instances(folder: Path, stems: set[str]) -> list[Sample]:
    objects = []
    for sample in pair(require_folder(folder, "images"), require_folder(folder, "instances"), class_ids):
        if sample.image.stem in stems:
            ids, counts = np.unique(class_ids(sample.mask), return_counts=True)
            large = [int(i) for i, count in zip(ids, counts, strict=True) if i != 0 and count >= SMALLEST_INSTANCE]
            objects += [Sample(f"{sample.name}_{i:02d}", sample.image, sample.mask, partial(instance, index=i)) for i in large]
    return objects


def _fine_stems(folder: Path) -> set[str]:
    path = require_file(folder, "info.json")
    try:
        return {stem for stem, facts in json.loads(path.read_text(encoding="utf-8")).items() if facts["part"] in FINE_PARTS}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f'expected {{stem: {{"part": ...}}}} in {path}, got a file that cannot be used: {error!r}') from error


def photos_of(samples: Iterable[Sample]) -> list[Photo]:
    """Group samples by their photo, in the order in which photos first appear."""
    grouped: dict[Path, list[Sample]] = {}
    for sample in samples:
        grouped.setdefault(sample.image, []).append(sample)
    return [Photo(path, content_key(path), tuple(objects)) for path, objects in grouped.items()]


def unlabelled_photos(paths: Iterable[Path]) -> list[Photo]:
    """Return photos without objects; `with_teacher_masks` gives them some."""
    return [Photo(path, content_key(path)) for path in paths]


def with_teacher_masks(photos: Sequence[Photo], folder: Path) -> list[Photo]:
    """Return photos whose empty lists of objects are filled from a folder of teacher masks; those that have none there yet are left as they are."""
    return [photo if photo.objects else Photo(photo.path, photo.key, tuple(teacher_masks.objects_of(photo.path, photo.key, folder))) for photo in photos]


def content_key(path: Path) -> str:
    """Return a name for a file's content, 24 characters."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:24]


def interleaved(groups: Sequence[Sequence[Photo]], seed: int) -> list[Photo]:
    """Return the photos of several groups, each shuffled, merged so that any beginning of the list holds about the same share of every group."""
    rng = np.random.default_rng(seed)
    placed = []
    for group in groups:
        order = rng.permutation(len(group))
        placed += [((rank + 0.5) / len(group), group[index]) for rank, index in enumerate(order)]
    return [photo for _, photo in sorted(placed, key=lambda pair: pair[0])]
