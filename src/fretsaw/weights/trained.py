"""What Fretsaw's own recipes make: small parts that stand on a published model.

None is shipped yet: each is a file that a run of its recipe writes. Once one is shipped its route becomes `package:`, with size and checksum.
"""

from __future__ import annotations

from fretsaw.weights.definitions import Route, WeightFile, Weights

PMG_BYTES = 2 * 4345733
"""Of a trained PMG-SAM at the sizes of pmg-tiny, in half precision."""

GRC_BYTES = 2 * 4198700
"""Of a trained GrC-SAM of width 64: the generator and the decoder it changed, in half precision."""


def _trained(name: str, recipe: str, file: str, origin: str, size: int) -> Weights:
    brought = WeightFile(f"hand:{file} as fretsaw train {recipe} writes it", f"{name.replace('-', '_')}.safetensors")
    return Weights(name, (Route({"network": brought}),), "Apache-2.0", f"Fretsaw, {origin}; not trained yet", size)


PMG_TINY = _trained("pmg-tiny", "pmg_sam", "best.safetensors", "PMG-SAM over SAM 2 Hiera-T and U²-Netp", PMG_BYTES)

GRC = (
    _trained("grc-clothes", "grc_sam", "model.safetensors", "GrC-SAM over SAM 2 Hiera-T, for eight classes of Clothing Co-Parsing", GRC_BYTES),
    _trained("grc-people", "grc_sam", "model.safetensors", "GrC-SAM over SAM 2 Hiera-T, for people as the foreground", GRC_BYTES),
)
