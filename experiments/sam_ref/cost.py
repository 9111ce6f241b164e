"""What SAM-REF costs, with and without the refiner in one interleaved run: SPC, SAT latency, the parts of a click.

    python experiments/sam_ref/cost.py --data ../shared/data/coco_mval --split ../shared/data/splits/coco_mval_val.txt --photos 12 --report sam_ref.json
    python experiments/sam_ref/cost.py --data ... --refiner runs/sam_ref/refiner.safetensors --sat 3 --dtype bfloat16

Without --refiner the widths 64 and 32 run with random weights: their time depends on the weights only through the masks that are made, so figures to
report come from a trained refiner. Rows:

    decoder            SAM 2 alone
    width N, as used   with the refiner, which answers from the fourth click on
    width N            at every click, by the paper's rules; what depends on the image alone is kept from click to click
    width N, again     the same, the image branch computed at every click, as the paper's is
    width N, whole map GlobalDiff on the whole map, as the paper's is, not only where the decoder is not sure

SPC = (encoding + 20 clicks) / 20 (sections 4.1.3 and 4.1.4); ratios are taken photo by photo against the decoder, medians are shown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fretsaw import api, catalog
from fretsaw.evaluation.adapters import DecoderPredictor, SessionPredictor
from fretsaw.evaluation.protocols import SAM
from fretsaw.evaluation.timing import sat_latency, seconds_per_click
from fretsaw.methods.sam_clicks import best_of_three
from fretsaw.methods.sam_ref.model import SamRef
from fretsaw.types import ImageEmbedding, RefinerState

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, for `benchmarks` and `experiments`

from benchmarks.interleave import machine, median_ratio, order, versions
from experiments.objects import open_objects

LEVELS = (32, 64)
"""Channels of SAM 2's finer maps, for refiners with random weights."""


@dataclass(frozen=True)
class Unprepared:
    """An image and its embedding, as they come."""

    pixels: torch.Tensor
    embedding: ImageEmbedding

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes + self.embedding.nbytes


class PreparedAgain:
    """A refiner that keeps nothing of the image: the paper's way."""

    def __init__(self, refiner: SamRef) -> None:
        self._refiner, self.map_scale = refiner, refiner.map_scale

    def prepare(self, pixels: torch.Tensor, embedding: ImageEmbedding) -> Unprepared:
        return Unprepared(pixels, embedding)

    def refine(self, features: Unprepared, *asked: Any) -> tuple[torch.Tensor, RefinerState[torch.Tensor]]:
        return self._refiner.refine(self._refiner.prepare(features.pixels, features.embedding), *asked)


def refiners(file: str | None, model: str, widths: list[int], device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Return what is timed beside the decoder alone, name -> refiner."""
    found: dict[str, Any] = {}
    for width in widths:
        if file:
            learned = catalog.build_refiner(file, model)
        else:
            torch.manual_seed(0)
            learned = SamRef(width, levels=LEVELS)
        used, refiner, whole = (learned.to(device).for_answers(dtype) for _ in range(3))
        refiner.global_from = whole.global_from = 1
        refiner.patch_from = whole.patch_from = 2
        whole.sure_logit = float("inf")
        name = f"width {refiner.config['width']}"
        found |= {f"{name}, as used": used, name: refiner, f"{name}, again": PreparedAgain(refiner), f"{name}, whole map": whole}
        if file:
            break
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of objects, as `fretsaw evaluate clicks` takes it")
    parser.add_argument("--split", type=Path, help="stems of the images to use")
    parser.add_argument("--model", default="sam2-hiera-tiny")
    parser.add_argument("--refiner", help="sam-ref, or a trained refiner's file; without, random weights")
    parser.add_argument("--widths", default="64,32")
    parser.add_argument("--size", type=int, help="side of the model's input; the model's own by default")
    parser.add_argument("--photos", type=int, default=12)
    parser.add_argument("--sat", type=int, default=0, help="also SAT latency, so many interleaved rounds: 256 single points on one photo each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="of the image encoder and the refiner")
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    segmenter = api.load(options.model, size=options.size, device=options.device, dtype=options.dtype, zoom=False)
    model = segmenter.parts.clicks
    assert model is not None, "the catalogue's entry takes clicks"
    objects = open_objects(options.data, options.split)
    samples = list(objects.samples)[: options.photos]
    widths = [int(width) for width in options.widths.split(",")]
    rows: dict[str, Any] = {"decoder": None} | refiners(options.refiner, options.model, widths, options.device, api.resolve_dtype(options.dtype))
    synchronise = torch.cuda.synchronize if options.device.startswith("cuda") else lambda: None
    times: dict[str, list[dict[str, float]]] = {name: [] for name in rows}
    for i, sample in enumerate(samples):
        for name in order(rows, i):
            predictor = SessionPredictor(api.Segmenter(options.model, segmenter.parts, rows[name]))
            times[name].append(seconds_per_click(predictor, [sample], SAM, synchronise, warm_up=1 if i == 0 else 0))
        print(f"photo {i + 1} of {len(samples)}", file=sys.stderr, flush=True)
    image = samples[0].read_image()
    sat: dict[str, list[float]] = {name: [] for name in rows}
    for i in range(options.sat):
        for name in order(rows, i):
            sat[name].append(sat_latency(DecoderPredictor(model, best_of_three, refiner=rows[name]), image, synchronise))
        print(f"SAT round {i + 1} of {options.sat}", file=sys.stderr, flush=True)
    weights = f"weights of {options.refiner}" if options.refiner else "random refiner weights"
    print(f"{machine(options.device)}, {versions()}; {options.model}, {weights}; {len(samples)} objects of {objects.name},")
    print(f"20 clicks each by the protocol sam, encoder and refiner in {options.dtype}")
    print("| row | SPC, s | ratio | a click alone, s | ratio | opening, s | SAT latency, s | ratio |\n|---|---|---|---|---|---|---|---|")
    for name, measured in times.items():
        cells = []
        for key in ("SPC", "SPC clicks alone"):
            seconds, base = ([one[key] for one in found] for found in (measured, times["decoder"]))
            cells += [f"{statistics.median(seconds):.3f}", f"{median_ratio(seconds, base):.2f}"]
        cells.append(f"{statistics.median(one['encoding'] for one in measured):.3f}")
        cells += [f"{statistics.median(sat[name]):.1f}", f"{median_ratio(sat[name], sat['decoder']):.2f}"] if options.sat else ["", ""]
        print(f"| {name} | {' | '.join(cells)} |")
    if options.report:
        options.report.write_text(json.dumps({"machine": machine(options.device), "versions": versions(), "rows": times, "SAT latency": sat}, indent=1))


if __name__ == "__main__":
    main()
