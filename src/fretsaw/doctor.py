"""What this machine offers to Fretsaw: read by a person who wonders why something is slow or missing."""

from __future__ import annotations

import os
import platform
from importlib import metadata, util
from pathlib import Path
from typing import Any, cast

EXTRAS = {
    "convert": ("onnx", "onnxruntime"),
    "dicom": ("pydicom",),
    "evaluate": ("skimage", "matplotlib"),
    "heif": ("pillow_heif",),
    "parquet": ("pyarrow",),
    "serve": ("fastapi", "starlette", "uvicorn", "prometheus_client"),
    "train": ("lightning_fabric", "matplotlib"),
}
"""The modules that each extra brings; tests/test_dependencies.py compares them with pyproject.toml."""

BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})
"""What /proc/cpuinfo calls instructions that multiply bfloat16, on x86 and Arm."""


def examine() -> dict[str, dict[str, Any]]:
    """Return facts by section, in the order to print them."""
    import torch

    from fretsaw import __version__
    from fretsaw.catalog import list_models
    from fretsaw.weights import cache_folder, is_offline

    versions = {name: _version(name) for name in ("torch", "transformers", "numpy", "opencv-python-headless", "onnxruntime")}
    devices: dict[str, Any] = {"cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads used by torch"}
    for index in range(torch.cuda.device_count()):
        properties = cast("Any", torch.cuda).get_device_properties(index)
        devices[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        devices["mps"] = "available"
    if has_bfloat16() is False:
        devices["cpu, bfloat16"] = "warning: this CPU has no instructions for it, so dtype=bfloat16 is slower than float32 here"
    return {
        "fretsaw": {"version": __version__, "python": platform.python_version(), "system": platform.platform()},
        "versions": versions,
        "devices": devices,
        "memory": {"total": _gibibytes("SC_PHYS_PAGES"), "available": _gibibytes("SC_AVPHYS_PAGES")},
        "memory of a click": _memory_of_clicks(),
        "weights": {"cache": str(cache_folder()), "offline": is_offline(), **{m.name: "present" if m.present else "not present" for m in list_models()}},
        "extras": {name: "installed" if all(util.find_spec(module) for module in modules) else "not installed" for name, modules in EXTRAS.items()},
    }


def has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool | None:
    """Whether this CPU multiplies bfloat16 by instructions of its own; None where the system does not say."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return None
    flags = {flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.partition(":")[2].split()}
    return bool(flags & BFLOAT16_FLAGS) if flags else None


def _memory_of_clicks() -> dict[str, str]:
    """What `load(NAME, size=...)` and a click take at the sizes people want, and the largest size that fits into each device."""
    import torch

    from fretsaw import memory
    from fretsaw.methods.hrsam import ANCHOR_SIZE, SIZES, build_hrsam

    kinds = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count())), *(["mps"] if torch.backends.mps.is_available() else [])]
    rows: dict[str, str] = {}
    for letter in SIZES:
        for name, anchor_size in ((f"hrsam-{letter}", None), (f"hrsam++-{letter}", ANCHOR_SIZE)):
            with torch.device("meta"):
                encoder = build_hrsam(letter, anchor_size)
            needs = ", ".join(f"{memory.click_memory(encoder, side, torch.float32) / 2**30:.1f} GiB at {side}" for side in (1024, 2048, 4096))
            limits = {kind: memory.capacity(kind) for kind in kinds}
            largest = {
                kind: memory.largest_side(lambda side, encoder=encoder, kind=kind: memory.click_memory(encoder, side, torch.float32, kind.split(":")[0]), limit)
                for kind, limit in limits.items()
                if limit is not None
            }
            rows[name] = "; ".join([needs, *(f"{kind} holds up to {side}" for kind, side in largest.items())])
    return rows


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _gibibytes(name: str) -> str:
    try:
        return f"{os.sysconf(name) * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"
    except (ValueError, OSError, AttributeError):
        return "unknown"
