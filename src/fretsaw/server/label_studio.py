"""A back end for Label Studio's machine learning interface, served by the same process: /setup and /predict (and /health, which all clients share).

Label Studio names a picture by a URL. Nothing is fetched from anywhere: the URL's path is looked up in the served folder, which is to hold the same files.

Its requests hold much that is of no use here, in every kind of shape. What is used is read by `TaskBody`, `read_tags` and `read_prompts`, and nowhere else:
past them, a prediction works with numbers and names.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeGuard
from xml.etree import ElementTree

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from fretsaw.errors import DataError, PromptError, shown
from fretsaw.interchange.label_studio import decode_brush, result
from fretsaw.interchange.names import picture_name
from fretsaw.interchange.pictures import NamedMask
from fretsaw.segmentation import Segmentation
from fretsaw.server.open_picture import OpenPicture
from fretsaw.server.refusals import LimitError, NotHereError
from fretsaw.server.replies import Name
from fretsaw.server.workbench import Bench, Workbench
from fretsaw.server.workers import Lane
from fretsaw.types import Box, Click

router = APIRouter(tags=["Label Studio"])

MOST_TASKS = 100
LONGEST_CONFIG = 100_000
KINDS = ("keypointlabels", "rectanglelabels", "brushlabels", "keypoint", "rectangle", "brush")
NAME = TypeAdapter(Name)


class SetupBody(BaseModel):
    """What Label Studio sends when a project begins; `schema` is its labelling configuration. Nothing of it is kept."""

    model_config = ConfigDict(extra="ignore")


class TaskBody(BaseModel):
    """A task: `data` holds the picture's URL under the name that the labelling configuration gives it."""

    model_config = ConfigDict(extra="ignore")
    id: int | Annotated[str, Field(max_length=100)] | None = None
    data: dict[str, Any] = {}


class PredictBody(BaseModel):
    """Tasks to predict; `params.context.result` holds what a person has drawn so far on the one task that is open."""

    model_config = ConfigDict(extra="ignore")
    tasks: Annotated[list[TaskBody], Field(fail_fast=True)]
    label_config: Annotated[str, Field(max_length=LONGEST_CONFIG)] | None = None
    params: dict[str, Any] | None = None


class Tags(BaseModel):
    """The names in a labelling configuration that a prediction must repeat."""

    brush: str = "tag"
    image: str = "image"
    value: str = "image"
    label: str = "object"


def read_tags(label_config: str | None) -> Tags:
    """Return the names of the first BrushLabels tag, of its Image and of its first label.

    Raises:
        DataError: If the configuration is no XML.
    """
    if not label_config:
        return Tags()
    if "<!" in label_config.replace("<!--", ""):
        raise DataError("label_config: expected XML without declarations, got a document type or entities")
    try:
        root = ElementTree.fromstring(label_config)
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"label_config: expected XML, got: {error}") from error
    brush, image = root.find(".//BrushLabels"), root.find(".//Image")
    label = brush.find("Label") if brush is not None else None
    return Tags(
        brush=brush.get("name", "tag") if brush is not None else "tag",
        image=(brush.get("toName") if brush is not None else None) or (image.get("name", "image") if image is not None else "image"),
        value=image.get("value", "$image").lstrip("$") if image is not None else "image",
        label=_name(label.get("value", "object"), "label_config") if label is not None else "object",
    )


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a person has drawn on a picture.

    Attributes:
        clicks: In pixels.
        box: In pixels, or None.
        brush: Label Studio's run lengths, or None.
        label: The name that the last one of them has, or None.
    """

    clicks: tuple[Click, ...] = ()
    box: Box | None = None
    brush: tuple[int, ...] | None = None
    label: str | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to go by."""
        return not self.clicks and self.box is None and self.brush is None


def drawn_rows(params: Mapping[str, Any] | None) -> list[Any]:
    """Return the rows of `params.context.result`; where there is no such list, nothing was drawn.

    Raises:
        PromptError: If there is something else in its place.
    """
    place: Any = params
    for name in ("context", "result"):
        place = place.get(name) if _is_object(place) else None
    if place is not None and not _is_list(place):
        raise PromptError(f"params.context.result: expected a list of what was drawn, got {shown(place)}")
    return place or []


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def read_prompts(rows: Sequence[Any], size: tuple[int, int]) -> Drawn:
    """Return what a person has drawn; Label Studio counts in percent of the picture, here everything is in pixels.

    Args:
        rows: Entries of its `result`; kinds that are no prompts are passed over.
        size: (H, W) of the picture.

    Raises:
        PromptError: If a row has no numbers or names where they belong.
    """
    height, width = size
    clicks: list[Click] = []
    box, brush, label = None, None, None
    for row in rows:
        if not _is_object(row):
            raise PromptError(f"params.context.result: expected rows of names and values, got {shown(row)}")
        kind, value = row.get("type"), row.get("value", {})
        if not isinstance(kind, str) or kind not in KINDS:
            continue
        if not _is_object(value):
            raise PromptError(f"{kind}: expected a value of names and numbers, got {shown(value)}")
        label = _label(kind, value) or label
        if kind.startswith("keypoint"):
            x, y = _percent(kind, value, "x") * width - 0.5, _percent(kind, value, "y") * height - 0.5
            positive = _flag(kind, row.get("is_positive", value.get("is_positive", 1)))
            clicks.append(Click(min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0), positive))
        elif kind.startswith("rectangle"):
            x, y, w, h = (_percent(kind, value, name) for name in ("x", "y", "width", "height"))
            box = Box(x * width, y * height, (x + w) * width, (y + h) * height)
        else:
            brush = _bytes(kind, value.get("rle"))
    return Drawn(tuple(clicks), box, brush, label)


def _percent(kind: str, value: Mapping[str, Any], name: str) -> float:
    """Return a number of percent as a share of the picture."""
    number = value.get(name)
    with contextlib.suppress(ValueError, OverflowError):
        if isinstance(number, int | float | str) and not isinstance(number, bool) and math.isfinite(float(number)):
            return float(number) / 100
    raise PromptError(f"{kind}: expected {name} in percent, got {shown(number)}")


def _flag(kind: str, value: object) -> bool:
    if value is None or value in (0, 1, "0", "1"):
        return bool(int(value or 0))  # type: ignore[call-overload]
    raise PromptError(f"{kind}: expected is_positive 0 or 1, got {shown(value)}")


def _bytes(kind: str, rle: object) -> tuple[int, ...]:
    """Only ever a list of bytes: Python makes as many zeros of a single number."""
    if not _is_list(rle) or not all(type(item) is int and 0 <= item <= 255 for item in rle):
        raise PromptError(f"{kind}: expected rle, a list of bytes 0 .. 255, got {shown(rle)}")
    return tuple(rle)


def _label(kind: str, value: Mapping[str, Any]) -> str | None:
    """Return the first of a row's labels, which stand under the row's kind."""
    labels = value.get(kind) if kind.endswith("labels") else None
    if labels is None or labels == []:
        return None
    if not _is_list(labels):
        raise PromptError(f"{kind}: expected a list of labels, got {shown(labels)}")
    return _name(labels[0], kind)


def _name(text: object, place: str) -> str:
    try:
        return NAME.validate_python(text, strict=True)
    except ValidationError as error:
        raise PromptError(f"{place}: expected a label of up to 200 printable characters, got {shown(text)}") from error


def find_picture(bench: Workbench, url: object) -> str:
    """Return the id of the served folder's picture that a task's URL names, by the rule of `fretsaw.interchange.names`.

    Raises:
        NotHereError: If none, or more than one, fits.
    """
    try:
        entry = bench.gallery.find(picture_name(url))
    except DataError:  # it names no file
        entry = None
    if entry is None:
        raise NotHereError(f"expected a URL whose path ends like one picture in the served folder, got {shown(url, 120)}; nothing is fetched from elsewhere")
    return entry.id


def _version(bench: Workbench) -> str:
    return f"fretsaw {bench.segmenter.name}"


@router.post("/setup")
async def setup(bench: Bench, body: SetupBody) -> dict[str, str]:
    """Answer with the model's version."""
    return {"model_version": _version(bench)}


@router.post("/predict")
async def predict(bench: Bench, body: PredictBody, request: Request) -> dict[str, Any]:
    """Predict brush masks: by what a person has drawn, else automatically."""
    if len(body.tasks) > MOST_TASKS:
        raise LimitError(f"expected at most {MOST_TASKS} tasks at once, got {len(body.tasks)}")
    tags, rows = read_tags(body.label_config), drawn_rows(body.params)
    read_prompts(rows, (2, 2))  # what is malformed is refused before any work

    def look_up() -> list[str]:
        return [find_picture(bench, task.data.get(tags.value) or next(iter(task.data.values()), "")) for task in body.tasks]

    def cut(picture: OpenPicture) -> tuple[Segmentation, str | None]:
        session = picture.embed().sibling()
        drawn = read_prompts(rows, picture.record.size)
        if drawn.brush is not None:
            session.mask(decode_brush(drawn.brush, picture.record.size))
        if drawn.clicks or drawn.box is not None:
            session.clicks(drawn.clicks, drawn.box)
        return (session.auto() if drawn.empty else session.result), drawn.label

    results: list[dict[str, Any]] = []
    for task, identity in zip(body.tasks, await bench.files.run(request, look_up), strict=True):
        made, label = await bench.at(request, identity, cut, Lane.CLICK if rows else Lane.SLOW)
        row = result(NamedMask(label or tags.label, made.mask), f"fretsaw-{task.id if task.id is not None else len(results)}", tags.brush, tags.image)
        results.append({"model_version": _version(bench), "score": made.score, "result": [row] if made.area else []})
    return {"results": results}


@router.post("/webhook", status_code=204)
async def webhook() -> None:
    """Take notice of nothing: the model does not learn from annotations."""
