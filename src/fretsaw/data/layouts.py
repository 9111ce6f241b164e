"""Folders on disk: find what a data set must have, pair images with masks, count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from fretsaw.data.samples import Dataset, Reader, Sample
from fretsaw.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif", ".jp2")

IMAGE_FOLDERS = ("images", "img", "im")
MASK_FOLDERS = ("masks", "gt")
LABEL_FOLDERS = ("labels", "annotations", "masks")
"""What a folder of one's own calls its images, its masks and its class maps; the first that is there is taken."""


def require_folder(root: Path, *names: str) -> Path:
    """Return the first of several possible folders below `root`.

    Raises:
        DataError: If none is there; the message names them and what is there instead.
    """
    _require_root(root)
    for name in names:
        if (root / name).is_dir():
            return root / name
    there = sorted(path.name + ("/" if path.is_dir() else "") for path in root.iterdir())
    shown = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "")
    raise DataError(f"expected a folder {' or '.join(names)} in {root}, which has {shown or 'nothing'}")


def require_file(root: Path, *names: str) -> Path:
    """Return the first of several possible files below `root`.

    Raises:
        DataError: If none is there.
    """
    _require_root(root)
    for name in names:
        if (root / name).is_file():
            return root / name
    raise DataError(f"expected a file {' or '.join(names)} in {root}")


def read_list(path: Path) -> list[str]:
    """Return the first word of every line that is neither empty nor a comment."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"expected a list of names in {path}: {error}") from error
    return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]


def list_images(folder: Path) -> list[Path]:
    """Return the image files of a folder, by name; hidden files are left out."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."))


def pair(images: Path, masks: Path, reader: Reader, image_of: Callable[[str, set[str]], str | None] | None = None, prefix: str = "") -> list[Sample]:
    """Pair the files of two folders by stem; what has no partner becomes a sample that fails when it is read, so that a run names it.

    Args:
        images: Folder of images.
        masks: Folder of masks, one sample each.
        reader: The rule for the masks.
        image_of: (stem of a mask, stems of all images) -> stem of its image, or None; None: the same stem.
        prefix: Put before the samples' names.
    """
    image_files, mask_files = _by_stem(list_images(images)), _by_stem(list_images(masks))
    stems = set(image_files)
    samples, used = [], set()
    for stem, mask in mask_files.items():
        found = stem if image_of is None or stem in stems else image_of(stem, stems)
        image = image_files.get(found) if found is not None else None
        if image is not None and found is not None:
            used.add(found)
        samples.append(Sample(prefix + stem, image if image is not None else images / f"{found or stem}.jpg", mask, reader))
    samples += [Sample(prefix + stem, image, masks / f"{stem}.png", reader) for stem, image in image_files.items() if stem not in used]
    return sorted(samples, key=lambda sample: sample.name)


def pair_beside(folder: Path, reader: Reader, prefix: str = "") -> list[Sample]:
    """Pair the files of one folder by stem, images `.jpg` and masks `.png`; what has no partner becomes a sample that fails when it is read.

    Args:
        folder: Of both.
        reader: The rule for the masks.
        prefix: Put before the samples' names.
    """
    stems = {file.stem for file in list_images(folder) if file.suffix.lower() in (".jpg", ".png")}
    return [Sample(prefix + stem, folder / f"{stem}.jpg", folder / f"{stem}.png", reader) for stem in sorted(stems)]


def suffix_letter(stem: str, images: set[str]) -> str | None:
    """Several objects of one image: mask `<stem>a`, `<stem>b` belong to image `<stem>` (Berkeley, DAVIS)."""
    return stem[:-1] if stem[-1:] in ("a", "b") and stem[:-1] in images else None


def after_underscore(stem: str, images: set[str]) -> str | None:
    """Mask `<class><nn>_<image>` belongs to image `<image>` (COCO-MVal)."""
    image = stem.rpartition("_")[2]
    return image if image in images else None


def counted(name: str, root: Path, samples: Sequence[Sample], expected: int | None, warnings: Iterable[str] = ()) -> Dataset:
    """Return the data set, with a warning where the number of samples is not what its authors state.

    Raises:
        DataError: If there is no sample at all.
    """
    if not samples:
        raise DataError(f"expected samples of {name} in {root}, found none")
    warnings = list(warnings)
    if expected is not None and len(samples) != expected:
        warnings.append(f"{name}: expected {expected} samples, found {len(samples)} in {root.name}")
    return Dataset(name=name, root=root, samples=tuple(samples), expected=expected, warnings=tuple(warnings))


def _by_stem(files: Sequence[Path]) -> dict[str, Path]:
    """Return files by stem; those that share one keep their full name as key."""
    counts = Counter(file.stem for file in files)
    return {file.stem if counts[file.stem] == 1 else file.name: file for file in files}


def _require_root(root: Path) -> None:
    if not root.is_dir():
        raise DataError(f"expected a folder at {root}, which {'is a file' if root.exists() else 'does not exist'}")
