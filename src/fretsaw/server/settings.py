"""What a server may use and whom it lets in."""

from __future__ import annotations

import ipaddress
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from fretsaw.errors import ConfigError, ImageError
from fretsaw.weights import cache_folder

MIB = 2**20
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


def _workers() -> int:
    """Two at least: while one encodes a picture, the other answers clicks."""
    return max(2, min(4, (os.cpu_count() or 2) // 2))


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits and places of one server.

    Attributes:
        data: Folder for uploads and saved work.
        folder: Folder of pictures to serve, or None.
        token: What a client must bring, or None for no question.
        hosts: Names by which the server may be called; anything goes with "*". Keeps other web pages from reaching it under a name of theirs.
        upload_bytes: Most bytes of an uploaded file.
        body_bytes: Most bytes of any other request.
        pixels: Most pixels of a picture.
        uploads: Most uploaded pictures that are kept.
        objects: Most objects on a picture.
        steps: Most interactions on an object.
        memory_bytes: Pictures, embeddings and histories in memory; beyond it the least recently used leave. The one in use stays whatever its size.
        disk_bytes: Embeddings on disk; beyond it the least recently used are deleted, and computed again when needed.
        workers: Threads in front of the model.
        queue: Most requests that wait for a worker; more are turned away.
    """

    data: Path
    folder: Path | None = None
    token: str | None = None
    hosts: tuple[str, ...] = LOOPBACK_NAMES
    upload_bytes: int = 128 * MIB
    body_bytes: int = 32 * MIB
    pixels: int = 8192 * 8192
    uploads: int = 2000
    objects: int = 200
    steps: int = 1000
    memory_bytes: int = 2048 * MIB
    disk_bytes: int = 8192 * MIB
    workers: int = field(default_factory=_workers)
    queue: int = 64


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on is reachable from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def for_command(folder: Path | None, host: str, token: str | None, data: Path | None = None) -> Settings:
    """Return the settings of `fretsaw serve`: without a given token, one is made up where the server listens beyond this machine.

    Work is kept in FOLDER/.fretsaw, or in the cache folder where none is served or it cannot be written.

    Raises:
        ImageError: If the folder does not exist.
        ConfigError: If the token is too short to keep anybody out.
    """
    if folder is not None and not folder.is_dir():
        raise ImageError(f"expected a folder of pictures to serve, got {folder}, which is {'a file' if folder.exists() else 'not there'}")
    if token is not None and len(token) < 16:
        raise ConfigError(f"expected a token of at least 16 characters, got {len(token)}; leave it out to have one made up")
    if data is None:
        data = folder / ".fretsaw" if folder is not None and os.access(folder, os.W_OK) else cache_folder() / "server"
    local = is_loopback(host)
    made_up = secrets.token_urlsafe(24) if token is None and not local else token
    return Settings(data=data.resolve(), folder=folder.resolve() if folder else None, token=made_up, hosts=LOOPBACK_NAMES if local else ("*",))
