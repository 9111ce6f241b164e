"""`--refiner` on the command line: a weight file mends one's own mask, and a name without weights is said in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fretsaw import catalog, cli
from fretsaw.methods.sam_ref.model import SamRef
from tiny import CHANNELS, tiny_sam2


@pytest.fixture
def refiner(tmp_path, monkeypatch):
    """A refiner's file whose error maps are on everywhere and whose detail maps say object everywhere."""
    monkeypatch.setattr(catalog, "build", lambda name, **_: catalog.Parts(clicks=tiny_sam2(64)))
    network = SamRef(8, 1, CHANNELS)
    for heads in (network.global_diff.heads, network.patch_diff.heads):
        torch.nn.init.constant_(heads.error.bias, 50.0)
        torch.nn.init.constant_(heads.change.bias, 50.0)
    save_file(network.state_dict(), tmp_path / "ref.safetensors", {"config": json.dumps(network.config)})
    return tmp_path / "ref.safetensors"


@pytest.fixture
def photo(tmp_path, rng):
    Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def clicked(photo, out, *options) -> np.ndarray:
    with pytest.raises(SystemExit) as stop:
        cli.main(["click", str(photo), "-p", "20,20", "-o", str(out), "--device", "cpu", *options])
    assert not stop.value.code
    return np.asarray(Image.open(out)) > 0


def test_click_mends_ones_own_mask_by_a_refiners_file(refiner, photo, tmp_path, monkeypatch):
    monkeypatch.setattr("fretsaw.api.ClickRules", lambda: None)  # which alone would fill the hole
    own = np.full((40, 50), 255, np.uint8)
    own[16:25, 16:25] = 0
    Image.fromarray(own).save(tmp_path / "own.png")
    plain = clicked(photo, tmp_path / "plain.png", "--mask", str(tmp_path / "own.png"))
    refined = clicked(photo, tmp_path / "refined.png", "--mask", str(tmp_path / "own.png"), "--refiner", str(refiner))
    assert refined.all(), "the hole is filled, and nothing else has changed"
    assert not plain.all()


def test_a_name_without_weights_is_said_in_one_line(refiner, photo, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fretsaw.catalog.refiners.shipped_path", lambda file: tmp_path / "absent")
    with pytest.raises(SystemExit) as stop:
        cli.main(["click", str(photo), "-p", "20,20", "-o", str(tmp_path / "x.png"), "--model", "sam2-hiera-tiny", "--device", "cpu", "--refiner", "sam-ref"])
    assert stop.value.code == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "no trained refiner comes with this version" in line
    assert "fretsaw train sam_ref" in line
