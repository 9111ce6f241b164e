"""The dual-branch encoder: Hiera's four stages, local, and U²-Net's six levels, global, both frozen and matched by level.

Legend: B images, S side of the model frame, C channels of a level or stage.

| pair | U²-Net's level (side u of its own input) | Hiera's stage | fused at |
|---|---|---|---|
| 1 | stage1d, u | 1, S/4 | S/4 |
| 2 | stage2d, u/2 | 1, S/4 | S/4 |
| 3 | stage3d, u/4 | 2, S/8 | S/8 |
| 4 | stage4d, u/8 | 3, S/16 | S/16 |
| 5 | stage5d, u/16 | 4, S/32 | S/32 |
| 6 | stage6, u/32 | 4, S/32 | S/32 |

Deviation: an encoder without a fourth stage (`fretsaw-tiny`) has its third, pooled to S/32, in that place.

Source: PMG-SAM (paper 001), section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw.backbones.u2net import MEAN, SIDE, STD, U2Net
from fretsaw.errors import ModelError
from fretsaw.layers.resampling import resize
from fretsaw.types import ImageEmbedding, ImageEncoder

STAGES = ("stage1", "stage2", "stage3", "stage4")
"""Names of the image encoder's taps that are Hiera's stages, the finest first."""

LEVELS = 6


@dataclass(frozen=True, slots=True)
class Pair:
    """A level of U²-Net, 1 (finest) to 6, and the stage of Hiera, 1 to 4, that it is fused with, on the stage's grid."""

    level: int
    stage: int


PAIRS = (Pair(1, 1), Pair(2, 1), Pair(3, 2), Pair(4, 3), Pair(5, 4), Pair(6, 4))


@dataclass(frozen=True, slots=True)
class DualFeatures:
    """What the frozen networks say about images; all that the trained part sees.

    Attributes:
        stages: Hiera's four stages, (B, C, S/4, S/4) to (B, C, S/32, S/32).
        levels: U²-Net's six levels, each on the grid of the stage it is paired with.
        map_logits: (B, 1, S/4, S/4) U²-Net's own fused map.
        final: (B, C, S/16, S/16) the image encoder's embedding.
        high_res: The image encoder's two finer maps, see `ImageEmbedding`.
    """

    stages: tuple[Tensor, ...]
    levels: tuple[Tensor, ...]
    map_logits: Tensor
    final: Tensor
    high_res: tuple[Tensor, ...]

    def named(self) -> dict[str, Tensor]:
        """Return every tensor by name, the form in which a cache stores them."""
        groups = {"stages": self.stages, "levels": self.levels, "high_res": self.high_res}
        return {f"{name}.{i}": value for name, values in groups.items() for i, value in enumerate(values)} | {
            "map_logits": self.map_logits,
            "final": self.final,
        }

    @classmethod
    def from_named(cls, tensors: dict[str, Tensor]) -> DualFeatures:
        """Undo `named`."""

        def group(name: str) -> tuple[Tensor, ...]:
            return tuple(tensors[f"{name}.{i}"] for i in range(sum(key.startswith(f"{name}.") for key in tensors)))

        return cls(group("stages"), group("levels"), tensors["map_logits"], tensors["final"], group("high_res"))


class DualBranch(nn.Module):
    """U²-Net beside an image encoder whose embedding exists already; frozen, and pairs the two.

    Args:
        saliency: U²-Net, whole or small.
        side: Side of its input, which is made from the model frame's pixels.
        pairs: Which stage's grid a level is brought to.
        mean: Of the model frame's pixels, per channel, in [0, 1] units.
        std: The same.

    Source: PMG-SAM (paper 001), section 3.2.

    Deviation: U²-Net sees 320 x 320 pixels, as it was trained, unless told otherwise; the paper feeds one size to both.
    """

    def __init__(
        self,
        saliency: U2Net,
        side: int = SIDE,
        pairs: tuple[Pair, ...] = PAIRS,
        mean: tuple[float, float, float] = MEAN,
        std: tuple[float, float, float] = STD,
    ) -> None:
        super().__init__()
        # A CPU runs its small convolutions a quarter faster so; the numbers are the same to rounding.
        frozen = cast("Any", saliency.eval().requires_grad_(False))  # torch's stubs lack the argument
        self.saliency = cast("U2Net", frozen.to(memory_format=torch.channels_last))
        self._side, self._pairs, self._mean, self._std = side, pairs, mean, std

    def train(self, mode: bool = True) -> DualBranch:
        """Stay in eval mode: the branch is frozen."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: Tensor, embedding: ImageEmbedding) -> DualFeatures:
        """Return the paired features.

        Args:
            pixels: (B, 3, S, S) in the model frame, normalised.
            embedding: Of the same pixels, with the taps "stage1" to "stage4", or to "stage3".

        Raises:
            ModelError: If the embedding lacks a stage.
        """
        stages = stages_of(embedding)
        pixels = pixels.to(stages[0].device, torch.float32)
        decoded = self.saliency.decode(self.saliency.encode(self._saliency_pixels(pixels)))
        fused = self.saliency.maps(decoded)[0]
        grids = {pair.level: stages[pair.stage - 1].shape[-2:] for pair in self._pairs}
        levels = tuple(resize(level, *grids[i]) for i, level in enumerate(decoded, start=1))
        return DualFeatures(stages, levels, resize(fused, *stages[0].shape[-2:]), embedding.final, embedding.high_res)

    def _saliency_pixels(self, pixels: Tensor) -> Tensor:
        """Bring the model frame's pixels to U²-Net's normalisation and side."""
        mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (self._mean, self._std))
        values = resize(pixels * std + mean, self._side, self._side).clamp(0, 1)
        values = values / values.amax((1, 2, 3), keepdim=True).clamp(min=1e-6)
        own_mean, own_std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        return ((values - own_mean) / own_std).contiguous(memory_format=torch.channels_last)


def stage_taps(encoder: ImageEncoder) -> tuple[str, ...]:
    """Return which of `STAGES` an image encoder has to offer."""
    return tuple(name for name in STAGES if name in encoder.available_taps)


def stages_of(embedding: ImageEmbedding) -> tuple[Tensor, ...]:
    """Return an embedding's four stage taps as float32; where the encoder ends with the third, the fourth is the third at half its side.

    Raises:
        ModelError: If one of the first three is missing.
    """
    missing = [name for name in STAGES[:3] if name not in embedding.taps]
    if missing:
        raise ModelError(f"expected an image encoder that keeps its stages ({', '.join(STAGES)}) as taps, got one without {', '.join(missing)}")
    stages = tuple(embedding.taps[name].float() for name in STAGES if name in embedding.taps)
    return stages if len(stages) == len(STAGES) else (*stages, F.avg_pool2d(stages[-1], 2))
