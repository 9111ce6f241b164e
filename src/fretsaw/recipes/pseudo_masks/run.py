"""A run of the recipe pseudo_masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from fretsaw import frames
from fretsaw.backbones.u2net import load_u2netp, saliency_map
from fretsaw.data.views import list_photos
from fretsaw.errors import ImageError
from fretsaw.images import read_image, write_image, write_mask
from fretsaw.layers.resampling import resize_image
from fretsaw.methods.first_cut import FirstCut
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.recipes.pseudo_masks.config import PseudoMasksConfig
from fretsaw.training.loop import Watcher

Config = PseudoMasksConfig
"""What `fretsaw train` fills in for this recipe."""


def length(config: PseudoMasksConfig) -> int:
    """Return the number of photos."""
    return len(_photos(config))


def run(config: PseudoMasksConfig, watcher: Watcher | None = None) -> int:
    """Go through the photos that the journal does not name yet; returns how many it names at the end.

    Raises:
        ConfigError: If the photos are a set's that is held out.
        DataError: If there are no photos.
        WeightsError: If weights are missing and cannot be fetched.
    """
    from fretsaw import catalog

    photos = _photos(config)
    model = catalog.build(config.model, size=config.size).clicks
    assert model is not None
    return make(config, photos, model.to(config.device), FirstCut(load_u2netp(config.device), model, map_share=0.0), watcher)


def make(config: PseudoMasksConfig, photos: list[Path], model: SamClicks, cut: FirstCut, watcher: Watcher | None = None) -> int:
    """Cut the photos that are not in the journal; see `run`."""
    out = Path(config.out)
    for name in ("images", "masks"):
        (out / name).mkdir(parents=True, exist_ok=True)
    journal = out / "journal.jsonl"
    known: set[str] = {json.loads(line)["photo"] for line in journal.read_text().splitlines() if line.endswith("}")} if journal.exists() else set()
    with journal.open("a") as file:
        for photo in photos:
            if photo.name not in known:
                figures = _cut(config, photo, model, cut, out)
                file.write(json.dumps({"photo": photo.name, **figures}) + "\n")
                file.flush()
                known.add(photo.name)
            if watcher is not None:
                watcher.advance()
    return len(known)


def _cut(config: PseudoMasksConfig, photo: Path, model: SamClicks, cut: FirstCut, out: Path) -> dict[str, float | bool | str]:
    """Cut one photo, store it if it passes, and return its figures."""
    try:
        image = read_image(photo)
    except ImageError as error:
        return {"kept": False, "error": str(error)}
    with torch.no_grad():
        embedding = model.encode(model.pixels_of(image))
    result = cut(image, embedding, model.preprocessing.frame_of(image))
    agreement = agreement_of(saliency_map(cut.saliency, image), result.mask)
    share = float(result.mask.mean())
    kept = agreement >= config.agreement and result.score >= config.score and config.smallest <= share <= config.largest
    if kept:
        scale = min(1.0, config.side / max(image.shape[:2])) if config.side else 1.0
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        write_image(out / "images" / f"{photo.stem}.jpg", resize_image(image, height, width))
        write_mask(out / "masks" / f"{photo.stem}.png", frames.resize_map(result.mask, height, width) > 0.5)
    return {"kept": kept, "agreement": round(agreement, 4), "score": round(result.score, 4), "share": round(share, 4)}


def agreement_of(probs: np.ndarray, mask: np.ndarray) -> float:
    """Return the IoU of a map (H, W) in [0, 1], decided at one half, and a mask (H, W) bool; 0 where both are empty."""
    decided = probs > 0.5
    return float((decided & mask).sum() / max(1, (decided | mask).sum()))


def _photos(config: PseudoMasksConfig) -> list[Path]:
    excluded = [Path(file) for file in config.exclude.split(",") if file]
    return list_photos([Path(folder) for folder in config.photos.split(",")], excluded, config.allow_held_out.split(","))
