"""SAM-REF's refiner as it ships: it mends a mask of one's own where it was clicked, and leaves what the default model says as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import fretsaw
from fretsaw import catalog
from fretsaw.methods.sam_ref.model import GLOBAL_FROM
from fretsaw.types import Click
from fretsaw.weights import Cache, is_present

PHOTO = Path(__file__).parents[1] / "examples" / "astronaut.png"
FACE, SUIT, HELMET, FLAG = (230, 110), (220, 380), (390, 430), (40, 60)


@pytest.fixture(scope="module")
def segmenter():
    return fretsaw.load(device="cpu", refiner="sam-ref")


@pytest.fixture(scope="module")
def person(segmenter):
    """A cut of the astronaut, as somebody may bring it: with a bite in the suit and a blob on the flag."""
    session = segmenter.open(PHOTO)
    session.click(*FACE)
    return session.click(*SUIT).mask


def test_one_click_fills_a_bite_and_nothing_else_changes(segmenter, person):
    rows, columns = np.ogrid[: person.shape[0], : person.shape[1]]
    bite = (columns - SUIT[0]) ** 2 + (rows - SUIT[1]) ** 2 <= 40**2
    session = segmenter.open(PHOTO)
    session.mask(person & ~bite)
    mended = session.click(*SUIT).mask
    assert mended[SUIT[1], SUIT[0]]
    assert (mended & bite).sum() > 0.9 * (person & bite).sum()
    far = (abs(columns - SUIT[0]) > 90) | (abs(rows - SUIT[1]) > 90)
    assert np.array_equal(mended[far], (person & ~bite)[far])
    assert np.array_equal(session.undo().mask, person & ~bite)


def test_a_negative_click_takes_a_blob_off_and_nothing_else(segmenter, person):
    blob = np.zeros_like(person)
    blob[FLAG[1] - 25 : FLAG[1] + 25, FLAG[0] - 25 : FLAG[0] + 25] = True
    blob &= ~person
    session = segmenter.open(PHOTO)
    session.mask(person | blob)
    mended = session.click(*FLAG, positive=False).mask
    assert not mended[FLAG[1], FLAG[0]]
    assert (mended & blob).sum() < 0.2 * blob.sum()
    assert np.array_equal(mended[:, 200:], person[:, 200:])


def test_clicks_that_come_together_mend_each_its_own_place(segmenter, person):
    """As `fretsaw click --mask mine.png -p ... -n ...` gives them: one entry in the history, and what one click after the other would make."""
    rows, columns = np.ogrid[: person.shape[0], : person.shape[1]]
    faulty = person & ~((columns - SUIT[0]) ** 2 + (rows - SUIT[1]) ** 2 <= 40**2)
    faulty[FLAG[1] - 25 : FLAG[1] + 25, FLAG[0] - 25 : FLAG[0] + 25] = True
    session, singly = segmenter.open(PHOTO), segmenter.open(PHOTO)
    for opened in (session, singly):
        opened.mask(faulty)
    result = session.clicks([Click(*SUIT), Click(*FLAG, positive=False)])
    assert result.mask[SUIT[1], SUIT[0]]
    assert not result.mask[FLAG[1], FLAG[0]]
    singly.click(*SUIT)
    assert np.array_equal(result.logits, singly.click(*FLAG, positive=False).logits)
    assert len(session.history) == 3
    assert np.array_equal(session.undo().mask, faulty)
    assert np.array_equal(session.redo().logits, result.logits)


def test_clicks_from_nothing_are_answered_as_without_it(segmenter):
    """What the session zooms in on needs no refiner; see docs/benchmarks.md."""
    plain = fretsaw.load(device="cpu").open(PHOTO)
    refined = segmenter.open(PHOTO)
    for click in (FACE, SUIT, (200, 450), (260, 300), (215, 200)):
        assert np.array_equal(plain.click(*click).logits, refined.click(*click).logits)


def test_without_zooming_in_later_answers_are_refined():
    segmenter, plain = (fretsaw.load(device="cpu", zoom=False, refiner=name).open(PHOTO) for name in ("sam-ref", None))
    clicks = (FACE, SUIT, (200, 450), (260, 300))
    for number, click in enumerate(clicks, 1):
        ours, theirs = segmenter.click(*click), plain.click(*click)
        assert np.array_equal(ours.logits, theirs.logits) == (number < GLOBAL_FROM)
    assert (ours.mask ^ theirs.mask).sum() < 0.02 * theirs.area


@pytest.mark.slow
def test_over_sam_2_it_brings_the_first_stages_decoder():
    if not is_present(catalog.find("sam2-hiera-tiny").weights, Cache()):
        pytest.skip("the weights of sam2-hiera-tiny are absent: fretsaw models pull sam2-hiera-tiny")
    asked = (("sam2-hiera-tiny", "sam-ref"), ("sam2-hiera-tiny-clicks", None), ("sam2-hiera-tiny", None))
    refined, clicks, own = (fretsaw.load(name, device="cpu", refiner=refiner).parts.clicks.mask_decoder.state_dict() for name, refiner in asked)
    assert all(torch.equal(refined[name], clicks[name]) for name in clicks)
    assert any(not torch.equal(refined[name], own[name]) for name in own)
