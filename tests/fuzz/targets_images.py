"""Targets: image files of every format that is read."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

from fretsaw import images
from fretsaw.errors import ImageError
from hostile import READABLE, encoded, exif_photo, photo

from .harness import Refused, Target
from .mutations import mutate_bytes, mutate_png, seeded

PIXELS = 2**20
"""The limit that is asked for: memory and time are bounded by it, so that a lower one shows the bound sooner."""

SOUND = [make() for name, (make, _) in READABLE.items() if name != "very_wide.png"]
SOUND += [exif_photo(orientation) for orientation in range(1, 9)]
SOUND += [encoded(photo(), "TIFF", compression=kind) for kind in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")]
SOUND += [encoded(photo(), "JPEG", progressive=True), encoded(photo(), "WEBP", lossless=True), encoded(photo(), "BMP"), encoded(photo(), "PPM")]
SOUND += [encoded(photo(), "AVIF"), encoded(photo(), "JPEG2000"), encoded(photo(), "MPO"), encoded(photo(), "JPEG")[:-2]]


def image_file(content: bytes, folder: Path) -> bool:
    path = folder / "a.png"
    path.write_bytes(content)
    size: tuple[int, int] | None = None
    try:
        size = images.picture_size(path, PIXELS)
        image = images.read_image(path, PIXELS)
        mask = images.read_mask(path, PIXELS)
    except ImageError as error:
        raise Refused(past_header=size is not None) from error
    assert image.shape == (*size, 3), (image.shape, size)
    assert mask.shape == size
    with contextlib.suppress(ImageError):  # most hold colours rather than labels
        assert images.read_labels(path, PIXELS, size).shape == size
    return True


def damaged(rng: random.Random) -> bytes:
    content = rng.choice(SOUND)
    if content.startswith(b"\x89PNG") and rng.random() < 0.7:
        return mutate_png(rng, content)
    if rng.random() < 0.05:
        return content[: rng.randrange(len(content))] + rng.choice(SOUND)
    return mutate_bytes(rng, content, rng.choice([0, 1, 1, 2, 4]))


SAID = r"[\w. ]+: .*|.*: the file lacks its last bytes; all of its pixels are there"
"""The lines that libtiff writes to the standard error by itself: its name for the file, or for what failed, and why; and our own warning."""

TARGETS = [Target("image", seeded(damaged), image_file, ("fretsaw.images", "fretsaw.picture_kinds"), share=3, memory=32 * PIXELS, prints=SAID)]
