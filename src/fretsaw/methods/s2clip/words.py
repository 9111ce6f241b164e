"""Names as people give them: classes with other words for the same thing, and words for whatever is none of them."""

from __future__ import annotations

from collections.abc import Sequence

from fretsaw.errors import ConfigError

Words = tuple[str, ...]
"""One class: its name, then other words for it."""

BACKGROUND_WORDS = (
    *("background", "sky", "cloud", "wall", "floor", "ceiling", "ground", "grass", "tree", "leaves", "wood", "road", "sidewalk", "sand", "water", "sea"),
    *("mountain", "rock", "building", "window", "door", "curtain", "fence", "furniture", "shadow", "texture"),
)
"""What surrounds things in most photos: the background's words where the user names none. Words that are a class's own are left out."""

SEPARATOR = ";"


def read_names(names: Sequence[str | Sequence[str]]) -> tuple[Words, ...]:
    """Return every class's words.

    Args:
        names: One item a class: "sofa", "sofa; couch", or ["sofa", "couch"]. The first word is the class's name.

    Raises:
        ConfigError: If there is no class, a class has no word, a name comes twice, or something else than texts came.
    """
    if isinstance(names, str):
        raise ConfigError(f"expected a list of names, got one text; for a single class give [{names!r}]")
    classes = tuple(_words(name) for name in names)
    if not classes:
        raise ConfigError("expected at least one name, got none")
    firsts = [words[0] for words in classes]
    twice = [name for name in dict.fromkeys(firsts) if firsts.count(name) > 1]
    if twice:
        raise ConfigError(f"expected different names, got {twice[0]!r} twice")
    return classes


def background_for(classes: Sequence[Words], words: Sequence[str] | None) -> Words:
    """Return the words for the background beside some classes.

    Args:
        classes: Their words are left out.
        words: The user's own; None means `BACKGROUND_WORDS`, an empty list that there is no background.

    Raises:
        ConfigError: If words were given and all of them are classes' own.
    """
    taken = {word.lower() for group in classes for word in group}
    given = BACKGROUND_WORDS if words is None else tuple(part for word in words for part in _words(word))
    left = tuple(dict.fromkeys(word for word in given if word.lower() not in taken))
    if given and not left:
        raise ConfigError(f"expected words for the background that are no classes, got {', '.join(given)}")
    return left


def _words(name: str | Sequence[str]) -> Words:
    parts = name.split(SEPARATOR) if isinstance(name, str) else list(name) if isinstance(name, Sequence) else [name]
    if not all(isinstance(part, str) for part in parts):
        raise ConfigError(f"expected a name as a text or a list of texts, got {name!r}")
    words = tuple(part.strip() for part in parts if part.strip())
    if not words:
        raise ConfigError(f"expected a name with at least one word, got {name!r}")
    return words
