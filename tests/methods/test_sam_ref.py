"""SAM-REF: equations 1 and 2, the crop and its way back, the selector's branches, and the refiner inside a session."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from fretsaw.clicks.encode import disk_maps
from fretsaw.errors import ModelError
from fretsaw.layers.roi_align import roi_align
from fretsaw.methods.sam_ref import places as places_module
from fretsaw.methods.sam_ref.model import GLOBAL_FROM, SURE_LOGIT, SamRef, build_sam_ref
from fretsaw.methods.sam_ref.networks import GlobalDiff, GlobalResult, Heads, RefinerFeatures, blend
from fretsaw.methods.sam_ref.places import changed_box, error_region_grew, paste_crop, unsure_box
from fretsaw.runtimes.torch import TorchClickModel
from fretsaw.session import Session
from fretsaw.types import Box, ImageEmbedding, RefinerState
from tiny import CHANNELS, tiny_sam, tiny_sam2


@pytest.fixture(scope="module")
def refiner() -> SamRef:
    torch.manual_seed(0)
    return SamRef(width=8, blocks=2, channels=CHANNELS, global_from=1, patch_from=2).eval()


@pytest.fixture
def image(rng) -> np.ndarray:
    return rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)


def features_of(refiner: SamRef) -> RefinerFeatures:
    torch.manual_seed(1)
    with torch.no_grad():
        return refiner.prepare(torch.randn(1, 3, 128, 128), ImageEmbedding(torch.randn(1, CHANNELS, 8, 8)))


def square(x0: int, y0: int, x1: int, y1: int) -> torch.Tensor:
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_equation_1_by_hand():
    error = torch.tensor([0.0, torch.log(torch.tensor(3.0)), -50.0, 50.0])
    detail, coarse = torch.tensor([2.0, 4.0, 7.0, 7.0]), torch.tensor([-4.0, -4.0, 3.0, 3.0])
    assert torch.allclose(blend(error, detail, coarse), torch.tensor([-1.0, 2.0, 3.0, 7.0]))


def test_error_region_counts_pixels_and_not_strength():
    few, many = torch.full((1, 1, 4, 4), -1.0), torch.full((1, 1, 4, 4), -1.0)
    few[..., 0, :2] = 50.0
    many[..., 0, :3] = 0.1
    assert error_region_grew(many, few)
    assert not error_region_grew(few, many)
    assert not error_region_grew(few, few)
    assert error_region_grew(few, None)


def test_changed_box_is_around_the_component_that_holds_the_click():
    previous, mask = square(0, 0, 0, 0), square(4, 6, 14, 16) | square(22, 22, 30, 30)
    assert changed_box(mask, previous, (8.2, 9.9), factor=1.0) == Box(4, 6, 14, 16)
    assert changed_box(mask, previous, (25, 25), factor=1.0) == Box(22, 22, 30, 30)
    assert changed_box(mask, previous, (8, 9), factor=1.4) == Box(2, 4, 16, 18)
    assert changed_box(mask, previous, (18, 3)) is None
    assert changed_box(mask, mask, (8, 9)) is None


def test_changed_box_sees_what_was_taken_away_and_stays_inside():
    assert changed_box(square(0, 0, 0, 0), square(0, 0, 10, 10), (2, 2)) == Box(0, 0, 12, 12)


def test_roi_align_of_the_whole_map_at_its_own_size_keeps_a_ramp():
    ramp = torch.arange(16.0).expand(1, 1, 16, 16).clone()
    out = roi_align(ramp, torch.tensor([[0.0, 0, 16, 16]]), 16)
    assert torch.allclose(out[..., 1:-1], ramp[..., 1:-1], atol=1e-5)


def test_roi_align_equals_its_definition():
    torch.manual_seed(0)
    values = torch.randn(1, 2, 12, 10)
    x0, y0, x1, y1 = 1.3, 2.1, 8.7, 10.4
    out = roi_align(values, torch.tensor([[x0, y0, x1, y1]]), 3)

    def bilinear(x: float, y: float) -> torch.Tensor:
        x, y = x - 0.5, y - 0.5
        left, top = int(np.floor(x)), int(np.floor(y))
        u, v = x - left, y - top
        v00, v10, v01, v11 = values[0, :, top, left], values[0, :, top, left + 1], values[0, :, top + 1, left], values[0, :, top + 1, left + 1]
        return (1 - u) * (1 - v) * v00 + u * (1 - v) * v10 + (1 - u) * v * v01 + u * v * v11

    width, height = (x1 - x0) / 3, (y1 - y0) / 3
    for row in range(3):
        for column in range(3):
            places = [(x0 + (column + (a + 0.5) / 2) * width, y0 + (row + (b + 0.5) / 2) * height) for a in range(2) for b in range(2)]
            expected = torch.stack([bilinear(x, y) for x, y in places]).mean(0)
            assert torch.allclose(out[0, :, row, column], expected, atol=1e-5)


@pytest.mark.parametrize("boxes", [[[1.3, 2.1, 8.7, 10.4], [0.0, 0.0, 10.0, 12.0]], [[-1.0, 3.0, 4.0, 14.0], [9.2, 11.1, 9.9, 11.7]]])
def test_roi_align_as_two_matrices_equals_sampling_point_by_point(boxes):
    torch.manual_seed(0)
    values, boxes = torch.randn(2, 3, 12, 10), torch.tensor(boxes)
    places = (torch.arange(32) + 0.5) / 32
    x, y = (boxes[:, i : i + 1] + places * (boxes[:, i + 2 : i + 3] - boxes[:, i : i + 1]) for i in (0, 1))
    grid = torch.stack(torch.broadcast_tensors((2 * x / 10 - 1)[:, None, :], (2 * y / 12 - 1)[:, :, None]), -1)
    sampled = torch.nn.functional.grid_sample(values, grid, padding_mode="border", align_corners=False)
    assert torch.allclose(roi_align(values, boxes, 16), torch.nn.functional.avg_pool2d(sampled, 2), atol=1e-5)


def test_paste_touches_nothing_outside_the_box():
    torch.manual_seed(0)
    canvas, crop = torch.randn(1, 1, 32, 32), torch.full((1, 1, 256, 256), 5.0)
    result = paste_crop(crop, Box(3, 5, 20, 30), canvas)
    outside = torch.ones(32, 32, dtype=torch.bool)
    outside[5:30, 3:20] = False
    assert torch.equal(result[0, 0][outside], canvas[0, 0][outside])
    assert torch.allclose(result[0, 0][~outside], torch.tensor(5.0))


def test_a_crop_returns_to_where_it_came_from():
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    smooth = (columns / 7 + rows / 11)[None, None]
    box = Box(4, 6, 20, 26)
    crop = roi_align(smooth, torch.tensor([[4.0, 6, 20, 26]]), 256)
    assert torch.allclose(paste_crop(crop, box, smooth), smooth, atol=0.02)


def test_a_fresh_refiner_changes_nothing(refiner):
    """Training starts from the decoder's own mask."""
    coarse = torch.randn(1, 1, 32, 32) * 8
    with torch.no_grad():
        logits, _ = refiner.refine(features_of(refiner), torch.tensor([[[60.0, 60.0]]]), torch.tensor([[1]]), coarse, None, RefinerState())
    assert torch.equal(logits, coarse)


def test_what_the_heads_predict_is_added_to_the_coarse_logits():
    heads = Heads(4, 8)
    torch.nn.init.normal_(heads.change.weight)
    feature, coarse = torch.randn(2, 4, 6, 6), torch.randn(2, 1, 6, 6)
    error_map, detail_map = heads(feature, coarse)
    further, moved = heads(feature, coarse + 3)
    assert torch.equal(error_map, further)
    assert torch.allclose(moved - detail_map, torch.full_like(coarse, 3.0), atol=1e-5)
    assert (detail_map != coarse).any()


def test_an_encoders_finer_maps_are_seen():
    torch.manual_seed(1)
    network = GlobalDiff(8, 1, CHANNELS, levels=(4, 6)).eval()
    pixels, final = torch.randn(1, 3, 128, 128), torch.randn(1, CHANNELS, 8, 8)
    fine, middle = torch.randn(1, 4, 32, 32), torch.randn(1, 6, 16, 16)
    with torch.no_grad():
        features = network.prepare(pixels, ImageEmbedding(final, (fine, middle)))
        expected = network.upscale(final) + network.levels[0](fine) + F.interpolate(network.levels[1](middle), (32, 32), mode="bilinear")
    assert torch.allclose(features.embedding, expected, atol=1e-5)
    for other in (ImageEmbedding(final), ImageEmbedding(final, (middle, fine)), ImageEmbedding(fine, (fine, middle))):
        with pytest.raises(ModelError, match="another model's"):
            network.prepare(pixels, other)


def fixed(refiner: SamRef, monkeypatch, logits: torch.Tensor, errors: int) -> None:
    """Let GlobalDiff answer with a given mask and a given number of error pixels, and PatchDiff with logits of 9."""
    error_map = torch.full((1, 1, 32, 32), -1.0)
    error_map.view(-1)[:errors] = 1.0
    result = GlobalResult(logits, error_map, logits, torch.zeros(1, 8, 32, 32))
    monkeypatch.setattr(refiner.global_diff, "inside", lambda *arguments: result)
    nine = torch.full((1, 1, 256, 256), 9.0)
    monkeypatch.setattr(refiner.patch_diff, "forward", lambda *arguments: (nine, nine, nine))


def signed(mask: torch.Tensor) -> torch.Tensor:
    return torch.where(mask, 3.0, -3.0)[None, None]


CLICK = (torch.tensor([[[33.5, 33.5]]]), torch.tensor([[1]]))  # pixel 8 of the maps


def clicked(times: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`CLICK`, made so many times."""
    return CLICK[0].repeat(1, times, 1), CLICK[1].repeat(1, times)


def test_early_answers_are_the_decoders(refiner, monkeypatch):
    """As it is used; the state says that no error is known, so that any that GlobalDiff sees later is new."""
    monkeypatch.setattr(refiner, "global_from", GLOBAL_FROM)
    monkeypatch.setattr(refiner, "patch_from", None)
    features, coarse, previous = features_of(refiner), torch.randn(1, 1, 32, 32), torch.randn(1, 1, 32, 32)
    fixed(refiner, monkeypatch, signed(square(6, 6, 30, 30)), errors=10)
    early, state = refiner.refine(features, *clicked(GLOBAL_FROM - 1), coarse, previous, RefinerState(error_map=torch.full((1, 1, 32, 32), -1.0)))
    assert torch.equal(early, coarse)
    assert not (state.error_map > 0).any()
    late, state = refiner.refine(features, *clicked(GLOBAL_FROM), coarse, previous, state)
    assert torch.equal(late, signed(square(6, 6, 30, 30)))
    _, state = refiner.refine(features, *clicked(1), coarse, previous, RefinerState(given=True))
    assert state.given, "a mask that came from elsewhere is mended from the first click on"


def test_selector_takes_the_global_mask_while_the_error_region_shrinks(refiner, monkeypatch):
    features, previous = features_of(refiner), signed(square(4, 4, 20, 20))
    fixed(refiner, monkeypatch, signed(square(6, 6, 30, 30)), errors=10)
    before = RefinerState(error_map=torch.ones(1, 1, 32, 32))
    logits, state = refiner.refine(features, *CLICK, torch.zeros(1, 1, 32, 32), previous, before)
    assert torch.equal(logits, signed(square(6, 6, 30, 30)))
    assert int((state.error_map > 0).sum()) == 10


@pytest.mark.parametrize(("patch_from", "clicks", "patched"), [(2, 2, True), (6, 5, False), (6, 6, True), (None, 20, False)], ids=str)
def test_selector_patches_the_previous_mask_when_the_error_region_grows(refiner, monkeypatch, patch_from, clicks, patched):
    """At early clicks the whole mask may turn out to have been the wrong thing, and nothing of it is kept."""
    monkeypatch.setattr(refiner, "patch_from", patch_from)
    features, previous = features_of(refiner), signed(square(20, 20, 30, 30))
    whole = signed(square(4, 4, 14, 14) | square(22, 22, 31, 31))
    fixed(refiner, monkeypatch, whole, errors=10)
    before = RefinerState(error_map=torch.full((1, 1, 32, 32), -1.0))
    logits, _ = refiner.refine(features, *clicked(clicks), torch.zeros(1, 1, 32, 32), previous, before)
    if not patched:
        assert torch.equal(logits, whole)
        return
    box = square(2, 2, 16, 16)
    assert torch.equal(logits[0, 0][~box], previous[0, 0][~box])
    assert (logits[0, 0][box] == 9).all()


def test_nothing_happens_where_the_click_changed_nothing(refiner, monkeypatch):
    features, previous = features_of(refiner), signed(square(4, 4, 14, 14))
    fixed(refiner, monkeypatch, signed(square(4, 4, 14, 14) | square(25, 25, 30, 30)), errors=10)
    logits, _ = refiner.refine(features, *CLICK, torch.zeros(1, 1, 32, 32), previous, RefinerState(given=True))
    assert logits is previous


@pytest.mark.parametrize("build", [tiny_sam, tiny_sam2])
def test_inside_a_session_over_any_encoder_undo_restores_the_state(refiner, image, build):
    session = Session(image, TorchClickModel(build(128), refiner))
    first = session.click(40, 30)
    state = session.step.refiner_state
    session.click(70, 20, positive=False)
    assert np.array_equal(session.undo().logits, first.logits)
    assert session.step.refiner_state is state


def test_ones_own_mask_keeps_every_pixel_outside_the_refined_region(refiner, image, monkeypatch):
    """At the image's own size, not only at the decoder's."""
    own = np.zeros((60, 90), bool)
    own[::7, ::5] = True  # detail that a quarter of the size cannot hold
    session = Session(image, TorchClickModel(tiny_sam2(128), refiner))
    session.mask(own)
    low = session.step.prompt.previous_logits
    changed = torch.tensor(low)
    changed[..., 4:14, 4:14] = 9.0
    monkeypatch.setattr(refiner, "refine", lambda *arguments: (changed, RefinerState(error_map=changed)))
    result = session.click(18, 12)
    far = np.ones((60, 90), bool)
    far[: int(15 * 60 / 32) + 2, : int(15 * 90 / 32) + 2] = False
    assert np.array_equal(result.mask[far], own[far])
    assert result.mask[12:20, 16:30].all()


@pytest.mark.parametrize("blocks", [1, 3])
def test_inside_a_box_the_result_is_that_of_the_whole_map(blocks):
    torch.manual_seed(5)
    network = SamRef(8, blocks, CHANNELS, global_from=1, patch_from=2).eval()
    torch.nn.init.constant_(network.global_diff.heads.error.bias, 0.0)
    features, coarse, disks = features_of(network), torch.randn(1, 1, 32, 32) * 5, (torch.rand(1, 2, 32, 32) > 0.9).float()
    with torch.no_grad():
        whole = network.global_diff(features, disks, coarse)
        part = network.global_diff.inside(features, disks, coarse, Box(10, 12, 15, 18))
    within = (..., slice(12, 18), slice(10, 15))
    for name in ("logits", "error_map", "detail_map"):
        assert torch.allclose(getattr(part, name)[within], getattr(whole, name)[within], atol=1e-5)
    outside = torch.ones(32, 32, dtype=torch.bool)
    outside[12:18, 10:15] = False
    assert torch.equal(part.logits[0, 0][outside], coarse[0, 0][outside])
    assert (part.error_map[0, 0][outside] < -20).all()
    # F(N) is needed one pixel beyond the box, where RoIAlign reads.
    x, y = part.origin
    local = part.feature[..., 11 - y : 19 - y, 9 - x : 16 - x]
    assert torch.allclose(local, whole.feature[..., 11:19, 9:16], atol=1e-5)


def test_a_refined_mask_does_not_depend_on_where_the_box_of_the_work_lies():
    """All of the map in doubt or a part of it: PatchDiff's crop and GlobalDiff's mask are the same."""
    torch.manual_seed(6)
    near, whole = (SamRef(8, 1, CHANNELS, sure_logit=sure, global_from=1, patch_from=2).eval() for sure in (SURE_LOGIT, float("inf")))
    torch.nn.init.constant_(near.global_diff.heads.error.bias, 0.0)
    whole.load_state_dict(near.state_dict())
    features, coarse = features_of(near), torch.full((1, 1, 32, 32), -20.0)
    coarse[..., 6:12, 5:13] = torch.randn(6, 8) * 3
    previous = torch.full((1, 1, 32, 32), -20.0)
    with torch.no_grad():
        for before, state in ((None, RefinerState()), (previous, RefinerState(error_map=torch.full((1, 1, 32, 32), -1.0)))):
            ours, _ = near.refine(features, *CLICK, coarse, before, state)
            theirs, _ = whole.refine(features, *CLICK, coarse, before, state)
            box = unsure_box(disk_maps(*CLICK, 128, 32), coarse, previous, SURE_LOGIT)
            within = (..., slice(int(box.y0), int(box.y1)), slice(int(box.x0), int(box.x1)))
            assert torch.allclose(ours[within], theirs[within], atol=1e-4)


def test_what_is_unsure_is_boxed_with_a_margin(monkeypatch):
    monkeypatch.setattr(places_module, "MARGIN", 2)
    logits, disks = torch.full((1, 1, 32, 32), -9.0), torch.zeros(1, 2, 32, 32)
    assert unsure_box(disks, logits, None, 4.0) == Box(0, 0, 32, 32)
    logits[..., 10, 12] = -3.0
    assert unsure_box(disks, logits, None, 4.0) == Box(10, 8, 15, 13)
    disks[0, 1, 30, 5] = 1
    assert unsure_box(disks, logits, None, 4.0) == Box(3, 8, 15, 32)
    previous = torch.full((1, 1, 32, 32), -9.0)
    previous[..., 1, 20] = 1.0
    assert unsure_box(disks, logits, previous, 4.0) == Box(3, 0, 23, 32)
    assert unsure_box(disks, logits, previous, float("inf")) == Box(0, 0, 32, 32)


def test_gradients_reach_every_parameter(refiner):
    refiner.zero_grad()
    pixels, embedding = torch.randn(1, 3, 128, 128), ImageEmbedding(torch.randn(1, CHANNELS, 8, 8))
    coarse = torch.randn(1, 1, 32, 32)
    result = refiner.global_diff(refiner.prepare(pixels, embedding), torch.zeros(1, 2, 32, 32), coarse)
    local, error_map, _ = refiner.patch_diff(result.feature, coarse, torch.tensor([[2.0, 3, 20, 22]]))
    (result.logits.square().mean() + local.square().mean() + error_map.mean() + result.error_map.mean()).backward()
    assert [name for name, parameter in refiner.named_parameters() if parameter.grad is None or parameter.grad.abs().sum() == 0] == []


def test_saved_weights_build_the_same_refiner(refiner):
    again = build_sam_ref(refiner.state_dict(), refiner.config)
    again.global_from = refiner.global_from
    features, coarse = features_of(refiner), torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        one, _ = refiner.refine(features, *CLICK, coarse, None, RefinerState())
        other, _ = again.refine(features, *CLICK, coarse, None, RefinerState())
    assert torch.equal(one, other)


def trusting(network: SamRef) -> SamRef:
    """The same refiner, believing in its own random maps, and with norms that have seen something."""
    for heads in (network.global_diff.heads, network.patch_diff.heads):
        torch.nn.init.normal_(heads.change.weight)
        torch.nn.init.constant_(heads.error.bias, 0.5)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.5)])
def test_what_answers_is_the_refiner_that_learned(dtype, tolerance):
    """Global answers and pasted ones; in half the precision sums of some hundred products differ in the second digit, as logits of 20 do by less than 0.5."""
    torch.manual_seed(4)
    network = trusting(SamRef(8, 2, CHANNELS, global_from=1))
    quick = network.for_answers(dtype)
    coarse, previous = torch.randn(1, 1, 32, 32) * 5, torch.randn(1, 1, 32, 32) * 5
    with torch.no_grad():
        for before, state in ((None, RefinerState()), (previous, RefinerState(given=True))):
            ours, known = network.refine(features_of(network), *CLICK, coarse, before, state)
            theirs, same = quick.refine(features_of(quick), *CLICK, coarse, before, state)
            assert theirs.dtype == same.error_map.dtype == torch.float32
            assert (ours != coarse).any()
            assert torch.allclose(theirs, ours, atol=tolerance, rtol=0.02)
            assert torch.allclose(same.error_map, known.error_map, atol=tolerance, rtol=0.02)
    assert next(network.parameters()).dtype == torch.float32


def test_a_refiner_file_is_loaded_by_path_and_anything_else_is_refused(refiner, tmp_path):
    from fretsaw.catalog import build_refiner
    from fretsaw.errors import ModelError

    save_file(refiner.state_dict(), tmp_path / "ref.safetensors", {"config": json.dumps(refiner.config)})
    again = build_refiner(tmp_path / "ref.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(refiner.state_dict().values(), again.state_dict().values(), strict=True))
    save_file(refiner.state_dict(), tmp_path / "bare.safetensors")
    with pytest.raises(ModelError, match="a refiner's config in the metadata"):
        build_refiner(tmp_path / "bare.safetensors")
    with pytest.raises(ModelError, match=r"expected a refiner out of sam-ref, .* which is no file"):
        build_refiner("sam-reff")
    with pytest.raises(ModelError, match=r"was trained for .*sam2-hiera-tiny.*, got 'sam-vit-h'"):
        build_refiner("sam-ref", "sam-vit-h")


@pytest.mark.parametrize("model", ["fretsaw-tiny", "sam2-hiera-tiny", "sam2-hiera-tiny-clicks"])
def test_the_refiner_by_name_is_the_shipped_file_and_its_absence_is_said(tmp_path, monkeypatch, model):
    from fretsaw.catalog import refiners

    monkeypatch.setenv("FRETSAW_HOME", str(tmp_path / "home"))
    assert refiners.build_refiner("sam-ref", model).config["width"] == 32
    assert refiners.refiner_path("sam-ref", model).name == "sam_ref.safetensors"
    monkeypatch.setattr(refiners, "shipped_path", lambda file: tmp_path / "absent")
    with pytest.raises(ModelError, match="no trained refiner comes with this version"):
        refiners.build_refiner("sam-ref", model)
