"""CVAT for images 1.1 and for video 1.1: one annotations.xml, with masks, polygons, boxes, ellipses, and tracks of them.

A mask stands as run lengths, background first, row by row inside its box, with commas between; CVAT cuts a run at no row's end. The shape with the higher
z_order lies on top.

Source: CVAT's documentation, "XML annotation format", version 1.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from xml.etree import ElementTree

import numpy as np

from fretsaw import masks
from fretsaw.errors import DataError, shown
from fretsaw.interchange import shapes
from fretsaw.interchange.classes import NO_CLASSES, ClassAttribute, ClassList, Gathered, ObjectClass, color_text
from fretsaw.interchange.json_files import Shapes
from fretsaw.interchange.names import class_name, picture_name
from fretsaw.interchange.pictures import AnnotatedPicture, Files, NamedBox, NamedMask, checked_size, required, told
from fretsaw.interchange.untrusted import LeftOut, boundary, field, parse_xml, whole_number

PATH = "annotations.xml"
OCCLUDED = "occluded"
WORDS = {"polyline": "line", "points": "point", "cuboid": "cuboid", "skeleton": "skeleton"}
"""What shapes that enclose nothing are called in a report."""


def write(pictures: Iterable[AnnotatedPicture]) -> Files:
    """Yield the one file that CVAT imports. Empty masks are left out."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    gathered, elements = Gathered(), []
    for number, picture in enumerate(pictures):
        attributes = {"id": str(number), "name": picture.file_name, "width": str(picture.size[1]), "height": str(picture.size[0])}
        element = ElementTree.Element("image", attributes)
        drawn = [(item, mask) for item in picture.objects if (mask := item.mask).any()]
        gathered.add(picture.classes, (item.name for item, _ in drawn))
        for order, (item, mask) in enumerate(drawn):
            shape = ElementTree.SubElement(element, "mask", _attributes(item, mask, order))
            for name, value in item.attributes.items():
                if name != OCCLUDED:
                    ElementTree.SubElement(shape, "attribute", {"name": name}).text = value
        elements.append(element)
    # The job's or project's labels stand in their task: CVAT's own exports and the tools that read them look for them there.
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    for name, value in (("name", "fretsaw"), ("size", str(len(elements))), ("mode", "annotation"), ("overlap", "0")):
        ElementTree.SubElement(task, name).text = value
    labels = ElementTree.SubElement(task, "labels")
    for entry in gathered.all().numbered():
        _label(ElementTree.SubElement(labels, "label"), entry)
    root.extend(elements)
    ElementTree.indent(root)
    yield PATH, ElementTree.tostring(root, "utf-8", xml_declaration=True)


def _label(label: ElementTree.Element, entry: ObjectClass) -> None:
    for name, value in (("name", entry.name), ("color", entry.color), ("type", "any")):
        if value:
            ElementTree.SubElement(label, name).text = value
    said = ElementTree.SubElement(label, "attributes")
    for attribute in entry.attributes:
        element = ElementTree.SubElement(said, "attribute")
        for name, value in (
            ("name", attribute.name),
            ("mutable", str(attribute.mutable)),
            ("input_type", attribute.kind),
            ("default_value", attribute.default),
            ("values", "\n".join(attribute.values)),
        ):
            ElementTree.SubElement(element, name).text = value


def read(files: Mapping[str, bytes]) -> list[AnnotatedPicture]:
    """Return the pictures of an annotations.xml; the frames of a video are called frame_000000.png and so on.

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
    classes = _classes(root)
    for number, image in enumerate(root.iter("image"), 1):
        picture = None
        with entries.row(f"image {number}", "an image"):
            placed = [(f"image {number}, {shape.tag} {k}", shape, shape.get("label")) for k, shape in enumerate(image, 1) if shape.tag != "tag"]
            size = checked_size(image.get("height"), image.get("width"), len(placed))
            picture = _picture(picture_name(image.get("name"), f"image {number}"), size, placed, classes, rows)
        if picture is not None:
            yield picture
    frames = list(_frames(root, rows))
    if frames:
        original = root.find(".//original_size")
        height, width = (None if original is None else original.findtext(side) for side in ("height", "width"))
        size = checked_size(height, width, max(len(row) for _, row in frames))
        for frame, placed in frames:
            yield _picture(picture_name(f"frame_{frame:06d}.png"), size, placed, classes, rows)


def _frames(root: ElementTree.Element, rows: LeftOut) -> Iterator[tuple[int, list[tuple[str, ElementTree.Element, str | None]]]]:
    """Yield the frames of a video in their order, each with its shapes; what is outside the frame is left away."""
    frames: dict[int, list[tuple[str, ElementTree.Element, str | None]]] = {}
    for number, track in enumerate(root.iter("track"), 1):
        for k, shape in enumerate(track, 1):
            place = f"track {number}, {shape.tag} {k}"
            try:
                frame = whole_number(shape.get("frame"), "the frame")
            except DataError as error:
                rows.lose(f"{place}: {error}")
                continue
            if shape.get("outside") != "1":
                frames.setdefault(frame, []).append((place, shape, track.get("label")))
    yield from sorted(frames.items())


def _picture(
    name: str, size: tuple[int, int], placed: list[tuple[str, ElementTree.Element, str | None]], classes: ClassList, rows: LeftOut
) -> AnnotatedPicture:
    items = Shapes()
    for place, shape, label in placed:
        with rows.row(place, "a mask, a polygon, an ellipse or a box", WORDS.get(shape.tag, shape.tag if shape.tag.isalpha() else "")):
            items.add(_item(shape, class_name(label, place), size, place), shapes.number(shape.get("z_order", 0), "z_order"))
    return AnnotatedPicture(name, size, items.masks, boxes=items.boxes, classes=classes)


def _classes(root: ElementTree.Element) -> ClassList:
    found: dict[str, ObjectClass] = {}
    meta = root.find("meta")
    for label in () if meta is None else meta.iter("label"):
        try:
            name = class_name(label.findtext("name"), "label")
        except DataError:  # every shape of this label is left out with a sentence
            continue
        attributes = []
        for said in label.iter("attribute"):
            called = (said.findtext("name") or "").strip()
            if called:
                values = tuple(value for value in (said.findtext("values") or "").split("\n") if value)
                default, mutable = said.findtext("default_value") or "", (said.findtext("mutable") or "").lower() == "true"
                attributes.append(ClassAttribute(called, said.findtext("input_type") or "text", values, default, mutable))
        found.setdefault(name, ObjectClass(name, None, color_text(label.findtext("color") or ""), label.findtext("parent") or "", tuple(attributes)))
    return ClassList(tuple(found.values())) if found else NO_CLASSES


def _attributes(item: NamedMask, mask: np.ndarray, order: int) -> dict[str, str]:
    x0, y0, x1, y1 = masks.mask_to_box(mask)
    # Run lengths by rows are run lengths by columns of the turned mask.
    counts = masks.uncompressed_rle(mask[y0:y1, x0:x1].T)["counts"]
    box = {"left": x0, "top": y0, "width": x1 - x0, "height": y1 - y0}
    texts = {key: str(value) for key, value in box.items()}
    occluded = "1" if item.attributes.get(OCCLUDED) in ("1", "true") else "0"
    return {"label": item.name, "source": "manual", "occluded": occluded, "rle": ", ".join(map(str, counts)), **texts, "z_order": str(order)}


def _item(shape: ElementTree.Element, name: str, size: tuple[int, int], place: str) -> NamedMask | NamedBox:
    said = {text: (row.text or "").strip() for row in shape.findall("attribute") if (text := row.get("name"))}
    if shape.get(OCCLUDED) == "1":
        said[OCCLUDED] = "1"
    if shape.tag == "box":
        x0, y0, x1, y1, turn = (shapes.number(shape.get(side, 0 if side == "rotation" else None), side) for side in ("xtl", "ytl", "xbr", "ybr", "rotation"))
        corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
        return NamedBox(name, shapes.box_around(shapes.rotated(corners, ((x0 + x1) / 2, (y0 + y1) / 2), turn), size), None, place, said)
    return NamedMask(name, _mask(shape.tag, dict(shape.attrib), size), attributes=said)


def _mask(tag: str, attributes: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    if tag == "polygon":
        points = [number for pair in field(attributes, "points", str).split(";") for number in pair.split(",")]
        return shapes.polygon(shapes.vertices(points), size)
    if tag == "ellipse":
        x, y, radius_x, radius_y, turn = (
            shapes.number(attributes.get(side, 0 if side == "rotation" else None), side) for side in ("cx", "cy", "rx", "ry", "rotation")
        )
        return shapes.ellipse(x, y, radius_x, radius_y, size, turn)
    if tag != "mask":
        raise DataError(f"expected a mask, a polygon, an ellipse or a box, got a {shown(tag, 40)[1:-1]}, which encloses nothing")
    x, y, width, height = (whole_number(attributes.get(name), name) for name in ("left", "top", "width", "height"))
    if min(x, y) < 0 or min(width, height) < 1 or x + width > size[1] or y + height > size[0]:
        raise DataError(f"expected a mask inside {size[1]} x {size[0]} pixels, got {width} x {height} at x = {x}, y = {y}")
    counts = list(map(int, field(attributes, "rle", str).split(",")))
    mask = np.zeros(size, bool)
    mask[y : y + height, x : x + width] = masks.decode_rle({"size": [width, height], "counts": counts}, (width, height)).T
    return mask
