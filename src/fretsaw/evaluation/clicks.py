"""Click a model through a data set and count: NoC, NoF, IoU after k clicks."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fretsaw import images
from fretsaw.clicks.simulate import simulate_click, simulate_click_around, simulate_click_hrsam
from fretsaw.data.samples import Dataset, Sample
from fretsaw.errors import ConfigError, DataError, ShapeError
from fretsaw.evaluation.overlap import boundary_iou
from fretsaw.evaluation.predictors import ClickPredictor, Unit, logits, probabilities, wrap
from fretsaw.evaluation.protocols import ClickProtocol, for_dataset
from fretsaw.evaluation.report import Report
from fretsaw.evaluation.runner import Progress, RunOptions, evaluate_dataset, with_mask_folder
from fretsaw.masks import components as component_table
from fretsaw.types import Click

TARGETS = (0.80, 0.85, 0.90, 0.95)
"""The IoUs q of NoC@q and NoF@q."""

PER_CLICK = {"obeyed": "clicks obeyed", "kept": "right pixels kept", "components": "components"}
"""What is recorded of every click, and the names of its means."""

SIZE_RANGES = ((0, 1024), (1024, 2048), (2048, 3072), (3072, 4096))
"""Longest sides, above the first and up to the second (HRSAM, paper 003, table 2)."""


@dataclass(frozen=True)
class Trace:
    """One object clicked through.

    Attributes:
        clicks: In their order.
        ious: After each click.
        mask: (H, W) bool, the last one.
        obeyed: After each click, the share of all clicks so far that lie on their own side of the mask's outline.
        kept: At each click, the share of the pixels that were right before it and still are.
        components: After each click, the number of the mask's 8-connected components.
    """

    clicks: tuple[Click, ...]
    ious: tuple[float, ...]
    mask: np.ndarray = field(repr=False)
    obeyed: tuple[float, ...] = ()
    kept: tuple[float, ...] = ()
    components: tuple[int, ...] = ()


def click_through(predictor: ClickPredictor, image: np.ndarray, truth: np.ndarray, protocol: ClickProtocol, rng: np.random.Generator) -> Trace:
    """Click one object until the protocol's target or its last click.

    Args:
        predictor: Already wrapped for the protocol (`predictors.wrap`).
        image: (H, W, 3) uint8 RGB.
        truth: (H, W) int8, 1 object, 0 background, -1 ignored.
        protocol: Rule, threshold, target and what goes back to the network.
        rng: Draws among ties where the rule wants it.

    Raises:
        DataError: If the truth holds no object.
        ShapeError: If the predictor's map is not of the image's size.
    """
    if not (truth == 1).any():
        raise DataError("expected at least one object pixel in the mask, got none")
    opened = predictor.open(image)
    clicked = np.zeros(truth.shape, bool)
    mask = np.zeros(truth.shape, bool)
    previous: np.ndarray | None = None
    clicks: list[Click] = []
    ious: list[float] = []
    obeyed: list[float] = []
    kept: list[float] = []
    components: list[int] = []
    while len(clicks) < protocol.max_clicks:
        click = next_click(mask, truth, clicked, protocol, rng)
        if click is None:
            break
        clicks.append(click)
        clicked[int(click.y), int(click.x)] = True
        values = opened.predict(tuple(clicks), previous)
        if values.shape != truth.shape:
            raise ShapeError(f"expected a map of the image's size {truth.shape} from the predictor, got {values.shape}")
        right = _right(mask, truth)
        mask = threshold(values, predictor.unit, protocol)
        obeyed.append(sum(bool(mask[int(click.y), int(click.x)]) == click.positive for click in clicks) / len(clicks))
        kept.append(np.count_nonzero(right & _right(mask, truth)) / max(1, np.count_nonzero(right)))
        components.append(len(component_table(mask)[1]) - 1)
        previous = handed_back(values, mask, predictor.unit, protocol)
        ious.append(iou(mask, truth))
        if protocol.target_iou is not None and ious[-1] >= protocol.target_iou:
            break
    return Trace(tuple(clicks), tuple(ious), mask, tuple(obeyed), tuple(kept), tuple(components))


def _right(mask: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return (mask == (truth == 1)) & (truth != -1)


def next_click(mask: np.ndarray, truth: np.ndarray, clicked: np.ndarray, protocol: ClickProtocol, rng: np.random.Generator) -> Click | None:
    """Return the next click by the protocol's rule; None where the rule makes none."""
    if protocol.click_rule == "hrsam":
        return simulate_click_hrsam(mask, truth, clicked, rng)
    if protocol.click_rule == "around":
        return simulate_click_around(mask, truth, clicked, rng)
    return simulate_click(mask, truth, clicked)


def threshold(values: np.ndarray, unit: Unit, protocol: ClickProtocol) -> np.ndarray:
    """Return the mask of a predicted map, (H, W) bool."""
    if protocol.threshold is None:
        return logits(values, unit) > 0  # argmax of object and background
    return (probabilities if protocol.threshold_on == "probabilities" else logits)(values, unit) > protocol.threshold


def handed_back(values: np.ndarray, mask: np.ndarray, unit: Unit, protocol: ClickProtocol) -> np.ndarray | None:
    """Return the part of the answer that the network gets at the next click, or None if it keeps its own low-resolution logits."""
    if protocol.previous_mask == "probabilities":
        return probabilities(values, unit)
    if protocol.previous_mask == "labels":
        return mask.astype(np.float32)
    return None


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Return intersection over union of a mask (H, W) bool and the object of a truth (H, W) int8, over pixels not marked -1."""
    valid, object_ = truth != -1, truth == 1
    union = np.count_nonzero((mask | object_) & valid)
    return float(np.count_nonzero(mask & object_) / union) if union else math.nan


class ClickTally:
    """Sums over objects; see `metrics` for the names.

    Source: NoC, NoF, IoU@k: RITM (Sofiiuk et al. 2022), evaluation code; k-mIoU: HRSAM (paper 003), appendix D.4, and SAM-REF (paper 004), section 4.1.3.
    """

    def __init__(self, max_clicks: int = 20, targets: Sequence[float] = TARGETS) -> None:
        self._max_clicks, self._targets = max_clicks, tuple(targets)
        self._count = 0
        self._clicks = dict.fromkeys(self._targets, 0)
        self._at_last = dict.fromkeys(self._targets, 0)
        self._never = dict.fromkeys(self._targets, 0)
        self._ious = np.zeros(max_clicks)
        self._sums = dict.fromkeys(PER_CLICK.values(), 0.0)
        self._told = dict.fromkeys(PER_CLICK.values(), 0)
        self._boundary: list[float] = []

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one object; `record["ious"]` holds the IoU after each click."""
        ious = record["ious"]
        self._count += 1
        for target in self._targets:
            reached = next((k + 1 for k, value in enumerate(ious) if value >= target), None)
            noc = self._max_clicks if reached is None else reached
            self._clicks[target] += noc
            self._at_last[target] += noc == self._max_clicks
            self._never[target] += reached is None
        self._ious += carried(ious, self._max_clicks)
        # Journals of earlier versions do not hold these.
        for kind, name in PER_CLICK.items():
            self._sums[name] += sum(record.get(kind, ()))
            self._told[name] += len(record.get(kind, ()))
        self._boundary += [record["boundary_iou"]] if "boundary_iou" in record else []

    def metrics(self) -> dict[str, float]:
        """Return the figures.

        - "NoC@90": clicks to the first IoU of at least 0.90, else the most a protocol makes; mean over objects.
        - "NoF@90": objects whose NoC@90 equals the most, as the papers count: one that is solved exactly at the last click is among them.
        - "NoF@90 never": objects that never reached it.
        - "clicks obeyed", "right pixels kept", "components": mean over all clicks of what `Trace` says of each.
        - "boundary IoU": of the last masks, mean over objects.
        - "IoU@5", "5-mIoU": mean IoU after 5 clicks, as a fraction and in percent as the papers print it. A sample that ended early, at its target, counts
          with the IoU it ended with.
        """
        n = self._count
        figures: dict[str, float] = {}
        for target in self._targets:
            figures[f"NoC@{round(100 * target)}"] = self._clicks[target] / n if n else math.nan
        for target in self._targets:
            figures[f"NoF@{round(100 * target)}"] = float(self._at_last[target])
            figures[f"NoF@{round(100 * target)} never"] = float(self._never[target])
        for name, total in self._sums.items():
            figures[name] = total / self._told[name] if self._told[name] else math.nan
        figures["boundary IoU"] = sum(self._boundary) / len(self._boundary) if self._boundary else math.nan
        for k, total in enumerate(self._ious, start=1):
            figures[f"IoU@{k}"] = float(total / n) if n else math.nan
        for k, total in enumerate(self._ious, start=1):
            figures[f"{k}-mIoU"] = float(100 * total / n) if n else math.nan
        return figures


def carried(ious: Sequence[float], length: int) -> np.ndarray:
    """Return IoUs after 1 .. length clicks. After the last click that was made, its IoU is repeated; without any click it is 0."""
    row = np.zeros(length)
    row[: len(ious)] = ious
    if ious:
        row[len(ious) :] = ious[-1]
    return row


def metrics_by_size(records: Sequence[Mapping[str, Any]], max_clicks: int = 20, ranges: Sequence[tuple[int, int]] = SIZE_RANGES) -> dict[str, dict[str, float]]:
    """Return the figures of `ClickTally` per range of the image's longest side; empty ranges are left out.

    Source: HRSAM (paper 003), table 2.
    """
    table: dict[str, dict[str, float]] = {}
    for low, high in ranges:
        tally = ClickTally(max_clicks)
        inside = [record for record in records if low < max(record["size"]) <= high]
        for record in inside:
            tally.add(record)
        if inside:
            table[f"({low}, {high}]"] = tally.metrics()
    return table


def evaluate_clicks(
    dataset: Dataset,
    protocol: ClickProtocol,
    build: Callable[[ClickProtocol], ClickPredictor],
    options: RunOptions | None = None,
    progress: Progress | None = None,
    masks_to: Path | None = None,
) -> Report:
    """Click a model through a data set.

    Args:
        dataset: Objects with truths of 1, 0, -1.
        protocol: A protocol of `fretsaw.evaluation.protocols`; what it does differently on this data set is applied here.
        build: Makes the unwrapped predictor for the protocol, once per worker; picklable where there are several workers.
        options: How to run.
        progress: Told about every object.
        masks_to: Folder for the last mask of each object, or None.

    Raises:
        ConfigError: If the protocol ends samples below the highest target that is reported.
        OutputError: If the folder for masks or the journal cannot be written.
    """
    protocol = for_dataset(protocol, dataset.name)
    if protocol.target_iou is not None and protocol.target_iou < max(TARGETS):
        raise ConfigError(f"expected a target IoU of at least {max(TARGETS)}, the highest that is reported, got {protocol.target_iou}")
    options = with_mask_folder(options, masks_to)
    return evaluate_dataset(
        dataset,
        partial(_build, build, protocol),
        partial(_measure, protocol=protocol, seed=options.seed, masks_to=masks_to),
        partial(ClickTally, protocol.max_clicks),
        task="clicks",
        protocol=protocol.name,
        protocol_fields=protocol.fields(),
        options=options,
        progress=progress,
    )


def sample_rng(seed: int, name: str) -> np.random.Generator:
    """Return the random numbers of a sample. They depend on neither the order nor the process in which samples are measured."""
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")])


def _build(build: Callable[[ClickProtocol], ClickPredictor], protocol: ClickProtocol) -> ClickPredictor:
    return wrap(build(protocol), protocol)


def _measure(predictor: ClickPredictor, sample: Sample, protocol: ClickProtocol, seed: int, masks_to: Path | None) -> dict[str, Any]:
    image, truth = sample.read()
    try:
        trace = click_through(predictor, image, truth, protocol, sample_rng(seed, sample.name))
    except DataError as error:
        raise DataError(f"{sample.name}: {error}") from error
    if masks_to is not None:
        path = masks_to / f"{sample.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        images.write_mask(path, trace.mask)
    return {
        "size": [image.shape[1], image.shape[0]],
        "clicks": [[click.x, click.y, click.positive] for click in trace.clicks],
        "ious": list(trace.ious),
        "obeyed": list(trace.obeyed),
        "kept": list(trace.kept),
        "components": list(trace.components),
        "boundary_iou": boundary_iou(trace.mask & (truth != -1), truth == 1),
    }
