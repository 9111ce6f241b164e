"""The runner: failures are named and counted, a killed run goes on, workers do not change results."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from fretsaw.errors import BusyError, ConfigError, DataError, FretsawError, MissingWeightsError, OutputError
from fretsaw.evaluation.journal import Journal, fingerprint
from fretsaw.evaluation.report import Report
from fretsaw.evaluation.runner import RunOptions, evaluate_dataset, run_samples


@dataclass(frozen=True)
class Number:
    value: int
    size: int = 1

    @property
    def name(self) -> str:
        return f"n{self.value}"

    def signature(self) -> str:
        return str(self.size)


@dataclass(frozen=True)
class Numbers:
    samples: tuple[Number, ...]
    name: str = "numbers"
    expected: int | None = None
    warnings: tuple[str, ...] = ()

    def file_list_hash(self) -> str:
        return "0"


class Mean:
    def __init__(self) -> None:
        self.values: list[float] = []

    def add(self, record) -> None:
        self.values.append(record["third"])

    def metrics(self) -> dict[str, float]:
        return {"mean": sum(self.values) / len(self.values)} if self.values else {"mean": float("nan")}


class Watcher:
    def __init__(self) -> None:
        self.events: list[tuple] = []

    def start(self, total, resumed, notes) -> None:
        self.events.append(("start", total, resumed, list(notes)))

    def advance(self, name, failure, metrics) -> None:
        self.events.append((name, failure is not None, dict(metrics)))

    def finish(self) -> None:
        self.events.append(("finish",))


def build() -> int:
    return 3


def build_without_weights() -> int:
    raise MissingWeightsError("no weights here")


def third(divisor: int, sample: Number) -> dict:
    if sample.value == 4:
        raise DataError("n4 has no mask")
    return {"third": sample.value / divisor, "pair": (1, 2)}


def measured(done: list[str]):
    def measure(state: int, sample: Number) -> dict:
        done.append(sample.name)
        return third(state, sample)

    return measure


def die(divisor: int, sample: Number) -> dict:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


NUMBERS = [Number(i) for i in range(7)]


def test_failed_samples_are_named_and_the_rest_goes_on():
    outcome = run_samples(NUMBERS, build, third, settings={})
    assert [record["sample"] for record in outcome.records] == ["n0", "n1", "n2", "n3", "n5", "n6"]
    assert [(f.sample, f.kind, f.error) for f in outcome.failures] == [("n4", "DataError", "n4 has no mask")]
    assert outcome.records[1] == {"sample": "n1", "third": 1 / 3, "pair": [1, 2]}


def test_defects_end_the_run_but_keep_what_is_done(tmp_path):
    def broken(state, sample):
        if sample.value == 2:
            raise ZeroDivisionError
        return {"third": 0}

    journal = tmp_path / "j"
    with pytest.raises(ZeroDivisionError):
        run_samples(NUMBERS, build, broken, settings={}, journal=journal)
    done: list[str] = []
    outcome = run_samples(NUMBERS, build, measured(done), settings={}, journal=journal)
    assert outcome.resumed == 2
    assert done == ["n2", "n3", "n4", "n5", "n6"]


def fails_with(error: BaseException):
    def measure(state: int, sample: Number) -> dict:
        if sample.value == 2:
            raise error
        return {"third": 0}

    return measure


class OutOfMemoryError(RuntimeError):
    """Named as torch's is."""


@pytest.mark.parametrize(
    "error", [MemoryError(), OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), OSError(errno.EIO, "Input/output error")]
)
def test_want_of_memory_is_that_samples_failure(error):
    outcome = run_samples(NUMBERS, build, fails_with(error), settings={})
    assert [(failure.sample, failure.kind) for failure in outcome.failures] == [("n2", type(error).__name__)]
    assert outcome.failures[0].error
    assert len(outcome.records) == 6


@pytest.mark.parametrize("behind", [True, False])
def test_a_full_disk_ends_the_run_and_keeps_what_is_done(tmp_path, behind):
    """The next sample would meet it too."""
    full = OSError(errno.ENOSPC, "No space left on device")
    error: Exception = full
    if behind:
        error = OutputError("a mask cannot be written")
        error.__cause__ = full
    with pytest.raises(OutputError, match="n2: No space left on device; what was finished is kept"):
        run_samples(NUMBERS, build, fails_with(error), settings={}, journal=tmp_path / "j")
    assert run_samples(NUMBERS, build, third, settings={}, journal=tmp_path / "j").resumed == 2


def test_a_journal_that_cannot_be_written_says_so_and_keeps_what_it_holds(tmp_path, monkeypatch):
    book = Journal(tmp_path / "j", {})
    book.append("a", "s", {"x": 1})
    monkeypatch.setattr(book, "_write", lambda line: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OutputError, match="No space left on device; what was finished is kept"):
        book.append("b", "s", {"x": 2})
    book.close()
    assert Journal(tmp_path / "j", {}).get("a", "s") == {"x": 1}


def test_a_journal_has_one_writer_and_an_empty_one_leaves_nothing(tmp_path):
    book = Journal(tmp_path / "j", {})
    with pytest.raises(BusyError, match=f"another evaluation \\(process {os.getpid()} on "):
        Journal(tmp_path / "j", {})
    book.close()
    assert list(tmp_path.iterdir()) == []


def test_a_caller_who_stores_the_result_first_keeps_the_journal(tmp_path):
    run_samples(NUMBERS[:3], build, third, settings={}, journal=tmp_path / "j", keep_journal=True)
    assert run_samples(NUMBERS[:3], build, third, settings={}, journal=tmp_path / "j").resumed == 3
    assert not (tmp_path / "j").exists()


def test_workers_do_not_change_the_result():
    alone = run_samples(NUMBERS, build, third, settings={})
    together = run_samples(NUMBERS, build, third, settings={}, workers=3)
    assert (alone.records, alone.failures) == (together.records, together.failures)


def test_errors_of_the_model_reach_the_caller_from_a_worker():
    with pytest.raises(MissingWeightsError, match="no weights here"):
        run_samples(NUMBERS, build_without_weights, third, settings={}, workers=2)


def test_a_worker_that_dies_is_reported():
    with pytest.raises(FretsawError, match="worker process ended"):
        run_samples(NUMBERS, build, die, settings={}, workers=2)


def test_functions_that_cannot_travel_are_refused():
    with pytest.raises(ConfigError, match="sent to several workers"):
        run_samples(NUMBERS, lambda: 3, third, settings={}, workers=2)


def test_a_finished_run_leaves_no_journal_and_a_failed_sample_is_tried_again(tmp_path):
    journal = tmp_path / "r.journal"
    run_samples(NUMBERS[:3], build, third, settings={}, journal=journal)
    assert not journal.exists()
    run_samples(NUMBERS, build, third, settings={}, journal=journal)
    assert journal.exists()
    done: list[str] = []
    outcome = run_samples(NUMBERS, build, measured(done), settings={}, journal=journal)
    assert done == ["n4"]
    assert outcome.resumed == 6


def interrupted(journal: Path, settings: dict, samples: list[Number]) -> None:
    """Leave the journal of a run that was killed after these samples."""
    book = Journal(journal, settings)
    for sample in samples:
        book.append(sample.name, sample.signature(), {"sample": sample.name, **third(3, sample)})
    book.close()


def test_resuming_skips_what_is_done_and_measures_exchanged_files_again(tmp_path):
    journal = tmp_path / "j"
    interrupted(journal, {"a": 1}, NUMBERS[:3])
    done: list[str] = []
    exchanged = [Number(0, size=2), *NUMBERS[1:4]]
    outcome = run_samples(exchanged, build, measured(done), settings={"a": 1}, journal=journal)
    assert done == ["n0", "n3"]
    assert [record["sample"] for record in outcome.records] == ["n0", "n1", "n2", "n3"]


@pytest.mark.parametrize("tail", ['{"sample": "n2", "signature": "1", "rec', '{"sample": "n2"}\n{"x', "\x00\x00\x00"])
def test_a_torn_last_line_is_dropped(tmp_path, tail):
    journal = tmp_path / "j"
    interrupted(journal, {}, NUMBERS[:2])
    with journal.open("a") as file:
        file.write(tail)
    done: list[str] = []
    run_samples(NUMBERS, build, measured(done), settings={}, journal=journal)
    assert done == ["n2", "n3", "n4", "n5", "n6"]
    # What was appended behind the torn line is readable.
    lines = journal.read_text().splitlines()
    assert [json.loads(line)["sample"] for line in lines[1:]] == ["n0", "n1", "n2", "n3", "n5", "n6"]


def test_other_settings_start_afresh_say_so_and_keep_the_old_journal(tmp_path):
    journal = tmp_path / "j"
    interrupted(journal, {"model": "a", "seed": 0}, NUMBERS[:3])
    before = journal.read_bytes()
    done: list[str] = []
    outcome = run_samples(NUMBERS[:4], build, measured(done), settings={"model": "b", "seed": 0}, journal=journal)
    assert len(done) == 4
    assert "model was 'a', is 'b'" in outcome.notes[0]
    assert (tmp_path / "j.old").read_bytes() == before


def test_a_file_that_is_no_journal_is_set_aside(tmp_path):
    journal = tmp_path / "j"
    journal.write_text("something else\n")
    outcome = run_samples(NUMBERS[:2], build, third, settings={}, journal=journal)
    assert outcome.resumed == 0
    assert "no run that can be continued" in outcome.notes[0]
    assert (tmp_path / "j.old").read_text() == "something else\n"


def test_fingerprints_ignore_the_order_of_settings():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_names_must_differ():
    with pytest.raises(ConfigError, match="different names"):
        run_samples([Number(1), Number(1)], build, third, settings={})


@pytest.mark.parametrize("options", [RunOptions(workers=0), RunOptions(limit=0)])
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError, match="at least 1"):
        evaluate_dataset(Numbers(tuple(NUMBERS)), build, third, Mean, task="t", protocol="p", protocol_fields={}, options=options)


def test_the_report_holds_figures_failures_and_settings():
    watcher = Watcher()
    numbers = Numbers(tuple(NUMBERS), expected=8, warnings=("7 of 8",))
    options = RunOptions(model="m", limit=5, settings={"size": 64})
    report = evaluate_dataset(numbers, build, third, Mean, task="t", protocol="p", protocol_fields={"f": 1}, options=options, progress=watcher)
    assert report.metrics == {"mean": (0 + 1 / 3 + 2 / 3 + 1) / 4}
    assert (report.dataset_size, report.expected_size, report.warnings) == (5, 8, ["7 of 8"])
    assert report.settings == {"size": 64, "limit": 5}
    assert [f.sample for f in report.failures] == ["n4"]
    assert report.versions["python"].startswith("3.")
    assert watcher.events[0] == ("start", 5, 0, [])
    assert watcher.events[2] == ("n1", False, {"mean": 1 / 6})
    assert watcher.events[-2:] == [("n4", True, {"mean": 0.5}), ("finish",)]


def slow_third(divisor: int, sample: Number) -> dict:
    time.sleep(0.15)
    return third(divisor, sample)


def run_to_report(folder: str, workers: str) -> None:
    """Body of the process that the next test kills."""
    options = RunOptions(journal=Path(folder) / "r.journal", workers=int(workers))
    report = evaluate_dataset(Numbers(tuple(NUMBERS)), build, slow_third, Mean, task="t", protocol="p", protocol_fields={}, options=options)
    report.save(Path(folder) / "r.json")


@pytest.mark.parametrize("workers", [1, 2])
def test_kill_minus_nine_in_the_middle_and_run_again_gives_the_same_report(tmp_path, workers):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_to_report(str(whole), "1")
    code = f"import test_runner as t, sys; t.run_to_report({str(killed)!r}, '{workers}')"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    journal = killed / "r.journal"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (journal.exists() and journal.read_bytes().count(b"\n") >= 3):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "r.json").exists()
    finished = journal.read_bytes().count(b"\n") - 1
    assert 2 <= finished < 6
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert (killed / "r.json").read_bytes() == (whole / "r.json").read_bytes()
    assert Report.load(killed / "r.json").metrics["mean"] == pytest.approx(17 / 18)


def test_workers_end_when_the_parent_is_killed(tmp_path):
    code = f"import test_runner as t; t.run_to_report({str(tmp_path)!r}, '2')"
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)})
    deadline = time.monotonic() + 60
    journal = tmp_path / "r.journal"
    while time.monotonic() < deadline and not (journal.exists() and journal.read_bytes().count(b"\n") >= 2):
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("needs /proc to see child processes")
    pids = [int(pid) for pid in children.read_text().split()]
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(_alive(pid) for pid in pids):
        time.sleep(0.05)
    assert len(pids) >= 2
    assert not any(_alive(pid) for pid in pids)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
