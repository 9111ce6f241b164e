"""Which part of the world's image sets is for what: learned from ("train"), chosen by ("val"), reported on ("test"). Recipes learn from "train" alone.

One table says it of every set that has a loader, one function refuses what is not "train" unless the set is allowed by name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from fretsaw.errors import ConfigError

PARTS = ("train", "val", "test")

SET_PARTS = {
    "grabcut": "test",
    "berkeley": "test",
    "davis": "test",
    "sbd": "test",  # its val.txt, which papers report on
    "sbd-train": "train",
    "coco_mval": "test",
    "hqseg44k": "val",
    "hqseg44k-train": "train",
    "dis5k-tr": "train",
    "dis5k-vd": "val",
    "dis5k-te1": "test",
    "dis5k-te2": "test",
    "dis5k-te3": "test",
    "dis5k-te4": "test",
    "cod10k-train": "train",
    "cod10k-test": "test",
    "nc4k": "test",
    "duts-tr": "train",
    "duts-te": "test",
    "ecssd": "test",
    "isic-train": "train",
    "isic-val": "val",
    "isic-test": "test",
    "oxford-pet-trainval": "train",
    "oxford-pet-test": "test",
    "voc-objects": "val",
    "voc": "val",
    "context": "val",
    "ade20k": "val",
    "cityscapes": "val",
    "coco-stuff": "val",
    "coco-object": "val",
}
"""The part that the loader of this name reads. Folders of one's own ("folder") and COCO files ("coco") are not here, see `stated_part`."""

DIVIDED = ("coco_mval",)
"""Of the sets that are held out as a whole, those that lists of their parts (`splits/<set>_train.txt`) divide; of the others no list makes a train part."""

_WORD = re.compile(r"(?<![a-z])(trainval|train|training|val|validation|test|testing)(?![a-z])")


def known_name(word: str, names: Iterable[str]) -> str | None:
    """Return the data set that a folder's name stands for: "GrabCut", "DAVIS345" and "COCO_MVal" are found, whatever their case; None if there is none."""
    plain = word.lower().replace("-", "").replace("_", "").removesuffix("345")
    return next((name for name in names if plain == name.replace("-", "").replace("_", "")), None)


def part_in(name: str) -> str | None:
    """Return the part that the name of a file or a list holds as a word, the last one: "instances_train2017", "ccp_val", "test"; None if it holds none."""
    found = _WORD.findall(name.lower())
    return next(part for part in PARTS if found[-1].startswith(part)) if found else None


def stated_part(name: str, place: Path) -> str | None:
    """Return which part a data set is.

    Args:
        name: The loader's.
        place: Its folder or file.

    Returns:
        "train", "val" or "test"; None for a folder of one's own, and for a COCO file whose name does not say it.
    """
    return part_in(place.stem) if name == "coco" else SET_PARTS.get(name)


def part_by_list(name: str, part: str | None, listed: str | None) -> str | None:
    """Return which part the listed images of a data set are.

    Args:
        name: Of the data set.
        part: What the whole set is.
        listed: What the list says that it lists, or None.
    """
    return listed if listed is not None and (part in (None, "train") or name in DIVIDED) else part


def require_part(name: str, part: str | None, wanted: str = "train", allowed: Collection[str] = ()) -> None:
    """Refuse to learn from what is held out, or to choose by what is learned from or reported on.

    Args:
        name: Of the data set, as its loader spells it.
        part: Which part it is; None where nothing states it, which is taken as the user's word that it is the wanted one.
        wanted: "train" or "val".
        allowed: Names of data sets that are taken all the same.

    Raises:
        ConfigError: If the part is another one and the name is not allowed.
    """
    if part in (None, wanted) or name in allowed:
        return
    family = [other for other, its in SET_PARTS.items() if its == wanted and other.split("-")[0] == name.split("-")[0]]
    advice = f"{' or '.join(family)} is one; " if family else ""
    raise ConfigError(f"expected a {wanted} part, got {name}, which is a {part} part; {advice}say allow_held_out={name} to take it all the same")


def require_train_photos(folder: Path, left_out: bool, allowed: Collection[str] = ()) -> None:
    """Refuse photos, without their masks, of a set that is held out: a folder of the set's name, or one inside of it.

    Args:
        folder: Of photos.
        left_out: Whether some of the folder's photos are left out by a list of held-out ones.
        allowed: As for `require_part`.

    Raises:
        ConfigError: If the set is no train part, nothing of it is left out and it is not allowed.
    """
    for place in (folder.resolve(), *folder.resolve().parents[:1]):
        if (name := known_name(place.name, SET_PARTS)) is not None:
            require_part(name, part_by_list(name, SET_PARTS[name], "train" if left_out else None), allowed=allowed)
