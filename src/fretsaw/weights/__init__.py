"""Weights: where they come from, where they lie, and how they are checked before anybody reads them.

    materialise(weights) --locate--> a checked safetensors file
          |
          +--gather--> shipped in the package | raw files in the cache | hub, npm or pip, through their own clients
          +--convert--> one safetensors file whose metadata names its sources

Importing this package loads no torch and no transformers.
"""

from fretsaw.weights.cache import Cache, cache_folder, is_offline
from fretsaw.weights.definitions import Archive, Converter, Progress, Route, WeightFile, Weights, silent
from fretsaw.weights.materialise import bring, checksum, is_present, locate, materialise, missing_parts_message, verify
from fretsaw.weights.metadata import read_metadata
from fretsaw.weights.progress import shown_progress
from fretsaw.weights.states import fitting, load_state_dict, load_strictly, rename

__all__ = [
    "Archive",
    "Cache",
    "Converter",
    "Progress",
    "Route",
    "WeightFile",
    "Weights",
    "bring",
    "cache_folder",
    "checksum",
    "fitting",
    "is_offline",
    "is_present",
    "load_state_dict",
    "load_strictly",
    "locate",
    "materialise",
    "missing_parts_message",
    "read_metadata",
    "rename",
    "shown_progress",
    "silent",
    "verify",
]
