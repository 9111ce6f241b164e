"""The training-free automatic cut on planted saliency maps: parts are found, prompts land on them, and what stands out is what is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fretsaw.clicks.places import deepest_places, probs_iou
from fretsaw.errors import ConfigError
from fretsaw.methods.first_cut import FirstCut, salient_parts
from fretsaw.runtimes.torch import TorchClickModel
from fretsaw.session import Session
from tiny import tiny_sam, tiny_sam2


def disk(x: float, y: float, radius: float, side: int = 320) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


class Planted(nn.Module):
    """A saliency network that always answers with one map of logits (320, 320)."""

    def __init__(self, mask: np.ndarray) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.logits = torch.from_numpy(np.where(mask, 6.0, -6.0)).float()[None, None]

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.logits + self.bias,)


class FaithfulModel:
    """Stands in for SAM: all four tokens answer with the mask prompt itself, sharpened; token 2 is the most confident."""

    def __init__(self, inner) -> None:
        self.preprocessing, self.device, self.checksum = inner.preprocessing, inner.device, inner.checksum
        self.encode, self.pixels_of, self.prompts = inner.encode, inner.pixels_of, []

    def embed(self, prompt, frame):
        self.prompts.append(prompt)
        return torch.from_numpy(prompt.previous_logits)

    def decode(self, embedding, prompt_logits):
        return prompt_logits.expand(-1, 4, -1, -1) * 3, torch.tensor([[0.2, 0.5, 0.9, 0.6]])


@pytest.fixture
def image(rng) -> np.ndarray:
    return rng.integers(0, 256, (160, 240, 3), dtype=np.uint8)


class ContraryModel(FaithfulModel):
    """Answers with everything that the prompt leaves out, and is sure of it."""

    def decode(self, embedding, prompt_logits):
        return -prompt_logits.expand(-1, 4, -1, -1) * 3, torch.ones(1, 4)


def cut(mask: np.ndarray, image: np.ndarray, build=tiny_sam2, kind=FaithfulModel, **settings):
    model = kind(build(128))
    embedding = model.encode(model.pixels_of(image))
    return FirstCut(Planted(mask), model, **settings)(image, embedding, model.preprocessing.frame_of(image)), model  # type: ignore[arg-type]


@pytest.mark.parametrize("build", [tiny_sam, tiny_sam2])
def test_what_stands_out_is_cut_at_the_images_own_place(image, build):
    result, model = cut(disk(80, 200, 50), image, build)
    expected = disk(80, 200, 50)[::2][:, np.arange(240) * 320 // 240]
    overlap = (result.mask & expected).sum() / (result.mask | expected).sum()
    assert overlap > 0.88  # the tiny decoder has 32 x 32 places
    assert 0.5 < result.score <= 0.9
    for click in model.prompts[0].clicks:
        assert expected[round(click.y), round(click.x)]


def test_two_things_are_two_instances_and_one_mask(image):
    result, model = cut(disk(80, 160, 50) | disk(240, 160, 30), image)
    assert len(result.instances) == 2
    assert result.instances[0].mask.sum() > result.instances[1].mask.sum()
    assert not (result.instances[0].mask & result.instances[1].mask).any()
    assert np.array_equal(result.mask, result.instances[0].mask | result.instances[1].mask)
    assert len(model.prompts) == 2


def test_a_decoder_that_takes_something_else_is_overruled_by_the_map(image):
    result, model = cut(disk(80, 200, 50), image, kind=ContraryModel)
    expected = disk(80, 200, 50)[::2][:, np.arange(240) * 320 // 240]
    assert (result.mask & expected).sum() / (result.mask | expected).sum() > 0.88
    assert result.score == 0
    assert len(model.prompts) == 1


def test_from_the_second_round_on_the_result_is_the_prompt(image):
    result, model = cut(disk(80, 200, 50), image, rounds=2)
    first, second = (torch.from_numpy(prompt.previous_logits) for prompt in model.prompts)
    assert model.prompts[0].clicks == model.prompts[1].clicks
    torch.testing.assert_close(second, 0.7 * (3 * first).clamp(-8, 8) + 0.3 * first)  # the model answers three times its prompt
    assert 0 < result.score <= 0.9


def test_no_rounds_are_refused():
    with pytest.raises(ConfigError, match="rounds"):
        FirstCut(Planted(disk(80, 80, 5)), None, rounds=0)  # type: ignore[arg-type]


def test_nothing_salient_gives_an_empty_mask_and_score_0(image):
    result, model = cut(np.zeros((320, 320), bool), image)
    assert not result.mask.any()
    assert result.score == 0
    assert model.prompts == []


def test_specks_and_surplus_parts_are_left_out():
    probs = np.where(disk(160, 160, 80), 1.0, 0.0)
    probs[2:4, 2:4] = 1.0
    assert len(salient_parts(probs, (320, 320), 0.5, 4, 0.01, 3)) == 1
    many = np.zeros((320, 320))
    for i in range(6):
        many[10:40, 10 + 50 * i : 20 + 50 * i + 3 * i] = 1.0
    parts = salient_parts(many, (320, 320), 0.5, 4, 0.01, 3)
    assert [int(part.mask.sum()) for part in parts] == sorted((int(part.mask.sum()) for part in parts), reverse=True)
    assert len(parts) == 4


def test_deepest_places_are_deep_inside_and_apart():
    mask = disk(60, 60, 40, 200) | disk(140, 140, 30, 200)
    places = deepest_places(mask, 3)
    assert places[0] == (60, 60)
    assert np.hypot(places[1][0] - 140, places[1][1] - 140) < 3
    assert all(mask[y, x] for x, y in places)
    assert deepest_places(np.zeros((5, 5), bool), 3) == []


def test_clicks_prefer_what_the_map_is_sure_of():
    probs = np.where(disk(100, 100, 60), 0.6, 0.0)
    probs[disk(130, 100, 10)] = 1.0
    [part] = salient_parts(probs, (320, 320), 0.5, 4, 0.01, 1)
    assert (part.clicks[0].x, part.clicks[0].y) == (130, 100)


def test_the_iou_of_probabilities_by_hand():
    a, b = torch.tensor([[0.5, 1.0], [0.0, 0.25]]), torch.tensor([[1.0, 0.5], [0.0, 0.25]])
    assert probs_iou(a, b).item() == pytest.approx(1.25 / 2.25)


def test_inside_a_session_the_embedding_is_used_again_and_clicks_correct_the_cut(image):
    model = tiny_sam2(128)
    calls = []
    model.image_encoder.register_forward_hook(lambda *arguments: calls.append(1))
    session = Session(image, TorchClickModel(model), FirstCut(Planted(disk(160, 160, 60)), model))
    result = session.auto()
    assert len(calls) == 1
    assert not np.array_equal(session.click(10, 10).logits, result.logits)
    assert np.array_equal(session.undo().logits, result.logits)


def test_the_shipped_network_finds_the_cat(published):
    """End to end with published weights: the example cat fills most of its photo."""
    from pathlib import Path

    import fretsaw

    published("sam2-hiera-tiny")
    photo = Path(__file__).resolve().parents[2] / "examples" / "chelsea.png"
    result = fretsaw.load("sam2-hiera-tiny", device="cpu").auto(photo)
    assert result.mask[150, 200]  # between the eyes
    assert not result.mask[:60, 430:].any()  # the blurred corner
    assert 0.4 < result.mask.mean() < 0.75
