"""The pictures of GrC-SAM's paper, and the redundancy of patch labels.

python experiments/grc_sam/figures.py stages photo.jpg --model runs/grc_semantic/model.safetensors --out stages.png      (figure 2)
python experiments/grc_sam/figures.py variance photos/ --model sam-vit-b --out variance.png                              (figure 3)
python experiments/grc_sam/figures.py fusion photo.jpg --model runs/a.safetensors --model runs/c.safetensors --out f.png (figure 4)
python experiments/grc_sam/figures.py redundancy ../shared/data/ccp/masks                                                (equation 12)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

import fretsaw
from fretsaw import catalog, frames, images
from fretsaw.data.layouts import list_images
from fretsaw.layers.attention_taps import readable_layers, received_attention, tapped
from fretsaw.methods.grc_sam.model import with_taps
from fretsaw.methods.grc_sam.scores import layer_score

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, for `benchmarks` and `experiments`

from experiments.grc_sam.redundancy import redundancy
from experiments.panels import panels


def run(name: str, image: np.ndarray):
    """Return a trained model's classes, its result on an image, and a function that enlarges a map (1, 1, h, w) to the image."""
    segmenter = fretsaw.load(name, device="cpu")
    clicks, labels = segmenter.parts.clicks, segmenter.parts.semantic
    assert clicks is not None
    assert labels is not None
    with torch.no_grad():
        result = labels.network(clicks.encode(clicks.pixels_of(image)))
    frame = clicks.preprocessing.frame_of(image)
    return labels, result, lambda values: frames.logits_to_image(values.numpy(), frame)[0, 0]


def stages(options: argparse.Namespace) -> None:
    image = images.read_image(options.source)
    labels, result, enlarge = run(options.model[0], image)
    shown = {
        "image": image,
        "attention": enlarge(result.score_map),
        "coarse mask": enlarge(result.coarse_mask),
        "fine mask": enlarge(result.fine_logits.sigmoid()),
    }
    panels([{**shown, "classes": np.asarray(labels(image).overlay())}], options.out)


def fusion(options: argparse.Namespace) -> None:
    image = images.read_image(options.source)
    pictures = {"image": image}
    for name in options.model:
        labels, result, enlarge = run(name, image)
        pictures[f"layers {labels.network.numbers}"] = enlarge(result.score_map)
    panels([pictures], options.out)


def variance(options: argparse.Namespace) -> None:
    """Draw, for every layer with global attention, the variance of the attention received over an image's tokens, one point an image."""
    from matplotlib.figure import Figure

    base = catalog.build(options.model[0]).clicks
    assert base is not None
    numbers = [number for number, layer in enumerate(base.image_encoder.attention_layers()) if layer.query_key is not None]
    layers = readable_layers(base.image_encoder, numbers)
    model = with_taps(base, numbers, "figure", options.size)
    values: dict[int, list[float]] = {number: [] for number in numbers}
    for path in list_images(options.source)[: options.limit]:
        with torch.no_grad():
            taps = model.encode(model.pixels_of(images.read_image(path))).taps
            for number, layer in zip(numbers, layers, strict=True):
                values[number].append(float(layer_score(received_attention(layer, tapped(taps, number))).var()))
    print("| layer | median | 5 % | 95 % |\n|---|---|---|---|")
    for number, found in values.items():
        low, middle, high = np.percentile(found, [5, 50, 95])
        print(f"| {number} | {middle:.5f} | {low:.5f} | {high:.5f} |")
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.boxplot(list(values.values()), tick_labels=[str(number) for number in numbers])
    axes.set(xlabel="layer", ylabel="variance of the normalised attention received")
    figure.savefig(options.out, dpi=120)


def print_redundancy(options: argparse.Namespace) -> None:
    paths = list_images(options.source)[: options.limit]
    print(f"{len(paths)} label maps in {options.source}\n\n| patch | R of entropies per label | R of entropies in all |\n|---|---|---|")
    for patch in options.patches:
        found = [redundancy(images.read_labels(path), patch) for path in paths]
        print(f"| {patch} | {np.nanmean([one[0] for one in found]):.4f} | {np.nanmean([one[1] for one in found]):.4f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("stages", "variance", "fusion", "redundancy"))
    parser.add_argument("source", type=Path, help="a photo, or a folder")
    parser.add_argument("--model", action="append", help="name or file; repeat for more (fusion)")
    parser.add_argument("--out", type=Path, default=Path("figure.png"))
    parser.add_argument("--size", type=int, help="side of the encoder's input (variance)")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--patches", type=int, nargs="*", default=[2, 4, 8, 16, 32, 64])
    options = parser.parse_args()
    {"stages": stages, "variance": variance, "fusion": fusion, "redundancy": print_redundancy}[options.what](options)


if __name__ == "__main__":
    main()
