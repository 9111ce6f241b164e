"""What Fretsaw's own recipes made, all of which travels in the package: a whole small model, and parts that stand on a published one.

docs/models.md says how they were made, on what, and how good they are.
"""

from __future__ import annotations

from fretsaw.weights.definitions import Route, WeightFile, Weights


def _shipped(name: str, origin: str, size: int, sha256: str) -> Weights:
    file = WeightFile(f"package:{name.replace('-', '_')}.safetensors", "", size, sha256)
    return Weights(name, (Route({"network": file}),), "Apache-2.0", f"Fretsaw, {origin}", size)


FRETSAW_TINY = _shipped("fretsaw-tiny", "SAM 2 Hiera-T cut down and distilled", 24923752, "4d3ae948f8165ae883f420970d6c82a77a2aa03849d0f2eee8b69a6c50e0412c")

CLICKED = _shipped(
    "sam2-hiera-tiny-clicks",
    "SAM 2 Hiera-T's decoder trained further on clicks",
    1978160,
    "81aba50698af6bb25b71013f0601f48190b697848b6c1de834aac37acc4f3915",
)

PMG_TINY = _shipped(
    "pmg-tiny",
    "PMG-SAM over SAM 2 Hiera-T and U²-Netp",
    3328002,
    "ef0c9c2595bf4727ffb6527e2f66d18cef3429b15853f0e1a6c0799b4246440b",
)

PMG_FRETSAW_TINY = _shipped(
    "pmg-fretsaw-tiny",
    "PMG-SAM over fretsaw-tiny and U²-Netp",
    3278298,
    "5f56b8b31cb8fb268e4baed41e06a88a17c095286dd41a07a9e9f82238867f14",
)

GRC = (
    _shipped(
        "grc-clothes",
        "GrC-SAM over SAM 2 Hiera-T, for eight classes of Clothing Co-Parsing",
        1755972,
        "8df0c22f904ed97213d883bc27a5a6dd37c608662bb48a88115c9e56ba596341",
    ),
    _shipped(
        "grc-people",
        "GrC-SAM over SAM 2 Hiera-T, for people as the foreground",
        1755400,
        "d47b5ddd5d9aba4ed8620322e82584257789d0ee7e2a621d1e9268837b1b75db",
    ),
)
