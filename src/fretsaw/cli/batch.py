"""What `auto`, `click`, `semantic` and `text` do with a list of images: one after another, a bad one skipped and named, a summary at the end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import typer

from fretsaw.cli.progress import Steps
from fretsaw.errors import FretsawError
from fretsaw.outputs import Job

Record = dict[str, Any]
"""What became of one job: input, output, and either "skipped", "error", or the facts of its result and its seconds."""


def run(jobs: Sequence[Job], work: Callable[[Job], Record], skip: Callable[[Job], bool], quiet: bool) -> list[Record]:
    """Do the jobs one by one; a file that fails is reported and the rest goes on.

    Args:
        jobs: What to read and where the result goes.
        work: Makes the result and writes it; returns the facts of it that belong into the record.
        skip: Whether a job's output stands already.
        quiet: Show nothing meanwhile.

    Returns:
        One record a job.
    """
    records: list[Record] = []
    with Steps(len(jobs), "images", quiet) as steps:
        for job in jobs:
            record: Record = {"input": str(job.source), "output": str(job.target)}
            started = time.perf_counter()
            try:
                if skip(job):
                    record["skipped"] = "the output exists"
                else:
                    record |= work(job)
                    record["seconds"] = round(time.perf_counter() - started, 3)
            except FretsawError as error:
                record["error"] = str(error)
                if not quiet:
                    steps.say(f"fretsaw: {error}" if str(job.source) in str(error) else f"fretsaw: {job.source}: {error}")
            records.append(record)
            steps.advance()
    return records


def finish(records: Sequence[Record], as_json: bool, describe: Callable[[Record], str] | None = None) -> None:
    """Print the summary and exit with a status that is not 0 if any file failed.

    Args:
        records: What `run` returned.
        as_json: Print the records themselves.
        describe: Of a single record that was written: what stands on standard error beside the path on standard output.
    """
    failed = sum("error" in record for record in records)
    skipped = sum("skipped" in record for record in records)
    if as_json:
        print(json.dumps(records, indent=2))
    elif len(records) == 1 and not failed and not skipped:
        [record] = records
        print(record["output"])
        if describe is not None:
            print(describe(record), file=sys.stderr)
    else:
        print(f"{len(records) - failed - skipped} written, {skipped} skipped (they exist; --overwrite writes them again), {failed} failed")
    if failed:
        raise typer.Exit(1)


def shares(record: Record) -> dict[str, str]:
    """Return each name's share of the area that has a name, in per cent."""
    total = max(sum(record["areas"].values()), 1)
    return {name: f"{area / total:.0%}" for name, area in record["areas"].items() if area}
