"""What other tools make of Fretsaw's exports, and Fretsaw of theirs: `make peers`, which prints a table and fails where something is lost.

The tools run in an environment of their own (`tools.py`). Each must find all objects; those that promise every pixel must give every pixel.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from fretsaw import masks
from fretsaw.images import write_bytes, write_image
from fretsaw.interchange.classes import ClassList, ObjectClass
from fretsaw.interchange.formats import WRITERS
from fretsaw.interchange.pictures import AnnotatedPicture, NamedMask
from fretsaw.interchange.reading import readers, the_source

HERE = Path(__file__).resolve().parent
EXACT = {
    *("pycocotools-coco", "pycocotools-coco-polygons", "supervision-coco", "supervision-yolo-painted", "ultralytics-yolo-painted"),
    *("datumaro-coco", "datumaro-voc", "datumaro-cvat", "labelme-labelme", "label_studio-label-studio"),
}
"""Loaders that must give every pixel."""
BOXES = {"supervision-voc"}
"""Loaders that read boxes alone."""
LEAST = 0.75
"""Least mean overlap (IoU) of a loader that paints outlines in its own way."""


def example() -> list[AnnotatedPicture]:
    """Two pictures without overlaps: a ring with a hole, a block of two parts, a disc, a bar."""
    y, x = np.mgrid[:60, :80]
    ring, block, disc, bar = (np.zeros((60, 80), bool) for _ in range(4))
    ring[4:30, 4:30], ring[12:22, 12:22] = True, False
    block[35:50, 5:20], block[40:56, 25:35] = True, True
    disc[(x - 60) ** 2 + (y - 18) ** 2 < 150] = True
    bar[50:54, 40:78] = True
    classes = ClassList((ObjectClass("a cat", 3, "#ff0000", "animal"), ObjectClass("car", 7, "#00ff00"), ObjectClass("never seen", 9)))
    first = (NamedMask("car", ring), NamedMask("a cat", block), NamedMask("a cat", disc))
    return [AnnotatedPicture("one.png", (60, 80), first, classes=classes), AnnotatedPicture("two.png", (60, 80), (NamedMask("car", bar),), classes=classes)]


def put(pictures: list[AnnotatedPicture], place: Path) -> None:
    """Write every format into a folder of its own, with the pictures where its tools look for them."""
    for format, writer in WRITERS.items():
        for path, content in writer(iter(pictures)):
            write_bytes(place / format / path, content)
        for picture in pictures:
            inside = {"voc": "JPEGImages", "labelme": ""}.get(format, "images")
            suffix = ".jpg" if format == "voc" else ".png"
            image = np.full((*picture.size, 3), 128, np.uint8)
            write_image(place / format / inside / f"{picture.stem}{suffix}", image)


def parts_of(pictures: list[AnnotatedPicture], split: bool) -> dict[tuple[str, str], list[np.ndarray]]:
    """Return the masks by picture and class, or those of the parts of objects."""
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for picture in pictures:
        for item in picture.objects:
            labels, stats = masks.components(item.mask)
            shown = [labels == number for number in range(1, len(stats))] if split else [item.mask]
            found.setdefault((picture.stem.rpartition("/")[2], item.name), []).extend(shown)
    return found


def compare(expected: dict[tuple[str, str], list[np.ndarray]], found: dict[tuple[str, str], list[np.ndarray]], boxes: bool) -> tuple[int, int, float]:
    """Return how many objects there are, how many are found with their name, and how well they overlap on average; of boxes, how well these do."""
    total, overlaps = sum(map(len, expected.values())), []
    for place, wanted in expected.items():
        left = list(found.get(place, []))
        for mask in wanted:
            scores = [_overlap(mask, other, boxes) for other in left]
            if scores and max(scores) > 0.3:
                overlaps.append(max(scores))
                left.pop(int(np.argmax(scores)))
    extra = sum(map(len, found.values())) - len(overlaps)
    return total, len(overlaps) - extra, float(np.mean(overlaps)) if overlaps else 0.0


def _overlap(mask: np.ndarray, other: np.ndarray, boxes: bool) -> float:
    if other.shape == (4,):
        filled = np.zeros(mask.shape, bool)
        x0, y0, x1, y1 = (round(side) for side in other.tolist())
        filled[y0:y1, x0:x1] = True
        other = filled
    if boxes:
        x0, y0, x1, y1 = masks.mask_to_box(mask)
        mask = np.zeros(mask.shape, bool)
        mask[y0:y1, x0:x1] = True
    return masks.mask_iou(mask, other) if other.shape == mask.shape else 0.0


def main(python: str) -> int:
    """Print what each tool read of Fretsaw's files, and Fretsaw of each tool's."""
    pictures, failed = example(), 0
    with tempfile.TemporaryDirectory() as temporary:
        place, out = Path(temporary) / "in", Path(temporary) / "out"
        out.mkdir()
        put(pictures, place)
        torch = next(path for path in sys.path if (Path(path) / "torch").is_dir())
        environment = {**os.environ, "YOLO_CONFIG_DIR": temporary, "YOLO_OFFLINE": "True", "QT_QPA_PLATFORM": "offscreen", "OMP_NUM_THREADS": "1"}
        command = [os.path.abspath(python), str(HERE / "tools.py"), str(place), str(out), torch]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=temporary, env=environment, timeout=600)
        try:
            said = json.loads(done.stdout.splitlines()[-1])
        except (IndexError, ValueError):
            print(done.stdout[-2000:], done.stderr[-4000:], sep="\n")
            return 1
        print("read by other tools, of what Fretsaw wrote:")
        for name, error in said.items():
            failed += not _said(name, error or _loaded(name, out / f"{name}.npz", pictures))
        print("read by Fretsaw, of what other tools wrote:")
        for folder in sorted(path for path in out.iterdir() if path.is_dir()):
            failed += not _said(folder.name, _read(folder, pictures))
        if failed:
            print(done.stderr[-4000:])
    print(f"{failed} failed" if failed else "all is read")
    return 1 if failed else 0


def _said(name: str, result: str | tuple[bool, str]) -> bool:
    good, text = (False, result) if isinstance(result, str) else result
    print(f"  {'ok    ' if good else 'FAILED'} {name:28} {text}")
    return good


def _loaded(name: str, path: Path, pictures: list[AnnotatedPicture]) -> tuple[bool, str]:
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    with np.load(path) as arrays:
        for key in arrays.files:
            picture, called, _ = key.split("|")
            found.setdefault((picture, called), []).append(arrays[key])
    total, count, overlap = compare(parts_of(pictures, any(word in name for word in ("painted", "datumaro-coco-polygons"))), found, name in BOXES)
    exact = overlap == 1.0
    good = count == total and (exact if name in EXACT else overlap >= LEAST)
    return good, f"{count} of {total} objects, IoU {overlap:.3f}{' (every pixel)' if exact else ''}"


def _read(folder: Path, pictures: list[AnnotatedPicture]) -> tuple[bool, str]:
    try:
        source = the_source(folder)
        found = [picture for _, read in readers(source) for picture in read()]
    except Exception as error:
        return False, f"{type(error).__name__}: {error}"
    left = sum(bool(sentence.kind) for picture in found for sentence in picture.left_out)
    if folder.name == "labelme-labelme":  # the squares that were drawn anew
        counts = [int(item.mask.sum()) for picture in found for item in picture.objects]
        return counts == [9, 9], f"{source.format}: {len(counts)} objects of {counts} pixels"
    split = any(word in folder.name for word in ("painted", "supervision-voc"))
    masked = parts_of(found, split)
    boxes = not masked  # Datumaro writes boxes alone for YOLO
    for picture in found if boxes else ():
        for item in picture.boxes:
            corners = np.array([item.box.x0, item.box.y0, item.box.x1, item.box.y1])
            masked.setdefault((picture.stem.rpartition("/")[2], item.name), []).append(corners)
    total, count, overlap = compare(parts_of(pictures, split), masked, boxes)
    return (
        count == total and overlap >= LEAST,
        f"{source.format}: {count} of {total} objects, IoU {overlap:.3f}{' of boxes' if boxes else ''}, {left} rows left out",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
