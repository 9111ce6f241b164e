"""Mending a mask of one's own: clicks that a mask with two faults needs, by the decoder alone and with SAM-REF's refiner.

    python experiments/sam_ref/mending.py --data ../shared/data/human_seg --split ../shared/data/splits/human_seg_val.txt --model fretsaw-tiny --refiner sam-ref

The mask is the truth with a bite taken out of the object and a blob added beside it, each a tenth of the object's area, as FocalClick (Chen et al. 2022) makes
masks to correct. It is given to the session (`session.mask`) and clicked by the protocol sam until it is as good as asked. An answer that mends the fault but
draws the whole outline anew loses what the mask had; "kept" says how much of what was right before the first click is right after it. "Its paste alone" is a
refiner that was not trained, which changes nothing of the decoder's answer, but takes only what the click changed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import fretsaw
from fretsaw.clicks.simulate import simulate_click
from fretsaw.evaluation.clicks import iou, sample_rng
from fretsaw.evaluation.overlap import boundary_iou
from fretsaw.methods.sam_ref.model import SamRef

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, for `benchmarks` and `experiments`

from experiments.objects import open_objects

FAULT = 0.1
"""Area of each fault over the object's."""

CLICKS = 20
TARGETS = (0.95, 0.98, 0.99)


@dataclass(frozen=True)
class Mended:
    """What became of one mask: its IoU before and after each click, the boundary IoU at the end, and the share of right pixels that the first click kept."""

    ious: tuple[float, ...]
    edges: float
    kept: float


def with_faults(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an object (H, W) bool with a disc cut out of its edge and one added to it elsewhere."""
    contours, _ = cv2.findContours(truth.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(contours, key=len)[:, 0]
    radius = max(2, round((2 * FAULT * truth.sum() / np.pi) ** 0.5))  # half of a disc about the outline lies inside
    mask = truth.astype(np.uint8)
    first = int(rng.integers(len(outline)))
    for place, value in ((first, 0), ((first + len(outline) // 2) % len(outline), 1)):
        cv2.circle(mask, tuple(int(n) for n in outline[place]), radius, value, -1)
    return mask > 0


def mend(session: Any, start: np.ndarray, truth: np.ndarray) -> Mended:
    session.mask(start)
    mask, clicked, ious, kept = start, np.zeros(truth.shape, bool), [iou(start, truth)], 1.0
    right = start == (truth == 1)
    while len(ious) <= CLICKS and ious[-1] < max(TARGETS):
        click = simulate_click(mask, truth, clicked)
        clicked[round(click.y), round(click.x)] = True
        mask = session.click(click.x, click.y, click.positive).mask
        if len(ious) == 1:
            kept = float((mask == (truth == 1))[right].mean())
        ious.append(iou(mask, truth))
    return Mended(tuple(ious), boundary_iou(mask, truth == 1), kept)


def needed(ious: tuple[float, ...], target: float) -> int:
    return next((clicks for clicks, value in enumerate(ious) if value >= target), CLICKS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--refiner", default="sam-ref")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    objects = open_objects(options.data, options.split)
    segmenters = {
        "decoder alone, zooming in": fretsaw.load(options.model, zoom=True, device=options.device),
        "decoder alone": fretsaw.load(options.model, zoom=False, device=options.device),
        "with the refiner": fretsaw.load(options.model, refiner=options.refiner, device=options.device),
    }
    learned = segmenters["with the refiner"]
    rule = SamRef(**learned.refiner.config).to(options.device).for_answers()
    segmenters["its paste alone, no network"] = fretsaw.Segmenter(learned.name, learned.parts, rule, learned.zoom)
    found: dict[str, list[Mended]] = {name: [] for name in segmenters}
    samples = list(objects.samples)[: options.limit]
    for i, sample in enumerate(samples):
        image, truth = sample.read()
        if not (truth == 1).any():
            continue
        start = with_faults(truth == 1, sample_rng(0, sample.name))
        for name, segmenter in segmenters.items():
            found[name].append(mend(segmenter.open(image), start, truth))
        print(f"{i + 1} of {len(samples)} objects", file=sys.stderr, flush=True)
    columns = [f"clicks to {100 * target:g} %" for target in TARGETS] + ["IoU before", "after 1", "after 3", "right pixels kept", "boundary IoU at the end"]
    print(f"{len(found['with the refiner'])} objects of {objects.name}, {segmenters['decoder alone'].name}")
    print("| | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    rows: dict[str, list[float]] = {}
    for name, all_mended in found.items():
        rows[name] = [statistics.mean(needed(one.ious, target) for one in all_mended) for target in TARGETS]
        rows[name] += [statistics.mean(one.ious[min(n, len(one.ious) - 1)] for one in all_mended) for n in (0, 1, 3)]
        rows[name] += [statistics.mean(one.kept for one in all_mended), statistics.mean(one.edges for one in all_mended)]
        print(f"| {name} | " + " | ".join(f"{value:.2f}" if i < len(TARGETS) else f"{value:.4f}" for i, value in enumerate(rows[name])) + " |")
    if options.report:
        options.report.write_text(json.dumps({"columns": columns, "rows": rows, "samples": {n: [m.ious for m in found[n]] for n in found}}, indent=1))


if __name__ == "__main__":
    main()
