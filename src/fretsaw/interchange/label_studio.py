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
from fretsaw.interchange.names import class_name, picture_name
from fretsaw.interchange.pictures import AnnotatedPicture, Files, NamedMask, checked_size, required, told
from fretsaw.interchange.untrusted import LeftOut, boundary, field, parse_json
from fretsaw.masks import require_mask

PATH = "tasks.json"
LENGTH_SIZES = (3, 4, 8, 16)
"""Bits of the four kinds of length fields, as Label Studio itself writes them."""

CHANNELS = 4


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
    """Return the pictures of exported tasks: the brush masks of each one's first annotation that was not cancelled.

    A task or a mask that cannot be used is left out with a sentence; see `AnnotatedPicture.left_out`.

    Raises:
        DataError: If it is no such file, or none of its tasks can be used.
    """
    return list(each(files))


def each(files: Mapping[str, bytes]) -> Iterator[AnnotatedPicture]:
    """`read`, one picture at a time."""
    expected = "Label Studio's tasks with brush labels"
    with boundary(PATH, expected):
        entries, rows = LeftOut(), LeftOut()
        tasks = parse_json(required(files, PATH), entries)
        if not isinstance(tasks, list):
            raise DataError(f"expected {expected}, got {shown(tasks)}")
        yield from told(_pictures(tasks, entries, rows), entries, rows, expected)


def _pictures(tasks: list[Any], entries: LeftOut, rows: LeftOut) -> Iterator[AnnotatedPicture]:
    for number, task in enumerate(tasks, 1):
        picture = None
        with entries.row(f"task {number}", "a task"):
            picture = _picture(task, number, rows)
        if picture is not None:
            yield picture


def _picture(task: Any, number: int, rows: LeftOut) -> AnnotatedPicture:
    name = picture_name(field(field(task, "data", dict), "image", object), f"task {number}")
    annotations = [row for row in field(task, "annotations", list) if not (isinstance(row, dict) and row.get("was_cancelled"))]
    if not annotations:
        raise DataError("expected an annotation, got none that was not cancelled")
    found = field(annotations[0], "result", list)
    brushes = []
    for place, row in ((f"task {number}, result {k}", row) for k, row in enumerate(found, 1)):
        kind = row.get("type") if isinstance(row, dict) else None
        if kind == "brushlabels":
            brushes.append((place, row))
        elif kind not in ("choices", "rating", "textarea", "relation"):  # what is said about the picture or its regions, rather than drawn
            rows.lose(f"{place}: expected brush labels, got {shown(kind)}")
    meta = task.get("meta")
    about = {"original_height": meta.get("height"), "original_width": meta.get("width")} if isinstance(meta, dict) else {}
    size = None
    for row in [*(row for _, row in brushes), about]:
        if size is None and row.get("original_height") is not None:
            size = checked_size(row["original_height"], row.get("original_width"), len(brushes))
    if size is None:
        raise DataError("expected the picture's size in 'original_height' and 'original_width' of a result or in 'meta', got none")
    objects = []
    for place, row in brushes:
        with rows.row(place, "a brush mask"):
            value = field(row, "value", dict)
            labels = field(value, "brushlabels", list)
            if not labels:
                raise DataError("expected a label, got a mask without one")
            objects.append(NamedMask(class_name(labels[0], place), decode_brush(field(value, "rle", list), size)))
    return AnnotatedPicture(name, size, tuple(objects))
