"""Read and write images and masks as arrays.

Reading never guesses: whatever cannot be read as an image raises `ImageError` with one line that names the file, what was expected and what came.

Rules, the same for files, PIL images and arrays:

- A photo is shown as its EXIF orientation says; corrupt EXIF data are ignored. Of several frames or pages the first counts.
- Transparency is composited on white, so that the model sees what a person sees in a viewer.
- 16 bit becomes 8 bit by the high byte (value // 256). Where no value of the picture reaches 2 ** 14, it is one of 8, 10, 12 or 14 bits in a file of 16,
  whichever is the fewest that hold its greatest value, and becomes 8 bit by the highest of those. Bool and 1 bit become 0 and 255.
- Floats have no fixed range and are refused, unless the caller states one (`value_range`).
- Colours become sRGB by the colour profile that a file holds, and so do results: they carry no profile and need none. Profiles that are broken, or move no
  colour by more than 2 of 255, are ignored. Without a profile CMYK and palettes become RGB as Pillow does it.
- A JPEG that lacks its last bytes is read, with a warning in the log (`fretsaw.images`), if none of its pixels depends on them; else it is refused.
- Images have at least 2 x 2 pixels and at most `PIXEL_LIMIT`, checked before any pixel is decoded.
- Reading takes at most about 8 bytes a pixel beside the file: 4 in which Pillow keeps what it decodes, and the result; pixels are turned into it in strips.
  WebP, whose decoder holds whole frames, takes up to 16.

Writing is atomic: a file is either there in full or not at all. The suffix chooses the format; all but JPEG are lossless.
"""

from __future__ import annotations

import errno
import hashlib
import io
import math
import os
import struct
import threading
import uuid
import warnings
import zlib
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeGuard, cast

import cv2
import numpy as np
import PIL.PngImagePlugin
import PIL.TiffImagePlugin
from PIL import Image

from fretsaw.errors import ImageError, OutputError, ShapeError
from fretsaw.masks import describe, is_array, mask_to_box, require_mask
from fretsaw.picture_kinds import READABLE, check_tiff, deep_colours, depth_of, has_deep_colours, opener, tiff_layout, to_srgb, unread_kind, whole_jpeg

ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | np.ndarray
"""What `read_image` takes."""

PIXEL_LIMIT = 178_956_970
"""Most pixels an image may have unless a caller says otherwise: 13377 x 13377, beyond the largest cameras, and where Pillow itself refuses to go on."""

_ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True}),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
    ".bmp": ("BMP", {}),
}
_WITHOUT_ALPHA = ("JPEG", "BMP")
_RAISING_LIMIT, _WARNINGS = threading.Lock(), threading.Lock()
_reading = 0
_ignored: Any = None
_STRAIGHT = {"La": "LA", "RGBa": "RGBA"}
"""Modes whose colours are multiplied by alpha, and those that they become."""


def read_image(source: ImageSource, pixel_limit: int = PIXEL_LIMIT, value_range: tuple[float, float] | None = None) -> np.ndarray:
    """Return an image as RGB.

    Args:
        source: A path, a file's bytes, a binary file object, a PIL image, or an array (H, W), (H, W, 1), (H, W, 3), (H, W, 4) of uint8, uint16 or bool.
        pixel_limit: Most pixels, height x width, that are accepted. Above `PIXEL_LIMIT` files are decoded one at a time.
        value_range: The values that become black and white, for grey pictures and arrays of floats or whole numbers of any kind; what lies beyond is cut off,
            and NaN becomes black.

    Returns:
        (H, W, 3) uint8 RGB, C-contiguous, a new array.

    Raises:
        ImageError: If the source is missing, no image, truncated, broken, empty, thinner than 2 pixels, above the limit, or of an unsupported kind.
    """
    if value_range is not None:
        require_range(value_range)
    if isinstance(source, np.ndarray):
        return _array_to_rgb(source, pixel_limit, value_range)
    with _decoded(source, pixel_limit) as (image, orientation, name):
        return _to_rgb(image, orientation, name, value_range)


def read_mask(source: ImageSource, pixel_limit: int = PIXEL_LIMIT, size: tuple[int, int] | None = None, smallest: int = 2) -> np.ndarray:
    """Return a mask file's values: grey values as stored, else the maximum over the colour channels (palettes by their colours, alpha left out).

    Args:
        source: As in `read_image`, arrays excepted.
        pixel_limit: Most pixels that are accepted.
        size: The (H, W) that is expected, where the caller knows it; a file of another size is refused before it is decoded.
        smallest: Fewest pixels of a side; a mask of a part of a picture may be 1 pixel thin.

    Returns:
        (H, W) uint8, uint16 for 16-bit files; 1-bit files give 0 and 255. What counts as object is the caller's rule, commonly `> 0` or `> 127`.

    Raises:
        ImageError: As `read_image`, and if the size is another one.
    """
    with _decoded(source, pixel_limit, size, smallest) as (image, orientation, name):
        _check_palette(image, name)
        if _is_grey(image):
            return _in_strips(image, orientation, lambda strip: _grey(strip, name))
        return _in_strips(image, orientation, lambda strip: _colours(strip).max(axis=2))


def read_labels(source: ImageSource, pixel_limit: int = PIXEL_LIMIT, size: tuple[int, int] | None = None) -> np.ndarray:
    """Return the class ids in a label file: indices of a palette, grey values as stored, 0 and 1 of a 1-bit file.

    Args:
        source: As in `read_image`, arrays excepted.
        pixel_limit: Most pixels that are accepted.
        size: The (H, W) that is expected, where the caller knows it; a file of another size is refused before it is decoded.

    Returns:
        (H, W) uint8, uint16 for 16-bit files.

    Raises:
        ImageError: As `read_image`, if the size is another one, and if the file holds colours rather than ids.
    """
    with _decoded(source, pixel_limit, size) as (image, orientation, name):
        if image.mode in ("P", "PA"):
            return _in_strips(image, orientation, lambda strip: np.asarray(strip.getchannel(0) if strip.mode == "PA" else strip))
        if not _is_grey(image):
            raise ImageError(f"{name}: expected class ids in a palette or grey image, got colours (mode {image.mode})")
        return _in_strips(image, orientation, lambda strip: _grey(strip, name) // (255 if strip.mode == "1" else 1))


def picture_size(source: ImageSource, pixel_limit: int = PIXEL_LIMIT) -> tuple[int, int]:
    """Return the (H, W) that `read_image` would give a file, from its header: no pixel is decoded.

    Args:
        source: As in `read_image`.
        pixel_limit: Most pixels that are accepted.

    Raises:
        ImageError: If the source is missing, no image, broken in its header, thinner than 2 pixels, above the limit, or of an unsupported kind. Damage behind
            the header is not noticed.
    """
    if isinstance(source, np.ndarray):
        _check_array(source, pixel_limit)
        return source.shape[0], source.shape[1]
    with _opened(source, pixel_limit) as (image, _):
        return _upright_size(image)


def image_hash(image: np.ndarray) -> str:
    """Return the SHA-256, in hexadecimal, over an array's shape, dtype and bytes; equal for equal arrays whatever their memory layout."""
    digest = hashlib.sha256(f"{image.shape} {image.dtype.str} ".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


@contextmanager
def _complaints(name: str) -> Generator[None, None, None]:
    """Turn whatever a decoder throws into one `ImageError`: on broken input Pillow raises about any kind of exception, MemoryError included."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ImageError(f"{name}: expected a whole, undamaged image, got one that cannot be decoded ({_printable(reason)})") from error


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """Keep Pillow's warnings about odd files away: what matters is raised.

    Which warnings are shown is a global of Python's. All threads that read share one filter, for Pillow alone, which the last of them takes away.
    """
    global _reading, _ignored
    with _WARNINGS:
        _reading += 1
        if _reading == 1:
            warnings.filterwarnings("ignore", module=r"PIL\.")
            _ignored = warnings.filters[0]
    try:
        yield
    finally:
        with _WARNINGS:
            _reading -= 1
            if _reading == 0:
                with suppress(ValueError):  # somebody put the filters back who had kept them before
                    warnings.filters.remove(_ignored)  # type: ignore[attr-defined]


@contextmanager
def _pillow_allows(pixel_limit: int) -> Generator[None, None, None]:
    """Raise Pillow's limit, a global of its module, while a caller's own higher limit is in force; by default nothing is touched."""
    if pixel_limit <= PIXEL_LIMIT:
        yield
        return
    with _RAISING_LIMIT:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, pixel_limit
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


@contextmanager
def _opened(source: Any, pixel_limit: int, size: tuple[int, int] | None = None, smallest: int = 2) -> Generator[tuple[Image.Image, str], None, None]:
    """Give whatever the source is as an image that is not decoded yet, its size checked, and a name for messages; any exception inside is an `ImageError`."""
    with ExitStack() as held:
        held.enter_context(_quiet())
        if isinstance(source, Image.Image):
            name = _printable(getattr(source, "filename", "") or "PIL image")
            image = source
        elif isinstance(source, bytes | bytearray | memoryview):
            name = "bytes"
            image = held.enter_context(_identified(io.BytesIO(cast("bytes", source)), name, pixel_limit))
        elif callable(getattr(source, "read", None)):
            name = _printable(getattr(source, "name", "") or "file object")
            with _complaints(name):
                content = source.read()
            if not isinstance(content, bytes):
                raise ImageError(f"{name}: expected a file opened in binary mode, got one that reads {type(content).__name__}")
            image = held.enter_context(_identified(io.BytesIO(content), name, pixel_limit))
        elif _is_path(source):
            name = _printable(source)
            image = held.enter_context(_identified(held.enter_context(_file(source, name)), name, pixel_limit))
        else:
            raise ImageError(f"expected a path, bytes, a binary file, a PIL image or a numpy array, got {describe(source)}")
        held.enter_context(_complaints(name))
        _check_size(image.height, image.width, name, pixel_limit, smallest)
        if size is not None and (found := _upright_size(image)) != tuple(size):
            raise ImageError(f"{name}: expected an image of {size[1]} x {size[0]} pixels (width x height), got {found[1]} x {found[0]}")
        yield image, name


@contextmanager
def _file(source: str | os.PathLike[str], name: str) -> Generator[IO[bytes], None, None]:
    try:
        # Asked before opening, since opening a pipe would wait for its other end.
        if not Path(source).is_file():
            kind = "a folder" if Path(source).is_dir() else "no regular file" if Path(source).exists() else "a path that does not exist"
            raise ImageError(f"{name}: expected an image file, got {kind}")
        file = open(source, "rb")  # noqa: SIM115, closed below
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: expected a readable image file, got: {getattr(error, 'strerror', None) or error}") from error
    with file:
        yield file


def _is_path(value: object) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(value, str | os.PathLike)


def _printable(name: object) -> str:
    """Return a file's name so that it fits on one line and into any terminal, whatever bytes it is made of."""
    text = os.fsdecode(name) if _is_path(name) or isinstance(name, bytes) else str(name)
    return text if text and text.isprintable() else ascii(text)


@contextmanager
def _identified(file: IO[bytes], name: str, pixel_limit: int) -> Generator[Image.Image, None, None]:
    """Find the format by content.

    Pillow's own `open` warns about half of what is allowed here, so the plugins are asked directly.
    """
    Image.preinit()  # BMP, GIF, JPEG, PNG and PPM; what can run programs, as EPS does, stays out
    with _complaints(name), _pillow_allows(pixel_limit):
        beginning = file.read(132)
        if not beginning:
            raise ImageError(f"{name}: expected an image file, got an empty one")
        for kind in READABLE:
            try:
                factory = opener(kind, beginning)
            except ImageError as error:
                raise ImageError(f"{name}: {error}") from error
            if factory is None:
                continue
            file.seek(0)
            try:
                image = factory(file, "")
            except ImageError as error:
                raise ImageError(f"{name}: {error}") from error
            except (SyntaxError, IndexError, TypeError, struct.error) as error:
                reason = " ".join(str(error).split())[:120]
                if kind == "TIFF" and (layout := tiff_layout(file)) and "unknown pixel mode" in reason:
                    raise ImageError(f"{name}: expected a TIFF of 1, 3 or 4 channels of 8 or 16 bits, got one of {layout}") from error
                raise ImageError(f"{name}: expected a whole, undamaged {kind} image, got a broken header ({_printable(reason)})") from error
            check_tiff(image, name)
            yield image
            return
        raise ImageError(f"{name}: expected an image ({', '.join(READABLE)}), got {unread_kind(beginning)}")


@contextmanager
def _decoded(
    source: Any, pixel_limit: int, size: tuple[int, int] | None = None, smallest: int = 2
) -> Generator[tuple[Image.Image, Callable[[np.ndarray], np.ndarray], str], None, None]:
    """Give the decoded first frame of whatever the source is, a function that turns an upright array into a view with its rows, and a name for messages."""
    with _opened(source, pixel_limit, size, smallest) as (image, name):
        file, deep = getattr(image, "fp", None), has_deep_colours(image)
        try:
            image.load()
        except ImageError as error:  # of a decoder in a process of its own
            raise ImageError(f"{name}: {error}") from error
        except OSError:
            whole = whole_jpeg(image, name)
            if whole is None:
                raise
            image = whole
        if deep and file is not None and not file.closed:
            file.seek(0)
            image.info[_FILE] = file.read()
        orientation = 1
        with suppress(Exception):  # the pixels are fine, and EXIF data come in every state of corruption
            orientation = image.getexif().get(_ORIENTATION, 1)
        yield image, _FROM_UPRIGHT.get(orientation, lambda upright: upright), name


_ORIENTATION = 0x0112
_FILE = "fretsaw's copy of the file"
"""Under this name an image of 16 bits a channel keeps its file: Pillow has decoded it to 8."""
_FROM_UPRIGHT: dict[Any, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}
"""For each EXIF orientation, an upright array as a view whose rows are those of the file: what is written into it lies upright."""
_ON_THEIR_SIDE = (5, 6, 7, 8)
_STRIP = 2**18
"""Pixels that are turned into an array at once: small beside the picture, large beside the cost of a call."""


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the (H, W) of an image that is not decoded yet, as it is shown."""
    width, height = image.size
    orientation = 1
    with suppress(Exception):
        if isinstance(image, PIL.TiffImagePlugin.TiffImageFile) and image._exif is None:  # pyright: ignore[reportPrivateUsage] (nothing public says whether the pixels were turned)
            # Pillow turns a TIFF while it decodes it, and some versions tell the turned size before.
            width, height = image.tag_v2[256], image.tag_v2[257]
        orientation = _png_orientation(image) if isinstance(image, PIL.PngImagePlugin.PngImageFile) else image.getexif().get(_ORIENTATION, 1)
    return (width, height) if orientation in _ON_THEIR_SIDE else (height, width)


def _png_orientation(image: PIL.PngImagePlugin.PngImageFile) -> int:
    """Return the orientation that a PNG tells. It may stand behind the pixels, and asked for EXIF data Pillow would decode the image to get there."""
    file, probe = image.fp, image
    if file is not None and image.png is not None:
        place = file.tell()
        try:
            probe = PIL.PngImagePlugin.PngImageFile(io.BytesIO(_png_without_pixels(file)))
        finally:
            file.seek(place)
    return Image.Image.getexif(probe).get(_ORIENTATION, 1)


def _png_without_pixels(file: IO[bytes]) -> bytes:
    """Return a PNG's header and what it tells about itself, with no pixels; what is damaged or very large is left out."""
    file.seek(0)
    content = bytearray(file.read(33))  # the signature and the header chunk
    for _ in range(2**20):
        start = file.read(8)
        if len(start) < 8 or start[4:] == b"IEND":
            break
        length = int.from_bytes(start[:4], "big") + 4  # with its checksum
        if start[4:] in (b"eXIf", b"iTXt", b"zTXt", b"tEXt") and len(content) + length < 2**24:
            content += start + file.read(length)
        else:
            file.seek(length, os.SEEK_CUR)
    return bytes(content) + b"".join(struct.pack(">I", 0) + name + struct.pack(">I", zlib.crc32(name)) for name in (b"IDAT", b"IEND"))


def _check_size(height: int, width: int, name: str, pixel_limit: int, smallest: int = 2) -> None:
    if min(height, width) < smallest:
        raise ImageError(f"{name}: expected an image of at least {smallest} x {smallest} pixels, got {width} x {height} (width x height)")
    if height * width > pixel_limit:
        raise ImageError(f"{name}: expected at most {pixel_limit} pixels (pixel_limit), got {width} x {height} = {width * height}")


def _in_strips(image: Image.Image, view: Callable[[np.ndarray], np.ndarray], convert: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """Return a decoded image as an upright, contiguous array, converted a strip of rows at a time: whole copies would take several times its size."""
    result = rows = None
    step = max(1, _STRIP // image.width)
    for top in range(0, image.height, step):
        strip = convert(image.crop((0, top, image.width, min(top + step, image.height))))
        if result is None or rows is None:
            # Only the first strip tells the type and the channels.
            sides = view(np.empty((image.height, image.width), np.bool_)).shape
            result = np.empty((*sides, *strip.shape[2:]), strip.dtype)
            rows = view(result)
        rows[top : top + len(strip)] = strip
    assert result is not None
    return result


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;16")


def _check_palette(image: Image.Image, name: str) -> None:
    if image.mode == "P" and not (image.palette and image.palette.palette):
        raise ImageError(f"{name}: expected colours, got a palette image without its palette")


def _grey(strip: Image.Image, name: str) -> np.ndarray:
    """Return the stored grey values of a part of an image, uint8 or uint16."""
    if strip.mode == "1":
        return np.asarray(strip.convert("L"))
    if strip.mode in ("L", "LA", "La"):
        return np.asarray((strip.convert("LA") if strip.mode == "La" else strip).getchannel(0))
    if strip.mode == "F":
        raise ImageError(f"{name}: expected integers of 8 or 16 bit, got floats, which have no fixed range; state one (value_range, --range)")
    values = np.asarray(strip)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(f"{name}: expected grey values of 8 or 16 bit, got integers from {values.min()} to {values.max()}")
    return values.astype(np.uint16)


def _colours(strip: Image.Image) -> np.ndarray:
    """Return the colours of a part of an image, which is altered: Pillow would carry what is transparent along, and warns where it cannot."""
    strip.info.pop("transparency", None)
    return np.asarray(strip.convert("RGB"))


def _to_rgb(image: Image.Image, view: Callable[[np.ndarray], np.ndarray], name: str, value_range: tuple[float, float] | None = None) -> np.ndarray:
    _check_palette(image, name)
    convert = to_srgb(image)
    if image.has_transparency_data and image.mode[0] not in "IF":
        straight = _STRAIGHT.get(image.mode, image.mode)

        def on_white(strip: Image.Image) -> np.ndarray:
            rgba = (strip if strip.mode == straight else strip.convert(straight)).convert("RGBA")
            if convert is None:
                return _on_white(np.asarray(rgba))
            return _on_white(np.dstack([np.asarray(convert(rgba.convert("RGB"))), np.asarray(rgba.getchannel("A"))]))

        return _in_strips(image, view, on_white)
    if not _is_grey(image):
        if convert is not None:
            turn = convert
            return _in_strips(image, view, lambda strip: np.asarray(turn(strip if strip.mode == "CMYK" else Image.fromarray(_colours(strip)))))
        if _FILE in image.info:
            content = image.info.pop(_FILE)
            eight = _in_strips(image, lambda upright: upright, _colours)
            return np.ascontiguousarray(_upright(deep_colours(content, eight), view))
        return _in_strips(image, view, _colours)
    if value_range is not None:
        return _in_strips(image, view, lambda strip: np.repeat(_scaled(np.asarray(strip), value_range)[..., None], 3, axis=2))
    bits = _depth(image, name)
    return _in_strips(image, view, lambda strip: np.repeat(_to_8_bit(_grey(strip, name), bits)[..., None], 3, axis=2))


def _upright(rows: np.ndarray, view: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return an array, whose rows are those of a file, as it is shown."""
    sides = view(np.empty(rows.shape[:2], np.bool_)).shape
    upright = np.empty((*sides, *rows.shape[2:]), rows.dtype)
    view(upright)[:] = rows
    return upright


def _depth(image: Image.Image, name: str) -> int:
    """Return how many bits the grey values of a decoded image have; see `depth_of`."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return 8
    step = max(1, _STRIP // image.width)
    strips = (image.crop((0, top, image.width, min(top + step, image.height))) for top in range(0, image.height, step))
    return depth_of(max(int(_grey(strip, name).max()) for strip in strips))


def require_range(value_range: tuple[float, float]) -> None:
    """Raise `ImageError` unless a range of values is two finite numbers, the lower first."""
    low, high = value_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ImageError(f"expected a range of two finite numbers, the lower first, got {low} to {high}")


def _scaled(values: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Return real values as (H, W, ...) uint8: the range's lower end and NaN are 0, its upper end is 255."""
    low, high = value_range
    share = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
    return np.rint(np.nan_to_num(share, nan=0.0) * 255).astype(np.uint8)


def _array_to_rgb(array: np.ndarray, pixel_limit: int, value_range: tuple[float, float] | None = None) -> np.ndarray:
    if value_range is not None and (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
        _check_sides(array, pixel_limit)
        array = _scaled(array, value_range)
    _check_array(array, pixel_limit)
    eight = _to_8_bit(array, depth_of(int(array.max())) if array.dtype == np.uint16 else 8)
    if array.ndim == 3 and array.shape[2] == 4:
        return _on_white(eight)
    image = np.empty((*array.shape[:2], 3), np.uint8)
    image[:] = eight if eight.ndim == 3 else eight[..., None]
    return image


def _check_array(array: np.ndarray, pixel_limit: int) -> None:
    _check_sides(array, pixel_limit)
    if array.dtype not in map(np.dtype, (np.uint8, np.uint16, np.bool_)):
        raise ImageError(f"array: expected uint8, uint16 or bool, got {describe(array)}; floats have no fixed range: state one (value_range), or convert them")


def _check_sides(array: np.ndarray, pixel_limit: int) -> None:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"array: expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {describe(array)}")
    _check_size(array.shape[0], array.shape[1], "array", pixel_limit)


def _to_8_bit(values: np.ndarray, bits: int = 16) -> np.ndarray:
    """Return values of any depth as uint8: the highest 8 of so many bits, where there are more."""
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    return (values >> (bits - 8)).astype(np.uint8) if values.dtype == np.uint16 else values


def _on_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def write_bytes(path: str | os.PathLike[str], content: bytes, durable: bool = False, mode: int = 0o666, make_folders: bool = True) -> Path:
    """Write a file atomically; see `write_pieces`."""
    return write_pieces(path, (content,), durable, mode, make_folders)


def write_pieces(path: str | os.PathLike[str], pieces: Iterable[bytes], durable: bool = False, mode: int = 0o666, make_folders: bool = True) -> Path:
    """Write a file atomically: a temporary file in the same folder takes the name when it is complete.

    Args:
        path: Of the file; what stands there is replaced.
        pieces: Its content, one piece after the other; it need not fit into memory.
        durable: Return only when file and name are on the disk, so that they outlive a failure of power.
        mode: Permissions before the process's umask is taken away: 0o600 for what nobody else may read.
        make_folders: Make the folders above. Without it, a folder that was moved away is not made anew in its old place.

    Raises:
        OutputError: If that is not possible, for example because the path is a folder, or not writable, or the disk is full.
    """
    target = Path(path)
    try:
        temporary = target.with_name(f".{uuid.uuid4().hex}.part")
        absent = [folder for folder in target.parents if durable and not folder.exists()]
        if make_folders:
            target.parent.mkdir(parents=True, exist_ok=True)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            with open(temporary, "wb", opener=lambda name, _: os.open(name, flags, mode)) as file:
                file.writelines(pieces)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, target)
            if durable:
                for folder in (target.parent, *(made.parent for made in absent)):
                    sync_folder(folder)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        raise OutputError(f"{_printable(path)}: expected a place that can be written, got: {getattr(error, 'strerror', None) or error}") from error
    return target


def sync_folder(folder: Path) -> None:
    """Bring a folder's names onto the disk, where the system can: Windows opens no folder, and some network file systems sync none."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def encode_image(image: np.ndarray | Image.Image, suffix: str) -> bytes:
    """Return an image as the bytes of a file.

    Args:
        image: (H, W) bool (written as 0 and 255) or uint8, (H, W, 3) uint8 RGB, (H, W, 4) uint8 RGBA, or a PIL image.
        suffix: ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff" or ".bmp", in any case.

    Raises:
        ShapeError: If the array is none of these.
        OutputError: If the suffix is unknown or the format cannot hold such an image, for example transparency in a JPEG.
    """
    if suffix.lower() not in _ENCODERS:
        raise OutputError(f"expected an image suffix ({', '.join(_ENCODERS)}), got {suffix or 'none'!r}")
    kind, options = _ENCODERS[suffix.lower()]
    picture = image if isinstance(image, Image.Image) else _to_pil(image)
    if picture.has_transparency_data and kind in _WITHOUT_ALPHA:
        raise OutputError(f"expected a format with transparency (.png, .webp, .tif), got {suffix}")
    buffer = io.BytesIO()
    try:
        picture.save(buffer, kind, **options)
    except (OSError, ValueError) as error:
        raise OutputError(f"expected an image that {suffix} can hold, got {picture.width} x {picture.height}, mode {picture.mode}: {error}") from error
    return buffer.getvalue()


def _to_pil(array: object) -> Image.Image:
    if not (is_array(array, 2, np.uint8) or is_array(array, 2, np.bool_) or (is_array(array, 3, np.uint8) and array.shape[2] in (3, 4))):
        raise ShapeError(f"image: expected (H, W) bool or uint8, (H, W, 3) or (H, W, 4) uint8, got {describe(array)}")
    return Image.fromarray(np.ascontiguousarray(_to_8_bit(array)))


def write_image(path: str | os.PathLike[str], image: np.ndarray | Image.Image) -> Path:
    """Write an image atomically, in the format that the suffix names, and return its path; see `encode_image`.

    Raises:
        ShapeError: If the array is no image.
        OutputError: If the suffix is unknown, the format cannot hold the image, or the place cannot be written.
    """
    return write_bytes(path, encode_image(image, Path(path).suffix))


def write_mask(path: str | os.PathLike[str], mask: np.ndarray) -> Path:
    """Write a mask (H, W) bool atomically as 8-bit grey, 0 and 255, and return its path.

    Raises:
        ShapeError: If `mask` is not a bool array (H, W).
        OutputError: If the suffix is unknown or lossy (a JPEG would not keep 0 and 255), or the place cannot be written.
    """
    suffix = Path(path).suffix
    if _ENCODERS.get(suffix.lower(), ("",))[0] == "JPEG":
        raise OutputError(f"{_printable(path)}: expected a lossless format for a mask (.png, .webp, .tif, .bmp), got {suffix}")
    return write_bytes(path, encode_image(require_mask(mask), suffix))


def require_image(image: object) -> np.ndarray:
    """Return `image` unchanged if it is a numpy array (H, W, 3) of uint8 with at least one pixel.

    Raises:
        ShapeError: If it is anything else.
    """
    if is_array(image, 3, np.uint8) and image.shape[2] == 3:
        return image
    raise ShapeError(f"image: expected a numpy array (H, W, 3) of uint8, got {describe(image)}")


def overlay(image: np.ndarray, mask: np.ndarray, color: tuple[int, int, int] = (30, 144, 255), alpha: float = 0.4) -> np.ndarray:
    """Return the image with the mask shown as a tint and a crisp outline: a line of full colour inside its border, a white one outside.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool.
        color: RGB of tint and outline.
        alpha: Strength of the tint, 0 none, 1 opaque.

    Returns:
        (H, W, 3) uint8, a new array. The lines grow with the image, one pixel for every 400 of its shorter side.

    Raises:
        ShapeError: If the arrays are of another kind or differ in size.
    """
    _check_same_size(require_image(image), require_mask(mask))
    result = image.copy()
    x0, y0, x1, y1 = mask_to_box(mask)
    if x0 == x1:
        return result
    line = max(1, round(min(mask.shape) / 400))
    # All work is done near the mask; beyond the image's border counts as mask when it shrinks, so that no line runs along the border.
    near = np.s_[max(0, y0 - line) : y1 + line, max(0, x0 - line) : x1 + line]
    part, region = mask[near].astype(np.uint8), result[near]
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * line + 1, 2 * line + 1))
    rim = part > cv2.erode(part, kernel)
    halo = cv2.dilate(part, kernel) > part
    inside = mask[near]
    region[inside] = np.rint(region[inside] * (1.0 - alpha) + np.asarray(color, np.float64) * alpha)
    region[rim] = color
    region[halo] = 255
    return result


def cutout(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the image with everything but the object transparent.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, or mask_probs, floats in [0, 1], which become the opacity and so give soft edges.

    Returns:
        (H, W, 4) uint8 RGBA, not premultiplied. Where nothing is visible the colours are 0 too: what was cut away is not in the file.

    Raises:
        ShapeError: If the arrays are of another kind, differ in size, or the probabilities leave [0, 1].
    """
    floating = is_array(mask, 2, np.floating)
    _check_same_size(require_image(image), mask if floating else require_mask(mask))
    if floating and not (mask.min() >= 0 and mask.max() <= 1):
        raise ShapeError(f"mask_probs: expected values in [0, 1], got {mask.min()} to {mask.max()}; logits go through a sigmoid first")
    alpha = (mask * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    # Channel by channel, which is several times faster on large images than arithmetic on pixels of three bytes.
    return cv2.merge([*(channel * (alpha > 0) for channel in cv2.split(image)), alpha])


def _check_same_size(image: np.ndarray, mask: np.ndarray) -> None:
    if image.shape[:2] != mask.shape:
        raise ShapeError(f"expected an image and a mask of one size, got {image.shape[:2]} and {mask.shape}")
