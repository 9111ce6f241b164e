"""segment-anything's `SamAutomaticMaskGenerator`, over the grid of `fretsaw.methods.grid`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fretsaw import masks
from fretsaw.compat.predictor import SamPredictor
from fretsaw.errors import ConfigError
from fretsaw.methods.grid import GridMask, GridMasks, SamCrop, inclusive_box
from fretsaw.methods.sam_clicks import SamClicks

if TYPE_CHECKING:
    from fretsaw.api import Segmenter

OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")


class SamAutomaticMaskGenerator:
    """Finds masks for everything in an image by a grid of points; `fretsaw.methods.grid.GridMasks` under segment-anything's names.

    Args:
        model: As for `SamPredictor`.
        points_per_side: Points along one side of the image; None where `point_grids` is given.
        points_per_batch: Prompts decoded at once.
        pred_iou_thresh: Masks at or below this predicted IoU are dropped.
        stability_score_thresh: Masks below this stability are dropped.
        stability_score_offset: How far the threshold is moved to measure stability.
        box_nms_thresh: Box IoU above which a mask is a duplicate of a better one in its crop.
        crop_n_layers: Layers of crops beside the whole image.
        crop_nms_thresh: The same as `box_nms_thresh` across crops.
        crop_overlap_ratio: Overlap of the first layer's crops, as a part of the image's short side.
        crop_n_points_downscale_factor: Layer n has `points_per_side` divided by this to the power of n.
        point_grids: One array (N, 2) of xy in [0, 1] for each layer.
        min_mask_region_area: Holes and islands below this many pixels are removed.
        output_mode: "binary_mask", "uncompressed_rle" or "coco_rle".

    Raises:
        ConfigError: If a value is outside its range.
        ModelError: If the model takes no clicks.
    """

    def __init__(
        self,
        model: SamClicks | Segmenter,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: Sequence[np.ndarray] | None = None,
        min_mask_region_area: int = 0,
        output_mode: str = "binary_mask",
    ) -> None:
        if output_mode not in OUTPUT_MODES:
            raise ConfigError(f"output_mode: expected one of {', '.join(OUTPUT_MODES)}, got {output_mode!r}")
        self.output_mode = output_mode
        self.predictor = SamPredictor(model)
        self.grid = GridMasks(
            points_per_side=points_per_side,
            points_per_batch=points_per_batch,
            min_predicted_iou=pred_iou_thresh,
            min_stability=stability_score_thresh,
            stability_offset=stability_score_offset,
            box_nms_iou=box_nms_thresh,
            crop_layers=crop_n_layers,
            crop_nms_iou=crop_nms_thresh,
            crop_overlap=crop_overlap_ratio,
            points_downscale=crop_n_points_downscale_factor,
            point_grids=point_grids,
            min_region_area=min_mask_region_area,
        )

    def generate(self, image: np.ndarray, progress: Callable[[int, int], None] | None = None) -> list[dict[str, Any]]:
        """Return one record for each mask found.

        Args:
            image: (H, W, 3) uint8 RGB.
            progress: Called with (prompts done, prompts in all) after every batch.

        Returns:
            Dicts with the keys `segmentation` ((H, W) bool, or run lengths), `area`, `bbox` and `crop_box` (x, y, width, height), `predicted_iou`,
            `point_coords` ([[x, y]]) and `stability_score`; best first.

        Raises:
            ShapeError: If the image is not (H, W, 3) uint8.
        """
        found = self.grid.generate(image, self._open_crop, progress)
        self.predictor.reset_image()
        return [record_of(mask, self.output_mode) for mask in found]

    def _open_crop(self, crop: np.ndarray) -> SamCrop:
        self.predictor.set_image(crop)
        return SamCrop(self.predictor.model, self.predictor.embedding, self.predictor.frame)


def record_of(mask: GridMask, output_mode: str) -> dict[str, Any]:
    """Return a mask of the grid as segment-anything writes it."""
    segmentation = {"binary_mask": lambda: mask.mask, "uncompressed_rle": lambda: mask.rle, "coco_rle": lambda: masks.encode_rle(mask.mask)}
    return {
        "segmentation": segmentation[output_mode](),
        "area": mask.area,
        "bbox": _xywh(inclusive_box(mask.box)),
        "predicted_iou": mask.predicted_iou,
        "point_coords": [list(mask.point)],
        "stability_score": mask.stability,
        "crop_box": _xywh(mask.crop),
    }


def _xywh(box: tuple[int, int, int, int]) -> list[int]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - x0, y1 - y0]
