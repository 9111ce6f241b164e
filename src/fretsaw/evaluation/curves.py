"""Draw a report: one function per task, and `plot`, which chooses the one of the report's task."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fretsaw.errors import ConfigError, MissingExtraError, OutputError
from fretsaw.evaluation.auto import AutoTally, protocol_named
from fretsaw.evaluation.report import Report
from fretsaw.evaluation.semantic import ious_by_class
from fretsaw.images import write_bytes


def require_matplotlib() -> None:
    """Check that matplotlib is installed, before a long evaluation.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError("expected matplotlib for pictures, which is not installed: pip install 'fretsaw[evaluate]'")


def curve(report: Report) -> list[float]:
    """Return the mean IoU after 1, 2, ... clicks.

    Raises:
        ConfigError: If the report is not of the task "clicks".
    """
    _require_task([report], "clicks")
    return [report.metrics[f"IoU@{k}"] for k in range(1, 1 + sum(name.startswith("IoU@") for name in report.metrics))]


def f_curve(report: Report) -> np.ndarray:
    """Return (256,) F at each threshold, from 0 up to 255, averaged over the images of a report of the task "auto".

    Raises:
        ConfigError: If the report is of another task.
    """
    _require_task([report], "auto")
    tally = AutoTally(protocol_named(report.protocol), ())
    for record in report.samples:
        tally.add(record)
    return tally.f_curve()[::-1]


def recall(report: Report, ious: Sequence[float]) -> list[float]:
    """Return the share of true instances that are matched with at least each IoU, of a report of the task "instances".

    Raises:
        ConfigError: If the report is of another task.
    """
    _require_task([report], "instances")
    matched = np.array([iou for record in report.samples for iou in record["matched_ious"]])
    truths = sum(record["truths"] for record in report.samples)
    return [float((matched >= iou).sum() / truths) if truths else float("nan") for iou in ious]


def plot(reports: Sequence[Report], path: Path | str) -> Path:
    """Draw what reports of one task measured: IoU against clicks, F against threshold, IoU by class, or recall against IoU.

    Args:
        reports: Of one task.
        path: A file that ends in .png, .pdf or .svg.

    Raises:
        ConfigError: If there is no report, or they are of several tasks.
        MissingExtraError: If matplotlib is not installed.
        OutputError: If the file cannot be written or its format is unknown.
    """
    if not reports:
        raise ConfigError("expected at least one report to draw, got none")
    task = reports[0].task
    _require_task(reports, task)
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    DRAW[task](axes, reports)
    path, buffer = Path(path), io.BytesIO()
    try:
        figure.savefig(buffer, format=path.suffix.removeprefix(".").lower(), dpi=150)  # pyright: ignore[reportUnknownMemberType]
    except ValueError as error:
        raise OutputError(f"expected a picture's path that ends in .png, .pdf or .svg, got {path}") from error
    return write_bytes(path, buffer.getvalue())


def _clicks(axes: Any, reports: Sequence[Report]) -> None:
    curves = [curve(report) for report in reports]
    for report, values in zip(reports, curves, strict=True):
        target = report.protocol_fields.get("target_iou")
        stops = f", ends at {target:g}" if target is not None and target <= 1 else ""
        axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3, label=f"{report.model}, {report.dataset} ({report.protocol}{stops})")
    axes.set(xlabel="clicks", ylabel="mean IoU", xlim=(1, max(map(len, curves))))
    axes.set_xticks(range(1, max(map(len, curves)) + 1))
    _finish(axes, "lower right")


def _thresholds(axes: Any, reports: Sequence[Report]) -> None:
    for report in reports:
        axes.plot(range(256), f_curve(report), label=f"{report.model}, {report.dataset} ({report.protocol})")
    axes.set(xlabel="threshold of the soft map", ylabel="mean F", xlim=(0, 255), ylim=(0, 1))
    _finish(axes, "lower center")


def _classes(axes: Any, reports: Sequence[Report]) -> None:
    """Draw one row per class; a class that occurs in no picture has no row."""
    values = [ious_by_class(report) for report in reports]
    names = [name for name in values[0] if any(np.isfinite(of[name]) for of in values if name in of)]
    axes.figure.set_size_inches(6.4, max(4.4, 0.16 * len(names) * len(reports) + 1.2))
    height = 0.8 / len(reports)
    for index, (report, ious) in enumerate(zip(reports, values, strict=True)):
        places = np.arange(len(names)) + (index - (len(reports) - 1) / 2) * height
        axes.barh(places, [ious.get(name, float("nan")) for name in names], height, label=f"{report.model}, mIoU {report.metrics['mIoU']:.3f}")
    axes.set_yticks(range(len(names)), names, fontsize="small")
    axes.invert_yaxis()
    axes.set(xlabel="IoU", xlim=(0, 1))
    _finish(axes, "lower right")


def _instances(axes: Any, reports: Sequence[Report]) -> None:
    ious = np.linspace(0.01, 1, 100)
    for report in reports:
        axes.plot(ious, recall(report, ious.tolist()), label=f"{report.model}, {report.dataset} ({report.protocol})")
    axes.set(xlabel="IoU of the match", ylabel="share of true instances", xlim=(0, 1), ylim=(0, 1))
    _finish(axes, "lower left")


DRAW: Mapping[str, Callable[[Any, Sequence[Report]], None]] = {"clicks": _clicks, "auto": _thresholds, "semantic": _classes, "instances": _instances}


def _finish(axes: Any, corner: str) -> None:
    axes.grid(alpha=0.3)
    axes.legend(loc=corner, fontsize="small")


def _require_task(reports: Sequence[Report], task: str) -> None:
    for report in reports:
        if report.task != task:
            raise ConfigError(f"expected a report of the task {task}, got {report.task}")
