"""What this machine offers to Fretsaw: read by a person who wonders why something is slow or missing."""

from __future__ import annotations

import os
import platform
from importlib import metadata, util
from typing import Any

EXTRAS = {
    "convert": ("onnx", "onnxruntime"),
    "evaluate": ("skimage", "matplotlib"),
    "serve": ("fastapi", "uvicorn"),
    "train": ("lightning_fabric", "matplotlib"),
    "fast-io": ("simplejpeg",),
}


def examine() -> dict[str, dict[str, Any]]:
    """Return facts by section, in the order to print them."""
    import torch

    from fretsaw import __version__
    from fretsaw.catalog import list_models
    from fretsaw.weights import cache_folder, is_offline

    versions = {name: _version(name) for name in ("torch", "transformers", "numpy", "opencv-python-headless", "onnxruntime")}
    devices: dict[str, Any] = {"cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads used by torch"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        devices["mps"] = "available"
    return {
        "fretsaw": {"version": __version__, "python": platform.python_version(), "system": platform.platform()},
        "versions": versions,
        "devices": devices,
        "memory": {"total": _gibibytes("SC_PHYS_PAGES"), "available": _gibibytes("SC_AVPHYS_PAGES")},
        "weights": {"cache": str(cache_folder()), "offline": is_offline(), **{m.name: "present" if m.present else "not present" for m in list_models()}},
        "extras": {name: "installed" if all(util.find_spec(module) for module in modules) else "not installed" for name, modules in EXTRAS.items()},
    }


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
