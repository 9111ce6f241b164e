"""Windows as index maps, against constructions from the paper's definitions; attention inside them, against dense masks and Swin's rolled windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fretsaw.errors import ShapeError
from fretsaw.layers import attention, blocks, windows
from fretsaw.layers.attention import FLEX_BLOCK, _check_lengths, attend, attend_flex, flex_block_mask, rotary_table, rotate
from fretsaw.layers.blocks import DropPath, FlashSwinBlock
from fretsaw.layers.windows import PaddedWindowAttention, WindowAttention, group_inverse, kv_padding_map, shift_window_map, window_groups

DIM, HEADS = 16, 2


def attend_parts(q, k, v, query_lengths, key_lengths):
    """Attention inside consecutive parts, part by part: HRSAM's eq. 4 as it is written, which the fused kernels must equal."""
    _check_lengths(q, k, query_lengths, key_lengths)
    parts = zip(q.split(list(query_lengths), 2), k.split(list(key_lengths), 2), v.split(list(key_lengths), 2), strict=True)
    return torch.cat([attend(*part) for part in parts], dim=2)


@st.composite
def layouts(draw, largest=20, maps=2):
    """Shapes of one or two maps, window, shift."""
    side = st.integers(1, largest)
    shapes = tuple(draw(st.lists(st.tuples(side, side), min_size=1, max_size=maps)))
    window = draw(st.integers(1, 8))
    return shapes, window, draw(st.integers(0, window - 1))


def by_definition(shapes, window, shift):
    """Windows in row order, each the list of what stands at its places (None: virtual), from the words of sec. 3.3: first window of `shift` tokens."""
    found, first = [], 0
    before = (window - shift) % window
    for h, w in shapes:
        down, across = (h + before + window - 1) // window, (w + before + window - 1) // window
        for row in range(down):
            for column in range(across):
                places = []
                for y in range(row * window - before, (row + 1) * window - before):
                    for x in range(column * window - before, (column + 1) * window - before):
                        places.append(first + y * w + x if 0 <= y < h and 0 <= x < w else None)
                found.append(places)
        first += h * w
    return found


@settings(max_examples=200, deadline=None)
@given(layouts())
def test_maps_equal_the_definition(layout):
    shapes, window, shift = layout
    expected = by_definition(shapes, window, shift)
    total = sum(h * w for h, w in shapes)
    padded = kv_padding_map(shapes, window, shift)
    assert padded.tolist() == [[total if token is None else token for token in places] for places in expected]
    found = shift_window_map(shapes, window, shift)
    assert found.order.tolist() == [token for places in expected for token in places if token is not None]
    assert found.lengths == tuple(sum(token is not None for token in places) for places in expected)
    assert min(found.lengths) > 0
    assert torch.equal(found.order[found.inverse], torch.arange(total))


@settings(max_examples=200, deadline=None)
@given(layouts())
def test_groups_are_the_same_windows(layout):
    shapes, window, shift = layout
    total = sum(h * w for h, w in shapes)
    rows = []
    groups = window_groups(shapes, window, shift)
    for group in groups:
        assert sorted([*group.places.tolist(), *group.virtual.tolist()]) == list(range(window**2))
        full = torch.full((len(group.tokens), window**2), total)
        full[:, group.places] = group.tokens
        rows.extend(full.tolist())
    assert sorted(rows) == sorted(kv_padding_map(shapes, window, shift).tolist())
    assert len(groups) <= 9 * len(shapes)
    order = torch.cat([group.tokens.reshape(-1) for group in groups])
    assert torch.equal(order[group_inverse(shapes, window, shift)], torch.arange(total))


def paper_windows(h, w, k):
    """Eq. 11 to 15, one-based as printed, for h and w multiples of k and shift k / 2: I_swin and the lengths L_i."""

    def i_val(j):
        return (j - 1) // (w + k) + 1 - k // 2, (j - 1) % (w + k) + 1 - k // 2

    def i_win(y, x):
        y, x, width = y + k // 2, x + k // 2, w + k
        return ((y - 1) // k * (width // k) + (x - 1) // k) * k**2 + (y - 1) % k * k + (x - 1) % k + 1

    every = range(1, (h + k) * (w + k) + 1)
    val_inverse = {i_val(j): j for j in every}
    win_inverse = {i_win(y, x): (y, x) for y, x in val_inverse}
    swin = {j: val_inverse[win_inverse[j]] for j in every}
    virtual_domain = {j for j in every if not (1 <= win_inverse[j][0] <= h and 1 <= win_inverse[j][1] <= w)}
    virtual_range = {swin[j] for j in virtual_domain}
    shrink = {i: rank for rank, i in enumerate([i for i in every if i not in virtual_range], 1)}
    order = [shrink[swin[j]] for j in every if j not in virtual_domain]
    ends = [len({swin[j] for j in range(1, i * k**2 + 1)} - virtual_range) for i in range(1, (h + k) * (w + k) // k**2 + 1)]
    padded = [shrink.get(swin[j], h * w + 1) for j in every]  # eq. 16 and 17
    return order, ends, padded


@pytest.mark.parametrize(("h", "w", "k"), [(4, 4, 2), (4, 8, 4), (12, 8, 4), (6, 12, 6), (16, 16, 8)])
def test_maps_equal_the_papers_equations(h, w, k):
    order, ends, padded = paper_windows(h, w, k)
    found = shift_window_map(((h, w),), k, k // 2)
    assert (found.order + 1).tolist() == order
    assert np.cumsum(found.lengths).tolist() == ends
    assert (kv_padding_map(((h, w),), k, k // 2).reshape(-1) + 1).tolist() == padded


def test_second_map_follows_the_first_one():
    """Eq. 19: beyond the first map, the same map of the second one, shifted by the first one's tokens."""
    shapes = ((6, 10), (4, 3))
    both, one, two = (shift_window_map(which, 4, 2) for which in (shapes, shapes[:1], shapes[1:]))
    assert torch.equal(both.order, torch.cat((one.order, two.order + 60)))
    assert both.lengths == one.lengths + two.lengths


@pytest.mark.parametrize(("shapes", "window", "shift"), [((), 4, 0), (((0, 3),), 4, 0), (((3, 3),), 4, 4), (((3, 3),), 0, 0), (((3, 3),), 4, -1)])
def test_impossible_windows_are_refused(shapes, window, shift):
    with pytest.raises(ShapeError):
        kv_padding_map(shapes, window, shift)


def make(kind, window, shift, seed=0):
    torch.manual_seed(seed)
    layer = kind(DIM, HEADS, window, shift).double()
    if isinstance(layer, PaddedWindowAttention):
        torch.nn.init.normal_(layer.padding)
    return layer


def dense(layer, x, shapes, window, shift):
    """Attention of every token over all tokens and all virtual places, with a mask, and rotary positions in the padded map."""
    columns = by_definition(shapes, window, shift)
    window_of = torch.tensor([index for index, places in enumerate(columns) for _ in places])
    place_of = torch.arange(window**2).repeat(len(columns))
    tokens = [token for places in columns for token in places]
    real = torch.tensor([token is not None for token in tokens])
    padding = layer.padding[0] if isinstance(layer, PaddedWindowAttention) else torch.zeros(DIM, dtype=x.dtype)
    rows = torch.stack([x[:, token] if token is not None else padding.expand(len(x), -1) for token in tokens], dim=1)
    q, k, v = layer.split(layer.qkv(rows))
    cosines, sines = rotary_table(window, DIM // HEADS, x.dtype)
    q, k = rotate(q, cosines[place_of], sines[place_of]), rotate(k, cosines[place_of], sines[place_of])
    allowed = window_of[:, None] == window_of
    if not isinstance(layer, PaddedWindowAttention):
        allowed = allowed & real
    scores = (q @ k.transpose(2, 3) / (DIM // HEADS) ** 0.5).masked_fill(~allowed, -torch.inf)
    out = layer.proj((scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))
    back = torch.empty_like(x)
    back[:, [token for token in tokens if token is not None]] = out[:, real]
    return back


@pytest.mark.parametrize("kind", [WindowAttention, PaddedWindowAttention])
def test_attention_equals_a_dense_masked_one_on_200_random_shapes(kind, rng):
    for seed in range(200):
        h, w, h2, w2 = rng.integers(1, 10, 4).tolist()
        shapes = ((h, w), (h2, w2)) if seed % 2 else ((h, w),)
        window = int(rng.integers(1, 7))
        shift = int(rng.integers(0, window))
        layer = make(kind, window, shift, seed)
        x = torch.from_numpy(rng.normal(size=(2, sum(a * b for a, b in shapes), DIM)))
        torch.testing.assert_close(layer(x, shapes), dense(layer, x, shapes, window, shift), atol=1e-12, rtol=0)


def swin(layer, x, h, w, k, s):
    """Swin's way: roll the map, cut it into full windows, add a mask that parts what the roll brought together."""

    def cut(grid):
        return grid.reshape(-1, h // k, k, w // k, k, grid.shape[-1]).permute(0, 1, 3, 2, 4, 5).reshape(-1, k * k, grid.shape[-1])

    rolled = torch.roll(x.reshape(-1, h, w, DIM), (-s, -s), (1, 2))
    region = torch.zeros(1, h, w, 1)
    for index, (rows, columns) in enumerate((a, b) for a in (slice(0, h - s), slice(h - s, h)) for b in (slice(0, w - s), slice(w - s, w))):
        region[:, rows, columns] = index
    parts = cut(region)
    mask = torch.zeros(len(parts), 1, k * k, k * k).masked_fill(parts[:, None] != parts.transpose(1, 2)[:, None], -torch.inf)
    q, keys, v = layer.split(layer.qkv(cut(rolled)))
    cosines, sines = rotary_table(k, DIM // HEADS)
    q, keys = rotate(q, cosines, sines), rotate(keys, cosines, sines)
    out = F.scaled_dot_product_attention(q, keys, v, attn_mask=mask.repeat(len(x), 1, 1, 1))
    out = layer.proj(out.transpose(1, 2).flatten(2)).reshape(-1, h // k, w // k, k, k, DIM).permute(0, 1, 3, 2, 4, 5).reshape(-1, h, w, DIM)
    return torch.roll(out, (s, s), (1, 2)).reshape(x.shape)


@pytest.mark.parametrize(("h", "w", "k", "s"), [(16, 16, 4, 2), (12, 24, 4, 1), (32, 16, 16, 8), (8, 8, 8, 3)])
def test_flash_swin_equals_swins_roll_and_mask(h, w, k, s):
    layer = make(WindowAttention, k, s).float()
    x = torch.randn(2, h * w, DIM)
    torch.testing.assert_close(layer(x, ((h, w),)), swin(layer, x, h, w, k, s), atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("kind", [WindowAttention, PaddedWindowAttention])
@pytest.mark.parametrize("kernel", [attend_parts, attend_flex])
def test_back_ends_are_equal(kind, kernel, monkeypatch):
    shapes, window, shift = ((9, 14), (5, 3)), 4, 2
    layer = make(kind, window, shift).float()
    x = torch.randn(2, 9 * 14 + 15, DIM)
    batched = layer(x, shapes)
    monkeypatch.setattr(windows, "fused_kernel", lambda device: kernel)
    with torch.no_grad():  # flex_attention has no backward pass on a CPU
        torch.testing.assert_close(layer(x, shapes), batched, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", [WindowAttention, PaddedWindowAttention])
def test_gradients_of_both_paths_are_equal(kind, monkeypatch):
    shapes, window, shift = ((7, 10),), 4, 2
    layer = make(kind, window, shift)
    x = torch.randn(2, 70, DIM, dtype=torch.float64, requires_grad=True)
    wanted = torch.autograd.grad(layer(x, shapes).square().sum(), [x, *layer.parameters()])
    monkeypatch.setattr(windows, "fused_kernel", lambda device: attend_parts)
    found = torch.autograd.grad(layer(x, shapes).square().sum(), [x, *layer.parameters()])
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-8)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=8))
def test_flex_tiles_are_those_that_hold_a_pair(lengths):
    queries, keys = zip(*lengths, strict=True)
    mask = flex_block_mask(queries, keys, torch.device("cpu"))
    query_part, key_part = (np.repeat(np.arange(len(lengths)), which) for which in (queries, keys))
    pairs = query_part[:, None] == key_part
    rows, columns = (-(-size // FLEX_BLOCK) for size in pairs.shape)
    padded = np.zeros((rows * FLEX_BLOCK, columns * FLEX_BLOCK), bool)
    padded[: pairs.shape[0], : pairs.shape[1]] = pairs
    wanted = padded.reshape(rows, FLEX_BLOCK, columns, FLEX_BLOCK).any(axis=(1, 3))
    assert np.array_equal(mask.to_dense()[0, 0].bool().numpy(), wanted)


def test_queries_are_never_padded_and_no_mask_is_built(monkeypatch):
    seen = []

    def spy(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        assert attn_mask is None
        seen.append((q.shape[0] * q.shape[2], k.shape[2]))
        return torch.zeros_like(q)

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", spy)
    layer = make(PaddedWindowAttention, 4, 2)
    layer(torch.randn(3, 9 * 14, DIM, dtype=torch.float64), ((9, 14),))
    assert sum(queries for queries, _ in seen) == 3 * 9 * 14
    assert {keys for _, keys in seen} == {16}


def test_positions_matter_by_their_difference_alone():
    """Rotary positions in two directions: the score of two tokens depends on how far apart they are, by rows and by columns, and on the direction."""
    cosines, sines = rotary_table(5, 8, torch.float64)
    torch.manual_seed(0)
    q, k = torch.randn(2, 8, dtype=torch.float64).unbind(0)
    scores = rotate(q, cosines, sines) @ rotate(k, cosines, sines).T
    scores = scores.reshape(5, 5, 5, 5)
    torch.testing.assert_close(scores[:-1, :-1, :-1, :-1], scores[1:, 1:, 1:, 1:])
    assert not torch.allclose(scores[0, 0, 0, 1], scores[0, 0, 1, 0])
    assert not torch.allclose(scores[0, 0, 0, 1], scores[0, 1, 0, 0])


def test_global_attention_is_one_window_that_holds_the_map():
    layer = make(WindowAttention, None, 0)
    x = torch.randn(1, 35, DIM, dtype=torch.float64)
    torch.testing.assert_close(layer(x, ((5, 7),)), dense(layer, x, ((5, 7),), 7, 0))


@pytest.mark.parametrize("kind", [WindowAttention, PaddedWindowAttention])
def test_block_is_the_same_in_parts_whole_and_fused(kind, monkeypatch):
    torch.manual_seed(0)
    block = FlashSwinBlock(DIM, HEADS, 4, 2, attention=kind).eval()
    shapes = ((11, 9), (4, 4))
    x = torch.randn(2, 115, DIM)
    whole = block(x, shapes).detach()
    monkeypatch.setattr(blocks, "TOKENS_AT_ONCE", 20)
    with torch.no_grad():
        torch.testing.assert_close(block(x, shapes), whole, atol=1e-6, rtol=0)
    for module in (blocks, windows):
        monkeypatch.setattr(module, "fused_kernel", lambda device: attend_parts)
    torch.testing.assert_close(block(x, shapes), whole, atol=1e-6, rtol=0)


def test_block_works_at_other_widths_in_bfloat16_and_after_inference_mode():
    block = FlashSwinBlock(24, 3, 5, 2)
    x = torch.randn(1, 77, 24)
    with torch.inference_mode():
        block(x, ((11, 7),))
    block(x, ((11, 7),)).sum().backward()  # cached index maps and tables must not be inference tensors
    assert all(parameter.grad is not None for parameter in block.parameters())
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        low = block(x, ((11, 7),))
    torch.testing.assert_close(low.float(), block(x, ((11, 7),)), atol=0.05, rtol=0.05)


def test_dropped_paths_are_whole_images():
    torch.manual_seed(0)
    block = FlashSwinBlock(DIM, HEADS, 4, 2, drop_path=0.5).train()
    x = torch.randn(64, 30, DIM)
    unchanged = (block(x, ((5, 6),)) == x).flatten(1)
    assert ((unchanged.all(dim=1)) | (~unchanged).any(dim=1)).all()
    assert 4 <= unchanged.all(dim=1).sum() <= 30  # both branches are left out for about a quarter
    drop = DropPath(0.25).train()
    kept = drop(torch.ones(4000, 1))
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert abs(kept.mean().item() - 1) < 0.05
    assert torch.equal(block.eval()(x, ((5, 6),)), block(x, ((5, 6),)))


@pytest.mark.parametrize("call", [lambda: WindowAttention(10, 3, 4), lambda: WindowAttention(12, 2, 4), lambda: rotary_table(4, 6)])
def test_widths_that_do_not_split_are_refused(call):
    with pytest.raises(ShapeError, match="multiple of 4"):
        call()


def test_wrong_number_of_tokens_is_refused():
    block = FlashSwinBlock(DIM, HEADS, 4)
    for call in (lambda: block(torch.zeros(1, 11, DIM), ((3, 4),)), lambda: block.attn(torch.zeros(1, 11, DIM), ((3, 4),))):
        with pytest.raises(ShapeError, match="12"):
            call()
    with pytest.raises(ShapeError, match="parts"):
        attend_parts(torch.zeros(1, 1, 5, 4), torch.zeros(1, 1, 5, 4), torch.zeros(1, 1, 5, 4), (2, 2), (2, 3))
