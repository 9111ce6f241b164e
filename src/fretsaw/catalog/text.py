"""The networks of models that are made of several: which take which role, and their files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from fretsaw.catalog.entries import Network
from fretsaw.catalog.lookup import find, weights_path
from fretsaw.catalog.table import CATALOGUE
from fretsaw.errors import MissingWeightsError, ModelError, shown
from fretsaw.weights import Cache, Progress, Weights, checksum, fitting, missing_parts_message
from fretsaw.weights.files import sha256_of
from fretsaw.weights.states import is_file

WANTED = {
    "clip": "a CLIP in the place of CLIP",
    "dino": "a DINO, DINOv2 or SAM's plain ViT in the place of DINO",
    "sam": "a model that takes clicks in the place of SAM",
}
"""What each role wants, for messages."""


def fetch(name: str, networks: Mapping[str, str], *, progress: Progress | None = None, cache: Cache | None = None) -> dict[str, Network]:
    """Return the checked weight files of the networks that a model is made of; fetch and convert what is missing.

    Args:
        name: The model's, for the message.
        networks: {role: name of the catalogue, or path of a weight file}.
        progress: See `weights_path`.
        cache: See `weights_path`.

    Raises:
        ModelError: If there is no such name or file, or a network does not suit its role; nothing is fetched then.
        MissingWeightsError: If any are missing and cannot be fetched; one message names all of them, with size and licence.
    """
    check_roles(networks)
    found: dict[str, Network] = {}
    missing: list[tuple[Weights, MissingWeightsError]] = []
    for role, network in networks.items():
        if network not in CATALOGUE and is_file(Path(network)):
            with fitting(Path(network), WANTED[role]):
                found[role] = Network(network, Path(network), sha256_of(Path(network)))
            continue
        try:
            path = weights_path(network, progress=progress, cache=cache)
            found[role] = Network(network, path, checksum(find(network).weights, cache))
        except MissingWeightsError as error:
            missing.append((find(network).weights, error))
    if missing:
        raise MissingWeightsError(missing_parts_message(name, missing))
    return found


def check_roles(networks: Mapping[str, str]) -> None:
    """Refuse networks that cannot take their roles; what a file holds shows when it is read.

    Args:
        networks: {role: name of the catalogue, or path of a weight file}.

    Raises:
        ModelError: If a name is unknown, a file does not exist, or a network of the catalogue is of another kind.
    """
    for role, network in networks.items():
        if network in CATALOGUE:
            entry = find(network)
            suits = {
                "clip": network.startswith("clip-"),
                "dino": network.startswith(("dino-", "dinov2-", "sam-vit-")),
                "sam": entry.build is not None and "click" in entry.mode,
            }
            if not suits[role]:
                raise ModelError(f"expected {WANTED[role]}, got {network}, a {entry.mode}")
        elif not is_file(Path(network)):
            if Path(network).suffix:
                raise ModelError(f"expected {WANTED[role]}, by name or as a weight file; got {shown(network)}, which is no file")
            find(network)


def identity(name: str) -> str:
    """Return 64 hexadecimal digits that name all networks of a model; what is missing is fetched first.

    Raises:
        MissingWeightsError: If any are missing and cannot be fetched.
    """
    networks = fetch(name, find(name).networks)
    return hashlib.sha256(" ".join(network.checksum for network in networks.values()).encode()).hexdigest()
