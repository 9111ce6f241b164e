"""The names of original SAM checkpoints: facts of the published files, exact round trips on tiny models, and refusal of anything else."""

from __future__ import annotations

import pytest
import torch

from fretsaw.backbones import sam, sam_keys
from fretsaw.errors import StateDictError
from fretsaw.methods.sam_clicks import build_sam
from tiny import TINY_SAM, random_weights

KNOWN = {
    "image_encoder.pos_embed": "vision_encoder.pos_embed",
    "image_encoder.patch_embed.proj.weight": "vision_encoder.patch_embed.projection.weight",
    "image_encoder.blocks.0.norm1.weight": "vision_encoder.layers.0.layer_norm1.weight",
    "image_encoder.blocks.11.attn.rel_pos_h": "vision_encoder.layers.11.attn.rel_pos_h",
    "image_encoder.neck.3.bias": "vision_encoder.neck.layer_norm2.bias",
    "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": "prompt_encoder.shared_embedding.positional_embedding",
    "prompt_encoder.point_embeddings.0.weight": "prompt_encoder.point_embed.0.weight",
    "prompt_encoder.mask_downscaling.6.weight": "prompt_encoder.mask_embed.conv3.weight",
    "mask_decoder.transformer.layers.0.norm4.weight": "mask_decoder.transformer.layers.0.layer_norm4.weight",
    "mask_decoder.transformer.norm_final_attn.bias": "mask_decoder.transformer.layer_norm_final_attn.bias",
    "mask_decoder.output_upscaling.1.weight": "mask_decoder.upscale_layer_norm.weight",
    "mask_decoder.output_hypernetworks_mlps.3.layers.1.weight": "mask_decoder.output_hypernetworks_mlps.3.layers.0.weight",
    "mask_decoder.iou_prediction_head.layers.0.weight": "mask_decoder.iou_prediction_head.proj_in.weight",
    "mask_decoder.iou_prediction_head.layers.1.weight": "mask_decoder.iou_prediction_head.layers.0.weight",
    "mask_decoder.iou_prediction_head.layers.2.weight": "mask_decoder.iou_prediction_head.proj_out.weight",
}


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """Of a tiny SAM, under transformers' names."""
    return random_weights(sam.build_model(TINY_SAM, 128))


@pytest.mark.parametrize(("depth", "count"), [(12, 314), (24, 482), (32, 594)])
def test_the_published_files_hold_so_many_parameters(depth: int, count: int) -> None:
    names = sam_keys.key_map(depth)
    assert len(names) == len(set(names.values())) == count


def test_known_names() -> None:
    names = sam_keys.key_map(12)
    assert {original: names[original] for original in KNOWN} == KNOWN


def test_every_name_of_transformers_is_reached_and_comes_back(weights: dict[str, torch.Tensor]) -> None:
    original = sam_keys.to_original(weights)
    assert sam_keys.is_original(original)
    assert not sam_keys.is_original(weights)
    assert original.keys() == sam_keys.key_map(4).keys()
    back = sam_keys.from_original(original)
    assert back.keys() == weights.keys()
    assert all(back[name] is weights[name] for name in weights if name != sam_keys.SHARED_FREQUENCIES)
    torch.testing.assert_close(back[sam_keys.SHARED_FREQUENCIES], weights[sam_keys.SHARED_FREQUENCIES], rtol=0, atol=0)


def test_a_model_from_an_original_checkpoint_answers_the_same(weights: dict[str, torch.Tensor]) -> None:
    original = {**sam_keys.to_original(weights), "pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    models = [build_sam(state, TINY_SAM, 128) for state in (weights, sam_keys.from_original(original))]
    pixels = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    coords, labels = torch.tensor([[[30.0, 40.0]]]), torch.tensor([[1]])
    with torch.no_grad():
        answers = [model.decode(model.encode(pixels), model.embed_prompt(coords, labels)) for model in models]
    torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=0)


@pytest.mark.parametrize("missing", ["image_encoder.blocks.1.norm1.weight", "mask_decoder.iou_token.weight", "image_encoder.blocks.3.mlp.lin2.bias"])
def test_a_missing_name_is_refused(weights: dict[str, torch.Tensor], missing: str) -> None:
    original = sam_keys.to_original(weights)
    del original[missing]
    with pytest.raises(StateDictError, match=f"1 missing \\({missing}"):
        sam_keys.from_original(original)


def test_unknown_names_are_refused(weights: dict[str, torch.Tensor]) -> None:
    original = sam_keys.to_original(weights)
    with pytest.raises(StateDictError, match=r"1 unknown \(mask_decoder\.extra"):
        sam_keys.from_original({**original, "mask_decoder.extra": torch.zeros(1)})
    with pytest.raises(StateDictError, match="unknown"):
        sam_keys.to_original({**weights, "vision_encoder.extra": torch.zeros(1)})
    with pytest.raises(StateDictError, match="missing"):
        sam_keys.from_original({})
