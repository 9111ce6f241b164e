"""A user's program, which a type checker reads and nobody runs: each public call gives a known type, and a wrong one is an error.

`test_architecture.py` checks it with pyright in strict mode. A line that ends in `# wrong` must be an error, and no other line may be one.
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import numpy as np
from PIL import Image

import fretsaw
from fretsaw import Box, Click, FretsawError, LabelMap, Segmentation, Segmenter, Session
from fretsaw.errors import ModelError


def cut_out(photo: Path) -> Path | None:
    """Cut the main object out of a photo."""
    try:
        segmenter = fretsaw.load(device="cpu")
        result = segmenter.auto(photo, instances=True)
    except ModelError as error:
        print(error.args)
        return None
    except FretsawError as error:
        print(error)
        return None
    assert_type(segmenter, Segmenter)
    assert_type(result, Segmentation)
    assert_type(result.box, tuple[int, int, int, int])
    assert_type(result.score, float)
    assert_type(result.cutout(), Image.Image)
    return result.save(photo.with_suffix(".png"), format="cutout")


def click(segmenter: Segmenter, photo: str) -> float:
    """Work on one object by clicks, and go on with it later."""
    session = segmenter.open(photo)
    assert_type(session, Session)
    session.click(120, 80)
    session.click(10.5, 20.5, positive=False)
    session.clicks([Click(1, 2), Click(3, 4, positive=False)], Box(0, 0, 9, 9))
    assert_type(session.undo(), Segmentation)
    assert_type(session.redo(), Segmentation)
    result = session.auto()
    saved = session.save("work.fretsaw")
    assert_type(saved, Path)
    again = segmenter.open(np.zeros((8, 8, 3), np.uint8), saved=saved)
    return result.score + again.box(0, 0, 4, 4).score


def name(segmenter: Segmenter, photos: list[str]) -> list[str]:
    """Cut by name, and list what models there are."""
    assert_type(segmenter.text("a.jpg", ["cat", "dog; puppy"]), LabelMap)
    assert_type(segmenter.semantic("a.jpg"), LabelMap)
    return [model.name for model in fretsaw.list_models() if "click" in model.mode and model.present]


def wrong(session: Session, segmenter: Segmenter) -> None:
    """Each of these is refused."""
    session.click("left")  # wrong
    session.click(1, "2")  # wrong
    session.clicks([(1, 2)])  # wrong
    segmenter.open(3)  # wrong
    segmenter.auto("a.jpg").no_such_result()  # wrong
    fretsaw.load(size="large")  # wrong
    fretsaw.load().open("a.jpg").save(1)  # wrong
