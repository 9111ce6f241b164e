"""`fretsaw convert`: annotations from one tool's format to another's."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fretsaw.cli.loading import load_for
from fretsaw.cli.options import Device, Dtype
from fretsaw.errors import DataError, OutputError
from fretsaw.outputs import Sources, named_files, require_writable
from fretsaw.ownership import is_lock, own

if TYPE_CHECKING:
    from fretsaw.interchange.losses import Losses
    from fretsaw.interchange.pictures import AnnotatedPicture
    from fretsaw.interchange.reading import Source
    from fretsaw.interchange.report import ReadingReport

UNFINISHED = ".unfinished-conversion"
"""Folder inside the folder of results in which files wait until all of them are there."""
ABOUT = ".about"
SHOWN = 5
"""Files, and sentences about rows, that are shown on the terminal; --json holds more."""


def convert(
    source: Annotated[Path, typer.Argument(metavar="ANNOTATIONS", help="A file, or a folder in the format's own layout.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder, which is made.", show_default=False)],
    to: Annotated[str, typer.Option("--to", help="png, coco, coco-polygons, yolo, yolo-painted, voc, labelme, label-studio or cvat.", show_default=False)],
    origin: Annotated[str | None, typer.Option("--from", help="The format that is read; default: found out.")] = None,
    images: Annotated[Path | None, typer.Option("--images", help="Where the pictures lie; YOLO's labels do not say their size, and --masks cuts them.")] = None,
    masks: Annotated[
        str | None, typer.Option("--masks", metavar="MODEL", help="Make masks of boxes: a model that takes clicks cuts inside each.", show_default=False)
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="End with exit status 1 if anything is left out or lost.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that is not empty.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Convert masks and their names between the formats of annotation tools, and boxes to masks.

    What cannot be used of a file is left out, counted and named; what the new format cannot hold is named too. Exit status 1 if a file could not be read or
    gave no object although it has rows; files appear only when all of them are there.

    [b]Examples[/b]

      fretsaw convert instances.json -o labels/ --to yolo

      fretsaw convert VOC2012/ -o out/ --from voc --to label-studio

      fretsaw convert detections.json --masks sam2-hiera-tiny --images photos/ -o masks/ --to coco
    """
    from fretsaw.interchange.formats import WRITERS
    from fretsaw.interchange.losses import Losses
    from fretsaw.interchange.reading import the_source
    from fretsaw.interchange.report import ReadingReport

    if to not in WRITERS:
        raise OutputError(f"expected --to out of {', '.join(WRITERS)}; got {to!r}")
    if str(out) == "-":
        raise OutputError("expected a folder as -o, got '-': annotations are several files, which one stream cannot hold")
    if out.exists() and not out.is_dir():
        raise OutputError(f"expected a folder that is empty or not there yet as -o, got the file {out}")
    found = the_source(source, origin)
    sources = Sources(also=[source, images, *named_files(masks)])
    if source.is_dir() or images is not None:
        sources.refuse_folder(out)
    require_writable([out / "x"])
    finished = _box_masks(masks, images or (source if source.is_dir() else source.parent), device, dtype)
    report, losses = ReadingReport(), Losses(to)
    about = f"fretsaw convert {source.resolve()} --from {found.format} --to {to}\n"
    with _filling(out, overwrite, about) as place:
        _write(to, _pictures(found, images, finished, report, losses, to), place, out, sources)
        _require_something(report, found, source, masks)
    _tell(report, losses, {"output": str(out), "from": found.format, "to": to}, as_json)
    if report.failed or (strict and (report.left_out or losses.counts)):
        raise typer.Exit(1)


def _box_masks(model: str | None, folder: Path, device: str | None, dtype: str | None) -> Callable[[AnnotatedPicture], AnnotatedPicture]:
    """Return what makes masks of a picture's boxes; without a model they stay boxes."""
    if model is None:
        return lambda picture: picture
    from fretsaw.interchange.box_masks import BoxMasks
    from fretsaw.interchange.reading import pictures_below

    names = pictures_below(folder)
    if not names:
        raise DataError(f"{folder}: expected the pictures whose boxes --masks cuts, found none; --images says where they lie")
    return BoxMasks(load_for("click", model, device=device, dtype=dtype).open, folder, names)


def _pictures(
    found: Source, images: Path | None, finished: Callable[[AnnotatedPicture], AnnotatedPicture], report: ReadingReport, losses: Losses, to: str
) -> Iterator[AnnotatedPicture]:
    """Yield what is read, as the format holds it, with a place of its own for each picture's files."""
    from fretsaw.interchange.formats import ONE_FILE
    from fretsaw.interchange.names import Stems
    from fretsaw.interchange.reading import readers

    stems = Stems()
    for name, read in readers(found, images):
        for picture in report.read(name, read, finished):
            stem = stems.take(picture.file_name)
            if stem != stems.alone(picture.file_name) and to not in ONE_FILE:
                report.note(f"{name}: {picture.file_name}: another picture has its name but for suffix or case; its files are called {stem}")
            yield losses.fitted(replace(picture, stem=stem))


def _write(to: str, pictures: Iterable[AnnotatedPicture], place: Path, out: Path, sources: Sources) -> None:
    from fretsaw.images import write_pieces
    from fretsaw.interchange.formats import PIECES, WRITERS
    from fretsaw.interchange.names import key

    written: set[str] = set()
    made = [(PIECES[to][0], PIECES[to][1](pictures))] if to in PIECES else ((path, (content,)) for path, content in WRITERS[to](pictures))
    for path, pieces in made:
        if not (place / path).resolve().is_relative_to(place.resolve()):
            raise DataError(f"expected names of pictures that stay inside a folder, got one that leads to {path[:80]!r}")
        if key(path) in written:
            raise DataError(f"expected every picture to have files of its own, got {path[:80]!r} for two; nothing was written")
        written.add(key(path))
        sources.refuse(out / path, picture=False)
        write_pieces(place / path, pieces)


def _require_something(report: ReadingReport, found: Source, source: Path, masks: str | None) -> None:
    """Raise if there is nothing to write, which is an error of its own; says why."""
    if report.objects or (report.pictures and not report.failed):
        return
    errors = [row.error for row in report.files if row.error]
    if errors:
        raise DataError(errors[0] + (f" (and {len(errors) - 1} more files)" if len(errors) > 1 else ""))
    if not report.pictures:
        raise DataError(f"{source}: expected annotations in {found.format}, found no picture with any")
    hint = "; --masks MODEL makes masks of boxes" if report.left_out["box"] and masks is None else ""
    raise DataError(f"{source}: expected masks, got {report}{hint}; {report.sentences[0] if report.sentences else 'nothing was written'}")


def _tell(report: ReadingReport, losses: Losses, facts: dict[str, Any], as_json: bool) -> None:
    """Say what was done: what was left out and lost on standard error, the totals on standard output."""
    lines = [row.error if row.error else f"{row}" for row in report.files if row.error or row.left_out]
    for line in lines[:SHOWN]:
        print(f"fretsaw: {line}", file=sys.stderr)
    if len(lines) > SHOWN:
        print(f"fretsaw: {len(lines) - SHOWN} more files of which something was left out; --json names them", file=sys.stderr)
    for said, sentences, more in (("left out", report.sentences, report.unsaid), (f"lost in {facts['to']}", losses.sentences, 0)):
        for sentence in sentences[:SHOWN]:
            print(f"fretsaw: {said}: {sentence}", file=sys.stderr)
        if len(sentences) + more > SHOWN:
            print(f"fretsaw: {said}: {len(sentences) + more - SHOWN} more; --json names up to {len(sentences)}", file=sys.stderr)
    if as_json:
        lost = {"lost": dict(losses.counts), "lost_first": losses.sentences} if losses.counts else {}
        failures = [{"file": row.name, "error": row.error or f"{row}"} for row in report.failed]
        print(json.dumps(facts | report.to_dict() | lost | ({"failures": failures} if failures else {})))
    else:
        lost = f"; {facts['to']} does not hold {losses}" if losses.counts else ""
        pictures = f"{report.pictures} {'picture' if report.pictures == 1 else 'pictures'}"
        print(f"{facts['output']}: from {facts['from']} to {facts['to']}: {pictures}, {report}{lost}")


@contextmanager
def _filling(out: Path, overwrite: bool, about: str) -> Iterator[Path]:
    """Own a folder while it is filled, and give a hidden folder inside it; what is put there appears when all of it is there, or not at all.

    After a kill the same command begins again. One that is killed while its files appear leaves a note of itself, so that it may write over them.

    Raises:
        BusyError: If another process fills it.
        OutputError: If it holds something else.
    """
    from fretsaw.images import write_bytes

    new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: expected a place for a folder, got: {error.strerror}") from error
    try:
        with own(out, "a conversion") as place:
            waiting, mark = place / UNFINISHED, place / UNFINISHED / ABOUT
            unfinished = mark.is_file() and mark.read_bytes() == about.encode("utf-8", "surrogateescape")
            if not overwrite and not unfinished and any(not is_lock(path) and path != waiting for path in place.iterdir()):
                raise OutputError(f"expected a folder that is empty or not there yet as -o, got {out}; --overwrite writes into it")
            _remove(waiting)
            try:
                write_bytes(mark, about.encode("utf-8", "surrogateescape"))
                yield waiting
                _appear(waiting, place)
            finally:
                _remove(waiting)
    finally:
        if new:
            with suppress(OSError):  # that is, if nothing was written
                out.rmdir()


def _remove(folder: Path) -> None:
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _appear(waiting: Path, place: Path) -> None:
    """Move finished files to where they belong; a folder that is not there yet is moved whole."""
    for path in sorted(waiting.iterdir()):
        target = place / path.name
        if path.name == ABOUT:
            continue
        try:
            if path.is_dir() and target.is_dir():
                _appear(path, target)
            else:
                os.replace(path, target)
        except OSError as error:
            raise OutputError(f"{target}: expected a place that can be written, got: {error.strerror}") from error
