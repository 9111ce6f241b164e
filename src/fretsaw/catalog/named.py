"""Builders of models that cut by name, out of several networks: S2CLIP, Trident and plain CLIP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fretsaw.catalog.entries import Network, OtherModels, Parts
from fretsaw.weights import fitting, load_state_dict

if TYPE_CHECKING:
    from fretsaw.backbones.clip import Clip


def build_maskclip(networks: Mapping[str, Network], size: int | None, others: OtherModels) -> Parts:
    """Build plain CLIP, see `build_s2clip`."""
    from fretsaw.methods.s2clip import build

    return Parts(text=build.build_floor(_clip(networks["clip"])))


def build_s2clip(networks: Mapping[str, Network], size: int | None, others: OtherModels) -> Parts:
    """Build S2CLIP.

    Args:
        networks: By role: "clip", "dino" (DINO, DINOv2, or SAM with its plain ViT) and "sam" (whatever takes clicks).
        size: Side of SAM's input in pixels; None for its own.
        others: The catalogue's other models.

    Raises:
        ModelError: If a network does not suit its role.
        WeightsError: If weights are damaged or do not fit.
    """
    from fretsaw.methods.s2clip import build

    return _with_clicks(build.build_s2clip, networks, size, others)


def build_trident(networks: Mapping[str, Network], size: int | None, others: OtherModels) -> Parts:
    """Build Trident; for the arguments and errors see `build_s2clip`."""
    from fretsaw.methods.s2clip import build

    return _with_clicks(build.build_trident, networks, size, others)


def _with_clicks(build: Callable[..., Any], networks: Mapping[str, Network], size: int | None, others: OtherModels) -> Parts:
    from fretsaw.backbones.dino import build_dino
    from fretsaw.methods.s2clip.build import sam_patches

    clip, dino = _clip(networks["clip"]), networks["dino"]
    parts = others.of_network(networks["sam"], size)
    assert parts.clicks is not None  # `text.check_roles` let it pass
    if others.takes_clicks(dino.name):  # SAM's own encoder in DINO's place
        patches = sam_patches(parts.clicks if dino.name == networks["sam"].name else others.of_network(dino, size).clicks)
    else:
        with fitting(dino.path, "the parameters of DINO or DINOv2"):
            patches = build_dino(load_state_dict(dino.path))
    text = build(clip, patches, parts.clicks)
    return replace(parts, text=text, taps=(*parts.taps, *text.taps))


def _clip(network: Network) -> Clip:
    from fretsaw.backbones.clip import build_clip

    with fitting(network.path, "the parameters of CLIP and its tokenizer's merge table"):
        clip = build_clip(load_state_dict(network.path), network.checksum)
        clip.require_words()
    return clip
