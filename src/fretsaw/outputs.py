"""What a run reads and where each result goes; decided for all files before any work starts, so that what cannot work costs nothing.

Two rules hold for every command:

- Nothing that a run reads is written, whichever way the path is spelt: files are told apart by what the file system says they are (device and inode), which
  sees through symbolic links, hard links, `..` and file systems that ignore case.
- A result is never read again as an input: a picture is not written into a folder that is searched for pictures. A folder of results below such a folder is
  left out of the search, and the run says so.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fretsaw.errors import ImageError, OutputError

IMAGE_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm"),
        *(".avif", ".jp2", ".j2k", ".j2c", ".jpx", ".heic", ".heif", ".hif", ".dcm"),
    }
)
"""Files with these suffixes are taken from a folder."""

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
"""Suffixes of files that can hold a picture; in each of these lists the first is what a folder of results gets."""

LOSSLESS = (".png", ".webp", ".tif", ".tiff", ".bmp")
"""Those that keep every value, as a mask needs."""

TRANSPARENT = (".png", ".webp", ".tif", ".tiff")
"""Those that hold transparency."""

LASTING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE})
"""Failures of the system that the next file would meet too: disk or quota full, disk read-only, no descriptors left."""

STALE = 3600.0
"""Seconds after which an unfinished file counts as one that a killed process left behind, where several processes may write."""

Identity = tuple[int, int]
"""What tells files apart: device and inode."""

_UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.part")

_FILE_NAME = re.compile(r"\.(?!v\d+$)[a-z][a-z0-9]{1,4}", re.IGNORECASE)
"""A suffix that a file's name has; numbers and versions (`run.2`, `masks.v2`) are parts of a folder's name."""


class Incoming(Protocol):
    """An image that is no file: it lies at an address or comes in by a pipe. Hashable; its text is what messages call it."""

    @property
    def name(self) -> str:
        """What a file about it is called."""
        ...

    def read(self) -> bytes:
        """Return the image's file; `ImageError` if it cannot be had."""
        ...


@dataclass(frozen=True, slots=True)
class ImageTask:
    """One image to read and what is written of it.

    Attributes:
        source: The image.
        target: The file, or the folder of one image's files, that stands for the result.
        beside: Further files that are written with it.
    """

    source: Path | Incoming
    target: Path
    beside: tuple[Path, ...] = ()

    @property
    def image(self) -> Path | bytes:
        """What is read: the file, or the bytes of what is no file, which are fetched now.

        Raises:
            ImageError: If they cannot be had.
        """
        return self.source if isinstance(self.source, Path) else self.source.read()

    @property
    def done(self) -> bool:
        """Whether all of it is there; a run that was killed may have left a part."""
        return all(map(os.path.exists, (self.target, *self.beside)))


class Sources:
    """All that a run reads.

    Args:
        inputs: Images, taken whatever their suffix, and folders, of which files with an image suffix are taken in sorted order; hidden folders are left out.
            A path that is not there and holds `*`, `?` or `[` stands for all that fit it, as in a shell. What is no file is taken as it is.
        recursive: Whether to go into subfolders.
        out: Where results go. A folder below an input folder is left out of the search.
        also: Other files that the run reads, such as a mask or weights, and folders of which it may read anything; None and what is not there are passed over.
        allow_none: Whether there may be nothing in the inputs yet.

    Attributes:
        images: Pairs (path, path below the folder that it was found in); a file named directly is below its own folder.
        notes: Sentences about what was left out, for the user.

    Raises:
        ImageError: If an input does not exist or cannot be opened, or nothing was found in the inputs at all.
    """

    def __init__(
        self,
        inputs: Sequence[Path | Incoming] = (),
        recursive: bool = False,
        out: Path | None = None,
        also: Iterable[Path | None] = (),
        allow_none: bool = False,
    ) -> None:
        self.images: list[tuple[Path | Incoming, Path]] = []
        self.notes: list[str] = []
        self._searched: dict[Identity, tuple[Path, bool]] = {}
        self._readers: dict[Path, Path | None] = {}
        self._out = _real(out) if out is not None else None
        for path in inputs:
            if isinstance(path, Path):
                self._add(path, recursive)
            else:
                self.images.append((path, Path(path.name)))
        if inputs and not self.images and not allow_none:
            hint = "" if recursive else "; --recursive looks into subfolders"
            said = "".join(f" ({note})" for note in self.notes)
            raise ImageError(f"expected images ({', '.join(sorted(IMAGE_SUFFIXES))}), found none in {', '.join(map(str, inputs))}{said}{hint}")
        self._files = {found: path for path, _ in self.images if isinstance(path, Path) and (found := _identity(path)) is not None}
        for path in also:
            found = _identity(path) if path is not None else None
            if path is None or found is None:
                continue
            if path.is_dir():
                self._searched[found] = (path, True)
            else:
                self._files[found] = path

    def plan(self, out: Path, suffixes: Sequence[str] = PICTURES, beside: Callable[[Path], Iterable[Path]] = lambda target: ()) -> list[ImageTask]:
        """Give every image its output.

        One image and an `out` that ends in one of the suffixes: that file. Else `out` is a folder, and a result is out/<path below the input folder>/<stem>
        with the first suffix; images whose stems collide keep their full name (a.jpg and a.png become a.jpg.png and a.png.png).

        Args:
            out: A file or a folder.
            suffixes: What a file of this kind may end in; () where a result is a folder of files by itself.
            beside: Names the further files that are written with a result.

        Raises:
            OutputError: If `out` is a file where a folder is needed or ends in a suffix of another kind of file, if two results would share a file, if one
                would be written over an input or into a folder of inputs, or if a folder cannot be written.
        """
        if not self._one_file(out, suffixes):
            stems = Counter(below.with_suffix("") for _, below in self.images)
            ending = suffixes[0] if suffixes else ""
            names = (below.name if stems[below.with_suffix("")] > 1 else below.stem for _, below in self.images)
            targets = [out / below.with_name(name + ending) for (_, below), name in zip(self.images, names, strict=True)]
        else:
            targets = [out]
        jobs = [ImageTask(path, target, tuple(beside(target))) for (path, _), target in zip(self.images, targets, strict=True)]
        written = [file for job in jobs for file in (job.target, *job.beside)]
        doubles = [file for file, count in Counter(map(_folded(out), written)).items() if count > 1]
        if doubles:
            raise OutputError(f"expected every result to have a file of its own, got {doubles[0]} for two; run the inputs one by one, or rename one")
        for file in written:
            self.refuse(file)
        require_writable(written)
        return jobs

    def refuse(self, target: Path, picture: bool | None = None) -> None:
        """Raise if writing a file would cost or change what is read.

        Args:
            target: The file.
            picture: Whether a search for inputs would find it; None judges by its suffix.

        Raises:
            OutputError: If the file is an input, or a picture in a folder that is searched for inputs.
        """
        if (same := self._files.get(_landing(target) or (-1, -1))) is not None:
            spelt = "" if same == target else f", which is the input {same}"
            raise OutputError(f"{target}: expected an output that is no input, got one of the inputs{spelt}; nothing was written, choose another place with -o")
        if (target.suffix.lower() in IMAGE_SUFFIXES) if picture is None else picture:
            self._refuse_inside(target.parent, target)

    def refuse_folder(self, folder: Path) -> None:
        """Raise if a folder of results is a folder that is read, or lies in one, or holds a file that is read.

        Raises:
            OutputError: If so.
        """
        self._refuse_inside(folder, folder)
        own = _landing(folder)
        for path in self._files.values() if own is not None else ():
            if any(_identity(above) == own for above in _real(path).parents):
                raise OutputError(f"{folder}: expected a folder for results that holds nothing that is read, got one with the input {path}; choose another")

    def _refuse_inside(self, folder: Path, shown: Path) -> None:
        read = self._reader_of(folder)
        if read is not None:
            raise OutputError(
                f"{shown}: expected an output outside the folders that are read, got one in {read}, where the next run would take it for an input; "
                "choose another folder with -o"
            )

    def _reader_of(self, folder: Path) -> Path | None:
        """Return the input folder whose search would come upon the files in a folder, there or not; None if there is none."""
        if folder not in self._readers:
            self._readers[folder] = None
            place, below_out = _real(folder), False
            for depth, above in enumerate((place, *place.parents)):
                found = _identity(above)
                path, recursive = self._searched.get(found, (None, False)) if found is not None else (None, False)
                if path is not None and (recursive or depth == 0) and not below_out:
                    self._readers[folder] = path
                    break
                below_out = below_out or self._is_out(above, found)  # the search leaves out the folder of results
        return self._readers[folder]

    def _is_out(self, place: Path, found: Identity | None) -> bool:
        return self._out is not None and (place == self._out or (found is not None and found == _identity(self._out)))

    def _one_file(self, out: Path, suffixes: Sequence[str]) -> bool:
        """Whether `out` is the file of a single result; raises where it can be neither that nor a folder."""
        if str(out) == "-":
            raise OutputError("expected a file or a folder for results, got '-': this command cannot write to standard output")
        if _is_folder(out) or _is_folder(_real(out)):
            return False
        fits = out.suffix.lower() in suffixes
        if fits and len(self.images) == 1:
            return True
        kinds = f"a file that ends in {', '.join(suffixes)}, or " if suffixes and len(self.images) == 1 else ""
        if _landing(out) is not None:
            raise OutputError(f"expected {kinds}a folder for {len(self.images)} result(s), got the file {out}")
        if _FILE_NAME.fullmatch(out.suffix):
            raise OutputError(f"expected {kinds}a folder for {len(self.images)} result(s), got {out}; if it is meant as a folder, make it first")
        return False

    def _add(self, path: Path, recursive: bool) -> None:
        if _is_folder(path):
            found = _identity(path)
            assert found is not None
            before = self._searched.get(found, (path, False))[1]
            self._searched[found] = (path, recursive or before)
            self.images.extend((file, file.relative_to(path)) for file in sorted(self._pictures_in(path, recursive)))
        elif _identity(path) is not None:
            self.images.append((path, Path(path.name)))
        elif glob.has_magic(str(path)):
            self._add_fitting(path, recursive)
        else:
            raise ImageError(f"expected an image or a folder of images, got {path}, which does not exist")

    def _add_fitting(self, pattern: Path, recursive: bool) -> None:
        """Add what fits a pattern: a shell that does not know these, or was kept from it by quotes, hands it on as it is."""
        above = pattern
        while glob.has_magic(str(above)):
            above = above.parent
        fitting = sorted(Path(name) for name in glob.glob(str(pattern), recursive=True))
        if not fitting:
            raise ImageError(f"expected images that fit {pattern}, found none")
        others = []
        for path in fitting:
            if path.is_dir():
                if "**" not in pattern.parts:
                    self._add(path, recursive)
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                self.images.append((path, path.relative_to(above)))
            else:
                others.append(path.name)
        self._note_others(pattern, others)

    def _note_others(self, place: Path, names: Sequence[str]) -> None:
        """Say how many files were passed over because of their suffix, and which suffixes these are."""
        if names:
            kinds = Counter(Path(name).suffix.lower() or "no suffix" for name in names)
            listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5)) + (", ..." if len(kinds) > 5 else "")
            what = "file that is no picture by its name is" if len(names) == 1 else "files that are no pictures by their names are"
            self.notes.append(f"{place}: {len(names)} {what} left out ({listed}), first {min(names)}")

    def _pictures_in(self, folder: Path, recursive: bool) -> Iterator[Path]:
        def complain(error: OSError) -> None:
            if Path(error.filename) == folder:
                raise ImageError(f"{folder}: expected a folder that can be opened, got: {error.strerror}") from error
            self.notes.append(f"{error.filename} is left out: {error.strerror}")

        others = []
        for root, folders, files in os.walk(folder, onerror=complain):
            here = Path(root)
            others += [name for name in files if Path(name).suffix.lower() not in IMAGE_SUFFIXES and not name.startswith(".")]
            kept = []
            for name in sorted(folders) if recursive else ():
                if name.startswith("."):
                    continue
                if self._out is not None and (found := _identity(here / name)) is not None and found == _identity(self._out):
                    self.notes.append(f"{here / name} is left out of the search: the results go there")
                    continue
                kept.append(name)
            folders[:] = kept
            yield from (here / name for name in files if Path(name).suffix.lower() in IMAGE_SUFFIXES and (here / name).is_file())
        self._note_others(folder, others)


def find_images(inputs: Sequence[Path], recursive: bool = False) -> list[tuple[Path, Path]]:
    """List the images that a user named, for a command that writes none; see `Sources`."""
    return [(path, below) for path, below in Sources(inputs, recursive).images if isinstance(path, Path)]


def named_files(*values: str | Path | None) -> list[Path]:
    """Return those values that are paths of files: a model, for example, is given by its name or by its file."""
    return [Path(value) for value in values if value and _identity(Path(value)) is not None and not _is_folder(Path(value))]


def require_writable(files: Iterable[Path]) -> None:
    """Raise if the folder of a file cannot be written, or cannot be made; nothing is made here.

    Raises:
        OutputError: If so; the message names the folder.
    """
    for folder in dict.fromkeys(file.parent for file in files):
        try:
            os.stat(folder)
        except (OSError, ValueError) as error:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise OutputError(f"{str(folder)[:200]!r}: expected a folder, got: {getattr(error, 'strerror', None) or error}") from error
        place = Path(os.path.abspath(folder))
        while _identity(place) is None and place != place.parent:
            place = place.parent
        if not _is_folder(place):
            raise OutputError(f"{folder}: expected a folder, or a place where one can be made, got the file {place}")
        if not os.access(place, os.W_OK | os.X_OK):
            raise OutputError(f"{folder}: expected a folder that can be written, got {'one' if _identity(folder) else place} that cannot")


def lasting_failure(error: BaseException) -> OSError | None:
    """Return the system's failure behind an exception if the next file would meet it too, else None."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in LASTING:
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def remove_unfinished(folders: Iterable[Path], older: float = STALE) -> None:
    """Remove the temporary files that killed processes left in folders (`fretsaw.images.write_bytes` makes them).

    Args:
        folders: Where to look; not below them.
        older: Least age in seconds; 0 for a folder that this process alone writes.
    """
    for folder in folders:
        try:
            names = [name for name in os.listdir(folder) if _UNFINISHED.fullmatch(name)]
        except OSError:
            continue
        for name in names:
            with suppress(OSError):
                if time.time() - os.stat(folder / name).st_mtime >= older:
                    os.unlink(folder / name)


def _identity(path: Path) -> Identity | None:
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return None
    return state.st_dev, state.st_ino


def _landing(target: Path) -> Identity | None:
    """Return what a file that is written would replace; `new/../a.png` replaces a.png, since the folder `new` is made before the file is written."""
    return _identity(target) or _identity(_real(target))


def _real(path: Path) -> Path:
    """Return a path without links; one that no file system can have stays as it is."""
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError):
        return Path(os.path.abspath(path))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _folded(out: Path) -> Callable[[Path], Path]:
    """Return what makes the paths of one file equal: on a file system that ignores case, A.png and a.png are one."""
    place = Path(os.path.abspath(out))
    while not (_identity(place) and place.name.swapcase() != place.name) and place != place.parent:
        place = place.parent
    ignores_case = place != place.parent and _identity(place) == _identity(place.with_name(place.name.swapcase()))
    return (lambda path: Path(str(path).casefold())) if ignores_case else (lambda path: path)
