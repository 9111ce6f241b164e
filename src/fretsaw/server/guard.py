"""What every request passes before anything else: where it comes from, who sends it, how large it is; and what every reply carries.

A plain ASGI layer, so that bodies are measured while they stream in and replies stream out untouched. Nothing that a proxy adds (X-Forwarded-For and the
like) is believed or needed: under which address a proxy shows the server, its operator says once (`ServerSettings.public_url`).
"""

from __future__ import annotations

import base64
import contextlib
import re
import secrets
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fretsaw.server.bodies import LimitedBody, most_bytes
from fretsaw.server.origins import Authority, is_own_page, plain_host, read_host, read_origin, read_public_url
from fretsaw.server.refusals import ForbiddenError, MalformedError, MethodError, RefusedError
from fretsaw.server.settings import ServerSettings

COOKIE = "fretsaw-token"
OPEN_PATHS = ("/health",)
"""Answered without a token: whether the server lives is no secret."""

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
"""What changes nothing, by the rules of HTTP and here; a test holds every GET route to it."""

METHODS = (*SAFE_METHODS, "POST", "PUT", "PATCH", "DELETE")

WITHOUT_CHANGE = re.compile(r"(POST) /api/images/[^/]+/preview|(POST) /api/exports|(DELETE) /api/jobs/[^/]+|(POST) /(predict|setup|webhook)")
"""What a server that is only looked at answers besides: previews, exports and stopping them, Label Studio's questions."""

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
    """Wraps the application, see the module.

    Args:
        app: What is behind.
        settings: Whom to let in.
        note: Told method and status of every request that does not reach the application.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, note: Callable[[str, int], None] = lambda method, status: None) -> None:
        self._app, self._settings, self._note = app, settings, note
        self._hosts = frozenset(name if name == "*" else plain_host(name) for name in settings.hosts)
        self._public = read_public_url(settings.public_url) if settings.public_url else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        body = LimitedBody(receive, headers, most_bytes(scope["method"], scope["path"], self._settings), self._settings)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                reply = MutableHeaders(scope=message)
                for name, value in REPLY_HEADERS.items():
                    reply[name] = value
                reply.setdefault("cache-control", "no-store")
                if body.pending:
                    reply["connection"] = "close"  # else the server would read the rest of the body, to throw it away
            await send(message)

        sent = False

        async def send_unless_refused(message: Message) -> None:
            nonlocal sent
            if sent or body.refused is None:  # whatever the application makes of a body that was stopped, the reason is the body's
                sent = True
                await send_guarded(message)

        try:
            self._check_method(scope)
            self._check_origin(scope, headers)
            if (entered := self._enter(scope)) is not None:
                await entered(scope, receive, send_guarded)
                return
            self._check_token(scope, headers)
            self._check_change(scope)
            body.check_promise(headers)
        except RefusedError as error:
            self._note(scope["method"], error.status)
            await _reply(error)(scope, receive, send_guarded)
            return
        await self._app(scope, body, send_unless_refused)
        if body.refused is not None and not sent:
            self._note(scope["method"], body.refused.status)
            await _reply(body.refused)(scope, receive, send_guarded)

    def _check_method(self, scope: Scope) -> None:
        if scope["method"] not in METHODS:
            raise MethodError(f"expected one of {', '.join(METHODS)}, got {scope['method'][:20]!r}")

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        """Refuse what another web site makes a visitor's browser send: by a name of its own that points here, or from a page of its own."""
        for name in ("host", "origin"):
            if len(headers.getlist(name)) > 1:
                raise MalformedError(f"expected one {name.title()} header, got {len(headers.getlist(name))}")
        host = self._host(headers)
        origin = read_origin(headers["origin"]) if "origin" in headers else None
        foreign = "origin" in headers and not is_own_page(origin, host, self._public)
        if (foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site")) and scope["method"] not in SAFE_METHODS:
            raise ForbiddenError("expected a request from the server's own page, got one from another site; behind a proxy, start with --public-url")

    def _host(self, headers: Headers) -> Authority | None:
        text = headers.get("host", "")
        host = read_host(text) if text else None
        if "*" not in self._hosts and (host is None or host.name not in self._hosts):
            raise ForbiddenError(f"expected to be called {' or '.join(sorted(self._hosts))}, got {text[:60]!r}; --allowed-host adds a name")
        return host

    def _check_change(self, scope: Scope) -> None:
        if self._settings.read_only and scope["method"] not in SAFE_METHODS and not WITHOUT_CHANGE.fullmatch(f"{scope['method']} {scope['path']}"):
            raise ForbiddenError("expected a request that changes nothing: this server was started with --read-only, its pictures are there to be looked at")

    def _enter(self, scope: Scope) -> RedirectResponse | None:
        """Turn `/?token=...` into a cookie and an address without the token, so that it stays in no history."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token")
        if self._settings.token is None or scope["path"] != "/" or not given:
            return None
        if not secrets.compare_digest(given[0].encode(), self._settings.token.encode()):
            raise ForbiddenError("expected the token that the server printed, got another one")
        reply = RedirectResponse("/", 303)
        secure = self._public is not None and self._public.scheme == "https"
        reply.set_cookie(COOKIE, self._settings.token, httponly=True, samesite="strict", path="/", secure=secure)
        return reply

    def _check_token(self, scope: Scope, headers: Headers) -> None:
        expected = self._settings.token
        if expected is None or scope["path"] in OPEN_PATHS:
            return
        if not any(secrets.compare_digest(given.encode(), expected.encode()) for given in _given_tokens(headers)):
            raise ForbiddenError("expected the server's token, as Authorization: Bearer TOKEN or by opening /?token=TOKEN once; got none or another one")


def _given_tokens(headers: Headers) -> list[str]:
    """Return what a client brings: a bearer token, the password of basic authentication (which Label Studio sends), or the cookie."""
    found: list[str] = []
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        found.append(value.strip())
    elif kind.lower() == "basic":
        with contextlib.suppress(ValueError):
            found.append(base64.b64decode(value).decode().partition(":")[2])
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        cookie = None
    return [*found, cookie.value] if cookie is not None else found


def _reply(error: RefusedError) -> JSONResponse:
    more = {"allow": ", ".join(METHODS)} if isinstance(error, MethodError) else None
    return JSONResponse({"reason": str(error), "kind": type(error).__name__}, error.status, more)
