"""What a server may use and whom it lets in."""

from __future__ import annotations

import ipaddress
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fretsaw.errors import ConfigError, ImageError
from fretsaw.server.origins import plain_host, read_public_url
from fretsaw.weights import cache_folder

MIB = 2**20
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


def _workers() -> int:
    """Two at least: while one encodes a picture, the other answers clicks."""
    return max(2, min(4, (os.cpu_count() or 2) // 2))


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Limits and places of one server.

    Attributes:
        data: Folder for uploads and saved work.
        folder: Folder of pictures to serve, or None.
        token: What a client must bring, or None for no question.
        hosts: Names by which the server may be called; anything goes with "*". Keeps other web pages from reaching it under a name of theirs.
        public_url: Where a proxy shows the server, like https://example.org, or None. Pages from there are the server's own.
        read_only: Whether every request that would change anything is refused.
        shown: Where the work to look at lies when nothing may be written there; it was copied to `data`. None where `data` is the place itself.
        upload_bytes: Most bytes of an uploaded file.
        body_bytes: Most bytes of annotations that are sent as a file.
        mask_bytes: Most bytes of a request that holds masks as run lengths.
        command_bytes: Most bytes of any other request. JSON is read at once, and while it is, nobody else is answered.
        pixels: Most pixels of a picture.
        uploads: Most uploaded pictures that are kept.
        objects: Most objects on a picture.
        steps: Most interactions on an object.
        memory_bytes: Pictures, embeddings and histories in memory; beyond it the least recently used leave. The one in use stays whatever its size.
        disk_bytes: Embeddings on disk; beyond it the least recently used are deleted, and computed again when needed.
        workers: Threads in front of the model.
        queue: Most requests that wait for a worker; more are turned away.
        connections: Most connections at once; fewer where the system gives fewer descriptors. One that is idle makes room for a newer one.
        head_seconds: For a request's line and headers.
        body_seconds: For a whole body, whatever its size; the time that the server itself takes does not count.
        body_rate: Fewest bytes a second, on average, after `head_seconds`.
        idle_seconds: Between two requests on one connection.
        send_seconds: For a client to take up what was sent to it.
    """

    data: Path
    folder: Path | None = None
    token: str | None = None
    hosts: tuple[str, ...] = LOOPBACK_NAMES
    public_url: str | None = None
    read_only: bool = False
    shown: Path | None = None
    upload_bytes: int = 128 * MIB
    body_bytes: int = 32 * MIB
    mask_bytes: int = 8 * MIB
    command_bytes: int = MIB // 4
    pixels: int = 8192 * 8192
    uploads: int = 2000
    objects: int = 200
    steps: int = 1000
    memory_bytes: int = 2048 * MIB
    disk_bytes: int = 8192 * MIB
    workers: int = field(default_factory=_workers)
    queue: int = 64
    connections: int = 512
    head_seconds: float = 15.0
    body_seconds: float = 1800.0
    body_rate: int = 4096
    idle_seconds: int = 5
    send_seconds: float = 60.0


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on is reachable from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def for_command(
    folder: Path | None,
    host: str,
    token: str | None,
    data: Path | None = None,
    *,
    allowed_hosts: Sequence[str] = (),
    public_url: str | None = None,
    read_only: bool = False,
) -> ServerSettings:
    """Return the settings of `fretsaw serve`: without a given token, one is made up where the server can be reached from beyond this machine.

    Work is kept in FOLDER/.fretsaw, or in the cache folder where none is served or it cannot be written. A server that changes nothing leaves `data` to the
    caller, who chooses a folder of its own for what the server needs to write, see `copy_work`.

    Args:
        folder: Pictures to serve.
        host: Address to listen on.
        token: What clients must bring.
        data: Where work is kept.
        allowed_hosts: More names by which the server may be called; from then on, only they and its own.
        public_url: Where a proxy shows the server.
        read_only: Whether nothing may be changed.

    Raises:
        ImageError: If the folder does not exist.
        ConfigError: If the token is too short to keep anybody out, or a name or the public URL is none.
    """
    if folder is not None and not folder.is_dir():
        raise ImageError(f"expected a folder of pictures to serve, got {folder}, which is {'a file' if folder.exists() else 'not there'}")
    if token is not None and len(token) < 16:
        raise ConfigError(f"expected a token of at least 16 characters, got {len(token)}; leave it out to have one made up")
    if data is None:
        kept_beside = folder is not None and ((read_only and (folder / ".fretsaw").is_dir()) or os.access(folder, os.W_OK))
        data = folder / ".fretsaw" if folder is not None and kept_beside else cache_folder() / "server"
    public = read_public_url(public_url) if public_url else None
    added = tuple(_checked_name(name) for name in allowed_hosts) + ((public.name,) if public else ())
    local = is_loopback(host) and all(is_loopback(name) for name in added)
    own = LOOPBACK_NAMES + (() if host in ("0.0.0.0", "::", "") else (plain_host(host),))
    anything = not is_loopback(host) and not added
    return ServerSettings(
        data=data.resolve(),
        folder=folder.resolve() if folder else None,
        token=secrets.token_urlsafe(24) if token is None and not local else token,
        hosts=("*",) if anything or "*" in added else tuple(dict.fromkeys(own + added)),
        public_url=str(public) if public else None,
        read_only=read_only,
    )


def _checked_name(name: str) -> str:
    plain = plain_host(name)
    if name != "*" and (not plain or any(letter in "/?#@[]* " or not letter.isprintable() for letter in plain) or (":" in plain and not _is_address(plain))):
        raise ConfigError(f"expected the name of a host without scheme, port or path, like example.org, got {name[:60]!r}")
    return plain


def _is_address(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False


KEPT_AS_IT_IS = ("original",)
NEVER_ALTERED = ("steps",)
MADE_AGAIN = ("embedding.safetensors", "view.jpg")


def copy_work(source: Path, target: Path) -> None:
    """Bring saved work to another folder, for a server that may look at it and write nothing where it lies.

    What a server may write to again is copied; what is written once (uploads, and the interactions' files) is linked; what can be made again is left out.

    Args:
        source: A data folder, which may be missing.
        target: An empty folder.

    Raises:
        OSError: If it cannot be read or written.
    """
    images = source / "images"
    for place in sorted(images.iterdir()) if images.is_dir() else ():
        for path in sorted(place.rglob("*")) if place.is_dir() and not place.is_symlink() else ():
            below = path.relative_to(source)
            if path.name in MADE_AGAIN or not path.is_file():
                continue
            (target / below).parent.mkdir(parents=True, exist_ok=True)
            if path.name in KEPT_AS_IT_IS or path.parent.name in NEVER_ALTERED:
                (target / below).symlink_to(path.resolve())
            else:
                shutil.copyfile(path, target / below)
