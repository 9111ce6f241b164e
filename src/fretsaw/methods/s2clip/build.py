"""S2CLIP, Trident and plain CLIP from networks that are loaded already."""

from __future__ import annotations

from fretsaw.backbones.clip import Clip
from fretsaw.backbones.dino import SamPatches
from fretsaw.backbones.sam import SamImageEncoder
from fretsaw.errors import ConfigError
from fretsaw.methods.s2clip.features import HierarchicalValues, PatchFeatures, plain_values
from fretsaw.methods.s2clip.model import S2clip
from fretsaw.methods.s2clip.refine import Refinement
from fretsaw.methods.s2clip.regions import original_regions
from fretsaw.methods.sam_clicks import SamClicks


def build_s2clip(clip: Clip, patches: PatchFeatures, sam: SamClicks) -> S2clip:
    """Return S2CLIP: CLIP's values corrected layer by layer, DINO's affinity, SAM's correlation and the optimised refinement."""
    return S2clip(clip, patches, sam, HierarchicalValues(), Refinement()).eval()


def build_trident(clip: Clip, patches: PatchFeatures, sam: SamClicks) -> S2clip:
    """Return Trident: CLIP's values as they are, DINO's affinity, SAM's correlation and the original refinement."""
    return S2clip(clip, patches, sam, plain_values, Refinement(split=original_regions)).eval()


def build_floor(clip: Clip) -> S2clip:
    """Return plain CLIP: every patch's value is compared with the texts.

    Source: MaskCLIP (Zhou et al. 2022), section 3.2.
    """
    return S2clip(clip).eval()


def sam_patches(sam: SamClicks | None) -> SamPatches:
    """Return SAM's own encoder as the network that says which patches belong together.

    Raises:
        ConfigError: If it is no plain ViT, which alone takes windows of any side.
    """
    if sam is None or not isinstance(sam.image_encoder, SamImageEncoder):
        raise ConfigError("expected SAM with its plain ViT as the source of patch features, got another encoder")
    return SamPatches(sam.image_encoder)
