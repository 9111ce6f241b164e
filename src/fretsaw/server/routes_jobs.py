"""Long work: cut a whole folder, pack a whole folder, read annotations; follow it, stop it, fetch what it made."""

from __future__ import annotations

import shutil

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, StreamingResponse

from fretsaw.errors import FretsawError
from fretsaw.interchange.reading import the_source
from fretsaw.server.exports import check_format, files, pack
from fretsaw.server.imports import import_everything, sources_of
from fretsaw.server.jobs import Job
from fretsaw.server.records import ImageRecord
from fretsaw.server.refusals import NotHereError
from fretsaw.server.replies import AnnotationsReply, ExportBody, ImportBody, JobReply
from fretsaw.server.routes_images import attachment, plain_name
from fretsaw.server.workbench import Bench, Workbench
from fretsaw.server.workers import Lane

router = APIRouter(prefix="/api", tags=["jobs"])


def cut_everything(bench: Workbench, job: Job) -> None:
    """Make an automatic mask on every picture of the folder that has no object yet; each is saved before the next begins."""
    entries = bench.gallery.entries()
    job.tell(total=len(entries))
    failed = 0
    for entry in entries:
        job.tell(note=entry.name)
        try:
            bench.model.submit(lambda identity=entry.id: _cut(bench, identity), Lane.SLOW).result()
        except FretsawError as error:
            failed += 1
            job.tell(note=f"{entry.name}: {error}")
        job.tell(done=job.done + 1)
    job.tell(note=f"{failed} of {len(entries)} could not be cut" if failed else "")


def _cut(bench: Workbench, identity: str) -> None:
    with bench.sessions.use(identity) as picture:
        picture.refresh()
        living = picture.record.living
        if not any(item.area for item in living):
            picture.embed()
            number = living[0].id if living else picture.objects.add().id
            picture.objects.auto(number)


def export_everything(bench: Workbench, job: Job, format: str, wanted: list[str] | None) -> None:
    """Pack the pictures with objects into a zip, one picture at a time."""
    found: list[ImageRecord] = []
    for record in bench.sessions.records():
        if any(item.area for item in record.living) and (wanted is None or record.id in wanted):
            found.append(record)
    if not found:
        raise NotHereError("expected at least one picture with an object to export, found none")
    job.tell(total=len(found))
    begun: list[str] = []

    def step(name: str) -> None:
        job.tell(note=name, done=len(begun))
        begun.append(name)

    path = bench.store.folder / "exports" / f"{job.id}.zip"
    try:
        pack(path, files(found, format, bench.sessions, step))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    job.tell(done=len(found), note="", file=path)


# Annotations that are there already.


@router.get("/annotations")
async def list_annotations(bench: Bench, request: Request) -> list[AnnotationsReply]:
    """What annotations lie in the served folder: COCO, Label Studio, CVAT, labelme, VOC, YOLO, or masks as PNG with their names."""
    found = await bench.files.run(request, lambda: sources_of(bench))
    return [AnnotationsReply(name=source.name, format=source.format) for source in found]


@router.post("/imports", status_code=202)
async def import_found(bench: Bench, body: ImportBody, request: Request) -> JobReply:
    """Make objects of the served folder's annotations, of all or of one; pictures that have objects already stay as they are."""
    sources = await bench.files.run(request, lambda: sources_of(bench, body.name))
    return JobReply(**bench.jobs.start("import", lambda job: import_everything(bench, job, sources)).to_dict())


@router.post("/annotations", status_code=202)
async def import_sent(bench: Bench, request: Request, name: str = "annotations.json") -> JobReply:
    """Make objects of annotations that a client sends: the body is one file of COCO, Label Studio, CVAT or labelme."""
    folder = bench.store.incoming()
    folder.mkdir()
    path = folder / plain_name(name)
    try:
        with path.open("wb") as file:
            async for chunk in request.stream():
                file.write(chunk)
        source = await bench.files.run(request, lambda: the_source(path))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise

    def work(job: Job) -> None:
        try:
            import_everything(bench, job, [source])
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return JobReply(**bench.jobs.start("import", work).to_dict())


# Start something long.


@router.post("/auto", status_code=202)
async def auto(bench: Bench) -> JobReply:
    """Cut every picture of the served folder that has no object yet."""
    return JobReply(**bench.jobs.start("auto", lambda job: cut_everything(bench, job)).to_dict())


@router.post("/exports", status_code=202)
async def export(bench: Bench, body: ExportBody) -> JobReply:
    """Pack all pictures with objects into a zip."""
    check_format(body.format)
    return JobReply(**bench.jobs.start("export", lambda job: export_everything(bench, job, body.format, body.images)).to_dict())


# Follow, stop, fetch.


@router.get("/jobs/{identity}")
async def look(bench: Bench, identity: str) -> JobReply:
    """How far a job is."""
    return JobReply(**bench.jobs.find(identity).to_dict())


@router.get("/jobs/{identity}/events", response_class=StreamingResponse)
async def follow(bench: Bench, identity: str) -> StreamingResponse:
    """Server-sent events: the job now and whenever it changes, until it ends."""
    bench.jobs.find(identity)
    return StreamingResponse(bench.jobs.follow(identity), media_type="text/event-stream")


@router.delete("/jobs/{identity}")
async def stop(bench: Bench, identity: str) -> JobReply:
    """Stop a job before its next picture; what is done stays."""
    return JobReply(**bench.jobs.stop(identity).to_dict())


@router.get("/jobs/{identity}/file", response_class=FileResponse)
async def fetch(bench: Bench, identity: str, request: Request) -> FileResponse:
    """What the job made."""
    job = bench.jobs.find(identity)
    if job.file is None or not job.file.exists():
        raise NotHereError(f"expected a job with a file, got one that is {job.state} and has none")
    return FileResponse(job.file, media_type="application/zip", headers=attachment("fretsaw.zip"))
