"""`fretsaw evaluate`: measure a model on a data set by a named protocol, and put reports side by side."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fretsaw.cli.evaluate_options import AutoRequest, ClicksRequest, InstancesRequest, SemanticRequest, options_from
from fretsaw.cli.evaluate_run import COLUMNS, StepsProgress, check_outputs, exit_status, finish, measure_times, open_data, prepare
from fretsaw.errors import ConfigError

app = typer.Typer(name="evaluate", help="Measure a model on a data set by a named protocol.", no_args_is_help=True, rich_markup_mode="rich")


@app.command()
@options_from(ClicksRequest)
def clicks(request: ClicksRequest) -> None:
    """Click a model through the objects of a data set: NoC, NoF, IoU after k clicks.

    [b]Examples[/b]

      fretsaw evaluate clicks data/GrabCut --protocol sam --report grabcut.json

      fretsaw evaluate clicks data/DAVIS345 --model hrsam-b --size 2048 --protocol hrsam --plot davis.png
    """
    from fretsaw.evaluation import adapters
    from fretsaw.evaluation.clicks import evaluate_clicks, metrics_by_size
    from fretsaw.evaluation.protocols import click_protocol, for_dataset

    rules = click_protocol(request.protocol)
    of_sessions = {"--zoom or --no-zoom": request.zoom, "--click-true or --no-click-true": request.click_true}
    given = [name for name, value in of_sessions.items() if value is not None]
    if given and not adapters.uses_sessions(rules):
        raise ConfigError(f"expected {given[0]} with a protocol that clicks as a session does (sam), got {request.protocol}")
    if request.target_iou is not None:
        rules = replace(rules, target_iou=request.target_iou)
    rules = replace(rules, detour_size=request.detour) if request.detour is not None else rules
    build, options = prepare(request, refiner=request.refiner, zoom=request.zoom, click_true=request.click_true is not False)
    objects = open_data(request.data, request.dataset, request.split)
    check_outputs(objects.samples, [request.split, request.model, request.refiner], [request.report, request.plot], request.save_masks, request.data)
    load = partial(adapters.load_predictor, **build.keywords)
    result = evaluate_clicks(objects, rules, load, options, StepsProgress(request), request.save_masks)
    if request.timed:
        result = replace(result, timing=measure_times(build, for_dataset(rules, objects.name), objects, request.timed, options.device))
    finish(result, request, options)
    if not request.as_json and objects.name == "hqseg44k":
        for span, figures in metrics_by_size(result.samples, rules.max_clicks).items():
            print(f"longest side in {span}: NoC@90 {figures['NoC@90']:.2f}, NoC@95 {figures['NoC@95']:.2f}")
    exit_status(result)


@app.command()
@options_from(AutoRequest)
def auto(request: AutoRequest) -> None:
    """Measure masks that are made without any prompt: F, weighted F, MAE, S, E, HCE, IoU, Dice, PA, boundary IoU.

    [b]Example[/b]

      fretsaw evaluate auto data/DIS5K --dataset dis5k-vd --model pmg-tiny --protocol isnet --report vd.json
    """
    from fretsaw.evaluation.auto import check_metrics, evaluate_auto, protocol_named

    rules, chosen = protocol_named(request.protocol), check_metrics(request.metric or None)
    build, options = prepare(request)
    images = open_data(request.data, request.dataset, request.split)
    check_outputs(images.samples, [request.split, request.model], [request.report, request.plot], request.save_masks, request.data)
    result = evaluate_auto(images, build, rules, options=options, metrics=chosen, progress=StepsProgress(request), masks_to=request.save_masks)
    finish(result, request, options)
    exit_status(result)


@app.command()
@options_from(SemanticRequest)
def semantic(request: SemanticRequest) -> None:
    """Measure class maps: mIoU and pixel accuracy from one confusion matrix over the set.

    [b]Example[/b]

      fretsaw evaluate semantic data/VOC2012 --dataset voc --model s2clip --protocol voc21 --report voc21.json
    """
    from fretsaw.data.class_sets import CLASS_SETS
    from fretsaw.evaluation.semantic import LABELLERS, check_classes, evaluate_semantic, preset_named

    preset = preset_named(request.protocol)
    if request.mode not in LABELLERS:
        raise ConfigError(f"expected --mode out of {', '.join(LABELLERS)}, got {request.mode!r}")
    build, options = prepare(request, mode=request.mode, check=partial(check_classes, preset=preset))
    images = open_data(request.data, request.dataset, request.split, CLASS_SETS)
    check_outputs(images.samples, [request.split, request.model], [request.report, request.plot], request.save_masks, request.data)
    result = evaluate_semantic(images, build, preset, request.mode, options=options, progress=StepsProgress(request), masks_to=request.save_masks)
    finish(result, request, options)
    exit_status(result)


@app.command()
@options_from(InstancesRequest)
def instances(request: InstancesRequest) -> None:
    """Measure instances against a COCO file: AP, AP50, AP75.

    [b]Examples[/b]

      fretsaw evaluate instances annotations/instances_val2017.json --model pmg-tiny --protocol pmg-sam --report coco.json

      fretsaw evaluate instances COD10K/test_instance.json --images COD10K/Test/Image --overlapping
    """
    from fretsaw.evaluation.coco import read_coco
    from fretsaw.evaluation.instances import evaluate_instances, overlapping, protocol_named, save_predictions

    rules = protocol_named(request.protocol)
    build, options = prepare(request)
    objects = read_coco(request.data, request.images)
    if request.touching:
        objects = overlapping(objects)
    results, root = [request.report, request.plot, request.predictions], request.images or request.data.parent
    check_outputs(objects.samples, [request.data, request.model], results, request.save_masks, root)
    result = evaluate_instances(objects, build, rules, options=options, progress=StepsProgress(request), masks_to=request.save_masks)
    if request.predictions is not None:
        save_predictions(result, request.predictions)
    finish(result, request, options)
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
