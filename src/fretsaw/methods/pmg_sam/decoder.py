"""The guided mask decoder: the pre-mask's patches and the image talk to each other, then the image is upscaled and classified.

Legend: B images, C = 256 channels, h w = S/16 the embedding grid, T tokens (the output token and the pre-mask's patches).

    pre_mask (B, 1, 4h, 4w) --patches--> tokens (B, T, C) --\\                 /--> output token --MLP--> classifier (B, C/8)
                                                             BAIM, BAIM, read                                \\
    image_embedding (B, C, h, w) ---------------------------/                 \\--> upscaled by 4 with high_res --> mask_logits (B, 1, 4h, 4w)

Parameter names are those of transformers' SAM 2 decoder, so that its weights can be the start of training.

Source: PMG-SAM (paper 001), section 3.5 and figure 4; Segment Anything (Kirillov et al. 2023), figure 14, for the parts that are SAM's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw import frames
from fretsaw.backbones.sam_decoder import enlarge, image_positions

PATCH = 16


class Attention(nn.Module):
    """Multi-head attention whose heads together are `inner` wide."""

    def __init__(self, dim: int, heads: int, inner: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(dim, inner) for _ in range(3))
        self.o_proj = nn.Linear(inner, dim)
        self.num_attention_heads = heads

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Let `query` (B, N, C) attend to `key` and `value` (B, M, C); returns (B, N, C)."""
        parts = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        q, k, v = (part.unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2) for part in parts)
        return self.o_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Linear layers with ReLU in between."""

    def __init__(self, dim: int, hidden: int, out: int, depth: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(dim, hidden)
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(depth - 2))
        self.proj_out = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.proj_in(x))
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.proj_out(x)


class OneWayInteraction(nn.Module):
    """A BAIM without its last step: tokens among themselves, tokens read the image, MLP; the image stays as it is.

    Source: PMG-SAM (paper 001), figure 9 (c), "Uni-dir".
    """

    def __init__(self, dim: int = 256, heads: int = 8, hidden: int = 2048) -> None:
        super().__init__()
        self.self_attn = Attention(dim, heads, dim)
        self.layer_norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, heads, dim // 2)
        self.layer_norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, hidden, dim, 2)
        self.layer_norm3 = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, image: Tensor, token_positions: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Update tokens (B, T, C) and image (B, h w, C).

        Args:
            tokens: The output token first.
            image: In row order.
            token_positions: (B, T, C) added where tokens ask or are asked.
            positions: (1, h w, C) the same of the image.
        """
        placed = tokens + token_positions
        tokens = self.layer_norm1(tokens + self.self_attn(placed, placed, tokens))
        tokens = self.layer_norm2(tokens + self.cross_attn_token_to_image(tokens + token_positions, image + positions, image))
        return self.layer_norm3(tokens + self.mlp(tokens)), image


class TwoWayInteraction(OneWayInteraction):
    """BAIM: self-attention among the tokens, mask-to-image attention, MLP, image-to-mask attention.

    Source: PMG-SAM (paper 001), section 3.5 and figure 4.
    """

    def __init__(self, dim: int = 256, heads: int = 8, hidden: int = 2048) -> None:
        super().__init__(dim, heads, hidden)
        self.cross_attn_image_to_token = Attention(dim, heads, dim // 2)
        self.layer_norm4 = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, image: Tensor, token_positions: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        tokens, image = super().forward(tokens, image, token_positions, positions)
        return tokens, self.layer_norm4(image + self.cross_attn_image_to_token(image + positions, tokens + token_positions, tokens))


class GuidedMaskDecoder(nn.Module):
    """Image embedding and pre-mask to the mask.

    Args:
        interactions: The BAIMs, two in the paper.
        dim: C.
        heads: Of the attention that follows the BAIMs.
        patch: Side of the pre-mask's patches, in cells of the pre-mask (four pixels of the model frame each).
        gaussian: (2, C/2) frequencies of the positional encoding; None draws them.
        dense: Network from the pre-mask (B, 1, 4h, 4w) to what is added to the image embedding, (B, C, h, w); None adds nothing.

    Source: PMG-SAM (paper 001), section 3.5; after the BAIMs one more mask-to-image attention, as in SAM (figure 14).

    Deviation: patches of 16 x 16 cells of a pre-mask at S/4; the paper's number is lost. With 16 pixels of the model frame there would be 4096 tokens at
        1024, sixteen times the keys and 256 times the self-attention.
    Deviation: the pre-mask's logits are bounded to +-8 and divided by 8, so that one confident patch does not drown its neighbours.
    """

    gaussian: Tensor

    def __init__(
        self,
        interactions: Sequence[nn.Module],
        dim: int = 256,
        heads: int = 8,
        patch: int = PATCH,
        gaussian: Tensor | None = None,
        dense: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("gaussian", torch.randn(2, dim // 2) if gaussian is None else gaussian.clone())
        self.patch = patch
        self.output_token = nn.Parameter(torch.randn(1, dim) * 0.02)
        self.patches = nn.Linear(patch * patch, dim)
        nn.init.normal_(self.patches.weight, std=1 / patch)
        self.layers = nn.ModuleList(interactions)
        self.final_attn_token_to_image = Attention(dim, heads, dim // 2)
        self.layer_norm_final_attn = nn.LayerNorm(dim)
        self.upscale_conv1 = nn.ConvTranspose2d(dim, dim // 4, 2, 2)
        self.upscale_layer_norm = nn.LayerNorm(dim // 4, eps=1e-6)
        self.upscale_conv2 = nn.ConvTranspose2d(dim // 4, dim // 8, 2, 2)
        self.classifier = FeedForward(dim, dim, dim // 8, 3)
        self.dense = dense

    def forward(self, image_embedding: Tensor, pre_mask: Tensor, high_res: tuple[Tensor, ...] = ()) -> Tensor:
        """Return mask_logits (B, 1, 4h, 4w).

        Args:
            image_embedding: (B, C, h, w).
            pre_mask: (B, 1, 4h, 4w) logits.
            high_res: (B, C/8, 4h, 4w) and (B, C/4, 2h, 2w), or nothing.
        """
        grid = (image_embedding.shape[-2], image_embedding.shape[-1])
        weights, image = self.interact(image_embedding, pre_mask)
        upscaled = self.upscale(image.view(len(image), *grid, -1), high_res)
        logits = torch.einsum("bhwijklc,bc->bhikwjl", upscaled, weights)
        return logits.reshape(len(logits), 1, 4 * grid[0], 4 * grid[1])

    def interact(self, image_embedding: Tensor, pre_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Run the BAIMs; returns the classifier (B, C/8) and the image (B, h w, C)."""
        positions = image_positions(image_embedding.shape[-2], image_embedding.shape[-1], self.gaussian)
        if self.dense is not None:
            image_embedding = image_embedding + self.dense(pre_mask.clamp(-frames.MASK_PROMPT_LOGIT, frames.MASK_PROMPT_LOGIT))
        image = image_embedding.flatten(2).transpose(1, 2)
        tokens = start = self.tokens(pre_mask)
        for layer in self.layers:
            tokens, image = layer(tokens, image, start, positions)
        tokens = self.layer_norm_final_attn(tokens + self.final_attn_token_to_image(tokens + start, image + positions, image))
        return self.classifier(tokens[:, 0]), image

    def tokens(self, pre_mask: Tensor) -> Tensor:
        """Return the output token and one token a patch of the pre-mask (B, 1, 4h, 4w), in row order, each with its place: (B, T, C)."""
        bound, side = frames.MASK_PROMPT_LOGIT, self.patch
        rows, columns = (-size % side for size in pre_mask.shape[-2:])
        padded = F.pad(pre_mask.clamp(-bound, bound), (0, columns, 0, rows), value=-bound) / bound
        patches = F.unfold(padded, side, stride=side).transpose(1, 2)
        places = image_positions(padded.shape[-2] // side, padded.shape[-1] // side, self.gaussian)
        return torch.cat([self.output_token.expand(len(pre_mask), 1, -1), self.patches(patches) + places], dim=1)

    def upscale(self, image: Tensor, high_res: tuple[Tensor, ...]) -> Tensor:
        """Upscale the image (B, h, w, C) by four, adding the finer maps; returns (B, h, w, 2, 2, 2, 2, C/8): every cell keeps its 4 x 4 finer ones beside it.

        The last four axes before the channels are row and column of the first and of the second doubling.
        """
        width, height = image.shape[2], image.shape[1]
        image = enlarge(self.upscale_conv1, image)
        if high_res:
            middle = high_res[1].permute(0, 2, 3, 1)
            image = image + middle.view(len(middle), height, 2, width, 2, -1).transpose(2, 3)
        image = enlarge(self.upscale_conv2, F.gelu(self.upscale_layer_norm(image)))
        if high_res:
            fine = high_res[0].permute(0, 2, 3, 1)
            image = image + fine.view(len(fine), height, 2, 2, width, 2, 2, -1).permute(0, 1, 4, 2, 5, 3, 6, 7)
        return F.gelu(image)

    @torch.no_grad()
    def start_from(self, decoder: Any) -> None:
        """Copy the parameters of transformers' `Sam2MaskDecoder` that have a counterpart here; its single-mask token becomes the output token.

        Deviation: the paper trains its decoder from nothing; SAM 2's weights let a few epochs on a small machine do.
        """
        transformer = decoder.transformer
        for ours, theirs in zip(self.layers, transformer.layers, strict=False):
            wanted = ours.state_dict()
            ours.load_state_dict({name: value for name, value in theirs.state_dict().items() if name in wanted})
        self.final_attn_token_to_image.load_state_dict(transformer.final_attn_token_to_image.state_dict())
        self.layer_norm_final_attn.load_state_dict(transformer.layer_norm_final_attn.state_dict())
        for name in ("upscale_conv1", "upscale_conv2", "upscale_layer_norm"):
            getattr(self, name).load_state_dict(getattr(decoder, name).state_dict())
        self.classifier.load_state_dict(decoder.output_hypernetworks_mlps[0].state_dict())
        self.output_token.copy_(decoder.mask_tokens.weight[:1])


class MaskEmbedding(nn.Module):
    """The pre-mask's logits at S/4 as a dense embedding at S/16: SAM's mask prompt, which can start from SAM 2's weights.

    Source: Segment Anything (Kirillov et al. 2023), appendix A, "Prompt encoder".

    Deviation: the paper guides by tokens alone; a mask that is also added to the image at its own place starts where SAM 2's mask prompt ends.
    """

    def __init__(self, dim: int = 256, hidden: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, hidden // 4, 2, 2)
        self.conv2 = nn.Conv2d(hidden // 4, hidden, 2, 2)
        self.conv3 = nn.Conv2d(hidden, dim, 1)
        self.layer_norm1 = nn.LayerNorm(hidden // 4, eps=1e-6)
        self.layer_norm2 = nn.LayerNorm(hidden, eps=1e-6)

    def forward(self, pre_mask: Tensor) -> Tensor:
        x = F.gelu(self._norm(self.layer_norm1, self.conv1(pre_mask)))
        return self.conv3(F.gelu(self._norm(self.layer_norm2, self.conv2(x))))

    @staticmethod
    def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
        return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
