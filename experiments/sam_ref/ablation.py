"""SAM-REF's ablations on held-out objects: table 3's ladder, table 4's numbers of blocks, figure 3's IoU after 5, 10, 15 and 20 clicks.

    python experiments/sam_ref/ablation.py --refiner sam-ref --data ../shared/data/coco_mval \\
        --split ../shared/data/splits/coco_mval_test.txt --report ladder.json
    python experiments/sam_ref/ablation.py --rows whole --refiner runs/blocks1/refiner.safetensors --refiner runs/blocks3/refiner.safetensors ...      (table 4)

Rows of table 3: the decoder alone; GlobalDiff; GlobalDiff and PatchDiff pasted onto GlobalDiff's mask; the selector, PatchDiff pasted onto the mask before.
Behind them, "as used" by a session that does not zoom in: GlobalDiff from the fourth click on, no PatchDiff, and an answer that contradicts more clicks than
the decoder's gives way to the decoder's; the paper has none of these rules.
Every image is encoded once for all rows, and every object gets 20 clicks by the protocol sam. Several trained files (1, 3, 5, 8 blocks: `fretsaw train
sam_ref --set blocks=N`) come out as rows of their own, with GlobalDiff from the first click on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fretsaw import api, catalog
from fretsaw.evaluation.adapters import SessionPredictor
from fretsaw.evaluation.clicks import ClickTally, click_through, sample_rng
from fretsaw.evaluation.held_out import StoredOpener
from fretsaw.evaluation.overlap import boundary_iou
from fretsaw.evaluation.protocols import CURVE_TARGET, SAM
from fretsaw.images import read_image
from fretsaw.methods.sam_ref.model import SamRef
from fretsaw.types import RefinerState

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, for `benchmarks` and `experiments`

from experiments.objects import open_objects

SHOWN = ("NoC@90", "NoC@95", "NoF@95", "IoU@1", "IoU@5", "IoU@10", "IoU@15", "IoU@20")


class GlobalOnly:
    """Table 3, row 1: GlobalDiff's mask at every click."""

    def __init__(self, refiner: SamRef) -> None:
        self.refiner, self.map_scale = refiner, refiner.map_scale

    def prepare(self, pixels: Tensor, embedding: Any) -> Any:
        return self.refiner.prepare(pixels, embedding)

    def refine(self, features: Any, coords: Tensor, labels: Tensor, logits: Tensor, previous: Tensor | None, state: Any) -> tuple[Tensor, RefinerState[Tensor]]:
        return self.refiner.refine(features, coords, labels, logits, None, RefinerState())


class PatchOnGlobal(GlobalOnly):
    """Table 3, row 2: PatchDiff at every click that changed something, pasted onto GlobalDiff's mask."""

    def refine(self, features: Any, coords: Tensor, labels: Tensor, logits: Tensor, previous: Tensor | None, state: Any) -> tuple[Tensor, RefinerState[Tensor]]:
        around, after = self.refiner.refine(features, coords, labels, logits, None, RefinerState())
        if previous is None:
            return around, after
        # An error region that was empty before has grown: PatchDiff answers, on the mask before; what it changed there is taken over.
        empty = RefinerState(error_map=torch.full_like(self.refiner.enlarged(logits), -30.0))
        patched, _ = self.refiner.refine(features, coords, labels, logits, previous, empty)
        return torch.where(patched != previous, patched, around), after


def rows_of(files: list[Path], model: str, wanted: str) -> dict[str, Any]:
    rows: dict[str, Any] = {"decoder alone": None}
    for file in files:
        refiner = catalog.build_refiner(file, model).for_answers()
        name = f"{file.parent.name or file.name}, {refiner.config['blocks']} blocks, width {refiner.config['width']}"
        if wanted == "ladder":
            papers = catalog.build_refiner(file, model).for_answers()
            papers.heeds_clicks, papers.global_from, papers.patch_from = False, 1, 2
            rows |= {f"{name}: GD": GlobalOnly(papers), f"{name}: GD + PD": PatchOnGlobal(papers), f"{name}: GD + PD + selector": papers}
            rows[f"{name}: as used"] = refiner
        else:
            refiner.global_from = 1
            rows[f"{name}: GD, clicks heeded"] = refiner
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refiner", type=Path, action="append", required=True, help="sam-ref, or the file of a trained one; several for table 4")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", type=Path)
    parser.add_argument("--rows", choices=("ladder", "whole"), default="ladder", help="whole: the whole refiner only, for table 4")
    parser.add_argument("--model", default="sam2-hiera-tiny-clicks")
    parser.add_argument("--size", type=int)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    model = api.load(options.model, size=options.size, device=options.device).parts.clicks
    assert model is not None, "the catalogue's entry takes clicks"
    objects = open_objects(options.data, options.split)
    rows = rows_of(options.refiner, options.model, options.rows)
    for row in rows.values():
        getattr(row, "refiner", row).to(options.device) if row is not None else None
    tallies = {name: ClickTally() for name in rows}
    edges: dict[str, list[float]] = {name: [] for name in rows}
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    protocol = replace(SAM, target_iou=CURVE_TARGET)
    samples = list(objects.samples)[: options.limit]
    for i, sample in enumerate(samples):
        image, truth = sample.read()
        with torch.no_grad():
            embedding = model.encode(model.pixels_of(read_image(sample.image)))
        for name, row in rows.items():
            started = time.perf_counter()
            trace = click_through(SessionPredictor(StoredOpener(model, embedding, row)), image, truth, protocol, sample_rng(0, sample.name))
            seconds[name].append((time.perf_counter() - started) / len(trace.clicks))
            tallies[name].add({"ious": list(trace.ious)})
            edges[name].append(boundary_iou(trace.mask, truth == 1))
        print(f"{i + 1} of {len(samples)} objects", file=sys.stderr, flush=True)
    print(f"{len(samples)} objects of {objects.name}, 20 clicks each by the protocol sam, {options.model}")
    print("| row | " + " | ".join(SHOWN) + " | boundary IoU | a click, s |\n" + "|---" * (len(SHOWN) + 3) + "|")
    figures = {name: {key: tallies[name].metrics()[key] for key in SHOWN} | {"boundary IoU": statistics.mean(edges[name])} for name in rows}
    for name, values in figures.items():
        print(
            f"| {name} | "
            + " | ".join(f"{value:.4f}" if "IoU" in key else f"{value:.2f}" for key, value in values.items())
            + f" | {statistics.median(seconds[name]):.3f} |"
        )
    if options.report:
        options.report.write_text(json.dumps({"objects": [sample.name for sample in samples], "rows": figures}, indent=1))


if __name__ == "__main__":
    main()
