"""Pascal VOC: an XML file a picture, and two palette PNGs in which every pixel names its class and its object.

A pixel belongs to one object only: where masks overlap, the later one stays, and the earlier loses those pixels.

Source: The PASCAL Visual Object Classes Challenge 2012, development kit, sections 3 and 9.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from fretsaw import images, masks
from fretsaw.errors import DataError, ImageError, shown
from fretsaw.interchange.names import class_name, picture_name
from fretsaw.interchange.pictures import AnnotatedPicture, Files, NamedMask, checked_size, required, told
from fretsaw.interchange.untrusted import LeftOut, boundary, parse_xml

MOST_OBJECTS = 254
"""A pixel of a palette image holds 0 for the background, 255 for "do not care", and the numbers between."""


def write(pictures: Iterable[AnnotatedPicture]) -> Files:
    """Yield Annotations/<stem>.xml, SegmentationObject/<stem>.png and SegmentationClass/<stem>.png for each picture, and classes.txt.

    Raises:
        DataError: If a picture has more objects, or all have more names, than a palette image can tell apart.
    """
    classes: dict[str, int] = {}
    for picture in pictures:
        for item in picture.objects:
            classes.setdefault(item.name, len(classes) + 1)
        if max(len(picture.objects), len(classes)) > MOST_OBJECTS:
            raise DataError(f"{picture.file_name}: expected at most {MOST_OBJECTS} objects and names for VOC, got {len(picture.objects)} and {len(classes)}")
        by_object, by_class = np.zeros(picture.size, np.uint8), np.zeros(picture.size, np.uint8)
        for number, item in enumerate(picture.objects, 1):
            mask = item.mask
            by_object[mask], by_class[mask] = number, classes[item.name]
        yield f"Annotations/{picture.stem}.xml", _xml(picture)
        yield f"SegmentationObject/{picture.stem}.png", _palette_png(by_object)
        yield f"SegmentationClass/{picture.stem}.png", _palette_png(by_class)
    yield "classes.txt", "".join(f"{name}\n" for name in classes).encode()


def read(files: Mapping[str, bytes]) -> list[AnnotatedPicture]:
    """Return the pictures with an XML file among the files; the n-th object of the XML is the pixels of value n in SegmentationObject.

    An object whose name cannot be used is left out with a sentence; see `AnnotatedPicture.left_out`.

    Raises:
        DataError: If an XML file is malformed, its PNG missing, or none of its objects can be used.
    """
    paths = sorted(path for path in files if path.startswith("Annotations/") and path.endswith(".xml"))
    return [picture for path in paths for picture in _each(path, files)]


def _each(path: str, files: Mapping[str, bytes]) -> Iterator[AnnotatedPicture]:
    expected = "VOC's annotation"
    with boundary(path, expected):
        rows = LeftOut()
        root = parse_xml(files[path])
        if root.tag != "annotation":
            raise DataError(f"expected {expected}, got a file of <{shown(root.tag, 40)[1:-1]}>")
        yield from told([_picture(path.removeprefix("Annotations/").removesuffix(".xml"), root, files, rows)], LeftOut(), rows, expected)


def _picture(stem: str, root: ElementTree.Element, files: Mapping[str, bytes], rows: LeftOut) -> AnnotatedPicture:
    place = f"SegmentationObject/{stem}.png"
    try:
        labels = images.read_labels(required(files, place))
    except ImageError as error:
        raise DataError(f"{place}: {error}") from error
    elements = list(root.iter("object"))
    size = checked_size(labels.shape[0], labels.shape[1], len(elements))
    objects = []
    for number, element in enumerate(elements, 1):
        with rows.row(f"object {number}", "a name"):
            if number > MOST_OBJECTS:
                raise DataError(f"expected at most {MOST_OBJECTS} objects, got more")
            objects.append(NamedMask(class_name(element.findtext("name"), f"object {number}"), labels == number))
    return AnnotatedPicture(picture_name(root.findtext("filename", stem)), size, tuple(objects), stem)


def _xml(picture: AnnotatedPicture) -> bytes:
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = picture.file_name
    size = ElementTree.SubElement(root, "size")
    for name, value in (("width", picture.size[1]), ("height", picture.size[0]), ("depth", 3)):
        ElementTree.SubElement(size, name).text = str(value)
    ElementTree.SubElement(root, "segmented").text = "1"
    for item in picture.objects:
        element = ElementTree.SubElement(root, "object")
        for name, value in (("name", item.name), ("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):
            ElementTree.SubElement(element, name).text = value
        x0, y0, x1, y1 = masks.mask_to_box(item.mask)
        box = ElementTree.SubElement(element, "bndbox")
        # VOC counts pixels from 1 and includes the last one.
        for name, value in (("xmin", x0 + 1), ("ymin", y0 + 1), ("xmax", x1), ("ymax", y1)):
            ElementTree.SubElement(box, name).text = str(value)
    ElementTree.indent(root)
    return ElementTree.tostring(root, "utf-8")


def _palette_png(values: np.ndarray) -> bytes:
    picture = Image.fromarray(values).convert("L")
    picture.putpalette(_palette())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _palette() -> list[int]:
    """Return VOC's colours: bits 0, 3, 6 of a number are the high bits of red, bits 1, 4, 7 of green, bits 2, 5 of blue, the lowest first."""
    colors = []
    for number in range(256):
        for channel in range(3):
            colors.append(sum((number >> (3 * place + channel) & 1) << (7 - place) for place in range(3)))
    return colors
