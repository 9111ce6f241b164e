"""PMG-SAM beside what can be had without training: U²-Netp alone, the training-free cut, SAM 2's grid, on the same held-out images.

    python benchmarks/auto_compare.py ../shared/data/human_seg --split ../shared/data/splits/human_seg_val.txt --model runs/pmg/best.safetensors
    python benchmarks/auto_compare.py DATA --model a.safetensors --model b.safetensors --no-grid --scatter pre_mask.png    (ablations, figure 10)

The grid's many masks become one map by the union of those that lie in the pre-mask's box: U²-Netp's map above one half gives the box, a mask counts whose
box has at least 0.8 of its area inside and which covers at least 0.02 of it. Every row runs in a process of its own, so that its peak memory is its own;
seconds are of the whole cut, encoding included, and the median is printed. With a PMG-SAM model its pre-mask is measured as well, and `--scatter` draws the
final mask's IoU over the pre-mask's.

Source: PMG-SAM (paper 001), tables 1, 2, 4 and 5, figure 10.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import logit

import fretsaw
from fretsaw import frames
from fretsaw.backbones.u2net import load_u2netp, saliency_map
from fretsaw.data.datasets import open_dataset
from fretsaw.data.layouts import read_list
from fretsaw.evaluation.auto import PROTOCOLS, AutoTally, check_metrics, measure_sample, soft_map
from fretsaw.evaluation.pre_mask import PreMaskScores, compare_pre_mask, plot_scatter, summarise
from fretsaw.masks import mask_to_box
from fretsaw.methods.first_cut import FirstCut
from fretsaw.methods.grid import GridMasks, sam_crops
from fretsaw.methods.pmg_sam.build import parameters_by_part
from fretsaw.methods.pmg_sam.cut import PmgCut
from fretsaw.segmentation import Segmentation

PROTOCOL = PROTOCOLS["pysod"]
METRICS = ("max F", "weighted F", "MAE", "S", "mean E", "HCE", "IoU", "boundary IoU")
Cut = Callable[[np.ndarray], Segmentation]


class Recorded:
    """A result that exists already, in the shape that the evaluation asks for."""

    def __init__(self, result: Segmentation) -> None:
        self.result = result

    def auto(self, image: np.ndarray) -> Segmentation:
        return self.result


def saliency_alone() -> Cut:
    network = load_u2netp()
    return lambda image: Segmentation(logit(saliency_map(network, image).astype(np.float64).clip(1e-6, 1 - 1e-6)).astype(np.float32), 1.0)


def training_free(size: int | None) -> Cut:
    clicks = fretsaw.load(size=size).parts.clicks
    assert clicks is not None
    cut = FirstCut.build(clicks)

    def auto(image: np.ndarray) -> Segmentation:
        with torch.no_grad():
            return cut(image, clicks.encode(clicks.preprocessing.pixels_of(image)), clicks.preprocessing.frame_of(image))

    return auto


def grid_union(size: int | None) -> Cut:
    """SAM 2's grid of 32 x 32 clicks as one map, by the rule above."""
    clicks, network, grid = fretsaw.load(size=size).parts.clicks, load_u2netp(), GridMasks()
    assert clicks is not None

    def auto(image: np.ndarray) -> Segmentation:
        x0, y0, x1, y1 = mask_to_box(saliency_map(network, image) > 0.5)
        union = np.zeros(image.shape[:2], bool)
        for mask in (found.mask for found in grid.generate(image, sam_crops(clicks))):
            inside = mask[y0:y1, x0:x1].sum()
            if inside >= 0.8 * mask.sum() and inside >= 0.02 * (x1 - x0) * (y1 - y0):
                union |= mask
        return Segmentation(np.where(union, 10.0, -10.0).astype(np.float32), 1.0)

    return auto


def samples_of(options: argparse.Namespace) -> list[Any]:
    samples = list(open_dataset(options.data, options.dataset).samples)
    if options.split:
        listed = set(read_list(options.split))
        samples = [sample for sample in samples if sample.image.stem in listed]
    step = max(1, len(samples) // options.limit) if options.limit else 1
    return samples[::step][: options.limit or None]


def measure(name: str, options: argparse.Namespace, answer: Any) -> None:
    """Measure one row; runs in a process of its own."""
    kinds: dict[str, Callable[[], Cut]] = {
        "U²-Netp alone": saliency_alone,
        "training-free cut": lambda: training_free(options.size),
        "SAM 2 grid, union": lambda: grid_union(options.size),
    }
    segmenter = None if name in kinds else fretsaw.load(name, size=options.size)
    cut = kinds[name]() if segmenter is None else segmenter.auto
    metrics = tuple(metric for metric in METRICS if metric in check_metrics(None))
    tally, seconds, both = AutoTally(PROTOCOL, metrics), [], []
    for number, sample in enumerate(samples_of(options)):
        image, truth = sample.read()
        started = time.perf_counter()
        result = cut(image)
        seconds.append(time.perf_counter() - started)
        tally.add(measure_sample(Recorded(result), sample, protocol=PROTOCOL, metrics=metrics))
        if segmenter is not None and isinstance(segmenter.parts.automatic, PmgCut):
            session = segmenter.open(image)
            with torch.no_grad():
                low = segmenter.parts.automatic.predict(image, session.embedding, session.frame).pre_mask
            pre_mask = frames.logits_to_image(low, session.frame)[0, 0].cpu().numpy()
            both.append(compare_pre_mask(soft_map(pre_mask), soft_map(result.logits), truth == 1))
        print(f"{name}: {number + 1} {sample.name}", file=sys.stderr, flush=True)
    parts = parameters_by_part(segmenter.parts.automatic.network.requires_grad_(True)) if both and segmenter is not None else {}
    answer.put((tally.metrics(), statistics.median(seconds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, both, parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--dataset", help="how it is laid out, see `fretsaw evaluate`")
    parser.add_argument("--split", type=Path)
    parser.add_argument("--limit", type=int, help="at most so many samples, spread evenly")
    parser.add_argument("--model", action="append", default=[], help="a PMG-SAM weight file or any model with an automatic mode; repeatable")
    parser.add_argument("--size", type=int, help="side of the image encoders' input; default: their own")
    parser.add_argument("--no-grid", action="store_true", help="leave the grid out, which takes minutes an image")
    parser.add_argument("--scatter", type=Path, help="draw final over pre-mask IoU of the first --model")
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    names = ["U²-Netp alone", "training-free cut", *([] if options.no_grid else ["SAM 2 grid, union"]), *options.model]
    rows: dict[str, Any] = {}
    context = multiprocessing.get_context("spawn")
    for name in names:
        answer = context.Queue()
        process = context.Process(target=measure, args=(name, options, answer))
        process.start()
        rows[name] = wait(process, answer, name)
    print(f"{options.data.resolve().name}, {options.split.name if options.split else 'all'}: {len(samples_of(options))} samples, protocol {PROTOCOL.name}")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}")
    shown = list(next(iter(rows.values()))[0])
    print(f"| method | {' | '.join(shown)} | median s | peak MB |\n|---|{'---|' * (len(shown) + 2)}")
    for name, (figures, seconds, memory, _both, _parts) in rows.items():
        print(f"| {Path(name).name} | {' | '.join(f'{figures[metric]:.4f}' for metric in shown)} | {seconds:.2f} | {memory:.0f} |")
    for name, (_figures, _seconds, _memory, both, parts) in rows.items():
        if len(both) > 1:
            print(f"{Path(name).name}: trained parameters {sum(parts.values()):,} {parts}; " + ", ".join(f"{k} {v:.3f}" for k, v in summarise(both).items()))
    scatter: list[PreMaskScores] = next((row[3] for row in rows.values() if row[3]), [])
    if options.scatter and scatter:
        plot_scatter(scatter, options.scatter)
    if options.report:
        options.report.write_text(json.dumps({name: {"metrics": row[0], "seconds": row[1], "MB": row[2]} for name, row in rows.items()}, indent=1))


def wait(process: Any, answer: Any, name: str) -> Any:
    """Return what the process answers, or end where it failed."""
    while process.is_alive() or not answer.empty():
        if not answer.empty():
            found = answer.get()
            process.join()
            return found
        time.sleep(0.2)
    sys.exit(f"{name} failed with exit status {process.exitcode}")


if __name__ == "__main__":
    main()
