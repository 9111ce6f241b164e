"""GrC-SAM on tiny tensors: equations 2 to 11 and algorithms 1 to 3 by hand, sparse windows against dense ones, gradients, and every encoder."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fretsaw.errors import ConfigError, ModelError
from fretsaw.frames import Preprocessing, squash
from fretsaw.layers.attention_taps import TokenTaps, query_attention, readable_layers, received_attention, tapped
from fretsaw.methods.grc_sam.build import Description, assemble, build_network
from fretsaw.methods.grc_sam.coarse import CoarseStage, ThresholdSelector, soft_weights, spread
from fretsaw.methods.grc_sam.cut import foreground_logits
from fretsaw.methods.grc_sam.fine import FineStage, token_scores
from fretsaw.methods.grc_sam.model import GrcSam, chosen_layers, with_taps
from fretsaw.methods.grc_sam.scores import LayerFusion, ReceivedScores, layer_score
from fretsaw.methods.grc_sam.windows import RefinedSwinBlock, active_windows, tokens_of, windows_of
from fretsaw.methods.hrsam_lite import HrsamLiteEncoder
from tiny import CHANNELS, tiny_sam, tiny_sam2

SIZE = 128


def tiny_student():
    torch.manual_seed(0)
    base = tiny_sam2(SIZE)
    encoder = HrsamLiteEncoder(dim=32, depth=2, heads=2, scans=(1,), window=4, out_channels=CHANNELS)
    return base.with_encoder(encoder, Preprocessing(squash, SIZE), "tiny-student").eval()


BASES = {"sam": tiny_sam, "sam2": tiny_sam2, "hrsam-lite": tiny_student}
OWN_LAYERS = {"sam": (0, 3), "sam2": (3,), "hrsam-lite": (0, 1)}


@pytest.fixture(params=BASES)
def base(request):
    return BASES[request.param]() if request.param == "hrsam-lite" else BASES[request.param](SIZE)


@pytest.fixture
def pixels():
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


def built(base, classes=3, **settings):
    torch.manual_seed(1)
    network = GrcSam(base, classes, **({"width": 16} | settings)).eval()
    return network, with_taps(base, network.numbers, "x")


# Taps --------------------------------------------------------------------------------------------------------------------------------------------


def test_a_tapped_encoder_returns_what_the_encoder_returns(base, pixels):
    numbers = chosen_layers(base.image_encoder, ())
    plain, read = base.image_encoder(pixels), TokenTaps(base.image_encoder, numbers)(pixels)
    assert torch.equal(plain.final, read.final)
    assert all(torch.equal(a, b) for a, b in zip(plain.high_res, read.high_res, strict=True))
    assert set(read.taps) - set(plain.taps) == {f"attention.{number}" for number in numbers}
    assert plain.taps.keys() <= read.taps.keys()


@pytest.mark.parametrize("name", BASES)
def test_every_encoder_states_its_own_mixed_set(name):
    base = BASES[name]() if name == "hrsam-lite" else BASES[name](SIZE)
    assert chosen_layers(base.image_encoder, ()) == OWN_LAYERS[name]


def test_the_papers_configuration_is_what_sam_vit_b_states():
    from fretsaw.backbones import sam

    encoder = sam.SamImageEncoder(sam.build_model(sam.VIT_BASE, 64).vision_encoder)
    assert encoder.mixed_layers() == chosen_layers(encoder, "C") == (1, 4, 8, 11)
    local = [number for number, layer in enumerate(encoder.attention_layers()) if layer.query_key is None]
    assert [number for number in range(12) if number not in local] == [2, 5, 8, 11]
    with pytest.raises(ConfigError, match="A, B, C, D"):
        chosen_layers(encoder, "E")


def test_hiera_t_states_its_global_blocks():
    from fretsaw.backbones import sam2

    model = sam2.build_model(sam2.HIERA_TINY, 64)
    blocks = [number for number, block in enumerate(model.vision_encoder.backbone.blocks) if not block.window_size]
    assert blocks == [5, 7, 9]


def test_query_attention_equals_attention_over_explicit_keys(base, pixels):
    number = chosen_layers(base.image_encoder, ())[0]
    tokens = tapped(TokenTaps(base.image_encoder, (number,))(pixels).taps, number)
    [layer] = readable_layers(base.image_encoder, (number,))
    query = torch.randn(tokens.shape[1], generator=torch.Generator().manual_seed(5))
    d = tokens.shape[1] // layer.heads
    q = layer.qkv(layer.norm(query)).view(3, layer.heads, d)[0]
    k = layer.qkv(tokens.flatten(2).transpose(1, 2)).unflatten(2, (3, layer.heads, d))[:, :, 1]
    dense = (torch.einsum("hd,bnhd->bhn", q, k) / math.sqrt(d)).softmax(-1)
    assert torch.allclose(query_attention(layer, tokens, query).flatten(2), dense, atol=1e-6)


@pytest.mark.parametrize("make", [tiny_sam, tiny_sam2], ids=["sam", "sam2"])
def test_received_attention_equals_the_mean_of_the_whole_matrix(make, pixels, monkeypatch):
    monkeypatch.setattr("fretsaw.layers.attention_taps.QUERIES_AT_ONCE", 13)
    base = make(SIZE)
    number = next(i for i, layer in enumerate(base.image_encoder.attention_layers()) if layer.query_key is not None)
    tokens = tapped(TokenTaps(base.image_encoder, (number,))(pixels).taps, number)
    [layer] = readable_layers(base.image_encoder, (number,))
    seen = {}

    def whole(query, key, value, scale=None, **_):
        seen["matrix"] = (query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)).softmax(-1)
        return seen["matrix"] @ value

    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.functional, "scaled_dot_product_attention", whole)
        layer.block.attn(tokens.permute(0, 2, 3, 1))
    assert torch.allclose(received_attention(layer, tokens).flatten(2), seen["matrix"].mean(2), atol=1e-6)


def test_received_attention_refuses_layers_with_windows():
    with pytest.raises(ConfigError, match="inside windows"):
        ReceivedScores(tiny_sam(SIZE).image_encoder, (0, 1))


def test_an_encoder_without_layers_is_refused():
    base = tiny_sam2(SIZE)
    base.image_encoder = torch.nn.Conv2d(3, 4, 1)
    with pytest.raises(ConfigError, match="states its attention layers"):
        GrcSam(base, 1)


# Scores: equations 2 and 3 -----------------------------------------------------------------------------------------------------------------------


def test_equation_2_by_hand():
    attention = torch.tensor([[[[0.1, 0.3], [0.2, 0.4]], [[0.3, 0.1], [0.2, 0.4]]]])  # means 0.2, 0.2, 0.2, 0.4
    assert torch.allclose(layer_score(attention), torch.tensor([[[0.0, 0.0], [0.0, 1.0]]]), atol=1e-6)
    assert torch.equal(layer_score(torch.full((1, 2, 2, 2), 0.25)), torch.zeros(1, 2, 2))


def test_equation_3_by_hand_with_layers_of_different_heads():
    fusion = LayerFusion(2)
    with torch.no_grad():
        fusion.layer_weights.copy_(torch.tensor([0.0, math.log(3)]))  # alpha 1/4, 3/4
    first = torch.tensor([[[[0.0, 1.0]]]])
    second = torch.tensor([[[[0.2, 0.6]], [[1.0, 0.2]]]])  # means 0.6, 0.4 -> 1, 0
    assert torch.allclose(fusion([first, second]), torch.tensor([[[[0.75, 0.25]]]]))


# Coarse: algorithm 1 -----------------------------------------------------------------------------------------------------------------------------


def test_algorithm_1_lines_3_and_5_by_hand():
    assert torch.allclose(spread(torch.tensor([1.0, 0.0]), 4), torch.tensor([1.0, 0.75, 0.25, 0.0]))
    weights = soft_weights(torch.tensor([[0.5, 0.6, 0.3]]), torch.tensor([[0.5]]), torch.tensor([1.0, 1.0, 0.5]))
    expected = [0.5, 1 / (1 + math.exp(-1)), 0.5 / (1 + math.exp(2))]
    assert torch.allclose(weights, torch.tensor([expected]), atol=1e-6)


def test_the_selector_looks_at_mean_deviation_and_maximum_of_what_counts():
    selector = ThresholdSelector()
    with torch.no_grad():
        selector.hidden.weight.zero_()
        selector.hidden.weight[:3] = torch.eye(3)
        selector.hidden.bias.zero_()
        selector.out.weight.zero_()
        selector.out.weight[0, :3] = torch.tensor([1.0, 10.0, 100.0])
        selector.out.bias.zero_()
    scores = torch.tensor([[0.0, 0.02, 0.01, 0.9]])
    found = selector(scores, torch.tensor([[True, True, True, False]]))
    assert torch.allclose(found.logit(), torch.tensor([[0.01 + 10 * math.sqrt(2e-4 / 3 + 1e-8) + 100 * 0.02]]), atol=1e-4)


def test_algorithm_1_by_hand():
    """Width 8, one channel a head, two tokens; all projections are the identity, the fusion adds both halves."""
    stage = CoarseStage(8)
    with torch.no_grad():
        for linear, copies in ((stage.attention.query, 1), (stage.attention.key_value, 2), (stage.attention.out, 1)):
            linear.weight.copy_(torch.eye(8).repeat(copies, 1))
            linear.bias.zero_()
        stage.fuse.weight.copy_(torch.cat([torch.eye(8), torch.eye(8)], 1)[..., None, None])
        stage.fuse.bias.zero_()
    features = torch.stack([torch.full((8,), 1.0), torch.full((8,), 2.0)], 1)[None, :, None]  # (1, 8, 1, 2)
    scores = torch.tensor([[[[0.2, 0.9]]]])
    result = stage(features, scores, torch.tensor([0.5, 0.5]))
    tau = float(result.threshold.detach())
    w = [1 / (1 + math.exp(-10 * (s - tau))) for s in (0.2, 0.9)]
    assert torch.allclose(result.coarse_mask.flatten(), torch.tensor(w), atol=1e-6)
    kv = [1.0 * w[0], 2.0 * w[1]]

    def attended(q):
        e = [math.exp(q * k) for k in kv]
        return sum(a * k for a, k in zip(e, kv, strict=True)) / sum(e)

    expected = torch.tensor([1 + attended(1.0), 2 + attended(2.0)])
    assert torch.allclose(result.features[0, :, 0], expected.expand(8, 2), atol=1e-5)


# Fine: equations 4 to 11, algorithms 2 and 3 -----------------------------------------------------------------------------------------------------


def test_equations_5_to_10_by_hand():
    """One head, one channel, a window of two tokens that see each other."""
    block = RefinedSwinBlock(1, 1, 2)
    with torch.no_grad():
        block.qkv.weight.copy_(torch.tensor([[2.0], [3.0], [5.0]]))
        block.qkv.bias.zero_()
        block.guidance.fill_(0.5)
        block.position_bias.copy_(torch.arange(9.0)[:, None] / 10)
    x, m = [0.1, -0.2, 0.3, 0.4], [1.0, 0.5, 0.0, 0.25]
    out = block.attend(torch.tensor(x)[None, :, None], torch.tensor(m)[None], None)[0, :, 0]
    for i in range(4):
        logits = []
        for j in range(4):
            bias = ((i // 2 - j // 2 + 1) * 3 + (i % 2 - j % 2 + 1)) / 10
            key = 3 * x[j] * (1 + 0.5 * m[j])  # equation 6
            logits.append((2 * x[i] * key + bias) * m[i] * m[j])  # equations 7 and 8, d = 1
        e = [math.exp(value) for value in logits]  # equation 9
        expected = sum(a * 5 * x[j] * (1 + 0.5 * m[j]) for j, a in enumerate(e)) / sum(e)  # equation 10
        assert float(out[i]) == pytest.approx(expected, abs=1e-6)


def test_algorithm_3_ends_with_an_mlp_on_the_normalised_tokens_and_a_residual():
    torch.manual_seed(0)
    block = RefinedSwinBlock(8, 2, 2)
    tokens, mask = torch.randn(1, 4, 8), torch.rand(1, 4)
    mixed = block.attend(tokens, mask, None)
    expected = block.mlp(block.norm(mixed)) + mixed
    assert torch.allclose(block(tokens, mask, (2, 2), torch.ones(1, 1, dtype=torch.bool)), expected, atol=1e-6)


def test_equation_11_by_hand():
    tokens = torch.tensor([[[3.0, 4.0], [0.0, 1.0], [6.0, 8.0], [30.0, 40.0]]])  # lengths 5, 1, 10, 50
    found = token_scores(tokens, torch.tensor([[True, True, True, False]]))
    assert torch.allclose(found, torch.tensor([[4 / 9, 0.0, 1.0, 0.0]]), atol=1e-6)


def test_algorithm_2_by_hand():
    stage = FineStage(8).eval()
    features, mask = torch.randn(1, 8, 3, 3), torch.full((1, 1, 3, 3), 0.8)
    result = stage(features, mask)
    assert bool(result.active.all())
    enlarged = torch.nn.functional.interpolate(features, scale_factor=4, mode="bilinear")
    tokens = stage.conv(enlarged).flatten(2).transpose(1, 2)
    guide = torch.full((1, 144), 0.8)
    tokens = stage.shifted.dense(stage.plain.dense(tokens, guide, (12, 12)), guide, (12, 12))
    lengths = tokens.norm(dim=-1)
    scores = (lengths - lengths.min()) / (lengths.max() - lengths.min())
    expected = (scores - stage.selector(scores)) * 10
    assert torch.allclose(result.logits.flatten(1), expected, atol=1e-3)


@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("grid", [(12, 12), (16, 20), (7, 5)])
def test_sparse_windows_equal_dense_ones_where_all_are_active(grid, shift):
    torch.manual_seed(0)
    block = RefinedSwinBlock(16, 4, 6, shift)
    tokens, mask = torch.randn(2, grid[0] * grid[1], 16), torch.rand(2, grid[0] * grid[1])
    every = torch.ones(2, len(block.places(grid)), dtype=torch.bool)
    dense = block.dense(tokens, mask, grid)
    assert torch.allclose(block(tokens, mask, grid, every), dense, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(block(tokens, mask, grid, every), dense, atol=1e-5)


@pytest.mark.parametrize("above", [0.5, 0.97, 0.9999])
def test_active_tokens_are_equal_to_the_dense_form_and_the_others_are_not_computed(above):
    torch.manual_seed(0)
    stage = FineStage(16, above=above)
    grid = (32, 32)
    tokens, guide = torch.randn(2, 1024, 16), torch.rand(2, 1024)
    active = active_windows(stage.shifted.places(grid), guide, above)
    found, computed = stage.refine(tokens, guide, grid, active)
    dense = stage.shifted.dense(stage.plain.dense(tokens, guide, grid), guide, grid)
    assert torch.allclose(found[computed], dense[computed], atol=1e-5)
    assert bool(computed[guide > above].all())
    if above > 0.99:
        assert not bool(computed.all())
        # What neither block touched is the input, bit for bit.
        touched = tokens_of(stage.plain.places(grid), windows_of(stage.plain.places(grid), computed), 1024) | computed
        assert bool((~touched).any())
        assert torch.equal(found[~touched], tokens[~touched])


def test_only_active_windows_are_computed(monkeypatch):
    torch.manual_seed(0)
    stage = FineStage(16).eval()
    computed = []
    attend = RefinedSwinBlock.attend
    monkeypatch.setattr(RefinedSwinBlock, "attend", lambda self, x, m, unseen: (computed.append(len(x)), attend(self, x, m, unseen))[1])
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 5:7, 5:7] = 1.0
    with torch.no_grad():
        stage(torch.randn(1, 16, 16, 16), mask)
    assert 0 < sum(computed) < 0.3 * (len(stage.plain.places((64, 64))) + len(stage.shifted.places((64, 64))))


def test_an_image_without_response_keeps_its_strongest_window():
    places = RefinedSwinBlock(8, 2, 6).places((12, 12))
    mask = torch.zeros(2, 144)
    mask[0, 100], mask[1, 0] = 0.2, 0.7
    assert active_windows(places, mask).tolist() == [[False, False, True, False], [True, False, False, False]]


def test_tokens_and_windows_convert_into_each_other():
    block = RefinedSwinBlock(8, 2, 6, 3)
    places = block.places((12, 12))
    active = torch.zeros(1, len(places), dtype=torch.bool)
    active[0, 4] = True
    tokens = tokens_of(places, active, 144)
    assert int(tokens.sum()) == 36
    assert torch.equal(windows_of(places, tokens), active)


# The whole ---------------------------------------------------------------------------------------------------------------------------------------


def test_the_network_runs_on_every_encoder(base, pixels):
    network, clicks = built(base)
    with torch.no_grad():
        result = network(clicks.encode(pixels))
    assert result.score_map.shape == result.coarse_mask.shape == (2, 1, 8, 8)
    assert result.fine_logits.shape == (2, 1, 32, 32)
    assert result.class_logits.shape == (2, 3, 32, 32)
    assert bool(((result.coarse_mask >= 0) & (result.coarse_mask <= 1)).all())
    with torch.no_grad():
        first = network(clicks.encode(pixels[:1]))
    assert torch.allclose(first.class_logits, result.class_logits[:1], atol=1e-4)


def test_gradients_reach_thresholds_queries_and_layer_weights(base, pixels):
    network, clicks = built(base)
    with torch.no_grad():
        embedding = clicks.encode(pixels)
    # Layer weights act where layers differ; equal weights of one layer have no slope.
    result = network(embedding)
    (result.fine_logits.sigmoid().mean() + result.class_logits.square().mean()).backward()
    parts = network.generator
    reached = [parts.coarse.selector.out.bias, parts.fine.selector.out.bias, *parts.scores.queries, parts.fine.plain.guidance, network.head.weight]
    if len(network.numbers) > 1:
        reached.append(parts.fusion.layer_weights)
    for parameter in reached:
        assert parameter.grad is not None
        assert float(parameter.grad.abs().max()) > 0
    assert all(parameter.grad is None for parameter in clicks.image_encoder.parameters() if not parameter.requires_grad)


def test_the_latent_prompt_changes_the_answer(pixels):
    network, clicks = built(tiny_sam2(SIZE))
    with torch.no_grad():
        embedding = clicks.encode(pixels[:1])
        weights = network.head.weight.flatten(1), network.head.bias
        here, there = (network.decoder.upscaled_scores(embedding, network.latent_prompt(torch.full((1, 1, 32, 32), v)), *weights) for v in (-5.0, 5.0))
    assert not torch.allclose(here, there, atol=1e-3)


def test_upscaled_scores_are_the_features_that_masks_are_made_of(pixels):
    """With the hyper-network's weights in place of the head's, the head gives the decoder's own masks."""
    base = tiny_sam2(SIZE)
    embedding = base.encode(pixels[:1])
    prompt = base.embed_prompt(torch.zeros(1, 1, 2), torch.full((1, 1), -1))
    kept = {}
    masks = type(base.mask_decoder)._masks
    base.mask_decoder._masks = lambda image, high_res, weights: (kept.update(weights=weights), masks(base.mask_decoder, image, high_res, weights))[1]
    with torch.no_grad():
        logits, _ = base.decode(embedding, prompt)
        weights = kept["weights"][0].T
        found = base.mask_decoder.upscaled_scores(embedding, prompt, weights, torch.zeros(len(weights)))
    assert torch.allclose(found.clamp(-32, 32), logits, atol=1e-4)


def test_the_generator_has_the_papers_two_million_parameters():
    from fretsaw.methods.grc_sam.model import MaskGenerator

    encoder = tiny_sam2(SIZE).image_encoder
    count = sum(parameter.numel() for parameter in MaskGenerator(encoder, (3,), 256, 256).parameters())
    assert 1.9e6 < count < 2.05e6


def test_foreground_is_what_is_not_background():
    probabilities = torch.tensor([0.2, 0.5, 0.3]).view(1, 3, 1, 1)
    assert float(foreground_logits(probabilities.log(), 1)) == pytest.approx(0.0, abs=1e-6)
    assert float(foreground_logits(probabilities.log(), 0).sigmoid()) == pytest.approx(0.8)
    assert float(foreground_logits(torch.tensor([[[[2.5]]]]), 0)) == 2.5


@pytest.mark.parametrize("head", ["grc", "linear"])
@pytest.mark.parametrize("names", [(), ("background", "cat", "dog")], ids=["binary", "semantic"])
def test_a_trained_file_cuts_and_labels(names, head, rng):
    base = tiny_sam2(SIZE)
    about = Description("any", SIZE, names, width=16, head=head)
    state = build_network(base, about).state_dict()
    clicks, automatic, labels = assemble(base, about, state, None, "c")
    image = rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    result = labels(image)
    assert result.labels.shape == (50, 70)
    assert result.names == (names or ("background", "foreground"))
    assert np.allclose(result.probabilities.sum(0), 1, atol=1e-5)
    from fretsaw.runtimes.torch import TorchClickModel
    from fretsaw.session import Session

    cut = Session(image, TorchClickModel(clicks), automatic).auto()
    assert cut.mask.shape == (50, 70)
    assert Description.from_metadata(about.to_metadata()) == about
    with pytest.raises(ModelError):
        Description.from_metadata({})
