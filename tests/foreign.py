"""Data sets as other tools write them, made of pictures with masks: one function a tool's layout. None of it is any tool's own file.

Each takes pictures and a folder, and writes annotations into the folder, and plain pictures beside them where the layout has these.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from fretsaw import masks
from fretsaw.images import encode_image, write_bytes, write_image
from fretsaw.interchange.classes import voc_color
from fretsaw.interchange.pictures import AnnotatedPicture
from fretsaw.interchange.rings import joined_ring, part_rings

Pictures = Sequence[AnnotatedPicture]


def names_of(pictures: Pictures) -> list[str]:
    return sorted({item.name for picture in pictures for item in picture.objects})


def put_pictures(pictures: Pictures, folder: Path) -> None:
    for picture in pictures:
        name = picture.file_name if "." in picture.file_name else f"{picture.file_name}.png"
        write_image(folder / name, np.zeros((*picture.size, 3), np.uint8))


def put_json(path: Path, content: Any) -> None:
    write_bytes(path, json.dumps(content).encode())


def flat(picture: AnnotatedPicture, number: int) -> list[float]:
    return joined_ring(picture.objects[number].mask).ravel().astype(float).tolist()


def coco_results(pictures: Pictures, folder: Path) -> None:
    names, rows = names_of(pictures), []
    for image_id, picture in enumerate(pictures, 1):
        for item in picture.objects:
            rows.append({"image_id": image_id, "category_id": names.index(item.name) + 1, "segmentation": masks.encode_rle(item.mask), "score": 0.5})
    put_json(folder / "segm.json", rows)


def coco_text_ids(pictures: Pictures, folder: Path) -> None:
    """Ids as text, sizes as fractions, polygons; a category that no object has."""
    names = names_of(pictures)
    rows = []
    for image_id, picture in enumerate(pictures, 1):
        for item in picture.objects:
            polygons = [ring.ravel().astype(float).tolist() for ring in part_rings(item.mask)]
            rows.append({"image_id": f"{image_id}", "category_id": float(names.index(item.name)), "segmentation": polygons, "bbox": [0, 0, 1, 1]})
    images = [{"id": k, "file_name": row.file_name, "height": float(row.size[0]), "width": float(row.size[1])} for k, row in enumerate(pictures, 1)]
    categories = [{"id": k, "name": name} for k, name in enumerate([*names, "unused"])]
    put_json(folder / "train.json", {"images": images, "annotations": rows, "categories": categories})


def sa1b(pictures: Pictures, folder: Path) -> None:
    for number, picture in enumerate(pictures, 1):
        image = {"image_id": number, "file_name": picture.file_name, "height": picture.size[0], "width": picture.size[1]}
        rows = [
            {"id": k, "segmentation": masks.encode_rle(item.mask), "bbox": [0, 0, 1, 1], "area": 1, "predicted_iou": 0.9, "stability_score": 0.95}
            for k, item in enumerate(picture.objects)
        ]
        put_json(folder / f"sa_{number}.json", {"image": image, "annotations": rows})


def datumaro(pictures: Pictures, folder: Path) -> None:
    names, items = names_of(pictures), []
    for picture in pictures:
        rows: list[dict[str, Any]] = []
        for k, item in enumerate(picture.objects):
            shape = {"type": "mask", "rle": masks.encode_rle(item.mask)} if k % 2 else {"type": "polygon", "points": flat(picture, k)}
            rows.append({"id": k, "attributes": {"occluded": False}, "group": 0, "label_id": names.index(item.name), "z_order": k, **shape})
        image = {"path": picture.file_name, "size": list(picture.size)}
        items.append({"id": picture.stem, "annotations": [*rows, {"type": "caption", "caption": "x"}], "image": image})
    labels = [{"name": name, "parent": "", "attributes": []} for name in names]
    put_json(folder / "annotations" / "train.json", {"info": {}, "categories": {"label": {"labels": labels}}, "items": items})


def isat(pictures: Pictures, folder: Path) -> None:
    for number, picture in enumerate(pictures):
        rows, height, width = [], *picture.size
        for group, item in enumerate(picture.objects, 1):
            for ring in part_rings(item.mask):
                rows.append({"category": item.name, "group": group, "segmentation": ring.tolist(), "layer": float(group), "note": ""})
        info = {"description": "ISAT", "folder": "x", "name": picture.file_name, "width": width, "height": height, "depth": 3, "note": ""}
        put_json(folder / f"{number}.json", {"info": info, "objects": rows})


def via(pictures: Pictures, folder: Path) -> None:
    put_pictures(pictures, folder)
    content = {}
    for picture in pictures:
        regions = []
        for item in picture.objects:
            ring = joined_ring(item.mask)
            shape = {"name": "polygon", "all_points_x": ring[:, 0].tolist(), "all_points_y": ring[:, 1].tolist()}
            regions.append({"shape_attributes": shape, "region_attributes": {"name": item.name}})
        content[f"{picture.file_name}1"] = {"filename": picture.file_name, "size": 1, "regions": regions, "file_attributes": {}}
    put_json(folder / "via_project.json", {"_via_settings": {}, "_via_img_metadata": content, "_via_attributes": {"region": {}, "file": {}}})


def supervisely(pictures: Pictures, folder: Path) -> None:
    classes = [{"title": name, "shape": "any", "color": "#FF0000", "id": 7 + k} for k, name in enumerate(names_of(pictures))]
    put_json(folder / "meta.json", {"classes": classes, "tags": []})
    for picture in pictures:
        rows = []
        for item in picture.objects:
            x0, y0, x1, y1 = masks.mask_to_box(item.mask)
            image = Image.fromarray(item.mask[y0:y1, x0:x1].astype(np.uint8)).convert("L")
            image.putpalette([0, 0, 0, 255, 255, 255])
            buffer = io.BytesIO()
            image.save(buffer, "PNG", transparency=0)
            data = base64.b64encode(zlib.compress(buffer.getvalue())).decode()
            rows.append({"classTitle": item.name, "geometryType": "bitmap", "bitmap": {"data": data, "origin": [x0, y0]}})
        size = {"height": picture.size[0], "width": picture.size[1]}
        put_json(folder / "ds" / "ann" / f"{picture.file_name}.json", {"description": "", "tags": [], "size": size, "objects": rows})


def qupath(pictures: Pictures, folder: Path) -> None:
    put_pictures(pictures, folder)
    for picture in pictures:
        features = []
        for item in picture.objects:
            parts = [[[*ring.tolist(), ring[0].tolist()]] for ring in part_rings(item.mask)]
            geometry = {"type": "Polygon", "coordinates": parts[0]} if len(parts) == 1 else {"type": "MultiPolygon", "coordinates": parts}
            said = {"objectType": "annotation", "classification": {"name": item.name, "color": [200, 0, 10]}}
            features.append({"type": "Feature", "id": "x", "geometry": geometry, "properties": said})
        put_json(folder / f"{picture.stem}.geojson", {"type": "FeatureCollection", "features": features})


def cvat_polygons(pictures: Pictures, folder: Path) -> None:
    root = ElementTree.Element("annotations")
    for number, picture in enumerate(pictures):
        sides = {"width": str(picture.size[1]), "height": str(picture.size[0])}
        image = ElementTree.SubElement(root, "image", {"id": str(number), "name": picture.file_name, **sides})
        for k, item in reversed(list(enumerate(picture.objects))):  # what lies on top is told by z_order, not by the order of rows
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in joined_ring(item.mask).tolist())
            ElementTree.SubElement(image, "polygon", {"label": item.name, "points": points, "z_order": str(k)})
    write_bytes(folder / "annotations.xml", ElementTree.tostring(root))


def cvat_video(pictures: Pictures, folder: Path) -> None:
    """Tracks of one frame each; a video has one size."""
    root = ElementTree.Element("annotations")
    size = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "original_size")
    ElementTree.SubElement(size, "width").text, ElementTree.SubElement(size, "height").text = str(pictures[0].size[1]), str(pictures[0].size[0])
    for frame, picture in enumerate(pictures):
        for k, item in enumerate(picture.objects):
            track = ElementTree.SubElement(root, "track", {"id": str(k), "label": item.name})
            points = ";".join(f"{x},{y}" for x, y in joined_ring(item.mask).tolist())
            for at, outside in ((frame, "0"), (frame + 1, "1")):
                ElementTree.SubElement(track, "polygon", {"frame": str(at), "outside": outside, "keyframe": "1", "points": points, "z_order": str(k)})
    write_bytes(folder / "annotations.xml", ElementTree.tostring(root))


def label_studio_polygons(pictures: Pictures, folder: Path) -> None:
    tasks = []
    for picture in pictures:
        rows, sides = [], {"original_width": picture.size[1], "original_height": picture.size[0]}
        for k, item in enumerate(picture.objects):
            points = (joined_ring(item.mask) * 100 / np.array(picture.size[::-1])).tolist()
            rows.append({"id": f"{k}", "type": "polygonlabels", **sides, "value": {"points": points, "polygonlabels": [item.name]}})
        tasks.append({"id": 1, "data": {"photo": picture.file_name}, "annotations": [{"result": rows, "was_cancelled": False}], "predictions": []})
    put_json(folder / "export.json", tasks)


def labelme_polygons(pictures: Pictures, folder: Path) -> None:
    for picture in pictures:
        rows = []
        for group, item in enumerate(picture.objects):
            for ring in part_rings(item.mask):
                rows.append({"label": item.name, "points": ring.astype(float).tolist(), "group_id": group, "shape_type": "polygon", "flags": {}})
        content = {"version": "5.0.1", "flags": {}, "shapes": rows, "imagePath": picture.file_name.rpartition("/")[2], "imageData": None}
        put_json(folder / f"{picture.stem}.json", content | {"imageHeight": picture.size[0], "imageWidth": picture.size[1]})


def yolo_lines(picture: AnnotatedPicture, names: Sequence[str]) -> str:
    lines = []
    for k, item in enumerate(picture.objects):
        ring = np.array(flat(picture, k)).reshape(-1, 2) / np.array(picture.size[::-1])
        lines.append(f"{names.index(item.name)} {' '.join(f'{value:.6f}' for value in ring.ravel())}\n")
    return "".join(lines)


def roboflow(pictures: Pictures, folder: Path) -> None:
    names = names_of(pictures)
    for picture, part in zip(pictures, ("train", "valid", "test") * len(pictures), strict=False):
        last = picture.file_name.rpartition("/")[2]
        write_image(folder / part / "images" / last, np.zeros((*picture.size, 3), np.uint8))
        write_bytes(folder / part / "labels" / f"{last.rpartition('.')[0]}.txt", yolo_lines(picture, names).encode())
    listed = ", ".join(json.dumps(name, ensure_ascii=False) for name in names)
    text = f"# made by hand\ntrain: ../train/images\nval: ../valid/images\n\nnc: {len(names)}\nnames: [{listed}]  # in order\n"
    write_bytes(folder / "data.yaml", text.encode())


def yolo_predictions(pictures: Pictures, folder: Path) -> None:
    """labelImg's classes.txt; a confidence behind each ring."""
    names = names_of(pictures)
    for picture in pictures:
        write_image(folder / picture.file_name, np.zeros((*picture.size, 3), np.uint8))
        text = yolo_lines(picture, names).replace("\n", " 0.75\n")
        write_bytes(folder / f"{picture.stem}.txt", text.encode())
    write_bytes(folder / "classes.txt", "".join(f"{name}\n" for name in names).encode())


def darknet(pictures: Pictures, folder: Path) -> None:
    """CVAT's YOLO 1.1: obj.names, obj.data, train.txt, and labels beside pictures."""
    names = names_of(pictures)
    for picture in pictures:
        write_image(folder / "obj_train_data" / picture.file_name, np.zeros((*picture.size, 3), np.uint8))
        write_bytes(folder / "obj_train_data" / f"{picture.stem}.txt", yolo_lines(picture, names).encode())
    write_bytes(folder / "obj.names", "".join(f"{name}\n" for name in names).encode())
    write_bytes(folder / "obj.data", b"classes = 4\ntrain = data/train.txt\nnames = data/obj.names\n")
    write_bytes(folder / "train.txt", "".join(f"data/obj_train_data/{picture.file_name}\n" for picture in pictures).encode())


def labels_of(picture: AnnotatedPicture, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    by_object, by_class = np.zeros(picture.size, np.uint8), np.zeros(picture.size, np.uint8)
    for number, item in enumerate(picture.objects, 1):
        by_object[item.mask], by_class[item.mask] = number, names.index(item.name) + 1
    return by_object, by_class


def in_color(labels: np.ndarray) -> bytes:
    return encode_image(np.array([voc_color(number) for number in range(256)], np.uint8)[labels], ".png")


def cvat_masks(pictures: Pictures, folder: Path) -> None:
    """CVAT's "Segmentation mask 1.1": labelmap.txt and PNGs in full colour, no XML."""
    names = names_of(pictures)
    for picture in pictures:
        by_object, by_class = labels_of(picture, names)
        write_image(folder / "JPEGImages" / f"{picture.stem}.jpg", np.zeros((*picture.size, 3), np.uint8))
        write_bytes(folder / "SegmentationObject" / f"{picture.stem}.png", in_color(by_object))
        write_bytes(folder / "SegmentationClass" / f"{picture.stem}.png", in_color(by_class))
    lines = [f"{name}:{','.join(map(str, voc_color(k)))}::" for k, name in enumerate(names, 1)]
    write_bytes(folder / "labelmap.txt", "\n".join(["# label:color_rgb:parts:actions", "background:0,0,0::", *lines]).encode())
    write_bytes(folder / "ImageSets" / "Segmentation" / "default.txt", "".join(f"{picture.stem}\n" for picture in pictures).encode())


def labelme2voc(pictures: Pictures, folder: Path) -> None:
    names = names_of(pictures)
    for picture in pictures:
        by_object, by_class = labels_of(picture, names)
        write_image(folder / "JPEGImages" / f"{picture.stem}.jpg", np.zeros((*picture.size, 3), np.uint8))
        for name, labels in (("SegmentationObjectPNG", by_object), ("SegmentationClassPNG", by_class)):
            image = Image.fromarray(labels).convert("L")
            image.putpalette([part for number in range(256) for part in voc_color(number)])
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            write_bytes(folder / name / f"{picture.stem}.png", buffer.getvalue())
    write_bytes(folder / "class_names.txt", "\n".join(["_background_", *names]).encode())


def polygon_xml(picture: AnnotatedPicture, boxes: bool = False) -> bytes:
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = picture.file_name
    size = ElementTree.SubElement(root, "size")
    ElementTree.SubElement(size, "width").text, ElementTree.SubElement(size, "height").text = str(picture.size[1]), str(picture.size[0])
    for item in picture.objects:
        element = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(element, "name").text = item.name
        x0, y0, x1, y1 = masks.mask_to_box(item.mask)
        box = ElementTree.SubElement(element, "bndbox")
        for name, value in (("xmin", x0 + 1), ("ymin", y0 + 1), ("xmax", x1), ("ymax", y1)):
            ElementTree.SubElement(box, name).text = str(value)
        polygon = ElementTree.SubElement(element, "polygon") if not boxes else None
        for k, (x, y) in enumerate(joined_ring(item.mask).tolist() if polygon is not None else (), 1):
            assert polygon is not None
            ElementTree.SubElement(polygon, f"x{k}").text, ElementTree.SubElement(polygon, f"y{k}").text = str(x), str(y)
    return ElementTree.tostring(root)


def supervision_voc(pictures: Pictures, folder: Path) -> None:
    for picture in pictures:
        write_bytes(folder / "annotations" / f"{picture.stem}.xml", polygon_xml(picture))


LAYOUTS: dict[str, Callable[[Pictures, Path], None]] = {
    "coco-results": coco_results,
    "coco (ids as text)": coco_text_ids,
    "sa1b": sa1b,
    "datumaro": datumaro,
    "isat": isat,
    "via": via,
    "supervisely": supervisely,
    "geojson (QuPath)": qupath,
    "cvat (polygons)": cvat_polygons,
    "cvat (video)": cvat_video,
    "label-studio (polygons)": label_studio_polygons,
    "labelme (polygons)": labelme_polygons,
    "yolo (Roboflow)": roboflow,
    "yolo (predictions)": yolo_predictions,
    "yolo (darknet)": darknet,
    "voc (CVAT's masks)": cvat_masks,
    "voc (labelme2voc)": labelme2voc,
    "voc (Supervision)": supervision_voc,
}
NAMELESS = ("sa1b", "coco-results")
"""Layouts that have no names of classes."""
RENAMING = ("coco-results", "cvat (video)", "voc (CVAT's masks)", "voc (labelme2voc)", "yolo (Roboflow)", "yolo (darknet)", "supervisely")
"""Layouts that call pictures otherwise, or give them another suffix or folder."""
