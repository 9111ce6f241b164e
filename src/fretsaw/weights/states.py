"""Read parameters without running anything a file might contain, and put all of them, no more and no fewer, into a network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fretsaw.errors import ChecksumError, MissingWeightsError, StateDictError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

SHOWN = 5
"""How many names an error message lists."""


def load_state_dict(path: Path | str) -> dict[str, Tensor]:
    """Read parameters from `.safetensors`, or from a pickle (`.pt`, `.pth`, `.bin`, `.ckpt`) with weights-only loading.

    A checkpoint that wraps its parameters in `state_dict`, `model` or `model_state_dict` is unwrapped.

    Args:
        path: The file.

    Returns:
        {name: tensor} on the CPU.

    Raises:
        MissingWeightsError: If there is no such file.
        ChecksumError: If a safetensors file is damaged.
        WeightsError: If a pickle holds anything but tensors, such as code; nothing of it is run.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingWeightsError(f"expected a weight file at {path}, got no such file")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    if path.suffix in {".pt", ".pth", ".bin", ".ckpt"}:
        return _load_pickle(path)
    raise WeightsError(f"expected a file that ends in .safetensors, .pt, .pth, .bin or .ckpt, got {path.name}")


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise ChecksumError(f"{path} is truncated, altered or no safetensors file: {error}") from error


def _load_pickle(path: Path) -> dict[str, Tensor]:
    import pickle

    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise WeightsError(f"{path} is refused: expected tensors alone, got code or a damaged file ({str(error).strip().splitlines()[0]})") from error
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise WeightsError(f"{path} is refused: expected a mapping from names to tensors, got {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


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
        StateDictError: If names or shapes differ; the message names the first few.
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
    faults = [("missing", missing), ("unexpected", unexpected), ("of another shape (expected, got)", shapes)]
    if missing or unexpected or shapes:
        said = "; ".join(f"{len(names)} {what}: {_first(names)}" for what, names in faults if names)
        raise StateDictError(f"expected the {len(wanted)} parameters of {type(module).__name__}, got {len(renamed)}: {said}")
    on_meta = any(tensor.is_meta for tensor in wanted.values())
    module.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in renamed.items()}, assign=on_meta)


def _first(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
