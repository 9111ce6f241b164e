"""How a server listens: how many connections it holds, how long it waits for them, and how it ends.

Beneath the application, where uvicorn holds connections: a client that says nothing, or its headers a byte at a time, never reaches the application. `Door`
takes connections in, `Connection` watches one of them, `listen` and `run` put both together for `fretsaw serve`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, ClassVar, cast

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from fretsaw.errors import ConfigError
from fretsaw.server.settings import ServerSettings

LOGGER = logging.getLogger("fretsaw.server")

BACKLOG = 128
"""Connections that the system holds for a server that is busy for a moment."""

SURPLUS = 16
"""Connections beyond the most, which are told so in peace; beyond these, they are told so and closed at once."""

SURPLUS_SECONDS = 2.0
IDLE_BEFORE_EVICTION = 1.0
"""Seconds for which a connection must have been idle before a newer one takes its place."""

LINGER = 10.0
"""Seconds for the last bytes of a connection that is being closed."""

GRACE = 3
"""Seconds for requests that run when the server is told to end."""

LAST_RESORT = 8.0
"""Seconds after which a server that was told to end is ended, whatever hangs."""

QUIET = 60.0
"""Seconds between two lines about the same trouble."""

FULL = {"reason": "expected fewer connections at once; try again in a moment", "kind": "ConnectionLimitError"}
FULL_BODY = json.dumps(FULL).encode()


def _raw(status: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nretry-after: 1\r\nconnection: close\r\n\r\n".encode() + body


RAW_FULL = _raw("503 Service Unavailable", FULL_BODY)


async def refuse_surplus(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request on a connection that is one too many."""
    if scope["type"] == "http":
        headers = [(b"content-type", b"application/json"), (b"retry-after", b"1"), (b"connection", b"close"), (b"content-length", b"%d" % len(FULL_BODY))]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": FULL_BODY})


def free_descriptors() -> int:
    """Return how many more files and connections this process may open."""
    try:
        import resource
    except ImportError:  # Windows
        return 1 << 16
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 20
    used = 64
    for folder in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            used = len(os.listdir(folder))
            break
    return max(0, soft - used)


def most_connections(wanted: int, free: int) -> int:
    """Return how many connections a server may hold: half of the free descriptors at most, since the files of its work need the others."""
    return max(4, min(wanted, (free - SURPLUS) // 2))


class Door(socket.socket):
    """A listening socket that always takes a connection in, and turns those away at once that would be too many.

    asyncio takes connections in a loop, logs every failure and tries again: a process without descriptors would do nothing but log. Here one descriptor is
    held in reserve, with which even then a connection can be taken in and told why it is closed.
    """

    def __init__(self, listening: socket.socket, most: int) -> None:
        super().__init__(listening.family, listening.type, listening.proto, fileno=listening.detach())
        self.most = most
        self.refused = 0
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._reserve = self._new_reserve()
        self._told = float("-inf")

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection.

        Raises:
            BlockingIOError: If none waits.
        """
        while True:
            try:
                connection, address = super().accept()
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
                self._refuse_by_reserve()
                continue
            if sum(other.fileno() >= 0 for other in self._open) < self.most:
                self._open.add(connection)
                return connection, address
            self._refuse(connection)

    def close(self) -> None:
        """Stop listening."""
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None
        super().close()

    def _refuse(self, connection: socket.socket) -> None:
        self.refused += 1
        with contextlib.suppress(OSError):
            connection.setblocking(False)
            connection.send(RAW_FULL)
            connection.shutdown(socket.SHUT_WR)
        connection.close()
        if time.monotonic() - self._told > QUIET:
            self._told = time.monotonic()
            LOGGER.warning("more than %d connections at once; newer ones are told to try again (%d so far)", self.most, self.refused)

    def _refuse_by_reserve(self) -> None:
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None
        try:
            connection, _ = super().accept()
        except BlockingIOError:
            raise
        except OSError:  # another thread was quicker
            time.sleep(0.01)
            raise BlockingIOError from None
        else:
            self._refuse(connection)
        finally:
            self._reserve = self._new_reserve()

    @staticmethod
    def _new_reserve() -> int | None:
        try:
            return os.open(os.devnull, os.O_RDONLY)
        except OSError:
            return None


class Connection(H11Protocol):
    """One connection: is closed when its client keeps the server waiting, and makes room when others wait and it is idle."""

    most: ClassVar[int] = 512
    head_seconds: ClassVar[float] = 15.0
    idle_seconds: ClassVar[float] = 5.0
    send_seconds: ClassVar[float] = 60.0

    _timer: asyncio.TimerHandle | None = None
    _waits_for = ""
    _quiet_since = 0.0

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        cycle = cast("Any", self.cycle)  # None before the first request, whatever uvicorn's annotation says
        return cycle is not None and not cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection in, if there is room or another one makes room."""
        super().connection_made(transport)
        self._quiet_since = self.loop.time()
        if sum(not other.transport.is_closing() for other in self.connections) > self.most and not self._make_room():
            self.app = refuse_surplus
            self._wait("surplus", SURPLUS_SECONDS, transport.close)
        else:
            self._wait("head", self.head_seconds, self._end)

    def data_received(self, data: bytes) -> None:
        """Take bytes in; until they are a whole head, time runs."""
        super().data_received(data)
        if self.busy:
            self._stop_waiting()
        elif self._waits_for in ("", "idle") and not self.transport.is_closing():
            self._wait("head", self.head_seconds, self._end)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._quiet_since = self.loop.time()
        if not self.busy:
            # uvicorn closes an idle connection; what it has sent and nobody takes up keeps a closed one open.
            self._wait("idle", self.timeout_keep_alive + LINGER, self.transport.abort)

    def pause_writing(self) -> None:
        """The client does not take up what is sent to it."""
        super().pause_writing()
        self._wait("sending", self.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has taken it up."""
        super().resume_writing()
        if self._waits_for == "sending":
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self, what: str, seconds: float, then: Callable[[], None]) -> None:
        self._stop_waiting()
        self._waits_for = what
        self._timer = self.loop.call_later(seconds, then)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._waits_for = None, ""

    def _end(self) -> None:
        """Close a connection whose request does not come; with a word, where some of it came."""
        if not self.transport.is_closing():
            if not self.busy and self.conn.trailing_data[0]:
                reason = f"expected a request's headers within {self.head_seconds:g} s, got a part of them"
                self.transport.write(_raw("408 Request Timeout", json.dumps({"reason": reason, "kind": "SlowError"}).encode()))
            self.transport.close()
        self._wait("closing", LINGER, self.transport.abort)

    def _make_room(self) -> bool:
        """Close the connection that has been idle for longest, if there is one."""
        now = self.loop.time()
        connections = cast("set[object]", self.connections)
        others = [other for other in connections if isinstance(other, Connection) and other is not self and not other.transport.is_closing()]
        idle = [other for other in others if not other.busy and now - other._quiet_since >= IDLE_BEFORE_EVICTION]
        if not idle:
            return False
        min(idle, key=lambda other: other._quiet_since).transport.abort()
        return True


def listen(host: str, port: int, settings: ServerSettings) -> Door:
    """Return a socket that listens, for `run`.

    Raises:
        ConfigError: If the address is not to be had.
    """
    most = most_connections(settings.connections, free_descriptors())
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        both = host == "::" and socket.has_dualstack_ipv6()
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except (OSError, OverflowError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise ConfigError(f"expected an address to listen on that is this machine's and free, got {host} port {port}: {said}") from error
    return Door(listening, most + SURPLUS)


def make_server(app: ASGIApp, door: Door, settings: ServerSettings) -> uvicorn.Server:
    """Return what serves an application: `server.run([door])` does, until `server.should_exit` is set.

    Args:
        app: What `create_app` returns.
        door: What `listen` returns.
        settings: Limits.
    """
    limits = {"most": door.most - SURPLUS} | {name: getattr(settings, name) for name in ("head_seconds", "idle_seconds", "send_seconds")}
    config = uvicorn.Config(
        app,
        loop="asyncio",  # uvloop does not ask the door
        http=type("LimitedConnection", (Connection,), limits),
        ws="none",
        # uvicorn warns of every malformed request; what is an error here is logged by the application.
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=settings.idle_seconds,
        timeout_graceful_shutdown=GRACE,
    )
    return uvicorn.Server(config)


def run(app: ASGIApp, door: Door, settings: ServerSettings, last_words: Callable[[], None]) -> None:
    """Be a process that serves until SIGTERM or Ctrl+C: requests have `GRACE` seconds then, and it ends after `LAST_RESORT` seconds, whatever hangs.

    Args:
        app: What `create_app` returns.
        door: What `listen` returns.
        settings: Limits.
        last_words: Called where the process has to be ended.
    """
    server = make_server(app, door, settings)
    # uvicorn raises the signal once more when it has ended; by default that would kill the process before it has cleaned up.
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_last_resort, args=(server, last_words), name="fretsaw-last-resort", daemon=True).start()
    server.run([door])


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _last_resort(server: uvicorn.Server, last_words: Callable[[], None]) -> None:
    """End the process when it was told to end and does not: some file or library hangs, in a thread that nothing can interrupt. All answered work is on disk.

    Where nothing hangs, the process is gone, and this thread with it, long before.
    """
    while not server.should_exit:
        time.sleep(0.2)
    time.sleep(LAST_RESORT)
    print(f"fretsaw: something hangs; ended {LAST_RESORT:g} s after the order to end", file=sys.stderr, flush=True)
    with contextlib.suppress(Exception):
        last_words()
    os._exit(128 + signal.SIGTERM)
