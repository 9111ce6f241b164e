"""SAM-REF's recipe on a tiny model: equation 3 by hand, crops, a short run that learns and keeps its best, the same run after an interruption."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import sam_ref_run
import torch
from PIL import Image

from fretsaw import api, catalog
from fretsaw.catalog import build_file, build_refiner
from fretsaw.errors import ConfigError
from fretsaw.evaluation.held_out import SHOWN
from fretsaw.methods.sam_ref.model import SamRef
from fretsaw.recipes.sam_ref.crops import ERRORS, MARGIN, cut_crop, draw_crop, together
from fretsaw.recipes.sam_ref.data import Places, collect
from fretsaw.recipes.sam_ref.files import learned_change
from fretsaw.recipes.sam_ref.losses import answered, decoder_losses, nearest, refinement_losses
from fretsaw.recipes.sam_ref.run import Config, run
from fretsaw.recipes.sam_ref.stages import refine_batch
from fretsaw.training.click_batches import ClickBatch
from fretsaw.training.clicking import Interaction
from fretsaw.training.loop import read_log
from fretsaw.types import ImageEmbedding, RefinerState
from fretsaw.weights import load_state_dict, low_rank
from tiny import CHANNELS, tiny_sam2

SIZE = 128
FIGURES = dict.fromkeys((*SHOWN, "boundary IoU"), 1.0)


@pytest.fixture
def data(tmp_path, rng):
    """A folder with the layout of the labelled sets: discs on noise."""
    root = tmp_path / "data"
    for name in ("coco_mval", "human_seg"):
        (root / name / "images").mkdir(parents=True)
        (root / name / "masks").mkdir()
        for i in range(4):
            mask = np.zeros((80, 100), np.uint8)
            cv2.circle(mask, (30 + 10 * i, 40), 18 + 3 * i, 255, -1)
            image = rng.integers(0, 120, (80, 100, 3), dtype=np.uint8) + (mask[..., None] > 0) * np.uint8(120)
            Image.fromarray(image).save(root / name / "images" / f"{i}.png")
            Image.fromarray(mask).save(root / name / "masks" / (f"thing00_{i}.png" if name == "coco_mval" else f"{i}.png"))
        (root / "splits").mkdir(exist_ok=True)
        (root / "splits" / f"{name}_train.txt").write_text("0\n1\n2\n")
        (root / "splits" / f"{name}_val.txt").write_text("3\n")
    return root


@pytest.fixture
def config(data, tmp_path, monkeypatch) -> Config:
    monkeypatch.setattr(catalog, "build", lambda name, size: catalog.Parts(clicks=tiny_sam2(size)))
    monkeypatch.setattr("fretsaw.methods.sam_ref.networks.CROP_SIZE", 32)  # PatchDiff at its own size would take most of the time
    settings = {"sets": "coco_mval,human_seg", "size": SIZE, "width": 8, "blocks": 1, "crop": 0, "crops": 4, "clicks": 3, "held_out": 1, "workers": 0}
    schedule = {"batch": 2, "steps": 40, "warmup": 4, "rate": 5e-3, "validate_every": 20}
    return Config(data=str(data), out=str(tmp_path / "run"), cache=str(tmp_path / "cache"), **settings, **schedule)


def test_equation_3_by_hand():
    """Four pixels: right and sure, wrong, right, and one that is not learned from."""
    third = math.log(3)
    coarse = torch.tensor([[[[2.0, -2.0, -2.0, 5.0]]]])
    coverage, valid = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]]), torch.tensor([[[[1.0, 1.0, 1.0, 0.0]]]])
    refined = torch.tensor([[[[third, -third, 0.0, 7.0]]]])
    error_map = torch.tensor([[[[-third, third, 0.0, 9.0]]]])
    losses = refinement_losses(refined, error_map, coarse, coverage, valid)
    # Error target 0 1 0 0; probabilities 1/4 3/4 1/2, and nothing at the fourth.
    assert losses["bce"].item() == pytest.approx((-2 * math.log(0.75) - math.log(0.5)) / 4, rel=1e-5)
    assert losses["dice"].item() == pytest.approx(1 - (2 * 0.75 + 1) / (1.5 + 1 + 1), rel=1e-5)
    # Focal modulations (1 - p_t)^2 are 1/16, 9/16, 1/4; weights 1, 1.5, 1, 0.
    scale = 3.5 / (1 / 16 + 1.5 * 9 / 16 + 1 / 4)
    entropies = -(math.log(0.75) / 16 + 1.5 * 9 / 16 * math.log(0.25) + math.log(0.5) / 4)
    assert losses["bnfl"].item() == pytest.approx(scale * 0.5 * entropies / 3.5, rel=1e-5)


def test_stage_1s_losses_by_hand():
    """Mask 1 misses the object, mask 2 is it, mask 3 is the whole frame; the last column is not learned from."""
    coverage, valid = torch.tensor([[[[1.0, 0.0, 1.0]]]]), torch.tensor([[[[1.0, 1.0, 0.0]]]])
    logits = torch.tensor([[[[9.0, 9.0, 9.0]], [[-9.0, 9.0, -9.0]], [[9.0, -9.0, -9.0]], [[9.0, 9.0, 9.0]]]])
    predicted = torch.tensor([[0.9, 0.75, 0.5, 0.25]])
    first, answer = decoder_losses(logits, predicted, coverage, valid, nearest)
    assert torch.equal(answer, logits[:, 2:3]), "the first click teaches the mask that is nearest"
    # True IoUs of the three are 0, 1 and 1/2.
    assert first["iou"].item() == pytest.approx((0.75**2 + 0.5**2 + 0.25**2) / 3)
    assert first["dice"].item() == pytest.approx(0.0, abs=1e-3)
    assert first["nfl"].item() == pytest.approx(0.0, abs=1e-4)
    later, answer = decoder_losses(logits, predicted, coverage, valid, answered)
    assert torch.equal(answer, logits[:, 1:2]), "later it is the one that the decoder would answer with"
    # Nothing right: overlap 0, sizes 1 and 1, and the smoothing 1.
    assert later["dice"].item() == pytest.approx(1 - 1 / 3, rel=1e-3)
    assert later["nfl"].item() == pytest.approx(0.5 * 9, rel=1e-3)


def test_what_is_not_valid_has_no_gradient():
    torch.manual_seed(0)
    error_map, refined = torch.randn(1, 1, 4, 4, requires_grad=True), torch.randn(1, 1, 4, 4, requires_grad=True)
    valid = torch.ones(1, 1, 4, 4)
    valid[..., 2:] = 0
    losses = refinement_losses(refined, error_map, torch.randn(1, 1, 4, 4), torch.rand(1, 1, 4, 4), valid)
    sum(losses.values()).backward()
    for values in (error_map, refined):
        assert (values.grad[..., 2:] == 0).all()
        assert (values.grad[..., :2] != 0).all()


def batch_of(rows: int) -> ClickBatch:
    torch.manual_seed(0)
    coverage = torch.zeros(rows, 1, 32, 32)
    coverage[..., 8:20, 10:22] = 1
    levels = torch.randn(rows, CHANNELS // 8, 32, 32), torch.randn(rows, CHANNELS // 4, 16, 16)
    embedding = ImageEmbedding(torch.randn(rows, CHANNELS, 8, 8), levels)
    return ClickBatch(torch.randn(rows, 3, SIZE, SIZE), embedding, coverage, torch.ones(rows, 1, 32, 32))


def test_crops_cut_all_maps_at_the_same_place():
    batch = batch_of(2)
    point = Interaction(torch.tensor([[[60.0, 50.0]], [[10.0, 120.0]]]), torch.tensor([[1], [0]]), None, None)
    coarse = torch.randn(2, 1, 32, 32)
    seen = together([cut_crop(batch, point, coarse, 0, (8, 4, 16)), cut_crop(batch, point, coarse, 1, (0, 16, 16))])
    assert torch.equal(seen.coarse[0], coarse[0, :, 4:20, 8:24])
    assert torch.equal(seen.pixels[1], batch.pixels[1, :, 64:128, 0:64])
    assert torch.equal(seen.embedding.final[0], batch.embedding.final[0, :, 1:5, 2:6])
    assert torch.equal(seen.embedding.high_res[0][1], batch.embedding.high_res[0][1, :, 16:32, 0:16])
    assert torch.equal(seen.embedding.high_res[1][0], batch.embedding.high_res[1][0, :, 2:10, 4:12])
    assert (seen.previous < 0).all(), "no answer before the first click"
    assert seen.clicks[0] == ((60 + 0.5) / 4 - 0.5 - 8, (50 + 0.5) / 4 - 0.5 - 4)
    # Of the second crop only the upper and the right side lie inside the map.
    expected = torch.zeros(16, 16)
    expected[MARGIN:, : 16 - MARGIN] = 1
    assert torch.equal(seen.valid[1, 0], expected)


def test_crops_lie_on_the_grid_of_cells_inside_the_map():
    rng, wrong = np.random.default_rng(0), torch.zeros(128, 128, dtype=torch.bool)
    drawn = {draw_crop(rng, (125.0, 0.4), wrong, 64) for _ in range(200)}
    assert all(x % 4 == y % 4 == 0 and 0 <= x <= 64 and 0 <= y <= 64 and side == 64 for x, y, side in drawn)
    assert len(drawn) > 10
    assert draw_crop(rng, (125.0, 0.4), wrong, 0) == (0, 0, 128)


def test_crops_go_to_what_is_wrong():
    rng, wrong = np.random.default_rng(0), torch.zeros(128, 128, dtype=torch.bool)
    wrong[10:14, 100:104] = True
    holding = [x <= 100 and x + 32 >= 104 and y <= 10 for x, y, _ in (draw_crop(rng, (5.0, 120.0), wrong, 32) for _ in range(300))]
    assert ERRORS - 0.1 < np.mean(holding) < ERRORS + 0.2


def test_crops_of_finer_maps_lie_on_the_same_cells():
    batch, coarse = batch_of(1), torch.randn(1, 1, 64, 64)
    batch = replace(batch, coverage=torch.zeros_like(coarse), valid=torch.ones_like(coarse))
    point = Interaction(torch.tensor([[[60.0, 50.0]]]), torch.tensor([[1]]), None, None)
    rng = np.random.default_rng(0)
    drawn = {draw_crop(rng, (30.0, 25.0), torch.zeros(64, 64, dtype=torch.bool), 24, cell=8) for _ in range(50)}
    assert all(x % 8 == y % 8 == 0 and max(x, y) <= 40 and side == 24 for x, y, side in drawn)
    seen = cut_crop(batch, point, coarse, 0, (16, 8, 24))
    assert torch.equal(seen.coarse[0], coarse[0, :, 8:32, 16:40])
    assert torch.equal(seen.pixels[0], batch.pixels[0, :, 16:64, 32:80])
    assert torch.equal(seen.embedding.final[0], batch.embedding.final[0, :, 1:4, 2:5])


def test_a_refiner_of_finer_maps_learns_from_finer_truths(config, tmp_path):
    config = replace(config, map_scale=2, crop=48, steps=2, validate_every=2)
    assert run(config) == 2
    refiner = build_refiner(Path(config.out) / "refiner.safetensors")
    assert refiner.map_scale == 2
    features = refiner.prepare(torch.zeros(1, 3, SIZE, SIZE), batch_of(1).embedding)
    answer, _ = refiner.refine(features, torch.tensor([[[9.0, 9.0]]]), torch.tensor([[1]]), torch.zeros(1, 1, SIZE // 4, SIZE // 4), None, RefinerState())
    assert answer.shape == (1, 1, SIZE // 2, SIZE // 2)


def test_a_batch_is_refined_as_its_images_one_by_one():
    torch.manual_seed(3)
    refiner = SamRef(8, 1, CHANNELS, global_from=1).eval()
    batch = batch_of(2)
    coords, labels = torch.tensor([[[60.0, 50.0]], [[10.0, 120.0]]]), torch.tensor([[1], [0]])
    coarse, previous, before = torch.randn(2, 1, 32, 32), torch.randn(2, 1, 32, 32), torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        together, state = refine_batch(refiner, refiner.prepare(batch.pixels, batch.embedding), coords, labels, coarse, previous, before)
        for i in range(2):
            one = slice(i, i + 1)
            features = refiner.prepare(batch.pixels[one], ImageEmbedding(batch.embedding.final[one]))
            alone, own = refiner.refine(features, coords[one], labels[one], coarse[one], previous[one], RefinerState(error_map=before[one]))
            assert torch.allclose(together[one], alone, atol=1e-5)
            assert torch.allclose(state[one], own.error_map, atol=1e-5)


@pytest.mark.slow
def test_a_short_run_learns_keeps_its_best_and_writes_a_refiner_that_loads(config):
    assert run(config) == 40
    log = read_log(Path(config.out))
    steps = [line for line in log if "loss" in line]
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert [line["step"] for line in log if "val/NoC@90" in line] == [20, 40]
    best = json.loads((Path(config.out) / "best.json").read_text())
    refiner = build_refiner(Path(config.out) / "refiner.safetensors")
    assert refiner.config == {"width": 8, "blocks": 1, "channels": CHANNELS, "map_scale": 1, "levels": [CHANNELS // 8, CHANNELS // 4]}
    assert best["step"] in (20, 40)
    last, kept = (load_state_dict(Path(config.out) / f"{name}.safetensors") for name in ("last", "refiner"))
    assert last.keys() == kept.keys()
    same = all(torch.equal(last[name], kept[name]) for name in last)
    assert same == (best["step"] == 40)
    start = json.loads((Path(config.out) / "start.json").read_text())
    assert set(start) == set(best) - {"step"}


@pytest.mark.slow
def test_an_interrupted_run_comes_to_the_same_losses_and_reads_the_stored_embeddings(config, tmp_path, monkeypatch):
    whole = replace(config, validate_every=0, out=str(tmp_path / "whole"))
    run(whole)
    monkeypatch.setattr("fretsaw.methods.sam_clicks.SamClicks.encode", lambda *_: pytest.fail("embeddings are stored"))
    parts = replace(whole, out=str(tmp_path / "parts"))
    assert run(replace(parts, minutes=1e-9)) < 40
    assert run(parts) == 40
    losses = [[line["loss"] for line in read_log(tmp_path / name) if "loss" in line] for name in ("whole", "parts")]
    assert losses[0] == losses[1]


def test_a_new_run_goes_on_from_a_refiners_file(config, tmp_path):
    run(replace(config, steps=2, warmup=1, validate_every=0))
    file = Path(config.out) / "refiner.safetensors"
    run(replace(config, steps=1, warmup=0, rate=1e-9, validate_every=0, start=str(file), out=str(tmp_path / "further")))
    before, after = load_state_dict(file), load_state_dict(tmp_path / "further" / "refiner.safetensors")
    assert all(torch.allclose(before[name].float(), after[name].float(), atol=1e-4) for name in before if "running" not in name and "num_" not in name)


def test_made_photos_are_learned_from_and_every_set_decides(config, tmp_path):
    config = replace(config, stage="decoder", pasted=3, close_ups=2, held_out=2, steps=2, warmup=1, validate_every=2)
    told: list[str] = []
    run(config, SimpleNamespace(advance=lambda note="": None, say=told.append))
    assert len(list((tmp_path / "cache" / "pasted").rglob("*.jpg"))) == 3
    assert len(list((tmp_path / "cache" / "close_ups").rglob("*.png"))) == 2
    run(replace(config, seed=1, out=str(tmp_path / "other")))
    assert len(list((tmp_path / "cache" / "pasted").rglob("*.jpg"))) == 6, "another seed does not take the first one's photos"
    assert any("learning from 11 photos, deciding by 2 objects" in text for text in told), told
    names = [sample.image.parts[-3] for sample in collect(Places(Path(config.data)), ["coco_mval"], [], 0, 2, 0, deciding=["coco_mval", "human_seg"]).held_out]
    assert names == ["coco_mval", "human_seg"]


def test_so_many_photos_of_a_set_always_the_same_ones(config):
    places = Places(Path(config.data))

    def names(name: str, seed: int = 0) -> list[str]:
        return [sample.name for sample in places.objects(name, "train", seed)]

    assert len(names("human_seg@2")) == 2
    assert names("human_seg@2") == names("human_seg@2")
    assert set(names("human_seg@2")) < set(names("human_seg"))
    assert len({tuple(names("human_seg@2", seed)) for seed in range(9)}) > 1
    assert len(names("human_seg@99")) == 3
    assert len(names(f"folder:{config.data}/human_seg@2")) == 2
    for wrong in ("human_seg@", "human_seg@0", "human_seg@few"):
        with pytest.raises(ConfigError, match=f"expected NAME or NAME@COUNT .* got {wrong}"):
            names(wrong)


def test_any_data_set_is_learned_from_and_decided_by_if_it_is_that_part(config, tmp_path):
    own = Path(config.data) / "human_seg"
    config = replace(config, data="", stage="decoder", held_out=1, steps=2, warmup=1, validate_every=2)
    assert run(replace(config, train=f"folder:{own}@3", val=str(own), out=str(tmp_path / "own"))) == 2
    assert any("val/NoC@90" in line for line in read_log(tmp_path / "own"))
    with pytest.raises(ConfigError, match="expected sets to learn from, in data or in train, got none"):
        run(config)
    with pytest.raises(ConfigError, match="expected a train part, got hqseg44k, which is a val part; hqseg44k-train is one; say allow_held_out=hqseg44k"):
        run(replace(config, train=f"hqseg44k:{own}"))
    with pytest.raises(ConfigError, match="expected a train part, got coco, which is a val part"):
        run(replace(config, train=str(tmp_path / "instances_val2017.json")))
    with pytest.raises(ConfigError, match="expected a val part, got davis, which is a test part; say allow_held_out=davis"):
        run(replace(config, train=str(own), val=f"davis:{own}"))
    # By name it is taken: DAVIS's layout is that of plain folders.
    assert run(replace(config, train=f"davis:{own}", allow_held_out="davis", out=str(tmp_path / "allowed"))) == 2
    assert (tmp_path / "allowed" / "decoder.safetensors").exists(), "nothing decides: the last step is the result"


def test_every_deciding_set_is_reported_by_itself(config):
    config = replace(
        config, stage="decoder", real=0.5, sets="coco_mval@2,human_seg", fine="human_seg", pasted=1, held_out=2, steps=2, warmup=1, validate_every=2
    )
    run(config)
    [figures] = [line for line in read_log(Path(config.out)) if "val/NoC@90" in line]
    for name in ("NoC@90", "NoC@95", "boundary IoU"):
        parts = [figures[f"val/{which} {name}"] for which in ("coco_mval", "human_seg")]
        assert figures[f"val/{name}"] == pytest.approx(sum(parts) / 2)


def test_stage_1_trains_the_decoder_and_nothing_else(config, monkeypatch):
    model = tiny_sam2(SIZE)
    monkeypatch.setattr(catalog, "build", lambda name, size: catalog.Parts(clicks=model))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    run(replace(config, stage="decoder", steps=10, rate=1e-3))
    changed = {name.split(".")[0] for name, parameter in model.named_parameters() if not torch.equal(before[name], parameter)}
    assert changed == {"mask_decoder"}
    decoder = Path(config.out) / "decoder.safetensors"
    assert decoder.exists()
    # It loads by the path of the run's model, part of the way where the run says so.
    monkeypatch.setattr(catalog, "build", lambda name, size, **_: catalog.Parts(clicks=tiny_sam2(SIZE)))
    run(replace(config, stage="decoder", steps=10, rate=1e-3, share=0.5, rank=0))
    parts = build_file(Path(config.out) / "model.safetensors", None)
    half = parts.clicks
    assert half is not None
    assert parts.zooms
    for name, value in load_state_dict(decoder).items():
        start = before.get(f"mask_decoder.{name}", value)
        assert torch.allclose(half.mask_decoder.state_dict()[name], (start + value.float()) / 2, atol=2e-3), name
    # Stage 2 goes on from it, and its file brings the decoder along.
    run(replace(config, decoder=str(decoder), rank=0, steps=4, warmup=1, out=config.out + "2"))
    both = api.load("tiny", size=SIZE, refiner=config.out + "2/refiner.safetensors", device="cpu").parts.clicks
    assert both is not None
    trained = load_state_dict(decoder)
    assert all(torch.equal(value, trained[name].float()) for name, value in both.mask_decoder.state_dict().items())
    # Part of the way, and as thin matrices: what is loaded is what the refiner learned over.
    part = replace(config, decoder=str(decoder), share=0.5, rank=4, steps=2, warmup=1, out=config.out + "3")
    own = tiny_sam2(SIZE).mask_decoder.state_dict()
    over = low_rank.restore(learned_change(decoder, own, part), own)
    run(part)
    loaded = api.load("tiny", size=SIZE, refiner=part.out + "/refiner.safetensors", device="cpu").parts.clicks
    assert loaded is not None
    for name, value in loaded.mask_decoder.state_dict().items():
        assert torch.equal(value, over[name].float()), name
        plain = before.get(f"mask_decoder.{name}", value)
        assert (value - plain).norm() <= 0.6 * (trained[name].float() - plain).norm() + 1e-3, name


def test_the_average_of_the_weights_is_what_decides_and_is_kept(config, tmp_path, monkeypatch):
    model = tiny_sam2(SIZE)
    monkeypatch.setattr(catalog, "build", lambda name, size: catalog.Parts(clicks=model))
    own = {name: tensor.clone() for name, tensor in model.mask_decoder.state_dict().items()}
    measured = []
    monkeypatch.setattr(
        "fretsaw.recipes.sam_ref.validation.held_out_figures", lambda samples, measured_model, *_: measured.append(measured_model.mask_decoder) or FIGURES
    )
    config = replace(config, stage="decoder", average=0.75, steps=3, warmup=0, rate=1e-2, validate_every=3, rank=0)
    assert run(config) == 3
    kept = load_state_dict(Path(config.out) / "decoder.safetensors")
    learned = model.mask_decoder.state_dict()
    moved = [name for name, value in learned.items() if value.is_floating_point() and (value - own[name]).norm() > 1e-2]
    assert len(moved) > 20
    for name in moved:  # behind what learned: three quarters of every step lie ahead of it
        assert 0 < (kept[name].float() - own[name]).norm() < 0.9 * (learned[name] - own[name]).norm(), name
    assert measured[-1] is not model.mask_decoder, "what decides is the average"


def test_mistakes_in_the_settings_are_said(config):
    with pytest.raises(ConfigError, match=r"expected a decay of the average from 0 to below 1, got 1.0"):
        run(replace(config, average=1.0))
    with pytest.raises(ConfigError, match="expected a stage out of refiner, decoder"):
        run(replace(config, stage="both"))
    with pytest.raises(ConfigError, match="expected crops of more than 16 pixels"):
        run(replace(config, crop=16))
    with pytest.raises(ConfigError, match="map_scale: expected 1 or 2, got 3"):
        run(replace(config, map_scale=3))


def in_processes(out: Path, *settings: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(Path(__file__).with_name("sam_ref_run.py")), str(out), *settings]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(data, tmp_path, monkeypatch):
    """After one step of AdamW without decay, its first moment is the gradient times 0.1: it must be the one of the whole batch."""
    pytest.importorskip("lightning_fabric")
    settings = ["stage=decoder", f"train=folder:{data}/human_seg", "clicks=1"]
    in_processes(tmp_path / "two", *settings, "batch=1", "devices=2")
    monkeypatch.setattr(catalog, "build", lambda name, size: catalog.Parts(clicks=tiny_sam2(size)))
    sam_ref_run.run(tmp_path / "one", *settings, "batch=2")
    states = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["optimizer"]["state"] for name in ("two", "one")]
    moments = [[state[number]["exp_avg"] for number in sorted(state)] for state in states]
    assert len(moments[0]) == len(moments[1]) > 20
    largest = max(moment.abs().max().item() for moment in moments[1])
    assert largest > 0
    for two, alone in zip(*moments, strict=True):
        torch.testing.assert_close(two, alone, atol=2e-5 * largest, rtol=1e-3)
    assert read_log(tmp_path / "two")[-1]["loss"] == pytest.approx(read_log(tmp_path / "one")[-1]["loss"], rel=1e-5)
    for name in ("decoder", "model"):
        assert (tmp_path / "two" / f"{name}.safetensors").exists()


@pytest.mark.slow
def test_two_processes_share_a_refiners_run_and_the_first_decides(data, tmp_path):
    pytest.importorskip("lightning_fabric")
    place = f"folder:{data}/human_seg"
    in_processes(tmp_path / "run", f"train={place}", f"val={place}", "held_out=1", "steps=2", "validate_every=1", "pasted=2", "devices=2", "batch=1")
    log = read_log(tmp_path / "run")
    assert [line["step"] for line in log if "val/NoC@90" in line] == [1, 2]
    for name in ("refiner", "last"):
        assert (tmp_path / "run" / f"{name}.safetensors").exists()
