"""The distillation recipe on a tiny teacher and student: prompts, losses, a short run that learns, and the same run after an interruption."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fretsaw.data.views import PhotoViews, list_photos
from fretsaw.errors import DataError
from fretsaw.recipes.hrsam_lite.run import Config, train
from fretsaw.recipes.hrsam_lite.steps import map_losses
from fretsaw.training.loop import read_log
from fretsaw.training.prompt_losses import decoder_losses, random_prompts
from fretsaw.types import ImageEmbedding
from tiny import CHANNELS, tiny_sam2


class Student(nn.Module):
    """Three strided convolutions: the smallest encoder that fits the teacher's decoder."""

    available_taps = ()

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.trunk = nn.Conv2d(3, 16, 4, 4)
        self.fine = nn.Conv2d(16, CHANNELS // 8, 1)
        self.middle = nn.Conv2d(16, CHANNELS // 4, 2, 2)
        self.final = nn.Conv2d(16, CHANNELS, 4, 4)

    def forward(self, pixels: torch.Tensor, taps: Sequence[str] = ()) -> ImageEmbedding:
        x = torch.relu(self.trunk(pixels))
        return ImageEmbedding(self.final(x), (self.fine(x), self.middle(x)))


@pytest.fixture(scope="module")
def teacher():
    return tiny_sam2(64)


@pytest.fixture
def photos(tmp_path, rng):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(5):
        coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((90, 70)).save(folder / f"{i}.png")
    return folder


def test_prompts_start_positive_end_padded_and_stay_inside():
    coords, labels = random_prompts(3, 50, 64, torch.Generator().manual_seed(0))
    assert coords.shape == (3, 50, 4, 2)
    assert (labels[..., 0] == 1).all()
    assert (labels[..., 3] == -1).all()
    assert set(labels.unique().tolist()) == {-1, 0, 1}
    assert ((coords >= 0) & (coords < 64)).all()
    counts = (labels >= 0).sum(-1)
    assert set(counts.unique().tolist()) == {1, 2, 3}
    assert (labels[..., 1:] >= labels[..., :1] - 2).all()


def test_a_perfect_copy_of_the_teacher_has_no_map_loss_and_no_iou_loss(teacher):
    torch.manual_seed(0)
    theirs = teacher.encode(torch.randn(1, 3, 64, 64))
    assert all(loss.item() == 0 for loss in map_losses(theirs, theirs))
    coords, labels = random_prompts(1, 4, 64, torch.Generator().manual_seed(0))
    same = decoder_losses(teacher, theirs, theirs, coords[0], labels[0])
    assert same["iou"].item() == 0
    worse = ImageEmbedding(theirs.final + torch.randn_like(theirs.final), theirs.high_res)
    assert decoder_losses(teacher, worse, theirs, coords[0], labels[0])["mask"] > same["mask"]


def test_views_are_a_function_of_seed_and_index(photos):
    files = list_photos([photos])
    views = PhotoViews(files, 48, seed=1)
    assert views[3].shape == (3, 48, 48)
    assert views[3].dtype == torch.uint8
    assert torch.equal(views[17], PhotoViews(files, 48, seed=1)[17])
    assert not torch.equal(views[17], PhotoViews(files, 48, seed=2)[17])
    assert not torch.equal(views[3], views[8])  # another pass shows another crop


def test_one_pass_shows_every_photo_once(tmp_path):
    for i in range(6):
        Image.fromarray(np.full((20, 20, 3), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
    views = PhotoViews(list_photos([tmp_path]), 8)
    assert sorted(int(views[i][0, 0, 0]) for i in range(6)) == [0, 40, 80, 120, 160, 200]


def test_held_out_photos_are_left_out_and_mistakes_are_said(photos, tmp_path):
    (tmp_path / "test.txt").write_text("1\n3\n")
    assert [path.stem for path in list_photos([photos], [tmp_path / "test.txt"])] == ["0", "2", "4"]
    with pytest.raises(DataError, match="which is no folder"):
        list_photos([photos / "missing"])
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="found none"):
        list_photos([tmp_path / "none"])


def test_a_short_run_brings_the_student_closer_and_leaves_the_teacher_alone(photos, tmp_path, teacher):
    config = Config(photos=str(photos), out=str(tmp_path / "run"), size=64, batch=2, steps=40, warmup=5, prompts=2, workers=0, rate=3e-3)
    before = [parameter.clone() for parameter in teacher.parameters()]
    assert train(config, Student(), teacher) == 40
    log = read_log(tmp_path / "run")
    assert log[-1]["final"] < log[0]["final"]
    assert log[-1]["loss"] < log[0]["loss"]
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in teacher.parameters())
