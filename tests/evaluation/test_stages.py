"""Figures of coarse-to-fine stages, and the redundancy of patch labels, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from experiments.grc_sam.redundancy import redundancy
from fretsaw.errors import ShapeError
from fretsaw.evaluation.stages import StageTally
from fretsaw.frames import squash
from fretsaw.methods.grc_sam.model import GrcResult


def test_each_stage_is_measured_by_itself():
    truth = np.zeros((8, 8), np.int32)
    truth[:, 4:], truth[0, 0] = 1, 255
    classes = torch.full((1, 2, 8, 8), 0.0)
    classes[:, 1, :, 4:] = 1.0
    classes[:, 0, :, :4] = 1.0
    coarse = torch.ones(1, 1, 8, 8)
    fine = torch.full((1, 1, 8, 8), -1.0)
    fine[..., 4:6] = 1.0
    tally = StageTally(2, (1,))
    tally.add(GrcResult(coarse, coarse, fine, torch.ones(1, 8, 8, dtype=torch.bool), torch.zeros(1, 2), classes), truth, squash(8, 8, 8))
    found = tally.figures()
    assert found["mIoU"] == found["PA"] == found["Dice"] == 1.0
    assert found["coarse Dice"] == pytest.approx(2 * 32 / (63 + 32))
    assert found["coarse foreground PA"] == pytest.approx(32 / 63)
    assert found["fine Dice"] == pytest.approx(2 * 16 / (16 + 32))
    assert found["rho"] == 1.0


def test_logits_alone_have_no_stages():
    tally = StageTally(2, (1,))
    tally.add(torch.ones(1, 1, 4, 4), np.ones((4, 4), np.int32), squash(4, 4, 4))
    assert set(tally.figures()) == {"mIoU", "PA", "Dice", "foreground PA"}


def test_equation_12_by_hand():
    labels = np.zeros((4, 8), int)
    labels[:, 4:] = 1
    assert redundancy(labels, 4) == (0.0, pytest.approx(1 - 2 / 32))  # two patches of one bit each, 32 pixels of one bit each
    labels[0, 0] = 1  # outvoted in its patch
    fine = -(17 / 32 * math.log2(17 / 32) + 15 / 32 * math.log2(15 / 32))
    assert redundancy(labels, 4)[0] == pytest.approx(1 - 1 / fine)
    assert all(math.isnan(value) for value in redundancy(np.zeros((4, 4)), 2))
    with pytest.raises(ShapeError):
        redundancy(labels, 5)
