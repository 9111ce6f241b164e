"""Compare automatic cuts on a data set: U²-Netp alone, the training-free first cut on the default model's embedding, and models by name.

    python benchmarks/auto_quality.py human_seg --split splits/human_seg_val.txt
    python benchmarks/auto_quality.py photos --limit 50 --model sam2-hiera-tiny --report photos.json

A plain folder has `images` and `masks` with equal stems; the object is whatever is not zero. Every row sees every image in turn, in an order that is shuffled
anew, and is timed as a whole: encoding, cutting, enlarging. Several truths of one image are cut once and scored each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from scipy.special import logit

import fretsaw
from fretsaw import catalog
from fretsaw.backbones.u2net import load_u2netp, saliency_map
from fretsaw.data.datasets import open_dataset
from fretsaw.data.layouts import read_list
from fretsaw.data.samples import Sample
from fretsaw.evaluation.auto import PROTOCOLS, AutoTally, measure_sample
from fretsaw.methods.first_cut import FirstCut
from fretsaw.segmentation import Segmentation

METRICS = ("IoU", "boundary IoU", "MAE", "max F", "weighted F", "S")
PROTOCOL = PROTOCOLS["pysod"]


@dataclass
class Row:
    """One method, what it measured so far, and its seconds per image."""

    auto: Callable[[np.ndarray], Segmentation]
    tally: AutoTally = field(default_factory=lambda: AutoTally(PROTOCOL, METRICS))
    records: list[dict] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


class Recorded:
    """A result that exists already, in the shape that the evaluation asks for."""

    def __init__(self, result: Segmentation) -> None:
        self.result = result

    def auto(self, image: np.ndarray) -> Segmentation:
        return self.result


def saliency_alone() -> Callable[[np.ndarray], Segmentation]:
    network = load_u2netp()
    return lambda image: Segmentation(logit(saliency_map(network, image).astype(np.float64).clip(1e-6, 1 - 1e-6)).astype(np.float32), 1.0)


def first_cut() -> Callable[[np.ndarray], Segmentation]:
    clicks = catalog.build(catalog.DEFAULT).clicks
    assert clicks is not None
    cut = FirstCut.build(clicks)

    def auto(image: np.ndarray) -> Segmentation:
        with torch.no_grad():
            embedding = clicks.encode(clicks.preprocessing.pixels_of(image))
        return cut(image, embedding, clicks.preprocessing.frame_of(image))

    return auto


def chosen(options: argparse.Namespace) -> list[Sample]:
    """The samples of the split, spread evenly over it where there is a limit on the images."""
    samples = list(open_dataset(options.data, options.dataset).samples)
    if options.split:
        listed = set(read_list(options.split))
        samples = [sample for sample in samples if sample.image.stem in listed]
    images = sorted({sample.image for sample in samples})
    if options.limit and options.limit < len(images):
        kept = {images[i * len(images) // options.limit] for i in range(options.limit)}
        samples = [sample for sample in samples if sample.image in kept]
    return sorted(samples, key=lambda sample: (sample.image, sample.name))


def run(rows: dict[str, Row], samples: list[Sample]) -> None:
    for number, (path, group) in enumerate(groupby(samples, key=lambda sample: sample.image)):
        truths = list(group)
        image = truths[0].read_image()
        names = list(rows)
        random.Random(number).shuffle(names)
        for name in names:
            row = rows[name]
            started = time.perf_counter()
            result = row.auto(image)
            row.seconds.append(time.perf_counter() - started)
            for sample in truths:
                record = measure_sample(Recorded(result), sample, protocol=PROTOCOL, metrics=METRICS)
                row.tally.add(record)
                row.records.append({"sample": sample.name, "score": record["score"], **{metric: record[metric] for metric in METRICS}})
        print(f"{number + 1} {path.name}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the data set")
    parser.add_argument("--dataset", help="how it is laid out, see `fretsaw evaluate`; default: by the folder's name")
    parser.add_argument("--split", type=Path, help="file with the stems of the images to take, one a line")
    parser.add_argument("--limit", type=int, help="at most so many images")
    parser.add_argument("--model", action="append", default=[], help="also this model's automatic mode; repeatable")
    parser.add_argument("--report", type=Path, help="write every sample's figures as JSON")
    options = parser.parse_args()
    rows = {"U²-Netp alone": Row(saliency_alone()), "first cut": Row(first_cut())}
    rows |= {name: Row(fretsaw.load(name).auto) for name in options.model}
    samples = chosen(options)
    run(rows, samples)
    print(f"{options.data.resolve().name}, {options.split.name if options.split else 'all'}: {len(samples)} truths")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"| method | {' | '.join(METRICS)} | median s |\n|---|{'---|' * (len(METRICS) + 1)}")
    for name, row in rows.items():
        figures = row.tally.metrics()
        print(f"| {name} | {' | '.join(f'{figures[metric]:.4f}' for metric in METRICS)} | {statistics.median(row.seconds):.2f} |")
    if options.report:
        options.report.write_text(json.dumps({name: {"metrics": row.tally.metrics(), "samples": row.records} for name, row in rows.items()}, indent=1))


if __name__ == "__main__":
    main()
