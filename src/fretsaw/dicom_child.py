"""The child process that decodes one DICOM file: standard input is the file, standard output a line of JSON and then the pixels. `fretsaw.dicom` runs it.

Nothing of the file crosses the pipe but size and pixels, already brought to 8 bits by the file's own window; what went wrong is one of a few fixed sentences.

Source: DICOM PS3.3, C.7.6.3 (image pixel), C.11.1 (modality) and C.11.2.1.2 (window).
"""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
from collections.abc import Mapping
from typing import Any, NoReturn

MOST_SIDE = 8192
MOST_MEMORY, MOST_DESCRIPTORS, MOST_SECONDS = 2 * 2**30, 16, 35
ALLOWED: Mapping[str, str] = {
    "1.2.840.10008.1.2": "implicit, little endian",
    "1.2.840.10008.1.2.1": "explicit, little endian",
    "1.2.840.10008.1.2.2": "explicit, big endian",
    "1.2.840.10008.1.2.5": "run lengths",
    "1.2.840.10008.1.2.4.50": "JPEG baseline",
    "1.2.840.10008.1.2.4.90": "JPEG 2000, lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
}
"""Transfer syntaxes that are decoded."""

FORBIDDEN = ("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system", "shutil.", "ctypes.")


def main(mode: str) -> None:
    """Decode standard input: "size" tells the size alone, "pixels" adds the pixels of the first frame."""
    os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    import PIL.Jpeg2KImagePlugin
    import PIL.JpegImagePlugin  # noqa: F401, what decodes is imported before the limits

    try:
        import pydicom
        from pydicom.pixels.utils import pixel_array
    except ImportError:
        _fail("an image that can be read here, got DICOM, which needs an extra: pip install 'fretsaw[dicom]'")

    warnings.simplefilter("ignore")
    _limit()
    try:
        found = pydicom.dcmread(io.BytesIO(sys.stdin.buffer.read()), stop_before_pixels=mode == "size")
        height, width = int(found.get("Rows", 0)), int(found.get("Columns", 0))
        channels = 3 if int(found.get("SamplesPerPixel", 1)) == 3 else 1
        syntax = str(found.file_meta.get("TransferSyntaxUID", ""))
    except Exception:
        _fail("a whole, undamaged DICOM file, got one whose header cannot be read")
    if not height or not width:
        _fail("a DICOM file of one picture, got one without pixels, as DICOMDIR and reports are")
    if max(height, width) > MOST_SIDE:
        _fail(f"DICOM frames of at most {MOST_SIDE} x {MOST_SIDE} pixels, got {width} x {height} (width x height)")
    if syntax not in ALLOWED:
        _fail(f"DICOM pixels that are stored as {', '.join(sorted(set(ALLOWED.values())))}, got another transfer syntax")
    content = b""
    if mode == "pixels":
        try:
            content = _eight_bits(found, pixel_array(found, index=0), channels)
        except Exception:
            _fail("a whole, undamaged DICOM file, got one whose pixels cannot be decoded")
    sys.stdout.buffer.write(json.dumps({"height": height, "width": width, "channels": channels}).encode() + b"\n" + content)
    sys.stdout.buffer.flush()


def _eight_bits(found: Any, pixels: Any, channels: int) -> bytes:
    """Return the first frame as 8-bit grey or RGB, brightened as the file's first window says; without a window from its lowest to its highest value."""
    import numpy as np
    from pydicom.pixels.processing import apply_modality_lut

    if channels == 3:
        if pixels.dtype != np.uint8:
            pixels = (pixels >> max(0, int(found.BitsStored) - 8)).astype(np.uint8)
        return np.ascontiguousarray(pixels[..., :3]).tobytes()
    values = np.asarray(apply_modality_lut(pixels, found), np.float64)
    centre, width = (_first(found.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None or width < 1:
        low, high = float(values.min()), float(values.max())
    else:
        low, high = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    share = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    if found.get("PhotometricInterpretation") == "MONOCHROME1":  # its lowest value is white
        share = 1 - share
    return np.rint(share * 255).astype(np.uint8).tobytes()


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)


def _limit() -> None:
    """Take away what a decoder needs none of: memory beyond a bound, descriptors, processes, writing, and the network."""
    import resource

    limits = (
        (resource.RLIMIT_AS, MOST_MEMORY),
        (resource.RLIMIT_NOFILE, MOST_DESCRIPTORS),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CPU, MOST_SECONDS),
    )
    for kind, most in limits:
        resource.setrlimit(kind, (most, most))
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith(FORBIDDEN) or (event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
        raise PermissionError(event)


def _fail(expected: str) -> NoReturn:
    sys.stdout.buffer.write(json.dumps({"error": f"expected {expected}"}).encode() + b"\n")
    sys.stdout.buffer.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
