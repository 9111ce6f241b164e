"""Results: a `Segmentation` holds one cut-out object or scene, a `LabelMap` gives every pixel a name.

Both are frozen, and their arrays are read-only views, so that a result cannot be altered by accident; `array.copy()` gives one to work on.
"""

from __future__ import annotations

import colorsys
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fretsaw import images, masks
from fretsaw.errors import ConfigError, ImageError, OutputError, ShapeError

BACKGROUND = "background"
"""A class of this name is shown without a tint."""

MOST_PALETTE_NAMES = 255
"""A palette image holds 256 colours, of which the last stands for pixels without a name."""


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """One object, or the foreground of a scene, cut out of an image.

    Attributes:
        logits: (H, W) float32 at the image's own size, positive on the object; read-only.
        score: The model's own estimate of its quality in [0, 1]; what a model gives beyond is cut to this range.
        image: (H, W, 3) uint8 RGB that was cut, read-only, or None.
        instances: The separate objects that make up this result, where the method tells them apart.
        name: The object's class, or "".

    Raises:
        ShapeError: If the arrays are of another kind or differ in size, or the score is not a finite number.
    """

    logits: np.ndarray
    score: float
    image: np.ndarray | None = None
    instances: tuple[Segmentation, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        logits = self.logits
        if not masks.is_array(logits, 2, np.floating):
            raise ShapeError(f"logits: expected a numpy array (H, W) of floats with at least one pixel, got {masks.describe(logits)}")
        score = float(self.score)
        if not math.isfinite(score):
            raise ShapeError(f"score: expected a finite number, got {score}")
        for number, part in enumerate(self.instances):
            if part.logits.shape != logits.shape:
                raise ShapeError(f"instance {number}: expected the whole's size {logits.shape}, got {part.logits.shape}")
        object.__setattr__(self, "logits", _read_only(np.asarray(logits, np.float32)))
        object.__setattr__(self, "score", min(max(score, 0.0), 1.0))
        object.__setattr__(self, "image", _checked_image(self.image, logits.shape))
        object.__setattr__(self, "instances", tuple(self.instances))

    def __repr__(self) -> str:
        height, width = self.logits.shape
        parts = f", {len(self.instances)} instances" if self.instances else ""
        return f"Segmentation({width} x {height}{', ' + self.name if self.name else ''}, score {self.score:.3f}, box {self.box}{parts})"

    @cached_property
    def mask(self) -> np.ndarray:
        """(H, W) bool, read-only: where the logits are positive."""
        return _read_only(self.logits > 0)

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """The mask's half-open box x0, y0, x1, y1 in pixels; (0, 0, 0, 0) where the mask is empty."""
        return masks.mask_to_box(self.mask)

    @cached_property
    def area(self) -> int:
        """The mask's number of pixels."""
        return int(np.count_nonzero(self.mask))

    def to_rle(self) -> dict[str, Any]:
        """Return the mask as COCO's compressed run lengths, see `fretsaw.masks.encode_rle`."""
        return masks.encode_rle(self.mask)

    def to_polygons(self, tolerance: float = 0.0) -> list[np.ndarray]:
        """Return the mask's outlines, holes included, see `fretsaw.masks.to_polygons` for their policy."""
        return masks.to_polygons(self.mask, tolerance)

    def cutout(self) -> Image.Image:
        """Return the object on a transparent ground, with smooth edges, as a PIL image of the image's size, mode RGBA.

        Raises:
            ImageError: If the result does not hold its image.
        """
        return Image.fromarray(images.cutout(_required(self.image), edge_opacity(self.logits)))

    def overlay(self) -> Image.Image:
        """Return the image with the object tinted and outlined, each instance in a colour of its own, as a PIL image, mode RGB.

        Raises:
            ImageError: If the result does not hold its image.
        """
        picture = _required(self.image)
        if not self.instances:
            return Image.fromarray(images.overlay(picture, self.mask))
        for number, part in enumerate(self.instances):
            picture = images.overlay(picture, part.mask, distinct_color(number))
        return Image.fromarray(picture)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the logits and the image, ready for JSON: size, score, box, area, name, rle, polygons (lists of [x, y]), instances."""
        return {
            "size": list(self.mask.shape),
            "score": self.score,
            "box": list(self.box),
            "area": self.area,
            "name": self.name,
            "rle": self.to_rle(),
            "polygons": [ring.tolist() for ring in self.to_polygons()],
            "instances": [part.to_dict() for part in self.instances],
        }

    def to_coco(self, image_id: int = 1, annotation_id: int = 1, category_id: int = 1) -> dict[str, Any]:
        """Return the mask as one COCO annotation; `segmentation` is compressed run lengths, since COCO's polygons know no holes."""
        x0, y0, x1, y1 = self.box
        return {
            "id": annotation_id,
            "image_id": image_id,
            "category_id": category_id,
            "segmentation": self.to_rle(),
            "area": self.area,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "iscrowd": 0,
            "score": self.score,
        }

    def save(self, path: str | os.PathLike[str], format: str | None = None) -> Path:
        """Write the result to a file, atomically, and return its path.

        Args:
            path: Its suffix chooses the file's format: an image for mask, cutout and overlay, .json for the others.
            format: "mask" (8 bit, 0 and 255), "cutout" (RGBA), "overlay", "coco" (a data set of this one image) or "json". Without one, "json" where the
                path ends in .json, else "mask".

        Raises:
            OutputError: If the format is unknown, the suffix does not fit it, or the place cannot be written.
            ImageError: If the format shows the image and the result does not hold it.
        """
        return _save(self, path, format, SEGMENTATION_WRITERS, "mask")


def edge_opacity(mask_logits: np.ndarray) -> np.ndarray:
    """Return how much of each pixel an object covers, judged by where its outline passes: smooth edges about a pixel wide, opaque inside.

    Beside the outline, a logit divided by the length of its gradient is, to first order, the signed distance in pixels to the line of logit 0; half a
    pixel on either side becomes the range 0 .. 1. A sigmoid would instead make the inside of an uncertain object translucent.

    Args:
        mask_logits: (H, W) float.

    Returns:
        (H, W) float32 in [0, 1], above 0.5 exactly where the logit is positive; NaN counts as background, as it does in `Segmentation.mask`.
    """
    mask = (mask_logits > 0).astype(np.uint8)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    y, x = np.nonzero(cv2.dilate(mask, cross) != cv2.erode(mask, cross))
    height, width = mask.shape

    def at(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        values = mask_logits[rows.clip(0, height - 1), columns.clip(0, width - 1)]
        # Infinities would cancel to NaN in differences; no decoder separates better than this.
        return np.nan_to_num(values.astype(np.float32), nan=-1e4).clip(-1e4, 1e4)

    here = at(y, x)
    slope = np.hypot(at(y, x + 1) - at(y, x - 1), at(y + 1, x) - at(y - 1, x)) / 2
    coverage = (here / np.maximum(slope, np.float32(1e-6)) + np.float32(0.5)).clip(0, 1)
    # Rounding must not move a pixel to the other side of the outline.
    just_inside = np.nextafter(np.float32(0.5), np.float32(1))
    opacity = mask.astype(np.float32)
    opacity[y, x] = np.where(here > 0, np.maximum(coverage, just_inside), np.minimum(coverage, np.float32(0.5)))
    return opacity


@dataclass(frozen=True, eq=False, repr=False)
class LabelMap:
    """A name for every pixel.

    Attributes:
        labels: (H, W) int32, index into `names`; -1 where no name fits. Read-only.
        names: K different class names.
        probabilities: (K, H, W) float32, read-only, or None; (K, h, w) of a smaller size where all of them would take too much memory.
        image: (H, W, 3) uint8 RGB that was labelled, read-only, or None.

    Raises:
        ShapeError: If the arrays are of another kind or differ in size, or a label has no name.
        ConfigError: If a name comes twice.
    """

    labels: np.ndarray
    names: tuple[str, ...]
    probabilities: np.ndarray | None = None
    image: np.ndarray | None = None

    def __post_init__(self) -> None:
        labels, names, probabilities = self.labels, tuple(self.names), self.probabilities
        if not masks.is_array(labels, 2, np.integer):
            raise ShapeError(f"labels: expected a numpy array (H, W) of integers with at least one pixel, got {masks.describe(labels)}")
        if labels.min() < -1 or labels.max() >= len(names):
            raise ShapeError(f"labels: expected -1 to {len(names) - 1} for {len(names)} names, got {labels.min()} to {labels.max()}")
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if twice:
            raise ConfigError(f"names: expected different names, got {twice[0]!r} twice")
        if probabilities is not None:
            shape = probabilities.shape if masks.is_array(probabilities, 3) else (-1, -1, -1)
            if shape[0] != len(names) or not 0 < shape[1] <= labels.shape[0] or not 0 < shape[2] <= labels.shape[1]:
                raise ShapeError(f"probabilities: expected (K, H, W) = {(len(names), *labels.shape)}, got {masks.describe(probabilities)}")
            object.__setattr__(self, "probabilities", _read_only(np.asarray(probabilities, np.float32)))
        object.__setattr__(self, "labels", _read_only(np.asarray(labels, np.int32)))
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "image", _checked_image(self.image, labels.shape))

    def __repr__(self) -> str:
        height, width = self.labels.shape
        return f"LabelMap({width} x {height}, {', '.join(self.present) or 'nothing found'})"

    @cached_property
    def areas(self) -> dict[str, int]:
        """The number of pixels of every name, 0 for names that do not occur."""
        counts = np.bincount(self.labels.ravel() + 1, minlength=len(self.names) + 1)[1:]
        return dict(zip(self.names, counts.tolist(), strict=True))

    @property
    def present(self) -> tuple[str, ...]:
        """The names that occur, in the order of `names`."""
        return tuple(name for name, area in self.areas.items() if area)

    def mask(self, name: str) -> np.ndarray:
        """Return (H, W) bool, read-only: where a name stands; empty where it does not occur.

        Raises:
            ConfigError: If it is none of `names`.
        """
        if name not in self.names:
            raise ConfigError(f"expected one of the names {', '.join(self.names)}, got {name!r}")
        return _read_only(self.labels == self.names.index(name))

    def most_frequent(self, mask: np.ndarray) -> str:
        """Return the name that most pixels of a mask have; "" where most have none.

        Raises:
            ShapeError: If the mask is not (H, W) bool.
        """
        if mask.shape != self.labels.shape or mask.dtype != np.bool_:
            raise ShapeError(f"expected a mask {self.labels.shape} of bool, got {masks.describe(mask)}")
        counts = np.bincount(self.labels[mask] + 1, minlength=len(self.names) + 1)
        return ("", *self.names)[int(counts.argmax())]

    def probability(self, name: str) -> np.ndarray:
        """Return (H, W) float32: how probable a name is at each pixel, enlarged where the probabilities are kept at a smaller size.

        Raises:
            ConfigError: If it is none of `names`, or there are no probabilities.
        """
        if self.probabilities is None:
            raise ConfigError("expected a label map with probabilities, got one without")
        if name not in self.names:
            raise ConfigError(f"expected one of the names {', '.join(self.names)}, got {name!r}")
        height, width = self.labels.shape
        own: np.ndarray = self.probabilities[self.names.index(name)]
        return _read_only(cv2.resize(own, (width, height), interpolation=cv2.INTER_LINEAR))

    @cached_property
    def masks(self) -> Mapping[str, np.ndarray]:
        """The mask of every name, (H, W) bool each; empty masks for names that do not occur."""
        return {name: self.mask(name) for name in self.names}

    def overlay(self) -> Image.Image:
        """Return the image with each name's pixels tinted in a colour of their own and the name written on its largest part, as a PIL image, mode RGB.

        Pixels without a name and a class called "background" stay as they are. The font covers Latin letters.

        Raises:
            ImageError: If the label map does not hold its image.
        """
        picture = _required(self.image)
        shown = [name for name in self.present if name != BACKGROUND]
        for name in shown:
            picture = images.overlay(picture, self.mask(name), distinct_color(self.names.index(name)))
        canvas = Image.fromarray(picture)
        for name in shown:
            _write_name(canvas, name, self.mask(name), distinct_color(self.names.index(name)))
        return canvas

    def legend(self) -> dict[str, Any]:
        """Return what the values of a saved label image mean, ready for JSON: size, the value of pixels without a name, and id, name, colour, area of each."""
        rows = [{"id": i, "name": name, "color": list(distinct_color(i)), "area": self.areas[name]} for i, name in enumerate(self.names)]
        return {"size": list(self.labels.shape), "unlabelled": self.unlabelled, "labels": rows}

    def to_dict(self) -> dict[str, Any]:
        """Return the legend with, for each name that occurs, its half-open box and its mask as run lengths, ready for JSON."""
        legend = self.legend()
        for row in legend["labels"]:
            if row["area"]:
                mask = self.mask(row["name"])
                row |= {"box": list(masks.mask_to_box(mask)), "rle": masks.encode_rle(mask)}
        return legend

    def save(self, path: str | os.PathLike[str], format: str | None = None) -> Path:
        """Write the label map to a file, atomically, and return its path.

        Args:
            path: Its suffix chooses the file's format.
            format: "labels" (a PNG whose values are the labels, 255 for none, with a palette, and a legend in a .json of the same stem beside it; with more
                than 255 names 16-bit grey, 65535 for none), "overlay" or "json" (legend, boxes and run lengths). Without one, "json" where the path ends
                in .json, else "labels".

        Raises:
            OutputError: If the format is unknown, the suffix does not fit it, or the place cannot be written.
            ImageError: If the format shows the image and the label map does not hold it.
        """
        return _save(self, path, format, LABEL_MAP_WRITERS, "labels")

    @property
    def unlabelled(self) -> int:
        """The value of pixels without a name in a saved label image."""
        return 255 if len(self.names) <= MOST_PALETTE_NAMES else 65535


def distinct_color(number: int) -> tuple[int, int, int]:
    """Return a bright RGB colour for the number of a class or instance; neighbours differ strongly, since their hues lie a golden section apart."""
    hue = (0.58 + number * 0.618034) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85 - 0.25 * (number // 5 % 2), 1.0 - 0.2 * (number // 10 % 2))
    return round(255 * red), round(255 * green), round(255 * blue)


def _write_name(canvas: Image.Image, name: str, mask: np.ndarray, color: tuple[int, int, int]) -> None:
    """Write a name at the pixel deepest inside the largest part of a mask, moved so that it stays inside the picture."""
    depth = cv2.distanceTransform(np.pad(masks.largest_component(mask), 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    size = max(14, min(canvas.size) // 22)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size)
    style: dict[str, Any] = {"font": font, "anchor": "mm", "stroke_width": max(1, size // 8)}
    left, top, right, bottom = draw.textbbox((int(x) - 1, int(y) - 1), name, **style)
    shift_x = max(0, -left) or min(0, canvas.width - right)
    shift_y = max(0, -top) or min(0, canvas.height - bottom)
    draw.text((int(x) - 1 + shift_x, int(y) - 1 + shift_y), name, fill=(255, 255, 255), stroke_fill=tuple(value // 3 for value in color), **style)


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def _checked_image(image: np.ndarray | None, size: tuple[int, ...]) -> np.ndarray | None:
    if image is None:
        return None
    if images.require_image(image).shape[:2] != size:
        raise ShapeError(f"expected an image of the result's size {size}, got {image.shape[:2]}")
    return _read_only(image)


def _required(image: np.ndarray | None) -> np.ndarray:
    if image is None:
        raise ImageError("expected a result that holds its image, got one without; make it with image=...")
    return image


def _save(result: Any, path: str | os.PathLike[str], format: str | None, writers: Mapping[str, Callable[[Any, Path], Path]], default: str) -> Path:
    path = Path(path)
    chosen = format or ("json" if path.suffix.lower() == ".json" else default)
    if chosen not in writers:
        raise OutputError(f"expected a format out of {', '.join(writers)}, got {chosen!r}")
    return writers[chosen](result, path)


def _save_json(path: Path, content: dict[str, Any]) -> Path:
    if path.suffix.lower() != ".json":
        raise OutputError(f"{path}: expected a path that ends in .json for this format, got {path.suffix or 'none'!r}")
    return images.write_bytes(path, json.dumps(content).encode())


def _save_coco(result: Segmentation, path: Path) -> Path:
    """Write a data set of one image, which is called as the file."""
    parts = [part for part in result.instances or (result,) if part.area]
    names = list(dict.fromkeys(part.name or "object" for part in result.instances or (result,)))
    height, width = result.mask.shape
    content = {
        "images": [{"id": 1, "file_name": path.stem, "height": height, "width": width}],
        "categories": [{"id": number, "name": name, "supercategory": "object"} for number, name in enumerate(names, 1)],
        "annotations": [part.to_coco(1, number, 1 + names.index(part.name or "object")) for number, part in enumerate(parts, 1)],
    }
    return _save_json(path, content)


def _save_labels(result: LabelMap, path: Path) -> Path:
    if path.suffix.lower() != ".png":
        raise OutputError(f"{path}: expected a path that ends in .png for labels, got {path.suffix or 'none'!r}")
    values = np.where(result.labels < 0, result.unlabelled, result.labels)
    if result.unlabelled == 255:
        picture = Image.fromarray(values.astype(np.uint8)).convert("L")
        picture.putpalette([channel for number in range(255) for channel in distinct_color(number)] + [0, 0, 0])
    else:
        picture = Image.fromarray(values.astype(np.uint16))
    _save_json(path.with_suffix(".json"), result.legend())
    return images.write_image(path, picture)


SEGMENTATION_WRITERS: Mapping[str, Callable[[Segmentation, Path], Path]] = {
    "mask": lambda result, path: images.write_mask(path, result.mask),
    "cutout": lambda result, path: images.write_image(path, result.cutout()),
    "overlay": lambda result, path: images.write_image(path, result.overlay()),
    "coco": _save_coco,
    "json": lambda result, path: _save_json(path, result.to_dict()),
}
"""What `Segmentation.save` can write, by the name of the format."""

LABEL_MAP_WRITERS: Mapping[str, Callable[[LabelMap, Path], Path]] = {
    "labels": _save_labels,
    "overlay": lambda result, path: images.write_image(path, result.overlay()),
    "json": lambda result, path: _save_json(path, result.to_dict()),
}
"""What `LabelMap.save` can write, by the name of the format."""
