"""Losses against values worked out by hand, and the properties that their use relies on."""

from __future__ import annotations

import math

import pytest
import torch

from fretsaw.training import losses

LOGITS = torch.tensor([[[0.0, math.log(3)], [-math.log(3), 0.0]]])  # probabilities 1/2, 3/4, 1/4, 1/2
TARGET = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])


def test_bce_by_hand():
    expected = -(math.log(0.5) + math.log(0.75) + math.log(0.75) + math.log(0.5)) / 4
    assert losses.bce(LOGITS, TARGET).item() == pytest.approx(expected, rel=1e-6)


def test_dice_by_hand():
    assert losses.dice(LOGITS, TARGET, smooth=1).item() == pytest.approx(1 - (2 * 1.25 + 1) / (2 + 2 + 1), rel=1e-6)


def test_soft_iou_by_hand():
    assert losses.soft_iou(LOGITS, TARGET).item() == pytest.approx(1 - 1.25 / 2.75, rel=1e-5)


def test_focal_by_hand():
    half, quarter = 0.25 * -math.log(0.5), 0.0625 * -math.log(0.75)
    expected = (0.25 * half + 0.25 * quarter + 0.75 * quarter + 0.75 * half) / 4
    assert losses.focal(LOGITS, TARGET).item() == pytest.approx(expected, rel=1e-6)


def test_normalised_focal_by_hand():
    half, quarter = 0.25 * -math.log(0.5), 0.0625 * -math.log(0.75)
    scale = 4 / (2 * 0.25 + 2 * 0.0625)
    assert losses.normalised_focal(LOGITS, TARGET).item() == pytest.approx(scale * 0.5 * (2 * half + 2 * quarter) / 4, rel=1e-5)


def test_normalised_focal_ignores_what_weighs_nothing():
    weight = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    cut = losses.normalised_focal(LOGITS[..., :1], TARGET[..., :1])
    assert losses.normalised_focal(LOGITS, TARGET, weight=weight).item() == pytest.approx(cut.item(), rel=1e-5)


def test_normalisation_keeps_the_gradient_of_easy_images_alive():
    easy = torch.full((1, 4, 4), 4.0, requires_grad=True)
    losses.normalised_focal(easy, torch.ones(1, 4, 4)).sum().backward()
    plain = torch.full((1, 4, 4), 4.0, requires_grad=True)
    losses.focal(plain, torch.ones(1, 4, 4), alpha=0.5).sum().backward()
    assert easy.grad.abs().sum() > 100 * plain.grad.abs().sum()


@pytest.mark.parametrize("loss", [losses.bce, losses.dice, losses.soft_iou, losses.focal, losses.normalised_focal])
def test_every_loss_is_per_mask_falls_towards_the_truth_and_has_a_true_gradient(loss):
    torch.manual_seed(0)
    target = (torch.rand(3, 1, 6, 6) > 0.5).double()
    right = (2 * target - 1) * 6
    assert loss(right, target).shape == (3, 1)
    assert (loss(right, target) < loss(0 * right, target)).all()
    assert (loss(0 * right, target) < loss(-right, target)).all()
    if loss is not losses.normalised_focal:  # its scale is a constant for the gradient on purpose
        assert torch.autograd.gradcheck(lambda logits: loss(logits, target), torch.randn(3, 1, 6, 6, dtype=torch.float64, requires_grad=True))


def test_standardised_mse_is_zero_for_a_copy_and_one_for_the_mean():
    teacher = torch.randn(2, 3, 8, 8) * 5 + 2
    assert losses.standardised_mse(teacher, teacher) == 0
    assert losses.standardised_mse(teacher.mean().expand_as(teacher), teacher).item() == pytest.approx(1, rel=1e-2)
