"""Annotations that are there already, beside the pictures or sent by a client, become objects."""

from __future__ import annotations

from collections.abc import Sequence

from fretsaw.errors import DataError
from fretsaw.interchange.names import NameIndex
from fretsaw.interchange.pictures import AnnotatedPicture
from fretsaw.interchange.reading import Source, find_annotations, readers
from fretsaw.interchange.report import ReadingReport, counted
from fretsaw.server.jobs import Job
from fretsaw.server.refusals import NotHereError
from fretsaw.server.sessions import Sessions
from fretsaw.server.workbench import Workbench


def sources_of(bench: Workbench, name: str | None = None) -> list[Source]:
    """Return the annotations of the served folder, or the one of a name that was listed.

    Raises:
        NotHereError: If there are none, or none of this name.
    """
    folder = bench.gallery.folder
    found = find_annotations(folder) if folder is not None else []
    if name is None:
        return found
    chosen = [source for source in found if source.name == name]
    if not chosen:
        raise NotHereError(
            f"expected annotations of the served folder ({', '.join(source.name or '.' for source in found) or 'it has none'}), got another name"
        )
    return chosen


def import_everything(bench: Workbench, job: Job, sources: Sequence[Source]) -> None:
    """Read annotations file by file and make objects of them; pictures that have objects already stay as they are, and a broken file costs no other.

    What could not be used is counted by its kind in the job's note, and the first of it is named.

    Raises:
        DataError: If no file could be read, or none speaks of a picture that is here; says why, by name.
    """
    files = [row for source in sources for row in readers(source)]
    job.tell(total=len(files))
    made = left = strange = 0
    report = ReadingReport()
    for name, read in files:
        job.tell(note=name)
        for picture in report.read(name, read):
            count = _put(bench, picture)
            made, left, strange = made + (count or 0), left + (count == 0), strange + (count is None)
            job.tell(note=picture.file_name)
        job.tell(done=job.done + 1)
    broken = [row.error or f"{row}" for row in report.failed]
    if broken and not made:
        raise DataError(broken[0] + (f" (and {len(broken) - 1} more files)" if len(broken) > 1 else ""))
    if not made and not left:
        raise DataError("expected annotations of the pictures that are here, found " + (f"{strange} of other pictures" if strange else "none"))
    rows = (
        counted(made, report.left_out),
        f"first: {report.sentences[0]}" if report.sentences else "",
        f"{left} {'picture has' if left == 1 else 'pictures have'} objects already" if left else "",
        f"{strange} {'picture is' if strange == 1 else 'pictures are'} not here" if strange else "",
        f"{len(broken)} {'file' if len(broken) == 1 else 'files'} gave nothing, first {broken[0]}" if broken else "",
    )
    job.tell(note="; ".join(row for row in rows if row))


def _put(bench: Workbench, picture: AnnotatedPicture) -> int | None:
    """Return how many objects were made, 0 where the picture has some already or the annotation is empty, None where there is no such picture."""
    identity = _identity(bench, picture.file_name)
    if identity is None:
        return None
    with bench.sessions.use(identity) as opened, opened.changing():
        opened.refresh()
        if any(item.area for item in opened.record.living):
            return 0
        named = [(item.name, mask) for item in picture.objects if (mask := item.mask).any()]
        return len(opened.objects.put_all(named, "import"))


def _identity(bench: Workbench, name: str) -> str | None:
    entry = bench.gallery.find(name)
    return entry.id if entry is not None else _uploaded(bench.sessions, name)


def _uploaded(sessions: Sessions, name: str) -> str | None:
    uploads = {row.name: row.id for row in sessions.summaries() if row.uploaded}
    found = NameIndex(uploads).find(name)
    return uploads[found] if found is not None else None
