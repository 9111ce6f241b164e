"""What is left for a refiner: where a decoder's wrong pixels lie, and whether its answers obey the clicks.

    python experiments/sam_ref/wrong_pixels.py --data ../shared/data/coco_mval --split ../shared/data/splits/coco_mval_val.txt --model fretsaw-tiny

Every object gets eight clicks by the protocol sam, without zooming in. At the second, fifth and eighth answer: pixels on the wrong side over the object's area,
in all and by their distance from the truth's edge in pixels of the decoder's map (four of the model's input); the share of answers that obey the last click,
the share of clicks that are obeyed, and the share of clicks that made the mask worse.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import cv2
import numpy as np

import fretsaw
from fretsaw.clicks.simulate import simulate_click

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, for `benchmarks` and `experiments`

from experiments.objects import open_objects

SHOWN = (2, 5, 8)
NEAR, FAR = 1.5, 4.0


def edge_distance(truth: np.ndarray) -> np.ndarray:
    """Return each pixel's distance from the edge of an object (H, W) bool, in pixels of the image."""
    inside, outside = (cv2.distanceTransform(side.astype(np.uint8), cv2.DIST_L2, 5) for side in (truth, ~truth))
    return inside + outside


def measure(session: fretsaw.Session, truth: np.ndarray) -> dict[int, list[float]]:
    """Click an object (H, W) int8 and return the figures of the module's docstring by the number of clicks."""
    known, target = truth >= 0, truth == 1
    size = 4 * session.embedding.final.shape[-1]
    away = edge_distance(target) * (session.frame.scale_x * session.frame.scale_y) ** 0.5 * size / session.frame.size
    mask, clicked, clicks, rows = np.zeros_like(target), np.zeros_like(target), [], {}
    for number in range(1, max(SHOWN) + 1):
        click = simulate_click(mask, truth, clicked)
        clicks.append((round(click.y), round(click.x), click.positive))
        clicked[clicks[-1][:2]] = True
        before = ((mask != target) & known).sum()
        mask = session.click(click.x, click.y, click.positive).mask
        wrong = (mask != target) & known
        obeyed = [mask[y, x] == positive for y, x, positive in clicks]
        shares = [wrong.sum(), (wrong & (away <= NEAR)).sum(), (wrong & (away > NEAR) & (away <= FAR)).sum(), (wrong & (away > FAR)).sum()]
        rows[number] = [*(float(share) / target.sum() for share in shares), float(obeyed[-1]), float(np.mean(obeyed)), float(wrong.sum() > before)]
    return {number: rows[number] for number in SHOWN}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    objects = open_objects(options.data, options.split)
    segmenter = fretsaw.load(options.model, zoom=False, device=options.device)
    found: dict[int, list[list[float]]] = {number: [] for number in SHOWN}
    samples = list(objects.samples)[: options.limit]
    for i, sample in enumerate(samples):
        image, truth = sample.read()
        if (truth == 1).any():
            for number, figures in measure(segmenter.open(image), truth).items():
                found[number].append(figures)
        print(f"{i + 1} of {len(samples)} objects", file=sys.stderr, flush=True)
    print(f"{len(found[SHOWN[0]])} objects of {objects.name}, {segmenter.name}; wrong pixels over the object's area: medians; the rest: means")
    print(f"| clicks | wrong | within {NEAR} of the edge | to {FAR} | farther | last click obeyed | clicks obeyed | worse than before |")
    print("|---|---|---|---|---|---|---|---|")
    for number, rows in found.items():
        columns = list(zip(*rows, strict=True))
        shown = [statistics.median(column) for column in columns[:4]] + [statistics.mean(column) for column in columns[4:]]
        print(f"| {number} | " + " | ".join(f"{value:.4f}" if i < 4 else f"{value:.2f}" for i, value in enumerate(shown)) + " |")


if __name__ == "__main__":
    main()
