"""Operations on embeddings and views that several recipes need: stack, slice, move to a device, normalise pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fretsaw.frames import Preprocessing
from fretsaw.types import ImageEmbedding


def stack(embeddings: Sequence[ImageEmbedding]) -> ImageEmbedding:
    """Join the embeddings of single images into one of B images."""
    levels = zip(*(one.high_res for one in embeddings), strict=True)
    taps = {name: torch.cat([one.taps[name] for one in embeddings]) for name in embeddings[0].taps}
    return ImageEmbedding(torch.cat([one.final for one in embeddings]), tuple(torch.cat(level) for level in levels), taps)


def row(embedding: ImageEmbedding, index: int) -> ImageEmbedding:
    """Return the embedding of one image of B, without taps."""
    return ImageEmbedding(embedding.final[index : index + 1], tuple(level[index : index + 1] for level in embedding.high_res))


def to_device(embedding: ImageEmbedding, device: str | torch.device) -> ImageEmbedding:
    """Return an embedding on a device."""
    taps = {name: tap.to(device) for name, tap in embedding.taps.items()}
    return ImageEmbedding(embedding.final.to(device), tuple(level.to(device) for level in embedding.high_res), taps)


def normalise(pixels: Tensor, preprocessing: Preprocessing, device: str | torch.device) -> Tensor:
    """Return uint8 pixels (B, 3, S, S) as an image encoder takes them: on a device, float32, with the model's mean and deviation."""
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    return (pixels.to(device).float() / 255 - mean) / std
