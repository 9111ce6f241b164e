"""Cutting layers down by least squares: what is left comes as near as it can, copies go first, and a full-width cut changes nothing."""

from __future__ import annotations

import copy

import torch
from torch import nn

from fretsaw.recipes.fretsaw_tiny.pruning import narrow
from fretsaw.training.least_squares import fit_linear


class FeedForward(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.proj_in, self.proj_out, self.activation = nn.Linear(channels, hidden), nn.Linear(hidden, channels), nn.GELU()

    def forward(self, x):
        return self.proj_out(self.activation(self.proj_in(x)))


def layer(hidden: int = 48) -> tuple[FeedForward, torch.Tensor]:
    torch.manual_seed(0)
    mlp = FeedForward(12, hidden).requires_grad_(False)
    return mlp, torch.randn(2000, 12)


def missed(mlp: nn.Module, x: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((mlp(x) - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()).item()


def test_all_units_kept_answer_as_before():
    mlp, x = layer()
    wanted = mlp(x)
    narrow(mlp, x, wanted, 48)
    assert missed(mlp, x, wanted) < 1e-4


def test_a_unit_that_is_a_copy_goes_without_loss():
    mlp, x = layer()
    for part in (mlp.proj_in.weight, mlp.proj_in.bias):
        part[24:] = part[:24]
    wanted = mlp(x)
    narrow(mlp, x, wanted, 24)
    assert mlp.proj_in.out_features == mlp.proj_out.in_features == 24
    assert missed(mlp, x, wanted) < 1e-3


def test_the_fit_beats_leaving_the_smallest_units_out():
    mlp, x = layer()
    wanted, plain = mlp(x), copy.deepcopy(mlp)
    kept = plain.proj_out.weight.square().sum(0).argsort(descending=True)[:16]
    gone = [i for i in range(48) if i not in kept.tolist()]
    plain.proj_out.weight[:, gone] = 0
    narrow(mlp, x, wanted, 16)
    assert missed(mlp, x, wanted) < 0.5 * missed(plain, x, wanted)


def test_unseen_inputs_are_answered_nearly_as_well():
    mlp, x = layer()
    fresh = torch.randn(2000, 12)
    wanted = mlp(fresh)
    narrow(mlp, x, mlp(x), 32)
    assert missed(mlp, fresh, wanted) < 0.15


def test_a_linear_map_is_found_again():
    torch.manual_seed(1)
    x, weight, bias = torch.randn(500, 6), torch.randn(4, 6), torch.randn(4)
    found, offset = fit_linear(x, x @ weight.T + bias)
    assert torch.allclose(found, weight, atol=1e-3)
    assert torch.allclose(offset, bias, atol=1e-3)
