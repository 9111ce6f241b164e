"""Photos with their teacher's embeddings, which are computed once, stored on disk, and read back by several workers.

Colours of the student's view are distorted; the teacher saw the plain view, so one embedding serves every pass. A mirrored view is another view with an
embedding of its own.

Source: HRSAM (paper 003), appendix D.3, second setting: the teacher's embeddings are stored offline.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fretsaw.data.whole_views import to_frame
from fretsaw.frames import Preprocessing
from fretsaw.images import image_hash, read_image, write_bytes
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.training.embedding_cache import EmbeddingCache

View = Callable[[np.ndarray], np.ndarray]


def whole(image: np.ndarray) -> np.ndarray:
    """Return an image as it is."""
    return image


def mirrored(image: np.ndarray) -> np.ndarray:
    """Return an image with left and right exchanged."""
    return np.ascontiguousarray(image[:, ::-1])


VIEWS: tuple[View, ...] = (whole, mirrored)
"""The fixed views of a photo, in the order in which they are used. A view's name is part of its key in the cache."""


class PlainViews(Dataset[tuple[str, str, Tensor]]):
    """Item i is (photo's file, key of the view, pixels (3, S, S)) of view i % views of photo i // views: what the teacher sees."""

    def __init__(self, photos: Sequence[Path], views: int, preprocessing: Preprocessing) -> None:
        self._photos, self._views, self._preprocessing = list(photos), views, preprocessing

    def __len__(self) -> int:
        return len(self._photos) * self._views

    def __getitem__(self, index: int) -> tuple[str, str, Tensor]:
        path, view = self._photos[index // self._views], VIEWS[index % self._views]
        image = read_image(path)
        return str(path), view_key(image_hash(image), view), to_frame(view(image), self._preprocessing)


class DistilViews(Dataset[tuple[Tensor, Tensor]]):
    """An endless list: item i is (the student's pixels (3, S, S), colours distorted; the teacher's embedding, or its pixels where there is no cache).

    Every run of `len(photos)` items shows each photo once, in an order drawn anew for each pass.

    Args:
        photos: Files.
        views: How many of `VIEWS` are used.
        preprocessing: Of student and teacher.
        seed: Of everything drawn.
        keys: Photo's file -> its image's hash, for the cache.
        cache: The teacher's embeddings, or None: the item holds what the teacher is to see.
    """

    def __init__(
        self,
        photos: Sequence[Path],
        views: int,
        preprocessing: Preprocessing,
        seed: int,
        keys: dict[str, str] | None = None,
        cache: EmbeddingCache | None = None,
    ) -> None:
        self._photos, self._views, self._preprocessing, self._seed = list(photos), views, preprocessing, seed
        self._keys, self._cache = keys or {}, cache

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        turn, place = divmod(index, len(self._photos))
        path = self._photos[int(np.random.default_rng((self._seed, turn)).permutation(len(self._photos))[place])]
        rng = np.random.default_rng((self._seed, turn, place))
        view = VIEWS[rng.integers(self._views)]
        image = view(read_image(path))
        pixels = to_frame(image, self._preprocessing, rng)
        if self._cache is None:
            return pixels, to_frame(image, self._preprocessing)
        return pixels, self._cache.get(view_key(self._keys[str(path)], view)).final[0]


def view_key(image: str, view: View) -> str:
    """Return the key of a view of an image, given by its hash, in the cache; model and preprocessing are named by the cache itself."""
    return f"{image[:32]}-{view.__name__}"


def fill(
    cache: EmbeddingCache,
    photos: Sequence[Path],
    views: int,
    teacher: SamClicks,
    register: Path,
    workers: int = 0,
    said: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, str]:
    """Bring every view's embedding into the cache; continued where it was interrupted.

    Args:
        cache: Of the teacher at its preprocessing.
        photos: Files.
        views: How many of `VIEWS`.
        teacher: Computes what is missing.
        register: JSON file of photos whose hash is known, so that a continued run reads only what is new; a photo that changed is read again.
        workers: Processes that read photos.
        said: Told (photos looked at, photos to look at).

    Returns:
        Photo's file -> its image's hash.
    """
    known = _read_register(register)
    signatures = {str(path): signature(path) for path in photos}
    hashes = {name: known[name][1] for name, sign in signatures.items() if name in known and known[name][0] == sign}
    missing = [path for path in photos if str(path) not in hashes or any(view_key(hashes[str(path)], view) not in cache for view in VIEWS[:views])]
    looked_at = 0
    current: list[Tensor] = []

    def keys() -> Iterator[str]:
        nonlocal looked_at
        for name, key, pixels in DataLoader(PlainViews(missing, views, teacher.preprocessing), batch_size=None, num_workers=workers):
            hashes[name] = key.partition("-")[0]
            current[:] = [pixels[None]]
            yield key
            looked_at += 1
            said(looked_at // views, len(missing))

    with torch.no_grad():
        cache.fill(keys(), lambda key: teacher.encode(current[0]))
    if missing:
        write_bytes(register, json.dumps({name: [signatures[name], image] for name, image in hashes.items()}).encode())
    return hashes


def signature(path: Path) -> str:
    """Return a text that changes when a file does: its size and time of writing."""
    state = path.stat()
    return f"{state.st_size}-{state.st_mtime_ns}"


def _read_register(path: Path) -> dict[str, list[str]]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
