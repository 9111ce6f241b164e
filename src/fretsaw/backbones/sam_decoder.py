"""What SAM's and SAM 2's prompt encoder and mask decoder have in common: the arithmetic, on the parameters that transformers' modules hold.

The two published decoders differ in one token, two added feature maps and a sigmoid; `sam.py` and `sam2.py` say so, everything else is here.

Source: Segment Anything (Kirillov et al. 2023), appendix A, "Prompt encoder" and "Lightweight mask decoder", figure 14.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw.errors import ShapeError, StateDictError
from fretsaw.types import ImageEmbedding, PromptEmbedding

PATCH = 16
"""Model pixels per cell of the image embedding, along one axis."""


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
        ShapeError: If their grids, channels or batches differ.
    """
    images, prompts = len(embedding.final), len(prompt.sparse)
    if images not in (1, prompts) or len(prompt.dense) != prompts or embedding.final.shape[1:] != prompt.dense.shape[1:]:
        raise ShapeError(
            f"expected the image embedding (1 or P, C, h, w) and the prompt embedding (P, N, C), (P, C, h, w) to agree, "
            f"got {tuple(embedding.final.shape)}, {tuple(prompt.sparse.shape)}, {tuple(prompt.dense.shape)}"
        )


def attend(attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Multi-head attention of (P, N, C) to (P or 1, M, C) with the projections of one of transformers' decoder attentions."""
    heads = attention.num_attention_heads
    q, k, v = (
        projection(part).unflatten(-1, (heads, -1)).transpose(1, 2)
        for projection, part in ((attention.q_proj, query), (attention.k_proj, key), (attention.v_proj, value))
    )
    count = max(len(q), len(k))
    mixed = F.scaled_dot_product_attention(q.expand(count, -1, -1, -1), k.expand(count, -1, -1, -1), v.expand(count, -1, -1, -1))
    output = attention.o_proj if hasattr(attention, "o_proj") else attention.out_proj
    return output(mixed.transpose(1, 2).flatten(2))


def two_way_transformer(transformer: Any, tokens: Tensor, image: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Let the tokens look at the image and the image at the tokens, twice, then the tokens once more.

    Args:
        transformer: transformers' `SamTwoWayTransformer` or `Sam2TwoWayTransformer`.
        tokens: (P, N, C) output and prompt tokens; they serve as their own positional encoding.
        image: (P or 1, h * w, C) image embedding plus dense prompt.
        positions: (1, h * w, C).

    Returns:
        tokens (P, N, C) and image (P, h * w, C).

    Source: Segment Anything (Kirillov et al. 2023), figure 14.
    """
    queries, keys = tokens, image
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = attend(layer.self_attn, queries, queries, queries)
        else:
            placed = queries + tokens
            queries = queries + attend(layer.self_attn, placed, placed, queries)
        queries = layer.layer_norm1(queries)
        placed_keys = keys + positions
        queries = layer.layer_norm2(queries + attend(layer.cross_attn_token_to_image, queries + tokens, placed_keys, keys))
        queries = layer.layer_norm3(queries + layer.mlp(queries))
        keys = layer.layer_norm4(keys + attend(layer.cross_attn_image_to_token, placed_keys, queries + tokens, queries))
    queries = queries + attend(transformer.final_attn_token_to_image, queries + tokens, keys + positions, keys)
    return transformer.layer_norm_final_attn(queries), keys


class MaskDecoder(nn.Module):
    """Image and prompt embedding to four masks with their predicted IoU; base of SAM's and SAM 2's.

    Args:
        decoder: transformers' `SamMaskDecoder` or `Sam2MaskDecoder`.
        gaussian: (2, C/2) frequencies of the positional encoding.
    """

    def __init__(self, decoder: Any, gaussian: Tensor) -> None:
        super().__init__()
        self.decoder = decoder
        self.register_buffer("gaussian", gaussian)

    def leading_tokens(self) -> list[Tensor]:
        """Return the learned output tokens (T, C) that stand before the IoU token."""
        return []

    def forward(self, embedding: ImageEmbedding, prompt: PromptEmbedding) -> tuple[Tensor, Tensor]:
        """Return low_res_logits (P, 4, 4h, 4w) and predicted_iou (P, 4) of all four mask tokens, the single-mask token first.

        Raises:
            ShapeError: If the two embeddings do not fit together.
        """
        check_embeddings(embedding, prompt)
        decoder, count = self.decoder, len(prompt.sparse)
        height, width = embedding.final.shape[-2:]
        leading = self.leading_tokens()
        learned = torch.cat([*leading, decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([learned.expand(count, -1, -1), prompt.sparse], dim=1)
        image = (embedding.final + prompt.dense).flatten(2).transpose(1, 2)
        tokens, image = two_way_transformer(decoder.transformer, tokens, image, image_positions(height, width, self.gaussian))
        first = sum(len(part) for part in leading)
        iou = decoder.iou_prediction_head(tokens[:, first])
        mask_tokens = tokens[:, first + 1 : first + 1 + decoder.num_mask_tokens]
        weights = torch.stack([mlp(mask_tokens[:, i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1)
        upscaled = self.upscale(image.transpose(1, 2).unflatten(-1, (height, width)), embedding.high_res)
        return (weights @ upscaled.flatten(2)).unflatten(-1, upscaled.shape[-2:]), iou

    def upscale(self, image: Tensor, high_res: tuple[Tensor, ...]) -> Tensor:
        """Enlarge (P, C, h, w) to (P, C/8, 4h, 4w), adding the encoder's finer maps where it has any."""
        decoder = self.decoder
        fine, middle = high_res if high_res else (0, 0)
        image = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(image) + middle))
        return decoder.activation(decoder.upscale_conv2(image) + fine)


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
