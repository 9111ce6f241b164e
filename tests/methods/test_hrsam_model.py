"""HRSAM as a model that clicks: files of one's own training and published ones, by path and by catalogue name, at any size."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import fretsaw
from fretsaw import catalog
from fretsaw.cli import models
from fretsaw.errors import MissingWeightsError, ShapeError, StateDictError
from fretsaw.methods.hrsam import build_hrsam_clicks, describe_encoder
from packages import own_cache
from tiny import published_names, tiny_hrsam


@pytest.fixture
def cache(tmp_path, monkeypatch):
    return own_cache(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(3).integers(0, 256, (90, 120, 3), dtype=np.uint8)


def save(model, path, config=True):
    state = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    save_file(state, path, {"hrsam": describe_encoder(model.image_encoder)} if config else None)
    return path


@pytest.mark.parametrize("anchor_size", [None, 64])
def test_own_file_loads_by_its_path_at_another_size_and_clicks(tmp_path, image, anchor_size):
    model = tiny_hrsam(128, anchor_size)
    path = save(model, tmp_path / "model.safetensors")
    segmenter = fretsaw.load(path, size=192, device="cpu")
    assert segmenter.parts.clicks.preprocessing.size == 192
    session = segmenter.open(image)
    assert session.embedding.final.shape == (1, 256, 12, 12)
    result = session.click(60, 45)
    assert result.mask.shape == (90, 120)
    with torch.no_grad():
        wanted = model.encode(segmenter.parts.clicks.pixels_of(image)).final
    torch.testing.assert_close(session.embedding.final, wanted)


def test_catalogue_name_loads_a_file_that_was_brought(cache, tmp_path, image):
    path = save(tiny_hrsam(128), tmp_path / "model.safetensors", config=False)
    brought = CliRunner().invoke(models.app, ["convert", "hrsam-t", "--from", str(path)])
    assert brought.exit_code == 0, brought.output
    segmenter = fretsaw.load("hrsam-t", size=256, device="cpu")
    assert segmenter.open(image).embedding.final.shape == (1, 256, 16, 16)
    assert next(model for model in fretsaw.list_models() if model.name == "hrsam-t").present


def test_a_file_of_another_size_is_refused_by_name(cache, tmp_path):
    path = save(tiny_hrsam(128, 512), tmp_path / "model.safetensors", config=False)
    CliRunner().invoke(models.app, ["convert", "hrsam-t", "--from", str(path)])
    with pytest.raises(StateDictError, match=r"expected the weights of hrsam-t .* anchor map 512"):
        fretsaw.load("hrsam-t", device="cpu")


@pytest.mark.parametrize("name", ["hrsam-b", "hrsam++-l"])
def test_missing_weights_say_in_one_error_what_to_do(cache, name):
    with pytest.raises(MissingWeightsError) as caught:
        fretsaw.load(name, size=2048, device="cpu")
    message = str(caught.value)
    assert f"expected the weights of '{name}'" in message
    assert "fretsaw train hrsam" in message
    assert f"fretsaw models convert {name} --from FILE" in message
    assert "fretsaw models pull" not in message, "there is nothing to pull"
    assert ("iter_40000.pth of the archive" in message) == (name == "hrsam-b")


@pytest.mark.parametrize("anchor_size", [None, 512])
def test_published_checkpoint_gives_the_same_model(cache, tmp_path, image, anchor_size):
    """The names of the authors' files: backbone, neck, decode_head."""
    model = tiny_hrsam(128, anchor_size)
    state = published_names(model)
    torch.save({"state_dict": state}, tmp_path / "iter_40000.pth")
    loaded = catalog.build(str(tmp_path / "iter_40000.pth"), size=128).clicks
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    with pytest.raises(StateDictError, match="point_embeddings"):
        build_hrsam_clicks({name: value for name, value in state.items() if "point_embeds.2" not in name})
    with pytest.raises(StateDictError, match=r"mask_decoder\.surplus"):
        build_hrsam_clicks({**state, "decode_head.surplus": torch.zeros(1)})


def test_published_route_of_the_catalogue_converts(cache, tmp_path, monkeypatch):
    from fretsaw.methods import hrsam

    torch.save({"state_dict": published_names(tiny_hrsam(128))}, tmp_path / "iter_40000.pth")
    monkeypatch.setitem(hrsam.SIZES, "b", hrsam.SIZES["t"])
    brought = CliRunner().invoke(models.app, ["convert", "hrsam-b", "--from", str(tmp_path / "iter_40000.pth")])
    assert brought.exit_code == 0, brought.output
    assert fretsaw.load("hrsam-b", size=128, device="cpu").parts.clicks.preprocessing.size == 128


def test_sizes_stated_in_the_catalogue_are_the_networks_own():
    from fretsaw.backbones.sam import build_prompt_parts
    from fretsaw.methods.hrsam import ANCHOR_SIZE, build_hrsam

    decoder = sum(value.numel() for part in build_prompt_parts(None, 1024) for value in part.state_dict().values())
    for name, entry in catalog.CATALOGUE.items():
        if match := re.fullmatch(r"hrsam(\+\+)?-(.)", name):
            with torch.device("meta"):
                encoder = build_hrsam(match[2], ANCHOR_SIZE if match[1] else None)
            assert entry.weights.size == 4 * (decoder + sum(value.numel() for value in encoder.state_dict().values())), name


def test_what_does_not_fit_is_said():
    model = tiny_hrsam(128)
    with pytest.raises(ShapeError, match="multiple of 16, got 100"):
        build_hrsam_clicks(model.state_dict(), size=100)
    with pytest.raises(StateDictError, match=r"mamba_blocks\.0\.Ds"):
        build_hrsam_clicks({name: value for name, value in model.state_dict().items() if not name.endswith("mamba_blocks.0.Ds")})
    narrow = {
        name: value[:, :48] if name.endswith("pos_embed") else value[:48] if name.endswith("patch_embed.proj.weight") else value
        for name, value in model.state_dict().items()
    }
    with pytest.raises(StateDictError, match="expected an encoder of t, s, b, l, got one of 48 channels"):
        build_hrsam_clicks(narrow)
    with pytest.raises(StateDictError, match="expected the parameters of HRSAM"):
        build_hrsam_clicks({"x": torch.zeros(1)})
