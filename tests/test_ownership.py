"""One writer a place: the second is refused at once and told who the first is; nothing that a dead process left behind blocks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fretsaw.errors import BusyError, OutputError
from fretsaw.images import write_bytes
from fretsaw.ownership import is_lock, own, owner_of

HOLD = "import sys, time\nfrom fretsaw.ownership import own\nwith own(sys.argv[1], 'a training run'):\n    print('mine', flush=True)\n    time.sleep(60)\n"


def hold(place: Path) -> subprocess.Popen:
    """Start a process that owns a place, and return when it does."""
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(place)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "mine\n"
    return child


@pytest.mark.parametrize("kind", ["folder", "file", "file that is not there", "file with a long name"])
def test_a_second_process_is_refused_at_once_and_told_who_owns_the_place(tmp_path, kind):
    place = {"folder": tmp_path, "file with a long name": tmp_path / ("x" * 250)}.get(kind, tmp_path / "all.json")
    if kind == "file":
        place.write_text("{}")
    child = hold(place)
    started = time.monotonic()
    with pytest.raises(BusyError) as refusal, own(place, "a server"):
        pass
    assert time.monotonic() - started < 1
    assert "\n" not in str(refusal.value)
    assert f"a training run (process {child.pid} on " in str(refusal.value)
    assert f"since {time.strftime('%Y-')}" in str(refusal.value)
    assert str(place) in str(refusal.value)
    child.kill()
    child.wait()
    with own(place, "a server"):  # what the killed one left behind blocks nobody
        assert owner_of(place).pid == os.getpid()
    assert [path for path in tmp_path.iterdir() if path != place] == []


def test_links_and_spellings_of_one_place_share_a_lock(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "link").symlink_to("runs")
    with own(tmp_path / "runs"):
        for other in (tmp_path / "link", tmp_path / "runs" / ".." / "runs", str(tmp_path) + "//runs/"):
            with pytest.raises(BusyError), own(other):
                pass


def test_two_places_in_one_folder_are_two(tmp_path):
    """Sharded writers own their part."""
    with own(tmp_path), own(tmp_path / "a.json"), own(tmp_path / "b.json"), own(tmp_path, name=".other"):
        assert {path.name for path in tmp_path.iterdir() if not is_lock(path)} == {".other", ".other.lock"}


def test_a_place_is_free_after_an_exception(tmp_path):
    with pytest.raises(ZeroDivisionError), own(tmp_path):
        raise ZeroDivisionError
    with own(tmp_path):
        pass


@pytest.mark.parametrize(
    "card", [b"", b"{", b"[]", b'{"what": 3, "pid": "x"}', b"\xff\xfe", b'{"what": "a\\nb\\u001b[2J", "pid": 1, "host": "h", "since": "s"}']
)
def test_a_damaged_card_makes_the_message_poorer_and_nothing_else(tmp_path, card):
    with own(tmp_path):
        (tmp_path / ".owner").write_bytes(card)
        with pytest.raises(BusyError) as refusal, own(tmp_path):
            pass
        assert str(refusal.value).isprintable()
    (tmp_path / ".owner").write_bytes(card)
    with own(tmp_path):
        assert owner_of(tmp_path).pid == os.getpid()


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "below" / "x.json", tmp_path / "nul\0"):
        with pytest.raises(OutputError, match="expected a place that can be written"), own(place):
            pass


def test_many_processes_that_come_and_go_never_own_a_place_together(tmp_path):
    """The lock file is removed on the way out, which must never give the place to two."""
    code = (
        "import sys, os, time\nfrom fretsaw.ownership import own\nfrom fretsaw.errors import BusyError\nend = time.monotonic() + 2\nwins = 0\n"
        "while time.monotonic() < end:\n"
        "    try:\n        with own(sys.argv[1]):\n"
        "            os.close(os.open(sys.argv[1] + '/inside', os.O_CREAT | os.O_EXCL))\n            wins += 1\n"
        "            os.unlink(sys.argv[1] + '/inside')\n"
        "    except BusyError:\n        pass\nprint(wins)\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    wins = [child.communicate()[0] for child in children]
    assert [child.returncode for child in children] == [0] * 4
    assert sum(map(int, wins)) > 50


def test_the_owner_survives_its_children(tmp_path):
    """A process started by the owner does not hold the place after the owner is gone."""
    code = HOLD.replace("print(", "import subprocess; child = subprocess.Popen(['sleep', '30']); print(child.pid); print(")
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    below = int(child.stdout.readline())
    child.stdout.readline()
    child.kill()
    child.wait()
    try:
        with own(tmp_path):
            pass
    finally:
        os.kill(below, signal.SIGKILL)


def test_written_files_have_the_usual_permissions_or_those_asked_for(tmp_path):
    before = os.umask(0o027)
    try:
        assert write_bytes(tmp_path / "a", b"x").stat().st_mode & 0o777 == 0o640
        assert write_bytes(tmp_path / "b", b"x", durable=True, mode=0o600).stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to see which file a descriptor is")
def test_a_durable_write_syncs_the_file_before_its_name_and_every_new_folder(tmp_path, monkeypatch):
    events = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}"))), real_sync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda old, new: (events.append("named"), real_replace(old, new)))
    write_bytes(tmp_path / "new" / "deep" / "a.json", json.dumps(1).encode(), durable=True)
    assert events[0].suffix == ".part"
    assert events[1] == "named"
    assert set(events[2:]) == {tmp_path, tmp_path / "new", tmp_path / "new" / "deep"}
    events.clear()
    write_bytes(tmp_path / "b", b"x")
    assert events == ["named"]
