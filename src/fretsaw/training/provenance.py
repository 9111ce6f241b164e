"""The settings that a trained file states in its metadata."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def settings_text(config: DataclassInstance) -> str:
    """Return a recipe's settings as JSON. Every path is cut to its last part, so that a published file does not show its maker's folders.

    Args:
        config: A recipe's configuration; texts may hold several paths, separated by commas.
    """
    return json.dumps({name: _last_parts(value) for name, value in asdict(config).items()})


def _last_parts(value: Any) -> Any:
    if not isinstance(value, str) or not ("/" in value or "\\" in value):
        return value
    return ",".join(PurePath(part.replace("\\", "/")).name for part in value.split(","))
