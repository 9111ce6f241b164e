"""The objects that a benchmark clicks: a data set, or the images of one list."""

from __future__ import annotations

from pathlib import Path

from fretsaw.data.datasets import Dataset, open_dataset, split
from fretsaw.data.layouts import read_list


def open_objects(data: Path, listed: Path | None) -> Dataset:
    """Return the objects of a folder, as `fretsaw evaluate clicks` takes it; of the images whose stems a file lists, if one is given."""
    objects = open_dataset(data)
    return split(objects, read_list(listed), listed.stem) if listed else objects
