"""kill -9 in a command: the same command run again comes to what an undisturbed run comes to, and what was finished is not made again.

`make test` kills every command once, in the middle; `make faults` at ten random moments. The moments' seed is printed; FRETSAW_FAULT_SEED sets it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from kills import COMMANDS, COUNT, UNFINISHED, finish, kill, photos, start, visible, wait_for_half, wait_for_owner

MOMENTS = 10


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return a function that gives a command's inputs, what a run to its end leaves, and the seconds that it took; each command runs once."""

    @cache
    def of(name: str) -> tuple[Path, Any, float]:
        command, folder = COMMANDS[name], tmp_path_factory.mktemp("whole")
        command.prepare(folder / "inputs")
        began = time.monotonic()
        command.run(folder / "inputs", folder / "results" / "out")
        return folder / "inputs", command.result(folder / "results" / "out"), time.monotonic() - began

    return of


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_in_the_middle_and_run_again_it_comes_to_the_same(undisturbed, tmp_path, name):
    command, place = COMMANDS[name], tmp_path / "killed" / "out"
    inputs, wanted, _ = undisturbed(name)
    before = visible(inputs) if inputs.exists() else {}
    child = command.start(inputs, place)
    if command.total:
        wait_for_half(command, place, child)
    else:
        time.sleep(1.0)
    assert kill(child), "it was killed before its end"
    kept = {path: path.stat().st_mtime_ns for path in place.rglob("*.png") if not UNFINISHED.fullmatch(path.name)}
    said = command.run(inputs, place)
    assert command.result(place) == wanted
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "what was finished is not made again"
    if name == "evaluate":
        assert "going on with an interrupted run" in said
    if name == "train":
        assert "going on after" in said
    assert (visible(inputs) if inputs.exists() else {}) == before


@pytest.mark.faults
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_random_moments_and_run_again_it_comes_to_the_same(undisturbed, tmp_path, name):
    seed = int(os.environ.get("FRETSAW_FAULT_SEED", random.randrange(10**6)))
    print(f"FRETSAW_FAULT_SEED={seed}")
    draw = random.Random(f"{seed} {name}")
    command, at_work = COMMANDS[name], 0
    inputs, wanted, seconds = undisturbed(name)
    for number in range(MOMENTS):
        place = tmp_path / f"killed{number}" / "out"
        for _ in range(draw.choice((1, 1, 2))):  # the run that goes on may be killed too
            child = command.start(inputs, place)
            time.sleep(draw.uniform(0.05, 1.0) * seconds)
            at_work += kill(child)
        command.run(inputs, place)
        assert command.result(place) == wanted, f"seed {seed}, moment {number}"
    assert at_work >= MOMENTS // 2, f"seed {seed}: most kills came after the end"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_in_order(undisturbed, tmp_path, number, status):
    command, place = COMMANDS["auto"], tmp_path / "out"
    inputs, _, _ = undisturbed("auto")
    child = start(*command.arguments(inputs, place), "--json")
    wait_for_half(command, place, child)
    child.send_signal(number)
    found, out, err = finish(child)
    assert (found, err) == (status, "fretsaw: interrupted; what was finished is kept\n")
    finished = [record["output"] for record in json.loads(out)]
    assert sorted(finished) == sorted(map(str, place.iterdir()))
    assert COUNT // 2 <= len(finished) < COUNT
    assert f"{COUNT - len(finished)} written, {len(finished)} skipped" in finish(start(*command.arguments(inputs, place)))[1]


@pytest.mark.parametrize(("name", "number", "status"), [("evaluate", signal.SIGTERM, 143), ("train", signal.SIGINT, 130), ("convert", signal.SIGTERM, 143)])
def test_a_signal_ends_other_commands_in_order_and_they_go_on(undisturbed, tmp_path, name, number, status):
    command, place = COMMANDS[name], tmp_path / "killed" / "out"
    inputs, wanted, _ = undisturbed(name)
    child = command.start(inputs, place)
    wait_for_half(command, place, child)
    child.send_signal(number)
    found, _, err = finish(child)
    assert found == status
    assert err.endswith("fretsaw: interrupted; what was finished is kept\n")
    assert "Traceback" not in err
    command.run(inputs, place)
    assert command.result(place) == wanted


def signals(child: subprocess.Popen, numbers: Sequence[int], pause: float = 0.012) -> None:
    """Send signals to all processes of a command, as a terminal does, until they are gone."""
    for number in numbers:
        if child.poll() is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        time.sleep(pause)


@pytest.mark.parametrize("name", ["auto", "auto, one file", "convert", "train", "evaluate", "evaluate, two workers"])
def test_many_interrupts_in_a_row_end_a_run_as_one_does(undisturbed, tmp_path, name):
    """Two at once, and more while the results are saved, while the summary is printed, and while the process ends."""
    command, place = COMMANDS[name.removesuffix(", two workers")], tmp_path / "killed" / "out"
    inputs, wanted, _ = undisturbed(name.removesuffix(", two workers"))
    arguments = [*command.arguments(inputs, place), *(["--json"] if name != "train" else [])]
    if name.endswith("two workers"):
        arguments[arguments.index("--workers") + 1] = 2
    child = start(*arguments, QUICK_END=0.2)
    if command.total:
        wait_for_half(command, place, child)
    else:
        wait_for_owner(tmp_path, child)
    signals(child, [signal.SIGINT, signal.SIGINT, signal.SIGTERM, *[signal.SIGINT] * 40])
    status, out, err = finish(child)
    assert status == 130, err
    assert err.endswith("fretsaw: interrupted; what was finished is kept\n")
    assert "Traceback" not in err
    if name == "auto":
        assert sorted(record["output"] for record in json.loads(out)) == sorted(map(str, place.iterdir()))
    if name == "auto, one file":
        finished = [Path(record["input"]).name for record in json.loads(out)]
        content = json.loads(place.with_suffix(".json").read_text()) if finished else {"images": []}
        assert sorted(row["file_name"] for row in content["images"]) == sorted(finished)
    command.run(inputs, place)
    assert command.result(place) == wanted


def test_who_insists_ends_a_command_at_once(undisturbed, tmp_path):
    command, place = COMMANDS["auto"], tmp_path / "out"
    child = start(*command.arguments(undisturbed("auto")[0], place), QUICK_HANGS=60)
    wait_for_half(command, place, child)
    began = time.monotonic()
    signals(child, [signal.SIGINT] * 400, pause=0.05)
    status, _, err = finish(child)
    assert (status, err.endswith("fretsaw: ended at once\n")) == (130, True)
    assert time.monotonic() - began > 2


def test_an_image_whose_interrupt_became_an_error_of_a_library_did_not_fail(tmp_path):
    photos(tmp_path / "in")
    child = start("auto", tmp_path / "in" / "images", "-o", tmp_path / "out", "--json", QUICK_TURNED=5)
    status, out, err = finish(child)
    assert (status, err) == (130, "fretsaw: interrupted; what was finished is kept\n")
    records = json.loads(out)
    assert len(records) == 4
    assert not any("error" in record for record in records)


def test_an_interrupt_that_a_library_swallowed_stops_the_run_before_the_next_image(tmp_path):
    photos(tmp_path / "in")
    child = start("auto", tmp_path / "in" / "images", "-o", tmp_path / "out", "--json", QUICK_SWALLOWED=5)
    status, out, err = finish(child)
    assert (status, err) == (130, "fretsaw: interrupted; what was finished is kept\n")
    assert len(json.loads(out)) == 5
