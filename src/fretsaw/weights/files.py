"""Checksums, and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fretsaw.errors import ChecksumError, WeightsError
from fretsaw.weights.definitions import Progress, silent

BLOCK = 1 << 20


def sha256_of(path: Path, progress: Progress = silent) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    total, done = path.stat().st_size, 0
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            done += len(block)
            progress(f"check {path.name}", done, total)
    return digest.hexdigest()


def check_file(path: Path, size: int | None, sha256: str | None, progress: Progress = silent) -> str:
    """Compare a file with what is known of it, the size first because that costs nothing.

    Args:
        path: The file.
        size: Expected bytes, or None to accept any.
        sha256: Expected checksum, or None to accept any.
        progress: Told how far the reading is.

    Returns:
        The file's checksum.

    Raises:
        ChecksumError: If it is truncated, altered or another file; the message names it.
    """
    found = path.stat().st_size
    if size is not None and found != size:
        raise ChecksumError(f"{path} is {'truncated' if found < size else 'not the file the catalogue names'}: expected {size} bytes, got {found}")
    digest = sha256_of(path, progress)
    if sha256 is not None and digest != sha256:
        raise ChecksumError(f"{path} was altered or is another file: expected SHA-256 {sha256}, got {digest}")
    return digest


def copy_checked(stream: BinaryIO, target: Path, size: int | None, sha256: str | None, progress: Progress = silent) -> str:
    """Write a stream to `target`, which appears only when size and checksum are as expected.

    Args:
        stream: Read to its end, or to one byte more than `size`: an archive that unpacks without end stops there.
        target: Where the file will lie; its folder is made. While it grows it has another name.
        size: Expected bytes, or None to accept any.
        sha256: Expected checksum, or None to accept any.
        progress: Told how far the copy is.

    Returns:
        The checksum.

    Raises:
        ChecksumError: If the stream is not what was expected; nothing is left behind.
    """
    digest, done = hashlib.sha256(), 0
    with appearing(target) as part:
        with part.open("wb") as out:
            while block := stream.read(BLOCK):
                done += len(block)
                if size is not None and done > size:
                    raise ChecksumError(f"{target.name} is not the file the catalogue names: expected {size} bytes, got more")
                digest.update(block)
                out.write(block)
                progress(f"copy {target.name}", done, size)
            out.flush()
            os.fsync(out.fileno())
        if size is not None and done != size:
            raise ChecksumError(f"{target.name} is truncated: expected {size} bytes, got {done}")
        if sha256 is not None and digest.hexdigest() != sha256:
            raise ChecksumError(f"{target.name} was altered or is another file: expected SHA-256 {sha256}, got {digest.hexdigest()}")
    return digest.hexdigest()


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """Give a path to write to; it becomes `target` when the block ends well and disappears when it does not.

    The path lies beside `target`, since a rename is atomic only within one file system. A process that is killed leaves the part behind, under a name of its
    own that nobody reads; `sweep` removes it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def sweep(folder: Path, pattern: str) -> None:
    """Remove the parts that killed processes left in `folder`; the caller holds the lock that all writers of these parts take."""
    for part in folder.glob(pattern):
        part.unlink(missing_ok=True)


def require_space(folder: Path, wanted: int) -> None:
    """Refuse to start what the disk cannot hold.

    Raises:
        WeightsError: If less than `wanted` bytes are free where `folder` lies.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise WeightsError(f"expected {wanted / 1e6:.0f} MB free in {folder}, got {free / 1e6:.0f} MB; FRETSAW_HOME puts the cache elsewhere")


def slug(text: str) -> str:
    """Return a file name made of `text`'s letters, digits, dots and hyphens; a short digest keeps different texts apart."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.")[:80] + "-" + hashlib.sha256(text.encode()).hexdigest()[:8]
