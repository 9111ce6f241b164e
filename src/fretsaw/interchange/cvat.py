"""CVAT for images 1.1 with masks: one annotations.xml.

A mask stands as run lengths, background first, row by row inside its box, with commas between; CVAT cuts a run at no row's end.

Source: CVAT's documentation, "XML annotation format", version 1.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from xml.etree import ElementTree

import numpy as np

from fretsaw import masks
from fretsaw.errors import DataError
from fretsaw.interchange.pictures import AnnotatedPicture, Files, NamedMask, checked_size, required

PATH = "annotations.xml"


def write(pictures: Iterable[AnnotatedPicture]) -> Files:
    """Yield the one file that CVAT imports. Empty masks are left out."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    names: dict[str, None] = {}
    elements = []
    for number, picture in enumerate(pictures):
        attributes = {"id": str(number), "name": picture.file_name, "width": str(picture.size[1]), "height": str(picture.size[0])}
        element = ElementTree.Element("image", attributes)
        for order, item in enumerate(picture.objects):
            if item.mask.any():
                names[item.name] = None
                ElementTree.SubElement(element, "mask", _attributes(item, order))
        elements.append(element)
    labels = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "job"), "labels")
    for name in names:
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = name
        ElementTree.SubElement(label, "type").text = "mask"
    root.extend(elements)
    ElementTree.indent(root)
    yield PATH, ElementTree.tostring(root, "utf-8", xml_declaration=True)


def read(files: Mapping[str, bytes]) -> list[AnnotatedPicture]:
    """Return the pictures of an annotations.xml: their masks and polygons.

    Raises:
        DataError: If the file is malformed.
    """
    try:
        root = ElementTree.fromstring(required(files, PATH))
        found = []
        for image in root.iter("image"):
            shapes = [shape for shape in image if shape.tag in ("mask", "polygon")]
            size = checked_size(image.attrib["height"], image.attrib["width"], len(shapes))
            objects = tuple(NamedMask(shape.attrib["label"], _mask(shape.tag, shape.attrib, size)) for shape in shapes)
            found.append(AnnotatedPicture(image.attrib["name"], size, objects))
        return found
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise DataError(f"{PATH}: expected CVAT's annotations, got: {error!r:.120}") from error


def _attributes(item: NamedMask, order: int) -> dict[str, str]:
    x0, y0, x1, y1 = masks.mask_to_box(item.mask)
    # Run lengths by rows are run lengths by columns of the turned mask.
    counts = masks.uncompressed_rle(item.mask[y0:y1, x0:x1].T)["counts"]
    box = {"left": x0, "top": y0, "width": x1 - x0, "height": y1 - y0}
    texts = {name: str(value) for name, value in box.items()}
    return {"label": item.name, "source": "manual", "occluded": "0", "rle": ", ".join(map(str, counts)), **texts, "z_order": str(order)}


def _mask(tag: str, attributes: Mapping[str, str], size: tuple[int, int]) -> np.ndarray:
    if tag == "polygon":
        return masks.from_polygons([[float(number) for pair in attributes["points"].split(";") for number in pair.split(",")]], size)
    x, y, width, height = (int(attributes[name]) for name in ("left", "top", "width", "height"))
    part = masks.decode_rle({"size": [width, height], "counts": [int(count) for count in attributes["rle"].split(",")]}).T
    mask = np.zeros(size, bool)
    if min(x, y) < 0 or mask[y : y + height, x : x + width].shape != part.shape:
        raise DataError(f"{attributes['label']}: expected a mask inside {size}, got {part.shape} at {(x, y)}")
    mask[y : y + height, x : x + width] = part
    return mask
