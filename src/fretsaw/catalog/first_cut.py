"""The parts of a model that takes clicks and has no automatic cut of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fretsaw.catalog.entries import Parts

if TYPE_CHECKING:
    from fretsaw.methods.sam_clicks import SamClicks


def with_first_cut(clicks: SamClicks) -> Parts:
    """Return the parts of a model that takes clicks, with the training-free automatic cut, whose saliency network travels in the package."""
    from fretsaw.methods.first_cut import FirstCut

    return Parts(clicks=clicks, automatic=FirstCut.build(clicks))
