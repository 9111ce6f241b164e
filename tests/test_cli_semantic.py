"""`fretsaw semantic` and `fretsaw auto` with a trained GrC-SAM file, and the library's way to the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import fretsaw
from fretsaw import catalog, cli
from fretsaw.catalog.entries import Parts
from fretsaw.errors import FretsawError
from fretsaw.methods.grc_sam.build import Description, build_network, export
from tiny import tiny_sam2

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("background", "cat", "dog")


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Write an untrained file over a tiny model that the catalogue takes for the one the file names."""
    build = catalog.build

    def of_tiny(name, **settings):
        return Parts(clicks=tiny_sam2(settings.get("size") or 64)) if name == "tiny" else build(name, **settings)

    monkeypatch.setattr(catalog, "build", of_tiny)

    def write(names=NAMES):
        torch.manual_seed(0)  # untrained logits lie near 0, where a pixel's class hangs on how they are enlarged
        about = Description("tiny", 64, names, width=16)
        return export(build_network(tiny_sam2(64), about), about, tmp_path / f"model{len(names)}.safetensors", {"recipe": "grc_sam"})

    return write


@pytest.fixture
def photos(tmp_path, rng):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_a_file_is_loaded_by_its_path_and_says_what_it_is(trained, photos):
    segmenter = fretsaw.load(trained(), device="cpu")
    labels = segmenter.semantic(photos / "a.png")
    assert labels.names == NAMES
    assert labels.labels.shape == (40, 50)
    assert segmenter.auto(photos / "a.png").mask.shape == (40, 50)
    foreground = labels.probabilities[1:].sum(0) > 0.5
    assert np.mean(foreground == segmenter.auto(photos / "a.png").mask) > 0.99
    # A session's clicks are answered by the model underneath.
    assert segmenter.open(photos / "a.png").click(10, 10).mask.shape == (40, 50)
    assert segmenter.parts.clicks.preprocessing.size == 64
    assert fretsaw.load(trained(), size=128, device="cpu").parts.clicks.preprocessing.size == 128


def test_a_binary_file_names_background_and_foreground(trained, photos):
    labels = fretsaw.load(trained(()), device="cpu").semantic(photos / "a.png")
    assert labels.names == ("background", "foreground")


def test_a_model_without_a_background_has_no_automatic_cut(trained, photos):
    segmenter = fretsaw.load(trained(("sky", "tree")), device="cpu")
    assert segmenter.parts.automatic is None
    assert segmenter.semantic(photos / "a.png").names == ("sky", "tree")


def test_semantic_writes_labels_legend_and_overlay(trained, photos, tmp_path):
    model = trained()
    result = run("semantic", photos, "-o", tmp_path / "out", "--model", model, "--format", "all", "--device", "cpu", "--json")
    assert result.exit_code == 0, result.output
    records = json.loads(result.output)
    assert [set(record) for record in records] == [{"input", "output", "areas", "seconds"}] * 2
    picture = Image.open(tmp_path / "out" / "a.png")
    assert picture.mode == "P"
    assert picture.size == (50, 40)
    legend = json.loads((tmp_path / "out" / "a.json").read_text())
    assert [row["name"] for row in legend["labels"]] == list(NAMES)
    assert Image.open(tmp_path / "out" / "a.overlay.png").mode == "RGB"
    again = run("semantic", photos, "-o", tmp_path / "out", "--model", model)
    assert "2 skipped" in again.output


def test_one_image_and_one_broken_one(trained, photos, tmp_path):
    assert run("semantic", photos / "a.png", "-o", tmp_path / "labels.png", "--model", trained(), "--device", "cpu").exit_code == 0
    assert (tmp_path / "labels.json").exists()
    (photos / "c.png").write_bytes(b"nothing")
    result = run("semantic", photos, "-o", tmp_path / "out", "--model", trained(), "--device", "cpu")
    assert result.exit_code == 1
    assert "2 written, 0 skipped (they exist; --overwrite writes them again), 1 failed" in result.output


def test_auto_takes_the_same_file(trained, photos, tmp_path):
    result = run("auto", photos / "a.png", "-o", tmp_path / "mask.png", "--model", trained(()), "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert set(np.unique(np.asarray(Image.open(tmp_path / "mask.png")))) <= {0, 255}


def test_the_shipped_models_find_a_person_and_what_she_wears(published):
    published("sam2-hiera-tiny")
    photo = ROOT / "examples" / "astronaut.png"
    clothes = fretsaw.load("grc-clothes", device="cpu")
    labels = clothes.semantic(photo)
    assert labels.names == ("background", "skin", "hair", "upper", "lower", "dress", "shoes", "accessories")
    assert labels.labels[110, 225] == labels.names.index("skin"), "the nose"
    assert labels.labels[40, 225] == labels.names.index("hair")
    for mask in (fretsaw.load("grc-people", device="cpu").auto(photo).mask, clothes.auto(photo).mask):
        assert mask[110, 225]
        assert mask[400, 200]
        assert not mask[100, 480], "the shuttle"
        assert not mask[10, 330]


def test_an_unknown_format_is_refused(photos, tmp_path):
    with pytest.raises(FretsawError, match="labels, overlay, json, all"):
        CliRunner().invoke(cli.app, ["semantic", str(photos), "-o", str(tmp_path), "--model", "x", "--format", "mask"], catch_exceptions=False)
