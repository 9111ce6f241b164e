"""One run of HRSAM's recipe on tiny networks, as a program: tests kill it, and start it in several processes.

python hrsam_run.py PHOTOS OUT KEY=VALUE ...
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import fretsaw.recipes.hrsam.run as hrsam
from fretsaw.cli.train import configure
from fretsaw.methods.hrsam import build_hrsam
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.training.processes import launch
from tiny import tiny_teacher

SETTINGS = ["size=64", "encoder=t", "steps=12", "warmup=4", "rate=1e-3", "workers=0", "log_every=2", "save_every=0", "drop_path=0.2"]


def networks(config: hrsam.Config) -> tuple[SamClicks, SamClicks]:
    """Return student and teacher, the same in every process."""
    teacher = tiny_teacher(config.size)
    torch.manual_seed(1)
    student = SamClicks(build_hrsam(config.encoder, config.anchor or None), teacher.prompt_encoder, teacher.mask_decoder, teacher.preprocessing)
    for index, block in enumerate(student.image_encoder.blocks):
        block.drop_path.rate = config.drop_path * index / (len(student.image_encoder.blocks) - 1)
    return student, teacher


if __name__ == "__main__":
    torch.set_num_threads(1)
    config = configure(hrsam.Config, [f"photos={sys.argv[1]}", f"out={sys.argv[2]}", *SETTINGS, *sys.argv[3:]])
    print("steps", hrsam.train(config, *networks(config), processes=launch(config.devices, config.device)), flush=True)
