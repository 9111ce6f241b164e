"""Every recipe refuses what is held out to choose by or to report on, by name and before any network is read, and takes it where it is allowed by name."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fretsaw.recipes.fretsaw_hr.run as fretsaw_hr
import fretsaw.recipes.fretsaw_tiny.run as fretsaw_tiny
import fretsaw.recipes.grc_sam.run as grc_sam
import fretsaw.recipes.hrsam.run as hrsam
import fretsaw.recipes.hrsam_lite.run as hrsam_lite
import fretsaw.recipes.pmg_sam.run as pmg_sam
import fretsaw.recipes.pseudo_masks.run as pseudo_masks
import fretsaw.recipes.sam_ref.run as sam_ref
from fretsaw import catalog
from fretsaw import recipes as recipes_package
from fretsaw.cli.train import RECIPES
from fretsaw.errors import ConfigError


class NetworksWantedError(Exception):
    """The recipe went on to its networks."""


@pytest.fixture(autouse=True)
def no_networks(monkeypatch):
    def reached(*_: Any, **__: Any) -> None:
        raise NetworksWantedError

    for name in ("build", "weights_path"):
        monkeypatch.setattr(catalog, name, reached)
    monkeypatch.setattr(pmg_sam, "resolve", reached)


def davis(folder: Path) -> Path:
    """DAVIS's layout, which is that of plain folders too."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(np.full((6, 8, 3), 255, np.uint8)).save(folder / kind / f"{i}.png")
    return folder


RUNS = {
    "hrsam clicks": (hrsam, {"photos": "PLACE", "stage": "clicks"}),
    "hrsam finetune": (hrsam, {"photos": "PLACE", "stage": "finetune"}),
    "hrsam distil": (hrsam, {"photos": "PLACE", "stage": "distil"}),
    "hrsam_lite": (hrsam_lite, {"photos": "PLACE"}),
    "fretsaw_tiny": (fretsaw_tiny, {"photos": "PLACE"}),
    "fretsaw_hr": (fretsaw_hr, {"photos": "PLACE"}),
    "pseudo_masks": (pseudo_masks, {"photos": "PLACE"}),
    "grc_sam": (grc_sam, {"data": "PLACE"}),
    "pmg_sam": (pmg_sam, {"data": "PLACE"}),
    "sam_ref": (sam_ref, {"train": "PLACE"}),
    "sam_ref decoder": (sam_ref, {"train": "PLACE", "stage": "decoder"}),
    "sam_ref photos": (sam_ref, {"train": "OTHER", "photos": "PLACE"}),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_held_out_set_is_refused_and_taken_by_name(tmp_path, name):
    recipe, settings = RUNS[name]
    place, other = davis(tmp_path / "DAVIS"), davis(tmp_path / "mine")
    given = {key: value.replace("PLACE", str(place)).replace("OTHER", str(other)) for key, value in settings.items()}
    with pytest.raises(ConfigError, match="expected a train part, got davis, which is a test part; say allow_held_out=davis to take it all the same"):
        recipe.run(recipe.Config(out=str(tmp_path / "out"), **given))
    with pytest.raises(NetworksWantedError):
        recipe.run(recipe.Config(out=str(tmp_path / "out"), allow_held_out="davis", **given))
    given = {key: value.replace(str(place), str(other)) for key, value in given.items()}
    with pytest.raises(NetworksWantedError):
        recipe.run(recipe.Config(out=str(tmp_path / "out"), **given))


def test_no_recipe_is_missing_here():
    recipes = {path.parent.name for path in Path(recipes_package.__file__).parent.glob("*/run.py")}
    assert recipes == {recipe.__name__.split(".")[2] for recipe, _ in RUNS.values()} == set(RECIPES)
    for recipe, _ in RUNS.values():
        assert "allow_held_out" in {field.name for field in fields(recipe.Config)}
