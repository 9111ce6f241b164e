"""PMG-SAM by settings: what a weight file's metadata and a recipe name, and the network of the paper.

Source: PMG-SAM (paper 001), sections 3 and 4.7, figure 9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from fretsaw.errors import ConfigError, shown
from fretsaw.methods.pmg_sam import decoder as parts
from fretsaw.methods.pmg_sam import model as pieces
from fretsaw.methods.pmg_sam.drfm import DenseResidualFusion, Fusion, NoFusion, ResidualFusion
from fretsaw.methods.pmg_sam.feat_refiner import FeatRefiner
from fretsaw.methods.pmg_sam.model import PmgSam
from fretsaw.methods.pmg_sam.pairing import PAIRS
from fretsaw.methods.sam_clicks import SamClicks
from fretsaw.weights.metadata import check_numbers

HIERA_TINY, HIERA_BASE_PLUS = (96, 192, 384, 768), (112, 224, 448, 896)
"""Channels of the four stages."""

U2NET_SMALL, U2NET_FULL = (64,) * 6, (64, 64, 128, 256, 512, 512)
"""Channels of the six levels."""


@dataclass(frozen=True, slots=True)
class PmgSettings:
    """A variant of the trained part.

    Attributes:
        stages: Channels of the image encoder's four stages.
        levels: Channels of U²-Net's six levels.
        dim: Channels of the image embedding.
        width: Channels of the fusion.
        fusion: "drfm", "none" or "residual" (table 4 (a)).
        blocks: Number of SRBs.
        iterations: M.
        pyramid: "stages" (the paper's, trained) or "encoder" (the image encoder's own).
        injection: "hiera", "none", "u2net", "both" (table 4 (b)) or "encoder" (the image encoder's own projections of Hiera's stages).
        interactions: Number of BAIMs.
        directions: 2, or 1 without image-to-mask attention (figure 9 (c)).
        hidden: Width of the BAIMs' MLP.
        heads: Of all attention.
        patch: Side of the pre-mask's patches in cells.
        dense: Hidden channels of the mask embedding that is added to the image; 0 adds none.
        map_share: Share of U²-Net's own map in the pre-mask.
    """

    stages: tuple[int, ...] = HIERA_TINY
    levels: tuple[int, ...] = U2NET_SMALL
    dim: int = 256
    width: int = 64
    fusion: str = "drfm"
    blocks: int = 3
    iterations: int = 4
    pyramid: str = "stages"
    injection: str = "hiera"
    interactions: int = 2
    directions: int = 2
    hidden: int = 2048
    heads: int = 8
    patch: int = parts.PATCH
    dense: int = 0
    map_share: float = 0.0

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> PmgSettings:
        """Return the settings that a weight file's metadata holds.

        Raises:
            ConfigError: If a name is unknown, or a number is one that no network has.
        """
        check_numbers("PMG-SAM's settings", values, LIMITS)
        share = values.get("map_share", 0.0)
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ConfigError(f"PMG-SAM's settings: expected map_share from 0 to 1, got {shown(share)}")
        try:
            arguments: dict[str, Any] = {name: tuple(cast("list[Any]", value)) if isinstance(value, list) else value for name, value in values.items()}
            return cls(**arguments)
        except TypeError as error:
            raise ConfigError(f"expected PMG-SAM's settings, got others: {error}") from error

    def write(self) -> dict[str, Any]:
        """Return them as plain values."""
        return asdict(self)


PAPER = PmgSettings(HIERA_BASE_PLUS, U2NET_FULL)
"""The network of the paper: Hiera-B+ and U²-Net."""

TINY = PmgSettings(width=32, pyramid="encoder", injection="encoder", dense=16, map_share=1.0)
"""pmg-tiny: SAM 2's Hiera-T and U²-Netp.

Deviation: half the paper's channels in the fusion, SAM 2's pyramid and mask prompt, U²-Netp's map as the start of the pre-mask; see the pieces' own reasons.
"""

LIMITS = {
    **{"stages": (1, 8192), "levels": (1, 8192), "dim": (1, 8192), "width": (1, 4096), "hidden": (1, 65536), "dense": (0, 4096)},
    **{"blocks": (0, 64), "iterations": (0, 64), "interactions": (0, 64), "directions": (1, 2), "heads": (1, 256), "patch": (1, 256)},
}
"""{setting: least and greatest} of what a file may ask for."""

DIRECTIONS: dict[int, Any] = {1: parts.OneWayInteraction, 2: parts.TwoWayInteraction}


def fusion_of(settings: PmgSettings) -> Fusion:
    """Return what builds the fusion of a pair.

    Raises:
        ConfigError: If the name is unknown.
    """
    kinds: dict[str, Any] = {
        "drfm": partial(DenseResidualFusion, blocks=settings.blocks, iterations=settings.iterations),
        "none": NoFusion,
        "residual": ResidualFusion,
    }
    return _choose("fusion", settings.fusion, kinds)


def injection_of(settings: PmgSettings) -> nn.Module:
    """Return the source of the high-resolution features.

    Raises:
        ConfigError: If the name is unknown.
    """
    stages, levels = partial(pieces.StageInjection, settings.stages, settings.dim), partial(pieces.LevelInjection, settings.levels, settings.dim)
    kinds: dict[str, Any] = {
        "hiera": stages,
        "none": pieces.NoInjection,
        "u2net": levels,
        "both": lambda: pieces.BothInjections(stages(), levels()),
        "encoder": pieces.EncoderInjection,
    }
    return _choose("injection", settings.injection, kinds)()


def build_pmg_sam(settings: PmgSettings) -> PmgSam:
    """Build the trained part with fresh parameters.

    Raises:
        ConfigError: If a setting is unknown or does not fit.
    """
    if settings.width % 8 or settings.dim % (8 * settings.heads):
        raise ConfigError(f"expected a width that 8 divides and a dim that 8 x heads divides, got {settings.width}, {settings.dim} and {settings.heads} heads")
    fusion = fusion_of(settings)
    interaction = _choose("directions", settings.directions, DIRECTIONS)
    pyramids: dict[str, Any] = {"stages": partial(pieces.StagePyramid, settings.stages, settings.dim), "encoder": pieces.EncoderPyramid}
    return PmgSam(
        [fusion(settings.levels[pair.level - 1], settings.stages[pair.stage - 1], settings.width) for pair in PAIRS],
        FeatRefiner(settings.width, len(PAIRS), settings.width),
        _choose("pyramid", settings.pyramid, pyramids)(),
        injection_of(settings),
        parts.GuidedMaskDecoder(
            [interaction(settings.dim, settings.heads, settings.hidden) for _ in range(settings.interactions)],
            settings.dim,
            settings.heads,
            settings.patch,
            dense=parts.MaskEmbedding(settings.dim, settings.dense) if settings.dense else None,
        ),
        map_share=settings.map_share,
    )


@torch.no_grad()
def start_from_sam2(network: PmgSam, model: SamClicks) -> None:
    """Give the decoder a SAM 2 model's parameters where it has them, its mask prompt's too if the network adds a dense embedding.

    Args:
        network: Of the same `dim`, `heads` and `hidden`.
        model: With transformers' `Sam2MaskDecoder` inside.
    """
    decoder: Any = model.mask_decoder
    network.decoder.start_from(decoder.decoder)
    network.decoder.gaussian.copy_(decoder.gaussian)
    if network.decoder.dense is not None:
        prompts: Any = model.prompt_encoder
        network.decoder.dense.load_state_dict(prompts.mask_embed.state_dict())


def trainable_parameters(network: nn.Module) -> int:
    """Count the parameters that training changes."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _choose(name: str, value: Any, kinds: Mapping[Any, Any]) -> Any:
    if not isinstance(value, str | int) or value not in kinds:
        raise ConfigError(f"{name}: expected one of {', '.join(map(str, kinds))}, got {shown(value)}")
    return kinds[value]
