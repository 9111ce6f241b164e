"""Touching objects: connected components alone against the pass of clicks that splits them, on objects pasted side by side.

    python experiments/pmg_sam/instances.py ../shared/data/coco_mval --split ../shared/data/splits/coco_mval_val.txt --images 50 \\
        --model runs/pmg/best.safetensors

Each image holds two or three objects of the split that touch. The mask that is taken apart is the true union (so that only the splitting is measured) and,
with a PMG-SAM model, also its own automatic mask. AP50: share of true objects met by an instance with IoU above 0.5 when paired one to one, less what is
superfluous: 2 hits / (objects + instances). Rules are chosen on the training part, figures are reported on the validation part.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

import fretsaw
from fretsaw.data.datasets import open_dataset
from fretsaw.data.layouts import read_list
from fretsaw.layers.resampling import resize_image
from fretsaw.masks import mask_iou
from fretsaw.methods.pmg_sam.cut import PmgCut
from fretsaw.methods.pmg_sam.instances import find_components, split_component

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, for `benchmarks` and `experiments`

from benchmarks.interleave import machine, versions
from experiments.pmg_sam.scenes import side_by_side


def matched(found: list[np.ndarray], truths: list[np.ndarray]) -> tuple[float, float]:
    """Return (mean IoU of true objects under the best pairing, 0 for the unpaired; F of pairs above 0.5)."""
    ious = np.array([[mask_iou(mask, truth) for mask in found] for truth in truths]).reshape(len(truths), len(found))
    rows, columns = linear_sum_assignment(-ious)
    best = ious[rows, columns]
    return float(best.sum() / len(truths)), float(2 * (best > 0.5).sum() / (len(truths) + len(found)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", type=Path)
    parser.add_argument("--model", default=None, help="default: the default model, whose decoder splits the true union")
    parser.add_argument("--size", type=int)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--side", type=int, default=640)
    options = parser.parse_args()
    listed = set(read_list(options.split)) if options.split else None
    samples = [s for s in open_dataset(options.data).samples if listed is None or s.image.stem in listed]
    segmenter = fretsaw.load(options.model, size=options.size)
    rng = np.random.default_rng(0)
    scores: dict[str, list[tuple[float, float]]] = {}
    seconds: list[float] = []
    while len(scores.get("true union: components", ())) < options.images:
        image, truths = draw(samples, rng, options.side)
        if min(truth.sum() for truth in truths) < 0.01 * options.side**2:
            continue
        session = segmenter.open(image)
        cases = {"true union": np.logical_or.reduce(truths)}
        if isinstance(segmenter.parts.automatic, PmgCut):
            cases["automatic mask"] = segmenter.parts.automatic(image, session.embedding, session.frame).mask
        for name, union in cases.items():
            components = find_components(union)
            scores.setdefault(f"{name}: components", []).append(matched(components, truths))
            started = time.perf_counter()
            parts = [mask for component in components for mask, _ in split_component(component, segmenter.parts.clicks, session.embedding, session.frame)]
            seconds.append(time.perf_counter() - started)
            scores.setdefault(f"{name}: split by clicks", []).append(matched(parts, truths))
        for truth in truths[:1]:  # what must not be split: one object alone
            alone = [mask for mask, _ in split_component(truth, segmenter.parts.clicks, session.embedding, session.frame)]
            scores.setdefault("one object: split by clicks", []).append(matched(alone, [truth]))
    print(f"{options.images} images of {options.data.name}, {options.split.name if options.split else 'all'}, model {options.model or 'default'}")
    print(f"{machine()}, {versions()}")
    print("| instances | matched IoU | F at IoU 0.5 |\n|---|---|---|")
    for name, values in scores.items():
        print(f"| {name} | {np.mean(values, 0)[0]:.3f} | {np.mean(values, 0)[1]:.3f} |")
    print(f"splitting takes {np.median(seconds):.2f} s an image (median)")


def draw(samples: list, rng: np.random.Generator, side: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Paste two or three objects on the blurred mean colour of a fourth image."""
    chosen = [samples[i] for i in rng.choice(len(samples), int(rng.integers(2, 4)), replace=False)]
    objects = [(image, truth == 1) for image, truth in (sample.read() for sample in chosen)]
    ground = resize_image(resize_image(samples[int(rng.integers(len(samples)))].read_image(), 8, 8), side, side)
    return side_by_side(objects, ground)


if __name__ == "__main__":
    main()
