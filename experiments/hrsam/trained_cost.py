"""What encoding costs by side: fretsaw-hr against SAM 2 Hiera-T with its global attention. Seconds of the processor, and memory.

    python experiments/hrsam/trained_cost.py runs/hr/model.safetensors --sides 1024 2048 --rounds 3
    python experiments/hrsam/trained_cost.py runs/hr/model.safetensors --sides 4096 --rounds 1 --models fretsaw-hr
    python experiments/hrsam/trained_cost.py runs/hr/model.safetensors --sides 1024 2048 4096 --operations

One thread, and the process's own time in place of the wall's, so that what else the machine does counts little. Every round runs each case once, in an order
that is drawn anew; the table has medians, and ratios taken round by round to the same side's first model. Memory is the peak of a process that encodes once,
the model included. `--operations` counts multiplications and additions in place of seconds, without running anything.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from fretsaw import catalog
from fretsaw.methods.fretsaw_hr import HighResolutionEncoder, without

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, for `benchmarks`

from benchmarks.interleave import interleaved, machine, median_ratio, peak

MODELS = ("sam2-hiera-tiny", "fretsaw-hr")


def encoder_of(model: str, weights: Path, side: int) -> Any:
    """Return the image encoder of a model."""
    clicks = (catalog.build(model, size=side) if model in catalog.CATALOGUE and model != MODELS[1] else catalog.build_file(weights, side)).clicks
    assert clicks is not None
    return clicks.image_encoder


def encode(encoder: Any, side: int) -> None:
    """Encode a picture of noise."""
    with torch.inference_mode():
        encoder(torch.randn(1, 3, side, side))


def operations(encoder: Any, side: int) -> int:
    """Return the multiplications and additions of encoding one picture, but for the scans', whose recurrence is linear in the tokens and is left out."""
    if isinstance(encoder, HighResolutionEncoder):
        encoder = without(encoder, scan=False)
    encoder = encoder.to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(torch.zeros(1, 3, side, side, device="meta"))
    return counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--sides", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--operations", action="store_true")
    parser.add_argument("--memory", action="store_true", help="print the peak of this process after one encoding, and stop")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        encode(encoder_of(options.models[0], options.weights, options.sides[0]), options.sides[0])
        print(peak())
        return
    encoders = {(model, side): encoder_of(model, options.weights, side) for side in options.sides for model in options.models}
    if options.operations:
        for (model, side), encoder in encoders.items():
            print(f"{model} {side}: {operations(encoder, side) / 1e12:.3f} T", flush=True)
        return
    print(machine())
    calls = {f"{model} {side}": partial(encode, encoder, side) for (model, side), encoder in encoders.items()}
    times = interleaved(calls, options.rounds, warm=0, clock=time.process_time)
    print("| side | model | seconds | of the first model | peak memory |\n|---|---|---|---|---|")
    for side in options.sides:
        for model in options.models:
            command = [sys.executable, __file__, str(options.weights), "--memory", "--sides", str(side), "--models", model]
            memory = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            taken, first = times[f"{model} {side}"], times[f"{options.models[0]} {side}"]
            print(f"| {side} | {model} | {statistics.median(taken):.2f} | {median_ratio(taken, first):.2f} | {memory / 2**30:.2f} GiB |", flush=True)


if __name__ == "__main__":
    main()
