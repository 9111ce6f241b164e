"""DICOM pictures, decoded by pydicom in a child process that may do nothing else: SECURITY.md states its limits. Needs the extra `dicom`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image

from fretsaw.dicom_child import MOST_SIDE
from fretsaw.errors import ImageError

SECONDS = 40.0
"""Until a child is ended; it ends itself after 35 seconds of the processor."""
MOST_BYTES = 3 * MOST_SIDE**2 + 1000


def begins_as_dicom(beginning: bytes) -> bool:
    """Whether a file begins as a DICOM file, by its first 132 bytes."""
    return beginning[128:132] == b"DICM"


class DicomImage(Image.Image):
    """The first frame of a DICOM file, brightened by the file's window: size at once, pixels when they are asked for.

    Args:
        content: The file.

    Raises:
        ImageError: If it cannot be read, or the extra is not installed. So does `load`.
    """

    format = "DICOM"

    def __init__(self, content: bytes) -> None:
        super().__init__()
        facts, _ = _asked("size", content)
        self._content: bytes | None = content
        self._size = (facts["width"], facts["height"])
        self._mode = "RGB" if facts["channels"] == 3 else "L"

    def load(self) -> Any:
        """Decode the pixels, once."""
        if self._content is not None:
            facts, pixels = _asked("pixels", self._content)
            width, height = self._size
            shape = (height, width, 3) if self._mode == "RGB" else (height, width)
            if (facts["width"], facts["height"]) != self._size or len(pixels) != np.prod(shape):
                raise ImageError(f"expected {np.prod(shape)} bytes of pixels, got {len(pixels)}")
            self.im = Image.fromarray(np.frombuffer(pixels, np.uint8).reshape(shape)).im
            self._content = None
        return super().load()


def _asked(mode: str, content: bytes) -> tuple[dict[str, Any], bytes]:
    """Run the child; return what it says of the file, and the pixels."""
    if find_spec("pydicom") is None:
        raise ImageError("expected an image that can be read here, got DICOM, which needs an extra: pip install 'fretsaw[dicom]'")
    if find_spec("resource") is None:
        raise ImageError("expected an image that can be read here, got DICOM, whose decoder cannot be confined on this system")
    with tempfile.TemporaryFile() as file, tempfile.TemporaryDirectory() as empty:
        file.write(content)
        file.seek(0)
        command = [sys.executable, "-I", "-m", "fretsaw.dicom_child", mode]
        with subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=empty, env={}) as child:
            late = threading.Timer(SECONDS, child.kill)
            late.start()
            try:
                assert child.stdout is not None
                said = child.stdout.read(MOST_BYTES + 1)  # no more than this is taken, whatever the child writes
            finally:
                child.kill()
                late.cancel()
    head, _, pixels = said.partition(b"\n")
    try:
        facts = json.loads(head)
        if "error" not in facts:
            facts = {name: int(facts[name]) for name in ("height", "width", "channels")}
    except (ValueError, KeyError, TypeError) as error:
        raise ImageError("expected a whole, undamaged DICOM file, got one on which its decoder broke off") from error
    if "error" in facts:
        raise ImageError(str(facts["error"]))
    return facts, pixels
