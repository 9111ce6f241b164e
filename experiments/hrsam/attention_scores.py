"""Show how attention spreads as images grow: each token's largest attention score, global against windows (HRSAM, figure 1 c).

    python experiments/hrsam/attention_scores.py examples/astronaut.png --sizes 512 1024
    python experiments/hrsam/attention_scores.py photo.jpg --sizes 1024 2048 --mae mae_pretrain_vit_base.pth --report scores.json

Every query of every head and block counts with its largest score after the softmax; the top tenth is left out, as in the figure, and the quartiles are shown.
Without --mae the weights are random, and the figures say only how scores fall with the number of keys.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fretsaw import images
from fretsaw.frames import Preprocessing
from fretsaw.layers import windows
from fretsaw.layers.attention import attend
from fretsaw.layers.windows import WindowAttention
from fretsaw.methods.hrsam import SIZES, HRSAMEncoder
from fretsaw.weights import load_state_dict

ROWS = 1024
"""Queries whose scores are held at once."""


@contextmanager
def recorded() -> Iterator[list[Tensor]]:
    """Collect each query's largest score from every call of `attend` inside windows."""
    found: list[Tensor] = []

    def attend_and_record(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        for part in q.split(ROWS, dim=-2):
            found.append((part @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1).amax(dim=-1).flatten())
        return attend(q, k, v)

    windows.attend = attend_and_record
    try:
        yield found
    finally:
        windows.attend = attend


def largest_scores(encoder: HRSAMEncoder, pixels: Tensor) -> Tensor:
    """Return the largest score of every query, the top tenth left out."""
    with torch.no_grad(), recorded() as found:
        encoder(pixels)
    scores = torch.cat(found).sort().values
    return scores[: int(len(scores) * 0.9)]


def draw(rows: dict[str, dict[int, list[float]]], path: Path) -> None:
    """Draw a box from the first to the third quartile for each attention and size."""
    from matplotlib.figure import Figure

    boxes = [
        {"label": f"{name}\n{size}", "q1": low, "med": middle, "q3": high, "whislo": low, "whishi": high, "fliers": []}
        for name, sizes in rows.items()
        for size, (low, middle, high) in sizes.items()
    ]
    figure = Figure(figsize=(1.6 * len(boxes) + 1, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.bxp(boxes, showfliers=False, showcaps=False)
    axes.set(ylabel="largest score of a token")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--encoder", choices=SIZES, default="b")
    parser.add_argument("--mae", type=Path, help="weights of a masked autoencoder of that size")
    parser.add_argument("--report", type=Path, help="write the quartiles as JSON")
    parser.add_argument("--picture", type=Path, help="draw them as boxes, like the figure; needs matplotlib")
    options = parser.parse_args()
    image = images.read_image(options.image)
    rows: dict[str, dict[int, list[float]]] = {}
    for name, window in (("global", None), ("windows", SIZES[options.encoder].window)):
        torch.manual_seed(0)
        encoder = HRSAMEncoder(replace(SIZES[options.encoder], window=window), attention=WindowAttention).eval()
        if options.mae:
            encoder.load_mae(load_state_dict(options.mae))
        for size in options.sizes:
            scores = largest_scores(encoder, torch.from_numpy(Preprocessing(size=size).pixels_of(image)))
            rows.setdefault(name, {})[size] = [scores[int(len(scores) * share)].item() for share in (0.25, 0.5, 0.75)]
    print("Largest attention score of a token: first quartile, median, third quartile")
    print("| | " + " | ".join(str(size) for size in options.sizes) + " |\n|---|" + "---|" * len(options.sizes))
    for name, sizes in rows.items():
        print(f"| {name} | " + " | ".join(", ".join(f"{value:.4f}" for value in values) for values in sizes.values()) + " |")
    if options.report:
        options.report.write_text(json.dumps(rows, indent=1))
    if options.picture:
        draw(rows, options.picture)


if __name__ == "__main__":
    main()
