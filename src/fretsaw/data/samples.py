"""What a data set is: a list of samples, each an image and a truth that are read when they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fretsaw.errors import DataError
from fretsaw.images import read_image

Reader = Callable[[Path], np.ndarray]


@dataclass(frozen=True)
class Sample:
    """One image and one truth.

    Attributes:
        name: Unique in its data set; names the sample in reports.
        image: The image's file; it may be missing, then reading says so.
        mask: The truth's file; the same.
        reader: Makes the truth from the mask's file, by the rule of the data set: (H, W) int8 with 1 object, 0 background, -1 ignored for objects, (H, W) int32
            class ids with 255 ignored for semantic sets. Picklable.
    """

    name: str
    image: Path
    mask: Path
    reader: Reader

    def read_image(self) -> np.ndarray:
        """Return the image, (H, W, 3) uint8 RGB.

        Raises:
            DataError: If the file is missing.
            ImageError: If it cannot be read.
        """
        if not self.image.is_file():
            raise DataError(f"{self.name}: expected an image at {self.image}, which does not exist")
        return read_image(self.image)

    def read_truth(self) -> np.ndarray:
        """Return the truth, (H, W).

        Raises:
            DataError: If the file is missing or cannot be read.
        """
        if not self.mask.is_file():
            raise DataError(f"{self.name}: expected a mask at {self.mask}, which does not exist")
        return self.reader(self.mask)

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (image, truth).

        Raises:
            DataError: If one of them is missing or unreadable, or if they differ in size.
            ImageError: If the image cannot be read.
        """
        image = self.read_image()
        truth = self.read_truth()
        if image.shape[:2] != truth.shape[:2]:
            (height, width), (mask_height, mask_width) = image.shape[:2], truth.shape[:2]
            raise DataError(f"{self.name}: expected a mask of the image's size {width} x {height}, got {mask_width} x {mask_height} in {self.mask.name}")
        return image, truth

    def signature(self) -> str:
        """Return a text that changes when one of the two files is exchanged: their names and sizes in bytes."""
        return "|".join(f"{path.name}:{path.stat().st_size if path.is_file() else 'missing'}" for path in (self.image, self.mask))


@dataclass(frozen=True)
class Dataset:
    """Samples in a fixed order.

    Attributes:
        name: As reports spell it, "grabcut".
        root: The folder it was read from.
        samples: In the order of their names unless the data set defines another.
        expected: Number of samples its authors state; None for a user's own folder.
        warnings: What a report must say about it, such as a wrong number of samples.
        part: "train", "val" or "test"; None where nothing states it, as for a folder of one's own.
    """

    name: str
    root: Path
    samples: Sequence[Sample]
    expected: int | None = None
    warnings: Sequence[str] = ()
    part: str | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def file_list_hash(self) -> str:
        """Return the SHA-256 over each sample's name and its files' names and sizes, in order: equal for equal lists on any machine."""
        digest = hashlib.sha256()
        for sample in self.samples:
            digest.update(f"{sample.name}\t{sample.signature()}\n".encode())
        return digest.hexdigest()
