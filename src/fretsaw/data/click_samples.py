"""Objects to click while training: one photo and one object's mask each, from labelled sets and from a teacher's masks on photos without labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fretsaw.data import teacher_masks
from fretsaw.data.datasets import open_dataset, split
from fretsaw.data.layouts import pair, read_list, require_file, require_folder
from fretsaw.data.samples import Sample
from fretsaw.data.truths import IGNORED, class_ids
from fretsaw.errors import ConfigError

LABELLED = ("coco_mval", "ccp", "human_seg")
"""Sets that `labelled_objects` knows."""

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
        name: One of `LABELLED`. Of "ccp", whose masks hold classes, the person (all classes) and the largest classes by themselves.
        part: "train", "val" or "test".

    Raises:
        ConfigError: If the name is unknown.
        DataError: If a folder or the list is missing, or an image of the list.
    """
    if name not in LABELLED:
        raise ConfigError(f"expected a labelled set out of {', '.join(LABELLED)}; got {name!r}")
    stems = set(read_list(require_file(data, f"splits/{name}_{part}.txt")))
    if name != "ccp":
        return list(split(open_dataset(data / name, "coco_mval" if name == "coco_mval" else "folder"), stems, part).samples)
    maps = [sample for sample in pair(require_folder(data / name, "images"), require_folder(data / name, "masks"), any_class) if sample.image.stem in stems]
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
