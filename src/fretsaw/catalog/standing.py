"""What a trained file stands on: most recipes write only what they trained, and name in the metadata the model that the rest comes from."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fretsaw.catalog.entries import Parts
from fretsaw.errors import MissingWeightsError, ModelError, shown
from fretsaw.weights import read_metadata
from fretsaw.weights.states import is_file

NAMES = {"pmg_sam": "encoder", "sam_ref": "model", "hrsam_lite": "base", "fretsaw_hr": "base"}
"""{recipe: under which name the metadata of its files name the model underneath}; GrC-SAM's do so inside `grc_sam`, other recipes' files are whole."""


def name_underneath(path: Path) -> str:
    """Return the name, or the path, of the model that a file stands on; "" where it names none.

    Raises:
        WeightsError: If it is no safetensors file.
    """
    metadata = read_metadata(path) if path.suffix == ".safetensors" else {}
    with suppress(KeyError, ValueError, RecursionError, TypeError):
        return str(json.loads(metadata["grc_sam"])["base"])
    return metadata.get(NAMES.get(metadata.get("recipe", ""), ""), "")


def build_underneath(path: Path, name: str, size: int | None, *, known: Callable[[str], bool], build: Callable[[str, int | None], Parts]) -> Parts:
    """Build the model that a trained file stands on.

    Args:
        path: The trained file.
        name: A name of the catalogue, or the path of another file.
        size: Side of the model's input in pixels; None for the model's own.
        known: Whether the catalogue has an entry of a name.
        build: (name or path, size) -> parts.

    Returns:
        Its parts; it takes clicks.

    Raises:
        ModelError: If there is no such model, if it takes no clicks, or if the file stands on itself.
        WeightsError: If the model's weights are missing and cannot be fetched, or damaged.
    """
    chain, below = [path.resolve()], name
    while not known(below) and is_file(Path(below)):
        chain.append(Path(below).resolve())
        if chain[-1] in chain[:-1]:
            raise ModelError(f"expected {path} to stand on a model, got {shown(name)}, which stands on it again")
        below = name_underneath(chain[-1])
    try:
        parts = build(name, size)
    except MissingWeightsError as error:
        raise MissingWeightsError(f"{path} stands on {shown(name)}: {error}") from error
    except ModelError as error:
        raise ModelError(f"expected a model that {path} stands on, got {shown(name)}: {error}") from error
    if parts.clicks is None:
        raise ModelError(f"expected a model that takes clicks in the metadata of {path}, got {shown(name)}")
    return parts
