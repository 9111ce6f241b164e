"""Answers are held to the clicks: every click holds, what was not clicked stays, crumbs go; and what was changed outlives undo and the disk."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fretsaw.click_true import ClickRules, Patch, obeyed, only_at, patched, piece_at, without_crumbs
from fretsaw.errors import StaleSessionError
from fretsaw.history import Step
from fretsaw.session import Session
from fretsaw.session_file import read, read_step, read_steps, write_step
from fretsaw.types import Answer, Click, Prompt, Seen
from numpy_model import NumpyClickModel

RULES = ClickRules()
SIZE = (24, 32)
LOGITS = arrays.arrays(np.float32, SIZE, elements=st.floats(-20, 20, width=32))
CLICKS = st.lists(st.builds(Click, st.integers(0, 31).map(float), st.integers(0, 23).map(float), st.booleans()), min_size=1, max_size=6)


def holds(logits: np.ndarray, click: Click) -> bool:
    return bool((logits[int(click.y), int(click.x)] > 0) == click.positive)


def last_at_each_place(clicks: list[Click]) -> list[Click]:
    return list({(click.x, click.y): click for click in clicks}.values())


@given(LOGITS, CLICKS)
@settings(max_examples=150, deadline=None)
def test_every_click_is_obeyed_and_of_two_on_one_pixel_the_later(logits, clicks):
    held = obeyed(logits, clicks, RULES)
    assert all(holds(held, click) for click in last_at_each_place(clicks))
    assert held is logits or not all(holds(logits, click) for click in clicks)


@given(LOGITS, LOGITS, CLICKS)
@settings(max_examples=100, deadline=None)
def test_a_correction_takes_its_pixels_from_the_answer_and_keeps_every_bit_of_the_others(before, after, clicks):
    changed = only_at(before, after, clicks, RULES)
    taken = changed != before
    assert np.array_equal(changed[taken], after[taken])
    for click in clicks:
        assert not holds(before, click) or holds(changed, click) or any(other.positive != click.positive for other in clicks)


@given(LOGITS, CLICKS)
@settings(max_examples=100, deadline=None)
def test_tidying_keeps_what_was_clicked_and_the_largest_piece(logits, clicks):
    tidy = without_crumbs(logits, clicks, 2.0, RULES)
    assert all(holds(tidy, click) for click in clicks if holds(logits, click))
    assert (logits > 0).any() == (tidy > 0).any()


@given(arrays.arrays(np.float32, SIZE, elements=st.sampled_from([-1e9, -70000.0, -3.0, -1e-7, 0.0, 1e-7, 2.0, 1e9])), LOGITS)
@settings(max_examples=60, deadline=None)
def test_a_patch_makes_the_same_mask_of_what_was_before(after, before):
    patch = Patch.between(before, after)
    again = patched(before, [patch] if patch is not None else [])
    assert np.array_equal(again > 0, after > 0)
    assert np.array_equal(again[before == after], before[before == after])


def region(*rows: str) -> np.ndarray:
    return np.array([[letter == "#" for letter in row] for row in rows])


def test_what_hangs_on_by_a_thin_neck_was_not_meant():
    two = np.zeros((40, 90), bool)
    two[5:35, 5:35] = two[5:35, 55:85] = True
    two[20, 35:55] = True
    piece = piece_at(two, 20, 20, RULES)
    assert piece[5:35, 5:35].sum() > 0.95 * 900
    assert not piece[:, 55:].any()


def test_a_click_on_a_thin_part_does_not_take_the_wide_body_that_it_joins():
    body = np.zeros((100, 160), bool)
    body[10:90, 10:90] = True
    body[45:53, 90:150] = True
    piece = piece_at(body, 120, 49, RULES)
    assert piece[45:53, 110:130].all()
    assert not piece[:, :85].any()


def test_a_shifted_outline_elsewhere_stays_when_a_bite_is_mended():
    """The decoder draws the whole outline two pixels further out; the click asks for the bite alone."""
    truth = cv2.circle(np.zeros((200, 200), np.uint8), (100, 100), 70, 1, -1)
    bitten = cv2.circle(truth.copy(), (170, 100), 25, 0, -1)
    outside = cv2.circle(np.zeros((200, 200), np.uint8), (100, 100), 72, 1, -1)
    before, after = np.where(bitten, 32, -32).astype(np.float32), np.where(outside, 5, -5).astype(np.float32)
    mended = only_at(before, after, [Click(157, 100)], RULES) > 0
    assert ((mended != (truth > 0))[:, 145:] & (truth > 0)[:, 145:]).sum() < 40
    assert np.array_equal(mended[:, :120], bitten[:, :120] > 0)


def test_the_level_set_of_a_disobeyed_click_changes_sides_and_stops_at_clicks_that_say_otherwise():
    rows, columns = np.mgrid[:60, :120]
    logits = (4 - 3 * np.exp(-((columns - 60) ** 2 + (rows - 30) ** 2) / 60)).astype(np.float32)  # object everywhere, least sure around (60, 30)
    held = obeyed(logits, [Click(20, 30), Click(60, 30, positive=False)], RULES)
    flipped = held <= 0
    assert flipped[30, 60]
    assert 10 < flipped.sum() < 800
    assert flipped[25:36, 55:66].any()
    assert not flipped[:, :40].any()


def test_a_crumb_and_a_pinhole_go_unless_they_are_clicked():
    logits = np.full((100, 100), -3, np.float32)
    logits[20:80, 20:80] = 3
    logits[40:42, 40:42] = -1
    logits[90:92, 90:92] = 1
    clean = without_crumbs(logits, [Click(30, 30)], 3.0, RULES)
    assert clean[40, 40] > 0
    assert clean[90, 90] < 0
    kept = without_crumbs(logits, [Click(30, 30), Click(90, 90), Click(40, 40, positive=False)], 3.0, RULES)
    assert kept is logits


class Stubborn(NumpyClickModel):
    """Answers the same square whatever is clicked, two crumbs beside it."""

    def answer(self, seen: Seen, prompt: Prompt, state=None) -> Answer:
        logits = np.full((1, 1, 32, 32), -4, np.float32)
        logits[..., 8:20, 8:20] = 4
        logits.flags.writeable = False
        return Answer(logits, 0.75)


@pytest.fixture
def image(rng) -> np.ndarray:
    return rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)


def test_a_session_obeys_where_its_model_does_not(image):
    session = Session(image, Stubborn(), rules=RULES)
    assert session.click(60, 50).mask[50, 60]
    assert not session.click(50, 45, positive=False).mask[45, 50]
    assert session.click(110, 80).mask[80, 110]
    assert not session.result.mask[45, 50], "earlier clicks still hold"
    assert Session(image, Stubborn()).click(110, 80).mask[80, 110] == np.False_, "without rules the answer is the model's own"


def test_a_users_own_mask_changes_at_the_click_alone_and_outlives_undo_and_the_disk(tmp_path):
    image = np.full((96, 128, 3), 20, np.uint8)
    image[20:70, 20:90] = image[72:90, 98:124] = 220
    image[34:46, 44:56] = 20  # a gap in the object, and an object that the mask lacks
    session = Session(image, NumpyClickModel(), rules=RULES)
    mask = np.zeros((96, 128), bool)
    mask[20:70, 20:90] = True
    mask[3, 3] = True  # a speck of one's own is never tidied away
    session.mask(mask)
    first = session.click(50, 40, positive=False)
    second = session.click(110, 80)
    changed = second.mask != mask
    assert not first.mask[40, 50]
    assert second.mask[80, 110]
    assert second.mask[3, 3]
    assert 0 < changed.sum() < 0.3 * mask.sum()
    assert np.array_equal(changed.nonzero()[1].clip(40, 127), changed.nonzero()[1]), "nothing changed left of the gap"
    assert np.array_equal(session.undo().logits, first.logits)
    assert np.array_equal(session.redo().logits, second.logits)
    # one file for all, and one file a step
    _, history = read(session.save(tmp_path / "session"), image, session.model)
    assert np.array_equal(session.sibling(history).result.logits, second.logits)
    steps = session.history[1:]
    paths = [write_step(tmp_path / f"{i}", step, before) for i, (before, step) in enumerate(zip((None, *steps), steps, strict=False))]
    assert np.array_equal(session.sibling((Step(), *read_steps(paths, (96, 128)))).result.logits, second.logits)
    assert paths[2].stat().st_size < 60_000, "the mask itself stands in the first file"
    with pytest.raises(StaleSessionError, match="expected the step before it"):
        read_step(paths[2], (96, 128))


def test_steps_that_share_a_mask_are_counted_once(image):
    session = Session(image, NumpyClickModel(), rules=RULES)
    session.mask(np.eye(96, 128, dtype=bool))
    before = session.history_nbytes
    for x in range(10, 110, 10):
        session.click(x, 40)
    assert session.history_nbytes - before < 10 * (32 * 32 * 4 + 96 * 128 * 2)
