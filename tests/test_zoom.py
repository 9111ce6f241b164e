"""Zooming in: when a session looks at a part of the image, what the model is asked there, and that history, files and threads know of it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import fretsaw
from fretsaw.api import Segmenter
from fretsaw.catalog.entries import Parts
from fretsaw.cli.evaluate_options import ClicksRequest
from fretsaw.cli.evaluate_run import prepare
from fretsaw.evaluation.adapters import uses_sessions
from fretsaw.evaluation.protocols import click_protocol
from fretsaw.history import History
from fretsaw.methods.sam_ref.model import SamRef
from fretsaw.runtimes.torch import TorchClickModel
from fretsaw.session import Session
from fretsaw.session_file import read_step, write_step
from fretsaw.types import Box, Click, ImageEmbedding, Prompt
from fretsaw.zoom import MOST_VIEWS, Views, ZoomRules, box_iou, holds, next_view, prompt_within, surroundings
from tiny import CHANNELS, tiny_sam, tiny_sam2

RULES = ZoomRules()
THREE = (Click(50, 40), Click(55, 45), Click(52, 47, positive=False))


def square(x0: int, y0: int, x1: int, y1: int, height: int = 300, width: int = 400) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = True
    return mask


class TestView:
    def test_from_the_third_click_on_a_small_object_is_looked_at_alone(self):
        mask = square(40, 30, 140, 90)
        assert next_view(None, mask, Prompt(THREE[:2]), RULES) is None
        assert next_view(None, mask, Prompt(THREE), RULES) == Box(20, 18, 160, 102)

    def test_an_object_that_fills_half_the_image_is_looked_at_whole(self):
        assert next_view(None, square(40, 30, 340, 230), Prompt(THREE), RULES) is None
        assert next_view(None, square(40, 30, 340, 230), Prompt(THREE), replace(RULES, most_area=1.0)) is not None

    def test_nothing_is_zoomed_in_on_where_there_is_no_mask(self):
        assert next_view(None, square(0, 0, 0, 0), Prompt(THREE), RULES) is None

    def test_the_surroundings_hold_positive_clicks_the_last_click_and_the_box(self):
        mask, far, near = square(100, 100, 150, 150), Click(380, 20, positive=False), Click(250, 120)
        assert surroundings(mask, Prompt((far, near, Click(120, 120))), RULES) == surroundings(mask, Prompt((near, Click(120, 120))), RULES)
        last = surroundings(mask, Prompt((near, Click(120, 120), far)), RULES)
        assert holds(last, Prompt((near, Click(120, 120), far)))
        boxed = surroundings(mask, Prompt((Click(120, 120),), Box(30, 40, 120, 130)), RULES)
        assert boxed.x0 <= 30
        assert boxed.y0 <= 40

    def test_tiny_objects_keep_some_surroundings(self):
        box = surroundings(square(200, 150, 203, 152), Prompt((Click(201, 151),)), RULES)
        assert (box.x1 - box.x0, box.y1 - box.y0) == (pytest.approx(64, abs=1), pytest.approx(64, abs=1))

    def test_a_view_stays_while_it_fits_and_holds_the_clicks(self):
        view = next_view(None, square(40, 30, 140, 90), Prompt(THREE), RULES)
        assert view is not None
        assert next_view(view, square(45, 35, 130, 90), Prompt((*THREE, Click(60, 60))), RULES) is view
        outside = Prompt((*THREE, Click(170, 60)))
        moved = next_view(view, square(45, 35, 130, 90), outside, RULES)
        assert moved != view
        assert moved is not None
        assert holds(moved, outside)
        assert next_view(view, square(45, 35, 70, 60), Prompt((*THREE, Click(60, 60))), RULES) != view, "half of it is too much by now"

    def test_iou_of_boxes_by_hand(self):
        assert box_iou(Box(0, 0, 4, 2), Box(2, 0, 6, 2)) == pytest.approx(4 / 12)
        assert box_iou(Box(0, 0, 4, 2), Box(5, 0, 6, 2)) == 0
        assert box_iou(Box(1, 1, 4, 2), Box(1, 1, 4, 2)) == 1

    def test_a_prompt_in_a_view_has_its_coordinates_and_nothing_from_outside(self):
        prompt = Prompt((Click(25, 40), Click(5, 5, positive=False), Click(30.5, 41, positive=False)), Box(10, 30, 40, 200))
        inside = prompt_within(prompt, Box(20, 35, 100, 100))
        assert inside.clicks == (Click(5, 5), Click(10.5, 6, positive=False))
        assert inside.box == Box(0, 0, 20, 65)
        assert prompt_within(Prompt(prompt.clicks, Box(0, 0, 15, 15)), Box(20, 35, 100, 100)).box is None


@pytest.fixture(scope="module")
def model():
    return tiny_sam2(128)


@pytest.fixture
def refiner():
    torch.manual_seed(0)
    return SamRef(8, 1, CHANNELS, global_from=1).eval().requires_grad_(False)


@pytest.fixture
def image(rng) -> np.ndarray:
    return rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)


@pytest.fixture
def encodings(model, monkeypatch) -> list[tuple[int, ...]]:
    """The pixels that were encoded, by their mean: one entry an encoding."""
    seen: list[tuple[int, ...]] = []
    original = model.encode

    def encode(pixels, taps=()):
        seen.append(tuple(pixels.shape))
        return original(pixels, taps)

    monkeypatch.setattr(model, "encode", encode)
    return seen


def zoomed(session: Session) -> Session:
    """A session three clicks into a small object: the mask is a person's own, since random weights know no objects."""
    session.mask(square(100, 100, 180, 160))
    for x, y in ((120, 120), (130, 130), (140, 140)):
        step = replace(session.step, full=square(100, 100, 180, 160).astype(np.float32) * 16 - 8)
        session._history = History.of((*session.history[:-1], step))
        session.click(x, y)
    assert session.step.view is not None
    return session


class TestSession:
    def test_the_view_is_what_a_session_on_the_crop_would_see(self, model, image):
        """The same clicks and the same mask before, on an image that is the view: the same answer, bit for bit, and background around it."""
        session = zoomed(Session(image, TorchClickModel(model), zoom=RULES))
        view = session.step.view
        crop = np.ascontiguousarray(image[int(view.y0) : int(view.y1), int(view.x0) : int(view.x1)])
        alone = Session(crop, TorchClickModel(model))
        alone.mask(np.where(square(100, 100, 180, 160), np.float32(8), np.float32(-8))[int(view.y0) : int(view.y1), int(view.x0) : int(view.x1)])
        expected = alone.clicks([Click(x - view.x0, y - view.y0) for x, y in ((120, 120), (130, 130), (140, 140))])
        result = session.result
        assert np.array_equal(result.logits[int(view.y0) : int(view.y1), int(view.x0) : int(view.x1)], expected.logits)
        around = ~square(int(view.x0), int(view.y0), int(view.x1), int(view.y1))
        assert (result.logits[around] == -8).all()
        assert result.score == expected.score

    def test_one_encoding_serves_all_clicks_in_a_view(self, model, image, encodings):
        session = zoomed(Session(image, TorchClickModel(model), zoom=RULES))
        assert len(encodings) == 2
        view = session.step.view
        step = replace(session.step, full=square(100, 100, 180, 160).astype(np.float32) * 16 - 8)
        session._history = History.of((*session.history[:-1], step))
        session.click(125, 125, positive=False)
        assert session.step.view == view
        assert len(encodings) == 2

    def test_without_zoom_nothing_changes(self, model, image, encodings):
        session = Session(image, TorchClickModel(model))
        for x, y in ((120, 120), (130, 130), (140, 140), (150, 150)):
            session.click(x, y)
            assert session.step.view is None
        assert len(encodings) == 1

    def test_undo_and_redo_restore_exactly_and_need_no_encoding(self, model, image, encodings):
        session = zoomed(Session(image, TorchClickModel(model), zoom=RULES))
        near = session.result.logits
        before = session.undo().logits
        assert session.step.view is None
        assert np.array_equal(session.redo().logits, near)
        assert np.array_equal(session.undo().logits, before)
        assert len(encodings) == 2

    def test_a_click_far_away_goes_back_to_the_whole_image_with_the_mask_so_far(self, model, image, monkeypatch):
        session = zoomed(Session(image, TorchClickModel(model), zoom=RULES))
        logits = session.result.logits
        asked = []
        original = model.embed
        monkeypatch.setattr(model, "embed", lambda prompt, frame: asked.append(prompt) or original(prompt, frame))
        session.click(390, 290, positive=False)
        session.click(2, 2, positive=False)
        assert session.step.view is None
        assert len(asked[-1].clicks) == 5
        assert np.array_equal(asked[0].previous_logits, Session(image, TorchClickModel(model))._low_res(logits))

    def test_a_saved_session_goes_on_in_its_view(self, model, image, tmp_path):
        session = zoomed(Session(image, TorchClickModel(model), zoom=RULES))
        path = session.save(tmp_path / "work.fretsaw")
        segmenter = Segmenter("tiny", Parts(clicks=model), zoom=RULES)
        again = segmenter.open(image, saved=path)
        assert again.step.view == session.step.view
        assert np.array_equal(again.result.logits, session.result.logits)
        assert np.array_equal(again.click(125, 118, positive=False).logits, session.click(125, 118, positive=False).logits)

    def test_a_step_on_disk_keeps_its_view(self, model, image, tmp_path):
        step = zoomed(Session(image, TorchClickModel(model), zoom=RULES)).step
        assert read_step(write_step(tmp_path / "step", step)).view == step.view

    def test_a_session_that_stops_zooming_stays_in_a_view_while_the_clicks_lie_there(self, model, image, encodings):
        session = zoomed(Session(image, TorchClickModel(model), zoom=RULES))
        view = session.step.view
        trial = session.sibling(session.history)
        trial.zoom = None
        trial.click(121, 124)
        assert trial.step.view == view
        trial.click(390, 290)
        assert trial.step.view is None
        assert len(encodings) == 2

    def test_with_a_refiner_ones_own_mask_is_looked_at_whole(self, model, image, refiner):
        session = Session(image, TorchClickModel(model, refiner), zoom=RULES)
        session.mask(square(100, 100, 180, 160))
        for x, y in ((120, 120), (130, 130), (140, 140)):
            session.click(x, y)
        assert session.step.view is None

    def test_a_refiner_looks_at_the_view_too(self, model, image, refiner, monkeypatch):
        """Its features are those of the view, and what it knew of the whole image is not taken for the view's."""
        told = []
        original = refiner.refine
        monkeypatch.setattr(refiner, "refine", lambda features, *asked: told.append((features, asked[-1])) or original(features, *asked))
        # after the second click the object is a small one: random weights know none
        views = iter((None, Box(80, 80, 200, 180), Box(80, 80, 200, 180)))
        monkeypatch.setattr("fretsaw.session.next_view", lambda *_: next(views))
        session = Session(image, TorchClickModel(model, refiner), zoom=replace(RULES, first_click=2))
        for x, y in ((120, 120), (130, 130), (140, 140), (150, 150)):
            session.click(x, y)
        assert session.step.view == Box(80, 80, 200, 180)
        part = Session(np.ascontiguousarray(image[80:180, 80:200]), TorchClickModel(model, refiner))
        assert torch.equal(told[2][0].fused, part._whole.features.fused)
        assert torch.equal(told[0][0].fused, told[1][0].fused)
        assert [(state.given, state.error_map is not None) for _, state in told] == [(False, False), (False, True), (False, False), (False, True)]
        assert session.result.logits[0, 0] == -8

    def test_undo_restores_what_a_refiner_knew_before_zooming_in(self, model, image, refiner, monkeypatch):
        views = iter((Box(80, 80, 200, 180),) * 2)
        monkeypatch.setattr("fretsaw.session.next_view", lambda *_: next(views))
        session = Session(image, TorchClickModel(model, refiner), zoom=RULES)
        for x, y in ((120, 120), (130, 130), (140, 140)):
            session.click(x, y)
        near, state = session.result.logits, session.step.refiner_state
        session.undo()
        session.click(140, 140)
        assert np.array_equal(session.result.logits, near)
        assert np.array_equal(session.step.refiner_state.error_map, state.error_map)

    def test_models_that_pad_zoom_too(self, image):
        assert zoomed(Session(image, TorchClickModel(tiny_sam(128)), zoom=RULES)).result.logits.shape == image.shape[:2]

    def test_the_last_few_views_are_kept(self, model, image, encodings):
        views = Views(image, TorchClickModel(model))
        boxes = [Box(10 * i, 0, 10 * i + 100, 80) for i in range(MOST_VIEWS + 1)]
        first = views.seen(boxes[0])
        for box in boxes[1:MOST_VIEWS]:
            views.seen(box)
        assert views.seen(boxes[0]) is first
        assert views.nbytes == MOST_VIEWS * first.embedding.nbytes
        views.seen(boxes[MOST_VIEWS])
        assert len(encodings) == MOST_VIEWS + 1
        views.seen(boxes[1])
        assert len(encodings) == MOST_VIEWS + 2, "the one that was asked for longest ago has gone"

    def test_an_embeddings_memory_is_that_of_all_its_tensors(self):
        assert ImageEmbedding(torch.zeros(1, 2, 3, 3), (torch.zeros(1, 4),), {"a": torch.zeros(5, dtype=torch.float16)}).nbytes == 72 + 16 + 10


class TestChoice:
    def test_the_default_model_zooms_and_a_user_may_say_otherwise(self):
        assert fretsaw.load(device="cpu").zoom == ZoomRules()
        assert fretsaw.load(device="cpu", zoom=False).zoom is None

    def test_with_a_refiner_a_published_model_zooms(self, tmp_path, monkeypatch):
        monkeypatch.setattr("fretsaw.catalog.build", lambda name, **_: Parts(clicks=tiny_sam2(128)))
        file = tmp_path / "refiner.safetensors"
        network = SamRef(8, 1, CHANNELS)
        save_file(network.state_dict(), file, {"config": json.dumps(network.config)})
        assert fretsaw.load("tiny", device="cpu").zoom is None
        assert fretsaw.load("tiny", device="cpu", refiner=file).zoom == ZoomRules()
        assert fretsaw.load("tiny", device="cpu", refiner=file, zoom=False).zoom is None

    def test_a_protocol_that_makes_its_own_choices_takes_no_zoom(self):
        assert uses_sessions(click_protocol("sam"))
        assert not uses_sessions(click_protocol("hrsam"))

    def test_a_report_says_whether_it_was_asked_for(self, tmp_path):
        request = ClicksRequest(data=tmp_path, device="cpu", workers=1, report=tmp_path / "r.json")
        _, options = prepare(request, zoom=False)
        assert options.settings["zoom"] is False
