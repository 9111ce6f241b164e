"""What Fretsaw's own recipes made: small parts, shipped in the package, that stand on a published model."""

from __future__ import annotations

from fretsaw.weights.definitions import Route, WeightFile, Weights

GRC_BYTES = 2 * 4198700
"""Of a trained GrC-SAM of width 64: the generator and the decoder it changed, in half precision."""


def _grc(name: str, data: str) -> Weights:
    route = Route({"network": WeightFile(f"package:{name.replace('-', '_')}.safetensors", "")})
    origin = f"Fretsaw, GrC-SAM's trained part over SAM 2 Hiera-T, trained on {data}; the file ships once it is trained"
    return Weights(name, (route,), "Apache-2.0", origin, GRC_BYTES)


GRC = (
    _grc("grc-clothes", "Clothing Co-Parsing (eight classes)"),
    _grc("grc-people", "Clothing Co-Parsing and 290 photos of people"),
)
"""GrC-SAM for the parts of people's clothes, and for people as the foreground."""
