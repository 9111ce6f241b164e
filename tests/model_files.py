"""Small sound files of every kind that Fretsaw reads a model from, and what reads them; tests and the fuzz suite damage them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp

import torch
from torch import Tensor

from fretsaw import catalog
from fretsaw.backbones import sam, sam2, sam_keys, u2net
from fretsaw.catalog import named, refiners, text
from fretsaw.catalog.entries import Entry, Network, OtherModels, Parts
from fretsaw.methods import fretsaw_hr, hrsam
from fretsaw.methods.first_cut import FirstCut
from fretsaw.methods.grc_sam.build import Description, build_network
from fretsaw.methods.hrsam_lite import HrsamLiteEncoder
from fretsaw.methods.pmg_sam.build import PmgSettings, build_pmg_sam
from fretsaw.methods.pmg_sam.stored import started
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.methods.sam_ref.model import SamRef
from fretsaw.weights import low_rank
from planted import random_clip, random_dino
from tiny import CHANNELS, TINY_SAM, TINY_SAM2, random_weights, tiny_sam2

BASE = "tiny-base"
"""The name in the catalogue of the model that trained files stand on."""

WIDE_SAM2 = {**TINY_SAM2, "trunk": {**TINY_SAM2["trunk"], "hidden_size": 96, "embed_dim_per_stage": [96, 96, 96, 96], "blocks_per_stage": [1, 2, 8, 1]}}
WIDE_SAM = {**TINY_SAM, "vision": {**TINY_SAM["vision"], "hidden_size": 768, "num_hidden_layers": 1, "global_attn_indexes": [0], "mlp_dim": 8}}


@dataclass(frozen=True)
class Sample:
    """A sound file's content, and the door that reads it.

    Attributes:
        suffix: Of the file's name.
        tensors: Parameters by name.
        metadata: Of a safetensors file.
        load: Reads a file at a path as a model; raises a `FretsawError` for one that is none.
    """

    suffix: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    load: Callable[[Path], object]

    def write(self, path: Path, legacy: bool = False) -> Path:
        return write(path, self.tensors, self.metadata, legacy)


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], legacy: bool = False) -> Path:
    """Write a file of the kind that the path's suffix names; `legacy` is the older of the two formats of `torch.save`."""
    if path.suffix == ".safetensors":
        from safetensors.torch import save

        path.write_bytes(save({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, dict(metadata)))
    else:
        torch.save(dict(tensors), path, _use_new_zipfile_serialization=not legacy)
    return path


def install(set_attribute: Callable[[object, str, object], None], set_item: Callable[[dict, str, object], None]) -> None:
    """Put tiny tables in the place of the published ones, and a tiny model into the catalogue; the arguments are monkeypatch's `setattr` and `setitem`."""
    saliency = u2net.load_u2netp()
    # read once: it is no input here, and takes longer than all else
    set_attribute(FirstCut, "build", lambda clicks: None)
    set_attribute(u2net, "load_u2netp", lambda: saliency)
    set_attribute(sam2, "HIERA_TINY", WIDE_SAM2)
    set_attribute(sam, "VIT_BASE", WIDE_SAM)
    # the size of all published decoders takes 16 MB
    set_attribute(hrsam, "build_prompt_parts", partial(sam.build_prompt_parts, config=TINY_SAM))
    weights = catalog.CATALOGUE["u2netp"].weights  # any that are here

    def base(path: Path, size: int | None, checksum: str, others: OtherModels) -> Parts:
        return Parts(clicks=tiny_sam2(size or 128))

    set_item(catalog.CATALOGUE, BASE, Entry("click", weights, base))


def build(path: Path) -> object:
    return catalog.build(str(path), size=64)


def build_refined(path: Path) -> object:
    refiner, clicks = refiners.build_refiner(path, BASE), tiny_sam2(128)
    refiners.require_fit(refiner, clicks, path)
    refiners.install_decoder(path, BASE, clicks)
    return refiner


def build_words(path: Path) -> object:
    return named.build_maskclip(text.fetch("maskclip", {"clip": str(path)}), None, catalog.OTHERS)


def build_patches(path: Path) -> object:
    networks = {"clip": Network("clip", clip_file(), ""), "sam": Network(BASE, path, "")}
    return named.build_s2clip({**networks, **text.fetch("s2clip", {"dino": str(path)})}, 64, catalog.OTHERS)


@cache
def clip_file() -> Path:
    return write(Path(mkdtemp(prefix="clip-")) / "clip.safetensors", random_clip(), {})


SETTINGS = PmgSettings((8, 16, 32, 64), (64,) * 6, dim=CHANNELS, width=8, blocks=1, iterations=1, hidden=64, heads=2, patch=4, dense=8)


def trained(module: torch.nn.Module) -> dict[str, Tensor]:
    """A module's parameters after a little training."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: value + 0.01 * torch.randn(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in module.state_dict().items()
    }


def changed(module: torch.nn.Module) -> dict[str, Tensor]:
    return low_rank.compress(trained(module), module.state_dict(), rank=2)


@cache
def samples() -> dict[str, Sample]:
    """Return one of each kind by name; call `install` before they are read."""
    torch.manual_seed(0)
    model = tiny_sam2(64)
    network = build_pmg_sam(SETTINGS)
    about = Description(BASE, 64, ("background", "person"), (3,), width=16)
    grc = build_network(model, about)
    refiner = SamRef(width=8, blocks=1, channels=CHANNELS, levels=(CHANNELS // 8, CHANNELS // 4))
    encoder = hrsam.HRSAMEncoder(replace(hrsam.SIZES["t"], out_channels=CHANNELS))
    clicks = SamClicks(encoder, *sam.build_prompt_parts(prompt_weights(), 64, TINY_SAM), hrsam.Preprocessing(hrsam.longest_side, 64))
    pmg = low_rank.compress(trained(network), started(network, model), 2)
    original = {name: value.half() for name, value in random_weights(sam.build_model(WIDE_SAM, 64)).items()}
    decoder = {refiners.DECODER_PREFIX + name: value for name, value in changed(model.mask_decoder).items()}
    parts = fretsaw_hr.HighResolutionParts(window=6, shift=3, anchor=4, state_size=2)
    student = fretsaw_hr.HighResolutionEncoder(tiny_sam2(64).image_encoder, parts)
    high, described = low_rank.compress(trained(student), fretsaw_hr.started(student), 2), fretsaw_hr.describe_parts(parts)
    return {
        "sam": Sample(".safetensors", original, {}, build),
        "sam-original": Sample(".pth", sam_keys.to_original(original), {}, build),
        "sam2": Sample(".safetensors", random_weights(sam2.build_model(WIDE_SAM2, 64)), {}, build),
        "hrsam": Sample(".safetensors", clicks.state_dict(), {"hrsam": hrsam.describe_encoder(encoder)}, build),
        "pmg": Sample(".safetensors", pmg, {"recipe": "pmg_sam", "settings": json.dumps(SETTINGS.write()), "encoder": BASE, low_rank.RANK: "2"}, build),
        "grc": Sample(".safetensors", trained(grc), {"recipe": "grc_sam", **about.to_metadata()}, build),
        "student": Sample(".safetensors", half(HrsamLiteEncoder()), {"recipe": "hrsam_lite", "base": BASE, "size": "64"}, build),
        "high-resolution": Sample(
            ".safetensors", high, {"recipe": "fretsaw_hr", "fretsaw_hr": described, "base": BASE, "size": "64", low_rank.RANK: "2"}, build
        ),
        "clicked": Sample(".safetensors", changed(model.mask_decoder), {"recipe": "sam_ref", "model": BASE, low_rank.RANK: "2"}, build),
        "refiner": Sample(".safetensors", {**trained(refiner), **decoder}, {"config": json.dumps(refiner.config), low_rank.RANK: "2"}, build_refined),
        "clip": Sample(".safetensors", random_clip(), {}, build_words),
        "dino": Sample(".pth", random_dino(), {}, build_patches),
    }


def prompt_weights() -> dict[str, Tensor]:
    whole = sam.build_model(TINY_SAM, 64)
    del whole.vision_encoder
    return random_weights(whole)


def half(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.half() for name, value in module.state_dict().items()}
