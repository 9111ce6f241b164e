"""What can be done with the objects of one picture: make, describe, click, paint, split, take back. Each is a command in the picture's log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from fretsaw import masks
from fretsaw.clicks.simulate import depths
from fretsaw.errors import PromptError, ShapeError, StaleSessionError
from fretsaw.history import Step
from fretsaw.masks import MaskRuns
from fretsaw.segmentation import Segmentation
from fretsaw.server.records import ObjectRecord, PartRecord, object_color, shown_prompt
from fretsaw.server.refusals import LimitError, NotHereError, ReplacedError
from fretsaw.session import Session
from fretsaw.session_file import read_steps
from fretsaw.types import Click, Stroke

if TYPE_CHECKING:
    from fretsaw.server.open_picture import OpenPicture

PREVIEW_SIDE = 1024
"""Longest side of a preview's mask; it is shown for a moment only, and must come at once."""

LEAST_COMPONENT = 0.01
"""Share of a mask below which a connected component of it is a speck rather than an object."""

THROWN_AWAY_TOO = 20
"""A picture keeps at most so many times as many objects as may live on it, those included that were thrown away and can be taken back."""

NOTHING = {"size": [0, 0], "counts": ""}
"""Run lengths of a box without a pixel."""


@dataclass(frozen=True, slots=True)
class MaskChange:
    """Where an object's mask has changed, from one revision to the next.

    Attributes:
        since: The revision before.
        box: Half open, x0 y0 x1 y1, around the pixels that changed; of no size where none did.
        rle: The new mask inside the box, as COCO's compressed run lengths.
    """

    since: int
    box: tuple[int, int, int, int]
    rle: dict[str, Any]


class ObjectEdits:
    """The commands on one picture's objects; those on one picture wait for each other.

    Args:
        picture: The picture; its record holds the objects.
    """

    def __init__(self, picture: OpenPicture) -> None:
        self._picture = picture
        self._sessions: dict[int, Session] = {}
        self._names: dict[int, dict[Step, str]] = {}
        self._changes: dict[int, MaskChange] = {}
        self._seen: tuple[int, int, np.ndarray] | None = None  # object, revision and mask of the last change: the next one is most often to the same

    @property
    def nbytes(self) -> int:
        """Memory of the objects' histories."""
        seen = self._seen
        changed = sum(len(change.rle["counts"]) for change in list(self._changes.values()))
        return sum(session.history_nbytes for session in list(self._sessions.values())) + changed + (seen[2].nbytes if seen is not None else 0)

    def forget(self) -> None:
        """Let go of everything that was read or computed."""
        self._sessions, self._names, self._changes, self._seen = {}, {}, {}, None

    def find(self, number: int) -> ObjectRecord:
        """Return an object's record.

        Raises:
            NotHereError: If there is none of this number.
        """
        record = self._picture.record
        for item in record.objects:
            if item.id == number:
                return item
        told = f"; {record.notice}" if record.notice else ""
        raise NotHereError(f"expected an object of this picture ({', '.join(str(item.id) for item in record.living) or 'it has none'}), got {number}{told}")

    def add(self, name: str = "", color: str | None = None) -> ObjectRecord:
        """Make an empty object.

        Raises:
            LimitError: If there are too many.
        """
        with self._picture.changing():
            self._check_number(1)
            item = self._new(name, color)
            self._picture.commit("add", {"name": name}, (None, item))
            return item

    def describe(self, number: int, **changes: object) -> ObjectRecord:
        """Change an object's name or colour, hide it, throw it away or take it back.

        Raises:
            LimitError: If one more living object would be too many.
        """
        with self._picture.changing():
            before = self.find(number)
            after = replace(before, **changes)  # type: ignore[arg-type]
            if before.deleted and not after.deleted:
                self._check_number(1)
            if after != before:
                self._picture.commit("describe", {"object": number, **changes}, (before, after))
            return after

    def change(self, number: int, name: str, arguments: Mapping[str, Any], act: Callable[[Session], Segmentation]) -> ObjectRecord:
        """Do something in an object's session, undo for example, and save what came of it.

        Args:
            number: The object.
            name: Of the command, for the log.
            arguments: With what, for the log.
            act: What is done.

        Raises:
            FretsawError: Whatever the act complains of, or that nothing can be written; nothing is changed then.
        """
        with self._picture.changing():
            item = self.find(number)
            session = self._session(item)
            item = self.find(number)  # a history that could not be read was replaced
            before, history = self._mask(item), (session.history, session.undone)
            try:
                result = act(session)
                after, made, dropped = self._described(item, session, result)
                self._picture.commit(name, {"object": number, **arguments}, (item, after))
            except BaseException:
                # What is not on disk was not done: the session is read again.
                if (session.history, session.undone) != history:
                    self._let_go(number)
                raise
            self._names[number] = made
            for step in dropped:
                self._picture.store.step_path(self._picture.record.id, step).unlink(missing_ok=True)
            self._note(after, before, result.mask)
            return after

    def extend(self, number: int, name: str, arguments: Mapping[str, Any], act: Callable[[Session], Segmentation]) -> ObjectRecord:
        """`change` by one more interaction.

        Raises:
            LimitError: If the object has too many already.
        """
        with self._picture.changing():
            most = self._picture.settings.steps
            if self.find(number).position >= most:
                raise LimitError(f"expected at most {most} interactions with an object; start a new one, or reset it")
            return self.change(number, name, arguments, act)

    def changed(self, item: ObjectRecord, since: int | None) -> MaskChange | None:
        """Return what led to an object's mask, for one who knows that of revision `since`; None where that is not the one before."""
        if since == item.revision:
            return MaskChange(item.revision, (0, 0, 0, 0), NOTHING)
        change = self._changes.get(item.id)
        return change if change is not None and change.since == since == item.revision - 1 else None

    def auto(self, number: int, instances: bool = False) -> ObjectRecord:
        """Cut what stands out. The picture is not held meanwhile, so that others can go on clicking on it.

        Args:
            number: The object whose mask it becomes.
            instances: Look for the separate objects too.

        Raises:
            ModelError: If the model has no automatic mode.
        """
        self.find(number)
        generation = self._picture.generation
        cut = self._picture.embed().cut(instances)
        with self._picture.changing():
            if self._picture.generation != generation:
                raise ReplacedError(self._picture.record.notice)
            return self.extend(number, "auto", {"instances": instances}, lambda session: session.adopt(cut))

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
        with self._picture.changing():
            height, width = self._picture.pixels().shape[:2]
            # Before anything is decoded: the size is the client's word.
            rows, columns = rle["size"]
            if min(x, y) < 0 or min(rows, columns) < 1 or y + rows > height or x + columns > width:
                raise ShapeError(f"expected a stroke inside the picture ({height}, {width}), got ({rows}, {columns}) at x = {x}, y = {y}")
            item = self.find(number)
            covered, before = masks.decode_rle(rle, (rows, columns)), self._mask(item)
            place = np.s_[y : y + rows, x : x + columns]
            if not (covered & (before[place] != adds)).any():
                return item
            mask = before.copy()
            mask[place] = np.where(covered, adds, mask[place])
            return self.extend(number, "stroke", {"x": x, "y": y, "size": [rows, columns], "adds": adds}, lambda session: session.mask(mask))

    def mask(self, number: int, rle: Mapping[str, Any]) -> ObjectRecord:
        """Put a mask of one's own in place of an object's current one.

        Raises:
            ShapeError: If it is not of the picture's size.
        """
        height, width = self._picture.pixels().shape[:2]
        if tuple(rle["size"]) != (height, width):
            raise ShapeError(f"expected a mask of the image's size {(height, width)}, got {tuple(rle['size'])}")
        mask = masks.decode_rle(rle, (height, width))
        return self.extend(number, "mask", {}, lambda session: session.mask(mask))

    def split(self, number: int) -> list[ObjectRecord]:
        """Make an object of every part of an automatic cut, or of every connected component of another mask; the whole is thrown away, and can be taken back.

        Returns:
            The new objects, and the whole at the end.

        Raises:
            PromptError: If the mask is of one component.
        """
        with self._picture.changing():
            whole = self.find(number)
            parts = [(part.name, part.mask) for part in self._session(whole).step.instances] or [("", mask) for mask in _components(self._mask(whole))]
            if len(parts) < 2:
                raise PromptError("expected a mask of several pieces, got one that is connected")
            gone = replace(whole, deleted=True)
            made = self._place([(name or whole.name, mask) for name, mask in parts], "split", {"object": number}, (whole, gone))
            return [*made, gone]

    def put(self, name: str, mask: np.ndarray) -> ObjectRecord:
        """Make an object of a mask (H, W) bool that was drawn elsewhere. Needs no model: the first click on it will.

        Raises:
            ShapeError: If it is not of the picture's size.
            LimitError: If there are too many objects.
        """
        return self.put_all([(name, mask)], "import")[0]

    def put_all(self, named: Sequence[tuple[str, np.ndarray]], command: str, arguments: Mapping[str, Any] | None = None) -> list[ObjectRecord]:
        """`put` several objects by one command: all of them, or none.

        Args:
            named: Name and mask (H, W) bool of each.
            command: Its name in the log.
            arguments: Of the command, for the log.
        """
        with self._picture.changing():
            return self._place(named, command, arguments or {}) if named else []

    def text(self, names: Sequence[str]) -> list[ObjectRecord]:
        """Make an object of every name that the model finds.

        Raises:
            ModelError: If the model has no text mode.
        """
        found = self._picture.segmenter.text(self._picture.pixels(), names)
        return self.put_all([(name, found.mask(name)) for name in found.present if name != "background"], "text", {"names": list(names)})

    def preview(self, number: int | None, click: Click) -> np.ndarray:
        """Return what a click would give, (h, w) bool of at most `PREVIEW_SIDE`; nothing is changed.

        Args:
            number: The object that the click would correct, or None for a new one.
            click: Where the pointer is.
        """
        with self._picture.changing():
            session = self._session(self.find(number)) if number is not None else self._picture.embed()
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
        with self._picture.changing():
            mask = masks.decode_rle(self.find(number).rle)
            clicks: list[Click] = []
            for other in self._picture.record.living:
                overlap = mask & masks.decode_rle(other.rle) if other.id != number and other.area else None
                if overlap is not None and overlap.any():
                    y, x = np.unravel_index(int(depths(overlap).argmax()), overlap.shape)
                    clicks.append(Click(float(x), float(y), positive=False))
            if not clicks:
                raise PromptError("expected another object that overlaps this one, found none")
            return self.extend(number, "avoid", {}, lambda session: session.clicks(clicks))

    def result(self, number: int) -> Segmentation:
        """Return an object's current result, with logits and image."""
        with self._picture.changing():
            return self._session(self.find(number)).result

    def _check_number(self, more: int) -> None:
        record, most = self._picture.record, self._picture.settings.objects
        if len(record.living) + more > most:
            raise LimitError(f"expected at most {most} objects on a picture, got {'one more' if more == 1 else f'{len(record.living) + more}'}")
        if len(record.objects) + more > THROWN_AWAY_TOO * most:
            raise LimitError(f"expected at most {THROWN_AWAY_TOO * most} objects on a picture with those that were thrown away, got more")

    def _new(self, name: str, color: str | None = None, offset: int = 0) -> ObjectRecord:
        """Return an empty object that is not in the record yet; `offset` counts those made before it by the same command."""
        number = max((item.id for item in self._picture.record.objects), default=0) + 1 + offset
        return ObjectRecord(number, name, color or object_color(number), masks.encode_rle(np.zeros(self._picture.pixels().shape[:2], bool)))

    def _place(
        self, named: Sequence[tuple[str, np.ndarray]], command: str, arguments: Mapping[str, Any], *others: tuple[ObjectRecord, ObjectRecord]
    ) -> list[ObjectRecord]:
        """Make objects of masks, and change others, by one command."""
        size = self._picture.pixels().shape[:2]
        for _, mask in named:
            if mask.shape != size:
                raise ShapeError(f"{self._picture.record.name}: expected a mask of the picture's size {size}, got {mask.shape}")
        self._check_number(len(named) - sum(before.deleted < after.deleted for before, after in others))
        made = [self._with_mask(self._new(name, offset=offset), mask, 1.0) for offset, (name, mask) in enumerate(named)]
        self._picture.commit(command, arguments, *((None, item) for item in made), *others)
        return made

    def _with_mask(self, item: ObjectRecord, mask: np.ndarray, score: float) -> ObjectRecord:
        """Return an object whose history is one mask of one's own, the file of which is written."""
        name = f"{item.id}-{max((_step_number(name) for name in item.steps), default=0) + 1}"
        self._picture.store.keep_step(self._picture.record.id, name, Step(score=score, full=MaskRuns.of(mask)))
        return replace(
            item,
            steps=[name],
            position=1,
            revision=item.revision + 1,
            rle=masks.encode_rle(mask),
            score=score,
            box=masks.mask_to_box(mask),
            area=int(np.count_nonzero(mask)),
            clicks=[],
            scribbles=[],
            prompt_box=None,
            parts=[],
        )

    def _session(self, item: ObjectRecord) -> Session:
        """Return an object's session, restored from its interactions' files where memory has lost it.

        Where one of them cannot be read, the object keeps its mask, and its history begins with it: undo cannot go behind what is lost.
        """
        session = self._sessions.get(item.id)
        if session is None:
            try:
                session = self._restored(item)
            except StaleSessionError:
                fresh = replace(item, steps=[], position=0, clicks=[], scribbles=[], prompt_box=None, parts=[], revision=item.revision + 1)
                after = self._with_mask(replace(fresh, steps=item.steps), masks.decode_rle(item.rle), item.score) if item.area else fresh
                self._picture.commit("recover", {"object": item.id}, (item, after))
                session = self._restored(after)
        return session

    def _restored(self, item: ObjectRecord) -> Session:
        root, store, identity = self._picture.embed(), self._picture.store, self._picture.record.id
        lines: dict[Stroke, Stroke] = {}
        height, width = root.image.shape[:2]
        read = read_steps((store.step_path(identity, name) for name in item.steps), (height, width))
        steps = [_with_shared_lines(_with_logits(step, root), lines) for step in read]
        session = root.sibling((Step(), *steps), undone=len(steps) - item.position)
        self._sessions[item.id] = session
        self._names[item.id] = dict(zip(steps, item.steps, strict=True))
        return session

    def _let_go(self, number: int) -> None:
        self._sessions.pop(number, None)
        self._names.pop(number, None)

    def _mask(self, item: ObjectRecord) -> np.ndarray:
        """Return an object's current mask, (H, W) bool."""
        if self._seen is not None and self._seen[:2] == (item.id, item.revision):
            return self._seen[2]
        return masks.decode_rle(item.rle)

    def _note(self, item: ObjectRecord, before: np.ndarray, after: np.ndarray) -> None:
        box = masks.mask_to_box(before != after)
        x0, y0, x1, y1 = box
        rle = masks.encode_rle(after[y0:y1, x0:x1]) if x1 else NOTHING
        self._changes[item.id] = MaskChange(item.revision - 1, box, rle)
        self._seen = (item.id, item.revision, after)

    def _described(self, item: ObjectRecord, session: Session, result: Segmentation) -> tuple[ObjectRecord, dict[Step, str], list[str]]:
        """Write the files of new interactions; return the object as it is now, its steps' names, and the names of those that nobody can come back to."""
        steps, known = (*session.history[1:], *session.undone), self._names[item.id]
        last = max(map(_step_number, known.values()), default=0)
        names: dict[Step, str] = {}
        for before, step in zip((None, *steps), steps, strict=False):
            name = known.get(step)
            if name is None:
                last += 1
                name = f"{item.id}-{last}"
                self._picture.store.keep_step(self._picture.record.id, name, step, before)
            names[step] = name
        after = replace(
            item,
            steps=list(names.values()),
            position=len(session.history) - 1,
            rle=result.to_rle(),
            score=result.score,
            box=result.box,
            area=result.area,
            parts=[_part_record(part) for part in result.instances if part.area],
            revision=item.revision + 1,
            **shown_prompt(session.step.prompt),
        )
        return after, names, [name for step, name in known.items() if step not in names]


def _step_number(name: str) -> int:
    """Return the number of an interaction's file, which counts from 1 within its object."""
    return int(name.partition("-")[2])


def _components(mask: np.ndarray) -> list[np.ndarray]:
    """Return a mask's connected components, from left to right, without specks."""
    labels, stats = masks.components(mask)
    left, areas = stats[:, 0], stats[:, 4]
    kept = [number for number in range(1, len(stats)) if areas[number] >= LEAST_COMPONENT * areas[1:].sum()]
    return [labels == number for number in sorted(kept, key=lambda number: int(left[number]))]


def _part_record(part: Segmentation) -> PartRecord:
    x0, y0, x1, y1 = part.box
    return PartRecord(part.name, part.score, part.box, part.area, masks.encode_rle(part.mask[y0:y1, x0:x1]))


def _with_shared_lines(step: Step, lines: dict[Stroke, Stroke]) -> Step:
    """Return a step from disk whose lines are the very ones of the steps before it: each step's file holds all that were drawn until then."""
    if not step.prompt.strokes:
        return step
    return replace(step, prompt=replace(step.prompt, strokes=tuple(lines.setdefault(stroke, stroke) for stroke in step.prompt.strokes)))


def _with_logits(step: Step, root: Session) -> Step:
    """Return a step from disk with the logits that the next click starts from; a mask that came without a model (`ObjectEdits.put`) has none yet."""
    if step.prompt.previous_logits is not None or not isinstance(step.full, MaskRuns):
        return step
    return replace(step, prompt=replace(step.prompt, previous_logits=root.start_from(step.full.mask())))
