"""Bring back a picture's work from what is left of its log: commands that can no longer be read cost themselves, and the ones behind them still count.

An effect says what an object is like after a command, so that most of it fits however the object was before. Lists alone (`changes.GROWING`) are told by their
end; what is missing in their middle is taken from the interactions' files where they are there, or left out.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from fretsaw.server.changes import Command
from fretsaw.server.records import IMAGE_RECORD, OBJECT_RECORD, ImageRecord, ObjectRecord, is_text, object_color

NUMBERS_SHOWN = 5
"""Of lost commands, in a sentence."""

PICTURE_FIELDS = ("name", "uploaded", "hash", "size", "notice")


@dataclass(frozen=True, slots=True)
class Salvage:
    """What could be brought back of a picture's work.

    Attributes:
        record: The picture as far as it is known. Its hash is "" where that is lost: the next opening finds it.
        commands: How many commands' effects are in it.
        lost: Sentences that say what is missing; none where all is there.
        gaps: Objects whose interactions have a gap; their clicks and lines are those that could be read.
    """

    record: ImageRecord
    commands: int
    lost: tuple[str, ...]
    gaps: frozenset[int]


def salvage(state: Mapping[str, Any], commands: Sequence[Command], files: Sequence[str], identity: str, name: str) -> Salvage | None:
    """Return what the sound parts of a record and a log give; None where they give nothing.

    Args:
        state: The record as JSON, as it was after some command; {} for none.
        commands: Sound ones, in any order; some may be missing, or there twice, and some may be in the record already.
        files: Names of the interactions' files that are there.
        identity: Of the picture.
        name: The picture's, where the record does not know it.
    """
    first = int(state.get("revision", 0)) + 1
    later: dict[int, Command] = {}
    for command in commands:
        if command.revision >= first:
            later.setdefault(command.revision, command)
    fields = {field: state[field] for field in PICTURE_FIELDS if field in state}
    rows: dict[int, dict[str, Any]] = {row["id"]: dict(row) for row in state.get("objects", [])}
    gaps: set[int] = set()
    unfit, applied = 0, 0
    for _, command in sorted(later.items()):
        fits = True
        for effect in command.effects:
            try:
                if "picture" in effect:
                    fields.update({field: value for field, value in dict(effect["picture"]).items() if field in PICTURE_FIELDS})
                else:
                    number = int(effect["object"])
                    row, gap = _after(rows.get(number), effect)
                    rows[number] = row
                    if gap:
                        gaps.add(number)
            except (TypeError, ValueError, KeyError, AttributeError):
                fits = False
        applied, unfit = applied + fits, unfit + (not fits)
    if not rows and not fields:
        return None
    last = max([*later, first - 1])
    lost = _missing(first, last, later)
    if unfit:
        lost.append(f"{unfit} commands had effects that do not fit")
    size = _size(fields, rows)
    objects: list[ObjectRecord] = []
    for number, row in rows.items():
        known = _mended(number, row, files) if number in gaps else row
        item = _object({"name": "", "color": object_color(number), **known, "id": number}, size)
        if item is None:
            lost.append(f"object {number} is lost: nothing tells its mask")
        else:
            objects.append(item)
    plain: dict[str, Any] = {"name": name, "uploaded": False, **fields, "id": identity, "size": size, "objects": [], "revision": last}
    try:
        record = IMAGE_RECORD.validate_python(plain | {"changed": max([float(state.get("changed", 0.0)), *(row.time for row in later.values())])})
    except (ValidationError, TypeError, ValueError):
        return None
    record.name = record.name if is_text(record.name) else name
    record.notice, record.hash = (text if is_text(text) else "" for text in (record.notice, record.hash))
    record.objects = objects
    return Salvage(record, first - 1 + applied, tuple(lost), frozenset(gaps & {item.id for item in objects}))


def _after(row: dict[str, Any] | None, effect: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return an object after an effect, and whether a change of it before this one is missing; `None` stands in its lists for what is not known."""
    row = dict(row or {})
    before = int(row.get("revision", 0))
    row.update(effect.get("set", {}))
    gap = int(row.get("revision", 0)) > before + 1
    for name, (kept, added) in effect.get("splice", {}).items():
        old = list(row.get(name, []))
        gap = gap or kept > len(old)
        row[name] = [*old[:kept], *[None] * (kept - len(old)), *added]
    return row, gap


def _mended(number: int, row: dict[str, Any], files: Sequence[str]) -> dict[str, Any]:
    """Return an object whose history has a gap with as much of it as there is. The files of interactions that were dropped are deleted, those that count are
    there, and their numbers only grow: where there are as many as there should be, they are the history.
    """
    there = sorted(int(last) for first, _, last in (name.partition("-") for name in files) if first == str(number) and last.isdigit())
    steps = row.get("steps", [])
    steps = [f"{number}-{last}" for last in there] if len(there) == len(steps) else [name for name in steps if name is not None]
    return {**row, "steps": steps} | {name: [value for value in row[name] if value is not None] for name in ("clicks", "scribbles") if name in row}


def _size(fields: Mapping[str, Any], rows: Mapping[int, Mapping[str, Any]]) -> tuple[int, int]:
    """Return the picture's size; where its own is lost, that of most of its masks."""
    sizes = Counter(tuple(row["rle"]["size"]) for row in rows.values() if isinstance(row.get("rle"), dict) and isinstance(row["rle"].get("size"), list | tuple))
    known = tuple(fields.get("size", (0, 0)))
    return known if known != (0, 0) or not sizes else sizes.most_common(1)[0][0]  # type: ignore[return-value]


def _object(row: dict[str, Any], size: tuple[int, int]) -> ObjectRecord | None:
    try:
        item = OBJECT_RECORD.validate_python(row)
    except ValidationError:
        return None
    if tuple(item.rle.get("size", ())) != tuple(size):
        return None
    if not item.is_text:
        item.name, item.parts = "", []
    if not item.is_text:
        return None
    item.position = max(0, min(item.position, len(item.steps)))
    return item


def _missing(first: int, last: int, later: Mapping[int, Command]) -> list[str]:
    count = last - first + 1 - len(later)
    if not count:
        return []
    shown = ", ".join(map(str, itertools.islice((number for number in range(first, last + 1) if number not in later), NUMBERS_SHOWN)))
    shown += f" and {count - NUMBERS_SHOWN} more" if count > NUMBERS_SHOWN else ""
    return [f"command {shown} is lost" if count == 1 else f"commands {shown} are lost"]
