"""Folders of label maps whose many classes are grouped into a few, and folders of masks, with their parts for training, choosing and testing.

DATA/images/*.jpg   DATA/masks/*.png (or labels, annotations)   DATA/classes.txt: one class a line, "41 skin" or, in the order of the ids, "skin"
a file of groups:   skin: skin
                    shoes: boots, heels, sneakers
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from fretsaw.data.click_samples import any_class
from fretsaw.data.layouts import IMAGE_FOLDERS, LABEL_FOLDERS, MASK_FOLDERS, pair, read_list, require_folder
from fretsaw.data.parts import PARTS, SET_PARTS, known_name, part_by_list, require_part
from fretsaw.data.samples import Reader, Sample
from fretsaw.data.truths import IGNORED, any_channel, class_ids
from fretsaw.errors import ConfigError, DataError, shown
from fretsaw.interchange.names import class_name

HELD_OUT = {"val": 0.1, "test": 0.1}
"""Shares of a folder without lists of its parts."""

SHIPPED_GROUPS = ("ccp8",)
"""Files of groups that travel in the package: Clothing Co-Parsing's 59 classes as eight."""


@dataclass(frozen=True)
class ClassGroups:
    """A few classes made of many.

    Attributes:
        names: Of the classes, in the order of their ids.
        table: (256,) int32: the class of each stored id, 255 where nothing is to be learned.
    """

    names: tuple[str, ...]
    table: tuple[int, ...]

    def read(self, path: Path) -> np.ndarray:
        """Return the classes in a label file, (H, W) int32.

        Raises:
            DataError: If the file cannot be read or holds ids above 255.
        """
        ids = class_ids(path)
        if ids.size and int(ids.max()) >= len(self.table):
            raise DataError(f"{path}: expected class ids up to {len(self.table) - 1}, got {ids.max()}")
        return np.asarray(self.table, np.int32)[ids]


def read_class_names(path: Path) -> dict[str, int]:
    """Return {class name: id} from a list, one class a line: "41 skin", or names alone in the order of the ids.

    Raises:
        DataError: If the file cannot be read, is empty or names a class twice.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip() and not line.startswith("#")]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"expected a list of classes in {path}, got: {error}") from error
    found: dict[str, int] = {}
    for place, line in enumerate(lines):
        number, _, rest = line.partition(" ")
        # More digits than an id has are a name, like those that are digits to Unicode alone.
        numbered = number.isascii() and number.isdigit() and len(number) <= 4 and rest.strip()
        name, index = (rest, int(number)) if numbered else (line, place)
        name = class_name(name, f"{path}, class {place + 1}")
        if name in found or index > IGNORED:
            raise DataError(f"{path}: expected different classes with ids up to {IGNORED}, got {shown(line)}")
        found[name] = index
    if not found:
        raise DataError(f"expected classes in {path}, got an empty file")
    return found


def read_groups(source: str | Path, classes: Mapping[str, int]) -> ClassGroups:
    """Read a file of groups: a line "group: class, class" for each; a line without ":" is a class by itself.

    Classes that no group names are ignored in training and measurement.

    Args:
        source: A file, or a name of `SHIPPED_GROUPS`.
        classes: {class name: id} of the label maps.

    Raises:
        DataError: If the file cannot be read, or a class is unknown or comes twice.
    """
    try:
        if str(source) in SHIPPED_GROUPS and not Path(source).is_file():
            text = resources.files("fretsaw.data").joinpath("class_lists", f"{source}.txt").read_text(encoding="utf-8")
        else:
            text = Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"expected a file of groups at {source}, or one of {', '.join(SHIPPED_GROUPS)}; got: {error}") from error
    names: list[str] = []
    table = [IGNORED] * 256
    for line in text.splitlines():
        name, colon, members = (part.strip() for part in line.partition(":"))
        if not name or name.startswith("#"):
            continue
        name = class_name(name, f"{source}, group {len(names) + 1}")
        if name in names:
            raise DataError(f"{source}: expected different groups, got {shown(name)} twice")
        for member in [part.strip() for part in members.split(",") if part.strip()] if colon else [name]:
            if member not in classes:
                raise DataError(f"{source}: expected classes out of {shown(list(classes))}, got {shown(member)}")
            if table[classes[member]] != IGNORED:
                raise DataError(f"{source}: expected every class in one group, got {shown(member)} in two")
            table[classes[member]] = len(names)
        names.append(name)
    if len(names) < 2:
        raise DataError(f"{source}: expected at least two groups, got {len(names)}")
    return ClassGroups(tuple(names), tuple(table))


def open_labels(folder: Path, groups: str | Path) -> tuple[list[Sample], tuple[str, ...]]:
    """Return the samples of a folder of label maps, their truths grouped, and the groups' names.

    Raises:
        DataError: If folders, the list of classes or the groups are missing or wrong.
    """
    found = read_groups(groups, read_class_names(folder / "classes.txt"))
    return _pairs(folder, LABEL_FOLDERS, found.read), found.names


def open_masks(folder: Path) -> list[Sample]:
    """Return the samples of a folder of masks; where it lists classes, its masks are label maps and any class but 0 is the object."""
    if (folder / "classes.txt").is_file():
        return _pairs(folder, LABEL_FOLDERS, any_class_as_ids)
    return _pairs(folder, dict.fromkeys((*MASK_FOLDERS, *LABEL_FOLDERS)), any_channel)


def any_class_as_ids(path: Path) -> np.ndarray:
    """Return what has any class but 0 in a map of class ids: (H, W) int32, 1 object, 0 background, 255 ignored."""
    return np.where((truth := any_class(path)) == -1, IGNORED, truth).astype(np.int32)


def part_of(samples: Sequence[Sample], folder: Path, part: str, lists: Path | None = None, allowed: Collection[str] = ()) -> list[Sample]:
    """Return one part of a folder's samples.

    Args:
        samples: All of them.
        folder: Whose they are.
        part: "train", "val" or "test".
        lists: Folder of `<folder's name>_<part>.txt`, stems of images; None looks for `splits` beside and inside of the folder. Without lists, a tenth is
            for choosing and a tenth for testing, drawn once and for all.
        allowed: Names of held-out sets that may be learned from without such lists.

    Raises:
        ConfigError: If the part is none of the three, or "train" of a set that is held out as a whole (`fretsaw.data.parts`) and not allowed.
        DataError: If `lists` lacks the list, or nothing is left.
    """
    if part not in PARTS:
        raise ConfigError(f"expected a part out of {', '.join(PARTS)}; got {part!r}")
    name = f"{folder.resolve().name}_{part}.txt"
    known = known_name(folder.resolve().name, SET_PARTS)
    places = [lists] if lists is not None else [folder.resolve().parent / "splits", folder / "splits"]
    for place in places:
        if (place / name).is_file():
            if part == "train" and known is not None:
                require_part(known, part_by_list(known, SET_PARTS[known], part), allowed=allowed)
            stems = set(read_list(place / name))
            chosen = [sample for sample in samples if sample.image.stem in stems]
            break
    else:
        if lists is not None:
            raise DataError(f"expected a list {name} in {lists}")
        if part == "train" and known is not None:
            require_part(known, SET_PARTS[known], allowed=allowed)
        chosen = _drawn(samples, part)
    if not chosen:
        raise DataError(f"expected images for {part} in {folder}, got none")
    return chosen


def _drawn(samples: Sequence[Sample], part: str) -> list[Sample]:
    order = np.random.default_rng(0).permutation(len(samples))
    ends = {"val": max(1, round(HELD_OUT["val"] * len(samples)))}
    ends["test"] = ends["val"] + max(1, round(HELD_OUT["test"] * len(samples)))
    spans = {"val": order[: ends["val"]], "test": order[ends["val"] : ends["test"]], "train": order[ends["test"] :]}
    return [samples[i] for i in sorted(spans[part])]


def _pairs(folder: Path, truths: Iterable[str], reader: Reader) -> list[Sample]:
    return pair(require_folder(folder, *IMAGE_FOLDERS), require_folder(folder, *truths), reader)
