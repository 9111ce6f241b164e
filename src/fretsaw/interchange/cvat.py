"""CVAT for images 1.1 with masks: one annotations.xml.

A mask stands as run lengths, background first, row by row inside its box, with commas between; CVAT cuts a run at no row's end.

Source: CVAT's documentation, "XML annotation format", version 1.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from xml.etree import ElementTree

import numpy as np

from fretsaw import masks
from fretsaw.errors import DataError, shown
from fretsaw.interchange.names import class_name, picture_name
from fretsaw.interchange.pictures import AnnotatedPicture, Files, NamedMask, checked_size, required, told
from fretsaw.interchange.untrusted import LeftOut, boundary, field, parse_xml, whole_number

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
            mask = item.mask
            if mask.any():
                names[item.name] = None
                ElementTree.SubElement(element, "mask", _attributes(item.name, mask, order))
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

    A picture or a shape that cannot be used, or encloses nothing, is left out with a sentence; see `AnnotatedPicture.left_out`.

    Raises:
        DataError: If the file is malformed, or nothing in it can be used.
    """
    return list(each(files))


def each(files: Mapping[str, bytes]) -> Iterator[AnnotatedPicture]:
    """`read`, one picture at a time."""
    expected = "CVAT's annotations"
    with boundary(PATH, expected):
        entries, rows = LeftOut(), LeftOut()
        root = parse_xml(required(files, PATH))
        if root.tag != "annotations":
            raise DataError(f"expected {expected}, got a file of <{shown(root.tag, 40)[1:-1]}>")
        yield from told(_pictures(root, entries, rows), entries, rows, expected)


def _pictures(root: ElementTree.Element, entries: LeftOut, rows: LeftOut) -> Iterator[AnnotatedPicture]:
    for number, image in enumerate(root.iter("image"), 1):
        picture = None
        with entries.row(f"image {number}", "an image"):
            picture = _picture(image, number, rows)
        if picture is not None:
            yield picture


def _picture(image: ElementTree.Element, number: int, rows: LeftOut) -> AnnotatedPicture:
    name = picture_name(image.get("name"), f"image {number}")
    shapes = [(f"image {number}, {shape.tag} {k}", shape) for k, shape in enumerate(image, 1) if shape.tag != "tag"]
    size = checked_size(image.get("height"), image.get("width"), len(shapes))
    objects = []
    for place, shape in shapes:
        with rows.row(place, "a mask or a polygon"):
            if shape.tag not in ("mask", "polygon"):
                raise DataError(f"expected a mask or a polygon, got a {shown(shape.tag, 40)[1:-1]}")
            objects.append(NamedMask(class_name(shape.get("label"), place), _mask(shape.tag, shape.attrib, size)))
    return AnnotatedPicture(name, size, tuple(objects))


def _attributes(name: str, mask: np.ndarray, order: int) -> dict[str, str]:
    x0, y0, x1, y1 = masks.mask_to_box(mask)
    # Run lengths by rows are run lengths by columns of the turned mask.
    counts = masks.uncompressed_rle(mask[y0:y1, x0:x1].T)["counts"]
    box = {"left": x0, "top": y0, "width": x1 - x0, "height": y1 - y0}
    texts = {key: str(value) for key, value in box.items()}
    return {"label": name, "source": "manual", "occluded": "0", "rle": ", ".join(map(str, counts)), **texts, "z_order": str(order)}


def _mask(tag: str, attributes: dict[str, str], size: tuple[int, int]) -> np.ndarray:
    if tag == "polygon":
        numbers = [number for pair in field(attributes, "points", str).split(";") for number in pair.split(",")]
        return masks.from_polygons([list(map(float, numbers))], size)
    x, y, width, height = (whole_number(attributes.get(name), name) for name in ("left", "top", "width", "height"))
    if min(x, y) < 0 or min(width, height) < 1 or x + width > size[1] or y + height > size[0]:
        raise DataError(f"expected a mask inside {size[1]} x {size[0]} pixels, got {width} x {height} at x = {x}, y = {y}")
    counts = list(map(int, field(attributes, "rle", str).split(",")))
    mask = np.zeros(size, bool)
    mask[y : y + height, x : x + width] = masks.decode_rle({"size": [width, height], "counts": counts}, (width, height)).T
    return mask
