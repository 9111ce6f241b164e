"""From words to text embeddings: each word in eighty sentences, averaged, and kept.

Source: CLIP (Radford et al. 2021), section 3.1.4, "prompt engineering and ensembling"; the eighty ImageNet sentences that its authors published.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fretsaw.backbones.clip import Clip
from fretsaw.weights.cache import cache_folder
from fretsaw.weights.files import appearing

ARTICLES = ("a", "the")
PICTURES = (
    *("photo", "bad photo", "good photo", "cropped photo", "bright photo", "dark photo", "blurry photo", "pixelated photo", "low resolution photo"),
    *("jpeg corrupted photo", "black and white photo", "close-up photo", "rendering", "rendition", "drawing", "painting", "sketch", "doodle", "sculpture"),
    "tattoo",
)
QUALITIES = ("clean", "dirty", "hard to see", "cool", "nice", "weird", "large", "small")
BARE = ("graffiti", "art", "itap")
MATERIALS = ("embroidered", "origami", "plastic", "plushie", "toy", "cartoon")

TEMPLATES: tuple[str, ...] = (
    *(f"a {picture} of {article} {{}}." for picture, article in product(PICTURES, ARTICLES)),
    *(f"a photo of {article} {quality} {{}}." for quality, article in product(QUALITIES, ARTICLES)),
    *(f"{kind} of {article} {{}}." for kind, article in product(BARE, ARTICLES)),
    *(f"{article} {material} {{}}." for material, article in product(MATERIALS, ARTICLES)),
    *(f"{article} {{}} in a video game." for article in ARTICLES),
    *("a photo of many {}.", "a photo of my {}.", "a photo of one {}.", "itap of my {}."),
)
"""OpenAI's eighty sentences for ImageNet."""


class TextEmbeddings:
    """Embeds words, and remembers them in memory and in the cache's folder `text`, by word and by the network's checksum.

    Args:
        clip: The network.
        folder: Where embeddings are kept; None means the cache's folder. A network without a checksum keeps them in memory alone.
    """

    def __init__(self, clip: Clip, folder: Path | None = None) -> None:
        self._clip = clip
        self._folder = (folder or cache_folder() / "text") / clip.checksum[:32] if clip.checksum else None
        self._known: dict[str, Tensor] = {}

    def of(self, words: Sequence[str]) -> Tensor:
        """Return the embeddings of words, (n, D), of length 1, on the network's device.

        Source: CLIP (Radford et al. 2021), section 3.1.4: the sentences' embeddings are normalised, averaged and normalised again.
        """
        return torch.stack([self._embedding(word) for word in words]).to(self._clip.device)

    def _embedding(self, word: str) -> Tensor:
        if word not in self._known:
            found = self._read(word)
            if found is None:
                found = embed_word(self._clip, word)
                self._write(word, found)
            self._known[word] = found
        return self._known[word]

    def _path(self, word: str) -> Path | None:
        return None if self._folder is None else self._folder / f"{hashlib.sha256(word.encode()).hexdigest()[:32]}.npy"

    def _read(self, word: str) -> Tensor | None:
        path = self._path(word)
        if path is None or not path.is_file():
            return None
        with suppress(OSError, ValueError):
            return torch.from_numpy(np.load(path, allow_pickle=False))
        return None

    def _write(self, word: str, embedding: Tensor) -> None:
        path = self._path(word)
        if path is not None:
            with suppress(OSError), appearing(path) as part, part.open("wb") as stream:  # a cache that cannot be written only costs time
                np.save(stream, embedding.numpy(), allow_pickle=False)


@torch.no_grad()
def embed_word(clip: Clip, word: str, templates: Sequence[str] = TEMPLATES) -> Tensor:
    """Return one word's embedding (D,) of length 1, float32 on the CPU."""
    sentences = F.normalize(clip.embed_texts([template.format(word) for template in templates]).float(), dim=-1)
    return F.normalize(sentences.mean(dim=0), dim=0).cpu()
