"""A back end for Label Studio's machine learning interface, served by the same process: /setup and /predict (and /health, which all clients share).

Label Studio names a picture by a URL. Nothing is fetched from anywhere: the URL's path is looked up in the served folder, which is to hold the same files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from fretsaw.errors import DataError, PromptError
from fretsaw.interchange.label_studio import decode_brush, result
from fretsaw.interchange.pictures import NamedMask
from fretsaw.segmentation import Segmentation
from fretsaw.server.pieces import Piece
from fretsaw.server.refusals import LimitError, NotHereError
from fretsaw.server.workbench import Workbench
from fretsaw.server.workers import Lane
from fretsaw.types import Box, Click

MOST_TASKS = 100
KINDS = ("keypointlabels", "rectanglelabels", "brushlabels", "keypoint", "rectangle", "brush")


class SetupBody(BaseModel):
    """What Label Studio sends when a project begins; `schema` is its labelling configuration. Nothing of it is kept."""

    model_config = ConfigDict(extra="ignore")


class PredictBody(BaseModel):
    """Tasks to predict; `params.context.result` holds what a person has drawn so far on the one task that is open."""

    tasks: list[dict[str, Any]]
    label_config: str | None = None
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
    try:
        root = ElementTree.fromstring(label_config)
    except ElementTree.ParseError as error:
        raise DataError(f"label_config: expected XML, got: {error}") from error
    brush, image = root.find(".//BrushLabels"), root.find(".//Image")
    label = brush.find("Label") if brush is not None else None
    return Tags(
        brush=brush.get("name", "tag") if brush is not None else "tag",
        image=(brush.get("toName") if brush is not None else None) or (image.get("name", "image") if image is not None else "image"),
        value=image.get("value", "$image").lstrip("$") if image is not None else "image",
        label=label.get("value", "object") if label is not None else "object",
    )


def read_prompts(rows: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> tuple[list[Click], Box | None, Mapping[str, Any] | None, str | None]:
    """Return the clicks, the box, the brush row and the label that a person has drawn; Label Studio counts in percent of the picture.

    Raises:
        PromptError: If a row has no numbers where they belong.
    """
    height, width = size
    clicks: list[Click] = []
    box, brush, label = None, None, None
    for row in rows:
        kind, value = row.get("type"), row.get("value", {})
        if kind not in KINDS:
            continue
        label = next(iter(value.get(str(kind)) or []), label) if str(kind).endswith("labels") else label
        positive = bool(int(row.get("is_positive", value.get("is_positive", 1)) or 0))
        try:
            if str(kind).startswith("keypoint"):
                x, y = float(value["x"]) * width / 100 - 0.5, float(value["y"]) * height / 100 - 0.5
                clicks.append(Click(min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0), positive))
            elif str(kind).startswith("rectangle"):
                x, y, w, h = (float(value[name]) for name in ("x", "y", "width", "height"))
                box = Box(x * width / 100, y * height / 100, (x + w) * width / 100, (y + h) * height / 100)
            else:
                brush = row
        except (KeyError, TypeError, ValueError) as error:
            raise PromptError(f"{kind}: expected x, y (width, height) in percent, got {json.dumps(value)[:80]}") from error
    return clicks, box, brush, label


def find_picture(bench: Workbench, url: object) -> str:
    """Return the id of the served folder's picture that a task's URL names.

    Raises:
        NotHereError: If none, or more than one, fits.
    """
    parts = urlsplit(str(url))
    names = [*parse_qs(parts.query).get("d", []), unquote(parts.path)]  # Label Studio's local files: /data/local-files/?d=PATH
    for name in names:
        # Label Studio puts eight characters and a dash before the names of uploads.
        last = name.rpartition("/")[2]
        for candidate in (name, last.partition("-")[2] if len(last.partition("-")[0]) == 8 else ""):
            entry = bench.gallery.find(candidate) if candidate else None
            if entry is not None:
                return entry.id
    raise NotHereError(f"expected a URL whose path ends like one picture in the served folder, got {str(url)[:120]!r}; nothing is fetched from elsewhere")


def make_router(bench: Workbench) -> APIRouter:
    """Return the routes that Label Studio calls."""
    router = APIRouter(tags=["Label Studio"])
    version = f"fretsaw {bench.segmenter.name}"

    @router.post("/setup")
    async def setup(body: SetupBody) -> dict[str, str]:
        """Answer with the model's version."""
        return {"model_version": version}

    @router.post("/predict")
    async def predict(body: PredictBody, request: Request) -> dict[str, Any]:
        """Predict brush masks: by what a person has drawn, else automatically."""
        if len(body.tasks) > MOST_TASKS:
            raise LimitError(f"expected at most {MOST_TASKS} tasks at once, got {len(body.tasks)}")
        tags = read_tags(body.label_config)
        context = (body.params or {}).get("context") or {}
        rows = context.get("result", []) if isinstance(context, dict) else []
        results = []
        for task in body.tasks:
            data = task.get("data") or {}
            identity = find_picture(bench, data.get(tags.value) or next(iter(data.values()), ""))

            def cut(piece: Piece) -> tuple[Segmentation, str | None]:
                clicks, box, brush, label = read_prompts(rows, piece.record.size)
                session = piece.embed().sibling()
                if brush is not None:
                    session.mask(decode_brush(brush["value"].get("rle", []), piece.record.size))
                if clicks or box is not None:
                    session.clicks(clicks, box)
                return (session.result if clicks or box is not None or brush is not None else session.auto()), label

            made, label = await bench.at(request, identity, cut, Lane.CLICK if rows else Lane.SLOW)
            row = result(NamedMask(label or tags.label, made.mask), f"fretsaw-{task.get('id', len(results))}", tags.brush, tags.image)
            results.append({"model_version": version, "score": made.score, "result": [row] if made.area else []})
        return {"results": results}

    @router.post("/webhook", status_code=204)
    async def webhook() -> None:
        """Take notice of nothing: the model does not learn from annotations."""

    return router
