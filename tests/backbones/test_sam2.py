"""SAM 2: agreement with transformers' Sam2Model on random weights, the conversion, and agreement of the real weights with onnxruntime."""

from __future__ import annotations

import builtins
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fretsaw.backbones import sam2, sam2_onnx
from fretsaw.backbones.sam_decoder import enlarge
from fretsaw.errors import MissingExtraError, ShapeError, StateDictError
from fretsaw.frames import logits_to_image, mask_to_logits, points_to_model, squash
from fretsaw.images import read_image, read_mask
from fretsaw.masks import mask_iou, mask_to_box
from fretsaw.methods.sam_clicks import best_of_three, build_sam2, pad_points
from fretsaw.types import ImageEmbedding
from tiny import CHANNELS, TINY_SAM2, random_weights, tiny_sam2

SIZE = 128


@pytest.fixture(scope="module")
def weights():
    return random_weights(sam2.build_model(TINY_SAM2, SIZE))


@pytest.fixture(scope="module")
def theirs(weights):
    """transformers' own Sam2Model with these weights and a random head for the object score, which no published file holds."""
    from transformers import Sam2Config, Sam2HieraDetConfig, Sam2MaskDecoderConfig, Sam2Model, Sam2PromptEncoderConfig, Sam2VisionConfig

    trunk = Sam2HieraDetConfig(image_size=[SIZE, SIZE], **TINY_SAM2["trunk"])
    levels = [[SIZE // stride, SIZE // stride] for stride in (4, 8, 16)]
    vision = Sam2VisionConfig(backbone_config=trunk, backbone_channel_list=trunk.embed_dim_per_stage[::-1], backbone_feature_sizes=levels, **TINY_SAM2["neck"])
    prompt = Sam2PromptEncoderConfig(image_size=SIZE, **TINY_SAM2["prompt"])
    decoder = Sam2MaskDecoderConfig(dynamic_multimask_via_stability=False, **TINY_SAM2["decoder"])
    model = Sam2Model(Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert {name.split(".")[1] for name in missing} == {"pred_obj_score_head"}
    assert not unexpected
    return model.requires_grad_(False)


def test_agrees_with_transformers_through_a_saved_file(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    ours = build_sam2(load_file(tmp_path / "model.safetensors"), TINY_SAM2, SIZE).requires_grad_(False)
    pixels = torch.randn(2, 3, SIZE, SIZE)
    embedding = ours.encode(pixels)
    fine, middle, final = theirs.get_image_embeddings(pixels)
    assert min(level.std() for level in (fine, middle, final)) > 0.1, "a reference of zeros proves nothing"
    for level, expected in zip((*embedding.high_res, embedding.final), (fine, middle, final), strict=True):
        torch.testing.assert_close(level, expected, rtol=0, atol=2e-5)

    embedding = ours.encode(pixels[:1])
    features = [level[:1] for level in (fine, middle, final)]
    coords, labels = torch.rand(3, 2, 2) * SIZE, torch.tensor([[1, 0], [1, 1], [0, 1]])
    boxes = torch.tensor([[10.0, 20.0, 90.0, 100.0], [0.0, 0.0, 60.0, 30.0], [5.0, 5.0, 120.0, 120.0]])
    mask = torch.randn(1, 1, SIZE // 4, SIZE // 4) * 5
    cases = {
        "points": (pad_points(coords, labels), {"input_points": coords[None], "input_labels": labels[None]}),
        "boxes": (pad_points(boxes.view(3, 2, 2), torch.tensor([[2, 3]] * 3)), {"input_boxes": boxes[None]}),
        "points and a mask": (pad_points(coords, labels), {"input_points": coords[None], "input_labels": labels[None], "input_masks": mask}),
    }
    for name, (prompt, arguments) in cases.items():
        logits, iou = ours.decode(embedding, ours.embed_prompt(*prompt, mask if "mask" in name else None))
        for tokens, multimask in ((slice(0, 1), False), (slice(1, 4), True)):
            answer = theirs(image_embeddings=features, multimask_output=multimask, **arguments)
            torch.testing.assert_close(logits[:, tokens], answer.pred_masks[0], rtol=0, atol=5e-5, msg=lambda text, name=name: f"{name}: {text}")
            torch.testing.assert_close(iou[:, tokens], answer.iou_scores[0], rtol=0, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_names_of_the_video_model_are_left_out(weights):
    extra = {name: torch.zeros(1) for name in ("memory_attention.layers.0.weight", "no_object_pointer", "mask_decoder.pred_obj_score_head.proj_in.bias")}
    build_sam2({**weights, **extra}, TINY_SAM2, SIZE)


def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(StateDictError, match="1 parameters missing"):
        build_sam2({name: value for name, value in weights.items() if name != "no_memory_embedding"}, TINY_SAM2, SIZE)
    with pytest.raises(StateDictError, match="1 unknown"):
        build_sam2({**weights, "memory": torch.zeros(1)}, TINY_SAM2, SIZE)
    with pytest.raises(StateDictError, match="another shape"):
        build_sam2({**weights, "no_memory_embedding": torch.zeros(1, 1, 3)}, TINY_SAM2, SIZE)
    with pytest.raises(ShapeError, match="multiple of 32"):
        build_sam2(weights, TINY_SAM2, 144)


def test_logits_keep_the_predictors_limit():
    model = tiny_sam2(SIZE).requires_grad_(False)
    grid = SIZE // 16
    levels = torch.randn(1, CHANNELS // 8, 4 * grid, 4 * grid) * 1e4, torch.randn(1, CHANNELS // 4, 2 * grid, 2 * grid)
    logits, _ = model.decode(ImageEmbedding(torch.randn(1, CHANNELS, grid, grid), levels), model.embed_prompt(torch.zeros(1, 1, 2), torch.ones(1, 1)))
    assert logits.abs().max() == 32


@pytest.mark.parametrize("size", [96, 224])
def test_other_sides(weights, size):
    model = build_sam2(weights, TINY_SAM2, size).requires_grad_(False)
    embedding = model.encode(torch.randn(1, 3, size, size))
    assert embedding.final.shape[-2:] == (size // 16, size // 16)
    logits, _ = model.decode(embedding, model.embed_prompt(torch.rand(2, 1, 2) * size, torch.ones(2, 1)))
    assert logits.shape == (2, 4, size // 4, size // 4)


def test_enlarge_is_the_transposed_convolution():
    convolution = torch.nn.ConvTranspose2d(6, 5, kernel_size=2, stride=2)
    image = torch.randn(2, 6, 3, 4)
    parts = enlarge(convolution, image.permute(0, 2, 3, 1))
    assert parts.shape == (2, 3, 4, 2, 2, 5)
    torch.testing.assert_close(parts.permute(0, 5, 1, 3, 2, 4).reshape(2, 5, 6, 8), convolution(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("table", "millions"), [("HIERA_TINY", 38.9), ("HIERA_SMALL", 46.0), ("HIERA_BASE_PLUS", 80.8), ("HIERA_LARGE", 224.4)])
def test_tables_have_the_published_number_of_parameters(table, millions):
    model = sam2.build_model(getattr(sam2, table), 1024)
    # The published numbers count the video model's memory too, which is the same for all sizes.
    memory = 38.9 - sum(value.numel() for value in sam2.build_model(sam2.HIERA_TINY, 1024).parameters()) / 1e6
    assert sum(value.numel() for value in model.parameters()) / 1e6 + memory == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize(("background", "window", "side"), [(7, 8, 64), (3, 4, 32)])
def test_position_tables_come_back(background, window, side):
    """The split may move a constant between the tables, so what must agree is their sum, also at a side that the constant never saw."""
    tables = torch.randn(1, 5, background, background), torch.randn(1, 5, window, window)

    def joined(parts: tuple[torch.Tensor, torch.Tensor], size: int) -> torch.Tensor:
        return torch.nn.functional.interpolate(parts[0], (size, size), mode="bicubic") + parts[1].tile(1, 1, size // window, size // window)

    found = sam2_onnx.split_position_table(joined(tables, side)[0], background, window)
    for size in (side, side // 2, side + 3 * window):
        torch.testing.assert_close(joined(found, size), joined(tables, size), rtol=0, atol=2e-5)
    with pytest.raises(StateDictError, match="position constant"):
        sam2_onnx.split_position_table(torch.randn(5, side, side), background, window)


def test_files_of_another_kind_are_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "photo.ort"
    path.write_bytes(b"not a network, but long enough to be read as one")
    with pytest.raises(StateDictError, match="onnxruntime's format"):
        sam2_onnx.convert_onnx(path, path)
    with pytest.raises(StateDictError, match="ONNX"):
        dict(sam2_onnx._decoder_parameters(path))


def test_unknown_tensors_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(sam2_onnx, "_ort_initializers", lambda path: iter([("/image_encoder/surprise", torch.zeros(2))]))
    with pytest.raises(StateDictError, match="unknown tensor /image_encoder/surprise"):
        sam2_onnx.convert_onnx(tmp_path / "encoder.ort", tmp_path / "decoder.onnx")


@pytest.mark.parametrize("module", ["onnx", "onnxruntime"])
def test_missing_extra_is_named(monkeypatch, tmp_path, module):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == module:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    read = sam2_onnx._decoder_parameters if module == "onnx" else sam2_onnx._ort_initializers
    with pytest.raises(MissingExtraError, match=r"fretsaw\[convert\]"):
        list(read(tmp_path / "absent"))


# From here on: the published weights, where the cache holds them.


@pytest.fixture(scope="module")
def originals():
    """The two published files as they came, or a skip."""
    pytest.importorskip("onnxruntime")
    from fretsaw import catalog
    from fretsaw.weights import Cache

    weights = catalog.find("sam2-hiera-tiny").weights
    paths = {name: Cache().raw_path(weights.name, file) for name, file in weights.routes[0].files.items()}
    if not all(path.is_file() for path in paths.values()):
        pytest.skip("needs the published files of sam2-hiera-tiny in the cache of weights: fretsaw models pull sam2-hiera-tiny")
    return paths


@pytest.fixture(scope="module")
def converted(originals):
    return sam2_onnx.convert_onnx(originals["encoder"], originals["decoder"])


@pytest.fixture(scope="module")
def model(converted):
    return build_sam2(converted).requires_grad_(False)


@pytest.fixture(scope="module")
def photos(shared):
    """Three photos of COCO with one object each."""
    folder = shared / "data" / "coco_mval"
    masks = islice((path for path in sorted((folder / "masks").glob("*.png")) if (read_mask(path) > 0).mean() > 0.05), 3)
    return [(read_image(folder / "images" / f"{path.stem.split('_')[-1]}.jpg"), read_mask(path) > 0) for path in masks]


@pytest.fixture(scope="module")
def answers(originals, model, photos):
    """What onnxruntime's encoder and this one make of the photos."""
    import onnxruntime

    session = onnxruntime.InferenceSession(originals["encoder"], providers=["CPUExecutionProvider"])
    found = []
    for image, mask in photos:
        pixels = model.pixels_of(image)
        final, fine, middle = session.run(["image_embed", "high_res_feats_0", "high_res_feats_1"], {"image": pixels.numpy()})
        theirs = ImageEmbedding(torch.from_numpy(final), (torch.from_numpy(fine), torch.from_numpy(middle)))
        found.append(SimpleNamespace(image=image, mask=mask, frame=squash(*mask.shape, 1024), theirs=theirs, ours=model.encode(pixels)))
    return found


@pytest.fixture(scope="module")
def decoder(originals):
    """onnxruntime's decoder: (embedding, coords, labels, mask or None) -> the three masks' logits, their IoU. It pads by itself."""
    import onnxruntime

    session = onnxruntime.InferenceSession(originals["decoder"], providers=["CPUExecutionProvider"])

    def decode(embedding, coords, labels, mask=None):
        return session.run(
            ["masks", "iou_predictions"],
            {
                "image_embed": embedding.final.numpy(),
                "high_res_feats_0": embedding.high_res[0].numpy(),
                "high_res_feats_1": embedding.high_res[1].numpy(),
                "point_coords": coords.numpy(),
                "point_labels": labels.float().numpy(),
                "mask_input": np.zeros((len(coords), 1, 256, 256), np.float32) if mask is None else mask.numpy(),
                "has_mask_input": np.array([mask is not None], np.float32),
            },
        )

    return decode


def prompts_on(answer) -> dict[str, tuple]:
    """A click, clicks of both kinds, a box, a box with a click, a mask, and a batch of all with masks of their own."""
    height, width = answer.mask.shape
    rows, columns = np.nonzero(answer.mask)
    inside = [int(columns[len(columns) // 2]), int(rows[len(rows) // 2])]
    box = np.array(mask_to_box(answer.mask)).reshape(2, 2)
    to_model = lambda xy: torch.from_numpy(points_to_model(np.array(xy), answer.frame)).float()[None]  # noqa: E731
    mask = torch.from_numpy(mask_to_logits(answer.mask, answer.frame, 256))
    three = to_model([inside, [1, 1], [width // 2, height // 2]])
    return {
        "click": (to_model([inside]), torch.tensor([[1]]), None),
        "clicks": (three, torch.tensor([[1, 0, 1]]), None),
        "box": (to_model(box), torch.tensor([[2, 3]]), None),
        "box and click": (to_model([inside, *box]), torch.tensor([[1, 2, 3]]), None),
        "click on a mask": (to_model([inside]), torch.tensor([[1]]), mask),
        "batch": (three.view(3, 1, 2), torch.tensor([[1], [1], [0]]), torch.cat([mask, -mask, mask / 2])),
    }


@pytest.mark.slow
def test_encoder_agrees_with_onnxruntime(answers):
    for answer in answers:
        for ours, theirs in zip((answer.ours.final, *answer.ours.high_res), (answer.theirs.final, *answer.theirs.high_res), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_decoder_agrees_with_onnxruntime(answers, model, decoder):
    for answer in answers:
        for name, (coords, labels, mask) in prompts_on(answer).items():
            logits, iou = model.decode(answer.theirs, model.embed_prompt(*pad_points(coords, labels), mask))
            masks, scores = decoder(answer.theirs, coords, labels, mask)
            # 1e-4, and a little more for logits of 20 or 30: onnxruntime's own are up to 6e-5 away from a float64 computation there.
            np.testing.assert_allclose(logits[:, 1:].numpy(), masks, rtol=5e-6, atol=1e-4, err_msg=name)
            np.testing.assert_allclose(iou[:, 1:].numpy(), scores, rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_masks_agree_with_onnxruntime_end_to_end(answers, model, decoder):
    for answer in answers:
        for name, (coords, labels, mask) in prompts_on(answer).items():
            ours = best_of_three(*model.decode(answer.ours, model.embed_prompt(*pad_points(coords, labels), mask)))[0]
            masks, scores = (torch.from_numpy(part) for part in decoder(answer.theirs, coords, labels, mask))
            theirs = masks[torch.arange(len(masks)), scores.argmax(1)][:, None]
            ours, theirs = (logits_to_image(part.numpy(), answer.frame) > 0 for part in (ours, theirs))
            for one, other in zip(ours[:, 0], theirs[:, 0], strict=True):
                assert mask_iou(one, other) >= 0.999, name


@pytest.mark.slow
def test_boxes_find_their_objects(answers, model):
    """A check against the photos themselves: what agreement between two copies of a mistake would not show."""
    found = []
    for answer in answers:
        coords, labels, _ = prompts_on(answer)["box"]
        logits = best_of_three(*model.decode(answer.ours, model.embed_prompt(*pad_points(coords, labels))))[0]
        found.append(mask_iou(logits_to_image(logits.numpy(), answer.frame)[0, 0] > 0, answer.mask))
    assert np.mean(found) > 0.8, found


@pytest.mark.slow
def test_bfloat16_agrees_by_masks(converted, photos):
    """At a side of 256, because a CPU without bfloat16 instructions takes minutes at 1024."""
    exact = build_sam2(converted, size=256).requires_grad_(False)
    rounded = build_sam2(converted, size=256).requires_grad_(False).to_precision(torch.bfloat16)
    for image, mask in photos:
        frame = squash(*mask.shape, 256)
        corners = torch.from_numpy(points_to_model(np.array(mask_to_box(mask)).reshape(2, 2), frame)).float()[None]
        prompt = pad_points(corners, torch.tensor([[2, 3]]))
        pixels = exact.pixels_of(image)
        masks = [best_of_three(*m.decode(m.encode(pixels), m.embed_prompt(*prompt)))[0] > 0 for m in (exact, rounded)]
        assert mask_iou(masks[0][0, 0].numpy(), masks[1][0, 0].numpy()) > 0.95
