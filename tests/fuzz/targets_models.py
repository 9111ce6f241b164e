"""Targets: model files of every kind, checkpoints' programs, session and step files.

Inputs are small: the name of a sound file and what is done to it, so that a failure can be read. The sound files are made once in the child.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from fretsaw.errors import FretsawError, MissingWeightsError

from .harness import Refused, Target

WEIGHTS = ("fretsaw.weights.checkpoints", "fretsaw.weights.states", "fretsaw.weights.metadata")
READERS = {
    "sam": ("fretsaw.catalog", "fretsaw.backbones.sam_keys"),
    "sam2": (),
    "hrsam": (),
    "pmg": ("fretsaw.catalog.auto", "fretsaw.methods.pmg_sam.stored", "fretsaw.weights.low_rank", "fretsaw.catalog.standing"),
    "grc": ("fretsaw.catalog.grc", "fretsaw.methods.grc_sam.build"),
    "student": ("fretsaw.catalog.student",),
    "clicked": ("fretsaw.catalog.clicked",),
    "refiner": ("fretsaw.catalog.refiners",),
    "clip": ("fretsaw.catalog.text",),
    "dino": (),
    "sam-original": (),
}
"""{kind of `model_files.samples`: modules that read it}."""

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.sampled_from([2**31, 2**63, 10**30, 1e308, float("nan"), float("inf"), 0.5]),
    st.text(max_size=5),
    st.sampled_from(["\ud800", "\n", "a" * 3000]),
    st.lists(st.integers(-1, 9), max_size=4),
    st.just({}),
)
"""Values that JSON can hold and a file should not."""

# --- model files ---

RESHAPE = ("scalar", "empty", "flat", "axis", "less", "turned")
NUMBERS = ("int64", "bool", "uint8", "float16", "float64", "complex64", "bfloat16", "nan", "inf", "huge")
NAMES = st.one_of(st.sampled_from(["", "weight", "blocks.9999999.x", "a\nb", "x" * 300, "layers.-1.y", "decoder.", "state_dict"]), st.text(max_size=8))
TENSORS = st.one_of(
    st.tuples(st.just("shape"), st.integers(0, 999), st.sampled_from(RESHAPE)),
    st.tuples(st.just("number"), st.integers(0, 999), st.sampled_from(NUMBERS)),
    st.tuples(st.just("rename"), st.integers(0, 999), NAMES),
    st.tuples(st.just("drop"), st.integers(0, 999)),
    st.tuples(st.just("swap"), st.integers(0, 999), st.integers(0, 999)),
    st.tuples(st.just("add"), NAMES),
)
FACTS = st.one_of(
    st.tuples(st.just("fact"), st.integers(0, 9), st.one_of(st.text(max_size=9), st.sampled_from(["", "{}", "[1]", "null", "[" * 9000, "u2netp", "1e9"]))),
    st.tuples(st.just("setting"), st.integers(0, 9), st.integers(0, 99), ODD),
    st.tuples(st.just("no fact"), st.integers(0, 9)),
)
BYTES = st.one_of(
    st.tuples(st.just("cut"), st.integers(0, 999)),
    st.tuples(st.just("flip"), st.integers(0, 3000), st.integers(1, 255)),
    st.tuples(st.just("insert"), st.integers(0, 3000), st.binary(min_size=1, max_size=9)),
)
CHANGES = st.tuples(st.lists(st.one_of(TENSORS, FACTS, FACTS), min_size=1, max_size=3), st.lists(BYTES, max_size=1) | st.just([]) | st.just([]))


def _real(value: Any) -> Any:
    """Return a tensor without imaginary parts, of which torch would warn when another change makes it real again."""
    return value.real if value.is_complex() else value


@cache
def samples() -> dict[str, Any]:
    import model_files
    from fretsaw import catalog

    os.environ["FRETSAW_OFFLINE"] = "1"
    model_files.install(setattr, dict.__setitem__)
    assert model_files.BASE in catalog.CATALOGUE
    return model_files.samples()


def changed(sample: Any, changes: list[tuple]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a sample's tensors and metadata after changes."""
    import torch

    tensors, facts = dict(sample.tensors), dict(sample.metadata)
    for what, *rest in changes:
        names, keys = list(tensors), list(facts)
        if what in ("fact", "setting", "no fact") and not keys:
            continue
        if what == "drop":
            tensors.pop(names[rest[0] % len(names)])
        elif what == "rename":
            tensors[rest[1].encode("utf-8", "replace").decode()] = tensors.pop(names[rest[0] % len(names)])
        elif what == "swap":
            one, other = names[rest[0] % len(names)], names[rest[1] % len(names)]
            tensors[one], tensors[other] = tensors[other], tensors[one]
        elif what == "add":
            tensors[rest[0].encode("utf-8", "replace").decode()] = torch.ones(2)
        elif what == "shape":
            name = names[rest[0] % len(names)]
            value = tensors[name]
            shapes = {
                "scalar": lambda value: torch.tensor(1.0),
                "empty": lambda value: value.reshape(-1)[:0],
                "flat": lambda value: value.reshape(-1),
                "axis": lambda value: value[None],
                "less": lambda value: value[: max(1, len(value) // 2)] if value.ndim else value,
                "turned": lambda value: value.T if value.ndim == 2 else value.reshape(1, -1),
            }
            tensors[name] = shapes[rest[1]](value)
        elif what == "number":
            name = names[rest[0] % len(names)]
            odd = {"nan": float("nan"), "inf": float("inf"), "huge": 1e300}
            value = tensors[name]
            tensors[name] = torch.full(value.shape, odd[rest[1]], dtype=torch.float64) if rest[1] in odd else _real(value).to(getattr(torch, rest[1]))
        elif what == "fact":
            facts[keys[rest[0] % len(keys)]] = rest[1].encode("utf-8", "replace").decode()
        elif what == "no fact":
            facts.pop(keys[rest[0] % len(keys)])
        else:
            key = next((key for key in keys if facts[key].startswith("{")), None)
            if key is not None:
                settings = json.loads(facts[key])
                if settings:
                    settings[list(settings)[rest[1] % len(settings)]] = rest[2]
                facts[key] = json.dumps(settings)
        if not tensors:
            tensors["a"] = torch.ones(1)
    return tensors, facts


def altered(content: bytes, changes: list[tuple]) -> bytes:
    """Return a file's bytes after changes; places are near its beginning, where its header lies, or shares of its length."""
    for what, place, *rest in changes:
        if what == "cut":
            content = content[: len(content) * place // 1000]
        elif what == "flip" and content:
            place %= len(content)
            content = content[:place] + bytes([content[place] ^ rest[0]]) + content[place + 1 :]
        elif what == "insert":
            content = content[:place] + rest[0] + content[place:]
    return content


def model_target(kind: str, share: float) -> Target:
    def attempt(given: tuple[list[tuple], list[tuple]], folder: Path) -> bool:
        import model_files
        from fretsaw.weights import load_state_dict

        sample = samples()[kind]
        path = model_files.write(folder / f"model{sample.suffix}", *changed(sample, given[0]), legacy=len(given[0]) == 2)
        if given[1]:
            path.write_bytes(altered(path.read_bytes(), given[1]))
        reached = False
        try:
            reached = _container_is_sound(path)
            sample.load(path)
        except MissingWeightsError:
            return True  # it says in several lines what is missing and how to bring it
        except FretsawError as error:
            if path.name not in str(error):
                raise AssertionError("the file is not named") from error
            raise Refused(past_header=reached) from error
        assert load_state_dict(path)
        return True

    return Target(f"model-{kind}", CHANGES, attempt, (*WEIGHTS, *READERS[kind]), share, seconds=20.0, memory=768 * 2**20)


def _container_is_sound(path: Path) -> bool:
    from fretsaw.weights import read_metadata
    from fretsaw.weights.checkpoints import opened

    try:
        if path.suffix == ".safetensors":
            read_metadata(path)
            return True
        with opened(path) as (content, _):
            return isinstance(content, dict)
    except FretsawError:
        return False


# --- the programs of checkpoints ---

SNIPPETS = [
    b"N", b"}", b"]", b")", b"(", b"0", b"2", b"a", b"e", b"d", b"l", b"t", b"s", b"u", b"R", b"b", b"o", b"\x81", b"\x85", b"\x86", b"\x87", b"\x88", b"\x93",
    b"\x8f", b"\x90", b"\x91", b"\x94", b"1", b"Q", b"\x92", b"K\x05", b"I01\n", b"I-1\n", b"L99999999999999999999L\n", b"Va\n", b"U\x01a", b"X\x01\0\0\0b",
    b"q\x00", b"h\x00", b"q\x01", b"h\x01", b"cos\nsystem\n", b"cbuiltins\neval\n", b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_parameter\n", b"ccollections\nOrderedDict\n", b"ctorch\nSize\n", b"Vstorage\n", b"V0\n", b"Vcpu\n", b"Vstate_dict\n",
    b"ios\nsystem\n", b"\x82\x01", b"G?\xf0\0\0\0\0\0\0", b"\x8a\x01\x05",
]  # fmt: skip
STORAGE = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI%d\ntQ"
SIZES = st.one_of(st.integers(0, 3), st.integers(0, 6), st.sampled_from([0, 1, 1, 1, 2, 2, 3, -1, 2**31, 2**61, 2**64]))


@st.composite
def tensors(draw: st.DrawFn) -> bytes:
    """The steps of one tensor, whose sizes may be odd."""
    shape = draw(st.lists(SIZES, max_size=3))
    stride = draw(st.lists(SIZES, min_size=len(shape), max_size=len(shape) + (draw(st.integers(0, 9)) == 0)))
    sides = [b"".join(b"L%dL\n" % side for side in sides) for sides in (shape, stride)]
    offset, count = draw(SIZES), draw(st.sampled_from([6, 6, 6, 0, 7, 2**40]))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE % count + b"L%dL\n(%bt(%btI00\n)tR" % (offset, *sides)


@st.composite
def programs(draw: st.DrawFn) -> tuple[str, bytes]:
    """A program that makes a mapping of tensors, with any steps in between, in one of the two formats."""
    parts = []
    for name in draw(st.lists(st.sampled_from([b"a", b"b", b"weight"]), max_size=3, unique=True)):
        noise = b"".join(draw(st.lists(st.sampled_from(SNIPPETS), max_size=2))) if draw(st.integers(0, 9)) == 0 else b""
        parts.append(b"V" + name + b"\n" + noise + draw(tensors()))
    program = b"(" + b"".join(parts) + b"d."
    if draw(st.integers(0, 6)) == 0:
        place = draw(st.integers(0, len(program) - 1))
        program = program[:place] + b"".join(draw(st.lists(st.sampled_from(SNIPPETS), max_size=6))) + program[place:]
    return draw(st.sampled_from(["zip", "zip", "stream"])), program


def run_program(given: tuple[str, bytes], folder: Path) -> bool:
    import pickle
    import struct

    from fretsaw.weights import load_state_dict
    from fretsaw.weights.checkpoints import MAGIC, PROTOCOL

    form, program = given
    path = folder / "model.pth"
    numbers = struct.pack("<6f", *range(6))
    if form == "zip":
        with zipfile.ZipFile(path, "w") as bundle:
            bundle.writestr("archive/data.pkl", program)
            bundle.writestr("archive/data/0", numbers)
    else:
        start = b"".join(pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, {"little_endian": True}))
        path.write_bytes(start + program + pickle.dumps(["0"], 2) + struct.pack("<q", 6) + numbers)
    reached = _container_is_sound(path)
    try:
        state = load_state_dict(path)
    except FretsawError as error:
        raise Refused(past_header=reached) from error
    assert all(tensor.isfinite().all() for tensor in state.values())
    return True


# --- session and step files ---

PLACES = st.lists(st.integers(0, 30), min_size=1, max_size=6)
SESSION_CHANGES = st.tuples(
    st.lists(
        st.one_of(
            st.tuples(st.just("json"), PLACES, ODD),
            st.tuples(st.just("json"), PLACES, ODD),
            st.tuples(st.just("number"), st.integers(0, 99), st.sampled_from(NUMBERS)),
            st.tuples(st.just("shape"), st.integers(0, 99), st.sampled_from(RESHAPE)),
            st.tuples(st.just("drop"), st.integers(0, 99)),
            st.tuples(st.just("swap"), st.integers(0, 99), st.integers(0, 99)),
        ),
        min_size=1,
        max_size=3,
    ),
    st.lists(BYTES, max_size=1) | st.just([]) | st.just([]),
)


@cache
def sessions() -> tuple[Any, Any, dict[str, Any]]:
    """Return a model, an image, and a sound session and step file as `model_files.Sample`."""
    from dataclasses import replace
    from tempfile import TemporaryDirectory

    import numpy as np
    from safetensors import safe_open

    from fretsaw.masks import MaskRuns
    from fretsaw.runtimes.torch import TorchClickModel
    from fretsaw.segmentation import Segmentation
    from fretsaw.session import Session
    from fretsaw.session_file import write_step
    from fretsaw.types import Box, Click, RefinerState
    from model_files import Sample
    from tiny import tiny_sam2

    model, image = TorchClickModel(tiny_sam2(64)), np.zeros((20, 30, 3), np.uint8)
    session = Session(image, model)
    session.clicks([Click(12, 8), Click(3, 3, positive=False)], Box(2, 2, 20, 15))
    session.scribble([(5, 5), (15, 10)])
    part = Segmentation(np.where(np.arange(600).reshape(20, 30) % 30 < 9, 3.0, -3.0).astype(np.float32), 0.5, name="a")
    state = RefinerState(given=True, error_map=np.zeros((1, 1, 16, 16), np.float32))
    cut = replace(session.step, full=np.ones((20, 30), np.float32), instances=(part,), refiner_state=state, name="cat", view=Box(2, 2, 20, 15))
    own = replace(session.step, full=MaskRuns.of(part.mask))
    session = Session(image, model, embedding=session.embedding, history=[*session.history, cut, own])
    found = {}
    with TemporaryDirectory() as folder:
        for name, path in {
            "session": session.save(Path(folder) / "session"),
            "step": write_step(Path(folder) / "step", cut),
            "own": write_step(Path(folder) / "own", own),
        }.items():
            with safe_open(path, framework="pt") as file:
                found[name] = Sample(".safetensors", {key: file.get_tensor(key).clone() for key in file.keys()}, dict(file.metadata()), lambda path: None)  # noqa: SIM118
    return model, image, found


def _replaced(value: Any, place: list[int], odd: Any) -> Any:
    """Return a JSON value in which the value at a place is another."""
    if not place or not isinstance(value, dict | list) or not value:
        return odd
    if isinstance(value, dict):
        name = list(value)[place[0] % len(value)]
        return {**value, name: _replaced(value[name], place[1:], odd)}
    number = place[0] % len(value)
    return [*value[:number], _replaced(value[number], place[1:], odd), *value[number + 1 :]]


def session_target(name: str, read: Callable[[Path, Any, Any], Any], share: float) -> Target:
    def attempt(given: tuple[list[tuple], list[tuple]], folder: Path) -> bool:
        import model_files
        from fretsaw.errors import StaleSessionError

        model, image, found = sessions()
        sample = found[name]
        sound, facts = changed(sample, [change for change in given[0] if change[0] != "json"])
        key = "steps" if "steps" in facts else "step"
        for what, place, *rest in given[0]:
            if what == "json":
                facts[key] = json.dumps(_replaced(json.loads(facts[key]), place, rest[0]))
        path = model_files.write(folder / "file.safetensors", sound, facts)
        if given[1]:
            path.write_bytes(altered(path.read_bytes(), given[1]))
        reached = _container_is_sound(path)
        try:
            read(path, image, model)
        except StaleSessionError as error:
            raise Refused(past_header=reached) from error
        return True

    return Target(f"file-{name}", SESSION_CHANGES, attempt, ("fretsaw.session_file",), share)


def read_session(path: Path, image: Any, model: Any) -> None:
    from fretsaw.session import Session
    from fretsaw.session_file import read

    embedding, history = read(path, image, model)
    session = Session(image, model, embedding=embedding, history=history)
    assert session.result.mask.shape == image.shape[:2]
    session.click(10, 10)


def read_one_step(path: Path, image: Any, model: Any) -> None:
    from fretsaw.session import Session
    from fretsaw.session_file import read_step

    step = read_step(path, (image.shape[0], image.shape[1]), model.preprocessing.logit_side)
    assert Session(image, model, history=[step]).result.mask.shape == image.shape[:2]


TARGETS = [
    *(
        model_target(kind, share)
        for kind, share in (
            ("sam", 0.1),
            ("sam-original", 0.1),
            ("sam2", 0.1),
            ("hrsam", 0.2),
            ("pmg", 0.3),
            ("grc", 0.3),
            ("student", 0.05),
            ("clicked", 0.3),
            ("refiner", 0.3),
            ("clip", 0.2),
            ("dino", 0.2),
        )
    ),
    Target("checkpoint-program", programs(), run_program, ("fretsaw.weights.checkpoints", "fretsaw.weights.states"), 1.0),
    session_target("session", read_session, 0.5),
    session_target("step", read_one_step, 0.7),
    session_target("own", read_one_step, 0.5),
]

# Made when the child starts: the first input would pay for it otherwise, and its time is limited.
samples()
sessions()
