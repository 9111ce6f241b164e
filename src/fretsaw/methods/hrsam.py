"""HRSAM and HRSAM++: image encoders for SAM's decoder whose cost grows with the number of pixels, not with its square.

Legend: B images, H W pixels, h w tokens (h = H / 16 rounded up), C channels of the trunk, O channels of the embedding.

    pixels (B, 3, H, W)  [+ the same, brought to anchor x anchor: HRSAM++]
      -> patches + position table                 (B, h w [+ a a], C)
      -> stages, each:  Flash Swin blocks (windows; every second block shifted)
                        cycle-scan before the last block, each scale by itself
                        [a second cycle-scan over both scales]
                        out: linear + LayerNorm to O, added up over the stages
      -> depthwise 3 x 3, LayerNorm               (B, O, h, w)

Parameter names are the published ones. Flash Swin: `layers/windows.py`; cycle-scan: `layers/selective_scan.py`.

Source: HRSAM (paper 003), sec. 3.1 and 3.6, fig. 2 and 8, appendix D.2.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fretsaw.backbones.sam import build_prompt_parts
from fretsaw.backbones.sam_keys import from_hrsam
from fretsaw.errors import ConfigError, ShapeError, StateDictError, shown
from fretsaw.frames import Preprocessing, longest_side
from fretsaw.layers.attention import ROTARY_BASE
from fretsaw.layers.blocks import TOKENS_AT_ONCE, AttentionLayer, FlashSwinBlock
from fretsaw.layers.cycle_scan import CycleScan
from fretsaw.layers.selective_scan import CHUNK_ELEMENTS
from fretsaw.layers.windows import PaddedWindowAttention, Shapes
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.types import ImageEmbedding
from fretsaw.weights.metadata import check_numbers, read_object
from fretsaw.weights.states import load_strictly, rename
from fretsaw.weights.vit_mae import mae_weights

PATCH = 16


@dataclass(frozen=True, slots=True)
class EncoderSize:
    """What tells one size from another.

    Attributes:
        dim: C.
        depth: Blocks.
        heads: Heads of each block.
        outputs: Index of the last block of each stage.
        window: Side of the windows in tokens; None: global attention (the paper's baseline).
        state_size: States per channel of the cycle-scan.
        out_channels: O.
    """

    dim: int
    depth: int
    heads: int
    outputs: tuple[int, ...]
    window: int | None = 16
    state_size: int = 32
    out_channels: int = 256


SIZES = {
    "t": EncoderSize(dim=64, depth=4, heads=2, outputs=(1, 3), window=4, state_size=8),  # for tests
    "s": EncoderSize(dim=384, depth=12, heads=6, outputs=(2, 5, 8, 11)),
    "b": EncoderSize(dim=768, depth=12, heads=12, outputs=(2, 5, 8, 11)),  # the paper's
    "l": EncoderSize(dim=1024, depth=24, heads=16, outputs=(5, 11, 17, 23)),
}

ANCHOR_SIZE = 512
"""Side of HRSAM++'s anchor map in pixels."""

WORKSPACE = 2**26
"""What libraries and the allocator keep beside the tensors, measured."""


class HRSAMEncoder(nn.Module):
    """HRSAM's image encoder; with an anchor map, HRSAM++'s.

    Args:
        size: A row of `SIZES`, or one's own.
        anchor_size: Side of the anchor map in pixels, a multiple of 16; None: HRSAM.
        drop_path: Rate of stochastic depth of the last block; it grows linearly from 0.
        mlp_ratio: Hidden channels of the MLPs over C.
        laps: R of the cycle-scan.
        table_side: Side of the position table; 14 fits ViTs pretrained at 224.
        attention: Attention of the blocks; `WindowAttention` leaves the padding tokens out (the paper's table 3).
        scan: Makes a cycle-scan for (C, N, expand, R).

    Raises:
        ConfigError: If sizes do not fit each other.

    Source: HRSAM (paper 003), sec. 3.1 and 3.6, appendix D.2.
    Deviation: every stage's output passes a linear layer and LayerNorm to O before the sum, as in the published code; appendix D.2 sums first.
    Deviation: the anchor's output and the image's are normalised by one shared LayerNorm per stage before they are concatenated, as in the published code.
    """

    def __init__(
        self,
        size: EncoderSize = SIZES["b"],
        anchor_size: int | None = None,
        drop_path: float = 0.0,
        mlp_ratio: float = 4.0,
        laps: int = 3,
        table_side: int = 14,
        attention: AttentionLayer = PaddedWindowAttention,
        scan: Callable[[int, int, float, int], nn.Module] = CycleScan,
    ) -> None:
        super().__init__()
        if not size.outputs or max(size.outputs) >= size.depth:
            raise ConfigError(f"expected outputs among blocks 0 to {size.depth - 1}, got {size.outputs}")
        if anchor_size is not None and (anchor_size < PATCH or anchor_size % PATCH):
            raise ConfigError(f"expected an anchor size that is a multiple of {PATCH}, got {anchor_size}")
        dim, out, stages = size.dim, size.out_channels, len(size.outputs)
        scales = 1 if anchor_size is None else 2
        self.size = size
        self.anchor_size = anchor_size
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, PATCH, stride=PATCH)})
        self.pos_embed = nn.Parameter(torch.zeros(1, table_side**2 + 1, dim))
        rates = [drop_path * index / max(size.depth - 1, 1) for index in range(size.depth)]
        shifts = [0 if index % 2 == 0 else (size.window or 0) // 2 for index in range(size.depth)]
        self.blocks = nn.ModuleList(
            FlashSwinBlock(dim, size.heads, size.window, shift, mlp_ratio, rate, attention) for shift, rate in zip(shifts, rates, strict=True)
        )
        scans = [nn.ModuleList(scan(dim, size.state_size, 1.0, laps) for _ in range(stages)) for _ in range(scales)]
        if anchor_size is None:
            self.mamba_blocks = scans[0]
        else:
            self.ss_mamba_blocks, self.ms_mamba_blocks = scans
            self.multi_scale_fusion = nn.ModuleList(nn.Sequential(nn.LayerNorm(dim)) for _ in range(stages))
        self.lateral_convs = nn.ModuleList(nn.Sequential(nn.Linear(scales * dim, out, bias=False), nn.LayerNorm(out)) for _ in range(stages))
        # The published list holds a transposition in the middle; here it is part of forward.
        self.out_conv = nn.ModuleDict({"0": nn.Conv2d(out, out, 3, padding=1, groups=out, bias=False), "2": nn.LayerNorm(out)})
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    @classmethod
    def from_published(cls, weights: Mapping[str, Tensor], **config: Any) -> HRSAMEncoder:
        """Build the encoder of a published checkpoint and load it strictly.

        Args:
            weights: Parameters under their published names: the backbone's alone, or a whole model's with `backbone.` before them (its `neck.` and
                `decode_head.` are SAM's prompt encoder and mask decoder and are left out here).
            **config: The published backbone's configuration; `downsample_sizes` makes it HRSAM++.

        Raises:
            ConfigError: If a setting is unknown, missing or one that this encoder does not have.
            StateDictError: If names or shapes do not fit.
        """
        encoder = cls(**published_arguments(config))
        renamed = rename(weights, {"backbone.": ""}, ("neck.", "decode_head.", "data_preprocessor."))
        frequencies = renamed.pop("rope.freqs", None)
        width = encoder.size.dim // encoder.size.heads
        if frequencies is not None and not torch.allclose(frequencies.double(), _rotary_frequencies(width), rtol=1e-5):
            raise StateDictError(f"expected rotary frequencies of base {ROTARY_BASE:g} for heads of {width} channels, got {frequencies.tolist()}")
        load_strictly(encoder, renamed)
        return encoder

    def load_mae(self, weights: Mapping[str, Tensor]) -> None:
        """Start from a masked autoencoder's encoder: patches, position table and blocks; scans, padding tokens and outputs keep their own start.

        Args:
            weights: A state dict of transformers' ViTMAE (of any version, with or without its decoder), or of the published `mae_pretrain_vit_*.pth`.

        Raises:
            StateDictError: If names or shapes do not fit.

        Source: HRSAM (paper 003), appendix D.2; MAE (He et al. 2021).
        """
        renamed = mae_weights(weights)
        own = {name: value for name, value in self.state_dict().items() if not _is_pretrained(name)}
        doubled = sorted(renamed.keys() & own.keys())
        if doubled:
            raise StateDictError(f"expected the parameters of a ViT alone, got also {doubled[0]}")
        load_strictly(self, {**own, **renamed})

    @property
    def available_taps(self) -> tuple[str, ...]:
        """None: nothing reads inside it."""
        return ()

    def forward(self, pixels: Tensor, taps: Sequence[str] = ()) -> ImageEmbedding:
        """Encode images of any size.

        Args:
            pixels: (B, 3, H, W) normalised. Where 16 does not divide H or W, zeros are added right and below.
            taps: Of `available_taps`.

        Returns:
            `final` (B, O, h, w), h = H / 16 rounded up.

        Raises:
            ShapeError: If the pixels do not have three channels.
        """
        if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.numel():
            raise ShapeError(f"expected pixels (B, 3, H, W), got {tuple(pixels.shape)}")
        x, shapes = self._tokens(pixels)
        outs: list[Tensor] = []
        stages = {block: stage for stage, block in enumerate(self.size.outputs)}
        for index, block in enumerate(self.blocks):
            stage = stages.get(index)
            if stage is not None:
                x = (self.mamba_blocks if self.anchor_size is None else self.ss_mamba_blocks)[stage](x, tuple(h * w for h, w in shapes))
            x = block(x, shapes)
            if stage is not None:
                if self.anchor_size is not None:
                    x = self.ms_mamba_blocks[stage](x)
                outs.append(self._lateral(x, shapes, stage))
        out = torch.stack(outs).sum(dim=0).transpose(1, 2).unflatten(2, shapes[0])
        out = self.out_conv["2"](self.out_conv["0"](out).permute(0, 2, 3, 1))
        return ImageEmbedding(out.permute(0, 3, 1, 2).contiguous())

    def memory(self, side: int, dtype: torch.dtype) -> int:
        """About how many bytes encoding a square image takes at its peak, see `estimate_encoder_memory`."""
        return estimate_encoder_memory(side, self.size, dtype, self.anchor_size)

    def _tokens(self, pixels: Tensor) -> tuple[Tensor, Shapes]:
        """Return the tokens of all scales, (B, L, C), and each scale's (h, w)."""
        height, width = pixels.shape[2:]
        scales = [F.pad(pixels, (0, -width % PATCH, 0, -height % PATCH)) if height % PATCH or width % PATCH else pixels]
        if self.anchor_size is not None:
            scales.append(F.interpolate(scales[0], (self.anchor_size, self.anchor_size), mode="bilinear", align_corners=False))
        side = round((self.pos_embed.shape[1] - 1) ** 0.5)
        table = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (side, side))  # the first row belonged to a class token
        tokens, shapes = [], []
        for scale in scales:
            patches = self.patch_embed["proj"](scale)
            shape = (patches.shape[2], patches.shape[3])
            places = table if shape == (side, side) else F.interpolate(table, shape, mode="bilinear", align_corners=False)
            tokens.append((patches + places).flatten(2).transpose(1, 2))
            shapes.append(shape)
        return torch.cat(tokens, dim=1).contiguous(), tuple(shapes)

    def _lateral(self, x: Tensor, shapes: Shapes, stage: int) -> Tensor:
        """Bring a stage's output to (B, h w, O)."""
        linear, norm = self.lateral_convs[stage].children()
        if self.anchor_size is None:
            return norm(linear(x))
        fusion = self.multi_scale_fusion[stage]
        image, anchor = x.split([h * w for h, w in shapes], dim=1)
        assert isinstance(linear, nn.Linear)
        weights = linear.weight.chunk(2, dim=1)  # two products and a sum in place of a concatenation by channel
        out = F.linear(fusion(image), weights[0])
        anchor = F.interpolate(anchor.transpose(1, 2).unflatten(2, shapes[1]), shapes[0], mode="bilinear", align_corners=False)
        return norm(out + F.linear(fusion(anchor.flatten(2).transpose(1, 2)), weights[1]))


def build_hrsam(name: str, anchor_size: int | None = None, drop_path: float = 0.0) -> HRSAMEncoder:
    """Return an untrained encoder by the letter of its size.

    Args:
        name: A key of `SIZES`.
        anchor_size: Side of the anchor map in pixels, `ANCHOR_SIZE` in the paper; None: HRSAM.
        drop_path: Rate of stochastic depth in training.

    Raises:
        ConfigError: If there is no such size.
    """
    if name not in SIZES:
        raise ConfigError(f"expected a size among {', '.join(SIZES)}, got {name!r}")
    return HRSAMEncoder(SIZES[name], anchor_size=anchor_size, drop_path=drop_path)


def build_hrsam_clicks(weights: Mapping[str, Tensor], config: str | None = None, size: int = 1024, checksum: str = "") -> SamClicks:
    """Build HRSAM or HRSAM++ with SAM's prompt encoder and mask decoder from one file's parameters.

    Args:
        weights: A file of `fretsaw train hrsam` (the names of the returned module), or a published checkpoint (`backbone.`, `neck.`, `decode_head.`).
        config: What `describe_encoder` returned, where the file tells it; without, width and depth are looked up in `SIZES`.
        size: Side S of the model's input, a multiple of 16; any, whatever the side of training.
        checksum: Names the weights.

    Raises:
        StateDictError: If names or shapes do not fit, or the encoder is none of `SIZES`.
        ShapeError: If the side is not such a multiple.

    Deviation: positions of the embedding grid are computed for its own size; the published code resizes those of a 64 x 64 grid bilinearly.
    """
    if any(name.startswith("backbone.") for name in weights):
        weights = from_published_model(weights)
    names = {name.removeprefix("image_encoder."): value.shape for name, value in weights.items() if name.startswith("image_encoder.")}
    if "patch_embed.proj.weight" not in names or "pos_embed" not in names:
        raise StateDictError(f"expected the parameters of HRSAM, got {len(weights)} others, such as {', '.join(list(weights)[:3])}")
    with torch.device("meta"):
        encoder = HRSAMEncoder(**_arguments_of(names, config))
    parts = build_prompt_parts(None, size)
    model = SamClicks(encoder, *parts, Preprocessing(longest_side, size), checksum)
    load_strictly(model, weights)
    return model.eval()


def from_published_model(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a published checkpoint's parameters under the names of `build_hrsam_clicks`'s module.

    Raises:
        StateDictError: If a name is missing or unknown.
    """
    backbone = rename({name: value for name, value in weights.items() if name.startswith("backbone.")}, {"backbone.": "image_encoder."}, ("backbone.rope.",))
    prompt_encoder, mask_decoder = build_prompt_parts(from_hrsam(weights), 1024)
    parts = {"prompt_encoder": prompt_encoder.state_dict(), "mask_decoder": mask_decoder.state_dict()}
    return {**backbone, **{f"{part}.{name}": value for part, state in parts.items() for name, value in state.items()}}


def describe_encoder(encoder: HRSAMEncoder) -> str:
    """Return what a file must say beside its parameters so that the encoder can be built again, JSON."""
    return json.dumps({"size": asdict(encoder.size), "anchor_size": encoder.anchor_size})


def _arguments_of(names: Mapping[str, tuple[int, ...]], config: str | None) -> dict[str, Any]:
    """Return the encoder's arguments for the shapes of its parameters."""
    dim, side = names["patch_embed.proj.weight"][0], round((names["pos_embed"][1] - 1) ** 0.5)
    depth = len({name.split(".")[1] for name in names if name.startswith("blocks.")})
    if config is not None:
        size, anchor_size = _stated(config)
    else:
        found = [row for row in SIZES.values() if (row.dim, row.depth) == (dim, depth)]
        if not found:
            raise StateDictError(f"expected an encoder of {', '.join(SIZES)}, got one of {dim} channels and {depth} blocks")
        size, anchor_size = found[0], ANCHOR_SIZE if any(name.startswith("ms_mamba_blocks.") for name in names) else None
    return {"size": size, "anchor_size": anchor_size, "table_side": side}


def _stated(config: str) -> tuple[EncoderSize, int | None]:
    """Return size and anchor map that a file states, see `describe_encoder`.

    Raises:
        ConfigError: If they are not stated, or no encoder has them.
    """
    what = "HRSAM's encoder"
    values = read_object(config, what)
    numbers = values.get("size")
    if not isinstance(numbers, dict) or not isinstance(numbers.get("outputs"), list) or "anchor_size" not in values:
        raise ConfigError(f"{what}: expected its size with outputs, and its anchor_size, got {shown(values)}")
    limits = {"dim": (1, 8192), "depth": (1, 256), "heads": (1, 256), "outputs": (0, 255), "state_size": (1, 1024), "out_channels": (1, 8192)}
    check_numbers(what, numbers, limits)
    check_numbers(
        what, {"window": numbers.get("window", 16) or 1, "anchor_size": values["anchor_size"] or 16}, {"window": (1, 1024), "anchor_size": (16, 8192)}
    )
    try:
        return EncoderSize(**{**numbers, "outputs": tuple(numbers["outputs"])}), values["anchor_size"]
    except TypeError as error:
        raise ConfigError(f"{what}: expected the numbers of an EncoderSize, got others: {error}") from error


def estimate_encoder_memory(size: int, config: EncoderSize, dtype: torch.dtype = torch.float32, anchor_size: int | None = None) -> int:
    """Return about how much memory encoding one square image takes at its peak, in bytes: parameters, pixels and everything in between, without gradients.

    The peak lies in the last cycle-scan: tokens, gate and entry in `dtype`; step, input, scaled input, output and three products in float32. Blocks work on a
    bounded number of tokens at a time.

    Args:
        size: Side of the image in pixels.
        config: A row of `SIZES`.
        dtype: Of parameters and pixels.
        anchor_size: Side of the anchor map in pixels; None: HRSAM.

    Raises:
        ConfigError: If the size is not positive.
    """
    if size < 1:
        raise ConfigError(f"expected a side of at least one pixel, got {size}")
    item = dtype.itemsize
    image_tokens = (-(-size // PATCH)) ** 2
    tokens = image_tokens + ((anchor_size or 0) // PATCH) ** 2
    parameters = _parameters(config, anchor_size is not None) * item
    scan = tokens * config.dim * (3 * item + 7 * 4)
    outputs = image_tokens * config.out_channels * len(config.outputs) * item
    block = min(tokens, TOKENS_AT_ONCE) * config.dim * 14 * item
    chunk = 2 * 4 * max(CHUNK_ELEMENTS["cpu"], 8 * config.dim * config.state_size)
    return parameters + 3 * size * size * item + scan + outputs + block + chunk + WORKSPACE


@functools.cache
def _parameters(config: EncoderSize, multi_scale: bool) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in HRSAMEncoder(config, ANCHOR_SIZE if multi_scale else None).parameters())


PUBLISHED_FIXED = {"in_dim": 3, "patch_size": PATCH, "drop_rate": 0.0, "attn_drop_rate": 0.0}
PUBLISHED_NAMES = ("embed_dim", "depth", "num_heads", "out_indices", "window_size", "state_dim", "final_embed_dim", "img_size", "extend_ratio", "mlp_ratio")
PUBLISHED_OPTIONAL = ("drop_path_rate", "downsample_sizes", *PUBLISHED_FIXED)


def published_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a published backbone's configuration into this encoder's arguments.

    Raises:
        ConfigError: If a setting is unknown, missing or one that this encoder does not have.
    """
    missing = [name for name in PUBLISHED_NAMES if name not in config]
    unknown = [name for name in config if name not in PUBLISHED_NAMES + PUBLISHED_OPTIONAL]
    if missing or unknown:
        raise ConfigError(f"expected the settings {', '.join(PUBLISHED_NAMES)}, got none for {missing} and the unknown {unknown}")
    for name, value in PUBLISHED_FIXED.items():
        if config.get(name, value) != value:
            raise ConfigError(f"expected {name}={value}, got {config[name]}")
    anchors: Sequence[int] = config.get("downsample_sizes") or ()
    if len(anchors) > 1:
        raise ConfigError(f"expected at most one anchor map, got downsample_sizes={list(anchors)}")
    size = EncoderSize(
        dim=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        outputs=tuple(config["out_indices"]),
        window=config["window_size"],
        state_size=config["state_dim"],
        out_channels=config["final_embed_dim"],
    )
    return {
        "size": size,
        "anchor_size": anchors[0] if anchors else None,
        "drop_path": config.get("drop_path_rate", 0.0),
        "mlp_ratio": config["mlp_ratio"],
        "laps": config["extend_ratio"],
        "table_side": config["img_size"] // PATCH,
    }


def _is_pretrained(name: str) -> bool:
    return name.startswith(("pos_embed", "patch_embed.", "blocks.")) and not name.endswith(".attn.padding")


def _rotary_frequencies(width: int) -> Tensor:
    return ROTARY_BASE ** (-torch.arange(0, width // 2, 2, dtype=torch.float64) / (width // 2))
