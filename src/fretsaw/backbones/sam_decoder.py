"""What SAM's and SAM 2's prompt encoder and mask decoder have in common: the arithmetic, on the parameters that transformers' modules hold.

The two published decoders differ in one token, two added feature maps and a sigmoid; `sam.py` and `sam2.py` say so, everything else is here.

Source: Segment Anything (Kirillov et al. 2023), appendix A, "Prompt encoder" and "Lightweight mask decoder", figure 14.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw.backbones.two_way import ImageView, first_view, two_way_transformer
from fretsaw.errors import ShapeError, StateDictError
from fretsaw.types import ImageEmbedding, PromptEmbedding

PATCH = 16
"""Model pixels per cell of the image embedding, along one axis."""

PROMPTS_AT_ONCE = {"cpu": 1}
"""How many prompt sets are decoded together, by device type; 64 elsewhere. A CPU is faster one by one, because one prompt's image fits its cache."""


def positional_encoding(unit_xy: Tensor, gaussian: Tensor) -> Tensor:
    """Encode points by random Fourier features.

    Args:
        unit_xy: (..., 2) xy in [0, 1], the model frame's edges.
        gaussian: (2, C/2) frequencies.

    Returns:
        (..., C).

    Source: Tancik et al. 2020, "Fourier features let networks learn high frequency functions", as SAM uses it for points and for the image grid.
    """
    phase = (2 * math.pi) * ((2 * unit_xy - 1) @ gaussian)
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


def image_positions(height: int, width: int, gaussian: Tensor) -> Tensor:
    """Return the positional encoding of the centres of an embedding grid, (1, height * width, C), in row order."""
    rows = (torch.arange(height, device=gaussian.device, dtype=gaussian.dtype) + 0.5) / height
    columns = (torch.arange(width, device=gaussian.device, dtype=gaussian.dtype) + 0.5) / width
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return positional_encoding(torch.stack([x, y], dim=-1), gaussian).flatten(0, 1)[None]


class PromptEncoder(nn.Module):
    """Points and a mask to the pair that the mask decoder consumes.

    Args:
        gaussian: (2, C/2) frequencies of the positional encoding.
        labels: (4, C) what is added to a negative point, a positive point, a box's top-left and bottom-right corner.
        padding: (1, C) a padding point's embedding.
        no_mask: (1, C) the dense embedding where no mask is given.
        mask_embed: Network from (P, 1, 4h, 4w) logits to (P, C, h, w).
        size: Side S of the model frame, or (height, width).
        pads_beside_box: Whether the padding point is also appended where a box is given: SAM 2 was trained so, SAM was not.
    """

    gaussian: Tensor

    def __init__(
        self, gaussian: Tensor, labels: Tensor, padding: Tensor, no_mask: Tensor, mask_embed: nn.Module, size: int | tuple[int, int], pads_beside_box: bool
    ) -> None:
        super().__init__()
        self.register_buffer("gaussian", gaussian)
        self.labels = nn.Parameter(labels)
        self.padding = nn.Parameter(padding)
        self.no_mask = nn.Parameter(no_mask)
        self.mask_embed = mask_embed
        self.size = (size, size) if isinstance(size, int) else size
        self.pads_beside_box = pads_beside_box

    def at_size(self, size: int | tuple[int, int]) -> PromptEncoder:
        """Return a prompt encoder for another model frame that shares this one's parameters."""
        other = copy.copy(self)
        other.size = (size, size) if isinstance(size, int) else size
        return other

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the dense embedding."""
        return self.size[0] // PATCH, self.size[1] // PATCH

    def forward(self, point_coords: Tensor | None, point_labels: Tensor | None, mask_logits: Tensor | None) -> PromptEmbedding:
        """Embed P prompt sets.

        Args:
            point_coords: (P, N, 2) float32 xy in the model frame, or None for N = 0.
            point_labels: (P, N): 1, 0, 2, 3, or -1 for padding; None together with point_coords.
            mask_logits: (P, 1, 4h, 4w) float32, or (1, 1, 4h, 4w) shared by all, or None.

        Raises:
            ShapeError: If the mask's size is not four times the embedding grid, or P differs.
        """
        count = 1 if mask_logits is None else len(mask_logits)
        if point_coords is not None and point_labels is not None:
            sparse = self._embed_points(point_coords, point_labels)
            count = len(sparse)
        else:
            sparse = self.no_mask.new_zeros(count, 0, self.no_mask.shape[-1])
        return PromptEmbedding(sparse, self._embed_mask(mask_logits, count))

    def _embed_points(self, coords: Tensor, labels: Tensor) -> Tensor:
        # Points name pixel centres; half a pixel takes them to the frame's edges, which are 0 and 1 of the encoding.
        extent = coords.new_tensor([self.size[1], self.size[0]])
        points = positional_encoding((coords + 0.5) / extent, self.gaussian)
        points = points + self.labels[labels.long().clamp(min=0)]
        return torch.where((labels < 0)[..., None], self.padding, points)

    def _embed_mask(self, mask_logits: Tensor | None, count: int) -> Tensor:
        height, width = self.grid
        if mask_logits is None:
            return self.no_mask[:, :, None, None].expand(count, -1, height, width)
        if mask_logits.shape[1:] != (1, 4 * height, 4 * width) or len(mask_logits) not in (1, count):
            raise ShapeError(f"expected mask_logits ({count} or 1, 1, {4 * height}, {4 * width}), got {tuple(mask_logits.shape)}")
        return self.mask_embed(mask_logits).expand(count, -1, -1, -1)


def check_embeddings(embedding: ImageEmbedding, prompt: PromptEmbedding) -> None:
    """Refuse an image embedding and a prompt embedding that do not fit together.

    Raises:
        ShapeError: If their grids, channels or batches differ, or there is no prompt set at all.
    """
    images, prompts = len(embedding.final), len(prompt.sparse)
    if prompts == 0 or images not in (1, prompts) or len(prompt.dense) != prompts or embedding.final.shape[1:] != prompt.dense.shape[1:]:
        raise ShapeError(
            f"expected an image embedding (1 or P, C, h, w) and a prompt embedding (P, N, C), (P, C, h, w) with P of at least 1, "
            f"got {tuple(embedding.final.shape)}, {tuple(prompt.sparse.shape)}, {tuple(prompt.dense.shape)}"
        )


def enlarge(convolution: nn.ConvTranspose2d, image: Tensor) -> Tensor:
    """Apply a transposed convolution of kernel and stride 2 to the last axis: (..., C) to (..., 2, 2, C'), the two axes being row and column of the four."""
    channels = convolution.out_channels
    weight = convolution.weight.permute(2, 3, 1, 0).reshape(4 * channels, -1)
    bias = None if convolution.bias is None else convolution.bias.repeat(4)
    return F.linear(image, weight, bias).unflatten(-1, (2, 2, channels))


MakeMasks = Callable[[Tensor], Tensor]
"""Indices (n,) of prompt sets -> their low_res_logits (n, 1, 4h, 4w)."""


class MaskDecoder(nn.Module):
    """Image and prompt embedding to four masks with their predicted IoU; base of SAM's and SAM 2's.

    Args:
        decoder: transformers' `SamMaskDecoder` or `Sam2MaskDecoder`.
        gaussian: (2, C/2) frequencies of the positional encoding.

    Source: Segment Anything (Kirillov et al. 2023), appendix A, "Lightweight mask decoder".
    """

    gaussian: Tensor

    def __init__(self, decoder: Any, gaussian: Tensor) -> None:
        super().__init__()
        self.decoder = decoder
        self.register_buffer("gaussian", gaussian)
        self._positions: tuple[Any, Tensor] | None = None

    def leading_tokens(self) -> list[Tensor]:
        """Return the learned output tokens (T, C) that stand before the IoU token."""
        return []

    def forward(self, embedding: ImageEmbedding, prompt: PromptEmbedding) -> tuple[Tensor, Tensor]:
        """Return low_res_logits (P, 4, 4h, 4w) and predicted_iou (P, 4) of all four mask tokens, the single-mask token first.

        Raises:
            ShapeError: If the two embeddings do not fit together.
        """
        grid = (embedding.final.shape[-2], embedding.final.shape[-1])
        parts = []
        for tokens, image, high_res in self._exchanges(embedding, prompt):
            parts.append((self._masks(image.unflatten(1, grid), high_res, self._mask_weights(tokens, slice(None))), self._predicted_iou(tokens)))
        return torch.cat([logits for logits, _ in parts]), torch.cat([iou for _, iou in parts])

    def judge(self, embedding: ImageEmbedding, prompt: PromptEmbedding, extent: tuple[int, int]) -> tuple[Tensor, MakeMasks]:
        """Predict first how good the masks would be, and make only those that are wanted, where they are wanted.

        The predicted IoU comes from the tokens alone; upscaling the image is for the masks, and each place is upscaled by itself.

        Args:
            embedding: Of one image, or of P.
            prompt: Of P prompt sets.
            extent: Rows and columns of the embedding's grid that are wanted, from the top left; what lies beyond is padding.

        Returns:
            predicted_iou (P,) of the single-mask token, and a function from indices (n,) of prompt sets to their low_res_logits (n, 1, 4h, 4w), which are 0
            beyond the extent.

        Raises:
            ShapeError: If the two embeddings do not fit together.
        """
        grid = (embedding.final.shape[-2], embedding.final.shape[-1])
        rows, columns = (min(wanted, side) for wanted, side in zip(extent, grid, strict=True))
        found = [(tokens, image.unflatten(1, grid)[:, :rows, :columns], fine) for tokens, image, fine in self._exchanges(embedding, prompt)]
        step = len(found[0][0])

        def masks(wanted: Tensor) -> Tensor:
            result = embedding.final.new_zeros(len(wanted), 1, 4 * grid[0], 4 * grid[1])
            for number, (tokens, image, high_res) in enumerate(found):
                places = torch.nonzero(wanted // step == number).flatten()
                if len(places):
                    own = wanted[places] % step
                    finer = tuple(_rows(level, own)[..., : factor * rows, : factor * columns] for level, factor in zip(high_res, (4, 2), strict=False))
                    result[places, :, : 4 * rows, : 4 * columns] = self._masks(image[own], finer, self._mask_weights(tokens[own], slice(0, 1)))
            return result

        return torch.cat([self._predicted_iou(tokens)[:, 0] for tokens, _, _ in found]), masks

    def _exchanges(self, embedding: ImageEmbedding, prompt: PromptEmbedding) -> Iterator[tuple[Tensor, Tensor, tuple[Tensor, ...]]]:
        """Let image and tokens look at each other, some prompt sets at a time; yields their tokens, image and finer maps."""
        check_embeddings(embedding, prompt)
        positions = self._image_positions(embedding.final.shape[-2], embedding.final.shape[-1])
        # One dense prompt for all, expanded and not copied, lets one image serve all prompts of the first layer.
        dense = prompt.dense[:1] if prompt.dense.stride(0) == 0 else prompt.dense
        image = (embedding.final + dense).flatten(2).transpose(1, 2).contiguous()
        count = len(prompt.sparse)
        first = first_view(self.decoder.transformer, image, positions, count)
        step = PROMPTS_AT_ONCE.get(image.device.type, 64)
        for start in range(0, count, step):
            rows = slice(start, start + step)
            tokens, seen = self._exchange(prompt.sparse[rows], _rows(image, rows), first, positions)
            yield tokens, seen, tuple(_rows(level, rows) for level in embedding.high_res)

    def _image_positions(self, height: int, width: int) -> Tensor:
        """Return `image_positions`, kept from the last call: a million sines and cosines are a tenth of a click's time."""
        key = (height, width, self.gaussian.device, self.gaussian.dtype, self.gaussian._version)
        if self._positions is None or self._positions[0] != key:
            # A tensor made in inference mode could not be used by a later training step.
            with torch.inference_mode(False):
                self._positions = key, image_positions(height, width, self.gaussian)
        return self._positions[1]

    def _predicted_iou(self, tokens: Tensor) -> Tensor:
        return self.decoder.iou_prediction_head(tokens[:, sum(len(part) for part in self.leading_tokens())])

    def _mask_weights(self, tokens: Tensor, chosen: slice) -> Tensor:
        """Return the weights (P, C/8, M) of the upscaled channels for some of the four mask tokens."""
        at = sum(len(part) for part in self.leading_tokens()) + 1
        mask_tokens = tokens[:, at : at + self.decoder.num_mask_tokens]
        networks = list(enumerate(self.decoder.output_hypernetworks_mlps))[chosen]
        return torch.stack([network(mask_tokens[:, i]) for i, network in networks], dim=2)

    def _exchange(self, sparse: Tensor, image: Tensor, first: ImageView | None, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Let output and prompt tokens and the image look at each other; returns both."""
        learned = torch.cat([*self.leading_tokens(), self.decoder.iou_token.weight, self.decoder.mask_tokens.weight])
        tokens = torch.cat([learned.expand(len(sparse), -1, -1), sparse], dim=1)
        return two_way_transformer(self.decoder.transformer, tokens, image, first, positions)

    def _masks(self, image: Tensor, high_res: tuple[Tensor, ...], weights: Tensor) -> Tensor:
        """Upscale the image (P, h, w, C) by four and weigh its channels by `weights` (P, C/8, M); returns (P, M, 4h, 4w).

        Channels stay last and each place keeps its own 4 x 4 finer places beside it, so that both transposed convolutions are plain matrix products;
        only the finished masks are put in order.
        """
        height, width = image.shape[1], image.shape[2]
        masks = self._upscale(image, high_res).flatten(1, -2) @ weights
        return _in_rows(masks, height, width)

    def _upscale(self, image: Tensor, high_res: tuple[Tensor, ...]) -> Tensor:
        """Upscale the image (P, h, w, C) by four: (P, h, w, 2, 2, 2, 2, C/8), the last four of the axes before the channels being rows and columns in turn."""
        decoder, norm = self.decoder, self.decoder.upscale_layer_norm
        height, width = image.shape[1], image.shape[2]
        image = enlarge(decoder.upscale_conv1, image)
        if high_res:
            middle = high_res[1].permute(0, 2, 3, 1).unflatten(2, (width, 2)).unflatten(1, (height, 2))
            image += middle.transpose(2, 3)
        image = decoder.activation(F.layer_norm(image, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
        image = enlarge(decoder.upscale_conv2, image)
        if high_res:
            fine = high_res[0].permute(0, 2, 3, 1).unflatten(2, (width, 2, 2)).unflatten(1, (height, 2, 2))
            image += fine.permute(0, 1, 4, 2, 5, 3, 6, 7)
        return decoder.activation(image)

    def upscaled_scores(self, embedding: ImageEmbedding, prompt: PromptEmbedding, weight: Tensor, bias: Tensor) -> Tensor:
        """Return a 1 x 1 convolution of the decoder's upscaled features, in place of its masks: (B, K, 4h, 4w).

        Args:
            embedding: Of B images.
            prompt: One prompt set an image.
            weight: (K, C/8).
            bias: (K,).

        Raises:
            ShapeError: If the two embeddings do not fit together.
        """
        check_embeddings(embedding, prompt)
        height, width = embedding.final.shape[-2:]
        positions = self._image_positions(height, width)
        image = (embedding.final + prompt.dense).flatten(2).transpose(1, 2).contiguous()
        _, image = self._exchange(prompt.sparse, image, None, positions)
        scores = F.linear(self._upscale(image.unflatten(1, (height, width)), embedding.high_res), weight, bias).flatten(1, -2)
        return _in_rows(scores, height, width)


def _in_rows(values: Tensor, height: int, width: int) -> Tensor:
    """Put (P, h w 16, M), each place's own 4 x 4 finer places beside it, in the order of rows: (P, M, 4h, 4w)."""
    ordered = values.unflatten(1, (height, width, 2, 2, 2, 2)).permute(0, 7, 1, 3, 5, 2, 4, 6)
    return ordered.reshape(len(values), -1, 4 * height, 4 * width)


def _rows(values: Tensor, rows: slice | Tensor) -> Tensor:
    """Take some prompt sets' rows, or the one row that all of them share."""
    return values if len(values) == 1 else values[rows]


def load_strict(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a network on the meta device its weights.

    Raises:
        StateDictError: If a name is missing or unknown, a shape differs, or whole numbers stand for fractions; the message lists the first of each.
    """
    expected = model.state_dict()
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    reshaped = [name for name in expected.keys() & weights.keys() if expected[name].shape != weights[name].shape]
    whole = [name for name in expected.keys() & weights.keys() if expected[name].is_floating_point() and not weights[name].is_floating_point()]
    if missing or unknown or reshaped or whole:
        raise StateDictError(
            f"the weights do not fit {type(model).__name__}: {len(missing)} parameters missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}, "
            f"{len(reshaped)} of another shape {[(n, tuple(expected[n].shape), tuple(weights[n].shape)) for n in sorted(reshaped)[:3]]}, "
            f"{len(whole)} of whole numbers {sorted(whole)[:3]}"
        )
    model.load_state_dict({name: value.float() for name, value in weights.items()}, strict=True, assign=True)
