"""What a line of the catalogue is made of, and what comes out when it is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fretsaw.weights import Weights

if TYPE_CHECKING:
    from torch import device

    from fretsaw.methods.sam_clicks import SamClicks
    from fretsaw.types import AutomaticCut, Movable, SemanticLabels, SplittingCut, TextLabels


@dataclass(frozen=True, slots=True)
class Parts:
    """What a loaded model can do; None stands for a mode it does not offer.

    Attributes:
        clicks: Takes clicks, boxes and masks.
        automatic: Cuts without any prompt, on the embedding that `clicks` made.
        semantic: image -> LabelMap, with the classes of its training.
        text: (image, names) -> LabelMap.
        taps: What `automatic` and `text` read of the image encoder beside its embedding; a session's embedding holds it.
        zooms: Whether sessions zoom in on small objects (`fretsaw.zoom`) where a user does not say.
    """

    clicks: SamClicks | None = None
    automatic: AutomaticCut | None = None
    semantic: SemanticLabels | None = None
    text: TextLabels | None = None
    taps: tuple[str, ...] = ()
    zooms: bool = False

    @property
    def splitting(self) -> SplittingCut | None:
        """The automatic cut, if it can look for the separate objects in its result."""
        from fretsaw.types import SplittingCut  # brings numpy, which listing models does without

        return self.automatic if isinstance(self.automatic, SplittingCut) else None

    @property
    def movable(self) -> tuple[Movable, ...]:
        """The parts whose networks lie on a device."""
        from fretsaw.types import Movable

        return tuple(part for part in (self.clicks, self.automatic, self.semantic, self.text) if isinstance(part, Movable))

    def to(self, device: device) -> None:
        """Move all networks to a device."""
        for part in self.movable:
            part.to(device)


@dataclass(frozen=True, slots=True)
class Network:
    """A network's weight file, checked, with the name that the catalogue or the user has for it."""

    name: str
    path: Path
    checksum: str


class OtherModels(Protocol):
    """What a builder may ask of the catalogue; it is handed to every builder, so that none imports the catalogue back."""

    def has(self, name: str) -> bool:
        """Whether there is an entry of that name."""
        ...

    def takes_clicks(self, name: str) -> bool:
        """Whether the entry of that name is built from a file of its own; a backbone is not."""
        ...

    def weights_path(self, name: str) -> Path:
        """Return the checked weight file of an entry; fetch it if it is missing."""
        ...

    def underneath(self, path: Path, name: str, size: int | None) -> Parts:
        """Build the model that a trained file stands on, see `standing.build_underneath`."""
        ...

    def of_network(self, network: Network, size: int | None) -> Parts:
        """Build a model that takes clicks, from the catalogue or from a file: SAM, SAM 2, HRSAM, or what a recipe wrote."""
        ...


Builder = Callable[[Path, "int | None", str, OtherModels], Parts]
"""(checked weight file, side of the model's input or None for the model's own, checksum that names the weights, the other models) -> parts."""


Assembler = Callable[[Mapping[str, Network], "int | None", OtherModels], Parts]
"""({role: network}, side of SAM's input or None for its own, the other models) -> parts."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the catalogue.

    Attributes:
        mode: What it is for: "auto", "click", "semantic" and "text", joined by a comma; "backbone" for a network that only other models use.
        weights: Files, licence, origin and size.
        build: Makes the parts; None for a backbone.
        networks: {role: name of an entry} of a model that is made of others' networks; its own weights then hold no file.
        assemble: Makes the parts of such a model.
        needs: Names of other entries whose weights the model needs beside its own: what a trained part stands on, and the network of its automatic cut.
    """

    mode: str
    weights: Weights
    build: Builder | None = None
    networks: Mapping[str, str] = field(default_factory=dict[str, str])
    assemble: Assembler | None = None
    needs: tuple[str, ...] = ()

    @property
    def cuts(self) -> bool:
        """Whether it can be loaded: a backbone cannot."""
        return self.build is not None or self.assemble is not None
