"""Measure every sample of a data set in parallel, without losing finished work. The result depends on neither the number of workers nor interruptions.

Each task (clicks, auto, semantic, instances) brings two functions and an accumulator; everything else is here:

    build()                 -> state          the model, once per worker
    measure(state, sample)  -> record         JSON values only; a FretsawError marks this sample as failed and the run goes on
    tally.add(record), tally.metrics()        summary figures, fed in the data set's order
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import connection
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fretsaw.errors import ConfigError, FretsawError, OutputError
from fretsaw.evaluation.journal import Journal
from fretsaw.evaluation.report import Failure, Report, versions
from fretsaw.outputs import lasting_failure

S = TypeVar("S", bound="Named")
T = TypeVar("T")


class Named(Protocol):
    """A sample, as far as the runner needs it."""

    @property
    def name(self) -> str:
        """Unique in its data set."""
        ...

    def signature(self) -> str:
        """Changes when the sample's files do, so that a stored record of the same name is not taken for it."""
        ...


class NamedSet(Protocol):
    """A data set, as far as the runner needs it; `fretsaw.data.datasets.Dataset` is one."""

    @property
    def name(self) -> str: ...

    @property
    def samples(self) -> Sequence[Any]: ...

    @property
    def expected(self) -> int | None: ...

    @property
    def warnings(self) -> Sequence[str]: ...

    def file_list_hash(self) -> str: ...


class Tally(Protocol):
    """Turns records into the figures of the report."""

    def add(self, record: Mapping[str, Any]) -> None: ...

    def metrics(self) -> dict[str, float]: ...


class Progress(Protocol):
    """Receives the progress of a run."""

    def start(self, total: int, resumed: int, notes: Sequence[str]) -> None:
        """Called once; `resumed` samples of `total` are already measured; `notes` say, for example, that an old journal was set aside."""
        ...

    def advance(self, name: str, failure: Failure | None, metrics: Mapping[str, float]) -> None:
        """Called after each sample with the figures so far, over finished samples in the order in which they finished."""
        ...

    def finish(self) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """What `run_samples` found: one record per measured sample and one failure per other, both in the data set's order."""

    records: list[dict[str, Any]]
    failures: list[Failure]
    resumed: int = 0
    notes: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class RunOptions:
    """How a run is done and what its report says about the model.

    Attributes:
        model: Name for the report.
        weights_checksum: SHA-256 of the weights, or None.
        device: As torch spells it.
        dtype: As torch spells it, without the prefix.
        seed: Seed of everything drawn at random; each sample gets its own stream from it, so order and workers do not matter.
        limit: Measure the first so many samples only.
        workers: Number of processes; 1 measures in this process. Results do not depend on it.
        journal: File that lets a killed run go on, or None.
        keep_journal: Leave that file when all is measured, since the caller deletes it when the report is stored.
        settings: Whatever else figures depend on (size, refiner, threads per worker); goes into the report and into the journal's fingerprint.
    """

    model: str = "unnamed"
    weights_checksum: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 0
    limit: int | None = None
    workers: int = 1
    journal: Path | None = None
    keep_journal: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])


def evaluate_dataset(
    dataset: NamedSet,
    build: Callable[[], T],
    measure: Callable[[T, Any], Mapping[str, Any]],
    tally: Callable[[], Tally],
    *,
    task: str,
    protocol: str,
    protocol_fields: Mapping[str, Any],
    options: RunOptions,
    progress: Progress | None = None,
) -> Report:
    """Measure a data set and return its report.

    Args:
        dataset: What to measure.
        build: Makes the model; called once per worker. With several workers it must be picklable: a module's function or a partial of one.
        measure: Measures one sample with it; picklable as well. Its record holds JSON values.
        tally: Makes an accumulator of records.
        task: "clicks", "auto", "semantic" or "instances".
        protocol: The protocol's name.
        protocol_fields: Every field of it.
        options: How to run.
        progress: Told about every sample.

    Raises:
        ConfigError: If `limit` or `workers` is not positive.
        OutputError: If the journal cannot be written.
    """
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"expected a limit of at least 1 sample, got {options.limit}")
    samples = list(dataset.samples)[: options.limit]
    key = {
        "task": task,
        "protocol": protocol,
        "protocol_fields": dict(protocol_fields),
        "dataset": dataset.name,
        "model": options.model,
        "weights_checksum": options.weights_checksum,
        "device": options.device,
        "dtype": options.dtype,
        "seed": options.seed,
        "settings": dict(options.settings),
        "versions": versions(),
    }
    outcome = run_samples(
        samples,
        build,
        measure,
        settings=key,
        journal=options.journal,
        keep_journal=options.keep_journal,
        workers=options.workers,
        progress=_Running(progress, tally()) if progress else None,
    )
    total = tally()
    for record in outcome.records:
        total.add(record)
    return Report(
        task=task,
        protocol=protocol,
        dataset=dataset.name,
        model=options.model,
        metrics=total.metrics(),
        samples=outcome.records,
        protocol_fields=dict(protocol_fields),
        dataset_size=len(samples),
        expected_size=dataset.expected,
        file_list_hash=dataset.file_list_hash(),
        weights_checksum=options.weights_checksum,
        device=options.device,
        dtype=options.dtype,
        seed=options.seed,
        settings={**options.settings, "limit": options.limit},
        versions=versions(),
        warnings=list(dataset.warnings),
        failures=outcome.failures,
    )


def with_mask_folder(options: RunOptions | None, masks_to: Path | None) -> RunOptions:
    """Make the folder for masks, and note in the run's settings that masks are written, so that a journal of a run without them is not continued.

    Raises:
        OutputError: If the folder cannot be made.
    """
    options = options or RunOptions()
    if masks_to is None:
        return options
    try:
        masks_to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder for masks {masks_to} cannot be made: {error}") from error
    return replace(options, settings={**options.settings, "masks_saved": True})


def run_samples(
    samples: Sequence[S],
    build: Callable[[], T],
    measure: Callable[[T, S], Mapping[str, Any]],
    *,
    settings: Mapping[str, Any],
    journal: Path | None = None,
    keep_journal: bool = False,
    workers: int = 1,
    progress: RecordProgress | None = None,
) -> Outcome:
    """Measure samples, continuing an interrupted run where the journal holds one with the same settings.

    A `FretsawError`, an `OSError` or want of memory in `measure` marks the sample as failed. A failure that the next sample would meet too, such as a full
    disk, ends the run, and so does any other exception, which is a defect; the journal keeps what is done. Failed samples are not kept in the journal, so the
    next run tries them again. The journal is deleted once every sample is measured, unless `keep_journal` leaves that to the caller, who stores the result
    first.

    Raises:
        ConfigError: If `workers` is not positive or two samples share a name.
        OutputError: If the journal cannot be written.
    """
    if workers < 1:
        raise ConfigError(f"expected at least 1 worker, got {workers}")
    names = [sample.name for sample in samples]
    if len(set(names)) != len(names):
        raise ConfigError("expected samples with different names")
    book = Journal(journal, settings) if journal is not None else None
    signatures = [sample.signature() for sample in samples]
    results: dict[int, dict[str, Any] | Failure] = {}
    if book is not None:
        stored = ((index, book.get(names[index], signatures[index])) for index in range(len(samples)))
        results = {index: record for index, record in stored if record is not None}
    resumed = len(results)
    if progress is not None:
        progress.start(len(samples), [record for record in results.values() if isinstance(record, dict)], book.notes if book is not None else [])
    todo = [index for index in range(len(samples)) if index not in results]
    try:
        for index, result in _measured([samples[i] for i in todo], build, measure, workers):
            index = todo[index]
            if book is not None and isinstance(result, dict):
                book.append(names[index], signatures[index], result)
            results[index] = result
            if progress is not None:
                progress.advance(names[index], result)
    finally:
        if progress is not None:
            progress.finish()
        if book is not None:
            book.close()
    ordered = [results[index] for index in range(len(samples))]
    failures = [result for result in ordered if isinstance(result, Failure)]
    if book is not None and not failures and not keep_journal:
        book.remove()
    records = [result for result in ordered if isinstance(result, dict)]
    return Outcome(records=records, failures=failures, resumed=resumed, notes=book.notes if book is not None else [])


class RecordProgress(Protocol):
    """The runner's own view of progress: it sees records, and `evaluate_dataset` turns them into running figures."""

    def start(self, total: int, resumed: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> None: ...

    def advance(self, name: str, result: Mapping[str, Any] | Failure) -> None: ...

    def finish(self) -> None: ...


class _Running:
    def __init__(self, progress: Progress, tally: Tally) -> None:
        self._progress = progress
        self._tally = tally

    def start(self, total: int, resumed: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> None:
        for record in resumed:
            self._tally.add(record)
        self._progress.start(total, len(resumed), notes)

    def advance(self, name: str, result: Mapping[str, Any] | Failure) -> None:
        failure = result if isinstance(result, Failure) else None
        if failure is None:
            self._tally.add(result)  # type: ignore[arg-type]
        self._progress.advance(name, failure, self._tally.metrics())

    def finish(self) -> None:
        self._progress.finish()


def _measured(
    samples: Sequence[Any], build: Callable[[], Any], measure: Callable[[Any, Any], Mapping[str, Any]], workers: int
) -> Iterator[tuple[int, dict[str, Any] | Failure]]:
    """Yield (index, result) as samples finish."""
    if not samples:
        return
    if min(workers, len(samples)) == 1:
        state = build()
        for index, sample in enumerate(samples):
            yield index, _measure_one(state, measure, sample)
        return
    try:
        pickle.dumps((build, measure))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(f"expected functions that can be sent to several workers (of a module, or a partial of one), got others: {error}") from error
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(min(workers, len(samples)), mp_context=context, initializer=_start_worker, initargs=(build, measure))
    try:
        with _interrupts_held_back():
            futures = {executor.submit(_work, sample): index for index, sample in enumerate(samples)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise FretsawError(
            "a worker process ended before its sample was done: most likely for want of memory, or because the calling script has no guard "
            "`if __name__ == '__main__'`. What was finished is kept: run the same again, with fewer workers"
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _interrupts_held_back() -> Generator[None]:
    """Hold Ctrl-C back while worker processes start. They inherit that: Ctrl-C would kill a process that is still importing."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _measure_one(state: Any, measure: Callable[[Any, Any], Mapping[str, Any]], sample: Named) -> dict[str, Any] | Failure:
    try:
        record = measure(state, sample)
    except Exception as error:
        if not (isinstance(error, FretsawError | OSError | MemoryError) or type(error).__name__ == "OutOfMemoryError"):  # torch's, which needs no import here
            raise
        if (lasting := lasting_failure(error)) is not None:
            raise OutputError(f"{sample.name}: {lasting.strerror}; what was finished is kept, run the same again when that is mended") from error
        return Failure(sample=sample.name, kind=type(error).__name__, error=str(error).strip() or type(error).__name__)
    # A new record goes through JSON too, so that it equals one that comes from another process or from the journal.
    return json.loads(json.dumps({"sample": sample.name, **record}))


@dataclass
class _Worker:
    """What a worker process keeps between samples; the model is built at the first one, so that its errors reach the parent as they are."""

    build: Callable[[], Any]
    measure: Callable[[Any, Any], Mapping[str, Any]]
    state: Any = None
    built: bool = False


_worker: _Worker | None = None


def _start_worker(build: Callable[[], Any], measure: Callable[[Any, Any], Mapping[str, Any]]) -> None:
    global _worker
    _worker = _Worker(build, measure)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent receives it too, and ends the run in order
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent is killed, because it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _work(sample: Any) -> dict[str, Any] | Failure:
    assert _worker is not None, "the pool's initializer sets it"
    if not _worker.built:
        _worker.state = _worker.build()
        _worker.built = True
    return _measure_one(_worker.state, _worker.measure, sample)
