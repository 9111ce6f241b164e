"""Cut SAM 2's Hiera-T down to a network that fits into the package, without a step of training: what is left is fitted by least squares.

Two steps, each a fit on a few photos:

    hidden units of a feed-forward layer: the least useful go, the others make up for them     (`narrow`)
    a linear layer: set to what comes nearest to the targets                                   (`fretsaw.training.least_squares`)

Source: layer-wise reconstruction after pruning: Luo et al. 2017 (ThiNet), section 3.2; which units go: Hassibi & Stork 1993 (optimal brain surgeon),
equation 5, for all weights that leave a unit.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from fretsaw.training.least_squares import moments

COMPACT = 64
"""Units that leave before the matrices are made smaller: until then their rows and columns stand there as zeros."""


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
        inverse = cast("Tensor", torch.linalg.inv(covariance))  # pyright: ignore[reportUnknownMemberType]
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
