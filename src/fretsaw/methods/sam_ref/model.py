"""The refiner as sessions use it: GlobalDiff, PatchDiff, and the dynamic patch selector between them.

Source: SAM-REF (Yu et al. 2024), sections 3.2 and 3.4.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fretsaw.clicks.encode import disk_maps
from fretsaw.errors import ConfigError
from fretsaw.layers.folding import fold_norms
from fretsaw.methods.sam_ref.networks import NO_ERROR, GlobalDiff, PatchDiff, RefinerFeatures
from fretsaw.methods.sam_ref.places import changed_around, changed_box, click_place, contains, contradictions, error_region_grew, paste_crop, unsure_box
from fretsaw.types import NEGATIVE, POSITIVE, ImageEmbedding, RefinerState

SURE_LOGIT = 4.0
"""What the decoder calls background with this much certainty, and nobody clicked or had before, is not looked at again."""

GLOBAL_FROM = 4
"""The click from which on GlobalDiff answers, where the mask is the decoder's own."""


def check_map_scale(map_scale: int) -> None:
    """Refuse a refiner's maps that are neither the decoder's size nor twice it, with a ConfigError."""
    if map_scale not in (1, 2):
        raise ConfigError(f"map_scale: expected 1 or 2, got {map_scale}")


class SamRef(nn.Module):
    """The refiner (seam 3): GlobalDiff, PatchDiff and the choice between them.

    Args:
        width: Channels; 64 in the paper, 32 for speed.
        blocks: Residual blocks in GlobalDiff.
        channels: C of the image embedding.
        levels: See `GlobalDiff`.
        map_scale: See `GlobalDiff`; the decoder's logits are enlarged to it before they are refined, and what comes out has that size.
        sure_logit: See `unsure_box`; it is no part of the weights.
        heeds_clicks: Whether an answer that contradicts more clicks than the decoder's own gives way to the decoder's; it is no part of the weights.
        global_from: The click from which on the decoder's own masks are refined, 1 in the paper; None for never. It is no part of the weights either.
        patch_from: The click from which on PatchDiff may answer on them, 2 in the paper; None for never.

    Source: SAM-REF, section 3.2 and 3.4.2.

    Deviation: GlobalDiff looks only at the box around the prompts, the mask before and what the decoder is not sure of, which costs a fraction; the paper's
    looks at the whole image. Inside the box the results are the same.

    Deviation: A refined mask that contradicts more of the clicks than the decoder's own is not given, the decoder's is. The paper has no such rule; without it
    single objects, thin ones above all, never come to 90 %, since every click is refined away again.

    Deviation: PatchDiff answers on masks that came from elsewhere, from the first click on, and not on the decoder's own (the paper: from the second click on).
    It keeps what was not clicked. That is what a person's mask wants; of the decoder's own, much is seen to be wrong at later clicks, and single objects never
    came to 90 % when it was kept.

    Deviation: GlobalDiff answers on the decoder's own masks from the fourth click on (the paper: from the first): before, clicks say what is meant, not where
    it ends, and the refiner has nothing to add. Where sessions zoom in it does not answer at all (`fretsaw.load`): what is seen closely it does not improve.

    Deviation: Over an encoder of 672 pixels the decoder's map has 168, too few for thin parts: `map_scale` 2 refines at half the model frame's side.
    """

    def __init__(
        self,
        width: int = 64,
        blocks: int = 3,
        channels: int = 256,
        map_scale: int = 1,
        levels: Sequence[int] = (),
        sure_logit: float = SURE_LOGIT,
        heeds_clicks: bool = True,
        global_from: int | None = GLOBAL_FROM,
        patch_from: int | None = None,
    ) -> None:
        super().__init__()
        check_map_scale(map_scale)
        self.config = {"width": width, "blocks": blocks, "channels": channels, "map_scale": map_scale, "levels": list(levels)}
        self.map_scale = map_scale
        self.sure_logit = sure_logit
        self.heeds_clicks = heeds_clicks
        self.global_from, self.patch_from = global_from, patch_from
        self.global_diff = GlobalDiff(width, blocks, channels, map_scale, levels)
        self.patch_diff = PatchDiff(width)

    def for_answers(self, dtype: torch.dtype = torch.float32, zooms: bool = False) -> SamRef:
        """Return a copy that computes the same faster and no longer learns: norms folded into convolutions, channels last in memory, which a CPU prefers.

        Args:
            dtype: Of the convolutions; logits and all that is decided by them stay float32.
            zooms: Whether the sessions zoom in on small objects. Then the copy leaves the decoder's own masks as they are: on held-out objects, refining what
                is already seen closely costs clicks.
        """
        folded = fold_norms(self).requires_grad_(False)
        if zooms:
            folded.global_from = None
        return cast("SamRef", cast("Any", folded).to(dtype=dtype, memory_format=torch.channels_last))  # torch's stubs lack the second argument

    def prepare(self, pixels: Tensor, embedding: ImageEmbedding) -> RefinerFeatures:
        """Return the features of an image: pixels (1, 3, S, S) and its embedding."""
        return self.global_diff.prepare(pixels.to(embedding.final.device), embedding)

    def refine(
        self,
        features: RefinerFeatures,
        point_coords: Tensor,
        point_labels: Tensor,
        logits: Tensor,
        previous_logits: Tensor | None,
        state: RefinerState[Tensor],
    ) -> tuple[Tensor, RefinerState[Tensor]]:
        """Improve a coarse mask; see `fretsaw.types.Refiner`.

        The state's `error_map` holds GlobalDiff's error logits of the interaction before. A mask that was `given` (a person's own, an automatic cut) is changed
        only around the clicks, at the first click and at all later ones, so that the rest of it stays as it was.
        """
        point_coords, point_labels = point_coords.to(logits.device), point_labels.to(logits.device)
        logits = self.enlarged(logits)
        given = previous_logits if state.given else None
        before = state.error_map if given is None else None
        count = int(((point_labels[0] == POSITIVE) | (point_labels[0] == NEGATIVE)).sum())
        if given is None and (self.global_from is None or count < self.global_from):
            return logits, RefinerState(error_map=torch.full_like(logits, NO_ERROR))
        patches = given is not None or (self.patch_from is not None and count >= self.patch_from)
        answer, error_map = self._selected(features, point_coords, point_labels, logits, previous_logits, before, patches)
        if self.heeds_clicks:
            plain = logits if given is None else changed_around(click_place(point_coords, point_labels, features.model_size, logits), logits, given)
            asked = (point_coords[0], point_labels[0], features.model_size)
            answer = plain if contradictions(answer[0, 0] > 0, *asked) > contradictions(plain[0, 0] > 0, *asked) else answer
        return answer, RefinerState(given is not None, error_map)

    def enlarged(self, logits: Tensor) -> Tensor:
        """Return the decoder's logits (P, 1, S/4, S/4) at the size of the refiner's maps."""
        return logits if self.map_scale == 1 else F.interpolate(logits, scale_factor=self.map_scale, mode="bilinear", align_corners=False)

    def _selected(
        self,
        features: RefinerFeatures,
        point_coords: Tensor,
        point_labels: Tensor,
        logits: Tensor,
        previous_logits: Tensor | None,
        before: Tensor | None,
        patches: bool,
    ) -> tuple[Tensor, Tensor]:
        """The dynamic patch selector (section 3.4.2): GlobalDiff's answer or PatchDiff's, and the error map; any error has grown where there is none before."""
        disks = disk_maps(point_coords, point_labels, features.model_size, logits.shape[-1])
        region = unsure_box(disks, logits, previous_logits, self.sure_logit)
        result = self.global_diff.inside(features, disks, logits, region)
        error_map = result.error_map
        if previous_logits is None or not patches or not error_region_grew(error_map, before):
            return result.logits, error_map
        click = click_place(point_coords, point_labels, features.model_size, logits)
        box = changed_box(result.logits[0, 0] > 0, previous_logits[0, 0] > 0, click)
        if box is None:
            return previous_logits, error_map
        if not contains(region, box):
            result = self.global_diff.inside(features, disks, logits, box)
        x, y = result.origin
        boxes = torch.tensor([[box.x0, box.y0, box.x1, box.y1]], device=logits.device)
        offset = torch.tensor([x, y, x, y], device=logits.device)
        around = (..., slice(y, y + result.feature.shape[-2]), slice(x, x + result.feature.shape[-1]))
        crop, _, _ = self.patch_diff(result.feature, logits[around], boxes - offset)
        return paste_crop(crop, box, previous_logits), error_map


def build_sam_ref(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> SamRef:
    """Build a refiner from its weights and the `config` that was saved with them; loading is strict.

    Raises:
        ConfigError: If the configuration has an unknown name, or numbers that no refiner has.
        StateDictError: If the weights do not fit it.
    """
    from fretsaw.weights import load_strictly
    from fretsaw.weights.metadata import check_numbers

    limits = {"width": (2, 1024), "blocks": (0, 64), "channels": (1, 8192), "levels": (1, 8192), "map_scale": (1, 2)}
    check_numbers("a refiner's configuration", config, limits)
    try:
        # without memory of its own: what the configuration asks for is compared with the file first
        with torch.device("meta"):
            refiner = SamRef(**config)
    except TypeError as error:
        raise ConfigError(f"expected a refiner's configuration, got another: {error}") from error
    load_strictly(refiner, dict(state_dict))
    return refiner.eval().requires_grad_(False)
