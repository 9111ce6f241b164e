"""The time of clicks: seconds per click (SPC) as the papers count it, and the latency of "segment anything" by single points (SAT latency)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np

from fretsaw.data.samples import Sample
from fretsaw.errors import ConfigError
from fretsaw.evaluation.clicks import click_through, handed_back, next_click, sample_rng, threshold
from fretsaw.evaluation.predictors import ClickPredictor
from fretsaw.evaluation.protocols import ClickProtocol
from fretsaw.types import Click

T = TypeVar("T")
Synchronise = Callable[[], None]

CLICKS = 20
"""Number of clicks that share the time of one encoding."""


def synchroniser(device: str) -> Synchronise:
    """Return a function that waits until a device has done its work; calls return before that on CUDA and MPS."""
    import torch

    if device.startswith("cuda"):
        return lambda: torch.cuda.synchronize(device)
    return torch.mps.synchronize if device.startswith("mps") else lambda: None


def seconds_per_click(
    predictor: ClickPredictor, samples: Iterable[Sample], protocol: ClickProtocol, synchronise: Synchronise = lambda: None, warm_up: int = 1
) -> dict[str, float]:
    """Return the seconds a click takes, preprocessing and one encoding included: (encoding + 20 clicks) / 20, the median over samples.

    Args:
        predictor: Already wrapped for the protocol.
        samples: Objects to click; the first `warm_up` are done once more before the clock runs.
        protocol: Its rule makes the clicks; they are always 20.
        synchronise: Waits for the device, see `synchroniser`.
        warm_up: Samples that are done without being counted.

    Returns:
        "SPC", "SPC clicks alone" (without the encoding), "encoding": medians over samples, in seconds. Loading files and simulating clicks is not in them.

    Raises:
        ConfigError: If there is no sample.

    Source: HRSAM (paper 003), appendix D.5 (20-SPC); SAM-REF (paper 004), section 4.1.3.
    """
    samples = list(samples)
    if not samples:
        raise ConfigError("expected at least one sample to time, got none")
    for sample in samples[:warm_up]:
        _timed_loop(predictor, sample, protocol, synchronise)
    measured = [_timed_loop(predictor, sample, protocol, synchronise) for sample in samples]
    return {
        "SPC": statistics.median((encoding + clicks) / CLICKS for encoding, clicks in measured),
        "SPC clicks alone": statistics.median(clicks / CLICKS for _, clicks in measured),
        "encoding": statistics.median(encoding for encoding, _ in measured),
    }


def seconds_per_click_as_published(predictor: ClickPredictor, samples: Iterable[Sample], protocol: ClickProtocol, seed: int = 0) -> float:
    """Return the seconds per click as the evaluation codes print it: wall time over all samples, loading and simulation included, over clicks made.

    No warm-up, no wait for the device, and samples end at the protocol's target.

    Source: RITM (Sofiiuk et al. 2022), evaluation code; SegNext (Liu et al. 2024) the same.
    """
    started, clicks = time.perf_counter(), 0
    for sample in samples:
        image, truth = sample.read()
        clicks += len(click_through(predictor, image, truth, protocol, sample_rng(seed, sample.name)).clicks)
    if clicks == 0:
        raise ConfigError("expected at least one sample to time, got none")
    return (time.perf_counter() - started) / clicks


def sat_latency(predictor: ClickPredictor, image: np.ndarray, synchronise: Synchronise = lambda: None, per_side: int = 16, side: int = 1024) -> float:
    """Return the seconds for one image and a grid of single points, one after the other, each with the previous answer as mask prompt.

    Args:
        predictor: One that takes any clicks at any time (`DecoderPredictor`).
        image: (H, W, 3) uint8; brought to side x side first, before the clock runs.
        synchronise: Waits for the device.
        per_side: Points along each side.
        side: Side of the image in pixels.

    Source: SAM-REF (paper 004), section 4.1.3, SAT latency; the grid is SegNext's (Liu et al. 2024): centres of per_side x per_side tiles.
    """
    from fretsaw.layers.resampling import resize_image

    image = resize_image(image, side, side)
    tile = side // per_side
    points = [Click(tile // 2 + tile * column, tile // 2 + tile * row) for row in range(per_side) for column in range(per_side)]
    synchronise()
    started = time.perf_counter()
    opened = predictor.open(image)
    for point in points:
        opened.predict((point,), None)
    synchronise()
    return time.perf_counter() - started


def _timed_loop(predictor: ClickPredictor, sample: Sample, protocol: ClickProtocol, synchronise: Synchronise) -> tuple[float, float]:
    """Return the seconds of one opening and of 20 answers; the clock stands still while the next click is simulated."""
    image, truth = sample.read()
    rng = sample_rng(0, sample.name)
    clicked, mask = np.zeros(truth.shape, bool), np.zeros(truth.shape, bool)
    previous, seconds = None, 0.0
    clicks: list[Click] = []
    opened, opening = _timed(lambda: predictor.open(image), synchronise)
    for _ in range(CLICKS):
        # HRSAM's rule makes no click on a perfect mask, but the mean is over 20 clicks.
        click = next_click(mask, truth, clicked, protocol, rng) or Click(0, 0, False)
        clicks.append(click)
        clicked[int(click.y), int(click.x)] = True
        values, taken = _timed(lambda: opened.predict(tuple(clicks), previous), synchronise)  # noqa: B023 (called at once)
        seconds += taken
        mask = threshold(values, predictor.unit, protocol)
        previous = handed_back(values, mask, predictor.unit, protocol)
    return opening, seconds


def _timed(call: Callable[[], T], synchronise: Synchronise) -> tuple[T, float]:
    synchronise()
    started = time.perf_counter()
    result = call()
    synchronise()
    return result, time.perf_counter() - started
