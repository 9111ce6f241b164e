"""fretsaw-hr: SAM 2's Hiera with HRSAM's parts in place of its global attention, so that cost grows with the number of pixels, not with its square.

Legend: B images, h w rows and columns of a map, L = h w tokens, C channels, k side of a window, W windows, n real tokens of a window, A anchor tokens.

A block with global attention becomes

    x (B, h, w, C) -> cycle-scan -> attention inside shifted windows, whose keys and values are      -> MLP
                                      the window's own tokens                (flexible local attention)
                                      a learned token at each virtual place  (KV padding)
                                      the anchor map's tokens                (the whole map, pooled to a fixed grid)

All other blocks stay SAM 2's and work in windows already. The anchor map has as many tokens as SAM 2's global attention saw in training, at 1024. Up to that
side it is the map itself, and the block is SAM 2's own; above, it is pooled to that size, and the windows see finer. The scan's last linear layer starts at
zero and the padding token at the zeros that Hiera pads with, so that without the anchor map an untrained block is SAM 2's with windows in place of global
attention.

Source: HRSAM (Huang et al. 2024), sec. 3.2 to 3.6; the blocks around them: Hiera (Ryali et al. 2023), SAM 2 (Ravi et al. 2024), appendix D.1.
Deviation: the anchor map is the map at hand, pooled to a fixed grid, and every window sees all of it as keys and values; HRSAM++ encodes the image a second
time at 512 and mixes both by scans. SAM 2's keys and values keep their meaning when they are averaged: this stands for global attention untrained.
Deviation: a window's own tokens weigh less the less they add to the anchor map, and nothing where that is the map itself; HRSAM has no such keys twice.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw.backbones.sam2 import Sam2ImageEncoder, join_final, join_levels
from fretsaw.errors import ConfigError, ShapeError, shown
from fretsaw.layers.cycle_scan import CycleScan
from fretsaw.layers.windows import Shapes, WindowGroup, group_inverse, window_groups
from fretsaw.types import ImageEmbedding
from fretsaw.weights.low_rank import compress, load_trained
from fretsaw.weights.metadata import check_numbers, read_object

STRIDE = 16
"""The side of an input is a multiple of this."""

WHOLE_STRIDE = 32
"""Hiera's position table and its last pooling want multiples of this; zeros are added below and on the right, and their cells are cut off again."""

TRAINED_SIDE = 1024
"""Side of SAM 2's training in pixels: its global attention saw (1024 / 16) squared tokens."""

TOKENS_AT_ONCE = {"windows": 2048, "band": 16384}
"""Tokens that a block handles together where no gradient is wanted: of a block made here, and of one of SAM 2's. Bounds the memory at large sides."""


@dataclass(frozen=True, slots=True)
class HighResolutionParts:
    """What stands in for global attention.

    Attributes:
        window: k.
        shift: Of the windows.
        padding: Whether virtual places hold a learned key and value; otherwise windows at the border are ragged.
        anchor: Side of the anchor map in tokens; 0 leaves it out.
        state_size: States per channel of the cycle-scan; 0 leaves it out.
    """

    window: int = 14
    shift: int = 7
    padding: bool = True
    anchor: int = 64
    state_size: int = 8


class HighResolutionBlock(nn.Module):
    """A Hiera block whose global attention is replaced, see the module.

    Args:
        block: SAM 2's block with global attention, whose layers are taken over.
        parts: What stands in.

    Source: HRSAM (Huang et al. 2024), sec. 3.3 to 3.5.
    """

    def __init__(self, block: Any, parts: HighResolutionParts) -> None:
        super().__init__()
        self.layer_norm1, self.layer_norm2, self.mlp = block.layer_norm1, block.layer_norm2, block.mlp
        self.qkv, self.proj, self.heads = block.attn.qkv, block.attn.proj, block.attn.heads
        self.parts = parts
        channels = self.proj.in_features
        if parts.padding:
            self.padding = nn.Parameter(self.proj.weight.new_zeros(1, channels))
        if parts.anchor:
            self.anchor = nn.Linear(channels, 2 * channels)
            with torch.no_grad():
                self.anchor.weight.copy_(self.qkv.weight[channels:])
                self.anchor.bias.copy_(self.qkv.bias[channels:])
        if parts.state_size:
            self.scan = CycleScan(channels, parts.state_size)
            nn.init.zeros_(self.scan.out_proj.weight)
            nn.init.zeros_(self.scan.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Transform a map (B, h, w, C)."""
        x = self.attended(x)
        if torch.is_grad_enabled():
            return x + self.mlp(self.layer_norm2(x))
        flat = x.flatten(0, 2)
        for rows in flat.split(TOKENS_AT_ONCE["windows"]):
            rows += self.mlp(self.layer_norm2(rows))
        return x

    def attended(self, x: Tensor) -> Tensor:
        """Return the map (B, h, w, C) behind scan and attention, before the MLP."""
        return self.with_mixed(*self.mixed(x))

    def with_mixed(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Add what the attention mixed to the map that it looked at."""
        return x + self.proj(mixed)

    def mixed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map behind the scan, and what the attention mixes of it before the last projection, both (B, h, w, C)."""
        height, width = x.shape[1:3]
        if self.parts.state_size:
            x = self.scan(x.flatten(1, 2)).unflatten(1, (height, width))
        tokens = self.layer_norm1(x)
        anchor = self._anchor(tokens) if self.parts.anchor else None
        tokens, shapes = tokens.flatten(1, 2), ((height, width),)
        own = 1.0 - anchor.shape[3] / (height * width) if anchor is not None else 1.0
        if not own:
            assert anchor is not None
            out = self._attend_anchor(tokens, anchor)
        elif torch.is_grad_enabled():
            groups = window_groups(shapes, self.parts.window, self.parts.shift)
            pieces = [self._attend(tokens[:, group.tokens.to(x.device)], group, anchor, own).flatten(1, 2) for group in groups]
            out = torch.cat(pieces, dim=1)[:, group_inverse(shapes, self.parts.window, self.parts.shift).to(x.device)]
        else:
            out = torch.empty_like(tokens)
            for group in self._pieces(shapes, len(x)):
                places = group.tokens.to(x.device)
                out[:, places.flatten()] = self._attend(tokens[:, places], group, anchor, own).flatten(1, 2)
        return x, out.unflatten(1, (height, width))

    def _pieces(self, shapes: Shapes, batch: int) -> Iterator[WindowGroup]:
        """Yield the windows by kind, in pieces of bounded size."""
        for group in window_groups(shapes, self.parts.window, self.parts.shift):
            for tokens in group.tokens.split(max(1, TOKENS_AT_ONCE["windows"] // (group.tokens.shape[1] * batch))):
                yield WindowGroup(tokens, group.places, group.virtual)

    def _anchor(self, tokens: Tensor) -> Tensor:
        """Return keys and values of the anchor map, (2, B, heads, A, d), of normed tokens (B, h, w, C)."""
        sides = min(self.parts.anchor, tokens.shape[1]), min(self.parts.anchor, tokens.shape[2])
        pooled = F.adaptive_avg_pool2d(tokens.permute(0, 3, 1, 2), sides).flatten(2).transpose(1, 2)
        return self.anchor(pooled).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def _attend_anchor(self, x: Tensor, anchor: Tensor) -> Tensor:
        """Let all tokens (B, L, C) see the anchor map alone, (2, B, heads, A, d), which is the map itself: (B, L, C)."""
        channels = x.shape[2]
        query = F.linear(x, self.qkv.weight[:channels], self.qkv.bias[:channels]).unflatten(2, (self.heads, -1)).transpose(1, 2)
        return F.scaled_dot_product_attention(query, anchor[0], anchor[1]).transpose(1, 2).flatten(2)

    def _attend(self, x: Tensor, group: WindowGroup, anchor: Tensor | None, own: float) -> Tensor:
        """Attend inside windows of one kind, whose own tokens weigh `own`: (B, W, n, C) -> (B, W, n, C)."""
        batch, count, length, _ = x.shape
        query, key, value = self.qkv(x.flatten(0, 1)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        keys, values, weights = [key], [value], [math.log(own)] * length
        if self.parts.padding and len(group.virtual):
            # Virtual places have the same key and value, so that one key with the logarithm of their number stands for all of them.
            extra = self.qkv(self.padding).unflatten(1, (3, self.heads, -1))[:, 1:].permute(1, 0, 2, 3)[:, :, :, None]
            keys.append(extra[0].expand(len(key), -1, -1, -1))
            values.append(extra[1].expand(len(key), -1, -1, -1))
            weights.append(math.log(own * len(group.virtual)))
        if anchor is not None:
            keys.append(anchor[0].repeat_interleave(count, dim=0))
            values.append(anchor[1].repeat_interleave(count, dim=0))
            # A token of the anchor map stands for as many tokens as SAM 2 saw there in training, whatever the side.
            share = (TRAINED_SIDE / STRIDE / self.parts.anchor) ** 2
            weights += [math.log(max(share, 1.0))] * anchor.shape[3]
        mask = None
        if len(keys) > 1:
            mask = torch.tensor(weights, dtype=query.dtype, device=query.device).expand(1, 1, length, -1)
        mixed = F.scaled_dot_product_attention(query, torch.cat(keys, dim=2), torch.cat(values, dim=2), attn_mask=mask)
        return mixed.transpose(1, 2).reshape(batch, count, length, -1)


class HighResolutionEncoder(nn.Module):
    """SAM 2's image encoder with `HighResolutionBlock` in place of every block with global attention.

    Args:
        encoder: SAM 2's, of which all layers are taken over; it is changed and should not be used on its own afterwards.
        parts: What stands in for global attention.

    Source: HRSAM (Huang et al. 2024), sec. 3.1; SAM 2 (Ravi et al. 2024), section 4, "Image encoder".
    """

    def __init__(self, encoder: Sam2ImageEncoder, parts: HighResolutionParts) -> None:
        super().__init__()
        self.parts = parts
        self.trunk, self.neck, self.fine, self.middle, self.no_memory = encoder.trunk, encoder.neck, encoder.fine, encoder.middle, encoder.no_memory
        self.changed = tuple(number for number, block in enumerate(self.trunk.blocks) if not block.window_size)
        for number in self.changed:
            self.trunk.blocks[number] = HighResolutionBlock(self.trunk.blocks[number], parts)

    @property
    def available_taps(self) -> tuple[str, ...]:
        """The trunk's stages, "stage1" (B, C, S/4, S/4) to "stage4"."""
        return tuple(f"stage{number}" for number in range(1, len(self.trunk.stage_ends) + 1))

    def forward(self, pixels: Tensor, taps: Sequence[str] = ()) -> ImageEmbedding:
        """Encode pixels.

        Args:
            pixels: (B, 3, S, S) normalised; S a multiple of 16.
            taps: Of `available_taps`.

        Returns:
            `final` (B, C, S/16, S/16) and `high_res` (B, C/8, S/4, S/4), (B, C/4, S/8, S/8).

        Raises:
            ShapeError: If the sides are no multiples of 16.
        """
        if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.numel() or pixels.shape[2] % STRIDE or pixels.shape[3] % STRIDE:
            raise ShapeError(f"expected pixels (B, 3, S, S), S a multiple of {STRIDE}, got {tuple(pixels.shape)}")
        height, width = pixels.shape[2:]
        x = self.entry(F.pad(pixels, (0, -width % WHOLE_STRIDE, 0, -height % WHOLE_STRIDE)))
        stages: list[Tensor] = []
        for number in range(len(self.trunk.blocks)):
            x = self.run_block(number, x)
            if number in self.trunk.stage_ends:
                stages.append(x)
        kept = {name: stage.permute(0, 3, 1, 2) for name, stage in zip(self.available_taps, stages, strict=True) if name in taps}
        levels = join_levels(stages, self.neck, self.fine, self.middle, self.no_memory)
        final, fine, middle = (level[:, : height // stride, : width // stride].permute(0, 3, 1, 2) for level, stride in zip(levels, (16, 4, 8), strict=True))
        return ImageEmbedding(final, (fine, middle), kept)

    def entry(self, pixels: Tensor) -> Tensor:
        """Return what the first block sees: patches with their positions, (B, S/4, S/4, C)."""
        x = self.trunk.patch_embed(pixels)
        return x + self.trunk._get_pos_embed(x.shape[1:3])

    def run_block(self, number: int, x: Tensor) -> Tensor:
        """Run one block on a map (B, h, w, C); one of SAM 2's own in bands of windows, where no gradient is wanted."""
        block: Any = self.trunk.blocks[number]
        if isinstance(block, HighResolutionBlock) or torch.is_grad_enabled():
            return block(x)
        rows = block.window_size * max(1, TOKENS_AT_ONCE["band"] // (block.window_size * x.shape[2] * len(x)))
        bands = [block(band) for band in x.split(rows, dim=1)]
        return torch.cat(bands, dim=1) if len(bands) > 1 else bands[0]

    def rest(self, x: Tensor, first: int) -> Tensor:
        """Return the final map (B, C, S/16, S/16) from what block number `first` of the third stage sees."""
        stages: list[Tensor] = []
        for number in range(first, len(self.trunk.blocks)):
            x = self.run_block(number, x)
            if number in self.trunk.stage_ends:
                stages.append(x)
        return join_final(stages, self.neck, self.no_memory).permute(0, 3, 1, 2)


def build_encoder(encoder: Sam2ImageEncoder, parts: HighResolutionParts, stored: Mapping[str, Tensor]) -> HighResolutionEncoder:
    """Return the encoder whose change over SAM 2's a file holds.

    Args:
        encoder: SAM 2's; it is taken over.
        parts: What the file states.
        stored: As `change_of` returned it, of any float type; {} for an untrained encoder.

    Raises:
        StateDictError: If the parameters do not fit.
    """
    made = HighResolutionEncoder(encoder, parts)
    if stored:
        load_trained(made, stored, started(made))
    return made.eval()


def change_of(trained: HighResolutionEncoder, encoder: Sam2ImageEncoder, rank: int) -> dict[str, Tensor]:
    """Return a trained encoder as its change over SAM 2's: matrices by their nearest change of a rank, what `started` leaves out whole, the rest not at all."""
    with torch.random.fork_rng(devices=[]):
        start = started(HighResolutionEncoder(copy.deepcopy(encoder), trained.parts))
    return compress(trained.state_dict(), start, rank)


def started(encoder: HighResolutionEncoder) -> dict[str, Tensor]:
    """Return what SAM 2's weights say of an untrained encoder, as far as a file holds the change of it alone.

    Left out are the scans, which start at random, and the last layers of the changed attentions: their fit to the teacher is of full rank.
    """
    whole = tuple(f"trunk.blocks.{number}.{part}." for number in encoder.changed for part in ("scan", "proj"))
    return {name: value for name, value in encoder.state_dict().items() if not name.startswith(whole)}


def without(encoder: HighResolutionEncoder, *, padding: bool = True, anchor: bool = True, scan: bool = True) -> HighResolutionEncoder:
    """Return a copy without some of its parts, to measure what they bring.

    Args:
        encoder: Trained.
        padding: Whether virtual places keep their key and value.
        anchor: Whether windows see the anchor map.
        scan: Whether the cycle-scans stay.
    """
    plain = copy.deepcopy(encoder)
    parts = plain.parts
    kept = HighResolutionParts(parts.window, parts.shift, parts.padding and padding, parts.anchor if anchor else 0, parts.state_size if scan else 0)
    plain.parts = kept
    for number in plain.changed:
        plain.trunk.blocks[number].parts = kept
    return plain


def describe_parts(parts: HighResolutionParts) -> str:
    """Return what a file must say beside its parameters so that the encoder can be built again, JSON."""
    return json.dumps(asdict(parts))


def stated_parts(text: str) -> HighResolutionParts:
    """Return the parts that a file states, see `describe_parts`.

    Raises:
        ConfigError: If they are not stated, or no encoder has them.
    """
    what = "fretsaw-hr's parts"
    values = read_object(text, what)
    check_numbers(what, values, {"window": (1, 1024), "shift": (0, 1023), "anchor": (0, 256), "state_size": (0, 1024)})
    if set(values) != {field.name for field in fields(HighResolutionParts)} or type(values["padding"]) is not bool or values["shift"] >= values["window"]:
        raise ConfigError(f"{what}: expected window, a shift below it, padding, anchor and state_size, got {shown(values)}")
    return HighResolutionParts(**values)
