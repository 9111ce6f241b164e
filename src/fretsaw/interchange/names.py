"""The one place where a name out of a stranger's file becomes a name that every format and the server's store can hold and read back.

Names of classes (`class_name`); and one rule for names of pictures, which files of annotations give as names, paths of another machine, and addresses:

- `picture_name` makes a relative path with forward slashes of any of them.
- `key` tells which names mean the same: whichever way accents are composed (NFC, NFD), and in any case.
- `NameIndex` finds the picture that a name means among those that are there.
- `Stems` gives each picture a path for the files about it, which no other picture has on any system.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import parse_qs, unquote, urlsplit

from fretsaw.errors import DataError, shown

MOST_CHARACTERS = 200
"""Of a class name; whole sentences fit, as referring expressions are."""
MOST_PATH_CHARACTERS = 1000
"""Of a picture's name with its folders."""
MOST_ADDRESS_CHARACTERS = 8000
"""Of an address; those that are signed are long."""

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


class PictureName(str):
    """A picture's name, which still knows the longer path that it was made of.

    Attributes:
        path: The same with all folders of the address or path, where `picture_name` left only the last part; to find the picture among others by.
    """

    __slots__ = ("path",)
    path: str


def picture_name(value: object, place: str = "file name", folder: str = "") -> PictureName:
    """Return a picture's name: a path with forward slashes, up to `MOST_PATH_CHARACTERS`, that stays inside a folder.

    An address gives the last part of its path, decoded, without its query; Label Studio's address of a local file gives the path in it. Backslashes become
    slashes. Of what another machine alone can find (a drive, a path from the root, a path that leads out of the folder), the file's own name is left. A
    relative path keeps its folders. Text is cleaned and refused as by `class_name`. What comes out comes out again when it is put in.

    Args:
        value: As it was read.
        place: For the message: where it stands.
        folder: The folder of the file that holds the name, where names are relative to that, as labelme's are.

    Raises:
        DataError: If it is refused, or names no file.
    """
    what = "a picture's file name"
    if isinstance(value, str) and value[:5].lower() == "data:":
        raise DataError(f"{place}: expected {what}, got the picture itself as a data: address")
    name, path = _text(value, place, what, MOST_ADDRESS_CHARACTERS), ""
    for _ in range(20):
        before, (name, longer) = name, _as_path(name, folder, place, value)
        name, folder, path = _text(name, place, what, MOST_PATH_CHARACTERS), "", path or longer
        if name == before:
            made = PictureName(name)
            made.path = path
            return made
    raise DataError(f"{place}: expected {what}, got {shown(value, 60)}")


def key(name: str) -> str:
    """Return what is equal for names that mean the same file on any system: composed accents, no difference of case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class NameIndex:
    """Finds which of some pictures a name means.

    Args:
        names: Paths with forward slashes.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names: dict[str, None] = dict.fromkeys(names)
        self._by_last: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        for name in self._names:
            last = key(name).rpartition("/")[2]
            self._by_last.setdefault(last, []).append(name)
            self._by_stem.setdefault(_without_suffix(last), []).append(name)

    def find(self, name: str) -> str | None:
        """Return the picture of this name; else the only one whose path ends alike, as far as they agree; else None.

        Case and accents count only where several pictures differ by nothing else. A name is looked for without what Label Studio puts before the names of
        uploads (eight characters and a dash), and without its suffix, only where nothing fits as it stands.
        """
        if name in self._names:
            return name
        name = getattr(name, "path", name)
        folder, _, last = name.rpartition("/")
        place = f"{folder}/" if folder else ""
        for candidate in (name, place + _UPLOAD.sub("", last, count=1)):
            if (found := self._best(candidate, self._by_last.get(key(candidate).rpartition("/")[2], []))) is not None:
                return found
        return self._best(name, self._by_stem.get(key(last), [])) if "." not in last else None

    @staticmethod
    def _best(name: str, candidates: list[str]) -> str | None:
        if len(candidates) < 2:
            return candidates[0] if candidates else None
        same = [found for found in candidates if key(found) == key(name)]
        if len(same) == 1:
            return same[0]
        for form in (str, key):
            parts = form(name).split("/")
            shared = [_ending(parts, form(found).split("/")) for found in candidates]
            best = max(shared)
            if best and shared.count(best) == 1:
                return candidates[shared.index(best)]
        return None


class Stems:
    """Gives each picture a path without suffix for files about it; no two are equal, also where case does not count, and all can be written on any system.

    The first picture of a stem gets it (a.jpg: a), later ones keep their full name (a.png: a.png), or get a number behind it.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    @staticmethod
    def alone(file_name: str) -> str:
        """Return the stem that a picture gets where no other has it."""
        return _without_suffix(_writable(file_name)).rstrip(". ")

    def take(self, file_name: str) -> str:
        """Return the stem of one more picture."""
        number = 1
        full = _writable(file_name)
        stem = self.alone(file_name)
        while key(stem) in self._taken:
            stem = full if number == 1 else f"{full}-{number}"
            number += 1
        self._taken.add(key(stem))
        return stem


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/{2,}")
_LOCAL_FILES = re.compile(r"(?:.*/)?data/local-files/?\?(.*)", re.DOTALL)
_DRIVE = re.compile(r"[A-Za-z]:")
_QUERY = re.compile(r"(.*\.[A-Za-z0-9]{2,5})\?[^/]*", re.DOTALL)
_UPLOAD = re.compile(r"^[0-9a-z]{8}-(?=.)", re.IGNORECASE)
_NOT_WRITABLE = re.compile(r'[<>:"|?*\\]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(\..*)?", re.IGNORECASE)
_LONGEST_PART = 180
"""Bytes of one part of a path that is written; file systems allow 255, and suffixes and numbers follow."""


def _as_path(name: str, folder: str, place: str, value: object) -> tuple[str, str]:
    """Return a name one step nearer to a path inside a folder, and the same with all its folders."""
    outside = False
    if (local := _LOCAL_FILES.fullmatch(name)) and (named := parse_qs(local[1]).get("d")):
        name = named[0]
    elif _SCHEME.match(name):
        try:
            name = unquote(urlsplit(name).path)
        except ValueError as error:
            raise DataError(f"{place}: expected a picture's file name or address, got {shown(value, 60)}") from error
        outside = True
    elif name.startswith("/data/"):  # Label Studio's own addresses
        name = unquote(name.partition("?")[0])
    elif query := _QUERY.fullmatch(name):
        name = query[1]
    name = name.replace("\\", "/")
    if _DRIVE.match(name):
        name, outside = name[2:], outside or name[2:3] == "/"
    outside = outside or name.startswith(("/", "~"))
    path = posixpath.normpath(name.lstrip("/") if outside else posixpath.join(folder, name))
    last = path.rpartition("/")[2]
    if last in ("", ".", ".."):
        raise DataError(f"{place}: expected a picture's file name, got {shown(value, 60)}")
    return last if outside or path.startswith("../") else path, re.sub(r"^(\.\./)+", "", path)


def _without_suffix(name: str) -> str:
    return re.sub(r"(?<=[^/])\.[^./]*$", "", name)


def _ending(one: list[str], other: list[str]) -> int:
    """Return how many parts two paths share from their ends."""
    count = 0
    while count < min(len(one), len(other)) and one[-1 - count] == other[-1 - count]:
        count += 1
    return count


def _writable(name: str) -> str:
    """Return a relative path as it can be written on any system: nothing hidden, reserved, too long, or with characters that a file's name cannot have."""
    parts = []
    for part in name.split("/"):
        made = _NOT_WRITABLE.sub("_", part).rstrip(". ")
        made = f"_{made}" if not made or made.startswith(".") or _RESERVED.fullmatch(made) else made
        if len(made.encode()) > _LONGEST_PART:
            made = made.encode()[: _LONGEST_PART - 20].decode(errors="ignore") + "-" + hashlib.sha256(part.encode()).hexdigest()[:12]
        parts.append(made)
    return "/".join(parts)


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
