"""The click loop, its protocols and metrics; whatever is predicted here is predicted by arithmetic, or by a tiny random network where networks matter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import Disks, OpenDisks, Sight, photo, square

from fretsaw.api import Segmenter
from fretsaw.catalog import Parts
from fretsaw.errors import ConfigError, ShapeError
from fretsaw.evaluation import protocols
from fretsaw.evaluation.adapters import DecoderPredictor, SessionPredictor, decoder_of, predictor_for
from fretsaw.evaluation.clicks import ClickTally, carried, click_through, iou, metrics_by_size, threshold
from fretsaw.evaluation.predictors import Detour, Flip, Squash, ZoomIn, logits, object_crop, probabilities, wrap
from fretsaw.evaluation.protocols import CLICK_PROTOCOLS, CURVE_TARGET, HRSAM, INTERFORMER, REAL, RITM, SAM, SEGNEXT, SIMPLECLICK, click_protocol, for_dataset
from fretsaw.methods.sam_clicks import best_of_three, single
from fretsaw.types import Box, Click, RefinerState
from tiny import tiny_sam, tiny_sam2

RNG = np.random.default_rng(0)


def test_the_loop_starts_empty_adds_every_click_and_stops_at_the_target():
    truth = square(20, 10, 50, 40)
    disks = Disks(radius=14)
    trace = click_through(disks, photo(truth), truth, replace(SAM, target_iou=0.95), RNG)
    assert trace.clicks[0] == Click(34, 24, True)
    assert [len(clicks) for clicks, _ in disks.calls] == list(range(1, len(trace.clicks) + 1))
    assert disks.calls[-1][0] == list(trace.clicks)
    assert len(trace.clicks) == len(trace.ious)
    assert all(value < 0.95 for value in trace.ious[:-1])
    assert trace.ious[-1] == iou(trace.mask, truth)
    assert trace.mask.dtype == np.bool_


def test_a_target_above_one_takes_every_click_even_on_a_perfect_mask():
    truth = square(20, 10, 50, 40)
    trace = click_through(Sight(), photo(truth), truth, replace(SAM, target_iou=CURVE_TARGET), RNG)
    assert trace.ious == (1.0,) * 20
    # RITM's rule goes on with negative clicks at the corner, which are never the same pixel twice only where the mask is wrong.
    assert trace.clicks[1] == Click(0, 0, False)


def test_hrsam_takes_every_click_and_none_on_a_perfect_mask():
    truth = square(20, 10, 50, 40)
    assert len(click_through(Disks(4), photo(truth), truth, HRSAM, RNG).clicks) == 20
    assert len(click_through(Sight(), photo(truth), truth, HRSAM, RNG).clicks) == 1


def test_the_same_seed_gives_the_same_clicks_with_ties(tmp_path):
    truth = square(20, 10, 50, 40)
    first = click_through(Disks(4), photo(truth), truth, HRSAM, np.random.default_rng(5))
    assert first.clicks == click_through(Disks(4), photo(truth), truth, HRSAM, np.random.default_rng(5)).clicks
    assert first.clicks != click_through(Disks(4), photo(truth), truth, HRSAM, np.random.default_rng(6)).clicks


def test_real_clicks_lie_around_the_deepest_place_and_repeat_with_the_samples_seed():
    truth = square(20, 10, 50, 40)
    protocol = replace(REAL, max_clicks=1)
    assert protocol.fields() | {"name": "sam", "click_rule": "ritm"} == replace(SAM, max_clicks=1).fields()
    firsts = [click_through(Disks(4), photo(truth), truth, protocol, np.random.default_rng(seed)).clicks[0] for seed in range(60)]
    assert firsts[7] == click_through(Disks(4), photo(truth), truth, protocol, np.random.default_rng(7)).clicks[0]
    assert all(truth[int(click.y), int(click.x)] == 1 and click.positive for click in firsts)
    assert 3 < np.std([click.x for click in firsts]) < 9, "half of the depth of 15 pixels"


def test_what_goes_back_to_the_network():
    truth = square(20, 10, 50, 40)
    expected = {
        "probabilities": lambda answer, mask: probabilities(answer, "logits"),
        "labels": lambda answer, mask: mask.astype(np.float32),
    }
    for protocol in (replace(SEGNEXT, input="native"), INTERFORMER, SAM, HRSAM):
        disks = Disks(6)
        click_through(disks, photo(truth), truth, replace(protocol, max_clicks=3, target_iou=None), RNG)
        assert disks.calls[0][1] is None
        for (clicks, _), (_, previous) in zip(disks.calls, disks.calls[1:], strict=False):
            if protocol.previous_mask not in expected:
                assert previous is None
                continue
            answer = OpenDisks(Disks(6), truth.shape).predict(clicks, None)
            assert previous is not None
            assert np.array_equal(previous, expected[protocol.previous_mask](answer, answer > 0))


def test_thresholds_by_protocol():
    values = np.array([[-0.05, -0.03, 0.0, 0.01]], np.float32)  # probabilities 0.4875, 0.4925, 0.5, 0.5025
    assert threshold(values, "logits", RITM).tolist() == [[False, True, True, True]]
    assert threshold(probabilities(values, "logits"), "probabilities", RITM).tolist() == [[False, True, True, True]]
    for protocol in (SAM, HRSAM, INTERFORMER):
        assert threshold(values, "logits", protocol).tolist() == [[False, False, False, True]]


def test_logits_and_probabilities_undo_each_other_and_survive_extremes():
    values = np.array([[-5.0, 0.0, 3.0]], np.float32)
    assert np.allclose(logits(probabilities(values, "logits"), "probabilities"), values, atol=1e-5)
    assert np.isfinite(logits(np.array([[0.0, 1.0]], np.float32), "probabilities")).all()
    assert probabilities(np.array([[-1e9, 1e9]], np.float32), "logits").tolist() == [[pytest.approx(0), pytest.approx(1)]]


def test_iou_leaves_ignored_pixels_out():
    truth = np.array([[1, 1, 0, -1]], np.int8)
    assert iou(np.array([[True, False, True, True]]), truth) == pytest.approx(1 / 3)


def test_every_iou_equals_ritms(shared: Path):
    golden = np.load(shared / "golden" / "clicks_ritm.npz")
    compared = 0
    for case in (name[: -len("_truth")] for name in golden.files if name.endswith("_truth")):
        truth, shape = golden[f"{case}_truth"], tuple(golden[f"{case}_shape"])
        predictions = np.unpackbits(golden[f"{case}_predictions"])[: int(np.prod(shape))].reshape(shape).astype(bool)
        for prediction, expected in zip(predictions, golden[f"{case}_ious"], strict=True):
            assert iou(prediction, truth) == expected
            compared += 1
    assert compared == 108


def test_the_whole_loop_equals_ritms_when_it_is_given_the_recorded_predictions(shared: Path):
    golden = np.load(shared / "golden" / "clicks_ritm.npz")
    for case in (name[: -len("_truth")] for name in golden.files if name.endswith("_truth")):
        truth, shape = golden[f"{case}_truth"], tuple(golden[f"{case}_shape"])
        predictions = np.unpackbits(golden[f"{case}_predictions"])[: int(np.prod(shape))].reshape(shape).astype(np.float32)

        class Recorded:
            unit = "probabilities"
            maps = predictions

            def open(self, image):
                return self

            def predict(self, clicks, previous):
                return self.maps[len(clicks) - 1]

        protocol = replace(SEGNEXT, input="native", max_clicks=len(predictions), target_iou=CURVE_TARGET)
        trace = click_through(Recorded(), np.zeros((*truth.shape, 3), np.uint8), truth, protocol, RNG)
        assert [(click.x, click.y, click.positive) for click in trace.clicks] == [(x, y, bool(p)) for x, y, p in golden[f"{case}_clicks"]]
        assert list(trace.ious) == golden[f"{case}_ious"].tolist()


def test_noc_nof_and_iou_at_k_by_hand():
    tally = ClickTally(max_clicks=4, targets=(0.8, 0.9))
    tally.add({"ious": [0.5, 0.85, 0.91]})  # NoC@80 2, NoC@90 3
    tally.add({"ious": [0.1, 0.2, 0.3, 0.92]})  # solved exactly at the last click
    tally.add({"ious": [0.1, 0.2, 0.85, 0.6]})  # reaches 80 once, 90 never
    figures = tally.metrics()
    assert figures["NoC@80"] == (2 + 4 + 3) / 3
    assert figures["NoC@90"] == (3 + 4 + 4) / 3
    assert (figures["NoF@80"], figures["NoF@80 never"]) == (1, 0)
    assert (figures["NoF@90"], figures["NoF@90 never"]) == (2, 1)
    assert figures["IoU@1"] == pytest.approx((0.5 + 0.1 + 0.1) / 3)
    assert figures["IoU@4"] == pytest.approx((0.91 + 0.92 + 0.6) / 3)
    assert figures["4-mIoU"] == pytest.approx(100 * figures["IoU@4"])
    assert np.isnan(ClickTally().metrics()["NoC@90"])


def test_ious_after_the_stop_are_the_last_one():
    assert carried([0.5, 0.96], 4).tolist() == [0.5, 0.96, 0.96, 0.96]
    assert carried([], 2).tolist() == [0, 0]


def test_figures_by_image_size():
    records = [{"ious": [0.99], "size": [1024, 10]}, {"ious": [0.1] * 20, "size": [10, 1025]}, {"ious": [0.99], "size": [5000, 10]}]
    table = metrics_by_size(records)
    assert list(table) == ["(0, 1024]", "(1024, 2048]"]
    assert (table["(0, 1024]"]["NoC@90"], table["(1024, 2048]"]["NoC@90"]) == (1, 20)


def test_protocols_hold_the_fields_of_the_table():
    assert set(CLICK_PROTOCOLS) == {"ritm", "simpleclick", "segnext", "sam", "hrsam", "interformer", "real"}
    assert [p.click_rule for p in CLICK_PROTOCOLS.values()] == ["ritm", "ritm", "ritm", "ritm", "hrsam", "hrsam", "around"]
    assert (RITM.threshold, RITM.flip, RITM.input, RITM.input_size, RITM.zoom_threshold) == (0.49, True, "zoom", 400, 0.5)
    assert (SIMPLECLICK.input_size, SIMPLECLICK.zoom_squash) == (448, True)
    assert for_dataset(RITM, "davis").input_size == 600
    assert for_dataset(SIMPLECLICK, "davis") == SIMPLECLICK
    assert (HRSAM.target_iou, INTERFORMER.target_iou, SAM.target_iou) == (None, None, 0.95)
    with pytest.raises(AttributeError):
        RITM.threshold = 0.5  # type: ignore[misc]


@pytest.mark.parametrize(
    "change", [{"max_clicks": 0}, {"target_iou": 0.0}, {"target_iou": 2.0}, {"input_size": None}, {"threshold": None}, {"threshold_on": "argmax"}]
)
def test_impossible_protocols_are_refused(change):
    with pytest.raises(ConfigError, match="expected"):
        replace(RITM, **change)


def test_unknown_protocols_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"hrsam.*got 'sax'"):
        click_protocol("sax")


def test_flip_gives_the_mirror_image_mirrored_clicks_and_averages_logits():
    truth = square(5, 5, 30, 30)
    disks = Disks(5)
    opened = Flip(disks).open(photo(truth))
    previous = np.arange(truth.size, dtype=np.float32).reshape(truth.shape)
    answer = opened.predict([Click(10, 12)], previous)
    assert np.array_equal(disks.opened[1], disks.opened[0][:, ::-1])
    assert disks.calls[1][0] == [Click(80 - 1 - 10, 12)]
    assert disks.calls[1][1] is not None
    assert np.array_equal(disks.calls[1][1], previous[:, ::-1])
    # A disk is its own mirror image, so that the average is the plain answer.
    assert np.allclose(answer, disks.open(photo(truth)).predict([Click(10, 12)], None), atol=1e-4)


def test_squash_stretches_image_clicks_and_previous_and_brings_the_answer_back():
    truth = square(20, 10, 50, 40)
    disks = Disks(40)
    opened = Squash(disks, 160).open(photo(truth))
    answer = opened.predict([Click(40, 30)], truth.astype(np.float32))
    assert disks.opened[0].shape == (160, 160, 3)
    assert disks.calls[0][0] == [Click(80, 80)]
    assert disks.calls[0][1] is not None
    assert disks.calls[0][1].shape == (160, 160)
    assert answer.shape == (60, 80)
    inside = answer > 0
    assert (inside.any(axis=0).sum(), inside.any(axis=1).sum()) == (40, 30)  # 81 of 160 pixels on each axis, the disk's tips lost


def test_detour_keeps_the_aspect_ratio():
    disks = Disks(5)
    opened = Detour(disks, 40).open(np.zeros((60, 80, 3), np.uint8))
    assert opened.predict([Click(40, 20)], None).shape == (60, 80)
    assert disks.opened[0].shape == (30, 40, 3)
    assert disks.calls[0][0] == [Click(20, 10)]


def test_the_crop_is_the_expanded_box_by_ritms_arithmetic():
    mask = np.zeros((100, 200), bool)
    mask[40:60, 50:90] = True
    # Rows 40 .. 59: centre 49.5, 1.4 * 20 = 28 high: 35.5 .. 63.5, rounded to even 36 .. 64. Columns 50 .. 89: centre 69.5, 56 wide: 41.5 .. 97.5, 42 .. 98.
    assert object_crop(mask, 1.4, 1) == Box(42, 36, 99, 65)
    assert object_crop(mask, 1.4, 200) == Box(0, 0, 171, 100)


def test_zoom_shows_the_whole_image_first_then_a_crop_that_stays_until_it_no_longer_fits():
    truth = square(200, 150, 260, 200, shape=(400, 600))
    image = photo(truth)
    disks = Disks(30)
    protocol = replace(RITM, zoom_minimum=100, input_size=100)
    opened = ZoomIn(disks, protocol).open(image)
    clicks = [Click(230, 175)]
    first = opened.predict(clicks, None)
    assert disks.opened[0].shape == image.shape
    assert disks.calls[0][0] == clicks
    # Second click: the disk's box is 61 pixels, 1.4 times 85.4, the minimum of 100 counts: 180 .. 280 and 125 .. 225, both inclusive.
    clicks.append(Click(250, 160))
    second = opened.predict(clicks, first)
    assert len(disks.opened) == 2
    assert disks.opened[1].shape == (100, 100, 3)
    scale = 100 / 101
    assert disks.calls[1][0][0] == Click(pytest.approx((230 - 180) * scale), pytest.approx((175 - 125) * scale))
    assert disks.calls[1][1] is not None
    assert disks.calls[1][1].shape == (100, 100)
    outside = np.ones(truth.shape, bool)
    outside[125:226, 180:281] = False
    assert (second[outside] == 0).all()
    assert second[175, 230] > 0.9
    # A negative click outside does not move the crop, a positive one does.
    opened.predict([*clicks, Click(400, 300, False)], second)
    assert len(disks.opened) == 2
    opened.predict([*clicks, Click(400, 300, True)], second)
    assert len(disks.opened) == 3


def test_zoom_uses_the_whole_image_while_the_mask_is_empty():
    disks = Disks(3)
    opened = ZoomIn(disks, RITM).open(np.zeros((400, 600, 3), np.uint8))
    opened.predict([Click(5, 5, False)], None)
    opened.predict([Click(5, 5, False), Click(9, 9, False)], None)
    assert [image.shape for image in disks.opened] == [(400, 600, 3)]


def test_simpleclick_stretches_the_whole_image_and_every_crop():
    truth = square(200, 150, 260, 200, shape=(400, 600))
    disks = Disks(30)
    opened = ZoomIn(disks, SIMPLECLICK).open(photo(truth))
    first = opened.predict([Click(230, 175)], None)
    opened.predict([Click(230, 175), Click(240, 175)], first)
    assert [image.shape for image in disks.opened] == [(448, 448, 3)] * 2


@pytest.mark.parametrize("name", sorted(CLICK_PROTOCOLS))
def test_a_predictor_that_sees_the_object_solves_it_in_one_click_under_every_protocol(name):
    truth = square(200, 150, 330, 300, shape=(400, 600))
    protocol = CLICK_PROTOCOLS[name]
    trace = click_through(wrap(Sight(), protocol), photo(truth), truth, protocol, RNG)
    assert trace.ious[0] > 0.98


@pytest.fixture(scope="module")
def model():
    return tiny_sam2()


def noise(shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (*shape, 3), dtype=np.uint8)


CLICKS = [Click(30, 20), Click(60, 50, False), Click(12, 33)]


def test_the_sam_protocol_goes_through_a_session(model):
    predictor = predictor_for(Segmenter("tiny", Parts(clicks=model)), SAM)
    assert isinstance(predictor, SessionPredictor)
    opened, session = predictor.open(noise()), Segmenter("tiny", Parts(clicks=model)).open(noise())
    for k, click in enumerate(CLICKS, start=1):
        assert np.array_equal(opened.predict(tuple(CLICKS[:k]), None), session.click(click.x, click.y, click.positive).logits)


def test_the_decoder_with_a_sessions_choices_answers_as_the_session_does(model):
    session = SessionPredictor(Segmenter("tiny", Parts(clicks=model))).open(noise())
    decoder = DecoderPredictor(model, best_of_three).open(noise())
    for k in range(1, 4):
        assert np.array_equal(session.predict(tuple(CLICKS[:k]), None), decoder.predict(tuple(CLICKS[:k]), None))


class Doubler:
    """A refiner whose answer depends on everything it is given."""

    def prepare(self, pixels, embedding):
        return pixels.mean()

    def refine(self, features, point_coords, point_labels, logits, previous_logits, state):
        count = (state.error_map if state.error_map is not None else torch.zeros(1)) + 1
        previous = 0 if previous_logits is None else 0.1 * previous_logits
        return 2 * logits + features + count + point_coords.mean() / 100 + point_labels.sum() + previous, RefinerState(error_map=count)


def test_the_decoder_answers_as_the_session_does_also_with_a_refiner(model):
    segmenter = Segmenter("tiny", Parts(clicks=model), Doubler())
    session, decoder, plain = (
        SessionPredictor(segmenter).open(noise()),
        decoder_of(segmenter).open(noise()),
        DecoderPredictor(model, best_of_three).open(noise()),
    )
    for k in range(1, 4):
        answer = decoder.predict(tuple(CLICKS[:k]), None)
        assert np.array_equal(session.predict(tuple(CLICKS[:k]), None), answer)
        assert not np.array_equal(plain.predict(tuple(CLICKS[:k]), None), answer)


def test_hrsam_takes_the_single_mask_pads_the_longest_side_and_feeds_its_logits_back(model):
    predictor = predictor_for(Segmenter("tiny", Parts(clicks=model)), HRSAM)
    assert isinstance(predictor, DecoderPredictor)
    assert predictor.choose is single
    assert predictor.preprocessing.frame_of(noise()).content_height == 96  # 60 of 80 rows, times 128 / 80
    opened = predictor.open(noise())
    first = opened.predict(tuple(CLICKS[:1]), None)
    again = predictor.open(noise()).predict(tuple(CLICKS[:1]), None)
    assert np.array_equal(first, again)
    # The second answer depends on the first: without it, the same clicks give another map.
    assert not np.array_equal(opened.predict(tuple(CLICKS[:2]), None), predictor.open(noise()).predict(tuple(CLICKS[:2]), None))


def test_a_map_that_is_handed_in_becomes_the_mask_prompt(model):
    predictor = DecoderPredictor(model, best_of_three)
    ones, zeros = np.ones((60, 80), np.float32), np.zeros((60, 80), np.float32)
    answers = [predictor.open(noise()).predict(tuple(CLICKS[:2]), previous) for previous in (None, ones, zeros)]
    assert all(np.isfinite(answer).all() for answer in answers)
    assert not np.array_equal(answers[0], answers[1])
    assert not np.array_equal(answers[1], answers[2])


@pytest.mark.parametrize("name", sorted(CLICK_PROTOCOLS))
def test_a_random_network_runs_under_every_protocol(name):
    truth = square(20, 10, 50, 40)
    protocol = replace(CLICK_PROTOCOLS[name], max_clicks=3)
    if protocol.input_size is not None:
        protocol = replace(protocol, input_size=64, zoom_minimum=20)
    predictor = wrap(predictor_for(Segmenter("tiny", Parts(clicks=tiny_sam(64))), protocol), protocol)
    trace = click_through(predictor, photo(truth), truth, protocol, RNG)
    assert 1 <= len(trace.clicks) <= 3
    assert np.isfinite(trace.ious).all()


def test_a_map_of_another_size_is_refused():
    class Small(OpenDisks):
        def predict(self, clicks, previous):
            return np.zeros((3, 3), np.float32)

    class Predictor(Disks):
        def open(self, image):
            return Small(self, (3, 3))

    with pytest.raises(ShapeError, match="image's size"):
        click_through(Predictor(), photo(square(1, 1, 5, 5)), square(1, 1, 5, 5), SAM, RNG)


def test_the_field_names_of_protocols_are_those_of_the_reports():
    assert set(protocols.SAM.fields()) == set(protocols.ClickProtocol.__dataclass_fields__)
