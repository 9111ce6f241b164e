"""Runs the fuzz targets: what a target is, and the parent that watches a child process at work.

The property of every target: an input gives a value or one `FretsawError` of one printable line, in bounded time and memory, and nothing is printed or warned
about. Inputs are made and tried in a child process (`child.py`), since one that corrupts memory takes its process along. The parent kills a child that

- computes for longer than a target's `seconds` at one input (its CPU time counts; ten times as long on the clock kills it too, in case it sleeps),
- grows by more than a target's `memory` at one input (resident memory, which the parent reads 20 times a second; the child reads its own peak afterwards).

Resident memory is measured rather than address space limited, because torch and numpy reserve far more addresses than they use. As a second line the child
may not map more than `MOST_ADDRESSES` beyond what it has mapped when it starts, so that one giant allocation fails and presses nothing else out of memory.

Whatever kills a child is a failure of that input, which is saved; a new child goes on. `python -m tests.fuzz --replay FILE` tries a saved input again.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MOST_ADDRESSES = 8 * 2**30
LONGEST_MESSAGE = 1000
CHUNK = 250
"""Inputs that a child makes in one go; hypothesis remembers all of a go, and a new go draws from a new seed."""
MOST_CRASHES = 5
"""Dead children after which a target is given up: each costs a start."""


@dataclass(frozen=True)
class Target:
    """Something that reads, and what to give it.

    Attributes:
        name: To choose it by.
        inputs: A hypothesis strategy; the values are bytes, text, what JSON can hold, or small dataclasses (they are pickled when they are saved).
        attempt: (value, an empty folder to write into) -> whether the input got past the header: the file was recognised as its format, and its rows were
            reached. A `FretsawError` is a refusal at the door; one that comes later is raised as `Refused(past_header=True)`.
        covers: Modules whose line coverage is printed.
        share: Of all inputs, relative to the other targets.
        seconds: Of CPU time that one input may take.
        memory: Bytes by which the process may grow at one input.
        prints: Regular expression of the lines that a C library prints without being asked, and that nobody can stop.
    """

    name: str
    inputs: Any
    attempt: Callable[[Any, Path], bool]
    covers: tuple[str, ...] = ()
    share: float = 1.0
    seconds: float = 5.0
    memory: int = 512 * 2**20
    prints: str = ""


class Refused(Exception):  # noqa: N818, the refusal is right
    """A `FretsawError` was raised, which is a correct answer: `raise Refused(past_header=True) from error`."""

    def __init__(self, past_header: bool) -> None:
        super().__init__("refused")
        self.past_header = past_header


@dataclass
class Failure:
    """One kind of failure of a target, by its first input."""

    target: str
    reason: str
    saved: str = ""
    times: int = 1


@dataclass
class Score:
    """What happened to a target's inputs."""

    name: str
    inputs: int = 0
    past_header: int = 0
    refused: int = 0
    slowest: float = 0.0
    memory: int = 0
    failures: dict[str, Failure] = field(default_factory=dict)
    covers: tuple[str, ...] = ()

    def fail(self, failure: Failure) -> None:
        known = self.failures.setdefault(failure.reason, failure)
        known.times += known is not failure


@dataclass
class Report:
    """All scores, and how much of each covered module ran: {module: (lines that ran, lines there are, the lines that did not)}."""

    scores: list[Score]
    coverage: dict[str, tuple[int, int, list[int]]]
    seconds: float

    @property
    def inputs(self) -> int:
        return sum(score.inputs for score in self.scores)

    @property
    def past_header(self) -> float:
        return sum(score.past_header for score in self.scores) / max(1, self.inputs)

    @property
    def failures(self) -> list[Failure]:
        return [failure for score in self.scores for failure in score.failures.values()]

    def table(self) -> str:
        """Return everything as Markdown tables."""
        rows = ["| target | inputs | past the header | refused | failures | slowest | most memory |", "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
        for score in self.scores:
            failed = sum(failure.times for failure in score.failures.values())
            share = f"{100 * score.past_header / max(1, score.inputs):.0f} %"
            rows.append(f"| {score.name} | {score.inputs} | {share} | {score.refused} | {failed} | {score.slowest:.2f} s | {score.memory / 2**20:.0f} MiB |")
        failed = sum(failure.times for failure in self.failures)
        refused = sum(score.refused for score in self.scores)
        slowest, memory = max((s.slowest for s in self.scores), default=0), max((s.memory for s in self.scores), default=0)
        rows.append(f"| all | {self.inputs} | {100 * self.past_header:.0f} % | {refused} | {failed} | {slowest:.2f} s | {memory / 2**20:.0f} MiB |")
        rows += ["", "| module | lines that ran |", "| --- | ---: |"]
        rows += [f"| {name} | {ran} of {there}, {100 * ran / max(1, there):.0f} % |" for name, (ran, there, _) in self.coverage.items()]
        rows += ["", *(f"FAILED {f.target} ({f.times} times): {f.reason}  [{f.saved}]" for f in self.failures)]
        return "\n".join(rows)


def target_files() -> list[Path]:
    """Return the files of targets, one an area."""
    return sorted(HERE.glob("targets_*.py"))


def run(
    count: int,
    seed: int = 0,
    names: Iterable[str] = (),
    files: Sequence[Path] | None = None,
    keep: Path | None = None,
    at_least: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> Report:
    """Try `count` inputs, shared among the targets.

    Args:
        count: Of inputs, about.
        seed: The same seed makes the same inputs.
        names: Targets to try; none means all.
        files: Python files with `TARGETS`; None: all of this folder.
        keep: Folder for inputs that failed, made when there is one.
        at_least: Inputs for every target, whatever its share.
        tell: Is given a line now and then.
    """
    started = time.monotonic()
    wanted = set(names)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as work:
        children = [Child(path, Path(work) / path.stem) for path in (target_files() if files is None else files)]
        try:
            for child in children:
                child.hear()
            chosen = [(child, row) for child in children for row in child.targets if not wanted or row["name"] in wanted]
            missing = wanted - {row["name"] for _, row in chosen}
            if missing:
                raise SystemExit(f"expected targets out of {', '.join(row['name'] for child in children for row in child.targets)}; got {', '.join(missing)}")
            total = sum(row["share"] for _, row in chosen)
            scores = []
            for child, row in chosen:
                scores.append(child.try_target(row, max(at_least, round(count * row["share"] / total)), seed, keep))
                tell(f"{row['name']}: {scores[-1].inputs} inputs, {sum(f.times for f in scores[-1].failures.values())} failures")
        finally:
            for child in children:
                child.close()
        coverage = _coverage(children, [module for score in scores for module in score.covers])
    return Report(scores, coverage, time.monotonic() - started)


class Child:
    """A child process that tries the targets of one file, replaced when it dies."""

    def __init__(self, path: Path, work: Path) -> None:
        self._path, self.work = path, work
        work.mkdir(parents=True)
        self.targets: list[dict[str, Any]] = []
        self._start()

    def hear(self) -> None:
        """Wait until the child has started and told its targets."""
        hello = next(self._lines(None), None)
        if hello is None:
            raise RuntimeError(f"{self._path.name}: the child did not start: {(self.work / 'log').read_text(errors='replace')[-2000:]}")
        self.targets = hello["targets"]

    def _start(self) -> None:
        # Children print into files: what a library prints is looked at after each input.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE.parent), os.environ.get("PYTHONPATH", "")]), "OMP_NUM_THREADS": "1"}
        self._log = (self.work / "log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.child", str(self._path), str(self.work)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        self._waiting = b""

    def try_target(self, row: dict[str, Any], count: int, seed: int, keep: Path | None) -> Score:
        score = Score(row["name"], covers=tuple(row["covers"]))
        crashes = go = 0
        while score.inputs < count and crashes < MOST_CRASHES:
            before = score.inputs
            job = {"target": row["name"], "count": min(CHUNK, count - score.inputs), "seed": seed * 1_000_003 + go}
            go += 1
            self._send(job)
            finished = False
            for message in self._lines(row):
                if "done" in message:
                    finished = True
                    break
                if "reason" in message:
                    score.fail(Failure(row["name"], message["reason"], self._save(row["name"], Path(message["saved"]), keep)))
                score.inputs += 1
                score.past_header += message["past"]
                score.refused += message["refused"]
                score.slowest, score.memory = max(score.slowest, message["seconds"]), max(score.memory, message["memory"])
            if not finished:
                crashes += 1
                score.inputs += 1
                score.fail(Failure(row["name"], self._death(), self._save(row["name"], self.work / "input", keep)))
                self._start()
                self.hear()
            elif score.inputs == before:
                break  # the strategy has no more to give
        return score

    def _send(self, job: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        self._process.stdin.flush()

    def _lines(self, row: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
        """Yield the child's messages until it is dead, and kill it where it takes too long or too much; without a target nothing is watched."""
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        self._killed = ""
        at_input: tuple[float, float, int] | None = None  # clock, CPU time and memory when the present input began
        while True:
            while b"\n" in self._waiting:
                line, _, self._waiting = self._waiting.partition(b"\n")
                message = json.loads(line)
                if "begin" in message:
                    at_input = (time.monotonic(), message["begin"], message["memory"])
                    continue
                at_input = None
                yield message
            if select.select([pipe], [], [], 0.05)[0]:
                content = os.read(pipe, 65536)
                if not content:
                    return
                self._waiting += content
            elif row is not None and at_input is not None and not self._killed:
                cpu, memory = _usage(self._process.pid)
                spent, grown = cpu - at_input[1], memory - at_input[2]
                if spent > row["seconds"] or time.monotonic() - at_input[0] > 10 * row["seconds"]:
                    self._kill(f"took more than {row['seconds']:g} s")
                elif grown > row["memory"]:
                    self._kill(f"took more than {row['memory'] // 2**20} MiB")

    def _kill(self, reason: str) -> None:
        self._killed = reason
        self._process.kill()

    def _death(self) -> str:
        code = self._process.wait()
        self._log.close()
        if self._killed:
            return self._killed
        # A crashed interpreter's last words are its stack, innermost call first; a strategy that raises leaves a traceback.
        if code == 1:
            return f"the child ended: {(self.work / 'printed').read_text(errors='replace').strip().splitlines()[-1:]}"
        stack = re.findall(r'File "[^"]*/src/(fretsaw/[^"]*)", line (\d+)', (self.work / "log").read_text(errors="replace"))
        return f"the process died: {signal.Signals(-code).name if code < 0 else code}{f' at {stack[0][0]}:{stack[0][1]}' if stack else ''}"

    def _save(self, target: str, path: Path, keep: Path | None) -> str:
        if keep is None or not path.exists():
            return ""
        keep.mkdir(parents=True, exist_ok=True)
        number = len(list(keep.glob(f"{target}-*")))
        place = keep / f"{target}-{number:03d}.pickle"
        shutil.copyfile(path, place)
        return str(place)

    def close(self) -> None:
        """Let the child write down its coverage, and end it."""
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
                self._process.wait(30)
            except (OSError, subprocess.TimeoutExpired):
                self._process.kill()
                self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()


def _usage(process: int) -> tuple[float, int]:
    """Return the CPU seconds that a process has spent and the bytes that it holds; zeros where it is gone or the system does not say."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0, 0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE")


def _coverage(children: Sequence[Child], modules: Sequence[str]) -> dict[str, tuple[int, int, list[int]]]:
    import coverage

    files = [str(path) for child in children for path in child.work.glob("coverage*")]
    if not files:
        return {}
    measured = coverage.Coverage(data_file=None, config_file=False)
    measured.combine(files, keep=True)
    found = {}
    for module in dict.fromkeys(modules):
        path = ROOT / "src" / (module.replace(".", "/") + ".py")
        path = path if path.exists() else path.with_suffix("") / "__init__.py"
        _, there, _, missing, _ = measured.analysis2(str(path))
        found[module] = (len(there) - len(missing), len(there), missing)
    return found
