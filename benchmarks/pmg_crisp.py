"""Edges at 4K: the automatic cut of a rendered scene with thin parts, decoded in tiles, against the same cut enlarged from the model's 1024.

    python benchmarks/pmg_crisp.py --model runs/pmg/best.safetensors
    python benchmarks/pmg_crisp.py --model runs/pmg/best.safetensors --side 2048 --seeds 3 --picture crisp.png

Prints IoU and boundary IoU (bands of 0.5 %, 0.1 % and 0.02 % of the diagonal: at 4096, 29, 6 and 1 pixels) of the enlarged result, of the tiles', and of
the tiles guided by the true mask at the model's resolution, which shows the pathway apart from how well the object was found. Medians over the scenes.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from pathlib import Path

import numpy as np
import torch

import fretsaw
from fretsaw import frames
from fretsaw.data.shapes import thin_scene
from fretsaw.evaluation.overlap import boundary_iou
from fretsaw.images import write_image
from fretsaw.masks import mask_iou
from fretsaw.methods.pmg_sam.cut import PmgCut
from fretsaw.methods.pmg_sam.tiles import refine_edges
from interleave import machine, versions

BANDS = (0.005, 0.001, 0.0002)


def figures(mask: np.ndarray, truth: np.ndarray) -> list[float]:
    return [mask_iou(mask, truth), *(boundary_iou(mask, truth, band) for band in BANDS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a file that `fretsaw train pmg_sam` wrote, or pmg-tiny")
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--size", type=int, help="side of the model's input; default: its own")
    parser.add_argument("--seeds", type=int, default=1, help="scenes")
    parser.add_argument("--picture", type=Path, help="write truth, enlarged and tiled mask of a corner of the last scene, side by side")
    options = parser.parse_args()
    segmenter = fretsaw.load(options.model, size=options.size)
    cut = segmenter.parts.automatic
    if not isinstance(cut, PmgCut):
        parser.error(f"{options.model} is no PMG-SAM")
    rows: dict[str, list[list[float]]] = {}
    seconds: dict[str, list[float]] = {}

    def record(name: str, started: float, mask: np.ndarray, truth: np.ndarray) -> np.ndarray:
        seconds.setdefault(name, []).append(time.perf_counter() - started)
        rows.setdefault(name, []).append(figures(mask, truth))
        return mask

    for seed in range(options.seeds):
        image, truth = thin_scene(options.side, seed)
        started = time.perf_counter()
        session = segmenter.open(image)
        with torch.no_grad():
            logits = frames.logits_to_image(cut.predict(image, session.embedding, session.frame).mask_logits, session.frame)[0, 0].cpu().numpy()
        enlarged = record("enlarged", started, logits > 0, truth)
        tiled = record("tiles", started, segmenter.auto(image).mask, truth)
        side = session.model.preprocessing.size
        small = frames.resize_map(truth.astype(np.float32), side // 4, side // 4)
        coarse = frames.resize_map((2 * small - 1) * frames.MASK_PROMPT_LOGIT, *truth.shape)
        record("truth at S/4, enlarged", time.perf_counter(), coarse > 0, truth)
        started = time.perf_counter()
        record("truth at S/4, tiles", started, refine_edges(image, coarse, side, cut.decode_tile) > 0, truth)
        if options.picture:
            part = slice(options.side // 8, options.side // 8 + 512)
            tiles = [mask[part, part] for mask in (truth, enlarged, tiled)]
            write_image(options.picture, np.concatenate([np.repeat(255 * tile[..., None].astype(np.uint8), 3, 2) for tile in tiles], 1))
    print(f"{options.seeds} scenes of {options.side} x {options.side}, model {options.model}, input {segmenter.open(image).model.preprocessing.size}")
    print(f"{machine()}, {versions()}")
    print(f"| result | IoU | {' | '.join(f'boundary IoU {100 * band:g} %' for band in BANDS)} | s |\n|---|{'---|' * (len(BANDS) + 2)}")
    for name, found in rows.items():
        print(f"| {name} | {' | '.join(f'{value:.4f}' for value in np.median(found, 0))} | {statistics.median(seconds[name]):.1f} |")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
