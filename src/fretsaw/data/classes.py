"""The class lists of semantic data sets, and how their raw label files are numbered.

Each list is a text file beside this module, one class a line in the order of the data set's class ids; words after "; " are other names of the same class.
Names are those of the data sets' own definitions, written as English where these run words together.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

import numpy as np

from fretsaw.errors import ConfigError
from fretsaw.interchange.classes import ClassList

CLASS_LISTS = ("voc20", "cityscapes", "context59", "ade20k", "coco80", "coco_stuff")
IGNORED = 255

CITYSCAPES_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The label id, in Cityscapes' `labelIds` files, of each of its 19 evaluated classes in the order of the list."""

COCO_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
"""Category ids of COCO that no image carries; the rest of 1 .. 182 are COCO-Stuff's 171 classes in the order of the list."""


@lru_cache(maxsize=len(CLASS_LISTS))
def class_words(name: str) -> tuple[tuple[str, ...], ...]:
    """Return every class's words, its name first.

    Raises:
        ConfigError: If there is no list of this name.
    """
    if name not in CLASS_LISTS:
        raise ConfigError(f"expected one of the class lists {', '.join(CLASS_LISTS)}, got {name!r}")
    text = resources.files("fretsaw.data").joinpath("class_lists", f"{name}.txt").read_text(encoding="utf-8")
    return tuple(tuple(word.strip() for word in line.split(";")) for line in text.splitlines() if line.strip())


def class_names(name: str) -> tuple[str, ...]:
    """Return the names of a list's classes.

    Raises:
        ConfigError: If there is no list of this name.
    """
    return class_list(name).names


def class_list(name: str) -> ClassList:
    """Return a list's classes; their ids are their places in it, from 0.

    Raises:
        ConfigError: If there is no list of this name.
    """
    return ClassList.in_order(words[0] for words in class_words(name))


def cityscapes_classes(label_ids: np.ndarray) -> np.ndarray:
    """Return class ids 0 .. 18, 255 where nothing is evaluated, from Cityscapes' (H, W) label ids."""
    return _renumber(label_ids, CITYSCAPES_LABEL_IDS)


def coco_stuff_classes(pixel_values: np.ndarray) -> np.ndarray:
    """Return class ids 0 .. 170, 255 for unlabelled, from COCO-Stuff's (H, W) pixel values, which are category ids minus 1."""
    return _renumber(pixel_values, tuple(number - 1 for number in range(1, 183) if number not in COCO_UNUSED_IDS))


def coco_object_classes(pixel_values: np.ndarray) -> np.ndarray:
    """Return class ids 0 .. 80 from COCO-Stuff's (H, W) pixel values: 0 for whatever is no object, 1 .. 80 for COCO's objects."""
    things = tuple(number - 1 for number in range(1, 92) if number not in COCO_UNUSED_IDS)
    classes = _renumber(pixel_values, things)
    return np.where(classes == IGNORED, 0, classes + 1).astype(np.int32)


def _renumber(values: np.ndarray, raw_ids: tuple[int, ...]) -> np.ndarray:
    table = np.full(256, IGNORED, np.int32)
    table[list(raw_ids)] = np.arange(len(raw_ids))
    return table[np.asarray(values).astype(np.uint8)]
