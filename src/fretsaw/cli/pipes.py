"""What comes in from elsewhere than files and goes elsewhere: `-` for a pipe, addresses, and folders that are watched."""

from __future__ import annotations

import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fretsaw.addresses import MOST_BYTES, Address, is_address
from fretsaw.cli.batch import Batch, Record, run
from fretsaw.errors import ImageError, OutputError
from fretsaw.outputs import ImageTask, Incoming, Sources

if TYPE_CHECKING:
    import numpy as np

PIPE = "-"
POLL = 0.5
"""Seconds between two looks at a folder that is watched."""

SETTLED = 1.0
"""Seconds for which a file must not have changed before it is taken: whoever copies it may not be done."""


@dataclass(frozen=True, slots=True)
class StandardInput:
    """The image file that comes in on standard input."""

    @property
    def name(self) -> str:
        """What a file about it is called."""
        return "stdin"

    def __str__(self) -> str:
        return "standard input"

    def read(self) -> bytes:
        """Return all of it.

        Raises:
            ImageError: If it is empty or larger than 128 MiB.
        """
        content = sys.stdin.buffer.read(MOST_BYTES + 1)
        if not content:
            raise ImageError("standard input: expected an image file, got nothing")
        if len(content) > MOST_BYTES:
            raise ImageError(f"standard input: expected at most {MOST_BYTES} bytes, got more")
        return content


def inputs_of(values: Sequence[str], private: bool = False) -> list[Path | Incoming]:
    """Return what a user's words for images mean: `-` is standard input, `https://...` and `data:...` are addresses, all others paths.

    Args:
        values: The words.
        private: Whether addresses of private networks may be asked.

    Raises:
        ImageError: If standard input is named twice.
    """
    if list(values).count(PIPE) > 1:
        raise ImageError("expected standard input (-) once, got it twice")
    return [StandardInput() if value == PIPE else Address(value, private) if is_address(value) else Path(value) for value in values]


def reading_in(text: str | None) -> Callable[[ImageTask], Path | bytes | np.ndarray]:
    """Return what reads the image of a task: as it is, or, where a range of values is stated, scaled to it.

    Args:
        text: "LOW,HIGH", or None.

    Raises:
        ImageError: If it is no range.
    """
    if text is None:
        return lambda job: job.image
    from fretsaw import images

    try:
        low, high = map(float, text.split(","))
    except ValueError as error:
        raise ImageError(f"expected --range as two numbers with a comma between them, such as 0,4095; got {text[:40]!r}") from error
    images.require_range((low, high))
    return lambda job: images.read_image(job.image, value_range=(low, high))


@contextmanager
def results_at(out: Path, suffix: str, as_json: bool = False) -> Iterator[Path]:
    """Give the place to which results are written: `out` itself, or, where that is `-`, a file that goes to standard output at the end.

    Nothing else is printed on standard output then.

    Args:
        out: What the user named.
        suffix: Of a file of this kind, for example ".png"; "" where a result is a folder of files.
        as_json: Whether JSON is printed.

    Raises:
        OutputError: If standard output cannot hold the result.
    """
    if str(out) != PIPE:
        yield out
        return
    if as_json:
        raise OutputError("expected one of --json and -o -, got both, which would share standard output")
    if not suffix:
        raise OutputError("expected a folder as -o for results of several files, got '-', which holds one")
    if sys.stdout.isatty():
        raise OutputError("expected a pipe or a file behind -o -, got a terminal, which cannot show an image file; for example: ... -o - > cut.png")
    with tempfile.TemporaryDirectory(prefix="fretsaw-") as folder:
        place = Path(folder) / f"result{suffix}"
        try:
            with redirect_stdout(io.StringIO()):
                yield place
        finally:
            if place.is_file():
                sys.stdout.buffer.write(place.read_bytes())
                sys.stdout.buffer.flush()
            for other in sorted(path.name for path in Path(folder).iterdir() if path != place and not path.name.startswith(".")):
                print(f"fretsaw: {other} is left out, since standard output holds one file; name a file with -o to have both", file=sys.stderr)


def require_one(out: Path, sources: Sources) -> None:
    """Raise `OutputError` if results of several images would go to standard output."""
    if str(out) == PIPE and len(sources.images) != 1:
        raise OutputError(f"expected one image for -o -, since standard output holds one file; got {len(sources.images)}")


def check_watched(inputs: Sequence[Path | Incoming], out: Path, format: str) -> None:
    """Raise `ImageError` or `OutputError` unless inputs are folders and results are files in a folder."""
    for path in inputs:
        if not isinstance(path, Path) or not path.is_dir():
            raise ImageError(f"expected folders to watch, got {path}")
    if str(out) == PIPE or format == "coco" or out.is_file():
        raise OutputError(f"expected a folder as -o with --watch, and a format of one file an image, got {out} and {format}")


def watch(plan: Callable[[], Sequence[ImageTask]], work: Callable[[ImageTask], Record], done: Batch, quiet: bool, tried: Sequence[ImageTask]) -> Batch:
    """Cut images as they come into folders, until Ctrl-C; a failure of one is that image's, and it is tried again when the file changes.

    Args:
        plan: Lists what is there now.
        work: Makes a result and writes it.
        done: What was done before; it goes on from there.
        quiet: Show nothing meanwhile.
        tried: What was tried before.

    Returns:
        All that was done.
    """
    known = {job.source: _state(job.source) for job in tried}
    if not quiet:
        print("fretsaw: watching for new images; Ctrl-C ends it", file=sys.stderr, flush=True)
    try:
        while not done.reason:
            new = [job for job in plan() if known.get(job.source) != (state := _state(job.source)) and state and time.time() - state[0] >= SETTLED]
            known |= {job.source: _state(job.source) for job in new}
            batch = run(new, work, lambda job: False, quiet) if new else Batch()
            done.records += batch.records
            done.untried, done.reason, done.status = batch.untried, batch.reason, batch.status
            if not done.reason:
                time.sleep(POLL)
    except KeyboardInterrupt:  # while nothing was in work: how a watch ends
        pass
    return done


def _state(source: Path | Incoming) -> tuple[float, int] | None:
    """Return when a file was changed and its size; None where it is no file, or not any more."""
    try:
        found = source.stat() if isinstance(source, Path) else None
    except OSError:
        return None
    return (found.st_mtime, found.st_size) if found is not None else None
