"""PMG-SAM's pictures: what each stage of a cut sees, and touching objects before and after the pass of clicks.

python experiments/pmg_sam/figures.py stages examples/chelsea.png examples/coffee.png examples/rocket.jpg --out docs/pictures/pmg_stages.jpg
python experiments/pmg_sam/figures.py touching examples/chelsea.png examples/astronaut.png --out docs/pictures/pmg_touching.jpg

`touching` cuts the object out of each photo, sets the objects side by side, and cuts the picture made so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import fretsaw
from fretsaw import frames, images
from fretsaw.api import Segmenter
from fretsaw.backbones.u2net import load_u2netp, saliency_map
from fretsaw.layers.resampling import resize_image
from fretsaw.masks import mask_iou
from fretsaw.methods.pmg_sam.cut import PmgCut
from fretsaw.methods.pmg_sam.instances import find_components

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, for `benchmarks` and `experiments`

from experiments.panels import panels
from experiments.pmg_sam.scenes import side_by_side

COLOURS = ((30, 144, 255), (255, 140, 0), (50, 205, 50), (220, 20, 60), (148, 0, 211))
SIDE, OVERLAP = 640, 0.15


def stages(segmenter: Segmenter, paths: Sequence[Path], out: Path) -> None:
    """Photo, U²-Netp's map, pre-mask, mask, each at the photo's size."""
    automatic, network, rows = segmenter.parts.automatic, load_u2netp(), []
    assert isinstance(automatic, PmgCut)
    for path in paths:
        image = images.read_image(path)
        session = segmenter.open(image)
        with torch.no_grad():
            pre_mask = automatic.predict(image, session.embedding, session.frame).pre_mask
        cut = segmenter.auto(image)
        rows.append(
            {
                "image": image,
                "U²-Netp": saliency_map(network, image),
                "pre-mask": 1 / (1 + np.exp(-frames.logits_to_image(pre_mask.numpy(), session.frame)[0, 0].clip(-30, 30))),
                "mask": 1 / (1 + np.exp(-cut.logits.clip(-30, 30))),
                "cut": np.asarray(cut.overlay()),
            }
        )
    panels(rows, out)


def touching(segmenter: Segmenter, paths: Sequence[Path], out: Path) -> None:
    """Objects side by side, what components alone make of them, and what the pass of clicks does."""
    photos = [images.read_image(path) for path in paths]
    ground = resize_image(resize_image(photos[0], 8, 8), SIDE, SIDE)
    image, truths = side_by_side([(photo, max(find_components(segmenter.auto(photo).mask), key=np.sum)) for photo in photos], ground, overlap=OVERLAP)
    result = segmenter.auto(image, instances=True)
    split = [instance.mask for instance in result.instances or ()]
    panels([{"image": image, "components": painted(image, find_components(result.mask)), "split by clicks": painted(image, split)}], out)
    for name, found in (("components", find_components(result.mask)), ("split by clicks", split)):
        best = [max((mask_iou(mask, truth) for mask in found), default=0.0) for truth in truths]
        print(f"{name}: {len(found)} instances; IoU of each object with its best: {', '.join(f'{value:.3f}' for value in best)}")


def painted(image: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Lay masks on an image, each in a colour of its own."""
    for number, mask in enumerate(masks):
        image = images.overlay(image, mask, COLOURS[number % len(COLOURS)])
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("stages", "touching"))
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--model", default="pmg-tiny")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    segmenter = fretsaw.load(options.model, device="cpu")
    {"stages": stages, "touching": touching}[options.what](segmenter, options.photos, options.out)


if __name__ == "__main__":
    main()
