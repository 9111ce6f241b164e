"""Pascal VOC and its relatives: an XML file a picture, and PNGs in which every pixel names its class (SegmentationClass) and its object (SegmentationObject).

A pixel belongs to one object only: where masks overlap, the later one stays, and the earlier loses those pixels. Read are VOC2012 itself, Datumaro's and
Supervision's VOC, CVAT's "Segmentation mask 1.1" and labelme's labelme2voc, which have no XML, and labelImg's XML, which has boxes alone.

Colours mean numbers: by labelmap.txt where there is one (label:red,green,blue:parts:actions), else by VOC's palette. PNGs with a palette and PNGs in full
colour are read alike.

Source: The PASCAL Visual Object Classes Challenge 2012, development kit, sections 3 and 9; the documentation of the tools named.
"""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from fretsaw import images, masks
from fretsaw.errors import DataError, ImageError, shown
from fretsaw.interchange import shapes
from fretsaw.interchange.classes import NO_CLASSES, ClassList, Gathered, ObjectClass, color_numbers, color_text, voc_color
from fretsaw.interchange.coco import UNNAMED
from fretsaw.interchange.json_files import PictureSizes, no_pictures
from fretsaw.interchange.names import class_name, picture_name
from fretsaw.interchange.pictures import AnnotatedPicture, Files, NamedBox, NamedMask, checked_size, told
from fretsaw.interchange.untrusted import LeftOut, boundary, parse_xml
from fretsaw.outputs import IMAGE_SUFFIXES

MOST_OBJECTS = 254
"""A pixel of a palette image holds 0 for the background, 255 for "do not care", and the numbers between."""
IGNORED = 255
BY_OBJECT, BY_CLASS = ("SegmentationObject", "SegmentationObjectPNG"), ("SegmentationClass", "SegmentationClassPNG")
LABEL_MAP, CLASS_NAMES = "labelmap.txt", ("class_names.txt", "classes.txt")
BACKGROUND = ("background", "_background_", "__background__", "__ignore__")
"""What lists of names call the pixels of no class."""
WAITING = 2**23


def write(pictures: Iterable[AnnotatedPicture]) -> Files:
    """Yield Annotations/<stem>.xml, SegmentationObject/<stem>.png and SegmentationClass/<stem>.png for each picture; labelmap.txt and classes.txt with the
    classes, and ImageSets/Main/default.txt and ImageSets/Segmentation/default.txt with the stems.

    A class's number, the value of its pixels, is its id where the pictures' class lists tell ids of 1 .. 254 for all, else its place in the order of the ids.
    So the PNGs of classes wait until all pictures are there, in a temporary file.

    Raises:
        DataError: If a picture has more objects, or all have more names, than a palette image can tell apart.
    """
    gathered, stems, rows = Gathered(), [], []
    with tempfile.SpooledTemporaryFile(WAITING) as waiting:
        for picture in pictures:
            gathered.add(picture.classes, (item.name for item in picture.objects))
            if max(len(picture.objects), len(gathered.places)) > MOST_OBJECTS:
                raise DataError(
                    f"{picture.file_name}: expected at most {MOST_OBJECTS} objects and names for VOC, got {len(picture.objects)} and {len(gathered.places)}"
                )
            by_object, by_place = np.zeros(picture.size, np.uint8), np.zeros(picture.size, np.uint8)
            for number, item in enumerate(picture.objects, 1):
                mask = item.mask
                by_object[mask], by_place[mask] = number, gathered.place(item.name) + 1
            yield f"Annotations/{picture.stem}.xml", _xml(picture)
            yield f"SegmentationObject/{picture.stem}.png", _palette_png(by_object, _palette())
            content = _palette_png(by_place, _palette())
            stems.append(picture.stem)
            rows.append(len(content))
            waiting.write(content)
        classes = numbered(gathered)
        numbers, ids = np.zeros(256, np.uint8), classes.ids()
        numbers[1 : len(gathered.places) + 1] = [ids[name] for name in gathered.places]
        colors = {entry.id or 0: color_numbers(entry.color) if entry.color else voc_color(entry.id or 0) for entry in classes}
        waiting.seek(0)
        for stem, length in zip(stems, rows, strict=True):
            yield f"SegmentationClass/{stem}.png", _palette_png(numbers[np.asarray(Image.open(io.BytesIO(waiting.read(length))))], _palette(colors))
    listed = "".join(f"{stem}\n" for stem in stems).encode()
    yield "ImageSets/Main/default.txt", listed
    yield "ImageSets/Segmentation/default.txt", listed
    by_number = {entry.id or 0: entry.name for entry in classes}
    lines = [f"{_map_name(by_number[number])}:{','.join(map(str, colors[number]))}::\n" for number in sorted(by_number)]
    yield LABEL_MAP, "".join(["# label:color_rgb:parts:actions\n", "background:0,0,0::\n", *lines]).encode()
    yield "classes.txt", "".join(f"{by_number[number]}\n" for number in sorted(by_number)).encode()


def numbered(gathered: Gathered) -> ClassList:
    """Return the classes with numbers of 1 .. 254, which a palette image can hold: their ids if these are such and their colours differ, else without gaps.

    Raises:
        DataError: If there are too many.
    """
    classes = gathered.all().numbered()
    if len(classes) > MOST_OBJECTS:  # of a long list, those that occur
        names = set(gathered.places)
        classes = ClassList(tuple(entry for entry in classes if entry.name in names))
    if not all(1 <= (entry.id or 0) <= MOST_OBJECTS for entry in classes):
        classes = classes.dense(1)
    return _different_colors(classes)


def _different_colors(classes: ClassList) -> ClassList:
    """Return the list without colours where these would not tell the classes apart, from each other and from the background."""
    colors = [color_numbers(entry.color) if entry.color else voc_color(entry.id or 0) for entry in classes]
    if len({(0, 0, 0), *colors}) == len(colors) + 1:
        return classes
    return ClassList(tuple(ObjectClass(entry.name, entry.id, "", entry.supercategory, entry.attributes) for entry in classes))


def _map_name(name: str) -> str:
    """Return a name as it may stand in labelmap.txt, whose lines are parted by colons."""
    return name.replace(":", "_").replace("#", "_")


def stems(paths: Iterable[str]) -> list[str]:
    """Return the stems of the pictures of which some files tell, sorted: those of XML files, and of PNGs where there is none.

    Args:
        paths: Of all files below the root, with forward slashes.
    """
    found = set()
    for path in paths:
        top, _, rest = path.partition("/")
        if top == "Annotations" and path.endswith(".xml"):
            found.add(rest.removesuffix(".xml"))
        elif top in (*BY_OBJECT, *BY_CLASS) and path.endswith(".png"):
            found.add(rest.removesuffix(".png"))
    return sorted(found)


def read(files: Mapping[str, bytes], sizes: PictureSizes = no_pictures) -> list[AnnotatedPicture]:
    """Return the pictures of a folder in VOC's layout.

    The n-th object of an XML file is the pixels of value n in SegmentationObject; its own <polygon> if it has one; else its box. Without an XML file each
    value of SegmentationObject is an object, whose class is what most of its pixels have in SegmentationClass; without that, each class is an object.

    Args:
        files: By path, with forward slashes.
        sizes: Finds the name and size of a picture of which the files do not tell them.

    An object that cannot be used is left out with a sentence; see `AnnotatedPicture.left_out`.

    Raises:
        DataError: If an XML file is malformed, a PNG cannot be read, or none of the objects can be used.
    """
    return [picture for stem in stems(files) for picture in each(stem, files, sizes)]


def each(stem: str, files: Mapping[str, bytes], sizes: PictureSizes = no_pictures) -> Iterator[AnnotatedPicture]:
    """`read` for the picture of one stem."""
    expected, path = "VOC's annotation", f"Annotations/{stem}.xml"
    by_object, by_class = (next((place for name in names if (place := f"{name}/{stem}.png") in files), None) for names in (BY_OBJECT, BY_CLASS))
    with boundary(path if path in files else by_object or by_class or path, expected):
        rows = LeftOut()
        classes = label_map(files)
        if path in files:
            root = _root(files[path], expected)
            labels = _indices(files[by_object], by_object, {}) if by_object is not None else None
            yield from told([_of_xml(stem, root, labels, classes, files, sizes, rows)], LeftOut(), rows, expected)
        else:
            yield from told([_of_pixels(stem, by_object, by_class, classes, files, sizes, rows)], LeftOut(), rows, expected)


def read_file(path: str, content: bytes, sizes: PictureSizes = no_pictures) -> Iterator[AnnotatedPicture]:
    """Yield the picture of a single XML file, as labelImg writes it beside the picture: its boxes and polygons.

    Raises:
        DataError: If the file is malformed, or none of its objects can be used.
    """
    expected = "VOC's annotation"
    with boundary(path, expected):
        rows = LeftOut()
        picture = _of_xml(path.removesuffix(".xml"), _root(content, expected), None, NO_CLASSES, {}, sizes, rows)
        yield from told([picture], LeftOut(), rows, expected)


def _root(content: bytes, expected: str) -> ElementTree.Element:
    root = parse_xml(content)
    if root.tag != "annotation":
        raise DataError(f"expected {expected}, got a file of <{shown(root.tag, 40)[1:-1]}>")
    return root


def label_map(files: Mapping[str, bytes]) -> ClassList:
    """Return the classes that labelmap.txt, or a list of names, tells; ids are the values of their pixels, 0 for the background, which is not among them."""
    if LABEL_MAP in files:
        rows = [line.split(":") for line in files[LABEL_MAP].decode("utf-8-sig", "replace").splitlines() if line.strip() and not line.startswith("#")]
        found = [(row[0], color_text([int(part) for part in row[1].split(",") if part.strip().isdigit()]) if len(row) > 1 else "") for row in rows]
        listed = _listed(files)
    else:
        found, listed = [(name, "") for name in _listed(files)], []
    if found and found[0][0].strip() not in BACKGROUND:
        found.insert(0, (BACKGROUND[0], ""))
    by_color = {color_text(list(voc_color(number))): number for number in range(256)}
    ids = [by_color.get(color, place) if color else place for place, (_, color) in enumerate(found)]
    ids = ids if len(set(ids)) == len(ids) else list(range(len(found)))
    entries: dict[str, ObjectClass] = {}
    for place, (number, (name, color)) in enumerate(zip(ids, found, strict=True)):
        # labelmap.txt cannot hold every name; the list of names beside it can.
        whole = listed[place - 1] if 0 < place <= len(listed) and _map_name(listed[place - 1]) == name else name
        if name.strip() in BACKGROUND:
            continue
        try:
            entry = ObjectClass(class_name(whole), number, color)
        except DataError:
            continue
        entries.setdefault(entry.name, entry)
    return ClassList(tuple(entries.values())) if entries else NO_CLASSES


def _listed(files: Mapping[str, bytes]) -> list[str]:
    path = next((path for path in CLASS_NAMES if path in files), None)
    lines = [] if path is None else [line.strip() for line in files[path].decode("utf-8-sig", "replace").splitlines() if line.strip()]
    return lines[1:] if lines[:1] == ["__ignore__"] else lines


def _indices(content: bytes, place: str, by_color: Mapping[tuple[int, int, int], int]) -> np.ndarray:
    """Return the numbers of a PNG's pixels: by their colours, where these are known; else as they stand in a palette or grey image; else by VOC's palette."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as image:
            mode, palette = image.mode, np.array(image.getpalette() or [], np.uint8).reshape(-1, 3) if image.mode == "P" else None
    except Exception:  # what is wrong with it is said below
        mode, palette = "", None
    try:
        if mode in ("RGB", "RGBA"):
            return _by_color(images.read_image(content), place, by_color)
        labels = images.read_labels(content)
    except ImageError as error:
        raise DataError(f"{place}: {error}") from error
    if by_color and palette is not None and labels.dtype == np.uint8:
        table = np.arange(256, dtype=np.uint8)
        for index in np.unique(labels).tolist():
            if index < len(palette) and tuple(palette[index].tolist()) in by_color:
                table[index] = by_color[tuple(palette[index].tolist())]
        return table[labels]
    return labels


def _by_color(image: np.ndarray, place: str, by_color: Mapping[tuple[int, int, int], int]) -> np.ndarray:
    codes = image[..., 0].astype(np.int32) << 16 | image[..., 1].astype(np.int32) << 8 | image[..., 2]
    found, where = np.unique(codes, return_inverse=True)
    palette = {voc_color(number): number for number in range(256)}
    numbers = []
    for code in found.tolist():
        color = (code >> 16, code >> 8 & 255, code & 255)
        number = by_color.get(color, palette.get(color) if not by_color or color in ((0, 0, 0), voc_color(IGNORED)) else None)
        if number is None:
            raise DataError(f"{place}: expected colours of the label map or of VOC's palette, got {color}")
        numbers.append(number)
    return np.array(numbers, np.int32)[where].reshape(codes.shape)


def _file_name(stem: str, told_of: str | None, files: Mapping[str, bytes], sizes: PictureSizes) -> str:
    """Return the picture's name: as the XML tells it, with the suffix of the picture that is there where that has none."""
    name = picture_name(told_of, "filename") if told_of else picture_name(stem, "the file's name")
    if "." in name.rpartition("/")[2]:
        return name
    for suffix in sorted(IMAGE_SUFFIXES):
        if f"JPEGImages/{name}{suffix}" in files or f"JPEGImages/{stem}{suffix}" in files:
            return f"{name}{suffix}"
    there = sizes(name)
    return name if there is None else f"{name}.{there[0].rpartition('.')[2]}"


def _of_xml(
    stem: str, root: ElementTree.Element, labels: np.ndarray | None, classes: ClassList, files: Mapping[str, bytes], sizes: PictureSizes, rows: LeftOut
) -> AnnotatedPicture:
    elements = list(root.iter("object"))
    name = _file_name(stem, root.findtext("filename"), files, sizes)
    if labels is not None:
        size = checked_size(labels.shape[0], labels.shape[1], len(elements))
    else:
        sides = root.findtext("size/height"), root.findtext("size/width")
        there = sizes(name) if None in sides or "0" in sides else None
        size = checked_size(*(there[1] if there is not None else sides), len(elements))
    objects, boxes = [], []
    for number, element in enumerate(elements, 1):
        with rows.row(f"object {number}", "a name, and a mask or a box"):
            if labels is not None and number > MOST_OBJECTS:
                raise DataError(f"expected at most {MOST_OBJECTS} objects, got more")
            called = class_name(element.findtext("name"), f"object {number}")
            if labels is not None and (labels == number).any():
                objects.append(NamedMask(called, labels == number))
            elif (corners := _polygon(element)) is not None:
                objects.append(NamedMask(called, shapes.polygon(corners, size)))
            elif labels is not None and element.find("bndbox") is None:
                objects.append(NamedMask(called, labels == number))
            else:
                boxes.append(_box(element, called, size, f"object {number}"))
    return AnnotatedPicture(name, size, tuple(objects), stem, boxes=tuple(boxes), classes=classes)


def _polygon(element: ElementTree.Element) -> np.ndarray | None:
    """Return an object's <polygon> with x1, y1, x2, y2 ..., as Supervision and Roboflow write it; None where it has none."""
    found = element.find("polygon")
    if found is None:
        return None
    points = []
    for number in range(1, len(found) // 2 + 1):
        points.append([found.findtext(f"x{number}"), found.findtext(f"y{number}")])
    return shapes.vertices(points, "polygon") if points else None


def _box(element: ElementTree.Element, name: str, size: tuple[int, int], place: str) -> NamedBox:
    x0, y0, x1, y1 = (shapes.number(element.findtext(f"bndbox/{side}"), side) for side in ("xmin", "ymin", "xmax", "ymax"))
    # VOC counts pixels from 1 and includes the last one.
    return NamedBox(name, shapes.box(x0 - 1, y0 - 1, x1, y1, size), None, place)


def _of_pixels(
    stem: str, by_object: str | None, by_class: str | None, classes: ClassList, files: Mapping[str, bytes], sizes: PictureSizes, rows: LeftOut
) -> AnnotatedPicture:
    # Datumaro writes label maps without colours: these are VOC's then.
    by_color = {color_numbers(entry.color) if entry.color else voc_color(entry.id or 0): entry.id or 0 for entry in classes}
    by_color |= {(0, 0, 0): 0} if classes else {}
    kinds = _indices(files[by_class], by_class, by_color) if by_class is not None else None
    labels = _indices(files[by_object], by_object, {}) if by_object is not None else kinds
    if labels is None:
        raise DataError("expected an XML file, or a PNG in SegmentationObject or SegmentationClass, found none")
    if kinds is not None and kinds.shape != labels.shape:
        raise DataError(f"expected PNGs of one size, got {labels.shape} for the objects and {kinds.shape} for the classes")
    numbers = [number for number in np.unique(labels).tolist() if number not in (0, IGNORED)]
    size = checked_size(labels.shape[0], labels.shape[1], len(numbers))
    names, objects = classes.by_id, []
    for number in numbers:
        with rows.row(f"object {number}", "pixels of a class"):
            mask = labels == number
            kind = number if by_object is None else None
            if kind is None and kinds is not None:
                values, counts = np.unique(kinds[mask], return_counts=True)
                kind = int(values[counts.argmax()])
            if kind is not None and names and kind not in names:
                raise DataError(f"expected the value of one of the {len(names)} classes, got {kind}")
            objects.append(NamedMask(UNNAMED if kind is None else names.get(kind, str(kind)), mask))
    return AnnotatedPicture(_file_name(stem, None, files, sizes), size, tuple(objects), stem, classes=classes)


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


def _palette_png(values: np.ndarray, palette: list[int]) -> bytes:
    picture = Image.fromarray(values).convert("L")
    picture.putpalette(palette)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _palette(colors: Mapping[int, tuple[int, int, int]] | None = None) -> list[int]:
    """Return the colours of 0 .. 255: VOC's, some of them others."""
    return [part for number in range(256) for part in (colors or {}).get(number, voc_color(number))]


def has_masks(folders: Collection[str]) -> bool:
    """Return whether some of a root's folders hold masks in VOC's way."""
    return any(name in folders for name in (*BY_OBJECT, *BY_CLASS))
