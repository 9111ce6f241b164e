"""Class maps: mean IoU and pixel accuracy from one confusion matrix over the whole set, and the presets of eight benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from fretsaw.data.classes import IGNORED, class_names, class_words
from fretsaw.data.samples import Sample
from fretsaw.errors import ConfigError, DataError, ModelError, ShapeError
from fretsaw.evaluation.report import Report
from fretsaw.evaluation.runner import NamedSet, Progress, RunOptions, evaluate_dataset, with_mask_folder
from fretsaw.methods.s2clip.settings import TextSettings
from fretsaw.segmentation import LabelMap

BACKGROUND = "background"


@dataclass(frozen=True)
class SemanticPreset:
    """One benchmark: its classes, how its truths are numbered, and the settings that text methods use on it.

    Attributes:
        name: As reports print it.
        class_list: Its classes but the background, see `fretsaw.data.classes`.
        zero: What 0 means in its truths: "class" (the first class), "background" (a class of its own, before the others) or "ignored".
        short_side: The image's shorter side for the network, in pixels.
        crop: Side of the sliding window, in pixels.
        stride: Step of the sliding window, in pixels.
        logit_scale: Factor before the softmax over words.
        background_threshold: Pixels whose best class is less probable are background; None where there is no such class.
        coarse_threshold: Probability from which a pixel belongs to a region that is refined.
        minimum_area: Smallest region that is refined, in pixels.
        cosine_factor: Weight of SAM's correlation when windows are spliced.
        negative_cosine: "refined" or "plain": what becomes of negative correlations.
        correlated_in: SAM's correlation is taken on "whole" images or on their "halves".
        background_list: Class list whose names describe the background beside the word itself, or None.

    Source: Trident (Shi et al. 2024), the settings of its eight benchmarks, which S2CLIP takes over.

    Deviation: words for the background are the data sets' own stuff classes, not the lists of the reference, which are not part of a data set's definition.
    """

    name: str
    class_list: str
    zero: Literal["class", "background", "ignored"]
    short_side: int
    stride: int = 224
    crop: int = 336
    logit_scale: float = 40.0
    background_threshold: float | None = None
    coarse_threshold: float = 0.2
    minimum_area: int = 225
    cosine_factor: float = 1.2
    negative_cosine: Literal["refined", "plain"] = "refined"
    correlated_in: Literal["whole", "halves"] = "whole"
    background_list: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The classes in the order of their ids, the background first where it is one."""
        return ((BACKGROUND,) if self.zero == "background" else ()) + class_names(self.class_list)

    @property
    def words(self) -> tuple[str, ...]:
        """The classes but the background, each with its other names behind "; ", as text methods take them."""
        return tuple("; ".join(words) for words in class_words(self.class_list))

    @property
    def settings(self) -> TextSettings:
        """The same as text methods take them; a benchmark without a background never uses its threshold."""
        shared = {field.name: getattr(self, field.name) for field in fields(TextSettings) if field.name != "background_threshold"}
        return TextSettings(**shared, background_threshold=self.background_threshold or 0.0)

    @property
    def background_words(self) -> tuple[str, ...]:
        """Words that describe the background; empty where it is no class."""
        if self.zero != "background":
            return ()
        own = {word for words in class_words(self.class_list) for word in words}
        others = class_words(self.background_list) if self.background_list else ()
        return (BACKGROUND, *(words[-1] for words in others if own.isdisjoint(words)))


PRESETS = {
    preset.name: preset
    for preset in (
        SemanticPreset("voc21", "voc20", "background", 448, background_threshold=0.2, background_list="context59"),
        SemanticPreset("context60", "context59", "background", 576, background_threshold=0.15, coarse_threshold=0.15),
        SemanticPreset("coco-object", "coco80", "background", 448, background_threshold=0.25, coarse_threshold=0.25, background_list="coco_stuff"),
        SemanticPreset("voc20", "voc20", "ignored", 336, stride=112, cosine_factor=0.0),
        SemanticPreset("cityscapes", "cityscapes", "class", 688, coarse_threshold=0.1, cosine_factor=3.0, negative_cosine="plain", correlated_in="halves"),
        SemanticPreset("context59", "context59", "ignored", 576, coarse_threshold=0.15),
        SemanticPreset("ade20k", "ade20k", "class", 576, coarse_threshold=0.05, negative_cosine="plain"),
        SemanticPreset("coco-stuff", "coco_stuff", "class", 448, coarse_threshold=0.05),
    )
}


class TextLabeller(Protocol):
    """A model that is evaluated with class names: a `fretsaw.Segmenter` of a text model."""

    def text(self, image: np.ndarray, names: tuple[str, ...], background: tuple[str, ...], settings: TextSettings) -> LabelMap: ...


class ClassLabeller(Protocol):
    """A model that is evaluated with the classes it was trained on: a `fretsaw.Segmenter` of a semantic model."""

    def semantic(self, image: np.ndarray) -> LabelMap: ...


def preset_named(name: str) -> SemanticPreset:
    """Return the preset of a name.

    Raises:
        ConfigError: If no preset has this name.
    """
    if name not in PRESETS:
        raise ConfigError(f"expected one of the presets {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]


def confusion_matrix(labels: np.ndarray, truth: np.ndarray, classes: int, ignored: int = IGNORED) -> np.ndarray:
    """Count how often each class of the truth was given each label.

    Args:
        labels: (H, W) int, class ids 0 .. classes - 1; below 0 where no class was given.
        truth: (H, W) int, class ids, and `ignored` where nothing counts.
        classes: Number of classes.
        ignored: The truth's value that does not count.

    Returns:
        (classes, classes + 1) int64, rows truth, columns prediction; the last column counts pixels without a class.

    Raises:
        ShapeError: If the sizes differ.
        ModelError: If a label is no class.
        DataError: If a value of the truth is neither a class nor ignored.
    """
    if labels.shape != truth.shape:
        raise ShapeError(f"expected labels of the truth's size {truth.shape}, got {labels.shape}")
    if labels.size and int(labels.max()) >= classes:
        raise ModelError(f"expected labels below {classes}, got {labels.max()}")
    counted = truth != ignored
    given, wanted = labels[counted].astype(np.int64), truth[counted].astype(np.int64)
    if wanted.size and (wanted.min() < 0 or wanted.max() >= classes):
        raise DataError(f"expected class ids 0 .. {classes - 1} and {ignored} in the truth, got {wanted.min()} .. {wanted.max()}")
    given = np.where(given < 0, classes, given)
    return np.bincount(wanted * (classes + 1) + given, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def class_ious(confusion: np.ndarray) -> np.ndarray:
    """Return (K,) IoU of each class from a (K, K + 1) confusion matrix; NaN for classes that neither truth nor prediction holds."""
    hits = np.diagonal(confusion)
    union = confusion.sum(axis=1) + confusion[:, :-1].sum(axis=0) - hits
    return np.where(union > 0, hits / np.maximum(union, 1), np.nan)


def mean_iou(confusion: np.ndarray) -> float:
    """Return the mean IoU over the classes that occur in truth or prediction; NaN if none does.

    Source: Everingham et al. 2015, The PASCAL visual object classes challenge: a retrospective, section 4.2.
    """
    ious = class_ious(confusion)
    return float(np.nanmean(ious)) if np.isfinite(ious).any() else float("nan")


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Return the share of counted pixels that got their class; NaN if none counts."""
    pixels = int(confusion.sum())
    return float(np.diagonal(confusion).sum() / pixels) if pixels else float("nan")


def truth_ids(truth: np.ndarray, preset: SemanticPreset) -> np.ndarray:
    """Return the class ids under a preset of a (H, W) truth as its data set stores it."""
    if preset.zero != "ignored":
        return truth
    return np.where((truth == 0) | (truth == IGNORED), IGNORED, truth - 1)


def label_with_text(labeller: TextLabeller, image: np.ndarray, preset: SemanticPreset) -> np.ndarray:
    """Return (H, W) class ids under a preset, from the words of its classes; pixels without a name are background where that is a class, else -1."""
    result = labeller.text(image, preset.words, preset.background_words, preset.settings)
    if len(result.names) != len(preset.words):
        raise ModelError(f"expected labels for {len(preset.words)} names, got {len(result.names)}")
    return result.labels + 1 if preset.zero == "background" else result.labels


def label_with_classes(labeller: ClassLabeller, image: np.ndarray, preset: SemanticPreset) -> np.ndarray:
    """Return (H, W) class ids under a preset, from a model's own classes, found by name.

    Raises:
        ConfigError: If the model lacks a class of the preset or has one more.
    """
    result = labeller.semantic(image)
    names = preset.names
    require_classes(result.names, preset)
    table = np.array([*(names.index(name) for name in result.names), -1])
    return table[result.labels]


def require_classes(names: Sequence[str], preset: SemanticPreset) -> None:
    """Raise if a model's classes are not those of a preset, in whatever order.

    Raises:
        ConfigError: If so; the message says what each of the two has alone.
    """
    lacking, more = sorted(set(preset.names) - set(names)), sorted(set(names) - set(preset.names))
    if lacking or more:
        said = [f"it lacks {', '.join(lacking[:5])}{' and others' if len(lacking) > 5 else ''}"] * bool(lacking)
        said += [f"it has {', '.join(more[:5])}{' and others' if len(more) > 5 else ''}"] * bool(more)
        raise ConfigError(f"expected a model with the {len(preset.names)} classes of {preset.name}, got one with {len(names)}: {' and '.join(said)}")


def check_classes(segmenter: Any, preset: SemanticPreset) -> None:
    """Raise `ConfigError` if a loaded model has a semantic mode with other classes than a preset; called before the first image."""
    if segmenter.parts.semantic is not None:
        require_classes(segmenter.parts.semantic.names, preset)


LABELLERS: Mapping[str, Callable[[Any, np.ndarray, SemanticPreset], np.ndarray]] = {"text": label_with_text, "semantic": label_with_classes}


def measure_sample(labeller: Any, sample: Sample, *, preset: SemanticPreset, mode: str, masks_to: Path | None = None) -> dict[str, Any]:
    """Label one sample's image and return its record: its own mIoU and PA, and the pairs of its confusion matrix as text "truth:label:pixels".

    The label map is written below `masks_to` as a palette PNG of the preset's class ids, if that is given.

    Raises:
        DataError: If image or truth cannot be used.
        ModelError: If the model lacks the mode or its labels do not fit.
    """
    image, truth = sample.read()
    labels = LABELLERS[mode](labeller, image, preset)
    confusion = confusion_matrix(labels, truth_ids(truth, preset), len(preset.names))
    if masks_to is not None:
        LabelMap(labels, preset.names).save(masks_to / f"{sample.name}.png")
    pairs = " ".join(f"{t}:{p}:{confusion[t, p]}" for t, p in np.argwhere(confusion).tolist())
    return {"height": truth.shape[0], "width": truth.shape[1], "mIoU": mean_iou(confusion), "PA": pixel_accuracy(confusion), "pairs": pairs}


class SemanticTally:
    """Sums the records' confusion matrices."""

    def __init__(self, classes: int) -> None:
        self.confusion = np.zeros((classes, classes + 1), np.int64)

    def add(self, record: Mapping[str, Any]) -> None:
        """Add one sample's record."""
        for pair in record["pairs"].split():
            truth, label, pixels = map(int, pair.split(":"))
            self.confusion[truth, label] += pixels

    def metrics(self) -> dict[str, float]:
        """Return the figures over all records so far; NaN before the first."""
        return {"mIoU": mean_iou(self.confusion), "PA": pixel_accuracy(self.confusion)}


def evaluate_semantic(
    dataset: NamedSet,
    build: Callable[[], Any],
    preset: SemanticPreset | str,
    mode: str = "text",
    *,
    options: RunOptions | None = None,
    progress: Progress | None = None,
    masks_to: Path | None = None,
) -> Report:
    """Measure a model's class maps on a data set.

    Args:
        dataset: Samples whose truth is (H, W) class ids with 255 ignored, as the data set numbers them.
        build: Makes the model; called once per worker.
        preset: A preset or its name; it is the report's protocol.
        mode: "text" gives the model the preset's words, "semantic" takes the classes it was trained on.
        options: How to run, and what the report says about the model.
        progress: Told about every sample.
        masks_to: Folder for the label maps, palette PNG, or None.

    Raises:
        OutputError: If the folder for masks cannot be made.
        ConfigError: If preset or mode is unknown.
    """
    fields = preset_named(preset) if isinstance(preset, str) else preset
    if mode not in LABELLERS:
        raise ConfigError(f"expected the mode to be one of {', '.join(LABELLERS)}, got {mode!r}")
    return evaluate_dataset(
        dataset,
        build,
        partial(measure_sample, preset=fields, mode=mode, masks_to=masks_to),
        partial(SemanticTally, len(fields.names)),
        task="semantic",
        protocol=fields.name,
        protocol_fields={**asdict(fields), "mode": mode, "ignored": IGNORED, "classes": len(fields.names)},
        options=with_mask_folder(options, masks_to),
        progress=progress,
    )


def ious_by_class(report: Report) -> dict[str, float]:
    """Return the IoU of each class over all samples of a report; NaN for classes that do not occur.

    Raises:
        ConfigError: If it is no report of a preset.
    """
    names = preset_named(report.protocol).names
    tally = SemanticTally(len(names))
    for record in report.samples:
        tally.add(record)
    return dict(zip(names, class_ious(tally.confusion).tolist(), strict=True))
