"""`fretsaw frames`: raw video frames in, cut frames out, as ffmpeg writes and reads them."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from fretsaw.cli.loading import load_for
from fretsaw.cli.options import Device, Dtype, Json, Overwrite, Size
from fretsaw.cli.pipes import PIPE
from fretsaw.errors import ImageError, OutputError
from fretsaw.images import PIXEL_LIMIT
from fretsaw.outputs import LOSSLESS, PICTURES, TRANSPARENT, require_writable

if TYPE_CHECKING:
    from fretsaw.segmentation import Segmentation

FORMATS = {"cutout": TRANSPARENT, "mask": LOSSLESS, "overlay": PICTURES}
"""What a file of each format may end in."""

CHANNELS = {"cutout": "rgba", "mask": "gray", "overlay": "rgb24"}
"""What ffmpeg calls the pixels of each format, where they go on raw."""

NUMBER = re.compile(r"%(0\d{1,2})?[du]")


def frames(
    width: Annotated[int, typer.Argument(metavar="WIDTH", min=2, help="Of each frame, in pixels.", show_default=False)],
    height: Annotated[int, typer.Argument(metavar="HEIGHT", min=2, help="Of each frame, in pixels.", show_default=False)],
    out: Annotated[
        str, typer.Option("--out", "-o", help="Files by their number from 0, such as cut/%04d.png; - is standard output, one PNG after the other.")
    ] = PIPE,
    format: Annotated[str, typer.Option("--format", help="cutout (RGBA), mask (8 bit, 0 / 255) or overlay.")] = "cutout",
    raw: Annotated[bool, typer.Option("--raw", help="With -o -: raw pixels instead of PNGs: rgba for cutout, gray for mask, rgb24 for overlay.")] = False,
    model: Annotated[
        str | None, typer.Option("--model", help="A name from [b]fretsaw models list[/b]; default: the default model.", show_default=False)
    ] = None,
    overwrite: Overwrite = False,
    device: Device = None,
    dtype: Dtype = None,
    size: Size = None,
    as_json: Json = False,
) -> None:
    """Cut the frames of a video without any prompt: raw pixels (rgb24) on standard input, one frame after the other.

    Each frame is cut by itself. A last frame that is cut short is left out, and the command says so.

    [b]Examples[/b]

      ffmpeg -i in.mp4 -f rawvideo -pix_fmt rgb24 - | fretsaw frames 1280 720 -o cut/%04d.png

      ffmpeg -i in.mp4 -f rawvideo -pix_fmt rgb24 - | fretsaw frames 1280 720 --raw -o - | ffmpeg -f rawvideo -pix_fmt rgba -s 1280x720 -i - out.webm
    """
    _check(width, height, out, format, raw, as_json)
    segmenter = load_for("auto", model, size=size, device=device, dtype=dtype)
    if out == PIPE:
        output = sys.stdout.buffer

        def put(number: int, result: Segmentation) -> None:
            output.write(_encoded(result, format, raw))
            output.flush()
    else:

        def put(number: int, result: Segmentation) -> None:
            place = Path(out % number)
            if place.exists() and not overwrite:
                raise OutputError(f"{place}: expected a file that is not there yet, got one that is; --overwrite writes it again")
            result.save(place, format=format)

    done, rest, began = 0, 0, time.perf_counter()
    for done, content in enumerate(_contents(sys.stdin.buffer, width * height * 3), 1):
        if (rest := len(content)) < width * height * 3:
            done -= 1
            break
        put(done - 1, segmenter.auto(np.frombuffer(content, np.uint8).reshape(height, width, 3)))
        rest = 0
    _tell(done, rest, width * height * 3, out, time.perf_counter() - began, as_json)


def _check(width: int, height: int, out: str, format: str, raw: bool, as_json: bool) -> None:
    if format not in FORMATS:
        raise OutputError(f"expected a format out of {', '.join(FORMATS)}; got {format!r}")
    if width * height > PIXEL_LIMIT:
        raise ImageError(f"expected frames of at most {PIXEL_LIMIT} pixels, got {width} x {height}")
    if out == PIPE:
        if as_json:
            raise OutputError("expected one of --json and -o -, got both, which would share standard output")
        if sys.stdout.isatty():
            raise OutputError("expected a pipe or a file behind -o -, got a terminal")
        return
    if raw:
        raise OutputError(f"expected -o - with --raw, got {out}")
    if len(NUMBER.findall(out)) != 1 or out.replace("%%", "").count("%") != 1:
        raise OutputError(f"expected -o with one place for a number, such as cut/%04d.png, or -; got {out!r}")
    if Path(out).suffix.lower() not in FORMATS[format]:
        raise OutputError(f"expected -o to end in {', '.join(FORMATS[format])} for {format}, got {out!r}")
    require_writable([Path(out % 0)])


def _contents(stream: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield what comes in, cut to frames; the last may be short."""
    while content := _exactly(stream.read, size):
        yield content


def _exactly(read: Callable[[int], bytes], size: int) -> bytes:
    """Return so many bytes, or fewer at the end: a pipe gives what it has."""
    content = bytearray()
    while len(content) < size and (piece := read(size - len(content))):
        content += piece
    return bytes(content)


def _encoded(result: Segmentation, format: str, raw: bool) -> bytes:
    from fretsaw.images import encode_image

    picture: Any = {"cutout": result.cutout, "overlay": result.overlay, "mask": lambda: result.mask}[format]()
    if not raw:
        return encode_image(picture, ".png")
    return (np.asarray(picture) * np.uint8(255) if format == "mask" else np.asarray(picture)).tobytes()


def _tell(done: int, rest: int, size: int, out: str, seconds: float, as_json: bool) -> None:
    if rest:
        print(f"fretsaw: the last frame is left out: expected {size} bytes, got {rest}; are width and height right?", file=sys.stderr)
    if as_json:
        print(json.dumps({"output": out, "frames": done, "seconds": round(seconds, 3), "left_out_bytes": rest}))
    else:
        print(f"{done} frames, {seconds:.1f} s", file=sys.stderr if out == PIPE else sys.stdout)
    if rest or not done:
        if not done and not rest:
            print("fretsaw: expected frames on standard input, got nothing", file=sys.stderr)
        raise typer.Exit(1)
