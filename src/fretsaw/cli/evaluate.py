"""`fretsaw evaluate`: measure a model on a data set by a named protocol, and put reports side by side."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fretsaw.cli.evaluate_run import COLUMNS, StepsProgress, check_outputs, exit_status, finish, open_data, prepare, times
from fretsaw.cli.options import Device, Refiner, Size, Zoom
from fretsaw.errors import ConfigError

app = typer.Typer(name="evaluate", help="Measure a model on a data set by a named protocol.", no_args_is_help=True, rich_markup_mode="rich")

Data = Annotated[Path, typer.Argument(metavar="DATA", help="The data set's folder, or a COCO file; NAME:PATH says its layout as well.", show_default=False)]
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
Dtype = Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16, of the image encoder and a refiner.")]
Split = Annotated[Path | None, typer.Option("--split", help="Measure the images listed in this file only, one stem a line.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON, and no progress.")]
SaveMasks = Annotated[Path | None, typer.Option("--save-masks", help="Write what was measured into this folder, one PNG a sample.", show_default=False)]
Plot = Annotated[Path | None, typer.Option("--plot", help="Draw the result into this file (.png, .pdf, .svg).", show_default=False)]


@app.command()
def clicks(
    data: Data,
    model: Model = None,
    protocol: Annotated[str, typer.Option("--protocol", help="ritm, simpleclick, segnext, sam, hrsam, interformer or real.")] = "sam",
    dataset: DatasetName = None,
    report: ReportFile = None,
    limit: Limit = None,
    seed: Seed = 0,
    workers: Workers = None,
    threads: Threads = 1,
    save_masks: SaveMasks = None,
    plot: Plot = None,
    target_iou: Annotated[
        float | None, typer.Option("--target-iou", help="End samples at this IoU instead of the protocol's; 1.01 never, for full curves.", show_default=False)
    ] = None,
    detour: Annotated[int | None, typer.Option("--detour", help="Bring images to this longest side before the model's own.", show_default=False)] = None,
    timed: Annotated[int, typer.Option("--timed", help="Measure SPC on the first so many samples, and SAT latency, after the run.")] = 0,
    split: Split = None,
    device: Device = None,
    dtype: Dtype = "float32",
    size: Size = None,
    refiner: Refiner = None,
    zoom: Zoom = None,
    as_json: Json = False,
) -> None:
    """Click a model through the objects of a data set: NoC, NoF, IoU after k clicks.

    [b]Examples[/b]

      fretsaw evaluate clicks data/GrabCut --protocol sam --report grabcut.json

      fretsaw evaluate clicks data/DAVIS345 --model hrsam-b --size 2048 --protocol hrsam --plot davis.png
    """
    from fretsaw.evaluation import adapters
    from fretsaw.evaluation.clicks import evaluate_clicks, metrics_by_size
    from fretsaw.evaluation.protocols import click_protocol, for_dataset

    rules = click_protocol(protocol)
    if zoom is not None and not adapters.uses_sessions(rules):
        raise ConfigError(f"expected --zoom or --no-zoom with a protocol that clicks as a session does (sam), got {protocol}")
    if target_iou is not None:
        rules = replace(rules, target_iou=target_iou)
    rules = replace(rules, detour_size=detour) if detour is not None else rules
    build, options = prepare(
        "clicks",
        data,
        protocol,
        model=model,
        refiner=refiner,
        zoom=zoom,
        size=size,
        device=device,
        dtype=dtype,
        threads=threads,
        workers=workers,
        limit=limit,
        seed=seed,
        report=report,
        plot=plot,
    )
    objects = open_data(data, dataset, split)
    check_outputs(objects.samples, [split, model, refiner], [report, plot], save_masks, data)
    load = partial(adapters.load_predictor, **build.keywords)
    result = evaluate_clicks(objects, rules, load, options, StepsProgress("clicks", as_json), save_masks)
    if timed:
        result = replace(result, timing=times(build, for_dataset(rules, objects.name), objects, timed, options.device))
    finish(result, report, plot, as_json, options)
    if not as_json and objects.name == "hqseg44k":
        for span, figures in metrics_by_size(result.samples, rules.max_clicks).items():
            print(f"longest side in {span}: NoC@90 {figures['NoC@90']:.2f}, NoC@95 {figures['NoC@95']:.2f}")
    exit_status(result)


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
    save_masks: SaveMasks = None,
    plot: Plot = None,
    metric: Annotated[list[str] | None, typer.Option("--metric", help="Compute this metric only; repeat for more.", show_default=False)] = None,
    split: Split = None,
    device: Device = None,
    dtype: Dtype = "float32",
    size: Size = None,
    as_json: Json = False,
) -> None:
    """Measure masks that are made without any prompt: F, weighted F, MAE, S, E, HCE, IoU, Dice, PA, boundary IoU.

    [b]Example[/b]

      fretsaw evaluate auto data/DIS5K --dataset dis5k-vd --model pmg-tiny --protocol isnet --report vd.json
    """
    from fretsaw.evaluation.auto import check_metrics, evaluate_auto, protocol_named

    rules, chosen = protocol_named(protocol), check_metrics(metric or None)
    build, options = prepare(
        "auto",
        data,
        protocol,
        model=model,
        size=size,
        device=device,
        dtype=dtype,
        threads=threads,
        workers=workers,
        limit=limit,
        seed=seed,
        report=report,
        plot=plot,
    )
    images = open_data(data, dataset, split)
    check_outputs(images.samples, [split, model], [report, plot], save_masks, data)
    result = evaluate_auto(images, build, rules, options=options, metrics=chosen, progress=StepsProgress("auto", as_json), masks_to=save_masks)
    finish(result, report, plot, as_json, options)
    exit_status(result)


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
    save_masks: SaveMasks = None,
    plot: Plot = None,
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
    from fretsaw.data.class_sets import CLASS_SETS
    from fretsaw.evaluation.semantic import LABELLERS, check_classes, evaluate_semantic, preset_named

    preset = preset_named(protocol)
    if mode not in LABELLERS:
        raise ConfigError(f"expected --mode out of {', '.join(LABELLERS)}, got {mode!r}")
    build, options = prepare(
        "semantic",
        data,
        protocol,
        model=model,
        size=size,
        device=device,
        dtype=dtype,
        threads=threads,
        workers=workers,
        limit=limit,
        seed=seed,
        report=report,
        plot=plot,
        mode=mode,
        check=partial(check_classes, preset=preset),
    )
    images = open_data(data, dataset, split, CLASS_SETS)
    check_outputs(images.samples, [split, model], [report, plot], save_masks, data)
    result = evaluate_semantic(images, build, preset, mode, options=options, progress=StepsProgress("semantic", as_json), masks_to=save_masks)
    finish(result, report, plot, as_json, options)
    exit_status(result)


@app.command()
def instances(
    data: Data,
    model: Model = None,
    protocol: Annotated[str, typer.Option("--protocol", help="How maps become instances and meet the truth; pmg-sam or one of the others.")] = "pmg-sam",
    images: Annotated[Path | None, typer.Option("--images", help="Folder of the images; default: where COCO puts them.", show_default=False)] = None,
    touching: Annotated[bool, typer.Option("--overlapping", help="Only the images in which two objects touch or overlap.")] = False,
    predictions: Annotated[Path | None, typer.Option("--predictions", help="Write what was scored as a COCO results file.", show_default=False)] = None,
    report: ReportFile = None,
    limit: Limit = None,
    seed: Seed = 0,
    workers: Workers = None,
    threads: Threads = 1,
    save_masks: SaveMasks = None,
    plot: Plot = None,
    device: Device = None,
    dtype: Dtype = "float32",
    size: Size = None,
    as_json: Json = False,
) -> None:
    """Measure instances against a COCO file: AP, AP50, AP75.

    [b]Example[/b]

      fretsaw evaluate instances annotations/instances_val2017.json --model pmg-tiny --protocol pmg-sam --report coco.json
      fretsaw evaluate instances COD10K/test_instance.json --images COD10K/Test/Image --overlapping
    """
    from fretsaw.evaluation.coco import read_coco
    from fretsaw.evaluation.instances import evaluate_instances, overlapping, protocol_named, save_predictions

    rules = protocol_named(protocol)
    build, options = prepare(
        "instances",
        data,
        protocol,
        model=model,
        size=size,
        device=device,
        dtype=dtype,
        threads=threads,
        workers=workers,
        limit=limit,
        seed=seed,
        report=report,
        plot=plot,
    )
    objects = read_coco(data, images)
    if touching:
        objects = overlapping(objects)
    check_outputs(objects.samples, [data, model], [report, plot, predictions], save_masks, images or data.parent)
    result = evaluate_instances(objects, build, rules, options=options, progress=StepsProgress("instances", as_json), masks_to=save_masks)
    if predictions is not None:
        save_predictions(result, predictions)
    finish(result, report, plot, as_json, options)
    exit_status(result)


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

    if plot is not None:
        check_outputs((), reports, [plot])
    loaded = [Report.load(path) for path in reports]
    columns = list(dict.fromkeys(name for report in loaded for name in COLUMNS.get(report.task, ())))
    print((mixed_table if mixed else table)(loaded, columns, published_click_rows()))
    if plot is not None:
        curves.plot(loaded, plot)
