"""Pictures: list, upload, open, show, export, forget."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from fretsaw.interchange.pictures import file_part
from fretsaw.server.exports import TYPES, one_download
from fretsaw.server.refusals import QueueFullError
from fretsaw.server.replies import CommandReply, ImageReply, Listed, ListReply, ObjectReply, TextBody
from fretsaw.server.sessions import Summary
from fretsaw.server.workbench import Bench, Workbench
from fretsaw.server.workers import Lane

router = APIRouter(prefix="/api/images", tags=["pictures"])

LONGEST_NAME = 120


def plain_name(name: str) -> str:
    """Return an upload's name as it is shown and exported: its last part, printable, without leading dots; only ever a name, no path."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable()).lstrip(". ")[:LONGEST_NAME].strip() or "picture"


def attachment(name: str) -> dict[str, str]:
    """Return the header that makes a browser save a reply under a name."""
    return {"content-disposition": f"attachment; filename*=UTF-8''{quote(name)}"}


# List, upload, open, forget.


@router.get("")
async def list_images(bench: Bench, request: Request) -> ListReply:
    """List the served folder's pictures and the uploads."""

    def look() -> ListReply:
        known = {row.id: row for row in bench.sessions.summaries()}
        entries = bench.gallery.entries()
        uploads = sorted((row for row in known.values() if row.uploaded), key=lambda row: row.changed)
        rows = [known.get(entry.id, Summary(entry.id, entry.name, False)) for entry in entries] + uploads
        listed = [
            Listed(
                id=row.id,
                name=row.name,
                uploaded=row.uploaded,
                objects=row.objects,
                thumbnail=f"/api/images/{row.id}/thumbnail.jpg",
                damaged=row.damaged,
            )
            for row in rows
        ]
        names = sorted({name for row in known.values() for name in row.names if name})
        return ListReply(folder=bench.gallery.folder.name if bench.gallery.folder else None, images=listed, names=names)

    return await bench.files.run(request, look)


@router.post("", status_code=201)
async def upload(bench: Bench, request: Request, name: str = "picture") -> ImageReply:
    """Take a picture in; the body is the file itself. A body that is too large is refused while it comes in, and what is no picture at its end."""
    path = bench.store.incoming()
    try:
        with path.open("wb") as file:
            async for chunk in request.stream():
                file.write(chunk)
        identity = await bench.files.run(None, lambda: bench.sessions.upload(path, plain_name(name)))
    finally:
        path.unlink(missing_ok=True)
    return await _show(bench, identity, request)


async def _show(bench: Workbench, identity: str, request: Request) -> ImageReply:
    record = await bench.read(request, identity, lambda picture: (picture.pixels(), picture.record)[1])
    ready = bench.sessions.is_ready(identity)
    if not ready:
        with suppress(QueueFullError):  # the first click asks again
            bench.sessions.prepare(identity)
    return ImageReply.of(record, ready)


@router.get("/{identity}")
async def open_image(bench: Bench, identity: str, request: Request) -> ImageReply:
    """Open a picture: its objects and masks. Encoding begins in the background; clicks that come earlier wait for it."""
    return await _show(bench, identity, request)


@router.delete("/{identity}", status_code=204)
async def forget(bench: Bench, identity: str, request: Request) -> None:
    """Delete an upload, or the work on a picture of the served folder; the folder's own files are never touched."""
    await bench.files.run(request, lambda: bench.sessions.forget(identity))


# The picture itself, what is saved of it, what is found on it by name, and exports.


@router.get("/{identity}/view.jpg", response_class=FileResponse)
async def view(bench: Bench, identity: str, request: Request) -> FileResponse:
    """The picture as the model sees it: upright, RGB, without transparency."""
    path = await bench.read(request, identity, lambda picture: picture.view())
    return FileResponse(path, media_type="image/jpeg", headers={"cache-control": "private, max-age=31536000, immutable"})


@router.get("/{identity}/thumbnail.jpg", response_class=FileResponse)
async def thumbnail(bench: Bench, identity: str, request: Request) -> FileResponse:
    """The picture at 256 pixels."""
    path = await bench.files.run(request, lambda: bench.sessions.thumbnail(identity))
    return FileResponse(path, media_type="image/jpeg", headers={"cache-control": "private, max-age=60"})


@router.get("/{identity}/log")
async def log(bench: Bench, identity: str, request: Request) -> list[CommandReply]:
    """Every command on the picture, the oldest first: what was done, when, and by whom as far as clients have said so."""
    await bench.files.run(request, lambda: bench.sessions.record(identity))  # whether there is such a picture
    commands = await bench.files.run(request, lambda: bench.store.commands(identity))
    return [CommandReply.model_validate(command) for command in commands]


@router.post("/{identity}/text")
async def text(bench: Bench, identity: str, body: TextBody, request: Request) -> list[ObjectReply]:
    """Make an object of every name that is found."""
    found = await bench.at(request, identity, lambda picture: picture.objects.text(body.names), Lane.SLOW)
    return [ObjectReply.of(item) for item in found]


@router.get("/{identity}/state")
async def state(bench: Bench, identity: str, request: Request) -> ImageReply:
    """What is saved of a picture, and whether clicks on it are answered at once. Unlike opening it, this reads no picture and starts no encoding."""
    record = await bench.files.run(request, lambda: bench.sessions.record(identity))
    return ImageReply.of(record, bench.sessions.is_ready(identity))


@router.get("/{identity}/export", response_class=Response)
async def export(bench: Bench, identity: str, request: Request, format: str = "coco") -> Response:
    """One picture's objects in a format: a file, or a zip where there are several."""
    record = await bench.files.run(request, lambda: bench.sessions.record(identity))
    name, content = await bench.files.run(request, lambda: one_download(record, format, bench.sessions))
    suffix = "." + name.rpartition(".")[2]
    return Response(content, media_type=TYPES.get(suffix, "application/octet-stream"), headers=attachment(f"{file_part(name[: -len(suffix)])}{suffix}"))
