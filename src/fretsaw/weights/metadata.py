"""What a safetensors file says about itself, and values out of it that are of the expected kind.

A file's metadata say how large a network is to be built. So they are checked before anything is built: a number too large would take all memory, or for ever.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fretsaw.errors import ConfigError, ModelError, WeightsError
from fretsaw.weights.checkpoints import DAMAGE, one_line

SIDES = (32, 8192)
"""Between these lies the side of a model's input, in pixels."""


def read_metadata(path: Path) -> dict[str, str]:
    """Return what a safetensors file says about itself: sources with checksums, converter and Fretsaw versions.

    Raises:
        WeightsError: If it is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except (SafetensorError, *DAMAGE) as error:
        raise WeightsError(f"expected a safetensors file at {path}, got another kind or a damaged one ({one_line(str(error))})") from error


def stated(path: Path, metadata: Mapping[str, str], whose: str, *names: str) -> list[str]:
    """Return what a file says under some names.

    Args:
        path: The file.
        metadata: Of the file.
        whose: What they are stated of, for the message.
        names: The names.

    Raises:
        ModelError: If it says nothing under one of them.
    """
    missing = [name for name in names if not metadata.get(name)]
    if missing:
        known = one_line(", ".join(metadata), 100)
        raise ModelError(f"expected {whose} {' and '.join(missing)} in the metadata of {path}, which fretsaw train writes; got {known or 'no metadata'}")
    return [metadata[name] for name in names]


def read_object(text: str, what: str) -> dict[str, Any]:
    """Return a JSON object.

    Args:
        text: JSON.
        what: Whose it is, for the message.

    Raises:
        ConfigError: If it is no JSON, or anything but an object.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ConfigError(f"{what}: expected a JSON object, got {one_line(text, 100)!r}")
    return value


def check_numbers(what: str, values: Mapping[str, Any], limits: Mapping[str, tuple[int, int]]) -> None:
    """Refuse numbers that no network has.

    Args:
        what: Whose they are, for the message.
        values: A whole number, or a list of some, under each name; names that are absent are not looked at.
        limits: {name: least and greatest}.

    Raises:
        ConfigError: If one is no whole number, or lies outside its limits.
    """
    for name, (least, greatest) in limits.items():
        given = values.get(name, least)
        for value in given if isinstance(given, list | tuple) else [given]:
            if type(value) is not int or not least <= value <= greatest:
                raise ConfigError(f"{what}: expected {name} as whole numbers from {least} to {greatest}, got {one_line(repr(given), 80)}")


def stated_side(path: Path, metadata: Mapping[str, str], name: str = "size") -> int:
    """Return the side of a model's input that a file states, in pixels.

    Raises:
        ModelError: If it states none.
        ConfigError: If it is no side of a model's input.
    """
    (text,) = stated(path, metadata, "the model's", name)
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text
    check_numbers(f"the metadata of {path}", {name: value}, {name: SIDES})
    return int(text)
