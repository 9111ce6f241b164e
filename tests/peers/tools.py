"""Run by the Python of `.venv/.peers`, which has no Fretsaw: the tools' own loaders read what Fretsaw wrote, and write what Fretsaw shall read.

`python tools.py IN OUT [TORCH]`: below IN lies a folder for each format, with pictures; below OUT go `<tool>-<format>.npz`, one array for each object
(`<picture>|<name>|<number>`: its mask, or a box of four numbers), and folders that the tools write. TORCH is where torch lies, which ultralytics imports.
The last line is JSON: {"<tool>-<format>": "" or why it failed}.
"""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import json
import logging
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SOURCE, OUT = Path(sys.argv[1]), Path(sys.argv[2])
Found = dict[str, np.ndarray]


def key(picture: str, name: str, found: Found) -> str:
    return f"{Path(picture).stem}|{name}|{len(found)}"


def pycocotools(format: str) -> Found:
    from pycocotools.coco import COCO

    data, found = COCO(str(SOURCE / format / "annotations.json")), {}
    for annotation in data.loadAnns(data.getAnnIds()):
        [image], [category] = data.loadImgs(annotation["image_id"]), data.loadCats(annotation["category_id"])
        found[key(image["file_name"], category["name"], found)] = data.annToMask(annotation).astype(bool)
    return found


def supervision(format: str) -> Found:
    import supervision as sv

    folder = SOURCE / format
    pictures = str(folder / "images")
    if format.startswith("coco"):
        data = sv.DetectionDataset.from_coco(pictures, str(folder / "annotations.json"), force_masks=True)
    elif format.startswith("yolo"):
        data = sv.DetectionDataset.from_yolo(pictures, str(folder / "labels"), str(folder / "data.yaml"), force_masks=True)
    else:
        data = sv.DetectionDataset.from_pascal_voc(str(folder / "JPEGImages"), str(folder / "Annotations"))
    found: Found = {}
    for path, _, detections in data:
        for place in range(len(detections)):
            name = data.classes[int(detections.class_id[place])]
            masked = detections.mask is not None
            found[key(path, name, found)] = np.asarray(detections.mask[place] if masked else detections.xyxy[place])
    written = OUT / f"supervision-{format}"
    if format == "coco":
        data.as_coco(str(written / "images"), str(written / "train.json"))
    elif format == "yolo-painted":
        data.as_yolo(str(written / "images"), str(written / "labels"), str(written / "data.yaml"))
    elif format == "voc":
        data = sv.DetectionDataset.from_coco(str(SOURCE / "coco" / "images"), str(SOURCE / "coco" / "annotations.json"), force_masks=True)
        data.as_pascal_voc(str(written / "JPEGImages"), str(written / "Annotations"))
    return found


IMPORTERS = {"coco": "coco_instances", "coco-polygons": "coco_instances", "voc": "voc_instance_segmentation", "cvat": "cvat"}
EXPORTERS = {"coco": ("datumaro", "coco_instances", "voc_segmentation", "cvat", "yolo_ultralytics")}


def datumaro(format: str) -> Found:
    import datumaro as dm

    folder = SOURCE / format
    if format.startswith("coco"):  # Datumaro wants COCO's file in a folder called annotations
        content = (folder / "annotations.json").read_bytes()
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / "instances_train.json").write_bytes(content)
        (folder / "annotations.json").rename(folder / "elsewhere.json")
    data = dm.Dataset.import_from(str(folder / "annotations.xml" if format == "cvat" else folder), IMPORTERS[format])
    labels, found = data.categories()[dm.AnnotationType.label], {}
    for item in data:
        height, width = item.media_as(dm.Image).size if item.media is not None else (0, 0)
        for annotation in item.annotations:
            name = labels[annotation.label].name if annotation.label is not None else ""
            if isinstance(annotation, dm.Mask):
                found[key(item.id, name, found)] = np.asarray(annotation.image).astype(bool)
            elif isinstance(annotation, dm.Polygon) and height:
                found[key(item.id, name, found)] = _polygon(annotation.points, height, width)
    for exporter in EXPORTERS.get(format, ()):
        if exporter == "yolo_ultralytics":  # wants two subsets
            data.transform("random_split", splits=[("train", 0.5), ("val", 0.5)])
        data.export(str(OUT / f"datumaro-{exporter}"), exporter, save_media=True)
    return found


def _polygon(points: Any, height: int, width: int) -> np.ndarray:
    from pycocotools import mask

    return mask.decode(mask.merge(mask.frPyObjects([list(map(float, points))], height, width))).astype(bool)


def labelme(format: str) -> Found:
    from labelme import _label_file as label_file

    found: Found = {}
    for path in sorted((SOURCE / format).glob("*.json")):
        data = label_file.read_label_file(str(path))
        rows: list[Any] = list(data.shapes)
        for shape in rows:
            height, width = json.loads(path.read_text())["imageHeight"], json.loads(path.read_text())["imageWidth"]
            (x0, y0), (x1, y1) = (map(int, point) for point in shape["points"])
            mask = np.zeros((height, width), bool)
            mask[y0 : y1 + 1, x0 : x1 + 1] = shape["mask"]
            found[key(data.image_path, shape["label"], found)] = mask
        # A person turns the masks into polygons and saves the file again, with the picture inside.
        (OUT / "labelme-labelme").mkdir(exist_ok=True)
        square = [{"label": "square", "points": [[1.0, 2.0], [4.0, 2.0], [4.0, 5.0], [1.0, 5.0]], "shape_type": "polygon", "flags": {}, "group_id": None}]
        label_file.write_label_file(
            str(OUT / "labelme-labelme" / path.name), shapes=square, image_path=data.image_path, image_height=None, image_width=None, image_data=data.image_data
        )
    return found


def label_studio(format: str) -> Found:
    from label_studio_sdk.converter import brush

    found: Found = {}
    tasks = json.loads((SOURCE / format / "tasks.json").read_text())
    for task in tasks:
        for row in task["annotations"][0]["result"]:
            height, width = row["original_height"], row["original_width"]
            mask = brush.decode_rle(row["value"]["rle"]).reshape(height, width, 4)[..., 3] > 0
            found[key(task["data"]["image"], row["value"]["brushlabels"][0], found)] = mask
            row["value"]["rle"] = brush.mask2rle(mask.astype(np.uint8) * 255)
    (OUT / "label_studio-label-studio").mkdir(exist_ok=True)
    (OUT / "label_studio-label-studio" / "tasks.json").write_text(json.dumps(tasks))
    return found


def ultralytics(format: str) -> Found:
    """The check of a data set that comes before each training, the check of each label file, and the masks that a training would see."""
    _stand_in_for_torchvision()
    from ultralytics.data.utils import check_det_dataset, polygon2mask, verify_image_label

    data, found = check_det_dataset(str(SOURCE / format / "data.yaml"), autodownload=False), {}
    for picture in sorted(Path(data["train"]).iterdir()):
        label = SOURCE / format / "labels" / f"{picture.stem}.txt"
        _, boxes, shape, segments, _, missing, _, _, corrupt, message = verify_image_label(
            (str(picture), str(label), "", False, len(data["names"]), 0, 0, False)
        )
        if corrupt or missing or message:
            raise ValueError(f"{label.name}: {message or 'missing'}")
        for row, segment in zip(boxes, segments, strict=True):
            mask = polygon2mask(tuple(shape), [(segment * np.array(shape[::-1])).ravel()])
            found[key(str(picture), data["names"][int(row[0])], found)] = np.asarray(mask).astype(bool)
    return found


def _stand_in_for_torchvision() -> None:
    """Let ultralytics find a torchvision, which it asks for when it is imported and does not use to read labels."""
    version = importlib.metadata.version
    importlib.metadata.version = lambda name: "0.99.0" if name == "torchvision" else version(name)  # type: ignore[assignment]
    module = types.ModuleType("torchvision")
    module.__spec__ = importlib.machinery.ModuleSpec("torchvision", None)
    sys.modules["torchvision"] = module
    sys.path.append(sys.argv[3])


CHECKS: list[tuple[Callable[[str], Found], tuple[str, ...]]] = [
    (pycocotools, ("coco", "coco-polygons")),
    (supervision, ("coco", "coco-polygons", "yolo", "yolo-painted", "voc")),
    (labelme, ("labelme",)),
    (label_studio, ("label-studio",)),
    (ultralytics, ("yolo", "yolo-painted")),
    (datumaro, ("coco", "coco-polygons", "voc", "cvat")),
]


def main() -> None:
    """Run all checks; one that fails does not keep the others from running."""
    logging.disable(logging.WARNING)
    said: dict[str, str] = {}
    for check, formats in CHECKS:
        for format in formats:
            name = f"{check.__name__}-{format}"
            try:
                np.savez(OUT / f"{name}.npz", **check(format))
                said[name] = ""
            except BaseException as error:
                said[name] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
                traceback.print_exc()
    print(json.dumps(said))


main()
