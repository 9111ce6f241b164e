"""Why a request is turned away, and the status that says so."""

from __future__ import annotations

from fretsaw.errors import DataError, FretsawError, ImageError, ModelError, OutputError, PromptError, ShapeError, StaleSessionError


class RefusedError(FretsawError):
    """Base of the refusals that only a server knows."""

    status = 400


class NotHereError(RefusedError):
    """There is no such picture, object or job."""

    status = 404


class TooLargeError(RefusedError):
    """A request or file is larger than the server takes."""

    status = 413


class LimitError(RefusedError):
    """Something has reached its most: uploads, objects, interactions."""

    status = 429


class BusyError(RefusedError):
    """Too many requests wait already; trying again in a moment helps."""

    status = 503


class ForbiddenError(RefusedError):
    """The token is missing or wrong, or the request comes from another web site."""

    status = 403


class ReplacedError(RefusedError):
    """A newer request of the same kind took this one's place before it began."""

    status = 409


STATUS = {ImageError: 422, PromptError: 422, ShapeError: 422, DataError: 422, ModelError: 409, StaleSessionError: 409, OutputError: 507}
"""The status of the library's own errors; 400 for the others."""


def status_of(error: FretsawError) -> int:
    """Return the HTTP status of an error."""
    return error.status if isinstance(error, RefusedError) else STATUS.get(type(error), 400)
