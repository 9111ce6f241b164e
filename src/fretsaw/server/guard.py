"""What every request passes before anything else: where it comes from, who sends it, how large it is; and what every reply carries.

A plain ASGI layer, so that bodies are measured while they stream in and replies stream out untouched.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fretsaw.server.refusals import ForbiddenError, RefusedError, TooLargeError
from fretsaw.server.settings import Settings

COOKIE = "fretsaw-token"
OPEN_PATHS = ("/health",)
"""Answered without a token: whether the server lives is no secret."""

UPLOAD = ("POST", "/api/images")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

REPLY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
"""The page needs nothing from anywhere else and may be shown in nobody's frame."""


class Guard:
    """Wraps the application, see the module."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit = self._settings.upload_bytes if (scope["method"], scope["path"]) == UPLOAD else self._settings.body_bytes

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                reply = MutableHeaders(scope=message)
                for name, value in REPLY_HEADERS.items():
                    reply[name] = value
                reply.setdefault("cache-control", "no-store")
                if message["status"] == TooLargeError.status:
                    reply["connection"] = "close"  # else the server would read the rest of the body, to throw it away
            await send(message)

        try:
            self._check_origin(scope, headers)
            if (entered := self._enter(scope)) is not None:
                await entered(scope, receive, send_guarded)
                return
            self._check_token(scope, headers)
            if headers.get("content-length", "0").isdigit() and int(headers.get("content-length", "0")) > limit:
                raise TooLargeError(f"expected at most {limit} bytes, got {headers['content-length'][:20]}")
        except RefusedError as error:
            await JSONResponse({"reason": str(error), "kind": type(error).__name__}, error.status)(scope, receive, send_guarded)
            return
        await self._app(scope, _measured(receive, limit), send_guarded)

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        """Refuse what another web site makes a visitor's browser send: by a name of its own that points here, or from a page of its own."""
        host = headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or ""
        if "*" not in self._settings.hosts and name not in self._settings.hosts:
            raise ForbiddenError(f"expected to be called {' or '.join(self._settings.hosts)}, got {name[:60]!r}")
        origin = headers.get("origin")
        foreign = (origin is not None and urlsplit(origin).netloc != host) or headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if foreign and scope["method"] not in SAFE_METHODS:
            raise ForbiddenError("expected a request from the server's own page, got one from another site")

    def _enter(self, scope: Scope) -> RedirectResponse | None:
        """Turn `/?token=...` into a cookie and an address without the token, so that it stays in no history."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token")
        if self._settings.token is None or scope["path"] != "/" or not given:
            return None
        if not secrets.compare_digest(given[0].encode(), self._settings.token.encode()):
            raise ForbiddenError("expected the token that the server printed, got another one")
        reply = RedirectResponse("/", 303)
        reply.set_cookie(COOKIE, self._settings.token, httponly=True, samesite="strict", path="/")
        return reply

    def _check_token(self, scope: Scope, headers: Headers) -> None:
        expected = self._settings.token
        if expected is None or scope["path"] in OPEN_PATHS:
            return
        if not any(secrets.compare_digest(given.encode(), expected.encode()) for given in _given_tokens(headers)):
            raise ForbiddenError("expected the server's token, as Authorization: Bearer TOKEN or by opening /?token=TOKEN once; got none or another one")


def _given_tokens(headers: Headers) -> list[str]:
    """Return what a client brings: a bearer token, the password of basic authentication (which Label Studio sends), or the cookie."""
    found = []
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        found.append(value.strip())
    elif kind.lower() == "basic":
        with contextlib.suppress(binascii.Error, UnicodeDecodeError):
            found.append(base64.b64decode(value).decode().partition(":")[2])
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        cookie = None
    return [*found, cookie.value] if cookie is not None else found


def _measured(receive: Receive, limit: int) -> Receive:
    """Count a body while it comes in, and stop it at the limit whatever its header promised."""
    received = 0

    async def measured() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise TooLargeError(f"expected at most {limit} bytes, got more")
        return message

    return measured
