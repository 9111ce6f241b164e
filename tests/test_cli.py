"""The command line as people and scripts use it: outputs, exit status, one bad file among good ones, machine-readable output."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fretsaw
from fretsaw import cli
from fretsaw.api import Segmenter
from fretsaw.catalog import Parts
from fretsaw.errors import ImageError
from fretsaw.masks import decode_rle
from fretsaw.segmentation import Segmentation
from hostile import make_hostile
from tiny import tiny_sam2


def bright_is_object(image, embedding, frame) -> Segmentation:
    """An automatic cut that anybody can predict."""
    return Segmentation(image.mean(2).astype(np.float32) - 127.5, 0.9, image=image)


@pytest.fixture
def loads(monkeypatch) -> list[dict]:
    """Replace the model by a tiny one; returns the arguments of every `load`."""
    calls: list[dict] = []
    parts = Parts(clicks=tiny_sam2(128), automatic=bright_is_object)

    def load(name=None, **options):
        calls.append({"name": name, **options})
        return Segmenter(name or "tiny", parts)

    monkeypatch.setattr(fretsaw, "load", load, raising=False)
    return calls


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.jpg", "deep/c.png")):
        image = np.zeros((30, 40, 3), np.uint8)
        image[5:20, 10 : 20 + i] = 255
        Image.fromarray(image).save(folder / name)
    return folder


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def test_auto_writes_a_mask_of_0_and_255(loads, photos, tmp_path):
    assert run("auto", photos / "a.png", "-o", tmp_path / "cut.png") == 0
    mask = np.array(Image.open(tmp_path / "cut.png"))
    assert mask.shape == (30, 40)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 255}
    assert (mask[5:20, 10:20] == 255).all()


def test_auto_on_a_folder_keeps_the_tree_and_skips_what_exists(loads, photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("auto", photos, "-o", out, "--recursive") == 0
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*.png")) == ["a.png", "b.png", "deep/c.png"]
    times = {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}
    capsys.readouterr()
    assert run("auto", photos, "-o", out, "--recursive") == 0
    assert "0 written, 3 skipped" in capsys.readouterr().out
    assert times == {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}
    assert len(loads) == 1  # nothing to do: the model is not even loaded
    assert run("auto", photos, "-o", out, "--recursive", "--overwrite") == 0
    assert all(p.stat().st_mtime_ns > time for p, time in times.items())


def test_one_bad_file_does_not_stop_the_rest(loads, photos, tmp_path, capsys):
    (photos / "bad.png").write_bytes(b"this is no picture")
    assert run("auto", photos, "-o", tmp_path / "out") == 1
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    captured = capsys.readouterr()
    assert captured.err.count("bad.png") >= 1
    assert "2 written, 0 skipped" in captured.out
    assert "1 failed" in captured.out


def test_json_output_is_json_and_nothing_else(loads, photos, tmp_path, capsys):
    (photos / "bad.png").write_bytes(b"this is no picture")
    assert run("auto", photos, "-o", tmp_path / "out", "--json") == 1
    captured = capsys.readouterr()
    records = json.loads(captured.out)
    assert captured.err == ""
    assert [("error" in record, Path(record["input"]).name) for record in records] == [(False, "a.png"), (False, "b.jpg"), (True, "bad.png")]
    assert records[0]["box"] == [10, 5, 20, 20]
    assert records[0]["score"] == 0.9


@pytest.mark.parametrize(("format", "mode"), [("mask", "L"), ("cutout", "RGBA"), ("overlay", "RGB")])
def test_picture_formats(loads, photos, tmp_path, format, mode):
    assert run("auto", photos / "a.png", "-o", tmp_path / "x.png", "--format", format) == 0
    assert Image.open(tmp_path / "x.png").mode == mode


def test_coco_is_one_file_that_can_be_continued(loads, photos, tmp_path):
    out = tmp_path / "annotations.json"
    assert run("auto", photos, "-o", out, "--format", "coco") == 0
    content = json.loads(out.read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.png", "b.jpg"]
    assert decode_rle(content["annotations"][0]["segmentation"])[5:20, 10:20].all()
    assert content["annotations"][0]["bbox"] == [10, 5, 10, 15]
    assert run("auto", photos, "-o", out, "--format", "coco", "--recursive") == 0
    content = json.loads(out.read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.png", "b.jpg", "deep/c.png"]
    assert len({annotation["id"] for annotation in content["annotations"]}) == len(content["annotations"])


def test_click_takes_points_boxes_and_masks(loads, photos, tmp_path, capsys):
    assert run("click", photos / "a.png", "-p", "15,10", "-p", "12.5,8", "-n", "1,1", "--box", "8,3,22,22", "-o", tmp_path / "m.png") == 0
    assert np.array(Image.open(tmp_path / "m.png")).shape == (30, 40)
    assert capsys.readouterr().out.strip() == str(tmp_path / "m.png")
    own = np.zeros((30, 40), np.uint8)
    own[3:9, 4:7] = 255
    Image.fromarray(own).save(tmp_path / "own.png")
    assert run("click", photos / "a.png", "--mask", tmp_path / "own.png", "-o", tmp_path / "same.png") == 0
    assert np.array_equal(np.array(Image.open(tmp_path / "same.png")), own)
    lines = ("--scribble", "5,5 20,5 20,20", "--scribble-out", "1,25 35,25")
    assert run("click", photos / "a.png", *lines, "-o", tmp_path / "lines.png") == 0
    drawn = fretsaw.load().open(photos / "a.png")
    drawn.scribble([(5, 5), (20, 5), (20, 20)])
    assert np.array_equal(np.array(Image.open(tmp_path / "lines.png")) > 0, drawn.scribble([(1, 25), (35, 25)], positive=False).mask)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.png"], "expected at least one of -p, -n, --scribble, --scribble-out, --box and --mask"),
        (["-p", "1", "-o", "x.png"], "expected 2 numbers"),
        (["-p", "a,b", "-o", "x.png"], "expected 2 numbers"),
        (["--scribble", "5,5 7", "-o", "x.png"], "expected 2 numbers"),
        (["--scribble", "5,5 700,5", "-o", "x.png"], "expected a line inside the image"),
        (["--box", "1,2,3", "-o", "x.png"], "expected 4 numbers"),
        (["-p", "500,10", "-o", "x.png"], "expected a click inside the image"),
        (["-p", "1,1", "-o", "x.png", "--format", "svg"], "expected a format out of mask"),
    ],
)
def test_mistakes_end_in_one_line_and_status_1(loads, photos, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run("click", photos / "a.png", *arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not Path("x.png").exists()


def test_unknown_model_suggests_the_nearest(photos, tmp_path, capsys):
    assert run("auto", photos, "-o", tmp_path / "o", "--model", "sam2-hiera-tinny") == 1
    assert "sam2-hiera-tiny" in capsys.readouterr().err


def test_unknown_device_and_dtype_are_refused(photos, tmp_path, capsys):
    assert run("auto", photos, "-o", tmp_path / "o", "--device", "tpu") == 1
    assert "expected a device out of cpu, cuda" in capsys.readouterr().err
    assert run("auto", photos, "-o", tmp_path / "o", "--dtype", "int8") == 1
    assert "expected a dtype out of float32" in capsys.readouterr().err


def test_a_failing_write_is_an_error_of_that_file(loads, photos, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").mkdir()
    assert run("auto", photos, "-o", tmp_path / "out", "--overwrite") == 1
    assert (tmp_path / "out" / "b.png").is_file()


def test_doctor_knows_the_machine(capsys):
    assert run("doctor", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert {"fretsaw", "versions", "devices", "memory", "weights", "extras"} <= set(facts)


def test_version_is_the_packages(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == f"fretsaw {fretsaw.__version__}"


def test_help_shows_examples(capsys):
    for command in ("auto", "click", "doctor"):
        assert run(command, "--help") == 0
        assert "fretsaw " + command in capsys.readouterr().out


def test_every_hostile_file_gives_one_clear_line(loads, tmp_path, capsys):
    """Issue after issue in other tools: a traceback, or a silent black mask."""
    refused, readable = make_hostile(tmp_path / "hostile")
    files = [file for file in (*refused, *readable) if file.is_file()]
    assert len(refused) >= 25
    assert run("auto", *files, "-o", tmp_path / "out", "--json") == 1
    records = json.loads(capsys.readouterr().out)
    failed = {Path(record["input"]) for record in records if "error" in record}
    assert failed == {file for file in refused if file.is_file()}
    for record in records:
        if "error" in record:
            assert record["error"].count("\n") == 0
            assert len(record["error"]) < 400


def test_errors_are_importable_from_the_package():
    assert issubclass(ImageError, fretsaw.FretsawError)
