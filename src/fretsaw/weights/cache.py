"""Where weights lie on this machine, who may write there, and what is remembered about each file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from shutil import rmtree

from fretsaw.errors import ChecksumError, WeightsError
from fretsaw.weights.definitions import Progress, WeightFile, silent
from fretsaw.weights.files import appearing, sha256_of, slug, sweep

LOCK_PATIENCE = 3600.0
"""Seconds to wait for another process that fetches the same weights."""


def cache_folder() -> Path:
    """Return the cache's folder: `FRETSAW_HOME`, else `fretsaw` in the place where this system keeps caches."""
    if home := os.environ.get("FRETSAW_HOME"):
        return Path(home).expanduser().absolute()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "fretsaw" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fretsaw"
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # the XDG specification says that a relative path is to be ignored
    return (caches if caches.is_absolute() else Path.home() / ".cache") / "fretsaw"


def is_offline() -> bool:
    """Whether `FRETSAW_OFFLINE` or `HF_HUB_OFFLINE` forbids downloads (1, true, yes or on)."""
    return any(os.environ.get(name, "").strip().lower() in {"1", "true", "yes", "on"} for name in ("FRETSAW_OFFLINE", "HF_HUB_OFFLINE"))


@dataclass(frozen=True, slots=True)
class Record:
    """What is remembered about the file that a network is loaded from.

    Attributes:
        path: The file; relative to the cache's folder where it lies in it, so that the folder can be moved.
        size: Its bytes.
        sha256: Its checksum.
        mtime_ns: When it was last written. While size and time stay the same the checksum is not computed again.
        version: Of the converter that made it.
        identity: Names the weights, see `checksum` in `fretsaw.weights`.
        sources: {role: source and checksum of the published file}.
        fretsaw: The version of Fretsaw that made it.
    """

    path: str
    size: int
    sha256: str
    mtime_ns: int
    version: int
    identity: str
    sources: Mapping[str, str] = field(default_factory=dict)
    fretsaw: str = ""


@dataclass(frozen=True, slots=True)
class Cache:
    """The folder of weights.

        models/NAME.safetensors    conversions, ready to load
        raw/NAME/FILE              published files as they came, checked
        downloads/                 archives, kept until every member that is needed has been taken out
        records/NAME.json          which file NAME is loaded from, with its checksum
        checksums/                 checksums recorded at the first download, where the publisher names none
        partial/NAME/              what a download in progress has brought; nobody else reads it
        locks/NAME.lock            held while NAME is fetched or converted

    Every file outside `partial/` appears by a rename, so it is whole or absent.

    Attributes:
        root: The folder; made when the first file is written.
    """

    root: Path = field(default_factory=cache_folder)

    def model_path(self, name: str) -> Path:
        """Where the conversion of `name` lies."""
        return self.root / "models" / f"{name}.safetensors"

    def raw_path(self, name: str, file: WeightFile) -> Path:
        """Where a published file lies, also one that was brought by hand."""
        return self.root / "raw" / name / file.filename

    def archive_path(self, file: WeightFile) -> Path:
        """Where the archive that holds `file` lies until its members are taken out."""
        return self.root / "downloads" / (slug(file.source) + {"npm": ".tgz"}.get(file.client, ".whl"))

    def partial_path(self, name: str) -> Path:
        """The folder for unfinished downloads of `name`."""
        return self.root / "partial" / name

    def record_path(self, name: str) -> Path:
        """Where the record of `name` lies."""
        return self.root / "records" / f"{name}.json"

    def file_of(self, record: Record) -> Path:
        """The file that a record speaks of."""
        return self.root / record.path

    def record(self, path: Path, sha256: str, version: int, identity: str, sources: Mapping[str, str], fretsaw: str) -> Record:
        """Return the record of a file whose checksum has just been computed; the arguments are `Record`'s."""
        state = path.stat()
        place = path.relative_to(self.root) if path.is_relative_to(self.root) else path
        return Record(place.as_posix(), state.st_size, sha256, state.st_mtime_ns, version, identity, dict(sources), fretsaw)

    @contextmanager
    def lock(self, name: str, progress: Progress = silent) -> Iterator[None]:
        """Hold the right to write files of `name`; a second process waits and then finds them.

        Stale locks: the operating system holds the lock for the process and takes it back when that process ends, however it ends, so a lock file that lies
        about means nothing. Whatever its holder left unfinished is removed by the next one. Where the file system knows no such locks, filelock falls
        back to a file with the holder's process id and breaks the lock of a process that is gone.

        Raises:
            WeightsError: If another process holds it for an hour.
        """
        from filelock import FileLock, Timeout

        path = self.root / "locks" / f"{name}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            raise WeightsError(f"expected a folder that can be written at {self.root}, got: {error}; FRETSAW_HOME puts the cache elsewhere") from error
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress(f"wait for another process that fetches {name}", 0, None)
            try:
                lock.acquire(timeout=LOCK_PATIENCE)
            except Timeout:
                raise WeightsError(
                    f"another process has held {path} for {LOCK_PATIENCE / 60:.0f} minutes; end it, or delete that file if there is none"
                ) from None
        try:
            rmtree(self.partial_path(name), ignore_errors=True)
            sweep(self.model_path(name).parent, f".{name}.safetensors.*.part")
            sweep(self.root / "raw" / name, ".*.part")
            yield
        finally:
            rmtree(self.partial_path(name), ignore_errors=True)
            lock.release()

    def read_record(self, name: str) -> Record | None:
        """Return the record of `name`; None if there is none or it cannot be read."""
        try:
            record = Record(**json.loads(self.record_path(name).read_text()))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        texts = (record.path, record.sha256, record.identity, record.fretsaw)
        numbers = (record.size, record.mtime_ns, record.version)
        sound = all(isinstance(text, str) for text in texts) and all(isinstance(number, int) for number in numbers) and isinstance(record.sources, dict)
        return record if sound and record.path else None

    def write_record(self, name: str, record: Record) -> None:
        """Remember which file `name` is loaded from."""
        _write_json(self.record_path(name), asdict(record))

    def forget_conversion(self, name: str) -> None:
        """Remove the record and the conversion of `name`; the raw files stay.

        Raises:
            WeightsError: If they cannot be removed.
        """
        for path in (self.record_path(name), self.model_path(name)):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise WeightsError(f"expected to remove {path}, got: {error}") from error

    def forget(self, name: str) -> None:
        """Remove all files of `name`; checksums recorded at the first download stay, so a changed download is still noticed."""
        self.forget_conversion(name)
        rmtree(self.root / "raw" / name, ignore_errors=True)

    def recorded_checksum(self, file: WeightFile) -> str | None:
        """Return the checksum that the catalogue gives or, where it gives none, the one recorded at the first download."""
        if file.sha256 is not None:
            return file.sha256
        try:
            value = json.loads(self._checksum_path(file).read_text())["sha256"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return value if isinstance(value, str) else None

    def record_checksum(self, file: WeightFile, sha256: str) -> None:
        """Remember a first download's checksum; an existing one is never changed."""
        if self.recorded_checksum(file) is None:
            _write_json(self._checksum_path(file), {"source": file.source, "member": file.member, "sha256": sha256})

    def _checksum_path(self, file: WeightFile) -> Path:
        return self.root / "checksums" / (slug(f"{file.source} {file.member}") + ".json")


def check_record(name: str, record: Record, cache: Cache, progress: Progress = silent, thorough: bool = False) -> None:
    """Compare a recorded file with its record.

    Args:
        name: As in the catalogue.
        record: Of a file that exists.
        cache: Where a new time of writing is remembered.
        progress: Told how far the reading is.
        thorough: Read the file even if its size and time of writing are as recorded.

    Raises:
        ChecksumError: If the file is truncated or altered.
    """
    path = cache.file_of(record)
    state = path.stat()
    advice = f"`fretsaw models pull {name} --again` makes it anew"
    if state.st_size != record.size:
        what = "truncated" if state.st_size < record.size else "altered"
        raise ChecksumError(f"{path} is {what}: expected {record.size} bytes, got {state.st_size}; {advice}")
    if state.st_mtime_ns == record.mtime_ns and not thorough:
        return
    digest = sha256_of(path, progress)
    if digest != record.sha256:
        raise ChecksumError(f"{path} was altered: expected SHA-256 {record.sha256}, got {digest}; {advice}")
    if state.st_mtime_ns != record.mtime_ns:
        with suppress(OSError):  # a cache that is read-only here serves as well; the file is then read anew each time
            cache.write_record(name, replace(record, mtime_ns=state.st_mtime_ns))


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    with appearing(path) as part:
        part.write_text(json.dumps(value, indent=2) + "\n")
