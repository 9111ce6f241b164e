"""`evaluate`, `train` and `convert`: a place or a model that does not fit is refused before work; what is read is never written over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fretsaw.recipes.pseudo_masks.run as pseudo_masks
import fretsaw.recipes.sam_ref.run as sam_ref
from fretsaw import api, cli
from fretsaw.api import Segmenter
from fretsaw.catalog import Parts
from fretsaw.cli.train import check_folder
from fretsaw.errors import ConfigError, OutputError
from fretsaw.evaluation import adapters
from fretsaw.evaluation.semantic import PRESETS, require_classes
from fretsaw.images import write_image, write_mask
from fretsaw.ownership import own
from fretsaw.segmentation import LabelMap, Segmentation
from tiny import tiny_sam2


class Classes:
    """A semantic mode over two classes that it names."""

    names = ("background", "cat")

    def __call__(self, image) -> LabelMap:
        return LabelMap(np.zeros(image.shape[:2], np.int64), self.names, image=image)


@pytest.fixture
def loads(monkeypatch, tmp_path) -> list[dict]:
    """Replace the model by one whose modes its name says; returns the arguments of every load."""
    calls: list[dict] = []

    def load(name=None, **options):
        calls.append({"name": name, **options})
        cut = None if "clicks-only" in str(name) else lambda image, *rest: Segmentation(image[..., 0].astype(np.float32) - 120, 0.9, image=image)
        return Segmenter(str(name), Parts(clicks=tiny_sam2(64), automatic=cut, semantic=Classes() if "classes" in str(name) else None))

    monkeypatch.setattr(api, "load", load)
    monkeypatch.setattr(adapters, "weights_checksum", lambda name: "0" * 64)
    monkeypatch.setenv("FRETSAW_HOME", str(tmp_path / "home"))
    return calls


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    root = tmp_path / "data"
    for i in range(2):
        image = np.full((40, 50, 3), 20, np.uint8)
        image[8 : 20 + i, 10:40, 0] = 220
        write_image(root / "images" / f"{i}.png", image)
        write_mask(root / "masks" / f"{i}.png", image[..., 0] > 100)
    (tmp_path / "list.txt").write_text("0\n1\n")
    for name in ("clicks-only.safetensors", "classes.safetensors"):
        (tmp_path / name).write_bytes(b"weights")
    (tmp_path / "soft.png").symlink_to("data/images/0.png")
    os.link(root / "masks" / "1.png", tmp_path / "hard.png")
    square = [[2, 2, 9, 2, 9, 8, 2, 8]]
    annotations = [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": square, "bbox": [2, 2, 7, 6], "area": 42, "iscrowd": 0}]
    content = {"images": [{"id": 1, "file_name": "0.png", "height": 40, "width": 50}], "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    return root


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and "home" not in path.parts}


REFUSED = {
    "report over a photo": (["auto", "data", "--report", "data/images/0.png"], "no input"),
    "report over a photo, by a link": (["auto", "data", "--report", "soft.png"], "which is the input data/images/0.png"),
    "report over a mask, by a hard link": (["auto", "data", "--report", "hard.png"], "which is the input data/masks/1.png"),
    "report over the list": (["auto", "data", "--split", "list.txt", "--report", "list.txt"], "no input"),
    "report over the model": (["auto", "data", "--model", "classes.safetensors", "--report", "classes.safetensors"], "no input"),
    "report over the annotations": (["instances", "annotations.json", "--images", "data/images", "--report", "annotations.json"], "no input"),
    "predictions over the annotations": (["instances", "annotations.json", "--images", "data/images", "--predictions", "annotations.json"], "no input"),
    "picture into the photos": (["auto", "data", "--plot", "data/images/new.png"], "outside the folders that are read"),
    "masks over the masks": (["auto", "data", "--save-masks", "data/masks"], "outside the folders that are read"),
    "masks into the data set": (["clicks", "data", "--save-masks", "data/made"], "outside the folders that are read"),
    "masks around the data set": (["auto", "data", "--save-masks", "."], "holds nothing that is read"),
    "two results in one file": (["auto", "data", "--report", "x.png", "--plot", "x.png"], "a file of its own"),
    "report into a folder": (["auto", "data", "--report", "data"], "got the folder"),
    "report to standard output": (["auto", "data", "--report", "-"], "got '-'"),
    "report below a file": (["auto", "data", "--report", "list.txt/r.json"], "got the file"),
    "no automatic mode": (["auto", "missing", "--model", "maskclip"], "expected a model with an automatic mode, got maskclip, which offers text"),
    "no clicks": (["clicks", "missing", "--model", "maskclip"], "expected a model with clicks, got maskclip"),
    "no text mode": (["semantic", "missing", "--model", "sam2-hiera-tiny", "--protocol", "voc21"], "expected a model with a text mode"),
    "no instances": (["instances", "missing.json", "--model", "maskclip"], "expected a model with an automatic mode"),
    "a network by itself": (["auto", "missing", "--model", "u2netp"], "got u2netp, which offers backbone"),
    "a file without the mode": (["auto", "missing", "--model", "clicks-only.safetensors"], "which offers click"),
    "a file without classes": (["semantic", "missing", "--mode", "semantic", "--model", "clicks-only.safetensors", "--protocol", "voc21"], "semantic mode"),
    "other classes": (
        ["semantic", "missing", "--mode", "semantic", "--model", "classes.safetensors", "--protocol", "voc21"],
        "expected a model with the 21 classes of voc21, got one with 2: it lacks aeroplane, bicycle, bird, boat, bottle and others",
    ),
    "an unknown mode": (["semantic", "missing", "--mode", "words", "--model", "s2clip", "--protocol", "voc21"], "expected --mode out of text, semantic"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_measurement_that_does_not_fit_is_refused_before_its_first_image(loads, data, tmp_path, monkeypatch, capsys, case):
    arguments, message = REFUSED[case]
    monkeypatch.setattr("fretsaw.evaluation.curves.require_matplotlib", lambda: None)
    monkeypatch.setattr("fretsaw.images.read_image", lambda *arguments: pytest.fail("an image was read"))
    before = contents(tmp_path)
    model = [] if "--model" in arguments else ["--model", "tiny"]
    assert run("evaluate", *arguments, *model, "--workers", "1") == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("fretsaw: ")
    assert said.count("\n") == 1
    assert contents(tmp_path) == before


def test_classes_are_the_same_in_any_order():
    names = PRESETS["voc21"].names
    require_classes(names[::-1], PRESETS["voc21"])
    with pytest.raises(ConfigError, match="got one with 22: it has unicorn"):
        require_classes((*names, "unicorn"), PRESETS["voc21"])


def test_a_report_can_be_written_again_and_its_journal_goes_after_it(loads, data):
    for _ in range(2):
        assert run("evaluate", "auto", "data", "--model", "tiny", "--workers", "1", "--report", "data/r.json") == 0
    assert not list(data.glob(".*"))
    assert not list(data.glob("*.journal"))


def test_what_was_measured_is_kept_until_the_report_is_stored(loads, data, monkeypatch, capsys):
    """A kill between the last sample and the report costs nothing."""
    from fretsaw.evaluation.report import Report

    save = Report.save
    monkeypatch.setattr(Report, "save", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt()))
    assert run("evaluate", "auto", "data", "--model", "tiny", "--workers", "1", "--report", "r.json") == 130
    monkeypatch.setattr(Report, "save", save)
    assert run("evaluate", "auto", "data", "--model", "tiny", "--workers", "1", "--report", "r.json") == 0
    assert "going on with an interrupted run: 2 of 2 samples are done" in capsys.readouterr().err


def test_two_measurements_into_one_report_are_refused(loads, data, capsys):
    with own("r.json.journal", "another evaluation"):
        assert run("evaluate", "auto", "data", "--model", "tiny", "--workers", "1", "--report", "r.json") == 1
    assert f"another evaluation (process {os.getpid()} on " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "start", "message"),
    [
        ("data/images", "", "outside the folders that are read"),
        ("data/images/run", "", "outside the folders that are read"),
        ("data/images/../images", "", "outside the folders that are read"),
        (".", "", "holds no weights"),
        ("list.txt/run", "", "got the file"),
    ],
)
def test_a_training_run_does_not_write_among_what_it_reads(data, out, start, message):
    config = pseudo_masks.Config(photos="data/images,data/masks", out=out, model="clicks-only.safetensors")
    with pytest.raises(OutputError, match=message):
        check_folder(config, Path(out))


@pytest.mark.parametrize("place", ["data", "folder:data", "folder:data@5", "other,hqseg44k-train:data@12", "data@3"])
@pytest.mark.parametrize("setting", ["train", "val"])
def test_a_training_run_does_not_write_among_places_with_a_layout_or_a_number_of_photos(data, setting, place):
    with pytest.raises(OutputError, match="outside the folders that are read"):
        check_folder(sam_ref.Config(out="data/run", **{setting: place}), Path("data/run"))


def test_a_training_run_beside_its_photos_is_fine(data):
    check_folder(pseudo_masks.Config(photos="data/images", out="data/run"), Path("data/run"))
    check_folder(pseudo_masks.Config(photos="data/images", out="runs/a", model="classes.safetensors"), Path("runs/a"))


def test_a_second_training_run_in_one_folder_is_refused_and_told_who_the_first_is(data, monkeypatch, capsys):
    monkeypatch.setattr(pseudo_masks, "run", lambda config, watcher: pytest.fail("it ran"))
    Path("run").mkdir()
    with own("run", "the training run 'pseudo_masks'"):
        assert run("train", "pseudo_masks", "--set", "photos=data/images", "--set", "out=run") == 1
    assert f"the training run 'pseudo_masks' (process {os.getpid()} on " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["labelme", "-o", "labelme", "--to", "coco", "--overwrite"], "outside the folders that are read"),
        (["labelme", "-o", "labelme/new", "--to", "labelme"], "outside the folders that are read"),
        (["labelme", "-o", "way", "--to", "coco", "--overwrite"], "outside the folders that are read"),
        (["annotations.json", "-o", ".", "--to", "coco", "--overwrite"], "no input"),
        (["annotations.json", "-o", "data/images", "--images", "data/images", "--to", "png", "--overwrite"], "outside the folders that are read"),
        (["annotations.json", "-o", "list.txt", "--to", "coco"], "got the file"),
        (["annotations.json", "-o", "-", "--to", "coco"], "got '-'"),
        (["annotations.json", "-o", "data", "--to", "coco"], "--overwrite writes into it"),
    ],
)
def test_a_conversion_does_not_write_over_what_it_reads(data, tmp_path, capsys, arguments, message):
    assert run("convert", "annotations.json", "-o", "labelme", "--to", "labelme") == 0
    Path("way").symlink_to("labelme")
    capsys.readouterr()
    before = contents(tmp_path)
    assert run("convert", *arguments) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert contents(tmp_path) == before


def test_a_second_conversion_into_one_folder_is_refused(data, capsys):
    Path("out").mkdir()
    with own("out", "a conversion"):
        assert run("convert", "annotations.json", "-o", "out", "--to", "png") == 1
    assert f"a conversion (process {os.getpid()} on " in capsys.readouterr().err


def test_a_broken_file_among_others_does_not_end_a_conversion(data, capsys):
    assert run("convert", "annotations.json", "-o", "labelme", "--to", "labelme") == 0
    [good] = Path("labelme").rglob("*.json")
    good.with_name("bad.json").write_text('{"shapes": [], "imagePath": "x", ' + "[" * 10)
    capsys.readouterr()
    assert run("convert", "labelme", "-o", "out", "--to", "coco", "--json") == 1
    said = capsys.readouterr()
    facts = json.loads(said.out)
    assert facts["pictures"] == 1
    assert [failure["file"] for failure in facts["failures"]] == [good.with_name("bad.json").relative_to("labelme").as_posix()]
    assert "bad.json" in said.err


def test_refusals_load_no_torch(tmp_path):
    """Whatever can be refused is refused within a moment."""
    write_image(tmp_path / "photos" / "a.png", np.zeros((9, 9, 3), np.uint8))
    commands = [
        ["auto", "photos", "-o", "photos"],
        ["auto", "photos/a.png", "-o", "x.avif"],
        ["auto", "photos/a.png", "-o", "-", "--json"],
        ["auto", "photos/a.png", "-o", "x.jpg", "--format", "cutout"],
        ["auto", "photos", "-o", "out", "--model", "maskclip"],
        ["click", "photos/a.png", "-p", "1,1", "-o", "photos/a.png", "--overwrite"],
        ["semantic", "photos", "--model", "sam2-hiera-tiny", "-o", "out"],
        ["text", "photos", "cat", "-o", "photos"],
        ["convert", "photos", "-o", "photos", "--to", "coco"],
    ]
    code = (
        f"import sys\nfrom fretsaw import cli\nfor command in {commands!r}:\n    try:\n        cli.main(command)\n"
        "    except SystemExit as stop:\n        assert stop.code == 1, command\n    else:\n        raise AssertionError(command)\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"
    assert done.stderr.count("\n") == len(commands)
