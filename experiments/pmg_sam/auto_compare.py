"""Automatic cuts side by side on the same held-out images: U²-Netp alone, the training-free cut, SAM 2's grid, and models by name or file.

On request also IS-Net (`python experiments/pmg_sam/isnet.py isnet.onnx` fetches it), and SAM 2 prompted with the truth's box, which is told where to look.

    python experiments/pmg_sam/auto_compare.py ../shared/data/ccp --dataset folder --split ../shared/data/splits/ccp_val.txt --limit 50 --no-grid
    python experiments/pmg_sam/auto_compare.py ../shared/data/human_seg --split ../shared/data/splits/human_seg_val.txt --model runs/pmg/best.safetensors --box
    python experiments/pmg_sam/auto_compare.py data/DIS5K --dataset dis5k-te2 --model runs/pmg/best.safetensors --isnet isnet.onnx --box   (table 2, a column)
    python experiments/pmg_sam/auto_compare.py DATA --model a.safetensors --model b.safetensors --no-grid --scatter pre_mask.png   (ablations, figure 10)

The grid's many masks become one map by the union of those that lie in the pre-mask's box: U²-Netp's map above one half gives the box, a mask counts whose
box has at least 0.8 of its area inside and which covers at least 0.02 of it. Every row runs in a process of its own, so that its peak memory is its own;
seconds are of the whole cut, encoding included, and the median is printed. Several truths of one image are cut once and scored each. With a PMG-SAM model its
pre-mask is measured as well, and `--scatter` draws the final mask's IoU over the pre-mask's.

Source: PMG-SAM (paper 001), tables 1, 2, 4 and 5, figure 10.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
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
from fretsaw.data.samples import Sample
from fretsaw.evaluation.auto import PROTOCOLS, AutoTally, check_metrics, measure_sample, soft_map
from fretsaw.masks import mask_to_box
from fretsaw.methods.first_cut import FirstCut
from fretsaw.methods.grid import GridMasks
from fretsaw.methods.pmg_sam.cut import PmgCut
from fretsaw.segmentation import Segmentation

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, for `benchmarks` and `experiments`

from benchmarks.interleave import machine, peak, versions
from experiments.grid_mode import sam_crops
from experiments.pmg_sam.parameters import parameters_by_part
from experiments.pmg_sam.pre_mask import PreMaskScores, compare_pre_mask, plot_scatter, summarise

PROTOCOL = PROTOCOLS["pysod"]
SAM2 = "sam2-hiera-tiny"
"""Under the rows that have no model of their own."""

GRID, BOX, ISNET = "SAM 2 grid, union", "SAM 2, the truth's box", "IS-Net"
METRICS = ("max F", "weighted F", "MAE", "S", "mean E", "HCE", "IoU", "boundary IoU")
Cut = Callable[[np.ndarray, Sequence[Sample]], Segmentation]
"""An image (H, W, 3) uint8 RGB, and its truths for a cut that is told more than others, -> its mask."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one method measured.

    Attributes:
        metrics: Over all samples.
        samples: Each sample's own.
        seconds: Median of a cut's.
        memory: The process's peak, MB.
        pre_masks: With PMG-SAM: each sample's pre-mask beside its final mask.
        parameters: With PMG-SAM: trained parameters by part.
    """

    metrics: dict[str, float]
    samples: list[dict[str, Any]]
    seconds: float
    memory: float
    pre_masks: list[PreMaskScores]
    parameters: dict[str, int]


class Recorded:
    """A result that exists already, in the shape that the evaluation asks for."""

    def __init__(self, result: Segmentation) -> None:
        self.result = result

    def auto(self, image: np.ndarray) -> Segmentation:
        return self.result


def saliency_alone() -> Cut:
    network = load_u2netp()
    return lambda image, truths: Segmentation(logit(saliency_map(network, image).astype(np.float64).clip(1e-6, 1 - 1e-6)).astype(np.float32), 1.0)


def training_free(size: int | None) -> Cut:
    clicks = fretsaw.load(SAM2, size=size).parts.clicks
    assert clicks is not None
    cut = FirstCut.build(clicks)

    def auto(image: np.ndarray, truths: Sequence[Sample]) -> Segmentation:
        with torch.no_grad():
            return cut(image, clicks.encode(clicks.pixels_of(image)), clicks.preprocessing.frame_of(image))

    return auto


def grid_union(size: int | None) -> Cut:
    """SAM 2's grid of 32 x 32 clicks as one map, by the rule above."""
    clicks, network, grid = fretsaw.load(SAM2, size=size).parts.clicks, load_u2netp(), GridMasks()
    assert clicks is not None

    def auto(image: np.ndarray, truths: Sequence[Sample]) -> Segmentation:
        x0, y0, x1, y1 = mask_to_box(saliency_map(network, image) > 0.5)
        union = np.zeros(image.shape[:2], bool)
        for mask in (found.mask for found in grid.generate(image, sam_crops(clicks))):
            inside = mask[y0:y1, x0:x1].sum()
            if inside >= 0.8 * mask.sum() and inside >= 0.02 * (x1 - x0) * (y1 - y0):
                union |= mask
        return Segmentation(np.where(union, 10.0, -10.0).astype(np.float32), 1.0)

    return auto


def boxed(size: int | None) -> Cut:
    """SAM 2 prompted with the box around all truths of the image."""
    segmenter = fretsaw.load(SAM2, size=size)

    def cut(image: np.ndarray, truths: Sequence[Sample]) -> Segmentation:
        box = mask_to_box(np.any([sample.read()[1] == 1 for sample in truths], axis=0))
        return segmenter.open(image).box(*box)

    return cut


def dichotomous(path: Path) -> Cut:
    from experiments.pmg_sam.isnet import isnet

    cut = isnet(path, torch.get_num_threads())
    return lambda image, truths: cut(image)


def samples_of(options: argparse.Namespace) -> list[Sample]:
    """The samples of the split, those of one image together; spread evenly over it where there is a limit on the images."""
    samples = list(open_dataset(options.data, options.dataset).samples)
    if options.split:
        listed = set(read_list(options.split))
        samples = [sample for sample in samples if sample.image.stem in listed]
    images = sorted({sample.image for sample in samples})
    if options.limit and options.limit < len(images):
        images = [images[i * len(images) // options.limit] for i in range(options.limit)]
    kept = set(images)
    return sorted((sample for sample in samples if sample.image in kept), key=lambda sample: (sample.image, sample.name))


def measure(name: str, options: argparse.Namespace, answer: Any) -> None:
    """Measure one row; runs in a process of its own."""
    kinds: dict[str, Callable[[], Cut]] = {
        "U²-Netp alone": saliency_alone,
        "training-free cut": lambda: training_free(options.size),
        GRID: lambda: grid_union(options.size),
        BOX: lambda: boxed(options.size),
        ISNET: lambda: dichotomous(options.isnet),
    }
    segmenter = None if name in kinds else fretsaw.load(name, size=options.size)
    cut = kinds[name]() if segmenter is None else lambda image, truths: segmenter.auto(image)
    metrics = tuple(metric for metric in METRICS if metric in check_metrics(None))
    automatic = None if segmenter is None else segmenter.parts.automatic
    tally, records, seconds, pre_masks = AutoTally(PROTOCOL, metrics), [], [], []
    for number, (path, group) in enumerate(groupby(samples_of(options), key=lambda sample: sample.image)):
        truths = list(group)
        image = truths[0].read_image()
        started = time.perf_counter()
        result = cut(image, truths)
        seconds.append(time.perf_counter() - started)
        for sample in truths:
            record = measure_sample(Recorded(result), sample, protocol=PROTOCOL, metrics=metrics)
            tally.add(record)
            records.append({"sample": sample.name, "score": record["score"], **{metric: record[metric] for metric in metrics}})
        if segmenter is not None and isinstance(automatic, PmgCut):
            session = segmenter.open(image)
            with torch.no_grad():
                low = automatic.predict(image, session.embedding, session.frame).pre_mask
            pre_mask = frames.logits_to_image(low.cpu().numpy(), session.frame)[0, 0]
            pre_masks += [compare_pre_mask(soft_map(pre_mask), soft_map(result.logits), sample.read()[1] == 1) for sample in truths]
        print(f"{name}: {number + 1} {path.name}", file=sys.stderr, flush=True)
    parameters = parameters_by_part(automatic.network.requires_grad_(True)) if isinstance(automatic, PmgCut) else {}
    memory = peak() / 2**20
    answer.put(Row(tally.metrics(), records, statistics.median(seconds), memory, pre_masks, parameters))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--dataset", help="how it is laid out, see `fretsaw evaluate`")
    parser.add_argument("--split", type=Path)
    parser.add_argument("--limit", type=int, help="at most so many images, spread evenly")
    parser.add_argument("--model", action="append", default=[], help="a PMG-SAM weight file or any model with an automatic mode; repeatable")
    parser.add_argument("--size", type=int, help="side of the image encoders' input; default: their own")
    parser.add_argument("--no-grid", action="store_true", help="leave the grid out, which takes minutes an image")
    parser.add_argument("--box", action="store_true", help="SAM 2 prompted with the truth's box as well")
    parser.add_argument("--isnet", type=Path, help="IS-Net's ONNX file, to compare with")
    parser.add_argument("--scatter", type=Path, help="draw final over pre-mask IoU of the first --model")
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    rest = [*([] if options.no_grid else [GRID]), *([BOX] if options.box else []), *([ISNET] if options.isnet else [])]
    names = ["U²-Netp alone", "training-free cut", *rest, *options.model]
    rows: dict[str, Row] = {}
    context = multiprocessing.get_context("spawn")
    for name in names:
        answer = context.Queue()
        process = context.Process(target=measure, args=(name, options, answer))
        process.start()
        rows[name] = wait(process, answer, name)
    print(f"{options.data.resolve().name}, {options.split.name if options.split else 'all'}: {len(samples_of(options))} samples, protocol {PROTOCOL.name}")
    print(f"{machine()}, {versions()}")
    shown = list(next(iter(rows.values())).metrics)
    print(f"| method | {' | '.join(shown)} | median s | peak MB |\n|---|{'---|' * (len(shown) + 2)}")
    for name, row in rows.items():
        print(f"| {Path(name).name} | {' | '.join(f'{row.metrics[metric]:.4f}' for metric in shown)} | {row.seconds:.2f} | {row.memory:.0f} |")
    for name, row in rows.items():
        if len(row.pre_masks) > 1:
            trained = f"trained parameters {sum(row.parameters.values()):,} {row.parameters}"
            print(f"{Path(name).name}: {trained}; " + ", ".join(f"{key} {value:.3f}" for key, value in summarise(row.pre_masks).items()))
    scatter: list[PreMaskScores] = next((row.pre_masks for row in rows.values() if row.pre_masks), [])
    if options.scatter and scatter:
        plot_scatter(scatter, options.scatter)
    if options.report:
        report = {name: {"metrics": row.metrics, "seconds": row.seconds, "MB": row.memory, "samples": row.samples} for name, row in rows.items()}
        options.report.write_text(json.dumps(report, indent=1))


def wait(process: Any, answer: Any, name: str) -> Row:
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
