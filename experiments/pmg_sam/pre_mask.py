"""How good a pre-mask is, and how far the final mask depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fretsaw.errors import MissingExtraError, ShapeError
from fretsaw.evaluation.auto import score

MEASURES = ("IoU", "S", "MAE")


@dataclass(frozen=True)
class PreMaskScores:
    """IoU, S and MAE of one image's pre-mask and of its final mask, by name."""

    pre_mask: dict[str, float]
    final: dict[str, float]


def compare_pre_mask(pre_mask: np.ndarray, final: np.ndarray, truth: np.ndarray) -> PreMaskScores:
    """Measure a pre-mask and the final mask against the same truth.

    Args:
        pre_mask: (H, W) uint8 soft map, at the truth's size.
        final: (H, W) uint8 soft map.
        truth: (H, W) bool, or uint8 with object above 128.

    Raises:
        ShapeError: If sizes or dtypes do not fit.

    Source: PMG-SAM, section 4.7.4 and table 5.
    """
    return PreMaskScores(score(pre_mask, truth, metrics=MEASURES), score(final, truth, metrics=MEASURES))


def summarise(scores: Sequence[PreMaskScores]) -> dict[str, float]:
    """Return the means of both masks' measures and, by measure, the correlation between them over the images.

    Source: PMG-SAM, section 4.7.4, table 5 and figure 10.
    """
    summary: dict[str, float] = {}
    for name in MEASURES:
        before, after = [s.pre_mask[name] for s in scores], [s.final[name] for s in scores]
        summary |= {f"pre-mask {name}": float(np.mean(before)), f"final {name}": float(np.mean(after)), f"correlation {name}": pearson(before, after)}
    return summary


def pearson(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the Pearson correlation of two series, in [-1, 1]; NaN where one has no variance.

    Raises:
        ShapeError: If the series differ in length or have fewer than two values.
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    if a.shape != b.shape or a.ndim != 1 or a.size < 2:
        raise ShapeError(f"expected two series of the same length of at least 2, got {a.shape} and {b.shape}")
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float(np.clip((a * b).sum() / spread, -1, 1)) if spread > 0 else float("nan")


def plot_scatter(scores: Sequence[PreMaskScores], path: Path | str, measure: str = "IoU") -> None:
    """Draw the final mask's measure over the pre-mask's, one point an image, and save the picture.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("expected matplotlib for the scatter plot, which is not installed: pip install 'fretsaw[evaluate]'") from error
    before, after = [s.pre_mask[measure] for s in scores], [s.final[measure] for s in scores]
    figure = Figure(figsize=(5, 5))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    axes.scatter(before, after, s=8, alpha=0.5)
    axes.set(xlabel=f"pre-mask {measure}", ylabel=f"final mask {measure}", title=f"r = {pearson(before, after):.3f}, n = {len(scores)}")
    figure.savefig(path, dpi=150)
