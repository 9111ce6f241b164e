"""Which files to work on and where each result goes; decided for all of them before any work starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fretsaw.errors import ImageError, OutputError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm"})
"""Files with these suffixes are taken from a folder."""

WRITABLE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})
"""An output that ends in one of these is a file, not a folder."""


@dataclass(frozen=True, slots=True)
class Job:
    """One image to read and the file to write."""

    source: Path
    target: Path


def find_images(inputs: Sequence[Path], recursive: bool = False) -> list[tuple[Path, Path]]:
    """List the images that a user named.

    Args:
        inputs: Files, taken whatever their suffix, and folders, of which files with an image suffix are taken in sorted order.
        recursive: Whether to go into subfolders.

    Returns:
        Pairs (path, path below the folder that it was found in); a file named directly is below its own folder.

    Raises:
        ImageError: If an input does not exist, or nothing was found at all.
    """
    found: list[tuple[Path, Path]] = []
    for path in inputs:
        if path.is_dir():
            files = sorted(path.rglob("*") if recursive else path.iterdir())
            found.extend((file, file.relative_to(path)) for file in files if file.is_file() and file.suffix.lower() in IMAGE_SUFFIXES)
        elif path.exists():
            found.append((path, Path(path.name)))
        else:
            raise ImageError(f"expected an image or a folder of images, got {path}, which does not exist")
    if not found:
        hint = "" if recursive else "; --recursive looks into subfolders"
        raise ImageError(f"expected images ({', '.join(sorted(IMAGE_SUFFIXES))}), found none in {', '.join(map(str, inputs))}{hint}")
    return found


def plan(found: Sequence[tuple[Path, Path]], out: Path, suffix: str = ".png") -> list[Job]:
    """Give every image its output file.

    One image and an `out` that ends in an image suffix or in `suffix`: that file. Else `out` is a folder, and a result is out/<path below the
    input folder>/<stem><suffix>; images whose stems collide keep their full name (a.jpg and a.png become a.jpg.png and a.png.png).

    Raises:
        OutputError: If `out` is a file where a folder is needed, or two images would still share an output.
    """
    if len(found) == 1 and out.suffix.lower() in WRITABLE_SUFFIXES | {suffix} and not out.is_dir():
        return [Job(found[0][0], out)]
    if out.exists() and not out.is_dir():
        raise OutputError(f"expected a folder for {len(found)} result(s), got the file {out}")
    stems = Counter(below.with_suffix("") for _, below in found)
    jobs = [Job(path, out / (below.with_name((below.name if stems[below.with_suffix("")] > 1 else below.stem) + suffix))) for path, below in found]
    doubles = [target for target, count in Counter(job.target for job in jobs).items() if count > 1]
    if doubles:
        raise OutputError(f"expected every image to have an output of its own, got {doubles[0]} for two; run the folders one by one")
    return jobs
