"""Linear layers fitted by least squares."""

from __future__ import annotations

import torch

from fretsaw.training.least_squares import fit_change, fit_linear


def test_a_linear_map_is_found_again():
    inputs, weight, bias = torch.randn(500, 6), torch.randn(3, 6), torch.randn(3)
    for found in (fit_linear(inputs, inputs @ weight.T + bias), fit_change(inputs, inputs @ weight.T + bias, inputs[:50], inputs[:50] @ weight.T + bias)):
        torch.testing.assert_close(found[0], weight, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(found[1], bias, atol=1e-3, rtol=1e-3)


def test_what_holds_for_single_pictures_alone_is_not_learned():
    """Each picture has rows that are nearly the same, and a target of its own that follows from nothing."""
    generator = torch.Generator().manual_seed(0)
    pictures, goals = torch.randn(12, 1, 30, generator=generator), torch.randn(12, 1, 4, generator=generator)
    inputs, targets = pictures + 0.01 * torch.randn(12, 40, 30, generator=generator), goals.expand(-1, 40, -1)

    def error(weight, bias) -> float:
        return (inputs[8:].flatten(0, 1) @ weight.T + bias - targets[8:].flatten(0, 1)).square().mean().item()

    fitted = inputs[:8].flatten(0, 1), targets[:8].flatten(0, 1)
    none = targets[8:].square().mean().item()
    assert error(*fit_linear(*fitted)) > 1.05 * none
    assert error(*fit_change(*fitted, inputs[8:].flatten(0, 1), targets[8:].flatten(0, 1))) <= 1.0001 * none
