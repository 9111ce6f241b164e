"""The click protocols of the papers, every choice they make as one field."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from fretsaw.errors import ConfigError

CURVE_TARGET = 1.01
"""A target that no mask reaches, for curves of IoU against clicks: every sample gets all clicks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickProtocol:
    """How a model is clicked through an image.

    Attributes:
        name: As reports name it.
        click_rule: "ritm" (`simulate_click`), "hrsam" (`simulate_click_hrsam`) or "around" (`simulate_click_around`).
        target_iou: A sample ends with the first click that reaches it; None: every sample gets `max_clicks`.
        max_clicks: Clicks at most, and the NoC of a sample that does not reach a target.
        threshold: The predicted map must be greater than this to be object; None for "argmax".
        threshold_on: What `threshold` is compared with: "probabilities" or "logits"; "argmax": whichever of object and background scores higher.
        previous_mask: What the network gets of its last answer: "probabilities" (full size), "low_res_logits_best" (those of the mask that was shown, at the
            decoder's size), "low_res_logits" (the same of the single mask, none at the first click), "labels" (the thresholded mask).
        multimask: Which of SAM's masks answers: "best_predicted_iou" of the three, the "single" mask of token 0, or "none" for networks with one mask.
        input: How the network sees the image: "zoom" (a crop around the object once there is one), "squash" (stretched to a square), "longest_side" (padded
            right and below), "model" (as its authors feed it), "native" (as it is).
        input_size: Side in pixels for "zoom" and "squash", None elsewhere.
        zoom_squash: Crops are stretched to a square instead of keeping their aspect ratio.
        zoom_expansion: The crop is the box of mask and positive clicks times this.
        zoom_minimum: Smallest side of a crop, in pixels of the image.
        zoom_recrop_iou: The crop moves once the box it would have now overlaps it less than this, or a positive click falls outside.
        zoom_threshold: Where probabilities become the mask that is boxed.
        flip: The map is the mean of the logits of the image and of its mirror image.
        detour_size: The image is first brought to this longest side and enlarged from there, None: directly (HRSAM's table 4).
    """

    name: str
    click_rule: Literal["ritm", "hrsam", "around"]
    target_iou: float | None
    max_clicks: int = 20
    threshold: float | None
    threshold_on: Literal["probabilities", "logits", "argmax"]
    previous_mask: Literal["probabilities", "low_res_logits_best", "low_res_logits", "labels"]
    multimask: Literal["best_predicted_iou", "single", "none"] = "none"
    input: Literal["zoom", "squash", "longest_side", "model", "native"]
    input_size: int | None = None
    zoom_squash: bool = False
    zoom_expansion: float = 1.4
    zoom_minimum: int = 200
    zoom_recrop_iou: float = 0.5
    zoom_threshold: float = 0.5
    flip: bool = False
    detour_size: int | None = None

    def fields(self) -> dict[str, Any]:
        """Return every field by name, for a report."""
        return asdict(self)

    def __post_init__(self) -> None:
        if self.max_clicks < 1:
            raise ConfigError(f"expected a protocol with at least 1 click, got {self.max_clicks}")
        if (self.threshold is None) != (self.threshold_on == "argmax"):
            raise ConfigError(f"expected a threshold for {self.threshold_on!r}, and none for 'argmax', got {self.threshold}")
        if self.target_iou is not None and not 0 < self.target_iou <= CURVE_TARGET:
            raise ConfigError(f"expected a target IoU above 0 and at most {CURVE_TARGET} (never reached), got {self.target_iou}")
        if self.input in ("zoom", "squash") and (self.input_size is None or self.input_size < 1):
            raise ConfigError(f"expected a side in pixels for the input {self.input!r}, got {self.input_size}")


RITM = ClickProtocol(
    name="ritm",
    click_rule="ritm",
    target_iou=0.95,
    threshold=0.49,
    threshold_on="probabilities",
    previous_mask="probabilities",
    input="zoom",
    input_size=400,
    flip=True,
)
"""Source: RITM (Sofiiuk et al. 2022) and its evaluation code; 600 pixels on DAVIS, see `for_dataset`."""

SIMPLECLICK = replace(RITM, name="simpleclick", input_size=448, zoom_squash=True)
"""Source: SimpleClick (Liu et al. 2023) and its evaluation code: RITM's with every crop, and the whole image at the first click, stretched to 448 x 448."""

SEGNEXT = ClickProtocol(
    name="segnext",
    click_rule="ritm",
    target_iou=0.95,
    threshold=0.49,
    threshold_on="probabilities",
    previous_mask="probabilities",
    input="squash",
    input_size=1024,
)
"""Source: SegNext (Liu et al. 2024) and its evaluation code; the previous probabilities are brought to the squashed frame with the image."""

SAM = ClickProtocol(
    name="sam",
    click_rule="ritm",
    target_iou=0.95,
    threshold=0.0,
    threshold_on="logits",
    previous_mask="low_res_logits_best",
    multimask="best_predicted_iou",
    input="model",
)
"""Source: SegNext's evaluation of SAM, the baseline of SAM-REF's tables (paper 004).

Deviation: SegNext never stops early; stopping at the highest target that is reported changes no NoC.
"""

HRSAM = ClickProtocol(
    name="hrsam",
    click_rule="hrsam",
    target_iou=None,
    threshold=0.0,
    threshold_on="logits",
    previous_mask="low_res_logits",
    multimask="single",
    input="longest_side",
)
"""Source: HRSAM (paper 003), appendix D.4, and its evaluation code."""

INTERFORMER = ClickProtocol(
    name="interformer", click_rule="hrsam", target_iou=None, threshold=None, threshold_on="argmax", previous_mask="labels", input="native"
)
"""Source: InterFormer (Huang et al. 2023) and its evaluation code."""

REAL = replace(SAM, name="real", click_rule="around")
"""Clicks as people make them, drawn around the deepest place of an error by the sample's own seed; all else as in `SAM`."""

CLICK_PROTOCOLS = {protocol.name: protocol for protocol in (RITM, SIMPLECLICK, SEGNEXT, SAM, HRSAM, INTERFORMER, REAL)}


def click_protocol(name: str) -> ClickProtocol:
    """Return the protocol of a name.

    Raises:
        ConfigError: If no protocol has this name.
    """
    try:
        return CLICK_PROTOCOLS[name]
    except KeyError:
        raise ConfigError(f"expected a click protocol out of {', '.join(CLICK_PROTOCOLS)}; got {name!r}") from None


def for_dataset(protocol: ClickProtocol, dataset: str) -> ClickProtocol:
    """Return the protocol with its exceptions for one data set: RITM zooms DAVIS to 600 pixels."""
    return replace(protocol, input_size=600) if protocol.name == "ritm" and dataset == "davis" else protocol
