"""`fretsaw evaluate` as people and scripts use it: reports, tables, exit status, resuming, mistakes."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from fretsaw import api
from fretsaw.api import Segmenter
from fretsaw.catalog import Parts
from fretsaw.cli import evaluate
from fretsaw.cli.evaluate_options import DataSetRequest, RunRequest
from fretsaw.errors import ConfigError, DataError, DeviceError, ModelError
from fretsaw.evaluation import adapters
from fretsaw.evaluation.report import Report
from fretsaw.images import read_image, read_labels, write_image, write_mask
from fretsaw.segmentation import Segmentation
from tiny import tiny_sam2


def red_is_object(image, embedding, frame) -> Segmentation:
    return Segmentation(image[..., 0].astype(np.float32) - 120, 0.9, image=image)


@pytest.fixture
def loads(monkeypatch, tmp_path) -> list[dict]:
    """Replace the model by a tiny one; returns the arguments of every load."""
    calls: list[dict] = []
    parts = Parts(clicks=tiny_sam2(64), automatic=red_is_object)

    def load(name=None, **options):
        calls.append({"name": name, **options})
        return Segmenter(str(name), parts)

    monkeypatch.setattr(api, "load", load)
    monkeypatch.setattr(adapters, "weights_checksum", lambda name: "0" * 64)
    monkeypatch.setenv("FRETSAW_HOME", str(tmp_path / "home"))
    return calls


@pytest.fixture
def data(tmp_path) -> Path:
    root = tmp_path / "data"
    for i in range(3):
        image = np.full((40, 50, 3), 20, np.uint8)
        image[8 : 20 + i, 10:40, 0] = 220
        write_image(root / "images" / f"{i}.png", image)
        write_mask(root / "masks" / f"{i}.png", image[..., 0] > 100)
    return root


def run(*arguments: str | Path) -> tuple[int, str]:
    """Return the exit status and what was printed on standard output."""
    result = CliRunner().invoke(evaluate.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, (SystemExit, typer.Exit)):
        raise result.exception
    return result.exit_code, result.stdout


def test_clicks_writes_a_report_and_prints_a_table(loads, data, tmp_path):
    status, text = run("clicks", data, "--model", "tiny", "--protocol", "sam", "--report", tmp_path / "r.json", "--workers", "1", "--device", "cpu")
    assert status == 0
    report = Report.load(tmp_path / "r.json")
    assert (report.task, report.protocol, report.dataset, report.model, report.device, report.dtype) == ("clicks", "sam", "data", "tiny", "cpu", "float32")
    assert len(report.samples) == 3
    assert report.weights_checksum == "0" * 64
    assert report.settings == {"size": None, "refiner": None, "zoom": None, "click_true": True, "threads": 1, "limit": None}
    assert f"{report.metrics['NoC@90']:.2f}" in text
    assert loads == [{"name": "tiny", "size": None, "device": "cpu", "dtype": "float32", "refiner": None, "zoom": None, "click_true": True}]
    assert not (tmp_path / "r.json.journal").exists()


def test_json_prints_the_report_and_nothing_else(loads, data):
    status, text = run("clicks", data, "--model", "tiny", "--workers", "1", "--limit", "2", "--json")
    assert status == 0
    assert len(json.loads(text)["samples"]) == 2


def test_clicks_can_save_masks_draw_curves_and_measure_time(loads, data, tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need the extra evaluate")
    masks, plot, report = tmp_path / "masks", tmp_path / "c.png", tmp_path / "r.json"
    options = ["--save-masks", masks, "--plot", plot, "--report", report, "--timed", "1", "--target-iou", "1.01", "--limit", "1"]
    status, text = run("clicks", data, "--model", "tiny", "--protocol", "hrsam", "--workers", "1", *options)
    assert status == 0
    assert [path.name for path in masks.iterdir()] == ["0.png"]
    assert read_image(plot).std() > 0
    timing = Report.load(report).timing
    assert {"SPC", "SPC clicks alone", "encoding", "SPC as published", "SAT latency", "threads", "samples"} == set(timing)
    assert all(value > 0 for value in timing.values())
    assert "SAT latency" in text


def test_a_bad_sample_is_named_the_rest_is_done_and_the_status_is_not_0(loads, data, tmp_path):
    (data / "masks" / "1.png").unlink()
    status, text = run("clicks", data, "--model", "tiny", "--report", tmp_path / "r.json", "--workers", "1")
    assert status == 1
    assert "1 of 3 samples failed" in text
    assert "1.png" in text
    assert [record["sample"] for record in Report.load(tmp_path / "r.json").samples] == ["0", "2"]
    # The mask is back: only its sample is measured again.
    image = read_image(data / "images" / "1.png")
    write_mask(data / "masks" / "1.png", image[..., 0] > 100)
    status, _ = run("clicks", data, "--model", "tiny", "--report", tmp_path / "r.json", "--workers", "1")
    assert status == 0
    assert [record["sample"] for record in Report.load(tmp_path / "r.json").samples] == ["0", "1", "2"]


def test_a_run_that_broke_off_goes_on_also_without_a_report_file(loads, data, monkeypatch):
    whole = run("clicks", data, "--model", "tiny", "--workers", "1", "--json")[1]
    predict, calls = adapters._SessionImage.predict, []

    def break_off(self, clicks, previous):
        calls.append(1)
        if len(calls) > 25:
            raise KeyboardInterrupt
        return predict(self, clicks, previous)

    monkeypatch.setattr(adapters._SessionImage, "predict", break_off)
    status, _ = run("clicks", data, "--model", "tiny", "--workers", "1", "--json")
    assert status != 0
    calls.clear()
    monkeypatch.setattr(adapters._SessionImage, "predict", lambda self, clicks, previous: (calls.append(1), predict(self, clicks, previous))[1])
    assert run("clicks", data, "--model", "tiny", "--workers", "1", "--json")[1] == whole
    assert len(calls) < sum(len(record["clicks"]) for record in json.loads(whole)["samples"])


def test_a_split_measures_the_listed_images(loads, data, tmp_path):
    (tmp_path / "held_out.txt").write_text("2\n0\n")
    status, text = run("clicks", data, "--model", "tiny", "--workers", "1", "--split", tmp_path / "held_out.txt", "--json")
    assert status == 0
    content = json.loads(text)
    assert content["dataset"] == "data-held_out"
    assert [record["sample"] for record in content["samples"]] == ["0", "2"]


def test_auto_measures_masks_made_without_prompts(loads, data, tmp_path):
    status, _ = run("auto", data, "--model", "tiny", "--metric", "IoU", "--metric", "MAE", "--workers", "1", "--report", tmp_path / "r.json")
    assert status == 0
    report = Report.load(tmp_path / "r.json")
    assert (report.task, report.protocol) == ("auto", "pysod")
    assert report.metrics["IoU"] == 1


def test_auto_saves_the_soft_maps_and_draws_f_against_threshold(loads, data, tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need the extra evaluate")
    masks, picture = tmp_path / "masks", tmp_path / "f.png"
    status, _ = run("auto", data, "--model", "tiny", "--metric", "IoU", "--workers", "1", "--save-masks", masks, "--plot", picture)
    assert status == 0
    assert sorted(path.name for path in masks.iterdir()) == ["0.png", "1.png", "2.png"]
    assert (read_image(masks / "0.png")[..., 0] > 127).sum() == 12 * 30
    assert read_image(picture).std() > 0


def test_instances_measures_against_a_coco_file(loads, data, tmp_path):
    images = [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 50} for i in range(3)]
    squares = [[10, 8, 40, 8, 40, 20 + i, 10, 20 + i] for i in range(3)]
    annotations = [{"id": i + 1, "image_id": i, "category_id": 1, "segmentation": [square]} for i, square in enumerate(squares)]
    (data / "truth.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}))
    masks, picture = tmp_path / "masks", tmp_path / "recall.svg"
    files = ("--predictions", tmp_path / "p.json", "--save-masks", masks, "--plot", picture)
    status, text = run("instances", data / "truth.json", "--model", "tiny", "--workers", "1", "--json", *files)
    assert status == 0
    assert "share of true instances" in picture.read_text()
    assert sorted(np.unique(read_labels(masks / "1.png"))) == [0, 255]
    assert json.loads(text)["metrics"]["AP50"] == pytest.approx(1)
    assert len(json.loads((tmp_path / "p.json").read_text())) == 3
    with pytest.raises(DataError, match="overlapping"):
        run("instances", data / "truth.json", "--model", "tiny", "--overlapping")
    annotations.append({"id": 9, "image_id": 1, "category_id": 1, "segmentation": [[40, 8, 45, 8, 45, 20, 40, 20]]})
    (data / "truth.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}))
    status, text = run("instances", data / "truth.json", "--model", "tiny", "--overlapping", "--workers", "1", "--json")
    assert [record["sample"] for record in json.loads(text)["samples"]] == ["1.png"]


def test_semantic_asks_for_a_model_with_that_mode(loads, data):
    write_image(data / "labels" / "0.png", np.zeros((40, 50), np.uint8))
    status, text = run("semantic", data, "--dataset", "folder", "--model", "tiny", "--protocol", "voc21", "--workers", "1", "--json")
    assert status == 1
    assert "text mode" in json.loads(text)["failures"][0]["error"]


def test_reports_of_different_protocols_are_put_in_one_table_only_when_asked(loads, data, tmp_path):
    for protocol in ("sam", "hrsam"):
        run("clicks", data, "--model", "tiny", "--protocol", protocol, "--limit", "1", "--workers", "1", "--report", tmp_path / f"{protocol}.json")
    both = [tmp_path / "sam.json", tmp_path / "hrsam.json"]
    assert run("table", both[0])[0] == 0
    with pytest.raises(ConfigError, match="one protocol"):
        run("table", *both)
    status, text = run("table", *both, "--mixed")
    assert status == 0
    assert "do not compare" in text


def test_the_four_commands_agree_on_the_options_that_they_share():
    """One name, help and default each; only the protocols differ, and semantic has neither a default model nor a default protocol."""
    commands = typer.main.get_command(evaluate.app).commands
    facts = {
        name: {option.name: (option.opts, option.help, option.default, option.required) for option in commands[name].params}
        for name in ("clicks", "auto", "semantic", "instances")
    }
    shared = {one.name for one in fields(RunRequest)}
    for name, options in facts.items():
        assert shared <= set(options), f"evaluate {name} lacks {shared - set(options)}"
    for option in shared - {"model", "protocol"}:
        assert len({str(options[option]) for options in facts.values()}) == 1, option
    for option in {one.name for one in fields(DataSetRequest)} - {"model", "protocol"}:
        assert len({str(facts[name][option]) for name in ("clicks", "auto", "semantic")}) == 1, option
    for option in ("model", "protocol"):
        assert len({str(options[option][0]) for options in facts.values()}) == 1, option
        assert [name for name, options in facts.items() if options[option][-1]] == ["semantic"]
    assert {name: options["protocol"][2] for name, options in facts.items()} == {"clicks": "sam", "auto": "pysod", "semantic": None, "instances": "pmg-sam"}


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (["--protocol", "sax"], ConfigError, "got 'sax'"),
        (["--dataset", "grapcut"], ConfigError, "got 'grapcut'"),
        (["--dataset", "sbd"], DataError, "expected a folder img"),
        (["--device", "tpu"], DeviceError, "tpu"),
        (["--dtype", "int8"], DeviceError, "int8"),
        (["--threads", "0"], ConfigError, "thread"),
        (["--limit", "0"], ConfigError, "limit"),
        (["--workers", "0"], ConfigError, "worker"),
        (["--target-iou", "0.5"], ConfigError, "highest"),
    ],
)
def test_mistakes_are_said_before_a_model_is_loaded(loads, data, options, error, match):
    with pytest.raises(error, match=match):
        run("clicks", data, "--model", "tiny", *options)
    assert loads == []


def test_an_unknown_model_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.setenv("FRETSAW_HOME", str(tmp_path / "home"))
    with pytest.raises(ModelError, match="sam2-hiera-tiny"):
        run("clicks", data, "--model", "sam2-hiera-tine")
