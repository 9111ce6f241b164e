"""Annotations that lie in a folder: which formats are there, and reading them file by file, so that one broken file does not cost the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fretsaw.errors import DataError, FretsawError, ImageError, OutputError
from fretsaw.images import picture_size
from fretsaw.interchange import (
    coco,
    coco_results,
    cvat,
    datumaro,
    geojson,
    image_folders,
    isat,
    label_studio,
    labelme,
    parquet,
    png,
    sa1b,
    supervisely,
    via,
    voc,
    yolo,
)
from fretsaw.interchange.detection import SUFFIXES, format_of_content, sets_of
from fretsaw.interchange.json_files import PictureSizes
from fretsaw.interchange.names import NameIndex
from fretsaw.interchange.pictures import AnnotatedPicture
from fretsaw.interchange.untrusted import came
from fretsaw.outputs import IMAGE_SUFFIXES

MOST_FILES = 500_000
MOST_BYTES = 2**30
LARGE = 2**23
"""Bytes from which on a COCO file is read element by element; what is read at once takes some 20 times its size."""
PEEK = 65536
"""Bytes at either end of a file by which its format is told."""

WHOLE: Mapping[str, tuple[str, Callable[[Mapping[str, bytes], PictureSizes], Iterable[AnnotatedPicture]]]] = {
    "coco": (coco.PATH, lambda files, sizes: coco.each(files)),
    "coco-results": (coco_results.PATH, lambda files, sizes: coco_results.each(files)),
    "label-studio": (label_studio.PATH, lambda files, sizes: label_studio.each(files)),
    "cvat": (cvat.PATH, lambda files, sizes: cvat.each(files)),
    "datumaro": (datumaro.PATH, lambda files, sizes: datumaro.each(files)),
    "via": (via.PATH, lambda files, sizes: via.each(files[via.PATH], sizes)),
}
"""Formats of one file for all pictures: the path under which their reader expects it, and the reader."""

SINGLE: Mapping[str, Callable[[str, Mapping[str, bytes], PictureSizes], Iterable[AnnotatedPicture]]] = {
    "labelme": lambda name, files, sizes: labelme.read({name: files[name]}, sizes),
    "sa1b": lambda name, files, sizes: sa1b.read({name: files[name]}),
    "isat": lambda name, files, sizes: isat.read({name: files[name]}),
    "supervisely": lambda name, files, sizes: supervisely.read(_Only(files, {name})),
    "geojson": lambda name, files, sizes: geojson.each(name, files[name], sizes),
    "voc": lambda name, files, sizes: voc.read_file(name, files[name], sizes),
}
"""Formats of one file a picture that can be read by itself."""

FILES = (*WHOLE, *SINGLE, "image-folder", "parquet")
"""Formats that a single file may be in; of image-folder, metadata.jsonl."""
READABLE = (*FILES, "yolo", "png")
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
    names = list(_walk(folder, SUFFIXES))
    found = sets_of(names, list(_folders(folder)), lambda name: _peek(folder / name), lambda place: [_stem(name) for name in pictures_below(folder / place)])
    return [Source(format, folder / place if place else folder, place) for format, place in found]


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def pictures_below(folder: Path) -> list[str]:
    """Return the pictures in a folder and its subfolders: paths with forward slashes."""
    return list(_walk(folder, tuple(IMAGE_SUFFIXES)))


def format_of(path: Path) -> str | None:
    """Return the format of a single file by what stands at its beginning and end, or None.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        return format_of_content(path.name, _ends(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _ends(path: Path) -> bytes:
    with path.open("rb") as file:
        text = file.read(PEEK)
        file.seek(max(len(text), path.stat().st_size - PEEK))
        return text + file.read(PEEK)


def _peek(path: Path) -> bytes:
    """Return a file's beginning and end, nothing where it cannot be read: one file among others must not cost them."""
    try:
        return _ends(path)
    except OSError:
        return b""


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
        if chosen == "yolo" and path.suffix.lower() in (".yaml", ".yml", ".names", ".txt"):
            return Source(chosen, path.parent, ".")
        if chosen not in FILES:
            raise DataError(
                f"{path}: expected a file of {', '.join(FILES)}, or YOLO's YAML file (yolo), got {chosen or 'something else'}; "
                "the format png is given by its folder"
            )
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
    folder = path.parent if path.is_file() else path
    sizes = _Pictures(images or folder)
    if source.format in WHOLE:
        expected, read = WHOLE[source.format]
        if source.format == "coco" and path.stat().st_size > LARGE:
            yield source.name, _named(source.name, lambda: _streamed(path))
        else:
            yield source.name, _named(source.name, lambda: read({expected: _content(path)}, sizes))
        return
    if source.format == "parquet":
        yield source.name, _named(source.name, lambda: parquet.each(path))
        return
    files = FilesBelow(folder, (".json", ".geojson", ".xml", ".txt", ".png", ".yaml", ".yml", ".names") if path.is_dir() else (path.name,))
    if source.format == "png":
        names = [name for name in files if name.endswith("/" + png.NAMES)]
        yield from ((name, _named(name, lambda name=name: png.read(_Only(files, {name})))) for name in names)
    elif source.format == "image-folder" and path.is_file():
        yield path.name, _named(path.name, lambda: image_folders.each_of_metadata(path.name, _content(path), sizes))
    elif source.format == "image-folder":
        yield from _image_folder(folder, files)
    elif source.format == "yolo":
        yield from _yolo(folder, files, images)
    elif source.format == "voc" and path.is_dir() and (stems := voc.stems(files)):
        yield from ((stem, _named(stem, lambda stem=stem: voc.each(stem, files, sizes))) for stem in stems)
    else:
        single = SINGLE[source.format]
        names = [path.name] if path.is_file() else [name for name in files if format_of_content(name, _peek(path / name)) == source.format]
        yield from ((name, _named(name, lambda name=name: single(name, files, sizes))) for name in names)


def _yolo(folder: Path, files: FilesBelow, images: Path | None) -> Iterator[tuple[str, Reader]]:
    place = images or (folder / "images" if (folder / "images").is_dir() else folder)
    told_of, named = yolo.About(), yolo.names_file(files, files.__getitem__)
    if named is not None:
        try:
            told_of = yolo.about(named, files[named])
        except DataError as error:
            yield named, _named(named, lambda error=error: _raise(error))
            return
    labels = [name for name in files if yolo.is_label_file(name) and ("labels" in name.split("/") or yolo.looks_like_labels(files[name][:4096]))]
    for label, picture in yolo.pairs(labels, pictures_below(place)):

        def read(label: str = label, picture: str | None = picture) -> Iterator[AnnotatedPicture]:
            return yolo.each(label, files[label], picture, None if picture is None else _picture_size(place / picture), told_of)

        yield label, _named(label, read)


def _image_folder(folder: Path, files: FilesBelow) -> Iterator[tuple[str, Reader]]:
    classes = image_folders.readable(files)
    # Only folders side by side in this one: others are sets of their own.
    for pictures, labels in image_folders.pairs_of(path.name for path in folder.iterdir() if path.is_dir()):
        names = {_stem(name): f"{pictures}/{name}" for name in pictures_below(folder / pictures)}
        for name in _walk(folder / labels, (".png",)):
            place, picture = f"{labels}/{name}", names.get(_stem(name))
            yield place, _named(place, lambda place=place, picture=picture: image_folders.each(place, files[place], picture, classes))


def _raise(error: DataError) -> Iterator[AnnotatedPicture]:
    raise error
    yield


class _Pictures:
    """Finds a picture's name and size by what a file calls it; looks what pictures there are when it is first asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._index: NameIndex | None = None

    def __call__(self, name: str) -> tuple[str, tuple[int, int]] | None:
        if self._index is None:
            self._index = NameIndex(pictures_below(self._folder))
        found = self._index.find(name)
        return None if found is None else (found, _picture_size(self._folder / found))


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


def _folders(folder: Path) -> Iterator[str]:
    for root, folders, _ in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from ((Path(root) / name).relative_to(folder).as_posix() for name in folders)


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
