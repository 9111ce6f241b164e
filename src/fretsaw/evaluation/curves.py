"""Curves of IoU against clicks, as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from fretsaw.errors import ConfigError, MissingExtraError, OutputError
from fretsaw.evaluation.report import Report
from fretsaw.images import write_bytes


def require_matplotlib() -> None:
    """Check that pictures can be drawn, before hours of measuring.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("expected matplotlib for pictures, which is not installed: pip install 'fretsaw[evaluate]'") from error


def curve(report: Report) -> list[float]:
    """Return the mean IoU after 1, 2, ... clicks.

    Raises:
        ConfigError: If the report is not of the task "clicks".
    """
    if report.task != "clicks":
        raise ConfigError(f"expected a report of the task clicks, got {report.task}")
    return [report.metrics[f"IoU@{k}"] for k in range(1, 1 + sum(name.startswith("IoU@") for name in report.metrics))]


def plot_curves(reports: Sequence[Report], path: Path | str) -> Path:
    """Draw mean IoU against clicks, one line per report; the legend states model, data set and protocol.

    Args:
        reports: Of the task "clicks".
        path: A file that ends in .png, .pdf or .svg.

    Raises:
        ConfigError: If there is no report, or one of another task.
        MissingExtraError: If matplotlib is not installed.
        OutputError: If the file cannot be written or its format is unknown.
    """
    if not reports:
        raise ConfigError("expected at least one report to draw, got none")
    curves = [curve(report) for report in reports]
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for report, values in zip(reports, curves, strict=True):
        target = report.protocol_fields.get("target_iou")
        stops = f", ends at {target:g}" if target is not None and target <= 1 else ""
        axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3, label=f"{report.model}, {report.dataset} ({report.protocol}{stops})")
    axes.set(xlabel="clicks", ylabel="mean IoU", xlim=(1, max(map(len, curves))))
    axes.set_xticks(range(1, max(map(len, curves)) + 1))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    path, buffer = Path(path), io.BytesIO()
    try:
        figure.savefig(buffer, format=path.suffix.removeprefix(".").lower(), dpi=150)
    except ValueError as error:
        raise OutputError(f"expected a picture's path that ends in .png, .pdf or .svg, got {path}") from error
    return write_bytes(path, buffer.getvalue())
