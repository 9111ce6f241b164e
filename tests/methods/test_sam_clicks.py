"""SamClicks: what a prompt becomes, which mask is chosen, and that batches, devices and dtypes change nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fretsaw.errors import ShapeError
from fretsaw.frames import Preprocessing, longest_side, squash
from fretsaw.methods.sam_clicks import best_of_three, pad_points, prompt_points, single
from fretsaw.types import PADDING, Box, Click, ImageEmbedding, Prompt
from tiny import CHANNELS, tiny_sam, tiny_sam2

SIZE = 128


@pytest.fixture(scope="module", params=[tiny_sam, tiny_sam2], ids=["sam", "sam2"])
def model(request):
    return request.param(SIZE).requires_grad_(False)


@pytest.fixture(scope="module")
def embedding(model):
    return model.encode(torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)))


def points(count: int, clicks: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, clicks, 2, generator=generator) * SIZE, torch.randint(0, 2, (count, clicks), generator=generator)


def test_choosing_a_mask():
    logits = torch.arange(8.0).view(2, 4, 1, 1)
    iou = torch.tensor([[0.99, 0.2, 0.5, 0.3], [0.1, 0.9, 0.9, 0.2]])
    mask, score = single(logits, iou)
    assert mask.flatten().tolist() == [0, 4]
    assert score.tolist() == [[pytest.approx(0.99)], [pytest.approx(0.1)]]
    mask, score = best_of_three(logits, iou)
    assert mask.shape == (2, 1, 1, 1)
    assert mask.flatten().tolist() == [2, 5], "the single mask never competes, and a tie goes to the first"
    assert score.tolist() == [[0.5], [pytest.approx(0.9)]]


def test_prompt_points_follow_the_frame():
    prompt = Prompt((Click(10, 20), Click(0, 5, positive=False)), Box(2, 4, 6, 8))
    coords, labels = prompt_points(prompt, longest_side(50, 100, 200))
    assert coords.tolist() == [[[20, 40], [0, 10], [4, 8], [12, 16]]]
    assert labels.tolist() == [[1, 0, 2, 3]]
    coords, labels = prompt_points(prompt, squash(50, 100, 200))
    assert coords[0, 0].tolist() == [20, 80]
    coords, labels = prompt_points(Prompt(), squash(50, 100, 200))
    assert coords.shape == (1, 0, 2)
    assert labels.shape == (1, 0)


def test_padding_point_is_appended_as_each_model_was_trained():
    frame = squash(SIZE, SIZE, SIZE)
    clicks, box = (Click(3, 4),), Box(1, 1, 9, 9)
    counts = {
        name: [build(SIZE).embed(prompt, frame).sparse.shape[1] for prompt in (Prompt(), Prompt(clicks), Prompt((), box), Prompt(clicks, box))]
        for name, build in (("sam", tiny_sam), ("sam2", tiny_sam2))
    }
    assert counts == {"sam": [1, 2, 2, 3], "sam2": [1, 2, 3, 4]}
    coords, labels = pad_points(*points(2, 3))
    assert labels[:, -1].tolist() == [PADDING, PADDING]
    assert coords.shape == (2, 4, 2)


def test_padding_ignores_its_place(model):
    coords, labels = pad_points(*points(1, 1))
    moved = coords.clone()
    moved[:, -1] = 77.0
    assert torch.equal(model.embed_prompt(coords, labels).sparse, model.embed_prompt(moved, labels).sparse)


def test_every_kind_of_point_says_something_else(model):
    coords = torch.full((5, 1, 2), 30.0)
    sparse = model.embed_prompt(coords, torch.tensor([[1], [0], [2], [3], [-1]])).sparse[:, 0]
    distances = torch.cdist(sparse, sparse) + torch.eye(5) * 9
    assert distances.min() > 0.1


def test_no_points_and_a_mask(model, embedding):
    mask = torch.randn(1, 1, SIZE // 4, SIZE // 4)
    prompt = model.embed_prompt(mask_logits=mask)
    assert prompt.sparse.shape == (1, 0, CHANNELS)
    logits, iou = model.decode(embedding, prompt)
    assert logits.shape == (1, 4, SIZE // 4, SIZE // 4)
    assert iou.shape == (1, 4)
    other, _ = model.decode(embedding, model.embed_prompt())
    assert not torch.allclose(logits, other)


@pytest.mark.parametrize("masks", [0, 1, 5], ids=["no mask", "one mask for all", "a mask each"])
def test_a_batch_of_prompts_equals_one_at_a_time(model, embedding, masks):
    coords, labels = pad_points(*points(5, 2))
    mask = torch.randn(masks, 1, SIZE // 4, SIZE // 4, generator=torch.Generator().manual_seed(3)) if masks else None
    logits, iou = model.decode(embedding, model.embed_prompt(coords, labels, mask))
    assert logits.shape == (5, 4, SIZE // 4, SIZE // 4)
    for i in range(5):
        own = None if mask is None else mask[i : i + 1] if masks > 1 else mask
        one, score = model.decode(embedding, model.embed_prompt(coords[i : i + 1], labels[i : i + 1], own))
        torch.testing.assert_close(logits[i : i + 1], one, rtol=0, atol=2e-5)
        torch.testing.assert_close(iou[i : i + 1], score, rtol=0, atol=2e-5)


def test_prompts_decoded_together_equal_one_by_one(model, embedding, monkeypatch):
    from fretsaw.backbones import sam_decoder

    prompt = model.embed_prompt(*points(5, 1))
    one_by_one = model.decode(embedding, prompt)
    monkeypatch.setitem(sam_decoder.PROMPTS_AT_ONCE, "cpu", 3)
    together = model.decode(embedding, prompt)
    torch.testing.assert_close(one_by_one, together, rtol=0, atol=2e-5)


def test_one_prompt_per_image(model):
    pixels = torch.randn(3, 3, SIZE, SIZE)
    coords, labels = points(3, 2)
    logits, _ = model.decode(model.encode(pixels), model.embed_prompt(coords, labels))
    for i in range(3):
        one, _ = model.decode(model.encode(pixels[i : i + 1]), model.embed_prompt(coords[i : i + 1], labels[i : i + 1]))
        torch.testing.assert_close(logits[i : i + 1], one, rtol=0, atol=5e-5)


def test_a_click_moves_the_mask(model, embedding):
    coords = torch.tensor([[[20.0, 20.0]], [[100.0, 90.0]]])
    logits, _ = model.decode(embedding, model.embed_prompt(coords, torch.ones(2, 1)))
    assert (logits[0] - logits[1]).abs().max() > 0.01


def test_reduced_precision_concerns_the_image_encoder_alone():
    model = tiny_sam2(SIZE).to_precision(torch.bfloat16).requires_grad_(False)
    assert {p.dtype for p in model.image_encoder.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in (*model.prompt_encoder.parameters(), *model.mask_decoder.parameters())} == {torch.float32}
    pixels = torch.randn(1, 3, SIZE, SIZE)
    embedding = model.encode(pixels)
    assert {level.dtype for level in (embedding.final, *embedding.high_res)} == {torch.float32}
    exact = tiny_sam2(SIZE).requires_grad_(False).encode(pixels).final
    assert 0 < (embedding.final - exact).abs().mean() < 0.05 * exact.abs().mean()


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_devices_agree(device):
    if not getattr(torch, device).is_available():
        pytest.skip(f"needs a {device} device")
    pixels = torch.randn(1, 3, SIZE, SIZE)
    for build in (tiny_sam, tiny_sam2):
        answers = []
        for place in ("cpu", device):
            model = build(SIZE).to(place).requires_grad_(False)
            answers.append([part.cpu() for part in model.decode(model.encode(pixels), model.embed_prompt(*points(3, 2)))])
        torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=2e-3)


def test_gradients_reach_the_image_embedding_after_inference(model):
    coords, labels = points(2, 1)
    with torch.inference_mode():
        model.decode(model.encode(torch.randn(1, 3, SIZE, SIZE)), model.embed_prompt(coords, labels))
    grid = SIZE // 16
    final = torch.randn(1, CHANNELS, grid, grid, requires_grad=True)
    high_res = (
        (torch.randn(1, CHANNELS // 8, 4 * grid, 4 * grid), torch.randn(1, CHANNELS // 4, 2 * grid, 2 * grid)) if model.preprocessing.frame is squash else ()
    )
    logits, iou = model.decode(ImageEmbedding(final, high_res), model.embed_prompt(coords, labels))
    (logits.mean() + iou.mean()).backward()
    assert final.grad is not None
    assert final.grad.abs().sum() > 0


def test_another_encoder_shares_the_decoder(model):
    class Encoder(torch.nn.Module):
        available_taps = ()

        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, pixels, taps=()):
            grid = pixels.shape[-1] // 16
            high_res = (torch.zeros(1, CHANNELS // 8, 4 * grid, 4 * grid), torch.zeros(1, CHANNELS // 4, 2 * grid, 2 * grid))
            return ImageEmbedding(self.scale * torch.ones(1, CHANNELS, grid, grid), high_res if model.preprocessing.frame is squash else ())

    other = model.with_encoder(Encoder(), Preprocessing(longest_side, 2 * SIZE), "other")
    assert other.mask_decoder is model.mask_decoder
    assert other.prompt_encoder.no_mask is model.prompt_encoder.no_mask
    embedding = other.encode(torch.zeros(1, 3, 2 * SIZE, 2 * SIZE))
    mask = torch.zeros(1, 1, SIZE // 2, SIZE // 2)
    coords, labels = points(1, 2)
    logits, _ = other.decode(embedding, other.embed_prompt(2 * coords + 0.5, labels, mask))
    assert logits.shape == (1, 4, SIZE // 2, SIZE // 2)
    # The same place in a frame of twice the side has the same code, because frames are normalised.
    torch.testing.assert_close(other.embed_prompt(2 * coords + 0.5, labels).sparse, model.embed_prompt(coords, labels).sparse, rtol=0, atol=1e-4)
    assert model.prompt_encoder.size == (SIZE, SIZE)


def test_frames_that_are_not_square(model):
    prompt_encoder = model.prompt_encoder.at_size((SIZE, 2 * SIZE))
    prompt = prompt_encoder(torch.rand(2, 1, 2) * SIZE, torch.ones(2, 1), torch.zeros(2, 1, SIZE // 4, SIZE // 2))
    rows, columns = SIZE // 16, SIZE // 8
    high_res = (torch.randn(1, CHANNELS // 8, 4 * rows, 4 * columns), torch.randn(1, CHANNELS // 4, 2 * rows, 2 * columns))
    logits, _ = model.decode(ImageEmbedding(torch.randn(1, CHANNELS, rows, columns), high_res if model.preprocessing.frame is squash else ()), prompt)
    assert logits.shape == (2, 4, SIZE // 4, SIZE // 2)


@pytest.mark.parametrize(
    "arguments",
    [
        {"point_coords": torch.zeros(1, 2, 2)},
        {"point_coords": torch.zeros(1, 2, 2), "point_labels": torch.zeros(1, 3)},
        {"point_coords": torch.zeros(2, 2), "point_labels": torch.zeros(2)},
        {"mask_logits": torch.zeros(1, 1, 16, 16)},
        {"point_coords": torch.zeros(3, 1, 2), "point_labels": torch.zeros(3, 1), "mask_logits": torch.zeros(2, 1, SIZE // 4, SIZE // 4)},
    ],
    ids=["no labels", "labels too many", "no batch", "mask of another size", "masks too few"],
)
def test_prompts_that_do_not_fit_are_refused(model, arguments):
    with pytest.raises(ShapeError, match="expected"):
        model.embed_prompt(**arguments)


def test_embeddings_that_do_not_fit_are_refused(model, embedding):
    small = ImageEmbedding(embedding.final[..., :4, :4], embedding.high_res)
    with pytest.raises(ShapeError, match="expected an image embedding"):
        model.decode(small, model.embed_prompt(*points(1, 1)))
    twice = ImageEmbedding(embedding.final.repeat(2, 1, 1, 1), embedding.high_res)
    with pytest.raises(ShapeError, match="expected an image embedding"):
        model.decode(twice, model.embed_prompt(*points(3, 1)))
    with pytest.raises(ShapeError, match="at least 1"):
        model.decode(embedding, model.embed_prompt(torch.zeros(0, 1, 2), torch.zeros(0, 1)))


def test_tiny_models_repeat_themselves():
    pixels = torch.randn(1, 3, SIZE, SIZE)
    for build in (tiny_sam, tiny_sam2):
        first, second = build(SIZE).encode(pixels).final, build(SIZE).encode(pixels).final
        assert torch.equal(first, second)
        assert not torch.allclose(first, build(SIZE, seed=1).encode(pixels).final)
        assert np.isfinite(first.detach().numpy()).all()
        assert first.std() > 0.1


@pytest.mark.parametrize("count", [1, 2, 4], ids=["one", "folded", "projected for all"])
def test_masks_made_after_the_judgement_are_the_single_ones_inside_the_image(model, embedding, count):
    """Whatever way the image is projected: once for all prompt sets, or folded into each set's tokens."""
    prompt = model.embed_prompt(*points(count, 2))
    logits, iou = single(*model.decode(embedding, prompt))
    predicted, masks = model.judge(embedding, prompt, longest_side(60, 100, SIZE))
    torch.testing.assert_close(predicted, iou[:, 0], rtol=0, atol=2e-5)
    wanted = torch.arange(count - 1, -1, -1)
    found = masks(wanted)
    rows = 4 * (longest_side(60, 100, SIZE).content_height // 16 + 1)
    torch.testing.assert_close(found[:, :, :rows], logits[wanted][:, :, :rows], rtol=0, atol=2e-5)
    assert not found[:, :, rows:].any()
    assert rows < SIZE // 4
    assert masks(wanted[:0]).shape == (0, 1, SIZE // 4, SIZE // 4)


def test_few_tokens_and_many_see_the_same_image(model, embedding, monkeypatch):
    """Folding projections into the tokens, and projecting the image, are the same attention."""
    from fretsaw.backbones import two_way

    prompt = model.embed_prompt(*points(3, 1))
    folded = model.decode(embedding, prompt)
    monkeypatch.setattr(two_way, "is_few", lambda *_: False)
    projected = model.decode(embedding, prompt)
    monkeypatch.setattr(two_way, "is_few", lambda *_: True)
    monkeypatch.setattr(two_way, "SHARED_BY", 99)
    each = model.decode(embedding, prompt)
    for other in (projected, each):
        torch.testing.assert_close(other[0], folded[0], rtol=0, atol=2e-5)
        torch.testing.assert_close(other[1], folded[1], rtol=0, atol=2e-5)
    assert not torch.equal(projected[0], each[0]), "they did go different ways"
