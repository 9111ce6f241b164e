"""The parts of one server, put together, and the little that all routes need of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, TypeVar
from urllib.parse import unquote

from fastapi import Depends
from starlette.requests import Request

from fretsaw.api import Segmenter
from fretsaw.server.changes import PERSON
from fretsaw.server.gallery import Gallery
from fretsaw.server.guard import SAFE_METHODS
from fretsaw.server.jobs import Jobs
from fretsaw.server.metrics import Metrics
from fretsaw.server.open_picture import OpenPicture
from fretsaw.server.places import FolderHider
from fretsaw.server.refusals import ReplacedError
from fretsaw.server.sessions import Sessions
from fretsaw.server.settings import ServerSettings
from fretsaw.server.store import Store
from fretsaw.server.workers import Lane, Workers, wait_for

T = TypeVar("T")
FILE_THREADS = 2
LONGEST_PERSON = 80


class Workbench:
    """Everything a request may need.

    Attributes:
        model: Workers in front of the model.
        files: Workers that read, pack and shrink pictures.
    """

    def __init__(self, segmenter: Segmenter, settings: ServerSettings) -> None:
        self.segmenter, self.settings = segmenter, settings
        self.store = Store(settings.data)  # first: where another server owns the folder, nothing else begins
        # All workers compute at once, and more threads than cores only wait for each other.
        threads = max(1, (os.cpu_count() or 1) // settings.workers)
        self.model = Workers(settings.workers, settings.queue, "fretsaw-model", lambda: segmenter.limit_threads(threads))
        self.files = Workers(FILE_THREADS, 4 * settings.queue, "fretsaw-files")
        self.gallery = Gallery(settings.folder)
        self.jobs = Jobs(FolderHider(settings.data, settings.folder).hide)
        self.sessions = Sessions(segmenter, self.store, self.gallery, self.model, settings)
        self.metrics = Metrics(self.sessions, self.model)

    async def at(self, request: Request, identity: str, work: Callable[[OpenPicture], T], lane: Lane = Lane.CLICK, key: object = None) -> T:
        """Do something with the model on a picture, whose embedding is brought first if it is not there.

        Clicks on one picture run one after the other; those that wait keep no worker from another picture's.

        Raises:
            NotHereError: If there is no such picture.
            QueueFullError: If the queue is full.
        """
        if not self.sessions.is_ready(identity):
            with self.sessions.encoding(identity) as encoding:
                await wait_for(encoding, request, shared=True)
        group = identity if lane is Lane.CLICK else None
        return await self.model.run(request, lambda: self._on_picture(identity, work, request), lane, (identity, key) if key is not None else None, group)

    async def read(self, request: Request, identity: str, work: Callable[[OpenPicture], T]) -> T:
        """Do something on a picture that needs no model."""
        return await self.files.run(request, lambda: self._on_picture(identity, work, request))

    def _on_picture(self, identity: str, work: Callable[[OpenPicture], T], request: Request) -> T:
        token = PERSON.set(person_of(request))
        try:
            with self.sessions.use(identity) as picture:
                if picture.refresh() and request.method not in SAFE_METHODS:
                    raise ReplacedError(picture.record.notice)  # it was about the picture before
                return work(picture)
        finally:
            PERSON.reset(token)

    def close(self) -> None:
        """Stop jobs and threads, and give the folder up."""
        self.jobs.close()
        self.model.close()
        self.files.close()
        self.store.close()


def workbench_of(request: Request) -> Workbench:
    """Return the workbench of the application that a request came to."""
    return request.app.state.bench


Bench = Annotated[Workbench, Depends(workbench_of)]
"""A route's parameter: the workbench of its application."""


def person_of(request: Request) -> str:
    """Return who a request says to be, for the log: printable text of some length, percent-encoded in the header Fretsaw-Person; or ""."""
    return "".join(letter for letter in unquote(request.headers.get("fretsaw-person", "")) if letter.isprintable())[:LONGEST_PERSON]
