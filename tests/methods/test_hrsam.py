"""HRSAM and HRSAM++: parity with the published networks, masked autoencoders' weights, any size, memory."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

from fretsaw.errors import ConfigError, ShapeError, StateDictError
from fretsaw.layers.windows import WindowAttention
from fretsaw.methods.hrsam import SIZES, EncoderSize, HRSAMEncoder, build_hrsam, estimate_encoder_memory, published_arguments
from fretsaw.weights.vit_mae import mae_weights

CONFIG = {
    "window_size": 4,
    "state_dim": 8,
    "extend_ratio": 3,
    "img_size": 224,
    "depth": 4,
    "embed_dim": 48,
    "num_heads": 3,
    "mlp_ratio": 4.0,
    "out_indices": [1, 3],
    "final_embed_dim": 32,
}


def golden(path):
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, safe_open is no mapping
        config = json.loads(file.metadata()["config"])
    return {name.removeprefix("weights."): value for name, value in tensors.items() if name.startswith("weights.")}, config, tensors["input"], tensors["output"]


@pytest.mark.parametrize("name", ["hrsam_128x128", "hrsam_96x160_ragged", "hrsampp_128x128", "hrsampp_144x112_ragged"])
def test_published_networks_give_the_same_embedding(shared, name):
    weights, config, pixels, wanted = golden(shared / "golden" / f"{name}.safetensors")
    encoder = HRSAMEncoder.from_published(weights, **config).eval()
    found = encoder(pixels).final
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    assert wanted.abs().max() > 0.3  # the figures are not degenerate
    with torch.no_grad():  # the path in parts
        torch.testing.assert_close(encoder(pixels.repeat(2, 1, 1, 1)).final[1:], wanted, atol=1e-4, rtol=0)


def published(anchor=None, **changes):
    """A random published state dict and its configuration."""
    torch.manual_seed(0)
    config = {**CONFIG, **({"downsample_sizes": [anchor]} if anchor else {}), **changes}
    weights = HRSAMEncoder(**published_arguments(config)).state_dict()
    return {**weights, "rope.freqs": 10000.0 ** (-torch.arange(0, 8, 2) / 8)}, config


def test_whole_published_models_load_and_nothing_else_does():
    weights, config = published()
    pixels = torch.randn(1, 3, 64, 48)
    wanted = HRSAMEncoder.from_published(weights, **config).eval()(pixels).final
    whole = {f"backbone.{name}": value for name, value in weights.items()} | {"neck.x": torch.zeros(1), "decode_head.y": torch.zeros(1)}
    assert torch.equal(HRSAMEncoder.from_published(whole, **config).eval()(pixels).final, wanted)
    with pytest.raises(StateDictError, match=r"blocks\.2\.attn\.padding"):
        HRSAMEncoder.from_published({name: value for name, value in weights.items() if name != "blocks.2.attn.padding"}, **config)
    with pytest.raises(StateDictError, match="surplus"):
        HRSAMEncoder.from_published({**weights, "surplus": torch.zeros(1)}, **config)
    with pytest.raises(StateDictError, match="mamba_blocks"):
        HRSAMEncoder.from_published(weights, **config, downsample_sizes=[64])  # HRSAM's weights are not HRSAM++'s
    with pytest.raises(StateDictError, match="rotary"):
        HRSAMEncoder.from_published({**weights, "rope.freqs": torch.ones(4)}, **config)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"depht": 4}, "depht"),
        ({"patch_size": 14}, "patch_size=16"),
        ({"downsample_sizes": [64, 32]}, "one anchor"),
        ({"attn_drop_rate": 0.1}, "attn_drop_rate"),
    ],
)
def test_settings_it_does_not_have_are_refused(changes, said):
    weights, config = published()
    with pytest.raises(ConfigError, match=said):
        HRSAMEncoder.from_published(weights, **{**config, **changes})


def test_missing_settings_and_sizes_are_named():
    with pytest.raises(ConfigError, match="num_heads"):
        HRSAMEncoder.from_published({}, **{name: value for name, value in CONFIG.items() if name != "num_heads"})
    with pytest.raises(ConfigError, match="t, s, b, l"):
        build_hrsam("h")
    with pytest.raises(ConfigError, match="multiple of 16"):
        build_hrsam("t", anchor_size=100)
    with pytest.raises(ConfigError, match="outputs"):
        HRSAMEncoder(EncoderSize(dim=16, depth=2, heads=2, outputs=(2,)))


@pytest.mark.parametrize("anchor", [None, 64])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 131), (16, 16), (7, 33)])
def test_any_size_is_encoded(anchor, height, width):
    torch.manual_seed(0)
    encoder = build_hrsam("t", anchor_size=anchor).eval()
    pixels = torch.randn(2, 3, height, width)
    final = encoder(pixels).final
    assert final.shape == (2, 256, -(-height // 16), -(-width // 16))
    padded = torch.zeros(2, 3, -(-height // 16) * 16, -(-width // 16) * 16)
    padded[..., :height, :width] = pixels
    torch.testing.assert_close(encoder(padded).final, final)
    torch.testing.assert_close(encoder(pixels[1:]).final, final[1:], atol=1e-5, rtol=1e-4)  # images of a batch do not meet


@pytest.mark.parametrize("pixels", [torch.zeros(3, 32, 32), torch.zeros(1, 4, 32, 32), torch.zeros(1, 3, 0, 32)])
def test_pixels_of_another_shape_are_refused(pixels):
    with pytest.raises(ShapeError, match=r"\(B, 3, H, W\)"):
        build_hrsam("t")(pixels)


@pytest.mark.parametrize("anchor", [None, 48])
def test_every_parameter_learns(anchor):
    torch.manual_seed(0)
    encoder = build_hrsam("t", anchor_size=anchor, drop_path=0.0)
    for block in encoder.blocks:
        torch.nn.init.normal_(block.attn.padding)
    encoder(torch.randn(1, 3, 80, 112)).final.square().sum().backward()
    silent = [name for name, parameter in encoder.named_parameters() if parameter.grad is None or not parameter.grad.abs().sum() > 0]
    assert silent == []


def test_the_scan_reaches_across_the_image_and_windows_alone_do_not():
    """The last patch moves the first token's embedding only through the cycle-scan, or through HRSAM++'s anchor map."""

    class NoScan(torch.nn.Module):
        def forward(self, x, lengths=None):
            return x

    size = EncoderSize(dim=16, depth=2, heads=2, outputs=(0, 1), window=2, state_size=4, out_channels=8)
    for scan, reaches in ((None, True), (lambda *_: NoScan(), False)):
        torch.manual_seed(0)
        encoder = HRSAMEncoder(size, attention=WindowAttention, **({} if scan is None else {"scan": scan})).eval()
        pixels = torch.randn(1, 3, 256, 256)
        changed = pixels.clone()
        changed[..., -16:, -16:] += 1
        difference = (encoder(pixels).final - encoder(changed).final).abs()[0, :, 0, 0].max()
        assert (difference > 0) == reaches


def test_sizes_of_the_papers_table():
    """ViT-B's 86 M parameters, and what padding, scans and outputs add; the paper gives no number."""
    with torch.device("meta"):
        counts = {name: sum(parameter.numel() for parameter in HRSAMEncoder(size).parameters()) / 1e6 for name, size in SIZES.items()}
    assert 92 < counts["b"] < 102
    assert counts["t"] < 1
    assert counts["s"] < counts["b"] < counts["l"]
    assert [len(SIZES[name].outputs) for name in "sbl"] == [4, 4, 4]


# Masked autoencoders.

MAE_SIZE = EncoderSize(dim=32, depth=2, heads=2, outputs=(0, 1), window=2, state_size=4, out_channels=8)


def mae_model():
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    torch.manual_seed(0)
    config = ViTMAEConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        image_size=64,
        mask_ratio=0.0,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    model = ViTMAEForPreTraining(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def older(name):
    """The names that transformers used before version 5, which files on the hub still hold."""
    name = name.replace("vit.layers.", "vit.encoder.layer.").replace("mlp.fc1.", "intermediate.dense.").replace("mlp.fc2.", "output.dense.")
    for new, old in (("q_proj", "attention.query"), ("k_proj", "attention.key"), ("v_proj", "attention.value"), ("o_proj", "output.dense")):
        name = name.replace(f"attention.{new}", f"attention.{old}")
    return name


def test_a_masked_autoencoder_of_any_naming_starts_the_trunk():
    """All three namings give one start, and attention without positions gives what transformers' layer gives."""
    model = mae_model()
    state = model.state_dict()
    named = [state, {older(name): value for name, value in state.items()}, {name.removeprefix("vit."): value for name, value in model.vit.state_dict().items()}]
    encoders = []
    for weights in named:
        torch.manual_seed(1)
        encoder = HRSAMEncoder(MAE_SIZE, table_side=4)
        before = encoder.state_dict()["mamba_blocks.0.out_proj.weight"].clone()
        encoder.load_mae(weights)
        assert torch.equal(encoder.state_dict()["mamba_blocks.0.out_proj.weight"], before)
        encoders.append(encoder.state_dict())
    assert all(torch.equal(encoders[0][name], other[name]) for other in encoders[1:] for name in other)
    layer = model.vit.layers[1]
    x = torch.randn(1, 3, 32)
    block = HRSAMEncoder(MAE_SIZE, table_side=4).blocks[1]
    block.load_state_dict({name.removeprefix("blocks.1."): value for name, value in encoders[0].items() if name.startswith("blocks.1.")})
    q, k, v = block.attn.split(block.attn.qkv(x))
    attended = block.attn.proj(torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    wanted = layer.attention(x)
    torch.testing.assert_close(attended, wanted[0] if isinstance(wanted, tuple) else wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(block.norm1(x), layer.layernorm_before(x), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(encoders[0]["pos_embed"], state["vit.embeddings.position_embeddings"])
    torch.testing.assert_close(encoders[0]["patch_embed.proj.weight"], state["vit.embeddings.patch_embeddings.projection.weight"])


def test_the_published_autoencoders_file_starts_the_trunk():
    encoder = HRSAMEncoder(MAE_SIZE, table_side=4)
    own = {name: torch.randn_like(value) for name, value in mae_weights(mae_model().state_dict()).items()}
    file = {**own, "cls_token": torch.zeros(1, 1, 32), "mask_token": torch.zeros(1, 1, 16), "norm.weight": torch.ones(32), "decoder_blocks.0.x": torch.zeros(1)}
    encoder.load_mae(file)
    assert all(torch.equal(encoder.state_dict()[name], value) for name, value in own.items())


def test_autoencoders_that_do_not_fit_are_refused():
    weights = mae_model().state_dict()
    with pytest.raises(StateDictError, match="pos_embed"):
        HRSAMEncoder(MAE_SIZE, table_side=14).load_mae(weights)
    with pytest.raises(StateDictError, match="query, key and value"):
        HRSAMEncoder(MAE_SIZE, table_side=4).load_mae({name: value for name, value in weights.items() if "layers.1.attention.k_proj.weight" not in name})
    with pytest.raises(StateDictError, match=r"blocks\.1\."):
        HRSAMEncoder(MAE_SIZE, table_side=4).load_mae({name: value for name, value in weights.items() if "layers.1." not in name})


# Memory; measured peaks: tests/test_memory.py.


def test_memory_grows_with_pixels_and_a_4096_image_fits_8_gigabytes():
    small, large, huge = (estimate_encoder_memory(size, SIZES["b"]) for size in (1024, 2048, 4096))
    assert small < large < huge < 8 * 2**30
    assert huge - large < 4.2 * (large - small)
    assert huge < estimate_encoder_memory(4096, SIZES["b"], anchor_size=512) < 8 * 2**30
    assert estimate_encoder_memory(1024, SIZES["b"], torch.bfloat16) < small
    with pytest.raises(ConfigError):
        estimate_encoder_memory(0, SIZES["b"])
