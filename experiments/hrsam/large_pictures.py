"""Render large pictures with exact masks to measure on: objects of one set of photos pasted on others, thin and small ones among them.

    python experiments/hrsam/large_pictures.py DATA OUT --side 2048 --count 40 --seed 1

DATA holds sets as `fretsaw.data.click_samples.labelled_objects` reads them, with lists of their parts; objects and grounds are of validation parts alone.
OUT gets `images/` and `masks/`, one object a picture, which `fretsaw evaluate clicks OUT` reads, and `recipe.json`, which says how they were made.

No photo of these sets has a side above 1024 or so: grounds are always enlarged and most objects as well, so that edges are softer than those of a photo
taken at this size.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from fretsaw.data.click_samples import labelled_objects
from fretsaw.data.pasted import paste_objects
from fretsaw.images import encode_image, read_image, write_bytes

SETS = ("coco_mval", "voc_animals_fine", "bags", "human_seg")
"""Whose validation parts give objects; the photos of the first are the grounds too. `bags` has thin straps."""

SHARES = 0.04, 0.3
"""Least and most of an object's longest side over the picture's shortest."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    objects = [sample for name in SETS for sample in labelled_objects(options.data, name, "val")]
    grounds = sorted({sample.image for sample in labelled_objects(options.data, SETS[0], "val")})
    shares: dict[str, float] = {}
    for number in range(options.count):
        rng = np.random.default_rng((options.seed, options.side, number))
        masks: list[np.ndarray] = []
        while not masks:
            ground = read_image(grounds[int(rng.integers(len(grounds)))])
            picture, masks = paste_objects(rng, objects, ground, options.side, SHARES)
        mask = masks[int(rng.integers(len(masks)))]
        name = f"{options.side}_{number:03d}"
        write_bytes(options.out / "images" / f"{name}.jpg", encode_image(picture, ".jpg"))
        write_bytes(options.out / "masks" / f"{name}.png", cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes())
        shares[name] = float(mask.mean())
    recipe = {"side": options.side, "seed": options.seed, "sets": SETS, "part": "val", "shares": SHARES, "area": shares}
    write_bytes(options.out / f"recipe_{options.side}.json", json.dumps(recipe, indent=1).encode())


if __name__ == "__main__":
    main()
