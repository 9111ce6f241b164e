"""Steps that the commands of `fretsaw evaluate` share: open data and model, show progress, print the table."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fretsaw.cli.progress import Steps
from fretsaw.errors import OutputError

if TYPE_CHECKING:
    from fretsaw.api import Segmenter
    from fretsaw.cli.evaluate_options import RunRequest
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
"""Columns of the table, by task."""

RUNNING = {"clicks": ("NoC@90", "NoC@95"), "auto": ("IoU", "MAE"), "semantic": ("mIoU",), "instances": ("matched IoU",)}
"""Figures beside the progress bar, by task."""

MODES = {"clicks": "click", "auto": "auto", "semantic": "semantic", "instances": "auto"}
"""The mode that a model must have, in the catalogue's words, by task."""

MOST_WORKERS = 4
"""Workers on a CPU unless told otherwise, where there are as many cores; each holds a model."""


class StepsProgress:
    """The runner's progress on the terminal; failures are named at once."""

    def __init__(self, request: RunRequest) -> None:
        self._task, self._quiet = request.task, request.as_json
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


def open_data(data: Path, name: str | None, split_file: Path | None, sets: dict[str, Any] | None = None) -> Dataset:
    """Return the data set, or the part of it that a split file lists."""
    from fretsaw.data import datasets
    from fretsaw.data.layouts import read_list

    opened = datasets.open_dataset(data, name, datasets.OBJECT_SETS if sets is None else sets)
    return datasets.split(opened, read_list(split_file), split_file.stem) if split_file is not None else opened


def prepare(
    request: RunRequest,
    *,
    refiner: str | None = None,
    zoom: bool | None = None,
    click_true: bool = True,
    mode: str | None = None,
    check: Callable[[Segmenter], None] = lambda segmenter: None,
) -> tuple[partial[Segmenter], RunOptions]:
    """Return a function that builds the model in a worker, and the options of the run. A request that cannot work is refused before the data set is opened.

    Args:
        request: What the command was asked.
        refiner: Name or file of a refiner.
        zoom: Whether sessions zoom in; None leaves it to the model.
        click_true: Whether sessions hold answers to the clicks.
        mode: The catalogue's word for what the model must offer; None for the task's own.
        check: Raises if a loaded model does not fit the task; called where only a loaded model can tell.
    """
    from fretsaw import api, catalog
    from fretsaw.catalog.refiners import refiner_path
    from fretsaw.errors import ConfigError
    from fretsaw.evaluation import curves
    from fretsaw.evaluation.adapters import load_segmenter, weights_checksum
    from fretsaw.evaluation.journal import fingerprint
    from fretsaw.evaluation.runner import RunOptions
    from fretsaw.weights import cache_folder
    from fretsaw.weights.files import sha256_of

    if request.plot is not None:
        curves.require_matplotlib()
    name = request.model if request.model is not None else catalog.DEFAULT
    place = str(api.resolve_device(request.device))
    api.resolve_dtype(request.dtype)
    threads, workers = request.threads, request.workers
    if threads < 1:
        raise ConfigError(f"expected at least 1 thread, got {threads}")
    on_cpu = place == "cpu"
    if workers is None:
        workers = max(1, min(MOST_WORKERS, cores() // threads)) if on_cpu else 1
    settings: dict[str, Any] = {"size": request.size, "refiner": refiner, "zoom": zoom, "click_true": click_true, "threads": threads if on_cpu else None}
    if refiner is not None:
        settings["refiner_checksum"] = sha256_of(refiner_path(refiner, name))
    if request.report is not None:
        journal = request.report.with_name(request.report.name + ".journal")
    else:
        asked = [request.task, str(request.data.resolve()), request.protocol, request.size, request.dtype, request.seed]
        key = [*asked, name, refiner, zoom, click_true, place, threads]
        journal = cache_folder() / "evaluations" / f"{fingerprint({'run': key})[:16]}.journal"
    options = RunOptions(
        model=name if refiner is None else f"{name} + {refiner}",
        weights_checksum=weights_checksum(name),
        device=place,
        dtype=request.dtype,
        seed=request.seed,
        limit=request.limit,
        workers=workers,
        journal=journal,
        keep_journal=True,
        settings=settings,
    )
    keywords: dict[str, Any] = {
        "name": name,
        "size": request.size,
        "device": place,
        "dtype": request.dtype,
        "refiner": refiner,
        "zoom": zoom,
        "click_true": click_true,
        "threads": threads if on_cpu else None,
    }
    build = partial(load_segmenter, **keywords)
    _check_model(build, name, mode or MODES[request.task], check)
    return build, options


def _check_model(build: Callable[[], Segmenter], name: str, mode: str, check: Callable[[Segmenter], None]) -> None:
    """Raise `ModelError` or `ConfigError` if a model lacks the mode or does not fit. A model of the catalogue is not loaded for its mode, a file is."""
    from fretsaw.catalog import CATALOGUE
    from fretsaw.cli.loading import check_name, check_parts

    check_name(name, mode)
    known = name in CATALOGUE
    if not known and not Path(name).is_file():
        return  # loading raises for a name that is unknown
    if not known or mode == "semantic":
        segmenter = build()
        check_parts(segmenter, mode)
        check(segmenter)


def check_outputs(
    samples: Sequence[Any], reads: Sequence[str | Path | None], files: Sequence[Path | None], folder: Path | None = None, root: Path | None = None
) -> None:
    """Raise `OutputError` if a result would be written over what is read, or where it cannot be written; called before the first sample.

    Args:
        samples: Of the data set.
        reads: Other files that are read; names of models among them are passed over.
        files: To be written, or None.
        folder: For masks, or None.
        root: The data set's folder: no picture and no folder of masks is written into it.
    """
    from fretsaw.outputs import Sources, named_files, require_writable

    read = [path for sample in samples for name in ("image", "mask", "source") if isinstance(path := getattr(sample, name, None), Path)]
    sources = Sources(also=[root, *named_files(*reads), *read])
    targets = [file for file in files if file is not None]
    for file in targets:
        if file.is_dir() or str(file) == "-":
            raise OutputError(f"expected a file for the result, got {'the folder ' if file.is_dir() else ''}{str(file)!r}")
        sources.refuse(file)
    if folder is not None:
        sources.refuse_folder(folder)
        targets.append(folder / "x.png")
    if len(set(targets)) < len(targets):
        raise OutputError(f"expected a file of its own for every result, got {', '.join(map(str, targets))}")
    require_writable(targets)


def measure_times(build: Callable[[], Segmenter], protocol: ClickProtocol, objects: Dataset, count: int, device: str) -> dict[str, float]:
    """Return SPC over the first samples and SAT latency on the first image, measured on all cores."""
    import torch

    from fretsaw.evaluation.adapters import decoder_of, predictor_for
    from fretsaw.evaluation.predictors import wrap
    from fretsaw.evaluation.timing import sat_latency, seconds_per_click, seconds_per_click_as_published, synchroniser

    segmenter = build()
    torch.set_num_threads(cores())
    predictor, samples = wrap(predictor_for(segmenter, protocol), protocol), list(objects.samples)[:count]
    times = seconds_per_click(predictor, samples, protocol, synchroniser(device))
    times["SPC as published"] = seconds_per_click_as_published(predictor, samples, protocol)
    times["SAT latency"] = sat_latency(decoder_of(segmenter), samples[0].read_image(), synchroniser(device))
    return {**times, "threads": float(cores()), "samples": float(len(samples))}


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def finish(result: Report, request: RunRequest, options: RunOptions) -> None:
    """Write the report and its picture, print the report as a table or as JSON, and delete the run's journal if no sample failed."""
    from fretsaw.evaluation import curves

    if request.report is not None:
        result.save(request.report)
    if request.plot is not None:
        curves.plot([result], request.plot)
    if request.as_json:
        print(result.to_json(), end="")
    else:
        _print_table(result)
        if request.report is not None:
            print(f"report: {request.report}")
    if options.journal is not None and not result.failures:
        options.journal.unlink(missing_ok=True)


def _print_table(result: Report) -> None:
    from fretsaw.evaluation.published import published_click_rows
    from fretsaw.evaluation.report import table

    columns = [name for name in COLUMNS[result.task] if name in result.metrics or name in result.timing]
    print(table([result], columns, published_click_rows() if result.task == "clicks" else ()))
    for warning in result.warnings:
        print(f"warning: {warning}")
    if result.failures:
        print(f"{len(result.failures)} of {result.dataset_size} samples failed:")
        for failure in result.failures:
            print(f"  {failure.sample}: {failure.error}")


def exit_status(result: Report) -> None:
    """End the command with status 1 if a sample failed."""
    if result.failures:
        raise typer.Exit(1)
