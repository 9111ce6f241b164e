"""Class maps: one confusion matrix over the set, the presets and their class lists."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from functools import partial

import cv2
import numpy as np
import pytest

from fretsaw.data import classes
from fretsaw.data.samples import Dataset, Sample
from fretsaw.errors import ConfigError, DataError, ModelError, ShapeError
from fretsaw.evaluation import curves, semantic
from fretsaw.evaluation.runner import RunOptions
from fretsaw.evaluation.semantic import PRESETS, class_ious, confusion_matrix, evaluate_semantic, mean_iou, pixel_accuracy
from fretsaw.images import read_labels
from fretsaw.segmentation import LabelMap


def test_figures_by_hand():
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, 255], [2, 2, 255, 255]])
    labels = np.array([[0, 0, 1, 0], [0, -1, 1, 3], [1, 2, 0, 1]])
    confusion = confusion_matrix(labels, truth, 5)
    assert confusion.shape == (5, 6)
    assert confusion.sum() == 9
    assert confusion[0].tolist() == [3, 0, 0, 0, 0, 1]
    assert confusion[1].tolist() == [1, 2, 0, 0, 0, 0]
    assert confusion[2].tolist() == [0, 1, 1, 0, 0, 0]
    ious = class_ious(confusion)
    assert ious[:3] == pytest.approx([3 / 5, 2 / 4, 1 / 2])
    assert np.isnan(ious[3:]).all()  # 3 is given on ignored pixels only, 4 nowhere
    assert mean_iou(confusion) == pytest.approx((0.6 + 0.5 + 0.5) / 3)
    assert pixel_accuracy(confusion) == pytest.approx(6 / 9)


def test_a_class_that_is_only_predicted_counts_as_missed():
    confusion = confusion_matrix(np.array([[0, 1]]), np.array([[0, 0]]), 2)
    assert class_ious(confusion).tolist() == [0.5, 0.0]


def test_figures_are_those_of_the_set_not_means_over_images():
    """An image of 1 pixel and one of 99 weigh as their pixels do."""
    small, large = (np.array([[1]]), np.array([[0]])), (np.zeros((9, 11), int), np.zeros((9, 11), int))
    total = sum(confusion_matrix(labels, truth, 2) for labels, truth in (small, large))
    assert pixel_accuracy(total) == pytest.approx(0.99)
    assert class_ious(total) == pytest.approx([0.99, 0.0])


def test_nothing_counted_is_no_figure():
    confusion = confusion_matrix(np.zeros((2, 2), int), np.full((2, 2), 255), 3)
    assert np.isnan(mean_iou(confusion))
    assert np.isnan(pixel_accuracy(confusion))


def test_confusion_refuses_what_does_not_fit():
    with pytest.raises(ShapeError):
        confusion_matrix(np.zeros((2, 2), int), np.zeros((2, 3), int), 2)
    with pytest.raises(DataError, match=r"0 \.\. 1"):
        confusion_matrix(np.zeros((1, 2), int), np.array([[0, 2]]), 2)
    with pytest.raises(ModelError, match="below 2"):
        confusion_matrix(np.array([[0, 2]]), np.zeros((1, 2), int), 2)


COUNTS = {"voc20": 20, "cityscapes": 19, "context59": 59, "ade20k": 150, "coco80": 80, "coco_stuff": 171}
ENDS = {
    "voc20": ("aeroplane", "tv monitor"),
    "cityscapes": ("road", "bicycle"),
    "context59": ("aeroplane", "wood"),
    "ade20k": ("wall", "flag"),
    "coco80": ("person", "toothbrush"),
    "coco_stuff": ("person", "wood"),
}


@pytest.mark.parametrize("name", classes.CLASS_LISTS)
def test_class_lists_are_whole(name):
    names = classes.class_names(name)
    assert len(names) == len(set(names)) == COUNTS[name]
    assert (names[0], names[-1]) == ENDS[name]
    assert all(word and word == word.strip() for words in classes.class_words(name) for word in words)


def test_class_ids_that_are_known_by_heart():
    assert classes.class_names("voc20").index("person") + 1 == 15
    assert classes.class_names("cityscapes").index("car") == 13
    assert classes.class_names("ade20k").index("person") == 12
    assert classes.class_names("coco80") == classes.class_names("coco_stuff")[:80]
    assert classes.class_names("coco80").index("teddy bear") == 77
    assert list(classes.class_names("context59")) == sorted(classes.class_names("context59"))
    with pytest.raises(ConfigError, match="voc20"):
        classes.class_names("voc")


def test_raw_label_files_are_renumbered():
    # Cityscapes: 7 road, 26 car, 33 bicycle, 9 parking is not evaluated; COCO-Stuff stores category ids minus 1: 91 is banner (92), 181 is wood (182).
    assert classes.cityscapes_classes(np.array([[7, 26, 33, 9, 0]])).tolist() == [[0, 13, 18, 255, 255]]
    assert classes.coco_stuff_classes(np.array([[0, 89, 91, 181, 255, 11]])).tolist() == [[0, 79, 80, 170, 255, 255]]
    assert classes.coco_object_classes(np.array([[0, 89, 91, 255]])).tolist() == [[1, 80, 0, 0]]


def test_presets_hold_the_settings_of_the_benchmarks():
    expected = {
        "voc21": (21, 448, 224, 0.2, 0.2, 1.2),
        "context60": (60, 576, 224, 0.15, 0.15, 1.2),
        "coco-object": (81, 448, 224, 0.25, 0.25, 1.2),
        "voc20": (20, 336, 112, None, 0.2, 0.0),
        "cityscapes": (19, 688, 224, None, 0.1, 3.0),
        "context59": (59, 576, 224, None, 0.15, 1.2),
        "ade20k": (150, 576, 224, None, 0.05, 1.2),
        "coco-stuff": (171, 448, 224, None, 0.05, 1.2),
    }
    found = {p.name: (len(p.names), p.short_side, p.stride, p.background_threshold, p.coarse_threshold, p.cosine_factor) for p in PRESETS.values()}
    assert found == expected
    assert {(p.crop, p.logit_scale, p.minimum_area) for p in PRESETS.values()} == {(336, 40.0, 225)}
    assert {p.name for p in PRESETS.values() if p.negative_cosine == "plain"} == {"ade20k", "cityscapes"}
    assert {p.name for p in PRESETS.values() if p.correlated_in == "halves"} == {"cityscapes"}
    with pytest.raises(FrozenInstanceError):
        PRESETS["voc21"].stride = 1  # type: ignore[misc]
    with pytest.raises(ConfigError, match="coco-stuff"):
        semantic.preset_named("coco")


def test_background_words_name_no_class():
    for preset in PRESETS.values():
        own = {word for words in classes.class_words(preset.class_list) for word in words}
        assert own.isdisjoint(preset.background_words)
        assert bool(preset.background_words) == (preset.names[0] == "background")
    assert "sky" in PRESETS["voc21"].background_words


def test_truths_are_numbered_by_the_preset():
    stored = np.array([[0, 1, 20, 255]])
    assert semantic.truth_ids(stored, PRESETS["voc20"]).tolist() == [[255, 0, 19, 255]]
    assert semantic.truth_ids(stored, PRESETS["voc21"]).tolist() == [[0, 1, 20, 255]]


class Painter:
    """Reads class ids off an image's red channel, as they are numbered without the background; 255 is no class."""

    def __init__(self, names=()) -> None:
        self.names = names

    def text(self, image, names, background=(), settings=None):
        self.asked = names
        labels = image[..., 0].astype(np.int32)
        return LabelMap(np.where(labels == 255, -1, labels), tuple(names))

    def semantic(self, image):
        labels = image[..., 0].astype(np.int32)
        return LabelMap(np.where(labels == 255, -1, labels), tuple(self.names))


def stored_truth(path, value):
    return value


@pytest.fixture
def scenes(tmp_path):
    """Two images: one labelled right, one with half of a class missed."""
    samples = []
    for name, painted, stored in (("right", [[0, 0, 255, 14]], [[1, 1, 0, 15]]), ("half", [[7, 255, 255, 255]], [[8, 8, 255, 0]])):
        path = tmp_path / f"{name}.png"
        red, truth = np.repeat(np.array(painted, np.uint8), 2, axis=0), np.repeat(np.array(stored, np.int32), 2, axis=0)
        cv2.imwrite(str(path), np.dstack([np.zeros_like(red), np.zeros_like(red), red]))
        samples.append(Sample(name, path, path, partial(stored_truth, value=truth)))
    return Dataset("scenes", tmp_path, tuple(samples))


def test_a_whole_run_with_words(scenes):
    painter = Painter()
    report = evaluate_semantic(scenes, lambda: painter, "voc21")
    assert not report.failures
    assert painter.asked == PRESETS["voc21"].words
    assert painter.asked[0] == "aeroplane; airplane"
    # aeroplane 2/2, person 1/1, cat 1/2, background: 1 + 1 right, 1 taken from the cat
    assert report.metrics["mIoU"] == pytest.approx((1 + 1 + 0.5 + 2 / 3) / 4)
    assert report.metrics["PA"] == pytest.approx(6 / 7)
    ious = semantic.ious_by_class(report)
    assert ious["cat"] == 0.5
    assert np.isnan(ious["dog"])
    assert (report.protocol, report.protocol_fields["mode"], report.protocol_fields["background_threshold"]) == ("voc21", "text", 0.2)
    # Without the background as a class, its pixels do not count, and the missed half of the cat is a pixel without a class.
    report = evaluate_semantic(scenes, Painter, "voc20")
    assert report.metrics == pytest.approx({"mIoU": (1 + 1 + 0.5) / 3, "PA": 4 / 5})


def test_label_maps_are_saved_and_drawn(scenes, tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need the extra evaluate")
    report = evaluate_semantic(scenes, Painter, "voc21", masks_to=tmp_path / "maps")
    ids = read_labels(tmp_path / "maps" / "half.png")
    assert sorted(np.unique(ids)) == [0, 8]  # background and cat, numbered as the benchmark does
    picture = curves.plot([report], tmp_path / "classes.svg").read_text()
    assert "aeroplane" in picture
    assert "dog" not in picture


def test_a_model_with_classes_of_its_own_is_matched_by_name(scenes):
    names = classes.class_names("voc20")
    shuffled = (*names[1:], names[0])
    report = evaluate_semantic(scenes, lambda: Painter(names), "voc20", mode="semantic")
    assert report.metrics["PA"] == pytest.approx(4 / 5)
    report = evaluate_semantic(scenes, lambda: Painter(shuffled), "voc20", mode="semantic")
    assert report.metrics["PA"] == 0  # the same ids mean other classes
    report = evaluate_semantic(scenes, lambda: Painter(names[:-1]), "voc20", mode="semantic")
    assert [failure.kind for failure in report.failures] == ["ConfigError", "ConfigError"]
    assert "tv monitor" in report.failures[0].error


def test_an_interruption_changes_nothing(scenes, tmp_path):
    whole = evaluate_semantic(scenes, Painter, "voc20")
    calls = []

    class Once(Painter):
        def text(self, image, names, background=(), settings=None):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return super().text(image, names, background, settings)

    options = RunOptions(journal=tmp_path / "journal.jsonl")
    with pytest.raises(KeyboardInterrupt):
        evaluate_semantic(scenes, Once, "voc20", options=options)
    assert evaluate_semantic(scenes, Once, "voc20", options=options) == whole
    assert len(calls) == 3


def test_unknown_mode_is_refused(scenes):
    with pytest.raises(ConfigError, match="semantic"):
        evaluate_semantic(scenes, Painter, "voc20", mode="auto")
