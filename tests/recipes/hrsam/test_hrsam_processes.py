"""Runs of HRSAM's recipe as programs: killed in the middle, and shared by two processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hrsam_run import SETTINGS, networks
from PIL import Image

import fretsaw.recipes.hrsam.run as hrsam
from fretsaw.cli.train import configure
from fretsaw.errors import ConfigError, MissingExtraError
from fretsaw.training.loop import read_log
from fretsaw.training.processes import ONE, launch, shares

PROGRAM = Path(__file__).with_name("hrsam_run.py")


@pytest.fixture
def photos(tmp_path, rng):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((90, 70)).save(folder / f"{i}.png")
    return folder


def start(photos, out, *settings):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen([sys.executable, PROGRAM, photos, out, *settings], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(run):
    out, err = run.communicate(timeout=240)
    assert run.returncode == 0, err
    return out


@pytest.fixture
def one_thread():
    """As the programs compute: sums in another order would not be equal to the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run_here(photos, out, *settings):
    """Do here what the program does."""
    config = configure(hrsam.Config, [f"photos={photos}", f"out={out}", *SETTINGS, *settings])
    return hrsam.train(config, *networks(config))


@pytest.mark.slow
def test_a_run_that_was_killed_comes_to_the_same_losses(photos, tmp_path, one_thread):
    run_here(photos, tmp_path / "whole")
    killed = start(photos, tmp_path / "killed")
    log = tmp_path / "killed" / "log.jsonl"
    while killed.poll() is None and not (log.exists() and len(log.read_text().splitlines()) >= 3):
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model.safetensors").exists(), "it was killed before the end"
    assert run_here(photos, tmp_path / "killed") == 12
    whole, resumed = ([(line["step"], line["loss"]) for line in read_log(tmp_path / name)] for name in ("whole", "killed"))
    assert whole == resumed
    assert (tmp_path / "whole" / "model.safetensors").exists()
    states = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["model"] for name in ("whole", "killed")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_processes_share_the_items_without_gap_or_repetition():
    class Process(type(ONE)):
        def __init__(self, rank):
            self.rank, self.count = rank, 3

    parts = [shares(2, 5, 4, Process(rank)) for rank in range(3)]
    for step, taken in enumerate(zip(*parts, strict=True), start=2):
        assert [item for part in taken for item in part] == list(range(step * 12, step * 12 + 12))
    assert shares(0, 3, 2, ONE) == [[0, 1], [2, 3], [4, 5]]


def test_one_process_needs_no_fabric_and_several_say_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    assert launch(1, "cpu") is ONE
    with pytest.raises(MissingExtraError, match=r"pip install 'fretsaw\[train\]'"):
        launch(2, "cpu")
    with pytest.raises(ConfigError, match="at least 1 process"):
        launch(0, "cpu")
    with pytest.raises(ConfigError, match="cpu or cuda for 2 processes"):
        launch(2, "mps")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["distil", "finetune"])
def test_two_processes_have_the_gradients_of_one(photos, tmp_path, stage):
    """After one step of AdamW without decay, its first moment is the gradient times 0.1: it must be the one of the whole batch."""
    pytest.importorskip("lightning_fabric")
    settings = [f"stage={stage}", "steps=1", "drop_path=0", "weight_decay=0", "most_clicks=0"]
    place = photos if stage == "distil" else _objects(tmp_path)
    finish(start(place, tmp_path / "two", *settings, "batch=1", "devices=2"))
    one = configure(hrsam.Config, [f"photos={place}", f"out={tmp_path / 'one'}", *SETTINGS, *settings, "batch=2"])
    hrsam.train(one, *networks(one))
    moments = [_moments(tmp_path / name / "checkpoint.pt") for name in ("two", "one")]
    assert len(moments[0]) == len(moments[1]) > 50
    largest = max(moment.abs().max().item() for moment in moments[1])
    assert largest > 0
    for two, alone in zip(*moments, strict=True):
        torch.testing.assert_close(two, alone, atol=2e-5 * largest, rtol=1e-4)
    losses = [read_log(tmp_path / name)[-1]["loss"] for name in ("two", "one")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def _moments(path):
    state = torch.load(path, weights_only=True)["optimizer"]["state"]
    return [state[number]["exp_avg"] for number in sorted(state)]


def _objects(folder):
    root = folder / "objects"
    y, x = np.mgrid[:60, :80]
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for i in range(3):
        mask = np.hypot(y - 25 - 3 * i, x - 40) < 12
        Image.fromarray((60 + 120 * mask[..., None] * np.ones(3)).astype(np.uint8)).save(root / "images" / f"{i}.png")
        Image.fromarray((255 * mask).astype(np.uint8)).save(root / "masks" / f"{i}.png")
    return root
