"""What a trained file says about how it was made."""

from __future__ import annotations

import json
from dataclasses import dataclass

from fretsaw.training.provenance import settings_text


@dataclass
class Config:
    data: str = "/home/someone/photos/ccp,C:\\sets\\human_seg"
    model: str = "sam2-hiera-tiny"
    weights: tuple[float, ...] = (1.0, 0.25)
    steps: int = 3


def test_settings_keep_names_and_lose_folders():
    assert json.loads(settings_text(Config())) == {"data": "ccp,human_seg", "model": "sam2-hiera-tiny", "weights": [1.0, 0.25], "steps": 3}
