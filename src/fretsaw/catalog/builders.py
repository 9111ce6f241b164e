"""Builders of the table's models, and of files that are in no table.

They import networks when they are called: every command reads the table, few build all of its models.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from fretsaw.catalog.auto import build_pmg, pmg_cut
from fretsaw.catalog.clicked import build_clicked as build_clicked
from fretsaw.catalog.entries import OtherModels, Parts
from fretsaw.catalog.first_cut import with_first_cut
from fretsaw.catalog.grc import build_grc as build_grc
from fretsaw.catalog.high_resolution import assemble_high_resolution as assemble_high_resolution
from fretsaw.catalog.high_resolution import build_high_resolution
from fretsaw.catalog.named import build_maskclip as build_maskclip
from fretsaw.catalog.named import build_s2clip as build_s2clip
from fretsaw.catalog.named import build_trident as build_trident
from fretsaw.catalog.student import build_student
from fretsaw.errors import ModelError, StateDictError
from fretsaw.weights import fitting, load_state_dict, read_metadata
from fretsaw.weights.metadata import stated_side
from fretsaw.weights.trained import PMG_FRETSAW_TINY

if TYPE_CHECKING:
    from fretsaw.methods.sam_clicks import SamClicks


def build_file(path: Path, size: int | None, others: OtherModels) -> Parts:
    """Build a model from a file outside the catalogue; see `fretsaw.catalog.build_file`."""
    with fitting(path, "the parameters of SAM, SAM 2 or HRSAM, or what fretsaw train wrote"):
        return _build_file(path, size, others)


def _build_file(path: Path, size: int | None, others: OtherModels) -> Parts:
    from fretsaw.backbones import sam, sam2, sam_keys
    from fretsaw.methods import hrsam, sam_clicks
    from fretsaw.weights.files import sha256_of

    builders = {
        "pmg_sam": build_pmg,
        "grc_sam": build_grc,
        "hrsam_lite": build_student,
        "fretsaw_tiny": build_short_sam2,
        "fretsaw_hr": build_high_resolution,
        "sam_ref": build_clicked,
    }
    trained = builders.get(read_metadata(path).get("recipe", "")) if path.suffix == ".safetensors" else None
    if trained is not None:
        return trained(path, size, "", others)
    state = load_state_dict(path)
    if any(name.startswith(("image_encoder.mamba_blocks.", "image_encoder.ss_mamba_blocks.", "backbone.patch_embed.")) for name in state):
        config = read_metadata(path).get("hrsam") if path.suffix == ".safetensors" else None
        return with_first_cut(hrsam.build_hrsam_clicks(state, config, size or 1024, sha256_of(path)))
    if sam_keys.is_original(state):
        state = sam_keys.from_original(state)
    trunk = state.get("vision_encoder.backbone.patch_embed.projection.weight")
    if trunk is not None and trunk.ndim == 4:
        blocks = len({name.split(".")[3] for name in state if name.startswith("vision_encoder.backbone.blocks.")})
        tables = {(96, 12): sam2.HIERA_TINY, (96, 16): sam2.HIERA_SMALL, (112, 24): sam2.HIERA_BASE_PLUS, (144, 48): sam2.HIERA_LARGE}
        if table := tables.get((trunk.shape[0], blocks)):
            return with_first_cut(sam_clicks.build_sam2(state, table, size or 1024, sha256_of(path)))
    vit = state.get("vision_encoder.patch_embed.projection.weight")
    if vit is not None and vit.ndim == 4 and (table := {768: sam.VIT_BASE, 1024: sam.VIT_LARGE, 1280: sam.VIT_HUGE}.get(vit.shape[0])):
        return with_first_cut(sam_clicks.build_sam(state, table, size or 1024, sha256_of(path)))
    raise ModelError(f"expected the parameters of SAM, SAM 2 or HRSAM in {path}, got {len(state)} others, such as {', '.join(list(state)[:3])}")


def build_short_sam2(path: Path, size: int | None, checksum: str, others: OtherModels) -> Parts:
    """Build what `fretsaw train fretsaw_tiny` made, with the training-free automatic cut."""
    return with_first_cut(_short_clicks(path, size, checksum))


def _short_clicks(path: Path, size: int | None, checksum: str) -> SamClicks:
    """Build SAM 2 without a fourth stage; its file says the side of its input."""
    from fretsaw.weights.files import sha256_of

    return _sam2_clicks("HIERA_SHORT", path, size or stated_side(path, read_metadata(path)), checksum or sha256_of(path))


def build_default(path: Path, size: int | None, checksum: str, others: OtherModels) -> Parts:
    """Build the model that ships: it clicks like any model of that recipe, and cuts by the network that was trained over its encoder and ships beside it."""
    clicks = _short_clicks(path, size, checksum)
    cut = pmg_cut(others.weights_path(PMG_FRETSAW_TINY.name), clicks)
    return Parts(clicks=clicks, automatic=cut, taps=cut.taps, zooms=True)


def build_sam2(table: str, path: Path, size: int | None, checksum: str, others: OtherModels) -> Parts:
    """Build SAM 2 with the configuration table of that name in `fretsaw.backbones.sam2`, and the training-free automatic cut."""
    return with_first_cut(_sam2_clicks(table, path, size, checksum))


def _sam2_clicks(table: str, path: Path, size: int | None, checksum: str) -> SamClicks:
    """Build SAM 2 with the configuration table of that name."""
    from fretsaw.backbones import sam2
    from fretsaw.methods import sam_clicks

    return sam_clicks.build_sam2(load_state_dict(path), getattr(sam2, table), size or 1024, checksum)


def build_sam(table: str, path: Path, size: int | None, checksum: str, others: OtherModels) -> Parts:
    """Build SAM with the configuration table of that name in `fretsaw.backbones.sam`."""
    from fretsaw.backbones import sam
    from fretsaw.methods import sam_clicks

    return with_first_cut(sam_clicks.build_sam(load_state_dict(path), getattr(sam, table), size or 1024, checksum))


def build_hrsam(letter: str, multi_scale: bool, path: Path, size: int | None, checksum: str, others: OtherModels) -> Parts:
    """Build HRSAM or HRSAM++ of one size; a file of another one is refused."""
    from fretsaw.methods.hrsam import SIZES, HRSAMEncoder, build_hrsam_clicks

    clicks = build_hrsam_clicks(load_state_dict(path), None, size or 1024, checksum)
    encoder = cast("HRSAMEncoder", clicks.image_encoder)
    if encoder.size != SIZES[letter] or (encoder.anchor_size is not None) != multi_scale:
        wanted = f"hrsam{'++' if multi_scale else ''}-{letter}"
        raise StateDictError(f"expected the weights of {wanted} in {path}, got another size: {encoder.size}, anchor map {encoder.anchor_size}")
    return with_first_cut(clicks)
