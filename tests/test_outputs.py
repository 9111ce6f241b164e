"""Where results go: one file for one input, the tree below the folder otherwise, never two results in one place."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fretsaw import outputs
from fretsaw.errors import FretsawError, ImageError, OutputError
from fretsaw.images import encode_image, write_bytes, write_mask
from fretsaw.outputs import IMAGE_SUFFIXES, LOSSLESS, PICTURES, TRANSPARENT, ImageTask, Sources, find_images


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
    jobs = Sources([folder], recursive=True).plan(tmp_path / "out")
    assert [str(job.target.relative_to(tmp_path / "out")) for job in jobs] == ["a.png", "b.png", "deep/a.png", "deep/c.png", "deep/er/d.png"]


def test_colliding_stems_keep_their_full_name(folder, tmp_path):
    (folder / "a.jpg").touch()
    jobs = Sources([folder]).plan(tmp_path / "out")
    assert [job.target.name for job in jobs] == ["a.jpg.png", "a.png.png", "b.png"]


@pytest.mark.parametrize(("out", "expected"), [("cut.png", "cut.png"), ("cut.JPG", "cut.JPG"), ("cut", "cut/a.png"), ("cut.v2", "cut.v2/a.png")])
def test_one_input_may_name_its_output_file(folder, tmp_path, out, expected):
    [job] = Sources([folder / "a.png"]).plan(tmp_path / out)
    assert job.target == tmp_path / expected


def test_an_existing_folder_that_looks_like_a_file_stays_a_folder(folder, tmp_path):
    (tmp_path / "cut.png").mkdir()
    [job] = Sources([folder / "a.png"]).plan(tmp_path / "cut.png")
    assert job.target == tmp_path / "cut.png" / "a.png"


def test_mistakes_are_said_before_work_starts(folder, tmp_path):
    with pytest.raises(ImageError, match="does not exist"):
        find_images([folder / "missing.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="--recursive looks into subfolders"):
        find_images([tmp_path / "empty"])
    with pytest.raises(OutputError, match="got the file"):
        Sources([folder]).plan(folder / "notes.txt")
    with pytest.raises(OutputError, match="a file of its own"):
        Sources([folder, folder]).plan(tmp_path / "out")


@pytest.mark.parametrize("out", ["x.avif", "x.heic", "x.pdf", "x.gif", "x.json", "x.jp2", "-"])
def test_a_name_of_another_kind_of_file_is_refused_and_makes_no_folder(folder, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    for inputs in ([folder / "a.png"], [folder], [folder / "a.png", folder / "b.JPG"]):
        with pytest.raises(OutputError, match="expected a f"):
            Sources(inputs).plan(Path(out), LOSSLESS)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_folder_that_looks_like_another_kind_of_file_is_taken_when_it_is_there(folder, tmp_path):
    (tmp_path / "x.avif").mkdir()
    [job] = Sources([folder / "a.png"]).plan(tmp_path / "x.avif")
    assert job.target == tmp_path / "x.avif" / "a.png"
    assert len(Sources([folder]).plan(tmp_path / "run.2")) == 2


def test_the_lists_of_suffixes_say_what_can_be_written():
    image = np.zeros((4, 4, 3), np.uint8)
    for suffix in PICTURES:
        encode_image(image, suffix)
    assert set(PICTURES) < IMAGE_SUFFIXES
    for suffixes, picture in ((TRANSPARENT, np.zeros((4, 4, 4), np.uint8)), (LOSSLESS, np.zeros((4, 4), bool))):
        for suffix in PICTURES:
            if suffix in suffixes:
                encode_image(picture, suffix)
    for suffix in set(PICTURES) - set(TRANSPARENT):
        with pytest.raises(OutputError):
            encode_image(np.zeros((4, 4, 4), np.uint8), suffix)
    for suffix in set(PICTURES) - set(LOSSLESS):
        with pytest.raises(OutputError):
            write_mask(f"x{suffix}", np.zeros((4, 4), bool))


def spellings(path: Path, place: Path) -> dict[str, Path]:
    """Other ways to name one file; links are made in `place`."""
    place.mkdir()
    (place / "soft.png").symlink_to(path)
    os.link(path, place / "hard.png")
    (place / "way").symlink_to(path.parent)
    (place / "chain.png").symlink_to(place / "soft.png")
    return {
        "itself": path,
        "dots": path.parent / ".." / path.parent.name / path.name,
        "symbolic link": place / "soft.png",
        "hard link": place / "hard.png",
        "through a linked folder": place / "way" / path.name,
        "link to a link": place / "chain.png",
        "through a folder that is not there": path.parent / "new" / ".." / path.name,
    }


@pytest.mark.parametrize(
    "way", ["itself", "dots", "symbolic link", "hard link", "through a linked folder", "link to a link", "through a folder that is not there"]
)
def test_an_output_that_is_an_input_is_refused_however_it_is_spelt(folder, tmp_path, way):
    target = spellings(folder / "a.png", tmp_path / "links")[way]
    with pytest.raises(OutputError, match="expected an output that is no input"):
        Sources([folder / "a.png"]).plan(target)
    with pytest.raises(OutputError, match="expected an output that is no input"):
        Sources([folder / "b.JPG"], also=[folder / "a.png"]).plan(target)
    if target.exists():
        with pytest.raises(OutputError, match="expected an output that is no input"):
            Sources([target]).plan(folder / "a.png")


def test_an_input_on_a_file_system_that_ignores_case_is_known_by_what_it_is(folder):
    """Simulated: a hard link stands for the second spelling that such a file system understands."""
    os.link(folder / "a.png", folder / "A.PNG")
    with pytest.raises(OutputError, match="is the input"):
        Sources([folder / "a.png"]).plan(folder / "A.PNG")


def test_two_results_that_differ_in_case_alone_are_refused_where_that_is_one_file(folder, tmp_path, monkeypatch):
    (folder / "A.png").touch()
    assert len({job.target for job in Sources([folder]).plan(tmp_path / "out")}) == 3
    monkeypatch.setattr(outputs, "_folded", lambda out: lambda path: Path(str(path).casefold()))
    with pytest.raises(OutputError, match="a file of its own"):
        Sources([folder]).plan(tmp_path / "out")


def test_results_do_not_go_into_the_folder_that_is_searched(folder, tmp_path):
    (folder / "a.png").unlink()
    with pytest.raises(OutputError, match="outside the folders that are read"):
        Sources([folder], out=folder).plan(folder)
    with pytest.raises(OutputError, match="outside the folders that are read"):
        Sources([folder], recursive=True, out=folder).plan(folder, (".webp",))
    with pytest.raises(OutputError, match="outside the folders that are read"):
        Sources([folder], out=folder / "new.png").plan(folder / "new.png")
    assert len(Sources([folder], out=folder).plan(folder, (".json",))) == 1  # beside the photos: no search finds it


def test_a_folder_of_results_below_the_photos_is_left_out_of_the_search_and_said(folder):
    out = folder / "deep" / "er"
    sources = Sources([folder], recursive=True, out=out)
    assert [str(below) for _, below in sources.images] == ["a.png", "b.JPG", "deep/a.png", "deep/c.webp"]
    assert sources.notes == [
        f"{out} is left out of the search: the results go there",
        f"{folder}: 1 file that is no picture by its name is left out (1 .txt), first notes.txt",
    ]
    assert {job.target.parent for job in sources.plan(out)} == {out, out / "deep"}
    fresh = folder / "masks"
    assert len(Sources([folder], recursive=True, out=fresh).plan(fresh)) == 5
    with pytest.raises(OutputError, match="outside the folders that are read"):  # it is an input folder of its own
        Sources([folder, out], recursive=True, out=out).plan(out)


def test_a_result_that_lands_in_an_input_folder_below_the_results_is_refused(tmp_path):
    (tmp_path / "in" / "in").mkdir(parents=True)
    (tmp_path / "in" / "in" / "a.jpg").touch()
    with pytest.raises(OutputError, match="outside the folders that are read"):
        Sources([tmp_path / "in"], recursive=True, out=tmp_path).plan(tmp_path)


def test_hidden_folders_are_not_searched(folder):
    (folder / ".work").mkdir()
    (folder / ".work" / "export.png").touch()
    assert all(".work" not in below.parts for _, below in Sources([folder], recursive=True).images)


def test_a_job_is_done_when_all_of_its_files_are_there(tmp_path):
    job = ImageTask(tmp_path / "a.png", tmp_path / "cut", (tmp_path / "cut" / "cat.png", tmp_path / "cut" / "dog.png"))
    for path in (job.beside[0], job.beside[1]):
        assert not job.done
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert job.done


def test_files_beside_a_result_are_guarded_too(folder, tmp_path):
    def overlay(target: Path) -> list[Path]:
        return [target.with_suffix(".overlay.png")]

    (folder / "a.overlay.png").touch()
    with pytest.raises(OutputError, match="a file of its own"):
        Sources([folder]).plan(tmp_path / "out", beside=overlay)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "b.overlay.png").touch()
    with pytest.raises(OutputError, match="no input"):
        Sources([folder / "b.JPG"], also=[tmp_path / "other" / "b.overlay.png"]).plan(tmp_path / "other", beside=overlay)


def test_a_folder_of_results_that_holds_what_is_read_is_refused(folder, tmp_path):
    sources = Sources(also=[folder])
    for place in (folder, folder / "deep", folder / "new" / "er"):
        with pytest.raises(OutputError):
            sources.refuse_folder(place)
    with pytest.raises(OutputError, match="holds nothing that is read"):
        Sources(also=[folder / "deep" / "a.png"]).refuse_folder(folder)
    with pytest.raises(OutputError, match="holds nothing that is read"):
        Sources(also=[folder / "deep" / "a.png"]).refuse_folder(folder / "new" / "er" / ".." / "..")
    sources.refuse_folder(tmp_path / "out")


def test_a_place_that_cannot_be_written_is_refused_before_work(folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="got the file"):
        Sources([folder]).plan(tmp_path / "file" / "out")
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != tmp_path)
    with pytest.raises(OutputError, match="that can be written"):
        Sources([folder]).plan(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", ["a" * 5000, "nul\0", "loop.png", "file.txt/below"])
def test_paths_that_cannot_exist_are_refused_in_one_line(folder, tmp_path, path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "file.txt").touch()
    with pytest.raises(ImageError, match="does not exist"):
        find_images([tmp_path / path])
    for out in (tmp_path / path, tmp_path / path / "below"):
        with suppress(FretsawError):
            Sources([folder / "a.png"], out=out).plan(out)


NAMES = ("a.png", "a.jpg", "b.png", "A.png", "sub/a.png", "sub/b.jpg", "sub/sub/a.png", "out/a.png", "out/c.png", "x.tif")
PLACES = (
    "in",
    "in/sub",
    "in/out",
    "out",
    ".",
    "link",
    "in/a.png",
    "in/b.png",
    "new.png",
    "in/new.png",
    "in/sub/../a.png",
    "in/none/../a.png",
    "none/../in",
    "soft.png",
    "hard.png",
    "in/sub/new",
)


@settings(max_examples=200, deadline=None)
@given(
    files=st.sets(st.sampled_from(NAMES), min_size=1),
    inputs=st.lists(st.sampled_from(("in", "in/sub", "link", "in/a.png", "in/b.png", "soft.png", "hard.png", "in/out")), min_size=1, max_size=3),
    out=st.sampled_from(PLACES),
    recursive=st.booleans(),
    ending=st.sampled_from((PICTURES, (".json",), (".png",))),
)
def test_no_run_changes_a_byte_of_its_inputs_nor_reads_its_own_results(files, inputs, out, recursive, ending):
    """Whatever the layout: what a planned run reads is the same after it, and its next run finds the same inputs."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for file in files:
            (root / "in" / file).parent.mkdir(parents=True, exist_ok=True)
            (root / "in" / file).write_text(file)
        (root / "link").symlink_to("in")
        (root / "soft.png").symlink_to("in/a.png")
        if "a.png" in files:
            os.link(root / "in" / "a.png", root / "hard.png")

        inputs = [path for path in inputs if (root / path).exists()] or ["in"]

        def search() -> Sources:
            return Sources([root / path for path in inputs], recursive, root / out)

        try:
            sources = search()
            jobs = sources.plan(root / out, ending)
        except FretsawError:
            return
        before = {path: path.read_bytes() for path, _ in sources.images}
        for job in jobs:  # as a run with --overwrite does
            write_bytes(job.target, b"a result")
        assert {path: path.read_bytes() for path in before} == before
        assert {path for path, _ in search().images} == set(before)
