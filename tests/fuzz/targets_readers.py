"""Targets: run lengths, polygons, names, class lists and every reader of annotations."""

from __future__ import annotations

import base64
import json
import random
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

import foreign
from fretsaw import masks
from fretsaw.data.datasets import coco_json
from fretsaw.data.label_folders import read_class_names, read_groups
from fretsaw.data.layouts import read_list
from fretsaw.errors import DataError, FretsawError
from fretsaw.evaluation.coco import average_precision, read_coco
from fretsaw.images import encode_image
from fretsaw.interchange import coco, cvat, label_studio, labelme, png, voc, yolo
from fretsaw.interchange.formats import WRITERS
from fretsaw.interchange.names import class_name, picture_name
from fretsaw.interchange.pictures import AnnotatedPicture, NamedMask
from fretsaw.interchange.reading import readers, the_source

from .harness import Refused, Target
from .mutations import json_bytes, mutate_bytes, mutate_png, mutate_text, mutate_tree, mutate_xml, odd_value, seeded

MEMORY = 5 * 178_956_970
"""Bytes for a file of annotations: one mask of the largest picture that is read, its copy while it is decoded, and what becomes of it."""
SECONDS = 15.0
"""A file of a few bytes may rightly speak of masks on the largest picture; each takes a second or two."""

HUGE = (2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64, 10**30)
LENGTHS = st.one_of(st.integers(0, 40), st.integers(-3, 3), st.sampled_from(HUGE), st.sampled_from([-number for number in HUGE]))
SIDES = st.one_of(st.integers(1, 20), st.sampled_from([0, -1, 1.0, 10**5, 10**9, 2**31, 2**62, float("nan"), float("inf"), "7", None]))


# Run lengths and polygons


def run_lengths(value: tuple[Any, tuple[int, int] | None], folder: Path) -> bool:
    rle, size = value
    try:
        mask = masks.decode_rle(rle, size)
    except FretsawError as error:
        raise Refused(past_header=isinstance(rle, dict) and {"size", "counts"} <= rle.keys()) from error
    assert mask.dtype == bool
    np.testing.assert_array_equal(masks.decode_rle(masks.encode_rle(mask)), mask)
    return True


@st.composite
def counts_near_a_size(draw: st.DrawFn) -> dict[str, Any]:
    """Run lengths whose sum is right modulo 2 ** 64, right, or nearly so."""
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    counts = draw(st.lists(LENGTHS, max_size=8))
    total = height * width - sum(counts)
    counts.append(draw(st.sampled_from([total, total % 2**64, total % 2**63, total + 1])))
    return {"size": [height, width], "counts": counts}


def compressed(rng: random.Random) -> dict[str, Any]:
    """Compressed run lengths of a mask, with some characters altered."""
    mask = np.random.default_rng(rng.randrange(2**32)).random((rng.randrange(1, 20), rng.randrange(1, 20))) > rng.random()
    rle = masks.encode_rle(mask)
    text = list(rle["counts"])
    for _ in range(rng.choice([0, 0, 1, 1, 2, 8])):
        text[rng.randrange(len(text))] = chr(rng.randrange(48, 112))
    return rle | {"counts": "".join(text)}


ARBITRARY_RUNS = st.fixed_dictionaries(
    {
        "size": st.lists(SIDES, min_size=1, max_size=3),
        "counts": st.one_of(st.lists(LENGTHS), st.text("0123456789:;<=>?@PQabno", max_size=60), st.binary(max_size=30)),
    }
)
RUN_LENGTHS = st.tuples(st.one_of(counts_near_a_size(), seeded(compressed), ARBITRARY_RUNS, seeded(odd_value)), st.sampled_from([None, None, (4, 5), (12, 12)]))


def polygons(value: tuple[Any, tuple[int, int]], folder: Path) -> bool:
    rings, size = value
    sound = 0
    refusal: FretsawError | None = None
    for draw in (masks.from_polygons, masks.unite_polygons, masks.checked_coco):
        try:
            drawn = draw(rings, size)
            sound += 1
            assert isinstance(drawn, dict) or drawn.shape == size
        except FretsawError as error:
            refusal = error
    if refusal is not None:
        raise Refused(past_header=isinstance(rings, list)) from refusal
    return True


def rings_of(rng: random.Random) -> Any:
    ring = [round(rng.uniform(-5, 30), rng.choice([0, 1, 5])) for _ in range(2 * rng.randrange(3, 9))]
    found = [ring for _ in range(rng.choice([1, 1, 2, 50]))]
    return (
        mutate_tree(rng, found, rng.choice([0, 1, 1, 2])) if rng.random() < 0.9 else [[rng.choice([0, 1e5, 2e9, -1e9]) for _ in range(2 * rng.randrange(3000))]]
    )


POLYGONS = st.tuples(seeded(rings_of).filter(lambda rings: isinstance(rings, list)), st.sampled_from([(8, 10), (1, 1), (300, 400), (3000, 2000)]))


def brush(value: tuple[Any, tuple[int, int]], folder: Path) -> bool:
    rle, size = value
    try:
        mask = label_studio.decode_brush(rle, size)
    except FretsawError as error:
        raise Refused(past_header=isinstance(rle, list) and len(rle) > 6) from error
    assert mask.shape == size
    return True


def brush_values(rng: random.Random) -> tuple[Any, tuple[int, int]]:
    mask = np.random.default_rng(rng.randrange(2**32)).random((rng.randrange(1, 20), rng.randrange(1, 20))) > rng.random()
    content = label_studio.encode_brush(mask)
    body = list(mutate_bytes(rng, bytes(content[4:]), rng.randrange(4)))
    return rng.choice([content[:4] + body, content[:4] + body, mutate_tree(rng, content, 1)]), (mask.shape[0], mask.shape[1])


# Names and lists


def names(value: Any, folder: Path) -> bool:
    refusal: FretsawError | None = None
    for made in (class_name, picture_name):
        try:
            name = made(value, "row 1")
        except FretsawError as error:
            refusal = error
        else:
            assert name == name.strip() != ""
            assert name.encode().decode() == name
            assert made(name) == name
            assert len(name.splitlines()) == 1
    if refusal is not None:
        raise Refused(past_header=isinstance(value, str)) from refusal
    return True


def class_lists(value: tuple[bytes, bytes], folder: Path) -> bool:
    (folder / "classes.txt").write_bytes(value[0])
    (folder / "groups.txt").write_bytes(value[1])
    read_list(folder / "classes.txt")
    try:
        read_groups(folder / "groups.txt", read_class_names(folder / "classes.txt"))
    except FretsawError as error:
        raise Refused(past_header=True) from error
    return True


def lists(rng: random.Random) -> tuple[bytes, bytes]:
    classes = rng.choice(["0 skin\n1 hair\n2 boots\n3 heels", "skin\nhair\nboots\nheels", "# all\n10 skin\n20 hair\n30 boots\n40 heels\n"])
    groups = "skin: skin\n# shoes\nshoes: boots, heels\nhair\n"
    made = (mutate_text(rng, text, rng.choice([0, 0, 1, 2])).encode("utf-8", "surrogatepass") for text in (classes, groups))
    return tuple(mutate_bytes(rng, content) if rng.random() < 0.05 else content for content in made)  # type: ignore[return-value]


# Files of annotations


def sound_pictures(rng: random.Random) -> list[AnnotatedPicture]:
    size = (rng.choice([2, 8, 30]), rng.choice([2, 10, 40]))
    draw = np.random.default_rng(rng.randrange(2**32))
    blocks = np.kron(draw.integers(0, 4, (2, 2)), np.ones((size[0] // 2, size[1] // 2), int))
    objects = tuple(NamedMask(name, blocks == number) for number, name in enumerate(("cat", "a dog", "猫"), 1) if (blocks == number).any())
    return [AnnotatedPicture(name, size, objects) for name in ("a.png", "b/c.jpg")[: rng.choice([1, 1, 2])]]


def annotations(format: str, files: dict[str, bytes], folder: Path) -> bool:
    """Read a folder of annotations, and write what was read in another format, as `fretsaw convert` does."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    whole = {"coco": coco.PATH, "label-studio": label_studio.PATH, "cvat": cvat.PATH, "labelme": "a.json"}
    past = False
    refusal: DataError | None = None
    found = []
    for _, read in readers(the_source(folder / whole[format] if whole.get(format) in files else folder, format)):
        try:
            for picture in read():
                past = True
                for sentence in picture.left_out:
                    assert sentence.isprintable(), sentence
                    assert len(sentence) < 1000
                found.append(picture)
        except DataError as error:
            refusal = error
            past = past or "none that can be used" in str(error)
    for picture in found:
        if picture.size[0] * picture.size[1] < 10**5:
            written = dict(WRITERS[("coco", "cvat", "labelme", "label-studio", "png", "yolo", "coco-polygons")[len(picture.file_name) % 7]]([picture]))
            assert all(isinstance(content, bytes) for content in written.values())
            again = coco.read(dict(coco.write([picture])))
            assert [item.name for item in again[0].objects] == [item.name for item in picture.objects if item.mask.any()]
    if refusal is not None:
        raise Refused(past_header=past) from refusal
    return past


def _times(rng: random.Random) -> int:
    return rng.choice([0, 1, 1, 1, 2, 2, 3, 6])


def json_format(rng: random.Random, write: Any, path: str) -> dict[str, bytes]:
    files = dict(write(sound_pictures(rng)[:1] if write is labelme.write else sound_pictures(rng)))
    content = json.loads(next(iter(files.values())))
    return {path: json_bytes(rng, mutate_tree(rng, content, _times(rng)))}


def coco_files(rng: random.Random) -> dict[str, bytes]:
    return json_format(rng, rng.choice([coco.write, coco.write_polygons, partial(coco.write, segmentation=masks.uncompressed_rle)]), coco.PATH)


def label_studio_files(rng: random.Random) -> dict[str, bytes]:
    return json_format(rng, label_studio.write, label_studio.PATH)


LABELME_SHAPES = {
    "polygon": [[1, 1], [5, 1], [5, 4.5]],
    "rectangle": [[1, 1], [5, 4.5]],
    "circle": [[4, 4], [4, 6]],
    "line": [[1, 1], [5, 4]],
    "linestrip": [[1, 1], [5, 4], [2, 6]],
    "point": [[3, 3]],
    "points": [[3, 3], [4, 4]],
    "mask": [[2, 2], [5, 6]],
}


def labelme_shape(rng: random.Random) -> dict[str, Any]:
    """Return a sound shape of any type."""
    kind = rng.choice([*LABELME_SHAPES, "polygon", "mask"])
    mask = base64.b64encode(encode_image(rng.choice([0, 255]) * np.ones((5, 4), np.uint8), ".png")).decode() if kind == "mask" else None
    named = {"label": rng.choice(["x", "y"]), "points": LABELME_SHAPES[kind], "group_id": rng.choice([None, None, 1]), "shape_type": kind, "flags": {}}
    return named | ({"mask": mask} if mask else {})


def labelme_files(rng: random.Random) -> dict[str, bytes]:
    """The file's head is a few values, its body a shape for each object: most of what is altered is in the body, where most of the reader looks."""
    content = json.loads(next(iter(dict(labelme.write(sound_pictures(rng)[:1])).values())))
    if rng.random() < 0.6:
        content = {"shapes": [labelme_shape(rng) for _ in range(rng.randrange(1, 5))], "imagePath": "a.png", "imageHeight": 8, "imageWidth": 10}
    if rng.random() < 0.7:
        content["shapes"] = [mutate_tree(rng, shape, _times(rng)) for shape in content["shapes"]]
        return {"a.json": json.dumps(content).encode("utf-8", "surrogatepass")}
    return {"a.json": json_bytes(rng, mutate_tree(rng, content, _times(rng)))}


def cvat_files(rng: random.Random) -> dict[str, bytes]:
    [(path, content)] = cvat.write(sound_pictures(rng))
    if rng.random() < 0.4:
        content = content.replace(b"<mask ", b'<polygon label="x" points="1,1;5,1;5,4"/><box label="y"/><mask ', 1)
    return {path: mutate_xml(rng, content, _times(rng))}


def voc_files(rng: random.Random) -> dict[str, bytes]:
    files = dict(voc.write(sound_pictures(rng)[:1]))
    for path, content in files.items():
        if path.endswith(".xml"):
            files[path] = mutate_xml(rng, content, _times(rng))
        elif path.startswith("SegmentationObject") and rng.random() < 0.3:
            files[path] = mutate_png(rng, content)
    return files


def yolo_files(rng: random.Random) -> dict[str, bytes]:
    pictures = sound_pictures(rng)
    files = dict(yolo.write(pictures))
    for path, content in list(files.items()):
        if path == yolo.NAMES and rng.random() < 0.6:
            continue
        files[path] = mutate_text(rng, content.decode(), rng.choice([0, 1, 2, 3])).encode("utf-8", "surrogatepass")
        files[path] = mutate_bytes(rng, files[path]) if rng.random() < 0.05 else files[path]
    for picture in pictures:
        content = encode_image(np.zeros((*picture.size, 3), np.uint8), ".png")
        files[f"images/{picture.file_name}"] = mutate_png(rng, content) if rng.random() < 0.15 else content
    return files


def png_files(rng: random.Random) -> dict[str, bytes]:
    """Several pictures' masks and their lists of names. Where a list says no size, nothing is read: mostly its rows are altered, one by one."""
    files = dict(png.write(sound_pictures(rng)))
    whole = rng.random() < 0.25
    for path, content in list(files.items()):
        if path.endswith(png.NAMES):
            names = json.loads(content)
            files[path] = (
                json_bytes(rng, mutate_tree(rng, names, _times(rng))) if whole else json.dumps(_rows_mutated(rng, names)).encode("utf-8", "surrogatepass")
            )
        elif rng.random() < 0.2:
            files[path] = mutate_png(rng, content)
    return files


def _rows_mutated(rng: random.Random, names: dict[str, Any]) -> dict[str, Any]:
    return names | {"objects": [mutate_tree(rng, row, _times(rng)) if rng.random() < 0.5 else row for row in names["objects"]]}


def data_set(content: bytes, folder: Path) -> bool:
    """Open a COCO file that models are measured on, by click and as a whole, and draw its objects."""
    path = folder / "a.json"
    path.write_bytes(content)
    (folder / "a.png").write_bytes(ONE_PIXEL)
    try:
        objects = coco_json(path)
        pictures = read_coco(path, folder)
    except FretsawError as error:
        raise Refused(past_header="none that can be used" in str(error) or "expected the images of" in str(error)) from error
    for sentence in objects.warnings:
        assert sentence.isprintable(), sentence
    refusal: FretsawError | None = None
    for read in (*(sample.read_truth for sample in objects.samples), *(sample.read_truths for sample in pictures.samples)):
        try:
            read()
        except FretsawError as error:
            refusal = error
    try:
        average_precision(pictures.content, [])
    except FretsawError as error:
        refusal = error
    if refusal is not None:
        raise Refused(past_header=True) from refusal
    return True


ONE_PIXEL = encode_image(np.zeros((1, 1), np.uint8), ".png")


def _foreign(layout: str) -> Callable[[random.Random], dict[str, bytes]]:
    """Return what makes the files of a layout of another tool's, of which the JSON and XML are altered."""

    def make(rng: random.Random) -> dict[str, bytes]:
        # Pictures of two folders would lie over each other in some layouts, and a video has one size.
        pictures = sound_pictures(rng)[:1]
        with tempfile.TemporaryDirectory() as place:
            foreign.LAYOUTS[layout](pictures, Path(place))
            files = {path.relative_to(place).as_posix(): path.read_bytes() for path in Path(place).rglob("*") if path.is_file()}
        for path, content in files.items():
            if path.endswith("json"):
                files[path] = json_bytes(rng, mutate_tree(rng, json.loads(content), _times(rng)))
            elif path.endswith(".xml"):
                files[path] = mutate_xml(rng, content, _times(rng))
            elif path.endswith((".yaml", ".txt", ".names")):
                files[path] = mutate_text(rng, content.decode(), rng.choice([0, 1, 2])).encode("utf-8", "surrogatepass")
            elif path.endswith(".png") and rng.random() < 0.2:
                files[path] = mutate_png(rng, content)
        return files

    return make


def _reader(format: str, make: Any, module: str) -> Target:
    covers = (f"fretsaw.interchange.{module}", *(f"fretsaw.interchange.{name}" for name in ("untrusted", "pictures", "reading")))
    return Target(format, seeded(make), partial(annotations, format), covers, seconds=SECONDS, memory=MEMORY)


TARGETS = [
    Target("rle", RUN_LENGTHS, run_lengths, ("fretsaw.masks",), share=2, seconds=SECONDS, memory=3 * masks.MOST_PIXELS),
    Target("polygons", POLYGONS, polygons, ("fretsaw.masks", "fretsaw.outlines"), seconds=SECONDS, memory=640 * 2**20),
    Target("brush", seeded(brush_values), brush, ("fretsaw.interchange.label_studio",)),
    Target(
        "coco-data-set",
        seeded(lambda rng: coco_files(rng)[coco.PATH]),
        data_set,
        ("fretsaw.data.datasets", "fretsaw.data.truths", "fretsaw.evaluation.coco"),
        seconds=SECONDS,
        memory=MEMORY,
    ),
    Target("names", st.one_of(st.text(), st.text(min_size=150, max_size=300), seeded(odd_value)), names, ("fretsaw.interchange.names",), share=0.5),
    Target("class-lists", seeded(lists), class_lists, ("fretsaw.data.label_folders",), share=0.5),
    _reader("coco", coco_files, "coco"),
    _reader("label-studio", label_studio_files, "label_studio"),
    _reader("cvat", cvat_files, "cvat"),
    _reader("labelme", labelme_files, "labelme"),
    _reader("voc", voc_files, "voc"),
    _reader("yolo", yolo_files, "yolo"),
    _reader("png", png_files, "png"),
    *(
        Target(name, seeded(_foreign(layout)), partial(annotations, format), (f"fretsaw.interchange.{module}",), share=0.5, seconds=SECONDS, memory=MEMORY)
        for name, layout, format, module in (
            ("coco-results", "coco-results", "coco-results", "coco_results"),
            ("sa1b", "sa1b", "sa1b", "sa1b"),
            ("datumaro", "datumaro", "datumaro", "datumaro"),
            ("isat", "isat", "isat", "isat"),
            ("via", "via", "via", "via"),
            ("supervisely", "supervisely", "supervisely", "supervisely"),
            ("geojson", "geojson (QuPath)", "geojson", "geojson"),
            ("cvat-video", "cvat (video)", "cvat", "cvat"),
            ("label-studio-shapes", "label-studio (polygons)", "label-studio", "label_studio"),
            ("labelme-shapes", "labelme (polygons)", "labelme", "labelme"),
            ("yolo-roboflow", "yolo (Roboflow)", "yolo", "yolo"),
            ("yolo-predictions", "yolo (predictions)", "yolo", "yolo"),
            ("voc-masks", "voc (CVAT's masks)", "voc", "voc"),
            ("voc-polygons", "voc (Supervision)", "voc", "voc"),
        )
    ),
]
