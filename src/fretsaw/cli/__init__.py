"""The command `fretsaw`. Heavy imports happen inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fretsaw.cli import convert, evaluate, models, raw_frames, semantic, serve, text, train
from fretsaw.cli.batch import Batch, Record, finish, run, said
from fretsaw.cli.interrupts import MESSAGE, Commands, Interrupted, status_of, unwinding
from fretsaw.cli.loading import load_for
from fretsaw.cli.options import Device, Dtype, Inputs, Json, OneInput, Out, Overwrite, Private, Range, Recursive, Refiner, Size, Watch
from fretsaw.cli.pipes import PIPE, check_watched, inputs_of, reading_in, require_one, results_at
from fretsaw.cli.pipes import watch as watch_folders
from fretsaw.errors import FretsawError, ImageError, OutputError, PromptError
from fretsaw.outputs import LOSSLESS, PICTURES, TRANSPARENT, ImageTask, Sources, named_files, require_writable

if TYPE_CHECKING:
    import numpy as np

    from fretsaw.segmentation import Segmentation

FORMATS = {"mask": LOSSLESS, "cutout": TRANSPARENT, "overlay": PICTURES, "json": (".json",), "coco": (".json",)}
"""What a file of each format may end in."""

app = typer.Typer(
    name="fretsaw",
    cls=Commands,
    help="Cut things out of images: by itself, by click, or by name, at the image's own resolution.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.add_typer(models.app, name="models")
app.command()(train.train)
app.command()(train.curves)
app.command()(text.text)
app.command()(semantic.semantic)
app.add_typer(text.layers, name="layers")
app.command()(serve.serve)
app.command()(convert.convert)
app.command()(raw_frames.frames)
app.add_typer(evaluate.app, name="evaluate")

Model = Annotated[str | None, typer.Option("--model", help="A name from [b]fretsaw models list[/b]; default: the default model.", show_default=False)]
Format = Annotated[str, typer.Option("--format", help="mask (8 bit, 0 / 255), cutout (RGBA), overlay, coco or json.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from fretsaw import __version__

        print(f"fretsaw {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")] = False,
) -> None:
    """Cut things out of images: by itself, by click, or by name, at the image's own resolution."""


@app.command()
def auto(
    inputs: Inputs,
    out: Out,
    model: Model = None,
    format: Format = "mask",
    instances: Annotated[bool, typer.Option("--instances", help="Look for the separate objects; with --format coco each is an annotation.")] = False,
    recursive: Recursive = False,
    overwrite: Overwrite = False,
    watch: Watch = False,
    private: Private = False,
    value_range: Range = None,
    device: Device = None,
    dtype: Dtype = None,
    size: Size = None,
    as_json: Json = False,
) -> None:
    """Cut images without any prompt.

    [b]Examples[/b]

      fretsaw auto photo.jpg -o cut.png --format cutout

      fretsaw auto photos/ -o masks/ --recursive

      fretsaw auto photos/ -o annotations.json --format coco

      fretsaw auto - -o - --format cutout < photo.jpg > cut.png

      fretsaw auto https://example.org/photo.jpg -o cut.png --format cutout

      fretsaw auto inbox/ -o cut/ --format cutout --watch
    """
    _check_format(format, out)
    given, read = inputs_of(inputs, private), reading_in(value_range)
    if watch:
        check_watched(given, out, format)

    def load() -> Callable[[ImageTask], Segmentation]:
        segmenter = load_for("auto", model, size=size, device=device, dtype=dtype)
        return lambda job: segmenter.auto(read(job), instances=instances)

    with results_at(out, FORMATS[format][0], as_json) as place:
        if format == "coco":
            sources = Sources(given, recursive, also=named_files(model))
            batch = _one_coco_file(sources, place, load, overwrite, as_json)
        else:

            def plan(found: Sources) -> list[ImageTask]:
                return found.plan(place, FORMATS[format])

            def look() -> Sources:
                return Sources(given, recursive, place, named_files(model), allow_none=watch)

            sources = look()
            require_one(out, sources)
            jobs = plan(sources)
            say_notes(sources)
            todo = {job for job in jobs if overwrite or not job.done}
            cut = load() if todo or watch else None

            def save(job: ImageTask) -> Record:
                assert cut is not None
                result = cut(job)
                result.save(job.target, format=format)
                return _facts(result)

            batch = run(jobs, save, lambda job: job not in todo, as_json)
            if watch:
                batch = watch_folders(lambda: plan(look()), save, batch, as_json, jobs)
        finish(batch, as_json)


def _one_coco_file(sources: Sources, out: Path, load: Callable[[], Callable[[ImageTask], Segmentation]], overwrite: bool, as_json: bool) -> Batch:
    """Cut images into one file for all of them."""
    from fretsaw.coco_file import CocoFile

    jobs = _one_file_jobs(sources, out)
    say_notes(sources)
    try:
        with CocoFile(out, overwrite) as coco:
            names = {path: below.as_posix() for path, below in sources.images}
            cut = load() if any(names[job.source] not in coco for job in jobs) else None

            def annotate(job: ImageTask) -> Record:
                assert cut is not None
                result = cut(job)
                coco.add(names[job.source], result)
                return _facts(result)

            return run(jobs, annotate, lambda job: names[job.source] in coco, as_json)
    except KeyboardInterrupt as stop:  # before the first image: the summary is due all the same
        return Batch(untried=len(jobs), reason=MESSAGE, status=status_of(stop))


@app.command()
def click(
    image: OneInput,
    out: Out,
    positive: Annotated[list[str] | None, typer.Option("-p", "--positive", metavar="X,Y", help="A point on the object; repeat for more.")] = None,
    negative: Annotated[list[str] | None, typer.Option("-n", "--negative", metavar="X,Y", help="A point on the background; repeat for more.")] = None,
    scribble: Annotated[
        list[str] | None, typer.Option("--scribble", metavar="'X,Y X,Y ...'", help="A line over the object, by its corners; repeat for more.")
    ] = None,
    scribble_out: Annotated[
        list[str] | None, typer.Option("--scribble-out", metavar="'X,Y X,Y ...'", help="A line over the background; repeat for more.")
    ] = None,
    box: Annotated[str | None, typer.Option("--box", metavar="X0,Y0,X1,Y1", help="A box around the object, half open.")] = None,
    mask: Annotated[Path | None, typer.Option("--mask", help="Start from this mask (white is the object).", show_default=False)] = None,
    model: Model = None,
    refiner: Refiner = None,
    format: Format = "mask",
    overwrite: Overwrite = False,
    private: Private = False,
    value_range: Range = None,
    device: Device = None,
    dtype: Dtype = None,
    size: Size = None,
    as_json: Json = False,
) -> None:
    """Cut one object by clicks, lines, a box, a mask of one's own, or all of them.

    Coordinates are pixels of the image; the centre of the top-left pixel is 0,0.

    [b]Examples[/b]

      fretsaw click photo.jpg -p 210,140 -o mask.png

      fretsaw click photo.jpg --box 80,40,400,300 -n 350,60 -o cut.png --format cutout

      fretsaw click photo.jpg --mask mine.png -n 350,60 --refiner sam-ref -o mended.png

      fretsaw click photo.jpg --scribble '180,120 210,140 260,150' --scribble-out '20,20 300,20' -o mask.png

      fretsaw click - -p 210,140 -o - --format cutout < photo.jpg > cut.png
    """
    from fretsaw.types import Box, Click

    _check_format(format, out)
    places = [(text, True) for text in positive or []] + [(text, False) for text in negative or []]
    clicks = [Click(x, y, sign) for (x, y), sign in ((_numbers(text, 2), sign) for text, sign in places)]
    drawn = [(text, True) for text in scribble or []] + [(text, False) for text in scribble_out or []]
    strokes = [([_numbers(corner, 2) for corner in text.split()], sign) for text, sign in drawn]
    region = Box(*_numbers(box, 4)) if box is not None else None
    if not clicks and not strokes and region is None and mask is None:
        raise PromptError("expected at least one of -p, -n, --scribble, --scribble-out, --box and --mask, got none")
    given, read = inputs_of([image], private), reading_in(value_range)
    sources = Sources(given, also=[mask, *named_files(model, refiner)])
    if len(sources.images) != 1:
        raise ImageError(f"expected one image to click on, got the folder {image} with {len(sources.images)}")
    with results_at(out, FORMATS[format][0], as_json) as place:
        [job] = sources.plan(place, FORMATS[format])
        start = _start_mask(mask)
        segmenter = None
        if overwrite or not job.done:
            segmenter = load_for("click", model, size=size, refiner=refiner, device=device, dtype=dtype)

        def cut(job: ImageTask) -> Record:
            assert segmenter is not None
            session = segmenter.open(read(job))
            if start is not None:
                session.mask(start)
            if clicks or region:
                session.clicks(clicks, region)
            for corners, sign in strokes:
                session.scribble(corners, sign)
            result = session.result
            result.save(job.target, format=format)
            return _facts(result)

        finish(run([job], cut, lambda job: segmenter is None, as_json), as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine offers: versions, devices, memory, cache, weights.

    [b]Example[/b]

      fretsaw doctor --json
    """
    from fretsaw.doctor import examine

    facts = examine()
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for section, values in facts.items():
        print(section)
        for name, value in values.items():
            print(f"  {name:<28} {value}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake, and what the system refuses, end in one line on standard error and exit status 1."""
    warnings.filterwarnings("ignore", module="PIL")  # a broken file is reported once, by us
    logging.getLogger("fretsaw.images").addHandler(_WARNINGS)
    try:
        with unwinding():
            app(args=list(arguments) if arguments is not None else None)
    except FretsawError as error:
        print(f"fretsaw: {error}", file=sys.stderr)
        sys.exit(1)
    except (OSError, MemoryError) as error:
        print(f"fretsaw: {said(error)}", file=sys.stderr)
        sys.exit(1)
    except Interrupted as stop:
        print(f"fretsaw: {stop}", file=sys.stderr)
        sys.exit(stop.status)


class _OneLine(logging.Handler):
    """Says a warning on standard error as all else is said there."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"fretsaw: {record.getMessage()}", file=sys.stderr)


_WARNINGS = _OneLine(logging.WARNING)


def say_notes(sources: Sources) -> None:
    """Say on standard error what a search for inputs left out."""
    for note in sources.notes:
        print(f"fretsaw: {note}", file=sys.stderr)


def _one_file_jobs(sources: Sources, out: Path) -> list[ImageTask]:
    """Return the jobs of a run that writes one file for all images, which are told apart in it by their paths below their folders."""
    if out.is_dir():
        raise OutputError(f"expected a file that ends in .json for --format coco, got the folder {out}")
    sources.refuse(out)
    require_writable([out])
    doubles = [below for below, count in Counter(below for _, below in sources.images).items() if count > 1]
    if doubles:
        raise OutputError(f"expected images with different names in one COCO file, got {doubles[0]} twice; give the folder above, with --recursive")
    return [ImageTask(path, out) for path, _ in sources.images]


def _start_mask(path: Path | None) -> np.ndarray | None:
    if path is None:
        return None
    from fretsaw.images import read_mask

    return read_mask(path) > 0


def _facts(result: Segmentation) -> Record:
    return {"score": round(result.score, 4), "box": list(result.box)}


def _check_format(format: str, out: Path) -> None:
    if format not in FORMATS:
        raise OutputError(f"expected a format out of {', '.join(FORMATS)}; got {format!r}")
    if format == "coco" and out.suffix.lower() != ".json" and str(out) != PIPE:
        raise OutputError(f"expected -o to end in .json for --format coco, which writes one file for all images; got {out}")


def _numbers(text: str, count: int) -> list[float]:
    """Read "1,2" or "1,2,3,4"."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count:
        raise PromptError(f"expected {count} numbers with commas between them, such as {','.join(['10', '20', '30', '40'][:count])}; got {text!r}")
    return values
