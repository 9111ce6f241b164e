"""GrC-SAM as a whole: what an encoder attends to becomes a mask prompt for SAM's decoder, whose features become classes. No prompt is given.

Legend: B images, S side of the input, C' channels of the encoder, h w = S/16, K classes (1 for foreground and background).

    pixels --TokenTaps(encoder)--> ImageEmbedding with the tokens of some layers
      scores.py    attention of each layer -> score map (B, 1, h, w)
      coarse.py    features, score map     -> coarse_mask (B, 1, h, w)
      fine.py      features, coarse_mask   -> fine_logits (B, 1, 4h, 4w), computed in active windows only
      prompt encoder                       -> latent prompt: the fine mask as SAM's mask prompt
      mask decoder, 1 x 1 convolution      -> class_logits (B, K, 4h, 4w)

Source: GrC-SAM (paper 000), figure 1, sections 3.3 to 3.5, appendix A.3.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fretsaw.errors import ConfigError
from fretsaw.frames import Preprocessing, squash
from fretsaw.layers.attention_taps import TokenTaps, readable
from fretsaw.methods.grc_sam.coarse import CoarseStage
from fretsaw.methods.grc_sam.fine import FineStage
from fretsaw.methods.grc_sam.scores import CONFIGURATIONS, ClassTokenScores, LayerFusion, ReadScores
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.types import PADDING, ImageEmbedding, PromptEmbedding


@dataclass(frozen=True, slots=True)
class GrcResult:
    """What the network says about B images.

    Attributes:
        score_map: (B, 1, h, w) fused attention, [0, 1].
        coarse_mask: (B, 1, h, w) in [0, 1].
        fine_logits: (B, 1, 4h, 4w); `fine_mask` is their sigmoid.
        active: (B, 4h, 4w) bool, fine tokens that were computed.
        thresholds: (B, 2) of the coarse and the fine stage.
        class_logits: (B, K, 4h, 4w); K = 1: of the foreground.
    """

    score_map: Tensor
    coarse_mask: Tensor
    fine_logits: Tensor
    active: Tensor
    thresholds: Tensor
    class_logits: Tensor


class MaskGenerator(nn.Module):
    """Between the image encoder and the prompt encoder: attention and features to a coarse and a fine mask.

    Args:
        encoder: States the layers whose attention is read.
        layers: Their numbers.
        channels: C' of the embedding.
        width: C of the two stages: 256 in the paper.
        scores: How the layers' attention is read.
        above: Coarse response from which a window is refined.

    Source: GrC-SAM (paper 000), figure 1, appendix A.3. Where the paper is silent (MLP ratio 2, a 1 x 1 fusion, a 3 x 3 fine convolution), sizes were chosen
    so that the generator of width 256 has the 2.0 M parameters that table 3 states.
    """

    def __init__(self, encoder: nn.Module, layers: Sequence[int], channels: int, width: int, scores: ReadScores = ClassTokenScores, above: float = 0.5) -> None:
        super().__init__()
        self.scores = scores(encoder, layers)
        self.fusion = LayerFusion(len(layers))
        self.enter = nn.Conv2d(channels, width, 1) if channels != width else nn.Identity()
        self.coarse = CoarseStage(width)
        self.fine = FineStage(width, above=above)


class GrcSam(nn.Module):
    """Prompt-free segmentation: foreground (K = 1) or classes.

    Args:
        base: A model that takes clicks; its image encoder is read and stays as it is, its prompt encoder is used as it is, its mask decoder is copied,
            since training changes it.
        classes: K.
        width: Of the generator.
        layers: Numbers of the layers to read, or a name of `CONFIGURATIONS`; () takes the encoder's own choice.
        scores: See `MaskGenerator`.
        above: See `MaskGenerator`.

    Raises:
        ConfigError: If the encoder states no layers, or one of the arguments does not fit.

    Source: GrC-SAM (paper 000), figure 1, section 3.5.
    Deviation: the fine mask enters SAM's mask encoder as logits, which it was trained on, beside the padding point that SAM's authors add to every prompt.
    """

    def __init__(
        self, base: SamClicks, classes: int, width: int = 256, layers: Sequence[int] | str = (), scores: ReadScores = ClassTokenScores, above: float = 0.5
    ) -> None:
        super().__init__()
        encoder = base.image_encoder
        numbers = chosen_layers(encoder, layers)
        channels = base.prompt_encoder.no_mask.shape[-1]
        self._prompt_encoder: list[Any] = [base.prompt_encoder]  # in a list: the base model's
        self.generator = MaskGenerator(encoder, numbers, channels, width, scores, above)
        self.decoder: Any = copy.deepcopy(base.mask_decoder)
        self.head = nn.Conv2d(channels // 8, classes, 1)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The layers that are read."""
        return self.generator.scores.numbers

    def forward(self, embedding: ImageEmbedding) -> GrcResult:
        """Segment B images from their embedding, taps included."""
        parts, features = self.generator, self.generator.enter(embedding.final)
        score_map = parts.fusion(parts.scores(embedding.taps))
        coarse = parts.coarse(features, score_map, parts.fusion.alpha())
        fine = parts.fine(coarse.features, coarse.coarse_mask)
        prompt, bias = self.latent_prompt(fine.logits), self.head.bias
        assert bias is not None
        class_logits = self.decoder.upscaled_scores(embedding, prompt, self.head.weight.flatten(1), bias)
        return GrcResult(score_map, coarse.coarse_mask, fine.logits, fine.active, torch.cat([coarse.threshold, fine.threshold], 1), class_logits)

    def latent_prompt(self, fine_logits: Tensor) -> PromptEmbedding:
        """Return the prompt embedding of fine masks (B, 1, 4h, 4w), one prompt set an image."""
        count, _, height, width = fine_logits.shape
        coords = fine_logits.new_zeros(count, 1, 2)
        labels = torch.full((count, 1), PADDING, device=fine_logits.device)
        return self._prompt_encoder[0].at_size((4 * height, 4 * width))(coords, labels, fine_logits)


class LinearHead(nn.Module):
    """The baseline: a 1 x 1 convolution on the encoder's embedding, nothing else.

    Args:
        channels: Of the embedding.
        classes: K.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(channels, classes, 1)

    def forward(self, embedding: ImageEmbedding) -> Tensor:
        """Return class_logits (B, K, h, w)."""
        return self.head(embedding.final)


def chosen_layers(encoder: nn.Module, layers: Sequence[int] | str) -> tuple[int, ...]:
    """Return the numbers of the layers to read, from numbers, from a name of `CONFIGURATIONS`, or the encoder's own choice for ().

    Raises:
        ConfigError: If the name is unknown or the encoder states no layers.
    """
    if isinstance(layers, str):
        if layers not in CONFIGURATIONS:
            raise ConfigError(f"expected a configuration out of {', '.join(CONFIGURATIONS)}; got {layers!r}")
        return CONFIGURATIONS[layers]
    if layers:
        return tuple(layers)
    return readable(encoder).mixed_layers()


def with_taps(base: SamClicks, layers: Sequence[int], checksum: str, size: int | None = None) -> SamClicks:
    """Return the base model with an encoder that keeps what `layers` attend to, and images squashed to the square, as the paper does.

    Args:
        base: Shared, not copied.
        layers: Numbers of the layers; none leaves the encoder as it is.
        checksum: Names the weights of the whole.
        size: Side S; None for the base model's.
    """
    wanted = base.preprocessing
    preprocessing = Preprocessing(squash, size or wanted.size, wanted.mean, wanted.std)
    encoder = TokenTaps(base.image_encoder, layers) if layers else base.image_encoder
    return base.with_encoder(encoder, preprocessing, checksum)
