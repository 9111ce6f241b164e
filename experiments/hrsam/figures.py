"""Draw what experiments/hrsam/cost.py measured: python experiments/hrsam/figures.py report.json -o pictures/"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Rows = Mapping[str, Any]


def medians(rows: Rows, key: str) -> list[float]:
    return [statistics.median(row[key]) for row in rows.values()]


def draw_swin(axes: Any, rows: Rows) -> None:
    """Figure 5: bars of plain Swin and Flash Swin for each window."""
    for offset, (key, label) in zip((-0.2, 0.2), (("plain", "plain Swin"), ("flash", "Flash Swin")), strict=True):
        bars = axes.bar([i + offset for i in range(len(rows))], [1000 * value for value in medians(rows, key)], 0.38, label=label)
        axes.bar_label(bars, fmt="%.0f", fontsize="small")
    axes.set_xticks(range(len(rows)), [f"k = {window}" for window in rows])
    axes.set(title="attention in shifted windows, 64 x 64 tokens", ylabel="ms")
    axes.legend(fontsize="small")


def draw_laps(axes: Any, rows: Rows) -> None:
    """One lap and a single scan as a share of three laps."""
    for key, label in (("three", "three laps"), ("one", "one lap and summary"), ("single", "a single scan")):
        axes.plot([int(tokens) for tokens in rows], medians(rows, key), marker="o", label=label)
    axes.set(title="cycle-scan", xlabel="tokens", ylabel="s", ylim=(0, None))
    axes.legend(fontsize="small")


def draw_sizes(axes: Any, rows: Rows, key: str, title: str, unit: str, scale: float) -> None:
    """A line for each encoder over the sizes of the image, both axes logarithmic."""
    from matplotlib.ticker import NullFormatter

    for case, sizes in rows.items():
        known = {int(size): cell for size, cell in sizes.items() if key in cell}
        values = [statistics.median(cell[key]) if key == "seconds" else cell[key] for cell in known.values()]
        shown = [scale * value for value in values]
        # The figures stand in the legend: at the points those of close lines would cover each other.
        axes.plot(list(known), shown, marker="o", label=f"{case}: " + ", ".join(f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in shown))
    sizes = sorted({int(size) for cells in rows.values() for size in cells})
    axes.set(title=title, xlabel="side of the image", ylabel=unit, xscale="log", yscale="log")
    axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.margins(0.12)
    axes.legend(fontsize="small")


def draw_both(title: str) -> Callable[[Any, Rows], None]:
    def draw(axes: Any, rows: Rows) -> None:
        draw_sizes(axes[0], rows, "seconds", f"{title}: latency", "s", 1)
        draw_sizes(axes[1], rows, "bytes", f"{title}: peak memory", "MB", 2**-20)

    return draw


PICTURES: dict[str, tuple[int, Callable[[Any, Rows], None]]] = {
    "swin": (1, draw_swin),
    "laps": (1, draw_laps),
    "ladder": (2, draw_both("table 3's encoders")),
    "growth": (2, draw_both("growth")),
}
"""Part of the benchmark -> (panels, what draws them)."""


def draw(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw every part of a report into a folder; returns the files."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for part, (panels, draw_part) in PICTURES.items():
        if part not in report:
            continue
        figure = Figure(figsize=(5.2 * panels, 3.8), layout="constrained")
        draw_part(figure.subplots(1, panels), report[part])
        figure.supxlabel(f"{report['machine']}, {report['versions']}, float32, medians", fontsize="x-small")
        figure.savefig(folder / f"hrsam_{part}.png", dpi=130)
        made.append(folder / f"hrsam_{part}.png")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="what experiments/hrsam/cost.py --report wrote")
    parser.add_argument("-o", "--out", type=Path, default=Path("pictures"))
    options = parser.parse_args()
    for path in draw(json.loads(options.report.read_text()), options.out):
        print(path)


if __name__ == "__main__":
    main()
