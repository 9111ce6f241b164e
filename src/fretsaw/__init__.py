"""Fretsaw cuts things out of images: by itself, by click, or by name, at the image's own resolution.

    import fretsaw
    segmenter = fretsaw.load()
    result = segmenter.auto("photo.jpg")
    result.cutout().save("cut.png")

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fretsaw.api import Segmenter, load
    from fretsaw.catalog import list_models
    from fretsaw.errors import FretsawError
    from fretsaw.segmentation import LabelMap, Segmentation
    from fretsaw.session import Session
    from fretsaw.types import Box, Click

__version__ = "0.1.0"
__all__ = ["Box", "Click", "FretsawError", "LabelMap", "Segmentation", "Segmenter", "Session", "list_models", "load"]

_HOMES = {
    "Box": "types",
    "Click": "types",
    "FretsawError": "errors",
    "LabelMap": "segmentation",
    "list_models": "catalog",
    "load": "api",
    "Segmentation": "segmentation",
    "Segmenter": "api",
    "Session": "session",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fretsaw' has no attribute {name!r}")
    return getattr(import_module(f"fretsaw.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
