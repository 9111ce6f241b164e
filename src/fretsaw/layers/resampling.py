"""`fretsaw.frames` in torch: for tensors inside networks, where gradients are wanted, and for many masks at once on a device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fretsaw import frames


def resize(values: Tensor, height: int, width: int) -> Tensor:
    """Resample (B, C, H, W) to (B, C, height, width): bilinear, half-pixel centres, anti-aliased along an axis that shrinks."""
    if values.shape[-2:] == (height, width):
        return values
    shrinks = height < values.shape[-2] or width < values.shape[-1]
    return interpolate(values, size=(height, width), mode="bilinear", align_corners=False, antialias=shrinks)


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """`frames.resize_image` in torch's fixed-point arithmetic, three times as fast: (H, W, 3) uint8 to (height, width, 3) uint8.

    Values differ by one level at most from Pillow's. What networks here were trained on and measured with came from this one.
    """
    if image.shape[:2] == (height, width):
        return image
    # a copy, since results are read-only and torch warns of sharing them
    values = torch.as_tensor(np.array(image, order="C")).permute(2, 0, 1)[None]
    return np.ascontiguousarray(resize(values, height, width)[0].permute(1, 2, 0).numpy())


def enlarge_logits(logits: Tensor, frame: frames.Frame) -> Tensor:
    """`frames.logits_to_image` for a tensor (P, M, h, w), which stays on its device: (P, M, H, W) float32."""
    logits = logits.float()
    if logits.device.type == "cpu" and not logits.requires_grad:
        return torch.as_tensor(frames.logits_to_image(logits.numpy(), frame))  # many times faster on a CPU
    if frame.padded:
        logits = _interpolated(logits, frame.size, frame.size)[..., : frame.content_height, : frame.content_width]
    return _interpolated(logits, frame.height, frame.width)


def _interpolated(logits: Tensor, height: int, width: int) -> Tensor:
    """Resample logits between pixel centres without anti-aliasing."""
    return logits if logits.shape[-2:] == (height, width) else interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
