"""Time several things in turns, so that a machine's moods fall on all of them alike; and say on what machine.

Every round runs each row once, in an order that is drawn anew from the round's number. What counts are medians, and ratios taken round by round.
"""

from __future__ import annotations

import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch

import fretsaw

Times = dict[str, list[float]]
"""Seconds of each row, one a round."""

Clock = Callable[[], float]


def order(names: Iterable[str], number: int) -> list[str]:
    """Return the rows in the order of round `number`."""
    drawn = list(names)
    random.Random(number).shuffle(drawn)
    return drawn


def timed(call: Callable[[], object], device: str = "cpu", clock: Clock = time.perf_counter) -> float:
    """Return the seconds of a call by a clock, what it left to the device included."""
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.synchronize()
    started = clock()
    call()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - started


def peak(device: str = "cpu") -> int:
    """Bytes that this process has held at most, on the device."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


@torch.no_grad()
def interleaved(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm: int = 1,
    device: str = "cpu",
    label: str | None = "",
    clock: Clock = time.perf_counter,
) -> Times:
    """Time calls in turns.

    Args:
        calls: Row -> what is timed.
        rounds: Timed ones.
        warm: Rounds before them, which do not count.
        device: Where the calls work.
        label: Put before the line that each round writes to standard error; None writes none.
        clock: `time.process_time` counts what this process computed, which other processes disturb least.
    """
    times: Times = {name: [] for name in calls}
    for number in range(-warm, rounds):
        for name in order(calls, number + warm):
            seconds = timed(calls[name], device, clock)
            if number >= 0:
                times[name].append(seconds)
        if label is not None:
            print(f"{label}{f'round {number + 1} of {rounds}' if number >= 0 else 'warm'}", file=sys.stderr, flush=True)
    return times


def median_ratio(values: Sequence[float], reference: Sequence[float]) -> float:
    """Return the median of the ratios, round by round."""
    return statistics.median(a / b for a, b in zip(values, reference, strict=True))


def machine(device: str = "cpu") -> str:
    """Return the processor with its cores and threads, or the name of the GPU."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def versions() -> str:
    """Return what a time depends on beside the machine."""
    return f"torch {torch.__version__}, fretsaw {fretsaw.__version__}"
