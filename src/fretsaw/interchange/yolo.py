"""YOLO's labels: a text file a picture, a line an object, and a YAML file with the names.

A line holds the class number and, divided by the picture's width and height, either one ring of x y pairs or a box (centre x, centre y, width, height); a
detector adds its confidence at the end. The format knows neither holes nor parts; both are joined into the one ring by cuts of no width, which even-odd
filling undoes; tools that paint outlines too get rings of another kind (`painted`).

The names stand in a YAML file of any name (`names:` as a list or by number), in `classes.txt` (labelImg), or in `obj.names` (darknet and CVAT). Labels lie
where the last folder `images` of a picture's path is called `labels` instead, or beside the pictures.

Source: Ultralytics' documentation, "Instance Segmentation Datasets Overview"; darknet's and labelImg's files.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import yaml

from fretsaw import masks
from fretsaw.errors import DataError, FretsawError, shown
from fretsaw.interchange import shapes
from fretsaw.interchange.classes import NO_CLASSES, ClassList, Gathered, ObjectClass
from fretsaw.interchange.names import NameIndex, class_name, key
from fretsaw.interchange.pictures import AnnotatedPicture, Files, NamedBox, NamedMask, checked_size, told
from fretsaw.interchange.rings import joined_ring, painted_rings
from fretsaw.interchange.untrusted import LeftOut, boundary, whole_number

NAMES = "data.yaml"
LISTS = ("classes.txt", "obj.names")
"""Files of one name a line, in the order of the class numbers."""
NO_LABELS = (*LISTS, "train.txt", "val.txt", "valid.txt", "test.txt", "class_names.txt", "labelmap.txt", "requirements.txt", "readme.txt", "labels.txt")
"""Text files that stand among labels and are none."""
MOST_YAML_BYTES = 2**22
WAITING = 2**23
QUARTER, NEAR = 0.25, 0.01
"""Where in their pixels the vertices of a ring lie that was made to be painted, and how nearly."""
FARTHEST_SHARE = 1.5
"""A share of a side beyond this is a pixel."""


def whole(mask: np.ndarray) -> list[np.ndarray]:
    """Return the exact outline along the edges of pixels as one ring, for tools that fill by the even-odd rule; none for an empty mask."""
    ring = joined_ring(mask)
    return [ring.astype(float)] if len(ring) else []


def painted(mask: np.ndarray) -> list[np.ndarray]:
    """Return a ring through the pixels of the border for each part, for tools that paint with cv2.fillPoly: painted, the rings are the mask.

    Each vertex lies a quarter of a pixel behind its pixel's upper left corner. Tools make whole numbers of vertices, Ultralytics by cutting fractions off,
    Supervision by rounding: both then come to the pixel itself.
    """
    return [ring + QUARTER for ring in painted_rings(mask)]


def write_painted(pictures: Iterable[AnnotatedPicture]) -> Files:
    """`write` with `painted` rings: parts of an object become lines of their own."""
    return write(pictures, painted)


def write(pictures: Iterable[AnnotatedPicture], rings: Callable[[np.ndarray], list[np.ndarray]] = whole) -> Files:
    """Yield labels/<stem>.txt for each picture, also where it has no object, and data.yaml. Empty masks are left out.

    Class numbers count from 0 without gaps, as training needs it, in the order of the ids that the pictures' class lists tell. So lines wait until all pictures
    are there, in a temporary file.

    Args:
        pictures: As they come.
        rings: `whole` or `painted`.
    """
    gathered = Gathered()
    with tempfile.SpooledTemporaryFile(WAITING) as waiting:
        for picture in pictures:
            lines = []
            gathered.add(picture.classes, (item.name for item in picture.objects))
            for item in picture.objects:
                for ring in rings(item.mask):
                    shares = (ring / np.array(picture.size[::-1])).ravel()
                    if len(ring) < 3:  # a line of pixels: tools ask for three vertices
                        shares = np.resize(shares, 6)
                    lines.append([gathered.place(item.name), " ".join(f"{value:.8g}" for value in shares)])
            waiting.write(json.dumps([picture.stem, lines]).encode() + b"\n")
        classes = gathered.all().dense()
        numbers, places = classes.ids(), gathered.places
        waiting.seek(0)
        for row in waiting:
            stem, lines = json.loads(row)
            yield f"labels/{stem}.txt", "".join(f"{numbers[places[place]]} {text}\n" for place, text in lines).encode()
    # A JSON string is a YAML string. Without `path`, tools look beside the file itself.
    names = "".join(f"  {entry.id}: {json.dumps(entry.name, ensure_ascii=False)}\n" for entry in classes)
    yield NAMES, f"train: images\nval: images\nnames:{' {}' if not names else ''}\n{names}".encode()


@dataclass(frozen=True, slots=True)
class About:
    """What a data set's own file tells.

    Attributes:
        classes: With their numbers as ids.
        keypoints: Whether lines hold a box and keypoints behind it.
    """

    classes: ClassList = NO_CLASSES
    keypoints: bool = False


def names_file(paths: Collection[str], content: Callable[[str], bytes]) -> str | None:
    """Return which of some files holds the names of a YOLO data set: a YAML file with `names`, `classes.txt` or `obj.names`; the nearest to the root first.

    Args:
        paths: Of all files, with forward slashes.
        content: Reads one.
    """
    for path in sorted(paths, key=lambda path: (path.count("/"), not path.endswith(NAMES), path)):
        if path.endswith((".yaml", ".yml")) and is_yaml(content(path)):
            return path
    lists = [path for path in paths if path.rpartition("/")[2] in LISTS]
    return min(lists, key=lambda path: (path.count("/"), path)) if lists else None


def is_yaml(content: bytes) -> bool:
    """Return whether a YAML file names the classes of a data set."""
    return any(line.lstrip(b"\xef\xbb\xbf").startswith((b"names:", b"names :", b'"names"', b"'names'", b"{")) for line in content.splitlines())


def about(path: str, content: bytes) -> About:
    """Return what a data set's file tells: YAML, or a list of names.

    Raises:
        DataError: If it is no such file.
    """
    with boundary(path, "class names by number"):
        if path.rpartition("/")[2] in LISTS:
            return About(_named(enumerate(content.decode("utf-8-sig").splitlines())))
        if len(content) > MOST_YAML_BYTES:
            raise DataError(f"expected at most {MOST_YAML_BYTES} bytes of YAML, got {len(content)}")
        try:
            # All values stay text: a class may be called no, on or 1e3, which YAML would take for something else.
            found = yaml.load(content.decode("utf-8-sig"), yaml.BaseLoader)
        except yaml.YAMLError as error:
            line = getattr(getattr(error, "problem_mark", None), "line", None)
            raise DataError(f"expected YAML, got something that is none{'' if line is None else f' in line {line + 1}'}") from error
        names = found.get("names") if isinstance(found, dict) else None
        if isinstance(names, list):
            return About(_named(enumerate(names)), "kpt_shape" in found)
        if isinstance(names, dict):
            return About(_named(names.items()), "kpt_shape" in found)
        if names == "":
            return About()
        raise DataError(f"expected a list or a mapping as 'names', got {shown(names)}")


def _named(rows: Iterable[tuple[object, object]]) -> ClassList:
    """Return the classes of some numbers and names. A name that cannot be used is as good as none to its labels; one that stands twice counts once."""
    found: dict[str, ObjectClass] = {}
    for number, name in rows:
        try:
            entry = ObjectClass(class_name(name), whole_number(number, "a class number"))
        except DataError:
            continue
        while entry.name in found:  # two numbers of one name stay two classes
            entry = ObjectClass(f"{entry.name} ({entry.id})", entry.id)
        found[entry.name] = entry
    ids = {entry.id: entry for entry in found.values()}
    return ClassList(tuple(ids.values()))


def is_label_file(path: str) -> bool:
    """Return whether a text file's place and name are those of labels: whatever lies in a folder `labels`, and elsewhere what is not called as lists are."""
    folder, _, last = path.rpartition("/")
    inside = "labels" in folder.split("/") and last not in LISTS
    return path.endswith(".txt") and (inside or (last.lower() not in NO_LABELS and not path.startswith("ImageSets/")))


def pairs(labels: Iterable[str], pictures: Iterable[str]) -> list[tuple[str, str | None]]:
    """Return for each label file the picture that it is about, None where there is none.

    Args:
        labels: Paths with forward slashes below the data set's folder.
        pictures: Likewise; or below a folder of pictures alone.
    """
    by_place: dict[str, str] = {}
    listed = list(pictures)
    for picture in listed:
        parts = picture.split("/")
        where = max((place for place, part in enumerate(parts[:-1]) if part == "images"), default=None)
        stem = picture.rpartition(".")[0]
        moved = [*parts[:where], "labels", *parts[where + 1 :]] if where is not None else ["labels", *parts]
        # Where pictures of one stem have labels of their own, these are called by the full name; the picture's full name counts before its stem.
        for place in (f"{'/'.join(moved)}.txt", f"{picture}.txt"):
            by_place[key(place)] = picture
        for place in (f"{'/'.join(moved).rpartition('.')[0]}.txt", f"{stem}.txt"):
            by_place.setdefault(key(place), picture)
    index, found = NameIndex(listed), []
    for label in labels:
        picture = by_place.get(key(label))
        if picture is None:
            inside = [part for part in label.removesuffix(".txt").split("/") if part != "labels"]
            picture = index.find("/".join(inside))
        found.append((label, picture))
    return found


def read(files: Mapping[str, bytes], sizes: Mapping[str, tuple[int, int]]) -> list[AnnotatedPicture]:
    """Return the pictures whose labels are among the files.

    Args:
        files: Labels, and a file with the names.
        sizes: (H, W) by file name: the labels themselves do not say.

    A line that cannot be used is left out with a sentence; see `AnnotatedPicture.left_out`.

    Raises:
        DataError: If the names cannot be read, a label file has no picture, or there are lines about a picture and none of them can be used.
    """
    named = names_file(files.keys(), files.__getitem__)
    if named is None:
        raise DataError(f"expected the file {NAMES}, found {', '.join(shown(name)[1:-1] for name in sorted(files)[:5]) or 'none'}")
    told_of = about(named, files[named])
    found = pairs(sorted(filter(is_label_file, files)), sizes)
    return [picture for label, name in found for picture in each(label, files[label], name, sizes.get(name or ""), told_of)]


def each(label: str, content: bytes, file_name: str | None, size: tuple[int, int] | None, told_of: About) -> Iterator[AnnotatedPicture]:
    """Yield the picture of one label file.

    Args:
        label: Path of the file.
        content: Of the file.
        file_name: The picture's name, as `pairs` found it.
        size: (H, W) of the picture.
        told_of: What the data set's own file tells.

    Raises:
        DataError: If there is no picture, or there are lines and none can be used.
    """
    expected = "lines of a class number and x y pairs"
    with boundary(label, expected):
        if file_name is None or size is None:
            raise DataError(f"expected a picture called {label.rpartition('/')[2].removesuffix('.txt')} beside the labels or below --images, found none")
        rows = LeftOut()
        yield from told([_picture(file_name, size, told_of, content, rows)], LeftOut(), rows, expected)


def _picture(file_name: str, size: tuple[int, int], told_of: About, content: bytes, rows: LeftOut) -> AnnotatedPicture:
    lines = [(f"line {number}", line) for number, line in enumerate(content.decode("utf-8-sig").splitlines(), 1) if line.strip()]
    checked_size(*size, len(lines))
    objects, boxes, names = [], [], told_of.classes.by_id
    for place, line in lines:
        with rows.row(place, "a class number and x y pairs"):
            item = _object(line, told_of, names, size, place)
            (boxes if isinstance(item, NamedBox) else objects).append(item)
    if lines and not names:
        rows.note("no file tells the names of the classes: they are called by their numbers")
    return AnnotatedPicture(file_name, size, tuple(objects), boxes=tuple(boxes), classes=told_of.classes)


def _object(line: str, told_of: About, names: Mapping[int, str], size: tuple[int, int], place: str) -> NamedMask | NamedBox:
    number, *texts = line.split()
    index = whole_number(number, "the class number")
    if names and index not in names:
        raise DataError(f"expected the number of one of the {len(names)} classes, got {index}")
    name = names.get(index, str(index))
    values = [shapes.number(text, "a share of the picture's sides") for text in texts]
    confidence = None
    if told_of.keypoints and len(values) > 5:
        values = values[:4]
    elif len(values) == 6 and values[5] >= 2 and values[5] == int(values[5]):  # a tracked box: confidence and track id
        confidence, values = values[4], values[:4]
    elif len(values) > 4 and len(values) % 2:
        confidence, values = values[-1], values[:-1]
    if confidence is not None and not 0 <= confidence <= 1:
        raise DataError(f"expected a confidence of 0 to 1 at the end of {len(values) + 1} numbers, got {confidence:g}")
    if len(values) < 4 or len(values) % 2:
        raise DataError(f"expected x y pairs of at least three vertices, or the four numbers of a box, got {len(values)} numbers")
    if max(map(abs, values)) > FARTHEST_SHARE:
        raise DataError(f"expected shares of the picture's width and height, 0 to 1, got {max(values, key=abs):g}")
    points = shapes.from_share(np.array(values).reshape(-1, 2), size)
    if len(values) == 4:
        (x, y), (width, height) = points
        return NamedBox(name, shapes.box(x - width / 2, y - height / 2, x + width / 2, y + height / 2, size), confidence, place)
    if (np.abs(points % 1 - QUARTER) < NEAR).all():  # made to be painted
        canvas = np.zeros(size, np.uint8)
        cv2.fillPoly(canvas, [np.floor(points).astype(np.int32)], 1)
        return NamedMask(name, canvas.view(np.bool_), confidence)
    return NamedMask(name, masks.from_polygons([points], size), confidence)


def looks_like_labels(content: bytes) -> bool:
    """Return whether a text file begins with a line of YOLO's: a class number and at least four shares."""
    for line in content.splitlines()[:50]:
        if not line.strip():
            continue
        try:
            values = [shapes.number(text, "number") for text in line.decode("ascii").split()]
        except (FretsawError, UnicodeError):
            return False
        return len(values) >= 5 and values[0] == int(values[0]) >= 0 and all(abs(value) <= FARTHEST_SHARE for value in values[1:5])
    return True
