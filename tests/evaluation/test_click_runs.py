"""Whole runs of the click protocols over a folder: reports, failures, workers, seeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stand_ins import Disks, photo, square

from fretsaw.data.datasets import folder
from fretsaw.errors import ConfigError
from fretsaw.evaluation.clicks import evaluate_clicks
from fretsaw.evaluation.protocols import HRSAM, SAM
from fretsaw.evaluation.runner import RunOptions
from fretsaw.images import write_image, write_mask


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    root = tmp_path / "objects"
    for i in range(6):
        truth = square(5 + 3 * i, 6, 40 + 3 * i, 30 + 4 * i)
        write_image(root / "images" / f"{i}.png", photo(truth))
        write_mask(root / "masks" / f"{i}.png", truth == 1)
    return root


def build_disks(protocol):
    return Disks(10)


def test_a_data_set_is_evaluated_and_reported(objects, tmp_path):
    report = evaluate_clicks(folder(objects), SAM, build_disks, RunOptions(model="disks"), masks_to=tmp_path / "out")
    assert (report.task, report.protocol, report.dataset, report.model, report.dataset_size) == ("clicks", "sam", "objects", "disks", 6)
    assert report.protocol_fields["threshold_on"] == "logits"
    assert [record["sample"] for record in report.samples] == list("012345")
    assert report.metrics["NoC@90"] == np.mean([next((k + 1 for k, v in enumerate(r["ious"]) if v >= 0.9), 20) for r in report.samples])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{i}.png" for i in range(6)]
    assert report.settings["masks_saved"] is True


def test_results_do_not_depend_on_workers_or_on_which_samples_are_measured(objects):
    alone = evaluate_clicks(folder(objects), HRSAM, build_disks, RunOptions(seed=3))
    together = evaluate_clicks(folder(objects), HRSAM, build_disks, RunOptions(seed=3, workers=2))
    assert alone == together
    part = evaluate_clicks(folder(objects), HRSAM, build_disks, RunOptions(seed=3, limit=2))
    assert list(part.samples) == list(alone.samples)[:2]
    assert list(evaluate_clicks(folder(objects), HRSAM, build_disks, RunOptions(seed=4)).samples) != list(alone.samples)


def test_what_cannot_be_measured_is_named_and_the_rest_goes_on(objects):
    (objects / "masks" / "0.png").unlink()
    write_mask(objects / "masks" / "1.png", np.ones((5, 5), bool))
    (objects / "images" / "2.png").write_bytes(b"no image")
    write_mask(objects / "masks" / "3.png", np.zeros((60, 80), bool))
    (objects / "images" / "4.png").unlink()
    report = evaluate_clicks(folder(objects), SAM, build_disks)
    assert [record["sample"] for record in report.samples] == ["5"]
    errors = {failure.sample: failure.error for failure in report.failures}
    assert list(errors) == ["0", "1", "2", "3", "4"]
    assert "0.png, which does not exist" in errors["0"]
    assert "80 x 60, got 5 x 5" in errors["1"]
    assert "2.png" in errors["2"]
    assert "at least one object pixel" in errors["3"]
    assert "expected an image at" in errors["4"]


def test_a_target_below_what_is_reported_is_refused(objects):
    with pytest.raises(ConfigError, match="highest that is reported"):
        evaluate_clicks(folder(objects), replace(SAM, target_iou=0.9), build_disks)
