"""What Fretsaw's own recipes made, all of which travels in the package: a whole small model, and parts that stand on a published one.

docs/models.md says how they were made, on what, and how good they are.
"""

from __future__ import annotations

from fretsaw.weights.definitions import Route, WeightFile, Weights


def _shipped(name: str, origin: str, size: int, sha256: str) -> Weights:
    file = WeightFile(f"package:{name.replace('-', '_')}.safetensors", "", size, sha256)
    return Weights(name, (Route({"network": file}),), "Apache-2.0", f"Fretsaw, {origin}", size)


FRETSAW_TINY = _shipped("fretsaw-tiny", "SAM 2 Hiera-T cut down and distilled", 24923752, "4d3ae948f8165ae883f420970d6c82a77a2aa03849d0f2eee8b69a6c50e0412c")

PMG_TINY = _shipped(
    "pmg-tiny",
    "PMG-SAM over SAM 2 Hiera-T and U²-Netp",
    8730098,
    "3614cff77a5ed7793c0bb00c962cbe865574034abac46910ab71e12a4ce13d22",
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
