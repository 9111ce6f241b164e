"""What Fretsaw's own recipes made: small parts that stand on a published model and travel in the package. docs/models.md says how, on what and how well."""

from __future__ import annotations

from fretsaw.weights.definitions import Route, WeightFile, Weights


def _shipped(name: str, origin: str, size: int, sha256: str) -> Weights:
    file = WeightFile(f"package:{name.replace('-', '_')}.safetensors", "", size, sha256)
    return Weights(name, (Route({"network": file}),), "Apache-2.0", f"Fretsaw, {origin}", size)


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
        8459148,
        "e097f84f98e8935ef68434a069efd0a84d329f68000832fdbe43ac48e447c44c",
    ),
    _shipped(
        "grc-people",
        "GrC-SAM over SAM 2 Hiera-T, for people as the foreground",
        8458576,
        "014790f00eaf77b30aa8fa9e4a712a7c715a5111c90122e84108f34c702096d2",
    ),
)
