"""How time and memory grow with the images of a COCO file: `fretsaw convert` from COCO to COCO, and the file that `fretsaw auto --format coco` writes.

python benchmarks/coco_scale.py 10000 30000 100000

Each figure is of a process of its own, in seconds of a processor. A made file has three objects an image, on 320 x 240 pixels, in an order that is not
that of its images.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from fretsaw import cli, masks
from fretsaw.coco_file import CocoFile
from fretsaw.segmentation import Segmentation

SIZE = (240, 320)
OBJECTS = 3


def make(path: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    shapes = []
    for _ in range(50):
        y, x, radius = rng.uniform(60, 180), rng.uniform(60, 260), rng.uniform(15, 50)
        mask = np.hypot(rows - y, columns - x) < radius * (1 + 0.2 * np.sin(5 * np.arctan2(rows - y, columns - x)))
        x0, y0, x1, y1 = masks.mask_to_box(mask)
        shapes.append({"segmentation": masks.encode_rle(mask), "area": int(mask.sum()), "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0})
    with path.open("w") as file:
        file.write('{"images": [')
        file.write(", ".join(json.dumps({"id": k, "file_name": f"{k:08}.jpg", "height": SIZE[0], "width": SIZE[1]}) for k in range(1, count + 1)))
        file.write('], "categories": [{"id": 1, "name": "thing"}], "annotations": [')
        for number in range(count * OBJECTS):
            row = {"id": number + 1, "image_id": number % count + 1, "category_id": 1, **shapes[number % len(shapes)]}
            file.write((", " if number else "") + json.dumps(row))
        file.write("]}")


def collect(path: Path, count: int) -> None:
    logits = np.full(SIZE, -1, np.float32)
    logits[100:200, 100:300] = 1
    result = Segmentation(logits, 0.5)
    row = result.to_coco()
    object.__setattr__(result, "to_coco", lambda *numbers: dict(row))  # what is measured is the file, not the mask
    with CocoFile(path) as coco:
        for number in range(count):
            coco.add(f"{number:08}.jpg", result)


def measured(*arguments: str) -> tuple[float, float]:
    """Return the seconds of a processor, and the peak in MiB, of a process of its own."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    seconds, peak = done.stdout.split()[-2:]
    return float(seconds), float(peak)


def main(arguments: list[str]) -> None:
    if arguments[0] in ("convert", "collect"):
        if arguments[0] == "convert":
            try:
                cli.main(["convert", arguments[1], "-o", arguments[2], "--to", "coco"])
            except SystemExit as stop:
                if stop.code:
                    raise
        else:
            collect(Path(arguments[1]), int(arguments[2]))
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
        return
    print("| images | file, MB | convert, CPU s | peak, MiB | auto's file, CPU s | peak, MiB |\n|---:|---:|---:|---:|---:|---:|")
    for count in map(int, arguments):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "in.json"
            make(path, count)
            seconds, peak = measured("convert", str(path), str(Path(folder) / "out"))
            adding, its_peak = measured("collect", str(Path(folder) / "auto.json"), str(count))
            print(f"| {count:,} | {path.stat().st_size / 1e6:.0f} | {seconds:.1f} | {peak:.0f} | {adding:.1f} | {its_peak:.0f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
