"""Read parameters without running anything a file might contain, and put all of them, no more and no fewer, into a network."""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fretsaw.errors import ChecksumError, FretsawError, MemoryLimitError, MissingWeightsError, StateDictError, WeightsError
from fretsaw.weights.checkpoints import DAMAGE, StoredTensor, kind_of, one_line, opened

if TYPE_CHECKING:
    from torch import Tensor, nn

SHOWN = 5
"""How many names an error message lists."""

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Under which names a checkpoint keeps its parameters beside other things."""

LONGEST_NAME = 200
"""Letters of a parameter's name."""

NAMED = "_names_its_file"
"""Marks an error that says which file it is about."""


@contextmanager
def fitting(path: Path, expected: str) -> Iterator[None]:
    """Let whatever a weight file causes while a network is built from it end in one line that names the file.

    A file may hold anything: a number where a matrix is expected, layers without a first one, settings of the wrong type. What is foreseen is checked where it
    is read; the rest ends here, instead of in an exception that speaks of the inside of a network.

    Args:
        path: The file.
        expected: What should be in it, for the message.

    Raises:
        FretsawError: Of the kind that was raised inside, with the file's name before its message if it lacks it.
        StateDictError: In place of any other exception that parameters or metadata cause.
        MemoryLimitError: If there is not enough memory.
    """
    try:
        yield
    except FretsawError as error:
        if hasattr(error, NAMED) or isinstance(error, MissingWeightsError):
            raise
        text = str(error) if str(path) in str(error) else f"{path}: {error}"
        raise _named(type(error)(one_line(text, 900))) from error
    except MemoryError as error:
        raise _named(MemoryLimitError(f"expected the memory for {expected} in {path}, got too little")) from error
    except (*DAMAGE, AssertionError, AttributeError) as error:
        said = f"{type(error).__name__}: {one_line(str(error), 300)}"
        raise _named(StateDictError(one_line(f"expected {expected} in {path}, got parameters or metadata that do not fit ({said})", 900))) from error


def _named(error: FretsawError) -> FretsawError:
    setattr(error, NAMED, True)
    return error


def load_state_dict(path: Path | str) -> dict[str, Tensor]:
    """Read parameters from `.safetensors`, or from a checkpoint of PyTorch (`.pt`, `.pth`, `.bin`, `.ckpt`) of which nothing is run.

    A checkpoint that keeps its parameters in `state_dict`, `model` or `model_state_dict` is unwrapped; whatever lies beside them is left alone, also objects
    of classes that are not installed (see `fretsaw.weights.checkpoints`).

    Args:
        path: The file.

    Returns:
        {name: tensor} on the CPU, all finite.

    Raises:
        MissingWeightsError: If there is no such file.
        ChecksumError: If a safetensors file is damaged.
        WeightsError: If a checkpoint is damaged, or holds anything but tensors in their place.
        StateDictError: If a name cannot be printed, a tensor has no elements, or numbers are not finite or no real ones.
    """
    path = Path(path)
    if not is_file(path):
        raise MissingWeightsError(f"expected a weight file at {one_line(str(path))}, got no such file")
    if path.suffix == ".safetensors":
        state = _load_safetensors(path)
    elif path.suffix in {".pt", ".pth", ".bin", ".ckpt"}:
        state = _load_checkpoint(path)
    else:
        raise WeightsError(f"expected a file that ends in .safetensors, .pt, .pth, .bin or .ckpt, got {path.name}")
    _require_sound(path, state)
    return state


def is_file(path: Path) -> bool:
    """Whether there is such a file; a text that can be no path names none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            json.loads(file.read(length), object_pairs_hook=_once)
        return state
    except (SafetensorError, *DAMAGE, AttributeError) as error:
        raise ChecksumError(f"{path} is truncated, altered or no safetensors file: {one_line(str(error), 300)}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; refuse one that says a name twice, of which a reader would take either."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError("its header holds a name twice")
    return dict(pairs)


def _load_checkpoint(path: Path) -> dict[str, Tensor]:
    with opened(path) as (content, read):
        for wrapper in WRAPPERS:
            if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
                content = content[wrapper]
        if not isinstance(content, dict) or not content:
            what = "an empty mapping" if content == {} else kind_of(content)
            raise WeightsError(f"{path} is refused: expected a mapping from names to tensors, got {what}")
        for name, value in content.items():
            if not isinstance(value, StoredTensor):
                shown = one_line(repr(name), 100)
                raise WeightsError(f"{path} is refused: expected tensors alone beside each other, got {kind_of(value)} under the name {shown}")
        return {str(name): read(value) for name, value in content.items()}


def _require_sound(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse names that would garble a message, and numbers that would show at the first image only."""
    strange = [name for name in state if not name.isprintable() or len(name) > LONGEST_NAME]
    if strange:
        raise StateDictError(f"expected names of parameters in {path}, got {len(strange)} of another kind, such as {one_line(repr(strange[0]), 100)}")
    empty = [name for name, tensor in state.items() if not tensor.numel()]
    if empty:
        raise StateDictError(f"expected tensors with elements in {path}, got none in {len(empty)} of {len(state)} tensors: {_first(empty)}")
    unreal = [name for name, tensor in state.items() if tensor.is_complex() or (tensor.is_floating_point() and tensor.element_size() < 2)]
    if unreal:
        kind = str(state[unreal[0]].dtype).removeprefix("torch.")
        raise StateDictError(f"expected real numbers of 16 bits or more in {path}, got {kind} in {len(unreal)} tensors: {_first(unreal)}")
    odd = [name for name, tensor in state.items() if not _is_finite(tensor)]
    if odd:
        raise StateDictError(f"expected finite numbers in {path}, got NaN or infinity in {len(odd)} of {len(state)} tensors: {_first(odd)}")


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite, as 32-bit ones: least and greatest are, which costs a twentieth of asking each number."""
    import torch

    if not tensor.is_floating_point():
        return True
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor.detach())).float()).all())


def rename(state: Mapping[str, Tensor], key_map: Mapping[str, str], ignore: Collection[str] = ()) -> dict[str, Tensor]:
    """Rename a file's parameters to a network's names.

    Args:
        state: Parameters under the file's names.
        key_map: {file's name: network's name}. A key that ends in a dot stands for all names that begin with it; the longest one that fits is taken, an exact
            name before any prefix. Names that fit none stay.
        ignore: Names, or prefixes that end in a dot, that the network does not have on purpose; they are left out.

    Returns:
        Parameters under the network's names.

    Raises:
        StateDictError: If two parameters would have one name.
    """
    prefixes = sorted((key for key in key_map if key.endswith(".")), key=len, reverse=True)
    left_out = tuple(name for name in ignore if name.endswith("."))
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in ignore or name.startswith(left_out):
            continue
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        target = key_map.get(name) or (key_map[prefix] + name[len(prefix) :] if prefix else name)
        if target in renamed:
            raise StateDictError(f"expected one parameter for each name, got two for {target!r}; the second is {name!r}")
        renamed[target] = tensor
    return renamed


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], key_map: Mapping[str, str] | None = None, ignore: Collection[str] = ()) -> None:
    """Load parameters into a network; every one of its parameters and buffers is set, and nothing is left over.

    Args:
        module: The network. If it is on the meta device it takes the tensors themselves, without a second copy in memory.
        state: Parameters under the file's names.
        key_map: See `rename`.
        ignore: See `rename`.

    Raises:
        StateDictError: If names or shapes differ, or whole numbers stand for fractions; the message names the first few.
    """
    renamed = rename(state, key_map or {}, ignore)
    wanted = module.state_dict()
    missing = sorted(wanted.keys() - renamed.keys())
    unexpected = sorted(renamed.keys() - wanted.keys())
    shapes = [
        f"{name} {tuple(wanted[name].shape)} but {tuple(renamed[name].shape)}"
        for name in sorted(wanted.keys() & renamed.keys())
        if wanted[name].shape != renamed[name].shape
    ]
    kinds = [
        f"{name} {_kind(wanted[name])} but {_kind(renamed[name])}"
        for name in sorted(wanted.keys() & renamed.keys())
        if wanted[name].is_floating_point() and not renamed[name].is_floating_point()
    ]
    faults = [
        *(("missing", missing), ("unexpected", unexpected)),
        *(("of another shape (expected, got)", shapes), ("of another kind of number (expected, got)", kinds)),
    ]
    if missing or unexpected or shapes or kinds:
        said = "; ".join(f"{len(names)} {what}: {_first(names)}" for what, names in faults if names)
        raise StateDictError(f"expected the {len(wanted)} parameters of {type(module).__name__}, got {len(renamed)}: {said}")
    on_meta = any(tensor.is_meta for tensor in wanted.values())
    module.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in renamed.items()}, assign=on_meta)


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _first(names: list[str]) -> str:
    return ", ".join(one_line(name, 120) for name in names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
