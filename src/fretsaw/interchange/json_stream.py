"""Read a JSON object of any length piece by piece: the elements of its long lists one after the other, in bounded memory and linear time.

The elements go through Python's own decoder, so that they mean the same as in a file that is read at once: Infinity and NaN, which JSON does not have but
many programs write, come as floats. (The well-known streaming readers refuse these, and files of annotations are full of them.)
"""

from __future__ import annotations

import codecs
import json
import tempfile
from array import array
from collections.abc import Collection, Hashable, Iterator
from json import JSONDecodeError
from typing import IO, Any

CHUNK = 2**20
"""Bytes that are read at once."""
MOST_ELEMENT = 2**28
"""Characters of one element; what is longer is no row of a list."""
IN_MEMORY = 2**23
"""Bytes of rows that `Groups` keeps in memory before it goes to the disk."""
_SPACE = " \t\n\r"


def elements(file: IO[bytes], lists: Collection[str], made: Any = None) -> Iterator[tuple[str, int | None, Any]]:
    """Yield what a JSON object holds, in the order of the file.

    Args:
        file: Opened in binary mode, at its beginning; UTF-8, with or without a byte order mark.
        lists: Keys whose lists are given element by element.
        made: What makes an object of its pairs, see `json.JSONDecoder`.

    Yields:
        (key, n, value): the n-th element, from 1, of one of the lists; an empty list yields nothing but (key, 0, None), which comes before its elements.
        (key, None, value): what stands under any other key, or under one of the lists' keys where that is no list.

    Raises:
        ValueError: If the file is no JSON object; also UnicodeDecodeError and RecursionError, as `json.loads` does.
    """
    text = _Text(file, made)
    if text.next() != "{":
        raise ValueError("expected a JSON object")
    text.take("{")
    if text.next() == "}":
        text.take("}")
    else:
        while True:
            key = text.value()
            if not isinstance(key, str):
                raise ValueError(f"expected a name in quotes, got {str(key)[:40]!r}")
            text.take(":")
            if key in lists and text.next() == "[":
                yield key, 0, None
                yield from ((key, number, value) for number, value in enumerate(_list(text), 1))
            else:
                yield key, None, text.value()
            if text.next() != ",":
                break
            text.take(",")
        text.take("}")
    if text.next():
        raise ValueError("expected nothing behind the JSON object")


def _list(text: _Text) -> Iterator[Any]:
    text.take("[")
    if text.next() == "]":
        text.take("]")
        return
    while True:
        yield text.value()
        if text.next() != ",":
            break
        text.take(",")
    text.take("]")


class _Text:
    """A file's text, of which only what is not yet used is kept."""

    def __init__(self, file: IO[bytes], made: Any) -> None:
        self._file, self._decoder = file, json.JSONDecoder(object_pairs_hook=made)
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._text, self._place, self._ended = "", 0, False

    def next(self) -> str:
        """Return the next character that is no white space, "" at the end; it stays."""
        while True:
            while self._place < len(self._text) and self._text[self._place] in _SPACE:
                self._place += 1
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._more(CHUNK):
                return ""

    def take(self, expected: str) -> None:
        """Pass over one character."""
        found = self.next()
        if found != expected:
            raise ValueError(f"expected {expected!r} in JSON, got {found!r}" if found else "JSON that is cut short")
        self._place += 1

    def value(self) -> Any:
        """Return the next value. Where the text that was read ends in it, twice as much is read, so that time stays linear."""
        self.next()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._place)
            except JSONDecodeError as error:
                # A fault far from the end of what was read is no matter of reading on.
                if self._ended or (error.pos < len(self._text) - 64 and "Unterminated" not in error.msg):
                    raise
            else:
                if end + 4 <= len(self._text) or self._ended:  # else a number may go on: 1, 1., 1e and 1e+ begin with numbers
                    self._place = end
                    return value
            if len(self._text) - self._place > MOST_ELEMENT:
                raise ValueError(f"expected rows of at most {MOST_ELEMENT} characters, got a longer one")
            self._more(max(CHUNK, len(self._text) - self._place))

    def _more(self, count: int) -> bool:
        if self._ended:
            return False
        content = self._file.read(count)
        self._ended = not content
        self._text = self._text[self._place :] + self._decode(content, final=not content)
        self._place = 0
        return not self._ended or bool(self._text)


class Groups:
    """Rows by a key, many of them on the disk: what is kept in memory is 16 bytes a row and an entry a key. A context manager.

    Rows are JSON values; they come back in the order in which they were put.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115, closed by __exit__
        self._places, self._before = array("q"), array("q")
        self._last: dict[Hashable, int] = {}

    def put(self, key: Hashable, row: Any) -> None:
        """Add a row to those of a key."""
        self._places.append(self._file.tell())
        self._before.append(self._last.get(key, -1))
        self._last[key] = len(self._places) - 1
        self._file.write(json.dumps(row).encode("ascii") + b"\n")

    def keys(self) -> list[Hashable]:
        """Return the keys that have rows which were not taken."""
        return list(self._last)

    def take(self, key: Hashable) -> list[Any]:
        """Return the rows of a key and forget them."""
        numbers, number = [], self._last.pop(key, -1)
        while number >= 0:
            numbers.append(number)
            number = self._before[number]
        found, end = [], self._file.tell()
        for number in reversed(numbers):
            self._file.seek(self._places[number])
            found.append(json.loads(self._file.readline()))
        self._file.seek(end)
        return found

    def __enter__(self) -> Groups:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
