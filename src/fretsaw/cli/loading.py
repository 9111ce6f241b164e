"""Load a model for a command, and refuse one that lacks what the command needs before its weights are fetched or an image is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fretsaw.errors import ModelError

if TYPE_CHECKING:
    from fretsaw.api import Segmenter

MODES = {
    "click": ("clicks", "clicks"),
    "auto": ("automatic", "an automatic mode"),
    "semantic": ("semantic", "a semantic mode"),
    "text": ("text", "a text mode"),
}
"""By the catalogue's word for a mode: the part of a loaded model that offers it, and how it is called in a message."""


def check_name(model: str | None, mode: str) -> None:
    """Raise `ModelError` if the catalogue says that a model lacks a mode; what is not in the catalogue is judged when it is loaded."""
    from fretsaw import catalog

    entry = catalog.CATALOGUE.get(model if model is not None else catalog.DEFAULT)
    if entry is not None and mode not in modes_of(entry.mode):
        able = ", ".join(name for name, its in catalog.CATALOGUE.items() if its.cuts and mode in modes_of(its.mode))
        raise ModelError(f"expected a model with {MODES[mode][1]}, got {model}, which offers {entry.mode}; those that have it are {able}")


def check_parts(segmenter: Segmenter, mode: str) -> None:
    """Raise `ModelError` if a loaded model lacks a mode."""
    part, words = MODES[mode]
    if getattr(segmenter.parts, part) is None:
        offered = ", ".join(name for name, (other, _) in MODES.items() if getattr(segmenter.parts, other) is not None) or "nothing"
        raise ModelError(f"expected a model with {words}, got {segmenter.name}, which offers {offered}")


def load_for(mode: str, model: str | None, **options: Any) -> Segmenter:
    """Return a loaded model that has a mode; the options are those of `fretsaw.load`.

    Raises:
        ModelError: If the model lacks the mode, or there is none of that name.
        FretsawError: Whatever `fretsaw.load` raises.
    """
    import fretsaw

    check_name(model, mode)
    segmenter = fretsaw.load(model, **options)
    check_parts(segmenter, mode)
    return segmenter


def modes_of(text: str) -> list[str]:
    """Return the modes that a line of the catalogue names."""
    return [mode.strip() for mode in text.split(",")]
