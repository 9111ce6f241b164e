"""fretsaw-hr's recipe on a tiny SAM 2: the fit, the stored views, a run that learns and goes on, and the file that it leaves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import fretsaw.recipes.fretsaw_hr.run as fretsaw_hr
from fretsaw import catalog
from fretsaw.api import Segmenter
from fretsaw.data.views import list_photos
from fretsaw.errors import ConfigError, ModelError, ShapeError
from fretsaw.methods.fretsaw_hr import HighResolutionEncoder
from fretsaw.recipes.fretsaw_hr.data import ENTRY, seen
from fretsaw.recipes.fretsaw_hr.fitting import fit_student
from fretsaw.recipes.fretsaw_hr.run import Config, parts_of, train
from fretsaw.recipes.fretsaw_hr.steps import FretsawHrDistillation, parameter_groups
from fretsaw.training.embedding_cache import EmbeddingCache
from fretsaw.training.loop import read_log
from fretsaw.training.stored_views import StoredViews
from tiny import tiny_sam, tiny_sam2

SIZE = 256


@pytest.fixture
def teacher():
    return tiny_sam2(SIZE)


@pytest.fixture
def photos(tmp_path, rng):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def config(photos, tmp_path, **changes) -> Config:
    settings = {"size": SIZE, "side": SIZE, "window": 6, "shift": 3, "anchor": 4, "state_size": 2, "calibration": 4, "views": 8, "held_out": 2}
    settings |= {"steps": 12, "warmup": 2, "rate": 1e-3, "trunk_rate": 0.3, "prompts": 1, "validate_every": 0, "rank": 4}
    return Config(**({"photos": str(photos), "out": str(tmp_path / "run")} | settings | changes))


def stored(photos, teacher, tmp_path) -> StoredViews:
    cache = EmbeddingCache(tmp_path / "views", teacher.checksum, teacher.preprocessing.key)
    return StoredViews(list_photos([photos]), teacher, SIZE, 0, cache, "cpu", seen)


def student_of(teacher, settings: Config) -> HighResolutionEncoder:
    torch.manual_seed(0)
    return HighResolutionEncoder(tiny_sam2(SIZE).image_encoder, parts_of(settings)).requires_grad_(False)


def test_what_is_stored_goes_on_to_the_embedding(photos, teacher, tmp_path):
    view = stored(photos, teacher, tmp_path)[0]
    tokens = view.taps[ENTRY]
    for block in teacher.image_encoder.trunk.blocks[3:4]:
        tokens = block(tokens)
    goal = view.taps["attended3"]
    torch.testing.assert_close(goal + block.mlp(block.layer_norm2(goal)), tokens, atol=2e-2, rtol=2e-2)  # stored in half precision
    assert view.final.shape == (1, 32, SIZE // 16, SIZE // 16)


def test_the_fit_comes_nearer_and_does_no_harm_to_other_views(photos, teacher, tmp_path):
    views = stored(photos, teacher, tmp_path)

    def distance(fitted_on: int, of: range) -> float:
        student = student_of(teacher, config(photos, tmp_path))
        if fitted_on:
            fit_student(student, teacher, views, fitted_on)
        return sum((student.rest(views[i].taps[ENTRY], 3) - views[i].final).square().mean().item() for i in of)

    assert distance(4, range(3)) < 0.5 * distance(0, range(3))
    assert distance(4, range(4, 8)) < 1.3 * distance(0, range(4, 8))


def test_only_the_changed_blocks_and_the_projections_learn(photos, teacher, tmp_path):
    settings = config(photos, tmp_path)
    student = student_of(teacher, settings)
    model = FretsawHrDistillation(student, teacher, settings)
    learned = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    assert {name.rsplit(".", 2)[0] for name in learned if name.startswith("neck.")} == {"neck.convs"}
    assert {name.split(".")[2] for name in learned if name.startswith("trunk.")} == {"3"}
    rates = {group["lr"] for group in parameter_groups(model, settings)}
    assert rates == {settings.rate, settings.rate * settings.trunk_rate}
    assert sum(len(group["params"]) for group in parameter_groups(model, settings)) == len(learned)


def test_a_run_learns_leaves_the_teacher_alone_and_goes_on(photos, teacher, tmp_path):
    before = [parameter.clone() for parameter in teacher.parameters()]
    settings = config(photos, tmp_path, log_every=1, calibration=0)
    done, student = train(settings, teacher, list_photos([photos]))
    assert done == 12
    log = [line for line in read_log(tmp_path / "run") if "loss" in line]
    assert sum(line["final"] for line in log[-3:]) < sum(line["final"] for line in log[:3])
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    assert 0 <= read_log(tmp_path / "run")[-1]["val/mask IoU"] <= 1
    again, continued = train(settings, teacher, list_photos([photos]))
    assert again == 12, "nothing is left to do"
    for name, value in student.state_dict().items():
        assert torch.equal(value, continued.state_dict()[name]), name


def test_the_file_opens_by_its_path_at_any_side_and_clicks(photos, teacher, tmp_path, monkeypatch):
    asked = []

    def build(name, *, size=None, **_):
        asked.append(size)
        return catalog.Parts(tiny_sam2(size or SIZE))

    monkeypatch.setattr(catalog, "build", build)
    assert fretsaw_hr.run(config(photos, tmp_path, steps=2, warmup=0)) == 2
    path = tmp_path / "run" / "model.safetensors"
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    parts = catalog.build_file(path, None)
    assert parts.clicks.preprocessing.size == SIZE
    # 176 is no multiple of 32: the model underneath is built for the next one that is
    parts = catalog.build_file(path, 176)
    assert asked[-1] == 192
    monkeypatch.undo()
    session = Segmenter("hr", parts).open(image)
    assert session.click(10, 10).mask.shape == (50, 70)
    kept = tmp_path / "session.npz"
    session.save(kept)
    assert kept.exists()


def test_a_side_between_is_refused_and_so_is_a_file_over_another_network(photos, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "build", lambda name, *, size=None, **_: catalog.Parts(tiny_sam2(size or SIZE)))
    fretsaw_hr.run(config(photos, tmp_path, steps=1, warmup=0))
    path = tmp_path / "run" / "model.safetensors"
    with pytest.raises(ShapeError, match="multiple of 16, got 200"):
        catalog.build_file(path, 200)
    monkeypatch.setattr(catalog, "build", lambda name, *, size=None, **_: catalog.Parts(tiny_sam(size or SIZE)))
    with pytest.raises(ModelError, match="stand on a SAM 2"):
        catalog.build_file(path, None)
    with pytest.raises(ConfigError, match="SAM 2 as the teacher"):
        fretsaw_hr.run(config(photos, tmp_path, out=str(tmp_path / "other")))


def test_views_so_small_that_there_is_nothing_to_learn_are_refused(photos, tmp_path):
    with pytest.raises(ConfigError, match=r"expected views larger than 256 pixels.*got 256"):
        fretsaw_hr.run(config(photos, tmp_path, anchor=16))
