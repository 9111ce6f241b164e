"""What SAM's and SAM 2's prompt encoder and mask decoder have in common: the arithmetic, on the parameters that transformers' modules hold.

The two published decoders differ in one token, two added feature maps and a sigmoid; `sam.py` and `sam2.py` say so, everything else is here.

Source: Segment Anything (Kirillov et al. 2023), appendix A, "Prompt encoder" and "Lightweight mask decoder", figure 14.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


class ImageSide(NamedTuple):
    """What one layer of the two-way transformer needs from the image: heads apart, (P or 1, heads, h * w, C / heads)."""

    key: Tensor
    value: Tensor
    query: Tensor


def image_side(layer: Any, image: Tensor, positions: Tensor) -> ImageSide:
    """Project the image (P or 1, h * w, C) for one layer; a decoder that answers many prompts does so once for the first."""
    placed = image + positions
    read, write = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
    heads = read.num_attention_heads
    return ImageSide(_heads(read.k_proj(placed), heads), _heads(read.v_proj(image), heads), _heads(write.q_proj(placed), heads))


def attend(attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Multi-head attention with heads apart, (P or 1, heads, N or M, C / heads), followed by the output projection; returns (P, N, C)."""
    count = max(len(query), len(key))
    query, key, value = (part.expand(count, -1, -1, -1) for part in (query, key, value))
    mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    return attention.o_proj(mixed) if hasattr(attention, "o_proj") else attention.out_proj(mixed)


def attend_tokens(attention: Any, query: Tensor, value: Tensor) -> Tensor:
    """Let tokens (P, N, C) attend to each other; `value` lacks the positional encoding that `query`, which is also the key, may have."""
    heads = attention.num_attention_heads
    return attend(attention, _heads(attention.q_proj(query), heads), _heads(attention.k_proj(query), heads), _heads(attention.v_proj(value), heads))


def read_image(attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Let tokens (P, N, C) attend to the image, whose `key` and `value` are projected already; returns (P, N, C)."""
    return attend(attention, _heads(attention.q_proj(query), attention.num_attention_heads), key, value)


def write_image(attention: Any, image_query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Let the image, whose queries are projected already, attend to tokens `key` and `value` (P, N, C); returns (P, h * w, C)."""
    heads = attention.num_attention_heads
    return attend(attention, image_query, _heads(attention.k_proj(key), heads), _heads(attention.v_proj(value), heads))


def two_way_transformer(transformer: Any, tokens: Tensor, image: Tensor, first: ImageSide, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Let the tokens look at the image and the image at the tokens, twice, then the tokens once more.

    Args:
        transformer: transformers' `SamTwoWayTransformer` or `Sam2TwoWayTransformer`.
        tokens: (P, N, C) output and prompt tokens; they serve as their own positional encoding.
        image: (P or 1, h * w, C) image embedding plus dense prompt.
        first: `image_side` of the first layer.
        positions: (1, h * w, C).

    Returns:
        tokens (P, N, C) and image (P, h * w, C).

    Source: Segment Anything (Kirillov et al. 2023), figure 14.
    """
    queries, keys, side = tokens, image, first
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = attend_tokens(layer.self_attn, queries, queries)
        else:
            side = image_side(layer, keys, positions)
            queries = queries + attend_tokens(layer.self_attn, queries + tokens, queries)
        queries = layer.layer_norm1(queries)
        queries = layer.layer_norm2(queries + read_image(layer.cross_attn_token_to_image, queries + tokens, side.key, side.value))
        queries = layer.layer_norm3(queries + layer.mlp(queries))
        keys = layer.layer_norm4(keys + write_image(layer.cross_attn_image_to_token, side.query, queries + tokens, queries))
    final = transformer.final_attn_token_to_image
    heads = final.num_attention_heads
    queries = queries + read_image(final, queries + tokens, _heads(final.k_proj(keys + positions), heads), _heads(final.v_proj(keys), heads))
    return transformer.layer_norm_final_attn(queries), keys


def enlarge(convolution: nn.ConvTranspose2d, image: Tensor) -> Tensor:
    """Apply a transposed convolution of kernel and stride 2 to the last axis: (..., C) to (..., 2, 2, C'), the two axes being row and column of the four."""
    channels = convolution.out_channels
    weight = convolution.weight.permute(2, 3, 1, 0).reshape(4 * channels, -1)
    bias = None if convolution.bias is None else convolution.bias.repeat(4)
    return F.linear(image, weight, bias).unflatten(-1, (2, 2, channels))


def _heads(values: Tensor, heads: int) -> Tensor:
    return values.unflatten(-1, (heads, -1)).transpose(1, 2)


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
        check_embeddings(embedding, prompt)
        grid = (embedding.final.shape[-2], embedding.final.shape[-1])
        positions = self._image_positions(*grid)
        # One dense prompt for all, expanded and not copied, lets one image serve all prompts of the first layer.
        dense = prompt.dense[:1] if prompt.dense.stride(0) == 0 else prompt.dense
        image = (embedding.final + dense).flatten(2).transpose(1, 2).contiguous()
        first = image_side(self.decoder.transformer.layers[0], image, positions)
        count = len(prompt.sparse)
        step = PROMPTS_AT_ONCE.get(image.device.type, 64)
        parts = []
        for start in range(0, count, step):
            rows = slice(start, start + step)
            side = ImageSide(*(_rows(part, rows) for part in first))
            high_res = tuple(_rows(level, rows) for level in embedding.high_res)
            parts.append(self._decode(prompt.sparse[rows], _rows(image, rows), side, positions, high_res, grid))
        return torch.cat([logits for logits, _ in parts]), torch.cat([iou for _, iou in parts])

    def _image_positions(self, height: int, width: int) -> Tensor:
        """Return `image_positions`, kept from the last call: a million sines and cosines are a tenth of a click's time."""
        key = (height, width, self.gaussian.device, self.gaussian.dtype, self.gaussian._version)
        if self._positions is None or self._positions[0] != key:
            # A tensor made in inference mode could not be used by a later training step.
            with torch.inference_mode(False):
                self._positions = key, image_positions(height, width, self.gaussian)
        return self._positions[1]

    def _decode(
        self, sparse: Tensor, image: Tensor, first: ImageSide, positions: Tensor, high_res: tuple[Tensor, ...], grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        decoder = self.decoder
        tokens, image = self._exchange(sparse, image, first, positions)
        at = sum(len(part) for part in self.leading_tokens())
        iou = decoder.iou_prediction_head(tokens[:, at])
        mask_tokens = tokens[:, at + 1 : at + 1 + decoder.num_mask_tokens]
        weights = torch.stack([mlp(mask_tokens[:, i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=2)
        return self._masks(image.unflatten(1, grid), high_res, weights), iou

    def _exchange(self, sparse: Tensor, image: Tensor, first: ImageSide, positions: Tensor) -> tuple[Tensor, Tensor]:
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
        _, image = self._exchange(prompt.sparse, image, image_side(self.decoder.transformer.layers[0], image, positions), positions)
        scores = F.linear(self._upscale(image.unflatten(1, (height, width)), embedding.high_res), weight, bias).flatten(1, -2)
        return _in_rows(scores, height, width)


def _in_rows(values: Tensor, height: int, width: int) -> Tensor:
    """Put (P, h w 16, M), each place's own 4 x 4 finer places beside it, in the order of rows: (P, M, 4h, 4w)."""
    ordered = values.unflatten(1, (height, width, 2, 2, 2, 2)).permute(0, 7, 1, 3, 5, 2, 4, 6)
    return ordered.reshape(len(values), -1, 4 * height, 4 * width)


def _rows(values: Tensor, rows: slice) -> Tensor:
    """Take some prompt sets' rows, or the one row that all of them share."""
    return values if len(values) == 1 else values[rows]


def load_strict(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a network on the meta device its weights.

    Raises:
        StateDictError: If a name is missing or unknown, or a shape differs; the message lists the first of each.
    """
    expected = model.state_dict()
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    reshaped = [name for name in expected.keys() & weights.keys() if expected[name].shape != weights[name].shape]
    if missing or unknown or reshaped:
        raise StateDictError(
            f"the weights do not fit {type(model).__name__}: {len(missing)} parameters missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}, "
            f"{len(reshaped)} of another shape {[(n, tuple(expected[n].shape), tuple(weights[n].shape)) for n in sorted(reshaped)[:3]]}"
        )
    model.load_state_dict({name: value.float() for name, value in weights.items()}, strict=True, assign=True)
