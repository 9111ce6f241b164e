"""Annotations that lie in a folder: which formats are there, and reading them file by file, so that one broken file does not cost the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fretsaw.errors import DataError, FretsawError, ImageError, OutputError
from fretsaw.images import picture_size
from fretsaw.interchange import coco, cvat, label_studio, labelme, png, voc, yolo
from fretsaw.interchange.pictures import AnnotatedPicture
from fretsaw.interchange.untrusted import came
from fretsaw.outputs import IMAGE_SUFFIXES

MOST_FILES = 50_000
MOST_BYTES = 2**30
LARGE = 2**23
"""Bytes from which on a COCO file is read element by element; what is read at once takes some 20 times its size."""
PEEK = 65536
"""Bytes at either end of a file by which its format is told."""

WHOLE: Mapping[str, tuple[str, Callable[[Mapping[str, bytes]], Iterable[AnnotatedPicture]]]] = {
    "coco": (coco.PATH, coco.each),
    "label-studio": (label_studio.PATH, label_studio.each),
    "cvat": (cvat.PATH, cvat.each),
}
"""Formats of one file for all pictures: the path under which their reader expects it, and the reader."""

READABLE = (*WHOLE, "labelme", "voc", "yolo", "png")
Reader = Callable[[], Iterable[AnnotatedPicture]]


@dataclass(frozen=True, slots=True)
class Source:
    """Annotations in one format.

    Attributes:
        format: One of `READABLE`.
        path: The file, or the folder that the format's own layout begins at.
        name: To show: the path below the folder that was searched.
    """

    format: str
    path: Path
    name: str


class FilesBelow(Mapping[str, bytes]):
    """The files below a folder by their path with forward slashes, read when they are asked for; hidden ones and links that lead out are not there."""

    def __init__(self, folder: Path, suffixes: Iterable[str]) -> None:
        self._folder, self._paths = folder, list(_walk(folder, tuple(suffixes)))

    def __getitem__(self, path: str) -> bytes:
        place = self._place(path)
        if place is None:
            raise KeyError(path)
        return _content(place)

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and self._place(path) is not None

    def _place(self, path: str) -> Path | None:
        try:
            place = (self._folder / path).resolve()
            return place if place.is_relative_to(self._folder.resolve()) and place.is_file() else None
        except (OSError, ValueError, RuntimeError):  # a name that no file can have, or links in a circle
            return None

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def find_annotations(folder: Path) -> list[Source]:
    """Return what annotations lie in a folder and its subfolders, by their layout and by what the files begin with; none is read in full."""
    found: dict[Path, Source] = {}

    def add(format: str, path: Path) -> None:
        found.setdefault(path, Source(format, path, "" if path == folder else path.relative_to(folder).as_posix()))

    for name in _walk(folder, (".json", ".xml", ".yaml")):
        path = folder / name
        if path.name == png.NAMES:
            add("png", folder)
        elif path.name == yolo.NAMES and (path.parent / "labels").is_dir():
            add("yolo", path.parent)
        elif path.suffix == ".xml" and (root := _voc_root(folder, path)) is not None:
            add("voc", root)
        elif (format := _format_if_readable(path)) is not None:
            add(format, folder if format == "labelme" else path)
    return list(found.values())


def _voc_root(folder: Path, path: Path) -> Path | None:
    """Return the folder that holds the nearest `Annotations` above a file, with the masks beside it; pictures in subfolders have their files in subfolders."""
    for above in path.parents:
        if above.name == "Annotations" and (above.parent / "SegmentationObject").is_dir():
            return above.parent
        if above == folder:
            break
    return None


def pictures_below(folder: Path) -> list[str]:
    """Return the pictures in a folder and its subfolders: paths with forward slashes."""
    return list(_walk(folder, tuple(IMAGE_SUFFIXES)))


def format_of(path: Path) -> str | None:
    """Return the format of a single file by what stands at its beginning and end, or None.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            text = file.read(PEEK)
            file.seek(max(0, path.stat().st_size - PEEK))
            text += file.read(PEEK)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if path.suffix == ".xml":
        return "cvat" if b"<annotations" in text else None
    if path.suffix != ".json":
        return None
    if text.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
        return "label-studio" if b'"data"' in text and b'"annotations"' in text else None
    if b'"shapes"' in text and b'"imagePath"' in text:
        return "labelme"
    return "coco" if sum(key in text for key in (b'"annotations"', b'"categories"', b'"images"', b'"segmentation"')) >= 3 else None


def _format_if_readable(path: Path) -> str | None:
    """Return the format of a file among others, None where nothing can be said about it: it must not cost the others."""
    try:
        return format_of(path)
    except DataError:
        return None


def the_source(path: Path, format: str | None = None) -> Source:
    """Return the one set of annotations at a file or in a folder.

    Args:
        path: A file, or a folder in the format's own layout.
        format: One of `READABLE`; None finds out.

    Raises:
        OutputError: If the format is unknown.
        DataError: If there is nothing there, or more than one set.
    """
    if format is not None and format not in READABLE:
        raise OutputError(f"expected a format out of {', '.join(READABLE)}; got {format!r}")
    if not path.exists():
        raise DataError(f"expected a file or folder of annotations, got {path}, which does not exist")
    if path.is_file():
        chosen = format or format_of(path)
        if chosen is None or chosen not in (*WHOLE, "labelme"):
            raise DataError(f"{path}: expected a file of {', '.join(WHOLE)} or labelme, got {chosen or 'something else'}; a folder is given for the others")
        return Source(chosen, path, path.name)
    found = [source for source in find_annotations(path) if format in (None, source.format)]
    if len(found) != 1:
        said = ", ".join(f"{source.format} ({source.name or '.'})" for source in found) or "none"
        raise DataError(f"{path}: expected one set of annotations{f' in {format}' if format else ''}, found {said}; name the format or the file")
    return found[0]


def readers(source: Source, images: Path | None = None) -> Iterator[tuple[str, Reader]]:
    """Yield a name and a function for every file of a source; the function reads it and raises `DataError` with that name where it is broken.

    Args:
        source: As found.
        images: Where the pictures lie, for formats that do not say their size (YOLO); else `images` beside the labels, or the folder itself.
    """
    path = source.path
    if source.format in WHOLE:
        expected, read = WHOLE[source.format]
        if source.format == "coco" and path.stat().st_size > LARGE:
            yield source.name, _named(source.name, lambda: _streamed(path))
        else:
            yield source.name, _named(source.name, lambda: read({expected: _content(path)}))
        return
    if path.is_file():
        yield source.name, _named(source.name, lambda: labelme.read({path.name: _content(path)}))
        return
    files = FilesBelow(path, (".json", ".xml", ".txt", ".png", ".yaml"))
    if source.format == "labelme":
        names = [name for name in files if name.endswith(".json") and format_of(path / name) == "labelme"]
        yield from ((name, _named(name, lambda name=name: labelme.read({name: files[name]}))) for name in names)
    elif source.format == "voc":
        names = [name for name in files if name.startswith("Annotations/") and name.endswith(".xml")]
        yield from ((name, _named(name, lambda name=name: voc.read(_Only(files, {name})))) for name in names)
    elif source.format == "png":
        names = [name for name in files if name.endswith("/" + png.NAMES)]
        yield from ((name, _named(name, lambda name=name: png.read(_Only(files, {name})))) for name in names)
    else:
        known = set(files)
        place = images or (path / "images" if (path / "images").is_dir() else path)
        for name in _walk(place, tuple(IMAGE_SUFFIXES)):
            label = f"labels/{name.rpartition('.')[0]}.txt"
            if label in known:
                yield label, _named(label, lambda name=name: yolo.read(files, {name: _picture_size(place / name)}))


class _Only(Mapping[str, bytes]):
    """A mapping whose keys are a few of another one's; the others can still be asked for, as masks beside a file of names are."""

    def __init__(self, files: Mapping[str, bytes], names: set[str]) -> None:
        self._files, self._names = files, names

    def __getitem__(self, path: str) -> bytes:
        return self._files[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _named(path: str, read: Reader) -> Reader:
    name = path if path.isprintable() else ascii(path)

    def reader() -> Iterator[AnnotatedPicture]:
        try:
            yield from read()
        except FretsawError as error:
            # A reader that was given the file under its format's own name speaks of that.
            text = str(error)
            raise DataError(text if text.startswith(f"{name}: ") else f"{name}: {text.partition(': ')[2] if text.startswith(_OWN_NAMES) else text}") from error
        except Exception as error:
            raise DataError(f"{name}: expected annotations, got {came(error)}") from error

    return reader


_OWN_NAMES = tuple(f"{path}: " for path, _ in WHOLE.values())


def _streamed(path: Path) -> Iterator[AnnotatedPicture]:
    with path.open("rb") as file:
        yield from coco.each_of(file)


def _content(path: Path) -> bytes:
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise DataError(f"{path.name}: expected at most {MOST_BYTES} bytes of annotations, got {size}")
    return path.read_bytes()


def _walk(folder: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    count = 0
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in sorted(files):
            if file.startswith(".") or not file.lower().endswith(suffixes):
                continue
            count += 1
            if count > MOST_FILES:
                raise DataError(f"{folder}: expected at most {MOST_FILES} files of annotations, found more")
            yield (Path(root) / file).relative_to(folder).as_posix()


def _picture_size(path: Path) -> tuple[int, int]:
    """Return (H, W) of a picture as it is shown, from its header."""
    try:
        return picture_size(path)
    except ImageError as error:
        raise DataError(f"{path.name}: {error}") from error
