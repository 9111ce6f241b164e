"""Places that fill up, refuse to be written, or are written by two: a command says so in one line, and keeps what was finished."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from kills import COMMANDS, COUNT, finish, photos, start, visible, wait_for_half, wait_for_owner

import fretsaw
from fretsaw import cli
from fretsaw.images import read_mask, write_image


def mount(*arguments: object) -> None:
    """Mount, or skip the test where that is not allowed."""
    if os.name != "posix" or sys.platform != "linux" or shutil.which("mount") is None:
        pytest.skip("needs mount, which is Linux's")
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"may not mount: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 64 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", place)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture
def read_only(tmp_path) -> Iterator[Path]:
    """A folder that nobody can write, root included."""
    place = tmp_path / "fixed"
    place.mkdir()
    if os.geteuid() != 0:
        place.chmod(0o555)
        yield place
        place.chmod(0o755)
        return
    mount("-t", "tmpfs", "-o", "size=64k,ro", "tmpfs", place)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def larger(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)


def test_a_full_disk_stops_a_run_early_and_the_next_one_goes_on(small_disk, tmp_path):
    photos(tmp_path / "in")
    noise = np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    for path in (tmp_path / "in" / "images").iterdir():
        write_image(path, noise)
    arguments = ["auto", tmp_path / "in" / "images", "-o", small_disk / "out", "--format", "cutout"]
    status, out, err = finish(start(*arguments))
    assert status == 1
    assert "stopped: No space left on device; what was finished is kept" in err
    assert "1 failed" in out
    assert "not tried" in out
    done = visible(small_disk / "out")
    assert 0 < len(done) < COUNT - 2
    for name in done:
        assert read_mask(small_disk / "out" / name).shape == (80, 90)
    larger(small_disk)
    status, out, _ = finish(start(*arguments))
    assert (status, f"{COUNT - len(done)} written, {len(done)} skipped" in out) == (0, True)
    assert {name: content for name, content in visible(small_disk / "out").items() if name in done} == done


@pytest.mark.parametrize("name", ["evaluate", "train", "convert"])
def test_a_full_disk_ends_other_commands_in_one_line_and_they_go_on(small_disk, tmp_path, name):
    command = COMMANDS[name]
    command.prepare(tmp_path / "in")
    (small_disk / "full").write_bytes(bytes({"evaluate": 60, "train": 56, "convert": 40}[name] * 1024))
    status, _, err = finish(command.start(tmp_path / "in", small_disk / "out"))
    assert status == 1, err
    assert "Traceback" not in err
    assert "No space left on device" in err or "checkpoint before it is kept" in err
    larger(small_disk)
    (small_disk / "full").unlink()
    status, _, err = finish(command.start(tmp_path / "in", small_disk / "out"))
    assert status == 0, err


@pytest.mark.parametrize(
    "arguments",
    [
        ["auto", "in/images", "-o", "fixed"],
        ["auto", "in/images", "-o", "fixed/new/folder"],
        ["auto", "in/images", "-o", "fixed/all.json", "--format", "coco"],
        ["click", "in/images/00.png", "-p", "3,3", "-o", "fixed/x.png"],
        ["semantic", "in/images", "--model", "m", "-o", "fixed"],
        ["text", "in/images", "cat", "-o", "fixed", "--format", "masks"],
        ["evaluate", "auto", "in", "--model", "pmg-tiny", "--report", "fixed/r.json"],
        ["train", "pseudo_masks", "--set", "photos=in/images", "--set", "out=fixed/run"],
        ["convert", "all.json", "-o", "fixed/out", "--to", "png"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_folder_that_cannot_be_written_is_refused_before_the_model_is_loaded(read_only, tmp_path, monkeypatch, capsys, arguments):
    from fretsaw.evaluation import adapters

    def load(*arguments, **options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(fretsaw, "load", load, raising=False)
    monkeypatch.setattr(adapters, "load_segmenter", load)
    monkeypatch.setattr(adapters, "weights_checksum", lambda name: "0" * 64)
    photos(tmp_path / "in")
    (tmp_path / "all.json").write_text('{"images": [{"id": 1, "file_name": "a", "height": 9, "width": 9}], "annotations": [], "categories": []}')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    said = capsys.readouterr().err
    assert stop.value.code == 1
    assert said.startswith("fretsaw: ")
    assert said.count("\n") == 1
    assert "fixed" in said
    assert list(read_only.iterdir()) == []


def test_64_descriptors_are_enough_for_a_long_run(tmp_path):
    photos(tmp_path / "in")
    more = [tmp_path / "in" / "images" / f"{number:02}.png" for number in range(COUNT)]
    for number in range(COUNT, 90):
        shutil.copy(more[number % COUNT], tmp_path / "in" / "images" / f"{number:02}.png")
    status, out, err = finish(start("auto", tmp_path / "in" / "images", "-o", tmp_path / "out", QUICK_DESCRIPTORS=64))
    assert status == 0, err
    assert "90 written" in out


def test_two_runs_into_one_folder_of_masks_leave_what_one_leaves(tmp_path):
    """Each file is written in one piece, so two runs that share the work, or do it twice, cannot harm each other."""
    photos(tmp_path / "in")
    children = [start("auto", tmp_path / "in" / "images", "-o", tmp_path / "out") for _ in range(2)]
    assert [finish(child)[0] for child in children] == [0, 0]
    assert len(visible(tmp_path / "out")) == COUNT
    for path in (tmp_path / "out").glob("*.png"):
        assert np.array_equal(read_mask(path), read_mask(tmp_path / "in" / "masks" / path.name))


@pytest.mark.parametrize("name", ["auto, one file", "evaluate", "train", "convert"])
def test_a_second_writer_of_one_place_is_refused_and_told_who_the_first_is(tmp_path, name):
    command, place = COMMANDS[name], tmp_path / "results" / "out"
    command.prepare(tmp_path / "in")
    first = command.start(tmp_path / "in", place)
    if command.total:
        wait_for_half(command, place, first)
    else:
        wait_for_owner(tmp_path, first)
    first.send_signal(signal.SIGSTOP)  # it holds the place, however slow this machine is
    status, _, err = finish(command.start(tmp_path / "in", place))
    first.send_signal(signal.SIGCONT)
    assert status == 1
    assert f"(process {first.pid} on " in err
    assert err.count("\n") == 1
    found, _, err = finish(first)
    assert found == 0, err
    if name == "auto, one file":
        content = json.loads(place.with_suffix(".json").read_text())
        assert len(content["images"]) == len(content["annotations"]) == COUNT
