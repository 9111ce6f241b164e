"""Objects on a picture: make, name, click, correct, undo, look at."""

from __future__ import annotations

import time
from collections.abc import Callable

from fastapi import APIRouter, Request, Response

from fretsaw import images, masks
from fretsaw.segmentation import Segmentation
from fretsaw.server.open_picture import OpenPicture
from fretsaw.server.records import ObjectRecord
from fretsaw.server.replies import (
    AutoBody,
    BoxBody,
    ClickBody,
    MaskBody,
    NewObjectBody,
    ObjectBody,
    ObjectReply,
    PreviewBody,
    PreviewReply,
    RequestBody,
    ScribbleBody,
    StrokeBody,
)
from fretsaw.server.workbench import Bench, Workbench
from fretsaw.server.workers import Lane
from fretsaw.session import Session
from fretsaw.types import Click

router = APIRouter(prefix="/api/images/{identity}", tags=["objects"])

Act = Callable[[Session], Segmentation]
"""What is done in an object's session."""


# Make, look, describe: what needs no model.


@router.post("/objects", status_code=201)
async def add(bench: Bench, identity: str, body: NewObjectBody, request: Request) -> ObjectReply:
    """Make an empty object."""
    return ObjectReply.of(await bench.read(request, identity, lambda picture: picture.objects.add(body.name, body.color)))


@router.get("/objects/{number}")
async def look(bench: Bench, identity: str, number: int, request: Request) -> ObjectReply:
    """One object and its mask."""
    return ObjectReply.of(await bench.read(request, identity, lambda picture: picture.objects.find(number)))


@router.patch("/objects/{number}")
async def describe(bench: Bench, identity: str, number: int, body: ObjectBody, request: Request) -> ObjectReply:
    """Change an object's name or colour, hide it, throw it away (deleted) or take it back."""
    changes = body.model_dump(exclude_none=True)
    return ObjectReply.of(await bench.read(request, identity, lambda picture: picture.objects.describe(number, **changes)))


async def _changed(
    bench: Workbench,
    request: Request,
    identity: str,
    since: int | None,
    act: Callable[[OpenPicture], ObjectRecord],
    lane: Lane = Lane.CLICK,
) -> ObjectReply:
    """Do what changes a mask, and answer with what has changed, or with the whole mask where the client does not know the one before."""

    def on_picture(picture: OpenPicture) -> ObjectReply:
        item = act(picture)
        return ObjectReply.of(item, picture.objects.changed(item, since))

    return await bench.at(request, identity, on_picture, lane)


# Whatever adds a step.


async def _extend(bench: Workbench, request: Request, identity: str, number: int, since: int | None, name: str, body: RequestBody, act: Act) -> ObjectReply:
    arguments = body.model_dump(mode="json")
    return await _changed(bench, request, identity, since, lambda picture: picture.objects.extend(number, name, arguments, act))


@router.post("/objects/{number}/clicks")
async def click(bench: Bench, identity: str, number: int, body: ClickBody, request: Request, since: int | None = None) -> ObjectReply:
    """Add a click."""
    return await _extend(bench, request, identity, number, since, "click", body, lambda session: session.click(body.x, body.y, body.positive))


@router.post("/objects/{number}/box")
async def box(bench: Bench, identity: str, number: int, body: BoxBody, request: Request, since: int | None = None) -> ObjectReply:
    """Set the box; it joins the clicks made so far."""
    return await _extend(bench, request, identity, number, since, "box", body, lambda session: session.box(body.x0, body.y0, body.x1, body.y1))


@router.post("/objects/{number}/scribbles")
async def scribble(bench: Bench, identity: str, number: int, body: ScribbleBody, request: Request, since: int | None = None) -> ObjectReply:
    """Draw a line over the object, or over what is not the object; one step."""
    return await _extend(bench, request, identity, number, since, "scribble", body, lambda session: session.scribble(body.points, body.positive))


@router.put("/objects/{number}/mask")
async def mask(bench: Bench, identity: str, number: int, body: MaskBody, request: Request, since: int | None = None) -> ObjectReply:
    """Put a mask of one's own in place of the current one."""
    return await _changed(bench, request, identity, since, lambda picture: picture.objects.mask(number, body.rle.model_dump()))


@router.post("/objects/{number}/strokes")
async def stroke(bench: Bench, identity: str, number: int, body: StrokeBody, request: Request, since: int | None = None) -> ObjectReply:
    """Set or clear what a brush has covered; only the box around the stroke travels."""
    rle = body.rle.model_dump()
    return await _changed(bench, request, identity, since, lambda picture: picture.objects.stroke(number, body.x, body.y, rle, body.adds))


@router.post("/objects/{number}/auto")
async def auto(bench: Bench, identity: str, number: int, request: Request, body: AutoBody | None = None, since: int | None = None) -> ObjectReply:
    """Cut what stands out, without a prompt. Clicks, on this picture too, need not wait for it."""
    instances = body is not None and body.instances
    return await _changed(bench, request, identity, since, lambda picture: picture.objects.auto(number, instances), Lane.SLOW)


@router.post("/objects/{number}/avoid")
async def avoid(bench: Bench, identity: str, number: int, request: Request, since: int | None = None) -> ObjectReply:
    """Take the other objects out of this one: a negative click in each overlap, one step for all."""
    return await _changed(bench, request, identity, since, lambda picture: picture.objects.avoid_others(number))


@router.post("/objects/{number}/split")
async def split(bench: Bench, identity: str, number: int, request: Request) -> list[ObjectReply]:
    """Make an object of every part of an automatic cut, or of every connected component of another mask; the whole comes last, thrown away for now."""
    return [ObjectReply.of(item) for item in await bench.at(request, identity, lambda picture: picture.objects.split(number))]


# Back, forth, and from the start.


async def _change(bench: Workbench, request: Request, identity: str, number: int, since: int | None, name: str, act: Act) -> ObjectReply:
    return await _changed(bench, request, identity, since, lambda picture: picture.objects.change(number, name, {}, act))


@router.post("/objects/{number}/undo")
async def undo(bench: Bench, identity: str, number: int, request: Request, since: int | None = None) -> ObjectReply:
    """Take the last interaction back."""
    return await _change(bench, request, identity, number, since, "undo", lambda session: session.undo())


@router.post("/objects/{number}/redo")
async def redo(bench: Bench, identity: str, number: int, request: Request, since: int | None = None) -> ObjectReply:
    """Make an undone interaction again."""
    return await _change(bench, request, identity, number, since, "redo", lambda session: session.redo())


@router.post("/objects/{number}/reset")
async def reset(bench: Bench, identity: str, number: int, request: Request, since: int | None = None) -> ObjectReply:
    """Start the object over; this cannot be undone."""
    return await _change(bench, request, identity, number, since, "reset", lambda session: session.reset())


# What a click would give, and masks as files.


@router.post("/preview")
async def preview(bench: Bench, identity: str, body: PreviewBody, request: Request) -> PreviewReply:
    """Say what a click would give, on a coarse grid. Previews wait behind clicks, and a newer one replaces one that still waits."""
    started = time.perf_counter()
    mask = await bench.at(
        request, identity, lambda picture: picture.objects.preview(body.object, Click(body.x, body.y, body.positive)), Lane.PREVIEW, "preview"
    )
    return PreviewReply(rle=masks.encode_rle(mask), seconds=time.perf_counter() - started)


@router.get("/objects/{number}/mask.png", response_class=Response)
async def mask_png(bench: Bench, identity: str, number: int, request: Request) -> Response:
    """The object's mask at the picture's size, 8 bit, 0 and 255."""
    content = await bench.read(request, identity, lambda picture: images.encode_image(masks.decode_rle(picture.objects.find(number).rle), ".png"))
    return Response(content, media_type="image/png")


@router.get("/objects/{number}/cutout.png", response_class=Response)
async def cutout_png(bench: Bench, identity: str, number: int, request: Request) -> Response:
    """The object on a transparent ground with smooth edges, at the picture's size."""
    content = await bench.at(request, identity, lambda picture: images.encode_image(picture.objects.result(number).cutout(), ".png"), Lane.SLOW)
    return Response(content, media_type="image/png")
