"""The boundary between a stranger's file and its reader: whatever is wrong with the file becomes one `DataError` of one line.

A fault of the file as a whole is raised (`boundary`); a fault of one row costs that row alone and is noted in a sentence (`LeftOut`), which the pictures
carry along. Neither lets an exception of Python's or a library's through, or its words.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from xml.etree import ElementTree
from xml.parsers import expat

from fretsaw.errors import DataError, FretsawError, shown

T = TypeVar("T")

DEEPEST_XML = 100
"""Elements inside each other; annotations need about five."""
_KINDS: Mapping[type, str] = {list: "a list", dict: "an object", str: "text"}


@contextmanager
def boundary(path: str, expected: str) -> Iterator[None]:
    """Turn whatever is raised inside into a `DataError` that begins with the file's name.

    Args:
        path: Of the file.
        expected: What should be in it, for example "labelme's shapes".
    """
    name = path if path.isprintable() else ascii(path)
    try:
        yield
    except FretsawError as error:
        text = str(error)
        if isinstance(error, DataError) and text.startswith(f"{name}: "):
            raise
        raise DataError(f"{name}: {text}" if expected in text else f"{name}: expected {expected}; {text}") from error
    except Exception as error:
        raise DataError(f"{name}: expected {expected}, got {came(error)}") from error


def came(error: Exception) -> str:
    """Return what an exception of Python's says about a stranger's data, in plain words."""
    if isinstance(error, KeyError):
        return f"something without {shown(error.args[0] if error.args else '', 40)}"
    if isinstance(error, RecursionError):
        return "something nested too deeply"
    if isinstance(error, MemoryError):
        return "more than fits into memory"
    if isinstance(error, OSError):
        return f"a file that cannot be read: {error.strerror or type(error).__name__}"
    if isinstance(error, json.JSONDecodeError):
        return f"broken JSON ({error.msg} in line {error.lineno}, column {error.colno})"
    if isinstance(error, UnicodeError):
        return "bytes that are no text in its encoding"
    return "something else"


class Remark(str):
    """A sentence about a file, and what it counts as in a report.

    Attributes:
        kind: What was left out, in the singular: "box", "line", "annotation". "" for a remark on something that was used, or on no row at all.
    """

    __slots__ = ("kind",)
    kind: str

    def __new__(cls, sentence: str, kind: str = "") -> Remark:
        made = super().__new__(cls, sentence)
        made.kind = kind
        return made


def row_kind(place: str) -> str:
    """Return what a place speaks of, without its number: "image 1, polyline 3: ..." is about a polyline; "row" where nothing can be told."""
    found = re.match(r"(?:.*, )?([^\W\d][\w -]*?) \d+$", place.partition(": ")[0])
    return found[1] if found else "row"


class LeftOut:
    """What could be used of a file's rows, and a sentence for each that could not.

    Attributes:
        sentences: One for each row that was left out, with its number, and whatever else is to be said.
        kept: How many rows were used.
        lost: How many were not.
    """

    _reason = ""

    def __init__(self) -> None:
        self.sentences: list[Remark] = []
        self.kept = self.lost = 0

    @contextmanager
    def row(self, place: str, expected: str, kind: str = "") -> Iterator[None]:
        """Note whatever is raised inside, and go on.

        Args:
            place: Which row, for example "annotation 3".
            expected: What it should be, for example "a mask".
            kind: What the report counts it as if it is left out, for example "point"; else what `place` calls it.
        """
        try:
            yield
        except FretsawError as error:
            text = str(error)
            self.lose(text if text.startswith(place) else f"{place}: {text}", kind)
        except Exception as error:
            self.lose(f"{place}: expected {expected}, got {came(error)}", kind)
        else:
            self.kept += 1

    def lose(self, sentence: str, kind: str = "") -> None:
        """Note a row that cannot be used; see `row` for its kind."""
        self.lost += 1
        self._reason = self._reason or sentence
        self.sentences.append(Remark(sentence, kind or row_kind(sentence)))

    def note(self, sentence: str) -> None:
        """Add a sentence about something else than a row."""
        self.sentences.append(Remark(sentence))

    def require_some(self, expected: str) -> None:
        """Raise `DataError` if there were rows and none of them could be used; the first says why."""
        if self.lost and not self.kept:
            more = f" (and {self.lost - 1} more)" if self.lost > 1 else ""
            raise DataError(f"expected {expected}, got none that can be used; {self._reason}{more}")


def field(row: object, key: str, kind: type[T], place: str = "") -> T:
    """Return an entry of a JSON object.

    Args:
        row: What should be an object.
        key: Of the entry.
        kind: list, dict or str; `object` takes anything.
        place: For the message: where the row stands.

    Raises:
        DataError: If the row is no object, or the entry is absent or of another kind.
    """
    before = f"{place}: " if place else ""
    if not isinstance(row, dict):
        raise DataError(f"{before}expected an object with {key!r}, got {shown(row)}")
    if key not in row:
        raise DataError(f"{before}expected {_KINDS.get(kind, 'something')} as {key!r}, found {shown(list(row)) if row else 'nothing'}")
    if not isinstance(row[key], kind):
        raise DataError(f"{before}expected {_KINDS.get(kind, 'something')} as {key!r}, got {shown(row[key])}")
    return row[key]


def whole_number(value: object, what: str) -> int:
    """Return a whole number, however it was written: 40, 40.0, "40".

    Raises:
        DataError: If it is something else, or has more than 12 digits.
    """
    number = value
    if isinstance(value, str) and len(value) <= 24:
        try:
            number = float(value)
        except ValueError:
            number = None
    if isinstance(number, bool) or not isinstance(number, int | float) or not -(10**12) < number < 10**12 or number != int(number):
        raise DataError(f"expected a whole number as {what}, got {shown(value, 40)}")
    return int(number)


class Doubles:
    """Makes objects of JSON's pairs and counts the keys that stand twice in one object; the last value counts."""

    def __init__(self) -> None:
        self._twice: dict[str, int] = {}

    def made(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Return the pairs as a dictionary; for `json`'s `object_pairs_hook`."""
        row = dict(pairs)
        if len(row) < len(pairs):
            for key, times in Counter(key for key, _ in pairs).items():
                if times > 1:
                    self._twice[key] = self._twice.get(key, 0) + 1
        return row

    def note(self, left: LeftOut) -> None:
        """Say which keys stood twice."""
        for key, times in list(self._twice.items())[:20]:
            left.note(f"the key {shown(key, 40)} stands twice in {times} {'object' if times == 1 else 'objects'}; the last value counts")


def parse_json(content: bytes, left: LeftOut) -> Any:
    """Return what a JSON file holds; a key that stands twice in one object is noted, and its last value counts.

    Infinity and NaN, which JSON does not have but many programs write, come as floats. Takes some 20 times the file's size; see `json_stream` for large files.

    Raises:
        ValueError, RecursionError, MemoryError: Whatever `boundary` turns into words.
    """
    doubles = Doubles()
    found = json.loads(content, object_pairs_hook=doubles.made)
    doubles.note(left)
    return found


def parse_xml(content: bytes) -> ElementTree.Element:
    """Return the root of an XML file.

    Entities of the file's own are refused, since a few lines of them unfold into gigabytes, and so is what lies more than `DEEPEST_XML` elements deep.

    Raises:
        DataError: If the file is no XML, or one of those.
    """
    parser, builder = expat.ParserCreate(), ElementTree.TreeBuilder()
    parser.buffer_text = True
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST_XML:
            raise DataError(f"expected at most {DEEPEST_XML} elements inside each other, got more")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def entity(name: str, *rest: object) -> None:
        raise DataError(f"expected no entities of the file's own, got {shown(name, 40)}")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    parser.EntityDeclHandler = entity
    try:
        parser.Parse(content, True)
        return builder.close()
    except (expat.ExpatError, AssertionError) as error:
        raise DataError(f"expected XML, got: {error}") from error
    except (LookupError, ValueError) as error:
        raise DataError("expected XML in an encoding that is known, got another one") from error
