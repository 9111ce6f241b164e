"""Every model by name: `list_models`, `find` and `build`.

`table.py` is the one place to add a model to. Nothing in this folder imports from here: a builder that needs another model is handed `OTHERS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fretsaw.catalog import builders, standing, text
from fretsaw.catalog.entries import Entry as Entry
from fretsaw.catalog.entries import Network, Parts
from fretsaw.catalog.lookup import all_weights as all_weights
from fretsaw.catalog.lookup import find, is_ready, source_of, weights_path
from fretsaw.catalog.refiners import build_refiner as build_refiner
from fretsaw.catalog.table import CATALOGUE
from fretsaw.catalog.table import DEFAULT as DEFAULT
from fretsaw.errors import ModelError, ShapeError, shown
from fretsaw.weights import Cache, Progress, checksum, fitting
from fretsaw.weights.states import is_file

MOST_SIDE = 16384
"""Pixels of the greatest side of a model's input."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What `fretsaw.list_models()` says about a model.

    Attributes:
        name: For `fretsaw.load`.
        mode: See `Entry`.
        size: Bytes of the published weights.
        licence: SPDX identifier of the weights.
        source: Client and package that they come from.
        present: Whether the model is ready to load: its own weights and those of the networks that it stands on are on this machine.
    """

    name: str
    mode: str
    size: int
    licence: str
    source: str
    present: bool


def list_models(cache: Cache | None = None) -> list[ModelInfo]:
    """Return all models, the default first, then in the catalogue's order; no file is read.

    Args:
        cache: The folder of weights; None means the user's.
    """
    cache = cache or Cache()
    return [ModelInfo(name, entry.mode, entry.weights.size, entry.weights.licence, source_of(name), is_ready(name, cache)) for name, entry in CATALOGUE.items()]


def build(
    name: str, *, size: int | None = None, networks: Mapping[str, str] | None = None, progress: Progress | None = None, cache: Cache | None = None
) -> Parts:
    """Fetch a model's weights if they are missing, and build it.

    Args:
        name: A name of the catalogue, or the path of a weight file of SAM, SAM 2 or HRSAM, whose size the file itself tells.
        size: Side of the model's input in pixels; None for the model's own.
        networks: {role: name or path} of other networks for a model that is made of several.
        progress: Told how far the download is; None shows bars on a terminal and plain lines elsewhere.
        cache: The folder of weights; None means the user's.

    Raises:
        ModelError: If there is no such name, or it is a backbone, which cuts nothing by itself, or a role is not one of the model's.
        WeightsError: If the weights are missing and cannot be fetched, damaged, or do not fit; the message names the file.
        ShapeError: If the size is no side of an image, or the model cannot have it.
    """
    if size is not None and (type(size) is not int or not 1 <= size <= MOST_SIDE):
        raise ShapeError(f"expected the side of the model's input as a whole number of pixels from 1 to {MOST_SIDE}, got {shown(size)}")
    if name not in CATALOGUE and is_file(Path(name)):
        if networks:
            raise ModelError(f"expected networks for a model that is made of several, got {', '.join(map(str, networks))} for the file {name}")
        return build_file(Path(name), size)
    entry = find(name)
    unknown = sorted(set(networks or {}) - set(entry.networks))
    if unknown:
        raise ModelError(f"expected networks of {name} by the roles {', '.join(entry.networks) or '(none)'}, got {', '.join(unknown)}")
    if entry.assemble is not None:
        chosen = {**entry.networks, **(networks or {})}
        return entry.assemble(text.fetch(name, chosen, progress=progress, cache=cache), size, OTHERS)
    if entry.build is None:
        usable = ", ".join(other for other, its in CATALOGUE.items() if its.cuts)
        raise ModelError(f"expected a model that cuts, got {name!r}, a {entry.mode} that other models use; models that cut are {usable}")
    path = weights_path(name, progress=progress, cache=cache)
    with fitting(path, f"the weights of {name}"):
        return entry.build(path, size, checksum(entry.weights, cache), OTHERS)


def build_file(path: Path, size: int | None) -> Parts:
    """Build SAM, SAM 2 or HRSAM from a file outside the catalogue; names and shapes of its parameters say which of them it is; or what a
    recipe wrote, by its metadata.

    Args:
        path: `.safetensors`, or a checkpoint of PyTorch, of which nothing is run. Names are transformers', those of the original SAM or HRSAM checkpoints, or
            what `fretsaw train hrsam` wrote.
        size: Side of the model's input in pixels; None for the model's own.

    Raises:
        ModelError: If the parameters are those of another network.
        WeightsError: If the file is damaged, holds something else in the place of its tensors, or they do not fit; the message names the file.
    """
    return builders.build_file(path, size, OTHERS)


class _Catalogue:
    """What builders ask of the catalogue, see `entries.OtherModels`."""

    def has(self, name: str) -> bool:
        return name in CATALOGUE

    def takes_clicks(self, name: str) -> bool:
        return name in CATALOGUE and CATALOGUE[name].build is not None

    def weights_path(self, name: str) -> Path:
        return weights_path(name)

    def underneath(self, path: Path, name: str, size: int | None) -> Parts:
        return standing.build_underneath(path, name, size, known=self.has, build=lambda name, size: build(name, size=size))

    def of_network(self, network: Network, size: int | None) -> Parts:
        if network.name not in CATALOGUE:
            return build_file(network.path, size)
        make = find(network.name).build
        assert make is not None  # `text.check_roles` let it pass
        with fitting(network.path, f"the weights of {network.name}"):
            return make(network.path, size, network.checksum, self)


OTHERS = _Catalogue()
"""The catalogue as builders see it."""
