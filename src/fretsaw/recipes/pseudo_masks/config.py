"""The settings of the recipe pseudo_masks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PseudoMasksConfig:
    """Everything that `--set key=value` can change.

    Attributes:
        photos: Folders of photos, separated by commas.
        out: Folder of the result.
        exclude: Files that list stems of photos to leave out, separated by commas.
        allow_held_out: Names of sets, separated by commas, that are learned from although they are held out to choose by or to report on.
        model: Catalogue name of the model whose decoder sharpens.
        size: Side of its input.
        side: Longest side of the photos as stored; 0 stores them as they are.
        agreement: Least IoU of the map's mask and the decoder's.
        score: Least score of the cut: the decoder's own estimate times its agreement with the soft map.
        smallest: Least share of the photo that the mask covers.
        largest: Largest share.
        device: "cpu", "cuda", "mps".
    """

    photos: str
    out: str
    exclude: str = ""
    allow_held_out: str = ""
    model: str = "sam2-hiera-tiny"
    size: int = 512
    side: int = 640
    agreement: float = 0.85
    score: float = 0.7
    smallest: float = 0.02
    largest: float = 0.85
    device: str = "cpu"
