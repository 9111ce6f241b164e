"""S2CLIP as a whole: an image and names in, a label map out.

Source: S2CLIP, figure 5 and algorithms 1 to 4; Trident (Shi et al. 2024).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw.backbones import clip as clips
from fretsaw.backbones import dino
from fretsaw.backbones.clip import Clip
from fretsaw.backbones.sam import LAST_INPUT, SamImageEncoder
from fretsaw.backbones.sam_attention import last_attention
from fretsaw.errors import ConfigError
from fretsaw.layers.resampling import resize_image
from fretsaw.methods.s2clip.features import (
    Grid,
    Layers,
    PatchFeatures,
    ValueRule,
    embed_map,
    fuse,
    in_patches,
    plain_values,
    project_windows,
)
from fretsaw.methods.s2clip.maps import TextMaps
from fretsaw.methods.s2clip.refine import Refinement, refine, sam_answers
from fretsaw.methods.s2clip.settings import TextSettings
from fretsaw.methods.s2clip.splice import check_windows, content_size, sam_correlation, splice, windows
from fretsaw.methods.s2clip.text import TextEmbeddings
from fretsaw.methods.s2clip.words import background_for, read_names
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.segmentation import LabelMap
from fretsaw.types import ImageEmbedding

WINDOWS_AT_ONCE = 4
KEPT_WINDOWS = 18
"""Windows whose layers of CLIP are kept between two passes, 15 MB each for ViT-B/16. The benchmarks' images have no more; of larger ones, CLIP, the quicker of
the networks, looks at each window twice."""

PROBABILITY_BYTES = 128 * 2**20
"""A label map's probabilities are reduced until the words' take no more than this."""

SAM_PATCH = 16


class S2clip(nn.Module):
    """Cuts by name, without training. Trident and plain CLIP are the same class with fewer parts.

    Args:
        clip: Image and text side of CLIP.
        patches: Says which patches belong together (DINO, DINOv2, SAM's ViT); None: each patch speaks for itself.
        sam: Refines the label map, and, where it is SAM with its plain ViT, spreads the features; None for neither.
        values: What CLIP's last block offers for mixing: `HierarchicalValues` (S2CLIP) or `plain_values` (Trident).
        refinement: How the label map is refined; None leaves it as it is.
        settings: Sizes and thresholds for images that come without their own.
        folder: Where text embeddings are kept; None means the cache's folder.

    Source: S2CLIP, figure 5.

    Deviation: an encoder without a plain ViT (SAM 2, HRSAM) refines but does not spread features: it has no global attention in a last block of stride 16.
    """

    def __init__(
        self,
        clip: Clip,
        patches: PatchFeatures | None = None,
        sam: SamClicks | None = None,
        values: ValueRule = plain_values,
        refinement: Refinement | None = None,
        settings: TextSettings | None = None,
        folder: Path | None = None,
    ) -> None:
        super().__init__()
        if refinement is not None and sam is None:
            raise ConfigError("expected SAM for a refinement, got none")
        self.clip, self.patches, self.sam = clip, patches, sam
        self.values, self.refinement = values, refinement
        self.settings = settings or TextSettings()
        self.embeddings = TextEmbeddings(clip, folder)

    @property
    def taps(self) -> tuple[str, ...]:
        """What it reads of SAM's image encoder beside its embedding."""
        return (LAST_INPUT,) if self.sam is not None and isinstance(self.sam.image_encoder, SamImageEncoder) else ()

    @torch.no_grad()
    def forward(
        self,
        image: np.ndarray,
        names: Sequence[str | Sequence[str]],
        background: Sequence[str] | None = None,
        settings: TextSettings | None = None,
        embedding: ImageEmbedding | None = None,
    ) -> LabelMap:
        """Give every pixel one of the names, or none.

        Args:
            image: (H, W, 3) uint8 RGB.
            names: One item a class, see `words.read_names`: "sofa", or "sofa; couch" where other words mean the same.
            background: Words for what is none of them; None means `words.BACKGROUND_WORDS`. An empty list means that every pixel has one of the names.
            settings: Sizes and thresholds; None means the model's.
            embedding: The image's, by this model's SAM, if it is known already.

        Returns:
            The label map; its probabilities are those before the refinement, and for large images with many classes smaller than the image.

        Raises:
            ConfigError: If names or settings cannot be used.
        """
        settings = settings or self.settings
        classes = read_names(names)
        around = background_for(classes, background)
        groups = ((around,) if around else ()) + classes
        embedding = self._embedding(image, embedding)
        word_logits = self.word_logits(image, [word for group in groups for word in group], settings, embedding)
        word_classes = [number for number, group in enumerate(groups) for _ in group]
        maps = TextMaps(word_logits, word_classes, image.shape[:2], settings.background_threshold if around else 0.0)
        labels = self.refine(maps, embedding, settings)
        probabilities = reduced_probabilities(word_logits, word_classes, image.shape[:2])
        first = len(groups) - len(classes)
        return LabelMap(
            (labels.cpu().numpy() - first).astype(np.int32),
            tuple(words[0] for words in classes),
            probabilities=probabilities[first:].cpu().numpy(),
            image=image,
        )

    def refine(self, maps: TextMaps, embedding: ImageEmbedding | None, settings: TextSettings) -> Tensor:
        """Return the labels (H, W) after the refinement, if there is one."""
        if self.refinement is None or self.sam is None or embedding is None:
            return maps.labels
        height, width = (int(side) for side in maps.labels.shape)
        frame = self.sam.preprocessing.frame(height, width, self.sam.preprocessing.size)
        ask = sam_answers(self.sam, embedding, frame, self.refinement.prompts)
        return refine(maps, ask, self.sam.preprocessing, self.refinement, settings.coarse_threshold, settings.minimum_area)

    @torch.no_grad()
    def word_logits(self, image: np.ndarray, words: Sequence[str], settings: TextSettings, embedding: ImageEmbedding | None = None) -> Tensor:
        """Return the logits (n, h, w) of words on the grid of patches."""
        patch_embedding = self.embed_image(image, settings, embedding)
        return torch.einsum("hwd,nd->nhw", patch_embedding, self.embeddings.of(words)) * settings.logit_scale

    @torch.no_grad()
    def embed_image(self, image: np.ndarray, settings: TextSettings, embedding: ImageEmbedding | None = None) -> Tensor:
        """Return the patch embeddings (h, w, D) of an image, of length 1.

        Raises:
            ConfigError: If windows and patches do not fit together.
        """
        sides = [self.clip.patch, *([self.patches.patch] if self.patches is not None else [])]
        check_windows(settings.crop, settings.stride, sides)
        patch = self.clip.patch
        tokens = (settings.crop // patch, settings.crop // patch)
        size = content_size(image.shape[0], image.shape[1], settings.short_side, patch, settings.crop)
        content = self._content(image, size)
        coords = windows(*size, settings.crop, settings.stride)
        crops = torch.cat([content[:, :, y0:y1, x0:x1] for y0, x0, y1, x1 in coords])
        values = self.values(self.clip, self._layers(crops), tokens)
        features = None
        if self.patches is not None:
            network = self.patches
            features = torch.cat([network(normalise(few, dino.MEAN, dino.STD)) for few in crops.split(WINDOWS_AT_ONCE)])
        ready = (window for mixed in fuse(values, tokens, features) for window in project_windows(self.clip, mixed, tokens))
        spliced = splice(ready, in_patches(coords, patch), (size[0] // patch, size[1] // patch), tokens)
        return self._spread(image, spliced, settings, embedding)

    def _spread(self, image: np.ndarray, spliced: Tensor, settings: TextSettings, embedding: ImageEmbedding | None) -> Tensor:
        """Embed the spliced map, spread by SAM's correlation where SAM has one."""
        if self.sam is None or not isinstance(self.sam.image_encoder, SamImageEncoder):
            return embed_map(self.clip, spliced, None, None)
        if settings.strips == 1:
            return embed_map(self.clip, spliced, *self._correlation(image, settings, self._embedding(image, embedding)))
        middle, column = image.shape[1] // 2, spliced.shape[2] // 2
        halves = ((image[:, :middle], spliced[:, :, :column]), (image[:, middle:], spliced[:, :, column:]))
        return torch.cat([embed_map(self.clip, part, *self._correlation(np.ascontiguousarray(half), settings, None)) for half, part in halves], dim=1)

    def _correlation(self, image: np.ndarray, settings: TextSettings, embedding: ImageEmbedding | None) -> tuple[Tensor, Grid]:
        """Return SAM's correlation and the grid it lives on.

        Deviation: SAM sees the image as it is; Trident first stretches it to multiples of CLIP's patch.
        """
        assert self.sam is not None
        assert isinstance(self.sam.image_encoder, SamImageEncoder)
        embedding = self._embedding(image, embedding)
        assert embedding is not None
        frame = self.sam.preprocessing.frame_of(image)
        grid = (max(1, frame.content_height // SAM_PATCH), max(1, frame.content_width // SAM_PATCH))
        values, rows = last_attention(self.sam.image_encoder, embedding.taps[LAST_INPUT], grid)
        return sam_correlation(rows, values, settings.cosine_factor, settings.negative_threshold), grid

    def _embedding(self, image: np.ndarray, embedding: ImageEmbedding | None) -> ImageEmbedding | None:
        """Return SAM's embedding of an image; the one that is known already, if it holds what is needed."""
        if self.sam is None:
            return None
        if embedding is not None and set(self.taps) <= embedding.taps.keys():
            return embedding
        return self.sam.encode(self.sam.pixels_of(image), self.taps)

    def _content(self, image: np.ndarray, size: tuple[int, int]) -> Tensor:
        """Return the image (1, 3, rows, columns) in [0, 1] at the size at which CLIP sees it."""
        resized = resize_image(image, *size)
        return torch.tensor(resized, device=self.clip.device).permute(2, 0, 1)[None].float() / 255

    def _layers(self, crops: Tensor) -> Layers:
        """Return what goes through CLIP's layers on the windows; those of few windows are kept, those of many are computed again for each pass."""

        def computed() -> Iterator[Sequence[Tensor]]:
            return (self.clip.tokens(normalise(few, clips.MEAN, clips.STD)) for few in crops.split(WINDOWS_AT_ONCE))

        if len(crops) > KEPT_WINDOWS:
            return computed
        kept = list(computed())
        return lambda: iter(kept)


def normalise(pixels: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Tensor:
    """Normalise pixels (B, 3, H, W) in [0, 1] per channel."""
    return (pixels - pixels.new_tensor(mean).view(1, 3, 1, 1)) / pixels.new_tensor(std).view(1, 3, 1, 1)


def reduced_probabilities(word_logits: Tensor, word_classes: Sequence[int], size: tuple[int, int], limit: int = PROBABILITY_BYTES) -> Tensor:
    """Return class probabilities (K, h, w) at the image's size, or at the largest smaller one whose word probabilities take at most `limit` bytes.

    Args:
        word_logits: (n, h, w).
        word_classes: The class of each word, ascending.
        size: Rows and columns of the image.
        limit: Bytes.
    """
    scale = min(1.0, (limit / (4 * len(word_logits) * size[0] * size[1])) ** 0.5)
    fitting = (max(1, int(size[0] * scale)), max(1, int(size[1] * scale)))
    words = F.interpolate(word_logits[None], size=fitting, mode="bilinear", align_corners=False)[0].softmax(dim=0)
    counts = [list(word_classes).count(number) for number in range(max(word_classes) + 1)]
    return torch.stack([group.amax(dim=0) for group in words.split(counts)])
