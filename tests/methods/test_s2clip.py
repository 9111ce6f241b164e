"""S2CLIP end to end on tiny networks through the catalogue, and each of its parts on cases whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import fretsaw
from fretsaw import catalog
from fretsaw.catalog.text import identity as text_identity
from fretsaw.errors import ConfigError, MissingWeightsError, ModelError, PromptError
from fretsaw.evaluation.semantic import confusion_matrix, mean_iou
from fretsaw.methods.s2clip.build import build_s2clip
from fretsaw.methods.s2clip.settings import TextSettings
from planted import COLOURS, install, planted_clip, planted_dino, planted_sam, random_clip, random_dino, scene
from tiny import tiny_sam2

NAMES = ["red", "green", "blue"]
SMALL = TextSettings(short_side=128, crop=64, stride=32, minimum_area=4, cosine_factor=3.0)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FRETSAW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FRETSAW_OFFLINE", "1")
    return tmp_path


@pytest.fixture
def planted(home, monkeypatch):
    """The published files' places hold networks that see colours; SAM is unsure of every mask."""
    states = {"clip-vit-b16": planted_clip(), "dino-vit-b8": planted_dino(), "dino-vit-b16": planted_dino(), "sam-vit-b": planted_sam(0.1)}
    install(monkeypatch, home, states)
    return home


def miou(labels: np.ndarray, truth: np.ndarray) -> float:
    """Mean IoU, what is none of the names being a class of its own."""
    return mean_iou(confusion_matrix(labels + 1, truth + 1, len(NAMES) + 1))


@pytest.mark.parametrize(("model", "kept"), [("s2clip", 18), ("trident", 18), ("maskclip", 18), ("s2clip", 2)])
def test_planted_scene_is_found_end_to_end(planted, model, kept, monkeypatch):
    monkeypatch.setattr("fretsaw.methods.s2clip.model.KEPT_WINDOWS", kept)  # 21 windows of 64 pixels, or the layers computed twice
    segmenter = fretsaw.load(model, size=128, device="cpu")
    image, truth = scene()
    result = segmenter.text(image, NAMES, ["black"], SMALL)
    assert miou(result.labels, truth) >= 0.95
    assert result.names == tuple(NAMES)
    np.testing.assert_array_equal(result.mask("green"), result.labels == 1)
    assert result.probabilities.shape == (3, *truth.shape)
    assert result.probability("red")[8, 8] > 0.9


def test_planted_scene_with_the_background_s_default_words_and_synonyms(planted):
    image, truth = scene()
    result = fretsaw.load("maskclip", device="cpu").text(image, ["red; crimson", ["green", "lime"], "blue"], ["black", "white"], SMALL)
    assert result.names == ("red", "green", "blue")
    assert miou(result.labels, truth) >= 0.95


def test_several_images_and_no_background(planted):
    segmenter = fretsaw.load("maskclip", device="cpu")
    image, truth = scene()
    first, second = segmenter.text([image, np.ascontiguousarray(image[:, ::-1])], [*NAMES, "black"], [], SMALL)
    assert first.labels.min() >= 0, "every pixel has one of the names"
    np.testing.assert_array_equal(first.labels == 3, second.labels[:, ::-1] == 3)
    assert mean_iou(confusion_matrix(first.labels, np.where(truth < 0, 3, truth), 4)) >= 0.95


@pytest.mark.parametrize("dino", ["dino", "dinov2", "sam"])
def test_other_sources_of_patch_affinity_are_exchanged_by_name_or_path(planted, dino, tmp_path):
    from safetensors.torch import save_file

    other = "sam-vit-b"
    if dino != "sam":
        other = str(tmp_path / "other.safetensors")
        save_file(random_dino(patch=16 if dino == "dinov2" else 8, second=dino == "dinov2"), other)
    segmenter = fretsaw.load("s2clip", size=128, device="cpu", networks={"dino": other})
    assert segmenter.text(scene()[0], NAMES, ["black"], SMALL).labels.shape == (128, 256)


def test_random_networks_saved_by_transformers_load_and_run(home, monkeypatch):
    """Files as transformers writes them (which are named as the published ones are), through the catalogue."""
    from safetensors.torch import load_file
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=1, patch_size=8, image_size=64, intermediate_size=32)
    network = ViTModel(config).eval()
    network.save_pretrained(home / "vit")
    published = load_file(home / "vit" / "model.safetensors")
    assert any(name.startswith("encoder.layer.0.attention.attention.query") for name in published)
    install(monkeypatch, home, {"clip-vit-b16": random_clip(), "dino-vit-b8": published, "sam-vit-b": planted_sam(0.1)})
    segmenter = fretsaw.load("s2clip", size=128, device="cpu")
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = network(pixel_values=pixels).last_hidden_state[:, 1:].transpose(1, 2).unflatten(2, (8, 8))
    torch.testing.assert_close(segmenter.parts.text.patches(pixels), expected.detach(), atol=1e-5, rtol=1e-5)
    assert segmenter.text(scene()[0], NAMES, ["black"], SMALL).labels.shape == (128, 256)


def test_unsure_sam_keeps_the_coarse_labels_and_a_sure_one_changes_them(planted, monkeypatch):
    image, _ = scene()
    unsure = fretsaw.load("s2clip", size=128, device="cpu")
    coarse = unsure.text(image, NAMES, ["black"], SMALL)
    unsure.parts.text.refinement = None
    np.testing.assert_array_equal(unsure.text(image, NAMES, ["black"], SMALL).labels, coarse.labels)
    install(monkeypatch, planted, {"sam-vit-b": planted_sam(0.95)})
    monkeypatch.setenv("FRETSAW_HOME", str(planted / "second"))
    sure = fretsaw.load("s2clip", size=128, device="cpu").text(image, NAMES, ["black"], SMALL)
    assert (sure.labels != coarse.labels).any()


def test_sam2_refines_as_well(planted):
    text = fretsaw.load("s2clip", size=128, device="cpu").parts.text
    model = build_s2clip(text.clip, text.patches, tiny_sam2(128))
    image, truth = scene()
    asked = []
    judge = model.sam.judge
    model.sam.judge = lambda embedding, prompt, frame: (
        asked.append(len(prompt.sparse)) or (judge(embedding, prompt, frame)[0] * 0, lambda wanted: torch.zeros(len(wanted), 1, 32, 32))
    )
    result = model(image, NAMES, ["black"], SMALL)
    assert sum(asked) >= 4, "a region of each colour and of the background"
    assert miou(result.labels, truth) >= 0.95, "DINO's affinity alone, since SAM 2 has no attention to spread by"


def test_small_student_decoder_refines_as_well(planted):
    from tiny import tiny_hrsam

    text = fretsaw.load("s2clip", size=128, device="cpu").parts.text
    result = build_s2clip(text.clip, text.patches, tiny_hrsam(128))(scene()[0], NAMES, ["black"], SMALL)
    assert result.labels.shape == (128, 256)


def test_session_names_its_masks_and_undo_takes_the_names_back(planted, tmp_path):
    segmenter = fretsaw.load("s2clip", size=128, device="cpu")
    segmenter.parts.text.settings = SMALL
    image, truth = scene()
    session = segmenter.open(image)
    with pytest.raises(PromptError, match="a mask to name"):
        session.text(NAMES)
    session.mask(truth == 1)
    encoded = []
    segmenter.parts.clicks.image_encoder.register_forward_hook(lambda *_: encoded.append(1))
    named = session.text(NAMES, ["black"])
    assert named.name == "green"
    assert not encoded, "the session's embedding serves"
    np.testing.assert_array_equal(named.mask, truth == 1)
    again = segmenter.open(image, saved=session.save(tmp_path / "s.session"))
    assert again.result.name == "green"
    assert session.undo().name == ""
    session.mask(truth == -1)
    assert session.text(NAMES, ["black"]).name == ""


def test_missing_networks_are_one_error_with_size_licence_and_command(home, monkeypatch):
    def nothing(*arguments, **options):
        raise MissingWeightsError("the model hub cannot be reached")

    monkeypatch.setattr("fretsaw.weights.gather.hub_download", nothing)
    with pytest.raises(MissingWeightsError) as caught:
        fretsaw.load("s2clip")
    lines = str(caught.value).splitlines()
    assert lines[0] == "expected the networks of 's2clip', got none of clip-vit-b16, dino-vit-b8, sam-vit-b (1317 MB in all)"
    for line, name, licence in zip(lines[1:4], ("clip-vit-b16", "dino-vit-b8", "sam-vit-b"), ("MIT", "Apache-2.0", "Apache-2.0"), strict=True):
        assert name in line
        assert f"licence {licence}" in line
        assert " MB " in line
    assert "to download them: fretsaw models pull s2clip" in lines[4]


def test_pull_brings_all_three(planted, capsys):
    from fretsaw import cli

    with pytest.raises(SystemExit) as ended:
        cli.main(["models", "pull", "s2clip"])
    assert not ended.value.code
    written = capsys.readouterr().out.splitlines()
    assert len(written) == 3
    assert all(Path(line.partition(": ")[2]).is_file() for line in written)
    assert next(model for model in catalog.list_models() if model.name == "s2clip").present


def test_command_cuts_by_name(planted, capsys):
    from PIL import Image

    from fretsaw import cli

    image, truth = scene((192, 384))  # SAM's frame of 128 is reached by a resize
    Image.fromarray(image).save(planted / "scene.png")
    common = ["--model", "maskclip", "--background", "black", "--device", "cpu", "--short-side", "336"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["text", str(planted / "scene.png"), *NAMES, "-o", str(planted / "masks"), "--format", "masks", *common])
    assert not ended.value.code
    found = np.asarray(Image.open(planted / "masks" / "scene" / "green.png")) > 0
    assert (found & (truth == 1)).sum() / (found | (truth == 1)).sum() > 0.9
    with pytest.raises(SystemExit):
        cli.main(["layers", "entropy", str(planted / "scene.png"), "--model", "maskclip", "--device", "cpu", "--crop", "64", "--short-side", "128"])
    assert "| layer | spatial entropy | chosen |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "at least one name"), (["cat", "cat; kitten"], "'cat' twice"), ([" "], "at least one word"), ("cat", r"\['cat'\]"), ([3], "text or a list")],
)
def test_names_that_cannot_be_used_are_refused(planted, names, message):
    with pytest.raises(ConfigError, match=message):
        fretsaw.load("maskclip", device="cpu").text(scene()[0], names)


def test_other_mistakes_are_refused(planted):
    with pytest.raises(ModelError, match="roles clip, dino, sam, got vfm"):
        fretsaw.load("s2clip", networks={"vfm": "dino-vit-b8"})
    with pytest.raises(ModelError, match="takes clicks in the place of SAM, got u2netp"):
        fretsaw.load("s2clip", size=128, networks={"sam": "u2netp"})
    segmenter = fretsaw.load("maskclip", device="cpu")
    with pytest.raises(ConfigError, match="crop that is a multiple of the patch"):
        segmenter.text(scene()[0], NAMES, settings=TextSettings(crop=100))
    with pytest.raises(ConfigError, match="stride"):
        segmenter.text(scene()[0], NAMES, settings=TextSettings(crop=64, stride=20))
    with pytest.raises(ConfigError, match="background that are no classes"):
        segmenter.text(scene()[0], NAMES, ["red"])


def test_text_embeddings_are_kept_by_word_and_checksum(planted, monkeypatch):
    segmenter = fretsaw.load("maskclip", device="cpu")
    embeddings = segmenter.parts.text.embeddings
    first = embeddings.of(["red", "green"])
    assert torch.allclose(first.norm(dim=1), torch.ones(2))
    monkeypatch.setattr("fretsaw.methods.s2clip.text.embed_word", lambda *_: pytest.fail("computed again"))
    again = fretsaw.load("maskclip", device="cpu").parts.text.embeddings
    assert torch.equal(again.of(["green", "red"]), first.flip(0))


def test_colours_are_what_the_planted_texts_mean(planted):
    """The planting itself: each colour's patch is nearest to its own word."""
    model = fretsaw.load("maskclip", device="cpu").parts.text
    for name, colour in COLOURS.items():
        image = np.full((64, 64, 3), colour, np.uint8)
        logits = model.word_logits(image, list(COLOURS), SMALL)
        assert (logits.argmax(dim=0) == list(COLOURS).index(name)).all()


def test_presets_of_the_benchmarks_reach_the_method(planted):
    """The short side, strides, thresholds and words of each benchmark are what the method is given."""
    from fretsaw.evaluation.semantic import PRESETS, label_with_text

    assert {name: preset.settings.short_side for name, preset in PRESETS.items()} == {
        **dict.fromkeys(("voc21", "coco-object", "coco-stuff"), 448),
        **dict.fromkeys(("ade20k", "context59", "context60"), 576),
        "voc20": 336,
        "cityscapes": 688,
    }
    assert (PRESETS["voc20"].settings.stride, PRESETS["voc20"].settings.cosine_factor) == (112, 0.0)
    assert PRESETS["cityscapes"].settings == TextSettings(688, 336, 224, 40.0, 0.0, 0.1, 225, 3.0, "plain", "halves")
    image, _ = scene()
    for name in ("voc21", "cityscapes"):  # with a background; in halves
        labels = label_with_text(fretsaw.load("s2clip", size=128, device="cpu"), image, PRESETS[name])
        assert labels.min() >= 0
        assert labels.shape == image.shape[:2]


def run(capsys, *arguments) -> tuple[int, str]:
    from fretsaw import cli

    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return int(ended.value.code or 0), capsys.readouterr().out


def test_a_student_in_a_file_refines_and_its_file_names_what_stands_behind_it(planted, monkeypatch):
    """hrsam-lite without training, as its recipe writes it, loaded by its path."""

    from fretsaw.backbones import sam
    from fretsaw.methods.hrsam_lite import HrsamLiteEncoder
    from fretsaw.methods.sam_clicks import SamClicks
    from fretsaw.recipes.hrsam_lite.run import Config, export
    from tiny import tiny_sam2

    torch.manual_seed(0)
    small = {"dim": 16, "depth": 2, "heads": 2, "scans": (1,), "window": 4, "state_size": 4, "out_channels": 32}
    monkeypatch.setattr("fretsaw.methods.hrsam_lite.HrsamLiteEncoder", lambda: HrsamLiteEncoder(**small))
    build = catalog.build
    monkeypatch.setattr(catalog, "build", lambda name, **given: catalog.Parts(tiny_sam2(given["size"])) if name == "sam2-hiera-tiny" else build(name, **given))
    file = planted / "student.safetensors"
    export(HrsamLiteEncoder(**small), file, {"base": "sam2-hiera-tiny", "size": "64"})
    segmenter = fretsaw.load("s2clip", size=128, device="cpu", networks={"sam": str(file)})
    clicks = segmenter.parts.clicks
    assert isinstance(clicks, SamClicks)
    assert isinstance(clicks.image_encoder, HrsamLiteEncoder)
    assert clicks.preprocessing.size == 128
    assert not isinstance(clicks.image_encoder, sam.SamImageEncoder)
    assert fretsaw.load(file, device="cpu").parts.clicks.preprocessing.size == 64, "by its path alone, at the side of training"
    asked = []
    judge = clicks.judge
    monkeypatch.setattr(clicks, "judge", lambda *given: asked.append(len(given[1].sparse)) or judge(*given))
    image, truth = scene()
    assert segmenter.text(image, NAMES, ["black"], SMALL).labels.shape == truth.shape
    assert sum(asked) >= 4, "a region of each colour and of the background"
    export(HrsamLiteEncoder(**small), file, {"base": "elsewhere.safetensors", "size": "64"})
    with pytest.raises(ModelError, match=r"teacher of .*student.safetensors in the catalogue or as a file here, got 'elsewhere.safetensors'"):
        fretsaw.load(file)
    assert Config("photos", "out").stated == ""


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ({"clip": "dino-vit-b8"}, "expected a CLIP in the place of CLIP, got dino-vit-b8, a backbone"),
        ({"dino": "clip-vit-b16"}, "expected a DINO, DINOv2 or SAM's plain ViT in the place of DINO, got clip-vit-b16"),
        ({"sam": "maskclip"}, "expected a model that takes clicks in the place of SAM, got maskclip, a text"),
        ({"sam": "runs/student.safetensors"}, "by name or as a weight file; got 'runs/student.safetensors', which is no file"),
        ({"sam": "sam2-hira-tiny"}, "did you mean sam2-hiera-tiny"),
    ],
)
def test_networks_that_cannot_take_a_role_are_refused_before_anything_is_fetched(home, networks, message, monkeypatch):
    monkeypatch.setattr("fretsaw.catalog.text.weights_path", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(ModelError, match=message):
        fretsaw.load("s2clip", networks=networks)


def test_evaluate_semantic_measures_a_text_model_from_the_command_line(planted, capsys, monkeypatch):
    """A benchmark whose classes are the colours that the planted networks know: the labels are right up to the windows' grain."""
    import json

    from PIL import Image

    monkeypatch.setattr("fretsaw.evaluation.semantic.class_words", lambda _: tuple((name,) for name in NAMES))
    monkeypatch.setattr("fretsaw.evaluation.semantic.class_names", lambda _: tuple(NAMES))
    image, truth = scene((96, 160))
    for folder, values in (("images", image), ("labels", (truth + 1).astype(np.uint8))):
        (planted / "data" / folder).mkdir(parents=True)
        Image.fromarray(values).save(planted / "data" / folder / "a.png")
    arguments = ("evaluate", "semantic", planted / "data", "--dataset", "folder", "--model", "s2clip", "--protocol", "voc20", "--size", 128, "--device", "cpu")
    status, text = run(capsys, *arguments, "--workers", 1, "--json", "--report", planted / "report.json")
    assert status == 0, text
    report = json.loads((planted / "report.json").read_text())
    assert report == json.loads(text)
    assert report["metrics"]["mIoU"] > 0.9
    [sample] = report["samples"]
    assert sum(int(pair.rsplit(":", 1)[1]) for pair in sample["pairs"].split()) == (truth >= 0).sum(), "what is none of the classes does not count"
    assert report["weights_checksum"] == text_identity("s2clip")


def test_layers_are_compared_on_a_plain_folder_with_labels_and_with_names(planted, capsys, monkeypatch):
    import json

    from PIL import Image

    image, truth = scene((128, 192))
    for folder, values in (("photos", image), ("data/images", image), ("data/labels", (truth + 1).astype(np.uint8))):
        (planted / folder).mkdir(parents=True)
        Image.fromarray(values).save(planted / folder / "a.png")
    common = ("--model", "s2clip", "--size", 128, "--device", "cpu", "--crop", 64, "--short-side", 128)
    for given, truth_of_it in (
        ((planted / "photos",), "objects of the automatic mode (a stand-in, no truth)"),
        ((planted / "data",), "label maps"),
    ):
        status, text = run(capsys, "layers", "precision", *given, *common, "--json")
        assert status == 0
        rows = json.loads(text)
        assert [row["features"] for row in rows] == ["CLIP layer 0", "CLIP layer 1", "DINO", "SAM"]
        assert {row["compared with"] for row in rows} == {truth_of_it}
        if truth_of_it == "label maps":
            assert rows[2]["AP"] == pytest.approx(1.0), "DINO sees colours, and the classes are colours"
    monkeypatch.setattr("fretsaw.methods.s2clip.words.BACKGROUND_WORDS", ("black",))
    named = [part for name in NAMES for part in ("--name", name)]
    status, text = run(capsys, "layers", "precision", planted / "photos", *named, "--model", "maskclip", "--device", "cpu")
    assert status == 0, text
    assert "| features | AP | windows | compared with |" in text
    assert "| the model's own labels (a stand-in, no truth) |" in text
    status, _ = run(capsys, "layers", "precision", planted / "photos", "--model", "maskclip", "--device", "cpu")
    assert status == 1, "plain CLIP has no automatic mode"
