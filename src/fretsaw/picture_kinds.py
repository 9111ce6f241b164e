"""Kinds of image files that need more than Pillow's own opening: which decoder reads them, in which colours, how deep, and what is said where none does."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from typing import IO, Any

import cv2
import numpy as np
import PIL.AvifImagePlugin
import PIL.Jpeg2KImagePlugin
import PIL.JpegImagePlugin
import PIL.PngImagePlugin
import PIL.TiffImagePlugin
import PIL.WebPImagePlugin  # like those for TIFF, AVIF and JPEG 2000 it registers itself with Pillow
from PIL import Image, ImageCms

from fretsaw.dicom import DicomImage, begins_as_dicom
from fretsaw.errors import ImageError

LOGGER = logging.getLogger("fretsaw.images")

READABLE = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "HEIF", "AVIF", "JPEG2000", "DICOM")
"""Formats that are read, by Pillow's names; a file's content decides, not its suffix. HEIF needs the extra `heif`, DICOM the extra `dicom`."""

DEPTHS = (8, 10, 12, 14)
"""Bits that are common for values in files of 16 bits, beside all 16."""

SAME_COLOUR = 2
"""A colour profile that moves no colour by more than this, of 255, counts as sRGB."""

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_CONTAINERS = (b"mif1", b"msf1")
_MOST_PROFILE = 2**22
_JPEG_END = b"\xff\xd9"


def opener(kind: str, beginning: bytes) -> Callable[[IO[bytes], str], Image.Image] | None:
    """Return what opens a file of a kind, if the file begins as one.

    Args:
        kind: One of `READABLE`.
        beginning: Its first 132 bytes.

    Raises:
        ImageError: If it is such a file, and its decoder is not installed.
    """
    if kind == "HEIF":
        return _heif_opener() if _is_heif(beginning) else None
    if kind == "DICOM":
        return (lambda file, name: DicomImage(file.read())) if begins_as_dicom(beginning) else None
    factory, accepts = Image.OPEN[kind]
    return factory if accepts is not None and accepts(beginning[:16]) is True else None


def _is_heif(beginning: bytes) -> bool:
    if beginning[4:8] != b"ftyp":
        return False
    length = min(int.from_bytes(beginning[:4], "big"), len(beginning))
    brands = [beginning[8:12], *(beginning[place : place + 4] for place in range(16, length, 4))]
    return brands[0] in _HEIF_BRANDS or (brands[0] in _CONTAINERS and any(brand in _HEIF_BRANDS for brand in brands))


def _heif_opener() -> Callable[[IO[bytes], str], Image.Image]:
    try:
        from pillow_heif.as_plugin import HeifImageFile
    except ImportError as error:
        raise ImageError("expected an image that can be read here, got HEIC/HEIF, which needs an extra: pip install 'fretsaw[heif]'") from error
    return HeifImageFile


def unread_kind(beginning: bytes) -> str:
    """Return what content is that no decoder here takes, as far as its first bytes tell."""
    known = {b"%PDF": "a PDF", b"8BPS": "a Photoshop file", b"\x76\x2f\x31\x01": "OpenEXR", b"<svg": "SVG"}
    for start, name in known.items():
        if beginning.startswith(start):
            return name
    if beginning[:8] == b"\x00\x00\x00\x0cJXL " or beginning[:2] == b"\xff\x0a":
        return "JPEG XL"
    return f"content of another kind that starts with {beginning[:8]!r}"


def check_tiff(image: Image.Image, name: str) -> None:
    """Raise `ImageError` for a TIFF that Pillow would open and decode wrongly: 16-bit colours in separate planes."""
    if isinstance(image, PIL.TiffImagePlugin.TiffImageFile):
        bits, planes = image.tag_v2.get(258, (8,)), image.tag_v2.get(284, 1)
        if planes == 2 and len(bits) > 1 and max(bits) > 8:
            raise ImageError(
                f"{name}: expected 16-bit colours side by side, got a TIFF with each colour in a plane of its own (planar configuration 2); "
                "write it again with planar configuration 1, or with 8 bits"
            )


def tiff_layout(file: IO[bytes]) -> str:
    """Return what a TIFF holds that Pillow cannot open, for example "5 channels of 8 bits"; "" where that cannot be told."""
    try:
        file.seek(0)
        header = file.read(8)
        directory = PIL.TiffImagePlugin.ImageFileDirectory_v2(header)
        file.seek(directory.next)
        directory.load(file)
        samples, bits, form = directory.get(277, 1), directory.get(258, (1,)), directory.get(339, (1,))
        kind = {1: "", 2: "signed ", 3: "floating-point ", 5: "complex ", 6: "complex "}.get(form[0] if isinstance(form, tuple) else form, "")
        return f"{int(samples)} {'channel' if samples == 1 else 'channels'} of {int(bits[0] if isinstance(bits, tuple) else bits)} {kind}bits"
    except Exception:
        return ""


def whole_jpeg(image: Image.Image, name: str) -> Image.Image | None:
    """Return a JPEG that lacks its last bytes as an image, if none of its pixels depends on them; else None.

    It is decoded several times, with different bytes in place of those that are missing: where all give the same picture, all of it was there. Only files
    that hold all colours in one pass are taken: of others, whole passes may be missing.
    """
    file = image.fp if isinstance(image, PIL.JpegImagePlugin.JpegImageFile) else None
    if file is None:
        return None
    file.seek(0)
    content = file.read()
    if not _has_one_pass(content):
        return None
    found: list[Image.Image] = []
    # Where data end early the decoder goes on with bits that are 0, so that these are no other bytes.
    for fill in (b"", b"\x55" * 64, b"\xaa" * 64):
        try:
            made = PIL.JpegImagePlugin.JpegImageFile(io.BytesIO(content.removesuffix(b"\xff") + fill + _JPEG_END))
            made.load()
        except (OSError, SyntaxError, ValueError, IndexError, TypeError):
            return None
        found.append(made)
    if any(made.tobytes() != found[0].tobytes() for made in found[1:]):
        return None
    LOGGER.warning("%s: the file lacks its last bytes; all of its pixels are there", name)
    return found[0]


def _has_one_pass(content: bytes) -> bool:
    """Whether a JPEG is a baseline one whose first scan holds all components and has data."""
    place, components = 2, 0
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if marker in (0xC0, 0xC1) and place + 9 < len(content):
            components = content[place + 9]
        if marker == 0xDA:
            return 0 < components == content[place + 4 : place + 5][-1] and place + 2 + length < len(content)
        place += 2 + length
    return False


def depth_of(greatest: int) -> int:
    """Return how many bits values of 16 bits are taken to have: the fewest common ones that hold the greatest value, else 16.

    Cameras and scanners write 10, 12 or 14 bits into files of 16; read as 16 they would be nearly black.
    """
    return next((bits for bits in DEPTHS if greatest < 1 << bits), 16)


def has_deep_colours(image: Image.Image) -> bool:
    """Whether a file that was opened holds colours of 16 bits a channel, without transparency."""
    if isinstance(image, PIL.TiffImagePlugin.TiffImageFile):
        return image.mode == "RGB" and tuple(image.tag_v2.get(258, ())) == (16, 16, 16)
    return isinstance(image, PIL.PngImagePlugin.PngImageFile) and image.mode == "RGB" and any("16" in str(tile[3]) for tile in image.tile)


def deep_colours(content: bytes, eight: np.ndarray) -> np.ndarray:
    """Return the colours of a file of 16 bits a channel whose values have fewer.

    Pillow keeps the high byte alone, in which little of them is left.

    Args:
        content: The file.
        eight: (H, W, 3) uint8, what Pillow made of it, as it lies in the file.

    Returns:
        (H, W, 3) uint8; `eight` itself where the values fill their bits, or nothing better can be had.
    """
    if eight.max() >= 1 << (DEPTHS[-1] - 8):
        return eight
    colours: Any = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if colours is None or colours.dtype != np.uint16 or colours.shape != eight.shape:
        return eight
    return np.ascontiguousarray((colours[..., ::-1] >> (depth_of(int(colours.max())) - 8)).astype(np.uint8))


def to_srgb(image: Image.Image) -> Callable[[Image.Image], Image.Image] | None:
    """Return what turns parts of an image into sRGB by its colour profile; None where it has none, none that can be used, or one that changes nothing.

    Args:
        image: Decoded; its mode is RGB, RGBA, P or CMYK, the parts' RGB or CMYK.
    """
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not 128 < len(profile) <= _MOST_PROFILE or (image.mode == "CMYK") != (profile[16:20] == b"CMYK"):
        return None
    mode = "CMYK" if image.mode == "CMYK" else "RGB"
    if profile[16:20] not in (b"RGB ", b"CMYK"):
        return None
    try:
        transform: Any = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC
        )
        if mode == "RGB":
            steps = np.linspace(0, 255, 9).round().astype(np.uint8)
            lattice = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(27, 27, 3)
            moved = np.asarray(ImageCms.applyTransform(Image.fromarray(lattice), transform)).astype(int) - lattice
            if np.abs(moved).max() <= SAME_COLOUR:
                return None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None  # the pixels are fine, and profiles come in every state of corruption
    return lambda part: ImageCms.applyTransform(part, transform)  # type: ignore[return-value]
