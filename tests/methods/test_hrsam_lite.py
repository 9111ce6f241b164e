"""hrsam-lite's encoder: it stands in for SAM 2's, is small, and every part of it learns."""

from __future__ import annotations

import pytest
import torch

from fretsaw.backbones import sam2
from fretsaw.backbones.efficientnet_lite import MEAN, STD, EfficientNetLite0Classifier
from fretsaw.errors import ConfigError, ShapeError, StateDictError
from fretsaw.methods.hrsam_lite import IMAGENET_MEAN, IMAGENET_STD, HrsamLiteEncoder, for_trunk
from tiny import CHANNELS, tiny_sam2


def small(**changes):
    torch.manual_seed(0)
    return HrsamLiteEncoder(**{"dim": 16, "depth": 2, "heads": 2, "scans": (1,), "window": 4, "state_size": 4, "out_channels": 32, **changes})


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 160)])
def test_maps_are_those_of_sam2(height, width):
    embedding = small()(torch.randn(2, 3, height, width))
    assert embedding.final.shape == (2, 32, height // 16, width // 16)
    assert [level.shape for level in embedding.high_res] == [(2, 4, height // 4, width // 4), (2, 8, height // 8, width // 8)]


def test_sam2s_decoder_takes_its_embedding():
    size = 128
    model = tiny_sam2(size)
    pixels = torch.randn(1, 3, size, size)
    theirs = model.encode(pixels)
    ours = small(out_channels=CHANNELS)(pixels)
    assert [level.shape for level in (ours.final, *ours.high_res)] == [level.shape for level in (theirs.final, *theirs.high_res)]
    prompt = model.embed_prompt(torch.tensor([[[size / 2, size / 3]]]), torch.tensor([[1]]))
    logits, iou = model.decode(ours, prompt)
    assert logits.shape == (1, 4, size // 4, size // 4)
    assert torch.isfinite(logits).all()
    assert torch.isfinite(iou).all()


def test_it_ships_in_25_megabytes_with_sam2s_decoder():
    with torch.device("meta"):
        encoder = HrsamLiteEncoder()
    own = sum(value.numel() for value in encoder.state_dict().values())
    rest = sum(value.numel() for name, value in sam2.build_model(sam2.HIERA_TINY, 1024).state_dict().items() if not name.startswith("vision_encoder."))
    assert own <= 10e6
    assert 2 * (own + rest) <= 25e6
    assert encoder.final[0].out_channels == 256


def test_every_parameter_learns_and_training_changes_no_statistics():
    encoder = small().train()
    for block in encoder.blocks:
        torch.nn.init.normal_(block.attn.padding)
    before = {name: value.clone() for name, value in encoder.named_buffers()}
    pixels = torch.randn(1, 3, 96, 96)
    embedding = encoder(pixels)
    sum(level.square().sum() for level in (embedding.final, *embedding.high_res)).backward()
    silent = [name for name, parameter in encoder.named_parameters() if parameter.grad is None or not parameter.grad.abs().sum() > 0]
    assert silent == []
    assert all(torch.equal(value, before[name]) for name, value in encoder.named_buffers())
    with torch.no_grad():
        torch.testing.assert_close(encoder.eval()(pixels).final, embedding.final, atol=1e-5, rtol=1e-4)


def test_images_of_a_batch_do_not_meet_and_autocast_is_close():
    encoder = small().eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        both = encoder(pixels)
        for level, alone in zip((both.final, *both.high_res), (lambda e: (e.final, *e.high_res))(encoder(pixels[1:])), strict=True):
            torch.testing.assert_close(level[1:], alone, atol=1e-5, rtol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            low = encoder(pixels).final.float()
    assert (low - both.final).abs().mean() < 0.05 * both.final.abs().mean()


def test_the_trunk_sees_colours_in_its_own_normalisation():
    colours = torch.rand(1, 3, 4, 4)

    def normalised(mean, std):
        return (colours - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)

    torch.testing.assert_close(for_trunk(normalised(IMAGENET_MEAN, IMAGENET_STD)), normalised(MEAN, STD), atol=1e-5, rtol=1e-5)


def test_the_published_trunk_is_loaded_strictly():
    encoder, weights = small(), EfficientNetLite0Classifier().state_dict()
    weights["_blocks.15._project_conv.weight"] = torch.full_like(weights["_blocks.15._project_conv.weight"], 0.125)
    encoder.load_trunk(weights)
    assert (encoder.state_dict()["trunk._blocks.15._project_conv.weight"] == 0.125).all()
    with pytest.raises(StateDictError):
        encoder.load_trunk({name: value for name, value in weights.items() if name != "_conv_stem.weight"})


def test_impossible_arguments_are_refused():
    with pytest.raises(ConfigError, match="scans"):
        small(scans=(2,))
    for shape in ((3, 64, 64), (1, 3, 64, 48), (1, 1, 64, 64)):
        with pytest.raises(ShapeError, match="multiples of 32"):
            small()(torch.zeros(shape))
