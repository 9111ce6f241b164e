"""Coordinates: every way into the model's frame has its way back, and pixels land where the conventions say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fretsaw import frames
from fretsaw.errors import ShapeError
from fretsaw.layers import resampling
from fretsaw.types import Box

sides = st.integers(1, 5000)
makers = st.sampled_from([frames.squash, frames.longest_side])


@given(makers, sides, sides, st.sampled_from([64, 1000, 1024, 2048]), st.floats(0, 1), st.floats(0, 1))
def test_points_round_trip_and_stay_inside(make, height, width, size, u, v):
    frame = make(height, width, size)
    xy = np.array([u * (width - 1), v * (height - 1)])
    there = frames.points_to_model(xy, frame)
    assert np.allclose(there / (frame.scale_x, frame.scale_y), xy, atol=1e-9 * max(height, width))
    assert 0 <= there[0] < frame.content_width
    assert 0 <= there[1] < frame.content_height


@given(sides, sides, st.sampled_from([64, 1024]))
def test_longest_side_fills_exactly_one_side_at_least(height, width, size):
    frame = frames.longest_side(height, width, size)
    assert max(frame.content_height, frame.content_width) == size
    if min(frame.content_height, frame.content_width) > 1:
        assert frame.content_height / frame.content_width == pytest.approx(height / width, abs=0.5 * (1 + height / width) / frame.content_width)


def test_shorter_side_is_rounded_half_up():
    assert frames.longest_side(5, 8, 4).content_height == 3  # 2.5 -> 3, not to even
    assert frames.longest_side(375, 500, 1024).content_height == 768


def test_x_and_y_are_not_confused():
    frame = frames.squash(height=100, width=200, size=1000)
    assert frames.points_to_model(np.array([20, 10]), frame).tolist() == [100, 100]
    assert frames.box_to_model(Box(0, 0, 200, 50), frame).tolist() == [[0, 0], [1000, 500]]


def test_pixels_are_normalised_and_padding_is_zero():
    image = np.full((30, 60, 3), 255, np.uint8)
    frame = frames.longest_side(30, 60, 64)
    pixels = frames.to_pixels(image, frame, (0.5, 0.5, 0.5), (0.25, 0.5, 1.0))
    assert pixels.shape == (1, 3, 64, 64)
    assert np.allclose(pixels[0, :, :32], np.array([2.0, 1.0, 0.5]).reshape(3, 1, 1), atol=1e-6)
    assert np.abs(pixels[0, :, 32:]).max() == 0


@pytest.mark.parametrize("make", [frames.squash, frames.longest_side])
@pytest.mark.parametrize(("height", "width"), [(96, 160), (200, 120), (128, 128)])
def test_a_mask_survives_the_way_to_the_decoder_and_back(make, height, width):
    rows, columns = np.mgrid[:height, :width]
    mask = ((rows - height * 0.4) / (height * 0.3)) ** 2 + ((columns - width * 0.6) / (width * 0.25)) ** 2 < 1
    frame = make(height, width, 512)
    logits = frames.mask_to_logits(mask, frame, 128)
    assert logits.shape == (1, 1, 128, 128)
    assert float(logits.min()) == pytest.approx(-8, abs=1e-4)
    assert float(logits.max()) == pytest.approx(8, abs=1e-4)
    back = frames.logits_to_image(logits, frame)[0, 0] > 0
    assert (back & mask).sum() / (back | mask).sum() > 0.97


def test_float_logits_keep_their_values_where_they_are_flat():
    logits = np.full((64, 64), 3.25, np.float32)
    assert np.all(frames.mask_to_logits(logits, frames.squash(64, 64, 256), 64) == 3.25)


def test_a_flip_of_the_image_flips_the_pixels(rng):
    image = rng.integers(0, 256, (70, 50, 3), dtype=np.uint8)
    preprocessing = frames.Preprocessing(frames.squash, 128)
    assert np.allclose(preprocessing.pixels_of(image[:, ::-1]), preprocessing.pixels_of(image)[..., ::-1], atol=1e-5)


def test_enlarging_is_half_pixel_centred():
    """A ramp stays a ramp: the value at pixel p of the enlarged map is the ramp at (p + 0.5) / scale - 0.5."""
    enlarged = frames.resize_map(np.tile(np.arange(16.0), (16, 1)), 64, 64)[0]
    expected = (np.arange(64) + 0.5) / 4 - 0.5
    assert np.allclose(enlarged[2:-2], expected[2:-2], atol=1e-5)


small_sides = st.integers(2, 90)  # torch's own results of one row or column repeat a single value


@given(small_sides, small_sides, small_sides, small_sides, st.integers(0, 2**32 - 1))
def test_numpy_and_torch_resample_alike(height, width, rows, columns, seed):
    rng = np.random.default_rng(seed)
    values = rng.random((height, width), np.float32)
    assert np.allclose(frames.resize_map(values, rows, columns), resampling.resize(torch.from_numpy(values)[None, None], rows, columns)[0, 0], atol=1e-5)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    ours, theirs = (resize(image, rows, columns) for resize in (frames.resize_image, resampling.resize_image))
    assert ours.shape == theirs.shape == (rows, columns, 3)
    assert ours.dtype == theirs.dtype == np.uint8
    assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("make", [frames.squash, frames.longest_side])
@pytest.mark.parametrize(("height", "width"), [(96, 160), (40, 30)])
def test_logits_are_enlarged_alike_with_and_without_gradients(rng, make, height, width):
    frame, logits = make(height, width, 128), torch.from_numpy(rng.normal(size=(2, 3, 32, 32)))
    plain = frames.logits_to_image(logits.numpy(), frame)
    assert plain.shape == (2, 3, height, width)
    assert plain.dtype == np.float32
    assert np.array_equal(resampling.enlarge_logits(logits, frame), plain)
    assert np.allclose(resampling.enlarge_logits(logits.requires_grad_(), frame).detach(), plain, atol=1e-5)


def test_preprocessing_keys_differ_when_pixels_would():
    keys = {frames.Preprocessing(make, size).key for make in (frames.squash, frames.longest_side) for size in (512, 1024)}
    assert len(keys) == 4


@given(st.integers(20, 300), st.integers(20, 300), st.data())
def test_expanded_box_stays_inside_and_covers_the_box(height, width, data):
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = Box(x0, y0, data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height)))
    grown = frames.expand_box(box, 1.4, 20, height, width)
    assert 0 <= grown.x0 <= box.x0 < box.x1 <= grown.x1 <= width
    assert 0 <= grown.y0 <= box.y0 < box.y1 <= grown.y1 <= height


def test_crop_and_paste_are_inverse(rng):
    canvas = rng.normal(size=(40, 50))
    box = Box(3, 5, 20, 30)
    assert frames.crop(canvas, box).shape == (25, 17)
    assert np.array_equal(frames.paste(frames.crop(canvas, box), box, canvas), canvas)
    changed = frames.paste(np.zeros((25, 17)), box, canvas) != canvas
    assert changed.sum() == 25 * 17


def test_wrong_shapes_say_what_was_expected():
    frame = frames.squash(10, 20, 64)
    with pytest.raises(ShapeError, match=r"expected an image \(10, 20, 3\) uint8, got \(20, 10, 3\)"):
        frames.to_pixels(np.zeros((20, 10, 3), np.uint8), frame, (0, 0, 0), (1, 1, 1))
    with pytest.raises(ShapeError, match="expected a mask of the image's size"):
        frames.mask_to_logits(np.zeros((20, 10), bool), frame, 16)
    with pytest.raises(ShapeError, match="bool mask or float logits"):
        frames.mask_to_logits(np.zeros((10, 20), np.uint8), frame, 16)
    with pytest.raises(ShapeError, match="at least 1 pixel"):
        frames.squash(0, 5, 64)
