"""Work that takes long, with progress that a page can follow and a button that stops it."""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fretsaw.errors import FretsawError
from fretsaw.server.refusals import NotHereError, QueueFullError, refusal_of_system

LOGGER = logging.getLogger("fretsaw.server")

KEPT = 100
"""Finished jobs that can still be asked about."""

MOST_WAITING = 16
BEAT = 0.1
"""Seconds between two looks at a job that somebody follows."""

PATIENCE = 2.0
"""Seconds that a stopped job has for coming to its next picture; after that it is left to itself, and the next job begins."""

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
        told: Puts note and reason as clients may see them.
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
    told: Callable[[str], str] = str

    def tell(self, **changes: Any) -> None:
        """Change what is known about the job.

        Raises:
            StoppedError: If somebody has stopped it; called between two pictures, this is where it ends.
        """
        if self.ended or (self.stop.is_set() and self.state == "running"):
            raise StoppedError
        self.end(**changes)

    def end(self, **changes: Any) -> None:
        """Change what is known about the job, stopped or not."""
        for name, value in changes.items():
            setattr(self, name, value)
        self.version += 1

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state not in ("waiting", "running")

    def to_dict(self) -> dict[str, Any]:
        """Return what a client may know."""
        plain = {name: getattr(self, name) for name in ("id", "kind", "state", "total", "done")}
        return plain | {"note": self.told(self.note), "reason": self.told(self.reason), "has_file": self.file is not None}


class Jobs:
    """Runs jobs one after the other, each in a thread of its own; their use of the model goes through the workers' slow lane.

    A job that is stopped and does not come to an end, because it hangs in a file for example, is left to itself: it can do nothing more (`Job.tell` refuses),
    its thread dies with the process, and the next job begins.

    Args:
        told: Puts what a job says as clients may see it.
    """

    def __init__(self, told: Callable[[str], str] = str) -> None:
        self._told = told
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._queue: queue.SimpleQueue[tuple[Job, Callable[[Job], None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="fretsaw-jobs", daemon=True)
        self._thread.start()

    def start(self, kind: str, work: Callable[[Job], None]) -> Job:
        """Queue a job.

        Raises:
            QueueFullError: If too many wait.
        """
        if sum(not job.ended for job in list(self._jobs.values())) >= MOST_WAITING:
            raise QueueFullError(f"expected fewer than {MOST_WAITING} jobs at once; wait for one to end, or stop one")
        job = Job(secrets.token_hex(8), kind, told=self._told)
        self._jobs[job.id] = job
        for old in list(self._jobs.values())[:-KEPT]:
            if old.ended:
                self.drop(old.id)
        self._queue.put((job, work))
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
        if job.state == "waiting":
            job.end(state="stopped")
        return job

    def drop(self, identity: str) -> None:
        """Forget a finished job and delete what it made."""
        job = self._jobs.pop(identity)
        if job.file is not None:
            job.file.unlink(missing_ok=True)

    def close(self) -> None:
        """Stop everything; what hangs is left behind."""
        for job in list(self._jobs.values()):
            job.stop.set()
        self._queue.put(None)
        self._thread.join(2 * PATIENCE)

    async def follow(self, identity: str) -> AsyncIterator[str]:
        """Yield server-sent events: the job now, whenever it changes, and at its end."""
        job, seen, last = self.find(identity), -1, time.monotonic()
        while True:
            version, ended = job.version, job.ended
            if version != seen:
                seen, last = version, time.monotonic()
                yield f"data: {json.dumps(job.to_dict())}\n\n"
            elif time.monotonic() - last > SILENCE:
                last = time.monotonic()
                yield ": still here\n\n"
            if ended and job.version == seen:
                return
            await asyncio.sleep(BEAT)

    def _loop(self) -> None:
        while (entry := self._queue.get()) is not None:
            job, work = entry
            thread = threading.Thread(target=_run, args=(job, work), name=f"fretsaw-job-{job.id}", daemon=True)
            thread.start()
            while thread.is_alive():
                if job.stop.wait(BEAT):
                    thread.join(PATIENCE)
                    break
                thread.join(BEAT)
            if not job.ended:
                job.end(state="stopped")


def _run(job: Job, work: Callable[[Job], None]) -> None:
    try:
        job.tell(state="running")
        work(job)
        job.tell(state="done")
    except StoppedError:
        if not job.ended:
            job.end(state="stopped")
    except FretsawError as error:
        if not job.ended:
            job.end(state="failed", reason=str(error))
    except OSError as error:
        LOGGER.warning("%s: %s", job.kind, error)
        if not job.ended:
            job.end(state="failed", reason=refusal_of_system(error, job.kind)[1])
    except Exception as error:
        LOGGER.error("a job failed (%s)", job.kind, exc_info=error)
        if not job.ended:
            job.end(state="failed", reason=f"an error of the server's own: {type(error).__name__}")
