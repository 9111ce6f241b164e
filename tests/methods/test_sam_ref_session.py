"""SAM-REF inside a session: one's own mask outside the crop, undo and redo, and what is computed once per image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fretsaw.methods.sam_ref import model as sam_ref_model
from fretsaw.methods.sam_ref.model import SamRef
from fretsaw.runtimes.torch import TorchClickModel
from fretsaw.session import Session
from fretsaw.types import Box, ImageEmbedding, RefinerState
from tiny import CHANNELS, tiny_sam, tiny_sam2


@pytest.fixture
def image(rng) -> np.ndarray:
    return rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)


@pytest.fixture
def map_scale() -> int:
    return 1


BOTH_SCALES = pytest.mark.parametrize("map_scale", [1, 2])


@pytest.fixture
def refiner(map_scale) -> SamRef:
    """A refiner that trusts its own random maps, so that every click changes something."""
    torch.manual_seed(2)
    network = SamRef(8, 2, CHANNELS, map_scale, global_from=1, patch_from=6).eval().requires_grad_(False)
    torch.nn.init.constant_(network.global_diff.heads.error.bias, 0.0)
    torch.nn.init.constant_(network.patch_diff.heads.error.bias, 0.0)
    for heads in (network.global_diff.heads, network.patch_diff.heads):
        torch.nn.init.normal_(heads.change.weight)
    return network


@pytest.fixture
def boxes(monkeypatch) -> list[Box]:
    """The crops that were pasted back, in the order of the clicks."""
    seen: list[Box] = []
    original = sam_ref_model.paste_crop

    def paste(crop, box, canvas):
        seen.append(box)
        return original(crop, box, canvas)

    monkeypatch.setattr(sam_ref_model, "paste_crop", paste)
    return seen


@BOTH_SCALES
@pytest.mark.parametrize("build", [tiny_sam, tiny_sam2])
@pytest.mark.parametrize("click", [(20, 20), (60, 35), (80, 60)])
def test_a_click_on_ones_own_mask_changes_nothing_outside_the_crop(refiner, image, rng, boxes, build, click):
    refiner.heeds_clicks = False  # random maps may contradict the click
    # What GlobalDiff says is object everywhere: the change is all that the own mask lacks, and the piece of it that holds the click is refined.
    torch.nn.init.constant_(refiner.global_diff.heads.error.bias, 50.0)
    torch.nn.init.constant_(refiner.global_diff.heads.change.bias, 50.0)
    own = np.ones((70, 90), bool)
    y, x = click[1], click[0]
    own[max(0, y - 9) : y + 9, max(0, x - 9) : x + 9] = False
    own[::11, ::7] ^= True  # detail that the decoder's map cannot hold
    session = Session(image, TorchClickModel(build(128), refiner))
    session.mask(own)
    before = session.step.prompt.previous_logits
    result = session.click(*click)
    [box] = boxes
    low = np.ones((32 * refiner.map_scale, 32 * refiner.map_scale), bool)
    low[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] = False
    assert np.array_equal(session.step.prompt.previous_logits[0, 0][low], before[0, 0][low])
    assert not np.array_equal(session.step.prompt.previous_logits, before)
    # A pixel of the map reaches one of its neighbours' widths when it is enlarged.
    size = 128 / 4 * refiner.map_scale
    longest = 90 if build is tiny_sam else None
    scale_x, scale_y = (longest or 90) / size, (longest or 70) / size
    far = np.ones((70, 90), bool)
    far[
        max(0, int((box.y0 - 1) * scale_y) - 1) : int((box.y1 + 1) * scale_y) + 2, max(0, int((box.x0 - 1) * scale_x) - 1) : int((box.x1 + 1) * scale_x) + 2
    ] = False
    assert far.any()
    assert np.array_equal(result.mask[far], own[far])
    assert np.array_equal(result.logits[far], np.where(own, 8.0, -8.0)[far])


@BOTH_SCALES
def test_a_click_that_agrees_with_ones_own_mask_keeps_every_bit(refiner, image):
    """No change around the click: the user's mask stays, detail and all."""
    torch.nn.init.constant_(refiner.global_diff.heads.error.bias, 50.0)
    torch.nn.init.constant_(refiner.global_diff.heads.change.bias, 50.0)
    own = np.zeros((70, 90), bool)
    own[20:50, 30:60] = True
    own[25:45:7, 32:58:9] = False  # holes that the decoder's map cannot hold
    session = Session(image, TorchClickModel(tiny_sam2(128), refiner))
    session.mask(own)
    assert np.array_equal(session.click(45, 35).mask, own)


@pytest.mark.parametrize("map_scale", [2])
def test_finer_maps_keep_thin_parts_that_the_decoders_map_cannot_hold(refiner, image):
    own = np.zeros((70, 90), bool)
    own[:, 40] = True  # a pixel wide, and one of the decoder's map is 2.8
    session = Session(image, TorchClickModel(tiny_sam2(128), refiner))
    session.mask(own)
    fine = session.step.prompt.previous_logits
    coarse = torch.nn.functional.avg_pool2d(torch.tensor(fine), 2)
    assert fine.shape[-1] == 64
    assert (fine > 0).any()
    assert not (coarse > 0).any()
    prompt = session.model.network.embed(session.step.prompt, session.frame)
    assert torch.equal(prompt.dense, session.model.network.embed_prompt(mask_logits=coarse).dense), "the decoder is given the mean"
    assert session.click(40, 35).logits.shape == (70, 90)
    assert session.step.prompt.previous_logits.shape[-1] == 64


def answers(refiner: SamRef, detail: float, coarse: torch.Tensor, label: int, previous: torch.Tensor | None = None, state=None) -> torch.Tensor:
    """What the refiner makes of a coarse mask when it is sure of `detail` everywhere, with one click in the middle of the map."""
    for heads in (refiner.global_diff.heads, refiner.patch_diff.heads):
        heads.forward = lambda feature, coarse: (torch.full_like(coarse, 50.0), torch.full_like(coarse, detail))
    features = refiner.prepare(torch.zeros(1, 3, 128, 128), ImageEmbedding(torch.zeros(1, CHANNELS, 8, 8)))
    state = state or RefinerState(given=previous is not None)
    return refiner.refine(features, torch.tensor([[[64.0, 64.0]]]), torch.tensor([[label]]), coarse, previous, state)[0]


@pytest.mark.parametrize(("label", "detail"), [(1, -5.0), (0, 5.0)])
def test_an_answer_that_contradicts_the_clicks_gives_way_to_the_decoders(refiner, label, detail):
    coarse = torch.full((1, 1, 32, 32), -0.6 * detail)
    assert torch.equal(answers(refiner, detail, coarse, label), coarse)
    refiner.heeds_clicks = False
    assert torch.allclose(answers(refiner, detail, coarse, label), torch.full_like(coarse, detail), atol=1e-3)


def test_where_the_decoder_contradicts_the_clicks_as_well_the_refiner_answers(refiner):
    coarse = torch.full((1, 1, 32, 32), -3.0)
    assert torch.allclose(answers(refiner, -5.0, coarse, 1), torch.full_like(coarse, -5.0), atol=1e-3)


def test_a_mask_that_was_given_takes_the_decoders_answer_around_the_click_alone(refiner):
    """The refiner would leave the hole; the decoder fills it, and is wrong elsewhere, where nobody clicked."""
    given = torch.full((1, 1, 32, 32), 6.0)
    given[..., 14:19, 14:19] = -6.0
    coarse = torch.full((1, 1, 32, 32), 4.0)
    coarse[..., :3, :] = -4.0
    answer = answers(refiner, -5.0, coarse, 1, previous=given)
    assert (answer[..., 14:19, 14:19] == 4.0).all()
    far = torch.ones(32, 32, dtype=torch.bool)
    far[10:23, 10:23] = False
    assert torch.equal(answer[0, 0][far], given[0, 0][far])


@pytest.mark.parametrize("error_map", [None, torch.full((1, 1, 32, 32), 60.0)], ids=["first click", "later click"])
def test_a_mask_that_was_given_is_mended_around_the_click_alone(refiner, error_map):
    """The error region has not grown at the later click, and still GlobalDiff's answer does not take the place of the whole mask."""
    given = torch.full((1, 1, 32, 32), 6.0)
    given[..., 14:19, 14:19] = -6.0
    answer = answers(refiner, 5.0, torch.full((1, 1, 32, 32), 3.0), 1, previous=given, state=RefinerState(given=True, error_map=error_map))
    assert (answer[..., 14:19, 14:19] > 0).all()
    far = torch.ones(32, 32, dtype=torch.bool)
    far[10:23, 10:23] = False
    assert torch.equal(answer[0, 0][far], given[0, 0][far])


@BOTH_SCALES
@pytest.mark.parametrize("build", [tiny_sam, tiny_sam2])
def test_undo_and_redo_restore_the_refiners_state_exactly(refiner, image, build):
    session = Session(image, TorchClickModel(build(128), refiner))
    steps, results = [], []
    for x, y, positive in ((40, 30, True), (70, 20, False), (20, 55, True)):
        results.append(session.click(x, y, positive))
        steps.append(session.step)
    assert len({id(step.refiner_state) for step in steps}) == 3
    for expected, result in zip(steps[-2::-1], results[-2::-1], strict=True):
        assert np.array_equal(session.undo().logits, result.logits)
        assert session.step is expected
    for expected, result in zip(steps[1:], results[1:], strict=True):
        assert np.array_equal(session.redo().logits, result.logits)
        assert session.step is expected


def test_a_click_after_undo_is_the_click_of_a_session_that_never_took_the_other_way(refiner, image):
    model = tiny_sam2(128)
    wandered, straight = Session(image, TorchClickModel(model, refiner)), Session(image, TorchClickModel(model, refiner))
    for session in (wandered, straight):
        session.click(40, 30)
    wandered.click(10, 10, positive=False)
    wandered.undo()
    again, expected = wandered.click(70, 50), straight.click(70, 50)
    assert np.array_equal(again.logits, expected.logits)
    assert np.array_equal(wandered.step.refiner_state.error_map, straight.step.refiner_state.error_map)


def test_what_depends_on_the_image_alone_is_computed_once(refiner, image, monkeypatch):
    counts = {"image": 0, "upscale": 0}
    for name in counts:
        module = getattr(refiner.global_diff, name)
        module.register_forward_hook(lambda *_, name=name: counts.__setitem__(name, counts[name] + 1))
    session = Session(image, TorchClickModel(tiny_sam2(128), refiner))
    session.click(40, 30)
    session.click(70, 20, positive=False)
    session.undo()
    session.redo()
    session.mask(np.ones((70, 90), bool))
    session.box(10, 10, 60, 60)
    session.reset()
    session.click(20, 20)
    assert counts == {"image": 1, "upscale": 1}


def test_a_sessions_memory_counts_the_refiners_features_its_views_and_its_states(refiner, image):
    plain, session = (Session(image, TorchClickModel(tiny_sam2(128), used)) for used in (None, refiner))
    features = session._whole.features
    kept = sum(tensor.nbytes for tensor in (features.fused, features.embedding))
    assert session.nbytes == plain.nbytes + kept
    session.views.seen(Box(0, 0, 40, 40))
    plain.views.seen(Box(0, 0, 40, 40))
    assert session.nbytes == plain.nbytes + 2 * kept
    session.click(40, 30)
    step = session.step
    assert step.refiner_state.error_map.nbytes > 0
    assert session.history_nbytes == step.prompt.previous_logits.nbytes + step.refiner_state.error_map.nbytes
