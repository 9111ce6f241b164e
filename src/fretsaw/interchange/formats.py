"""The formats by name, for those who let a person choose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from fretsaw.interchange import coco, cvat, label_studio, labelme, png, voc, yolo
from fretsaw.interchange.pictures import AnnotatedPicture, Files

WRITERS: Mapping[str, Callable[[Iterable[AnnotatedPicture]], Files]] = {
    "png": png.write,
    "coco": coco.write,
    "coco-polygons": coco.write_polygons,
    "yolo": yolo.write,
    "yolo-painted": yolo.write_painted,
    "voc": voc.write,
    "labelme": labelme.write,
    "label-studio": label_studio.write,
    "cvat": cvat.write,
}
"""Each takes pictures, one after the other, and yields files."""

PIECES: Mapping[str, tuple[str, Callable[[Iterable[AnnotatedPicture]], Iterator[bytes]]]] = {
    "coco": (coco.PATH, coco.pieces),
    "coco-polygons": (coco.PATH, partial(coco.pieces, segmentation=coco.polygons)),
}
"""Formats whose one file for all pictures is written piece by piece: its path, and what yields its content; it need not fit into memory."""

ONE_FILE = frozenset({"coco", "coco-polygons", "label-studio", "cvat"})
"""Formats of one file for all pictures: no picture has files of its own whose names could meet another's."""
