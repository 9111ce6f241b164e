"""What each part of fretsaw-hr brings on trained weights: table 3 of HRSAM with its NoC column, and how near the masks come to SAM 2's.

    python experiments/hrsam/trained.py measure runs/hr/model.safetensors DATA/coco_mval --split DATA/splits/coco_mval_val.txt --report hr.jsonl
    python experiments/hrsam/trained.py measure ... --size 2048 --limit 8 --report hr2048.jsonl
    python experiments/hrsam/trained.py table hr.jsonl

Every object is measured by all rows on the same picture: SAM 2 Hiera-T with its global attention; the trained encoder; and the trained encoder without some
of its parts. Each row is clicked by the protocol `sam` up to 20 times, and compared with SAM 2 at random clicks. What comes before the first changed block
is computed once for all rows. The report has a line an object and a run goes on where it was interrupted.

`table` gives means, and the differences to the last row with intervals of 95 % by the bootstrap over objects.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fretsaw import catalog
from fretsaw.data.datasets import open_dataset, split
from fretsaw.data.layouts import read_list
from fretsaw.evaluation.adapters import DecoderPredictor
from fretsaw.evaluation.clicks import click_through, sample_rng
from fretsaw.evaluation.predictors import wrap
from fretsaw.evaluation.protocols import SAM
from fretsaw.methods.fretsaw_hr import HighResolutionEncoder, HighResolutionParts, without
from fretsaw.methods.sam_clicks import SamClicks, best_of_three
from fretsaw.recipes.fretsaw_hr.data import ENTRY, seen
from fretsaw.training.losses import standardised_mse
from fretsaw.training.prompt_losses import random_prompts
from fretsaw.types import ImageEmbedding

WHOLE = "fretsaw-hr"
"""The row that all others are compared with."""

ROWS: dict[str, dict[str, bool]] = {
    "windows": {"padding": False, "scan": False, "anchor": False},
    "+ KV padding": {"scan": False, "anchor": False},
    "+ cycle-scan": {"anchor": False},
    "without cycle-scan": {"scan": False},
    WHOLE: {},
}
"""What is left of the trained encoder, row by row."""


class Remembered(torch.nn.Module):
    """Stands where an image encoder would and gives an embedding that was made before."""

    def __init__(self, embedding: ImageEmbedding) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.embedding = embedding
        self.available_taps = ()

    def forward(self, pixels: torch.Tensor, taps: object = ()) -> ImageEmbedding:
        return self.embedding


def embeddings_of(image: np.ndarray, teacher: SamClicks, rows: Mapping[str, HighResolutionEncoder]) -> dict[str, ImageEmbedding]:
    """Return every row's embedding of a picture."""
    view = seen(teacher, torch.from_numpy(teacher.preprocessing.pixels_of(image)))
    plain = ImageEmbedding(view.final, view.high_res)
    with torch.no_grad():
        made = {name: ImageEmbedding(encoder.rest(view.taps[ENTRY], encoder.changed[0]), view.high_res) for name, encoder in rows.items()}
    return {"SAM 2, global": plain, **made}


def noc(ious: tuple[float, ...], target: float) -> int:
    """Return the clicks to a target, 20 where it is not reached."""
    return next((number for number, value in enumerate(ious, 1) if value >= target), SAM.max_clicks)


def overlaps(teacher: SamClicks, theirs: ImageEmbedding, mine: ImageEmbedding, seed: int) -> list[float]:
    """Return the IoU of masks with SAM 2's at random clicks, all four masks of six prompt sets; empty pairs are left out."""
    coords, labels = random_prompts(1, 6, teacher.preprocessing.size, torch.Generator().manual_seed(seed))
    prompt = teacher.embed_prompt(coords[0], labels[0])
    with torch.no_grad():
        ours, goal = (teacher.decode(embedding, prompt)[0] > 0 for embedding in (mine, theirs))
    union = (ours | goal).sum((-2, -1))
    return ((ours & goal).sum((-2, -1)) / union.clamp(min=1))[union > 0].tolist()


def measure(options: argparse.Namespace) -> None:
    """Measure the objects that the report lacks."""
    torch.set_num_threads(options.threads)
    base: Any = catalog.build("sam2-hiera-tiny", size=options.size).clicks
    trained = catalog.build_file(options.weights, options.size).clicks
    assert trained is not None
    encoder: Any = trained.image_encoder
    rows = {name: without(encoder, **parts) for name, parts in ROWS.items()}
    rows["windows, SAM 2's layers"] = HighResolutionEncoder(copy.deepcopy(base.image_encoder), HighResolutionParts(anchor=0, state_size=0)).eval()
    rows["anchor map, SAM 2's layers"] = HighResolutionEncoder(copy.deepcopy(base.image_encoder), HighResolutionParts(state_size=0)).eval()
    if options.rows:
        rows = {name: rows[name] for name in options.rows}
    dataset = open_dataset(options.data)
    samples = (split(dataset, read_list(options.split), options.split.stem) if options.split else dataset).samples
    done = {json.loads(line)["name"] for line in options.report.read_text().splitlines()} if options.report.exists() else set()
    protocol = replace(SAM, max_clicks=options.clicks) if options.clicks else None
    for number, sample in enumerate(samples[:: options.every][: options.limit]):
        if sample.name in done:
            continue
        image, truth = sample.read()
        made = embeddings_of(image, base, rows)
        line: dict[str, Any] = {"name": sample.name, "area": int((truth == 1).sum()), "height": truth.shape[0], "width": truth.shape[1], "rows": {}}
        for name, embedding in made.items():
            facts: dict[str, Any] = {}
            if name != "SAM 2, global":
                facts["distance"] = standardised_mse(embedding.final, made["SAM 2, global"].final).item()
                facts["overlaps"] = overlaps(base, made["SAM 2, global"], embedding, number)
            if protocol is not None:
                model = base.with_encoder(Remembered(embedding), base.preprocessing, "")
                predictor = wrap(DecoderPredictor(model, best_of_three), protocol)
                facts["ious"] = click_through(predictor, image, truth, protocol, sample_rng(0, sample.name)).ious
            line["rows"][name] = facts
        with options.report.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(sample.name, {name: round(float(np.mean(facts.get("overlaps", [1.0]))), 3) for name, facts in line["rows"].items()}, flush=True)


def interval(values: np.ndarray) -> str:
    """Return a mean with its interval of 95 % by the bootstrap."""
    drawn = values[np.random.default_rng(0).integers(len(values), size=(4000, len(values)))].mean(axis=1)
    return f"{values.mean():+.3f} ({np.quantile(drawn, 0.025):+.3f} to {np.quantile(drawn, 0.975):+.3f})"


def table(options: argparse.Namespace) -> None:
    """Print means of the rows and their differences to the whole."""
    lines = [json.loads(text) for path in options.reports for text in path.read_text().splitlines()]
    print(f"{len(lines)} objects")
    print(
        "| row | distance | mask IoU with SAM 2, mean / median | NoC90 | NoC95 | IoU after 1, 5 clicks | NoC95 more than whole |\n|---|---|---|---|---|---|---|"
    )
    for name in lines[0]["rows"]:
        facts = [line["rows"][name] for line in lines]
        near = [f"{np.mean([row['distance'] for row in facts]):.4f}", ""] if "distance" in facts[0] else ["0", "1"]
        if "overlaps" in facts[0]:
            values = np.concatenate([row["overlaps"] for row in facts])
            near[1] = f"{values.mean():.3f} / {np.median(values):.3f}"
        clicks = ["", "", "", ""]
        if "ious" in facts[0]:
            counts = {target: np.array([noc(tuple(row["ious"]), target) for row in facts], float) for target in (0.9, 0.95)}
            whole = np.array([noc(tuple(line["rows"][WHOLE]["ious"]), 0.95) for line in lines], float)
            after = [np.mean([row["ious"][min(k, len(row["ious"])) - 1] for row in facts]) for k in (1, 5)]
            clicks = [f"{counts[0.9].mean():.2f}", f"{counts[0.95].mean():.2f}", f"{after[0]:.3f}, {after[1]:.3f}", interval(counts[0.95] - whole)]
        print(f"| {name} | {' | '.join([*near, *clicks])} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("measure")
    one.add_argument("weights", type=Path)
    one.add_argument("data", type=Path)
    one.add_argument("--split", type=Path)
    one.add_argument("--report", type=Path, required=True)
    one.add_argument("--size", type=int, default=1024)
    one.add_argument("--limit", type=int)
    one.add_argument("--every", type=int, default=1, help="take every n-th object only")
    one.add_argument("--rows", nargs="*")
    one.add_argument("--clicks", type=int, default=20, help="0 compares with SAM 2 only")
    one.add_argument("--threads", type=int, default=1)
    one.set_defaults(run=measure)
    two = commands.add_parser("table")
    two.add_argument("reports", type=Path, nargs="+")
    two.set_defaults(run=table)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
