"""Mean IoU between a folder of masks that `fretsaw auto` wrote and a folder of true masks with the same stems.

fretsaw auto photos/images -o out
python experiments/folder_iou.py out photos/masks --worst 5
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from fretsaw.images import read_mask
from fretsaw.masks import mask_iou


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("truths", type=Path)
    parser.add_argument("--worst", type=int, default=0, help="also list the worst results")
    options = parser.parse_args()
    truths = {path.stem: path for path in options.truths.iterdir()}
    scores = {}
    for path in sorted(options.predictions.glob("*.png")):
        if path.stem in truths:
            scores[path.stem] = mask_iou(read_mask(path) > 127, read_mask(truths[path.stem]) > 0)
    values = np.array(list(scores.values()))
    print(f"{len(values)} of {len(truths)} masks: mean IoU {values.mean():.4f}, median {np.median(values):.4f}, above 0.9: {(values > 0.9).mean():.1%}")
    for stem in sorted(scores, key=lambda name: scores[name])[: options.worst]:
        print(f"  {stem}: {scores[stem]:.3f}")


if __name__ == "__main__":
    main()
