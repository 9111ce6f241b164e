"""fretsaw-hr from the catalogue: SAM 2 with windows and an anchor map, nothing trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fretsaw import catalog
from fretsaw.api import Segmenter
from fretsaw.catalog.entries import Network, Parts
from fretsaw.catalog.high_resolution import SIDE, assemble_high_resolution
from fretsaw.errors import ModelError, ShapeError
from tiny import tiny_sam, tiny_sam2


class Models:
    """The catalogue as the builder sees it, with tiny models."""

    def __init__(self, make) -> None:
        self.make = make

    def of_network(self, network, size) -> Parts:
        return Parts(self.make(size))


def assembled(size: int | None, make=tiny_sam2) -> Parts:
    return assemble_high_resolution({"sam": Network("tiny", Path("tiny"), "abc")}, size, Models(make))


def test_at_the_side_of_training_it_answers_as_sam_2():
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    ours, theirs = (Segmenter("model", parts).open(image).click(40, 30) for parts in (assembled(256), Parts(tiny_sam2(256))))
    np.testing.assert_allclose(ours.logits, theirs.logits, atol=1e-3)


@pytest.mark.parametrize("side", [1040, 1072])
def test_a_larger_picture_is_clicked_whole(side):
    parts = assembled(side)
    assert parts.clicks.preprocessing.size == side
    session = Segmenter("model", parts).open(np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8))
    assert session.click(50, 60).mask.shape == (300, 200)


def test_its_embeddings_are_told_from_those_of_the_model_underneath():
    assert assembled(256).clicks.checksum not in ("", "abc", tiny_sam2(256).checksum)


def test_what_it_cannot_be_is_refused():
    with pytest.raises(ShapeError, match="multiple of 16, got 1000"):
        assembled(1000)
    with pytest.raises(ModelError, match="a SAM 2 in the place of SAM, got tiny"):
        assembled(128, tiny_sam)


def test_the_catalogue_has_it_over_sam_2():
    entry = catalog.find("fretsaw-hr")
    assert dict(entry.networks) == {"sam": "sam2-hiera-tiny"}
    assert not SIDE % 32
    assert catalog.find("sam2-hiera-tiny").weights.size == entry.weights.size
