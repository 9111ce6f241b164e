"""Instances: components, matching by both rules, COCO JSON written and read, average precision."""

from __future__ import annotations

import json
import pickle

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fretsaw.errors import ConfigError, DataError, ShapeError
from fretsaw.evaluation import auto, coco, instances, semantic
from fretsaw.evaluation.instances import PROTOCOLS, evaluate_instances, match_greedy, match_hungarian, split_instances
from fretsaw.evaluation.report import Report
from fretsaw.evaluation.runner import RunOptions
from fretsaw.masks import decode_rle, encode_rle
from fretsaw.segmentation import Segmentation

SHAPE = (60, 80)


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def content_of(*pictures: list[np.ndarray]) -> dict:
    """A COCO data set with one image per list of objects."""
    annotations = []
    for number, objects in enumerate(pictures, 1):
        for mask in objects:
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": 7, "segmentation": encode_rle(mask), "area": int(mask.sum()), "iscrowd": 0}
            annotations.append({**entry, "bbox": [0, 0, 1, 1]})
    images = [{"id": number, "file_name": f"{number}.png", "height": SHAPE[0], "width": SHAPE[1]} for number in range(1, len(pictures) + 1)]
    return {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "fish"}]}


def results_of(image_id: int, scored: list[tuple[np.ndarray, float]]) -> list[dict]:
    return [instances.to_coco(instances.Instance(mask, score), image_id) for mask, score in scored]


def test_components_become_instances():
    logits = np.full(SHAPE, -3.0, np.float32)
    logits[5:20, 5:20] = 2.0
    logits[20:30, 20:30] = 1.0  # joins the first by a corner
    logits[40:55, 50:70] = np.log(4)
    logits[50, 5:8] = 9.0  # too small
    found = split_instances(logits)
    assert [int(i.mask.sum()) for i in found] == [325, 300]
    assert found[1].score == pytest.approx(0.8)
    assert found[0].score == pytest.approx((225 / (1 + np.exp(-2)) + 100 / (1 + np.exp(-1))) / 325)
    assert len(split_instances(logits, connectivity=4)) == 3
    assert len(split_instances(logits, minimum_area=1)) == 3
    assert len(split_instances(logits, threshold=1.2)) == 2
    assert split_instances(np.full(SHAPE, -1.0)) == []
    with pytest.raises(ShapeError):
        split_instances(np.zeros((1, *SHAPE)))


def test_hungarian_finds_the_best_whole_where_greedy_takes_the_first():
    ious = np.array([[0.8, 0.7], [0.75, 0.0]])
    assert {(m.prediction, m.truth) for m in match_hungarian(ious)} == {(0, 1), (1, 0)}
    assert [(m.prediction, m.truth) for m in match_greedy(ious, [0.9, 0.8])] == [(0, 0)]
    assert [(m.prediction, m.truth) for m in match_greedy(ious, [0.8, 0.9])] == [(1, 0), (0, 1)]


def test_pairs_that_do_not_touch_are_no_match():
    ious = np.array([[0.4, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert [(m.prediction, m.truth, m.iou) for m in match_hungarian(ious)] == [(0, 0, 0.4)]
    assert match_greedy(ious, [1, 1]) == []
    assert match_greedy(ious, [1, 1], matching_iou=0.4)[0].iou == 0.4
    for shape in ((0, 3), (3, 0), (0, 0)):
        assert match_hungarian(np.zeros(shape)) == match_greedy(np.zeros(shape), [1.0] * shape[0]) == []


@settings(max_examples=50, deadline=None)
@given(arrays.arrays(float, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.floats(0, 1)))
def test_matches_are_one_to_one(ious):
    for matches in (match_hungarian(ious), match_greedy(ious, list(range(len(ious))), 0.0)):
        assert len({m.prediction for m in matches}) == len({m.truth for m in matches}) == len(matches)
    best, first = sum(m.iou for m in match_hungarian(ious)), sum(m.iou for m in match_greedy(ious, list(range(len(ious))), 0.0))
    assert best >= first - 1e-9


def test_iou_matrix():
    ious = instances.iou_matrix([box(0, 0, 10, 10), box(50, 50, 60, 60)], [box(5, 0, 15, 10)])
    assert ious == pytest.approx(np.array([[50 / 150], [0]]))
    assert instances.iou_matrix([], [box(0, 0, 1, 1)]).shape == (0, 1)
    with pytest.raises(ShapeError):
        instances.iou_matrix([box(0, 0, 1, 1)], [np.zeros((3, 3), bool)])


def test_average_precision_by_hand():
    """Two objects; one found at IoU 0.8, one missed, one false alarm of higher score: precision 1/2 at recall 1/2 for thresholds up to 0.80."""
    truth = content_of([box(0, 0, 10, 10), box(40, 40, 50, 50)])
    found = results_of(1, [(box(20, 20, 30, 30), 0.9), (box(0, 0, 10, 8), 0.5)])
    # 51 of the 101 recall points (0 to 0.50) have precision 1/2; IoU 0.8 passes seven of ten thresholds.
    figures = coco.average_precision(truth, found)
    assert figures["AP50"] == pytest.approx(51 / 101 / 2)
    assert figures["AP75"] == pytest.approx(51 / 101 / 2)
    assert figures["AP"] == pytest.approx(0.7 * 51 / 101 / 2)
    assert coco.average_precision(truth, results_of(1, [(box(0, 0, 10, 10), 0.9), (box(40, 40, 50, 50), 0.1)])) == {"AP": 1, "AP50": 1, "AP75": 1}


def test_average_precision_of_nothing(capfd):
    truth = content_of([box(0, 0, 10, 10)], [])
    assert coco.average_precision(truth, [])["AP"] == 0
    assert np.isnan(coco.average_precision(truth, [], image_ids=[2])["AP"])
    assert coco.average_precision(truth, results_of(2, [(box(0, 0, 5, 5), 1.0)]), image_ids=[1])["AP50"] == 0
    assert capfd.readouterr().out == ""
    with pytest.raises(DataError, match="COCO"):
        coco.average_precision(truth, [{"image_id": 1, "score": 1.0}])
    with pytest.raises(DataError, match="COCO"):
        coco.average_precision({"images": []}, [])


class Seer:
    """Sees the red channel as one map; each instance that it tells apart has a red value of its own."""

    def auto(self, image, instances=False):
        red = image[..., 0]
        parts = tuple(Segmentation(np.where(red == value, 4.0, -4.0), value / 255) for value in np.unique(red[red > 0])) if instances else ()
        return Segmentation(np.where(red > 0, 4.0, -4.0), 0.5, instances=parts)


@pytest.fixture
def aquarium(tmp_path):
    """Image 1: two fish apart. Image 2: two fish that touch. Image 3: one fish and a speck that is none."""
    pictures = [
        [box(2, 2, 22, 22), box(40, 20, 70, 50)],
        [box(10, 10, 30, 30), box(30, 10, 50, 40)],
        [box(5, 5, 35, 45)],
    ]
    content = content_of(*pictures)
    for number, objects in enumerate(pictures, 1):
        image = np.zeros((*SHAPE, 3), np.uint8)
        for value, mask in enumerate(objects, 1):
            image[mask, 2] = 100 + 50 * value  # OpenCV writes blue, green, red
        if number == 3:
            image[40:55, 60:75, 2] = 90
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    crowd = {"id": 99, "image_id": 1, "category_id": 7, "segmentation": encode_rle(box(0, 50, 80, 60)), "area": 800, "iscrowd": 1}
    content["annotations"].append(crowd)
    content["annotations"][0]["segmentation"] = [[2, 2, 22, 2, 22, 22, 2, 22]]  # a polygon, as COCO has them
    (tmp_path / "fish.json").write_text(json.dumps(content))
    return coco.read_coco(tmp_path / "fish.json")


def test_reading_a_coco_file(aquarium, tmp_path):
    assert [sample.name for sample in aquarium.samples] == ["1.png", "2.png", "3.png"]
    image, truths = aquarium.samples[0].read()
    assert image.shape == (*SHAPE, 3)
    assert [int(truth.sum()) for truth in truths] == [400, 900]  # the crowd is left out
    assert truths[0].dtype == bool
    assert (truths[0] == box(2, 2, 22, 22)).all()
    (tmp_path / "3.png").rename(tmp_path / "elsewhere.png")
    with pytest.raises(DataError, match=r"3\.png"):
        aquarium.samples[2].read()
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(DataError, match="COCO file"):
        coco.read_coco(tmp_path / "other.json")
    with pytest.raises(DataError, match="COCO file"):
        coco.read_coco(tmp_path / "none.json")
    cv2.imwrite(str(tmp_path / "2.png"), np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(DataError, match=r"2\.png"):
        aquarium.samples[1].read()


def test_pmg_sams_route_keeps_the_matched_components(aquarium, tmp_path):
    report = evaluate_instances(aquarium, Seer, "pmg-sam")
    assert [(r["truths"], r["instances"], len(r["predictions"])) for r in report.samples] == [(2, 2, 2), (2, 1, 1), (1, 2, 1)]
    assert report.samples[1]["matched_ious"] == pytest.approx([600 / 1000])  # the merged fish goes to the larger
    assert report.metrics["matched truths"] == pytest.approx(4 / 5)
    assert report.metrics["matched instances"] == pytest.approx(4 / 5)
    fields = report.protocol_fields
    assert (fields["matching"], fields["connectivity"], fields["component_score"], fields["threshold"]) == ("hungarian", 8, "mean probability", 0.0)
    path = instances.save_predictions(report, tmp_path / "found" / "results.json")
    written = json.loads(path.read_text())
    assert len(written) == 4
    assert written[0]["image_id"] == 1
    assert decode_rle(written[0]["segmentation"])[2:22, 2:22].all()
    assert coco.average_precision(aquarium.content, written) == {name: report.metrics[name] for name in ("AP", "AP50", "AP75")}
    assert report.metrics["AP50"] > report.metrics["AP75"] > 0
    assert Report.from_json(report.to_json()).metrics == report.metrics


def test_cocos_rule_keeps_false_alarms(aquarium):
    matched, everything = evaluate_instances(aquarium, Seer, "pmg-sam"), evaluate_instances(aquarium, Seer, "coco")
    assert sum(len(record["predictions"]) for record in everything.samples) == 5
    assert everything.protocol_fields["matching"] == "greedy"
    assert ["greedy" in everything.warnings[0], "Hungarian" in matched.warnings[0]] == [True, True]
    assert everything.metrics["AP"] <= matched.metrics["AP"]


def test_a_models_own_instances_tell_touching_objects_apart(aquarium):
    report = evaluate_instances(aquarium, Seer, "coco-model")
    assert [record["instances"] for record in report.samples] == [2, 2, 2]
    assert report.metrics["AP"] == 1  # the false alarm has the lowest score, so it costs nothing
    assert report.samples[0]["predictions"][0]["score"] == pytest.approx(150 / 255)


def test_overlapping_subset(aquarium):
    assert [sample.name for sample in instances.overlapping(aquarium).samples] == ["2.png"]
    with pytest.raises(DataError, match="overlapping"):
        instances.overlapping(coco.InstanceSet("apart", aquarium.samples[:1], aquarium.content))


def test_failed_images_do_not_count(aquarium):
    aquarium.samples[2].image.unlink()
    report = evaluate_instances(aquarium, Seer, "coco-model")
    assert [failure.sample for failure in report.failures] == ["3.png"]
    assert report.metrics["AP"] == 1
    assert report.dataset_size == 3


def test_an_interruption_changes_nothing(aquarium, tmp_path):
    calls = []

    class Once(Seer):
        def auto(self, image, instances=False):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return super().auto(image, instances)

    options = RunOptions(journal=tmp_path / "journal.jsonl")
    with pytest.raises(KeyboardInterrupt):
        evaluate_instances(aquarium, Once, options=options)
    resumed = evaluate_instances(aquarium, Once, options=options)
    assert len(calls) == 4
    assert resumed == evaluate_instances(aquarium, Seer)


def test_unknown_names_are_refused(aquarium, tmp_path):
    with pytest.raises(ConfigError, match="pmg-sam"):
        evaluate_instances(aquarium, Seer, "pmg")
    with pytest.raises(ConfigError, match="instances"):
        instances.save_predictions(Report("auto", "pysod", "d", "m", {}), tmp_path / "a.json")


@pytest.mark.parametrize(
    ("module", "evaluate", "protocol"),
    [(auto, auto.evaluate_auto, "pysod"), (semantic, semantic.evaluate_semantic, "voc21"), (instances, evaluate_instances, "coco")],
)
def test_what_workers_need_can_be_sent_to_them(monkeypatch, aquarium, module, evaluate, protocol):
    sent = []

    def capture(dataset, build, measure, tally, **rest):
        sent.extend(pickle.loads(pickle.dumps((measure, tally))))
        return Report("instances", protocol, "d", "m", {})

    monkeypatch.setattr(module, "evaluate_dataset", capture)
    evaluate(aquarium, Seer, protocol)
    measure, tally = sent
    assert callable(measure)
    assert tally().metrics()


def test_protocols_state_their_choices():
    assert {p.matching for p in PROTOCOLS.values()} == {"hungarian", "greedy"}
    assert PROTOCOLS["pmg-sam"].kept == "matched"
    assert PROTOCOLS["coco"].kept == "all"
