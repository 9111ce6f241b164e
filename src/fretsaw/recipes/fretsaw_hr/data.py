"""What a view keeps of the teacher: its embedding, and the maps at the blocks that change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.types import ImageEmbedding

ENTRY = "entry"
"""The tap that holds what the first block with global attention sees, (B, h, w, C)."""


def attended(block: int) -> str:
    """Return the name of the tap that holds the teacher's map behind a block's attention, before its MLP, (B, h, w, C)."""
    return f"attended{block}"


def seen(teacher: SamClicks, pixels: Tensor) -> ImageEmbedding:
    """Return SAM 2's embedding of pixels with the taps `ENTRY`, and `attended` of each block with global attention."""
    encoder: Any = teacher.image_encoder
    taps: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module) -> Any:
        return module.register_forward_pre_hook(lambda _module, inputs: taps.__setitem__(name, inputs[0]))

    numbers = encoder.mixed_layers()
    hooks = [keep(ENTRY, encoder.trunk.blocks[numbers[0]])]
    hooks += [keep(attended(number), encoder.trunk.blocks[number].layer_norm2) for number in numbers]
    try:
        with torch.no_grad():
            embedding = teacher.encoder(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    return ImageEmbedding(embedding.final, embedding.high_res, taps)
