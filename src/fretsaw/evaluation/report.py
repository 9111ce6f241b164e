"""The report of an evaluation, in JSON, and tables of reports; a table of several protocols says that it is one."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from fretsaw.errors import ConfigError, DataError
from fretsaw.images import write_bytes

FORMAT = 1
_PACKAGES = ("fretsaw", "torch", "transformers", "numpy", "opencv-python-headless", "pillow", "scipy")


@dataclass(frozen=True)
class Failure:
    """A sample that could not be measured, and why."""

    sample: str
    kind: str
    error: str


@dataclass(frozen=True)
class Report:
    """One measured run.

    Two runs with the same settings on the same machine give equal reports, however many workers they had and whether or not they were interrupted.

    Attributes:
        task: "clicks", "auto", "semantic" or "instances".
        protocol: The protocol's name; `protocol_fields` holds every field of it.
        dataset: The data set's name.
        model: The model's name.
        metrics: Name as the papers print it ("NoC@90") to value; NaN where nothing was measured.
        samples: One record per measured sample, in the data set's order; each has at least "sample", its name.
        dataset_size: Number of samples that were to be measured, failures included.
        expected_size: Number of samples the data set has according to its authors; None where unknown.
        file_list_hash: SHA-256 over names and sizes of the files behind the samples.
        weights_checksum: SHA-256 of the weights, or None where there are none.
        settings: Everything else the figures depend on (size, refiner, limit, threads, ...).
        timing: Seconds that were measured on purpose (SPC, SAT latency); not part of what two equal runs share.
    """

    task: str
    protocol: str
    dataset: str
    model: str
    metrics: Mapping[str, float]
    samples: Sequence[Mapping[str, Any]] = ()
    protocol_fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    dataset_size: int = 0
    expected_size: int | None = None
    file_list_hash: str = ""
    weights_checksum: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    warnings: Sequence[str] = ()
    failures: Sequence[Failure] = ()
    timing: Mapping[str, float] = field(default_factory=dict[str, float])
    format: int = FORMAT

    def to_json(self) -> str:
        """Return the report as JSON text; NaN becomes null."""
        return json.dumps(_without_nan(asdict(self)), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read a report back.

        Raises:
            DataError: If the text is no report, or one of a later format.
        """
        try:
            found: Any = json.loads(text)
        except ValueError as error:
            raise DataError(f"expected a report in JSON, got text that is no JSON: {error}") from error
        values = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
        missing = [name for name in ("task", "protocol", "dataset", "model", "metrics") if name not in values]
        if missing:
            raise DataError(f"expected a report with the fields task, protocol, dataset, model and metrics; missing: {', '.join(missing)}")
        if values.get("format", FORMAT) > FORMAT:
            raise DataError(f"The report has format {values['format']}; this version of Fretsaw reads formats up to {FORMAT}")
        known = {f.name for f in fields(cls)}
        values = {name: value for name, value in values.items() if name in known}
        values["failures"] = tuple(Failure(**failure) for failure in values.get("failures", ()))
        values["samples"] = tuple(values.get("samples", ()))
        values["warnings"] = tuple(values.get("warnings", ()))
        values["metrics"] = {name: math.nan if value is None else value for name, value in values["metrics"].items()}
        return cls(**values)

    def save(self, path: Path | str) -> None:
        """Write the JSON text; a reader never meets half a file.

        Raises:
            OutputError: If the place is not writable.
        """
        write_bytes(path, self.to_json().encode())

    @classmethod
    def load(cls, path: Path | str) -> Report:
        """Read the file that `save` wrote."""
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"expected a report at {path}: {error}") from error


@dataclass(frozen=True)
class PublishedRow:
    """One row of a paper's table, set beside a report's.

    Attributes:
        source: Paper and table.
        method: As printed.
        backbone: As printed, with the input side where the paper names it.
        trained_on: Training data, as printed.
        dataset: The data set's name as `Report.dataset` spells it.
        metrics: Names as in `Report.metrics`.
    """

    source: str
    method: str
    backbone: str
    trained_on: str
    dataset: str
    metrics: Mapping[str, float]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that figures depend on, without importing them."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def table(reports: Sequence[Report], metrics: Sequence[str], published: Iterable[PublishedRow] = ()) -> str:
    """Return a text table with one row per report, the papers' rows below.

    Args:
        reports: Reports of one task under one protocol, every field of it equal.
        metrics: Columns, by the name of a metric or a timing; a value that a report lacks is shown as "-".
        published: Rows from papers; only those of the reports' data sets are shown, marked as printed.

    Raises:
        ConfigError: If the reports were measured under different protocols; `mixed_table` shows them together and says so.
    """
    _require_one_protocol(reports)
    lines: list[str] = []
    if reports:
        lines.append(f"{reports[0].task}, protocol {reports[0].protocol}")
    lines += _grid(_header(metrics), [_row(report, metrics) for report in reports])
    return "\n".join(lines + _notes(reports) + _published_lines(reports, metrics, published))


def mixed_table(reports: Sequence[Report], metrics: Sequence[str], published: Iterable[PublishedRow] = ()) -> str:
    """Return a table of reports whatever their protocols, with the protocol as a column and a line that says that rows do not compare."""
    names = sorted({f"{report.task}/{report.protocol}" for report in reports})
    lines = [f"Measured under different protocols ({', '.join(names)}): rows of different protocols do not compare."]
    lines += _grid(["protocol", *_header(metrics)], [[report.protocol, *_row(report, metrics)] for report in reports])
    return "\n".join(lines + _notes(reports) + _published_lines(reports, metrics, published))


def _require_one_protocol(reports: Sequence[Report]) -> None:
    for report in reports[1:]:
        first = reports[0]
        if (report.task, report.protocol) != (first.task, first.protocol):
            raise ConfigError(
                f"expected reports of one protocol in one table, got {first.task}/{first.protocol} and {report.task}/{report.protocol}; "
                "ask for a mixed table to see both."
            )
        ours, theirs = _without_nan(dict(first.protocol_fields)), _without_nan(dict(report.protocol_fields))
        different = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        if different:
            pairs = ", ".join(f"{name} {ours.get(name)} / {theirs.get(name)}" for name in different)
            raise ConfigError(
                f"expected reports of one protocol in one table, got {first.protocol} with different fields: {pairs}; ask for a mixed table to see both."
            )


def _header(metrics: Sequence[str]) -> list[str]:
    return ["model", "data set", "n", *metrics]


def _row(report: Report, metrics: Sequence[str]) -> list[str]:
    partial = bool(report.failures) or (report.expected_size is not None and report.dataset_size != report.expected_size)
    count = f"{len(report.samples)}{'*' if partial else ''}"
    return [report.model, report.dataset, count, *(_number(report.metrics.get(name, report.timing.get(name))) for name in metrics)]


def _notes(reports: Sequence[Report]) -> list[str]:
    notes: list[str] = []
    for report in reports:
        if report.expected_size is not None and report.dataset_size != report.expected_size:
            notes.append(f"* {report.model} on {report.dataset}: {report.dataset_size} of {report.expected_size} samples")
        if report.failures:
            notes.append(f"* {report.model} on {report.dataset}: {len(report.failures)} samples failed")
    return notes


def _published_lines(reports: Sequence[Report], metrics: Sequence[str], published: Iterable[PublishedRow]) -> list[str]:
    datasets = {report.dataset for report in reports}
    rows = [row for row in published if row.dataset in datasets and any(name in row.metrics for name in metrics)]
    if not rows:
        return []
    body = [[f"{row.method} {row.backbone} ({row.trained_on})", row.dataset, row.source, *(_number(row.metrics.get(name)) for name in metrics)] for row in rows]
    return ["", "Printed by the papers, each under its own protocol and on its own machine:", *_grid(["method", "data set", "source", *metrics], body)]


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(str(row[column])) for row in [header, *rows]) for column in range(len(header))]
    lines = ["  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [header, *rows]]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def _number(value: float | None) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.4g}" if abs(value) < 1 else f"{value:.2f}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in cast("Sequence[Any]", value)]
    return value
