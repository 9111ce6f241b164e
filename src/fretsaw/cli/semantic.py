"""`fretsaw semantic`: every pixel gets one of the classes that a model was trained on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fretsaw.cli.batch import Record, finish, run, shares
from fretsaw.cli.loading import load_for
from fretsaw.cli.options import Device, Dtype, Inputs, Json, Out, Overwrite, Private, Recursive, Size
from fretsaw.cli.pipes import inputs_of, require_one, results_at
from fretsaw.errors import OutputError
from fretsaw.outputs import PICTURES, ImageTask, Sources, named_files

if TYPE_CHECKING:
    from fretsaw.segmentation import LabelMap

FORMATS = {"labels": (".png",), "overlay": PICTURES, "json": (".json",), "all": (".png",)}
"""What a file of each format may end in."""


def semantic(
    inputs: Inputs,
    out: Out,
    model: Annotated[str, typer.Option("--model", help="A model with the mode semantic, or the file that fretsaw train grc_sam wrote.", show_default=False)],
    format: Annotated[
        str, typer.Option("--format", help="labels (palette PNG, and a legend beside it as JSON), overlay (with names), json, or all (labels and overlay).")
    ] = "labels",
    recursive: Recursive = False,
    overwrite: Overwrite = False,
    private: Private = False,
    device: Device = None,
    dtype: Dtype = None,
    size: Size = None,
    as_json: Json = False,
) -> None:
    """Give every pixel of images one of the classes that a model was trained on.

    [b]Examples[/b]

      fretsaw semantic photo.jpg --model grc-clothes -o labels.png

      fretsaw semantic photos/ --model runs/semantic/model.safetensors -o labels/ --format all --recursive
    """
    if format not in FORMATS:
        raise OutputError(f"expected a format out of {', '.join(FORMATS)}; got {format!r}")
    given = inputs_of(inputs, private)
    with results_at(out, "" if format == "all" else FORMATS[format][0], as_json) as place:
        sources = Sources(given, recursive, place, named_files(model))
        require_one(out, sources)
        jobs = sources.plan(place, FORMATS[format], lambda target: beside(target, format))
        for note in sources.notes:
            print(f"fretsaw: {note}", file=sys.stderr)
        todo = {job for job in jobs if overwrite or not job.done}
        segmenter = load_for("semantic", model, size=size, device=device, dtype=dtype) if todo else None

        def cut(job: ImageTask) -> Record:
            assert segmenter is not None
            result = segmenter.semantic(job.image)
            write(result, job.target, format)
            return {"areas": {name: area for name, area in result.areas.items() if area}}

        def describe(record: Record) -> str:
            return "; ".join(f"{name} {share}" for name, share in shares(record).items())

        finish(run(jobs, cut, lambda job: job not in todo, as_json), as_json, describe)


def beside(target: Path, format: str) -> list[Path]:
    """Name the files that are written beside a label map: a legend, and with "all" the overlay."""
    legend = [target.with_suffix(".json")] if format in ("labels", "all") else []
    return legend + ([target.with_suffix(".overlay.png")] if format == "all" else [])


def write(result: LabelMap, target: Path, format: str) -> None:
    """Write a label map; "all" writes the overlay beside the labels, as <stem>.overlay.png."""
    result.save(target, format="labels" if format == "all" else format)
    if format == "all":
        result.save(target.with_suffix(".overlay.png"), format="overlay")
