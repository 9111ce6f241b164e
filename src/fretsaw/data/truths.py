"""What the pixels of a mask file mean, one rule per kind of data set. All are functions of a path, so that a sample carries its rule along.

Object truths are (H, W) int8: 1 object, 0 background, -1 ignored. Class maps are (H, W) int32 with `IGNORED` where nothing counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fretsaw.data import classes
from fretsaw.errors import DataError, ImageError, ShapeError
from fretsaw.images import read_labels, read_mask
from fretsaw.masks import checked_coco, decode_rle

IGNORED = 255
"""The class id that no metric counts."""


def any_channel(path: Path) -> np.ndarray:
    """Object where the maximum over the colour channels is above 0: Berkeley, DAVIS, COCO-MVal, HQSeg-44K, plain folders."""
    return (_mask(path) > 0).astype(np.int8)


def upper_half(path: Path) -> np.ndarray:
    """Object where the grey value is above 128 of 255: the saliency and camouflage sets, whose masks are anti-aliased or stored lossily.

    Source: PySODMetrics 1.6.2, which the protocol `pysod` follows.
    """
    values = _mask(path)
    top = 65535 if values.dtype == np.uint16 else 255
    return (values > 128 / 255 * top).astype(np.int8)


def grabcut(path: Path) -> np.ndarray:
    """GrabCut: 255 is the object, 128 the band that is not judged, 0 background."""
    values = _mask(path)
    truth = (values > 128).astype(np.int8)
    truth[values == 128] = -1
    return truth


def trimap(path: Path) -> np.ndarray:
    """Oxford-IIIT Pet: 1 is the animal, 2 background, 3 the edge that is not judged."""
    values = _labels(path)
    truth = (values == 1).astype(np.int8)
    truth[values == 3] = -1
    return truth


def voc_object(path: Path, index: int) -> np.ndarray:
    """One instance of a VOC `SegmentationObject` map; its void border (255) is ignored."""
    labels = _labels(path)
    truth = (labels == index).astype(np.int8)
    truth[labels == 255] = -1
    return truth


def class_ids(path: Path) -> np.ndarray:
    """Class ids as stored, in a palette or grey image; 255 is ignored. VOC's `SegmentationClass`: 0 background, 1 to 20 classes."""
    return _labels(path).astype(np.int32)


def ade20k_classes(path: Path) -> np.ndarray:
    """ADE20K's 150 classes: stored as 1 to 150, given as 0 to 149; 0, "other", is ignored."""
    labels = _labels(path).astype(np.int32)
    return np.where(labels == 0, IGNORED, labels - 1).astype(np.int32)


def cityscapes_classes(path: Path) -> np.ndarray:
    """Cityscapes' 19 evaluated classes out of a `labelIds` file; the others are ignored."""
    return classes.cityscapes_classes(_labels(path))


def coco_stuff_classes(path: Path) -> np.ndarray:
    """COCO-Stuff's 171 classes out of its pixel map; unlabelled pixels are ignored."""
    return classes.coco_stuff_classes(_labels(path))


def coco_object_classes(path: Path) -> np.ndarray:
    """COCO's 80 objects as 1 to 80 out of COCO-Stuff's pixel map; whatever is none of them is background, 0."""
    return classes.coco_object_classes(_labels(path))


def sbd_instances(path: Path) -> np.ndarray:
    """Return the (H, W) int32 instance map of one SBD file.

    Raises:
        DataError: If the file is no MATLAB file of SBD's instances.
    """
    from scipy.io import loadmat

    try:
        return np.asarray(loadmat(str(path))["GTinst"][0][0][0]).astype(np.int32)
    except Exception as error:  # loadmat raises whatever a broken file leads it to
        raise DataError(f"expected SBD's instances (GTinst) in {path}, got a file that cannot be read: {error}") from error


def sbd_object(path: Path, index: int) -> np.ndarray:
    """One instance of an SBD file."""
    return (sbd_instances(path) == index).astype(np.int8)


def coco_object(path: Path, segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """One annotation of a COCO file, drawn as pycocotools does.

    Args:
        path: The COCO file, for messages.
        segmentation: Polygons, or a run-length code.
        size: (height, width) of its image.

    Raises:
        DataError: If it is neither.
    """
    try:
        return decode_rle(checked_coco(segmentation, size), size).astype(np.int8)
    except ShapeError as error:
        raise DataError(f"expected polygons or a run-length code in {path}, got an annotation that cannot be drawn: {error}") from error


def _mask(path: Path) -> np.ndarray:
    try:
        return read_mask(path)
    except ImageError as error:
        raise DataError(f"mask {error}") from error


def _labels(path: Path) -> np.ndarray:
    try:
        return read_labels(path)
    except ImageError as error:
        raise DataError(f"mask {error}") from error
