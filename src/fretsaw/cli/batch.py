"""What `auto`, `click`, `semantic` and `text` do with a list of images: one after another, a bad one skipped and named, a summary at the end."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from fretsaw.cli.interrupts import MESSAGE, raise_if_interrupted, status_of
from fretsaw.cli.progress import Steps
from fretsaw.errors import FretsawError
from fretsaw.outputs import ImageTask, lasting_failure, remove_unfinished

Record = dict[str, Any]
"""What became of one job: input, output, and either "skipped", "error", or the facts of its result and its seconds."""


@dataclass
class Batch:
    """What became of a list of jobs.

    Attributes:
        records: One for every job that was tried, in order.
        untried: Number of jobs that were not.
        reason: Why the run stopped before its end; "" if it did not.
        status: Exit status of a run that a signal stopped, else 0.
    """

    records: list[Record] = field(default_factory=list)
    untried: int = 0
    reason: str = ""
    status: int = 0


def run(jobs: Sequence[ImageTask], work: Callable[[ImageTask], Record], skip: Callable[[ImageTask], bool], quiet: bool) -> Batch:
    """Do the jobs one by one. A file that fails, for whatever reason, is reported and the rest goes on; the run stops early on Ctrl-C, on SIGTERM, and at a
    failure that the next file would meet too, such as a full disk.

    Args:
        jobs: What to read and where the result goes.
        work: Makes the result and writes it; returns the facts of it that belong into the record.
        skip: Whether a job's output stands already.
        quiet: Show nothing meanwhile.

    Returns:
        The records, and why the run stopped if it did.
    """
    batch = Batch()
    remove_unfinished({job.target.parent for job in jobs})
    with Steps(len(jobs), "images", quiet) as steps:
        for number, job in enumerate(jobs):
            record: Record = {"input": str(job.source), "output": str(job.target)}
            started = time.perf_counter()
            try:
                raise_if_interrupted()
                if skip(job):
                    record["skipped"] = "the output exists"
                else:
                    record |= _done(work, job)
                    record["seconds"] = round(time.perf_counter() - started, 3)
            except KeyboardInterrupt as stop:
                finished = len(record) > 2
                if finished:  # the signal came between the work and this list
                    batch.records.append(record)
                batch.untried, batch.reason, batch.status = len(jobs) - number - finished, MESSAGE, status_of(stop)
                return batch
            except Exception as error:
                record["error"] = said(error)
                if not quiet:
                    steps.say(f"fretsaw: {record['error']}" if str(job.source) in record["error"] else f"fretsaw: {job.source}: {record['error']}")
                if (lasting := lasting_failure(error)) is not None:
                    batch.untried = len(jobs) - number - 1
                    batch.reason = f"stopped: {lasting.strerror}; what was finished is kept" if batch.untried else ""
            batch.records.append(record)
            steps.advance()
            if batch.reason:
                return batch
    return batch


def _done(work: Callable[[ImageTask], Record], job: ImageTask) -> Record:
    """Do one job. What fails after a signal has come failed by it, most likely: libraries turn an interrupt in their midst into errors of their own."""
    try:
        return work(job)
    except Exception:
        raise_if_interrupted()
        raise


def finish(batch: Batch, as_json: bool, describe: Callable[[Record], str] | None = None) -> None:
    """Print the summary and exit with a status that is not 0 if any file failed or was not tried.

    Args:
        batch: What `run` returned.
        as_json: Print the records themselves.
        describe: Of a single record that was written: what stands on standard error beside the path on standard output.
    """
    records = batch.records
    failed = sum("error" in record for record in records)
    skipped = sum("skipped" in record for record in records)
    if as_json:
        print(json.dumps(records, indent=2))
    elif len(records) == 1 and not failed and not skipped and not batch.untried:
        [record] = records
        print(record["output"])
        if describe is not None:
            print(describe(record), file=sys.stderr)
    else:
        untried = f", {batch.untried} not tried" if batch.untried else ""
        print(f"{len(records) - failed - skipped} written, {skipped} skipped (they exist; --overwrite writes them again), {failed} failed{untried}")
    if batch.reason:
        print(f"fretsaw: {batch.reason}", file=sys.stderr)
    if batch.status or failed or batch.untried:
        raise typer.Exit(batch.status or 1)


def said(error: Exception) -> str:
    """Return what a failure says, on one line; one that is no `FretsawError` is named and placed, since it may be a defect."""
    text = " ".join(str(error).split())
    if isinstance(error, FretsawError):
        return text
    frames = traceback.extract_tb(error.__traceback__)
    place = f" (at {Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text[:300] or 'no further words'}{place}"


def shares(record: Record) -> dict[str, str]:
    """Return each name's share of the area that has a name, in per cent."""
    total = max(sum(record["areas"].values()), 1)
    return {name: f"{area / total:.0%}" for name, area in record["areas"].items() if area}
