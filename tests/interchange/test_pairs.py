"""Every layout that is read to every format that is written, and back: all objects, names and pixels. `python tests/pairs.py` prints the table."""

from __future__ import annotations

import pytest

from fretsaw.interchange.formats import WRITERS
from fretsaw.interchange.reading import the_source
from pairs import SOURCES, example, there_and_back


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_there_and_back(source, tmp_path):
    for target in WRITERS:
        count, read, again = there_and_back(source, target, tmp_path / target)
        assert (read, again) == (count, count), target


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_formats_are_told_by_what_stands_in_them(source, tmp_path):
    """Also where the folder has other files in it that are no annotations."""
    SOURCES[source](example(), tmp_path)
    (tmp_path / "package.json").write_text('{"name": "x", "dependencies": {"image": "1", "objects": "2"}}')
    (tmp_path / "notes.txt").write_text("0 of 5 pictures are done\n")
    (tmp_path / "settings.yaml").write_text("learning_rate: 0.1\nsteps: [1, 2]\n")
    expected = source.partition(" (")[0].removesuffix("-polygons").removesuffix("-painted")
    assert the_source(tmp_path).format == expected
