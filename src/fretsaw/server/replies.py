"""What travels over HTTP, as the OpenAPI document shows it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from fretsaw.errors import DataError
from fretsaw.interchange.names import MOST_CHARACTERS, class_name
from fretsaw.server.object_edits import MaskChange
from fretsaw.server.records import ImageRecord, ObjectRecord


def _name(text: str) -> str:
    """Return a class name, or "" for none; the same rule as for names in files."""
    try:
        return class_name(text) if text.strip() else ""
    except DataError as error:
        raise ValueError(str(error).removeprefix("name: ")) from error


Name = Annotated[str, Field(max_length=2 * MOST_CHARACTERS), AfterValidator(_name)]
Color = Annotated[str, StringConstraints(pattern=r"^#[0-9a-fA-F]{6}$")]
Number = Annotated[float, Field(allow_inf_nan=False)]

MOST_POINTS = 2000
"""Of one scribble: with one in every two pixels of the screen, as the page draws it, a line of 4000 pixels."""


class RequestBody(BaseModel):
    """Base of what clients send: what is not known is refused rather than ignored."""

    model_config = ConfigDict(extra="forbid")


class Refusal(BaseModel):
    """Why a request was turned away, with every status from 400 on."""

    reason: str
    kind: str


class ClickBody(RequestBody):
    """A click in pixels of the picture; the centre of the top-left one is (0, 0)."""

    x: Number
    y: Number
    positive: bool = True


class PreviewBody(ClickBody):
    """A click to try; without an object, a first click."""

    object: int | None = None


class ScribbleBody(RequestBody):
    """A line over the object, or over what is not the object: its corners x, y in pixels of the picture, in the order they were drawn; one alone is a dot."""

    points: Annotated[list[tuple[Number, Number]], Field(min_length=1, max_length=MOST_POINTS, fail_fast=True)]
    positive: bool = True


class BoxBody(RequestBody):
    """A half-open box in pixels of the picture."""

    x0: Number
    y0: Number
    x1: Number
    y1: Number


class RunLengths(RequestBody):
    """A mask as COCO's run lengths, compressed (text) or not (list); size is [height, width]."""

    size: tuple[int, int]
    counts: str | Annotated[list[int], Field(fail_fast=True)]


class MaskBody(RequestBody):
    """A mask painted by hand; it becomes the object's mask, and clicks go on from it."""

    rle: RunLengths


class StrokeBody(RequestBody):
    """What a brush has covered: run lengths of a box of the picture whose top left pixel is x, y; `adds` sets those pixels, otherwise they are cleared."""

    x: int
    y: int
    rle: RunLengths
    adds: bool = True


class AutoBody(RequestBody):
    """Whether to look for the separate objects too; they come as `parts`."""

    instances: bool = False


class TextBody(RequestBody):
    """Names to look for."""

    names: Annotated[list[Annotated[Name, StringConstraints(min_length=1)]], Field(min_length=1, max_length=100, fail_fast=True)]


class NewObjectBody(RequestBody):
    """A new object; the colour is chosen if none is given."""

    name: Name = ""
    color: Color | None = None


class ObjectBody(RequestBody):
    """What may be changed about an object; what is left out stays."""

    name: Name | None = None
    color: Color | None = None
    hidden: bool | None = None
    deleted: bool | None = None


class ExportBody(RequestBody):
    """A format, and the pictures to export; none means all that have objects."""

    format: str = "coco"
    images: Annotated[list[str], Field(fail_fast=True)] | None = None


class ImportBody(RequestBody):
    """The name of annotations as they were listed; none means all."""

    name: str | None = None


class AnnotationsReply(BaseModel):
    """Annotations in the served folder; the name is a path below it, "" for the folder itself."""

    name: str
    format: str


class ChangeReply(BaseModel):
    """Where a mask has changed: the new mask inside a half-open box; a box of no size where it has not."""

    box: tuple[int, int, int, int]
    rle: dict[str, Any]


class PartReply(BaseModel):
    """One of the separate objects of an automatic cut; `rle` is of its box."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    score: float
    area: int
    box: tuple[int, int, int, int]
    rle: dict[str, Any]


class ScribbleReply(BaseModel):
    """A line that is in place."""

    model_config = ConfigDict(from_attributes=True)

    points: list[tuple[float, float]]
    positive: bool


class ObjectReply(BaseModel):
    """An object and its current mask: `rle` is of the whole picture.

    Who sends `?since=REVISION` with a change, and knows the mask of that revision, gets `change` in its place; of any other revision, the whole mask.
    """

    id: int
    name: str
    color: str
    hidden: bool
    deleted: bool
    score: float
    area: int
    box: tuple[int, int, int, int]
    clicks: list[tuple[float, float, bool]]
    scribbles: list[ScribbleReply]
    prompt_box: tuple[float, float, float, float] | None
    undoable: int
    redoable: int
    revision: int
    parts: list[PartReply]
    rle: dict[str, Any] | None
    change: ChangeReply | None = None

    @classmethod
    def of(cls, item: ObjectRecord, change: MaskChange | None = None) -> ObjectReply:
        """Return what a client is shown of a record; with a change, that in place of the mask."""
        plain = ("id", "name", "color", "hidden", "deleted", "score", "area", "box", "clicks", "prompt_box", "revision")
        shown: dict[str, Any] = {name: getattr(item, name) for name in plain}
        shown["scribbles"] = [ScribbleReply.model_validate(stroke) for stroke in item.scribbles]
        shown["parts"] = [PartReply.model_validate(part) for part in item.parts]
        shown["change"] = ChangeReply(box=change.box, rle=change.rle) if change is not None else None
        rle = item.rle if change is None else None
        return cls(**shown, rle=rle, undoable=item.position, redoable=len(item.steps) - item.position)


class ImageReply(BaseModel):
    """A picture and its objects."""

    id: str
    name: str
    width: int
    height: int
    uploaded: bool
    ready: bool = Field(description="Whether clicks are answered at once; else the picture is still being encoded.")
    view: str
    notice: str = Field("", description="What those at work should know of the picture's file, in a sentence; or empty.")
    objects: list[ObjectReply]

    @classmethod
    def of(cls, record: ImageRecord, ready: bool) -> ImageReply:
        """Return what a client is shown of a record."""
        view = f"/api/images/{record.id}/view.jpg?v={record.hash[:12]}"
        objects = [ObjectReply.of(item) for item in record.living]
        return cls(
            id=record.id,
            name=record.name,
            width=record.size[1],
            height=record.size[0],
            uploaded=record.uploaded,
            ready=ready,
            view=view,
            notice=record.notice,
            objects=objects,
        )


class CommandReply(BaseModel):
    """One thing that was done to a picture."""

    model_config = ConfigDict(from_attributes=True)

    revision: int = Field(description="Its number on the picture, from 1.")
    time: float = Field(description="Seconds since 1970.")
    person: str = Field(description="Who said to be the author, in the header Fretsaw-Person; or empty.")
    name: str
    arguments: dict[str, Any]


class PreviewReply(BaseModel):
    """What a click would give, on a coarser grid than the picture."""

    rle: dict[str, Any]
    seconds: float


class Listed(BaseModel):
    """A picture in the list."""

    id: str
    name: str
    uploaded: bool
    objects: int
    thumbnail: str
    damaged: str = Field("", description="Why the saved work on it cannot be read, or empty.")


class ListReply(BaseModel):
    """All pictures: the served folder's, and the uploads; and the names that their objects have."""

    folder: str | None
    images: list[Listed]
    names: list[str]


class AboutReply(BaseModel):
    """What this server can do."""

    version: str
    model: str
    modes: list[Literal["click", "auto", "parts", "text"]]
    formats: list[str]
    folder: str | None
    read_only: bool = Field(description="Whether every request that would change something is refused.")
    limits: dict[str, int]


class JobReply(BaseModel):
    """Long work."""

    id: str
    kind: str
    state: Literal["waiting", "running", "done", "failed", "stopped"]
    total: int
    done: int
    note: str
    reason: str
    has_file: bool
