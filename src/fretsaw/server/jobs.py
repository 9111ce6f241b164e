"""Work that takes long, with progress that a page can follow and a button that stops it."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fretsaw.errors import FretsawError
from fretsaw.server.refusals import BusyError, NotHereError

KEPT = 100
"""Finished jobs that can still be asked about."""

MOST_WAITING = 16
BEAT = 0.1
"""Seconds between two looks at a job that somebody follows."""

SILENCE = 15.0
"""Seconds after which a line without meaning keeps the connection open."""


class StoppedError(Exception):
    """Somebody stopped the job."""


@dataclass(slots=True)
class Job:
    """One piece of long work.

    Attributes:
        id: Hexadecimal.
        kind: "auto", "export" or "import".
        state: "waiting", "running", "done", "failed" or "stopped".
        total: Number of pictures, or of files to read.
        done: How many are finished.
        note: What goes on, or went wrong with a picture.
        reason: Why it failed.
        file: What it made, to be fetched.
    """

    id: str
    kind: str
    state: str = "waiting"
    total: int = 0
    done: int = 0
    note: str = ""
    reason: str = ""
    file: Path | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    version: int = 0

    def tell(self, **changes: Any) -> None:
        """Change what is known about the job.

        Raises:
            StoppedError: If somebody has stopped it; called between two pictures, this is where it ends.
        """
        for name, value in changes.items():
            setattr(self, name, value)
        self.version += 1
        if self.stop.is_set() and self.state == "running":
            raise StoppedError

    def to_dict(self) -> dict[str, Any]:
        """Return what a client may know."""
        return {name: getattr(self, name) for name in ("id", "kind", "state", "total", "done", "note", "reason")} | {"has_file": self.file is not None}


class Jobs:
    """Runs jobs one after the other in a thread of its own; their use of the model goes through the workers' slow lane."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._executor = ThreadPoolExecutor(1, "fretsaw-job")

    def start(self, kind: str, work: Callable[[Job], None]) -> Job:
        """Queue a job.

        Raises:
            BusyError: If too many wait.
        """
        if sum(job.state in ("waiting", "running") for job in self._jobs.values()) >= MOST_WAITING:
            raise BusyError(f"expected fewer than {MOST_WAITING} jobs at once; wait for one to end, or stop one")
        job = Job(secrets.token_hex(8), kind)
        self._jobs[job.id] = job
        for old in list(self._jobs.values())[:-KEPT]:
            if old.state not in ("waiting", "running"):
                self.drop(old.id)
        self._executor.submit(self._run, job, work)
        return job

    def find(self, identity: str) -> Job:
        """Return a job.

        Raises:
            NotHereError: If there is none, or it was forgotten.
        """
        if identity not in self._jobs:
            raise NotHereError("expected the id of a job, got none that is known; finished ones are forgotten after a while")
        return self._jobs[identity]

    def stop(self, identity: str) -> Job:
        """Stop a job before its next picture."""
        job = self.find(identity)
        job.stop.set()
        return job

    def drop(self, identity: str) -> None:
        """Forget a finished job and delete what it made."""
        job = self._jobs.pop(identity)
        if job.file is not None:
            job.file.unlink(missing_ok=True)

    def close(self) -> None:
        """Stop everything."""
        for job in self._jobs.values():
            job.stop.set()
        self._executor.shutdown(wait=True, cancel_futures=True)

    async def follow(self, identity: str) -> AsyncIterator[str]:
        """Yield server-sent events: the job now, whenever it changes, and at its end."""
        job, seen, last = self.find(identity), -1, time.monotonic()
        while True:
            version, ended = job.version, job.state not in ("waiting", "running")
            if version != seen:
                seen, last = version, time.monotonic()
                yield f"data: {json.dumps(job.to_dict())}\n\n"
            elif time.monotonic() - last > SILENCE:
                last = time.monotonic()
                yield ": still here\n\n"
            if ended and job.version == seen:
                return
            await asyncio.sleep(BEAT)

    @staticmethod
    def _run(job: Job, work: Callable[[Job], None]) -> None:
        try:
            job.tell(state="running")
            work(job)
            job.tell(state="done")
        except StoppedError:
            job.tell(state="stopped")
        except FretsawError as error:
            job.tell(state="failed", reason=str(error))
        except Exception as error:
            job.tell(state="failed", reason=f"an error of the server's own: {type(error).__name__}")
            raise
