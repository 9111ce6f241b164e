"""How published files in another format become parameters under this package's names; the table names one of these for each such file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fretsaw.weights import load_state_dict

if TYPE_CHECKING:
    from torch import Tensor


def convert_hrsam(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """Read HRSAM's published checkpoint, or a model of one's own training."""
    from fretsaw.methods.hrsam import from_published_model

    state = load_state_dict(files["network"])
    return state if any(name.startswith("image_encoder.") for name in state) else from_published_model(state)


def convert_sam2(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """Read SAM 2 out of its published ONNX graphs."""
    from fretsaw.backbones.sam2_onnx import convert_onnx

    return convert_onnx(files["encoder"], files["decoder"])


def convert_u2netp(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """Read the small U²-Net out of its published ONNX graph."""
    from fretsaw.backbones.u2net import compact, convert_onnx

    return compact(convert_onnx(files["network"]))


def convert_efficientnet_lite0(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """Read EfficientNet-Lite0 out of its published checkpoint."""
    from fretsaw.backbones.efficientnet_lite import convert

    load_state_dict(files["network"])  # what is no sound checkpoint is refused here, in one line
    return convert(files["network"])
