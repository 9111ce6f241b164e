"""PMG-SAM's table 3, on any data set with COCO instances: SAM 2's grid, SAM 2 told each box, and automatic models; all images, and those whose objects touch.

    python experiments/pmg_sam/table3.py COD10K/test_instances.json --images COD10K/Test/Image --model runs/pmg/best.safetensors
    python experiments/pmg_sam/table3.py NC4K/nc4k.json --images NC4K/Imgs --model zero_shot=runs/dis/best.safetensors \\
        --model transfer=runs/nc4k/best.safetensors

Rows of models: components of the cut scored as the paper scores them (protocol pmg-sam), and the model's own instances by COCO's rule (coco-model). The grid's
masks and the masks of the true boxes are scored by COCO's rule. The paper trains on one set and tests on the other for its cross-data-set rows: give both
files under names of their own.

Source: PMG-SAM (paper 001), sections 4.5 and 4.6.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import fretsaw
from fretsaw.errors import DataError
from fretsaw.evaluation.coco import InstanceSet, read_coco
from fretsaw.evaluation.instances import PROTOCOLS, InstanceCutter, evaluate_instances, overlapping
from fretsaw.evaluation.runner import RunOptions
from fretsaw.images import image_hash, read_image
from fretsaw.masks import mask_to_box
from fretsaw.methods.grid import GridMasks
from fretsaw.segmentation import Segmentation

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, for `benchmarks` and `experiments`

from benchmarks.interleave import machine, versions
from experiments.grid_mode import sam_crops

METRICS = ("AP", "AP50", "AP75")


class Given:
    """Instances from elsewhere, in the shape that the evaluation asks for."""

    def __init__(self, find: Callable[[np.ndarray], list[tuple[np.ndarray, float]]]) -> None:
        self._find = find

    def auto(self, image: np.ndarray, instances: bool = False) -> Segmentation:
        found = tuple(Segmentation(as_logits(mask), score, image=image) for mask, score in self._find(image))
        union = np.any([instance.mask for instance in found], axis=0) if found else np.zeros(image.shape[:2], bool)
        return Segmentation(as_logits(union), 1.0, image=image, instances=found)


def as_logits(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, 10.0, -10.0).astype(np.float32)


def grid(model: str) -> InstanceCutter:
    clicks, masks = fretsaw.load(model).parts.clicks, GridMasks()
    assert clicks is not None
    return Given(lambda image: [(found.mask, found.predicted_iou) for found in masks.generate(image, sam_crops(clicks))])


def told_boxes(model: str, objects: InstanceSet) -> InstanceCutter:
    """The model prompted with the box of each true object: what a perfect detector would give."""
    segmenter = fretsaw.load(model)
    boxes = {image_hash(read_image(sample.image)): [mask_to_box(truth) for truth in sample.read_truths()] for sample in objects.samples}

    def find(image: np.ndarray) -> list[tuple[np.ndarray, float]]:
        session = segmenter.open(image)
        found = []
        for box in boxes[image_hash(image)]:
            session.reset()
            result = session.box(*box)
            found.append((result.mask, result.score))
        return found

    return Given(find)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truth", type=Path, help="a COCO file")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--model", action="append", default=[], metavar="[NAME=]FILE", help="a model with an automatic mode; repeatable")
    parser.add_argument("--base", default="sam2-hiera-tiny", help="the model that answers the grid and the boxes")
    parser.add_argument("--no-grid", action="store_true", help="leave the grid out, which takes a minute an image on a CPU")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    objects = read_coco(options.truth, options.images)
    subsets = {"all": objects}
    try:
        subsets["touching"] = overlapping(objects)
    except DataError as error:
        print(error, file=sys.stderr)
    named = [text.partition("=") if "=" in text else (Path(text).stem, "=", text) for text in options.model]
    rows: list[tuple[str, str, Callable[[], Any]]] = [] if options.no_grid else [("grid, 32 x 32 points", "coco-model", partial(grid, options.base))]
    rows.append(("told each true box", "coco-model", partial(told_boxes, options.base, objects)))
    rows += [(name, protocol, partial(fretsaw.load, file)) for name, _, file in named for protocol in ("pmg-sam", "coco-model")]
    print(f"{objects.name}: {', '.join(f'{len(part.samples)} {name}' for name, part in subsets.items())}; {machine()}, {versions()}")
    print(f"| row | protocol | {' | '.join(f'{metric}, {subset}' for subset in subsets for metric in METRICS)} |\n|---|---|{'---|' * 3 * len(subsets)}")
    for name, protocol, build in rows:
        settings = RunOptions(model=name, limit=options.limit, workers=options.workers)
        figures = [evaluate_instances(part, build, PROTOCOLS[protocol], options=settings).metrics for part in subsets.values()]
        print(f"| {name} | {protocol} | {' | '.join(f'{metrics[metric]:.3f}' for metrics in figures for metric in METRICS)} |", flush=True)


if __name__ == "__main__":
    main()
