"""Where results go: one file for one input, the tree below the folder otherwise, never two results in one place."""

from __future__ import annotations

from pathlib import Path

import pytest

from fretsaw.errors import ImageError, OutputError
from fretsaw.outputs import find_images, plan


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("b.JPG", "a.png", "notes.txt", "deep/c.webp", "deep/a.png", "deep/er/d.tif"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    return tmp_path / "in"


def test_a_folder_gives_its_images_in_order_and_subfolders_on_request(folder):
    assert [str(below) for _, below in find_images([folder])] == ["a.png", "b.JPG"]
    assert [str(below) for _, below in find_images([folder], recursive=True)] == ["a.png", "b.JPG", "deep/a.png", "deep/c.webp", "deep/er/d.tif"]


def test_the_tree_is_kept(folder, tmp_path):
    jobs = plan(find_images([folder], recursive=True), tmp_path / "out")
    assert [str(job.target.relative_to(tmp_path / "out")) for job in jobs] == ["a.png", "b.png", "deep/a.png", "deep/c.png", "deep/er/d.png"]


def test_colliding_stems_keep_their_full_name(folder, tmp_path):
    (folder / "a.jpg").touch()
    jobs = plan(find_images([folder]), tmp_path / "out")
    assert [job.target.name for job in jobs] == ["a.jpg.png", "a.png.png", "b.png"]


@pytest.mark.parametrize(("out", "expected"), [("cut.png", "cut.png"), ("cut.JPG", "cut.JPG"), ("cut", "cut/a.png"), ("cut.v2", "cut.v2/a.png")])
def test_one_input_may_name_its_output_file(folder, tmp_path, out, expected):
    [job] = plan(find_images([folder / "a.png"]), tmp_path / out)
    assert job.target == tmp_path / expected


def test_an_existing_folder_that_looks_like_a_file_stays_a_folder(folder, tmp_path):
    (tmp_path / "cut.png").mkdir()
    [job] = plan(find_images([folder / "a.png"]), tmp_path / "cut.png")
    assert job.target == tmp_path / "cut.png" / "a.png"


def test_mistakes_are_said_before_work_starts(folder, tmp_path):
    with pytest.raises(ImageError, match="does not exist"):
        find_images([folder / "missing.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="--recursive looks into subfolders"):
        find_images([tmp_path / "empty"])
    with pytest.raises(OutputError, match="got the file"):
        plan(find_images([folder]), folder / "notes.txt")
    with pytest.raises(OutputError, match="an output of its own"):
        plan(find_images([folder, folder]), tmp_path / "out")
