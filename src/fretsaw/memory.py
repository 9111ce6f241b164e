"""How much memory a click on a large image takes, known before the work starts: estimates, what the machine has, and the largest side that fits."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from fretsaw.errors import MemoryLimitError

if TYPE_CHECKING:
    import torch

PROCESS = 400 * 2**20
"""Bytes that Python, torch and transformers hold on a CPU before any network, measured."""

DECODER = 18 * 2**20
"""Bytes of SAM's prompt encoder and mask decoder."""

PIXEL = 44
"""Bytes for each pixel of the model's input while the image is brought there, and again while a click is decoded, measured: more than a small encoder needs."""

SIDE_STEP, LARGEST_SIDE = 64, 32768
"""Sides that `largest_side` tries."""

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@runtime_checkable
class EstimatesMemory(Protocol):
    """An image encoder that can say how much memory it needs."""

    def memory(self, side: int, dtype: torch.dtype) -> int:
        """Return the bytes at the peak, parameters included, for a side of the model's input and a dtype of the encoder."""
        ...


def click_memory(encoder: EstimatesMemory, side: int, dtype: torch.dtype, device: str = "cpu") -> int:
    """Return about how many bytes it takes to load a model, open a square image and click.

    Args:
        encoder: Of the model.
        side: Of image and model input, in pixels.
        dtype: Of the encoder.
        device: "cpu", "cuda" or "mps"; on a CPU the process itself and the image count as well.
    """
    beside = PROCESS + 3 * side * side if device == "cpu" else 0
    return max(encoder.memory(side, dtype), encoder.memory(1, dtype) + PIXEL * side * side) + DECODER + beside


def capacity(device: str = "cpu") -> int | None:
    """Return the bytes of memory that a device has in all, under the process's own limit where one is set; None where nobody says.

    Args:
        device: "cpu", "cuda", "cuda:1" or "mps".
    """
    import torch

    if device.startswith("cuda"):
        return int(cast("Any", torch.cuda).get_device_properties(device).total_memory)
    if device.startswith("mps"):
        return torch.mps.recommended_max_memory()
    limits = [int(text) for path in CGROUP_LIMITS if path.is_file() and (text := path.read_text().strip()).isdigit()]
    with suppress(ValueError, OSError, AttributeError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits, default=None)


def largest_side(needed: Callable[[int], int], limit: int) -> int:
    """Return the largest side, a multiple of 64, whose need is within a limit; 0 where even the smallest is not.

    Args:
        needed: Side in pixels -> bytes; never falls as the side grows.
        limit: Bytes.
    """
    low, high = 0, LARGEST_SIDE // SIDE_STEP
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if needed(middle * SIDE_STEP) <= limit else (low, middle - 1)
    return low * SIDE_STEP


def require(needed: Callable[[int], int], side: int, limit: int | None, device: str = "cpu") -> None:
    """Refuse what cannot fit.

    Raises:
        MemoryLimitError: If the side needs more than the limit; the message names the largest side that fits.
    """
    if limit is None or needed(side) <= limit:
        return
    fits = largest_side(needed, limit)
    advice = f"the largest size that fits is {fits}" if fits else "not even the smallest size fits"
    raise MemoryLimitError(
        f"expected a model size whose click fits into the {limit / 2**30:.1f} GiB of {device}, got {side}, which needs about "
        f"{needed(side) / 2**30:.1f} GiB; {advice}"
    )
