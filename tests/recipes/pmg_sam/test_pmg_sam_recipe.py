"""PMG-SAM's recipe on tiny frozen networks: losses by hand, data and their parts, a run that learns, stops, continues and keeps its best."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fretsaw.recipes.pmg_sam.run as pmg_sam
from fretsaw.backbones.u2net import SMALL, U2Net
from fretsaw.data.augment import PLAIN, USUAL, MaskViews, augment, jitter_colours
from fretsaw.data.datasets import open_dataset
from fretsaw.errors import ConfigError, DataError, StateDictError
from fretsaw.methods.pmg_sam.build import PmgSettings, build_pmg_sam
from fretsaw.recipes.pmg_sam.config import settings_of, with_stage_defaults
from fretsaw.recipes.pmg_sam.data import evenly, open_parts
from fretsaw.recipes.pmg_sam.features import CachedFeatures, LiveFeatures, _place
from fretsaw.recipes.pmg_sam.frozen import Frozen
from fretsaw.recipes.pmg_sam.losses import coarse_pre_mask, mask_losses
from fretsaw.recipes.pmg_sam.run import Config, length, train
from fretsaw.recipes.pmg_sam.steps import schedule_of
from fretsaw.training.best import BestSoFar
from fretsaw.training.loop import fit, read_log
from fretsaw.weights import read_metadata
from tiny import CHANNELS, tiny_sam2

NARROW = {name: (depth, 3 if i == 3 else i // 8, 2, 8) for name, (depth, i, _, _) in SMALL.items()}
"""U²-Netp with an eighth of its channels."""

NETWORK = PmgSettings((8, 16, 32, 64), (8,) * 6, dim=CHANNELS, width=8, blocks=1, iterations=1, hidden=64, heads=2, patch=4)


@pytest.fixture
def data(tmp_path, rng):
    """Six images with one bright square each."""
    folder = tmp_path / "shapes"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for i in range(6):
        mask = np.zeros((60, 80), bool)
        y, x = rng.integers(5, 25, 2)
        mask[y : y + 30, x : x + 30] = True
        image = rng.integers(0, 60, (60, 80, 3)) + 180 * mask[..., None]
        Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"{i}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def frozen():
    torch.manual_seed(0)
    return Frozen(tiny_sam2(64), U2Net(NARROW).eval(), (8,) * 6, side=32)


@pytest.fixture
def config(data, tmp_path):
    return Config(data=str(data), out=str(tmp_path / "run"), size=64, batch=2, epochs=4, rate=3e-3, warmup_epochs=1, workers=0, held_out=0.3, patience=9)


def start():
    torch.manual_seed(5)
    return build_pmg_sam(NETWORK)


def test_a_start_over_another_encoder_keeps_everything_but_what_reads_its_channels():
    earlier = start().state_dict()
    torch.manual_seed(6)
    network = build_pmg_sam(replace(NETWORK, stages=(8, 16, 32, 32)))
    fresh = {name: value.clone() for name, value in network.state_dict().items()}
    pmg_sam.start_network(network, earlier)
    reads_the_fourth = {f"fusions.{i}.align_stage.conv.weight" for i in (4, 5)} | {"pyramid.to_coarse.weight"}
    for name, value in network.state_dict().items():
        assert torch.equal(value, (fresh if name in reads_the_fourth else earlier)[name]), name


def test_a_start_with_other_blocks_is_refused():
    with pytest.raises(StateDictError, match="missing"):
        pmg_sam.start_network(build_pmg_sam(replace(NETWORK, blocks=2)), start().state_dict())


def test_the_loss_is_bce_dice_and_ten_times_iou():
    logits, target = torch.tensor([[[[0.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
    # p = 1/2: BCE log 2; dice 1 - (2 * 0.5 + 1) / (1 + 1 + 1) = 1/3; IoU 1 - 0.5 / (0.5 + 1) = 2/3.
    expected = math.log(2) + 1 / 3 + 10 * 2 / 3
    assert mask_losses(logits, target, 10.0).item() == pytest.approx(expected, abs=1e-5)
    assert mask_losses(logits, target, 5.0).item() == pytest.approx(expected - 10 / 3, abs=1e-5)


def test_a_coarse_truth_keeps_the_place_and_loses_the_edge():
    target = torch.zeros(1, 1, 64, 64)
    target[..., :32] = 1
    guide = coarse_pre_mask(target, torch.Generator().manual_seed(0))
    assert guide.shape == (1, 1, 16, 16)
    assert (guide[..., :7] > 0).all()
    assert (guide[..., 9:] < 0).all()
    assert guide.abs().max() <= 8


def test_zeros_stand_for_the_stages_numbers_and_mistakes_are_said():
    config = Config(data="d", out="o")
    assert (with_stage_defaults(config).epochs, with_stage_defaults(config).rate, with_stage_defaults(config).patience) == (300, 1e-4, 40)
    cos = with_stage_defaults(replace(config, stage="cos", epochs=3))
    assert (cos.epochs, cos.rate, cos.patience) == (3, 1e-5, 20)
    for change, message in ({"stage": "dsi"}, "stage"), ({"size": 500}, "size"), ({"features": "memory"}, "features"), ({"network": "big"}, "network"):
        with pytest.raises(ConfigError, match=f"{message}: expected"):
            with_stage_defaults(replace(config, **change))
    chosen = settings_of(replace(config, fusion="none", interactions=1), (1, 2, 3, 4), (5,) * 6)
    assert (chosen.fusion, chosen.interactions, chosen.stages, chosen.width) == ("none", 1, (1, 2, 3, 4), 32)


def test_the_rate_warms_up_and_halves(tmp_path):
    config = with_stage_defaults(Config(data="d", out="o", warmup_epochs=10))
    schedule = schedule_of(config, 5, BestSoFar(tmp_path, lambda: None))
    assert schedule.steps == 1500
    assert [schedule.factor(step) for step in (50, 249, 250, 1499)] == [1, 1, 0.5, 0.5**7]
    watch = BestSoFar(tmp_path, lambda: None, halve_after=5)
    cos = schedule_of(with_stage_defaults(replace(config, stage="cos")), 5, watch)
    for loss in (1.0, 0.9, 1, 1, 1, 1):
        watch.see({"loss": loss})
    assert cos.factor(100) == 1
    watch.see({"loss": 1.0})
    assert cos.factor(100) == 0.5


def test_the_best_is_kept_and_a_run_without_progress_ends(tmp_path):
    kept: list[int] = []
    watch = BestSoFar(tmp_path, lambda: kept.append(1), patience=2)
    for loss, wanted in (1.0, 1), (0.5, 2), (0.6, 2), (0.4, 3), (0.4, 3):
        watch.see({"loss": loss})
        assert len(kept) == wanted
        assert not watch.enough()
    watch.see({"loss": 0.7})
    assert watch.enough()


def test_a_plain_folder_is_split_and_test_sets_are_refused(config, data, tmp_path):
    parts = open_parts(config, None)
    assert (len(parts.train), len(parts.validate)) == (4, 2)
    assert not {s.image for s in parts.train} & {s.image for s in parts.validate}
    assert length(config) == 4 * 2
    grabcut = tmp_path / "grabcut"
    data.rename(grabcut)
    with pytest.raises(ConfigError, match="expected a train part, got grabcut, which is a test part"):
        open_parts(replace(config, data=str(grabcut)), None)
    with pytest.raises(DataError, match="does not exist"):
        open_parts(config, None)


def test_sets_by_name_keep_to_their_lists(config, data, tmp_path):
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "shapes_train.txt").write_text("0\n1\n2\n")
    (tmp_path / "splits" / "shapes_val.txt").write_text("3\n")
    parts = open_parts(replace(config, data=str(tmp_path), sets="shapes"), None)
    assert [s.name for s in parts.train] == ["0", "1", "2"]
    assert [s.name for s in parts.validate] == ["3"]


def test_views_follow_seed_and_index_and_mask_and_image_move_together(data, rng):
    samples = open_dataset(data, "folder").samples
    views = MaskViews(samples, 64, seed=3)
    view, mask = views[9]
    assert (view.shape, view.dtype, mask.shape, mask.dtype) == ((3, 64, 64), torch.uint8, (1, 64, 64), torch.float32)
    again = MaskViews(samples, 64, seed=3)[9]
    assert torch.equal(view, again[0])
    assert torch.equal(mask, again[1])
    for index in range(12):
        view, mask = views[index]
        bright = view.float().mean(0) > view.float().mean()
        assert ((bright == (mask[0] > 0.5)).float().mean()) > 0.9
    image, truth = samples[0].read()
    assert np.array_equal(augment(image, truth == 1, 64, PLAIN, rng)[0], augment(image, truth == 1, 64, PLAIN, rng)[0])
    assert np.array_equal(jitter_colours(image, 1, 1, 1), image)
    assert USUAL.degrees == 15


def test_a_run_learns_and_keeps_its_best(config, frozen):
    parts = open_parts(config, frozen)
    whole = start()
    assert train(config, whole, frozen, parts, NETWORK) == 8
    lines = read_log(Path(config.out))
    validated = [line["val/loss"] for line in lines if "val/loss" in line]
    assert len(validated) == 4
    assert min(validated) < validated[0]
    metadata = read_metadata(Path(config.out) / "best.safetensors")
    assert PmgSettings.read(json.loads(metadata["settings"])) == NETWORK
    assert metadata["recipe"] == "pmg_sam"


class Killer:
    """Ends a run after so many steps, as a person would."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, note: str = "") -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_a_killed_run_continues_to_the_same_losses(config, frozen, monkeypatch):
    monkeypatch.setattr(pmg_sam, "fit", partial(fit, save_every=0.0, log_every=2))
    config = replace(config, epochs=3)
    parts = open_parts(config, frozen)
    train(config, start(), frozen, parts, NETWORK)
    torn = replace(config, out=config.out + "-torn")
    with pytest.raises(KeyboardInterrupt):
        train(torn, start(), frozen, parts, NETWORK, Killer(5))
    assert torch.load(Path(torn.out) / "checkpoint.pt", weights_only=True)["steps"] == 4
    assert train(torn, start(), frozen, parts, NETWORK) == 6

    def figures(folder: str) -> list[dict[str, float]]:
        return [{name: value for name, value in line.items() if name != "seconds"} for line in read_log(Path(folder))]

    assert figures(torn.out) == figures(config.out)


def test_cached_features_are_the_live_ones_in_half_precision(config, frozen):
    config = replace(config, features="cached", views=1, epochs=2)
    parts = open_parts(config, frozen)
    train(config, start(), frozen, parts, NETWORK)
    cached = CachedFeatures(frozen, parts, config)
    features, target = next(cached.training_batches(0))
    assert target.shape == (2, 1, 64, 64)
    views = MaskViews(parts.train, 64, config.seed)
    found = [i for i in range(len(parts.train)) if torch.equal(views[i][1], target[0])]
    live = frozen.features(views[found[0]][0][None])
    assert (features.stages[0][:1] - live.stages[0]).abs().max() <= live.stages[0].abs().max() / 1000
    held_out, live_held_out = (next(kind(frozen, parts, config).validation_batches()) for kind in (CachedFeatures, LiveFeatures))
    torch.testing.assert_close(held_out[0].final, live_held_out[0].final, rtol=1e-3, atol=1e-3)
    assert torch.equal(held_out[1], live_held_out[1])


def test_other_samples_never_get_features_of_the_first(config, frozen):
    config = replace(config, features="cached", views=1)
    parts = open_parts(config, frozen)
    fewer = replace(parts, train=parts.train[1:])
    first, second = (next(CachedFeatures(frozen, part, replace(config, batch=1)).training_batches(0)) for part in (parts, fewer))
    live = [frozen.features(MaskViews(part.train, 64, config.seed)[_place(0, len(part.train), config.seed)][0][None]) for part in (parts, fewer)]
    for found, expected in zip((first[0], second[0]), live, strict=True):
        torch.testing.assert_close(found.final, expected.final, rtol=1e-3, atol=1e-3)


def test_a_limit_and_few_validations_are_taken_evenly(config, frozen):
    every = open_parts(config, frozen)
    fewer = open_parts(replace(config, limit=2), frozen)
    assert fewer.train == every.train[:2]
    assert [*evenly("abcdefghi", 3)] == ["a", "e", "i"]


def test_a_cosine_ends_at_nothing(config):
    schedule = schedule_of(replace(with_stage_defaults(config), decay="cosine"), 10, BestSoFar(Path(config.out), lambda: None, patience=1))
    assert schedule.decay(1.0) == pytest.approx(0, abs=1e-9)
    assert schedule.decay(0.5) == pytest.approx(0.5)


def test_what_does_not_stand_out_is_left_out(config, frozen, tmp_path, monkeypatch):
    from fretsaw.recipes.pmg_sam import frozen as frozen_file

    monkeypatch.setattr(frozen_file, "saliency_map", lambda network, image: (image[..., 0] > 150).astype(np.float32))
    samples = list(open_dataset(config.data, "folder").samples)
    found = frozen.salient_only(samples, 0.5, tmp_path / "kept" / "salient.json")
    assert found == samples
    monkeypatch.setattr(frozen_file, "saliency_map", lambda network, image: (image[..., 0] < 150).astype(np.float32))
    assert frozen.salient_only(samples, 0.5, tmp_path / "other.json") == []
    assert frozen.salient_only(samples, 0.5, tmp_path / "kept" / "salient.json") == samples  # measured once
