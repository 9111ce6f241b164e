"""The catalogue, and the commands that list, fetch, check and convert its weights."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from fretsaw import catalog
from fretsaw.backbones import sam, sam2, sam_keys
from fretsaw.catalog.refiners import SAM_REF
from fretsaw.cli import models
from fretsaw.errors import MissingWeightsError, ModelError, WeightsError
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.weights import Cache, Route, WeightFile, Weights, is_present, read_metadata
from packages import DECODER, ENCODER, calls, convert_sizes, fake_npm, file_weights, npm_weights, own_cache, sha
from tiny import TINY_SAM, TINY_SAM2, random_weights

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Cache:
    return own_cache(tmp_path, monkeypatch)


@pytest.fixture
def npm(tmp_path, monkeypatch) -> Path:
    """The log of the fake npm's calls."""
    return fake_npm(tmp_path, monkeypatch)


@pytest.fixture
def small_catalogue(cache, npm, tmp_path, monkeypatch) -> Iterator[dict[str, catalog.Entry]]:
    """A catalogue of two: "tiny" from npm, and "copied" from a file. Tests exchange entries in place: what `monkeypatch` takes back later would stay."""
    source = tmp_path / "copied.bin"
    source.write_bytes(DECODER)
    entries = {
        "tiny": catalog.Entry("click", npm_weights(tmp_path / "published.tgz")),
        "copied": catalog.Entry("backbone", replace(file_weights(source), name="copied")),
    }
    with mock.patch.dict(catalog.CATALOGUE, entries, clear=True):
        yield entries


def run(*arguments: str):
    return CliRunner().invoke(models.app, list(arguments))


# --- the catalogue itself ---


def test_default_comes_first_and_cuts():
    assert next(iter(catalog.CATALOGUE)) == catalog.DEFAULT
    assert catalog.CATALOGUE[catalog.DEFAULT].build is not None


@pytest.mark.parametrize("name", catalog.CATALOGUE)
def test_every_entry_is_complete(name, cache):
    weights = catalog.CATALOGUE[name].weights
    assert weights.name == name
    licences = {"hrsam": "not stated by its authors", "clip": "MIT", "maskclip": "MIT", "s2clip": "MIT AND Apache-2.0", "trident": "MIT AND Apache-2.0"}
    assert weights.licence in ("Apache-2.0", licences.get(name.split("-")[0].rstrip("+")))
    assert weights.origin
    assert weights.size > 0
    files = [file for route in weights.routes for file in route.files.values()]
    assert len({cache.raw_path(name, file) for file in files}) == len(files), "two files would lie at one place"
    for file in files:
        if file.client == "hand":
            assert file.sha256 is None, "a checksum is never invented"
        elif file.client == "hub":
            unpinned = ("facebook/dino-vitb8@main", "facebook/dino-vits8@main")  # no commit of these is known to the project
            assert re.fullmatch(r"[\w-]+/[\w.-]+@[0-9a-f]{40}", file.address) or file.address in unpinned, "a repository at a commit, not at a branch"
        else:
            assert re.fullmatch(r"[0-9a-f]{64}", file.sha256 or "")
            assert file.size
        if file.client in ("npm", "pip"):
            assert file.archive is not None
            assert re.search(r"(@|==)\d+\.\d+\.\d+$", file.address), "an exact version"


def test_every_checksum_stands_in_notice():
    notice = (ROOT / "NOTICE").read_text()
    for name, entry in catalog.CATALOGUE.items():
        for route in entry.weights.routes:
            for file in route.files.values():
                assert (file.sha256 or file.address.partition("@")[0]) in notice, f"{name}: {file.member or file.address}"
    assert SAM_REF.routes[0].files["network"].sha256 in notice


@pytest.mark.parametrize("name", ["u2netp", "pmg-tiny", "pmg-fretsaw-tiny", "grc-clothes", "grc-people"])
def test_shipped_networks_are_those_the_catalogue_names(cache, name):
    weights = catalog.CATALOGUE[name].weights
    assert is_present(weights, cache)
    content = catalog.weights_path(name).read_bytes()
    assert sha(content) == weights.routes[0].files["network"].sha256
    assert len(content) == weights.size


def test_shipped_networks_do_not_say_where_they_were_made():
    for path in (ROOT / "src" / "fretsaw" / "shipped").glob("*.safetensors"):
        told = json.loads(read_metadata(path).get("settings", "{}")) | json.loads(read_metadata(path).get("config", "{}"))
        assert not [value for value in told.values() if isinstance(value, str) and ("/" in value or "\\" in value)], path.name


@pytest.mark.parametrize(("typed", "nearest"), [("sam2-hira-tiny", "sam2-hiera-tiny"), ("SAM-VIT-B", "sam-vit-b"), ("u2net", "u2netp")])
def test_unknown_name_suggests_the_nearest(typed, nearest):
    with pytest.raises(ModelError, match=rf"{typed}.*did you mean.*{nearest}"):
        catalog.find(typed)


def test_name_like_nothing_lists_all():
    with pytest.raises(ModelError, match="the names are fretsaw-tiny, sam2-hiera-tiny"):
        catalog.build("qqqq")


def test_backbone_cuts_nothing_by_itself():
    with pytest.raises(ModelError, match="backbone that other models use; models that cut are fretsaw-tiny, sam2-hiera-tiny"):
        catalog.build("u2netp")


def test_list_says_what_is_present(small_catalogue, cache):
    assert [(model.name, model.present) for model in catalog.list_models()] == [("tiny", False), ("copied", False)]
    catalog.weights_path("copied", progress=lambda *state: None)
    assert [(model.name, model.present) for model in catalog.list_models()] == [("tiny", False), ("copied", True)]


# --- building ---


def hub_weights(name: str, file: Path) -> Weights:
    """An entry's weights as if the hub's file had been brought: through the same route, without conversion."""
    return Weights(name, (Route({"network": WeightFile(f"file:{file}", "", file.stat().st_size, sha(file.read_bytes()))}),), "Apache-2.0", "tests", 1)


def save_tiny(folder: Path, model: torch.nn.Module) -> Path:
    """Save random weights for a network on the meta device as the hub's files were saved: by transformers."""
    network = type(model)(model.config)
    network.load_state_dict(random_weights(model), strict=False)
    network.save_pretrained(folder)
    return folder / "model.safetensors"


@pytest.mark.parametrize(
    ("name", "module", "table", "tiny"),
    [("sam2.1-hiera-small", sam2, "HIERA_SMALL", TINY_SAM2), ("sam-vit-l", sam, "VIT_LARGE", TINY_SAM)],
)
def test_entry_builds_from_a_file_saved_like_the_published_one(cache, tmp_path, monkeypatch, name, module, table, tiny):
    monkeypatch.setattr(module, table, tiny)
    file = save_tiny(tmp_path, module.build_model(tiny, 128))
    if module is sam2:  # the published files are the video model's
        save_file({**load_file(file), "memory_encoder.weight": torch.ones(1), "no_object_pointer": torch.ones(1)}, file)
    monkeypatch.setitem(catalog.CATALOGUE, name, replace(catalog.CATALOGUE[name], weights=hub_weights(name, file)))
    seen = []
    parts = catalog.build(name, size=128, progress=lambda *state: seen.append(state))
    assert isinstance(parts.clicks, SamClicks)
    assert parts.clicks.checksum == sha(file.read_bytes())
    assert parts.clicks.preprocessing.size == 128
    assert seen
    image = np.zeros((40, 60, 3), np.uint8)
    assert parts.clicks.encode(parts.clicks.pixels_of(image)).final.shape == (1, 32, 8, 8)


def test_default_model_goes_through_its_converter(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(sam2, "HIERA_TINY", TINY_SAM2)
    state = random_weights(sam2.build_model(TINY_SAM2, 128))
    read = []

    def convert_onnx(encoder: Path, decoder: Path) -> dict[str, torch.Tensor]:
        read.extend([encoder.read_text(), decoder.read_text()])
        return state

    monkeypatch.setattr("fretsaw.backbones.sam2_onnx.convert_onnx", convert_onnx)
    sources = {}
    for role in ("encoder", "decoder"):
        (tmp_path / role).write_text(role)
        sources[role] = WeightFile(f"file:{tmp_path / role}", "", 7, sha(role.encode()))
    entry = catalog.CATALOGUE["sam2-hiera-tiny"]
    route = replace(entry.weights.routes[0], files=sources)
    monkeypatch.setitem(catalog.CATALOGUE, "sam2-hiera-tiny", replace(entry, weights=replace(entry.weights, routes=(route,))))
    parts = catalog.build("sam2-hiera-tiny", size=128, progress=lambda *seen: None)
    assert read == ["encoder", "decoder"]
    assert parts.clicks is not None
    assert parts.clicks.checksum == sha(f"1 {sha(b'decoder')} {sha(b'encoder')}".encode())


@pytest.mark.parametrize("original", [False, True], ids=["transformers' names", "original names"])
def test_file_outside_the_catalogue_tells_its_own_size(tmp_path, original, monkeypatch):
    wide = {**TINY_SAM, "vision": {**TINY_SAM["vision"], "hidden_size": 1024, "mlp_dim": 8}}
    monkeypatch.setattr(sam, "VIT_LARGE", wide)
    state = random_weights(sam.build_model(wide, 128))
    path = tmp_path / "mine.pth"
    torch.save(sam_keys.to_original(state) if original else state, path)
    parts = catalog.build(str(path), size=128)
    assert parts.clicks is not None
    assert parts.clicks.checksum == sha(path.read_bytes())
    assert parts.clicks.image_encoder.state_dict()["patches.weight"].shape[0] == 1024


def test_sam2_file_outside_the_catalogue_is_known_by_width_and_depth(tmp_path, monkeypatch):
    table = {**TINY_SAM2, "trunk": {**TINY_SAM2["trunk"], "hidden_size": 96, "embed_dim_per_stage": [96, 96, 96, 96], "blocks_per_stage": [1, 2, 8, 1]}}
    monkeypatch.setattr(sam2, "HIERA_TINY", table)
    path = save_tiny(tmp_path, sam2.build_model(table, 128))
    assert catalog.build(str(path), size=128).clicks is not None


def test_file_of_another_network_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"layer.weight": torch.ones(1)}, path)
    with pytest.raises(ModelError, match=r"other\.safetensors, got 1 others, such as layer\.weight"):
        catalog.build(str(path))


# --- the commands ---


def test_list_as_table_and_as_json(cache):
    table = run("list")
    assert table.exit_code == 0
    assert re.search(r"sam2-hiera-tiny +click, auto +151\.3 MB +Apache-2\.0 +no +npm:@annotorious", table.output)
    assert re.search(r"u2netp .* present ", table.output)
    models = json.loads(run("list", "--all", "--json").stdout)
    assert [model["name"] for model in models] == list(catalog.CATALOGUE)
    assert set(models[0]) == {"name", "mode", "size", "licence", "source", "present"}


def test_list_leaves_out_what_nobody_can_fetch_and_says_so(cache):
    shown, whole = (json.loads(run("list", *options, "--json").stdout) for options in ((), ("--all",)))
    by_hand = [model["name"] for model in whole if model["source"].startswith("hand:")]
    assert by_hand
    assert [model for model in whole if model["name"] not in by_hand] == shown
    assert re.search(rf"{len(by_hand)} models are not shown.*--all", run("list", "--json").stderr)
    assert "--all shows" not in run("list", "--all").stderr


def test_pull_fetches_and_says_where(small_catalogue, cache, npm):
    result = run("pull", "tiny")
    assert result.exit_code == 0
    assert result.stdout.strip() == f"tiny: {cache.model_path('tiny')}"
    assert "fetch npm:@tiny/model@1.0.0" in result.stderr
    assert run("pull", "tiny").exit_code == 0
    assert len(calls(npm)) == 1
    assert run("pull", "tiny", "--again").exit_code == 0
    assert len(calls(npm)) == 2


def test_pull_does_the_others_when_one_fails(small_catalogue, cache):
    result = run("pull", "tinny", "copied", "--json")
    assert result.exit_code == 1
    first, second = json.loads(result.stdout)
    assert (first["ok"], first["kind"]) == (False, "ModelError")
    assert "did you mean tiny" in first["error"]
    assert second == {"name": "copied", "ok": True, "path": str(cache.model_path("copied"))}
    assert result.stderr == ""


def test_pull_offline_fails_with_advice(small_catalogue, monkeypatch):
    monkeypatch.setenv("FRETSAW_OFFLINE", "1")
    result = run("pull", "tiny")
    assert result.exit_code == 1
    assert "fretsaw models convert tiny --from" in result.stderr
    assert result.stdout == ""


def test_verify_finds_the_altered_byte(small_catalogue, cache):
    run("pull", "tiny", "copied")
    assert run("verify").exit_code == 0
    path = cache.model_path("tiny")
    before = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    result = run("verify")
    assert result.exit_code == 1
    assert f"{path} was altered" in result.stderr
    assert "copied: " in result.stdout
    assert run("pull", "tiny", "--again").exit_code == 0
    assert run("verify").exit_code == 0


def test_verify_of_a_truncated_or_missing_model_fails(small_catalogue, cache):
    assert run("verify", "tiny").exit_code == 1
    run("pull", "tiny")
    cache.model_path("tiny").write_bytes(b"short")
    result = run("verify", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)[0]["kind"] == "ChecksumError"


def test_info_names_files_checksums_and_places(small_catalogue, cache):
    facts = json.loads(run("info", "tiny", "--json").output)
    assert facts["present"] is False
    assert [file["sha256"] for file in facts["files"]] == [sha(ENCODER), sha(DECODER)]
    run("pull", "tiny")
    facts = json.loads(run("info", "tiny", "--json").output)
    assert facts["path"] == str(cache.model_path("tiny"))
    assert facts["metadata"]["converter"] == "1"
    text = run("info", "tiny").output
    for part in ("licence    MIT", sha(ENCODER), "npm:@tiny/model@1.0.0", str(cache.model_path("tiny"))):
        assert part in text
    unknown = run("info", "tinny")
    assert unknown.exit_code == 1
    assert "did you mean tiny" in unknown.stderr


def test_convert_takes_what_was_brought(small_catalogue, cache, npm, tmp_path):
    result = run("convert", "tiny", "--from", str(tmp_path / "published.tgz"))
    assert result.exit_code == 0, result.output
    assert calls(npm) == []
    assert is_present(small_catalogue["tiny"].weights, cache)
    assert run("convert", "tiny").exit_code == 0, "converts what lies in the cache again"


def test_convert_refuses_a_foreign_file_and_names_what_is_still_missing(small_catalogue, npm, tmp_path):
    (tmp_path / "foreign.bin").write_bytes(b"foreign")
    result = run("convert", "tiny", "--from", str(tmp_path / "foreign.bin"))
    assert result.exit_code == 1
    assert "foreign.bin" in result.stderr
    (tmp_path / "encoder.bin").write_bytes(ENCODER)
    half = run("convert", "tiny", "--from", str(tmp_path / "encoder.bin"))
    assert half.exit_code == 1
    assert "decoder.bin" in half.stderr
    assert calls(npm) == [], "convert downloads nothing"


@pytest.mark.parametrize("command", ["list", "pull", "verify", "info", "convert"])
def test_help_has_examples(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"fretsaw models {command}" in result.output


def test_damaged_converter_output_is_no_entry(small_catalogue, cache):
    def broken(files):
        raise WeightsError("the converter met something unknown")

    weights = small_catalogue["tiny"].weights
    catalog.CATALOGUE["tiny"] = catalog.Entry(
        "click", replace(weights, routes=(replace(weights.routes[0], convert=broken),))
    )  # the fixture puts the whole back
    assert run("pull", "tiny").exit_code == 1
    assert not cache.model_path("tiny").exists()
    with pytest.raises(MissingWeightsError):
        models.verify(replace(weights, name="absent"), cache)
    catalog.CATALOGUE["tiny"] = catalog.Entry(
        "click", replace(weights, routes=(replace(weights.routes[0], convert=convert_sizes),))
    )  # the fixture puts the whole back
    assert run("pull", "tiny").exit_code == 0
