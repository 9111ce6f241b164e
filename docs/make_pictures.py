"""Make the pictures of README.md with the program itself: python docs/make_pictures.py"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import fretsaw
from fretsaw.images import write_image
from fretsaw.layers.resampling import resize_image

ROOT = Path(__file__).resolve().parents[1]
HEIGHT = 300


def row(pictures: list[np.ndarray]) -> np.ndarray:
    """Set pictures side by side at one height, with white between them."""
    scaled = [resize_image(picture, HEIGHT, round(picture.shape[1] * HEIGHT / picture.shape[0])) for picture in pictures]
    gap = np.full((HEIGHT, 8, 3), 255, np.uint8)
    return np.concatenate([part for picture in scaled for part in (picture, gap)][:-1], axis=1)


def checkered(cutout: np.ndarray, square: int = 12) -> np.ndarray:
    """Lay an RGBA picture on grey squares."""
    rows, columns = np.mgrid[: cutout.shape[0], : cutout.shape[1]]
    ground = np.where(((rows // square + columns // square) % 2)[..., None], 205, 240)
    alpha = cutout[..., 3:] / 255
    return (alpha * cutout[..., :3] + (1 - alpha) * ground).round().astype(np.uint8)


def main() -> None:
    segmenter = fretsaw.load(device="cpu")
    cuts = [segmenter.auto(ROOT / "examples" / name) for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")]
    write_image(ROOT / "docs" / "pictures" / "auto.jpg", row([np.asarray(cut.overlay()) for cut in cuts]))
    session = segmenter.open(ROOT / "examples" / "astronaut.png")
    steps = [session.click(220, 110), session.click(150, 380), session.click(440, 440, positive=False)]
    write_image(ROOT / "docs" / "pictures" / "click.jpg", row([*(np.asarray(step.overlay()) for step in steps), checkered(np.asarray(steps[-1].cutout()))]))


if __name__ == "__main__":
    main()
