"""The model that travels in the package: with no network, no cache and no other file it answers clicks and cuts by itself, on a real photo."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fretsaw
from fretsaw import catalog
from fretsaw.weights.gather import shipped_path

PHOTO = Path(__file__).parents[1] / "examples" / "astronaut.png"
FACE, SUIT, HELMET, FLAG = (230, 110), (220, 380), (390, 430), (40, 60)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRETSAW_HOME", str(tmp_path_factory.mktemp("empty")))
        patch.setenv("FRETSAW_OFFLINE", "1")
        return fretsaw.load(device="cpu")


def test_it_is_small_and_the_default(segmenter):
    entry = catalog.find(catalog.DEFAULT)
    assert segmenter.name == catalog.DEFAULT == "fretsaw-tiny"
    assert shipped_path(entry.weights.routes[0].files["network"]).stat().st_size <= 25e6


def test_clicks_cut_the_person_and_a_negative_click_is_obeyed(segmenter):
    session = segmenter.open(PHOTO)
    session.click(*FACE)
    person = session.click(*SUIT)
    assert person.mask[FACE[1], FACE[0]]
    assert person.mask[SUIT[1], SUIT[0]]
    assert 0.25 < person.mask.mean() < 0.6
    assert person.score > 0.7
    session.reset()
    session.click(*SUIT)
    without = session.click(*FACE, positive=False)
    assert not without.mask[FACE[1], FACE[0]]
    assert without.mask[SUIT[1], SUIT[0]]


def test_the_automatic_cut_is_the_astronaut_with_her_helmet(segmenter):
    found = segmenter.auto(PHOTO).mask
    assert found[FACE[1], FACE[0]]
    assert found[SUIT[1], SUIT[0]]
    assert found[HELMET[1], HELMET[0]]
    assert not found[FLAG[1], FLAG[0]]
    assert 0.4 < found.mean() < 0.65


def test_its_fine_maps_are_those_of_the_teacher(segmenter, published):
    """The first two stages were not trained, so a quarter and an eighth of the resolution see exactly what SAM 2 sees, up to half precision."""
    published("sam2-hiera-tiny")
    size = segmenter.parts.clicks.preprocessing.size
    teacher = catalog.build("sam2-hiera-tiny", size=size).clicks
    torch.manual_seed(0)
    pixels = torch.randn(1, 3, size, size)
    with torch.no_grad():
        ours, theirs = segmenter.parts.clicks.encode(pixels), teacher.encode(pixels)
    for mine, other in zip(ours.high_res, theirs.high_res, strict=True):
        assert (mine - other).abs().max() < 0.02 * other.abs().max()
    rest = (ours.final - theirs.final).square().mean() / theirs.final.var()
    assert 0 < rest < 0.5
