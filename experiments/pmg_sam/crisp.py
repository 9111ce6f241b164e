"""Edges at 4K: the automatic cut of a rendered scene with thin parts, its edges looked up in the image, against the same cut enlarged from the model's frame.

    python experiments/pmg_sam/crisp.py --model pmg-tiny
    python experiments/pmg_sam/crisp.py --model pmg-tiny --tiles --seeds 2 --picture crisp.png
    python experiments/pmg_sam/crisp.py --model fretsaw-tiny --side 2048 --seeds 3

Prints IoU and boundary IoU (bands of 0.5 %, 0.1 % and 0.02 % of the diagonal: at 4096, 29, 6 and 1 pixels) of the enlarged result, of the one with the image's
own edges, and of the same two made from the true mask at the decoder's resolution, which shows the pathway apart from how well the object was found. `--tiles`
adds PMG-SAM's decoder run on tiles of the image, guided by either mask: minutes a scene. Medians over the scenes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np

import fretsaw
from fretsaw import edges, frames
from fretsaw.evaluation.overlap import boundary_iou
from fretsaw.images import write_image
from fretsaw.masks import mask_iou
from fretsaw.methods.pmg_sam.cut import PmgCut

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, for `benchmarks` and `experiments`

from benchmarks.interleave import machine, peak, versions
from experiments.pmg_sam.scenes import thin_scene
from experiments.pmg_sam.tiles import decode_tile

BANDS = (0.005, 0.001, 0.0002)


def figures(mask: np.ndarray, truth: np.ndarray) -> list[float]:
    return [mask_iou(mask, truth), *(boundary_iou(mask, truth, band) for band in BANDS)]


def at_the_body(truth: np.ndarray, side: int = 384) -> tuple[slice, slice]:
    """Return rows and columns of a square at the upper end of the scene's body, where lines leave it."""
    body = cv2.erode(truth.astype(np.uint8), np.ones((31, 31), np.uint8)) > 0
    top = int(body.any(1).argmax())
    row, column = max(0, top - side // 2), max(0, int(np.flatnonzero(body[top]).mean()) - side // 2)
    return slice(row, row + side), slice(column, column + side)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="any model with an automatic mode; --tiles needs pmg-tiny, or a file that `fretsaw train pmg_sam` wrote")
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--size", type=int, help="side of the model's input; default: its own")
    parser.add_argument("--seeds", type=int, default=1, help="scenes")
    parser.add_argument("--tiles", action="store_true", help="PMG-SAM's decoder on tiles as well")
    parser.add_argument("--picture", type=Path, help="write a part of the last scene: image, truth, enlarged mask, and the one with the image's edges")
    options = parser.parse_args()
    segmenter = fretsaw.load(options.model, size=options.size)
    cut, clicks = segmenter.parts.automatic, segmenter.parts.clicks
    if options.tiles and not (isinstance(cut, PmgCut) and clicks is not None):
        parser.error(f"{options.model} is no PMG-SAM")
    rows: dict[str, list[list[float]]] = {}
    seconds: dict[str, list[float]] = {}

    def record(name: str, started: float, mask: np.ndarray, truth: np.ndarray) -> np.ndarray:
        seconds.setdefault(name, []).append(time.perf_counter() - started)
        rows.setdefault(name, []).append(figures(mask, truth))
        return mask

    for seed in range(options.seeds):
        image, truth = thin_scene(options.side, seed)
        session = segmenter.open(image)
        side = session.model.preprocessing.size
        zoom = options.side / side
        large, edges.LARGE = edges.LARGE, float("inf")
        started = time.perf_counter()
        result = segmenter.auto(image)
        enlarged = record("enlarged", started, result.mask, truth)
        edges.LARGE = large
        started = time.perf_counter()
        crisp = record("the image's edges", started, segmenter.auto(image).mask, truth)
        low = frames.mask_to_logits(truth, session.frame, side // 4)
        coarse = frames.logits_to_image(low, session.frame)[0, 0]
        record("truth at S/4, enlarged", time.perf_counter(), coarse > 0, truth)
        started = time.perf_counter()
        record("truth at S/4, the image's edges", started, edges.at_own_resolution(low, image, session.frame) > 0, truth)
        if options.tiles:
            for name, logits in (("tiles", result.logits), ("truth at S/4, tiles", coarse)):
                started = time.perf_counter()
                record(name, started, edges.refine_edges(image, logits, side, partial(decode_tile, cut, clicks), edges.REACH * zoom) > 0, truth)
        if options.picture:
            down, across = at_the_body(truth)
            tiles = [np.repeat(255 * mask[down, across, None].astype(np.uint8), 3, 2) for mask in (truth, enlarged, crisp)]
            write_image(options.picture, np.concatenate([image[down, across], *tiles], 1))
    print(f"{options.seeds} scenes of {options.side} x {options.side}, model {options.model}, input {segmenter.open(image).model.preprocessing.size}")
    print(f"{machine()}, {versions()}")
    print(f"| result | IoU | {' | '.join(f'boundary IoU {100 * band:g} %' for band in BANDS)} | s |\n|---|{'---|' * (len(BANDS) + 2)}")
    for name, found in rows.items():
        print(f"| {name} | {' | '.join(f'{value:.4f}' for value in np.median(found, 0))} | {statistics.median(seconds[name]):.1f} |")
    print(f"peak memory {peak() / 2**20:.0f} MB")


if __name__ == "__main__":
    main()
