"""Cut SAM 2's Hiera-T down to a network that fits into the package, without a step of training: what is left is fitted by least squares.

Two steps, each a fit on a few photos:

    hidden units of a feed-forward layer: the least useful go, the others make up for them     (`narrow`)
    a linear layer: set to what comes nearest to the targets                                   (`fit_linear`)

Source: layer-wise reconstruction after pruning: Luo et al. 2017 (ThiNet), section 3.2; which units go: Hassibi & Stork 1993 (optimal brain surgeon),
equation 5, for all weights that leave a unit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

CHUNK = 4096
"""Rows whose products are summed at once."""

COMPACT = 64
"""Units that leave before the matrices are made smaller: until then their rows and columns stand there as zeros."""

RIDGE = 1e-4
"""Added to the diagonal of a covariance, as a share of its mean: keeps the fits solvable where units are nearly copies of each other."""


def narrow(mlp: Any, inputs: Tensor, targets: Tensor, width: int) -> None:
    """Keep `width` hidden units of a feed-forward layer and refit its second matrix; in place.

    Units leave one by one, each time the one without which the others can do best.

    Args:
        mlp: With `proj_in`, `activation` and `proj_out`.
        inputs: (N, C) what the layer sees.
        targets: (N, C) what it shall answer.
        width: Hidden units that stay.
    """
    with torch.no_grad():
        centre, wanted, covariance, cross = moments(inputs, targets, lambda rows: mlp.activation(mlp.proj_in(rows)))
        inverse = torch.linalg.inv(covariance)
        weights, kept = inverse @ cross, torch.arange(len(centre), device=centre.device)
        while len(kept) > width:
            stays = torch.ones(len(kept), dtype=torch.bool, device=kept.device)
            for _ in range(min(COMPACT, len(kept) - width)):
                # What the error grows by when a unit goes and all others are refitted: its weights' square over the inverse's diagonal.
                harm = (weights.square().sum(1) / inverse.diagonal()).masked_fill(~stays, torch.inf)
                gone = int(harm.argmin())
                share = inverse[:, gone] / inverse[gone, gone]
                weights.addr_(share, weights[gone].clone(), alpha=-1)
                inverse.addr_(share, inverse[gone].clone(), alpha=-1)
                stays[gone] = False
            weights, inverse, kept = weights[stays], inverse[stays][:, stays], kept[stays]
        device = mlp.proj_in.weight.device
        first, second = (nn.Linear(*shape, device=device) for shape in ((inputs.shape[1], width), (width, targets.shape[1])))
        first.weight.copy_(mlp.proj_in.weight[kept.to(device)])
        first.bias.copy_(mlp.proj_in.bias[kept.to(device)])
        second.weight.copy_(weights.T)
        second.bias.copy_(wanted - centre[kept] @ weights)
    mlp.proj_in, mlp.proj_out = first, second


def fit_linear(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight (C', C) and bias (C',) of the linear map that comes closest to `targets` (N, C') from `inputs` (N, C)."""
    centre, wanted, covariance, cross = moments(inputs, targets)
    weights = torch.linalg.solve(covariance, cross)
    return weights.T.float(), (wanted - centre @ weights).float()


def moments(inputs: Tensor, targets: Tensor, seen: Callable[[Tensor], Tensor] = lambda rows: rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the means of what is seen of the inputs and of the targets, the covariance of the first, ridge included, and that between both.

    Args:
        inputs: (N, C).
        targets: (N, C').
        seen: Maps rows to the numbers that a fit starts from; called on some rows at a time, since these may be many more than C.
    """
    total: Tensor | None = None
    for rows, goals in zip(inputs.split(CHUNK), targets.split(CHUNK), strict=True):
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
