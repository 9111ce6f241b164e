"""SECURITY.md states limits that the code has."""

from __future__ import annotations

import dataclasses
import re
from importlib import import_module
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parents[1] / "SECURITY.md").read_text()
LIMITS = re.findall(r"^\| [^|]+ \| (\d+) \| `([\w.]+)` \|$", TEXT, re.M)


def value_of(name: str) -> float:
    """The value of a module's constant, or the default of a dataclass's field, by its full name."""
    place, _, last = name.rpartition(".")
    if place.rpartition(".")[2][0].isupper():
        module, _, kind = place.rpartition(".")
        [default] = [field.default for field in dataclasses.fields(getattr(import_module(module), kind)) if field.name == last]
        return default
    return getattr(import_module(place), last)


@pytest.mark.parametrize(("value", "name"), LIMITS, ids=[name for _, name in LIMITS])
def test_stated_limits_are_those_of_the_code(value, name):
    assert float(value) == value_of(name)


def test_there_are_limits():
    assert len(LIMITS) >= 10


def test_the_documents_that_it_points_to_exist():
    root = Path(__file__).resolve().parents[1]
    for path in re.findall(r"\]\(([^)#]+)", TEXT) + re.findall(r"`((?:tests|docs)/[\w./]+)`", TEXT):
        assert (root / path).exists(), path
