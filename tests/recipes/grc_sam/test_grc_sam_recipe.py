"""GrC-SAM's recipe on tiny data: groups of classes, views, losses by hand, short runs that learn, and the same run after an interruption."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from fretsaw.data.label_folders import open_labels, open_masks, part_of, read_class_names, read_groups
from fretsaw.data.label_views import placement, view_labels, view_picture
from fretsaw.errors import ConfigError, DataError
from fretsaw.methods.grc_sam.build import Description, assemble
from fretsaw.methods.grc_sam.model import GrcResult
from fretsaw.recipes.grc_sam.config import check_settings
from fretsaw.recipes.grc_sam.data import foreground_ids, open_data
from fretsaw.recipes.grc_sam.losses import composite_losses, final_loss
from fretsaw.recipes.grc_sam.run import Config, length, train
from fretsaw.training.loop import read_log
from fretsaw.weights import load_state_dict, read_metadata
from tiny import tiny_sam2

SIZE = 64


@pytest.fixture
def folder(tmp_path, rng):
    """Ten photos of a coloured square on grey; the class is its colour: 1 red, 2 green, 3 blue."""
    root = tmp_path / "squares"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    (root / "classes.txt").write_text("0 null\n1 red\n2 green\n3 blue\n")
    for i in range(10):
        image, labels = np.full((60, 80, 3), 120, np.uint8), np.zeros((60, 80), np.uint8)
        y, x, kind = int(rng.integers(0, 30)), int(rng.integers(0, 50)), i % 3
        image[y : y + 28, x : x + 28], labels[y : y + 28, x : x + 28] = 0, kind + 1
        image[y : y + 28, x : x + 28, kind] = 255
        Image.fromarray(image).save(root / "images" / f"{i}.png")
        Image.fromarray(labels).save(root / "masks" / f"{i}.png")
    return root


@pytest.fixture
def groups(tmp_path):
    path = tmp_path / "groups.txt"
    path.write_text("background: null\nwarm: red\ncold: green, blue\n")
    return path


def config_for(folder, out, **changed):
    return Config(
        **({"data": str(folder), "out": str(out), "size": SIZE, "width": 16, "views": 2, "epochs": 10, "rate": 2e-3, "warmup": 5, "workers": 0} | changed)
    )


# Data --------------------------------------------------------------------------------------------------------------------------------------------


def test_classes_are_grouped(folder, groups):
    found = read_groups(groups, read_class_names(folder / "classes.txt"))
    assert found.names == ("background", "warm", "cold")
    assert found.table[:5] == (0, 1, 2, 2, 255)
    samples, names = open_labels(folder, groups)
    assert names == found.names
    assert len(samples) == 10
    assert set(np.unique(samples[2].read_truth())) == {0, 2}


def test_a_list_without_numbers_counts_from_zero_and_lines_without_members_are_classes(tmp_path):
    (tmp_path / "c.txt").write_text("sky\ntree\n")
    (tmp_path / "g.txt").write_text("# two\ntree\nsky\n")
    found = read_groups(tmp_path / "g.txt", read_class_names(tmp_path / "c.txt"))
    assert found.names == ("tree", "sky")
    assert found.table[:3] == (1, 0, 255)


@pytest.mark.parametrize(("text", "said"), [("a: red\nb: pink", "pink"), ("a: red\nb: red", "in two"), ("a: red", "two groups"), ("a: red\na: green", "twice")])
def test_wrong_groups_are_refused(tmp_path, text, said):
    (tmp_path / "g.txt").write_text(text)
    with pytest.raises(DataError, match=said):
        read_groups(tmp_path / "g.txt", {"red": 1, "green": 2})


def test_the_shipped_groups_name_every_class_once(shared):
    classes = read_class_names(shared / "data" / "ccp" / "classes.txt")
    found = read_groups("ccp8", classes)
    assert len(found.names) == 8
    assert all(found.table[index] != 255 for index in classes.values())


def test_parts_come_from_lists_or_are_drawn_once(folder):
    samples = open_masks(folder)
    parts = {part: [sample.name for sample in part_of(samples, folder, part)] for part in ("train", "val", "test")}
    assert sorted(name for names in parts.values() for name in names) == sorted(sample.name for sample in samples)
    assert len(parts["train"]) == 8
    (folder / "splits").mkdir()
    (folder / "splits" / "squares_val.txt").write_text("3\n4\n")
    assert [sample.name for sample in part_of(samples, folder, "val")] == ["3", "4"]
    with pytest.raises(ConfigError, match="train, val, test"):
        part_of(samples, folder, "dev")
    with pytest.raises(DataError, match="squares_test"):
        part_of(samples, folder, "test", folder / "splits")


def test_masks_of_label_maps_are_any_class_but_zero(folder):
    truth = open_masks(folder)[0].read_truth()
    assert set(np.unique(truth)) == {0, 1}
    (folder / "classes.txt").unlink()
    assert np.array_equal(open_masks(folder)[0].read_truth(), truth)


@pytest.mark.parametrize("number", range(8))
def test_a_views_labels_lie_where_its_picture_shows_them(number):
    image, labels = np.full((60, 80, 3), 10, np.uint8), np.zeros((60, 80), np.uint8)
    image[10:40, 20:70], labels[10:40, 20:70] = 250, 1
    at = placement(60, 80, 64, number, 0, "key")
    plain = type(at)(at.box, at.side, at.x, at.y, at.mirrored, None)
    picture, truth = view_picture(image, plain, 64), view_labels(labels, at, 64)
    known = truth != 255
    assert ((picture[..., 0] > 130) == (truth == 1))[known].mean() > 0.97
    assert (number < 2) <= bool(known.all())
    assert at == placement(60, 80, 64, number, 0, "key")


def test_foreground_is_all_but_background_or_what_is_named():
    assert foreground_ids(()) == (1,)
    assert foreground_ids(("background", "a", "b")) == (1, 2)
    assert foreground_ids(("a", "b")) == (0, 1)
    assert foreground_ids(("sky", "car", "road"), ["car"]) == (1,)


# Losses ------------------------------------------------------------------------------------------------------------------------------------------


def result_of(coarse, fine, classes):
    return GrcResult(coarse, coarse, fine, torch.ones(1, 4, 4, dtype=torch.bool), torch.zeros(1, 2), classes)


def test_the_composite_loss_by_hand():
    """One patch, four by four fine tokens, labels of side four: the right half is class 1."""
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    labels[..., 2:] = 1
    fine = torch.full((1, 1, 4, 4), math.log(3))  # probability 0.75
    classes = torch.zeros(1, 2, 4, 4)
    classes[:, 1] = math.log(3)
    found = composite_losses(result_of(torch.full((1, 1, 1, 1), 0.8), fine, classes), labels, (1,))
    t, p = 0.5, 0.8
    entropy = -(t * math.log(p) + (1 - t) * math.log(1 - p))
    right = p * t + (1 - p) * (1 - t)
    assert float(found["coarse"]) == pytest.approx((0.25 * t + 0.75 * (1 - t)) * (1 - right) ** 2 * entropy, rel=1e-4)
    bce = -(math.log(0.75) + math.log(0.25)) / 2
    dice = 1 - (2 * 0.75 * 8 + 1) / (0.75 * 16 + 8 + 1)
    assert float(found["fine"]) == pytest.approx(bce + dice, rel=1e-5)
    # Smoothing 0.1 over two classes: 0.95 for the right one.
    final = -(0.95 * math.log(0.75) + 0.05 * math.log(0.25) + 0.95 * math.log(0.25) + 0.05 * math.log(0.75)) / 2
    assert float(found["final"]) == pytest.approx(final, rel=1e-5)
    assert float(found["loss"]) == pytest.approx(0.05 * float(found["coarse"]) + 0.2 * float(found["fine"]) + float(found["final"]), rel=1e-6)


def test_one_output_equals_two_whose_first_is_zero():
    labels = torch.tensor([[[0, 1], [1, 255]]])
    one = torch.randn(1, 1, 2, 2)
    assert torch.allclose(final_loss(one, labels), final_loss(torch.cat([torch.zeros_like(one), one], 1), labels))


def test_what_is_not_known_has_no_gradient():
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    labels[:, 4:] = 255
    coarse, fine, classes = (torch.rand(shape).requires_grad_() for shape in ((1, 1, 2, 2), (1, 1, 8, 8), (1, 2, 8, 8)))
    composite_losses(result_of(coarse, fine, classes), labels, (1,))["loss"].backward()
    assert coarse.grad[0, 0, 1].abs().max() == 0
    assert float(fine.grad[0, 0, 4:].abs().max()) < 1e-9
    assert classes.grad[0, :, 4:].abs().max() == 0
    assert coarse.grad[0, 0, 0].abs().min() > 0


# Runs --------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["grc", "linear"])
def test_a_short_run_learns_classes_and_its_file_labels(folder, groups, tmp_path, head):
    config = config_for(folder, tmp_path / "run", classes=str(groups), head=head)
    data = open_data(config)
    base = tiny_sam2(SIZE)
    assert train(config, data, base) == length(config) == 20
    log = read_log(tmp_path / "run")
    losses = [line["loss"] for line in log if "loss" in line]
    first = next(line for line in log if "val/mIoU" in line)
    last = [line for line in log if "val/mIoU" in line][-1]
    assert last["val/PA"] >= first["val/PA"] or losses[-1] < 1.2
    path = tmp_path / "run" / "model.safetensors"
    about = Description.from_metadata(read_metadata(path))
    assert about.names == ("background", "warm", "cold")
    best = json.loads((tmp_path / "run" / "best.json").read_text())
    assert set(best["IoU by class"]) == set(about.names)
    _, _, labels = assemble(tiny_sam2(SIZE), about, load_state_dict(path), None, "x")
    assert labels(data.val[0].read_image()).labels.shape == (60, 80)
    assert ("val/coarse Dice" in first) == (head == "grc")


def test_the_loss_falls_on_a_binary_set_and_an_interrupted_run_comes_to_the_same(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("fretsaw.recipes.grc_sam.run.fit", _with_lines_every(2))
    whole = config_for(folder, tmp_path / "whole", epochs=12, cache=str(tmp_path / "cache"))
    data = open_data(whole)
    train(whole, data, tiny_sam2(SIZE))
    cut = config_for(folder, tmp_path / "cut", epochs=12, cache=str(tmp_path / "cache"))
    seen = []

    class Stopped(Exception):  # noqa: N818
        pass

    class Watcher:
        def advance(self, note=""):
            seen.append(note)
            if len(seen) == 11:
                raise Stopped

    with pytest.raises(Stopped):
        train(cut, data, tiny_sam2(SIZE), Watcher())
    train(cut, data, tiny_sam2(SIZE))
    one, two = ([line["loss"] for line in read_log(tmp_path / name) if "loss" in line] for name in ("whole", "cut"))
    assert one == pytest.approx(two, abs=1e-6)
    assert np.mean(one[-3:]) < 0.9 * np.mean(one[:3])


def test_the_encoder_can_join(folder, tmp_path):
    config = config_for(folder, tmp_path / "run", views=0, unfreeze=1, epochs=2, batch=4)
    base = tiny_sam2(SIZE)
    before = {name: value.clone() for name, value in base.image_encoder.state_dict().items()}
    train(config, open_data(config), base)
    path = tmp_path / "run" / "model.safetensors"
    about = Description.from_metadata(read_metadata(path))
    fresh = tiny_sam2(SIZE)
    assemble(fresh, about, load_state_dict(path), None, "x")
    assert any(not torch.equal(before[name], value) for name, value in fresh.image_encoder.state_dict().items())


@pytest.mark.parametrize(
    "changed", [{"head": "mlp"}, {"size": 100}, {"stride": 3}, {"unfreeze": 5}], ids=["unknown head", "odd size", "odd stride", "stored and learning"]
)
def test_settings_that_do_not_fit_are_refused(changed):
    with pytest.raises(ConfigError):
        check_settings(config_for("data", "out", **changed))


def test_a_foreground_that_is_no_class_is_refused(folder, groups, tmp_path):
    with pytest.raises(ConfigError, match="purple"):
        open_data(config_for(folder, tmp_path, classes=str(groups), foreground="purple"))


def _with_lines_every(steps):
    from functools import partial

    from fretsaw.training.loop import fit

    return partial(fit, log_every=steps, save_every=0.0)
