"""Linear layers fitted by least squares: set to what comes nearest to their targets, without a step of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

CHUNK = 4096
"""Rows whose products are summed at once."""

RIDGE = 1e-4
"""Added to the diagonal of a covariance, as a share of its mean: keeps the fits solvable where units are nearly copies of each other."""


RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Those that `fit_change` tries beyond `RIDGE`, as shares of the mean variance."""


def fit_linear(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight (C', C) and bias (C',) of the linear map that comes closest to `targets` (N, C') from `inputs` (N, C)."""
    centre, wanted, covariance, cross = moments(inputs, targets)
    weights = cast("Tensor", torch.linalg.solve(covariance, cross))  # pyright: ignore[reportUnknownMemberType]
    return weights.T.float(), (wanted - centre @ weights).float()


def fit_change(inputs: Tensor, targets: Tensor, kept_inputs: Tensor, kept_targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight (C', C) and bias (C',) of a linear map, drawn towards zero as far as rows that were kept apart want it.

    Rows of one picture say nearly the same of what holds for the whole of it, so that a fit may know its few pictures by heart. Where every map does harm to
    the pictures kept apart, it is zero.

    Args:
        inputs: (N, C).
        targets: (N, C').
        kept_inputs: (M, C) of other pictures.
        kept_targets: (M, C').
    """
    centre, wanted, covariance, cross = moments(inputs, targets)
    values, vectors = cast("tuple[Tensor, Tensor]", torch.linalg.eigh(covariance))  # pyright: ignore[reportUnknownMemberType]
    turned = vectors.T @ cross
    zero = torch.zeros_like(cross), torch.zeros_like(wanted)
    least, (weights, bias) = kept_targets.double().square().mean(), zero
    for ridge in (0.0, *RIDGES):
        tried = vectors @ (turned / (values + ridge * values.mean())[:, None])
        offset = wanted - centre @ tried
        error = (kept_inputs.to(tried.device).double() @ tried + offset - kept_targets.to(tried.device)).square().mean()
        if error < least:
            least, weights, bias = error, tried, offset
    return weights.T.to(inputs.device, torch.float), bias.to(inputs.device, torch.float)


def moments(inputs: Tensor, targets: Tensor, seen: Callable[[Tensor], Tensor] = lambda rows: rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the means of what is seen of the inputs and of the targets, the covariance of the first, ridge included, and that between both.

    Args:
        inputs: (N, C).
        targets: (N, C').
        seen: Maps rows to the numbers that a fit starts from; called on some rows at a time, since these may be many more than C.
    """
    total: Tensor | None = None
    for rows, goals in zip(inputs.split(CHUNK), targets.split(CHUNK), strict=True):  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
        # A column of ones makes sums and products one product.
        both = _double(torch.cat([seen(rows), goals, rows.new_ones(len(rows), 1)], dim=1))
        total = both.T @ both if total is None else total + both.T @ both
    assert total is not None, "the caller brings rows"
    size, total = total.shape[0] - 1 - targets.shape[1], total / len(inputs)
    means = total[-1, :-1]
    centred = total[:-1, :-1] - means[:, None] * means
    covariance = centred[:size, :size]
    ridge = RIDGE * covariance.diagonal().mean() * torch.eye(size, dtype=torch.double, device=centred.device)
    return means[:size], means[size:], covariance + ridge, centred[:size, size:]


def _double(values: Tensor) -> Tensor:
    """Return values in double precision, on the CPU where a device has none."""
    return (values.cpu() if values.device.type == "mps" else values).double()
