"""`--refiner` on the command line: a weight file refines the clicked mask and the measured model, and a name without weights is said in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fretsaw import catalog, cli
from fretsaw.methods.sam_ref.model import GLOBAL_FROM, SamRef
from tiny import CHANNELS, tiny_sam2


@pytest.fixture
def refiner(tmp_path, monkeypatch):
    """A refiner's file whose error map is on everywhere and whose detail map says object everywhere."""
    monkeypatch.setattr(catalog, "build", lambda name, **_: catalog.Parts(clicks=tiny_sam2(64)))
    network = SamRef(8, 1, CHANNELS)
    torch.nn.init.constant_(network.global_diff.heads.error.bias, 50.0)
    torch.nn.init.constant_(network.global_diff.heads.change.bias, 50.0)
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


def test_click_takes_a_refiners_file(refiner, photo, tmp_path):
    more = [text for x in range(GLOBAL_FROM - 1) for text in ("-p", f"{21 + x},20")]  # clicks before the decoder's own mask is refined
    plain = clicked(photo, tmp_path / "plain.png", *more)
    refined = clicked(photo, tmp_path / "refined.png", *more, "--refiner", str(refiner))
    assert refined.all()
    assert not plain.all()


def test_a_name_without_weights_is_said_in_one_line(refiner, photo, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fretsaw.catalog.refiners.shipped_path", lambda file: tmp_path / "absent")
    with pytest.raises(SystemExit) as stop:
        cli.main(["click", str(photo), "-p", "20,20", "-o", str(tmp_path / "x.png"), "--model", "sam2-hiera-tiny", "--device", "cpu", "--refiner", "sam-ref"])
    assert stop.value.code == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "no trained refiner comes with this version" in line
    assert "fretsaw train sam_ref" in line
