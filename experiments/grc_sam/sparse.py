"""Time GrC-SAM's window block and its whole fine stage against the share rho of what is active, each pair interleaved with the dense form.

    python experiments/grc_sam/sparse.py --picture sparse.png
    python experiments/grc_sam/sparse.py --width 256 --pairs 30 --device cuda

The active part is a disc about the middle. A pair runs the sparse and the dense form once each, in an order that is drawn anew; the table shows medians and the
median of the pairs' ratios. The stage counts everything: enlarging, the dense 3 x 3 convolution, both blocks, scores and threshold. Before anything is timed,
both forms are compared on the active tokens. The last columns are what equations 13 to 15 of the paper count for one block, in billions of operations.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch
from torch import Tensor

from fretsaw.methods.grc_sam.fine import SCALE, WINDOW, FineStage, token_scores
from fretsaw.methods.grc_sam.windows import active_windows, tokens_of

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, for `benchmarks` and `experiments`

from benchmarks.interleave import interleaved, machine, median_ratio, versions

RHOS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)


def disc(side: int, rho: float, device: str) -> Tensor:
    """Return a map (1, 1, side, side) of 1 in a disc that covers about a share rho, 0 elsewhere."""
    y, x = torch.meshgrid(*(torch.arange(side, device=device) - (side - 1) / 2,) * 2, indexing="ij")
    distance = (x.square() + y.square()).flatten()
    inside = torch.zeros(side * side, device=device)
    inside[distance.argsort()[: max(1, round(rho * side * side))]] = 1.0
    return inside.view(1, 1, side, side)


def dense_stage(stage: FineStage, features: Tensor, coarse: Tensor) -> Tensor:
    """Run the fine stage with every window computed."""
    tokens, guide, grid = stage.enter(features, coarse)
    tokens = stage.shifted.dense(stage.plain.dense(tokens, guide, grid), guide, grid)
    every = torch.ones_like(guide, dtype=torch.bool)
    scores = token_scores(tokens, every)
    return scores - stage.selector(scores, every)


def formulas(tokens: int, width: int, rho: float) -> dict[str, float]:
    """Return equations 13, 14 and 15 in 10^9; 14 and 15 with the factor C that Swin's own formula has in its second term and the paper leaves out."""
    projections = 4 * tokens * width**2
    return {
        "MSA": (projections + 2 * tokens**2 * width) / 1e9,
        "W-MSA": (projections + 2 * WINDOW**2 * tokens * width) / 1e9,
        "W-SSA": (projections + 2 * rho * WINDOW**2 * tokens * width) / 1e9,
    }


@torch.no_grad()
def row(stage: FineStage, features: Tensor, rho: float, count: int, device: str) -> dict[str, float]:
    coarse = disc(features.shape[-1], rho, device)
    tokens, guide, grid = stage.enter(features, coarse)
    block, places = stage.plain, stage.plain.places((SCALE * features.shape[2], SCALE * features.shape[3])).to(device)
    active = torch.ones(1, len(places), dtype=torch.bool, device=device) if rho >= 1 else active_windows(places, guide)
    computed = tokens_of(places, active, tokens.shape[1])
    difference = float((block(tokens, guide, grid, active) - block.dense(tokens, guide, grid))[computed].abs().max())
    wanted = active_windows(stage.shifted.places(grid).to(device), guide)
    refined, used = stage.refine(tokens, guide, grid, wanted)
    both = stage.shifted.dense(stage.plain.dense(tokens, guide, grid), guide, grid)
    difference = max(difference, float((refined - both)[used].abs().max()))
    if difference > 1e-4:
        sys.exit(f"rho {rho}: the sparse form differs from the dense one by {difference}")
    blocks = {"sparse": lambda: block(tokens, guide, grid, active), "dense": lambda: block.dense(tokens, guide, grid)}
    stages = {"sparse": lambda: stage(features, coarse), "dense": lambda: dense_stage(stage, features, coarse)}
    block_times, stage_times = (interleaved(calls, count, warm=2, device=device, label=None) for calls in (blocks, stages))
    return {
        "rho": rho,
        "windows": float(active.float().mean()),
        "block ms": 1e3 * statistics.median(block_times["sparse"]),
        "dense block ms": 1e3 * statistics.median(block_times["dense"]),
        "block ratio": median_ratio(block_times["sparse"], block_times["dense"]),
        "stage ms": 1e3 * statistics.median(stage_times["sparse"]),
        "dense stage ms": 1e3 * statistics.median(stage_times["dense"]),
        "stage ratio": median_ratio(stage_times["sparse"], stage_times["dense"]),
        "largest difference": difference,
        **formulas(tokens.shape[1], tokens.shape[2], float(active.float().mean())),
    }


def draw(rows: list[dict[str, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name in ("block ratio", "stage ratio"):
        axes.plot([row["windows"] for row in rows], [row[name] for row in rows], marker="o", label=name.removesuffix(" ratio"))
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="proportional")
    axes.set(xlabel="share of windows computed", ylabel="time over the dense form's", xlim=(0, 1), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64, help="channels of the generator")
    parser.add_argument("--side", type=int, default=64, help="side of the coarse grid: 64 for images of 1024")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--rho", type=float, nargs="*", default=list(RHOS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--picture", type=Path, help="draw the curves")
    parser.add_argument("--report", type=Path, help="write the rows as JSON")
    options = parser.parse_args()
    torch.manual_seed(0)
    stage = FineStage(options.width).eval().to(options.device)
    features = torch.randn(1, options.width, options.side, options.side, device=options.device)
    print(f"{machine(options.device)}, {versions()}; width {options.width}, {SCALE * options.side}² fine tokens, ")
    print(f"windows of {WINDOW}, {options.pairs} interleaved pairs\n")
    rows = []
    for rho in options.rho:
        rows.append(row(stage, features, rho, options.pairs, options.device))
        if len(rows) == 1:
            print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
        shown = (f"{value:.1e}" if name == "largest difference" else f"{value:.3g}" for name, value in rows[-1].items())
        print("| " + " | ".join(shown) + " |", flush=True)
    if options.picture:
        draw(rows, options.picture)
    if options.report:
        options.report.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
