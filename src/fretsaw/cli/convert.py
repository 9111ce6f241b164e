"""`fretsaw convert`: annotations from one tool's format to another's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from fretsaw.errors import DataError, OutputError


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
    found = the_source(source, origin)
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not overwrite):
        raise OutputError(f"expected a folder that is empty or not there yet as -o, got {out}; --overwrite writes into it")
    counts = [0, 0]

    def pictures() -> Iterator[AnnotatedPicture]:
        for _, read in readers(found, images):
            for picture in read():
                counts[0] += 1
                counts[1] += len(picture.objects)
                yield picture

    place = out.resolve()
    for path, content in WRITERS[to](pictures()):
        target = (place / path).resolve()
        if not target.is_relative_to(place):
            raise DataError(f"{found.name}: expected names of pictures that stay inside a folder, got one that leads to {path[:80]!r}")
        write_bytes(target, content)
    if not counts[0]:
        raise DataError(f"{source}: expected annotations in {found.format}, found no picture with any")
    if as_json:
        print(json.dumps({"output": str(out), "from": found.format, "to": to, "pictures": counts[0], "objects": counts[1]}))
        return
    print(f"{out}: {counts[0]} pictures, {counts[1]} objects, from {found.format} to {to}")
