"""Image files as they come in from outside: broken, mislabelled, enormous, or merely unusual.

`python tests/hostile.py FOLDER` writes all of them, so that a command can be shown on them: `fretsaw auto FOLDER -o OUT`.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 37, 53


def photo(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A smooth (H, W, 3) uint8 picture with every channel different."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 255 // max(height - 1, 1), x * 255 // max(width - 1, 1), (x + y) * 3 % 256], axis=2).astype(np.uint8)


def encoded(picture: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int = 8, color: int = 2, data: bytes = b"", chunks: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    """A PNG whose header says what it likes; `data` is compressed as the pixels."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts)


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes, place: float) -> bytes:
    """One byte changed, `place` of the way through."""
    altered = bytearray(content)
    altered[int(place * len(altered))] ^= 0xFF
    return bytes(altered)


def jpeg_without_size() -> bytes:
    """A JPEG whose frame header claims no rows and no columns."""
    content = bytearray(encoded(photo(), "JPEG"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = bytes(4)
    return bytes(content)


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("photo.png", encoded(photo(), "PNG"))
    return buffer.getvalue()


def exif_photo(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(photo(), "JPEG", quality=95, exif=exif)


def _cmyk() -> Image.Image:
    return Image.fromarray(photo()).convert("CMYK")


def _with_alpha() -> np.ndarray:
    return np.dstack([photo(), np.mgrid[:HEIGHT, :WIDTH][1] * 255 // (WIDTH - 1)]).astype(np.uint8)


def _float(values: np.ndarray) -> bytes:
    return encoded(Image.fromarray(values.astype(np.float32)), "TIFF")


def _animation(kind: str) -> bytes:
    first, second = Image.fromarray(photo()), Image.fromarray(255 - photo())
    return encoded(first, kind, save_all=True, append_images=[second])


REFUSED: dict[str, Callable[[], bytes]] = {
    "truncated.jpg": lambda: half(encoded(photo(), "JPEG")),
    "truncated_progressive.jpg": lambda: half(encoded(photo(), "JPEG", progressive=True)),
    "truncated_in_its_header.jpg": lambda: encoded(photo(), "JPEG")[:30],
    "truncated.png": lambda: half(encoded(photo(), "PNG")),
    "truncated.webp": lambda: half(encoded(photo(), "WEBP")),
    "truncated.tif": lambda: half(encoded(photo(), "TIFF")),
    "truncated_compressed.tif": lambda: half(encoded(photo(), "TIFF", compression="tiff_lzw")),
    "truncated.gif": lambda: half(encoded(photo(), "GIF")),
    "truncated.bmp": lambda: half(encoded(photo(), "BMP")),
    "truncated_cmyk.jpg": lambda: half(encoded(_cmyk(), "JPEG")),
    "zero_bytes.png": lambda: b"",
    "one_byte.png": lambda: b"P",
    "text.jpg": lambda: b"This is no image.\n",
    "python.jpg": lambda: b"Python is no portable pixmap, though it starts like one.\n",
    "page.jpg": lambda: b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>Not Found</body></html>\n",
    "drawing.svg.png": lambda: b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "archive.png": zipped,
    "postscript.jpg": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
    "noise.png": lambda: np.random.default_rng(0).bytes(4096),
    "one_row.png": lambda: encoded(photo(1, 40), "PNG"),
    "one_column.png": lambda: encoded(photo(40, 1), "PNG"),
    "one_pixel.png": lambda: encoded(photo(1, 1), "PNG"),
    "no_columns.png": lambda: png(0, 8),
    "no_size.jpg": jpeg_without_size,
    "no_size.gif": lambda: b"GIF89a" + bytes(7) + b";",
    "bomb.png": lambda: png(60000, 60000, data=bytes(100_000)),
    "bomb.bmp": lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0),
    "header_alone.png": lambda: png(8, 8)[:33],
    "pixels_missing.png": lambda: png(64, 64, data=bytes(100)),
    "altered_byte.png": lambda: flipped(encoded(photo(), "PNG"), 0.5),
    "no_palette.png": lambda: png(8, 8, color=3, data=bytes(8 * 9)),
    "nan.tif": lambda: _float(np.full((8, 8), np.nan)),
    "float.tif": lambda: _float(np.linspace(0, 1, 64).reshape(8, 8)),
    "negative.tif": lambda: encoded(Image.fromarray(np.full((8, 8), -5, np.int32)), "TIFF"),
    "webp_header.webp": lambda: b"RIFF\x24\x00\x00\x00WEBPVP8 " + bytes(24),
    "heic.jpg": lambda: b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(64),
}
"""Files that must be refused, with one clear line each."""

READABLE: dict[str, tuple[Callable[[], bytes], tuple[int, int]]] = {
    "animated.gif": (lambda: _animation("GIF"), (HEIGHT, WIDTH)),
    "animated.webp": (lambda: _animation("WEBP"), (HEIGHT, WIDTH)),
    "two_pages.tif": (lambda: _animation("TIFF"), (HEIGHT, WIDTH)),
    "corrupt_exif.jpg": (lambda: encoded(photo(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff\x01\x12garbage"), (HEIGHT, WIDTH)),
    "impossible_orientation.jpg": (lambda: exif_photo(99), (HEIGHT, WIDTH)),
    "lying_on_its_side.jpg": (lambda: exif_photo(6), (WIDTH, HEIGHT)),
    "odd_16_bit.png": (lambda: encoded(photo()[..., 0].astype(np.uint16) * 257, "PNG"), (HEIGHT, WIDTH)),
    "grey_16_bit.tif": (lambda: encoded(photo()[..., 0].astype(np.uint16) * 257, "TIFF"), (HEIGHT, WIDTH)),
    "colour_16_bit.png": (lambda: png(4, 4, depth=16, data=bytes(4 * (1 + 4 * 6))), (4, 4)),
    "grey_and_alpha.png": (lambda: encoded(Image.fromarray(photo()).convert("LA"), "PNG"), (HEIGHT, WIDTH)),
    "transparent.png": (lambda: encoded(_with_alpha(), "PNG"), (HEIGHT, WIDTH)),
    "transparent.webp": (lambda: encoded(_with_alpha(), "WEBP"), (HEIGHT, WIDTH)),
    "palette.png": (lambda: encoded(Image.fromarray(photo()).convert("P"), "PNG"), (HEIGHT, WIDTH)),
    "transparent_palette.png": (lambda: encoded(Image.fromarray(photo()).convert("P"), "PNG", transparency=3), (HEIGHT, WIDTH)),
    "transparent_colour.png": (lambda: encoded(photo(), "PNG", transparency=(0, 0, 0)), (HEIGHT, WIDTH)),
    "two_colour_palette.png": (lambda: png(8, 8, color=3, data=bytes(8 * 9), chunks=((b"PLTE", b"\x0a\x14\x1e\xff\xff\xff"),)), (8, 8)),
    "bilevel.png": (lambda: encoded(Image.fromarray(photo()).convert("1"), "PNG"), (HEIGHT, WIDTH)),
    "bilevel.tif": (lambda: encoded(Image.fromarray(photo()).convert("1"), "TIFF", compression="group4"), (HEIGHT, WIDTH)),
    "cmyk.jpg": (lambda: encoded(_cmyk(), "JPEG"), (HEIGHT, WIDTH)),
    "cmyk.tif": (lambda: encoded(_cmyk(), "TIFF"), (HEIGHT, WIDTH)),
    "really_a.png.jpg": (lambda: encoded(photo(), "PNG"), (HEIGHT, WIDTH)),
    "SHOUTING.PNG": (lambda: encoded(photo(), "PNG"), (HEIGHT, WIDTH)),
    "gar\u00e7on \u732b #1.png": (lambda: encoded(photo(), "PNG"), (HEIGHT, WIDTH)),
    "followed_by_garbage.jpg": (lambda: encoded(photo(), "JPEG") + b"\x00garbage" * 50, (HEIGHT, WIDTH)),
    "smallest.png": (lambda: encoded(photo(2, 2), "PNG"), (2, 2)),
    "very_wide.png": (lambda: encoded(photo(2, 5000), "PNG"), (2, 5000)),
    "plain.pgm": (lambda: b"P2\n2 2\n255\n0 10\n20 255\n", (2, 2)),
}
"""Unusual files that must be read, with the (height, width) that comes out."""


def make_hostile(folder: Path) -> tuple[list[Path], dict[Path, tuple[int, int]]]:
    """Write all files into a folder.

    Returns:
        The paths that must be refused, among them a folder, dead links and, unless the user may read everything, an unreadable file; and the readable
        ones with their sizes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    refused = [folder / name for name in REFUSED]
    for path in refused:
        path.write_bytes(REFUSED[path.name]())
    readable = {folder / name: size for name, (_, size) in READABLE.items()}
    for path in readable:
        path.write_bytes(READABLE[path.name][0]())
    (folder / "folder.png").mkdir(exist_ok=True)
    refused += [folder / "folder.png", folder / "missing.png"]
    for name, target in (("dead_link.png", "nowhere.png"), ("endless_link.png", "endless_link.png")):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(target)
        refused.append(folder / name)
    if os.geteuid() != 0:
        forbidden = folder / "forbidden.png"
        forbidden.write_bytes(encoded(photo(), "PNG"))
        forbidden.chmod(0)
        refused.append(forbidden)
    return refused, readable


if __name__ == "__main__":
    bad, good = make_hostile(Path(sys.argv[1]))
    print(f"{len(bad)} files to refuse and {len(good)} to read in {sys.argv[1]}")
