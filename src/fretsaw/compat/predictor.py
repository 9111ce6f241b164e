"""segment-anything's `SamPredictor` and the transform it carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fretsaw import frames, masks
from fretsaw.compat.registry import clicks_of
from fretsaw.errors import ConfigError, PromptError, ShapeError
from fretsaw.layers.resampling import enlarge_logits, resize_image
from fretsaw.methods.sam_clicks import SamClicks, pad_points, single
from fretsaw.types import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, PADDING, ImageEmbedding

if TYPE_CHECKING:
    from fretsaw.api import Segmenter

IMAGE_FORMATS = ("RGB", "BGR")


class ImageNotSetError(PromptError, RuntimeError):
    """A prediction or embedding was asked for before `set_image`."""


class ResizeTransform:
    """What segment-anything calls `predictor.transform`: brings images and prompts into the model's input frame.

    Attributes:
        target_length: Side S of the model's input.
    """

    def __init__(self, preprocessing: frames.Preprocessing) -> None:
        self._frame_of_size = preprocessing.frame
        self.target_length = preprocessing.size

    def frame(self, original_size: Sequence[int]) -> frames.Frame:
        """Return how an image of (H, W) lies in the model's input."""
        return self._frame_of_size(int(original_size[0]), int(original_size[1]), self.target_length)

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """Resize (H, W, 3) uint8 to its size in the model's input, without padding."""
        frame = self.frame(image.shape[:2])
        return resize_image(image, frame.content_height, frame.content_width)

    def apply_coords(self, coords: np.ndarray, original_size: Sequence[int]) -> np.ndarray:
        """Map xy (..., 2) in pixels of an image of (H, W) to the model's input; returns float64."""
        return frames.points_to_model(coords, self.frame(original_size))

    def apply_boxes(self, boxes: np.ndarray, original_size: Sequence[int]) -> np.ndarray:
        """Map boxes (B, 4) or (4,), x0 y0 x1 y1, to the model's input; returns (B, 4) float64."""
        return self.apply_coords(np.reshape(boxes, (-1, 2, 2)), original_size).reshape(-1, 4)

    def apply_coords_torch(self, coords: Tensor, original_size: Sequence[int]) -> Tensor:
        """`apply_coords` for tensors; returns float32 on the same device."""
        frame = self.frame(original_size)
        return coords.float() * coords.new_tensor([frame.scale_x, frame.scale_y], dtype=torch.float32)

    def apply_boxes_torch(self, boxes: Tensor, original_size: Sequence[int]) -> Tensor:
        """`apply_boxes` for tensors; returns float32 on the same device."""
        return self.apply_coords_torch(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)


class SamPredictor:
    """Encodes an image once and answers prompts on it.

    Args:
        sam_model: From `sam_model_registry`, any `SamClicks`, or a `Segmenter` from `fretsaw.load`.

    Attributes:
        model: The network.
        transform: Maps images and prompts to the model's input.
        is_image_set: Whether `predict` can be called.
        features: (1, C, h, w) embedding of the image, or None.
        original_size: (H, W) of the image, or None.
        input_size: (h, w) of the image in the model's input without padding, or None.

    Raises:
        ModelError: If the model takes no clicks.
    """

    mask_threshold = 0.0

    def __init__(self, sam_model: SamClicks | Segmenter) -> None:
        self.model = clicks_of(sam_model)
        self.transform = ResizeTransform(self.model.preprocessing)
        self.reset_image()

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.device

    def reset_image(self) -> None:
        """Forget the image."""
        self.is_image_set = False
        self.features: Tensor | None = None
        self.original_size: tuple[int, int] | None = None
        self.input_size: tuple[int, int] | None = None
        self._high_res: tuple[Tensor, ...] = ()

    def set_image(self, image: np.ndarray, image_format: str = "RGB") -> None:
        """Encode an image (H, W, 3) uint8.

        Raises:
            ShapeError: If the image is not such an array.
            ConfigError: If the format is neither "RGB" nor "BGR".
        """
        if image_format not in IMAGE_FORMATS:
            raise ConfigError(f"image_format: expected one of {', '.join(IMAGE_FORMATS)}, got {image_format!r}")
        if not masks.is_array(image, 3, np.uint8) or image.shape[2] != 3:
            raise ShapeError(f"image: expected a numpy array (H, W, 3) of uint8, got {masks.describe(image)}")
        if image_format == "BGR":
            image = image[..., ::-1]
        resized = torch.as_tensor(np.ascontiguousarray(self.transform.apply_image(image)))
        self.set_torch_image(resized.permute(2, 0, 1)[None], image.shape[:2])

    @torch.no_grad()
    def set_torch_image(self, transformed_image: Tensor, original_image_size: Sequence[int]) -> None:
        """Encode an image that has its size in the model's input already.

        Args:
            transformed_image: (1, 3, h, w) RGB in 0 .. 255; the longer side is S (both sides where the model's frame is a stretched square).
            original_image_size: (H, W) before it was resized.

        Raises:
            ShapeError: If the tensor has another shape.
        """
        height, width = int(original_image_size[0]), int(original_image_size[1])
        size, padded = self.transform.target_length, self.transform.frame((height, width)).padded
        given = tuple(transformed_image.shape)
        fits = len(given) == 4 and given[:2] == (1, 3) and (max(given[2:]) == size if padded else given[2:] == (size, size))
        if not fits:
            expected = f"(1, 3, h, w) with a longer side of {size}" if padded else f"(1, 3, {size}, {size})"
            raise ShapeError(f"transformed_image: expected a tensor {expected}, got {given}")
        self.reset_image()
        preprocessing = self.model.preprocessing
        values = transformed_image.float() / 255
        mean, std = (values.new_tensor(channels).view(1, 3, 1, 1) for channels in (preprocessing.mean, preprocessing.std))
        pixels = (values - mean) / std
        pixels = torch.nn.functional.pad(pixels, (0, size - given[3], 0, size - given[2]))
        embedding = self.model.encode(pixels)
        self.features, self._high_res = embedding.final, embedding.high_res
        self.original_size, self.input_size = (height, width), (given[2], given[3])
        self.is_image_set = True

    @property
    def embedding(self) -> ImageEmbedding:
        """All that the model's decoder needs of the image; for SAM 2 more than `features`."""
        return ImageEmbedding(self.get_image_embedding(), self._high_res)

    @property
    def frame(self) -> frames.Frame:
        """How the image lies in the model's input.

        Raises:
            ImageNotSetError: If no image is set.
        """
        if not self.is_image_set or self.original_size is None or self.input_size is None:
            raise ImageNotSetError("expected an image, got none: call set_image first")
        return replace(self.transform.frame(self.original_size), content_height=self.input_size[0], content_width=self.input_size[1])

    def get_image_embedding(self) -> Tensor:
        """Return the image's embedding, (1, C, h, w).

        Raises:
            ImageNotSetError: If no image is set.
        """
        if not self.is_image_set or self.features is None:
            raise ImageNotSetError("expected an image, got none: call set_image first")
        return self.features

    def predict(
        self,
        point_coords: np.ndarray | None = None,
        point_labels: np.ndarray | None = None,
        box: np.ndarray | None = None,
        mask_input: np.ndarray | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Answer one set of prompts.

        Args:
            point_coords: (N, 2) xy in pixels of the image, or None.
            point_labels: (N,) 1 on the object, 0 on background, -1 padding.
            box: (4,) x0, y0, x1, y1 in pixels of the image, or None.
            mask_input: (1, S/4, S/4) logits of an earlier answer, or None.
            multimask_output: True for the three masks of an ambiguous prompt, False for the single mask.
            return_logits: Return logits instead of masks.

        Returns:
            masks: (C, H, W) bool, or float32 logits; C is 3 or 1.
            scores: (C,) float32, the model's estimate of the masks' IoU.
            low_res_masks: (C, S/4, S/4) float32 logits as the decoder gives them, for the next call's `mask_input`.

        Raises:
            ImageNotSetError: If no image is set.
            PromptError: If coordinates come without labels, or are not finite.
            ShapeError: If an array has another shape than above.
        """
        frame = self.frame
        coords_torch = labels_torch = boxes_torch = mask_torch = None
        if point_coords is not None:
            coords, labels = _checked_points(point_coords, point_labels)
            coords_torch = torch.as_tensor(frames.points_to_model(coords, frame)).float()[None]
            labels_torch = torch.as_tensor(labels)[None]
        if box is not None:
            corners = _finite("box", np.asarray(box, np.float64))
            if corners.shape not in ((4,), (1, 4)):
                raise ShapeError(f"box: expected 4 numbers x0, y0, x1, y1, got shape {corners.shape}; predict_torch takes several boxes")
            boxes_torch = torch.as_tensor(frames.points_to_model(corners.reshape(2, 2), frame).reshape(1, 4)).float()
        if mask_input is not None:
            mask_torch = torch.as_tensor(np.asarray(mask_input), dtype=torch.float32)
            if mask_torch.ndim != 3:
                raise ShapeError(f"mask_input: expected low_res_masks of an earlier answer, (1, S/4, S/4), got {tuple(mask_torch.shape)}")
            mask_torch = mask_torch[None]
        answers = self.predict_torch(coords_torch, labels_torch, boxes_torch, mask_torch, multimask_output, return_logits)
        full, scores, low_res = (answer[0].cpu().numpy() for answer in answers)
        return full, scores, low_res

    @torch.no_grad()
    def predict_torch(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Answer B sets of prompts that are in the model's input frame already (see `transform`).

        Args:
            point_coords: (B, N, 2) xy, or None.
            point_labels: (B, N), as in `predict`.
            boxes: (B, 4) x0, y0, x1, y1, or None.
            mask_input: (B, 1, S/4, S/4) logits, or None.
            multimask_output: True for three masks a set, False for one.
            return_logits: Return logits instead of masks.

        Returns:
            masks (B, C, H, W) bool or float32 logits, scores (B, C), low_res_masks (B, C, S/4, S/4).

        Raises:
            ImageNotSetError: If no image is set.
            PromptError: If coordinates come without labels.
            ShapeError: If the tensors do not fit together.
        """
        frame, embedding = self.frame, self.embedding
        coords, labels = self._prompt_points(point_coords, point_labels, boxes)
        logits, iou = self.model.decode(embedding, self.model.embed_prompt(coords, labels, mask_input))
        low_res, scores = (logits[:, 1:], iou[:, 1:]) if multimask_output else single(logits, iou)
        full = enlarge_logits(low_res, frame)
        return full if return_logits else full > self.mask_threshold, scores, low_res

    def _prompt_points(self, coords: Tensor | None, labels: Tensor | None, boxes: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Join points and box corners, and pad them as the model's authors do."""
        if (coords is None) != (labels is None):
            raise PromptError(f"expected point_coords and point_labels together, got only {'point_labels' if coords is None else 'point_coords'}")
        if boxes is not None:
            corners = boxes.reshape(-1, 2, 2).to(self.device, torch.float32)
            kinds = torch.tensor([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], device=self.device).expand(len(corners), 2)
            if coords is None or labels is None:
                coords, labels = corners, kinds
            elif len(coords) != len(corners):
                raise ShapeError(f"expected as many boxes as sets of points, got {len(corners)} and {len(coords)}")
            else:
                coords, labels = torch.cat([coords.to(corners), corners], dim=1), torch.cat([labels.to(kinds), kinds], dim=1)
        if coords is None or labels is None:
            return None, None
        if boxes is None or self.model.prompt_encoder.pads_beside_box:
            return pad_points(coords, labels)
        return coords, labels


def _checked_points(coords: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    if labels is None:
        raise PromptError("expected point_coords and point_labels together, got only point_coords")
    points, kinds = _finite("point_coords", np.asarray(coords, np.float64)), np.asarray(labels)
    if points.ndim != 2 or points.shape[1] != 2 or kinds.shape != points.shape[:1]:
        raise ShapeError(f"expected point_coords (N, 2) and point_labels (N,), got {points.shape} and {kinds.shape}")
    if not np.isin(kinds, (1, 0, PADDING)).all():
        raise PromptError(f"point_labels: expected 1 on the object, 0 on background or {PADDING} for padding, got {kinds.tolist()}")
    return points, kinds.astype(np.int64)


def _finite(name: str, values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise PromptError(f"{name}: expected finite numbers, got {values.tolist()}")
    return values
