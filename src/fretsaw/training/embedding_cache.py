"""Image embeddings on disk in half precision: computed once by a teacher, read back by many workers, continued after a kill.

    folder/
      identity.json     which model and preprocessing made them
      index.jsonl       one line a shard: its file, SHA-256 and keys; a shard without a line does not exist
      shard-00000.safetensors ...

An embedding's key names the image's pixels and the view of them, so that a changed photo is not taken for the old one.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fretsaw.errors import ChecksumError, ConfigError
from fretsaw.images import write_bytes
from fretsaw.types import ImageEmbedding

SHARD_VIEWS = 16
"""Embeddings in one file."""


class EmbeddingCache:
    """A folder of embeddings made by one model.

    Args:
        folder: Made if it does not exist.
        model: Checksum of the weights.
        preprocessing: `Preprocessing.key`.

    Raises:
        ConfigError: If the folder holds the embeddings of another model or preprocessing.
    """

    def __init__(self, folder: Path, model: str, preprocessing: str) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        identity = {"model": model, "preprocessing": preprocessing}
        path = folder / "identity.json"
        if path.exists() and (found := json.loads(path.read_text())) != identity:
            raise ConfigError(f"expected the embeddings of {identity} in {folder}, got those of {found}; use another folder")
        if not path.exists():
            write_bytes(path, json.dumps(identity).encode())  # at once: other processes may open the folder at this moment
        self._shards = list(_read_index(folder))
        self._places = {key: shard["file"] for shard in self._shards for key in shard["keys"]}
        self._open: dict[str, Any] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # a worker opens the files for itself

    def get(self, key: str) -> ImageEmbedding:
        """Return an embedding as float32.

        Raises:
            KeyError: If it is not there; see `fill`.
        """
        from safetensors import safe_open

        name = self._places[key]
        if name not in self._open:
            self._open[name] = safe_open(self._folder / name, framework="pt")
        file = self._open[name]
        prefix = f"{key}/high_res."
        levels = sorted(tensor for tensor in file.keys() if tensor.startswith(prefix))  # noqa: SIM118 (safe_open is no mapping)
        prefix = f"{key}/taps."
        taps = {name.removeprefix(prefix): file.get_tensor(name).float() for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118 (the same)
        return ImageEmbedding(file.get_tensor(f"{key}/final").float(), tuple(file.get_tensor(level).float() for level in levels), taps)

    def fill(self, keys: Iterable[str], compute: Callable[[str], ImageEmbedding], done: Callable[[], None] = lambda: None) -> int:
        """Compute and store what is missing; a kill loses at most one unfinished shard.

        Args:
            keys: All keys that are wanted; taken one by one, so a generator may bring what `compute` needs along.
            compute: Maps a key to its embedding, B = 1.
            done: Called after each key that was computed.

        Returns:
            How many were computed.
        """
        pending: dict[str, ImageEmbedding] = {}
        computed = 0
        for key in keys:
            if key in self or key in pending:
                continue
            pending[key] = compute(key)
            computed += 1
            done()
            if len(pending) == SHARD_VIEWS:
                self._write(pending)
                pending = {}
        if pending:
            self._write(pending)
        return computed

    def missing(self, keys: Iterable[str]) -> int:
        """Return how many of some keys are not there yet."""
        return sum(key not in self for key in keys)

    def verify(self) -> None:
        """Read every shard from end to end.

        Raises:
            ChecksumError: If one was altered or is missing; the message names it.
        """
        for shard in self._shards:
            path = self._folder / shard["file"]
            found = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "no file"
            if found != shard["sha256"]:
                raise ChecksumError(f"{path}: expected SHA-256 {shard['sha256'][:16]}..., got {found[:16]}; remove its line from index.jsonl to make it anew")

    def _write(self, embeddings: Mapping[str, ImageEmbedding]) -> None:
        from safetensors.torch import save

        tensors: dict[str, Tensor] = {}
        for key, embedding in embeddings.items():
            tensors[f"{key}/final"] = embedding.final.detach().cpu().to(torch.float16).contiguous()
            for i, level in enumerate(embedding.high_res):
                tensors[f"{key}/high_res.{i}"] = level.detach().cpu().to(torch.float16).contiguous()
            for tap, value in embedding.taps.items():
                tensors[f"{key}/taps.{tap}"] = value.detach().cpu().to(torch.float16).contiguous()
        content = save(tensors)
        name = f"shard-{len(self._shards):05d}.safetensors"
        write_bytes(self._folder / name, content)
        shard = {"file": name, "sha256": hashlib.sha256(content).hexdigest(), "keys": list(embeddings)}
        with (self._folder / "index.jsonl").open("a") as index:
            index.write(json.dumps(shard) + "\n")
        self._shards.append(shard)
        self._places.update(dict.fromkeys(embeddings, name))


def _read_index(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the shards that are complete: a line cut short by a kill, or one whose file is gone, ends the list."""
    path = folder / "index.jsonl"
    kept: list[str] = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            shard = json.loads(line)
        except ValueError:
            break
        if not (folder / shard["file"]).exists():
            break
        kept.append(line)
        yield shard
    if path.exists():
        path.write_text("".join(line + "\n" for line in kept))


def counted(total: int, say: Callable[[str], None], every: int = 50) -> Callable[[], None]:
    """Return a callback for `EmbeddingCache.fill` that reports progress after every few keys and after the last one.

    Args:
        total: How many will be computed.
        say: Told in words.
        every: Keys between two words.
    """
    numbers = itertools.count(1)

    def done() -> None:
        number = next(numbers)
        if number % every == 0 or number == total:
            say(f"{number} of {total} views are encoded")

    return done
