"""Where the weights of HRSAM and HRSAM++ come from: size B from its authors' archive, every other size from one's own training."""

from __future__ import annotations

from fretsaw.weights.definitions import Converter, Route, WeightFile, Weights

PARAMETERS = {
    ("t", False): 4401232,
    ("s", False): 28659248,
    ("b", False): 100434224,
    ("l", False): 325665584,
    ("t", True): 4471792,
    ("s", True): 31582512,
    ("b", True): 110999088,
    ("l", True): 343946288,
}
"""(size, with the anchor map) -> numbers in the whole model, SAM's decoder included."""

ARCHIVE = "hand:the archive 'Pre-trained Models & Configs' of the repository YouHuang67/High-Resolution-Segment-Anything"
"""No program can fetch it: it lies on a site for sharing files."""


def hrsam_weights(convert: Converter) -> list[tuple[Weights, str, bool]]:
    """Return each model's weights with its size and whether it has the anchor map.

    Args:
        convert: Reads a published checkpoint, or a model of one's own training, as role "network".
    """
    found = []
    for (letter, multi_scale), count in PARAMETERS.items():
        routes = [Route({"network": WeightFile(f"hand:a run of fretsaw train hrsam with encoder={letter}", "model.safetensors")}, convert)]
        licence, origin = "Apache-2.0", "Fretsaw's recipe; SAM's decoder by Meta"
        if letter == "b":
            folder = f"work_dirs/hrsam/hqseg44k/hrsam{'_plusplus' if multi_scale else ''}_simaug_1024x1024_bs1_40k"
            routes.insert(0, Route({"network": WeightFile(ARCHIVE, f"{folder}/iter_40000.pth")}, convert))
            licence, origin = "not stated by its authors", "Huang et al., HRSAM (2024), fine-tuned on HQSeg-44K"
        name = f"hrsam{'++' if multi_scale else ''}-{letter}"
        found.append((Weights(name, tuple(routes), licence, origin, 4 * count), letter, multi_scale))
    return found
