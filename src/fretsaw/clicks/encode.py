"""Prompts drawn as maps, for networks that look at prompts and pixels together."""

from __future__ import annotations

import torch
from torch import Tensor

from fretsaw.types import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, NEGATIVE, POSITIVE


def disk_maps(point_coords: Tensor, point_labels: Tensor, model_size: int, size: int, radius: float = 5.0) -> Tensor:
    """Draw clicks as disks and boxes as frames.

    Args:
        point_coords: (P, N, 2) xy in the model frame.
        point_labels: (P, N): 1 positive, 0 negative, 2 and 3 a box's top-left and bottom-right corner, -1 nothing.
        model_size: Side S of the model frame.
        size: Side of the maps, S / 4 for SAM's decoder.
        radius: Of a disk, in pixels of the map.

    Returns:
        (P, 2, size, size) float32 of 0 and 1: positive disks and the box's outline, one pixel wide; negative disks. A disk holds the pixels whose centre lies
        within `radius` of the click.

    Source: RITM (Sofiiuk et al. 2022), section 3.1, "disk encoding", radius 5.

    Deviation: SAM-REF (Yu et al. 2024) leaves boxes and scribbles to later work (section 7); here a box's outline joins the positive map, and a line's
    points lie so close that their disks join.
    """
    # The centre of model pixel p lies at (p + 0.5) / 4 - 0.5 in maps of a quarter of the side.
    xy = (point_coords.float() + 0.5) * (size / model_size) - 0.5
    axis = torch.arange(size, device=xy.device, dtype=torch.float32)
    distance = (axis - xy[..., 0, None]).square()[:, :, None, :] + (axis - xy[..., 1, None]).square()[:, :, :, None]
    disks = distance <= radius**2
    positive = (disks & (point_labels == POSITIVE)[..., None, None]).any(1)
    negative = (disks & (point_labels == NEGATIVE)[..., None, None]).any(1)
    frames = [_outline(coords, labels, axis) for coords, labels in zip(xy, point_labels, strict=True)]
    return torch.stack([positive | torch.stack(frames), negative], 1).float()


def _outline(xy: Tensor, labels: Tensor, axis: Tensor) -> Tensor:
    """Return the outline of the box among a prompt set's points, (size, size) bool; all False without one."""
    corners = [xy[labels == label][:1].round() for label in (BOX_TOP_LEFT, BOX_BOTTOM_RIGHT)]
    if not all(len(corner) for corner in corners):
        return torch.zeros(len(axis), len(axis), dtype=torch.bool, device=axis.device)
    (x0, y0), (x1, y1) = (corner[0].clamp(0, len(axis) - 1) for corner in corners)
    columns, rows = (axis >= x0) & (axis <= x1), (axis >= y0) & (axis <= y1)
    edge_columns, edge_rows = (axis == x0) | (axis == x1), (axis == y0) | (axis == y1)
    return (rows[:, None] & edge_columns[None]) | (edge_rows[:, None] & columns[None])
