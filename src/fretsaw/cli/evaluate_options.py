"""What the commands of `fretsaw evaluate` ask: the options that all of them take, declared once, and each command's own.

RunRequest                               data, model, protocol, how to run, where results go
  DataSetRequest                         a data set by its layout, or the part of it that a split file lists
    ClicksRequest, AutoRequest, SemanticRequest
  InstancesRequest                       a COCO file
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_type_hints

import typer

from fretsaw.cli.options import ClickTrue, Device, Refiner, Size, Zoom

Data = Annotated[Path, typer.Argument(metavar="DATA", help="The data set's folder, or a COCO file; NAME:PATH says its layout as well.", show_default=False)]
Model = Annotated[
    str | None, typer.Option("--model", help="A name from [b]fretsaw models list[/b], or a weight file; default: the default model.", show_default=False)
]
ReportFile = Annotated[Path | None, typer.Option("--report", help="Write the report, JSON, to this file.", show_default=False)]
Limit = Annotated[int | None, typer.Option("--limit", help="Measure the first so many samples only.", show_default=False)]
Seed = Annotated[int, typer.Option("--seed", help="Seed of what is drawn at random.")]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Processes; results do not depend on it. Default: 1 on a GPU, else up to 4.", show_default=False)
]
Threads = Annotated[int, typer.Option("--threads", help="Threads of each worker on the CPU; the last digits of results may depend on it.")]
SaveMasks = Annotated[Path | None, typer.Option("--save-masks", help="Write what was measured into this folder, one PNG a sample.", show_default=False)]
Plot = Annotated[Path | None, typer.Option("--plot", help="Draw the result into this file (.png, .pdf, .svg).", show_default=False)]
Dtype = Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16, of the image encoder and a refiner.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON, and no progress.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What all four commands ask. Every field is an argument or an option of the command line."""

    task: ClassVar[str]
    """The report's word for what is measured."""

    data: Data
    model: Model = None
    protocol: str
    report: ReportFile = None
    limit: Limit = None
    seed: Seed = 0
    workers: Workers = None
    threads: Threads = 1
    save_masks: SaveMasks = None
    plot: Plot = None
    device: Device = None
    dtype: Dtype = "float32"
    size: Size = None
    as_json: Json = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSetRequest(RunRequest):
    """What the three commands ask that measure a data set of any layout."""

    dataset: Annotated[str | None, typer.Option("--dataset", help="Layout and rule of the masks; default: by the folder's name.", show_default=False)] = None
    split: Annotated[Path | None, typer.Option("--split", help="Measure the images listed in this file only, one stem a line.", show_default=False)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClicksRequest(DataSetRequest):
    """What `fretsaw evaluate clicks` asks."""

    task: ClassVar[str] = "clicks"

    protocol: Annotated[str, typer.Option("--protocol", help="ritm, simpleclick, segnext, sam, hrsam, interformer or real.")] = "sam"
    target_iou: Annotated[
        float | None, typer.Option("--target-iou", help="End samples at this IoU instead of the protocol's; 1.01 never, for full curves.", show_default=False)
    ] = None
    detour: Annotated[int | None, typer.Option("--detour", help="Bring images to this longest side before the model's own.", show_default=False)] = None
    timed: Annotated[int, typer.Option("--timed", help="Measure SPC on the first so many samples, and SAT latency, after the run.")] = 0
    refiner: Refiner = None
    zoom: Zoom = None
    click_true: ClickTrue = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoRequest(DataSetRequest):
    """What `fretsaw evaluate auto` asks."""

    task: ClassVar[str] = "auto"

    protocol: Annotated[str, typer.Option("--protocol", help="pysod or isnet.")] = "pysod"
    metric: Annotated[list[str] | None, typer.Option("--metric", help="Compute this metric only; repeat for more.", show_default=False)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticRequest(DataSetRequest):
    """What `fretsaw evaluate semantic` asks; model and protocol have no default."""

    task: ClassVar[str] = "semantic"

    model: Annotated[str, typer.Option("--model", help="A name from [b]fretsaw models list[/b], or a weight file.", show_default=False)] = field()
    protocol: Annotated[str, typer.Option("--protocol", help="The benchmark: voc21, voc20, context60, context59, coco-object, coco-stuff, cityscapes, ade20k.")]
    mode: Annotated[str, typer.Option("--mode", help="text: the benchmark's words; semantic: the classes that the model was trained on.")] = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancesRequest(RunRequest):
    """What `fretsaw evaluate instances` asks."""

    task: ClassVar[str] = "instances"

    protocol: Annotated[str, typer.Option("--protocol", help="How maps become instances and meet the truth; pmg-sam or one of the others.")] = "pmg-sam"
    images: Annotated[Path | None, typer.Option("--images", help="Folder of the images; default: where COCO puts them.", show_default=False)] = None
    touching: Annotated[bool, typer.Option("--overlapping", help="Only the images in which two objects touch or overlap.")] = False
    predictions: Annotated[Path | None, typer.Option("--predictions", help="Write what was scored as a COCO results file.", show_default=False)] = None


Request = TypeVar("Request", bound=RunRequest)


def options_from(kind: type[Request]) -> Callable[[Callable[[Request], None]], Callable[..., None]]:
    """Turn a function of a request into a command whose arguments and options are the request's fields.

    Args:
        kind: The request: a dataclass whose fields are annotated as typer's parameters are.
    """
    types = get_type_hints(kind, include_extras=True)
    parameters = [
        Parameter(one.name, Parameter.KEYWORD_ONLY, default=Parameter.empty if one.default is MISSING else one.default, annotation=types[one.name])
        for one in fields(kind)
    ]

    def decorate(measure: Callable[[Request], None]) -> Callable[..., None]:
        def command(**values: Any) -> None:
            measure(kind(**values))

        command.__name__, command.__doc__ = measure.__name__, measure.__doc__
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        command.__signature__ = Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
        return command

    return decorate
