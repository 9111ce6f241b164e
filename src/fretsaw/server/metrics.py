"""Figures for Prometheus: how many requests, how long they take, how full memory and queue are."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fretsaw.server.guard import METHODS

if TYPE_CHECKING:
    from fretsaw.server.sessions import Sessions
    from fretsaw.server.workers import Workers

OTHER = "other"
"""Stands for methods that do not exist and for addresses that lead nowhere."""

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """Counts requests as an ASGI layer, and looks at the rest when it is asked."""

    def __init__(self, sessions: Sessions, model: Workers) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("fretsaw_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry)
        self._seconds = Histogram("fretsaw_request_seconds", "From a request's first byte to its reply's.", ["route"], buckets=BUCKETS, registry=self.registry)
        for name, text, value in (
            ("fretsaw_queue_waiting", "Requests that wait for the model.", lambda: model.waiting),
            ("fretsaw_workers_running", "Workers that are at work.", lambda: model.running),
            ("fretsaw_pictures_in_memory", "Pictures at work in memory.", lambda: len(sessions)),
            ("fretsaw_memory_bytes", "Memory of the pictures at work.", lambda: sessions.nbytes),
            ("fretsaw_evictions_total", "Pictures that left memory.", lambda: sessions.evicted),
        ):
            Gauge(name, text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def note(self, method: str, status: int, route: str = OTHER) -> None:
        """Count an answer. Routes are named by their pattern and methods by their name where they have one, so that no client can multiply the rows."""
        self._requests.labels(method if method in METHODS else OTHER, route, str(status)).inc()

    def layer(self, app: ASGIApp) -> ASGIApp:
        """Wrap an application."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            started = time.perf_counter()

            async def send_counted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    route = getattr(scope.get("route"), "path", OTHER)
                    self.note(scope["method"], message["status"], route)
                    self._seconds.labels(route).observe(time.perf_counter() - started)
                await send(message)

            await app(scope, receive, send_counted)

        return counted
