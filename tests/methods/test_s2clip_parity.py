"""Equal to the published code of Trident: its image side on tiny random networks, and its refinement with recorded answers of SAM."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from experiments.s2clip.references import DenseMaps
from fretsaw.backbones import clip as clips
from fretsaw.backbones import clip_keys
from fretsaw.frames import Preprocessing, longest_side
from fretsaw.methods.s2clip.features import embed_map, fuse, plain_values, project_windows
from fretsaw.methods.s2clip.refine import Refinement, class_prompts, refine
from fretsaw.methods.s2clip.regions import optimised_regions, original_regions
from fretsaw.methods.s2clip.settings import NEGATIVE_THRESHOLDS
from fretsaw.methods.s2clip.splice import sam_correlation, splice

SAM_1024 = Preprocessing(longest_side, 1024)


def read_features(path: Path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["config"])  # noqa: SIM118 (safe_open is no mapping)


def clip_with(vision: dict[str, torch.Tensor], heads: int) -> clips.Clip:
    """CLIP whose image side has the published weights and whose text side is as small as possible."""
    width, features = vision["proj"].shape
    text = {
        "token_embedding.weight": torch.zeros(4, width),
        "positional_embedding": torch.zeros(4, width),
        "ln_final.weight": torch.ones(width),
        "ln_final.bias": torch.zeros(width),
        "text_projection": torch.zeros(width, features),
        "logit_scale": torch.tensor(0.0),
    }
    block = {name: value for name, value in vision.items() if name.startswith("transformer.resblocks.0.")}
    state = {**text, **block, **{f"visual.{name}": value for name, value in vision.items()}}
    assert clip_keys.is_original(state)
    return clips.build_clip(state, vision_heads=heads)


@pytest.mark.parametrize("name", ["a", "b"])
def test_image_side_equals_published_trident(shared, name):
    tensors, config = read_features(shared / "golden" / f"trident_features_{name}.safetensors")
    clip = clip_with({key.removeprefix("weights."): value for key, value in tensors.items() if key.startswith("weights.")}, config["heads"])
    grid = (config["image_size"] // config["patch_size"],) * 2
    layers = clip.tokens(tensors["windows"])
    mixed = fuse(plain_values(clip, lambda: iter([layers]), grid), grid, tensors["vfm_features"], config["beta"], config["gamma"])
    ready = (window for own in mixed for window in project_windows(clip, own, grid))
    spliced = splice(ready, tensors["window_coords"].tolist(), tuple(config["map_tokens"]), grid)
    attention, values = tensors["sam_attention"][0], tensors["sam_values"][0]
    negative = NEGATIVE_THRESHOLDS["refined" if config["refine_neg_cos"] else "plain"]
    correlation = sam_correlation(lambda rows: attention[:, rows].clone(), values.flatten(1, 2), config["cos_fac"], negative)
    embedded = embed_map(clip, spliced, correlation, tuple(values.shape[1:3])).flatten(0, 1)
    expected = torch.nn.functional.normalize(tensors["output"][0], dim=-1)
    torch.testing.assert_close(embedded, expected, atol=1e-4, rtol=0)


def recorded(shared: Path, name: str):
    data = np.load(shared / "golden" / f"trident_refinement_{name}.npz")
    arguments = json.loads(str(data["arguments"]))
    maps = DenseMaps(torch.from_numpy(data["probabilities"]), torch.from_numpy(data["labels"][0]))
    calls = sorted({int(key[4:].split("_")[0]) for key in data.files if key.startswith("call")})
    return data, arguments, maps, calls


def by_box(boxes: np.ndarray, wanted: np.ndarray) -> int:
    """The row of the recorded box; libraries number regions differently, and no two regions of these files share a box."""
    return int(np.abs(boxes - wanted).max(axis=1).argmin())


@pytest.mark.parametrize("split", [optimised_regions, original_regions])
@pytest.mark.parametrize("name", ["a", "b"])
def test_prompts_equal_published_trident(shared, name, split):
    data, arguments, maps, calls = recorded(shared, name)
    refinement = Refinement(split=split, mask_coefficient=arguments["sam_mask_coff"])
    prompts = class_prompts(maps, SAM_1024, refinement, arguments["coarse_thresh"], arguments["minimal_area"])
    assert len(prompts) == len(calls)
    for prompt, call in zip(prompts, calls, strict=True):
        boxes, points = data[f"call{call}_boxes"], data[f"call{call}_points"]
        assert len(prompt.regions) == len(boxes)
        rows = [by_box(boxes, box.numpy()) for box in prompt.boxes]
        assert sorted(rows) == list(range(len(boxes)))
        np.testing.assert_allclose(prompt.boxes.numpy(), boxes[rows], atol=1e-4, rtol=0)
        np.testing.assert_allclose(prompt.points.numpy(), points[rows, 0], atol=1e-4, rtol=0)
        np.testing.assert_allclose(prompt.mask_logits[0].numpy(), data[f"call{call}_mask_prompt"], atol=1e-6)


@pytest.mark.parametrize("at_once", [1, 4, 32])
@pytest.mark.parametrize("name", ["a", "b"])
def test_refined_labels_equal_published_trident(shared, name, at_once):
    data, arguments, maps, calls = recorded(shared, name)
    call_of = {}
    refinement = Refinement(mask_coefficient=arguments["sam_mask_coff"], iou_threshold=arguments["sam_iou_thresh"], prompts_at_once=at_once)
    for call, prompt in zip(calls, class_prompts(maps, SAM_1024, refinement, arguments["coarse_thresh"], arguments["minimal_area"]), strict=True):
        call_of[prompt.label] = call

    def answer(prompts):
        logits, scores = [], []
        for prompt in prompts:
            call = call_of[prompt.label]
            for box in prompt.boxes:
                row = by_box(data[f"call{call}_boxes"], box.numpy())
                logits.append(torch.from_numpy(data[f"call{call}_low_res_logits"][row].astype(np.float32)))
                scores.append(float(data[f"call{call}_scores"][row, 0]))
        return torch.tensor(scores), lambda wanted: torch.stack(logits)[wanted]

    seen: dict[int, torch.Tensor] = {}
    labels = refine(maps, answer, SAM_1024, refinement, arguments["coarse_thresh"], arguments["minimal_area"], seen.__setitem__)
    np.testing.assert_array_equal(labels.numpy(), data["refined_labels"][0])
    assert (labels != maps.labels).any()
    failed = np.zeros(labels.shape, bool)
    for label in range(maps.classes):
        values = seen.get(label, torch.zeros(labels.shape)).numpy()
        published = data["refined_probabilities"][label]
        # where the published map is larger, a failed region has put the class's own probability
        raised = np.abs(published - values) > 1e-4
        failed |= raised
        np.testing.assert_allclose(published[raised], data["probabilities"][label][raised], atol=1e-6)
    assert failed.any()
