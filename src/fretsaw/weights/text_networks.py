"""Where the networks of the text mode come from: CLIP with its tokenizer, DINO and DINOv2.

Commits of the model hub are pinned where they are known to this project; `MAIN` stands where none is, and the checksum recorded at the first download is
compared from then on, so that a changed file is still noticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fretsaw.weights.definitions import Route, WeightFile, Weights
from fretsaw.weights.states import load_state_dict

if TYPE_CHECKING:
    from torch import Tensor

MAIN = "main"
CLIP_B16 = "openai/clip-vit-base-patch16@57c216476eefef5ab752ec549e440a49ae4ae5f3"
MERGES = "tokenizer.merges"
"""See `fretsaw.backbones.clip.MERGES`."""


def convert_clip(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """Join CLIP's parameters and its tokenizer's merge table, so that one file is all that a network needs."""
    import torch

    return {**load_state_dict(files["network"]), MERGES: torch.frombuffer(bytearray(files["merges"].read_bytes()), dtype=torch.uint8)}


def clip(name: str, repository: str, member: str, origin: str, parameters: int) -> Weights:
    """CLIP in a repository of the hub; the merge table, the same for all, is that of B/16."""
    network = WeightFile(f"hub:{repository}", member)
    route = Route({"network": network, "merges": WeightFile(f"hub:{CLIP_B16}", "merges.txt")}, convert_clip)
    return Weights(name, (route,), "MIT", origin, 4 * parameters)


def dino(name: str, repository: str, members: tuple[str, ...], origin: str, parameters: int) -> Weights:
    """DINO or DINOv2 in a repository of the hub, under the first of the file names that is there."""
    routes = tuple(Route({"network": WeightFile(f"hub:{repository}", member)}) for member in members)
    return Weights(name, routes, "Apache-2.0", origin, 4 * parameters)


_OLD = ("pytorch_model.bin", "model.safetensors")
_NEW = ("model.safetensors",)

NETWORKS: tuple[Weights, ...] = (
    clip("clip-vit-b16", CLIP_B16, "pytorch_model.bin", "OpenAI, CLIP (2021), ViT-B/16", 149620737),
    clip(
        "clip-vit-l14",
        "openai/clip-vit-large-patch14@32bd64288804d66eefd0ccbe215aa642df71cc41",
        "model.safetensors",
        "OpenAI, CLIP (2021), ViT-L/14",
        427616513,
    ),
    clip(
        "clip-vit-h14",
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K@1c2b8495b28150b8a4922ee1c8edee224c284c0c",
        "open_clip_model.safetensors",
        "LAION, OpenCLIP (2022), ViT-H/14",
        986109441,
    ),
    dino("dino-vit-b8", f"facebook/dino-vitb8@{MAIN}", _OLD, "Meta, DINO (2021), ViT-B/8", 85807872),
    dino("dino-vit-b16", "facebook/dino-vitb16@f205d5d8e640a89a2b8ef0369670dfc37cc07fc2", _OLD, "Meta, DINO (2021), ViT-B/16", 85798656),
    dino("dino-vit-s8", f"facebook/dino-vits8@{MAIN}", _OLD, "Meta, DINO (2021), ViT-S/8", 21670272),
    dino("dino-vit-s16", "facebook/dino-vits16@abe3b354cb6a9b6f146096b14a4a9d7eecbcb4bd", _OLD, "Meta, DINO (2021), ViT-S/16", 21665664),
    dino("dinov2-vit-s14", "facebook/dinov2-small@ed25f3a31f01632728cabb09d1542f84ab7b0056", _NEW, "Meta, DINOv2 (2023), ViT-S/14", 22056576),
    dino("dinov2-vit-b14", "facebook/dinov2-base@f9e44c814b77203eaa57a6bdbbd535f21ede1415", _NEW, "Meta, DINOv2 (2023), ViT-B/14", 86580480),
)
"""The networks' weights, in the order of the catalogue."""
