"""Why a request is turned away, and the status that says so."""

from __future__ import annotations

import errno
import os

from fretsaw.errors import DataError, FretsawError, ImageError, ModelError, OutputError, PromptError, ShapeError, StaleSessionError


class RefusedError(FretsawError):
    """Base of the refusals that only a server knows."""

    status = 400


class NotHereError(RefusedError):
    """There is no such picture, object or job."""

    status = 404


class MalformedError(RefusedError):
    """A header cannot be read."""

    status = 400


class MethodError(RefusedError):
    """A method of HTTP that the server does not know."""

    status = 405


class SlowError(RefusedError):
    """A request's body comes in too slowly, or not at all."""

    status = 408


class TooLargeError(RefusedError):
    """A request or file is larger than the server takes."""

    status = 413


class LimitError(RefusedError):
    """Something has reached its most: uploads, objects, interactions."""

    status = 429


class QueueFullError(RefusedError):
    """Too many requests wait already; trying again in a moment helps."""

    status = 503


class ForbiddenError(RefusedError):
    """The token is missing or wrong, or the request comes from another web site."""

    status = 403


class DamagedError(RefusedError):
    """The saved work on a picture cannot be read; the other pictures are not touched by that."""

    status = 409


class ReplacedError(RefusedError):
    """A newer request of the same kind took this one's place before it began, or another picture the place of the one that it was about."""

    status = 409


STATUS: dict[type[FretsawError], int] = {
    ImageError: 422,
    PromptError: 422,
    ShapeError: 422,
    DataError: 422,
    ModelError: 409,
    StaleSessionError: 409,
    OutputError: 507,
}
"""The status of the library's own errors; 400 for the others. An `OutputError` that the system has no part in is about what was asked for: 422."""

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
"""The system has run out of something for a moment."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Nothing can be written, whatever the file."""


def status_of(error: FretsawError) -> int:
    """Return the HTTP status of an error. Where the system had run out of something, that counts, whatever the library made of it."""
    if isinstance(error, RefusedError):
        return error.status
    cause = _system_error(error)
    if cause is not None and cause.errno in EXHAUSTED + NO_ROOM:
        return refusal_of_system(cause, "")[0]
    if cause is None and type(error) is OutputError:
        return STATUS[DataError]
    return STATUS.get(type(error), 400)


def refusal_of_system(error: OSError, doing: str) -> tuple[int, str]:
    """Return status and reason for what the system refused: a full disk, a folder that may not be written, no descriptors left.

    Args:
        error: What the system says; its path is never part of the reason.
        doing: What was being done, as in "taking the upload in".
    """
    said = os.strerror(error.errno) if error.errno else type(error).__name__
    if error.errno in EXHAUSTED:
        return 503, f"{doing}: expected a system with something to spare, got: {said}; try again in a moment"
    if isinstance(error, FileNotFoundError):
        return 409, f"{doing}: expected files that stay where they are, got: {said}; somebody has deleted one meanwhile"
    return 507, f"{doing}: expected a disk that can be read and written, got: {said}"


def _system_error(error: BaseException | None) -> OSError | None:
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__
    return error
