"""Draw a run's learning curves from its log. A run draws them when it ends; `fretsaw curves runs/hrsam` draws them at any time."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path

from fretsaw.errors import DataError, MissingExtraError, OutputError
from fretsaw.images import write_bytes
from fretsaw.training.loop import read_log

NOT_CURVES = frozenset({"step", "seconds"})
"""Fields of a log line that are not drawn."""


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return each figure of a run's log as (step, value) pairs, in the order in which the figures first appear; the learning rate is "lr".

    Raises:
        DataError: If the folder holds no log, or an empty one.
    """
    if not (folder / "log.jsonl").is_file():
        raise DataError(f"expected the log of a training run at {folder / 'log.jsonl'}, which does not exist")
    found: dict[str, list[tuple[int, float]]] = {}
    for line in read_log(folder):
        for name, value in line.items():
            if name not in NOT_CURVES:
                found.setdefault(name, []).append((int(line["step"]), float(value)))
    if not found:
        raise DataError(f"expected at least one line in {folder / 'log.jsonl'}, got none; the first is written after a few steps")
    return found


def draw(folders: Sequence[Path], path: Path) -> Path:
    """Draw the curves of one or several runs, a panel for each figure.

    Args:
        folders: Of the runs.
        path: A file that ends in .png, .pdf or .svg.

    Raises:
        DataError: If a run has no log.
        MissingExtraError: If matplotlib is not installed.
        OutputError: If the file cannot be written or its format is unknown.
    """
    if not can_draw():
        raise MissingExtraError("expected matplotlib for pictures, which is not installed: pip install 'fretsaw[train]'")
    from matplotlib.figure import Figure

    runs = {folder.name or str(folder): curves(folder) for folder in folders}
    names = list(dict.fromkeys(name for found in runs.values() for name in found))
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.0 * rows), layout="constrained")
    for axes, name in zip(figure.subplots(rows, columns, squeeze=False).flat, names + [""] * (rows * columns - len(names)), strict=True):
        axes.set_visible(bool(name))
        for run, found in runs.items():
            if name in found:
                axes.plot(*zip(*found[name], strict=True), label=run, marker="." if len(found[name]) < 40 else None)
        axes.set(title=name, xlabel="step")
        axes.grid(alpha=0.3)
    if len(runs) > 1:
        figure.axes[0].legend(fontsize="small")  # pyright: ignore[reportUnknownMemberType]
    buffer = io.BytesIO()
    try:
        figure.savefig(buffer, format=path.suffix.removeprefix(".").lower(), dpi=120)  # pyright: ignore[reportUnknownMemberType]
    except ValueError as error:
        raise OutputError(f"expected a picture's path that ends in .png, .pdf or .svg, got {path}") from error
    return write_bytes(path, buffer.getvalue())


def draw_run(folder: Path) -> Path | None:
    """Draw one run into its own folder as `curves.png`; returns the path, or None where matplotlib is not installed or nothing is logged yet."""
    if not can_draw() or not (folder / "log.jsonl").is_file() or not read_log(folder):
        return None
    return draw([folder], folder / "curves.png")
