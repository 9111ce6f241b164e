"""fretsaw-tiny's recipe on a tiny SAM 2: the cut, the stored views, a run that learns and goes on, and the file that it leaves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

import fretsaw
import fretsaw.recipes.fretsaw_tiny.run as fretsaw_tiny
from fretsaw import catalog
from fretsaw.backbones import sam2
from fretsaw.data.views import PhotoViews, list_photos
from fretsaw.errors import StateDictError
from fretsaw.methods.sam_clicks import build_sam2
from fretsaw.recipes.fretsaw_tiny.cut import cut, without_fourth_stage
from fretsaw.recipes.fretsaw_tiny.run import Config, train
from fretsaw.recipes.fretsaw_tiny.steps import continued
from fretsaw.recipes.fretsaw_tiny.views import STEM, seen
from fretsaw.training.embedding_cache import EmbeddingCache
from fretsaw.training.loop import read_log
from fretsaw.training.stored_views import StoredViews
from fretsaw.weights import load_state_dict
from tiny import TINY_SAM2, random_weights

SIZE = 64

SHORT = TINY_SAM2 | {
    "trunk": {
        "hidden_size": 8,
        "blocks_per_stage": [1, 1, 2],
        "embed_dim_per_stage": [8, 16, 32],
        "num_attention_heads_per_stage": [1, 2, 4],
        "window_size_per_stage": [8, 4, 14],
        "global_attention_blocks": [3],
        "num_query_pool_stages": 2,
    }
}
"""The student's table for the tiny teacher, as HIERA_SHORT is for Hiera-T."""


@pytest.fixture(scope="module")
def weights():
    return random_weights(sam2.build_model(TINY_SAM2, SIZE))


@pytest.fixture
def teacher(weights):
    return build_sam2(weights, TINY_SAM2, SIZE, "tiny")


@pytest.fixture
def photos(tmp_path, rng):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(8):
        coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((90, 70)).save(folder / f"{i}.png")
    return folder


def config(photos, tmp_path, **changes) -> Config:
    settings = {"size": SIZE, "side": SIZE, "width": 48, "calibration": 8, "views": 12, "held_out": 4, "batch": 2, "steps": 40, "warmup": 4, "rate": 1e-3}
    return Config(str(photos), str(tmp_path / "run"), **(settings | {"prompts": 2, "validate_every": 0} | changes))


def stored(photos, teacher, tmp_path) -> StoredViews:
    cache = EmbeddingCache(tmp_path / "views", teacher.checksum, teacher.preprocessing.key)
    return StoredViews(list_photos([photos]), teacher, SIZE, 0, cache, "cpu", seen)


def pixels_of(photos, teacher, index=0):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (teacher.preprocessing.mean, teacher.preprocessing.std))
    return (PhotoViews(list_photos([photos]), SIZE, 0)[index][None].float() / 255 - mean) / std


def test_what_is_frozen_is_the_teachers_own(photos, teacher, weights, tmp_path):
    """The student's fine maps are the teacher's to the last bit, and its final map follows from the stored stem."""
    views = stored(photos, teacher, tmp_path)
    student = cut(weights, SHORT, teacher, views, config(photos, tmp_path)).requires_grad_(False)
    pixels = pixels_of(photos, teacher)
    ours, theirs = student.encode(pixels), teacher.encode(pixels)
    assert all(torch.equal(a, b) for a, b in zip(ours.high_res, theirs.high_res, strict=True))
    # Stored in half precision.
    assert torch.allclose(continued(student.image_encoder, views[0].taps[STEM]), ours.final, atol=2e-2)
    assert torch.allclose(views[0].final, theirs.final, atol=2e-2)


def test_the_cut_alone_comes_near_the_teacher_and_narrower_is_farther(photos, teacher, weights, tmp_path):
    views = stored(photos, teacher, tmp_path)

    def distance(width: int) -> float:
        student = cut(weights, SHORT, teacher, views, config(photos, tmp_path, width=width)).requires_grad_(False)
        return sum((continued(student.image_encoder, views[i].taps[STEM]) - views[i].final).square().mean().item() for i in range(8))

    none = sum((views[i].final - views[i].final.mean((2, 3), keepdim=True)).square().mean().item() for i in range(8))
    assert distance(128) < distance(16) < none


def test_names_of_the_three_stages_are_those_of_a_shorter_network(weights):
    short = without_fourth_stage(weights, [0, 1, 3, 4])
    model = sam2.build_model(SHORT, SIZE)
    assert set(short) == set(model.state_dict())
    assert all(short[name].shape == value.shape for name, value in model.state_dict().items())
    assert torch.equal(short["vision_encoder.neck.convs.0.weight"], weights["vision_encoder.neck.convs.1.weight"])


def test_another_selection_of_photos_has_views_of_its_own(photos, teacher, tmp_path):
    views = stored(photos, teacher, tmp_path)
    before = views[0].final
    (photos / "0.png").unlink()
    assert not torch.equal(stored(photos, teacher, tmp_path)[0].final, before)


def test_a_run_learns_leaves_the_teacher_alone_and_goes_on(photos, teacher, weights, tmp_path):
    before = [parameter.clone() for parameter in teacher.parameters()]
    done, _ = train(config(photos, tmp_path), weights, SHORT, teacher, list_photos([photos]))
    assert done == 40
    log = [line for line in read_log(tmp_path / "run") if "loss" in line]
    assert log[-1]["final"] < log[0]["final"]
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    held_out = read_log(tmp_path / "run")[-1]
    assert 0 <= held_out["val/mask IoU"] <= 1
    again, _ = train(config(photos, tmp_path), weights, SHORT, teacher, list_photos([photos]))
    assert again == 40, "nothing is left to do"


def test_the_file_is_a_sam_2_that_opens_by_its_path_and_says_its_side(photos, teacher, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(sam2, "HIERA_SHORT", SHORT)
    monkeypatch.setattr(fretsaw_tiny, "load_state_dict", lambda path: weights)
    monkeypatch.setattr(catalog, "weights_path", lambda name: tmp_path / "absent")
    monkeypatch.setattr(catalog, "build", lambda name, **given: catalog.Parts(teacher))
    assert fretsaw_tiny.run(config(photos, tmp_path, steps=2, warmup=0)) == 2
    monkeypatch.undo()
    monkeypatch.setattr(sam2, "HIERA_SHORT", SHORT)
    segmenter = fretsaw.load(tmp_path / "run" / "student.safetensors", device="cpu")
    clicks = segmenter.parts.clicks
    assert clicks.preprocessing.size == SIZE
    assert clicks.image_encoder.trunk.blocks[2].mlp.proj_in.out_features == 48
    assert segmenter.open(np.zeros((50, 70, 3), np.uint8)).click(10, 10).mask.shape == (50, 70)


def test_a_run_goes_on_from_a_file_and_takes_a_decoder_along(photos, teacher, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(sam2, "HIERA_SHORT", SHORT)
    monkeypatch.setattr(fretsaw_tiny, "load_state_dict", lambda path: weights if path.name == "absent" else load_state_dict(path))
    monkeypatch.setattr(catalog, "weights_path", lambda name: tmp_path / "absent")
    monkeypatch.setattr(catalog, "build", lambda name, **given: catalog.Parts(teacher))
    first = config(photos, tmp_path, steps=2, warmup=0)
    fretsaw_tiny.run(first)
    student = tmp_path / "run" / "student.safetensors"
    decoder = {name: value + 1.0 for name, value in teacher.mask_decoder.state_dict().items()}
    (tmp_path / "decoder.safetensors").write_bytes(save(decoder))
    monkeypatch.setattr(fretsaw_tiny, "cut", lambda *_: pytest.fail("the student is there already"))
    fretsaw_tiny.run(replace(first, out=str(tmp_path / "second"), start=str(student), decoder=str(tmp_path / "decoder.safetensors"), share=0.25))
    before, after = load_state_dict(student), load_state_dict(tmp_path / "second" / "student.safetensors")
    learned = {name for name in before if name.startswith("mask_decoder.") and "conv_s" not in name}
    assert learned == {f"mask_{name}" for name in decoder if name != "gaussian"}
    assert all(torch.allclose(after[name].float(), weights[name] + 0.25, atol=2e-3) for name in learned), "a quarter of the way to what was learned"
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith(("mask_decoder.conv_s", "prompt_encoder.")))
    with pytest.raises(StateDictError, match="expected the decoder of this student"):
        fretsaw_tiny.with_decoder(before, student, 0.5)
