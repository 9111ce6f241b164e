"""Pipes, addresses, patterns and folders that are watched, on the command line and in the library."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fretsaw
from fretsaw import addresses, cli
from fretsaw.api import Segmenter
from fretsaw.catalog import Parts
from fretsaw.cli import pipes
from fretsaw.errors import ImageError
from fretsaw.images import encode_image, read_image, write_image
from fretsaw.segmentation import LabelMap, Segmentation
from tiny import tiny_sam2

PHOTO = np.zeros((30, 40, 3), np.uint8)
PHOTO[5:20, 10:25] = 255
CONTENT = encode_image(PHOTO, ".png")


def bright_is_object(image, embedding, frame) -> Segmentation:
    return Segmentation(image.mean(2).astype(np.float32) - 127.5, 0.9, image=image)


def bright_is_cat(image, names, background=None, settings=None) -> LabelMap:
    return LabelMap((image.mean(2) > 127).astype(np.int32), ("dog", "cat"), image=image)


@pytest.fixture(autouse=True)
def model(monkeypatch) -> None:
    parts = Parts(clicks=tiny_sam2(128), automatic=bright_is_object, text=bright_is_cat, semantic=lambda image: bright_is_cat(image, ()))
    monkeypatch.setattr(fretsaw, "load", lambda name=None, **options: Segmenter(name or "tiny", parts), raising=False)
    for name in ("FRETSAW_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def piped(monkeypatch):
    def pipe(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return pipe


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


# Pipes


@pytest.mark.parametrize(
    ("arguments", "mode"),
    [
        (["auto", "-", "-o", "-"], "L"),
        (["auto", "-", "-o", "-", "--format", "cutout"], "RGBA"),
        (["auto", "-", "-o", "-", "--format", "overlay"], "RGB"),
        (["click", "-", "-p", "15,10", "-o", "-"], "L"),
        (["text", "-", "cat", "dog", "-o", "-"], "P"),
        (["text", "-", "cat", "dog", "-o", "-", "--format", "overlay"], "RGB"),
        (["semantic", "-", "--model", "m", "-o", "-"], "P"),
    ],
)
def test_a_picture_goes_through_a_pipe_and_nothing_else_does(arguments, mode, piped, capsysbinary):
    piped(CONTENT)
    assert run(*arguments) == 0
    out = capsysbinary.readouterr().out
    picture = Image.open(io.BytesIO(out))
    assert (picture.format, picture.mode, picture.size) == ("PNG", mode, (40, 30))
    picture.load()
    assert out.endswith(b"IEND\xaeB`\x82")


@pytest.mark.parametrize("format", ["json", "coco"])
def test_so_does_json(format, piped, capsysbinary):
    piped(CONTENT)
    assert run("auto", "-", "-o", "-", "--format", format) == 0
    content = json.loads(capsysbinary.readouterr().out)
    assert "rle" in content or [row["file_name"] for row in content["images"]] == ["stdin"]


def test_a_pipe_to_a_file_and_a_file_to_a_pipe(piped, tmp_path, capsysbinary):
    piped(CONTENT)
    assert run("auto", "-", "-o", tmp_path / "cut.png") == 0
    assert (np.array(Image.open(tmp_path / "cut.png")) == (PHOTO[..., 0] > 127) * 255).all()
    capsysbinary.readouterr()
    (tmp_path / "in.png").write_bytes(CONTENT)
    assert run("auto", tmp_path / "in.png", "-o", "-") == 0
    assert capsysbinary.readouterr().out == (tmp_path / "cut.png").read_bytes()


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (b"", ["auto", "-", "-o", "-"], "standard input: expected an image file, got nothing"),
        (b"text", ["auto", "-", "-o", "-"], "standard input: bytes: expected an image"),
        (CONTENT[:60], ["auto", "-", "-o", "-"], "standard input: bytes: expected a whole, undamaged image"),
        (CONTENT, ["auto", "-", "-o", "-", "--json"], "expected one of --json and -o -, got both"),
        (CONTENT, ["auto", "-", "-", "-o", "masks"], "expected standard input (-) once, got it twice"),
        (CONTENT, ["text", "-", "cat", "-o", "-", "--format", "masks"], "expected a folder as -o for results of several files"),
        (CONTENT, ["semantic", "-", "--model", "m", "-o", "-", "--format", "all"], "expected a folder as -o for results of several files"),
        (CONTENT, ["auto", "-", "-o", "-", "--watch"], "expected folders to watch, got standard input"),
    ],
)
def test_what_cannot_go_through_a_pipe_is_said_on_standard_error_alone(content, arguments, message, piped, capsysbinary, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    piped(content)
    assert run(*arguments) == 1
    said = capsysbinary.readouterr()
    assert said.out == b""
    assert message in said.err.decode()
    assert list(tmp_path.iterdir()) == []


def test_several_images_do_not_fit_into_a_pipe(tmp_path, capsysbinary):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(CONTENT)
    assert run("auto", tmp_path, "-o", "-") == 1
    assert capsysbinary.readouterr().out == b""


def test_a_legend_that_does_not_fit_is_named(piped, capsysbinary):
    piped(CONTENT)
    assert run("text", "-", "cat", "-o", "-") == 0
    assert b"result.json is left out, since standard output holds one file" in capsysbinary.readouterr().err


# Frames


FRAMES = [np.roll(PHOTO, shift, 1) for shift in range(3)]
RAW = b"".join(frame.tobytes() for frame in FRAMES)


def test_raw_frames_become_numbered_files(piped, tmp_path, capsys):
    piped(RAW)
    assert run("frames", 40, 30, "-o", tmp_path / "new" / "f-%03d.png", "--json") == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 3
    for number, frame in enumerate(FRAMES):
        cut = np.array(Image.open(tmp_path / "new" / f"f-{number:03}.png"))
        assert cut.shape == (30, 40, 4)
        assert ((cut[..., 3] > 127) == (frame[..., 0] > 127)).all()
    piped(RAW)
    assert run("frames", 40, 30, "-o", tmp_path / "new" / "f-%03d.png") == 1
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(("format", "channels"), [("cutout", 4), ("mask", 1), ("overlay", 3)])
def test_raw_frames_go_on_raw(format, channels, piped, capsysbinary):
    piped(RAW)
    assert run("frames", 40, 30, "--raw", "--format", format) == 0
    made = np.frombuffer(capsysbinary.readouterr().out, np.uint8).reshape(3, 30, 40, channels)
    if format != "overlay":
        assert ((made[..., -1] > 127) == (np.stack(FRAMES)[..., 0] > 127)).all()


def test_or_as_pngs_one_after_the_other(piped, capsysbinary):
    piped(RAW)
    assert run("frames", 40, 30) == 0
    parts = capsysbinary.readouterr().out.split(b"\x89PNG")[1:]
    assert [Image.open(io.BytesIO(b"\x89PNG" + part)).size for part in parts] == [(40, 30)] * 3


def test_a_frame_that_is_cut_short_is_said(piped, capsysbinary):
    piped(RAW[:-1])
    assert run("frames", 40, 30, "--raw") == 1
    said = capsysbinary.readouterr()
    assert len(said.out) == 2 * 30 * 40 * 4
    assert b"the last frame is left out: expected 3600 bytes, got 3599" in said.err
    piped(b"")
    assert run("frames", 40, 30, "--raw") == 1
    assert b"expected frames on standard input, got nothing" in capsysbinary.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["-o", "x.png"], ["-o", "%d-%d.png"], ["-o", "%s.png"], ["-o", "%d.jpg"], ["-o", "%d.png", "--raw"], ["--format", "json"], ["--json"]],
)
def test_places_that_cannot_hold_frames_are_refused(arguments, piped, capsysbinary):
    piped(RAW)
    assert run("frames", 40, 30, *arguments) == 1
    assert capsysbinary.readouterr().err.startswith(b"fretsaw: expected ")


# Addresses


def test_an_address_is_cut_and_gives_the_result_its_name(monkeypatch, tmp_path, capsys):
    asked = []

    def fetched(address):
        asked.append((address.url, address.private))
        if "bad" in address.url:
            raise ImageError(f"{address}: expected a picture, got status 404")
        return CONTENT

    monkeypatch.setattr(addresses, "_fetched", fetched)
    urls = ["https://host/a/one.png?x=1", "https://host/bad.png", "https://host/two.jpg"]
    assert run("auto", *urls, "-o", tmp_path / "out") == 1  # one failure is that picture's
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one.png", "two.png"]
    assert asked == [(url, False) for url in urls]
    assert "https://host/bad.png: expected a picture, got status 404" in capsys.readouterr().err
    assert run("click", "http://10.0.0.1/a.png", "-p", "15,10", "-o", tmp_path / "c.png", "--allow-private-network") == 0
    assert asked[-1] == ("http://10.0.0.1/a.png", True)
    assert run("auto", *urls[::2], "-o", tmp_path / "all.json", "--format", "coco") == 0
    assert [row["file_name"] for row in json.loads((tmp_path / "all.json").read_text())["images"]] == ["one.png", "two.jpg"]


def test_the_library_takes_addresses(monkeypatch):
    segmenter = fretsaw.load()
    url = f"data:image/png;base64,{base64.b64encode(CONTENT).decode()}"
    monkeypatch.setattr(addresses, "_fetched", lambda address: CONTENT)
    for result in (segmenter.auto(url), segmenter.auto("https://host/a.png")):
        assert (result.mask == (PHOTO[..., 0] > 127)).all()
    assert segmenter.open("https://host/a.png").image.shape == PHOTO.shape
    assert segmenter.text([url], ["cat"])[0].areas["cat"] == 225
    with pytest.raises(ImageError):
        read_image("https://host/a.png")  # what a server reads its files with fetches nothing


# Patterns


def test_a_pattern_in_quotes_stands_for_what_fits_it(tmp_path, monkeypatch, capsys):
    for name in ("in/a.png", "in/b.jpg", "in/c.txt", "in/deep/d.png", "in/x[1].png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CONTENT)
    monkeypatch.chdir(tmp_path)
    assert run("auto", "in/*.png", "-o", "one") == 0
    assert sorted(path.name for path in Path("one").iterdir()) == ["a.png", "x[1].png"]
    assert run("auto", "in/**/*.*", "-o", "two") == 0
    assert sorted(path.relative_to("two").as_posix() for path in Path("two").rglob("*.png")) == ["a.png", "b.png", "deep/d.png", "x[1].png"]
    assert "1 file that is no picture by its name is left out (1 .txt), first c.txt" in capsys.readouterr().err
    assert run("auto", "in/x[1].png", "-o", "three.png") == 0  # a file of that very name
    assert run("auto", "in/*.gif", "-o", "four") == 1
    assert "expected images that fit in/*.gif, found none" in capsys.readouterr().err


# Ranges


def test_floats_are_cut_in_a_stated_range(tmp_path, capsys):
    Image.fromarray(PHOTO[..., 0].astype(np.float32) / 255 * 0.001).save(tmp_path / "a.tif")
    assert run("auto", tmp_path / "a.tif", "-o", tmp_path / "a.png") == 1
    assert "--range" in capsys.readouterr().err
    assert run("auto", tmp_path / "a.tif", "--range", "0,0.001", "-o", tmp_path / "a.png") == 0
    assert (np.array(Image.open(tmp_path / "a.png")) == (PHOTO[..., 0] > 127) * 255).all()
    for odd in ("1", "1,0", "a,b", "0,nan"):
        assert run("auto", tmp_path / "a.tif", "--range", odd, "-o", tmp_path / "b.png") == 1


# Warnings and examples


def test_a_jpeg_without_its_end_is_cut_and_said(tmp_path, capsys):
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).save(buffer, "JPEG")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue()[:-2])
    assert run("auto", tmp_path / "a.jpg", "-o", tmp_path / "a.png") == 0
    assert f"fretsaw: {tmp_path / 'a.jpg'}: the file lacks its last bytes; all of its pixels are there" in capsys.readouterr().err


def examples(command: str) -> list[str]:
    text = next(found.callback.__doc__ for found in cli.app.registered_commands if found.callback.__name__ == command)
    return [line.strip() for line in text.splitlines() if re.match(r" {6}(fretsaw|ffmpeg) ", line)]


@pytest.mark.parametrize("line", [line for name in ("auto", "click", "text", "semantic", "frames", "convert") for line in examples(name)])
def test_the_examples_of_the_help_run(line, tmp_path, monkeypatch, piped, capsysbinary):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(addresses, "_fetched", lambda address: CONTENT)
    monkeypatch.setattr(pipes.time, "sleep", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))
    big = np.zeros((720, 1280, 3), np.uint8)
    big[100:300, 100:300] = 255
    for name in ("photo.jpg", "room.jpg", "street.jpg", "photos/a.jpg", "inbox/a.jpg", "mine.png"):
        write_image(name, big if name != "mine.png" else big[..., 0])
    square = [[2, 2, 90, 2, 90, 80, 2, 80]]
    rows = [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": square, "bbox": [2, 2, 88, 78], "area": 1, "iscrowd": 0}]
    content = {"images": [{"id": 1, "file_name": "a.jpg", "width": 1280, "height": 720}], "categories": [{"id": 1, "name": "cat"}], "annotations": rows}
    Path("instances.json").write_text(json.dumps(content))
    Path("detections.json").write_text(json.dumps(content | {"annotations": [{key: rows[0][key] for key in ("id", "image_id", "category_id", "bbox")}]}))
    assert run("convert", "instances.json", "-o", "VOC2012", "--to", "voc") == 0
    capsysbinary.readouterr()
    [part] = [part for part in line.split(" | ") if part.startswith("fretsaw ")]
    words = shlex.split(part)[1:]
    piped(Path(words[words.index("<") + 1]).read_bytes() if "<" in words else big.tobytes())
    words = words[: words.index("<")] if "<" in words else words
    assert run(*words) == 0, capsysbinary.readouterr().err


# Watching


def test_a_folder_is_watched_until_it_is_interrupted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pipes, "POLL", 0.02)
    monkeypatch.setattr(pipes, "SETTLED", 0.0)
    inbox, out = tmp_path / "in", tmp_path / "out"
    inbox.mkdir()
    stages = iter(
        [
            lambda: write_image(inbox / "a.png", PHOTO),
            lambda: (inbox / "bad.png").write_bytes(b"none"),
            lambda: write_image(inbox / "b.png", PHOTO),
            lambda: write_image(inbox / "bad.png", PHOTO),  # it is tried again when it changes
        ]
    )

    def sleep(seconds: float) -> None:
        stage = next(stages, None)
        if stage is None:
            raise KeyboardInterrupt
        stage()

    monkeypatch.setattr(pipes.time, "sleep", sleep)
    assert run("auto", inbox, "-o", out, "--watch") == 1
    said = capsys.readouterr()
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png", "bad.png"]
    assert "watching for new images; Ctrl-C ends it" in said.err
    assert "3 written, 0 skipped" in said.out
    assert "1 failed" in said.out


def test_a_file_that_is_still_being_copied_waits(tmp_path):
    job = fretsaw.outputs.ImageTask(tmp_path / "a.png", tmp_path / "out.png")
    done = []

    def work(task) -> dict:
        done.append(task.source.stat().st_size)
        return {}

    stop = threading.Event()

    def copy() -> None:
        for size in (10, 20, 30):
            (tmp_path / "a.png").write_bytes(bytes(size))
            time.sleep(0.15)
        stop.set()

    thread = threading.Thread(target=copy)
    before, pipes.POLL, settled, pipes.SETTLED = pipes.POLL, 0.02, pipes.SETTLED, 0.4
    try:
        thread.start()

        def plan() -> list:
            if done:
                raise KeyboardInterrupt
            return [job] if job.source.exists() else []

        pipes.watch(plan, work, fretsaw.cli.batch.Batch(), True, [])
    finally:
        pipes.POLL, pipes.SETTLED = before, settled
        thread.join()
    assert done == [30]


@pytest.mark.parametrize("arguments", [["a.png", "-o", "out"], [".", "-o", "all.json", "--format", "coco"]])
def test_only_folders_are_watched_into_folders(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(CONTENT)
    assert run("auto", *arguments, "--watch") == 1
    assert "expected" in capsys.readouterr().err
