"""Table 4 and figure 9 of PMG-SAM at a small scale: the same short training for each variant, and the best validation of each.

    python experiments/pmg_sam/ablation.py --out runs/ablation \\
        --set data=../shared/data --set sets=human_seg --set size=256 --set epochs=4 --set warmup_epochs=0.5

Every variant trains in a folder of its own and is continued where it stopped; `--only fusion,injection` takes some of the groups.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from fretsaw.cli.train import configure
from fretsaw.recipes.pmg_sam.run import Config, run
from fretsaw.training.loop import read_log

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, for `benchmarks` and `experiments`

from benchmarks.interleave import machine, versions

GROUPS: dict[str, dict[str, dict[str, Any]]] = {
    "full": {"as configured": {}},
    "fusion": {"no fusion": {"fusion": "none"}, "residual fusion": {"fusion": "residual"}},
    "injection": {
        "no high-resolution features": {"injection": "none"},
        "of U²-Net": {"injection": "u2net"},
        "of both": {"injection": "both"},
        "of Hiera": {"injection": "hiera"},
    },
    "blocks": {f"{n} SRB": {"blocks": n} for n in (1, 2, 4)},
    "iterations": {f"M = {n}": {"iterations": n} for n in (2, 3, 5)},
    "interactions": {"1 BAIM": {"interactions": 1}, "3 BAIM": {"interactions": 3}, "one direction": {"directions": 1}},
    "loss": {f"IoU weight {n}": {"iou_weight": float(n)} for n in (5, 15)},
}
FIGURES = ("val/loss", "val/final IoU", "val/final MAE", "val/pre_mask IoU", "val/pre_mask MAE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default=",".join(GROUPS), help=f"groups out of {', '.join(GROUPS)}")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe pmg_sam; repeatable")
    options = parser.parse_args()
    rows = []
    for group in options.only.split(","):
        for name, change in GROUPS[group].items():
            folder = options.out / name.replace(" ", "_").replace("=", "")
            config = configure(Config, [*options.set, f"out={folder}"])
            run(replace(config, **change))
            best = min((line for line in read_log(folder) if "val/loss" in line), key=lambda line: line["val/loss"])
            rows.append((name, best))
    print(f"{' '.join(options.set)}; {machine()}, {versions()}; at the best validation loss")
    print(f"| variant | step | {' | '.join(figure.removeprefix('val/') for figure in FIGURES)} |\n|---|{'---|' * (len(FIGURES) + 1)}")
    for name, best in rows:
        print(f"| {name} | {best['step']} | {' | '.join(f'{best[figure]:.4f}' for figure in FIGURES)} |")


if __name__ == "__main__":
    main()
