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
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fretsaw.errors import DataError, ShapeError
from fretsaw.interchange.pictures import AnnotatedPicture, Files, NamedMask, checked_size, required
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
    try:
        stream = _Bits(bytes(rle))
    except (ValueError, TypeError) as error:
        raise ShapeError(f"brush: expected a list of bytes 0 .. 255, got: {error}") from error
    count = stream.read(32)
    if count != size[0] * size[1] * CHANNELS:
        raise ShapeError(f"brush: expected {size[0]} x {size[1]} x {CHANNELS} values, got {count}")
    width = stream.read(5) + 1
    sizes = [stream.read(4) + 1 for _ in range(4)]
    values = np.zeros(count, np.uint8)
    place = 0
    while place < count:
        repeated = stream.read(1)
        end = place + stream.read(sizes[stream.read(2)]) + 1
        if end > count:
            raise ShapeError(f"brush: expected {count} values, got more")
        if repeated:
            values[place:end] = min(stream.read(width), 255)
        else:
            values[place:end] = [min(stream.read(width), 255) for _ in range(end - place)]
        place = end
    return values.reshape(*size, CHANNELS)[..., 3] > 127


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
    height, width = item.mask.shape
    return {
        "id": identity,
        "type": "brushlabels",
        "from_name": from_name,
        "to_name": to_name,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_brush(item.mask), "brushlabels": [item.name]},
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
    """Return the pictures of exported tasks: the brush masks of each one's first annotation.

    Raises:
        DataError: If it is no such file, or a task without objects does not say its size.
    """
    try:
        tasks = json.loads(required(files, PATH))
        found = []
        for task in tasks:
            rows = [row for row in task["annotations"][0]["result"] if row["type"] == "brushlabels"]
            about = {"original_height": task.get("meta", {}).get("height"), "original_width": task.get("meta", {}).get("width")} | (rows[0] if rows else {})
            size = checked_size(about["original_height"], about["original_width"], CHANNELS * len(rows))
            objects = tuple(NamedMask(row["value"]["brushlabels"][0], decode_brush(row["value"]["rle"], size)) for row in rows)
            found.append(AnnotatedPicture(task["data"]["image"], size, objects))
        return found
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(f"{PATH}: expected Label Studio's tasks with brush labels, got: {error!r:.120}") from error
