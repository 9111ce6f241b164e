"""Pictures side by side, with their names: what the scripts that explain a method write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def panels(rows: Sequence[Mapping[str, np.ndarray]], path: Path) -> None:
    """Write rows of pictures (H, W) or (H, W, 3), each row of one photo, the names above the first."""
    from matplotlib.figure import Figure

    height = sum(3 * row["image"].shape[0] / row["image"].shape[1] for row in rows)
    figure = Figure(figsize=(3 * len(rows[0]), height + 0.3), layout="constrained")
    ratios = [row["image"].shape[0] / row["image"].shape[1] for row in rows]
    for number, (line, row) in enumerate(zip(figure.subplots(len(rows), len(rows[0]), squeeze=False, height_ratios=ratios), rows, strict=True)):
        for axes, (name, picture) in zip(line, row.items(), strict=True):
            axes.imshow(picture, cmap="gray" if picture.ndim == 2 else None, vmin=0, vmax=1 if picture.ndim == 2 else None)
            axes.set_title("" if number else name)
            axes.axis("off")
    figure.savefig(path, dpi=120)
    print(path)
