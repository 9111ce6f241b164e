"""Boxes in, masks out: each box of a detector's file becomes the mask that a model cuts inside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from fretsaw.errors import FretsawError
from fretsaw.interchange.names import NameIndex
from fretsaw.interchange.pictures import AnnotatedPicture, NamedBox, NamedMask
from fretsaw.interchange.untrusted import LeftOut
from fretsaw.session import Session


class BoxMasks:
    """Makes masks of boxes by asking a model that takes prompts; every picture is encoded once, however many boxes it has.

    Args:
        open_picture: Opens a picture, `fretsaw.Segmenter.open`.
        folder: Where the pictures lie.
        names: Their paths below it, with forward slashes.
    """

    def __init__(self, open_picture: Callable[[Path], Session], folder: Path, names: Sequence[str]) -> None:
        self._open, self._folder, self._index = open_picture, folder, NameIndex(names)

    def __call__(self, picture: AnnotatedPicture) -> AnnotatedPicture:
        """Return a picture whose boxes are masks with the model's score; objects that were drawn as boxes are cut anew.

        A picture that is not there, cannot be opened or has another size keeps its boxes, which are then left out with a sentence, as is a box in which the
        model finds nothing.
        """
        drawn = [item for item in picture.objects if item.box is not None]
        if not picture.boxes and not drawn:
            return picture
        left = LeftOut()
        try:
            session = self._session(picture)
        except FretsawError as error:
            left.note(f"{picture.file_name}: its boxes stay boxes: {error}")
            return replace(picture, left_out=(*picture.left_out, *left.sentences))
        objects = []
        for item in picture.objects:
            made = self._cut(session, NamedBox(item.name, item.box, item.score, item.name, item.attributes), left) if item.box is not None else item
            objects.append(item if made is None else made)
        objects += [made for box in picture.boxes if (made := self._cut(session, box, left)) is not None]
        return replace(picture, objects=tuple(objects), boxes=(), left_out=(*picture.left_out, *left.sentences))

    def _session(self, picture: AnnotatedPicture) -> Session:
        name = self._index.find(picture.file_name)
        if name is None:
            raise FretsawError(f"expected the picture in {self._folder}, found none of this name")
        session = self._open(self._folder / name)
        if session.image.shape[:2] != tuple(picture.size):
            height, width = session.image.shape[:2]
            raise FretsawError(f"expected a picture of {picture.size[1]} x {picture.size[0]} pixels (width x height), got {name} of {width} x {height}")
        return session

    @staticmethod
    def _cut(session: Session, box: NamedBox, left: LeftOut) -> NamedMask | None:
        with left.row(box.place or box.name, "a box on the picture", "box"):
            result = session.sibling().box(box.box.x0, box.box.y0, box.box.x1, box.box.y1)
            if not result.mask.any():
                raise FretsawError("expected an object in the box, the model finds none")
            return NamedMask(box.name, result.mask.copy(), result.score, attributes=box.attributes)
        return None
