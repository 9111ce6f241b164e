"""HRSAM's recipe on tiny networks: the three stages learn, the teacher is asked once a photo, clicks are simulated by the paper's rule, files load."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hrsam_run import SETTINGS, networks
from PIL import Image

import fretsaw
import fretsaw.recipes.hrsam.run as hrsam
from fretsaw import catalog, cli
from fretsaw.cli.train import configure
from fretsaw.clicks.simulate import simulate_click_hrsam
from fretsaw.data.colours import distort_colours
from fretsaw.data.samples import Sample
from fretsaw.data.truths import any_channel
from fretsaw.data.whole_views import ObjectViews, photo_files, stack, to_frame, truth_in_frame
from fretsaw.errors import ConfigError, DataError, MissingWeightsError
from fretsaw.frames import Preprocessing, longest_side
from fretsaw.recipes.hrsam.networks import export, parameter_groups
from fretsaw.recipes.hrsam.steps import ClickLearning, HrsamDistillation, simulate_clicks
from fretsaw.training.distillation import fill
from fretsaw.training.embedding_cache import EmbeddingCache
from fretsaw.training.loop import read_log
from tiny import tiny_hrsam, tiny_sam2, tiny_teacher

FRAME = Preprocessing(longest_side, 64)


@pytest.fixture
def objects(tmp_path, rng):
    """A folder of five images, each with one bright disc, and its masks."""
    root = tmp_path / "objects"
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    y, x = np.mgrid[:60, :80]
    for i in range(5):
        centre = rng.uniform(20, 40, 2)
        mask = np.hypot(y - centre[0], x - centre[1]) < 12
        image = rng.integers(0, 90, (60, 80, 3), dtype=np.uint8) + 120 * mask[..., None].astype(np.uint8)
        Image.fromarray(image).save(root / "images" / f"{i}.png")
        Image.fromarray((255 * mask).astype(np.uint8)).save(root / "masks" / f"{i}.png")
    return root


def config_of(photos, out, *settings):
    return configure(hrsam.Config, [f"photos={photos}", f"out={out}", *SETTINGS, *settings])


# The settings.


def test_the_stage_fills_in_what_the_paper_trains_with(tmp_path):
    plain = ["photos=a", "out=b"]
    clicks, distil, finetune = (configure(hrsam.Config, [*plain, f"stage={stage}"]) for stage in ("clicks", "distil", "finetune"))
    assert [(c.steps, c.drop_path, c.layer_decay) for c in (clicks, distil, finetune)] == [(160_000, 0.2, 0.9), (160_000, 0.2, 0.9), (40_000, 0.0, 1.0)]
    assert (distil.rate, distil.weight_decay, distil.warmup, distil.batch, distil.size) == (1e-4, 0.05, 1500, 1, 1024)
    assert (clicks.most_clicks, clicks.click_spread, clicks.click_decay) == (20, 1.7, (0.6,))
    assert configure(hrsam.Config, [*plain, "stage=clicks", "photos=a,b", "click_decay=0.6,0.9"]).click_decay == (0.6, 0.9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["stage=distill"], "setting stage"),
        (["click_decay=0.6,0.9"], "one click_decay for all places or one for each of 1, got 2"),
        (["views=3"], "expected 1 to 2 views, got 3"),
        (["decoder=half"], "setting decoder"),
        (["dtype=float16"], "setting dtype"),
    ],
)
def test_mistakes_are_said(settings, message):
    with pytest.raises(ConfigError, match=message):
        configure(hrsam.Config, ["photos=a", "out=b", *settings])


def test_rates_fall_from_the_last_block_to_the_first_and_vectors_are_not_decayed():
    model = tiny_hrsam(64)
    config = config_of("a", "b", "layer_decay=0.9", "rate=1e-3")
    module = ClickLearning(model, torch.device("cpu"), "float32", 3, (0.6,), 1.7)
    groups = parameter_groups(module, config)
    found = {id(parameter): (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]}
    named = dict(module.named_parameters())
    assert len(found) == len(named), "every parameter is in one group"
    expected = {
        "model.image_encoder.blocks.3.mlp.fc1.weight": (0.9e-3, 0.05),
        "model.image_encoder.blocks.0.mlp.fc1.weight": (0.9**4 * 1e-3, 0.05),
        "model.image_encoder.blocks.0.mlp.fc1.bias": (0.9**4 * 1e-3, 0.0),
        "model.image_encoder.pos_embed": (1e-3, 0.05),
        "model.image_encoder.patch_embed.proj.weight": (1e-3, 0.05),
        "model.image_encoder.mamba_blocks.0.in_proj.0.weight": (1e-3, 0.05),
        "model.image_encoder.lateral_convs.1.0.weight": (1e-3, 0.05),
        "model.mask_decoder.decoder.mask_tokens.weight": (1e-3, 0.05),
    }
    for name, (rate, decay) in expected.items():
        assert found[id(named[name])] == (pytest.approx(rate), decay), name


# Distillation.


def test_distillation_brings_the_student_closer_and_asks_the_teacher_once_a_photo(objects, tmp_path, monkeypatch):
    config = config_of(objects, tmp_path / "run", "steps=40", "drop_path=0", "batch=2")
    student, teacher = networks(config)
    asked = []
    plain = teacher.encode
    monkeypatch.setattr(teacher, "encode", lambda pixels: asked.append(len(pixels)) or plain(pixels))
    kept = {name: value.clone() for name, value in teacher.state_dict().items()}
    assert hrsam.train(config, student, teacher) == 40
    log = read_log(tmp_path / "run")
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]
    assert asked == [1] * 5
    assert all(torch.equal(value, kept[name]) for name, value in teacher.state_dict().items())
    hrsam.train(config, student, teacher)
    assert len(asked) == 5, "a continued run reads what is stored"


def test_stored_embeddings_are_the_teachers_own_view_by_view(objects, tmp_path):
    teacher = tiny_teacher(64)
    cache = EmbeddingCache(tmp_path / "cache", teacher.checksum, teacher.preprocessing.key)
    photos = photo_files([objects])
    hashes = fill(cache, photos, 2, teacher, tmp_path / "cache" / "photos.json", workers=2)
    assert len(cache) == 10
    cache.verify()
    image = np.asarray(Image.open(photos[3]))
    for view, shown in (("whole", image), ("mirrored", image[:, ::-1])):
        with torch.no_grad():
            wanted = teacher.encode(to_frame(shown, teacher.preprocessing)[None]).final
        torch.testing.assert_close(cache.get(f"{hashes[str(photos[3])]}-{view}").final, wanted, atol=2e-3, rtol=2e-3)
    Image.fromarray(255 - image).save(photos[3])
    again = fill(EmbeddingCache(tmp_path / "cache", teacher.checksum, teacher.preprocessing.key), photos, 2, teacher, tmp_path / "cache" / "photos.json")
    assert [name for name in again if again[name] != hashes[name]] == [str(photos[3])], "a photo that changed is another one"


def test_a_teacher_on_the_fly_gives_the_same_losses_as_a_stored_one(objects, tmp_path):
    for place in ("stored", "none"):
        config = config_of(objects, tmp_path / place, "steps=6", "views=2", f"cache={tmp_path / 'cache' if place == 'stored' else 'none'}")
        hrsam.train(config, *networks(config))
    stored, live = ([line["loss"] for line in read_log(tmp_path / place)] for place in ("stored", "none"))
    assert stored == pytest.approx(live, rel=1e-2)  # half precision on disk
    assert not (tmp_path / "none" / "teacher").exists()


def test_distillation_is_the_mean_squared_distance():
    teacher, student = tiny_teacher(64), tiny_hrsam(64)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = student.image_encoder(pixels).final, teacher.encode(pixels).final
        module = HrsamDistillation(student.image_encoder, teacher, torch.device("cpu"))
        stored = HrsamDistillation(student.image_encoder, None, torch.device("cpu"))
        for loss in (module((pixels, pixels), 0)["loss"], stored((pixels, theirs), 0)["loss"]):
            assert loss.item() == pytest.approx((ours - theirs).square().mean().item(), rel=1e-5)
    assert all("teacher" not in name for name in module.state_dict())


# Clicks.


def test_careless_clicks_stay_within_their_depth():
    truth = np.zeros((41, 41), np.int8)
    truth[5:36, 5:36] = 1  # the deepest pixel is the centre, 16 from outside
    empty = np.zeros(truth.shape, bool)
    rng = np.random.default_rng(0)
    centre = {(click.x, click.y) for click in (simulate_click_hrsam(empty, truth, None, rng) for _ in range(20))}
    assert centre == {(20.0, 20.0)}
    careless = {(click.x, click.y) for click in (simulate_click_hrsam(empty, truth, None, rng, 1.7) for _ in range(3000))}
    reach = max(max(abs(x - 20), abs(y - 20)) for x, y in careless)
    assert reach == 6  # deeper than 16 / 1.7 = 9.4: at least 10 from outside
    assert len(careless) == 13 * 13
    with pytest.raises(ConfigError, match="k of at least 1"):
        simulate_click_hrsam(empty, truth, None, rng, 0.5)


def test_clicks_follow_the_answers_and_leave_no_gradient(objects):
    model = tiny_hrsam(64)
    views = ObjectViews([[Sample(str(i), objects / "images" / f"{i}.png", objects / "masks" / f"{i}.png", any_channel) for i in range(5)]], FRAME)
    view = views[0]
    truth = view.truth.numpy()
    with torch.no_grad():
        embedding = model.encode(view.pixels[None])
    coords, labels, previous = simulate_clicks(model, embedding, truth, 0, 1.7, np.random.default_rng(0))
    assert previous is None
    assert labels.tolist() == [[1]]
    x, y = (int(value) for value in coords[0, 0])
    from fretsaw.clicks.simulate import depths

    assert depths(truth == 1)[y, x] == depths(truth == 1).max(), "the first click is the object's centre"
    coords, labels, previous = simulate_clicks(model, embedding, truth, 5, 1.7, np.random.default_rng(0))
    assert coords.shape == (1, 6, 2)
    assert previous.shape == (1, 1, 16, 16)
    assert not previous.requires_grad
    for (x, y), label in zip(coords[0].long().tolist(), labels[0].tolist(), strict=True):
        assert (truth[y, x] == 1) == bool(label), "each click says what its place belongs to"


def test_a_step_on_clicks_trains_encoder_and_decoder_unless_it_is_frozen(objects, tmp_path):
    model = tiny_hrsam(64)
    views = ObjectViews([[Sample("0", objects / "images" / "0.png", objects / "masks" / "0.png", any_channel)]], FRAME)
    module = ClickLearning(model, torch.device("cpu"), "float32", 3, (0.6,), 1.7).train()
    losses = module(stack([views[0], views[1]]), 4)
    assert module.training
    assert 0 <= losses["IoU"] <= 1
    assert 1 <= losses["clicks"] <= 4
    losses["loss"].backward()
    assert model.image_encoder.patch_embed["proj"].weight.grad.abs().max() > 0
    assert model.mask_decoder.decoder.mask_tokens.weight.grad[0].abs().max() > 0
    again = module(stack([views[0], views[1]]), 4)
    assert again["loss"].item() == pytest.approx(losses["loss"].item(), rel=1e-5), "a step is a function of seed and number"


@pytest.mark.parametrize("decoder", ["trained", "frozen"])
def test_learning_from_clicks_lowers_the_loss(objects, tmp_path, decoder):
    config = config_of(
        objects, tmp_path / "run", "stage=finetune", f"decoder={decoder}", "steps=24", "most_clicks=2", "rate=3e-4", "log_every=8", "drop_path=0"
    )
    student, _ = networks(config)
    before = {name: value.clone() for name, value in student.mask_decoder.state_dict().items()}
    hrsam.train(config, student, None)
    log = read_log(tmp_path / "run")
    assert log[-1]["loss"] < log[0]["loss"]
    changed = any(not torch.equal(value, before[name]) for name, value in student.mask_decoder.state_dict().items())
    assert changed == (decoder == "trained")


# From a folder to a model.


def test_one_command_makes_a_model_that_loads_and_the_next_stage_takes_it(objects, tmp_path, monkeypatch, capsys):
    real = catalog.build
    monkeypatch.setattr(
        catalog, "build", lambda name, **options: catalog.Parts(tiny_teacher(options["size"])) if name == "sam-vit-h" else real(name, **options)
    )
    settings = [part for text in SETTINGS for part in ("--set", text)]
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "hrsam", "--set", f"photos={objects}", "--set", f"out={tmp_path / 'distil'}", *settings, "--set", "anchor=32", "--set", "steps=4"])
    assert not stop.value.code
    assert "4 of 4 steps are made" in capsys.readouterr().err
    model = tmp_path / "distil" / "model.safetensors"
    segmenter = fretsaw.load(model, size=96, device="cpu")
    assert segmenter.parts.clicks.image_encoder.anchor_size == 32
    assert segmenter.open(objects / "images" / "0.png").click(40, 30).mask.shape == (60, 80)
    next_stage = ["--set", "stage=finetune", "--set", f"start={model}", "--set", f"out={tmp_path / 'finetune'}", "--set", "steps=2"]
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "hrsam", "--set", f"photos={objects}", *settings, *next_stage])
    assert not stop.value.code
    finetuned = fretsaw.load(tmp_path / "finetune" / "model.safetensors", device="cpu", size=64).parts.clicks
    before = segmenter.parts.clicks.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in finetuned.state_dict().items())
    from fretsaw.weights import read_metadata

    metadata = read_metadata(tmp_path / "finetune" / "model.safetensors")
    assert (metadata["recipe"], metadata["stage"], metadata["steps"]) == ("hrsam", "finetune", "2")
    assert json.loads(metadata["config"])["start"] == model.name


def test_a_start_that_does_not_fit_is_refused(objects, tmp_path, monkeypatch):
    from fretsaw.recipes.hrsam.networks import load_student, load_teacher

    path = tmp_path / "model.safetensors"
    export(tiny_hrsam(64), path, {})
    with pytest.raises(ConfigError, match="anchor map of 512 pixels, got none"):
        load_student(config_of(objects, "b", f"start={path}", "anchor=512"), None)
    with pytest.raises(MissingWeightsError):
        hrsam.run(config_of(objects, tmp_path / "run", f"start={tmp_path / 'none.safetensors'}", "stage=clicks"))
    monkeypatch.setattr(catalog, "build", lambda name, **options: catalog.Parts(tiny_sam2(64)))
    with pytest.raises(ConfigError, match=r"expected a SAM as teacher .*, got sam2-hiera-tiny"):
        load_teacher(config_of(objects, "b", "teacher=sam2-hiera-tiny"))


# The data.


def test_photos_of_all_kinds_of_places(objects, tmp_path):
    Image.new("RGB", (9, 8)).save(tmp_path / "loose.png")
    (tmp_path / "more").mkdir()
    Image.new("RGB", (9, 8)).save(tmp_path / "more" / "9.png")
    coco = {
        "images": [{"id": 1, "file_name": "1.png", "height": 60, "width": 80}],
        "annotations": [{"id": k, "image_id": 1, "segmentation": [[10, 10, 30, 10, 30, 30]]} for k in (1, 2)],
    }
    (objects / "instances.json").write_text(json.dumps(coco))
    assert [path.name for path in photo_files([objects])] == [f"{i}.png" for i in range(5)], "masks are no photos"
    assert [path.name for path in photo_files([objects / "instances.json", tmp_path / "more"])] == ["1.png", "9.png"]
    (tmp_path / "train2017").mkdir()
    Image.new("RGB", (80, 60)).save(tmp_path / "train2017" / "77.png")
    lvis = {**coco, "images": [{"id": 1, "coco_url": "http://example.org/train2017/77.png", "height": 60, "width": 80}]}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "lvis_v1_train.json").write_text(json.dumps(lvis))
    assert photo_files([tmp_path / "annotations" / "lvis_v1_train.json"]) == [tmp_path / "train2017" / "77.png"]
    (tmp_path / "out.txt").write_text("0\n2\n")
    assert [path.stem for path in photo_files([objects], [tmp_path / "out.txt"])] == ["1", "3", "4"]
    with pytest.raises(DataError):
        photo_files([tmp_path / "absent"])


def test_truth_and_pixels_lie_in_the_same_places(rng):
    image = np.zeros((30, 50, 3), np.uint8)
    truth = np.zeros((30, 50), np.int8)
    image[10:20, 20:40], truth[10:20, 20:40] = 255, 1
    truth[:3] = -1
    pixels, placed = to_frame(image, FRAME), truth_in_frame(truth, FRAME)
    bright = pixels[0] > 0.5
    assert np.mean(bright.numpy() == (placed == 1)) > 0.99
    assert (placed[39:] == 0).all(), "padding is background"
    assert (pixels[:, 39:] == 0).all()
    assert (placed[:3, :64] == -1).all()


def test_object_views_are_a_function_of_seed_and_number(objects):
    samples = [Sample(str(i), objects / "images" / f"{i}.png", objects / "masks" / f"{i}.png", any_channel) for i in range(5)]
    views = ObjectViews([samples[:3], samples[3:]], FRAME, seed=1)
    one, same, other = views[7], ObjectViews([samples[:3], samples[3:]], FRAME, seed=1)[7], views[8]
    assert torch.equal(one.pixels, same.pixels)
    assert not torch.equal(one.pixels, other.pixels)
    assert {int(views[i].place) for i in range(20)} == {0, 1}
    with pytest.raises(DataError, match="at least one object"):
        ObjectViews([[]], FRAME)


def test_distorted_colours_differ_but_keep_the_picture(rng):
    image = np.repeat(np.repeat(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), 8, 0), 8, 1)
    outs = [distort_colours(image, np.random.default_rng(seed)) for seed in range(30)]
    assert all(out.shape == image.shape and out.dtype == np.uint8 for out in outs)
    assert np.array_equal(outs[3], distort_colours(image, np.random.default_rng(3)))
    assert sum(not np.array_equal(out, image) for out in outs) > 20
    correlations = [np.corrcoef(out.mean(2).ravel(), image.mean(2).ravel())[0, 1] for out in outs]
    assert min(correlations) > 0.8
