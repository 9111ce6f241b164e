"""Session and step files that are damaged or made to do harm: each is one `StaleSessionError`, whatever is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from fretsaw.errors import StaleSessionError
from fretsaw.frames import MASK_PROMPT_LOGIT, mask_to_logits
from fretsaw.masks import MaskRuns
from fretsaw.runtimes.torch import TorchClickModel
from fretsaw.segmentation import Segmentation
from fretsaw.session import Session
from fretsaw.session_file import read, read_step, write_step
from fretsaw.types import Box, Click, RefinerState
from tiny import tiny_sam, tiny_sam2


@pytest.fixture(scope="module")
def model():
    return TorchClickModel(tiny_sam2(128))


@pytest.fixture
def image(rng) -> np.ndarray:
    return rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)


def disk(height: int, width: int, x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def refused(*actions: Callable[[], object]) -> None:
    for action in actions:
        with pytest.raises(StaleSessionError) as caught:
            action()
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 1000


def altered(source: Path, target: Path, metadata=None, tensors=None) -> Path:
    """Write a copy of a session or step file with other metadata and tensors; None leaves an entry out."""
    with safe_open(source, framework="pt") as file:
        facts, held = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    facts, held = {**facts, **(metadata or {})}, {**held, **(tensors or {})}
    target.write_bytes(
        save({name: value for name, value in held.items() if value is not None}, {name: value for name, value in facts.items() if value is not None})
    )
    return target


def changed(text: str, *path, to) -> str:
    """JSON with one value replaced; `...` as value removes it."""
    value = inner = json.loads(text)
    for name in path[:-1]:
        inner = inner[name]
    if to is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return json.dumps(value)


@pytest.fixture
def rich(model, image) -> Session:
    """Every kind of thing that a step can hold."""
    session = Session(image, model)
    session.clicks([Click(40, 30), Click(5, 5, positive=False)], Box(10, 10, 70, 50))
    session.scribble([(20, 15), (50, 15)])
    part = Segmentation((9 - np.hypot(*(np.mgrid[:60, :90] - np.array([30, 20])[:, None, None]))).astype(np.float32), 0.5, name="a")
    state = RefinerState(given=True, error_map=np.zeros((1, 1, 32, 32), np.float32))
    automatic = replace(session.step, full=np.ones((60, 90), np.float32), instances=(part,), refiner_state=state, name="cat", view=Box(2, 2, 80, 50))
    speckles = np.zeros((60, 90), bool)
    speckles[::2, ::2] = True
    own = [replace(session.step, full=MaskRuns.of(mask)) for mask in (disk(60, 90, 40, 30, 9), speckles)]
    return Session(image, model, embedding=session.embedding, history=[*session.history, automatic, *own])


ODD = (None, "text", [], {}, -1, 1e308, 10**400, True, [[]], "\ud800", [1, 2, 3])

STEP_PLACES = (
    ("clicks",),
    ("clicks", 0),
    ("clicks", 0, "x"),
    ("clicks", 0, "positive"),
    ("strokes",),
    ("strokes", 0),
    ("strokes", 0, "points"),
    ("strokes", 0, "points", 0),
    ("strokes", 0, "points", 0, 0),
    ("strokes", 0, "positive"),
    ("box",),
    ("box", "x0"),
    ("box", "x1"),
    ("score",),
    ("instances",),
    ("instances", 0),
    ("instances", 0, "place"),
    ("instances", 0, "place", 2),
    ("instances", 0, "size"),
    ("instances", 0, "size", 0),
    ("instances", 0, "score"),
    ("instances", 0, "name"),
    ("view",),
    ("view", "x1"),
    ("name",),
)

ALLOWED = {("clicks",): ([],), ("strokes",): ([],), ("box",): (None,), ("view",): (None,), ("instances",): ([],), ("score",): (-1,), ("clicks", 0, "x"): ()}


def allowed(place, value) -> bool:
    if value in (-1,) and place[-1] in ("x0", "score") and value is not True:
        return True
    if (value is ... and isinstance(place[-1], int) and place[-2] not in ("place", "size", 0)) or (place[-1] == "positive" and value is True):
        return True
    if place[-1] == "name" and isinstance(value, str) and value != "\ud800":
        return True
    return place in ALLOWED and any(value is one or (value == one and type(value) is type(one)) for one in ALLOWED[place])


@pytest.mark.parametrize("place", STEP_PLACES, ids=lambda place: ".".join(map(str, place)))
def test_an_odd_value_anywhere_in_a_step_makes_the_file_stale(rich, model, image, tmp_path, place):
    source, whole = write_step(tmp_path / "step", rich.history[3]), rich.save(tmp_path / "session")
    with safe_open(source, framework="pt") as file:
        text = file.metadata()["step"]
    with safe_open(whole, framework="pt") as file:
        texts = file.metadata()["steps"]
    for value in (..., *ODD):
        if allowed(place, value) or (value is ... and place in (("strokes",), ("view",), ("name",), ("instances",))):
            continue
        step = altered(source, tmp_path / "odd", {"step": changed(text, *place, to=value)})
        history = altered(whole, tmp_path / "odd session", {"steps": changed(texts, 3, *place, to=value)})
        refused(partial(read_step, step), partial(read_step, step, (60, 90), 32), partial(read, history, image, model))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "null", "5", '"x"', "[null]", "[[]]", "{}", "[1e999]", '[{"clicks": NaN}]', None])
def test_broken_json_inside_a_sound_container_is_a_stale_file(rich, model, image, tmp_path, text):
    step = altered(write_step(tmp_path / "step", rich.step), tmp_path / "odd", {"step": text})
    session = altered(rich.save(tmp_path / "session"), tmp_path / "odd session", {"steps": text})
    with pytest.raises(StaleSessionError, match="expected a step"):
        read_step(step)
    with pytest.raises(StaleSessionError, match="expected a session file"):
        read(session, image, model)


def test_points_outside_the_image_and_views_beyond_it_are_refused(rich, model, tmp_path):
    source = write_step(tmp_path / "step", rich.history[3])
    with safe_open(source, framework="pt") as file:
        text = file.metadata()["step"]
    changes = [
        *((("clicks", 0, "x"), value) for value in (-0.6, 89.6, 1e9)),
        *((("strokes", 0, "points", 0, 1), value) for value in (-0.6, 59.6)),
        *((("box", "x0"), value) for value in (70, 90, 1e300)),
        *((("view", "x1"), value) for value in (91, 79.5, 2)),
        *((("instances", 0, "place"), value) for value in ([0, 0, 91, 60], [-1, 0, 5, 5], [5, 5, 4, 6], [0, 0, 2**40, 2**40])),
        *((("instances", 0, "size"), value) for value in ([2**20, 2**20], [60, 91], [0, 0])),
    ]
    for place, value in changes:
        step = altered(source, tmp_path / "odd", {"step": changed(text, *place, to=value)})
        for size in (None, (60, 90)):
            with pytest.raises(StaleSessionError):
                read_step(step, size)


NAN = float("nan")
TENSORS = {
    "logits": (
        None,
        torch.ones(1, 1, 33, 33),
        torch.ones(1, 2, 32, 32),
        torch.ones(32, 32),
        torch.ones(()),
        torch.full((1, 1, 32, 32), NAN),
        torch.ones(1, 1, 32, 32, dtype=torch.int64),
    ),
    "refiner.error_map": (torch.full((1, 1, 32, 32), NAN), torch.ones(1, 1, 16, 16), torch.ones(32, 32, dtype=torch.int64)),
    "refiner.given": (torch.tensor(NAN),),
    "full": (torch.ones(60, 91), torch.ones(5400), torch.full((60, 90), NAN), torch.ones(60, 90, dtype=torch.int32), torch.ones(())),
    "instance.0": (None, torch.ones(1, 1), torch.ones(()), torch.ones(19, 19, dtype=torch.int8)),
}
MASKS = {
    "mask_size": (None, torch.tensor([60, 91]), torch.tensor([60]), torch.tensor([2**31, 2**31]), torch.tensor([-60, -90]), torch.tensor([60.0, 90.0])),
    "runs": (torch.ones(5, dtype=torch.int32), torch.tensor([-1, 5401], dtype=torch.int32), torch.full((2,), 2**31 - 1, dtype=torch.int32), torch.ones(5400)),
}


def test_wrong_tensors_make_a_file_stale(rich, model, image, tmp_path):
    for number, table in ((3, TENSORS), (4, MASKS), (5, {"mask": (torch.ones(5, dtype=torch.uint8), torch.ones(675), torch.ones(676, dtype=torch.uint8))})):
        source, session = write_step(tmp_path / "step", rich.history[number]), rich.save(tmp_path / "session")
        for name, values in table.items():
            for value in values:
                if name == "logits" and value is None:
                    continue
                step = altered(source, tmp_path / "odd", tensors={name: value})
                whole = altered(session, tmp_path / "odd session", tensors={f"step.{number}.{name}": value})
                refused(partial(read_step, step, (60, 90), 32), partial(read, whole, image, model))


def test_a_wrong_embedding_makes_a_session_stale(rich, model, image, tmp_path):
    source = rich.save(tmp_path / "session")
    with safe_open(source, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith("embedding.")]  # noqa: SIM118
        held = {name: file.get_tensor(name) for name in names}
    assert len(names) >= 3
    for name, value in held.items():
        for wrong in (None, value[:, :1], value[0], value.long(), value.double(), value * NAN, value.repeat(2, 1, 1, 1)):
            if name.startswith("embedding.taps.") and (wrong is None or (wrong.dtype == torch.float32 and bool(wrong.isfinite().all()))):
                continue  # which taps there are, the encoder says
            with pytest.raises(StaleSessionError):
                read(altered(source, tmp_path / "odd", tensors={name: wrong}), image, model)


@pytest.mark.parametrize("content", [b"", b"1234567", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}", b"\0\0\0\0\0\0\0\x7f{}"])
def test_files_that_are_no_container_are_stale(model, image, tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    file = tmp_path / "file"
    refused(partial(read_step, file), partial(read, file, image, model), partial(read_step, tmp_path))


def test_a_mask_prompt_is_background_outside_the_image(model):
    """The decoder would read 0 as a place that may belong to the object."""
    sam = tiny_sam(128)
    frame = sam.preprocessing.frame(60, 90, 128)
    assert (frame.content_height, frame.content_width) == (85, 128)
    for mask in (np.ones((60, 90), bool), np.full((60, 90), 5.0, np.float32)):
        logits = mask_to_logits(mask, frame, 32)[0, 0]
        rows = round(32 * frame.content_height / frame.size)
        assert (logits[:rows] > 0).all()
        assert (logits[rows:] == -MASK_PROMPT_LOGIT).all()
    session = Session(np.zeros((60, 90, 3), np.uint8), TorchClickModel(sam))
    session.mask(np.ones((60, 90), bool))
    previous = session.step.prompt.previous_logits
    assert previous is not None
    assert (previous[0, 0, rows:] == -MASK_PROMPT_LOGIT).all()
