"""The split of a cut into instances, with a decoder whose answers are known."""

from __future__ import annotations

import numpy as np
import torch

from experiments.pmg_sam.scenes import side_by_side
from fretsaw import frames
from fretsaw.methods.pmg_sam.instances import find_components, split_component
from fretsaw.types import ImageEmbedding
from tiny import tiny_sam2


class TwoDisks:
    """Stands in for SAM: answers a click by the disk that it falls on, three masks alike."""

    preprocessing = frames.Preprocessing(frames.squash, 128)

    def __init__(self, disks: list[np.ndarray]) -> None:
        self.disks = [torch.from_numpy(frames.mask_to_logits(disk, frames.squash(128, 128, 128), 32)) for disk in disks]

    def embed(self, prompt, frame):
        return prompt.clicks[0]

    def decode(self, embedding, click):
        x, y = int(click.x) // 4, int(click.y) // 4
        logits = next((disk for disk in self.disks if disk[0, 0, y, x] > 0), self.disks[0])
        return logits.expand(1, 4, 32, 32), torch.full((1, 4), 0.9)


def disk(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:128, :128]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


EMBEDDING = ImageEmbedding(torch.zeros(1, 8, 8, 8))


def test_two_objects_that_touch_are_split_and_one_is_not():
    left, right = disk(40, 64, 24), disk(86, 64, 24)
    union = left | right
    assert len(find_components(union)) == 1
    frame = frames.squash(128, 128, 128)
    parts = split_component(union, TwoDisks([left, right]), EMBEDDING, frame)  # type: ignore[arg-type]
    assert len(parts) == 2
    masks = sorted((mask for mask, _ in parts), key=lambda mask: mask.nonzero()[1].mean())
    assert (masks[0] & masks[1]).sum() == 0
    assert np.array_equal(masks[0] | masks[1], union)
    for mask, truth in zip(masks, (left, right), strict=True):
        assert (mask & truth).sum() / (mask | truth).sum() > 0.9
    [(whole, score)] = split_component(left, TwoDisks([left, right]), EMBEDDING, frame)  # type: ignore[arg-type]
    assert np.array_equal(whole, left)
    assert score == 0


def test_answers_that_leave_the_component_or_explain_little_do_not_split():
    left, right = disk(40, 64, 24), disk(86, 64, 24)
    frame = frames.squash(128, 128, 128)
    everywhere = [np.ones((128, 128), bool)]
    assert len(split_component(left | right, TwoDisks(everywhere), EMBEDDING, frame)) == 1  # type: ignore[arg-type]
    small = [disk(40, 64, 10), disk(86, 64, 10)]
    assert len(split_component(left | right, TwoDisks(small), EMBEDDING, frame)) == 1  # type: ignore[arg-type]


def test_components_come_the_largest_first_without_crumbs():
    mask = disk(30, 30, 20) | disk(100, 100, 10) | disk(10, 120, 1.1)
    found = find_components(mask, 0.01)
    assert [int(part.sum()) for part in found] == sorted((int(part.sum()) for part in found), reverse=True)
    assert len(found) == 2


def test_pasted_objects_touch_and_do_not_overlap(rng):
    objects = [(rng.integers(0, 255, (40, 30, 3), dtype=np.uint8), disk(64, 64, 15)[44:84, 49:79]) for _ in range(3)]
    image, masks = side_by_side(objects, np.zeros((100, 150, 3), np.uint8))
    union = np.logical_or.reduce(masks)
    assert sum(int(mask.sum()) for mask in masks) == int(union.sum())
    assert len(find_components(union)) == 1
    assert image[~union].max() == 0


def test_a_session_splits_on_request_only(rng):
    from fretsaw.runtimes.torch import TorchClickModel
    from fretsaw.session import Session

    class Splitting:
        asked = 0

        def __call__(self, image, embedding, frame):
            from fretsaw.segmentation import Segmentation

            return Segmentation(np.ones(image.shape[:2], np.float32), 1.0, image=image)

        def split(self, result, embedding, frame):
            from fretsaw.segmentation import Segmentation

            self.asked += 1
            return Segmentation(result.logits, result.score, image=result.image, instances=(result, result))

    cut = Splitting()
    session = Session(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8), TorchClickModel(tiny_sam2(64)), cut)
    assert session.auto().instances == ()
    assert cut.asked == 0
    assert len(session.auto(instances=True).instances) == 2
