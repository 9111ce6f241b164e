"""Figure 4 of SAM-REF as one picture: coarse mask, error map and GlobalDiff's result; the change, its crop's error map and PatchDiff's result pasted back.

    python experiments/sam_ref/figure4.py photo.jpg --refiner runs/sam_ref/refiner.safetensors -p 210,140 -p 260,180 -n 300,90 -o figure4.png

Clicks are made in the order -p ..., -n ...; the picture shows the last of them. The upper row is what GlobalDiff does with the whole image, the lower row
what PatchDiff does around the last click; below, which of the two the selector took.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

from fretsaw import api, catalog, frames, images
from fretsaw.clicks.encode import disk_maps
from fretsaw.methods.sam_clicks import best_of_three, prompt_points
from fretsaw.methods.sam_ref.places import changed_box, error_region_grew, last_place, paste_crop
from fretsaw.types import Box, Click, Prompt, RefinerState

SIDE = 460
"""Width of a panel in pixels."""


def panel(picture: np.ndarray, title: str, clicks: list[Click] = [], box: Box | None = None, scale: float = 1.0) -> np.ndarray:  # noqa: B006 (never changed)
    """Return a picture of width `SIDE` with clicks, a box and a title."""
    factor = SIDE / picture.shape[1]
    shown = cv2.resize(picture, (SIDE, max(1, round(picture.shape[0] * factor))), interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    for click in clicks:
        centre = (round(click.x * factor * scale), round(click.y * factor * scale))
        cv2.circle(shown, centre, 6, (255, 255, 255), -1)
        cv2.circle(shown, centre, 4, (30, 160, 60) if click.positive else (210, 40, 40), -1)
    if box is not None:
        cv2.rectangle(shown, *[(round(x * factor), round(y * factor)) for x, y in ((box.x0, box.y0), (box.x1, box.y1))], (230, 40, 40), 2)
    bar = np.full((26, SIDE, 3), 255, np.uint8)
    cv2.putText(bar, title, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (20, 20, 20), 1, cv2.LINE_AA)
    return np.concatenate([bar, shown])


def heat(logits: np.ndarray) -> np.ndarray:
    """Return sigmoid(logits) as colours, (h, w, 3) uint8 RGB."""
    values = (255 / (1 + np.exp(-np.clip(logits, -30, 30)))).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(values, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--refiner", default="sam-ref")
    parser.add_argument("-p", "--positive", action="append", default=[], metavar="X,Y")
    parser.add_argument("-n", "--negative", action="append", default=[], metavar="X,Y")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--model", default="sam2-hiera-tiny-clicks")
    parser.add_argument("--size", type=int)
    options = parser.parse_args()
    clicks = [Click(*(float(v) for v in text.split(",")), sign) for texts, sign in ((options.positive, True), (options.negative, False)) for text in texts]
    image = images.read_image(options.photo)
    model, refiner = api.load(options.model, size=options.size, device="cpu").parts.clicks, catalog.build_refiner(options.refiner, options.model)
    refiner.global_from, refiner.patch_from = 1, 2  # the paper's rules
    assert model is not None, "the catalogue's entry takes clicks"
    frame, pixels = model.preprocessing.frame_of(image), model.pixels_of(image)
    with torch.no_grad():
        embedding = model.encode(pixels)
        features = refiner.prepare(pixels, embedding)
        previous, state, before, asked = None, RefinerState(), RefinerState(), None
        for k in range(len(clicks)):
            prompt = Prompt(tuple(clicks[: k + 1]), previous_logits=previous.numpy() if previous is not None else None)
            coarse, _ = best_of_three(*model.decode(embedding, model.embed(prompt, frame)))
            coords, labels = prompt_points(prompt, frame)
            asked, before = previous, state
            previous, state = refiner.refine(features, coords, labels, coarse, asked, state)
        result = refiner.global_diff(features, disk_maps(coords, labels, features.model_size, coarse.shape[-1]), coarse)
        old = asked if asked is not None else torch.full_like(coarse, -8.0)
        place = (last_place(coords[0], labels[0]) + 0.5) * (coarse.shape[-1] / features.model_size) - 0.5
        box = changed_box(result.logits[0, 0] > 0, old[0, 0] > 0, (float(place[0]), float(place[1])))
        whole = Box(0, 0, coarse.shape[-1], coarse.shape[-1])
        crop = box or whole
        local, local_errors, _ = refiner.patch_diff(result.feature, coarse, torch.tensor([[crop.x0, crop.y0, crop.x1, crop.y1]]))
        pasted = paste_crop(local, crop, old)
        patched_errors = paste_crop(local_errors, crop, torch.full_like(coarse, -30.0))
    grew = asked is not None and error_region_grew(result.error_map, before.error_map)

    def full(logits: torch.Tensor) -> np.ndarray:
        return frames.logits_to_image(logits.numpy(), frame)[0, 0]

    def over(logits: torch.Tensor) -> np.ndarray:
        return images.overlay(image, full(logits) > 0)

    ratio = np.array([image.shape[1], image.shape[0]]) / coarse.shape[-1]
    corners = [np.array([crop.x0, crop.y0]) * ratio, np.array([crop.x1, crop.y1]) * ratio] if not frame.padded else None
    shown = Box(*corners[0], *corners[1]) if corners is not None and box is not None else None
    changed = np.where((full(result.logits) > 0) ^ (full(old) > 0), 10.0, -10.0)
    upper = [
        panel(over(coarse), "coarse mask (decoder)", clicks),
        panel(heat(full(result.error_map)), "error map", clicks),
        panel(over(result.logits), "GlobalDiff", clicks, shown),
    ]
    lower = [
        panel(heat(changed), "change, and the crop around the last click" if box else "the last click changed nothing", clicks[-1:], shown),
        panel(heat(full(patched_errors)), "error map of the crop", clicks[-1:], shown),
        panel(over(pasted), "PatchDiff, pasted onto the mask before", clicks, shown),
    ]
    chosen = "PatchDiff (the error region grew)" if grew and box is not None else "the mask before (nothing changed)" if grew else "GlobalDiff"
    foot = np.full((28, 3 * SIDE, 3), 255, np.uint8)
    cv2.putText(foot, f"the selector takes {chosen}", (6, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (20, 20, 20), 1, cv2.LINE_AA)
    images.write_image(options.out, np.concatenate([np.concatenate(upper, 1), np.concatenate(lower, 1), foot]))
    print(options.out)


if __name__ == "__main__":
    main()
