"""One run of SAM-REF's recipe on a tiny model, as a program: tests start it in several processes.

python sam_ref_run.py OUT KEY=VALUE ...
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import fretsaw.recipes.sam_ref.run as sam_ref
from fretsaw import catalog
from fretsaw.cli.train import configure
from fretsaw.methods.sam_ref import networks
from tiny import tiny_sam2

SETTINGS = ["size=128", "width=8", "blocks=1", "crop=0", "crops=4", "clicks=1", "held_out=0", "workers=0", "steps=1", "warmup=0", "weight_decay=0", "rate=1e-3"]


def run(out: Path, *settings: str) -> int:
    """Run the recipe on the tiny model, the same in every process."""
    return sam_ref.run(configure(sam_ref.Config, [f"out={out}", *SETTINGS, *settings]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    networks.CROP_SIZE = 32  # PatchDiff at its own size would take most of the time
    catalog.build = lambda name, size: catalog.Parts(clicks=tiny_sam2(size))
    print("steps", run(Path(sys.argv[1]), *sys.argv[2:]), flush=True)
