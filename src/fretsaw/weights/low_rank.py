"""Fine-tuned networks as their difference from the network they started from: matrices as a product of two thin ones, the rest as it is.

A decoder that a recipe trained differs from the published one by little, and most of that little lies in a few directions. What did not change is not stored.

Source: the factors are the truncated singular value decomposition, the nearest matrix of that rank (Eckart & Young 1936); storing fine-tuning as such a
product: LoRA (Hu et al. 2021), section 4.1, here after training in place of during it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fretsaw.errors import StateDictError
from fretsaw.weights.states import load_strictly

RANK = "rank"
"""The metadata's name for the rank of what training changed; a file without it holds whole parameters."""

LEFT, RIGHT = ".change.left", ".change.right"
"""What is added to a matrix's name for the two factors of its change."""


def compress(trained: Mapping[str, Tensor], start: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """Return what `restore` needs to come back to `trained`, nearly.

    Args:
        trained: Parameters by name.
        start: Those that training started from; names may be missing, such as those of new layers, which are stored whole.
        rank: Of a matrix's change; a matrix that two factors would not make smaller is stored whole.
    """
    stored: dict[str, Tensor] = {}
    for name, value in trained.items():
        before = start.get(name)
        if before is None or before.shape != value.shape:
            stored[name] = value
        elif torch.equal(value, before):
            continue
        elif value.ndim == 2 and rank * sum(value.shape) < value.numel():
            left, scale, right = torch.linalg.svd(value.float() - before.float(), full_matrices=False)
            root = scale[:rank].sqrt()
            stored[name + LEFT], stored[name + RIGHT] = left[:, :rank] * root, root[:, None] * right[:rank]
        else:
            stored[name] = value
    return stored


def part_way(trained: Mapping[str, Tensor], start: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return parameters that went a share of the way from where training started to where it ended: `start` + share x (`trained` - `start`).

    Args:
        trained: Parameters by name; those that `start` lacks are taken as they are.
        start: Those that training started from.
        share: 0 for `start`, 1 for `trained`; between them a network keeps more of what training did not speak of.

    Source: Robust fine-tuning of zero-shot models (Wortsman et al. 2022), section 3.
    """
    return {name: torch.lerp(start[name].float(), value.float(), share) if name in start else value for name, value in trained.items()}


def restore(stored: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters of a network: `start` with what `compress` stored.

    Args:
        stored: As `compress` returned it, or whole parameters.
        start: Parameters of the network before training.

    Whole parameters that `start` lacks are kept, so that loading says what does not fit.

    Raises:
        StateDictError: If a change lacks one of its factors, or the two do not make a matrix of the parameter's shape in `start`.
    """
    whole = dict(start) | {name: value for name, value in stored.items() if not name.endswith((LEFT, RIGHT))}
    changed = sorted({name.removesuffix(LEFT if name.endswith(LEFT) else RIGHT) for name in stored if name.endswith((LEFT, RIGHT))})
    for name in changed:
        left, right = stored.get(name + LEFT), stored.get(name + RIGHT)
        if left is None or right is None or left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0]:
            shapes = [None if factor is None else tuple(factor.shape) for factor in (left, right)]
            raise StateDictError(f"expected two factors (m, r) and (r, n) of the change of {name}, got {shapes[0]} and {shapes[1]}")
        # before they are multiplied: two thin factors may make a matrix of any size
        if name not in start or start[name].shape != (left.shape[0], right.shape[1]):
            wanted = f"{tuple(start[name].shape)}" if name in start else "nothing, since the network before training has no such matrix"
            raise StateDictError(f"expected the change of {name} to be {wanted}, got one of ({left.shape[0]}, {right.shape[1]})")
        whole[name] = start[name] + left.float() @ right.float()
    return whole


def load_trained(network: nn.Module, stored: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> None:
    """Load a file's parameters into a network.

    Args:
        network: Every one of its parameters is set.
        stored: As `compress` returned it, of any float type, or whole parameters.
        start: Those that training started from, which the file may leave out; {} where it holds all of them whole.

    Raises:
        StateDictError: If they do not fit.
    """
    load_strictly(network, restore({name: value.float() if value.is_floating_point() else value for name, value in stored.items()}, start))
