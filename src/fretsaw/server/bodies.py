"""A request's body while it comes in: measured, and not waited for without end."""

from __future__ import annotations

import asyncio
import re

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from fretsaw.server.refusals import RefusedError, SlowError, TooLargeError
from fretsaw.server.settings import ServerSettings

UPLOAD = ("POST", "/api/images")
ANNOTATIONS = ("POST", "/api/annotations")
MASKS = re.compile(r"/api/images/[^/]+/objects/[^/]+/(mask|strokes)|/predict")


def most_bytes(method: str, path: str, settings: ServerSettings) -> int:
    """Return how large a request's body may be. Only files, which are written as they come, and masks are large; a click is not."""
    if (method, path) == UPLOAD:
        return settings.upload_bytes
    if (method, path) == ANNOTATIONS:
        return settings.body_bytes
    return min(settings.body_bytes, settings.mask_bytes if MASKS.fullmatch(path) else settings.command_bytes)


GONE = {"type": "http.disconnect"}


class LimitedBody:
    """Stands in for a server's `receive` and stops what is too large or too slow, whatever its header promised.

    To the application, a body that was stopped looks like a client that hung up: it cleans up and goes. What the client is told is in `refused`.

    Attributes:
        refused: Why the body was stopped, or None.
        pending: Whether more of it is to come.
    """

    def __init__(self, receive: Receive, headers: Headers, limit: int, settings: ServerSettings) -> None:
        self.refused: RefusedError | None = None
        self.pending = "transfer-encoding" in headers or headers.get("content-length", "0").strip("0") != ""
        self._receive, self._limit, self._settings = receive, limit, settings
        self._bytes, self._waited = 0, 0.0

    def check_promise(self, headers: Headers) -> None:
        """Refuse by what the header says, before anything is read.

        Raises:
            TooLargeError: If the body will be too large.
        """
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and (len(length) > 20 or int(length) > self._limit):
            raise TooLargeError(f"expected at most {self._limit} bytes, got {length[:20]}")

    async def __call__(self) -> Message:
        """Return the next part of the body, or that there will be none. Waiting for the client counts, the server's own work does not."""
        if self.refused is not None:
            return GONE
        if not self.pending:
            return await self._receive()
        loop = asyncio.get_running_loop()
        began = loop.time()
        allowed = min(self._settings.body_seconds, self._settings.head_seconds + self._bytes / self._settings.body_rate)
        try:
            async with asyncio.timeout(max(0.0, allowed - self._waited)):
                message = await self._receive()
        except TimeoutError:
            self.refused = SlowError(f"expected a body of at least {self._settings.body_rate} bytes a second, got {self._bytes} bytes in {allowed:.0f} s")
            return GONE
        self._waited += loop.time() - began
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._limit:
            self.refused = TooLargeError(f"expected at most {self._limit} bytes, got more")
            return GONE
        self.pending = message["type"] == "http.request" and message.get("more_body", False)
        return message
