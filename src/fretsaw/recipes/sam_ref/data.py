"""Training data of SAM-REF: photos and objects in a fixed order. Their embeddings and the teacher's masks are stored once."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fretsaw.data import close_ups, pasted, teacher_masks
from fretsaw.data.click_samples import LABELLED, Photo, interleaved, labelled_objects, photos_of, unlabelled_photos, with_teacher_masks
from fretsaw.data.datasets import check_part, open_part
from fretsaw.data.samples import Sample
from fretsaw.data.views import fingerprint, list_photos
from fretsaw.errors import ConfigError
from fretsaw.images import read_image
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.recipes.sam_ref.config import SamRefConfig
from fretsaw.training.embedding_cache import EmbeddingCache
from fretsaw.training.embeddings import to_device

COARSE_OUTLINES = ("coco_mval", "coco_multi", "coco_person")
"""Sets whose outlines are polygons with few corners, too coarse for close-ups."""

CHUNK = 8
"""Photos between two checks of the time limit."""


@dataclass(frozen=True)
class ClickData:
    """Photos to train on and objects to validate on.

    Attributes:
        training: In an order of which any beginning is a fair sample.
        held_out: Objects of val parts; their embeddings are stored first.
        held_out_photos: Their photos.
        held_out_sets: The set of each of these objects.
    """

    training: Sequence[Photo]
    held_out: Sequence[Sample]
    held_out_photos: Sequence[Photo]
    held_out_sets: Sequence[str] = ()


@dataclass(frozen=True)
class Places:
    """Where objects to learn clicks from are found, by name.

    Attributes:
        data: Folder of the sets of `fretsaw.data.click_samples.LABELLED` and of lists of their parts; None where there are none.
        allowed: Names of held-out sets that are taken all the same, see `fretsaw.data.parts`.
    """

    data: Path | None = None
    allowed: Collection[str] = ()

    def objects(self, name: str, part: str, seed: int = 0) -> list[Sample]:
        """Return the objects of one part of a set.

        Args:
            name: One of `LABELLED`, whose part is listed in the folder of sets; or the place of any other data set, a folder, a COCO or LVIS file, or NAME:PATH
                as `fretsaw.data.datasets.open_dataset` takes it. "ccp@150" and "folder:photos@150" take 150 photos, drawn by the seed.
            part: "train" or "val".
            seed: Draws the photos.

        Raises:
            ConfigError: If the count is no number above 0, or the place is another part and not allowed.
            DataError: If the set is not there or not as expected.
        """
        place, count = self.check(name, part)
        if self.data is not None and place in LABELLED:
            objects = labelled_objects(self.data, place, part)
        else:
            objects = list(open_part(place, part, self.allowed).samples)
        if count is None:
            return objects
        photos = list(dict.fromkeys(sample.image for sample in objects))
        kept = {photos[int(i)] for i in np.random.default_rng(seed).permutation(len(photos))[:count]}
        return [sample for sample in objects if sample.image in kept]

    def check(self, name: str, part: str) -> tuple[str, int | None]:
        """Return (place, number of photos or None) of a name without reading anything; for arguments and errors see `objects`."""
        place, marked, count = name.rpartition("@")
        if not marked:
            place = name
        elif not (count.isdecimal() and int(count) > 0):
            raise ConfigError(f"expected NAME or NAME@COUNT with a number of photos above 0, got {name}")
        if self.data is None or place not in LABELLED:
            check_part(place, part, self.allowed)
        return place, int(count) if marked else None


def collect(
    places: Places,
    sets: Sequence[str],
    unlabelled: Sequence[Path],
    teacher_photos: int,
    held_out: int,
    seed: int,
    photos: int = 0,
    deciding: Sequence[str] = ("coco_mval",),
    made: Sequence[Sequence[Photo]] = (),
) -> ClickData:
    """List photos and objects.

    Args:
        places: Knows the sets.
        sets: To learn from, as `Places.objects` takes them.
        unlabelled: Folders of photos for the teacher's masks.
        teacher_photos: At most so many of them.
        held_out: At most so many objects to decide by, equal shares of every set.
        seed: Of the order.
        photos: Keep the first so many training photos; 0 keeps all.
        deciding: Sets whose val parts decide, in the same spelling.
        made: Groups of photos to learn from beside the sets', see `fretsaw.data.pasted` and `fretsaw.data.close_ups`.
    """
    ends = [held_out * i // max(1, len(deciding)) for i in range(len(deciding) + 1)]
    drawn = [draw(places.objects(name, "val"), ends[i + 1] - ends[i]) for i, name in enumerate(deciding)]
    chosen, of_sets = [sample for part in drawn for sample in part], [name for name, part in zip(deciding, drawn, strict=True) for _ in part]
    groups: list[Sequence[Photo]] = [photos_of(places.objects(name, "train", seed)) for name in sets]
    if unlabelled and teacher_photos:
        groups.append(interleaved([unlabelled_photos(list_photos(unlabelled, allowed=places.allowed))], seed)[:teacher_photos])
    groups += [group for group in made if group]
    training = interleaved(groups, seed)
    return ClickData(training[:photos] if photos else training, chosen, photos_of(chosen), of_sets)


def draw(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Return at most `count` samples that hold an object, always the same ones, in the order of the set."""
    chosen: list[int] = []
    for index in map(int, torch.randperm(len(samples), generator=torch.Generator().manual_seed(0)).tolist()):  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
        if len(chosen) == count:
            break
        if (samples[index].read_truth() == 1).any():
            chosen.append(index)
    return [samples[index] for index in sorted(chosen)]


def make_photos(places: Places, sets: Sequence[str], grounds: Sequence[Path], count: int, folder: Path, seed: int) -> list[Photo]:
    """Make photos with exact masks from the train parts of some sets, see `fretsaw.data.pasted`; on those of `grounds`, or on the sets' own."""
    objects = [sample for name in sets for sample in places.objects(name, "train", seed)]
    photos = list_photos(grounds, allowed=places.allowed) if grounds else sorted({sample.image for sample in objects})
    # Another list or another seed gives other photos, so each combination has its own folder.
    own = f"{seed}-{fingerprint([*photos, *(sample.mask for sample in objects)])[:12]}"
    return pasted.make(folder / own, count, objects, photos, seed)


def make_close_ups(places: Places, sets: Sequence[str], made: Sequence[Photo], count: int, folder: Path, seed: int) -> list[Photo]:
    """Cut parts around single objects out of photos, see `fretsaw.data.close_ups`: of pasted objects, and of the train parts of sets with fine outlines."""
    fine = [name for name in sets if name.partition("@")[0] not in COARSE_OUTLINES]
    groups = [places.objects(name, "train", seed) for name in fine] + [[sample for photo in made for sample in photo.objects]]
    own = f"{seed}-{fingerprint(sorted({sample.mask for group in groups for sample in group}))[:12]}"
    return close_ups.make(folder / own, count, groups, seed)


def fill(
    data: ClickData, model: SamClicks, cache: EmbeddingCache, teacher_folder: Path, minutes: float | None, say: Callable[[str], None] = lambda text: None
) -> list[Photo]:
    """Compute missing embeddings and teacher masks, photo by photo, until the time limit. The held-out photos come first and are always completed.

    Args:
        data: From `collect`.
        model: Frozen.
        cache: Embeddings.
        teacher_folder: Teacher masks.
        minutes: None fills everything.
        say: Told how far it is.

    Returns:
        The training photos with their objects, the teacher's included.
    """
    started = time.monotonic()

    def encode(photos: Sequence[Photo]) -> None:
        files = {photo.key: photo.path for photo in photos}
        with torch.no_grad():
            cache.fill(files, lambda key: model.encode(model.pixels_of(read_image(files[key]))))

    encode(data.held_out_photos)
    for start in range(0, len(data.training), CHUNK):
        if minutes is not None and time.monotonic() - started > 60 * minutes:
            break
        photos = data.training[start : start + CHUNK]
        missing = [photo for photo in photos if photo.key not in cache]
        encode(photos)
        without = [photo for photo in photos if not photo.objects and not teacher_masks.path_of(photo.key, teacher_folder).exists()]
        for photo in without:
            embedding = to_device(cache.get(photo.key), model.device)
            teacher_masks.make(read_image(photo.path), model, embedding, teacher_masks.path_of(photo.key, teacher_folder))
        if missing or without:
            say(f"{start + len(photos)} of {len(data.training)} photos are encoded")
    return with_teacher_masks(data.training, teacher_folder)


def find_places(config: SamRefConfig) -> tuple[Places, list[str], list[str], list[str]]:
    """Return the places of objects, and the names of the sets to train on, of those with fine outlines, and of those to validate on; all are checked."""

    def parts(text: str) -> list[str]:
        return [part for part in text.split(",") if part]

    sets = parts(config.sets) if config.data else []
    names = sets + parts(config.train)
    if not names:
        raise ConfigError("expected sets to learn from, in data or in train, got none")
    deciding = (parts(config.deciding) or [name.partition("@")[0] for name in sets]) + parts(config.val)
    fine = parts(config.fine) or names
    places = Places(Path(config.data) if config.data else None, parts(config.allow_held_out))
    for part, asked in (("train", [*names, *fine]), ("val", deciding)):
        for name in asked:
            places.check(name, part)
    return places, names, fine, deciding


def collect_from(config: SamRefConfig, folder: Path) -> ClickData:
    """Return the photos and objects of a configuration; photos that have to be made are written into `folder`."""
    places, names, fine, deciding = find_places(config)
    grounds = [Path(photos) for photos in config.photos.split(",") if photos]
    made = make_photos(places, fine, grounds, config.pasted, folder / "pasted", config.seed) if config.pasted else []
    close = make_close_ups(places, fine, made, config.close_ups, folder / "close_ups", config.seed) if config.close_ups else []
    return collect(places, names, grounds, config.teacher_photos, config.held_out, config.seed, config.limit, deciding, (made, close))
