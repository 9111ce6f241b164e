"""fretsaw-hr's encoder: what it equals before training, what its parts do, which sides it takes, what it costs."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from fretsaw.backbones.sam2 import HieraAttention
from fretsaw.errors import ConfigError, ShapeError
from fretsaw.methods.fretsaw_hr import (
    HighResolutionBlock,
    HighResolutionEncoder,
    HighResolutionParts,
    build_encoder,
    change_of,
    describe_parts,
    stated_parts,
    without,
)
from tiny import tiny_sam2

KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""A CPU's attention, which torch's counter does not know."""

WINDOWS = HighResolutionParts(anchor=0)
"""HRSAM's own parts alone."""


@pytest.fixture
def sam2():
    return tiny_sam2(256).image_encoder.requires_grad_(False)


def high_resolution(encoder, parts=WINDOWS) -> HighResolutionEncoder:
    torch.manual_seed(0)
    return HighResolutionEncoder(copy.deepcopy(encoder), parts).requires_grad_(False)


def pixels(*shape: int) -> torch.Tensor:
    return torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(1))


def shaken(encoder: HighResolutionEncoder) -> HighResolutionEncoder:
    """Give everything that starts at zero some size, as training does."""
    with torch.no_grad():
        for number in encoder.changed:
            block = encoder.trunk.blocks[number]
            block.padding.normal_()
            torch.nn.init.normal_(block.scan.out_proj.weight, std=0.5)
    return encoder


def test_untrained_it_is_sam_2_with_windows_in_place_of_global_attention(sam2):
    windowed = copy.deepcopy(sam2)
    windowed.trunk.blocks[3].window_size = 14
    ours, theirs = (encoder(pixels(256, 256)) for encoder in (high_resolution(sam2, HighResolutionParts(shift=0, anchor=0)), windowed))
    for mine, its in zip((ours.final, *ours.high_res), (theirs.final, *theirs.high_res), strict=True):
        torch.testing.assert_close(mine, its, atol=1e-5, rtol=1e-5)
    assert (sam2(pixels(256, 256)).final - theirs.final).abs().max() > 1e-3  # the global block does see farther


@pytest.mark.parametrize(("height", "width"), [(16, 16), (13, 20), (30, 9)])
def test_shifted_windows_are_those_of_a_map_with_zeros_around_it(sam2, height, width):
    original = sam2.trunk.blocks[3]
    block = HighResolutionBlock(copy.deepcopy(original), WINDOWS).requires_grad_(False)
    x = torch.randn(1, height, width, 32)
    tokens = F.pad(original.layer_norm1(x), (0, 0, 7, -(width + 7) % 14, 7, -(height + 7) % 14))
    down, across = tokens.shape[1] // 14, tokens.shape[2] // 14
    windows = tokens.reshape(down, 14, across, 14, 32).transpose(1, 2).reshape(-1, 14, 14, 32)
    assert isinstance(original.attn, HieraAttention)
    mixed = original.attn(windows).reshape(down, across, 14, 14, 32).transpose(1, 2).reshape(1, down * 14, across * 14, 32)
    torch.testing.assert_close(block.attended(x), x + mixed[:, 7 : 7 + height, 7 : 7 + width], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", [128, 256])
def test_up_to_the_side_of_training_it_is_sam_2_itself(sam2, side):
    ours, theirs = high_resolution(sam2, HighResolutionParts())(pixels(side, side)), sam2(pixels(side, side))
    for mine, its in zip((ours.final, *ours.high_res), (theirs.final, *theirs.high_res), strict=True):
        torch.testing.assert_close(mine, its, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", [8, 12])
def test_tokens_weigh_what_they_stand_for_and_add(sam2, side):
    """Where all tokens are the same, so are all keys, and how much the anchor map weighs shows in how much its own values count."""
    block = HighResolutionBlock(copy.deepcopy(sam2.trunk.blocks[3]), HighResolutionParts(window=8, shift=0, anchor=8, state_size=0)).requires_grad_(False)
    x = torch.randn(1, 1, 1, 32).expand(1, side, side, 32)
    plain = block.mixed(x)[1][:, :8, :8]
    block.anchor.bias[32:] += 1
    anchor, window = 8 * 8 * (64 / 8) ** 2, 8 * 8 * (1 - 8 * 8 / side**2)
    torch.testing.assert_close(block.mixed(x)[1][:, :8, :8] - plain, torch.full_like(plain, anchor / (anchor + window)))


def test_gradients_change_nothing_about_what_is_computed(sam2):
    encoder = shaken(high_resolution(sam2, HighResolutionParts(anchor=4)))
    with torch.no_grad():
        plain = encoder(pixels(256, 224))
    assert plain.final.requires_grad is False
    learned = encoder.requires_grad_(True)(pixels(256, 224))
    torch.testing.assert_close(learned.final, plain.final, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("part", ["padding", "anchor", "scan"])
def test_each_part_changes_the_embedding_and_can_be_left_out(sam2, part):
    encoder = shaken(high_resolution(sam2, HighResolutionParts(anchor=4)))
    whole, less = encoder(pixels(256, 256)).final, without(encoder, **{part: False})(pixels(256, 256)).final
    assert (whole - less).abs().max() > 1e-3
    torch.testing.assert_close(encoder(pixels(256, 256)).final, whole)  # the encoder itself is as it was


def test_bands_and_pieces_change_nothing(sam2, monkeypatch):
    encoder = shaken(high_resolution(sam2, HighResolutionParts(anchor=4)))
    whole = encoder(pixels(512, 512))
    monkeypatch.setattr("fretsaw.methods.fretsaw_hr.TOKENS_AT_ONCE", {"windows": 200, "band": 500})
    torch.testing.assert_close(encoder(pixels(512, 512)).final, whole.final, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", [80, 96, 112])
def test_sides_are_multiples_of_sixteen(sam2, side):
    embedding = high_resolution(sam2)(pixels(side, side))
    assert embedding.final.shape == (1, 32, side // 16, side // 16)
    assert [level.shape[-1] for level in embedding.high_res] == [side // 4, side // 8]


@pytest.mark.parametrize("shape", [(72, 72), (96, 100), (0, 96)])
def test_other_sides_are_refused(sam2, shape):
    with pytest.raises(ShapeError, match="multiple of 16"):
        high_resolution(sam2)(torch.zeros(1, 3, *shape))


def attention_cost(query, key, value, *_, out_shape=None, **__) -> int:
    return sdpa_flop_count(query, key, value)


def test_cost_grows_with_the_number_of_pixels(sam2):
    """At sides that windows fit into as often for each number of pixels; what a global block adds to the same network is not linear."""

    def cost(encoder, side: int) -> int:
        with FlopCounterMode(display=False, custom_mapping={KERNEL: attention_cost}) as counter, torch.no_grad():
            encoder(pixels(side, side))
        return counter.get_total_flops()

    encoder = high_resolution(sam2, HighResolutionParts(shift=0, anchor=8))
    assert cost(encoder, 896) <= 16.1 * cost(encoder, 224)
    assert cost(sam2, 896) > 25 * cost(sam2, 224)


def test_a_change_of_full_rank_brings_the_encoder_back(sam2):
    encoder = shaken(high_resolution(sam2, HighResolutionParts(anchor=4)))
    encoder.trunk.blocks[3].proj.weight += 0.1
    stored = change_of(encoder, sam2, rank=32)
    assert not any(name.startswith("trunk.blocks.0.") for name in stored)  # what did not change is not stored
    again = build_encoder(copy.deepcopy(sam2), encoder.parts, stored)
    torch.testing.assert_close(again(pixels(256, 256)).final, encoder(pixels(256, 256)).final, atol=1e-4, rtol=1e-4)


def test_parts_come_back_from_their_text():
    parts = HighResolutionParts(window=7, shift=3, padding=False, anchor=16, state_size=4)
    assert stated_parts(describe_parts(parts)) == parts


@pytest.mark.parametrize("change", [{"window": 0}, {"shift": 14}, {"padding": 1}, {"anchor": "32"}, {"state_size": 10**9}, {"more": 1}])
def test_parts_that_no_encoder_has_are_refused(change):
    with pytest.raises(ConfigError):
        stated_parts(json.dumps(json.loads(describe_parts(HighResolutionParts())) | change))
