"""Peak memory of S2CLIP's whole call with networks of their real sizes; `python experiments/s2clip/table4.py --memory` runs it.

The weights are random: memory does not depend on them. Two things are planted. The logits of the words, after the networks have made theirs, so that the label
map has the blobs of a real one; and the predicted IoU, so that every mask is accepted, which is the dearest case.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fretsaw.backbones import clip as clips
from fretsaw.backbones import dino, sam
from fretsaw.methods.s2clip.build import build_s2clip
from fretsaw.methods.s2clip.model import S2clip
from fretsaw.methods.s2clip.settings import TextSettings
from fretsaw.methods.sam_clicks import build_sam

LAYERS = {"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 768, "intermediate_size": 3072}
CLIP_B16 = {
    "projection_dim": 512,
    "vision_config": {**LAYERS, "patch_size": 16, "image_size": 224, "projection_dim": 512},
    "text_config": {**LAYERS, "num_attention_heads": 8, "hidden_size": 512, "intermediate_size": 2048, "vocab_size": 49408, "projection_dim": 512},
}


def random_state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: 0.02 * torch.randn(value.shape) + float("norm" in name and name.endswith("weight")) for name, value in module.state_dict().items()}


def real_sizes() -> S2clip:
    """S2CLIP of CLIP ViT-B/16, DINO ViT-B/8 and SAM ViT-B, the catalogue's s2clip, with random weights."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    letters = list(clips.vocabulary([]))[:256]
    pairs = [f"{a} {b}" for a in letters for b in letters][: 49408 - 514]
    merges = torch.frombuffer(bytearray("\n".join(["#version: 0.2", *pairs]).encode()), dtype=torch.uint8)
    clip = clips.build_clip({**random_state(clips.build_model(CLIP_B16)), clips.MERGES: merges})
    with torch.device("meta"):
        vit = ViTModel(ViTConfig(**LAYERS, patch_size=8, image_size=224), add_pooling_layer=False)
    patches = dino.build_dino(random_state(vit))
    state = random_state(sam.build_model(sam.VIT_BASE, 1024))
    state["prompt_encoder.shared_embedding.positional_embedding"] = state["shared_image_embedding.positional_embedding"]
    state["mask_decoder.iou_prediction_head.proj_out.bias"] += 1
    return build_s2clip(clip, patches, build_sam(state, sam.VIT_BASE))


class Peaks:
    """The highest memory between marks, above what was taken when it was made; MiB."""

    def __init__(self, device: str) -> None:
        self._gpu = device != "cpu"
        self._before = self._now("VmRSS")
        self.found: dict[str, float] = {}
        self._reset()

    def mark(self, name: str) -> None:
        self.found[name] = max(self.found.get(name, 0.0), self._now("VmHWM") - self._before)
        self._reset()

    def after(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the call, with a mark at its end."""

        def marked(*arguments: Any, **options: Any) -> Any:
            result = call(*arguments, **options)
            self.mark(name)
            return result

        return marked

    def _now(self, field: str) -> float:
        if self._gpu:
            return (torch.cuda.max_memory_allocated() if field == "VmHWM" else torch.cuda.memory_allocated()) / 2**20
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) / 1024

    def _reset(self) -> None:
        if self._gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the highest resident memory starts anew from what is resident now


def measure_memory(side: int, classes: int, device: str, planted: Tensor) -> None:
    """Print the peak of one whole call, stage by stage.

    Args:
        side: Rows and columns of the image.
        classes: Names.
        device: "cpu" or "cuda".
        planted: (classes, h, w) logits that take the place of those of the random networks.
    """
    model = real_sizes().to(device)
    assert model.sam is not None
    assert model.patches is not None
    names = [f"thing {number}" for number in range(classes)]
    vectors = F.normalize(torch.randn(classes, 512), dim=-1)
    # one name goes through the text network; the others would take the same memory one after the other, and minutes
    model.embeddings._known |= dict(zip(names[1:], vectors[1:], strict=True))
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    peaks = Peaks(device)
    own = model.word_logits

    def word_logits(*arguments: Any) -> Tensor:
        grid = own(*arguments).shape[-2:]
        peaks.mark("names, SAM's correlation, splice")
        return F.interpolate(planted[None].to(device), size=grid, mode="bilinear")[0]

    model.word_logits = word_logits
    model.sam.encode = peaks.after("SAM's encoder", model.sam.encode)
    model.clip.tokens = peaks.after("CLIP's windows", model.clip.tokens)
    model.values = peaks.after("CLIP's layers correct its values", model.values)
    model.patches.forward = peaks.after("DINO's windows", model.patches.forward)
    model.refine = peaks.after("label map and refinement", model.refine)
    started = time.perf_counter()
    settings = TextSettings(coarse_threshold=0.05, minimum_area=side * side // 400)
    result = model(image, names, [], settings)
    peaks.mark("probabilities of the result")
    print(f"\n{side} x {side} pixels, {classes} names; CLIP ViT-B/16, DINO ViT-B/8 and SAM ViT-B with random weights; {time.perf_counter() - started:.0f} s")
    print(f"labels {result.labels.shape}, {len(np.unique(result.labels))} classes; probabilities {result.probabilities.shape} {result.probabilities.dtype}")
    print("\n| up to the end of | peak above the networks, MiB |\n|---|---|")
    for name, peak in peaks.found.items():
        print(f"| {name} | {peak:.0f} |")
    print(f"| **the whole call** | **{max(peaks.found.values()):.0f}** |")
    print(f"\nAll probabilities alone would take {classes * side * side * 4 / 2**20:.0f} MiB.")
