"""Models that are made of several networks of the catalogue: S2CLIP, Trident and plain CLIP."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fretsaw.catalog import CATALOGUE, build_file, find, weights_path
from fretsaw.catalog.entries import Network, Parts
from fretsaw.errors import MissingWeightsError, ModelError, shown
from fretsaw.weights import Cache, Progress, checksum, fitting, load_state_dict, missing_parts_message
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
    found, missing = {}, []
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


def assemble(kind: str, networks: Mapping[str, Network], size: int | None) -> Parts:
    """Build a text model.

    Args:
        kind: The name of its function in `fretsaw.methods.s2clip.build`.
        networks: By role: "clip" alone, or with "dino" (DINO, DINOv2, or SAM with its plain ViT) and "sam" (whatever takes clicks).
        size: Side of SAM's input in pixels; None for its own.

    Raises:
        ModelError: If a network does not suit its role.
        WeightsError: If weights are damaged or do not fit.
    """
    from fretsaw.backbones.clip import build_clip
    from fretsaw.backbones.dino import build_dino
    from fretsaw.methods.s2clip import build as builders

    with fitting(networks["clip"].path, "the parameters of CLIP and its tokenizer's merge table"):
        clip = build_clip(load_state_dict(networks["clip"].path), networks["clip"].checksum)
        clip.require_words()
    if set(networks) == {"clip"}:
        return Parts(text=builders.build_floor(clip))
    parts = clicks_of(networks["sam"], size)
    dino = networks["dino"]
    assert parts.clicks is not None
    if dino.name in CATALOGUE and find(dino.name).build is not None:  # SAM's own encoder in DINO's place
        patches = builders.sam_patches(parts.clicks if dino.name == networks["sam"].name else clicks_of(dino, size).clicks)
    else:
        with fitting(dino.path, "the parameters of DINO or DINOv2"):
            patches = build_dino(load_state_dict(dino.path))
    text = getattr(builders, kind)(clip, patches, parts.clicks)
    return replace(parts, text=text, taps=(*parts.taps, *text.taps))


def clicks_of(network: Network, size: int | None) -> Parts:
    """Build a model that takes clicks, from the catalogue or from a file: SAM, SAM 2, HRSAM, or what a recipe wrote."""
    if network.name not in CATALOGUE:
        return build_file(network.path, size)
    entry = find(network.name)
    assert entry.build is not None  # `check_roles` let it pass
    with fitting(network.path, f"the weights of {network.name}"):
        return entry.build(network.path, size, network.checksum)
