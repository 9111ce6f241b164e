"""How much of a label map's information is left when each patch gets one label.

Source: GrC-SAM (paper 000), section A.1, equation 12.
"""

from __future__ import annotations

import numpy as np

from fretsaw.errors import ShapeError


def redundancy(labels: np.ndarray, patch: int) -> tuple[float, float]:
    """Return R = 1 - H(patch labels) / H(pixel labels), read in two ways, for one label map.

    Args:
        labels: (H, W) int, at least one patch large.
        patch: Side of the patches in pixels; a patch's label is its most frequent one, and patches that the border cuts are left out.

    Returns:
        R of the entropy of one label's distribution, which says how much of the classes' mix is lost; and R of the entropy of all labels together, taken as
        independent (their number times the former), which says how much less there is to say. NaN where the map has one label only.

    Raises:
        ShapeError: If the map is smaller than a patch.

    Source: GrC-SAM (paper 000), section A.1, equation 12, which does not say which of the two entropies it means.
    """
    rows, columns = (side // patch for side in labels.shape)
    if patch < 1 or not rows or not columns:
        raise ShapeError(f"expected labels of at least one patch of {patch}, got {labels.shape}")
    content = labels[: rows * patch, : columns * patch]
    patches = content.reshape(rows, patch, columns, patch).transpose(0, 2, 1, 3).reshape(rows * columns, patch * patch)
    ids = np.unique(content)
    counts = np.stack([(patches == index).sum(1) for index in ids], 1)
    coarse, fine = _entropy(ids[counts.argmax(1)]), _entropy(content)
    if fine == 0:
        return float("nan"), float("nan")
    return 1 - coarse / fine, 1 - coarse * len(patches) / (fine * content.size)


def _entropy(labels: np.ndarray) -> float:
    """Return the entropy of the labels' distribution in bits."""
    _, counts = np.unique(labels, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())
