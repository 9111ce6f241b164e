"""A run over many images keeps what was finished, whatever happens to one of them; what can be refused is refused before a model is loaded."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fretsaw
from fretsaw import cli
from fretsaw.api import Segmenter
from fretsaw.catalog import Parts
from fretsaw.cli.interrupts import Terminated
from fretsaw.coco_file import CocoFile
from fretsaw.errors import BusyError, OutputError
from fretsaw.images import write_image, write_mask
from fretsaw.outputs import lasting_failure
from fretsaw.ownership import own
from fretsaw.segmentation import LabelMap, Segmentation
from tiny import tiny_sam2


class Cut:
    """An automatic cut that anybody can predict, and that fails where it is told to."""

    def __init__(self) -> None:
        self.failures: dict[int, BaseException] = {}
        self.calls = 0

    def __call__(self, image, embedding, frame) -> Segmentation:
        self.calls += 1
        if self.calls in self.failures:
            raise self.failures[self.calls]
        return Segmentation(image.mean(2).astype(np.float32) - 127.5, 0.9, image=image)


def halves(image, names=("left", "right"), *rest) -> LabelMap:
    labels = np.zeros(image.shape[:2], np.int64)
    labels[:, image.shape[1] // 2 :] = 1
    return LabelMap(labels, tuple(names), image=image)


@pytest.fixture
def cut() -> Cut:
    return Cut()


@pytest.fixture
def loads(monkeypatch, cut) -> list[dict]:
    """Replace the model by a tiny one that has every mode; returns the arguments of every load."""
    calls: list[dict] = []
    parts = Parts(clicks=tiny_sam2(64), automatic=cut, semantic=halves, text=halves)

    def load(name=None, **options):
        calls.append({"name": name, **options})
        return Segmenter(str(name), parts)

    monkeypatch.setattr(fretsaw, "load", load, raising=False)
    return calls


@pytest.fixture
def photos(tmp_path) -> Path:
    for i, name in enumerate(("a.png", "b.png", "c.png", "d.png", "deep/e.png")):
        image = np.zeros((30, 40, 3), np.uint8)
        image[5:20, 10 : 20 + i] = 255
        write_image(tmp_path / "photos" / name, image)
    return tmp_path / "photos"


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("format", ["mask", "coco"])
@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB\nGPU 0 has ..."),
        MemoryError(),
        OSError(errno.EIO, "Input/output error"),
        RecursionError("maximum recursion depth exceeded"),
        AssertionError(),
        ValueError("a defect"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_any_failure_of_one_image_is_that_images(loads, cut, photos, tmp_path, capsys, failure, format):
    cut.failures[2] = failure
    out = tmp_path / ("out" if format == "mask" else "all.json")
    assert run("auto", photos, "-o", out, "--format", format, "--json") == 1
    records = json.loads(capsys.readouterr().out)
    assert [Path(record["input"]).name for record in records if "error" in record] == ["b.png"]
    assert type(failure).__name__ in records[1]["error"]
    assert "\n" not in records[1]["error"]
    assert len(records) == 4
    # The next run does what failed, and only that.
    assert run("auto", photos, "-o", out, "--format", format) == 0
    assert "1 written, 3 skipped" in capsys.readouterr().out
    assert cut.calls == 5


def test_a_summary_is_printed_after_a_failure_that_nobody_foresaw(loads, cut, photos, tmp_path, capsys):
    cut.failures[2] = RuntimeError("CUDA out of memory")
    assert run("auto", photos, "-o", tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "3 written, 0 skipped (they exist; --overwrite writes them again), 1 failed" in said.out
    assert f"fretsaw: {photos / 'b.png'}: RuntimeError: CUDA out of memory (at test_cli_batch.py:" in said.err
    assert "Traceback" not in said.err


def test_a_failure_that_the_next_image_would_meet_too_stops_the_run_and_keeps_what_was_finished(loads, photos, tmp_path, capsys, monkeypatch):
    replace, calls = os.replace, []

    def full(old, new):
        calls.append(new)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(old, new)

    monkeypatch.setattr(os, "replace", full)
    assert run("auto", photos, "-o", tmp_path / "out", "--json") == 1
    said = capsys.readouterr()
    assert ["error" in record for record in json.loads(said.out)] == [False, False, True]
    assert "fretsaw: stopped: No space left on device; what was finished is kept" in said.err
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["a.png", "b.png"]
    monkeypatch.setattr(os, "replace", replace)
    assert run("auto", photos, "-o", tmp_path / "out") == 0
    assert "2 written, 2 skipped" in capsys.readouterr().out


def test_a_lasting_failure_is_found_behind_others():
    outer = OutputError("x")
    outer.__cause__ = OSError(errno.EDQUOT, "Disk quota exceeded")
    assert lasting_failure(outer).errno == errno.EDQUOT
    assert lasting_failure(OSError(errno.EIO, "x")) is None


@pytest.mark.parametrize(("failure", "status"), [(KeyboardInterrupt(), 130), (Terminated(), 143)])
@pytest.mark.parametrize("format", ["mask", "coco"])
def test_an_interrupted_run_keeps_and_reports_what_was_finished(loads, cut, photos, tmp_path, capsys, failure, status, format):
    cut.failures[3] = failure
    out = tmp_path / ("out" if format == "mask" else "all.json")
    assert run("auto", photos, "-o", out, "--format", format, "--json") == status
    said = capsys.readouterr()
    assert said.err == "fretsaw: interrupted; what was finished is kept\n"
    assert [Path(record["input"]).name for record in json.loads(said.out)] == ["a.png", "b.png"]
    assert run("auto", photos, "-o", out, "--format", format) == 0
    assert "2 written, 2 skipped" in capsys.readouterr().out


def test_an_interrupt_outside_the_list_of_images_ends_in_the_same_words(photos, tmp_path, capsys, monkeypatch):
    def load(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(fretsaw, "load", load, raising=False)
    assert run("auto", photos, "-o", tmp_path / "out") == 130
    assert capsys.readouterr().err == "fretsaw: interrupted; what was finished is kept\n"


def test_what_the_system_refuses_ends_in_one_line(photos, tmp_path, capsys, monkeypatch):
    def load(*arguments, **options):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(fretsaw, "load", load, raising=False)
    assert run("auto", photos, "-o", tmp_path / "out") == 1
    assert capsys.readouterr().err.startswith("fretsaw: OSError: [Errno 24] Too many open files (at ")


BEFORE_WORK = {
    "auto onto its folder": ["auto", "photos", "-o", "photos", "--overwrite"],
    "auto onto itself": ["auto", "photos/a.png", "-o", "photos/a.png", "--overwrite"],
    "auto into its folder, by a link": ["auto", "photos", "-o", "way"],
    "auto over a link": ["auto", "photos/a.png", "-o", "soft.png", "--overwrite"],
    "auto over a hard link": ["auto", "photos/a.png", "-o", "hard.png", "--overwrite"],
    "auto over a photo of its list": ["auto", "photos/a.png", "photos/b.png", "-o", "photos", "--overwrite"],
    "auto, all in one file, over a photo": ["auto", "photos/a.png", "all.json", "-o", "all.json", "--format", "coco", "--overwrite"],
    "auto, all in one file, twice one name": ["auto", "photos/a.png", "photos/deep/../a.png", "-o", "x.json", "--format", "coco"],
    "auto over its model": ["auto", "photos/a.png", "--model", "hard.png", "-o", "hard.png", "--overwrite"],
    "click over its mask": ["click", "photos/a.png", "--mask", "mask.png", "-o", "mask.png", "--overwrite"],
    "click over its photo": ["click", "photos/a.png", "-p", "3,3", "-o", "soft.png", "--overwrite"],
    "click over its refiner": ["click", "photos/a.png", "-p", "3,3", "--refiner", "mask.png", "-o", "mask.png", "--overwrite"],
    "click with a broken mask": ["click", "photos/a.png", "--mask", "all.json", "-o", "x.png"],
    "click on a folder": ["click", "photos", "-p", "3,3", "-o", "x"],
    "text over its photo": ["text", "photos/a.png", "cat", "-o", "photos/a.png", "--overwrite"],
    "text into its folder": ["text", "photos", "cat", "-o", "photos", "--format", "overlay"],
    "text, masks with one file's name": ["text", "photos/a.png", "a/b", "a:b", "-o", "x", "--format", "masks"],
    "text, masks into a file": ["text", "photos/a.png", "cat", "-o", "x.png", "--format", "masks"],
    "text over a network": ["text", "photos/a.png", "cat", "--with", "sam=mask.png", "-o", "mask.png", "--overwrite"],
    "semantic over its photo": ["semantic", "photos/a.png", "--model", "m", "-o", "photos/a.png", "--overwrite"],
    "semantic, the overlay over a photo": ["semantic", "photos/a.png", "photos/a.overlay.png", "--model", "m", "-o", "new", "--format", "all"],
    "cutout as JPEG": ["auto", "photos/a.png", "-o", "x.jpg", "--format", "cutout"],
    "cutout as BMP": ["auto", "photos/a.png", "-o", "x.bmp", "--format", "cutout"],
    "mask as JPEG": ["auto", "photos/a.png", "-o", "x.jpeg"],
    "JSON as PNG": ["auto", "photos/a.png", "-o", "x.png", "--format", "json"],
    "labels as WebP": ["semantic", "photos/a.png", "--model", "m", "-o", "x.webp"],
    "an unknown suffix": ["auto", "photos/a.png", "-o", "x.avif"],
    "a file for many": ["auto", "photos", "-o", "x.png"],
    "standard output for many": ["auto", "photos", "-o", "-"],
    "standard output for a folder of files": ["text", "photos/a.png", "cat", "-o", "-", "--format", "masks"],
    "a file in the way": ["auto", "photos", "-o", "mask.png/out"],
    "coco into a folder": ["auto", "photos", "-o", "folder.json", "--format", "coco"],
    "coco onto something else": ["auto", "photos", "-o", "all.json", "--format", "coco"],
    "a model without the mode": ["auto", "photos", "-o", "out", "--model", "maskclip"],
    "a model without classes": ["semantic", "photos", "-o", "out", "--model", "sam2-hiera-tiny"],
}


@pytest.mark.parametrize("case", BEFORE_WORK)
def test_what_can_be_refused_is_refused_before_the_model_is_loaded(loads, photos, tmp_path, monkeypatch, capsys, case):
    monkeypatch.chdir(tmp_path)
    Path("way").symlink_to("photos")
    Path("soft.png").symlink_to("photos/a.png")
    os.link("photos/a.png", "hard.png")
    write_mask("mask.png", np.ones((30, 40), bool))
    write_image("photos/a.overlay.png", np.zeros((8, 8, 3), np.uint8))
    Path("all.json").write_text('{"not": "coco"}')
    Path("folder.json").mkdir()
    before = contents(tmp_path)
    assert run(*BEFORE_WORK[case]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("fretsaw: ")
    assert said.err.count("\n") == 1
    assert "expected" in said.err
    assert loads == []
    assert contents(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "way", "soft.png", "hard.png", "mask.png", "all.json", "folder.json"}


def test_results_below_the_photos_are_no_inputs_of_the_next_run(loads, photos, capsys):
    before = contents(photos)
    for _ in range(2):
        assert run("auto", photos, "-o", photos / "masks", "--recursive", "--overwrite") == 0
        assert "5 written" in capsys.readouterr().out
    assert run("auto", photos, "-o", photos / "masks", "--recursive") == 0
    said = capsys.readouterr()
    assert "0 written, 5 skipped" in said.out
    assert f"{photos / 'masks'} is left out of the search: the results go there" in said.err
    assert sorted(path for path in contents(photos) if path not in before) == sorted(f"masks/{name}" for name in before)
    assert {path: content for path, content in contents(photos).items() if path in before} == before


def test_a_folder_of_masks_that_a_kill_cut_short_is_finished(loads, photos, tmp_path, capsys):
    arguments = ["text", photos / "a.png", "cat", "dog", "-o", tmp_path / "out", "--format", "masks"]
    assert run(*arguments) == 0
    whole = contents(tmp_path / "out")
    assert set(whole) == {"a/cat.png", "a/dog.png"}
    (tmp_path / "out" / "a" / "dog.png").unlink()
    assert run(*arguments) == 0
    assert contents(tmp_path / "out") == whole


def test_a_loaded_model_without_the_mode_is_refused_once_and_not_for_every_image(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fretsaw, "load", lambda name=None, **options: Segmenter("mine", Parts(clicks=tiny_sam2(64))), raising=False)
    assert run("semantic", photos, "--model", "mine", "-o", tmp_path / "out") == 1
    assert capsys.readouterr().err == "fretsaw: expected a model with a semantic mode, got mine, which offers click\n"


# One file for all images


def result(width: int = 5) -> Segmentation:
    logits = np.full((10, 12), -5, np.float32)
    logits[2:6, 2 : 2 + width] = 5
    return Segmentation(logits, 0.5)


def test_a_coco_file_that_another_process_writes_is_refused_before_the_model_is_loaded(loads, photos, tmp_path, capsys):
    with own(tmp_path / "all.json", "another run"):
        assert run("auto", photos, "-o", tmp_path / "all.json", "--format", "coco") == 1
    assert f"another run (process {os.getpid()} on " in capsys.readouterr().err
    assert loads == []
    assert not (tmp_path / "all.json").exists()


def test_an_image_whose_objects_cannot_be_written_is_not_taken_for_finished(tmp_path, monkeypatch):
    with CocoFile(tmp_path / "all.json") as coco:
        coco.add("a.png", result())
        monkeypatch.setattr(Segmentation, "to_coco", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            coco.add("b.png", result())
        assert "b.png" not in coco
    content = json.loads((tmp_path / "all.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.png"]
    assert len(content["annotations"]) == 1


def test_a_file_with_categories_of_its_own_keeps_their_meaning(tmp_path):
    path = tmp_path / "all.json"
    path.write_text(json.dumps({"info": {}, "images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}))
    for name in ("a.png", "b.png"):
        with CocoFile(path) as coco:
            coco.add(name, result())
    content = json.loads(path.read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert names[1] == "cat"
    assert [names[annotation["category_id"]] for annotation in content["annotations"]] == ["object", "object"]
    assert len(names) == 2


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        "null",
        "[" * 100_000,
        '{"images": 3, "annotations": [], "categories": []}',
        '{"images": [{"id": "x", "file_name": "a"}], "annotations": [], "categories": []}',
        '{"images": [], "annotations": [{"id": 1.5}], "categories": []}',
        '{"images": [], "annotations": [], "categories": [{"name": "cat"}]}',
        "\x00",
    ],
    ids=range(9),
)
def test_a_file_that_is_no_coco_is_refused_and_kept(tmp_path, content):
    path = tmp_path / "all.json"
    path.write_text(content)
    with pytest.raises(OutputError, match="expected COCO JSON in the existing file"), CocoFile(path):
        pass
    assert path.read_text() == content
    assert [file.name for file in tmp_path.iterdir()] == ["all.json"]
    with CocoFile(path, overwrite=True) as coco:
        coco.add("a.png", result())
    assert len(json.loads(path.read_text())["images"]) == 1


def test_a_run_that_breaks_off_before_its_first_image_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "all.json"
    with CocoFile(path) as coco:
        coco.add("a.png", result())
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), CocoFile(path, overwrite=True):
        raise ZeroDivisionError
    assert path.read_bytes() == before
    with pytest.raises(BusyError), CocoFile(path), CocoFile(path):
        pass


def test_a_killed_run_leaves_a_journal_from_which_the_next_goes_on(tmp_path):
    path = tmp_path / "all.json"
    with CocoFile(tmp_path / "undisturbed.json") as coco:
        for name in "abcd":
            coco.add(name, result())
    killed = CocoFile(path)
    killed.__enter__()
    for name in "abc":
        killed.add(name, result())
    assert not path.exists()  # it is written once, at the end
    killed._file.close()
    killed._held.close()
    content = killed.journal.read_bytes()
    killed.journal.write_bytes(content[:-7])  # the last line was cut short
    with CocoFile(path) as coco:
        assert ["a" in coco, "b" in coco, "c" in coco] == [True, True, False]
        coco.add("c", result())
        coco.add("d", result())
    assert json.loads(path.read_text()) == json.loads((tmp_path / "undisturbed.json").read_text())
    assert not killed.journal.exists()
    # One that was killed after it wrote the file and before the journal was gone adds nothing twice.
    killed.journal.write_bytes(content)
    with CocoFile(path):
        pass
    with CocoFile(path) as coco:
        coco.add("e", result())
    again = json.loads(path.read_text())
    assert [row["file_name"] for row in again["images"]] == list("abcde")
    assert [row["id"] for row in again["annotations"]] == [1, 2, 3, 4, 5]
    killed.journal.write_text("something else")
    with pytest.raises(OutputError, match=r"all\.json\.journal: expected the journal of an interrupted run, got something else"), CocoFile(path):
        pass
    with CocoFile(path, overwrite=True):
        pass
    assert json.loads(path.read_text())["images"] == []


def test_adding_an_image_costs_the_same_however_many_there_are(tmp_path):
    """Nothing is passed over again: the time of an addition, and what is written by it, do not grow."""
    with CocoFile(tmp_path / "all.json") as coco:
        sizes = []
        for number in range(3000):
            before = coco.journal.stat().st_size if coco.journal.exists() else 0
            coco.add(f"{number:06}", result())
            sizes.append(coco.journal.stat().st_size - before)
            assert not (tmp_path / "all.json").exists()
    assert len(set(sizes[1:])) == 1
    assert len(json.loads((tmp_path / "all.json").read_text())["images"]) == 3000


def test_pictures_of_the_batch_are_what_the_formats_say(loads, photos, tmp_path):
    for format in ("mask", "cutout", "overlay"):
        for suffix in cli.FORMATS[format]:
            assert run("auto", photos / "a.png", "-o", tmp_path / f"{format}{suffix}", "--format", format) == 0
            with Image.open(tmp_path / f"{format}{suffix}") as picture:
                assert picture.size == (40, 30)
