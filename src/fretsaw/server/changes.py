"""What a command changes about a picture's record: effects as JSON, small however long an object's history is, and their replay.

A command is kept with its effects, so that a record can be built again without the model:

    {"picture": {"hash": "...", "size": [90, 120]}}              fields of the picture
    {"object": 3, "set": {"name": "cat"}}                        fields of an object; one that is not there yet is made
    {"object": 3, "splice": {"steps": [2, ["3-5"]]}}             a list: the first 2 entries stay, then these follow

Everything here is pure: JSON values in, JSON values out. `picture_log.py` keeps commands, `store.py` decides when.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from fretsaw.errors import DataError
from fretsaw.server.records import IMAGE_RECORD, OBJECT_RECORD, ImageRecord, ObjectRecord

PERSON: ContextVar[str] = ContextVar("person", default="")
"""Who asks, for the log; set around a request's work."""

GROWING = ("steps", "clicks", "scribbles")
"""An object's lists that grow with every interaction: an effect names their end alone."""


@dataclass(frozen=True, slots=True)
class Command:
    """One thing that was done to a picture.

    Attributes:
        revision: Its number, from 1; the record's revision after it.
        time: Seconds since 1970.
        person: Who did it, or "".
        name: What was done: "click", "undo", "rename", ...
        arguments: With what, as far as it is small; for people to read, not for the replay.
        effects: What it changed, see the module.
    """

    revision: int
    time: float
    person: str
    name: str
    arguments: Mapping[str, Any]
    effects: Sequence[Mapping[str, Any]]


def picture_effect(before: ImageRecord | None, after: ImageRecord) -> dict[str, Any]:
    """Return what differs between a picture's own fields, its objects aside."""
    new = _picture_fields(after)
    old = _picture_fields(before) if before is not None else {}
    return {"picture": {name: value for name, value in new.items() if name not in old or old[name] != value}}


def object_effect(before: ObjectRecord | None, after: ObjectRecord) -> dict[str, Any]:
    """Return what differs between an object before, or None where it is new, and after.

    Raises:
        DataError: If the object could not be read back, so that nothing unreadable is ever written.
    """
    try:
        new = OBJECT_RECORD.dump_python(after, mode="json", warnings="error")
        OBJECT_RECORD.validate_python(new)
    except ValueError as error:  # pydantic's errors of both directions
        raise DataError(f"object {after.id}: expected values that can be read back, got: {str(error).splitlines()[-1].strip()[:200]}") from error
    old: dict[str, Any] = OBJECT_RECORD.dump_python(before, mode="json") if before is not None else {}
    effect: dict[str, Any] = {"object": after.id}
    changed = {name: value for name, value in new.items() if name != "id" and (name not in old or old[name] != value)}
    splices = {name: _splice(old.get(name, []), changed.pop(name)) for name in GROWING if name in changed}
    return effect | ({"set": changed} if changed else {}) | ({"splice": splices} if splices else {})


def replay(state: dict[str, Any], commands: Sequence[Command]) -> dict[str, Any]:
    """Return a record as JSON after some more commands; `state` itself is changed on the way.

    Args:
        state: The record as JSON; {} for none.
        commands: In their order.

    Raises:
        DataError: If a command does not follow the one before, or an effect does not fit.
    """
    objects: dict[int, dict[str, Any]] = {}
    try:
        objects = {row["id"]: row for row in state.get("objects", [])}
        for command in commands:
            if command.revision != state.get("revision", 0) + 1:
                raise DataError(f"expected command {state.get('revision', 0) + 1}, got {command.revision}")
            for effect in command.effects:
                _apply(state, objects, effect)
            state["revision"], state["changed"] = command.revision, command.time
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(f"expected a command's effects, got some that do not fit: {type(error).__name__}") from error
    state["objects"] = list(objects.values())
    return state


def _apply(state: dict[str, Any], objects: dict[int, dict[str, Any]], effect: Mapping[str, Any]) -> None:
    if "picture" in effect:
        state.update(effect["picture"])
        return
    row = objects.setdefault(effect["object"], {"id": effect["object"]})
    row.update(effect.get("set", {}))
    for name, (kept, added) in effect.get("splice", {}).items():
        row[name] = [*row.get(name, [])[:kept], *added]


def _picture_fields(record: ImageRecord) -> dict[str, Any]:
    fields: dict[str, Any] = IMAGE_RECORD.dump_python(record, mode="json", exclude={"objects", "changed", "revision"})
    return fields


def _splice(old: Sequence[Any], new: Sequence[Any]) -> list[Any]:
    kept = 0
    while kept < min(len(old), len(new)) and old[kept] == new[kept]:
        kept += 1
    return [kept, list(new[kept:])]
