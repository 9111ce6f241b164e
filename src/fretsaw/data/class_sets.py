"""The image sets with class maps that papers measure on, as they lie on disk when unpacked.

Each loader checks the layout first and names the folder that is missing; `fretsaw.data.datasets.open_dataset` takes `CLASS_SETS` as its table.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fretsaw.data import truths
from fretsaw.data.datasets import Loader
from fretsaw.data.layouts import IMAGE_FOLDERS, LABEL_FOLDERS, counted, pair, read_list, require_file, require_folder
from fretsaw.data.samples import Dataset, Reader, Sample


def voc(root: Path) -> Dataset:
    """PASCAL VOC 2012, validation part of the segmentation task: 1449 class maps."""
    images, masks = require_folder(root, "JPEGImages"), require_folder(root, "SegmentationClass")
    listed = read_list(require_file(root, "ImageSets/Segmentation/val.txt"))
    return counted("voc", root, [Sample(stem, images / f"{stem}.jpg", masks / f"{stem}.png", truths.class_ids) for stem in listed], 1449)


def pascal_context(root: Path) -> Dataset:
    """PASCAL Context, validation part: 5104 class maps (VOC 2010's folder with the 59 classes as `SegmentationClassContext`), 0 is whatever is none of them."""
    images, masks = require_folder(root, "JPEGImages"), require_folder(root, "SegmentationClassContext")
    listed = read_list(require_file(root, "ImageSets/SegmentationContext/val.txt"))
    return counted("context", root, [Sample(stem, images / f"{stem}.jpg", masks / f"{stem}.png", truths.class_ids) for stem in listed], 5104)


def ade20k(root: Path) -> Dataset:
    """ADE20K (the 150 classes of the scene parsing challenge), validation part: 2000 images."""
    images, masks = require_folder(root, "images/validation"), require_folder(root, "annotations/validation")
    return counted("ade20k", root, pair(images, masks, truths.ade20k_classes), 2000)


def cityscapes(root: Path) -> Dataset:
    """Cityscapes, validation part: 500 street scenes, finely annotated; one folder a city."""
    images, masks = require_folder(root, "leftImg8bit/val"), require_folder(root, "gtFine/val")
    samples = []
    for image in sorted(images.glob("*/*_leftImg8bit.png")):
        stem = image.stem.removesuffix("_leftImg8bit")
        samples.append(Sample(stem, image, masks / image.parent.name / f"{stem}_gtFine_labelIds.png", truths.cityscapes_classes))
    return counted("cityscapes", root, samples, 500)


def coco_maps(root: Path, name: str, reader: Reader) -> Dataset:
    """COCO's 5000 validation images of 2017 with COCO-Stuff's pixel maps, in `annotations/val2017` or `stuffthingmaps/val2017`."""
    images = require_folder(root, "images/val2017", "val2017")
    masks = require_folder(root, "annotations/val2017", "stuffthingmaps/val2017", "stuffthingmaps_trainval2017/val2017")
    return counted(name, root, pair(images, masks, reader), 5000)


def classes_folder(root: Path) -> Dataset:
    """A folder of one's own with class maps: `images` and `labels` (or `annotations`, `masks`), ids as stored in grey or palette files, 255 ignored."""
    images, masks = require_folder(root, *IMAGE_FOLDERS), require_folder(root, *LABEL_FOLDERS)
    return counted(root.resolve().name, root, pair(images, masks, truths.class_ids), None)


CLASS_SETS: dict[str, Loader] = {
    "voc": voc,
    "context": pascal_context,
    "ade20k": ade20k,
    "cityscapes": cityscapes,
    "coco-stuff": partial(coco_maps, name="coco-stuff", reader=truths.coco_stuff_classes),
    "coco-object": partial(coco_maps, name="coco-object", reader=truths.coco_object_classes),
    "folder": classes_folder,
}
"""Data sets whose truth is a class map, by name: for semantic segmentation."""
