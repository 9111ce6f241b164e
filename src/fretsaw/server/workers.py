"""A bounded queue with threads behind it: what stands in front of the model, so that many clients cannot overrun it."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

from starlette.requests import Request

from fretsaw.server.refusals import QueueFullError, ReplacedError

T = TypeVar("T")


class Lane(IntEnum):
    """What goes first. Work in the slow lane never takes the last worker, so that a click need not wait for somebody else's picture."""

    CLICK = 0
    PREVIEW = 1
    SLOW = 2


@dataclass(slots=True)
class _Waiting:
    """A function that waits for a thread; see `Workers.submit`."""

    lane: Lane
    number: int
    key: Hashable
    group: Hashable
    future: Future[Any]
    work: Callable[[], Any]


class ClientGoneError(Exception):
    """The client hung up before its work was done; there is nobody to tell."""


class Workers:
    """Runs functions in threads, the quick ones first.

    Args:
        count: Number of threads.
        capacity: Most functions that wait; `submit` refuses more.
        name: Of the threads.
        prepare: Called once in each thread.
    """

    def __init__(self, count: int, capacity: int, name: str, prepare: Callable[[], Any] = lambda: None) -> None:
        self._capacity, self._slow_limit = capacity, max(1, count - 1)
        self._waiting: list[_Waiting] = []
        self._numbers = itertools.count()
        self._slow_running = self._running = 0
        self._groups: set[Hashable] = set()
        self._closed = False
        self._condition = threading.Condition()
        self._prepare = prepare
        self._threads = [threading.Thread(target=self._loop, name=f"{name}-{i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """How many functions wait for a thread."""
        with self._condition:
            return sum(not entry.future.cancelled() for entry in self._waiting)

    @property
    def running(self) -> int:
        """How many threads are at work."""
        return self._running

    def submit(self, work: Callable[[], T], lane: Lane = Lane.CLICK, key: Hashable = None, group: Hashable = None) -> Future[T]:
        """Queue a function and return its future; one that is cancelled before it began never runs.

        Args:
            work: The function.
            lane: Its urgency.
            key: If given, a function that still waits under the same key is cancelled: the newer one takes its place.
            group: If given, functions of one group run one after the other; those that wait for another of their group take no thread meanwhile.

        Raises:
            QueueFullError: If the queue is full.
        """
        with self._condition:
            if key is not None:
                for entry in self._waiting:
                    if entry.key == key:
                        entry.future.cancel()
            # What was cancelled is dropped here, so that clients that came and went do not fill the queue.
            self._waiting = [entry for entry in self._waiting if not entry.future.cancelled()]
            if self._closed or len(self._waiting) >= self._capacity:
                raise QueueFullError(f"expected fewer than {self._capacity} requests waiting; try again in a moment")
            future: Future[Any] = Future()
            self._waiting.append(_Waiting(lane, next(self._numbers), key, group, future, work))
            self._condition.notify_all()
        return future

    async def run(self, request: Request | None, work: Callable[[], T], lane: Lane = Lane.CLICK, key: Hashable = None, group: Hashable = None) -> T:
        """Queue a function, see `submit`, and wait for its result; if the client hangs up meanwhile, a function that has not begun is dropped.

        Raises:
            QueueFullError: If the queue is full.
            ReplacedError: If a newer request under the same key took its place.
            ClientGoneError: If the client hung up.
        """
        return await wait_for(self.submit(work, lane, key, group), request)

    def close(self) -> None:
        """Drop what waits and let the threads end."""
        with self._condition:
            self._closed = True
            for entry in self._waiting:
                entry.future.cancel()
            self._waiting.clear()
            self._condition.notify_all()

    def _loop(self) -> None:
        self._prepare()
        while (entry := self._next()) is not None:
            try:
                if entry.future.set_running_or_notify_cancel():
                    try:
                        entry.future.set_result(entry.work())
                    except BaseException as error:
                        entry.future.set_exception(error)
            finally:
                with self._condition:
                    self._running -= 1
                    self._slow_running -= entry.lane is Lane.SLOW
                    self._groups.discard(entry.group)
                    self._condition.notify_all()

    def _next(self) -> _Waiting | None:
        with self._condition:
            while True:
                if self._closed:
                    return None
                ready = [entry for entry in self._waiting if self._may_run(entry)]
                if ready:
                    entry = min(ready, key=lambda entry: (entry.lane, entry.number))
                    self._waiting.remove(entry)
                    self._running += 1
                    self._slow_running += entry.lane is Lane.SLOW
                    if entry.group is not None:
                        self._groups.add(entry.group)
                    return entry
                self._condition.wait()

    def _may_run(self, entry: _Waiting) -> bool:
        return (entry.lane is not Lane.SLOW or self._slow_running < self._slow_limit) and entry.group not in self._groups


async def wait_for(future: Future[T], request: Request | None, shared: bool = False) -> T:
    """Wait for a future while its client is there, see `Workers.run`.

    Args:
        future: Cancelled, if it has not begun, when the client hangs up.
        request: The client's.
        shared: Others wait for the future too: it is never cancelled here.
    """
    wrapped = asyncio.wrap_future(future)
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({wrapped, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not wrapped.done():
            if not shared:
                future.cancel()
            raise ClientGoneError
        if future.cancelled():
            raise ReplacedError("a newer request took this one's place before it began")
        return await wrapped
    except CancelledError as error:
        raise ReplacedError("the request was cancelled before it began") from error
    finally:
        gone.cancel()


async def _hung_up(request: Request | None) -> None:
    """Return when the client has hung up; never, where there is none."""
    while request is not None:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return
    await asyncio.Event().wait()
