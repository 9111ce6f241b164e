"""Which format a file or folder of annotations is in: told by what stands in it, never by what it is called."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from fretsaw.interchange import image_folders, parquet, png, voc, yolo

SUFFIXES = (".json", ".jsonl", ".geojson", ".parquet", ".xml", ".yaml", ".yml", ".txt", ".names")
"""Of files whose beginning is looked at."""
PER_PICTURE = ("labelme", "sa1b", "isat", "supervisely", "geojson")
"""Formats of one JSON file a picture: all such files below a folder are one set."""
_COCO = (b'"images"', b'"annotations"', b'"categories"', b'"segmentation"', b'"image_id"', b'"category_id"')


def format_of_content(name: str, text: bytes) -> str | None:
    """Return the format of a file of its own, or None.

    Args:
        name: Of the file; only whether it is JSON, XML or YAML is told by it.
        text: Its beginning and its end.
    """
    suffix = name.lower().rpartition(".")[2]
    if suffix == "xml":
        return "cvat" if b"<annotations" in text else "voc" if b"<annotation" in text else None
    if suffix in ("yaml", "yml"):
        return "yolo" if yolo.is_yaml(text) else None
    if suffix == "parquet":
        return "parquet" if text.startswith(parquet.MARK) else None
    if suffix == "jsonl":
        return "image-folder" if image_folders.is_metadata(text) else None
    if suffix not in ("json", "geojson"):
        return None
    start = text.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    return _of_list(text) if start == b"[" else _of_object(text) if start == b"{" else None


def _has(text: bytes, *keys: str) -> bool:
    return all(f'"{key}"'.encode() in text for key in keys)


def _of_list(text: bytes) -> str | None:
    if _has(text, "data") and (_has(text, "annotations") or _has(text, "predictions") or _has(text, "completions")):
        return "label-studio"
    if _has(text, "image_id", "category_id") and (_has(text, "segmentation") or _has(text, "bbox")):
        return "coco-results"
    if _has(text, "Feature", "geometry"):
        return "geojson"
    # JSON-MIN, which its reader refuses by name.
    return "label-studio" if _has(text, "annotation_id", "annotator") or _has(text, "annotation_id", "lead_time") else None


def _of_object(text: bytes) -> str | None:
    if _has(text, "shapes", "imagePath"):
        return "labelme"
    if _has(text, "FeatureCollection") or _has(text, "Feature", "geometry"):
        return "geojson"
    if _has(text, "objects") and (_has(text, "geometryType") or _has(text, "classTitle") or _has(text, "tags", "size", "description")):
        return "supervisely"
    if _has(text, "objects", "info") and (_has(text, "ISAT") or _has(text, "layer", "segmentation")):
        return "isat"
    if _has(text, "items", "categories") and not _has(text, "images"):
        return "datumaro"
    if _has(text, "_via_img_metadata") or _has(text, "filename", "regions") or _has(text, "shape_attributes", "region_attributes"):
        return "via"
    if _has(text, "image", "annotations") and not _has(text, "images") and not _has(text, "categories"):
        return "sa1b"
    return "coco" if sum(key in text for key in _COCO) >= 2 and (_has(text, "images") or _has(text, "annotations")) else None


def sets_of(names: Sequence[str], folders: Collection[str], peek: Callable[[str], bytes], listed: Callable[[str], list[str]]) -> list[tuple[str, str]]:
    """Return the sets of annotations below a folder: formats, and the file or folder of each ("" for the folder itself).

    Args:
        names: Of the files with one of `SUFFIXES`, as paths with forward slashes.
        folders: Of all folders, likewise.
        peek: Gives the beginning and the end of a file; nothing where it cannot be read.
        listed: Gives the stems of the pictures in a folder and below it.
    """
    found: dict[tuple[str, str], None] = {}
    roots = {_above(path) for path in folders if path.rpartition("/")[2] in (*voc.BY_OBJECT, *voc.BY_CLASS)}
    for root in sorted(roots):
        found["voc", root] = None
    for name in names:
        folder, _, last = name.rpartition("/")
        if last == png.NAMES:
            found["png", ""] = None
        elif not last.lower().endswith((".txt", ".names", ".yaml", ".yml")) and (format := format_of_content(last, peek(name))) is not None:
            place = name
            if format == "voc":
                place = next((root for root in (*roots, *_annotated(folder)) if not root or f"{name}/".startswith(f"{root}/")), "")
            elif format in PER_PICTURE:
                place = ""
            found[format, place] = None
    for root in yolo_roots(names, peek):
        if not any(root == other or root.startswith(f"{other}/") or not other for format, other in found if format == "voc"):
            found["yolo", root] = None
    for root in image_folders.roots(folders, listed):
        found["image-folder", root] = None
    return list(found)


def yolo_roots(names: Sequence[str], peek: Callable[[str], bytes]) -> list[str]:
    """Return the folders of data sets of YOLO: of a file with their names, or else the folder above `labels`; none inside another."""
    labels = [name for name in names if yolo.is_label_file(name)]
    if not labels:
        return []
    candidates = []
    for name in names:
        folder, _, last = name.rpartition("/")
        if last in yolo.LISTS or (last.endswith((".yaml", ".yml")) and yolo.is_yaml(peek(name))):
            candidates.append(folder)
    for name in labels:
        parts = name.split("/")[:-1]
        if "labels" in parts:
            candidates.append("/".join(parts[: parts.index("labels")]))
    roots: list[str] = []
    for root in sorted(set(candidates), key=lambda path: (path.count("/") + bool(path), path)):
        inside = [name for name in labels if not root or name.startswith(f"{root}/")]
        if any(not other or root == other or root.startswith(f"{other}/") for other in roots):
            continue
        # Empty files are labels of pictures without an object.
        if any(
            ((text := peek(name)) and yolo.looks_like_labels(text[:4096].rpartition(b"\n")[0] or text)) or "labels" in name.split("/") for name in inside[:20]
        ):
            roots.append(root)
    return roots


def _above(path: str) -> str:
    return path.rpartition("/")[0]


def _annotated(folder: str) -> list[str]:
    """Return the folder above the nearest `Annotations`, if a file lies in one."""
    parts = folder.split("/")
    places = [place for place, part in enumerate(parts) if part == "Annotations"]
    return ["/".join(parts[: places[-1]])] if places else []
