"""Lines drawn by hand as places along them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fretsaw.clicks.encode import disk_maps
from fretsaw.clicks.strokes import closely, evenly, single_clicks
from fretsaw.frames import longest_side, squash
from fretsaw.methods.sam_clicks import drawn_points, prompt_points
from fretsaw.types import Click, Prompt, Stroke

CORNER = Stroke(((10, 10), (30, 10), (30, 10), (30, 70)), positive=False)


def test_places_are_evenly_spaced_along_the_line_from_end_to_end():
    assert [(c.x, c.y) for c in evenly(CORNER, 5)] == [(10, 10), (30, 10), (30, 30), (30, 50), (30, 70)]
    assert not any(click.positive for click in evenly(CORNER))
    assert evenly(Stroke(((4, 5), (4, 5)))) == [Click(4, 5)], "a dot is one click"


def test_clicks_are_told_from_those_that_stand_for_a_line():
    dot, line = Stroke(((4, 5),)), Stroke(((0.1, 0.2), (33.3, 7.7)))
    made = [Click(4, 5), Click(1, 1, positive=False), Click(4, 5)]
    clicks = [made[0], *evenly(CORNER), made[1], *evenly(line), *evenly(dot), made[2]]
    assert single_clicks(clicks, [CORNER, line, dot]) == made
    assert single_clicks(clicks, []) == clicks
    assert single_clicks(evenly(line), [line]) == []


@pytest.mark.parametrize("spacing", [0.7, 3.0, 1000.0])
def test_no_two_neighbours_are_farther_apart_than_asked(spacing):
    places = np.array([(c.x, c.y) for c in closely(CORNER, spacing)])
    gaps = np.hypot(*np.diff(places, axis=0).T)
    assert (gaps <= spacing + 1e-9).all()
    assert tuple(places[0]) == (10, 10)
    assert tuple(places[-1]) == (30, 70)


@pytest.mark.parametrize("frame", [squash(300, 500, 256), longest_side(300, 500, 256), squash(30, 50, 256)])
def test_a_refiner_draws_the_line_whole_and_the_last_click_stays_last(frame):
    """The disks along a straight line join: one component in the prompt map, from one end to the other."""
    scale = frame.width / 500
    stroke = Stroke(((50 * scale, 100 * scale), (450 * scale, 250 * scale)))
    prompt = Prompt(clicks=(*evenly(stroke), Click(20 * scale, 30 * scale, positive=False)), strokes=(stroke,))
    coords, labels = drawn_points(prompt, frame)
    plain, plain_labels = prompt_points(prompt, frame)
    assert torch.equal(coords[0, -1], plain[0, -1])
    assert torch.equal(labels[0, -6:], plain_labels[0])
    drawn = disk_maps(coords, labels, 256, 64)[0, 0].bool().numpy()
    ends = ((plain[0, [0, 4]] + 0.5) / 4 - 0.5).numpy()
    for way in np.linspace(0, 1, 200):
        x, y = (1 - way) * ends[0] + way * ends[1]
        # Half way between two points that are four pixels apart a disk of radius five still covers four pixels to each side.
        for away in (-4, 0, 4):
            row, column = round(y + away), round(x)
            if 0 <= row < 64 and 0 <= column < 64:
                assert drawn[row, column]
    alone = disk_maps(plain[:, :5], plain_labels[:, :5], 256, 64)[0, 0].bool().numpy()
    assert drawn.sum() > alone.sum(), "five clicks alone leave gaps"
