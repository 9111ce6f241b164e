"""The parts of S2CLIP on cases whose answer is known by hand, by another way to the same thing, or by a property."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch

from experiments.s2clip.references import DenseMaps, whole_classes
from fretsaw.backbones import clip as clips
from fretsaw.backbones.clip import build_clip, read_merges, resize_tokens, vocabulary
from fretsaw.backbones.sam import LAST_INPUT
from fretsaw.backbones.sam_attention import last_attention
from fretsaw.errors import StateDictError
from fretsaw.evaluation.layers import average_precision, window_precision
from fretsaw.frames import Preprocessing, longest_side, squash
from fretsaw.methods.s2clip.affinity import mean_cosine, patch_affinity, progressive_affinity, self_affinity, unit
from fretsaw.methods.s2clip.entropy import choose_layers, spatial_entropy
from fretsaw.methods.s2clip.features import HierarchicalValues, fuse, plain_values
from fretsaw.methods.s2clip.maps import TextMaps, coarse_labels, reduce_map
from fretsaw.methods.s2clip.model import reduced_probabilities
from fretsaw.methods.s2clip.refine import Refinement, batches, class_prompts, refine, sam_answers
from fretsaw.methods.s2clip.regions import optimised_regions, original_regions
from fretsaw.methods.s2clip.splice import content_size, sam_correlation, splice, windows
from fretsaw.methods.s2clip.text import TEMPLATES
from planted import merges_text, random_clip
from tiny import tiny_sam

# --- text ---


def test_templates_are_the_eighty():
    assert len(TEMPLATES) == len(set(TEMPLATES)) == 80
    assert all(template.count("{}") == 1 and template.endswith(".") for template in TEMPLATES)
    assert {"a photo of a {}.", "itap of my {}.", "the {} in a video game.", "a jpeg corrupted photo of the {}.", "a origami {}."} <= set(TEMPLATES)


def test_vocabulary_numbers_bytes_word_ends_merges_and_marks():
    words = vocabulary(read_merges(merges_text().encode()))
    assert (words["!"], words["a"], words["!</w>"]) == (0, 64, 256)  # as in the published vocab.json
    assert words["red</w>"] == 513
    assert len(words) == 512 + 15 + 2
    assert words["<|endoftext|>"] == len(words) - 1


def test_tokenizer_applies_the_merges():
    clip = build_clip(random_clip())
    ids = clip.tokenizer(["A red  GREEN"])["input_ids"][0]
    words = vocabulary(read_merges(merges_text().encode()))
    assert ids == [words["<|startoftext|>"], words["a</w>"], words["red</w>"], words["green</w>"], words["<|endoftext|>"]]


def test_text_embedding_does_not_depend_on_padding_or_neighbours():
    clip = build_clip(random_clip())
    with torch.no_grad():
        together = clip.embed_texts(["red", "a photo of a green thing that is long", "blue"])
        alone = torch.cat([clip.embed_texts([text]) for text in ("red", "a photo of a green thing that is long", "blue")])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_clip_without_its_tokenizer_says_so():
    state = {name: value for name, value in random_clip().items() if name != clips.MERGES}
    with pytest.raises(StateDictError, match=r"tokenizer\.merges"):
        build_clip(state).embed_texts(["red"])
    with pytest.raises(StateDictError, match="parameters of CLIP"):
        build_clip({"a": torch.zeros(1)})


def test_dense_path_equals_transformers_up_to_the_last_block():
    clip = build_clip(random_clip())
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden = clip.model.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states
        for own, theirs in zip(clip.tokens(pixels), hidden[1:-1], strict=True):
            torch.testing.assert_close(own, theirs[:, 1:], atol=1e-5, rtol=1e-5)


# --- affinities ---


def test_identity_affinity_returns_the_values_and_a_uniform_one_their_mean():
    values = torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(0))
    identity = patch_affinity(torch.eye(9)[None], gamma=1e4)
    torch.testing.assert_close(identity @ values, values, atol=1e-5, rtol=0)
    uniform = patch_affinity(torch.ones(1, 9, 1), beta=0.5)
    torch.testing.assert_close(uniform @ values, values.mean(dim=1, keepdim=True).expand_as(values))


def test_without_features_every_patch_keeps_its_value():
    values = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.cat(list(fuse(values, (2, 3), None))).flatten(2).transpose(1, 2), values)


def test_mean_cosine_equals_the_mean_over_all_pairs():
    units = unit(torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(mean_cosine(units), (units @ units.transpose(1, 2)).mean())


def test_progressive_affinity_keeps_rows_and_ends():
    generator = torch.Generator().manual_seed(0)
    last = self_affinity(torch.randn(1, 2, 6, 4, generator=generator))
    layers = [patch_affinity(unit(torch.randn(1, 6, 5, generator=generator))) for _ in range(3)]
    mixed = progressive_affinity(last, layers, [0.5, 0.3, 0.2])
    torch.testing.assert_close(mixed.sum(-1), torch.ones(1, 2, 6))
    torch.testing.assert_close(progressive_affinity(last, layers, [0, 0, 0]), last)
    torch.testing.assert_close(progressive_affinity(last, layers, [0.5, 0.5, 1.0])[:, 0], layers[-1])
    by_hand = ((last * 0.5 + layers[0][:, None] * 0.5) * 0.7 + layers[1][:, None] * 0.3) * 0.8 + layers[2][:, None] * 0.2
    torch.testing.assert_close(mixed, by_hand)


@pytest.mark.parametrize("attention", ["qq", "kk", "vv"])
def test_hierarchical_values_without_layers_are_the_self_attention_s(attention):
    clip = build_clip(random_clip())
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        layers = clip.tokens(pixels)
        found = HierarchicalValues(attention, layers=0)(clip, lambda: iter([layers]), (4, 4))
        heads = clip.last_heads(layers[-1], {"qq": "query", "kk": "key", "vv": "value"}[attention])[:, 0]
        expected = (heads @ heads.transpose(1, 2) / 8).softmax(-1) @ plain_values(clip, lambda: iter([layers]), (4, 4))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_values_do_not_depend_on_how_many_windows_are_looked_at_together():
    clip = build_clip(random_clip())
    pixels = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together, apart = ([clip.tokens(few) for few in pixels.split(size)] for size in (5, 2))
        for rule in (HierarchicalValues(layers=1), plain_values):
            torch.testing.assert_close(rule(clip, lambda: iter(apart), (4, 4)), rule(clip, lambda: iter(together), (4, 4)), atol=1e-5, rtol=1e-4)


# --- spatial entropy ---


def test_spatial_entropy_is_largest_where_maps_are_flat_and_falls_with_concentration():
    flat = spatial_entropy(torch.ones(1, 4, 8, 8))
    assert flat == pytest.approx(math.log(64), abs=1e-4)
    # small values: algorithm 1's floor of the shares grows with the channels' spread, and would hide them otherwise
    halves = 1e-3 * torch.cat([torch.ones(1, 1, 8, 4), -torch.ones(1, 1, 8, 4)], dim=3)
    p = torch.tensor([math.e, 1 / math.e]) / (32 * (math.e + 1 / math.e))
    assert spatial_entropy(halves) == pytest.approx(float(-(32 * p * p.log()).sum()), abs=0.02)
    peak = torch.zeros(1, 1, 8, 8)
    peak[0, 0, 3, 3] = 1e-3
    assert spatial_entropy(peak) < spatial_entropy(halves) < flat
    assert spatial_entropy(torch.full((1, 1, 2, 2), float("nan"))) == 0


def test_entropy_of_an_image_does_not_depend_on_its_batch():
    maps = torch.randn(3, 5, 6, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 100.0, 0.01])[:, None, None, None]
    assert spatial_entropy(maps) == pytest.approx(np.mean([spatial_entropy(one[None]) for one in maps]), rel=1e-5)


def test_layers_of_lowest_entropy_are_chosen_and_weighed():
    chosen, weights = choose_layers([3.0, 2.0, 4.0, 1.0], places=round(math.e**4), count=2)
    assert chosen == [1, 3]
    np.testing.assert_allclose(weights, [0.4, 0.6], atol=1e-2)
    assert choose_layers([1.0], 4, 5)[1] == [1.0]


# --- windows, splicing, SAM's correlation ---


def test_windows_cover_the_image_and_end_with_it():
    found = windows(448, 672, 336, 224)
    assert found == [(0, 0, 336, 336), (0, 224, 336, 560), (0, 336, 336, 672), (112, 0, 448, 336), (112, 224, 448, 560), (112, 336, 448, 672)]
    assert windows(336, 336, 336, 112) == [(0, 0, 336, 336)]


@pytest.mark.parametrize(
    ("size", "short_side", "patch", "expected"),
    [((375, 500), 448, 16, (464, 608)), ((336, 336), 336, 16, (336, 336)), ((1024, 2048), 688, 16, (688, 1376)), ((100, 4000), 448, 16, (336, 2048))],
)
def test_content_size(size, short_side, patch, expected):
    found = content_size(*size, short_side, patch, 336)
    assert found == expected
    assert found[0] % patch == found[1] % patch == 0


def test_splice_averages_overlaps():
    ones, threes = torch.ones(2, 4, 4), 3 * torch.ones(2, 4, 4)
    result = splice([ones, threes], [(0, 0, 2, 2), (0, 1, 2, 3)], (2, 3), (2, 2))
    assert result.shape == (2, 4, 6)
    assert result[0, 0].tolist() == [1, 1, 2, 2, 3, 3]


def test_resize_tokens_is_the_identity_on_its_own_grid():
    tokens = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0))
    assert resize_tokens(tokens, (3, 4), (3, 4)) is tokens
    assert resize_tokens(tokens, (3, 4), (6, 8)).shape == (2, 48, 3)


def test_sam_s_last_attention_equals_the_block_s_own():
    """The attention read off, applied to the values and projected, is what the block adds to its input."""
    model = tiny_sam(128)
    encoder = model.image_encoder
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    with torch.no_grad():
        tokens = model.encode(model.pixels_of(image), (LAST_INPUT,)).taps[LAST_INPUT]
        values, rows = last_attention(encoder, tokens, (8, 8))
        mixed = torch.cat([rows(slice(start, start + 10)) for start in range(0, 64, 10)], dim=1) @ values
        layer = encoder.layers[-1]
        expected, _ = layer.attn(layer.layer_norm1(tokens))
    torch.testing.assert_close(layer.attn.proj(mixed.transpose(0, 1).reshape(1, 8, 8, -1)), expected, atol=1e-5, rtol=1e-4)
    part, own = last_attention(encoder, tokens, (5, 8))
    assert part.shape[1] == 40
    assert (own(slice(None)).sum(-1) < 1).all(), "padding takes its share"


def test_correlation_of_equal_values_is_the_attention():
    attention = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(0)).softmax(-1)
    found = sam_correlation(lambda rows: attention[:, rows].clone(), torch.ones(2, 6, 3), cosine_factor=0.5)
    torch.testing.assert_close(found, attention.mean(0))


# --- maps ---


def dense(word_logits: torch.Tensor, word_classes: list[int], size: tuple[int, int], floor: float) -> DenseMaps:
    words = torch.nn.functional.interpolate(word_logits[None], size=size, mode="bilinear")[0].softmax(0)
    classes = torch.stack([words[[i for i, own in enumerate(word_classes) if own == label]].amax(0) for label in range(max(word_classes) + 1)])
    labels = classes.argmax(0)
    labels[classes.amax(0) < floor] = 0
    return DenseMaps(classes, labels)


@pytest.mark.parametrize("size", [(64, 96), (37, 51), (9, 200)])
def test_maps_in_bands_equal_the_whole(size, monkeypatch):
    monkeypatch.setattr("fretsaw.methods.s2clip.maps.BAND_BYTES", 20_000)
    logits = 5 * torch.randn(7, 6, 8, generator=torch.Generator().manual_seed(0))
    word_classes = [0, 0, 1, 2, 2, 2, 3]
    maps, whole = TextMaps(logits, word_classes, size, floor=0.4), dense(logits, word_classes, size, 0.4)
    assert torch.equal(maps.labels, whole.labels)
    assert (maps.labels == 0).any()
    for label in range(4):
        torch.testing.assert_close(maps.probabilities(label), whole.probabilities(label), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(maps.best_coarse, whole.best_coarse, atol=1e-5, rtol=1e-4)
    np.testing.assert_array_equal(coarse_labels(maps, 0.5), coarse_labels(whole, 0.5))
    torch.testing.assert_close(reduced_probabilities(logits, word_classes, size)[2], whole.probabilities(2), atol=1e-5, rtol=1e-4)


def test_probabilities_of_many_classes_are_kept_smaller():
    found = reduced_probabilities(torch.zeros(50, 4, 4), list(range(50)), (400, 800), limit=1_000_000)
    assert found.nbytes <= 1_000_000
    assert found.shape[1] / found.shape[2] == pytest.approx(0.5, abs=0.02)
    torch.testing.assert_close(found.sum(0), torch.ones(found.shape[1:]))


def peak_of(call) -> int:
    """Bytes of new tensors and arrays at the peak: torch's CPU allocations are counted by the profiler, which sees each of them."""
    from torch.profiler import ProfilerActivity, profile

    tracemalloc.start()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    _, arrays = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    now = peak = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak + arrays


@pytest.mark.slow
def test_memory_is_bounded_however_many_classes_there_are():
    """512 x 512 and 171 classes, a sixteenth of 2048 x 2048: all probabilities would take 179 MB, and Trident holds them several times."""
    logits = 5 * torch.randn(171, 28, 28, generator=torch.Generator().manual_seed(0))
    model = tiny_sam(128)
    size = (512, 512)

    def answer(prompts):
        count = sum(len(prompt.regions) for prompt in prompts)
        return torch.ones(count), lambda wanted: torch.ones(len(wanted), 1, 32, 32)

    def work():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fretsaw.methods.s2clip.maps.BAND_BYTES", 4 * 2**20)
            maps = TextMaps(logits, list(range(171)), size)
            refine(maps, answer, model.preprocessing, Refinement(), 0.05, 200)

    bound = 60 * 2**20
    assert 2 * bound < 512 * 512 * 171 * 4
    assert peak_of(work) < bound


# --- regions ---


def random_maps(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A label map of blobs and noise, with probabilities."""
    import cv2

    height, width, classes = int(rng.integers(8, 60)), int(rng.integers(8, 60)), int(rng.integers(2, 7))
    noise = rng.random((classes, height, width), dtype=np.float32)
    smooth = np.stack([cv2.GaussianBlur(values, (0, 0), float(rng.uniform(0.4, 3))) for values in noise])
    probabilities = np.exp(20 * smooth)
    probabilities /= probabilities.sum(0)
    return probabilities.argmax(0).astype(np.int32), probabilities.astype(np.float32)


def as_set(regions) -> set:
    return {(r.label, r.box, r.point, r.area, r.mask.tobytes(), round(r.score, 5)) for r in regions}


@pytest.mark.slow
def test_algorithms_2_and_3_find_the_same_regions_on_500_maps():
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(500):
        labels, probabilities = random_maps(rng)
        threshold, area = float(rng.choice([0.0, 0.3, 0.6])), int(rng.choice([0, 4, 30]))
        for label, values in enumerate(probabilities):
            original = original_regions(labels, label, values, threshold, area)
            optimised = optimised_regions(labels, label, values, threshold, area)
            assert as_set(original) == as_set(optimised)
            assert [r.box for r in original] == [r.box for r in optimised], "in the order of their first pixel"
            found += len(original)
    assert found > 5000


def test_regions_by_hand():
    labels = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 1]])
    probabilities = np.array([[0.5, 0, 0, 0.9], [0, 0.7, 0, 0.9], [0, 0, 0, 0.3]], np.float32)
    first, second = optimised_regions(labels, 1, probabilities, 0.2, 2)
    assert (first.box, first.point, first.area) == ((0, 0, 1, 1), (1, 1), 2), "corners touch"
    assert (second.box, second.point, second.area) == ((3, 0, 3, 2), (3, 0), 3), "the first of two peaks"
    assert second.score == pytest.approx(0.7)
    assert [r.area for r in optimised_regions(labels, 1, probabilities, 0.2, 3)] == [3]
    assert optimised_regions(labels, 1, probabilities, 0.95, 0) == []
    [whole] = whole_classes(labels, 1, probabilities, 0.2, 0)
    assert (whole.box, whole.area) == ((0, 0, 3, 2), 5)


# --- refinement ---


def blocks() -> DenseMaps:
    """Two classes side by side, sure of themselves."""
    probabilities = torch.full((2, 64, 64), 0.1)
    probabilities[0, :, :32] = probabilities[1, :, 32:] = 0.9
    return DenseMaps(probabilities, probabilities.argmax(0))


SAM_128 = Preprocessing(longest_side, 128)


def constant(logit: float, iou: float, column: int = 32):
    """An answer: everything left of a column of the prompt's 32."""
    masks = torch.full((1, 32, 32), -logit)
    masks[:, :, :column] = logit

    def ask(prompts):
        count = sum(len(prompt.regions) for prompt in prompts)
        return torch.full((count,), iou), lambda wanted: masks.expand(len(wanted), -1, -1, -1)

    return ask


def test_refinement_keeps_the_coarse_label_where_sam_is_unsure():
    maps = blocks()
    assert torch.equal(refine(maps, constant(8.0, 0.8), SAM_128, Refinement(), 0.2, 4), maps.labels), "0.80 itself is not enough"


def test_refinement_takes_the_largest_product_inside_accepted_masks():
    maps = blocks()

    def only_class_0(prompts):
        iou, masks = constant(8.0, 0.95, 24)(prompts)
        labels = [prompt.label for prompt in prompts for _ in prompt.regions]
        return torch.where(torch.tensor(labels) == 0, iou, 0), masks

    found = refine(maps, only_class_0, SAM_128, Refinement(), 0.2, 4)
    assert (found[:, :46] == 0).all(), "the mask reaches beyond the coarse label, and nobody else was accepted there"
    assert (found[:, 50:] == 1).all(), "where nothing spoke the coarse label stays"
    both = refine(maps, constant(8.0, 0.95, 32), SAM_128, Refinement(), 0.2, 4)
    assert torch.equal(both, maps.labels), "of two masks over the whole image the more probable class wins at each pixel"


@pytest.mark.parametrize("frame", [longest_side, squash])
def test_batches_over_classes_give_the_labels_of_one_class_at_a_time(frame):
    rng = np.random.default_rng(3)
    noise = torch.randn(1, 5, 9, 12, generator=torch.Generator().manual_seed(3))
    probabilities = (4 * torch.nn.functional.interpolate(noise, size=(90, 120), mode="bilinear")[0]).softmax(0)
    maps = DenseMaps(probabilities, probabilities.argmax(0))
    model = tiny_sam(128)
    model.preprocessing = Preprocessing(frame, 128)
    image = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)
    with torch.no_grad():
        embedding = model.encode(model.pixels_of(image))
        ask = sam_answers(model, embedding, model.preprocessing.frame_of(image))
        refinement = Refinement(iou_threshold=-10.0)
        prompts = class_prompts(maps, model.preprocessing, refinement, 0.2, 10)
        assert len(prompts) > 2
        (iou, masks), alone = ask(prompts), [ask([prompt]) for prompt in prompts]
        everything = torch.arange(len(iou))
        torch.testing.assert_close(masks(everything), torch.cat([own(torch.arange(len(some))) for some, own in alone]), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(masks(everything[[3, 1]]), masks(everything)[[3, 1]])
        torch.testing.assert_close(iou, torch.cat([some for some, _ in alone]), atol=1e-4, rtol=1e-4)
        labels = [refine(maps, ask, model.preprocessing, Refinement(iou_threshold=-10.0, prompts_at_once=n), 0.2, 10) for n in (1, 5, 32)]
    assert torch.equal(labels[0], labels[1])
    assert torch.equal(labels[0], labels[2])
    sizes = [sum(len(prompt.regions) for prompt in batch) for batch in batches(prompts, 5)]
    assert max(sizes) <= 5
    assert sum(sizes) == sum(len(prompt.regions) for prompt in prompts)


@pytest.mark.parametrize(("kinds", "tokens"), [({"point", "box", "mask"}, 3), ({"point", "mask"}, 2), ({"point", "box"}, 3)])
def test_ablations_leave_prompts_out(kinds, tokens):
    model = tiny_sam(128)
    seen = []
    embed = model.embed_prompt
    model.embed_prompt = lambda *a, **k: seen.append((a, k)) or embed(*a, **k)
    with torch.no_grad():
        embedding = model.encode(torch.zeros(1, 3, 128, 128))
        prompts = class_prompts(blocks(), SAM_128, Refinement(), 0.2, 4)
        sam_answers(model, embedding, SAM_128.frame(64, 64, 128), frozenset(kinds))(prompts)
    assert seen[0][0][0].shape == (2, tokens, 2), "a point is padded where there is no box, as SAM was trained"
    assert any("mask_logits" in options for _, options in seen) == ("mask" in kinds)


def test_reduced_maps_are_means_of_four_where_sides_are_even():
    values = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(reduce_map(values), torch.nn.functional.avg_pool2d(values[None, None], 2)[0, 0])


# --- what layers tell apart ---


def test_average_precision_by_hand():
    scores, positive = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert average_precision(scores, positive) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(np.ones(4), positive) == pytest.approx(0.5), "equal scores count together"
    assert average_precision(scores, np.ones(4, bool)) is None


def test_features_that_are_the_classes_have_precision_one():
    classes = np.array([[0, 0, 1, 1], [0, 0, 1, 255]])
    features = torch.nn.functional.one_hot(torch.tensor(classes % 3)).permute(2, 0, 1).float()
    assert window_precision(features, classes) == 1.0
    shuffled = features.flatten(1)[:, torch.randperm(8, generator=torch.Generator().manual_seed(0))].unflatten(1, (2, 4))
    assert window_precision(shuffled, classes) < 1.0
