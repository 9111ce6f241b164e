"""segment-anything's `sam_model_registry`: its four names, and those of Fretsaw's catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fretsaw import catalog
from fretsaw.errors import ModelError, StateDictError
from fretsaw.methods.sam_clicks import SamClicks

if TYPE_CHECKING:
    from fretsaw.api import Segmenter

PUBLISHED = {"default": "sam-vit-h", "vit_h": "sam-vit-h", "vit_l": "sam-vit-l", "vit_b": "sam-vit-b"}
"""segment-anything's model names -> those of Fretsaw's catalogue."""

WIDTHS = {"sam-vit-b": 768, "sam-vit-l": 1024, "sam-vit-h": 1280}
"""Channels inside the image encoder, by which a checkpoint of another size is recognised."""


class UnknownModelError(ModelError, KeyError):
    """A name that `sam_model_registry` does not hold."""

    __str__ = Exception.__str__  # a KeyError would show the message in quotes


class _Registry(Mapping[str, Callable[..., SamClicks]]):
    """Model name -> function that builds it, `build(checkpoint=None)`. Looking a name up builds and fetches nothing."""

    def __getitem__(self, name: str) -> Callable[..., SamClicks]:
        if name not in list(self):
            raise UnknownModelError(f"expected one of {', '.join(self)}, got {name!r}")
        return partial(build_model, name)

    def __iter__(self) -> Iterator[str]:
        yield from PUBLISHED
        yield from (name for name, entry in catalog.CATALOGUE.items() if "click" in entry.mode)

    def __len__(self) -> int:
        return sum(1 for _ in self)


sam_model_registry: Mapping[str, Callable[..., SamClicks]] = _Registry()
"""segment-anything's four names, and the names of all catalogue models that take clicks."""


def build_model(name: str, checkpoint: str | Path | None = None) -> SamClicks:
    """Build a model of `sam_model_registry`, on the CPU.

    Args:
        name: A name of the registry.
        checkpoint: An original SAM checkpoint (`sam_vit_b_01ec64.pth`), or weights under transformers' names; None takes the catalogue's weights and
            fetches them if they are missing.

    Raises:
        ModelError: If the name is unknown or the model takes no clicks.
        MissingWeightsError: If there is no such file, or the weights are missing and cannot be fetched.
        StateDictError: If the checkpoint is of another size of SAM than the name says, or incomplete.
    """
    if checkpoint is None:
        return clicks_of(catalog.build(PUBLISHED.get(name, name)))
    clicks = clicks_of(catalog.build_file(Path(checkpoint), None))
    expected = WIDTHS.get(PUBLISHED.get(name, name))
    weight = clicks.image_encoder.state_dict().get("patches.weight")
    if expected is not None and (weight is None or len(weight) != expected):
        got = "another kind of network" if weight is None else f"{len(weight)}"
        raise StateDictError(f"expected {name} with {expected} channels in the image encoder, got {got} in {checkpoint}")
    return clicks


def clicks_of(model: SamClicks | Segmenter | catalog.Parts) -> SamClicks:
    """Return the network that takes clicks, whatever it is wrapped in."""
    from fretsaw.api import Segmenter

    parts = model.parts if isinstance(model, Segmenter) else model
    clicks = parts.clicks if isinstance(parts, catalog.Parts) else parts
    if not isinstance(clicks, SamClicks):
        raise ModelError(f"expected a model that takes clicks, from sam_model_registry or fretsaw.load, got {type(model).__name__}")
    return clicks
