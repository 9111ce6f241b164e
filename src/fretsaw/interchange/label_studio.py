"""Label Studio's tasks, and its own run lengths for brush masks, which are not COCO's.

The stream of bits, most significant first:

    32 bits   number of values: height x width x 4, since a mask is stored as RGBA with its value in all four channels, row by row
     5 bits   bits per value - 1
  4 x 4 bits  four sizes of length fields, each - 1
    then, until all values are there, records: 1 bit (1: one value repeated, 0: as many different values), 2 bits (which size),
    that many bits (length - 1), and the value or values

Source: the format of rle-pack (thi.ng/umbrella), which Label Studio's editor uses; Label Studio's documentation of brush results.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fretsaw.errors import DataError, ShapeError, shown
from fretsaw.interchange import shapes
from fretsaw.interchange.coco import UNNAMED
from fretsaw.interchange.json_files import Shapes, json_pictures
from fretsaw.interchange.names import class_name, picture_name
from fretsaw.interchange.pictures import AnnotatedPicture, Files, NamedBox, NamedMask, checked_size, required
from fretsaw.interchange.untrusted import LeftOut, field
from fretsaw.masks import require_mask
from fretsaw.outputs import IMAGE_SUFFIXES

PATH = "tasks.json"
LENGTH_SIZES = (3, 4, 8, 16)
"""Bits of the four kinds of length fields, as Label Studio itself writes them."""

CHANNELS = 4
ANNOTATIONS = ("annotations", "completions")
"""What holds a task's annotations, in new files and in those of versions before 1.0."""
NOT_DRAWN = ("choices", "labels", "rating", "textarea", "relation", "number", "datetime", "pairwise", "taxonomy", "ranker")
"""Kinds of results that say something about a picture or its regions, rather than draw."""
RECTANGLE = ("x", "y", "width", "height", "rotation")
ELLIPSE = ("x", "y", "radiusX", "radiusY", "rotation")


def encode_brush(mask: np.ndarray) -> list[int]:
    """Return a mask (H, W) bool as Label Studio's brush run lengths: bytes 0 .. 255 as a list, ready for JSON.

    Raises:
        ShapeError: If `mask` is not such an array.
    """
    pixels = require_mask(mask).ravel()
    starts = np.concatenate([[0], np.flatnonzero(pixels[1:] != pixels[:-1]) + 1, [pixels.size]])
    longest = 1 << LENGTH_SIZES[-1]
    fields = [f"{pixels.size * CHANNELS:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in LENGTH_SIZES)]
    value = bool(pixels[0])
    for length in (np.diff(starts) * CHANNELS).tolist():
        color = "11111111" if value else "00000000"
        while length > 0:
            now = min(length, longest)
            kind = next(k for k, size in enumerate(LENGTH_SIZES) if now <= 1 << size)
            fields.append(f"1{kind:02b}{now - 1:0{LENGTH_SIZES[kind]}b}{color}")
            length -= now
        value = not value
    bits = np.frombuffer("".join(fields).encode(), np.uint8) - ord("0")
    return np.packbits(bits).tolist()


def decode_brush(rle: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Return the mask (H, W) bool of Label Studio's brush run lengths, set where the alpha channel is above 127.

    Args:
        rle: Bytes 0 .. 255.
        size: (H, W) of the picture.

    Raises:
        ShapeError: If the stream is cut short or does not fit the size.
    """
    if not isinstance(rle, list | tuple):
        raise ShapeError(f"brush: expected a list of bytes 0 .. 255, got {shown(rle)}")
    try:
        stream = _Bits(bytes(rle))
    except (ValueError, TypeError, OverflowError) as error:
        raise ShapeError(f"brush: expected a list of bytes 0 .. 255, got {shown(rle)}") from error
    count = stream.read(32)
    if count != size[0] * size[1] * CHANNELS:
        raise ShapeError(f"brush: expected {size[0]} x {size[1]} x {CHANNELS} values, got {count}")
    width = stream.read(5) + 1
    sizes = [stream.read(4) + 1 for _ in range(4)]
    # Only the last of a pixel's four values counts, so that the others are never stored.
    mask = np.zeros(size[0] * size[1], bool)
    place = 0
    while place < count:
        repeated = stream.read(1)
        end = place + stream.read(sizes[stream.read(2)]) + 1
        if end > count:
            raise ShapeError(f"brush: expected {count} values, got more")
        if repeated:
            mask[place // CHANNELS : end // CHANNELS] = stream.read(width) > 127
        else:
            values = [stream.read(width) > 127 for _ in range(end - place)]
            mask[place // CHANNELS : end // CHANNELS] = values[CHANNELS - 1 - place % CHANNELS :: CHANNELS]
        place = end
    return mask.reshape(size)


class _Bits:
    """Reads whole numbers of any width from bytes, most significant bit first."""

    def __init__(self, content: bytes) -> None:
        self._content, self._place = content, 0

    def read(self, width: int) -> int:
        end = self._place + width
        if end > 8 * len(self._content):
            raise ShapeError(f"brush: expected more than {len(self._content)} bytes, the stream is cut short")
        first, last = self._place // 8, (end + 7) // 8
        number = int.from_bytes(self._content[first:last], "big") >> (8 * last - end)
        self._place = end
        return number & ((1 << width) - 1)


def result(item: NamedMask, identity: str, from_name: str = "tag", to_name: str = "image") -> dict[str, Any]:
    """Return one object as an entry of Label Studio's `result`.

    Args:
        item: The object.
        identity: Unique within its task.
        from_name: The labelling configuration's BrushLabels tag.
        to_name: Its Image tag.
    """
    mask = item.mask
    height, width = mask.shape
    return {
        "id": identity,
        "type": "brushlabels",
        "from_name": from_name,
        "to_name": to_name,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_brush(mask), "brushlabels": [item.name]},
    }


def write(pictures: Iterable[AnnotatedPicture]) -> Files:
    """Yield the one file that Label Studio imports, a task a picture; `data.image` is the file's name, to be replaced by where Label Studio finds it."""
    tasks = []
    for picture in pictures:
        rows = [result(item, f"{number}") for number, item in enumerate(picture.objects, 1)]
        height, width = picture.size
        tasks.append({"data": {"image": picture.file_name}, "meta": {"height": height, "width": width}, "annotations": [{"result": rows}]})
    yield PATH, json.dumps(tasks).encode()


def read(files: Mapping[str, bytes]) -> list[AnnotatedPicture]:
    """Return the pictures of exported tasks: the regions of each one's first annotation that was not cancelled, or else of its first prediction.

    Brush masks, polygons, rectangles and ellipses are read, rectangles as boxes. A task or a region that cannot be used is left out with a sentence;
    see `AnnotatedPicture.left_out`.

    Raises:
        DataError: If it is no such file, or none of its tasks can be used.
    """
    return list(each(files))


def each(files: Mapping[str, bytes]) -> Iterator[AnnotatedPicture]:
    """`read`, one picture at a time."""
    return json_pictures(PATH, required(files, PATH), "Label Studio's tasks", list, _pictures)


def _pictures(tasks: list[Any], entries: LeftOut, rows: LeftOut) -> Iterator[AnnotatedPicture]:
    if tasks and all(isinstance(task, dict) and not task.keys() & {"data", *ANNOTATIONS, "predictions"} for task in tasks[:20]):
        minimal = any(task.keys() & {"annotation_id", "annotator", "lead_time"} for task in tasks[:20])
        raise DataError(f"expected Label Studio's JSON export, got {'its JSON-MIN, which does not hold all; export as JSON' if minimal else shown(tasks[0])}")
    for number, task in enumerate(tasks, 1):
        picture = None
        with entries.row(f"task {number}", "a task"):
            picture = _picture(task, number, rows)
        if picture is not None:
            yield picture


def _picture(task: Any, number: int, rows: LeftOut) -> AnnotatedPicture:
    name = picture_name(_address(field(task, "data", dict)), f"task {number}")
    drawing, regions = _drawn(task, number, rows)
    meta = task.get("meta")
    about = {"original_height": meta.get("height"), "original_width": meta.get("width")} if isinstance(meta, dict) else {}
    size = None
    for row in [*(row for _, row in regions), about]:
        if size is None and row.get("original_height") is not None:
            size = checked_size(row["original_height"], row.get("original_width"), len(regions))
    if size is None:
        raise DataError("expected the picture's size in 'original_height' and 'original_width' of a result or in 'meta', got none")
    items, labels = Shapes(), _labels_by_region(regions)
    for place, row in regions:
        named = row.get("type")
        kind = named if isinstance(named, str) else ""
        if kind in NOT_DRAWN:
            continue
        with rows.row(place, "a brush mask, a polygon, a rectangle or an ellipse", kind.removesuffix("labels")):
            items.add(_item(row, kind.removesuffix("labels"), labels, size, place, drawing))
    return AnnotatedPicture(name, size, items.masks, boxes=items.boxes)


def _address(data: dict[str, Any]) -> object:
    """Return the picture's name or address: what is called image or img, else the first text that ends as pictures' names do, else the first text."""
    texts = {key: value for key, value in data.items() if isinstance(value, str) and value.strip()}
    for key in ("image", "img"):
        if key in data:
            return texts.get(key, data[key])
    for value in texts.values():
        if value.partition("?")[0].lower().endswith(tuple(IMAGE_SUFFIXES)) or "/data/local-files/" in value:
            return value
    return next(iter(texts.values()), None)


def _drawn(task: dict[str, Any], number: int, rows: LeftOut) -> tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]:
    """Return the annotation or prediction that counts, and its results with their places."""
    annotations = next((task[key] for key in ANNOTATIONS if isinstance(task.get(key), list)), [])
    good = [row for row in annotations if isinstance(row, dict) and not row.get("was_cancelled")]
    if not good:
        predictions = [row for row in task.get("predictions") or () if isinstance(row, dict)] if isinstance(task.get("predictions"), list) else []
        if annotations or not predictions:
            raise DataError(f"expected an annotation, got {'one that was cancelled' if annotations else 'a task that nobody has labelled'}")
        rows.note(f"task {number}: nobody has labelled it; its prediction counts{_whose(predictions[0])}")
        good = predictions
    elif len(good) > 1:
        rows.note(f"task {number}: has {len(good)} annotations; the first counts")
    listed = field(good[0], "result", list)
    found = []
    for place, row in ((f"task {number}, result {k}", row) for k, row in enumerate(listed, 1)):
        if isinstance(row, dict):
            found.append((place, row))
        else:
            rows.lose(f"{place}: expected an object, got {shown(row)}")
    return good[0], found


def _whose(prediction: dict[str, Any]) -> str:
    version = prediction.get("model_version")
    return f", by {shown(version, 40)}" if isinstance(version, str) and version else ""


def _labels_by_region(regions: list[tuple[str, dict[str, Any]]]) -> dict[str, str]:
    """Return the class names that stand in results of their own, by the id of the region they belong to: `Labels` and `Choices` for each region."""
    found: dict[str, str] = {}
    for kind, key in (("choices", "choices"), ("labels", "labels")):
        for _, row in regions:
            value = row.get("value")
            if row.get("type") == kind and isinstance(row.get("id"), str) and isinstance(value, dict) and isinstance(value.get(key), list) and value[key]:
                found[row["id"]] = value[key][0]
    return found


def _item(row: dict[str, Any], kind: str, labels: Mapping[str, str], size: tuple[int, int], place: str, drawing: dict[str, Any]) -> NamedMask | NamedBox:
    value = field(row, "value", dict)
    chosen = value.get(f"{kind}labels")
    label = chosen[0] if isinstance(chosen, list) and chosen else labels.get(row.get("id", ""), UNNAMED)
    name = class_name(label, place)
    score = row.get("score", drawing.get("score"))
    sure = float(score) if isinstance(score, int | float) and 0 <= score <= 1 else None
    if kind == "brush":
        return NamedMask(name, decode_brush(field(value, "rle", list), size), sure)
    if kind == "polygon":
        return NamedMask(name, shapes.polygon(shapes.from_percent(shapes.vertices(value.get("points")), size), size), sure)
    if kind == "rectangle":
        x, y, width, height, turn = (shapes.number(value.get(side, 0 if side == "rotation" else None), side) for side in RECTANGLE)
        corners = shapes.from_percent(np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]]), size)
        return NamedBox(name, shapes.box_around(shapes.rotated(corners, corners[0].tolist(), turn), size), sure, place)
    if kind == "ellipse":
        x, y, radius_x, radius_y, turn = (shapes.number(value.get(side, 0 if side == "rotation" else None), side) for side in ELLIPSE)
        (cx, cy), (rx, ry) = shapes.from_percent(np.array([[x, y], [radius_x, radius_y]]), size).tolist()
        return NamedMask(name, shapes.ellipse(cx, cy, rx, ry, size, turn), sure)
    raise DataError(f"expected a brush mask, a polygon, a rectangle or an ellipse, got {shown(row.get('type'))}, which encloses nothing")
