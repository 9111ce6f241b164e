"""The precision of a training run, by the name in its settings."""

from __future__ import annotations

import torch

from fretsaw.errors import ConfigError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""What a frozen network may compute in, and autocast in what is trained."""


def precision_named(name: str) -> torch.dtype:
    """Return the dtype that a setting names.

    Raises:
        ConfigError: If there is no such precision.
    """
    if name not in PRECISIONS:
        raise ConfigError(f"dtype: expected one of {', '.join(PRECISIONS)}, got {name!r}")
    return PRECISIONS[name]


def autocast(device: str | torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return a context in which matrix products run in a lower precision; float32 changes nothing."""
    return torch.autocast(torch.device(device).type, dtype if dtype != torch.float32 else torch.bfloat16, enabled=dtype != torch.float32)
