"""GeoJSON as QuPath writes it: polygons in the pixels of one picture, which the file neither names nor measures; the picture is called like the file.

Source: RFC 7946; QuPath's documentation, "Exporting annotations".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fretsaw.errors import DataError, shown
from fretsaw.interchange import shapes
from fretsaw.interchange.classes import ClassList, ObjectClass, color_text, text_attributes
from fretsaw.interchange.coco import UNNAMED
from fretsaw.interchange.json_files import PictureSizes, Shapes
from fretsaw.interchange.names import class_name
from fretsaw.interchange.pictures import AnnotatedPicture, NamedMask, checked_size, told
from fretsaw.interchange.untrusted import LeftOut, boundary, field, parse_json


def each(path: str, content: bytes, sizes: PictureSizes) -> Iterator[AnnotatedPicture]:
    """Yield the picture of a GeoJSON file.

    Args:
        path: Of the file; without its suffix it is the picture's name.
        content: Of the file: a FeatureCollection, a Feature, or a list of features.
        sizes: Finds the picture's size.

    Raises:
        DataError: If it is no such file, the picture is not there, or none of its features can be used.
    """
    expected = "GeoJSON's features"
    with boundary(path, expected):
        entries, rows = LeftOut(), LeftOut()
        found = parse_json(content, entries)
        if isinstance(found, dict):
            found = field(found, "features", list) if found.get("type") == "FeatureCollection" else [found]
        if not isinstance(found, list):
            raise DataError(f"expected {expected}, got {shown(found)}")
        yield from told([_picture(path, found, sizes, rows)], entries, rows, expected)


def _picture(path: str, listed: list[Any], sizes: PictureSizes, rows: LeftOut) -> AnnotatedPicture:
    stem = path.removesuffix(".json").removesuffix(".geojson")
    there = sizes(stem)
    if there is None:
        raise DataError(f"expected a picture called {stem.rpartition('/')[2]} beside the file or below --images, found none: GeoJSON does not say its size")
    size, items, classes = checked_size(*there[1], len(listed)), Shapes(), {}
    for number, feature in enumerate(listed, 1):
        kind = (feature.get("geometry") or {}).get("type") if isinstance(feature, dict) else None
        with rows.row(f"feature {number}", "a polygon", kind.lower() if isinstance(kind, str) else ""):
            said = feature.get("properties") if isinstance(field(feature, "geometry", dict), dict) else None
            entry = _class(said if isinstance(said, dict) else {}, f"feature {number}")
            classes.setdefault(entry.name, entry)
            mask = _mask(feature["geometry"], kind, size)
            items.add(NamedMask(entry.name, mask, attributes=text_attributes((said or {}).get("measurements"))))
    return AnnotatedPicture(there[0], size, items.masks, classes=ClassList(tuple(classes.values())))


def _class(said: dict[str, Any], place: str) -> ObjectClass:
    found = said.get("classification")
    name = found.get("name") if isinstance(found, dict) else found
    names = found.get("names") if isinstance(found, dict) else None
    if name is None and isinstance(names, list) and names:  # QuPath writes classes of classes as a list of names
        name = ": ".join(map(str, names))
    # 24 bits of a number as Java keeps colours, in older files.
    number = found.get("colorRGB") if isinstance(found, dict) else None
    color = color_text(found.get("color")) if isinstance(found, dict) else ""
    if not color and isinstance(number, int):
        color = f"#{number & 0xFFFFFF:06x}"
    return ObjectClass(class_name(name, place) if name not in (None, "") else UNNAMED, None, color)


def _mask(geometry: dict[str, Any], kind: Any, size: tuple[int, int]) -> np.ndarray:
    if kind not in ("Polygon", "MultiPolygon"):
        raise DataError(f"expected a Polygon or a MultiPolygon, got {shown(kind)}, which encloses nothing")
    parts = field(geometry, "coordinates", list)
    mask = np.zeros(size, bool)
    for part in [parts] if kind == "Polygon" else parts:
        if not isinstance(part, list) or not part:
            raise DataError(f"expected rings of a polygon, got {shown(part)}")
        outline, *holes = (shapes.vertices(ring, "coordinates") for ring in part)
        mask |= shapes.polygon(outline, size, holes)
    return mask
