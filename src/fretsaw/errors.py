"""The exceptions a user can meet.

Every message says what was expected and what came. `FretsawError` is the one to catch; the subclasses say which part of the input was at fault. `shown` puts
what came into a message.
"""

from __future__ import annotations

import reprlib


class FretsawError(Exception):
    """Base of every error that is caused by input, environment or missing files rather than by a defect of Fretsaw."""


class ImageError(FretsawError):
    """An image cannot be read, is empty, truncated, too large or of an unsupported kind."""


class ShapeError(FretsawError):
    """Arrays that belong together differ in size, or an array has the wrong number of axes or the wrong dtype."""


class PromptError(FretsawError):
    """A click, box or mask prompt cannot be used: outside the image, empty, not finite, or nothing to undo."""


class StaleSessionError(FretsawError):
    """A saved session belongs to another image, model or preprocessing, or the file is broken."""


class ModelError(FretsawError):
    """An unknown model name, or a model that does not offer the mode that was asked for."""


class WeightsError(FretsawError):
    """Base of everything that goes wrong with weight files."""


class MissingWeightsError(WeightsError):
    """Weights are neither in the cache nor reachable; the message says where they would lie and how to bring them."""


class ChecksumError(WeightsError):
    """A weight file is truncated, altered or another file than the catalogue names."""


class StateDictError(WeightsError):
    """Parameter names or shapes in a file do not fit the network."""


class MissingExtraError(FretsawError):
    """A function needs an optional dependency; the message names the extra that installs it."""


class DeviceError(FretsawError):
    """The device or dtype that was asked for is not available here."""


class MemoryLimitError(FretsawError):
    """The work would need more memory than there is; the message names the size that fits."""


class DataError(FretsawError):
    """A data set's folder is not laid out as expected, or one of its samples cannot be used."""


class OutputError(FretsawError):
    """A result cannot be written: the place exists, is not writable, or the format is unknown."""


class BusyError(OutputError):
    """Another process writes this folder or file; the message says which."""


class ConfigError(FretsawError):
    """A recipe, protocol or setting has an unknown name or a value outside its range."""


class _Brief(reprlib.Repr):
    """Python's own abbreviated `repr`, whose whole numbers may be of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 3, 60, 60, 60

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write down numbers of more than 4,300 digits.
        return super().repr_int(x, level) if x.bit_length() < 1000 else f"a whole number of {x.bit_length()} bits"

    def repr_bytes(self, x: bytes, level: int) -> str:
        return repr(x) if len(x) <= self.maxstring else f"{x[: self.maxstring - 3]!r}..."


def shown(value: object, longest: int = 80) -> str:
    """Return a value of any origin as a message may show it: one line of printable characters, shortened without ever being written out in full."""
    try:
        text = _Brief().repr(value)
    except Exception:  # somebody's own __repr__
        text = type(value).__name__
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= longest else text[: longest - 3] + "..."
