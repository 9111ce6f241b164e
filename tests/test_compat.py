"""segment-anything's interface: shapes, keys and golden records, agreement of its ways to ask, and what it refuses."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fretsaw import catalog, masks
from fretsaw.api import Segmenter
from fretsaw.backbones import sam, sam_keys
from fretsaw.catalog import Parts
from fretsaw.compat import ImageNotSetError, SamAutomaticMaskGenerator, SamPredictor, UnknownModelError, sam_model_registry
from fretsaw.errors import ConfigError, FretsawError, MissingWeightsError, ModelError, PromptError, ShapeError, StateDictError
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.types import Box, Click, Prompt
from recorded_grid import NAMES, Recorded, image_of, load_golden
from tiny import TINY_SAM, random_weights, tiny_sam, tiny_sam2

SIZE = 128
POINTS: dict[str, Any] = {"point_coords": np.array([[60.0, 40.0], [10, 90]]), "point_labels": np.array([1, 0])}
BOX: dict[str, Any] = {"box": np.array([20, 10, 120, 80])}
PROMPTS = {"points": POINTS, "box": BOX, "points and box": {**POINTS, **BOX}, "nothing": {}}
EVERYTHING: dict[str, Any] = {"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}


@pytest.fixture(scope="module", params=[tiny_sam, tiny_sam2], ids=["SAM", "SAM 2"])
def model(request: pytest.FixtureRequest) -> SamClicks:
    return request.param(SIZE)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Larger than the model's input."""
    return np.random.default_rng(1).integers(0, 256, (150, 200, 3), dtype=np.uint8)


@pytest.fixture
def predictor(model: SamClicks, image: np.ndarray) -> SamPredictor:
    predictor = SamPredictor(model)
    predictor.set_image(image)
    return predictor


def assert_same(got: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(np.asarray(one, np.float64), np.asarray(other, np.float64), rtol=1e-5, atol=1e-5)


# SamPredictor --------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(("multimask_output", "count"), [(True, 3), (False, 1)])
def test_shapes_and_dtypes(predictor: SamPredictor, prompt: str, multimask_output: bool, count: int) -> None:
    full, scores, low_res = predictor.predict(**PROMPTS[prompt], multimask_output=multimask_output)
    assert (full.shape, full.dtype) == ((count, 150, 200), np.bool_)
    assert (scores.shape, scores.dtype) == ((count,), np.float32)
    assert (low_res.shape, low_res.dtype) == ((count, SIZE // 4, SIZE // 4), np.float32)


def test_logits_on_request_are_those_of_the_masks(predictor: SamPredictor) -> None:
    full, scores, low_res = predictor.predict(**POINTS)
    logits, same_scores, same_low_res = predictor.predict(**POINTS, return_logits=True)
    assert logits.dtype == np.float32
    assert 0 < full.mean() < 1, "the random model must answer something"
    np.testing.assert_array_equal(logits > 0, full)
    assert_same((same_scores, same_low_res), (scores, low_res))


@pytest.mark.parametrize("prompt", ["points", "box", "points and box"])
def test_answers_are_the_models_own(predictor: SamPredictor, model: SamClicks, image: np.ndarray, prompt: str) -> None:
    """Token 0 alone, or tokens 1 to 3, unclamped, for the prompt embedded as the model's authors embed it."""
    given = PROMPTS[prompt]
    clicks = tuple(Click(x, y, bool(label)) for (x, y), label in zip(POINTS["point_coords"], POINTS["point_labels"], strict=True))
    said = Prompt(clicks if "point_coords" in given else (), Box(*BOX["box"].tolist()) if "box" in given else None)
    with torch.no_grad():
        logits, iou = model.decode(predictor.embedding, model.embed(said, model.preprocessing.frame_of(image)))
    _, scores, low_res = predictor.predict(**given)
    assert_same((scores, low_res), (iou[0, 1:], logits[0, 1:]))
    _, scores, low_res = predictor.predict(**given, multimask_output=False)
    assert_same((scores, low_res), (iou[0, :1], logits[0, :1]))


def test_logits_are_enlarged_as_segment_anything_does(image: np.ndarray) -> None:
    predictor = SamPredictor(tiny_sam(SIZE))
    predictor.set_image(image)
    assert predictor.input_size == (96, 128)
    logits, _, low_res = predictor.predict(**POINTS, return_logits=True)
    square = torch.nn.functional.interpolate(torch.from_numpy(low_res)[None], (SIZE, SIZE), mode="bilinear", align_corners=False)
    expected = torch.nn.functional.interpolate(square[..., :96, :128], (150, 200), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(logits, expected[0].numpy(), atol=1e-4)


@pytest.mark.parametrize("prompt", ["points", "box", "points and box"])
def test_predict_and_predict_torch_agree(predictor: SamPredictor, image: np.ndarray, prompt: str) -> None:
    given, transform = PROMPTS[prompt], predictor.transform
    coords = labels = boxes = None
    if "point_coords" in given:
        coords = transform.apply_coords_torch(torch.from_numpy(given["point_coords"]), image.shape[:2])[None]
        labels = torch.from_numpy(given["point_labels"])[None]
    if "box" in given:
        boxes = transform.apply_boxes_torch(torch.from_numpy(given["box"]), image.shape[:2])
    batched = predictor.predict_torch(coords, labels, boxes, return_logits=True)
    assert [tuple(answer.shape) for answer in batched] == [(1, 3, 150, 200), (1, 3), (1, 3, SIZE // 4, SIZE // 4)]
    assert_same(tuple(answer[0] for answer in batched), predictor.predict(**given, return_logits=True))


def test_several_boxes_at_once_are_each_box_alone(predictor: SamPredictor, image: np.ndarray) -> None:
    boxes = np.array([[20, 10, 120, 80], [0, 0, 199, 149], [50, 60, 70, 90]])
    frame_boxes = predictor.transform.apply_boxes_torch(torch.from_numpy(boxes), image.shape[:2])
    together = predictor.predict_torch(None, None, frame_boxes, multimask_output=False, return_logits=True)
    for index, box in enumerate(boxes):
        assert_same(tuple(answer[index] for answer in together), predictor.predict(box=box, multimask_output=False, return_logits=True))


def test_a_mask_fed_back_reaches_the_decoder(predictor: SamPredictor, model: SamClicks, image: np.ndarray) -> None:
    _, scores, low_res = predictor.predict(**POINTS)
    best = low_res[scores.argmax()][None]
    _, again, fed_back = predictor.predict(**POINTS, mask_input=best, multimask_output=False)
    clicks = (Click(60, 40), Click(10, 90, False))
    with torch.no_grad():
        logits, iou = model.decode(predictor.embedding, model.embed(Prompt(clicks, previous_logits=best[None]), model.preprocessing.frame_of(image)))
    assert_same((again, fed_back), (iou[0, :1], logits[0, :1]))
    assert np.abs(fed_back - predictor.predict(**POINTS, multimask_output=False)[2]).max() > 1e-3
    _, _, alone = predictor.predict(mask_input=best)
    assert alone.shape == low_res.shape


def test_what_a_predictor_knows_of_its_image(predictor: SamPredictor, model: SamClicks) -> None:
    padded = model.preprocessing.frame_of(np.zeros((150, 200, 3), np.uint8)).padded
    assert predictor.is_image_set
    assert predictor.original_size == (150, 200)
    assert predictor.input_size == ((96, 128) if padded else (128, 128))
    assert predictor.features is not None
    assert predictor.features.shape == (1, 32, SIZE // 16, SIZE // 16)
    assert predictor.get_image_embedding() is predictor.features
    assert predictor.device == torch.device("cpu")
    assert predictor.model is model
    predictor.reset_image()
    assert not predictor.is_image_set
    assert (predictor.features, predictor.original_size, predictor.input_size) == (None, None, None)


def test_bgr_is_rgb_the_other_way_round(predictor: SamPredictor, image: np.ndarray) -> None:
    expected = predictor.predict(**POINTS)
    predictor.set_image(image[..., ::-1].copy(), image_format="BGR")
    assert_same(predictor.predict(**POINTS), expected)
    predictor.set_image(image[..., ::-1].copy())
    assert np.abs(predictor.predict(**POINTS)[2] - expected[2]).max() > 1e-3


def test_an_image_that_is_resized_already(predictor: SamPredictor, image: np.ndarray) -> None:
    expected = predictor.predict(**POINTS)
    resized = torch.from_numpy(predictor.transform.apply_image(image)).permute(2, 0, 1)[None]
    predictor.set_torch_image(resized, (150, 200))
    assert_same(predictor.predict(**POINTS), expected)


def test_pixels_are_those_of_every_other_way_in(predictor: SamPredictor, model: SamClicks, image: np.ndarray) -> None:
    """Rounded to whole numbers after the resize, as segment-anything rounds them, and otherwise the same."""
    exact = model.pixels_of(image)
    seen: list[torch.Tensor] = []
    handle = model.image_encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    predictor.set_image(image)
    handle.remove()
    assert seen[0].shape == exact.shape == (1, 3, SIZE, SIZE)
    assert (seen[0] - exact).abs().max() < 1.01 / 255 / min(model.preprocessing.std)


def test_an_embedding_can_be_kept_and_put_back(image: np.ndarray) -> None:
    """Programs that store SAM's embeddings set these four attributes themselves."""
    first, second = SamPredictor(tiny_sam(SIZE)), SamPredictor(tiny_sam(SIZE))
    first.set_image(image)
    second.features, second.original_size, second.input_size, second.is_image_set = first.features, first.original_size, first.input_size, True
    assert_same(second.predict(**POINTS), first.predict(**POINTS))


def test_the_transform_by_hand() -> None:
    wide, square = SamPredictor(tiny_sam(SIZE)).transform, SamPredictor(tiny_sam2(SIZE)).transform
    assert wide.target_length == SIZE
    np.testing.assert_allclose(wide.apply_coords(np.array([[100, 50]]), (128, 256)), [[50, 25]])
    np.testing.assert_allclose(wide.apply_boxes(np.array([0, 0, 256, 128]), (128, 256)), [[0, 0, 128, 64]])
    np.testing.assert_allclose(square.apply_coords(np.array([[100, 50]]), (128, 256)), [[50, 50]])
    np.testing.assert_allclose(wide.apply_coords_torch(torch.tensor([[[100, 50]]]), (128, 256)), [[[50, 25]]])
    assert wide.apply_image(np.zeros((64, 256, 3), np.uint8)).shape == (32, 128, 3)
    assert square.apply_image(np.zeros((64, 256, 3), np.uint8)).shape == (128, 128, 3)


def test_without_an_image_nothing_is_predicted(model: SamClicks, image: np.ndarray) -> None:
    predictor = SamPredictor(model)
    for ask in (lambda: predictor.predict(**POINTS), lambda: predictor.predict_torch(None, None), predictor.get_image_embedding):
        with pytest.raises(ImageNotSetError, match="set_image") as caught:
            ask()
        assert isinstance(caught.value, RuntimeError)
        assert isinstance(caught.value, FretsawError)
    predictor.set_image(image)
    predictor.reset_image()
    with pytest.raises(RuntimeError):
        predictor.predict(**POINTS)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"point_coords": np.zeros((1, 2))}, PromptError, "together"),
        ({"point_coords": np.zeros((1, 3)), "point_labels": np.ones(1)}, ShapeError, "point_coords"),
        ({"point_coords": np.zeros((2, 2)), "point_labels": np.ones(1)}, ShapeError, "point_labels"),
        ({"point_coords": np.full((1, 2), np.nan), "point_labels": np.ones(1)}, PromptError, "finite"),
        ({"point_coords": np.zeros((1, 2)), "point_labels": np.array([7])}, PromptError, "point_labels"),
        ({"box": np.zeros(3)}, ShapeError, "box"),
        ({"box": np.zeros((2, 4))}, ShapeError, "predict_torch"),
        ({"box": np.array([0, 0, np.inf, 1])}, PromptError, "finite"),
        ({"mask_input": np.zeros((150, 200))}, ShapeError, "mask_input"),
        ({**POINTS, "mask_input": np.zeros((1, 150, 200))}, ShapeError, "mask"),
    ],
)
def test_prompts_that_cannot_be_used(predictor: SamPredictor, given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        predictor.predict(**given)


def test_tensors_that_do_not_fit_together(predictor: SamPredictor) -> None:
    with pytest.raises(PromptError, match="only point_labels"):
        predictor.predict_torch(None, torch.ones(1, 1))
    with pytest.raises(ShapeError, match="as many boxes"):
        predictor.predict_torch(torch.zeros(2, 1, 2), torch.ones(2, 1), torch.zeros(3, 4))
    with pytest.raises(ShapeError):
        predictor.predict_torch(torch.zeros(2, 2), torch.ones(2))


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), "a.png"])
def test_what_is_no_image_is_refused(model: SamClicks, image: Any) -> None:
    with pytest.raises(ShapeError, match="image"):
        SamPredictor(model).set_image(image)


def test_unknown_formats_and_sizes_are_refused(model: SamClicks, image: np.ndarray) -> None:
    predictor = SamPredictor(model)
    with pytest.raises(ConfigError, match=r"image_format.*'HSV'"):
        predictor.set_image(image, image_format="HSV")
    for shape in ((3, 128, 128), (1, 3, 64, 96), (2, 3, 128, 128), (1, 1, 128, 128), (1, 3, 128, 130)):
        with pytest.raises(ShapeError, match="transformed_image"):
            predictor.set_torch_image(torch.zeros(shape), (150, 200))
    assert not predictor.is_image_set


# SamAutomaticMaskGenerator -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_records_equal_the_published_generators(shared: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    golden, arguments, records = load_golden(shared, name)
    generator, recorded = SamAutomaticMaskGenerator(tiny_sam(SIZE), **arguments), Recorded(golden)
    monkeypatch.setattr(generator, "_open_crop", recorded.open_crop)
    found = generator.generate(image_of(golden))
    assert recorded.finished
    assert len(found) == len(records) > 0
    scores = {"predicted_iou", "stability_score"}
    for got, expected in zip(found, records, strict=True):
        assert got.keys() == expected.keys()
        assert {key: got[key] for key in got.keys() - scores} == {key: expected[key] for key in expected.keys() - scores}
        assert [got[key] for key in sorted(scores)] == pytest.approx([expected[key] for key in sorted(scores)], abs=1e-6)


def test_arguments_have_segment_anythings_names_order_and_defaults() -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(SamAutomaticMaskGenerator).parameters.items()}
    assert list(defaults.items())[1:] == [
        ("points_per_side", 32),
        ("points_per_batch", 64),
        ("pred_iou_thresh", 0.88),
        ("stability_score_thresh", 0.95),
        ("stability_score_offset", 1.0),
        ("box_nms_thresh", 0.7),
        ("crop_n_layers", 0),
        ("crop_nms_thresh", 0.7),
        ("crop_overlap_ratio", 512 / 1500),
        ("crop_n_points_downscale_factor", 1),
        ("point_grids", None),
        ("min_mask_region_area", 0),
        ("output_mode", "binary_mask"),
    ]


def test_output_modes_say_the_same(model: SamClicks, image: np.ndarray) -> None:
    binary, uncompressed, coco = (
        SamAutomaticMaskGenerator(model, **EVERYTHING, output_mode=mode).generate(image) for mode in ("binary_mask", "uncompressed_rle", "coco_rle")
    )
    assert len(binary) == len(uncompressed) == len(coco) == 12
    for record, runs, text in zip(binary, uncompressed, coco, strict=True):
        mask = record["segmentation"]
        assert (mask.shape, mask.dtype) == ((150, 200), np.bool_)
        assert runs["segmentation"] == masks.uncompressed_rle(mask)
        assert text["segmentation"] == masks.encode_rle(mask)
        rows, columns = np.nonzero(mask)
        if rows.size:
            box = [columns.min(), rows.min(), columns.max() - columns.min(), rows.max() - rows.min()]
            assert record["bbox"] == runs["bbox"] == text["bbox"] == box
        assert record["area"] == rows.size
        assert record["crop_box"] == [0, 0, 200, 150]
        assert record["point_coords"][0] in [[50, 37.5], [150, 37.5], [50, 112.5], [150, 112.5]]
        assert {type(value) for value in (*record["bbox"], record["area"])} == {int}
        assert {type(record[key]) for key in ("predicted_iou", "stability_score")} == {float}


def test_masks_are_those_of_the_predictor(model: SamClicks, image: np.ndarray) -> None:
    records = SamAutomaticMaskGenerator(model, **{**EVERYTHING, "points_per_side": 1}).generate(image)
    predictor = SamPredictor(model)
    predictor.set_image(image)
    full, scores, _ = predictor.predict(np.array([[100.0, 75.0]]), np.array([1]))
    assert len(records) == 3
    for record, index in zip(records, np.argsort(-scores, kind="stable"), strict=True):
        assert record["predicted_iou"] == pytest.approx(float(scores[index]), abs=1e-5)
        assert (record["segmentation"] != full[index]).mean() < 1e-3


def test_crops_layers_own_points_and_progress(model: SamClicks, image: np.ndarray) -> None:
    seen: list[tuple[int, int]] = []
    grids = [np.array([[0.5, 0.5]]), np.array([[0.2, 0.3]])]
    generator = SamAutomaticMaskGenerator(model, **{**EVERYTHING, "points_per_side": None}, point_grids=grids, crop_n_layers=1, crop_nms_thresh=1.0)
    records = generator.generate(image, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    assert [0, 0, 200, 150] in [record["crop_box"] for record in records]
    assert all(mask["segmentation"].shape == (150, 200) for mask in records)


def test_nothing_found_and_the_image_is_forgotten(model: SamClicks, image: np.ndarray) -> None:
    generator = SamAutomaticMaskGenerator(model, points_per_side=2, pred_iou_thresh=1e6, crop_n_layers=1, min_mask_region_area=10)
    assert generator.generate(image) == []
    assert not generator.predictor.is_image_set


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output_mode": "png"}, "output_mode.*'png'"),
        ({"points_per_side": None}, "exactly one"),
        ({"point_grids": [np.zeros((1, 2))]}, "exactly one"),
        ({"points_per_batch": 0}, "points_per_batch"),
        ({"crop_n_layers": -1}, "crop_layers"),
    ],
)
def test_wrong_arguments_are_refused_before_work_starts(model: SamClicks, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SamAutomaticMaskGenerator(model, **arguments)
    with pytest.raises(ShapeError):
        SamAutomaticMaskGenerator(model).generate(np.zeros((4, 4), np.uint8))


# sam_model_registry --------------------------------------------------------------------------------------------------------------------------------


def test_the_registry_is_a_mapping_that_builds_nothing_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    monkeypatch.setattr(catalog, "build", lambda name: built.append(name) or Parts(clicks=tiny_sam(SIZE)))
    assert isinstance(sam_model_registry, Mapping)
    assert list(sam_model_registry)[:4] == ["default", "vit_h", "vit_l", "vit_b"]
    assert {"sam2-hiera-tiny", *sam_model_registry} == set(sam_model_registry)
    assert len(dict(sam_model_registry)) == len(sam_model_registry)
    assert "vit_b" in sam_model_registry
    assert "u2netp" not in sam_model_registry, "a backbone takes no clicks"
    assert built == []
    for name in ("default", "vit_l", "vit_b", "sam2-hiera-tiny"):
        assert isinstance(sam_model_registry[name](), SamClicks)
    assert built == ["sam-vit-h", "sam-vit-l", "sam-vit-b", "sam2-hiera-tiny"]
    assert set(built) <= catalog.CATALOGUE.keys()


def test_unknown_names_are_key_errors_too() -> None:
    with pytest.raises(UnknownModelError) as caught:
        sam_model_registry["vit_x"]
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, ModelError)
    assert str(caught.value).startswith("expected one of default, vit_h")
    assert sam_model_registry.get("vit_x") is None


def test_an_original_checkpoint_builds_the_model_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As wide as ViT-B, by which its checkpoints are known, and small in everything else.
    table = {**TINY_SAM, "vision": {**TINY_SAM["vision"], "hidden_size": 768, "mlp_dim": 8, "num_hidden_layers": 1, "num_attention_heads": 12}}
    monkeypatch.setattr(sam, "VIT_BASE", table)
    state = random_weights(sam.build_model(table, 1024))
    path = tmp_path / "sam_vit_b.pth"
    torch.save(sam_keys.to_original(state), path)
    for model in (sam_model_registry["vit_b"](checkpoint=path), sam_model_registry["vit_b"](str(path)), sam_model_registry["sam-vit-b"](path)):
        assert model.preprocessing.size == 1024
        weight = model.image_encoder.state_dict()["pos_embed"]
        torch.testing.assert_close(weight, state["vision_encoder.pos_embed"], rtol=0, atol=0)
    for other in ("vit_l", "vit_h", "default"):
        with pytest.raises(StateDictError, match=f"expected {other} .* got 768"):
            sam_model_registry[other](path)


def test_checkpoints_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match=r"none\.pth"):
        sam_model_registry["vit_b"](tmp_path / "none.pth")
    torch.save({"image_encoder.pos_embed": torch.zeros(1)}, tmp_path / "part.pth")
    with pytest.raises(StateDictError, match="missing"):
        sam_model_registry["vit_b"](tmp_path / "part.pth")


def test_a_loaded_segmenter_serves_as_model(image: np.ndarray) -> None:
    model = tiny_sam(SIZE)
    predictor = SamPredictor(Segmenter("tiny", Parts(clicks=model)))
    predictor.set_image(image)
    assert predictor.model is model
    assert predictor.predict(**POINTS)[0].shape == (3, 150, 200)
    for useless in (Segmenter("text", Parts()), "vit_b", None):
        with pytest.raises(ModelError, match="takes clicks"):
            SamPredictor(useless)  # pyright: ignore[reportArgumentType]
