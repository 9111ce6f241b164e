"""Automatic masks: the soft map that a model draws without any prompt against one truth per image.

The map is scored as 8 bit grey, as it would be saved: round(255 sigmoid(logits)). Its mask, for IoU, Dice, PA and boundary IoU, is where it is above 127.
Pixels that a truth ignores do not count in these four; to the metrics of soft maps, which know no such pixels, they are background.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy.special import expit  # pyright: ignore[reportMissingTypeStubs]

from fretsaw.data.samples import Sample
from fretsaw.errors import ConfigError, MissingExtraError, ModelError
from fretsaw.evaluation import saliency
from fretsaw.evaluation.hce import human_correction_efforts
from fretsaw.evaluation.overlap import boundary_iou, dice, pixel_accuracy
from fretsaw.evaluation.report import Report
from fretsaw.evaluation.runner import NamedSet, Progress, RunOptions, evaluate_dataset, with_mask_folder
from fretsaw.evaluation.saliency import LevelCounts
from fretsaw.evaluation.weighted_f import weighted_f
from fretsaw.images import write_image
from fretsaw.masks import mask_iou

if TYPE_CHECKING:
    from fretsaw.segmentation import Segmentation

MASK_ABOVE = 127
METRICS = ("max F", "mean F", "adaptive F", "weighted F", "MAE", "S", "max E", "mean E", "adaptive E", "IoU", "Dice", "PA", "boundary IoU", "HCE")
_OF_CURVES = ("max F", "mean F", "max E", "mean E")

LEVELS: Mapping[str, Callable[[LevelCounts], np.ndarray]] = {
    "min-max": saliency.stretched_levels,
    "as-is": lambda counts: saliency.plain_levels(),
}


@dataclass(frozen=True)
class AutoProtocol:
    """A protocol for automatic masks: every choice that changes the figures.

    Attributes:
        name: As reports print it.
        levels: What grey values mean: "min-max" spreads each prediction over [0, 1], "as-is" divides by 255.
        f_beta2: Weight of precision in F, squared.
        weighted_f_beta2: The same in weighted F.
        s_alpha: Weight of the object part of S.
        hce_relax: Erosions by which HCE forgives thin errors.
        hce_epsilon: Tolerance of HCE's polygons, in pixels.
        boundary_dilation: Width of boundary IoU's band, as a share of the diagonal.
    """

    name: str
    levels: str
    f_beta2: float = 0.3
    weighted_f_beta2: float = 1.0
    s_alpha: float = 0.5
    hce_relax: int = 5
    hce_epsilon: float = 2.0
    boundary_dilation: float = 0.02


PROTOCOLS = {
    "pysod": AutoProtocol("pysod", levels="min-max"),
    "isnet": AutoProtocol("isnet", levels="as-is"),
}


class AutoCutter(Protocol):
    """Any object that cuts an image without a prompt, such as a `fretsaw.Segmenter`: the subject of the evaluation."""

    def auto(self, image: np.ndarray) -> Segmentation: ...


def protocol_named(name: str) -> AutoProtocol:
    """Return the protocol of a name.

    Raises:
        ConfigError: If no protocol has this name.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"expected one of the protocols {', '.join(PROTOCOLS)} for automatic masks, got {name!r}")
    return PROTOCOLS[name]


def soft_map(logits: np.ndarray) -> np.ndarray:
    """Return the (H, W) uint8 grey map of (H, W) mask logits: round(255 sigmoid(logits)).

    Raises:
        ModelError: If a logit is not a number.
    """
    if np.isnan(logits).any():
        raise ModelError("expected mask logits that are numbers, got NaN")
    return np.rint(255 * expit(np.asarray(logits, np.float64))).astype(np.uint8)


def levels_of(counts: LevelCounts, protocol: AutoProtocol) -> np.ndarray:
    """Return the (256,) values that grey levels stand for under a protocol."""
    if protocol.levels not in LEVELS:
        raise ConfigError(f"expected levels to be one of {', '.join(LEVELS)}, got {protocol.levels!r}")
    return LEVELS[protocol.levels](counts)


def score(
    prediction: np.ndarray,
    truth: np.ndarray,
    protocol: AutoProtocol = PROTOCOLS["pysod"],
    metrics: Sequence[str] = METRICS,
    ignored: np.ndarray | None = None,
) -> dict[str, float]:
    """Return the metrics of one image.

    Args:
        prediction: (H, W) uint8 soft map.
        truth: (H, W) bool, or uint8 with object above 128.
        protocol: The fields that the figures depend on.
        metrics: Those to compute, by the names of `METRICS`.
        ignored: (H, W) bool, pixels that IoU, Dice, PA and boundary IoU leave out; none of them is object.

    Returns:
        Value by name, in the order of `METRICS`. Max and mean of F and E are those of the image's own curve; over a set, the mean curve counts (`AutoTally`).

    Raises:
        ShapeError: If the arrays are not such a pair.
        ConfigError: If a metric's name is unknown.
        MissingExtraError: If HCE is wanted and scikit-image is not installed.
    """
    scalars, counts = _measure(prediction, truth, protocol, check_metrics(metrics), ignored)
    values = {**scalars, **_of_mean_curves(*_curves(counts, protocol))}
    return {name: values[name] for name in METRICS if name in metrics}


def check_metrics(metrics: Sequence[str] | None) -> tuple[str, ...]:
    """Return the metrics to compute; None means all that can be computed here, which is without HCE where scikit-image is missing.

    Raises:
        ConfigError: If a name is unknown.
        MissingExtraError: If HCE is named and scikit-image is not installed.
    """
    if metrics is None:
        return METRICS if _has_skeletons() else tuple(name for name in METRICS if name != "HCE")
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise ConfigError(f"expected metrics among {', '.join(METRICS)}, got {', '.join(map(repr, unknown))}")
    if "HCE" in metrics and not _has_skeletons():
        raise MissingExtraError("expected scikit-image for HCE, which is not installed: pip install 'fretsaw[evaluate]', or leave HCE out")
    return tuple(name for name in METRICS if name in metrics)


def _has_skeletons() -> bool:
    return importlib.util.find_spec("skimage") is not None


def _measure(
    prediction: np.ndarray, truth: np.ndarray, protocol: AutoProtocol, metrics: Sequence[str], ignored: np.ndarray | None
) -> tuple[dict[str, float], LevelCounts]:
    """Return the metrics that a set averages, and the counts from which its curves are made."""
    prediction, binary = saliency.check_pair(prediction, truth)
    quadrants = saliency.count_quadrants(prediction, binary.view(bool))
    counts = saliency.sum_counts(quadrants)
    levels = levels_of(counts, protocol)
    mask, truth = prediction > MASK_ABOVE, binary.view(bool)
    mask = mask if ignored is None else mask & ~ignored
    threshold = saliency.adaptive_threshold(prediction, counts, levels)
    measures: dict[str, Callable[[], float]] = {
        "adaptive F": lambda: saliency.f_at(counts, levels, threshold, protocol.f_beta2),
        "weighted F": lambda: weighted_f(prediction, truth, levels, protocol.weighted_f_beta2),
        "MAE": lambda: saliency.mean_absolute_error(counts, levels),
        "S": lambda: saliency.s_measure(quadrants, levels, protocol.s_alpha),
        "adaptive E": lambda: saliency.e_at(counts, levels, threshold),
        "IoU": lambda: mask_iou(mask, truth),
        "Dice": lambda: dice(mask, truth),
        "PA": lambda: pixel_accuracy(mask, truth, ignored),
        "boundary IoU": lambda: boundary_iou(mask, truth, protocol.boundary_dilation),
        "HCE": lambda: float(human_correction_efforts(prediction, truth, levels, protocol.hce_relax, protocol.hce_epsilon)),
    }
    return {name: float(measures[name]()) for name in METRICS if name in metrics and name in measures}, counts


def _curves(counts: LevelCounts, protocol: AutoProtocol) -> tuple[np.ndarray, np.ndarray]:
    levels = levels_of(counts, protocol)
    return saliency.f_curve(counts, levels, protocol.f_beta2), saliency.e_curve(counts, levels)


def _of_mean_curves(f: np.ndarray, e: np.ndarray) -> dict[str, float]:
    return {"max F": float(f.max()), "mean F": float(f.mean()), "max E": float(e.max()), "mean E": float(e.mean())}


def measure_sample(segmenter: AutoCutter, sample: Sample, *, protocol: AutoProtocol, metrics: Sequence[str], masks_to: Path | None = None) -> dict[str, Any]:
    """Cut one sample's image and return its record: the metrics, the model's own score, and the level counts as text (256 on the object, 256 beside it).

    The soft map that was scored is written below `masks_to`, if that is given.

    Raises:
        DataError: If image or truth cannot be used.
        ModelError: If the model has no automatic mode or returns a map of another size.
    """
    image, truth = sample.read()
    result = segmenter.auto(image)
    if result.logits.shape != truth.shape:
        raise ModelError(f"expected a map of the image's size {truth.shape}, got {result.logits.shape}")
    ignored = truth < 0
    prediction = soft_map(result.logits)
    scalars, counts = _measure(prediction, truth == 1, protocol, metrics, ignored if ignored.any() else None)
    if masks_to is not None:
        write_image(masks_to / f"{sample.name}.png", prediction)
    values = {**scalars, **_of_mean_curves(*_curves(counts, protocol))}
    return {
        "height": truth.shape[0],
        "width": truth.shape[1],
        "score": float(result.score),
        **{name: values[name] for name in metrics},
        "levels": " ".join(map(str, np.concatenate([counts.foreground, counts.background]).tolist())),
    }


class AutoTally:
    """Averages records: the figures of single images by their mean, F and E by their mean curve, whose maximum and mean are then taken."""

    def __init__(self, protocol: AutoProtocol, metrics: Sequence[str]) -> None:
        self._protocol = protocol
        self._metrics = tuple(metrics)
        self._samples = 0
        self._sums = dict.fromkeys((name for name in self._metrics if name not in _OF_CURVES), 0.0)
        self._f, self._e = np.zeros(256), np.zeros(256)

    def add(self, record: Mapping[str, Any]) -> None:
        """Add one sample's record."""
        levels = np.fromiter(map(int, record["levels"].split()), np.int64, 512)
        f, e = _curves(LevelCounts(levels[:256], levels[256:]), self._protocol)
        self._f, self._e = self._f + f, self._e + e
        for name in self._sums:
            self._sums[name] += record[name]
        self._samples += 1

    def f_curve(self) -> np.ndarray:
        """Return (256,) F at each threshold, from 255 down to 0, averaged over all records so far; NaN before the first."""
        return self._f / self._samples if self._samples else np.full(256, np.nan)

    def metrics(self) -> dict[str, float]:
        """Return the figures over all records so far; NaN before the first."""
        if self._samples == 0:
            return dict.fromkeys(self._metrics, float("nan"))
        means = {name: total / self._samples for name, total in self._sums.items()}
        values = {**means, **_of_mean_curves(self.f_curve(), self._e / self._samples)}
        return {name: values[name] for name in self._metrics}


def evaluate_auto(
    dataset: NamedSet,
    build: Callable[[], AutoCutter],
    protocol: AutoProtocol | str = "pysod",
    *,
    options: RunOptions | None = None,
    metrics: Sequence[str] | None = None,
    progress: Progress | None = None,
    masks_to: Path | None = None,
) -> Report:
    """Measure the automatic mode of a model on a data set.

    Args:
        dataset: Samples whose truth is (H, W) with 1 for the object.
        build: Makes the model; called once per worker.
        protocol: A protocol or its name.
        options: How to run, and what the report says about the model.
        metrics: Those to compute; None means all that can be computed here.
        progress: Told about every sample.
        masks_to: Folder for the soft maps, 8 bit grey, or None.

    Raises:
        ConfigError: If protocol or metric is unknown.
        OutputError: If the folder for masks cannot be made.
        MissingExtraError: If HCE is named and scikit-image is not installed.
    """
    fields = protocol_named(protocol) if isinstance(protocol, str) else protocol
    chosen = check_metrics(metrics)
    return evaluate_dataset(
        dataset,
        build,
        partial(measure_sample, protocol=fields, metrics=chosen, masks_to=masks_to),
        partial(AutoTally, fields, chosen),
        task="auto",
        protocol=fields.name,
        protocol_fields={**asdict(fields), "mask_above": MASK_ABOVE, "metrics": list(chosen)},
        options=with_mask_folder(options, masks_to),
        progress=progress,
    )
