"""HRSAM's cycle-scan by its definition, with which the one-lap form of `fretsaw.layers.selective_scan` is compared."""

from __future__ import annotations

import torch
from torch import Tensor

from fretsaw.layers.selective_scan import selective_scan


def repeated_scan(x: Tensor, delta: Tensor, A: Tensor, write: Tensor, read: Tensor, gains: Tensor) -> Tensor:
    """Repeat the sequence R times, scan all of it, and add the laps. Arguments as for `cycle_scan`.

    Source: HRSAM (paper 003), sec. 3.5, fig. 7.
    """
    laps = gains.shape[1]
    x, delta, write, read = (tensor.repeat(1, laps, 1) for tensor in (x, delta, write, read))
    return torch.einsum("brld,dr->bld", selective_scan(x, delta, A, write, read).unflatten(1, (laps, -1)), gains.to(x.dtype))
