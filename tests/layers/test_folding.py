"""Norms folded into convolutions: the same answers from a network without norms, and the original is left as it was."""

from __future__ import annotations

import torch
from torch import nn

from fretsaw.layers.folding import fold_norms


def busy(network: nn.Module) -> nn.Module:
    """Give every norm statistics and weights that matter."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.2, 3)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return network.eval()


def test_the_same_answers_without_norms():
    layers = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 6, 2, 2, bias=False), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)
    network = busy(nn.Sequential(*layers))
    x = torch.randn(2, 3, 16, 16)
    folded = fold_norms(network)
    with torch.no_grad():
        assert torch.allclose(folded(x), network(x), atol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == 2


def test_a_norm_that_follows_no_convolution_stays():
    network = busy(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)))
    x = torch.randn(1, 3, 5, 5)
    folded = fold_norms(network)
    with torch.no_grad():
        assert torch.equal(folded(x), network(x))
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == 2
