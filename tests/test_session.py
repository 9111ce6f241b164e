"""The session: prompts become masks, history goes back and forth exactly, and what was saved is restored or refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from fretsaw.errors import ModelError, OutputError, PromptError, ShapeError, StaleSessionError
from fretsaw.history import Step
from fretsaw.runtimes.torch import TorchClickModel
from fretsaw.segmentation import Segmentation, edge_opacity
from fretsaw.session import Session
from fretsaw.session_file import read, read_step, write_step
from fretsaw.types import Box, Click, RefinerState
from tiny import tiny_sam, tiny_sam2


@pytest.fixture(scope="module")
def model():
    return tiny_sam2(128)


@pytest.fixture
def image(rng) -> np.ndarray:
    return rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)


@pytest.fixture
def session(model, image) -> Session:
    return Session(image, TorchClickModel(model))


def disk(height: int, width: int, x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def test_results_have_the_images_size_and_agree_with_themselves(session):
    result = session.click(40, 30)
    assert result.logits.shape == result.mask.shape == (60, 90)
    assert result.logits.dtype == np.float32
    assert result.mask.dtype == np.bool_
    assert np.array_equal(result.mask, result.logits > 0)
    assert 0 <= result.score <= 1


@pytest.mark.parametrize("build", [tiny_sam, tiny_sam2])
def test_every_model_serves_the_same_session(build, image):
    session = Session(image, TorchClickModel(build(128)))
    first = session.click(40, 30)
    assert session.click(10.5, 20.25, positive=False).logits.shape == first.logits.shape


def test_a_click_starts_from_the_mask_before(session, model):
    """The second click sees the first one's unclamped logits: decoding both clicks without them gives something else."""
    session.click(40, 30)
    previous = session.step.prompt.previous_logits
    second = session.click(20, 10)
    fresh = Session(session.image, TorchClickModel(model), embedding=session.embedding).clicks([Click(40, 30), Click(20, 10)])
    assert previous is not None
    assert not np.array_equal(second.logits, fresh.logits)


def test_undo_and_redo_restore_exactly(session):
    results = [session.result, session.click(40, 30), session.click(5, 5, positive=False), session.box(10, 10, 70, 50)]
    for expected in reversed(results[:-1]):
        assert np.array_equal(session.undo().logits, expected.logits)
        assert session.result.score == expected.score
    with pytest.raises(PromptError, match="nothing to undo"):
        session.undo()
    for expected in results[1:]:
        assert np.array_equal(session.redo().logits, expected.logits)
    with pytest.raises(PromptError, match="nothing to redo"):
        session.redo()


def test_a_new_click_after_undo_forgets_what_was_undone(session):
    session.click(40, 30)
    session.click(50, 30)
    session.undo()
    session.click(10, 10)
    assert [click.x for click in session.step.prompt.clicks] == [40, 10]
    with pytest.raises(PromptError, match="nothing to redo"):
        session.redo()


def test_reset_gives_the_empty_mask_and_keeps_the_embedding(session):
    first = session.click(40, 30)
    embedding = session.embedding
    assert not session.reset().mask.any()
    assert session.embedding is embedding
    assert np.array_equal(session.click(40, 30).logits, first.logits)


def test_ones_own_mask_is_the_result_and_the_next_click_starts_from_it(session, model):
    own = disk(60, 90, 45, 30, 15)
    result = session.mask(own)
    assert np.array_equal(result.mask, own)
    corrected = session.click(45, 30)
    without = Session(session.image, TorchClickModel(model), embedding=session.embedding).click(45, 30)
    assert not np.array_equal(corrected.logits, without.logits)
    assert np.array_equal(session.undo().mask, own)


def test_float_logits_as_mask_are_kept(session, rng):
    logits = rng.normal(size=(60, 90)).astype(np.float32)
    assert np.array_equal(session.mask(logits).logits, logits)


def test_box_and_clicks_together_are_one_entry(session):
    session.clicks([Click(40, 30), Click(2, 2, positive=False)], Box(10, 10, 70, 50))
    assert len(session.history) == 2
    assert not session.undo().mask.any()


def test_automatic_cut_is_corrected_by_clicks(model, image):
    cut = disk(60, 90, 30, 30, 12)

    def automatic(image, embedding, frame):
        return Segmentation(np.where(cut, 4.0, -4.0).astype(np.float32), 0.7, image=image)

    session = Session(image, TorchClickModel(model), automatic)
    result = session.auto()
    assert np.array_equal(result.mask, cut)
    assert result.score == pytest.approx(0.7)
    assert not np.array_equal(session.click(60, 30).logits, result.logits)
    assert np.array_equal(session.undo().mask, cut)


def test_no_automatic_mode_is_said(session):
    with pytest.raises(ModelError, match="expected a model with an automatic mode"):
        session.auto()


@pytest.mark.parametrize("xy", [(-1, 5), (90, 5), (5, 60), (float("nan"), 5), (5, float("inf"))])
def test_clicks_outside_are_refused_before_anything_happens(session, xy):
    with pytest.raises(PromptError, match=r"expected a click inside the image, x in 0 \.\. 89 and y in 0 \.\. 59"):
        session.click(*xy)
    with pytest.raises(PromptError):
        session.clicks([Click(1, 1), Click(*xy)])
    assert len(session.history) == 1


@pytest.mark.parametrize("box", [(10, 10, 10, 20), (20, 10, 10, 20), (90, 0, 99, 20), (0, 0, float("nan"), 5), (-9, -9, 0, 0)])
def test_impossible_boxes_are_refused(session, box):
    with pytest.raises(PromptError, match="expected a box"):
        session.box(*box)


def test_impossible_masks_are_refused(session):
    with pytest.raises(ShapeError, match="of the image's size"):
        session.mask(np.zeros((90, 60), bool))
    with pytest.raises(ShapeError, match="bool mask or float logits"):
        session.mask(np.zeros((60, 90), np.uint8))
    with pytest.raises(PromptError, match="finite"):
        session.mask(np.full((60, 90), np.nan, np.float32))
    with pytest.raises(PromptError, match="at least one click or a box"):
        session.clicks([])


def test_sessions_in_threads_do_not_disturb_each_other(model, rng):
    photos = [rng.integers(0, 256, (40 + 10 * i, 70, 3), dtype=np.uint8) for i in range(6)]

    def work(photo):
        session = Session(photo, TorchClickModel(model))
        session.click(30, 20)
        session.click(10, 10, positive=False)
        session.undo()
        return session.redo().logits

    alone = [work(photo) for photo in photos]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(work, photos))
    for one, other in zip(alone, together, strict=True):
        assert np.allclose(one, other, atol=1e-5)


def test_a_refiner_sees_the_points_and_its_state_goes_back_with_undo(model, image):
    class Counter:
        """Adds 1 to the logits and counts its calls in the place of the state's error map."""

        def prepare(self, pixels, embedding):
            return pixels.shape

        def refine(self, features, point_coords, point_labels, logits, previous_logits, state):
            assert features == (1, 3, 128, 128)
            assert point_coords.shape[1] == point_labels.shape[1]
            calls = torch.tensor(1) if state.error_map is None else state.error_map + 1
            return logits + 1, RefinerState(error_map=calls)

    plain, session = Session(image, TorchClickModel(model)), Session(image, TorchClickModel(model, Counter()))
    assert np.allclose(session.click(40, 30).logits, plain.click(40, 30).logits + 1, atol=1e-5)
    session.click(20, 10)
    assert session.step.refiner_state.error_map == 2
    session.undo()
    session.click(60, 10)
    assert session.step.refiner_state.error_map == 2


def test_a_line_is_one_entry_five_clicks_for_the_decoder_and_the_whole_line_for_a_refiner(model, image, tmp_path):
    class Watch:
        def prepare(self, pixels, embedding):
            return None

        def refine(self, features, point_coords, point_labels, logits, previous_logits, state):
            self.points = point_coords[0]
            return logits, RefinerState()

    watch = Watch()
    plain, session = Session(image, TorchClickModel(model)), Session(image, TorchClickModel(model, watch))
    line = [(20, 15), (50, 15), (50, 40)]
    result = session.scribble(line)
    clicks = session.step.prompt.clicks
    assert np.array_equal(result.logits, plain.clicks(clicks).logits)
    assert (clicks[0].x, clicks[0].y, clicks[-1].x, clicks[-1].y) == (20, 15, 50, 40)
    assert len(clicks) == 5 < len(watch.points) - len(clicks), "points in between for the refiner"
    session.scribble([(5, 5)], positive=False)
    assert [stroke.positive for stroke in session.step.prompt.strokes] == [True, False]
    _, history = read(session.save(tmp_path / "lines.safetensors"), image, TorchClickModel(model))
    assert history[-1].prompt.strokes == session.step.prompt.strokes
    session.undo()
    assert np.array_equal(session.result.logits, result.logits)
    with pytest.raises(PromptError, match="inside the image"):
        session.scribble([(5, 5), (500, 5)])
    with pytest.raises(PromptError, match="at least one point"):
        session.scribble([])


def test_a_saved_session_goes_on_where_it_was(session, model, tmp_path):
    session.click(40, 30)
    session.mask(disk(60, 90, 45, 30, 15))
    last = session.click(20, 10, positive=False)
    path = session.save(tmp_path / "deep" / "session.safetensors")
    embedding, history = read(path, session.image, TorchClickModel(model))
    restored = Session(session.image, TorchClickModel(model), embedding=embedding, history=history)
    assert np.array_equal(restored.result.logits, last.logits)
    assert restored.step.prompt.clicks == session.step.prompt.clicks
    for _ in range(3):
        assert np.array_equal(restored.undo().logits, session.undo().logits)
    assert [p.name for p in path.parent.iterdir()] == ["session.safetensors"]


def test_a_saved_session_of_something_else_is_refused(session, model, tmp_path):
    path = session.save(tmp_path / "session.safetensors")
    changed = session.image.copy()
    changed[0, 0, 0] ^= 1
    with pytest.raises(StaleSessionError, match="belongs to another image"):
        read(path, changed, TorchClickModel(model))
    with pytest.raises(StaleSessionError, match="belongs to another model"):
        read(path, session.image, TorchClickModel(tiny_sam2(128, seed=1)))
    other = tiny_sam2(160)
    with pytest.raises(StaleSessionError, match="belongs to another preprocessing"):
        read(path, session.image, TorchClickModel(other))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(StaleSessionError):
        read(path, session.image, TorchClickModel(model))
    (tmp_path / "text").write_text("hello")
    with pytest.raises(StaleSessionError, match="expected a session file"):
        read(tmp_path / "text", session.image, TorchClickModel(model))


def test_a_session_that_cannot_be_written_says_so(session, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file"):
        session.save(tmp_path / "file" / "session.safetensors")


def test_siblings_share_the_embedding_and_keep_their_histories_apart(session):
    first = session.click(40, 30)
    other = session.sibling()
    assert other.embedding is session.embedding
    assert not other.result.mask.any()
    other.click(10, 10)
    assert np.array_equal(session.result.logits, first.logits)
    assert len(session.history) == 2


def test_a_sibling_goes_on_in_the_middle_of_a_history(session):
    results = [session.click(40, 30), session.click(10, 10, positive=False), session.click(70, 50)]
    session.undo()
    other = session.sibling((*session.history, *session.undone), undone=len(session.undone))
    assert np.array_equal(other.result.logits, results[1].logits)
    assert np.array_equal(other.redo().logits, results[2].logits)
    assert np.array_equal(session.result.logits, results[1].logits)


@pytest.mark.parametrize("kind", ["click", "mask", "logits"])
def test_a_step_on_disk_is_the_same_step(session, model, rng, tmp_path, kind):
    logits = rng.normal(size=(60, 90)).astype(np.float32)
    expected = session.click(40, 30) if kind == "click" else session.mask(logits > 0 if kind == "mask" else logits)
    path = write_step(tmp_path / "step", session.step)
    found = session.sibling((Step(), read_step(path))).result
    assert np.array_equal(found.logits, expected.logits)
    if kind == "mask":
        assert path.stat().st_size < 32 * 32 * 4 + 60 * 90 / 8 + 600


def test_a_persons_own_mask_is_kept_as_runs_in_memory_and_on_disk(session, model, tmp_path):
    mask = np.zeros((60, 90), bool)
    mask[0, 0], mask[10:50, 20:70], mask[30, 30] = True, True, False
    session.mask(mask)
    assert session.step.full.nbytes < 400
    assert np.array_equal(session.result.mask, mask)
    session.click(40, 30)
    assert np.array_equal(session.undo().mask, mask)
    path = write_step(tmp_path / "step", session.step)
    assert path.stat().st_size < 32 * 32 * 4 + 1200
    assert np.array_equal(session.sibling((Step(), read_step(path))).result.mask, mask)


def test_the_parts_of_an_automatic_cut_are_saved_with_its_step(session, model, tmp_path):
    y, x = np.mgrid[:60, :90]
    parts = [Segmentation((r - np.hypot(y - 30, x - c)).astype(np.float32), 0.5, name=name) for r, c, name in ((9, 20, "a"), (12, 60, ""), (-1, 5, "none"))]
    step = replace(session.step, full=np.ones((60, 90), np.float32), instances=tuple(parts))
    found = read_step(write_step(tmp_path / "step", step)).instances
    for part, expected in zip(found, parts, strict=True):
        assert (part.name, part.score) == (expected.name, expected.score)
        assert np.array_equal(part.mask, expected.mask)
        assert np.array_equal(edge_opacity(part.logits), edge_opacity(expected.logits))


def test_a_file_that_is_no_step_is_refused(session, model, tmp_path):
    (tmp_path / "text").write_text("no step")
    for path in (tmp_path / "text", tmp_path / "missing", session.save(tmp_path / "session")):
        with pytest.raises(StaleSessionError, match="expected a step"):
            read_step(path)
