"""Class lists as things: the names of a data set's classes with their ids, colours, supercategories and attributes.

Every reader hands on what its format tells (`AnnotatedPicture.classes`), and every writer writes as much of it as its format has. Where no format told an
id, ids follow the names' alphabetical order, never the order in which names happen to occur: the same classes get the same ids whichever picture comes first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from fretsaw.errors import DataError, shown

MOST_ID = 10**12


@dataclass(frozen=True, slots=True)
class ClassAttribute:
    """Something that can be said of each object of a class, for example whether it is occluded.

    Attributes:
        name: What it is called.
        kind: "text", "number", "checkbox", "select" or "radio", as CVAT names them.
        values: Those to choose from, or a number's least value, greatest value and step; none for a text.
        default: The value of an object of which nothing is said.
        mutable: Whether it may change from frame to frame of a video.
    """

    name: str
    kind: str = "text"
    values: tuple[str, ...] = ()
    default: str = ""
    mutable: bool = False


@dataclass(frozen=True, slots=True)
class ObjectClass:
    """One class.

    Attributes:
        name: Unique in its list.
        id: Its number in the data set; None where no file told one.
        color: "#rrggbb"; "" where no file told one.
        supercategory: The class or group it belongs to; "" for none.
        attributes: What can be said of its objects.
    """

    name: str
    id: int | None = None
    color: str = ""
    supercategory: str = ""
    attributes: tuple[ClassAttribute, ...] = ()


@dataclass(frozen=True, slots=True)
class ClassList:
    """Classes with different names and different ids, in the order of their file.

    Attributes:
        classes: The classes.

    Raises:
        DataError: If two share a name or an id.
    """

    classes: tuple[ObjectClass, ...] = ()
    _by_name: dict[str, ObjectClass] = field(init=False, repr=False, compare=False, hash=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._by_name.update((entry.name, entry) for entry in self.classes)
        ids = [entry.id for entry in self.classes if entry.id is not None]
        if len(self._by_name) < len(self.classes) or len(set(ids)) < len(ids):
            raise DataError(f"expected classes with different names and ids, got {shown([(entry.name, entry.id) for entry in self.classes])}")

    @classmethod
    def of(cls, names: Iterable[str]) -> ClassList:
        """Return the list of some names, each once, without ids."""
        return cls(tuple(map(ObjectClass, dict.fromkeys(names))))

    @classmethod
    def in_order(cls, names: Iterable[str], first: int = 0) -> ClassList:
        """Return the list of names whose place in the list is their id, as in a file of one name a line; a repeated name keeps its first place."""
        places: dict[str, int] = {}
        for place, name in enumerate(names, first):
            places.setdefault(name, place)
        return cls(tuple(ObjectClass(name, place) for name, place in places.items()))

    def __len__(self) -> int:
        return len(self.classes)

    def __iter__(self) -> Iterator[ObjectClass]:
        return iter(self.classes)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> ObjectClass:
        return self._by_name[name]

    @property
    def names(self) -> tuple[str, ...]:
        """The names in the order of the list."""
        return tuple(entry.name for entry in self.classes)

    @property
    def by_id(self) -> dict[int, str]:
        """The names of the classes that have an id."""
        return {entry.id: entry.name for entry in self.classes if entry.id is not None}

    def with_names(self, names: Iterable[str]) -> ClassList:
        """Return the list with those names added, without ids, that it lacks."""
        new = [name for name in dict.fromkeys(names) if name not in self]
        return ClassList((*self.classes, *map(ObjectClass, new))) if new else self

    def merged(self, other: ClassList) -> ClassList:
        """Return the classes of both. What this list tells of a class stays; the other fills in what it does not tell, and an id only where it is free."""
        if other is self or not other.classes:
            return self
        if not self.classes:
            return other
        taken = {entry.id for entry in self.classes}
        found = dict(self._by_name)
        for entry in other.classes:
            number = entry.id if entry.id not in taken else None
            mine = found.get(entry.name)
            if mine is None:
                found[entry.name] = replace(entry, id=number)
            else:
                found[entry.name] = ObjectClass(
                    mine.name,
                    mine.id if mine.id is not None else number,
                    mine.color or entry.color,
                    mine.supercategory or entry.supercategory,
                    mine.attributes or entry.attributes,
                )
            taken.add(found[entry.name].id)
        return ClassList(tuple(found.values()))

    def numbered(self, first: int = 1) -> ClassList:
        """Return the list in the order of its ids. Classes without one follow in alphabetical order and get the numbers after the greatest id.

        Args:
            first: The id of the first class where none has an id.
        """
        known = sorted((entry for entry in self.classes if entry.id is not None), key=lambda entry: entry.id or 0)
        others = sorted((entry for entry in self.classes if entry.id is None), key=lambda entry: (entry.name.casefold(), entry.name))
        after = known[-1].id + 1 if known and known[-1].id is not None else first
        return ClassList((*known, *(replace(entry, id=after + place) for place, entry in enumerate(others))))

    def dense(self, first: int = 0) -> ClassList:
        """Return the list numbered without gaps from `first` on, in the order of `numbered`: for formats whose ids count lines or pixel values."""
        return ClassList(tuple(replace(entry, id=first + place) for place, entry in enumerate(self.numbered(first).classes)))

    def ids(self) -> dict[str, int]:
        """Return the ids by name, of classes that have one."""
        return {entry.name: entry.id for entry in self.classes if entry.id is not None}


NO_CLASSES = ClassList()
"""Of a file that tells nothing of its classes."""


class Gathered:
    """The classes of pictures that come one after the other, for a writer: what their lists tell, and the names of objects that no list has."""

    def __init__(self) -> None:
        self._list = NO_CLASSES
        self._last: ClassList | None = None
        self._names: dict[str, int] = {}

    def add(self, classes: ClassList, names: Iterable[str]) -> None:
        """Add a picture's list and the names of its objects."""
        if classes is not self._last:
            self._list, self._last = self._list.merged(classes), classes
        for name in names:
            self._names.setdefault(name, len(self._names))

    def place(self, name: str) -> int:
        """Return the place of a name among those that came, from 0: something short to note until the ids are known."""
        return self._names[name]

    @property
    def places(self) -> list[str]:
        """The names that came, in their order."""
        return list(self._names)

    def all(self) -> ClassList:
        """Return all classes so far."""
        return self._list.with_names(self._names)


def color_text(value: object) -> str:
    """Return a colour as "#rrggbb", "" where it is none: "#rgb", "#rrggbb", "#rrggbbaa", or three or four numbers 0 .. 255."""
    if isinstance(value, str):
        text = value.strip().lower()
        if re.fullmatch(r"#?[0-9a-f]{6}([0-9a-f]{2})?", text):
            return f"#{text.removeprefix('#')[:6]}"
        return f"#{''.join(digit * 2 for digit in text[1:])}" if re.fullmatch(r"#[0-9a-f]{3}", text) else ""
    if isinstance(value, list | tuple) and len(value) in (3, 4) and all(isinstance(part, int) and 0 <= part <= 255 for part in value[:3]):
        return "#" + "".join(f"{part:02x}" for part in value[:3])
    return ""


def color_numbers(text: str) -> tuple[int, int, int]:
    """Return red, green and blue, 0 .. 255, of "#rrggbb"."""
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def voc_color(number: int) -> tuple[int, int, int]:
    """Return the colour of a number 0 .. 255 in Pascal VOC's palette, which many tools use.

    Bits 0, 3, 6 of the number are the high bits of red, bits 1, 4, 7 of green, bits 2, 5 of blue, the lowest first.
    """
    red, green, blue = (sum((number >> (3 * place + channel) & 1) << (7 - place) for place in range(3)) for channel in range(3))
    return red, green, blue


def text_attributes(value: object) -> dict[str, str]:
    """Return what a file says of one object as texts by name; whatever is no plain value is left out, and a flag becomes "true" or "false"."""
    if not isinstance(value, Mapping):
        return {}
    found = {}
    for name, entry in value.items():
        if isinstance(name, str) and isinstance(entry, str | int | float | bool):
            found[name] = str(entry).lower() if isinstance(entry, bool) else str(entry)
    return found
