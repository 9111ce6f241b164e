"""The application: `create_app(segmenter, settings)` returns what uvicorn, or a test, runs."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fretsaw import __version__
from fretsaw.api import Segmenter
from fretsaw.errors import FretsawError, ModelError
from fretsaw.server import label_studio, routes_images, routes_jobs, routes_objects
from fretsaw.server.exports import FORMATS
from fretsaw.server.guard import SAFE_METHODS, Guard
from fretsaw.server.places import UPLOAD, FolderHider
from fretsaw.server.refusals import refusal_of_system, status_of
from fretsaw.server.replies import MOST_POINTS, AboutReply, Refusal
from fretsaw.server.settings import ServerSettings
from fretsaw.server.workbench import Workbench
from fretsaw.server.workers import ClientGoneError

STATIC = Path(__file__).parent / "static"
LOGGER = logging.getLogger("fretsaw.server")
GONE = 499
"""The status, never seen by anybody, of a reply to a client that hung up."""


def create_app(segmenter: Segmenter, settings: ServerSettings) -> Any:
    """Return the ASGI application.

    Args:
        segmenter: A model that takes clicks.
        settings: Places and limits; the data folder is made.

    Raises:
        ModelError: If the model takes no clicks.
    """
    if segmenter.parts.clicks is None:
        raise ModelError(f"expected a model that takes clicks, got {segmenter.name}; fretsaw models list shows the modes")
    bench = Workbench(segmenter, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        yield
        bench.close()

    refusals: dict[int | str, dict[str, Any]] = {status: {"model": Refusal} for status in (400, 403, 404, 405, 408, 409, 413, 422, 429, 503, 507)}
    # Slashes are not mended by a redirect: its address would be made of the Host header, and behind a proxy of the wrong scheme.
    app = FastAPI(title="Fretsaw", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan, responses=refusals, redirect_slashes=False)
    app.state.bench = bench
    for module in (routes_images, routes_objects, routes_jobs, label_studio):
        app.include_router(module.router)
    _add_pages(app, bench)
    _add_refusals(app, FolderHider(settings.data, settings.folder))
    return Guard(bench.metrics.layer(app), settings, bench.metrics.note)


def _add_pages(app: FastAPI, bench: Workbench) -> None:
    """The page, and what a machine asks about the server itself."""
    segmenter, settings = bench.segmenter, bench.settings
    parts = segmenter.parts
    modes = [name for name, there in (("click", True), ("auto", parts.automatic), ("parts", parts.splitting), ("text", parts.text)) if there is not None]
    folder = settings.folder.name if settings.folder else None
    limits = {name: getattr(settings, name) for name in ("upload_bytes", "pixels", "uploads", "objects", "steps", "memory_bytes", "queue", "workers")}
    limits["points"] = MOST_POINTS
    about = AboutReply(
        version=__version__,
        model=segmenter.name,
        modes=modes,  # type: ignore[arg-type]
        formats=list(FORMATS),
        folder=folder,
        read_only=settings.read_only,
        limits=limits,
    )

    @app.get("/api/about", tags=["server"])
    async def tell_about() -> AboutReply:
        """What this server can do."""
        return about

    @app.get("/health", tags=["server"])
    async def health() -> dict[str, Any]:
        """Whether the server lives; the form is Label Studio's."""
        return {"status": "UP", "model_class": "Fretsaw", "version": __version__, "waiting": bench.model.waiting}

    @app.get("/metrics", tags=["server"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(bench.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    app.mount("/static", StaticFiles(directory=STATIC))


def _add_refusals(app: FastAPI, places: FolderHider) -> None:
    """Every refusal is JSON with a reason, in which no folder of the server's is named."""

    def refusal(request: Request, status: int, reason: str, kind: str, headers: dict[str, str] | None = None) -> JSONResponse:
        sent = routes_images.plain_name(request.query_params.get("name") or UPLOAD)
        headers = {**(headers or {}), **({"retry-after": "1"} if status == 503 else {})}
        return JSONResponse({"reason": places.hide(reason, sent), "kind": kind}, status, headers)

    @app.exception_handler(FretsawError)
    async def ours(request: Request, error: FretsawError) -> JSONResponse:
        return refusal(request, status_of(error), str(error), type(error).__name__)

    @app.exception_handler(OSError)
    async def of_the_system(request: Request, error: OSError) -> JSONResponse:
        doing = _doing(request)
        LOGGER.warning("%s: %s", doing, error)
        return refusal(request, *refusal_of_system(error, doing), "OutputError")

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part)[:40] for part in first["loc"] if part != "body")
        came = first["input"][:60] if isinstance(first["input"], str) else first["input"]
        shown = f", got {json.dumps(came)[:60]}" if isinstance(came, str | int | float) else ""
        return refusal(request, 422, f"{place + ': ' if place else ''}{first['msg'].removeprefix('Value error, ')}{shown}", "RequestError")

    @app.exception_handler(HTTPException)
    async def known(request: Request, error: HTTPException) -> JSONResponse:
        return refusal(request, error.status_code, str(error.detail), "RequestError", dict(error.headers or {}))

    @app.exception_handler(ClientGoneError)
    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=GONE)

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> JSONResponse:
        LOGGER.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return refusal(request, 500, f"a defect of the server's own: {type(error).__name__}", "Defect")


DOING = {"upload": "taking the upload in", "import_sent": "taking the annotations in", "export": "making the export", "fetch": "sending the export"}


def _doing(request: Request) -> str:
    """Say in words what a request was about, for a reason: "saving" where it would have changed something."""
    named = DOING.get(getattr(request.scope.get("route"), "name", ""))
    return named or ("reading" if request.method in SAFE_METHODS else "saving the change")
