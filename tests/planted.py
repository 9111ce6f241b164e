"""Tiny CLIP, DINO and SAM that see nothing but colour, saved as published files are: the features of each patch are its colour, and the texts "red",
"green", ... point where their colours do. Every weight goes through the loading that users' files go through.

Blocks are made to do nothing (their output projections are zero), so what is left of each network is: patch -> colour -> LayerNorm -> the block that a method
reads. So the label map of an image of flat colours is known exactly.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from fretsaw import catalog
from fretsaw.backbones import clip as clips
from fretsaw.backbones import dino, sam
from fretsaw.weights import Route, WeightFile
from fretsaw.weights.files import sha256_of
from fretsaw.weights.text_networks import convert_clip
from tiny import TINY_SAM, random_weights

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255), "black": (0, 0, 0)}
MERGES = ["r e", "re d</w>", "g re", "gre e", "gree n</w>", "b l", "bl u", "blu e</w>", "w h", "wh i", "whi t", "whit e</w>", "bl a", "bla c", "blac k</w>"]
WIDTH = 64


def merges_text() -> str:
    return "\n".join(["#version: 0.2", *MERGES]) + "\n"


def clip_config(layers: int = 3) -> dict:
    return {
        "projection_dim": WIDTH,
        "vision_config": {
            "hidden_size": WIDTH,
            "intermediate_size": 32,
            "num_hidden_layers": layers,
            "num_attention_heads": 1,
            "patch_size": 16,
            "image_size": 64,
            "projection_dim": WIDTH,
        },
        "text_config": {
            "hidden_size": WIDTH,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "vocab_size": 512 + len(MERGES) + 2,
            "max_position_embeddings": 77,
            "projection_dim": WIDTH,
            "bos_token_id": 512 + len(MERGES),
            "eos_token_id": 513 + len(MERGES),
            "pad_token_id": 513 + len(MERGES),
        },
    }


def random_clip(seed: int = 0) -> dict[str, Tensor]:
    """Parameters of a random tiny CLIP, the merge table included."""
    state = random_weights(clips.build_model(clip_config()), seed)
    return {**state, clips.MERGES: torch.frombuffer(bytearray(merges_text().encode()), dtype=torch.uint8)}


def colour_patches(out: int, patch: int) -> Tensor:
    """A convolution whose first three channels are the patch's mean colour."""
    weight = torch.zeros(out, 3, patch, patch)
    for channel in range(3):
        weight[channel, channel] = 1 / patch**2
    return weight


def idle(state: dict[str, Tensor], *ends: str) -> None:
    """Zero the parameters whose names end so."""
    for name in state:
        if name.endswith(ends):
            state[name] = torch.zeros_like(state[name])


def plain_norms(state: dict[str, Tensor]) -> None:
    for name in state:
        if "norm" in name or "layrnorm" in name:
            state[name] = torch.ones_like(state[name]) if name.endswith("weight") else torch.zeros_like(state[name])


def planted_clip() -> dict[str, Tensor]:
    """CLIP that sees colours, and whose words are the colours' names."""
    state = random_clip()
    plain_norms(state)
    idle(state, "out_proj.weight", "out_proj.bias", "fc2.weight", "fc2.bias", "q_proj.weight", "q_proj.bias", "v_proj.bias")
    idle(state, "position_embedding.weight", "class_embedding", "token_embedding.weight")
    state["vision_model.embeddings.patch_embedding.weight"] = colour_patches(WIDTH, 16)
    eye = torch.eye(WIDTH)
    last = "vision_model.encoder.layers.2.self_attn."
    text = "text_model.encoder.layers.0.self_attn."
    for name in (last + "v_proj.weight", last + "out_proj.weight", text + "v_proj.weight", text + "out_proj.weight"):
        state[name] = eye
    state["visual_projection.weight"] = state["text_projection.weight"] = eye
    vocabulary = clips.vocabulary(clips.read_merges(merges_text().encode()))
    network = clips.build_clip(state)
    for name, colour in COLOURS.items():
        state["text_model.embeddings.token_embedding.weight"][vocabulary[f"{name}</w>"]] = colour_embedding(network, colour)
    return state


def colour_embedding(network: clips.Clip, colour: tuple[int, int, int]) -> Tensor:
    """What the planted image side makes of a patch of one colour."""
    pixels = (torch.tensor(colour) / 255 - torch.tensor(clips.MEAN)) / torch.tensor(clips.STD)
    layers = network.tokens(pixels.view(1, 3, 1, 1).expand(1, 3, 64, 64))
    values = network.last_heads(layers[-1], "value")[0, 0, 0]
    return network.embed(network.project(values))


def random_dino(seed: int = 0, patch: int = 8, second: bool = False) -> dict[str, Tensor]:
    """Parameters of a random tiny DINO, or DINOv2, under the names that transformers gives its modules."""
    from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 1, "patch_size": patch, "image_size": 8 * patch}
    with torch.device("meta"):
        model = Dinov2Model(Dinov2Config(**sizes, mlp_ratio=1)) if second else ViTModel(ViTConfig(**sizes, intermediate_size=32), add_pooling_layer=False)
    return random_weights(model, seed)


def planted_dino() -> dict[str, Tensor]:
    state = random_dino()
    plain_norms(state)
    idle(state, "o_proj.weight", "o_proj.bias", "fc2.weight", "fc2.bias", "position_embeddings", "cls_token", "projection.bias")
    state["embeddings.patch_embeddings.projection.weight"] = colour_patches(WIDTH, 8)
    return state


def planted_sam(predicted_iou: float) -> dict[str, Tensor]:
    """SAM whose places correlate by colour and whose decoder is random, but for the IoU that it predicts for every mask."""
    state = random_weights(sam.build_model(TINY_SAM, 128))
    vision = {name: value for name, value in state.items() if name.startswith("vision_encoder.")}
    plain_norms(vision)
    idle(vision, "attn.proj.weight", "attn.proj.bias", "lin2.weight", "lin2.bias", "pos_embed", "rel_pos_h", "rel_pos_w", "qkv.bias", "projection.bias")
    # both heads see the colour
    vision["vision_encoder.patch_embed.projection.weight"] = colour_patches(16, 16).repeat(2, 1, 1, 1)
    last = "vision_encoder.layers.3.attn.qkv.weight"
    vision[last] = torch.cat([torch.zeros(64, 32), torch.eye(32)])
    state |= vision
    head = "mask_decoder.iou_prediction_head.proj_out."
    state[head + "weight"] = torch.zeros_like(state[head + "weight"])
    state[head + "bias"] = torch.full_like(state[head + "bias"], predicted_iou)
    return state


def install(monkeypatch, folder: Path, states: dict[str, dict[str, Tensor]]) -> None:
    """Put files into the catalogue in the place of published ones; CLIP's goes through its converter, merge table apart, as the hub's does."""
    monkeypatch.setattr(sam, "VIT_BASE", TINY_SAM)
    for name, state in states.items():
        path = folder / f"{name}.safetensors"
        save_file({key: value.contiguous().clone() for key, value in state.items() if key != clips.MERGES}, path)
        files = {"network": WeightFile(f"file:{path}", "", path.stat().st_size, sha256_of(path))}
        convert = None
        if clips.MERGES in state:
            merges = folder / "merges.txt"
            merges.write_text(merges_text())
            files["merges"] = WeightFile(f"file:{merges}", "", merges.stat().st_size, sha256_of(merges))
            convert = convert_clip
        entry = catalog.CATALOGUE[name]
        monkeypatch.setitem(catalog.CATALOGUE, name, replace(entry, weights=replace(entry.weights, routes=(Route(files, convert),))))


def scene(size: tuple[int, int] = (128, 256)) -> tuple[np.ndarray, np.ndarray]:
    """An image of flat colours in rectangles on black, and the truth: 0 red, 1 green, 2 blue, -1 elsewhere."""
    height, width = size
    image, truth = np.zeros((height, width, 3), np.uint8), np.full((height, width), -1, np.int32)
    for number, (name, (y0, x0, y1, x1)) in enumerate({"red": (0, 0, 0.5, 0.25), "green": (0.25, 0.5, 1, 0.75), "blue": (0.75, 0, 1, 0.25)}.items()):
        rows, columns = slice(round(y0 * height), round(y1 * height)), slice(round(x0 * width), round(x1 * width))
        image[rows, columns] = COLOURS[name]
        truth[rows, columns] = number
    return image, truth


assert dino.HEAD_SIZE == WIDTH
