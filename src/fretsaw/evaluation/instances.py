"""Instances: COCO's average precision of automatic masks, with PMG-SAM's route from one map to several objects.

A map becomes instances by threshold and connected components. PMG-SAM matches them one to one with the truths (Hungarian algorithm) and hands only the
matched ones to COCO's evaluation, so its figures hold no false alarms; COCO's own rule takes every instance and matches greedily by score. Both are
protocols here, and a report says which was used. Classes are not told apart.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from scipy.special import expit  # pyright: ignore[reportMissingTypeStubs]

from fretsaw.errors import ConfigError, DataError, ShapeError
from fretsaw.evaluation.coco import CATEGORY_ID, InstanceSample, InstanceSet, average_precision
from fretsaw.evaluation.report import Report
from fretsaw.evaluation.runner import Progress, RunOptions, evaluate_dataset, with_mask_folder
from fretsaw.images import write_bytes
from fretsaw.masks import components, encode_rle, mask_to_box
from fretsaw.segmentation import LabelMap

if TYPE_CHECKING:
    from fretsaw.segmentation import Segmentation


@dataclass(frozen=True)
class InstanceProtocol:
    """A protocol for instances: how a result is split into instances, and how they are matched with the truth.

    Attributes:
        name: As reports print it.
        source: "components" splits the result's map, "model" takes the instances that the model tells apart itself.
        threshold: A logit above it is object.
        connectivity: 8 or 4, of the components.
        minimum_area: Smaller components are dropped, in pixels.
        component_score: "mean probability" of the component's pixels; of the model's own instances, the model's score.
        matching: "hungarian" or "greedy".
        matching_iou: Least IoU of a greedy match; Hungarian matches only have to touch.
        kept: "matched" instances only, or "all".
    """

    name: str
    source: Literal["components", "model"]
    matching: Literal["hungarian", "greedy"]
    kept: Literal["matched", "all"]
    threshold: float = 0.0
    connectivity: int = 8
    minimum_area: int = 100
    component_score: str = "mean probability"
    matching_iou: float = 0.5


PROTOCOLS = {
    "pmg-sam": InstanceProtocol("pmg-sam", source="components", matching="hungarian", kept="matched"),
    "coco": InstanceProtocol("coco", source="components", matching="greedy", kept="all"),
    "coco-model": InstanceProtocol("coco-model", source="model", matching="greedy", kept="all", component_score="the model's"),
}


@dataclass(frozen=True)
class Instance:
    """One object: its mask (H, W) bool and a score in [0, 1]."""

    mask: np.ndarray
    score: float


@dataclass(frozen=True)
class Match:
    """A matched prediction and truth, by index, and their IoU."""

    prediction: int
    truth: int
    iou: float


class InstanceCutter(Protocol):
    """Any object that cuts an image without a prompt, such as a `fretsaw.Segmenter`: the subject of the evaluation."""

    def auto(self, image: np.ndarray, instances: bool = False) -> Segmentation: ...


def protocol_named(name: str) -> InstanceProtocol:
    """Return the protocol of a name.

    Raises:
        ConfigError: If no protocol has this name.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"expected one of the protocols {', '.join(PROTOCOLS)} for instances, got {name!r}")
    return PROTOCOLS[name]


def split_instances(mask_logits: np.ndarray, threshold: float = 0.0, connectivity: int = 8, minimum_area: int = 100) -> list[Instance]:
    """Return the connected components of a map as instances, each with the mean probability of its pixels as score.

    Args:
        mask_logits: (H, W) float.
        threshold: A logit above it is object.
        connectivity: 8, or 4.
        minimum_area: Smaller components are dropped, in pixels.

    Raises:
        ShapeError: If the map is not two-dimensional.

    Source: PMG-SAM, section 4.3 (connected component analysis on the binary output).

    Deviation: the paper states neither connectivity, smallest area nor the score that average precision sorts by; 8, 100 pixels and the mean probability are
    decisions of this project.
    """
    labels, stats = components(np.asarray(mask_logits) > threshold, connectivity)
    probabilities = expit(np.asarray(mask_logits, np.float64))
    sums = np.bincount(labels.ravel(), weights=probabilities.ravel(), minlength=len(stats))
    kept = [number for number in range(1, len(stats)) if stats[number, cv2.CC_STAT_AREA] >= minimum_area]
    return [Instance(labels == number, float(sums[number] / stats[number, cv2.CC_STAT_AREA])) for number in kept]


def iou_matrix(predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> np.ndarray:
    """Return (P, T) float64 IoUs of (H, W) bool masks.

    Raises:
        ShapeError: If the masks differ in size.
    """
    shapes = {mask.shape for mask in (*predictions, *truths)}
    if len(shapes) > 1:
        raise ShapeError(f"expected masks of one size, got {', '.join(map(str, sorted(shapes)))}")
    if not predictions or not truths:
        return np.zeros((len(predictions), len(truths)))
    ours: Any = [encode_rle(mask) for mask in predictions]
    theirs: Any = [encode_rle(mask) for mask in truths]
    return np.asarray(coco_mask.iou(ours, theirs, [0] * len(truths)))


def match_hungarian(ious: np.ndarray) -> list[Match]:
    """Match predictions and truths one to one so that the sum of 1 - IoU is least; pairs that do not touch are no match.

    Args:
        ious: (P, T).

    Source: PMG-SAM, section 4.3; Kuhn 1955, The Hungarian method for the assignment problem.
    """
    found = cast("tuple[np.ndarray, np.ndarray]", linear_sum_assignment(1 - ious))
    pairs: list[tuple[int, int]] = np.stack(found, 1).tolist()
    return [Match(p, t, float(ious[p, t])) for p, t in pairs if ious[p, t] > 0]


def match_greedy(ious: np.ndarray, scores: Sequence[float], matching_iou: float = 0.5) -> list[Match]:
    """Match as COCO does: predictions by falling score, each takes the free truth that it overlaps most, if it does so enough.

    Args:
        ious: (P, T).
        scores: (P,), ties keep their order.
        matching_iou: Least IoU of a match.

    Source: COCO's evaluation (pycocotools), for one threshold. Of equal IoUs the later truth is taken, as there.
    """
    free = np.ones(ious.shape[1], bool)
    matches: list[Match] = []
    for prediction in np.argsort(-np.asarray(scores, float), kind="stable").tolist():
        overlaps = np.where(free, ious[prediction], -1.0)
        if overlaps.size == 0:
            break
        truth = overlaps.size - 1 - int(np.argmax(overlaps[::-1]))
        if overlaps[truth] >= matching_iou:
            free[truth] = False
            matches.append(Match(prediction, truth, float(overlaps[truth])))
    return matches


def find_instances(segmenter: InstanceCutter, image: np.ndarray, protocol: InstanceProtocol) -> list[Instance]:
    """Cut an image and return its instances under a protocol."""
    if protocol.source == "model":
        parts = segmenter.auto(image, instances=True).instances
        return [Instance(part.mask, part.score) for part in parts if part.mask.any()]
    result = segmenter.auto(image)
    return split_instances(result.logits, protocol.threshold, protocol.connectivity, protocol.minimum_area)


def match(instances: Sequence[Instance], truths: Sequence[np.ndarray], protocol: InstanceProtocol) -> list[Match]:
    """Match instances and truths by the protocol's rule."""
    ious = iou_matrix([instance.mask for instance in instances], truths)
    if protocol.matching == "hungarian":
        return match_hungarian(ious)
    return match_greedy(ious, [instance.score for instance in instances], protocol.matching_iou)


def to_coco(instance: Instance, image_id: int) -> dict[str, Any]:
    """Return an instance as one entry of a COCO results file."""
    x0, y0, x1, y1 = mask_to_box(instance.mask)
    box = [x0, y0, x1 - x0, y1 - y0]
    return {"image_id": image_id, "category_id": CATEGORY_ID, "segmentation": encode_rle(instance.mask), "bbox": box, "score": instance.score}


def measure_sample(segmenter: InstanceCutter, sample: InstanceSample, *, protocol: InstanceProtocol, masks_to: Path | None = None) -> dict[str, Any]:
    """Cut one sample's image and return its record: the entries for COCO's evaluation, and how the instances met the truths.

    The instances are written below `masks_to` as a palette PNG named by the image's id, 255 for none, the better scored above the others, if that is given.

    Raises:
        DataError: If image or truths cannot be used.
        ModelError: If the model has no automatic mode.
    """
    image, truths = sample.read()
    instances = find_instances(segmenter, image, protocol)
    matches = match(instances, truths, protocol)
    if masks_to is not None:
        numbered(instances, image.shape[:2]).save(masks_to / f"{sample.image_id}.png")
    kept = sorted(m.prediction for m in matches) if protocol.kept == "matched" else range(len(instances))
    return {
        "image_id": sample.image_id,
        "truths": len(truths),
        "instances": len(instances),
        "matched_ious": [m.iou for m in matches],
        "predictions": [to_coco(instances[index], sample.image_id) for index in kept],
    }


def numbered(instances: Sequence[Instance], size: tuple[int, int]) -> LabelMap:
    """Return instances as one map: -1 for no instance, else the instance's index. Where two overlap, the one with the higher score is shown."""
    labels = np.full(size, -1, np.int32)
    for place in sorted(range(len(instances)), key=lambda index: instances[index].score):
        labels[instances[place].mask] = place
    return LabelMap(labels, tuple(f"instance {place + 1}" for place in range(len(instances))))


class InstanceTally:
    """Counts matches while a run goes on; average precision needs the whole set and follows at the end."""

    def __init__(self) -> None:
        self._truths = self._instances = self._matches = 0
        self._iou = 0.0

    def add(self, record: Mapping[str, Any]) -> None:
        """Add one sample's record."""
        self._truths += record["truths"]
        self._instances += record["instances"]
        self._matches += len(record["matched_ious"])
        self._iou += sum(record["matched_ious"])

    def metrics(self) -> dict[str, float]:
        """Return the share of truths and of instances that are matched, and the matches' mean IoU; NaN where there is none."""
        return {
            "matched truths": self._matches / self._truths if self._truths else float("nan"),
            "matched instances": self._matches / self._instances if self._instances else float("nan"),
            "matched IoU": self._iou / self._matches if self._matches else float("nan"),
        }


def evaluate_instances(
    dataset: InstanceSet,
    build: Callable[[], InstanceCutter],
    protocol: InstanceProtocol | str = "pmg-sam",
    *,
    options: RunOptions | None = None,
    progress: Progress | None = None,
    masks_to: Path | None = None,
) -> Report:
    """Measure a model's instances on a data set given as COCO JSON.

    Args:
        dataset: What `read_coco` returned.
        build: Makes the model; called once per worker.
        protocol: A protocol or its name.
        options: How to run, and what the report says about the model.
        progress: Told about every sample.
        masks_to: Folder for the instances as palette PNG, or None.

    Returns:
        The report; AP, AP50 and AP75 are fractions over the images that could be measured. `save_predictions` writes what was scored.

    Raises:
        ConfigError: If the protocol is unknown.
    """
    fields = protocol_named(protocol) if isinstance(protocol, str) else protocol
    report = evaluate_dataset(
        dataset,
        build,
        partial(measure_sample, protocol=fields, masks_to=masks_to),
        InstanceTally,
        task="instances",
        protocol=fields.name,
        protocol_fields={**asdict(fields), "classes": "not told apart", "max_detections": 100},
        options=with_mask_folder(options, masks_to),
        progress=progress,
    )
    measured = [record["image_id"] for record in report.samples]
    metrics = {**average_precision(dataset.content, _predictions(report), measured), **report.metrics}
    return replace(report, metrics=metrics, warnings=[*report.warnings, _what_was_done(fields)])


def _what_was_done(protocol: InstanceProtocol) -> str:
    rule = "one to one by the Hungarian algorithm" if protocol.matching == "hungarian" else f"greedy by score, as COCO does, from IoU {protocol.matching_iou}"
    kept = "only matched instances were scored, so false alarms cost nothing" if protocol.kept == "matched" else "all instances were scored"
    return f"instances and truths were matched {rule}; {kept}"


def _predictions(report: Report) -> list[dict[str, Any]]:
    return [prediction for record in report.samples for prediction in record["predictions"]]


def save_predictions(report: Report, path: Path | str) -> Path:
    """Write the instances that a report scored as a COCO results file, a JSON list that pycocotools' `loadRes` reads.

    Raises:
        ConfigError: If it is no report of instances.
        OutputError: If the file cannot be written.
    """
    if report.task != "instances":
        raise ConfigError(f"expected a report of instances, got one of {report.task}")
    return write_bytes(Path(path), json.dumps(_predictions(report)).encode())


def overlapping(dataset: InstanceSet) -> InstanceSet:
    """Return the images in which two truths touch or overlap, where components cannot tell them apart.

    Source: PMG-SAM, section 4.6 (overlapping subsets of COD10K and NC4K).

    Deviation: the paper does not say what counts as overlapping; here, two masks that share a pixel or adjoin by side or corner.
    """
    samples = tuple(sample for sample in dataset.samples if _touch(sample.read_truths()))
    if not samples:
        raise DataError(f"expected images with overlapping objects in {dataset.name}, found none")
    return replace(dataset, name=f"{dataset.name}-overlapping", samples=samples, expected=None)


def _touch(truths: Sequence[np.ndarray]) -> bool:
    reach = np.ones((3, 3), np.uint8)
    grown = [cv2.dilate(mask.astype(np.uint8), reach) > 0 for mask in truths]
    return any(bool((grown[first] & truths[second]).any()) for second in range(len(truths)) for first in range(second))
