"""Square views of photos for training, each a pure function of (seed, index), so that a resumed run sees what it would have seen."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fretsaw import frames
from fretsaw.data.boxes import draw_box
from fretsaw.data.parts import require_train_photos
from fretsaw.errors import DataError
from fretsaw.images import read_image
from fretsaw.layers.resampling import resize_image
from fretsaw.types import Box

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


def list_photos(folders: Sequence[Path], exclude: Sequence[Path] = (), allowed: Collection[str] = ()) -> list[Path]:
    """Return the photos below several folders, sorted by folder and name.

    Args:
        folders: Searched with their subfolders.
        exclude: Files that list stems of photos to leave out (held-out parts), one a line.
        allowed: Names of held-out sets whose photos are taken all the same.

    Raises:
        ConfigError: If a folder is a set that is held out (`fretsaw.data.parts`), nothing of it is left out and it is not allowed.
        DataError: If a folder does not exist or no photo is left.
    """
    left_out = {line.strip() for path in exclude for line in path.read_text().splitlines() if line.strip()}
    photos: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"expected a folder of photos, got {folder}, which is no folder")
        found = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in PHOTO_SUFFIXES]
        kept = [p for p in found if p.stem not in left_out]
        require_train_photos(folder, len(kept) < len(found), allowed)
        photos += kept
    if not photos:
        raise DataError(f"expected photos ({', '.join(sorted(PHOTO_SUFFIXES))}) in {', '.join(map(str, folders))}, found none")
    return photos


class PhotoViews(Dataset[Tensor]):
    """An endless list of views: item i is a crop of some photo, squashed to size x size, flipped half of the time.

    Every run of `len(photos)` items shows each photo once, in an order drawn anew for each pass.

    Args:
        photos: Files.
        size: Side of a view.
        seed: Of everything drawn.
        whole: Share of views that show the whole photo; the others show a crop with sides between `smallest` and 1 of the photo's.
        smallest: See `whole`.
    """

    def __init__(self, photos: Sequence[Path], size: int, seed: int = 0, whole: float = 0.25, smallest: float = 0.4) -> None:
        self._photos = list(photos)
        self._size, self._seed, self._whole, self._smallest = size, seed, whole, smallest

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> Tensor:
        """Return view `index`, (3, size, size) uint8; a photo that cannot be read raises its ImageError."""
        turn, place = divmod(index, len(self._photos))
        order = np.random.default_rng((self._seed, turn)).permutation(len(self._photos))
        image = read_image(self._photos[order[place]])
        rng = np.random.default_rng((self._seed, turn, place))
        image = frames.crop(image, self._crop(rng, *image.shape[:2]))
        if rng.random() < 0.5:
            image = image[:, ::-1]
        image = resize_image(np.ascontiguousarray(image), self._size, self._size)
        return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).contiguous()

    def _crop(self, rng: np.random.Generator, height: int, width: int) -> Box:
        if rng.random() < self._whole:
            return Box(0, 0, width, height)
        return draw_box(rng, height, width, self._smallest)


def fingerprint(photos: Sequence[Path]) -> str:
    """Return a hash over the names and sizes of photos, to name what a model was trained on."""
    digest = hashlib.sha256()
    for photo in photos:
        digest.update(f"{photo.name}\t{photo.stat().st_size}\n".encode())
    return digest.hexdigest()
