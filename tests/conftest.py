"""Fixtures that several test files share: where the golden figures and data lie, and a seed for everything random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tools import pytest_terminal_summary as pytest_terminal_summary  # a hook of pytest: counts what was skipped

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with golden figures and image sets beside the checkout; a user's clone has none."""
    if not (SHARED / "golden").is_dir():
        pytest.skip("needs the folder ../shared with golden figures and image sets, which is not part of the repository")
    return SHARED


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def published():
    """Return a function that gives the path of a published network's weights, or skips the test, naming what is absent; nothing is downloaded."""

    def path_of(name: str) -> Path:
        from fretsaw import catalog
        from fretsaw.weights import Cache, locate

        path = locate(catalog.find(name).weights, Cache())
        if path is None:
            pytest.skip(f"needs the published weights of {name}: fretsaw models pull {name}")
        return path

    return path_of
