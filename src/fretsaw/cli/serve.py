"""`fretsaw serve`: the page and the HTTP interface."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fretsaw.cli.options import ClickTrue, Device, Refiner, Zoom
from fretsaw.errors import MissingExtraError, OutputError
from fretsaw.ownership import own

if TYPE_CHECKING:
    from fretsaw.server.settings import ServerSettings


def serve(
    folder: Annotated[Path | None, typer.Argument(metavar="[FOLDER]", help="A folder of pictures to work on; others can be dropped on the page.")] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; beyond this machine a token is asked for.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    token: Annotated[str | None, typer.Option("--token", help="What clients must bring, at least 16 characters; default: made up where needed.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Where work is kept; default: .fretsaw in FOLDER, or the cache folder.")] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option("--allowed-host", metavar="NAME", help="A name by which clients may call the server; repeatable.", show_default=False),
    ] = None,
    public_url: Annotated[
        str | None,
        typer.Option("--public-url", metavar="URL", help="Where a proxy shows the server, like https://example.org.", show_default=False),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse every change; pictures and saved work can be looked at and exported.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Look through the saved work, repair what is damaged, and serve nothing.")] = False,
    memory: Annotated[int, typer.Option("--memory", min=64, help="MiB of pictures and embeddings to keep in memory.")] = 2048,
    model: Annotated[
        str | None, typer.Option("--model", help="A name from [b]fretsaw models list[/b]; default: the default model.", show_default=False)
    ] = None,
    refiner: Refiner = None,
    zoom: Zoom = None,
    click_true: ClickTrue = None,
    device: Device = None,
) -> None:
    """Serve a web page on which things are cut out of pictures by clicking, and the HTTP interface behind it.

    Work is saved after every click, in FOLDER/.fretsaw; the pictures themselves are never altered.

    [b]Examples[/b]

      fretsaw serve

      fretsaw serve photos/

      fretsaw serve photos/ --host 0.0.0.0 --port 9000 --token "$(openssl rand -hex 16)"

      fretsaw serve photos/ --public-url https://cut.example.org

      fretsaw serve photos/ --read-only

      fretsaw serve photos/ --check
    """
    try:
        from fretsaw.server.app import create_app
        from fretsaw.server.listening import listen, run
    except ImportError as error:
        raise MissingExtraError(f"expected the extra 'serve' (pip install 'fretsaw[serve]'), got: {error}") from error
    from dataclasses import replace

    import fretsaw
    from fretsaw.server.settings import for_command

    settings = for_command(folder, host, token, data, allowed_hosts=allowed_host or (), public_url=public_url, read_only=read_only)
    settings = replace(settings, memory_bytes=memory * 2**20)
    if check:
        _check(settings.data, settings.folder)
        return
    if not read_only and settings.data.is_dir():
        with own(settings.data, "a server"):  # a second server is refused before its model is loaded; the server's own lock comes with its store
            pass
    segmenter = fretsaw.load(model, refiner=refiner, zoom=zoom, click_true=click_true is not False, device=device)
    with _private_copy(settings) if read_only else nullcontext(settings) as settings, listen(host, port, settings) as door:
        app = create_app(segmenter, settings)
        query = f"/?token={settings.token}" if settings.token else ""
        shown = f"[{host}]" if ":" in host else host
        print(f"fretsaw: open {settings.public_url or f'http://{shown}:{door.getsockname()[1]}'}{query}", flush=True)
        if settings.public_url:
            print(f"fretsaw: the proxy is to pass requests on to http://{shown}:{door.getsockname()[1]}", file=sys.stderr, flush=True)
        kept = "nothing is written to" if read_only else "work is kept in"
        print(f"fretsaw: {kept} {settings.shown or settings.data}; stop with Ctrl+C", file=sys.stderr, flush=True)
        run(app, door, settings, lambda: shutil.rmtree(settings.data) if settings.shown else None)


def _check(data: Path, folder: Path | None) -> None:
    """Print what is found in the saved work and what is done about it; exit status 1 if something could not be brought back."""
    from fretsaw.server.check import check

    findings = list(check(data, folder))
    for finding in findings:
        if finding.trouble:
            print(f"{finding.name}: {finding.trouble}; {finding.mended}")
    damaged = sum(finding.trouble != "" for finding in findings)
    print(f"{len(findings)} pictures with saved work, {damaged} of them damaged")
    if any(finding.lost for finding in findings):
        raise typer.Exit(1)


@contextmanager
def _private_copy(settings: ServerSettings) -> Iterator[ServerSettings]:
    """Give a server that changes nothing a folder of its own, with the saved work as it is now, and delete it at the end.

    Raises:
        OutputError: If the work cannot be copied.
    """
    from dataclasses import replace

    from fretsaw.server.settings import copy_work

    with tempfile.TemporaryDirectory(prefix="fretsaw-read-only-", ignore_cleanup_errors=True) as temporary:
        try:
            copy_work(settings.data, Path(temporary))
        except OSError as error:
            raise OutputError(f"{settings.data}: expected saved work that can be copied to {temporary}, got: {error.strerror or error}") from error
        yield replace(settings, data=Path(temporary), shown=settings.data)
