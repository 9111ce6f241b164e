"""Read the tensors of a PyTorch checkpoint (`.pt`, `.pth`, `.bin`, `.ckpt`) without running anything that the file holds.

A checkpoint is raw numbers beside a pickle, which is a small program: it may name any function of any module and have it called. `torch.load` either runs
that program or stops at the first class that it does not know, and a training framework's checkpoint holds many: mmengine's runner keeps its logs, its
schedulers and its optimiser beside the parameters. Here the program is read step by step (`Program`); nothing is ever imported, called or given attributes.

What is understood, by name:

- plain values: numbers, texts, bytes, None, lists, tuples, sets and dictionaries, `collections.OrderedDict` and `torch.Size` among them;
- tensors: `torch._utils._rebuild_tensor`, `_rebuild_tensor_v2`, `_rebuild_tensor_v3`, `_rebuild_parameter`, `_rebuild_parameter_with_state` and
  `torch._tensor._rebuild_from_type_v2` around one of them. Each becomes a `StoredTensor`, which says where in the file its numbers lie;
- storages and number types of torch, as names.

Everything else, whatever it is called, becomes an `Opaque` value that remembers its name for messages and nothing more: an unknown class or function, what
the file wants it to return, its state and its items. Numbers are read only for the tensors that somebody asks for, so an optimiser's state costs nothing.

Both formats of `torch.save` are read: the zip archive, and the older stream that begins with torch's own number. Plain pickles, and the tar archives of
torch before 0.2, are refused.
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from fretsaw.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

STEPS = 2_000_000
"""Steps of a pickle's program that are read; a checkpoint of a large network with its optimiser has a few hundred thousand."""

SPREAD = 1 << 16
"""Elements that a tensor may have beyond those of its storage: one stored number may stand for many, and a file of a few bytes for terabytes."""

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""The numbers at the beginning of the older format."""

DAMAGE = (ArithmeticError, EOFError, LookupError, NotImplementedError, OSError, RuntimeError, TypeError, ValueError, struct.error, zipfile.BadZipFile)
"""What reading a damaged or hostile file may end in."""

NUMBERS = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}
"""{name of a storage: name of its numbers}."""

WIDTHS = {
    **{"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1},
    **{"uint16": 2, "uint32": 4, "uint64": 8},
}
"""{name of a number: its bytes}. What is not here is no parameter of a network: complex, quantised and eight-bit floating numbers."""

OTHER_WIDTHS = {"ComplexFloatStorage": 8, "ComplexDoubleStorage": 16, "QInt32Storage": 4, "QInt8Storage": 1, "QUInt8Storage": 1}
"""{name of a storage whose tensors are not read: bytes of its numbers}, so that what follows it can be found."""

PLAIN = (str, bytes, int, float, type(None))
"""What a dictionary's keys may be; all others are replaced by an `Opaque`, since a key of many nested tuples would exhaust the stack."""


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """A value of a kind that is not understood; `name` is its class or function, with the module."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A block of numbers in the file.

    Attributes:
        key: Names it in the file.
        kind: Its class in torch, without the module.
        count: How many numbers.
        first: Which number of the block is its first one, for a part of another storage.
    """

    key: str
    kind: str
    count: int
    first: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A tensor whose numbers have not been read: element (i, j, ...) is number `offset` + i `stride`[0] + j `stride`[1] ... of the storage.

    Attributes:
        storage: Where its numbers lie.
        numbers: The name of torch's type of number, or of the storage's kind where that is not read.
        offset: Of its first number.
        shape: Elements along each axis.
        stride: Numbers from one element to the next, along each axis.
    """

    storage: Storage
    numbers: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


Read = Callable[[StoredTensor], "Tensor"]
"""Reads a tensor's numbers; the file must still be open."""


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Read]]:
    """Give what a checkpoint holds, and the function that reads a tensor's numbers.

    Args:
        path: The file.

    Yields:
        The content: plain values with `StoredTensor` and `Opaque` inside, and the function.

    Raises:
        WeightsError: If the file is no checkpoint of PyTorch, or damaged; also where that shows when a tensor is read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            yield (_zip if start == b"PK\x03\x04" else _stream)(file)
    except DAMAGE as error:
        raise WeightsError(
            f"{path} is refused: expected a checkpoint of PyTorch, got a damaged file or another kind ({one_line(str(error)) or type(error).__name__})"
        ) from error


def one_line(text: str, length: int = 600) -> str:
    """Return a text as one line that can be printed anywhere: names in a file may hold line ends, lone surrogates or a megabyte."""
    line = "".join(letter if letter.isprintable() else " " for letter in text[: 2 * length])
    return line if len(line) <= length else line[: length - 4] + " ..."


def kind_of(value: object) -> str:
    """Return in words what a value of a checkpoint is."""
    names = {StoredTensor: "a tensor", dict: "a mapping", list: "a list", tuple: "a tuple", str: "a text", type(None): "None"}
    return f"an object of {value.name}" if isinstance(value, Opaque) else names.get(type(value), f"a value of {type(value).__name__}")


# --- the two formats ---


def _zip(file: BinaryIO) -> tuple[Any, Read]:
    """Read the archive that `torch.save` has written since version 1.6: the program in `NAME/data.pkl`, each storage a member `NAME/data/KEY`."""
    left = file.seek(0, io.SEEK_END)
    bundle = zipfile.ZipFile(file)
    members = {info.filename: info for info in bundle.infolist()}
    if len(members) != len(bundle.infolist()):
        raise ValueError("two members of the archive have the same name")
    programs = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(programs) != 1:
        raise ValueError(f"expected one member NAME/data.pkl in the archive, got {len(programs)}")
    folder = programs[0].removesuffix("data.pkl")

    def member(name: str) -> bytes:
        nonlocal left
        if name not in members:
            raise ValueError(f"the archive lacks its member {name!r:.80}")
        info = members[name]
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise ValueError("its members are compressed; torch.save stores them as they are")
        left -= info.file_size  # members that overlap make a large file of a small one
        if left < 0:
            raise ValueError("its members are larger than the file")
        with bundle.open(info) as stream:
            return stream.read()

    if folder + "byteorder" in members:
        _require_order(member(folder + "byteorder").strip() == b"little")
    content = Program(io.BytesIO(member(programs[0]))).run()
    blocks: dict[str, bytearray] = {}

    def read(tensor: StoredTensor) -> Tensor:
        key = tensor.storage.key
        if key not in blocks:
            blocks[key] = bytearray(member(f"{folder}data/{key}"))
        return _tensor(tensor, blocks[key])

    return content, read


def _stream(file: BinaryIO) -> tuple[Any, Read]:
    """Read the format before that: five programs (torch's number, the version, the machine, the content, the storages' keys), then the storages."""
    bounded = _Bounded(file)
    if bounded.size == 0:
        raise ValueError("it is empty")
    if Program(bounded).run() != MAGIC or Program(bounded).run() != PROTOCOL:
        raise ValueError("it begins with another pickle than torch's own number; torch.save writes it")
    machine, program = Program(bounded).run(), Program(bounded)
    content, keys = program.run(), Program(bounded).run()
    _require_order(not isinstance(machine, dict) or machine.get("little_endian") is not False)
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in program.storages for key in keys):
        raise ValueError("it names other storages at its end than in its content")
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        (count,) = struct.unpack("<q", bounded.read(8))
        places[key] = (file.tell(), count * _width(program.storages[key].kind))
        if count < 0 or sum(places[key]) > bounded.size:
            raise ValueError(f"it is truncated: expected {count} numbers of storage {key!r:.40}")
        file.seek(sum(places[key]))
    blocks: dict[str, bytearray] = {}

    def read(tensor: StoredTensor) -> Tensor:
        key = tensor.storage.key
        if key not in blocks:
            file.seek(places[key][0])
            blocks[key] = bytearray(file.read(places[key][1]))
        return _tensor(tensor, blocks[key])

    return content, read


class _Bounded:
    """A stream that reads no more than there is: `file.read(n)` sets n bytes aside first, whatever the file's size."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.size = file, file.seek(0, io.SEEK_END)
        file.seek(0)

    def read(self, count: int) -> bytes:
        return self.file.read(min(count, self.size - self.file.tell()))

    def readline(self) -> bytes:
        return self.file.readline()


def _require_order(little: bool) -> None:
    if not little:
        raise ValueError("its numbers begin with their highest byte; save it on another machine")


def _width(kind: str) -> int:
    if kind not in NUMBERS and kind not in OTHER_WIDTHS:
        raise ValueError(f"unknown storage {kind}")
    return WIDTHS[NUMBERS[kind]] if kind in NUMBERS else OTHER_WIDTHS[kind]


def _tensor(tensor: StoredTensor, block: bytearray) -> Tensor:
    """Return a tensor over a storage's bytes, which it shares with others over the same storage."""
    import torch

    storage, last = tensor.storage, tensor.offset + sum((side - 1) * step for side, step in zip(tensor.shape, tensor.stride, strict=True))
    if tensor.numbers not in WIDTHS:
        raise ValueError(f"expected real numbers, got a tensor of {tensor.numbers}")
    width, count = WIDTHS[tensor.numbers], math.prod(tensor.shape)
    numbers = storage.count * _width(storage.kind) // width
    if (storage.first * _width(storage.kind)) + numbers * width > len(block):
        raise ValueError(f"storage {storage.key!r:.40} is truncated: expected {storage.count} numbers, got {len(block)} bytes")
    if (count and last >= numbers) or count > numbers + SPREAD:
        raise ValueError(f"a tensor {tensor.shape} reaches beyond its storage of {numbers} numbers")
    if not count:
        return torch.empty(tensor.shape, dtype=getattr(torch, tensor.numbers))
    kind = torch.uint8 if tensor.numbers == "bool" else getattr(torch, tensor.numbers)
    flat = torch.frombuffer(block, dtype=kind, count=numbers, offset=storage.first * _width(storage.kind))
    return torch.as_strided(flat != 0 if tensor.numbers == "bool" else flat, tensor.shape, tensor.stride, tensor.offset)


# --- the program ---


class Program:
    """Runs one pickle as data: its steps build plain values, `StoredTensor` and `Opaque`, and nothing else.

    Args:
        stream: Has `read` and `readline`; afterwards it stands behind the pickle.

    Attributes:
        storages: {key: storage} of all that it names.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self) -> Any:
        """Return what the pickle stands for.

        Raises:
            ValueError: If it is damaged, or takes more than `STEPS` steps; or another of `DAMAGE`.
        """
        for count, (step, argument, _) in enumerate(pickletools.genops(self.stream)):
            if count > STEPS:
                raise ValueError(f"its pickle takes more than {STEPS} steps")
            if step.name in PUSHED:
                self.stack.append(argument)
            elif step.name in VALUES:
                self.stack.append(VALUES[step.name]())
            elif step.name in TUPLES:
                self._tuple(TUPLES[step.name])
            elif step.name not in IGNORED:
                method = getattr(self, f"_{step.name.lower()}", None)
                if method is None:
                    raise ValueError(f"its pickle takes the unknown step {step.name}")
                method(argument)
        return self.stack.pop()

    # each of the steps below is the method of that name in lower case

    def _stop(self, _: Any) -> None:
        if len(self.stack) != 1 or self.below:
            raise ValueError("its pickle ends with more or less than one value")

    def _mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _marked(self) -> list[Any]:
        marked, self.stack = self.stack, self.below.pop()
        return marked

    def _pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._marked()

    def _pop_mark(self, _: Any) -> None:
        self._marked()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _tuple(self, count: int | None) -> None:
        if count is None:
            marked = tuple(self._marked())
            self.stack.append(marked)
        else:
            self.stack[-count:] = [tuple(self._last(count))]

    def _last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("its pickle takes a value that is not there")
        return self.stack[-count:]

    def _list(self, _: Any) -> None:
        marked = self._marked()
        self.stack.append(marked)

    _frozenset = _list
    """Sets are read as lists."""

    def _append(self, _: Any) -> None:
        value = self.stack.pop()
        self._extend([value])

    def _appends(self, _: Any) -> None:
        self._extend(self._marked())

    _additems = _appends

    def _extend(self, values: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)
        elif not isinstance(self.stack[-1], Opaque):
            raise TypeError(f"its pickle adds items to {kind_of(self.stack[-1])}")

    def _dict(self, _: Any) -> None:
        values = self._marked()
        self.stack.append({})
        self._set(values)

    def _setitem(self, _: Any) -> None:
        values = self._last(2)
        del self.stack[-2:]
        self._set(values)

    def _setitems(self, _: Any) -> None:
        self._set(self._marked())

    def _set(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            _fill(target, zip(values[::2], values[1::2], strict=True))
        elif not isinstance(target, Opaque):
            raise TypeError(f"its pickle sets items of {kind_of(target)}")

    def _get(self, number: int) -> None:
        self.stack.append(self.memo[number])

    _binget = _long_binget = _get

    def _put(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _global(self, name: str) -> None:
        self.stack.append(Opaque(one_line(name.replace(" ", ".", 1), 120)))

    def _stack_global(self, _: Any) -> None:
        module, name = self._last(2)
        del self.stack[-2:]
        self._global(f"{module} {name}" if isinstance(module, str) and isinstance(name, str) else "an unnamed class")

    def _ext1(self, number: int) -> None:
        self._global(f"extension {number}")

    _ext2 = _ext4 = _ext1

    def _reduce(self, _: Any) -> None:
        function, arguments = self._last(2)
        self.stack[-2:] = [self._made(function, arguments)]

    _newobj = _reduce

    def _newobj_ex(self, _: Any) -> None:
        self.stack.pop()
        self._reduce(None)

    def _obj(self, _: Any) -> None:
        function, *arguments = self._marked()
        self.stack.append(self._made(function, tuple(arguments)))

    def _inst(self, name: str) -> None:
        arguments = self._marked()
        self._global(name)
        self.stack.append(self._made(self.stack.pop(), tuple(arguments)))

    def _build(self, _: Any) -> None:
        # the state of an object: nothing that is understood has one
        del self.stack[-1:]
        self._last(1)

    def _persid(self, name: Any) -> None:
        self.stack.append(name)
        self._binpersid(None)

    def _binpersid(self, _: Any) -> None:
        """Read what stands outside the pickle: a storage, as ("storage", kind, key, device, count) and perhaps (key, first, count) of the part it is."""
        named = self.stack.pop()
        if not (isinstance(named, tuple) and len(named) >= 5 and named[0] == "storage" and isinstance(named[1], Opaque)):
            self.stack.append(Opaque("something outside the pickle"))
            return
        (kind, key, _, count), (part, *_) = named[1:5], (*named[5:], None)
        if not isinstance(key, str) or not _natural(count):
            raise ValueError("its pickle names a storage without a key or a size")
        storage = Storage(key, kind.name.rpartition(".")[2], count)
        self.storages.setdefault(key, storage)
        if part is not None:
            if not (isinstance(part, tuple) and len(part) == 3 and _natural(part[1]) and _natural(part[2])):
                raise ValueError("its pickle names a part of a storage without a place")
            storage = Storage(key, storage.kind, part[2], part[1])
        self.stack.append(storage)

    def _made(self, function: Any, arguments: Any) -> Any:
        """Return what a function of that name makes of its arguments; nothing is called."""
        if not isinstance(function, Opaque) or not isinstance(arguments, tuple):
            return Opaque("an unnamed class")
        name = function.name
        if name == "collections.OrderedDict":
            return _fill({}, arguments[0] if arguments and isinstance(arguments[0], list) else [])
        if name == "torch.Size" and arguments and isinstance(arguments[0], tuple | list):
            return tuple(arguments[0])
        if name == "torch._tensor._rebuild_from_type_v2" and len(arguments) > 2:
            return self._made(arguments[0], arguments[2])
        if name in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state") and arguments and isinstance(arguments[0], StoredTensor):
            return arguments[0]
        if name in TENSORS and len(arguments) >= 4 and isinstance(arguments[0], Storage):
            kind = arguments[6] if name == "torch._utils._rebuild_tensor_v3" and len(arguments) > 6 else None
            return _stored(*arguments[:4], kind.name.removeprefix("torch.") if isinstance(kind, Opaque) else None)
        return function


TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3")

IGNORED = {"PROTO", "FRAME"}

PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
"""Steps whose argument is the value."""

VALUES: dict[str, Callable[[], Any]] = {
    **{"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False},
    **{"EMPTY_LIST": list, "EMPTY_SET": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict},
}
"""Steps without an argument that make a value."""

TUPLES = {"TUPLE": None, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
"""Steps that join values to a tuple: how many, None for those since the last mark."""


def _fill(target: dict[Any, Any], pairs: Iterable[Any]) -> dict[Any, Any]:
    for key, value in pairs:
        plain = key if isinstance(key, PLAIN) else Opaque(kind_of(key))
        if plain in target:
            raise ValueError(f"it holds two values for the name {one_line(repr(plain), 100)}")
        target[plain] = value
    return target


def _natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _stored(storage: Storage, offset: Any, shape: Any, stride: Any, numbers: str | None) -> StoredTensor:
    if not (isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride) and all(map(_natural, (offset, *shape, *stride)))):
        raise ValueError("its pickle describes a tensor without a shape")
    return StoredTensor(storage, numbers or NUMBERS.get(storage.kind, storage.kind), offset, shape, stride)
