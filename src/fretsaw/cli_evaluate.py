"""`fretsaw evaluate`: measure a model on a data set by a named protocol, and put reports side by side."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fretsaw.cli_progress import Steps

if TYPE_CHECKING:
    from fretsaw.api import Segmenter
    from fretsaw.data.samples import Dataset
    from fretsaw.evaluation.protocols import ClickProtocol
    from fretsaw.evaluation.report import Failure, Report
    from fretsaw.evaluation.runner import RunOptions

COLUMNS = {
    "clicks": ("NoC@80", "NoC@85", "NoC@90", "NoC@95", "NoF@90", "NoF@95", "5-mIoU", "SPC", "SAT latency"),
    "auto": ("max F", "weighted F", "MAE", "S", "mean E", "HCE", "IoU", "Dice", "PA", "boundary IoU"),
    "semantic": ("mIoU", "PA"),
    "instances": ("AP", "AP50", "AP75", "matched IoU"),
}
"""What the table shows, by task."""

RUNNING = {"clicks": ("NoC@90", "NoC@95"), "auto": ("IoU", "MAE"), "semantic": ("mIoU",), "instances": ("matched IoU",)}
"""What the progress bar shows."""

MOST_WORKERS = 4
"""Workers on a CPU unless told otherwise, where there are as many cores; each holds a model."""

app = typer.Typer(name="evaluate", help="Measure a model on a data set by a named protocol.", no_args_is_help=True, rich_markup_mode="rich")

Data = Annotated[Path, typer.Argument(metavar="DATA", help="The data set's folder, or a COCO file.", show_default=False)]
Model = Annotated[
    str | None, typer.Option("--model", help="A name from [b]fretsaw models list[/b], or a weight file; default: the default model.", show_default=False)
]
DatasetName = Annotated[str | None, typer.Option("--dataset", help="Layout and rule of the masks; default: by the folder's name.", show_default=False)]
ReportFile = Annotated[Path | None, typer.Option("--report", help="Write the report, JSON, to this file.", show_default=False)]
Limit = Annotated[int | None, typer.Option("--limit", help="Measure the first so many samples only.", show_default=False)]
Seed = Annotated[int, typer.Option("--seed", help="Seed of what is drawn at random.")]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Processes; results do not depend on it. Default: 1 on a GPU, else up to 4.", show_default=False)
]
Threads = Annotated[int, typer.Option("--threads", help="Threads of each worker on the CPU; the last digits of results may depend on it.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1 or mps; default: the best there is.", show_default=False)]
Dtype = Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16, of the image encoder.")]
Size = Annotated[int | None, typer.Option("--size", help="Side of the model's input; default: the model's own.", show_default=False)]
RefinerName = Annotated[str | None, typer.Option("--refiner", help="Improve each answer with this refiner.", show_default=False)]
Split = Annotated[Path | None, typer.Option("--split", help="Measure the images listed in this file only, one stem a line.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON, and no progress.")]


@app.command()
def clicks(
    data: Data,
    model: Model = None,
    protocol: Annotated[str, typer.Option("--protocol", help="ritm, simpleclick, segnext, sam, hrsam or interformer.")] = "sam",
    dataset: DatasetName = None,
    report: ReportFile = None,
    limit: Limit = None,
    seed: Seed = 0,
    workers: Workers = None,
    threads: Threads = 1,
    save_masks: Annotated[Path | None, typer.Option("--save-masks", help="Write the last mask of each object into this folder.", show_default=False)] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw IoU against clicks into this file (.png, .pdf, .svg).", show_default=False)] = None,
    target_iou: Annotated[
        float | None, typer.Option("--target-iou", help="End samples at this IoU instead of the protocol's; 1.01 never, for full curves.", show_default=False)
    ] = None,
    detour: Annotated[int | None, typer.Option("--detour", help="Bring images to this longest side before the model's own.", show_default=False)] = None,
    timed: Annotated[int, typer.Option("--timed", help="Measure SPC on the first so many samples, and SAT latency, after the run.")] = 0,
    split: Split = None,
    device: Device = None,
    dtype: Dtype = "float32",
    size: Size = None,
    refiner: RefinerName = None,
    as_json: Json = False,
) -> None:
    """Click a model through the objects of a data set: NoC, NoF, IoU after k clicks.

    [b]Examples[/b]

      fretsaw evaluate clicks data/GrabCut --protocol sam --report grabcut.json

      fretsaw evaluate clicks data/DAVIS345 --model hrsam-b --size 2048 --protocol hrsam --plot davis.png
    """
    from fretsaw.evaluation import adapters, curves
    from fretsaw.evaluation.clicks import evaluate_clicks, metrics_by_size
    from fretsaw.evaluation.protocols import click_protocol, for_dataset

    rules = click_protocol(protocol)
    if target_iou is not None:
        rules = replace(rules, target_iou=target_iou)
    rules = replace(rules, detour_size=detour) if detour is not None else rules
    if plot is not None:
        curves.require_matplotlib()
    objects = _open(data, dataset, split)
    build, options = _prepare(
        "clicks",
        data,
        protocol,
        model=model,
        refiner=refiner,
        size=size,
        device=device,
        dtype=dtype,
        threads=threads,
        workers=workers,
        limit=limit,
        seed=seed,
        report=report,
    )
    load = partial(adapters.load_predictor, **build.keywords)
    result = evaluate_clicks(objects, rules, load, options, _StepsProgress("clicks", as_json), save_masks)
    if timed:
        result = replace(result, timing=_times(build, for_dataset(rules, objects.name), objects, timed, options.device))
    if plot is not None:
        curves.plot_curves([result], plot)
    _finish(result, report, as_json)
    if not as_json and objects.name == "hqseg44k":
        for span, figures in metrics_by_size(result.samples, rules.max_clicks).items():
            print(f"longest side in {span}: NoC@90 {figures['NoC@90']:.2f}, NoC@95 {figures['NoC@95']:.2f}")
    _exit(result)


@app.command()
def auto(
    data: Data,
    model: Model = None,
    protocol: Annotated[str, typer.Option("--protocol", help="pysod or isnet.")] = "pysod",
    dataset: DatasetName = None,
    report: ReportFile = None,
    limit: Limit = None,
    seed: Seed = 0,
    workers: Workers = None,
    threads: Threads = 1,
    metric: Annotated[list[str] | None, typer.Option("--metric", help="Compute this metric only; repeat for more.", show_default=False)] = None,
    split: Split = None,
    device: Device = None,
    dtype: Dtype = "float32",
    size: Size = None,
    as_json: Json = False,
) -> None:
    """Measure masks that are made without any prompt: F, weighted F, MAE, S, E, HCE, IoU, Dice, PA, boundary IoU.

    [b]Example[/b]

      fretsaw evaluate auto data/DIS5K --dataset dis5k-vd --model u2netp --protocol isnet --report vd.json
    """
    from fretsaw.evaluation.auto import check_metrics, evaluate_auto, protocol_named

    rules, chosen = protocol_named(protocol), check_metrics(metric or None)
    images = _open(data, dataset, split)
    build, options = _prepare(
        "auto", data, protocol, model=model, size=size, device=device, dtype=dtype, threads=threads, workers=workers, limit=limit, seed=seed, report=report
    )
    result = evaluate_auto(images, build, rules, options=options, metrics=chosen, progress=_StepsProgress("auto", as_json))
    _finish(result, report, as_json)
    _exit(result)


@app.command()
def semantic(
    data: Data,
    model: Annotated[str, typer.Option("--model", help="A name from [b]fretsaw models list[/b], or a weight file.", show_default=False)],
    protocol: Annotated[
        str, typer.Option("--protocol", help="The benchmark: voc21, voc20, context60, context59, coco-object, coco-stuff, cityscapes, ade20k.")
    ],
    mode: Annotated[str, typer.Option("--mode", help="text: the benchmark's words; semantic: the classes that the model was trained on.")] = "text",
    dataset: DatasetName = None,
    report: ReportFile = None,
    limit: Limit = None,
    seed: Seed = 0,
    workers: Workers = None,
    threads: Threads = 1,
    split: Split = None,
    device: Device = None,
    dtype: Dtype = "float32",
    size: Size = None,
    as_json: Json = False,
) -> None:
    """Measure class maps: mIoU and pixel accuracy from one confusion matrix over the set.

    [b]Example[/b]

      fretsaw evaluate semantic data/VOC2012 --dataset voc --model s2clip --protocol voc21 --report voc21.json
    """
    from fretsaw.data.datasets import CLASS_SETS
    from fretsaw.evaluation.semantic import evaluate_semantic, preset_named

    preset = preset_named(protocol)
    images = _open(data, dataset, split, CLASS_SETS)
    build, options = _prepare(
        "semantic", data, protocol, model=model, size=size, device=device, dtype=dtype, threads=threads, workers=workers, limit=limit, seed=seed, report=report
    )
    result = evaluate_semantic(images, build, preset, mode, options=options, progress=_StepsProgress("semantic", as_json))
    _finish(result, report, as_json)
    _exit(result)


@app.command()
def instances(
    data: Data,
    model: Model = None,
    protocol: Annotated[str, typer.Option("--protocol", help="How maps become instances and meet the truth; pmg-sam or one of the others.")] = "pmg-sam",
    images: Annotated[Path | None, typer.Option("--images", help="Folder of the images; default: where COCO puts them.", show_default=False)] = None,
    predictions: Annotated[Path | None, typer.Option("--predictions", help="Write what was scored as a COCO results file.", show_default=False)] = None,
    report: ReportFile = None,
    limit: Limit = None,
    seed: Seed = 0,
    workers: Workers = None,
    threads: Threads = 1,
    device: Device = None,
    dtype: Dtype = "float32",
    size: Size = None,
    as_json: Json = False,
) -> None:
    """Measure instances against a COCO file: AP, AP50, AP75.

    [b]Example[/b]

      fretsaw evaluate instances annotations/instances_val2017.json --model u2netp --protocol pmg-sam --report coco.json
    """
    from fretsaw.evaluation.coco import read_coco
    from fretsaw.evaluation.instances import evaluate_instances, protocol_named, save_predictions

    rules = protocol_named(protocol)
    objects = read_coco(data, images)
    build, options = _prepare(
        "instances", data, protocol, model=model, size=size, device=device, dtype=dtype, threads=threads, workers=workers, limit=limit, seed=seed, report=report
    )
    result = evaluate_instances(objects, build, rules, options=options, progress=_StepsProgress("instances", as_json))
    if predictions is not None:
        save_predictions(result, predictions)
    _finish(result, report, as_json)
    _exit(result)


@app.command("table")
def table_command(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT.json...", help="Reports of earlier runs.", show_default=False)],
    mixed: Annotated[bool, typer.Option("--mixed", help="Allow different protocols; the table then says so.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the curves of all reports into this file.", show_default=False)] = None,
) -> None:
    """Put reports side by side, the papers' rows below; reports of different protocols are refused unless --mixed is given.

    [b]Example[/b]

      fretsaw evaluate table grabcut.json berkeley.json
    """
    from fretsaw.evaluation import curves
    from fretsaw.evaluation.published import published_click_rows
    from fretsaw.evaluation.report import Report, mixed_table, table

    loaded = [Report.load(path) for path in reports]
    columns = list(dict.fromkeys(name for report in loaded for name in COLUMNS.get(report.task, ())))
    print((mixed_table if mixed else table)(loaded, columns, published_click_rows()))
    if plot is not None:
        curves.plot_curves(loaded, plot)


class _StepsProgress:
    """The runner's progress on the terminal; failures are named at once."""

    def __init__(self, task: str, quiet: bool) -> None:
        self._task, self._quiet = task, quiet
        self._steps: Steps | None = None

    def start(self, total: int, resumed: int, notes: Sequence[str]) -> None:
        self._steps = Steps(total, "samples", self._quiet)
        self._steps.__enter__()
        for note in notes:
            print(f"fretsaw: {note}", file=sys.stderr)
        if resumed:
            if not self._quiet:
                self._steps.say(f"going on with an interrupted run: {resumed} of {total} samples are done")
            for _ in range(resumed):
                self._steps.advance()

    def advance(self, name: str, failure: Failure | None, metrics: Mapping[str, float]) -> None:
        assert self._steps is not None, "the runner calls start first"
        if failure is not None and not self._quiet:
            self._steps.say(f"fretsaw: {failure.error}")
        self._steps.advance(", ".join(f"{key} {metrics[key]:.3f}" for key in RUNNING[self._task] if key in metrics))

    def finish(self) -> None:
        if self._steps is not None:
            self._steps.__exit__(None, None, None)


def _open(data: Path, name: str | None, split_file: Path | None, sets: dict[str, Any] | None = None) -> Dataset:
    from fretsaw.data import datasets
    from fretsaw.data.layouts import read_list

    opened = datasets.open_dataset(data, name, datasets.OBJECT_SETS if sets is None else sets)
    return datasets.split(opened, read_list(split_file), split_file.stem) if split_file is not None else opened


def _prepare(
    task: str,
    data: Path,
    protocol: str,
    *,
    model: str | None,
    size: int | None,
    device: str | None,
    dtype: str,
    threads: int,
    workers: int | None,
    limit: int | None,
    seed: int,
    report: Path | None,
    refiner: str | None = None,
) -> tuple[partial, RunOptions]:
    """Return what builds the model in a worker, and how to run; unknown names and devices are refused here, before any work."""
    from fretsaw import api, catalog
    from fretsaw.errors import ConfigError
    from fretsaw.evaluation.adapters import load_segmenter, weights_checksum
    from fretsaw.evaluation.journal import fingerprint
    from fretsaw.evaluation.runner import RunOptions
    from fretsaw.weights import cache_folder

    name = model if model is not None else catalog.DEFAULT
    place = str(api.resolve_device(device))
    api.resolve_dtype(dtype)
    if threads < 1:
        raise ConfigError(f"expected at least 1 thread, got {threads}")
    on_cpu = place == "cpu"
    if workers is None:
        workers = max(1, min(MOST_WORKERS, _cores() // threads)) if on_cpu else 1
    settings = {"size": size, "refiner": refiner, "threads": threads if on_cpu else None}
    if report is not None:
        journal = report.with_name(report.name + ".journal")
    else:
        key = [task, str(data.resolve()), protocol, name, refiner, size, place, dtype, threads, seed]
        journal = cache_folder() / "evaluations" / f"{fingerprint({'run': key})[:16]}.journal"
    options = RunOptions(
        model=name if refiner is None else f"{name} + {refiner}",
        weights_checksum=weights_checksum(name),
        device=place,
        dtype=dtype,
        seed=seed,
        limit=limit,
        workers=workers,
        journal=journal,
        settings=settings,
    )
    keywords = {"name": name, "size": size, "device": place, "dtype": dtype, "refiner": refiner, "threads": threads if on_cpu else None}
    return partial(load_segmenter, **keywords), options


def _times(build: Callable[[], Segmenter], protocol: ClickProtocol, objects: Dataset, count: int, device: str) -> dict[str, float]:
    """Return SPC over the first samples and SAT latency on the first image, measured on all cores."""
    import torch

    from fretsaw.evaluation.adapters import decoder_of, predictor_for
    from fretsaw.evaluation.predictors import wrap
    from fretsaw.evaluation.timing import sat_latency, seconds_per_click, seconds_per_click_as_published, synchroniser

    segmenter = build()
    torch.set_num_threads(_cores())
    predictor, samples = wrap(predictor_for(segmenter, protocol), protocol), list(objects.samples)[:count]
    times = seconds_per_click(predictor, samples, protocol, synchroniser(device))
    times["SPC as published"] = seconds_per_click_as_published(predictor, samples, protocol)
    times["SAT latency"] = sat_latency(decoder_of(segmenter), samples[0].read_image(), synchroniser(device))
    return {**times, "threads": float(_cores()), "samples": float(len(samples))}


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _finish(result: Report, path: Path | None, as_json: bool) -> None:
    """Write the report and print it as a table, or as JSON."""
    from fretsaw.evaluation.published import published_click_rows
    from fretsaw.evaluation.report import table

    if path is not None:
        result.save(path)
    if as_json:
        print(result.to_json(), end="")
        return
    columns = [name for name in COLUMNS[result.task] if name in result.metrics or name in result.timing]
    print(table([result], columns, published_click_rows() if result.task == "clicks" else ()))
    for warning in result.warnings:
        print(f"warning: {warning}")
    if result.failures:
        print(f"{len(result.failures)} of {result.dataset_size} samples failed:")
        for failure in result.failures:
            print(f"  {failure.sample}: {failure.error}")
    if path is not None:
        print(f"report: {path}")


def _exit(result: Report) -> None:
    if result.failures:
        raise typer.Exit(1)
