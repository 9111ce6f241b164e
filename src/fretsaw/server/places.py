"""What clients are told about files: their names, never where the server keeps them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

LONGEST_TEXT = 600
"""Characters of what a client is told; it may quote what the client has sent."""

UPLOAD = "the upload"


class FolderHider:
    """Takes the server's folders out of texts: a picture is called by its name in the served folder, a saved file by its name alone.

    Args:
        data: Where work is kept.
        folder: The served folder, if there is one.
    """

    def __init__(self, data: Path, folder: Path | None) -> None:
        self._rules: list[tuple[re.Pattern[str], str | None]] = []
        roots = [(spelling, True) for spelling in _spellings(data)] + [(spelling, False) for spelling in _spellings(folder)]
        # The longer one first: the data may lie in the served folder, or the other way round.
        for root, is_data in sorted(roots, key=lambda row: -len(row[0])):
            self._rules += _data_rules(root) if is_data else _folder_rules(root, "the served folder")
        others = sorted({spelling for place in _other_places() for spelling in _spellings(place)}, key=len, reverse=True)
        for root in others:
            self._rules.append((re.compile(rf"{re.escape(root)}/(?:[^\s:'\"]*/)?"), ""))

    def hide(self, text: str, upload: str = UPLOAD) -> str:
        """Return a text as clients may see it: no folder of the server in it, one line of at most `LONGEST_TEXT` printable characters.

        Args:
            text: What was to be said.
            upload: How the client calls the file that it is sending.
        """
        text = text[: 20 * LONGEST_TEXT]
        for pattern, name in self._rules:
            text = pattern.sub((upload if name is None else name).replace("\\", r"\\"), text)
        line = printable(" ".join(text.split()))
        return line if len(line) <= LONGEST_TEXT else f"{line[: LONGEST_TEXT - 4]} ..."


def printable(text: str) -> str:
    """Return a text with what would move a terminal's cursor, or cannot be shown, written as Python writes it."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _data_rules(root: str) -> list[tuple[re.Pattern[str], str | None]]:
    """What is received lies under a made-up name; what is kept, in a folder by the picture's id."""
    start = re.escape(root)
    return [
        (re.compile(rf"{start}/incoming/[0-9a-z-]+/(?=\S)"), ""),
        (re.compile(rf"{start}/incoming/[0-9a-z-]+"), None),
        (re.compile(rf"{start}/images/[0-9a-f]{{24}}/original"), UPLOAD),
        (re.compile(rf"{start}/(?:[^\s:'\"]*/)?"), ""),
        (re.compile(rf"{start}(?![\w.-])"), "the server's folder"),
    ]


def _folder_rules(root: str, name: str) -> list[tuple[re.Pattern[str], str | None]]:
    return [(re.compile(rf"{re.escape(root)}/"), ""), (re.compile(rf"{re.escape(root)}(?![\w.-])"), name)]


def _spellings(place: Path | None) -> Iterator[str]:
    """Yield a folder's path as it was given and as the system knows it; the root of the disk is none, since its name is in every path."""
    if place is not None:
        yield from {text for text in (str(place), str(place.absolute()), str(place.resolve())) if text not in (".", "/", "")}


def _other_places() -> Iterator[Path]:
    """Yield where else a message might come from: weights, the program itself, temporary files."""
    yield from (Path(tempfile.gettempdir()), Path(__file__).parents[2])
    try:
        yield Path.home()
    except RuntimeError:  # a user without a home
        return
