"""Metrics of automatic masks: equal to PySODMetrics' recorded figures, and to the papers' definitions written out plainly."""

from __future__ import annotations

import json
import sys
from functools import partial

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.ndimage import convolve, distance_transform_edt

from experiments.pmg_sam import pre_mask
from fretsaw.data import truths
from fretsaw.data.samples import Dataset, Sample
from fretsaw.errors import ConfigError, MissingExtraError, ModelError, ShapeError
from fretsaw.evaluation import auto, overlap, saliency
from fretsaw.evaluation.auto import METRICS, PROTOCOLS, AutoTally, evaluate_auto, score, soft_map
from fretsaw.evaluation.hce import human_correction_efforts
from fretsaw.evaluation.report import Report
from fretsaw.evaluation.runner import RunOptions
from fretsaw.evaluation.weighted_f import weighted_f
from fretsaw.images import read_mask
from fretsaw.segmentation import Segmentation

GOLDEN_NAMES = {
    "max F": "max_f",
    "mean F": "mean_f",
    "adaptive F": "adaptive_f",
    "weighted F": "weighted_f",
    "MAE": "mae",
    "S": "s_measure",
    "max E": "max_e",
    "mean E": "mean_e",
    "adaptive E": "adaptive_e",
    "HCE": "hce",
}
WITHOUT_HCE = tuple(name for name in METRICS if name != "HCE")
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def golden(shared):
    return json.loads((shared / "golden" / "saliency" / "values.json").read_text())


@pytest.fixture(scope="module")
def pair_of(shared):
    def read(name: str) -> tuple[np.ndarray, np.ndarray]:
        prediction = cv2.imread(str(shared / "golden" / "saliency" / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
        truth = read_mask(shared / "data" / "berkeley" / "masks" / f"{name}.png") > 0
        return prediction, truth

    return read


class Recorded:
    """Cuts an image into the soft map that its red channel holds; stops the program at the image number `stop`."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.calls = stop, 0

    def auto(self, image):
        self.calls += 1
        if self.calls == self.stop:
            raise KeyboardInterrupt
        share = np.clip(image[..., 0] / 255, 1e-9, 1 - 1e-9)
        return Segmentation(np.log(share / (1 - share)).astype(np.float32), 0.5)


@pytest.fixture(scope="module")
def recorded_set(shared, golden):
    folder, masks = shared / "golden" / "saliency", shared / "data" / "berkeley" / "masks"
    samples = tuple(Sample(name, folder / f"{name}.png", masks / f"{name}.png", truths.any_channel) for name in golden["images"])
    return Dataset("recorded", folder, samples)


def test_single_images_equal_the_reference(golden, pair_of):
    for name in golden["images"]:
        values = score(*pair_of(name), metrics=[metric for metric in GOLDEN_NAMES if metric != "HCE"])
        for metric, value in values.items():
            assert value == pytest.approx(golden["per_image"][name][GOLDEN_NAMES[metric]], abs=TOLERANCE), f"{metric} of {name}"


def test_correction_efforts_equal_the_reference(golden, pair_of):
    pytest.importorskip("skimage", reason="HCE needs scikit-image")
    for name in golden["images"]:
        assert score(*pair_of(name), metrics=["HCE"])["HCE"] == golden["per_image"][name]["hce"], name


def test_degenerate_images_equal_the_reference(golden, pair_of):
    pytest.importorskip("skimage", reason="HCE needs scikit-image")
    ramp = (np.arange(48 * 64) % 256).astype(np.uint8).reshape(48, 64)
    cases = {
        "empty_truth": (ramp, np.zeros((48, 64), np.uint8)),
        "full_truth": (ramp, np.full((48, 64), 255, np.uint8)),
        "constant_prediction": (np.full((48, 64), 128, np.uint8), pair_of("101085")[1][:48, :64]),
        "perfect": (pair_of("101087")[1].astype(np.uint8) * 255, pair_of("101087")[1]),
    }
    assert cases.keys() == golden["degenerate"].keys()
    for name, pair in cases.items():
        values = score(*pair)
        for metric, key in GOLDEN_NAMES.items():
            assert values[metric] == pytest.approx(golden["degenerate"][name][key], abs=TOLERANCE), f"{metric} of {name}"


def test_a_whole_run_gives_the_reference_figures_of_the_set(golden, recorded_set):
    pytest.importorskip("skimage", reason="HCE needs scikit-image")
    report = evaluate_auto(recorded_set, Recorded, "pysod")
    assert not report.failures
    for metric, key in GOLDEN_NAMES.items():
        assert report.metrics[metric] == pytest.approx(golden["dataset"][key], abs=TOLERANCE), metric
    assert list(report.metrics) == list(METRICS)
    fields = report.protocol_fields
    assert (report.protocol, fields["levels"], fields["f_beta2"], fields["hce_relax"], fields["mask_above"]) == ("pysod", "min-max", 0.3, 5, 127)
    assert report.samples[0]["MAE"] == pytest.approx(golden["per_image"][golden["images"][0]]["mae"], abs=TOLERANCE)
    # The report alone gives the same curves again.
    tally = AutoTally(PROTOCOLS["pysod"], METRICS)
    for record in Report.from_json(report.to_json()).samples:
        tally.add(record)
    assert tally.metrics() == report.metrics


def test_an_interrupted_run_ends_with_the_same_report(recorded_set, tmp_path):
    options = RunOptions(model="recorded", journal=tmp_path / "journal.jsonl")
    with pytest.raises(KeyboardInterrupt):
        evaluate_auto(recorded_set, partial(Recorded, stop=9), "pysod", options=options, metrics=WITHOUT_HCE)
    again = Recorded()
    resumed = evaluate_auto(recorded_set, lambda: again, "pysod", options=options, metrics=WITHOUT_HCE)
    assert again.calls == len(recorded_set.samples) - 8
    assert resumed == evaluate_auto(recorded_set, Recorded, "pysod", options=RunOptions(model="recorded"), metrics=WITHOUT_HCE)


def test_the_isnet_protocol_takes_grey_values_as_they_are(rng):
    prediction = rng.integers(60, 200, (20, 30)).astype(np.uint8)
    truth = rng.random((20, 30)) < 0.3
    as_is, stretched = score(prediction, truth, PROTOCOLS["isnet"], ["MAE"]), score(prediction, truth, PROTOCOLS["pysod"], ["MAE"])
    assert as_is["MAE"] == pytest.approx(np.abs(prediction / 255 - truth).mean())
    spread = (prediction - prediction.min()) / np.ptp(prediction).astype(float)
    assert stretched["MAE"] == pytest.approx(np.abs(spread - truth).mean())


pairs = st.tuples(st.integers(2, 14), st.integers(2, 14)).flatmap(
    lambda shape: st.tuples(arrays.arrays(np.uint8, shape), arrays.arrays(bool, shape, elements=st.booleans()))
)


def values_of(prediction: np.ndarray) -> np.ndarray:
    low, high = prediction.min() / 255, prediction.max() / 255
    return prediction / 255 if low == high else (prediction / 255 - low) / (high - low)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_curves_follow_their_definitions(pair):
    """F and E at every threshold, from the binary map itself."""
    prediction, truth = pair
    counts = saliency.count_levels(*saliency.check_pair(prediction, truth))
    levels = saliency.stretched_levels(counts)
    f, e = saliency.f_curve(counts, levels), saliency.e_curve(counts, levels)
    bytes_ = (values_of(prediction) * 255).astype(np.uint8)
    for threshold in (0, 1, 100, 128, 254, 255):
        binary = bytes_ >= threshold
        hits = (binary & truth).sum()
        precision, recall = hits / max(binary.sum(), 1), hits / max(truth.sum(), 1)
        expected = 1.3 * precision * recall / (0.3 * precision + recall) if hits else 0
        assert f[255 - threshold] == pytest.approx(expected, abs=1e-12)
        assert e[255 - threshold] == pytest.approx(plain_e(binary, truth), abs=1e-9)


def plain_e(binary: np.ndarray, truth: np.ndarray) -> float:
    if not truth.any() or truth.all():
        return (binary == truth).sum() / (truth.size - 1)
    a, b = binary - binary.mean(), truth - truth.mean()
    alignment = 2 * a * b / (a * a + b * b + 2.3e-16)
    return ((alignment + 1) ** 2 / 4).sum() / (truth.size - 1)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_weighted_f_follows_its_definition(pair):
    """Margolin's formulas over the whole image, with scipy's distance transform and a full convolution."""
    prediction, truth = pair
    levels = saliency.stretched_levels(saliency.count_levels(*saliency.check_pair(prediction, truth)))
    assert weighted_f(prediction, truth, levels) == pytest.approx(plain_weighted_f(values_of(prediction), truth), abs=1e-6)


def plain_weighted_f(values: np.ndarray, truth: np.ndarray) -> float:
    if not truth.any():
        return 0.0
    distance, (rows, columns) = distance_transform_edt(~truth, return_indices=True)
    error = np.abs(values - truth)
    offsets = np.arange(-3, 4)
    kernel = np.exp(-(offsets[:, None] ** 2 + offsets**2) / 50)
    smoothed = convolve(error[rows, columns], kernel / kernel.sum(), mode="constant")
    smaller = np.where(truth & (smoothed < error), smoothed, error)
    weighted = smaller * np.where(truth, 1, 2 - 0.5 ** (distance / 5))
    found = truth.sum() - weighted[truth].sum()
    recall, precision = 1 - weighted[truth].mean(), found / (found + weighted[~truth].sum() + 2.3e-16)
    return 2 * recall * precision / (recall + precision + 2.3e-16)


def test_weighted_f_far_from_the_object(rng):
    """Errors beyond the distance at which the weight is taken as constant."""
    prediction, truth = rng.integers(0, 256, (40, 500)).astype(np.uint8), np.zeros((40, 500), bool)
    truth[10:20, 5:30] = True
    levels = saliency.stretched_levels(saliency.count_levels(*saliency.check_pair(prediction, truth)))
    assert weighted_f(prediction, truth, levels) == pytest.approx(plain_weighted_f(values_of(prediction), truth), abs=1e-6)


def test_structure_follows_its_definition(rng):
    prediction, truth = rng.integers(0, 256, (31, 44)).astype(np.uint8), np.zeros((31, 44), bool)
    truth[4:19, 8:30] = True
    values = values_of(prediction)
    quadrants = saliency.count_quadrants(prediction, truth)
    counts = saliency.sum_counts(quadrants)

    def similar(x: np.ndarray) -> float:
        return 2 * x.mean() / (x.mean() ** 2 + 1 + x.std(ddof=1))

    share = truth.mean()
    by_object = share * similar(values[truth]) + (1 - share) * similar(1 - values[~truth])
    row, column = 12, 19  # rows 4 .. 18 and columns 8 .. 29 have their centre at 11 and 18.5, which rounds to even
    by_region = 0.0
    for place in (np.s_[:row, :column], np.s_[:row, column:], np.s_[row:, :column], np.s_[row:, column:]):
        x, y = values[place].ravel(), truth[place].ravel().astype(float)
        (xx, xy), (_, yy) = np.cov(x, y)
        by_region += x.size / values.size * 4 * x.mean() * y.mean() * xy / ((x.mean() ** 2 + y.mean() ** 2) * (xx + yy))
    assert saliency.s_measure(quadrants, saliency.stretched_levels(counts)) == pytest.approx(0.5 * by_object + 0.5 * by_region, abs=1e-9)


def test_structure_of_an_object_in_the_last_column_is_a_number():
    truth = np.zeros((8, 9), bool)
    truth[:, 8] = True
    prediction = truth.astype(np.uint8) * 200
    prediction[0, 0] = 30
    value = saliency.s_measure(saliency.count_quadrants(prediction, truth), saliency.plain_levels())
    assert 0 < value < 1


def test_adaptive_threshold_on_a_level_is_decided_by_the_pixels_own_mean(rng):
    """a + 9 c pixels of 0 beside a of 51 and c of 255 make twice the mean 51 exactly, so rounding decides whether 51 lies above."""
    decided = 0
    for _ in range(100):
        a, c = int(rng.integers(1, 200)), int(rng.integers(1, 40))
        prediction = rng.permutation(np.repeat(np.array([51, 255, 0], np.uint8), [a, c, a + 9 * c]))[None]
        counts = saliency.count_levels(*saliency.check_pair(prediction, prediction > 100))
        levels = saliency.stretched_levels(counts)
        threshold = saliency.adaptive_threshold(prediction, counts, levels)
        assert threshold == 2 * (prediction / 255).mean()
        from_counts = 2 * (counts.total @ levels) / counts.pixels
        decided += (from_counts <= levels[51]) != (threshold <= levels[51])
    assert decided > 0  # the sum over the counts would have been wrong here


def test_counting_in_strips_gives_the_same_counts(monkeypatch, rng):
    prediction, truth = rng.integers(0, 256, (50, 40)).astype(np.uint8), rng.random((50, 40)) < 0.4
    whole = saliency.count_levels(*saliency.check_pair(prediction, truth))
    monkeypatch.setattr(saliency, "_CALC_HIST_LIMIT", 130)
    strips = saliency.count_levels(*saliency.check_pair(prediction, truth))
    assert (whole.foreground == strips.foreground).all()
    assert (whole.background == strips.background).all()
    assert (whole.foreground == np.bincount(prediction[truth], minlength=256)).all()


def test_soft_map_rounds_as_a_saved_picture():
    logits = np.array([[0.0, -1e-3, 90.0, -90.0, np.inf, -np.inf]], np.float32)
    assert soft_map(logits).tolist() == [[128, 127, 255, 0, 255, 0]]
    assert ((soft_map(logits) > auto.MASK_ABOVE) == (logits >= 0)).all()
    with pytest.raises(ModelError, match="NaN"):
        soft_map(np.array([[np.nan]], np.float32))


def test_truths_of_bytes_are_cut_above_128():
    prediction, truth = np.full((2, 2), 255, np.uint8), np.array([[128, 129], [0, 255]], np.uint8)
    assert score(prediction, truth, metrics=["IoU"])["IoU"] == 0.5


@pytest.mark.parametrize(
    ("prediction", "truth"),
    [
        (np.zeros((4, 4), np.float32), np.zeros((4, 4), bool)),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 5), bool)),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), bool)),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.int64)),
        (np.zeros((0, 4), np.uint8), np.zeros((0, 4), bool)),
    ],
)
def test_pairs_that_cannot_be_scored_are_refused(prediction, truth):
    with pytest.raises(ShapeError):
        score(prediction, truth)


def test_unknown_names_are_refused(recorded_set):
    with pytest.raises(ConfigError, match="max F"):
        evaluate_auto(recorded_set, Recorded, metrics=["maxF"])
    with pytest.raises(ConfigError, match="isnet"):
        evaluate_auto(recorded_set, Recorded, "sod")


def test_without_scikit_image_all_but_hce_is_measured(monkeypatch, rng):
    monkeypatch.setattr(auto, "_has_skeletons", lambda: False)
    assert auto.check_metrics(None) == WITHOUT_HCE
    with pytest.raises(MissingExtraError, match=r"fretsaw\[evaluate\]"):
        auto.check_metrics(["MAE", "HCE"])
    monkeypatch.setitem(sys.modules, "skimage.morphology", None)
    with pytest.raises(MissingExtraError, match=r"fretsaw\[evaluate\]"):
        human_correction_efforts(np.zeros((4, 4), np.uint8), np.zeros((4, 4), bool), saliency.plain_levels())


def test_correction_efforts_of_simple_errors():
    pytest.importorskip("skimage", reason="HCE needs scikit-image")
    truth = np.zeros((120, 160), np.uint8)
    truth[20:60, 20:60] = 255
    levels = saliency.plain_levels()
    assert human_correction_efforts(truth, truth, levels) == 0
    extra = truth.copy()
    extra[80:110, 100:140] = 255
    assert human_correction_efforts(extra, truth, levels) == 1  # one click removes a region that touches nothing
    speck = truth.copy()
    speck[80:85, 100:105] = 255
    assert human_correction_efforts(speck, truth, levels) == 0  # vanishes in five erosions
    assert human_correction_efforts(speck, truth, levels, relax=1) == 1
    bulge = truth.copy()
    bulge[20:60, 60:90] = 255
    assert human_correction_efforts(bulge, truth, levels) == 2  # a straight border is two points


def test_overlap_by_hand():
    mask, truth = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    mask[0:4, 0:5] = True
    truth[2:6, 0:5] = True
    assert overlap.dice(mask, truth) == pytest.approx(2 * 10 / 40)
    assert overlap.pixel_accuracy(mask, truth) == pytest.approx(0.8)
    ignored = np.zeros((10, 10), bool)
    ignored[4:6, 0:5] = True
    assert overlap.pixel_accuracy(mask, truth & ~ignored, ignored) == pytest.approx(80 / 90)
    empty = np.zeros((10, 10), bool)
    assert overlap.dice(empty, empty) == overlap.boundary_iou(empty, empty) == 1
    assert overlap.dice(empty, truth) == overlap.boundary_iou(empty, truth) == 0
    with pytest.raises(ShapeError):
        overlap.dice(mask, truth[:5])
    with pytest.raises(ShapeError):
        overlap.boundary_iou(mask.astype(np.uint8), truth)


@pytest.mark.parametrize("dilation", [0.02, 0.05, 0.3])
def test_boundary_iou_follows_its_definition(rng, dilation):
    mask = cv2.GaussianBlur(rng.standard_normal((60, 80)), (0, 0), 5) > 0
    truth = cv2.GaussianBlur(rng.standard_normal((60, 80)), (0, 0), 5) > 0
    steps = max(1, round(dilation * 100))

    def band(shape: np.ndarray) -> np.ndarray:
        """The mask less itself eroded pixel by pixel, the image's edge being outside."""
        padded = np.pad(shape, 1).astype(np.uint8)
        return (padded - cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=steps))[1:-1, 1:-1].astype(bool)

    expected = (band(mask) & band(truth)).sum() / (band(mask) | band(truth)).sum()
    assert overlap.boundary_iou(mask, truth, dilation) == pytest.approx(expected)


def test_ignored_pixels_count_in_no_measure_of_the_mask(tmp_path):
    truth = np.zeros((12, 12), np.int8)
    truth[2:6, 2:6] = 1
    truth[6:8, 2:6] = -1
    image = np.zeros((12, 12, 3), np.uint8)
    image[2:8, 2:6] = 255
    cv2.imwrite(str(tmp_path / "a.png"), image)
    sample = Sample("a", tmp_path / "a.png", tmp_path / "a.png", lambda path: truth)
    report = evaluate_auto(Dataset("one", tmp_path, (sample,)), Recorded, metrics=("IoU", "Dice", "PA", "boundary IoU", "MAE"))
    assert [report.metrics[name] for name in ("IoU", "Dice", "PA", "boundary IoU")] == [1, 1, 1, 1]
    assert report.metrics["MAE"] == pytest.approx(8 / 144)


def test_a_map_of_another_size_is_the_models_fault(tmp_path):
    class Small:
        def auto(self, image):
            return Segmentation(np.zeros((5, 5), np.float32), 0.5)

    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((12, 12, 3), np.uint8))
    sample = Sample("a", tmp_path / "a.png", tmp_path / "a.png", lambda path: np.zeros((12, 12), np.int8))
    report = evaluate_auto(Dataset("one", tmp_path, (sample,)), Small, metrics=["MAE"])
    assert [failure.kind for failure in report.failures] == ["ModelError"]
    assert np.isnan(report.metrics["MAE"])


def test_pre_mask_and_final_mask_side_by_side(rng, tmp_path):
    scores = []
    for number in range(6):
        truth = np.zeros((30, 30), bool)
        truth[5:25, 5:25] = True
        rough = truth.copy()
        rough[5 : 6 + 2 * number] = False
        fine = truth.copy()
        fine[5 : 6 + number] = False
        scores.append(pre_mask.compare_pre_mask(rough.astype(np.uint8) * 255, fine.astype(np.uint8) * 255, truth))
    summary = pre_mask.summarise(scores)
    before, after = [s.pre_mask["IoU"] for s in scores], [s.final["IoU"] for s in scores]
    assert before == pytest.approx([(19 - 2 * n) / 20 for n in range(6)])
    assert summary["final IoU"] == pytest.approx(np.mean(after))
    assert summary["correlation IoU"] == pytest.approx(np.corrcoef(before, after)[0, 1])
    assert summary["final MAE"] < summary["pre-mask MAE"]
    assert summary["final S"] > summary["pre-mask S"]
    pytest.importorskip("matplotlib", reason="the scatter plot needs matplotlib")
    pre_mask.plot_scatter(scores, tmp_path / "scatter.png")
    assert (tmp_path / "scatter.png").stat().st_size > 1000


def test_pearson():
    assert pre_mask.pearson([1, 2, 3], [6, 4, 2]) == pytest.approx(-1)
    assert np.isnan(pre_mask.pearson([1, 1, 1], [1, 2, 3]))
    with pytest.raises(ShapeError):
        pre_mask.pearson([1, 2], [1, 2, 3])
