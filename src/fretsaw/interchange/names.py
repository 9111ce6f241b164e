"""The one place where a name out of a stranger's file becomes a name that every format and the server's store can hold and read back."""

from __future__ import annotations

import unicodedata

from fretsaw.errors import DataError, shown

MOST_CHARACTERS = 200
"""Of a class name; whole sentences fit, as referring expressions are."""
MOST_PATH_CHARACTERS = 1000
"""Of a picture's name with its folders."""

_REFUSED = {"Cc": "control characters", "Cs": "lone surrogates", "Zl": "line separators", "Zp": "paragraph separators"}
"""What breaks lines, terminals, XML or UTF-8, by Unicode's category."""


def class_name(value: object, place: str = "name") -> str:
    """Return a class name.

    Cleaned: white space and byte order marks at both ends go, and a whole number becomes its digits, since some tools number their classes.

    Refused: whatever is no text (a list, an object, a fraction, true, null), nothing, more than `MOST_CHARACTERS`, control characters (line breaks and tabs
    among them), line and paragraph separators, lone surrogates, which no file can hold, and the code points that are no characters.

    Args:
        value: As it was read.
        place: For the message: where it stands.

    Raises:
        DataError: If it is refused.
    """
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18:
        return str(value)
    return _text(value, place, "a class name", MOST_CHARACTERS)


def picture_name(value: object, place: str = "file name") -> str:
    """Return a picture's file name, as `class_name` cleans and refuses, numbers apart; up to `MOST_PATH_CHARACTERS`, and folders stay as they are.

    Raises:
        DataError: If it is refused.
    """
    return _text(value, place, "a picture's file name", MOST_PATH_CHARACTERS)


def _stripped(text: str) -> str:
    while text != (text := text.strip().strip("\ufeff")):
        pass
    return text


def _text(value: object, place: str, what: str, most: int) -> str:
    if not isinstance(value, str):
        raise DataError(f"{place}: expected {what}, got {shown(value)}, which is no text")
    # Before anything is done with it: it may be of any length.
    if len(value) > 2 * most or not (name := _stripped(value)) or len(name) > most:
        raise DataError(f"{place}: expected {what} of 1 to {most} characters, got {len(value)}: {shown(value, 60)}")
    for character in name:
        kind = unicodedata.category(character)
        if kind in _REFUSED or (ord(character) & 0xFFFE) == 0xFFFE or 0xFDD0 <= ord(character) <= 0xFDEF:
            raise DataError(f"{place}: expected {what} without {_REFUSED.get(kind, 'code points that are no characters')}, got {shown(value, 60)}")
    return name
