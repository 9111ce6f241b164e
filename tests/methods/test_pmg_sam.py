"""PMG-SAM's modules against their equations on numbers small enough to check by hand, its ablations, and the automatic cut on tiny models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import fretsaw
from experiments.pmg_sam.parameters import parameters_by_part
from experiments.pmg_sam.tiles import decode_tile
from fretsaw import catalog, edges
from fretsaw.backbones.u2net import SMALL, U2Net
from fretsaw.catalog.entries import Parts
from fretsaw.edges import REACH, band
from fretsaw.errors import ConfigError, ModelError
from fretsaw.methods.pmg_sam.build import PAPER, TINY, PmgSettings, build_pmg_sam, start_from_sam2, trainable_parameters
from fretsaw.methods.pmg_sam.cut import PmgCut, expected_iou, without_crumbs
from fretsaw.methods.pmg_sam.decoder import GuidedMaskDecoder, OneWayInteraction, TwoWayInteraction
from fretsaw.methods.pmg_sam.drfm import DenseResidualFusion, NoFusion, ResidualFusion, StabilisedResidualBlock
from fretsaw.methods.pmg_sam.feat_refiner import FeatRefiner
from fretsaw.methods.pmg_sam.model import PmgResult
from fretsaw.methods.pmg_sam.pairing import PAIRS, DualBranch, DualFeatures, Pair, stage_taps, stages_of
from fretsaw.methods.pmg_sam.stored import read_network, write_network
from fretsaw.runtimes.torch import TorchClickModel
from fretsaw.session import Session
from fretsaw.types import ImageEmbedding
from tiny import CHANNELS, tiny_sam, tiny_sam2

NARROW = {name: (depth, 3 if i == 3 else i // 8, 2, 8) for name, (depth, i, _, _) in SMALL.items()}
"""U²-Netp with an eighth of its channels."""

STAGES, LEVELS = (8, 16, 32, 64), (8,) * 6
SMALL_NET = PmgSettings(STAGES, LEVELS, dim=CHANNELS, width=8, blocks=2, iterations=2, hidden=64, heads=2, patch=4)


def features(batch: int = 1, side: int = 64, seed: int = 0, stages=STAGES, levels=LEVELS) -> DualFeatures:
    generator = torch.Generator().manual_seed(seed)

    def draw(channels: int, stride: int) -> torch.Tensor:
        return torch.randn(batch, channels, side // stride, side // stride, generator=generator)

    return DualFeatures(
        tuple(draw(c, s) for c, s in zip(stages, (4, 8, 16, 32), strict=True)),
        tuple(draw(c, s) for c, s in zip(levels, (4, 4, 8, 16, 32, 32), strict=True)),
        draw(1, 4),
        draw(CHANNELS, 16),
        (draw(CHANNELS // 8, 4), draw(CHANNELS // 4, 8)),
    )


def constant_convolution(conv: torch.nn.Conv2d, weight: float, bias: float) -> None:
    """Let a 3 x 3 convolution answer weight x (sum over channels at the same place) + bias."""
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[:, :, 1, 1] = weight
        conv.bias.fill_(bias)


class TestFusion:
    def test_a_block_adds_the_scaled_dense_residual_of_algorithm_2(self):
        block = StabilisedResidualBlock(1, iterations=3, groups=1, scale=0.5)
        for conv, weight, bias in zip(block.convs, (2.0, 1.0, -1.0), (0.0, -30.0, 100.0), strict=True):
            constant_convolution(conv, weight, bias)
        x, local = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0, 5.0]]]])
        # First place: f1 = 2 (1 + 3) = 8; f2 = relu(1 + 3 + 8 - 30) = 0; f3 = relu(100 - 12) = 88; sum 96, so 1 + 0.5 * 96 = 49.
        # Second place: f1 = 2 (2 + 5) = 14; f2 = relu(21 - 30) = 0; f3 = 100 - 21 = 79; sum 93, so 2 + 46.5 = 48.5.
        before_norm = torch.tensor([[[[49.0, 48.5]]]])
        assert torch.allclose(block(x, local), F.group_norm(before_norm, 1), atol=1e-5)

    def test_each_block_of_the_cascade_takes_the_stage_again_and_a_long_skip_ends_it(self):
        torch.manual_seed(0)
        fusion = DenseResidualFusion(3, 5, channels=8, blocks=3, iterations=2, scale=0.1)
        level, stage = torch.randn(2, 3, 6, 6), torch.randn(2, 5, 6, 6)
        x, h = fusion.align_level(level), fusion.align_stage(stage)
        y = x
        for block in fusion.blocks:
            y = block(y, h)
        assert torch.allclose(fusion(level, stage), x + 0.1 * y, atol=1e-6)

    def test_without_its_scale_the_long_skip_alone_remains(self):
        fusion = DenseResidualFusion(3, 5, channels=8)
        with torch.no_grad():
            fusion.scale.zero_()
        level = torch.randn(1, 3, 6, 6)
        assert torch.equal(fusion(level, torch.randn(1, 5, 6, 6)), fusion.align_level(level))

    def test_the_scales_are_learned_and_start_at_a_tenth(self):
        fusion = DenseResidualFusion(3, 5)
        scales = [p for name, p in fusion.named_parameters() if name.endswith("scale")]
        assert len(scales) == 4
        assert all(p.requires_grad and abs(p.item() - 0.1) < 1e-7 for p in scales)

    def test_the_alternatives_of_table_4(self):
        level, stage = torch.randn(1, 3, 6, 6), torch.randn(1, 5, 6, 6)
        none = NoFusion(3, 5, 8)
        assert torch.equal(none(level, stage), none.align_level(level))
        residual = ResidualFusion(3, 5, 8).eval()
        total = residual.align_level(level) + residual.align_stage(stage)
        expected = torch.relu(residual.conv(total) / (1 + residual.norm.eps) ** 0.5)
        assert torch.allclose(residual(level, stage), expected, atol=1e-5)


class TestFeatRefiner:
    def test_it_is_a_convolution_of_the_enlarged_and_concatenated_levels(self):
        torch.manual_seed(0)
        refiner = FeatRefiner(4, levels=3, hidden=8)
        torch.nn.init.normal_(refiner.last.weight)
        levels = [torch.randn(2, 4, side, side) for side in (8, 4, 2)]
        whole = torch.cat([F.interpolate(level, size=(8, 8), mode="bilinear") for level in levels], 1)
        weight = torch.cat([conv.weight for conv in refiner.compress], 1)
        hidden = torch.relu(refiner.norm(F.conv2d(whole, weight, refiner.compress[0].bias)))
        expected = refiner.last(torch.relu(refiner.near(hidden)))
        assert torch.allclose(refiner(levels), expected, atol=1e-5)

    def test_training_starts_undecided_or_at_the_saliency_map(self):
        given = features()
        assert build_pmg_sam(SMALL_NET).locate(given).abs().max() == 0
        assert torch.equal(build_pmg_sam(replace(SMALL_NET, map_share=1.0)).locate(given), given.map_logits)


class TestDecoder:
    def decoder(self, **settings) -> GuidedMaskDecoder:
        torch.manual_seed(1)
        return GuidedMaskDecoder([TwoWayInteraction(32, 2, 64) for _ in range(2)], 32, 2, patch=4, **settings).eval()

    def test_tokens_are_the_output_token_and_the_patches_in_row_order(self):
        decoder = self.decoder()
        pre_mask = torch.arange(64.0).view(1, 1, 8, 8) / 16 - 2
        with torch.no_grad():
            tokens = decoder.tokens(pre_mask)
            decoder.patches.weight.zero_()
            places = decoder.tokens(pre_mask)
        assert tokens.shape == (1, 5, 32)
        assert torch.equal(tokens[0, 0], decoder.output_token[0])
        weight = self.decoder().patches.weight
        top_right, bottom_left = pre_mask[0, 0, :4, 4:].flatten() / 8, pre_mask[0, 0, 4:, :4].flatten() / 8
        assert torch.allclose((tokens - places)[0, 2], weight @ top_right, atol=1e-5)
        assert torch.allclose((tokens - places)[0, 3], weight @ bottom_left, atol=1e-5)

    def test_a_pre_mask_that_patches_do_not_divide_is_padded_with_background(self):
        decoder = self.decoder()
        assert decoder.tokens(torch.zeros(2, 1, 10, 12)).shape == (2, 1 + 9, 32)

    def test_the_upscaled_image_is_that_of_transposed_convolutions_with_the_maps_injected(self):
        decoder = self.decoder()
        image, fine, middle = torch.randn(2, 32, 3, 5), torch.randn(2, 4, 12, 20), torch.randn(2, 8, 6, 10)
        x = decoder.upscale_conv1(image) + middle
        x = F.gelu(decoder.upscale_layer_norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        expected = F.gelu(decoder.upscale_conv2(x) + fine)
        found = decoder.upscale(image.permute(0, 2, 3, 1), (fine, middle))
        ordered = found.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(2, 4, 12, 20)
        assert torch.allclose(ordered, expected, atol=1e-5)

    def test_the_mask_is_the_dot_product_of_classifier_and_place(self):
        decoder = self.decoder()
        embedding, pre_mask = torch.randn(1, 32, 2, 2), torch.randn(1, 1, 8, 8)
        with torch.no_grad():
            weights, image = decoder.interact(embedding, pre_mask)
            logits = decoder(embedding, pre_mask)
            upscaled = decoder.upscale(image.unflatten(1, (2, 2)), ())
        # Place (5, 2): cell (1, 0), its second row and first column doubled... row 5 = 1 4 + 0 2 + 1, column 2 = 0 4 + 1 2 + 0.
        assert torch.allclose(logits[0, 0, 5, 2], upscaled[0, 1, 0, 0, 1, 1, 0] @ weights[0], atol=1e-6)

    def test_one_direction_leaves_the_image_alone(self):
        tokens, image, positions = torch.randn(1, 3, 32), torch.randn(1, 4, 32), torch.randn(1, 4, 32)
        both, one = TwoWayInteraction(32, 2, 64), OneWayInteraction(32, 2, 64)
        assert torch.equal(one(tokens, image, tokens, positions)[1], image)
        assert not torch.equal(both(tokens, image, tokens, positions)[1], image)

    def test_the_pre_mask_changes_the_mask_and_gets_a_gradient(self):
        decoder = self.decoder()
        embedding, pre_mask = torch.randn(1, 32, 4, 4), torch.zeros(1, 1, 16, 16, requires_grad=True)
        decoder(embedding, pre_mask).sum().backward()
        assert pre_mask.grad is not None
        assert pre_mask.grad.abs().max() > 0

    def test_sam2s_weights_are_taken_where_there_is_a_counterpart(self):
        model = tiny_sam2(64)
        network = build_pmg_sam(replace(SMALL_NET, dense=8))
        theirs = model.mask_decoder
        start_from_sam2(network, model)
        ours = network.decoder
        assert torch.equal(ours.layers[1].cross_attn_image_to_token.o_proj.weight, theirs.decoder.transformer.layers[1].cross_attn_image_to_token.o_proj.weight)
        assert torch.equal(ours.output_token, theirs.decoder.mask_tokens.weight[:1])
        given = torch.randn(1, 1, 16, 16)
        assert torch.allclose(ours.dense(given), model.prompt_encoder.mask_embed(given), atol=1e-6)


class TestNetwork:
    @pytest.mark.parametrize(
        "change",
        [
            {"fusion": "none"},
            {"fusion": "residual"},
            {"injection": "none"},
            {"injection": "u2net"},
            {"injection": "both"},
            {"injection": "encoder", "pyramid": "encoder"},
            {"interactions": 1},
            {"interactions": 3},
            {"directions": 1},
            {"blocks": 1, "iterations": 6},
            {"dense": 8, "map_share": 1.0},
        ],
        ids=str,
    )
    def test_every_ablation_runs_and_learns(self, change):
        torch.manual_seed(0)
        network = build_pmg_sam(replace(SMALL_NET, **change))
        result = network(features(2))
        assert result.pre_mask.shape == result.mask_logits.shape == (2, 1, 16, 16)
        torch.nn.init.normal_(network.refiner.last.weight)
        result = network(features(2))
        (result.pre_mask.square().mean() + result.mask_logits.square().mean()).backward()
        still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
        # A bias before a norm or a softmax over keys cannot change anything.
        assert [name for name in still if not name.endswith(("k_proj.bias", "conv.bias", "compress.0.bias"))] == []

    def test_unknown_settings_are_refused_by_name(self):
        with pytest.raises(ConfigError, match="fusion: expected one of drfm, none, residual, got 'sum'"):
            build_pmg_sam(replace(SMALL_NET, fusion="sum"))
        with pytest.raises(ConfigError, match="expected PMG-SAM's settings"):
            PmgSettings.read({"depth": 3})
        assert PmgSettings.read(SMALL_NET.write()) == SMALL_NET

    def test_the_papers_network_and_the_tiny_one_have_the_counted_parameters(self):
        with torch.device("meta"):
            paper, tiny = build_pmg_sam(PAPER), build_pmg_sam(TINY)
        srb = 4 * (64 * 64 * 9 + 64) + 1 + 2 * 64
        first = (64 * 64 + 64 + 128) + (112 * 64 + 64 + 128) + 3 * srb + 1
        assert trainable_parameters(paper.fusions[0]) == first
        assert trainable_parameters(paper) == sum(parameters_by_part(paper).values()) == 7_519_289
        assert trainable_parameters(tiny) == 4_345_477


class TestDualBranch:
    def test_levels_come_on_the_grid_of_their_stage(self):
        model = tiny_sam2(128)
        pixels = torch.randn(2, 3, 128, 128)
        found = DualBranch(U2Net(NARROW), side=64)(pixels, model.encode(pixels, stage_taps(model.encoder)))
        assert [stage.shape[-1] for stage in found.stages] == [32, 16, 8, 4]
        assert [level.shape[-1] for level in found.levels] == [32, 32, 16, 8, 4, 4]
        assert (Pair(1, 1), Pair(2, 1), Pair(3, 2), Pair(4, 3), Pair(5, 4), Pair(6, 4)) == PAIRS
        assert found.map_logits.shape == (2, 1, 32, 32)
        again = DualFeatures.from_named(found.named())
        assert all(torch.equal(a, b) for a, b in zip(again.levels + again.high_res, found.levels + found.high_res, strict=True))

    def test_stages_are_kept_on_request_only(self):
        model = tiny_sam2(64)
        pixels = torch.randn(1, 3, 64, 64)
        plain = model.encode(pixels)
        assert not plain.taps
        kept = model.encode(pixels, stage_taps(model.encoder))
        assert torch.equal(kept.final, plain.final)
        assert [tuple(kept.taps[f"stage{i}"].shape[1:]) for i in (1, 2, 3, 4)] == [(8, 16, 16), (16, 8, 8), (32, 4, 4), (64, 2, 2)]

    def test_an_encoder_of_three_stages_has_the_third_at_half_its_side_in_the_fourths_place(self):
        taps = {f"stage{i}": torch.randn(2, 8 * i, 64 // 2**i, 64 // 2**i) for i in (1, 2, 3)}
        *first, fourth = stages_of(ImageEmbedding(torch.zeros(2, 32, 4, 4), (), taps))
        assert all(torch.equal(stage, tap) for stage, tap in zip(first, taps.values(), strict=True))
        assert fourth.shape == (2, 24, 4, 4)
        torch.testing.assert_close(fourth[:, :, 0, 1], taps["stage3"][:, :, :2, 2:4].mean((2, 3)))

    @pytest.mark.parametrize("kept", [(), ("stage1", "stage2")])
    def test_an_encoder_with_fewer_stages_is_refused(self, kept):
        taps = {name: torch.zeros(1, 8, 16, 16) for name in kept}
        with pytest.raises(ModelError, match="stage3"):
            stages_of(ImageEmbedding(torch.zeros(1, 32, 4, 4), (), taps))

    def test_an_encoder_without_stages_is_refused(self):
        with pytest.raises(ModelError, match="stage1"):
            DualBranch(U2Net(NARROW), side=64)(torch.zeros(1, 3, 64, 64), ImageEmbedding(torch.zeros(1, 32, 4, 4)))


@pytest.fixture
def image(rng) -> np.ndarray:
    return rng.integers(0, 256, (80, 120, 3), dtype=np.uint8)


def pmg_cut(model, **settings) -> PmgCut:
    torch.manual_seed(0)
    network = build_pmg_sam(SMALL_NET)
    torch.nn.init.normal_(network.refiner.last.weight)
    return PmgCut(U2Net(NARROW), network, model, **settings)


class TestCut:
    def test_one_encoding_serves_the_automatic_mask_and_the_clicks(self, image):
        model = tiny_sam2(128)
        cut = pmg_cut(model)
        encodings = []
        model.image_encoder.register_forward_hook(lambda *_: encodings.append(1))
        session = Session(image, TorchClickModel(model), cut, taps=cut.taps)
        result = session.auto()
        assert result.logits.shape == image.shape[:2]
        assert 0 <= result.score <= 1
        session.click(60, 40)
        assert len(encodings) == 1
        assert np.array_equal(session.undo().logits, result.logits)

    def test_an_embedding_without_stages_is_made_again(self, image):
        model = tiny_sam2(128)
        bare = model.encode(model.pixels_of(image))
        cut = pmg_cut(model)
        frame = model.preprocessing.frame_of(image)
        full = model.encode(model.pixels_of(image), cut.taps)
        assert np.array_equal(cut(image, bare, frame).logits, cut(image, full, frame).logits)

    def test_a_model_without_stages_is_refused(self, image):
        model = tiny_sam(128)
        with pytest.raises(ModelError, match="keeps its stages"):
            Session(image, TorchClickModel(model), pmg_cut(model)).auto()

    def test_a_large_image_gets_its_own_edges_and_nothing_else_changes(self, image, monkeypatch):
        model = tiny_sam2(64)
        torch.manual_seed(0)
        network = build_pmg_sam(SMALL_NET)
        torch.nn.init.normal_(network.refiner.last.weight)
        embedding, frame = model.encode(model.pixels_of(image)), model.preprocessing.frame_of(image)
        cut = PmgCut(U2Net(NARROW), network, model)
        crisp = cut(image, embedding, frame)
        monkeypatch.setattr(edges, "LARGE", float("inf"))
        enlarged = cut(image, embedding, frame)
        outside = band(enlarged.mask, REACH * 120 / 64) == 0
        assert crisp.logits.shape == enlarged.logits.shape
        assert np.array_equal(crisp.logits[outside], enlarged.logits[outside])
        assert outside.all() or not np.array_equal(crisp.logits, enlarged.logits)

    @pytest.mark.parametrize(("smallest_part", "crumb", "second"), [(0.0, True, True), (0.02, False, True), (0.3, False, False)])
    def test_a_cut_leaves_crumbs_out(self, image, monkeypatch, smallest_part, crumb, second):
        logits = torch.full((1, 1, 32, 32), -4.0)
        logits[..., 4:20, 4:20] = 6.0
        logits[..., 24:30, 4:14] = 3.0
        logits[..., 2, 28] = 2.0
        model = tiny_sam2(128)
        cut = pmg_cut(model, smallest_part=smallest_part)
        monkeypatch.setattr(cut, "predict", lambda *_: PmgResult(logits, logits))
        mask = Session(image, TorchClickModel(model), cut).auto().mask
        places = {"object": (30, 45), "second": (67, 34), "crumb": (6, 107)}
        assert {name: bool(mask[place]) for name, place in places.items()} == {"object": True, "second": second, "crumb": crumb}

    def test_the_largest_piece_stays_and_what_is_left_out_is_as_far_below_the_threshold_as_it_was_above(self):
        logits = torch.full((1, 1, 8, 8), -1.0)
        logits[..., 0, 0], logits[..., 4:6, 4:6] = 3.0, 0.5
        assert torch.equal(without_crumbs(logits, 0.5)[0, 0, 0, 0], torch.tensor(-3.0))
        assert torch.equal(without_crumbs(logits, 2.0) > 0, without_crumbs(logits, 0.5) > 0)
        assert not (without_crumbs(torch.full((1, 1, 8, 8), -1.0), 0.5) > 0).any()

    @pytest.mark.parametrize("injection", ["hiera", "u2net"])
    def test_a_tile_is_decoded_at_its_own_size(self, image, injection):
        model = tiny_sam2(64)
        cut = PmgCut(U2Net(NARROW), build_pmg_sam(replace(SMALL_NET, injection=injection)), model)
        assert decode_tile(cut, model, image, np.zeros(image.shape[:2], np.float32)).shape == image.shape[:2]

    def test_the_score_is_the_iou_of_decision_and_soft_mask(self):
        logits = np.log(np.array([[0.8 / 0.2, 0.2 / 0.8], [0.9 / 0.1, 0.1 / 0.9]]))
        assert expected_iou(logits) == pytest.approx((0.8 + 0.9) / (2 + 0.2 + 0.1))
        assert expected_iou(np.full((4, 4), -3.0)) == 0


class TestWeightFile:
    def test_a_trained_file_loads_by_its_path_with_the_encoder_that_it_names(self, tmp_path, image, monkeypatch):
        model = tiny_sam2(128)
        build = catalog.build
        monkeypatch.setattr(catalog, "build", lambda name, **settings: Parts(clicks=model) if name == "tiny" else build(name, **settings))
        torch.manual_seed(0)
        settings = replace(SMALL_NET, levels=(64,) * 6)
        network = build_pmg_sam(settings)
        path = tmp_path / "best.safetensors"
        write_network(network, settings, path, {"encoder": "tiny"})
        segmenter = fretsaw.load(path, device="cpu")
        assert segmenter.auto(image).logits.shape == image.shape[:2]
        bare = tmp_path / "bare.safetensors"
        write_network(network, settings, bare, {})
        with pytest.raises(ModelError, match="PMG-SAM's encoder in the metadata"):
            fretsaw.load(bare, device="cpu")

    def test_a_decoder_stored_as_its_change_comes_back(self, tmp_path):
        model, settings = tiny_sam2(64), replace(SMALL_NET, dense=8)
        torch.manual_seed(0)
        network = build_pmg_sam(settings)
        start_from_sam2(network, model)
        with torch.no_grad():
            # a change of rank 2 of one matrix, and one of a vector
            weight = network.decoder.layers[0].mlp.proj_in.weight
            weight += 0.1 * torch.randn(weight.shape[0], 2) @ torch.randn(2, weight.shape[1])
            network.decoder.layer_norm_final_attn.bias += 0.5
        whole, thin = tmp_path / "whole.safetensors", tmp_path / "thin.safetensors"
        write_network(network, settings, whole, {"encoder": "tiny"})
        write_network(network, settings, thin, {"encoder": "tiny"}, model, rank=2)
        assert thin.stat().st_size < 0.6 * whole.stat().st_size
        for path in (whole, thin):
            found = read_network(path, model).state_dict()
            for name, value in network.state_dict().items():
                torch.testing.assert_close(found[name], value, rtol=2e-3, atol=2e-3)
        other = read_network(thin, tiny_sam2(64, seed=1)).state_dict()
        assert not torch.allclose(other["decoder.layers.0.mlp.proj_in.weight"], weight, atol=2e-3)

    def test_the_shipped_model_cuts_the_person_and_not_the_shuttle(self, published):
        published("sam2-hiera-tiny")
        mask = fretsaw.load("pmg-tiny", device="cpu").auto(Path(__file__).resolve().parents[2] / "examples" / "astronaut.png").mask
        assert mask[110, 225]
        assert mask[330, 150]
        assert not mask[100, 480]
        assert not mask[10, 330]
