"""The command line over models that take no time to load: python quick_fretsaw.py ARGUMENTS... does what `fretsaw ARGUMENTS...` does.

Fault tests start it many times and kill it. Each image, sample, step and file takes a moment here, so that a kill can fall between any two of them.

- `auto` cuts out what is brighter than 127, without a network.
- `evaluate auto ... --model quick` measures that cut.
- `train quick` fits a line; its recipe is made here.
- `models pull quick` converts a published package of two files that the test wrote (QUICK_PACKAGE); the registry's client is on the test's PATH.
"""

from __future__ import annotations

import atexit
import itertools
import os
import resource
import signal
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

MOMENT = 0.03
"""Seconds that one item takes."""


class Quick:
    """What the commands ask of a loaded model."""

    name = "quick"

    def __init__(self) -> None:
        from fretsaw.catalog.entries import Parts

        self.parts = Parts(automatic=self.auto)  # pyright: ignore[reportArgumentType]
        self.refiner = None
        self.cuts = 0
        if "QUICK_HANGS" in os.environ:
            atexit.register(time.sleep, float(os.environ["QUICK_HANGS"]))

    def auto(self, image: Any, instances: bool = False) -> Any:
        from fretsaw.images import read_image
        from fretsaw.segmentation import Segmentation

        pixels = read_image(image)
        time.sleep(MOMENT)
        self.cuts += 1
        if self.cuts == int(os.environ.get("QUICK_SWALLOWED", 0)):
            Dropped()
        if self.cuts == int(os.environ.get("QUICK_TURNED", 0)):
            turn_an_interrupt_into_an_error()
        return Segmentation(pixels.mean(2).astype(np.float32) - 127.5, 0.9, image=pixels)


def turn_an_interrupt_into_an_error() -> None:
    """What a library does that wraps whatever its callback raises."""
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
    except KeyboardInterrupt as error:
        raise RuntimeError("the callback failed") from error


class Dropped:
    """What is interrupted while Python gives it up: the interrupt is printed, and then gone."""

    def __del__(self) -> None:
        sys.unraisablehook = lambda row: None
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)


@dataclass
class Config:
    """Settings of the recipe `quick`."""

    out: str
    steps: int = 60


def train(config: Config, watcher: Any) -> int:
    """Fit a line, with a checkpoint every four steps and a validation every ten."""
    import torch
    from torch import nn

    from fretsaw.training.loop import Schedule, fit

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))

    def batches(first: int):
        for number in itertools.count(first):
            time.sleep(MOMENT)
            yield torch.randn(16, 4, generator=torch.Generator().manual_seed(number))

    def step(x: Any, done: int) -> dict[str, Any]:
        return {"loss": nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))}

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    options = {"validate": lambda done: {"score": done / 7}, "validate_every": 10, "log_every": 2, "save_every": 4 * MOMENT, "watcher": watcher}
    return fit(model, step, batches, optimizer, Schedule(config.steps), Path(config.out), **options)


def main() -> None:
    """Put the quick models in place and run the command line."""
    import fretsaw
    from fretsaw import cli
    from fretsaw.cli import train as train_command

    if "QUICK_DESCRIPTORS" in os.environ:
        limit = int(os.environ["QUICK_DESCRIPTORS"])
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if "QUICK_END" in os.environ:  # what torch does at the end of a process takes a moment too
        atexit.register(time.sleep, float(os.environ["QUICK_END"]))
    command = sys.argv[1]
    fretsaw.load = lambda *arguments, **options: Quick()  # pyright: ignore[reportAttributeAccessIssue]
    if command == "evaluate":
        from fretsaw.evaluation import adapters

        adapters.weights_checksum = lambda name: "0" * 64
        adapters.load_segmenter = load_segmenter
    elif command == "train":
        from fretsaw.training import curves

        recipe = types.ModuleType("fretsaw.recipes.quick.run")
        recipe.Config, recipe.length, recipe.run = Config, lambda config: config.steps, train  # pyright: ignore[reportAttributeAccessIssue]
        sys.modules["fretsaw.recipes.quick.run"] = recipe
        curves.can_draw = lambda: False  # matplotlib takes seconds to import
        train_command.RECIPES["quick"] = "fit a line"
    elif command == "convert":
        from fretsaw import images

        write = images.write_bytes
        images.write_bytes = lambda *arguments, **options: (time.sleep(MOMENT), write(*arguments, **options))[1]
    elif command == "models":
        from fretsaw import catalog
        from fretsaw.catalog.entries import Entry
        from packages import npm_weights

        catalog.CATALOGUE["tiny"] = Entry("backbone", npm_weights(Path(os.environ["QUICK_PACKAGE"])))
    cli.main()


def load_segmenter(*arguments: Any, **options: Any) -> Quick:
    """Stand for `adapters.load_segmenter`, also in a worker process."""
    return Quick()


if __name__ == "__main__":
    main()
