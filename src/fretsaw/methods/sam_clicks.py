"""Segment by click, box or mask with the decoder of SAM or SAM 2, on any image encoder.

Read this first: every other method either replaces the image encoder (HRSAM), makes the prompt embedding (PMG-SAM, GrC-SAM) or improves the result (SAM-REF).

    pixels --image_encoder--> ImageEmbedding ------------\
                                                          mask_decoder --> four masks with their predicted IoU
    points, previous mask --prompt_encoder--> PromptEmbedding --/

Source: Segment Anything (Kirillov et al. 2023), section 3 and appendix A; SAM 2 (Ravi et al. 2024), section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from fretsaw.backbones.sam_decoder import PATCH, MakeMasks, MaskDecoder, PromptEncoder
from fretsaw.clicks.strokes import closely
from fretsaw.errors import ModelError, ShapeError
from fretsaw.frames import Frame, Preprocessing, box_to_model, longest_side, points_to_model, squash
from fretsaw.types import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, NEGATIVE, PADDING, POSITIVE, ImageEmbedding, ImageEncoder, Prompt, PromptEmbedding

Choice = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""`best_of_three` or `single`: (logits (P, 4, h, w), predicted IoU (P, 4)) -> the mask that counts, (P, 1, h, w), and its IoU (P, 1)."""

STROKE_SPACING = 16.0
"""Pixels of the model frame between the points that a stroke is drawn by: four of the decoder's map, where a disk's radius is five."""


class SamClicks(nn.Module):
    """An image encoder, a prompt encoder and a mask decoder that belong together.

    Args:
        image_encoder: pixels (B, 3, S, S) -> `ImageEmbedding` (seam 1).
        prompt_encoder: (point_coords, point_labels, mask_logits) -> `PromptEmbedding` (seam 2), for the same S.
        mask_decoder: (`ImageEmbedding`, `PromptEmbedding`) -> (low_res_logits, predicted_iou).
        preprocessing: How the image encoder wants its pixels.
        checksum: Names the weights; part of every cache key that depends on them.

    Source: Segment Anything (Kirillov et al. 2023), figure 4.
    """

    def __init__(
        self, image_encoder: nn.Module, prompt_encoder: PromptEncoder, mask_decoder: MaskDecoder, preprocessing: Preprocessing, checksum: str = ""
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.preprocessing = preprocessing
        self.checksum = checksum

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.mask_decoder.parameters()).device

    @property
    def embedding_channels(self) -> tuple[int, ...]:
        """C of the image embedding, then the channels of its finer maps, where the decoder takes some; see `ImageEmbedding`."""
        from fretsaw.backbones.sam2 import Sam2MaskDecoder

        channels = self.prompt_encoder.no_mask.shape[-1]
        return (channels, channels // 8, channels // 4) if isinstance(self.mask_decoder, Sam2MaskDecoder) else (channels,)

    def to_precision(self, dtype: torch.dtype) -> SamClicks:
        """Let the image encoder compute in `dtype`; returns self.

        The prompt encoder and the mask decoder stay float32, and so do all embeddings: they cost little, and a click must not jump by a rounding error.
        """
        self.image_encoder.to(dtype)
        return self

    def with_encoder(self, image_encoder: nn.Module, preprocessing: Preprocessing, checksum: str) -> SamClicks:
        """Return a model with another image encoder and this one's prompt encoder and mask decoder, which are shared, not copied.

        Args:
            image_encoder: Returns embeddings like this model's own, of any side.
            preprocessing: Of that encoder; its side becomes the model frame of the prompts.
            checksum: Names the weights of the whole.
        """
        prompt_encoder = self.prompt_encoder.at_size(preprocessing.size)
        return SamClicks(image_encoder, prompt_encoder, self.mask_decoder, preprocessing, checksum).train(self.training)

    def pixels_of(self, image: np.ndarray) -> Tensor:
        """Return the model's input for an image (H, W, 3) uint8 RGB: (1, 3, S, S) float32, on the CPU."""
        return torch.as_tensor(self.preprocessing.pixels_of(image))

    @property
    def encoder(self) -> ImageEncoder:
        """The image encoder as the seam that it is."""
        return cast("ImageEncoder", self.image_encoder)

    def encode(self, pixels: Tensor, taps: Sequence[str] = ()) -> ImageEmbedding:
        """Return the embedding of pixels (B, 3, S, S), normalised; its tensors are float32 whatever the encoder's own dtype.

        Args:
            pixels: Of B images.
            taps: Intermediate tensors that it is to hold, of the encoder's `available_taps`.

        Raises:
            ModelError: If the encoder has no such tap.
        """
        if missing := set(taps).difference(self.encoder.available_taps):
            raise ModelError(f"expected taps of the image encoder out of {', '.join(self.encoder.available_taps) or 'none'}, got {', '.join(sorted(missing))}")
        dtype = next(self.image_encoder.parameters()).dtype
        embedding = self.encoder(pixels.to(self.device, dtype), taps)
        return ImageEmbedding(
            embedding.final.float(), tuple(level.float() for level in embedding.high_res), {name: tap.float() for name, tap in embedding.taps.items()}
        )

    def embed_prompt(self, point_coords: Tensor | None = None, point_labels: Tensor | None = None, mask_logits: Tensor | None = None) -> PromptEmbedding:
        """Embed exactly the points given; a padding point, where the model expects one, is the caller's (see `embed`).

        Args:
            point_coords: (P, N, 2) xy in the model frame, or None.
            point_labels: (P, N): 1 on the object, 0 on background, 2 and 3 a box's top-left and bottom-right corner, -1 padding.
            mask_logits: (P, 1, S/4, S/4) previous logits, or None; one mask is shared among all prompt sets. A finer map, twice that side or more, is averaged.

        Raises:
            ShapeError: If the three do not fit together.
        """
        if (point_coords is None) != (point_labels is None):
            raise ShapeError("expected point_coords and point_labels together, got one without the other")
        if point_coords is not None and point_labels is not None:
            if point_coords.ndim != 3 or point_coords.shape[-1] != 2 or point_labels.shape != point_coords.shape[:2]:
                raise ShapeError(f"expected point_coords (P, N, 2) and point_labels (P, N), got {tuple(point_coords.shape)} and {tuple(point_labels.shape)}")
            point_coords, point_labels = point_coords.to(self.device, torch.float32), point_labels.to(self.device)
        if mask_logits is not None:
            mask_logits = mask_logits.to(self.device, torch.float32)
            finer = mask_logits.shape[-1] // (4 * self.prompt_encoder.grid[1])
            mask_logits = nn.functional.avg_pool2d(mask_logits, finer) if finer > 1 else mask_logits
        return self.prompt_encoder(point_coords, point_labels, mask_logits)

    def embed(self, prompt: Prompt, frame: Frame) -> PromptEmbedding:
        """Embed what a person has said about one object, P = 1, padded as the model's authors do."""
        coords, labels = prompt_points(prompt, frame)
        if prompt.box is None or self.prompt_encoder.pads_beside_box:
            coords, labels = pad_points(coords, labels)
        previous = prompt.previous_logits
        return self.embed_prompt(coords, labels, torch.tensor(previous) if previous is not None else None)

    def decode(self, embedding: ImageEmbedding, prompt_embedding: PromptEmbedding) -> tuple[Tensor, Tensor]:
        """Return all four masks of every prompt set.

        Args:
            embedding: Of one image (B = 1, shared by all prompt sets), or of B = P images, one per prompt set.
            prompt_embedding: Of P prompt sets.

        Returns:
            low_res_logits (P, 4, S/4, S/4) and predicted_iou (P, 4). Index 0 is the single mask, 1 to 3 the three masks of an ambiguous prompt;
            `single` and `best_of_three` choose.
        """
        return self.mask_decoder(embedding, prompt_embedding)

    def judge(self, embedding: ImageEmbedding, prompt_embedding: PromptEmbedding, frame: Frame) -> tuple[Tensor, MakeMasks]:
        """Return the predicted IoU (P,) of every prompt set's single mask, and the function that makes the masks of those that are wanted.

        Args:
            embedding: As for `decode`.
            prompt_embedding: As for `decode`.
            frame: The image's; the frame's padding is not decoded.

        Returns:
            predicted_iou (P,), and a function from indices (n,) of prompt sets to low_res_logits (n, 1, S/4, S/4), which are 0 in the padding.
        """
        # one cell more than the image fills: the last pixels' logits are interpolated with the next ones
        extent = (frame.content_height // PATCH + 1, frame.content_width // PATCH + 1)
        return self.mask_decoder.judge(embedding, prompt_embedding, extent)


def prompt_points(prompt: Prompt, frame: Frame) -> tuple[Tensor, Tensor]:
    """Return a prompt's clicks and box corners as point_coords (1, N, 2) float32 in the model frame and point_labels (1, N) int64; N may be 0."""
    coords = points_to_model(np.array([[click.x, click.y] for click in prompt.clicks]).reshape(-1, 2), frame)
    labels = [POSITIVE if click.positive else NEGATIVE for click in prompt.clicks]
    if prompt.box is not None:
        coords = np.concatenate([coords, box_to_model(prompt.box, frame)])
        labels += [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]
    return torch.as_tensor(coords).float()[None], torch.tensor(labels, dtype=torch.int64)[None]


def drawn_points(prompt: Prompt, frame: Frame) -> tuple[Tensor, Tensor]:
    """Return what a refiner draws: `prompt_points`, and before them the strokes as points so close that their disks join; the last click stays last."""
    spacing = STROKE_SPACING / max(frame.scale_x, frame.scale_y)
    strokes = (click for stroke in prompt.strokes for click in closely(stroke, spacing))
    return prompt_points(replace(prompt, clicks=(*strokes, *prompt.clicks)), frame)


def pad_points(point_coords: Tensor, point_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Append the one padding point that SAM's decoder saw in training: (P, N, 2), (P, N) become (P, N + 1, 2), (P, N + 1)."""
    return nn.functional.pad(point_coords, (0, 0, 0, 1)), nn.functional.pad(point_labels, (0, 1), value=PADDING)


def single(logits: Tensor, iou: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the mask of the single-mask token: (P, 4, h, w), (P, 4) become (P, 1, h, w), (P, 1)."""
    return logits[:, :1], iou[:, :1]


def best_of_three(logits: Tensor, iou: Tensor) -> tuple[Tensor, Tensor]:
    """Keep, per prompt set, the one of the three "multimask" masks with the highest predicted IoU: (P, 4, h, w), (P, 4) become (P, 1, h, w), (P, 1)."""
    best = iou[:, 1:].argmax(dim=1) + 1
    rows = torch.arange(len(best), device=best.device)
    return logits[rows, best][:, None], iou[rows, best][:, None]


def build_sam2(state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, size: int = 1024, checksum: str = "") -> SamClicks:
    """Build SAM 2 or SAM 2.1 from weights under transformers' names.

    Args:
        state_dict: Of transformers' `Sam2Model`, or of its video model, whose memory parts are left out.
        config: A table of `fretsaw.backbones.sam2`; None means Hiera-T.
        size: Side S of the model's input, a multiple of 32.
        checksum: Names the weights.

    Raises:
        StateDictError: If names or shapes do not fit the network.
        ShapeError: If the side is not such a multiple.
    """
    from fretsaw.backbones import sam2

    parts = sam2.build_parts(state_dict, sam2.HIERA_TINY if config is None else config, size)
    return SamClicks(*parts, Preprocessing(squash, size), checksum).eval()


def build_sam(state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, size: int = 1024, checksum: str = "") -> SamClicks:
    """Build SAM from weights under transformers' names (`SamModel`).

    Args:
        state_dict: Of transformers' `SamModel`.
        config: A table of `fretsaw.backbones.sam`; None means ViT-B.
        size: Side S of the model's input; where it is not the side of training (1024), the position tables are resampled. A multiple of 16.
        checksum: Names the weights.

    Raises:
        StateDictError: If names or shapes do not fit the network.
        ShapeError: If the side is not such a multiple.
    """
    from fretsaw.backbones import sam

    parts = sam.build_parts(state_dict, sam.VIT_BASE if config is None else config, size)
    return SamClicks(*parts, Preprocessing(longest_side, size), checksum).eval()
