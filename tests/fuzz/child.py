"""The child: makes inputs, tries them, and tells the parent about each; see `harness.py`."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pickle
import re
import resource
import shutil
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import coverage

ROOT = Path(__file__).resolve().parents[2]


class Output:
    """What anybody prints to the process's standard output and error, C libraries included."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        for descriptor in (1, 2):
            os.dup2(self._file.fileno(), descriptor)

    def take(self) -> str:
        """Return what was printed since the last call."""
        sys.stdout.flush()
        sys.stderr.flush()
        if not os.fstat(self._file.fileno()).st_size:
            return ""
        self._file.seek(0)
        text = self._file.read().decode(errors="replace")
        self._file.seek(0)
        self._file.truncate()
        return text


def resident() -> int:
    """Return the bytes that this process holds."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Return the most bytes that this process has held since `reset_peak`, or ever where the system cannot reset it."""
    try:
        text = Path("/proc/self/status").read_text()
        return int(text.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def trouble(error: BaseException) -> str:
    """Return an exception in words that are the same for the same fault: its kind, the start of its text, and where in the package it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    place = next((frame for frame in reversed(frames) if "/src/fretsaw/" in frame.filename), frames[-1] if frames else None)
    where = f" at {Path(place.filename).name}:{place.lineno}" if place is not None else ""
    return f"{type(error).__name__}{where}: {' '.join(str(error).split())[:80]!a}"


def complaint(error: BaseException, longest: int) -> str:
    """Return what is wrong with the message of a refusal, or ""."""
    text = str(error)
    if len(text) >= longest or not text.isprintable() or not text:
        return f"{type(error).__name__} with a message that is no single printable line below {longest} characters: {text[:120]!a}"
    return ""


def attempt(target: Any, value: Any, folder: Path, output: Output) -> dict[str, Any]:
    """Try one input; return what happened, with a `reason` where it failed."""
    from fretsaw.errors import FretsawError

    from .harness import LONGEST_MESSAGE, Refused

    past = refused = False
    reason = ""
    before, started = resident(), time.process_time()
    reset_peak()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            past = bool(target.attempt(value, folder))
        except Refused as error:
            past, refused = error.past_header, True
            if not isinstance(error.__cause__, FretsawError):
                reason = f"Refused for another reason than a FretsawError: {error.__cause__!r:.80}"
            else:
                reason = complaint(error.__cause__, LONGEST_MESSAGE)
        except FretsawError as error:
            refused, reason = True, complaint(error, LONGEST_MESSAGE)
        except BaseException as error:
            reason = trouble(error)
    seconds, grown = time.process_time() - started, max(0, peak() - before)
    printed = " ".join(line for line in output.take().splitlines() if not (target.prints and re.fullmatch(target.prints, line)))
    if not reason and said:
        reason = f"warned: {said[0].category.__name__} at {Path(said[0].filename).name}:{said[0].lineno}"
    if not reason and printed:
        reason = f"printed: {' '.join(printed.split())[:80]!a}"
    if not reason and seconds > target.seconds:
        reason = f"took more than {target.seconds:g} s"
    if not reason and grown > target.memory:
        reason = f"took more than {target.memory // 2**20} MiB"
    return {"past": past, "refused": refused, "seconds": seconds, "memory": grown} | ({"reason": reason} if reason else {})


def work_on(target: Any, count: int, seed: int, folder: Path, output: Output, tell: Any) -> None:
    """Make `count` inputs and try them."""
    import hypothesis
    from hypothesis.errors import Unsatisfiable

    number = 0

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=[*hypothesis.HealthCheck],
        backend="hypothesis",
    )
    @hypothesis.given(target.inputs)
    def body(value: Any) -> None:
        nonlocal number
        number += 1
        (folder / "input").write_bytes(pickle.dumps(value))
        place = folder / "files"
        place.mkdir()
        tell({"begin": time.process_time(), "memory": resident()})
        found = attempt(target, value, place, output)
        if "reason" in found:
            saved = folder / f"failed-{seed}-{number}"
            shutil.copyfile(folder / "input", saved)
            found["saved"] = str(saved)
        tell(found)
        shutil.rmtree(place, ignore_errors=True)

    shutil.rmtree(folder / "files", ignore_errors=True)
    with contextlib.suppress(Unsatisfiable):
        body()


def load(path: Path) -> list[Any]:
    name = f"tests.fuzz.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return list(module.TARGETS)


def main() -> None:
    path, folder = Path(sys.argv[1]), Path(sys.argv[2])
    from .harness import MOST_ADDRESSES

    pipe = os.dup(1)
    measured = coverage.Coverage(data_file=str(folder / "coverage"), data_suffix=str(os.getpid()), config_file=False, include=[str(ROOT / "src/fretsaw/*")])
    measured.start()
    import faulthandler

    # Both go to the parent's log rather than to what is looked at after each input.
    faulthandler.enable(file=os.fdopen(os.dup(2), "w"), all_threads=False)
    targets = {target.name: target for target in load(path)}
    output = Output(folder / "printed")
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if Path("/proc/self/statm").exists() else 0
    if mapped:
        resource.setrlimit(resource.RLIMIT_AS, (mapped + MOST_ADDRESSES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def tell(message: dict[str, Any]) -> None:
        os.write(pipe, json.dumps(message).encode() + b"\n")

    tell({"targets": [{"name": t.name, "share": t.share, "covers": t.covers, "seconds": t.seconds, "memory": t.memory} for t in targets.values()]})
    for line in sys.stdin.buffer:
        job = json.loads(line)
        if "replay" in job:
            tell(attempt(targets[job["target"]], pickle.loads(Path(job["replay"]).read_bytes()), folder, output))
        else:
            work_on(targets[job["target"]], job["count"], job["seed"], folder, output, tell)
        measured.stop()
        measured.save()
        measured.start()
        tell({"done": True})


if __name__ == "__main__":
    main()
