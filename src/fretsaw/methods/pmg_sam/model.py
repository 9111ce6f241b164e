"""PMG-SAM's trained part: frozen features in, pre-mask and mask out; and the pieces that its ablations exchange.

Source: PMG-SAM (paper 001), figure 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw.layers.resampling import resize
from fretsaw.methods.pmg_sam.decoder import GuidedMaskDecoder
from fretsaw.methods.pmg_sam.feat_refiner import FeatRefiner
from fretsaw.methods.pmg_sam.pairing import PAIRS, DualFeatures, Pair


@dataclass(frozen=True, slots=True)
class PmgResult:
    """The two masks of one forward pass.

    Attributes:
        pre_mask: (B, 1, S/4, S/4) logits: where the object is.
        mask_logits: (B, 1, S/4, S/4): what belongs to it.
    """

    pre_mask: Tensor
    mask_logits: Tensor


class PmgSam(nn.Module):
    """Fusion, pre-mask and guided decoder.

    Args:
        fusions: One per pair, the finest first; see `drfm`.
        refiner: Fused levels to pre-mask.
        pyramid: Features to the decoder's image embedding.
        injection: Features to the two finer maps that are injected while upscaling, or to nothing.
        decoder: Guided by the pre-mask.
        pairs: Which level meets which stage.
        map_share: Share of U²-Net's own map that is added to the pre-mask's logits.

    Source: PMG-SAM (paper 001), figure 2.

    Deviation: `map_share` lets training start at U²-Net's map in place of nothing; 0 is the paper's network.
    """

    def __init__(
        self,
        fusions: Sequence[nn.Module],
        refiner: FeatRefiner,
        pyramid: nn.Module,
        injection: nn.Module,
        decoder: GuidedMaskDecoder,
        pairs: tuple[Pair, ...] = PAIRS,
        map_share: float = 0.0,
    ) -> None:
        super().__init__()
        self.fusions = nn.ModuleList(fusions)
        self.refiner, self.pyramid, self.injection, self.decoder = refiner, pyramid, injection, decoder
        self._pairs, self._map_share = pairs, map_share

    def forward(self, features: DualFeatures) -> PmgResult:
        """Locate, then refine."""
        pre_mask = self.locate(features)
        return PmgResult(pre_mask, self.refine(features, pre_mask))

    def locate(self, features: DualFeatures) -> Tensor:
        """Return the pre-mask's logits (B, 1, S/4, S/4)."""
        fused = [fusion(features.levels[pair.level - 1], features.stages[pair.stage - 1]) for fusion, pair in zip(self.fusions, self._pairs, strict=True)]
        pre_mask = self.refiner(fused)
        return pre_mask + self._map_share * features.map_logits if self._map_share else pre_mask

    def refine(self, features: DualFeatures, pre_mask: Tensor) -> Tensor:
        """Return mask_logits (B, 1, S/4, S/4) for a pre-mask, this network's own or one from elsewhere."""
        return self.decoder(self.pyramid(features), pre_mask, self.injection(features))

    @property
    def refines_with_levels(self) -> bool:
        """Whether `refine` reads U²-Net's levels; where it does not, a given pre-mask saves running U²-Net."""
        return isinstance(self.injection, LevelInjection | BothInjections)


class StagePyramid(nn.Module):
    """A feature pyramid on Hiera's stages, read at 1/16: stage 3 plus stage 4 enlarged, smoothed by a 3 x 3 convolution.

    The finer levels of a full pyramid do not reach the one at 1/16, so they are not built.

    Source: PMG-SAM (paper 001), section 4.2; feature pyramid (Lin et al. 2017), section 3.
    """

    def __init__(self, stage_channels: Sequence[int], dim: int = 256) -> None:
        super().__init__()
        self.to_final = nn.Conv2d(stage_channels[2], dim, 1)
        self.to_coarse = nn.Conv2d(stage_channels[3], dim, 1)
        self.smooth = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, features: DualFeatures) -> Tensor:
        final, coarse = self.to_final(features.stages[2]), self.to_coarse(features.stages[3])
        return self.smooth(final + F.interpolate(coarse, size=final.shape[-2:], mode="nearest"))


class EncoderPyramid(nn.Module):
    """The image encoder's own pyramid, frozen with it.

    Deviation: the paper trains its pyramid; SAM 2's is one on the same stages, trained on far more, and costs nothing in a step.
    """

    def forward(self, features: DualFeatures) -> Tensor:
        return features.final


class NoInjection(nn.Module):
    """Nothing is injected. Source: PMG-SAM (paper 001), table 4 (b)."""

    def forward(self, features: DualFeatures) -> tuple[Tensor, ...]:
        return ()


class StageInjection(nn.Module):
    """Hiera's first two stages, brought to the decoder's channels by 1 x 1 convolutions. Source: PMG-SAM (paper 001), section 3.5 and table 4 (b)."""

    def __init__(self, stage_channels: Sequence[int], dim: int = 256) -> None:
        super().__init__()
        self.fine = nn.Conv2d(stage_channels[0], dim // 8, 1)
        self.middle = nn.Conv2d(stage_channels[1], dim // 4, 1)

    def forward(self, features: DualFeatures) -> tuple[Tensor, ...]:
        return self.fine(features.stages[0]), self.middle(features.stages[1])


class LevelInjection(nn.Module):
    """U²-Net's first two levels in Hiera's place. Source: PMG-SAM (paper 001), table 4 (b)."""

    def __init__(self, level_channels: Sequence[int], dim: int = 256) -> None:
        super().__init__()
        self.fine = nn.Conv2d(level_channels[0], dim // 8, 1)
        self.middle = nn.Conv2d(level_channels[1], dim // 4, 1)

    def forward(self, features: DualFeatures) -> tuple[Tensor, ...]:
        (height, width), grid = features.final.shape[-2:], features.stages[0].shape[-2:]
        return self.fine(resize(features.levels[0], *grid)), self.middle(resize(features.levels[1], 2 * height, 2 * width))


class BothInjections(nn.Module):
    """The sum of two. Source: PMG-SAM (paper 001), table 4 (b), both backbones."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, features: DualFeatures) -> tuple[Tensor, ...]:
        return tuple(a + b for a, b in zip(self.first(features), self.second(features), strict=True))


class EncoderInjection(nn.Module):
    """The image encoder's own two finer maps, which in SAM 2 are Hiera's first two stages, projected.

    Deviation: the paper trains the projections; SAM 2's fit the decoder that training starts from.
    """

    def forward(self, features: DualFeatures) -> tuple[Tensor, ...]:
        return features.high_res
