"""`fretsaw convert`: annotations from one tool's format to another's."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from fretsaw.errors import DataError, FretsawError, OutputError
from fretsaw.outputs import Sources, lasting_failure, remove_unfinished, require_writable
from fretsaw.ownership import is_lock, own

MARK = ".unfinished-conversion"
"""Name of the file that a folder holds as long as a conversion fills it."""
SHOWN, MOST_SENTENCES = 5, 1000
"""Sentences about rows that were left out: as many on the terminal, and in the JSON."""


def convert(
    source: Annotated[Path, typer.Argument(metavar="ANNOTATIONS", help="A file, or a folder in the format's own layout.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder, which is made.", show_default=False)],
    to: Annotated[str, typer.Option("--to", help="png, coco, coco-polygons, yolo, voc, labelme, label-studio or cvat.", show_default=False)],
    origin: Annotated[str | None, typer.Option("--from", help="coco, label-studio, cvat, labelme, voc, yolo or png; default: found out.")] = None,
    images: Annotated[Path | None, typer.Option("--images", help="Where the pictures lie; YOLO's labels do not say their size.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that is not empty.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Convert masks and their names between the formats of annotation tools.

    [b]Examples[/b]

      fretsaw convert instances.json -o labels/ --to yolo

      fretsaw convert VOC2012/ -o out/ --from voc --to label-studio
    """
    from fretsaw.images import write_bytes
    from fretsaw.interchange.formats import WRITERS
    from fretsaw.interchange.pictures import AnnotatedPicture
    from fretsaw.interchange.reading import readers, the_source

    if to not in WRITERS:
        raise OutputError(f"expected --to out of {', '.join(WRITERS)}; got {to!r}")
    if str(out) == "-":
        raise OutputError("expected a folder as -o, got '-': annotations cannot be written to standard output yet")
    if out.exists() and not out.is_dir():
        raise OutputError(f"expected a folder that is empty or not there yet as -o, got the file {out}")
    found = the_source(source, origin)
    sources = Sources(also=[source, images])
    if source.is_dir() or images is not None:
        sources.refuse_folder(out)
    require_writable([out / "x"])
    counts, failures, left_out = [0, 0], [], []

    def pictures() -> Iterator[AnnotatedPicture]:
        for name, read in readers(found, images):
            try:
                for picture in read():
                    counts[0] += 1
                    counts[1] += len(picture.objects)
                    left_out.extend(f"{name}: {sentence}" for sentence in picture.left_out)
                    yield picture
            except FretsawError as error:
                failures.append({"file": name, "error": str(error)})

    about = f"fretsaw convert {source.resolve()} --from {found.format} --to {to}\n"
    with _filling(out, overwrite, about) as place:
        for path, content in WRITERS[to](pictures()):
            target = (place / path).resolve()
            if not target.is_relative_to(place):
                raise DataError(f"{found.name}: expected names of pictures that stay inside a folder, got one that leads to {path[:80]!r}")
            sources.refuse(target, picture=False)
            write_bytes(target, content)
        if not counts[0]:
            raise DataError(failures[0]["error"] if failures else f"{source}: expected annotations in {found.format}, found no picture with any")
    for failure in failures:
        print(f"fretsaw: {failure['error']}", file=sys.stderr)
    for sentence in left_out[:SHOWN]:
        print(f"fretsaw: left out: {sentence}", file=sys.stderr)
    if len(left_out) > SHOWN:
        print(f"fretsaw: left out: {len(left_out) - SHOWN} more; --json names up to {MOST_SENTENCES}", file=sys.stderr)
    if as_json:
        facts = {"output": str(out), "from": found.format, "to": to, "pictures": counts[0], "objects": counts[1]}
        facts |= {"left_out": len(left_out), "left_out_first": left_out[:MOST_SENTENCES]} if left_out else {}
        print(json.dumps(facts | ({"failures": failures} if failures else {})))
    else:
        lost = f"; {len(left_out)} left out" if left_out else ""
        lost += f"; {len(failures)} files failed" if failures else ""
        print(f"{out}: {counts[0]} pictures, {counts[1]} objects, from {found.format} to {to}{lost}")
    if failures:
        raise typer.Exit(1)


@contextmanager
def _filling(out: Path, overwrite: bool, about: str) -> Iterator[Path]:
    """Own a folder while it is filled. A mark in it says by what, so that the same command goes on in it after a kill.

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
            mark = place / MARK
            unfinished = mark.is_file() and mark.read_bytes() == about.encode("utf-8", "surrogateescape")
            if not overwrite and not unfinished and any(not is_lock(path) for path in place.iterdir()):
                raise OutputError(f"expected a folder that is empty or not there yet as -o, got {out}; --overwrite writes into it")
            write_bytes(mark, about.encode("utf-8", "surrogateescape"))
            remove_unfinished([place, *(path for path in place.rglob("*") if path.is_dir())], 0)
            try:
                yield place
            except FretsawError as error:
                if lasting_failure(error) is None:  # else it may go on when that is mended; the others would fail again
                    mark.unlink(missing_ok=True)
                raise
            mark.unlink(missing_ok=True)
    finally:
        if new:
            with suppress(OSError):  # that is, if nothing was written
                out.rmdir()
