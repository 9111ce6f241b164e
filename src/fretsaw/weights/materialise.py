"""From a name in the catalogue to one checked safetensors file on this machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from fretsaw.errors import ChecksumError, MissingExtraError, MissingWeightsError, WeightsError
from fretsaw.weights.cache import Cache, Record, check_record, is_offline
from fretsaw.weights.checkpoints import one_line
from fretsaw.weights.definitions import Progress, Route, WeightFile, Weights, silent
from fretsaw.weights.files import appearing, check_file, copy_checked, require_space, sha256_of
from fretsaw.weights.gather import check_raw, describe_sources, gather, shipped_path, take_members
from fretsaw.weights.states import fitting, is_file


def materialise(weights: Weights, cache: Cache | None = None, progress: Progress = silent, offline: bool | None = None) -> Path:
    """Return the file that the network is loaded from; fetch and convert what is missing.

    The order: the file shipped in the package; the conversion in the cache; then the routes of `weights` in their order, each first from the raw files in
    the cache and then through its client. Only a source that cannot be reached lets the next route try: a file with a wrong checksum ends the attempt.

    Args:
        weights: What is wanted.
        cache: The folder of weights; None means the user's.
        progress: Told what is being done.
        offline: Use only what is on this machine; None means as the environment says (`is_offline`).

    Returns:
        A file whose checksum is right. Its metadata (`read_metadata`) names its sources, if Fretsaw made it.

    Raises:
        MissingWeightsError: If no route is open; the message says where the files would lie and how to bring them.
        MissingExtraError: If the only thing missing is a module that the conversion needs.
        ChecksumError: If a file is truncated, altered or another one.
        StateDictError: If a published file without a known checksum is not what its converter reads.
        WeightsError: If the cache cannot be read or written, a full disk included; what was complete before is used the next time.
    """
    cache = cache or Cache()
    if ready := locate(weights, cache, progress):
        return ready
    with _in_cache(weights, cache), cache.lock(weights.name, progress):
        # another process may have brought them while this one waited
        return locate(weights, cache, progress) or _travel(weights, cache, progress, is_offline() if offline is None else offline)


def locate(weights: Weights, cache: Cache, progress: Progress = silent) -> Path | None:
    """Return the file that is ready to load, checked, or None; nothing is fetched or converted.

    Raises:
        ChecksumError: If it is there and was altered.
        WeightsError: If it cannot be read.
    """
    with _in_cache(weights, cache):
        for file in _shipped(weights):
            path = shipped_path(file)
            if path.is_file():
                check_file(path, file.size, file.sha256)
                return path
        record = _usable_record(weights, cache)
        if record is None:
            return None
        check_record(weights.name, record, cache, progress)
        return cache.file_of(record)


def is_present(weights: Weights, cache: Cache) -> bool:
    """Whether the weights can be loaded without network, judged by names and sizes alone: quick enough for a list."""
    try:
        for file in _shipped(weights):
            path = shipped_path(file)
            if path.is_file() and path.stat().st_size == file.size:
                return True
        record = _usable_record(weights, cache)
        return record is not None and cache.file_of(record).stat().st_size == record.size
    except OSError:  # it went away in between, or may not be looked at
        return False


def checksum(weights: Weights, cache: Cache | None = None) -> str:
    """Return 64 hexadecimal digits that name the weights wherever results depend on them; the same on every machine.

    Of a file that is used as it was published it is the SHA-256. Of a conversion it is the SHA-256 of the line with the converter's version and the published
    files' checksums: the converted file's own bytes also hold the version of Fretsaw, and the last digits of what a converter computes.

    Raises:
        MissingWeightsError: If the weights are not here.
    """
    cache = cache or Cache()
    for file in _shipped(weights):
        if file.sha256 and shipped_path(file).is_file():
            return file.sha256
    record = _usable_record(weights, cache)
    if record is None:
        raise MissingWeightsError(missing_message(weights, cache, []))
    return record.identity


def verify(weights: Weights, cache: Cache, progress: Progress = silent) -> list[Path]:
    """Read every file of `weights` on this machine from end to end and compare its checksum.

    Returns:
        The files, all sound.

    Raises:
        MissingWeightsError: If none is here.
        ChecksumError: If one is truncated, altered or another one.
    """
    checked = []
    with _in_cache(weights, cache):
        for file in _shipped(weights):
            if shipped_path(file).is_file():
                check_raw(shipped_path(file), file, cache, progress)
                checked.append(shipped_path(file))
        if record := _usable_record(weights, cache):
            check_record(weights.name, record, cache, progress, thorough=True)
            checked.append(cache.file_of(record))
        for file in _files(weights):
            path = cache.raw_path(weights.name, file)
            if path.is_file() and path not in checked:
                check_raw(path, file, cache, progress)
                checked.append(path)
    if not checked:
        raise MissingWeightsError(missing_message(weights, cache, []))
    return checked


def bring(weights: Weights, paths: Sequence[Path], cache: Cache, progress: Progress = silent) -> list[Path]:
    """Take files that a person brought by hand into the cache; each is recognised by its checksum, whatever its name.

    Args:
        weights: What they belong to.
        paths: Published files, or the archives around them. They are copied and stay where they are.
        cache: The folder of weights.
        progress: Told what is being done.

    Returns:
        Where they lie now; `materialise` finds them there.

    Raises:
        ChecksumError: If a file is none of those that the catalogue names.
        MissingWeightsError: If there is no such file.
    """
    taken = []
    with _in_cache(weights, cache), cache.lock(weights.name, progress):
        for path in paths:
            if not path.is_file():
                raise MissingWeightsError(f"there is no file {path}")
            taken += _take(weights, path, cache, progress)
    return taken


@contextmanager
def _in_cache(weights: Weights, cache: Cache) -> Iterator[None]:
    """Say in one line what keeps weights from being read or written: a full disk, a folder without rights, a folder in a file's place.

    Every file appears by a rename, so that nothing half written stays behind, and the next attempt goes on with what was complete.
    """
    try:
        yield
    except OSError as error:
        raise WeightsError(
            f"expected to read and write the weights of {weights.name!r} in {cache.root}, got: {one_line(str(error))}; FRETSAW_HOME puts the cache elsewhere"
        ) from error


def missing_message(weights: Weights, cache: Cache, reasons: Sequence[str]) -> str:
    """Say what is missing, where it would lie, and the two ways to bring it."""
    lines = [
        f"expected the weights of {weights.name!r} ({weights.size / 1e6:.0f} MB, licence {weights.licence}) at {_place(weights, cache)}, got no such file",
        *(f"  tried {reason}" for reason in reasons),
    ]
    by_hand = all(file.client == "hand" for file in _files(weights))
    if not by_hand:
        lines.append(f"  to download them: fretsaw models pull {weights.name}")
    for number, route in enumerate(route for route in weights.routes if not _is_shipped(route)):
        lines.append(("  by hand, put" if by_hand else "  or by hand, put") if number == 0 else "  or, in their place,")
        lines += [f"    {file.member or file.filename} of {_publisher(file)} at {cache.raw_path(weights.name, file)}" for file in route.files.values()]
    lines.append(f"  fretsaw models convert {weights.name} --from FILE puts them there, and takes the package's own file as well")
    return "\n".join(lines)


def missing_parts_message(name: str, missing: Sequence[tuple[Weights, MissingWeightsError]]) -> str:
    """Say which of a model's networks are missing, how to get all of them, and where each would lie by hand."""
    names = ", ".join(weights.name for weights, _ in missing)
    total = sum(weights.size for weights, _ in missing)
    lines = [f"expected the networks of {name!r}, got none of {names} ({total / 1e6:.0f} MB in all)"]
    lines += [f"  {weights.name:<16} {weights.size / 1e6:>6.0f} MB  licence {weights.licence:<12} {weights.origin}" for weights, _ in missing]
    lines += [f"  to download them: fretsaw models pull {name}", "  or by hand, one by one:"]
    lines += [f"  {line}" for _, error in missing for line in str(error).splitlines()]
    return "\n".join(lines)


def _travel(weights: Weights, cache: Cache, progress: Progress, offline: bool) -> Path:
    """Try the routes in order; the caller holds the lock."""
    reasons, errors = [], []
    for route in weights.routes:
        try:
            _require_modules(weights.name, route)
            return _arrive(weights, route, cache, progress, offline)
        except (MissingWeightsError, MissingExtraError) as error:
            source = next(iter(route.files.values())).source
            reasons.append(f"{source}: {error}")
            errors.append(error)
    if errors and all(isinstance(error, MissingExtraError) for error in errors):
        raise errors[0]
    raise MissingWeightsError(missing_message(weights, cache, reasons))


def _arrive(weights: Weights, route: Route, cache: Cache, progress: Progress, offline: bool) -> Path:
    """Gather a route's files, convert them, and record the result."""
    inputs = gather(weights.name, route, cache, progress, offline)
    checksums = {role: cache.recorded_checksum(route.files[role]) or sha256_of(path) for role, path in inputs.items()}
    sources = describe_sources(route, checksums)
    if route.convert is None:
        (path,), (digest,) = inputs.values(), checksums.values()
    else:
        task = f"convert {weights.name}"
        progress(task, 0, None)
        require_space(cache.root, sum(path.stat().st_size for path in inputs.values()))
        path = cache.model_path(weights.name)
        metadata = {"name": weights.name, "licence": weights.licence, "origin": weights.origin, "converter": str(weights.version), "fretsaw": fretsaw_version()}
        with fitting(next(iter(inputs.values())), f"the published weights of {weights.name}"):
            content = _converted(route, inputs, {**metadata, **{f"source.{role}": text for role, text in sources.items()}})
        with appearing(path) as part, part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        digest = sha256_of(path)
        progress(task, path.stat().st_size, path.stat().st_size)
    if not _is_shipped(route):
        line = f"{weights.version} {' '.join(checksums[role] for role in sorted(checksums))}"
        identity = digest if route.convert is None else hashlib.sha256(line.encode()).hexdigest()
        cache.write_record(weights.name, cache.record(path, digest, weights.version, identity, sources, fretsaw_version()))
    return path


def _converted(route: Route, inputs: dict[str, Path], metadata: dict[str, str]) -> bytes:
    from safetensors.torch import save

    assert route.convert is not None
    # a copy each: safetensors refuses tensors that share memory. `save` rather than `save_file`, which would deny other users of the cache to read
    return save({key: tensor.detach().cpu().contiguous().clone() for key, tensor in route.convert(inputs).items()}, metadata)


def _take(weights: Weights, path: Path, cache: Cache, progress: Progress) -> list[Path]:
    """Copy one brought file, or the members of one brought archive, into the cache."""
    digest, size = sha256_of(path, progress), path.stat().st_size
    files = list(_files(weights))
    members = [file for file in files if file.archive is not None and file.archive.sha256 == digest]
    if members:
        return take_members(weights.name, path, members, cache, progress)
    matching = [file for file in files if cache.recorded_checksum(file) == digest]
    # the publisher's checksum is not known yet: the name must do, and the checksum is recorded now
    matching = matching or [file for file in files if cache.recorded_checksum(file) is None and file.filename == path.name]
    if not matching:
        known = "\n".join(f"  {file.filename}, SHA-256 {cache.recorded_checksum(file) or 'recorded at the first download'}" for file in files)
        raise ChecksumError(f"{path} ({size} bytes, SHA-256 {digest}) is none of the files of {weights.name!r}, or was altered; expected one of\n{known}")
    target = cache.raw_path(weights.name, matching[0])
    with path.open("rb") as stream:
        cache.record_checksum(matching[0], copy_checked(stream, target, matching[0].size, digest, progress))
    return [target]


def _require_modules(name: str, route: Route) -> None:
    absent = [module for module in route.requires if find_spec(module) is None]
    if absent:
        raise MissingExtraError(f"expected {', '.join(absent)} to convert {name!r} once, got no such module; pip install 'fretsaw[{route.extra}]' installs it")


def _usable_record(weights: Weights, cache: Cache) -> Record | None:
    record = cache.read_record(weights.name)
    if record is None or record.version != weights.version or not is_file(cache.file_of(record)):
        return None
    return record


def _is_shipped(route: Route) -> bool:
    return route.convert is None and all(file.client == "package" for file in route.files.values())


def _shipped(weights: Weights) -> Iterator[WeightFile]:
    return (file for route in weights.routes if _is_shipped(route) for file in route.files.values())


def _files(weights: Weights) -> Iterator[WeightFile]:
    return (file for route in weights.routes if not _is_shipped(route) for file in route.files.values())


def _publisher(file: WeightFile) -> str:
    return file.address if file.client == "hand" else file.source


def _place(weights: Weights, cache: Cache) -> Path:
    """Where the file to load would lie."""
    route = next((route for route in weights.routes if not _is_shipped(route)), weights.routes[0])
    file = next(iter(route.files.values()))
    if route.convert is not None:
        return cache.model_path(weights.name)
    return shipped_path(file) if _is_shipped(route) else cache.raw_path(weights.name, file)


def fretsaw_version() -> str:
    """Return the installed version of Fretsaw."""
    try:
        return version("fretsaw")
    except PackageNotFoundError:
        return "unknown"
