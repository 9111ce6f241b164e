"""SAM: agreement with transformers' SamModel on random weights, attention without a bias tensor, and sides other than the training's."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from fretsaw.backbones import sam
from fretsaw.errors import ShapeError, StateDictError
from fretsaw.methods.sam_clicks import build_sam, pad_points
from tiny import CHANNELS, TINY_SAM, random_weights, tiny_sam

SIZE = 128


def reference(weights: dict[str, torch.Tensor], size: int, attention: str):
    """transformers' own SamModel with the given weights."""
    from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

    config = SamConfig(
        vision_config=SamVisionConfig(image_size=size, initializer_range=0.02, **TINY_SAM["vision"]),
        prompt_encoder_config=SamPromptEncoderConfig(image_size=size, **TINY_SAM["prompt"]),
        mask_decoder_config=SamMaskDecoderConfig(**TINY_SAM["decoder"]),
        attn_implementation=attention,
    )
    model = SamModel(config).eval()
    model.load_state_dict(weights)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def weights():
    return random_weights(sam.build_model(TINY_SAM, SIZE))


@pytest.fixture(scope="module")
def saved(weights, tmp_path_factory):
    """The folder that transformers writes for a model with these weights."""
    folder = tmp_path_factory.mktemp("sam")
    reference(weights, SIZE, "sdpa").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_agrees_with_transformers_through_a_saved_file(weights, saved, attention):
    ours = build_sam(load_file(saved / "model.safetensors"), TINY_SAM, SIZE).requires_grad_(False)
    theirs = reference(weights, SIZE, attention)
    pixels = torch.randn(1, 3, SIZE, SIZE)
    embedding = ours.encode(pixels)
    expected = theirs.get_image_embeddings(pixels)
    assert expected.std() > 0.1, "a reference of zeros proves nothing"
    torch.testing.assert_close(embedding.final, expected, rtol=0, atol=2e-5)

    coords, labels = torch.rand(3, 2, 2) * SIZE, torch.tensor([[1, 0], [1, 1], [0, 1]])
    boxes = torch.tensor([[[10.0, 20.0, 90.0, 100.0]], [[0.0, 0.0, 60.0, 30.0]], [[5.0, 5.0, 120.0, 120.0]]])
    mask = torch.randn(1, 1, SIZE // 4, SIZE // 4) * 5
    corners = boxes.view(3, 2, 2)
    cases = {
        "points": (pad_points(coords, labels), {"input_points": coords[None], "input_labels": labels[None]}),
        "boxes": ((corners, torch.tensor([[2, 3]] * 3)), {"input_boxes": boxes.view(1, 3, 4)}),
        "points and boxes": (
            (torch.cat([coords, corners], 1), torch.cat([labels, torch.tensor([[2, 3]] * 3)], 1)),
            {"input_points": coords[None], "input_labels": labels[None], "input_boxes": boxes.view(1, 3, 4)},
        ),
        "points and a mask": (pad_points(coords, labels), {"input_points": coords[None], "input_labels": labels[None], "input_masks": mask}),
    }
    for name, (prompt, arguments) in cases.items():
        logits, iou = ours.decode(embedding, ours.embed_prompt(*prompt, mask if "mask" in name else None))
        for tokens, multimask in ((slice(0, 1), False), (slice(1, 4), True)):
            answer = theirs(image_embeddings=expected, multimask_output=multimask, **arguments)
            torch.testing.assert_close(logits[:, tokens], answer.pred_masks[0], rtol=0, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")
            torch.testing.assert_close(iou[:, tokens], answer.iou_scores[0], rtol=0, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


def explicit_bias(attention: sam.FoldedAttention, tokens: torch.Tensor) -> torch.Tensor:
    """Attention as the formula says, with the bias written out, in float64."""
    batch, height, width, channels = tokens.shape
    query, key, value = attention.qkv(tokens).view(batch, height * width, 3, attention.heads, -1).permute(2, 0, 3, 1, 4)
    rows, columns = sam.relative_table(attention.rel_pos_h, height), sam.relative_table(attention.rel_pos_w, width)
    places = query.unflatten(2, (height, width))
    bias = torch.einsum("nahwc,hkc->nahwk", places, rows)[..., :, None] + torch.einsum("nahwc,wkc->nahwk", places, columns)[..., None, :]
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5 + bias.flatten(4).flatten(2, 3)
    return attention.proj((scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, height, width, channels))


@pytest.mark.parametrize("grid", [(8, 8), (5, 11), (12, 7)])
def test_folded_attention_is_the_formula(grid):
    attention = tiny_sam(SIZE).image_encoder.layers[1].attn
    tokens = torch.randn(2, *grid, TINY_SAM["vision"]["hidden_size"])
    with torch.no_grad():
        folded = attention(tokens)[0]
        exact = explicit_bias(attention.double(), tokens.double())
    assert (folded - exact).abs().max() / exact.abs().max() < 1e-6


def test_no_tensor_is_as_large_as_the_bias():
    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for part in result if isinstance(result, tuple | list) else (result,):
                if isinstance(part, torch.Tensor):
                    self.numbers = max(self.numbers, part.numel())
            return result

    model, size = tiny_sam(SIZE).requires_grad_(False), 640
    with Largest() as largest:
        model.image_encoder(torch.zeros(1, 3, size, size))
    places = (size // 16) ** 2
    assert 0 < largest.numbers < TINY_SAM["vision"]["num_attention_heads"] * places**2 / 2


@pytest.mark.parametrize("size", [64, 256])
def test_other_sides_equal_a_reference_with_resampled_tables(weights, size):
    grid = size // 16
    resized = dict(weights)
    table = weights["vision_encoder.pos_embed"].permute(0, 3, 1, 2)
    resized["vision_encoder.pos_embed"] = F.interpolate(table, (grid, grid), mode="bicubic").permute(0, 2, 3, 1)
    for layer in TINY_SAM["vision"]["global_attn_indexes"]:
        for axis in "hw":
            name = f"vision_encoder.layers.{layer}.attn.rel_pos_{axis}"
            resized[name] = F.interpolate(weights[name].T[None], 2 * grid - 1, mode="linear")[0].T
    pixels = torch.randn(1, 3, size, size)
    ours = build_sam(weights, TINY_SAM, size).requires_grad_(False)
    embedding = ours.encode(pixels)
    theirs = reference(resized, size, "eager")
    torch.testing.assert_close(embedding.final, theirs.get_image_embeddings(pixels), rtol=0, atol=2e-5)

    coords, labels = torch.rand(1, 1, 2) * size, torch.ones(1, 1, dtype=torch.long)
    logits, _ = ours.decode(embedding, ours.embed_prompt(*pad_points(coords, labels)))
    answer = theirs(image_embeddings=embedding.final, input_points=coords[None], input_labels=labels[None], multimask_output=True)
    torch.testing.assert_close(logits[:, 1:], answer.pred_masks[0], rtol=0, atol=2e-5)
    assert ours.preprocessing.size == size


def test_pixels_need_not_be_square():
    embedding = tiny_sam(SIZE).image_encoder(torch.randn(1, 3, 96, 160))
    assert embedding.final.shape == (1, CHANNELS, 6, 10)


def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(StateDictError, match="1 parameters missing"):
        build_sam({name: value for name, value in weights.items() if name != "mask_decoder.iou_token.weight"}, TINY_SAM, SIZE)
    with pytest.raises(StateDictError, match="1 unknown"):
        build_sam({**weights, "extra": torch.zeros(1)}, TINY_SAM, SIZE)
    with pytest.raises(StateDictError, match="another shape"):
        build_sam({**weights, "mask_decoder.iou_token.weight": torch.zeros(1, 3)}, TINY_SAM, SIZE)
    with pytest.raises(ShapeError, match="multiple of 16"):
        build_sam(weights, TINY_SAM, 100)


@pytest.mark.parametrize(("table", "millions"), [("VIT_BASE", 89.7), ("VIT_LARGE", 308.3), ("VIT_HUGE", 637.0)])
def test_tables_have_the_published_number_of_parameters(table, millions):
    encoder = sam.build_model(getattr(sam, table), 1024).vision_encoder
    assert sum(value.numel() for value in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
