"""`fretsaw serve`: the page and the HTTP interface."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fretsaw.cli.options import Device, Refiner, Zoom
from fretsaw.errors import MissingExtraError


def serve(
    folder: Annotated[Path | None, typer.Argument(metavar="[FOLDER]", help="A folder of pictures to work on; others can be dropped on the page.")] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; beyond this machine a token is asked for.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    token: Annotated[str | None, typer.Option("--token", help="What clients must bring, at least 16 characters; default: made up where needed.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Where work is kept; default: .fretsaw in FOLDER, or the cache folder.")] = None,
    memory: Annotated[int, typer.Option("--memory", min=64, help="MiB of pictures and embeddings to keep in memory.")] = 2048,
    model: Annotated[
        str | None, typer.Option("--model", help="A name from [b]fretsaw models list[/b]; default: the default model.", show_default=False)
    ] = None,
    refiner: Refiner = None,
    zoom: Zoom = None,
    device: Device = None,
) -> None:
    """Serve a web page on which things are cut out of pictures by clicking, and the HTTP interface behind it.

    Work is saved after every click, in FOLDER/.fretsaw; the pictures themselves are never altered.

    [b]Examples[/b]

      fretsaw serve

      fretsaw serve photos/

      fretsaw serve photos/ --host 0.0.0.0 --port 9000 --token "$(openssl rand -hex 16)"
    """
    try:
        import uvicorn

        from fretsaw.server.app import create_app
    except ImportError as error:
        raise MissingExtraError(f"expected the extra 'serve' (pip install 'fretsaw[serve]'), got: {error}") from error
    from dataclasses import replace

    import fretsaw
    from fretsaw.server.settings import for_command

    settings = replace(for_command(folder, host, token, data), memory_bytes=memory * 2**20)
    app = create_app(fretsaw.load(model, refiner=refiner, zoom=zoom, device=device), settings)
    config = uvicorn.Config(app, host=host, port=port, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=3)
    socket = config.bind_socket()
    number = socket.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    query = f"/?token={settings.token}" if settings.token else ""
    print(f"fretsaw: open http://{shown}:{number}{query}", flush=True)
    print(f"fretsaw: work is kept in {settings.data}; stop with Ctrl+C", file=sys.stderr, flush=True)
    uvicorn.Server(config).run([socket])
