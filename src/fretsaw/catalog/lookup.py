"""Looks models up in the table: a model's entry, all its weights, whether they are here, and the checked file."""

from __future__ import annotations

import difflib
from contextlib import ExitStack
from pathlib import Path

from fretsaw.catalog.entries import Entry
from fretsaw.catalog.table import CATALOGUE
from fretsaw.errors import ModelError, shown
from fretsaw.weights import Cache, Progress, Weights, is_present, materialise, shown_progress


def find(name: str) -> Entry:
    """Return a model's entry.

    Raises:
        ModelError: If there is none; the message suggests the nearest names.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    near = difflib.get_close_matches(name.lower(), CATALOGUE, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the names are {', '.join(CATALOGUE)}"
    raise ModelError(f"expected the name of a model, got {shown(name)}; {hint}")


def source_of(name: str) -> str:
    """Return the client and package of a model's first route, or the names of the networks that it is made of."""
    entry = find(name)
    return " + ".join(entry.networks.values()) if entry.networks else next(iter(entry.weights.routes[0].files.values())).source


def all_weights(name: str) -> list[Weights]:
    """Return all weights that a model is loaded from, each once: its own, those of the networks that it is made of, and those of what it stands on.

    Raises:
        ModelError: If there is no such name.
    """
    entry = find(name)
    found = {} if entry.networks else {name: entry.weights}
    for other in (*entry.networks.values(), *entry.needs):
        found |= {weights.name: weights for weights in all_weights(other)}
    return list(found.values())


def is_ready(name: str, cache: Cache) -> bool:
    """Whether a model can be loaded without network, judged by names and sizes of files alone.

    Raises:
        ModelError: If there is no such name.
    """
    return all(is_present(part, cache) for part in all_weights(name))


def weights_path(name: str, *, progress: Progress | None = None, cache: Cache | None = None) -> Path:
    """Return a model's checked weight file; fetch and convert what is missing.

    Args:
        name: A name of the catalogue.
        progress: Told how far the download is; None shows bars on a terminal and plain lines elsewhere.
        cache: The folder of weights; None means the user's.

    Raises:
        ModelError: If there is no such name.
        WeightsError: If the weights are missing and cannot be fetched, or damaged.
    """
    with ExitStack() as stack:
        return materialise(find(name).weights, cache, progress or stack.enter_context(shown_progress()))
