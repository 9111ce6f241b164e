"""Model files that are damaged, foreign or made to do harm are refused when they are read, in one line; a training framework's sound ones load."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import textwrap
import warnings
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import fretsaw
import model_files
from fretsaw import catalog
from fretsaw.catalog import refiners
from fretsaw.catalog.entries import Entry, Parts
from fretsaw.catalog.standing import name_underneath
from fretsaw.cli import models
from fretsaw.errors import FretsawError, MissingWeightsError, ModelError, ShapeError, StateDictError, WeightsError
from fretsaw.weights import Cache, load_state_dict, load_strictly, read_metadata
from fretsaw.weights.checkpoints import Program
from fretsaw.weights.gather import shipped_path
from packages import file_weights, own_cache
from tiny import published_names, tiny_hrsam, tiny_sam, tiny_sam2

KINDS = ("sam", "sam-original", "sam2", "hrsam", "pmg", "grc", "student", "high-resolution", "clicked", "refiner", "clip", "dino")
SMALL = {"a": torch.ones(2, 3), "b": torch.zeros(3)}


@pytest.fixture
def tiny_tables(monkeypatch) -> dict[str, model_files.Sample]:
    model_files.install(monkeypatch.setattr, monkeypatch.setitem)
    return model_files.samples()


def refusal(action, *arguments) -> str:
    """Return the one line that an action is refused with."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FretsawError) as caught:
            action(*arguments)
    message = str(caught.value)
    assert message.isprintable()
    assert 20 < len(message) < 1000
    assert "weights_only" not in message
    return message


# --- every kind of file ---


@pytest.mark.parametrize("kind", KINDS)
def test_the_sound_file_of_each_kind_loads(tiny_tables, tmp_path, kind):
    sample = tiny_tables[kind]
    assert sample.load(sample.write(tmp_path / f"sound{sample.suffix}")) is not None


def greatest(tensors) -> str:
    return max((name for name, value in tensors.items() if value.is_floating_point()), key=lambda name: tensors[name].numel())


def scalar(value):
    return torch.tensor(1.0)


def with_nan(value):
    return torch.where(torch.arange(value.numel()).view(value.shape) == value.numel() // 2, float("nan"), value.float()).half()


DAMAGES = {
    "scalar": scalar,
    "nan": with_nan,
    "infinity": lambda value: torch.full_like(value, float("inf")),
    "beyond 32 bits": lambda value: torch.full(value.shape, 1e300, dtype=torch.float64),
    "whole numbers": lambda value: value.to(torch.int64),
    "complex": lambda value: value.to(torch.complex64),
    "one axis more": lambda value: value[None],
    "empty": lambda value: value[:0],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_tensor_is_refused_by_the_files_name(tiny_tables, tmp_path, kind):
    sample = tiny_tables[kind]
    name, path = greatest(sample.tensors), tmp_path / f"wrong{sample.suffix}"
    for damage in DAMAGES.values():
        model_files.write(path, {**sample.tensors, name: damage(sample.tensors[name])}, sample.metadata)
        assert path.name in refusal(sample.load, path)


@pytest.mark.parametrize("kind", KINDS)
def test_the_metadata_that_a_file_needs_are_asked_for_and_looked_at(tiny_tables, tmp_path, kind):
    sample = tiny_tables[kind]
    path = tmp_path / f"metadata{sample.suffix}"
    for name in sample.metadata:
        if name in ("recipe", "rank"):
            continue
        for value in (None, "", "[" * 5000, "null", "[1]", '{"width": 1e400}', "-1", "../../none", "\n\x1b[2J"):
            metadata = {**sample.metadata, name: value} if value is not None else {key: its for key, its in sample.metadata.items() if key != name}
            model_files.write(path, sample.tensors, metadata)
            if kind == "hrsam" and value is None:
                continue  # a published file has no such description; its size is looked up
            if (kind, name) in (("student", "size"), ("high-resolution", "size")):  # a side that is given counts
                assert path.name in refusal(catalog.build, str(path))
            else:
                assert path.name in refusal(sample.load, path)


HUGE = {
    "pmg": [{"width": 2**20}, {"blocks": 10**9}, {"hidden": 65536, "dim": 8192}, {"stages": [1, 2]}, {"heads": 0}, {"dense": True}, {"nobody": 1}],
    "grc": [{"width": 10**9}, {"size": 10**9}, {"layers": [10**6]}, {"names": ["a", "a"]}, {"names": ["a\n"]}, {"above": 1e999}, {"head": "else"}],
    "refiner": [{"width": 10**9}, {"blocks": 10**9}, {"channels": 2**40}, {"levels": "all"}, {"map_scale": 3}, {"nobody": 1}],
    "hrsam": [{"size": {"dim": 10**9}}, {"size": {"depth": 10**9}}, {"size": {"heads": 0}}, {"anchor_size": "none"}, {"anchor_size": 10**9}],
}


@pytest.mark.parametrize("kind", HUGE)
def test_settings_that_no_network_has_are_refused_before_it_is_built(tiny_tables, tmp_path, kind):
    sample = tiny_tables[kind]
    (name,) = [name for name, value in sample.metadata.items() if value.startswith("{")]
    for change in HUGE[kind]:
        settings = json.loads(sample.metadata[name])
        for key, value in change.items():
            settings[key] = {**settings[key], **value} if isinstance(value, dict) else value
        path = model_files.write(tmp_path / "huge.safetensors", sample.tensors, {**sample.metadata, name: json.dumps(settings)})
        assert "huge.safetensors" in refusal(sample.load, path)


def test_a_layer_of_a_great_number_makes_no_great_network(tiny_tables, tmp_path):
    for kind, name in (("clip", "text_model.encoder.layers.999999999.mlp.fc1.weight"), ("dino", "layers.999999999.mlp.fc1.weight"), ("hrsam", "blocks.x.y")):
        sample = tiny_tables[kind]
        prefix = "image_encoder." if kind == "hrsam" else ""
        path = model_files.write(tmp_path / f"deep{sample.suffix}", {**sample.tensors, prefix + name: torch.ones(1)}, {})
        assert path.name in refusal(sample.load, path)


# --- containers ---


def header(text: bytes, length: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text + data


ONE = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
SAFETENSORS = {
    "empty": b"",
    "seven bytes": b"1234567",
    "header longer than the file": header(b"{}", 2**40),
    "header longer than anything": header(b"{}", 2**63),
    "no JSON": header(b"<html>"),
    "nested": header(b"[" * 100_000),
    "a name twice": header(ONE + b',"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}', data=bytes(4)),
    "shape without bounds": header(ONE.replace(b"[1]", b"[1099511627776,1099511627776]") + b"}", data=bytes(4)),
    "data missing": header(ONE + b"}", data=bytes(3)),
    "unknown number": header(ONE.replace(b"F32", b"F99") + b"}", data=bytes(4)),
    "eight-bit floats": header(ONE.replace(b"F32", b"F8_E4M3").replace(b"[1]", b"[4]") + b"}", data=bytes(4)),
    "metadata no text": header(b'{"__metadata__":{"a":1}}'),
    "a name that is no text": header(b'{"a\\n\\u001b[2J":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', data=bytes(4)),
    "a name without end": header(ONE.replace(b'"a"', b'"' + b"a" * 100_000 + b'"') + b"}", data=bytes(4)),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_a_damaged_safetensors_file_is_refused_wherever_one_is_read(tmp_path, name):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(SAFETENSORS[name])
    for action in (load_state_dict, fretsaw.load, refiners.build_refiner, lambda path: fretsaw.load(refiner=path)):
        assert path.name in refusal(action, path)


def saved(content, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def archive(program: bytes, **others: bytes) -> bytes:
    """A checkpoint with any program and further members."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as bundle:
        for name, content in {"data.pkl": program, **others}.items():
            bundle.writestr(f"archive/{name}", content)
    return stream.getvalue()


def repacked(content: bytes, change) -> bytes:
    """A zip archive whose members `change(name, content)` has written anew; None leaves one out."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            if (member := change(name, old.read(name))) is not None:
                new.writestr(name, member)
    return stream.getvalue()


def compressed(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, bytes(10**7) if "/data/" in name else old.read(name))
    return stream.getvalue()


def twice(content: bytes) -> bytes:
    stream = io.BytesIO(content)
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "a") as bundle:
        warnings.simplefilter("ignore")
        bundle.writestr(next(name for name in bundle.namelist() if name.endswith("data.pkl")), pickle.dumps({}))
    return stream.getvalue()


def tensor_program(size: str, stride: str, offset: int = 0, count: int = 4) -> bytes:
    """The program of a mapping with one tensor of any description; numbers are Python's."""
    storage = f"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI{count}\ntQ"
    return f"(Va\nctorch._utils\n_rebuild_tensor_v2\n({storage}I{offset}\n({size}t({stride}tI00\n(dtRd.".encode()


SOUND, OLD = saved(SMALL), saved(SMALL, legacy=True)
CHECKPOINTS = {
    "empty": b"",
    "one byte": b"\x80",
    "a page of the web": b"<html>404 not found</html>",
    "a pointer of git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "half a zip": SOUND[: len(SOUND) // 2],
    "zip without its end": SOUND[:-10],
    "half a stream": OLD[: len(OLD) // 2],
    "stream without its end": OLD[:-1],
    "altered number": SOUND.replace(struct.pack("<f", 1.0) * 6, struct.pack("<f", 1.0) * 5 + b"\1\1\1\1"),
    "no program": repacked(SOUND, lambda name, content: None if name.endswith("data.pkl") else content),
    "no numbers": repacked(SOUND, lambda name, content: None if "/data/" in name else content),
    "too few numbers": repacked(SOUND, lambda name, content: content[:4] if "/data/" in name else content),
    "highest byte first": repacked(SOUND, lambda name, content: b"big" if name.endswith("byteorder") else content),
    "compressed": compressed(SOUND),
    "a member twice": twice(SOUND),
    "two programs": archive(b"}.", **{"../other/data.pkl": b"}."}),
    "a plain pickle": pickle.dumps({"a": [1.0]}),
    "an empty mapping": saved({}),
    "a list": saved([torch.ones(1)]),
    "a number": saved(5),
    "a tensor": saved(torch.ones(2)),
    "a whole network": saved(torch.nn.Linear(2, 2)),
    "an array for a tensor": saved({"a": torch.ones(1).numpy()}),
    "a number for a tensor": saved({"a": torch.ones(1), "b": 3}),
    "a sparse tensor": saved({"a": torch.ones(3).to_sparse()}),
    "a complex tensor": saved({"a": torch.ones(3, dtype=torch.complex64)}),
    "beyond its storage": archive(tensor_program("I5\n", "I1\n"), **{"data/0": bytes(16)}),
    "before its storage": archive(tensor_program("I2\n", "I1\n", -1), **{"data/0": bytes(16)}),
    "far beyond its storage": archive(tensor_program("I2\n", f"I{2**61}\n", 2**61), **{"data/0": bytes(16)}),
    "one number for terabytes": archive(tensor_program(f"I{2**40}\n", "I0\n"), **{"data/0": bytes(16)}),
    "a storage without bounds": archive(tensor_program("I1\n", "I1\n", 0, 2**60), **{"data/0": bytes(16)}),
    "a shape without strides": archive(tensor_program("I1\n", ""), **{"data/0": bytes(16)}),
    "a name twice": archive(b"(Va\nI1\nVa\nI2\nd."),
    "two values": archive(b"I1\nI2\n."),
    "nothing on the stack": archive(b"tttRRRbb."),
    "no end": archive(b"(((((((("),
    "a mark for a value": archive(b"(."),
    "an unknown step": archive(b"\xfe\xfe."),
    "a memo that is not there": archive(b"g99\n."),
    "a number of a million digits": archive(b"I" + b"9" * 1_000_000 + b"\n."),
    "a text longer than the file": archive(b"X\xff\xff\xff\x7fabc."),
    "a buffer beside it": archive(b"\x97."),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("suffix", [".pth"])
def test_a_damaged_checkpoint_is_refused_wherever_one_is_read(tmp_path, name, suffix):
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(CHECKPOINTS[name])
    assert path.name in refusal(load_state_dict, path)
    assert path.name in refusal(fretsaw.load, path)
    assert path.name in refusal(refiners.build_refiner, path)


def test_a_program_without_end_is_stopped(monkeypatch):
    monkeypatch.setattr("fretsaw.weights.checkpoints.STEPS", 1000)
    assert Program(io.BytesIO(b"N0" * 499 + b"N.")).run() is None
    with pytest.raises(ValueError, match="more than 1000 steps"):
        Program(io.BytesIO(b"N0" * 501 + b"N.")).run()


def test_nesting_exhausts_no_stack(tmp_path):
    path = tmp_path / "deep.pth"
    for program in (b"(" + b"N" + b"\x85" * 150_000 + b"Nd.", b"]" * 100_000 + b"a" * 99_999 + b".", b"(lp0\ng0\na."):
        path.write_bytes(archive(program))
        refusal(load_state_dict, path)


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / "locked.pth"
    path.write_bytes(SOUND)

    def locked(self, *arguments, **named):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", locked)
    assert "locked.pth" in refusal(load_state_dict, path)


@pytest.mark.parametrize("name", ["", "\0", "a" * 5000, "x\ny", "\ud800", "none.pth", "/dev/null", "."])
def test_a_name_that_is_no_model_is_refused_in_one_line(name):
    refusal(fretsaw.load, name)
    refusal(lambda: fretsaw.load(refiner=name))
    refusal(lambda: fretsaw.load("maskclip", networks={"clip": name}))


@pytest.mark.parametrize("size", [0, -32, 10**9, 64.0, "64", True])
def test_a_size_that_no_image_has_is_refused_at_load(size):
    with pytest.raises(ShapeError, match="side of the model's input"):
        fretsaw.load(size=size)


# --- checkpoints of training frameworks ---

RUNNER = """
import sys, types
import numpy as np, torch
from collections import OrderedDict, defaultdict, deque
from pathlib import Path

def module(name, **classes):
    made = types.ModuleType(name)
    for key, value in classes.items():
        value.__module__, value.__qualname__ = name, key
        setattr(made, key, value)
    sys.modules[name] = made

class HistoryBuffer:
    def __init__(self):
        self._log_history, self._count_history = np.array([1.0, 0.5]), np.array([1, 1])
        self.statistics = {"min": np.float64(0.5)}
    def __reduce__(self):
        return HistoryBuffer, (), self.__dict__
    def __setstate__(self, state):
        open(sys.argv[2], "w").close()

class ConfigDict(dict):
    pass

module("mmengine"); module("mmengine.logging")
module("mmengine.logging.history_buffer", HistoryBuffer=HistoryBuffer)
module("mmengine.config.config", ConfigDict=ConfigDict)
sys.modules["mmengine"].logging = sys.modules["mmengine.logging"]

state = torch.load(sys.argv[1], weights_only=True)
parameters = [torch.nn.Parameter(value.clone()) for value in list(state.values())[:9] if value.is_floating_point()]
optimizer = torch.optim.AdamW(parameters)
for parameter in parameters:
    parameter.grad = torch.ones_like(parameter)
optimizer.step()
state = OrderedDict(state)
state._metadata = OrderedDict(version=1)
runner = {
    "meta": {"epoch": 3, "iter": 40000, "cfg": "model = dict()", "seed": np.int64(7), "dataset_meta": ConfigDict(classes=("object",)), "time": np.str_("now")},
    "state_dict": state,
    "message_hub": {
        "log_scalars": OrderedDict({"train/loss": HistoryBuffer(), "train/lr": HistoryBuffer()}),
        "runtime_info": OrderedDict(iter=40000, last=deque([1], maxlen=3), where=Path("work_dirs"), kinds={1, 2}, more=defaultdict(list, a=[1])),
        "resumed_keys": OrderedDict(),
    },
    "optimizer": optimizer.state_dict(),
    "param_schedulers": [{"by_epoch": False, "_last_lr": [np.float32(1e-4)], "end": 40000}],
}
for form in ("zip", "stream"):
    for protocol in (2, 4):
        torch.save(runner, f"{sys.argv[3]}_{form}_{protocol}.pth", _use_new_zipfile_serialization=form == "zip", pickle_protocol=protocol)
"""

RUNNER_STATE = {"backbone.weight": torch.randn(3, 4), "backbone.half": torch.randn(5).half(), "neck.count": torch.tensor(7), "neck.t": torch.randn(4, 3).T}


@pytest.fixture(scope="module")
def made_by_a_runner(tmp_path_factory):
    """Save parameters as mmengine's runner does, in a process where its classes exist; here they do not. Returns the folder."""

    def make(state) -> Path:
        folder = tmp_path_factory.mktemp("runner")
        torch.save(state, folder / "state.pth")
        made = subprocess.run([sys.executable, "-c", RUNNER, *(str(folder / name) for name in ("state.pth", "ran", "iter"))], capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        return folder

    return make


@pytest.fixture(scope="module")
def runner_folder(made_by_a_runner) -> Path:
    return made_by_a_runner(RUNNER_STATE)


@pytest.mark.parametrize("form", ["zip_2", "zip_4", "stream_2", "stream_4"])
def test_a_checkpoint_of_mmengines_runner_loads_without_mmengine(runner_folder, form):
    path = runner_folder / f"iter_{form}.pth"
    assert "mmengine" not in sys.modules
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    loaded = load_state_dict(path)
    assert list(loaded) == list(RUNNER_STATE)
    assert all(torch.equal(loaded[name], value) and loaded[name].dtype == value.dtype for name, value in RUNNER_STATE.items())
    assert not (runner_folder / "ran").exists()
    assert "mmengine" not in sys.modules


@pytest.mark.slow
def test_hrsams_published_form_becomes_a_model(made_by_a_runner):
    """As its authors publish it: the parts' published names, inside a runner's checkpoint."""
    model = tiny_hrsam(128)
    loaded = catalog.build(str(made_by_a_runner(published_names(model)) / "iter_zip_2.pth"), size=128).clicks
    assert loaded is not None
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


def test_what_lies_beside_the_parameters_is_never_read(tmp_path):
    """An optimiser's state is twice the parameters; a broken one does not matter either."""
    whole = saved({"state_dict": SMALL, "optimizer": {"state": torch.full((1000,), float("nan"))}})
    path = tmp_path / "trained.pth"
    path.write_bytes(repacked(whole, lambda name, content: None if len(content) == 4000 else content))
    assert torch.equal(load_state_dict(path)["a"], SMALL["a"])


def test_tensors_of_every_kind_come_back_as_torch_reads_them(tmp_path):
    base = torch.randn(4, 5, 6)
    marked = torch.nn.Parameter(torch.randn(3))
    marked.__dict__["note"] = "kept"
    state = OrderedDict(
        whole=base, row=base[1], every=base[:, ::2].transpose(0, 2), half=base.half(), brain=base.bfloat16(), double=base.double(), long=base.long(),
        small=base.to(torch.int8), yes=base > 0, one=torch.tensor(3.0), spread=torch.arange(4).expand(3, 4), marked=marked,
        linear=torch.nn.Linear(2, 2).weight,
    )  # fmt: skip
    for legacy in (False, True):
        path = tmp_path / "state.pth"
        path.write_bytes(saved(state, legacy))
        theirs, ours = torch.load(path, weights_only=True), load_state_dict(path)
        assert list(ours) == list(theirs)
        for name, value in theirs.items():
            assert torch.equal(ours[name], value)
            assert (ours[name].dtype, ours[name].stride()) == (value.dtype, value.stride())
        assert ours["whole"].untyped_storage().data_ptr() == ours["row"].untyped_storage().data_ptr(), "tensors over one storage share it here, too"


# --- code ---


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments, state=None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


def programs(place: str) -> dict[str, bytes]:
    """Programs that would make the file at `place` if they were run."""
    quoted = place.encode()
    code = f"open({place!r}, 'w').close()"
    nested = Calls(getattr, Calls(__import__, "os"), "mkdir")

    class Twice:
        def __reduce__(self):
            return Calls.__new__, (Calls,), {"x": Calls(os.mkdir, place)}

    objects = {
        "os.mkdir": Calls(os.mkdir, place),
        "os.system": Calls(os.system, f"touch {place}"),
        "eval": Calls(eval, code),
        "exec": Calls(exec, code),
        "a call inside a call": [nested, Calls(os.mkdir, place)],
        "a call as a state": Twice(),
        "a call as a key": {(Calls(os.mkdir, place),): 1},
        "subprocess": Calls(subprocess.Popen, ["touch", place]),
        "torch.save": Calls(torch.save, 1, place),
        "torch.load": Calls(torch.load, place),
        "a storage over a file": Calls(torch.UntypedStorage.from_file, place, True, 16),
        "bytes of another checkpoint": Calls(torch.storage._load_from_bytes, saved(Calls(os.mkdir, place))),
    }
    return {
        **{name: pickle.dumps(value, 2) for name, value in objects.items()},
        **{f"{name}, protocol 4": pickle.dumps(value, 4) for name, value in objects.items()},
        "INST": b"(V" + quoted + b"\nios\nmkdir\n.",
        "OBJ": b"(cos\nmkdir\nV" + quoted + b"\no.",
        "NEWOBJ": b"cos\nmkdir\n(V" + quoted + b"\nt\x81.",
        "NEWOBJ_EX": b"\x80\x04cos\nmkdir\n(V" + quoted + b"\nt}\x92.",
        "STACK_GLOBAL": b"\x80\x04Vos\nVmkdir\n\x93(V" + quoted + b"\ntR.",
        "a step back": b"cos\nmkdir\np0\n0g0\n(V" + quoted + b"\ntR.",
        "__setstate__": b"ccollections\nUserDict\n)R(Vdata\ncos\nmkdir\n(V" + quoted + b"\ntRdb.",
        "a persistent name": b"cos\nmkdir\n(V" + quoted + b"\ntRQ.",
        "an extension": b"\x82\x01(V" + quoted + b"\ntR.",
        "attributes of a known function": b"ctorch._utils\n_rebuild_tensor_v2\nN(V__defaults__\ncos\nmkdir\n(V" + quoted + b"\ntRd\x86b.",
        "a call around a tensor": b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nmkdir\nctorch\nTensor\n(V" + quoted + b"\ntNtR.",
        "a class made of texts": b"ctypes\nFunctionType\n(V" + quoted + b"\ntR.",
    }


NAMES = tuple(programs("x"))


@pytest.mark.parametrize("name", NAMES)
def test_no_pickle_runs_anything(tmp_path, name):
    place = tmp_path / "ran"
    program, path = programs(str(place))[name], tmp_path / "evil.pth"
    end = program.rindex(b".")
    plain = program[:end].removeprefix(b"\x80\x02").removeprefix(b"\x80\x04")
    beside = b"(Vstate_dict\n" + tensor_program("I2\n", "I1\n")[:-1] + b"Vmeta\n" + plain + b"d."
    for content in (archive(program), program, old_stream(program)):
        path.write_bytes(content)
        assert path.name in refusal(load_state_dict, path)
        assert path.name in refusal(fretsaw.load, path)
    if b"\x95" not in program:  # frames of protocol 4 count bytes
        path.write_bytes(archive(beside, **{"data/0": bytes(16)}))
        assert load_state_dict(path)["a"].tolist() == [0.0, 0.0], "beside the parameters it is no more than a name"
    assert not place.exists()


def old_stream(program: bytes) -> bytes:
    from fretsaw.weights.checkpoints import MAGIC, PROTOCOL

    return b"".join(pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, {"little_endian": True})) + program + pickle.dumps([], 2)


def test_the_programs_would_run_in_a_reader_that_runs_them(tmp_path):
    """The check of the check: without it a typing mistake in a program would look like safety."""
    for name in ("os.mkdir", "INST", "OBJ", "STACK_GLOBAL", "a step back", "a call as a state"):
        place = tmp_path / name.replace(" ", "_")
        child = textwrap.dedent("""
            import pickle, sys
            class Calls: pass
            sys.modules["test_model_files"] = sys.modules["__main__"]
            try: pickle.loads(sys.stdin.buffer.read())
            except Exception: pass
            """)
        subprocess.run([sys.executable, "-c", child], input=programs(str(place))[name], check=True)
        assert place.exists(), name


# --- what stands on what ---


def test_a_file_that_stands_on_itself_or_on_nothing_is_refused(tiny_tables, tmp_path):
    for kind, key in (("pmg", "encoder"), ("student", "base"), ("high-resolution", "base"), ("clicked", "model")):
        sample, path = tiny_tables[kind], tmp_path / f"{kind}.safetensors"
        model_files.write(path, sample.tensors, {**sample.metadata, key: str(path)})
        assert "stands on it again" in refusal(sample.load, path)
        other = tmp_path / f"{kind}-2.safetensors"
        model_files.write(path, sample.tensors, {**sample.metadata, key: str(other)})
        model_files.write(other, sample.tensors, {**sample.metadata, key: str(path)})
        assert "stands on it again" in refusal(sample.load, path)
        for nobody in ("no-such-model", "u2netp"):
            model_files.write(path, sample.tensors, {**sample.metadata, key: nobody})
            message = refusal(sample.load, path)
            assert path.name in message
            assert nobody in message


def test_a_file_whose_base_network_is_missing_is_refused_before_anything_is_encoded(tiny_tables, tmp_path, monkeypatch):
    own_cache(tmp_path, monkeypatch)
    monkeypatch.setenv("FRETSAW_OFFLINE", "1")
    sample = tiny_tables["grc"]
    about = json.loads(sample.metadata["grc_sam"]) | {"base": "sam-vit-b"}
    path = sample.write(tmp_path / "grc.safetensors")
    model_files.write(path, sample.tensors, {**sample.metadata, "grc_sam": json.dumps(about)})
    with pytest.raises(MissingWeightsError, match=r"(?s)grc\.safetensors stands on 'sam-vit-b'.*models pull sam-vit-b"):
        fretsaw.load(path)


def test_a_damaged_file_is_refused_before_its_base_is_fetched(tiny_tables, tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "weights_path", lambda *_, **__: pytest.fail("fetched"))
    for kind in ("pmg", "grc", "student", "high-resolution", "clicked"):
        sample = tiny_tables[kind]
        name = greatest(sample.tensors)
        path = model_files.write(tmp_path / "nan.safetensors", {**sample.tensors, name: sample.tensors[name] * float("nan")}, sample.metadata)
        assert "finite" in refusal(sample.load, path)


def test_what_the_catalogue_says_a_model_needs_is_what_its_file_names():
    for name, entry in catalog.CATALOGUE.items():
        files = [file for route in entry.weights.routes for file in route.files.values() if file.client == "package"]
        for file in files:
            if base := name_underneath(shipped_path(file)):
                needed = {weights.name for weights in catalog.all_weights(name)}
                assert base in needed or entry.mode == "backbone", f"{name} stands on {base}"


@pytest.mark.parametrize("name", ["grc-people", "grc-clothes", "pmg-tiny", "sam2-hiera-tiny-clicks"])
def test_a_model_is_present_when_what_it_stands_on_is(name, tmp_path, monkeypatch):
    cache = own_cache(tmp_path, monkeypatch)

    def present() -> bool:
        (row,) = [row for row in json.loads(CliRunner().invoke(models.app, ["list", "--json"]).stdout) if row["name"] == name]
        (info,) = [info for info in fretsaw.list_models() if info.name == name]
        facts = json.loads(CliRunner().invoke(models.app, ["info", name, "--json"]).output)
        assert row["present"] == info.present == facts["present"]
        verified = [row["name"] for row in json.loads(CliRunner().invoke(models.app, ["verify", "--json"]).output)]
        assert (name in verified) == info.present
        asked = CliRunner().invoke(models.app, ["verify", name])
        assert (asked.exit_code == 0) == info.present, asked.output
        return info.present

    assert not present()
    monkeypatch.setenv("FRETSAW_OFFLINE", "1")
    with pytest.raises(MissingWeightsError, match="sam2-hiera-tiny"):
        fretsaw.load(name)
    source = tmp_path / "sam2.bin"
    source.write_bytes(b"decoder " * 1000)
    weights = replace(file_weights(source), name="sam2-hiera-tiny")
    monkeypatch.setitem(catalog.CATALOGUE, "sam2-hiera-tiny", replace(catalog.CATALOGUE["sam2-hiera-tiny"], weights=weights))
    catalog.weights_path("sam2-hiera-tiny", progress=lambda *state: None, cache=cache)
    assert present()


def test_pull_brings_what_a_model_stands_on(tmp_path, monkeypatch):
    own_cache(tmp_path, monkeypatch)
    sources = {}
    for name in ("top", "bottom"):
        (tmp_path / name).write_bytes(b"decoder " * 1000)
        sources[name] = replace(file_weights(tmp_path / name), name=name)
    entries = {"top": Entry("click", sources["top"], needs=("bottom",)), "bottom": Entry("backbone", sources["bottom"])}
    with mock.patch.dict(catalog.CATALOGUE, entries, clear=True):
        assert [model.present for model in catalog.list_models()] == [False, False]
        assert CliRunner().invoke(models.app, ["pull", "top"]).exit_code == 0
        assert [model.present for model in catalog.list_models()] == [True, True]
        assert [weights.name for weights in catalog.all_weights("top")] == ["top", "bottom"]


# --- refused at the door, before an image is read or encoded ---


def test_a_model_without_the_mode_is_refused_before_the_image_is_read(monkeypatch):
    segmenter = fretsaw.api.Segmenter("tiny", Parts(), None)
    monkeypatch.setattr("fretsaw.images.read_image", lambda image: pytest.fail("read"))
    for action in (segmenter.auto, segmenter.semantic, segmenter.open, lambda image: segmenter.text(image, ["cat"])):
        assert "list_models" in refusal(action, "photo.jpg")


def test_clip_without_words_is_refused_at_load(tiny_tables, tmp_path):
    sample = tiny_tables["clip"]
    for change in (None, torch.frombuffer(bytearray(b"\xff\xfe"), dtype=torch.uint8), torch.frombuffer(bytearray(b"r e\n"), dtype=torch.uint8)):
        tensors = {name: value for name, value in sample.tensors.items() if name != "tokenizer.merges"}
        path = model_files.write(tmp_path / "clip.safetensors", tensors | ({} if change is None else {"tokenizer.merges": change}), {})
        assert "clip.safetensors" in refusal(lambda path=path: fretsaw.load("maskclip", networks={"clip": str(path)}))


@pytest.mark.parametrize("build", [tiny_sam, tiny_sam2])
def test_a_refiner_for_another_model_is_refused_at_load(tiny_tables, tmp_path, monkeypatch, build):
    monkeypatch.setattr(catalog, "build", lambda name, **given: Parts(clicks=build(128)))
    sound = tiny_tables["refiner"].write(tmp_path / "refiner.safetensors")
    if build is tiny_sam2:
        assert fretsaw.load("tiny-base", refiner=sound, device="cpu").refiner is not None
    else:
        assert "channels" in refusal(lambda: fretsaw.load("tiny-base", refiner=sound, device="cpu"))
    assert "channels" in refusal(lambda: fretsaw.load("tiny-base", refiner=shipped_path(refiners.SAM_REF.routes[0].files["network"]), device="cpu"))


def test_a_refiner_for_a_model_without_clicks_is_refused(monkeypatch):
    monkeypatch.setattr(catalog, "build", lambda name, **given: Parts())
    with pytest.raises(ModelError, match="takes clicks"):
        fretsaw.load(refiner="sam-ref", device="cpu")


def test_whole_numbers_do_not_become_parameters():
    with pytest.raises(StateDictError, match="another kind of number"):
        load_strictly(torch.nn.Linear(2, 3), {"weight": torch.ones(3, 2, dtype=torch.int64), "bias": torch.ones(3)})


def test_numbers_of_half_precision_are_looked_at_too(tmp_path):
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        for value in (float("nan"), float("inf"), -float("inf")):
            tensor = torch.ones(3, 5, dtype=dtype)
            tensor[2, 4] = value
            save_file({"fine": torch.ones(2), "odd": tensor}, tmp_path / "odd.safetensors")
            with pytest.raises(WeightsError, match=r"odd\.safetensors, got NaN or infinity in 1 of 2 tensors: odd"):
                load_state_dict(tmp_path / "odd.safetensors")


def test_every_shipped_file_is_finite():
    for path in Path(str(shipped_path(refiners.SAM_REF.routes[0].files["network"]))).parent.glob("*.safetensors"):
        assert load_state_dict(path)
        assert read_metadata(path) is not None


def test_a_cache_is_read_whatever_its_records_say(tmp_path, monkeypatch):
    cache = own_cache(tmp_path, monkeypatch)
    assert isinstance(cache, Cache)
    path = cache.record_path("sam2-hiera-tiny")
    path.parent.mkdir(parents=True)
    record = {"path": "x", "size": 1, "sha256": "0", "mtime_ns": 1, "version": 1, "identity": "i", "sources": {}, "fretsaw": ""}
    for text in ("", "[]", "5", "null", "{", '{"path": 5}', "[" * 100_000, *(json.dumps({**record, name: [1]}) for name in record)):
        path.write_text(text)
        assert not next(model for model in fretsaw.list_models() if model.name == "sam2-hiera-tiny").present
