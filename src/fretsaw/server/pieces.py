"""One picture at work: its pixels, its embedding, and a session for each of its objects, in step with the disk."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fretsaw import images, masks
from fretsaw.api import Segmenter
from fretsaw.clicks.simulate import depths
from fretsaw.clicks.strokes import single_clicks
from fretsaw.errors import OutputError, PromptError, ShapeError, StaleSessionError
from fretsaw.frames import mask_to_logits
from fretsaw.masks import MaskRuns
from fretsaw.segmentation import Segmentation, distinct_color
from fretsaw.server.refusals import LimitError, NotHereError
from fretsaw.server.settings import Settings
from fretsaw.server.store import EMBEDDING, VIEW, ImageRecord, ObjectRecord, PartRecord, Store
from fretsaw.session import Session, Step
from fretsaw.session_file import read_step, write_step
from fretsaw.types import Click

PREVIEW_SIDE = 1024
"""Longest side of a preview's mask; it is shown for a moment only, and must come at once."""

COLORS = ("#3b82f6", "#f97316", "#10b981", "#e11d48", "#a855f7", "#eab308", "#06b6d4", "#ec4899", "#84cc16", "#6366f1")
"""Of the first objects; calmer than what tells hundreds of classes apart."""

LEAST_PIECE = 0.01
"""Share of a mask below which a connected piece of it is a speck rather than an object."""

NOTHING = {"size": [0, 0], "counts": ""}
"""Run lengths of a box without a pixel."""

RECORD_BYTES = 4096
"""About what a picture costs in memory before it is read."""


@dataclass(frozen=True, slots=True)
class Change:
    """Where an object's mask has changed, from one revision to the next.

    Attributes:
        since: The revision before.
        box: Half open, x0 y0 x1 y1, around the pixels that changed; of no size where none did.
        rle: The new mask inside the box, as COCO's compressed run lengths.
    """

    since: int
    box: tuple[int, int, int, int]
    rle: dict[str, Any]


class Piece:
    """A picture, its objects and what the model knows of it. Methods may be called from several threads; they wait for each other.

    Args:
        record: What the disk knows.
        source: The picture's file.
        segmenter: The model.
        store: Where work is saved: after every change, before it is answered.
        settings: Limits.
    """

    def __init__(self, record: ImageRecord, source: Path, segmenter: Segmenter, store: Store, settings: Settings) -> None:
        self.record = record
        self.lock = threading.RLock()
        self._encoding = threading.Lock()
        self.embedded = False
        self._source, self._segmenter, self._store, self._settings = source, segmenter, store, settings
        self._image: np.ndarray | None = None
        self._root: Session | None = None
        self._sessions: dict[int, Session] = {}
        self._names: dict[int, dict[Step, str]] = {}
        self._changes: dict[int, Change] = {}
        self._seen: tuple[int, int, np.ndarray] | None = None  # object, revision and mask of the last change: the next one is most often to the same

    @property
    def nbytes(self) -> int:
        """Memory that would come free if the piece left."""
        total = RECORD_BYTES + sum(len(item.rle["counts"]) for item in self.record.objects) + (self._image.nbytes if self._image is not None else 0)
        if self._root is not None:
            total += self._root.embedding.nbytes + self._root.views.nbytes
        for session in list(self._sessions.values()):
            for step in (*session.history, *session.undone):
                total += (step.full.nbytes if step.full is not None else 0) + (
                    step.prompt.previous_logits.nbytes if step.prompt.previous_logits is not None else 0
                )
                total += sum(part.logits.nbytes for part in step.instances)
        return total + (self._seen[2].nbytes if self._seen is not None else 0)

    @property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, read when it is first needed. A picture that differs from the recorded one starts anew, and the old record is set aside."""
        with self.lock:
            if self._image is None:
                image = images.read_image(self._source, self._settings.pixels)
                found = images.image_hash(image)
                if self.record.hash and self.record.hash != found:
                    self._store.set_aside(self.record)
                    self.record = ImageRecord(self.record.id, self.record.name, self.record.uploaded)
                if not self.record.hash:
                    self.record.hash, self.record.size = found, (image.shape[0], image.shape[1])
                    self._store.write(self.record)
                self._image = image
            return self._image

    def view(self) -> Path:
        """Return the picture as a JPEG for the page, upright and in RGB whatever the original is."""
        path = self._store.place(self.record.id) / VIEW
        with self.lock:
            image = self.image
            if not path.exists():
                images.write_bytes(path, images.encode_image(image, ".jpg"))
        return path

    def embed(self) -> Session:
        """Return a session without prompts, from which all objects' sessions branch off; the embedding comes from disk, or is computed and saved."""
        image = self.image
        # A lock of its own: who looks at the picture or names an object need not wait for the encoder.
        with self._encoding:
            if self._root is None:
                path = self._store.place(self.record.id) / EMBEDDING
                try:
                    self._root = self._segmenter.open(image, saved=path)
                    os.utime(path)
                except StaleSessionError:
                    self._root = self._segmenter.open(image)
                    self._root.save(path)
                    self._store.trim_embeddings(self._settings.disk_bytes)
                self.embedded = True
            return self._root

    def object(self, number: int) -> ObjectRecord:
        """Return an object's record.

        Raises:
            NotHereError: If there is none of this number.
        """
        for item in self.record.objects:
            if item.id == number:
                return item
        raise NotHereError(f"expected an object of this picture ({', '.join(str(item.id) for item in self.record.living) or 'it has none'}), got {number}")

    def add(self, name: str = "", color: str | None = None) -> ObjectRecord:
        """Make an empty object.

        Raises:
            LimitError: If there are too many.
        """
        with self.lock:
            image = self.image
            if len(self.record.objects) >= self._settings.objects:
                raise LimitError(f"expected at most {self._settings.objects} objects on a picture, got one more")
            number = max((item.id for item in self.record.objects), default=0) + 1
            color = color or (COLORS[number - 1] if number <= len(COLORS) else "#{:02x}{:02x}{:02x}".format(*distinct_color(number - 1)))
            item = ObjectRecord(number, name, color, masks.encode_rle(np.zeros(image.shape[:2], bool)))
            self.record.objects.append(item)
            self._store.write(self.record)
            return item

    def describe(self, number: int, **changes: object) -> ObjectRecord:
        """Change an object's name, colour, hidden or deleted."""
        with self.lock:
            item = self.object(number)
            for name, value in changes.items():
                setattr(item, name, value)
            self._store.write(self.record)
            return item

    def change(self, number: int, act: Callable[[Session], Segmentation]) -> ObjectRecord:
        """Do something in an object's session, undo for example, and save what came of it.

        Raises:
            FretsawError: Whatever the act complains of, or that nothing can be written; nothing is changed then.
        """
        with self.lock:
            item = self.object(number)
            session = self._session(item)
            before = self._mask(item)
            result = act(session)
            try:
                self._save(item, session, result)
            except OutputError:
                # What is not on disk was not done.
                self._sessions.pop(number)
                self.record = self._store.read(self.record.id) or self.record
                raise
            self._note(item, before, result.mask)
            return item

    def changed(self, number: int, since: int | None) -> Change | None:
        """Return what the last change did to an object's mask, for one who knows revision `since`; None where that is not the one before."""
        with self.lock:
            revision, change = self.object(number).revision, self._changes.get(number)
            if since == revision:
                return Change(revision, (0, 0, 0, 0), NOTHING)
            return change if change is not None and change.since == since == revision - 1 else None

    def extend(self, number: int, act: Callable[[Session], Segmentation]) -> ObjectRecord:
        """`change` by one more interaction.

        Raises:
            LimitError: If the object has too many already.
        """
        with self.lock:
            if self.object(number).position >= self._settings.steps:
                raise LimitError(f"expected at most {self._settings.steps} interactions with an object; start a new one, or reset it")
            return self.change(number, act)

    def stroke(self, number: int, x: int, y: int, rle: Mapping[str, Any], adds: bool) -> ObjectRecord:
        """Set the pixels that a brush has covered, or clear them; one step, or none where nothing changes.

        Args:
            number: The object.
            x: Left column of the run lengths' box on the picture.
            y: Its top row.
            rle: The covered pixels inside the box.
            adds: Whether they are set.

        Raises:
            ShapeError: If the box does not lie inside the picture.
        """
        with self.lock:
            height, width = self.image.shape[:2]
            # Before anything is decoded: the size is the client's word.
            rows, columns = rle["size"]
            if min(x, y) < 0 or min(rows, columns) < 1 or y + rows > height or x + columns > width:
                raise ShapeError(f"expected a stroke inside the picture ({height}, {width}), got ({rows}, {columns}) at x = {x}, y = {y}")
            item = self.object(number)
            covered, before = masks.decode_rle(rle), self._mask(item)
            place = np.s_[y : y + rows, x : x + columns]
            if not (covered & (before[place] != adds)).any():
                return item
            mask = before.copy()
            mask[place] = np.where(covered, adds, mask[place])
            return self.extend(number, lambda session: session.mask(mask))

    def mask(self, number: int, rle: Mapping[str, Any]) -> ObjectRecord:
        """Put a mask of one's own in place of an object's current one.

        Raises:
            ShapeError: If it is not of the picture's size.
        """
        if tuple(rle["size"]) != self.image.shape[:2]:
            raise ShapeError(f"expected a mask of the image's size {self.image.shape[:2]}, got {tuple(rle['size'])}")
        mask = masks.decode_rle(rle)
        return self.extend(number, lambda session: session.mask(mask))

    def split(self, number: int) -> list[ObjectRecord]:
        """Make an object of every part of an automatic cut, or of every connected piece of another mask; the whole is thrown away, and can be taken back.

        Returns:
            The new objects, and the whole at the end.

        Raises:
            PromptError: If the mask is of one piece.
        """
        with self.lock:
            whole = self.object(number)
            parts = [(part.name, part.mask) for part in self._session(whole).step.instances] or [("", mask) for mask in _pieces(self._mask(whole))]
            if len(parts) < 2:
                raise PromptError("expected a mask of several pieces, got one that is connected")
            made = [self.extend(self.add(name or whole.name).id, lambda session, mask=mask: session.mask(mask)) for name, mask in parts]
            return [*made, self.describe(number, deleted=True)]

    def put(self, name: str, mask: np.ndarray) -> ObjectRecord:
        """Make an object of a mask (H, W) bool that was drawn elsewhere. Needs no model: the first click on it will.

        Raises:
            ShapeError: If it is not of the picture's size.
            LimitError: If there are too many objects.
        """
        with self.lock:
            if mask.shape != self.image.shape[:2]:
                raise ShapeError(f"{self.record.name}: expected a mask of the picture's size {self.image.shape[:2]}, got {mask.shape}")
            item = self.add(name)
            step = f"{item.id}-1"
            write_step(self._store.step_path(self.record.id, step), Step(score=1.0, full=MaskRuns.of(mask)))
            item.steps, item.position, item.revision = [step], 1, 1
            item.rle, item.score, item.box, item.area = masks.encode_rle(mask), 1.0, masks.mask_to_box(mask), int(np.count_nonzero(mask))
            self._store.write(self.record)
            return item

    def text(self, names: Sequence[str]) -> list[ObjectRecord]:
        """Make an object of every name that the model finds.

        Raises:
            ModelError: If the model has no text mode.
        """
        found = self._segmenter.text(self.image, names)
        made = []
        with self.lock:
            for name in found.present:
                if name != "background":
                    mask = found.mask(name)
                    made.append(self.extend(self.add(name).id, lambda session, mask=mask: session.mask(mask)))
        return made

    def preview(self, number: int | None, click: Click) -> np.ndarray:
        """Return what a click would give, (h, w) bool of at most `PREVIEW_SIDE`; nothing is changed.

        Args:
            number: The object that the click would correct, or None for a new one.
            click: Where the pointer is.
        """
        with self.lock:
            session = self._session(self.object(number)) if number is not None else self.embed()
            trial = session.sibling(session.history)
        trial.zoom = None  # a pointer that moves about must not have a part of the picture encoded at every stop
        mask = trial.click(click.x, click.y, click.positive).mask
        height, width = mask.shape
        scale = min(1.0, PREVIEW_SIDE / max(height, width))
        small = cv2.resize(mask.view(np.uint8), (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_NEAREST)
        return small > 0

    def avoid_others(self, number: int) -> ObjectRecord:
        """Take the other objects out of one: a negative click deep inside each overlap, all as one interaction.

        Raises:
            PromptError: If no other object overlaps.
        """
        with self.lock:
            mask = masks.decode_rle(self.object(number).rle)
            clicks = []
            for other in self.record.living:
                overlap = mask & masks.decode_rle(other.rle) if other.id != number and other.area else None
                if overlap is not None and overlap.any():
                    y, x = np.unravel_index(int(depths(overlap).argmax()), overlap.shape)
                    clicks.append(Click(float(x), float(y), positive=False))
            if not clicks:
                raise PromptError("expected another object that overlaps this one, found none")
            return self.extend(number, lambda session: session.clicks(clicks))

    def result(self, number: int) -> Segmentation:
        """Return an object's current result, with logits and image."""
        with self.lock:
            return self._session(self.object(number)).result

    def _session(self, item: ObjectRecord) -> Session:
        """Return an object's session, restored from its interactions' files where memory has lost it."""
        session = self._sessions.get(item.id)
        if session is None:
            root = self.embed()
            steps = [_with_logits(read_step(self._store.step_path(self.record.id, name), root.model.device), root) for name in item.steps]
            session = root.sibling((Step(), *steps), undone=len(steps) - item.position)
            self._sessions[item.id] = session
            self._names[item.id] = dict(zip(steps, item.steps, strict=True))
        return session

    def _mask(self, item: ObjectRecord) -> np.ndarray:
        """Return an object's current mask, (H, W) bool."""
        if self._seen is not None and self._seen[:2] == (item.id, item.revision):
            return self._seen[2]
        return masks.decode_rle(item.rle)

    def _note(self, item: ObjectRecord, before: np.ndarray, after: np.ndarray) -> None:
        box = masks.mask_to_box(before != after)
        x0, y0, x1, y1 = box
        rle = masks.encode_rle(after[y0:y1, x0:x1]) if x1 else NOTHING
        self._changes[item.id] = Change(item.revision - 1, box, rle)
        self._seen = (item.id, item.revision, after)

    def _save(self, item: ObjectRecord, session: Session, result: Segmentation) -> None:
        steps, known, names = (*session.history[1:], *session.undone), self._names[item.id], {}
        numbers = [int(name.partition("-")[2]) for name in known.values()]
        dropped = [name for step, name in known.items() if step not in steps]
        for step in steps:
            if step not in known:
                numbers.append(max(numbers, default=0) + 1)
                write_step(self._store.step_path(self.record.id, f"{item.id}-{numbers[-1]}"), step)
            names[step] = known.get(step) or f"{item.id}-{numbers[-1]}"
        self._names[item.id] = names
        prompt = session.step.prompt
        item.steps, item.position = list(names.values()), len(session.history) - 1
        item.rle, item.score, item.box, item.area = result.to_rle(), result.score, result.box, result.area
        item.parts = [_part_record(part) for part in result.instances if part.area]
        item.revision += 1
        item.clicks = [(click.x, click.y, click.positive) for click in single_clicks(prompt.clicks, prompt.strokes)]
        item.scribbles = list(prompt.strokes)
        item.prompt_box = (prompt.box.x0, prompt.box.y0, prompt.box.x1, prompt.box.y1) if prompt.box is not None else None
        self._store.write(self.record)
        for name in dropped:
            self._store.step_path(self.record.id, name).unlink(missing_ok=True)


def _pieces(mask: np.ndarray) -> list[np.ndarray]:
    """Return a mask's connected pieces, from left to right, without specks."""
    labels, stats = masks.components(mask)
    left, areas = stats[:, 0], stats[:, 4]
    kept = [number for number in range(1, len(stats)) if areas[number] >= LEAST_PIECE * areas[1:].sum()]
    return [labels == number for number in sorted(kept, key=lambda number: int(left[number]))]


def _part_record(part: Segmentation) -> PartRecord:
    x0, y0, x1, y1 = part.box
    return PartRecord(part.name, part.score, part.box, part.area, masks.encode_rle(part.mask[y0:y1, x0:x1]))


def _with_logits(step: Step, root: Session) -> Step:
    """Return a step from disk with the logits that the next click starts from; a mask that came without a model (`Piece.put`) has none yet."""
    if step.prompt.previous_logits is not None or not isinstance(step.full, MaskRuns):
        return step
    logits = mask_to_logits(step.full.mask(), root.frame, 4 * root.embedding.final.shape[-1]).to(root.model.device)
    return replace(step, prompt=replace(step.prompt, previous_logits=logits))
