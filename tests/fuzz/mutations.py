"""Sound files made unsound: what generated input starts from is valid, so that most of it gets past the header and meets the code behind it.

Everything here is a pure function of a `random.Random`; `seeded` makes a strategy of one, whose seed hypothesis draws.
"""

from __future__ import annotations

import copy
import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any, TypeVar
from xml.etree import ElementTree

from hypothesis import strategies as st

from fretsaw.errors import shown

T = TypeVar("T")

NUMBERS = (
    0,
    -0.0,
    1,
    2,
    7,
    -1,
    0.5,
    1e-300,
    40.0,
    255,
    256,
    300,
    65535,
    10**4,
    10**5,
    10**6,
    2**31 - 1,
    2**31,
    2**32,
    2**62,
    2**63,
    2**64,
    10**30,
    10**4000,
    -(2**63),
)
NUMBERS += (1e300, float("inf"), float("-inf"), float("nan"))
TEXTS = (
    "",
    " ",
    "x",
    "cat",
    "0",
    "1",
    "1.0",
    "-1",
    "nan",
    "1e999",
    "²",
    "x" * 300,
    "x" * 10_000,
    "a\nb",
    "\x00",
    "\x1b[2J",
    "\u2028",
    "\ufeff",
    "\ud800",
    "\udc80",
    "\ufffe",
)
TEXTS += (
    "../../x.png",
    "/etc/passwd",
    "C:\\x\\y.png",
    "a/b/c.png",
    "猫",
    "e\u0301",
    "%s%n",
    "{0}",
    "<b>&amp;",
    "'\"",
    "rle",
    "mask",
    "polygon",
    "circle",
    "data:,",
)


def seeded(make: Callable[[random.Random], T]) -> st.SearchStrategy[T]:
    """Return a strategy whose values are made from a random generator; hypothesis draws its seed."""
    return st.integers(0, 2**63 - 1).map(lambda seed: make(random.Random(seed)))


def odd_value(rng: random.Random, depth: int = 0) -> Any:
    """Return anything that JSON can hold, and what it cannot but Python writes."""
    kind = rng.randrange(10)
    if kind < 3:
        return rng.choice(NUMBERS)
    if kind < 6:
        return rng.choice(TEXTS)
    if kind == 6:
        return rng.choice([None, True, False])
    if kind == 7 or depth > 2:
        return rng.choice([[], {}, [[]], [{}], {"x": []}])
    if kind == 8:
        return [odd_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(TEXTS): odd_value(rng, depth + 1) for _ in range(rng.randrange(3))}


def mutate_tree(rng: random.Random, tree: Any, times: int) -> Any:
    """Return a JSON value with a few of its parts replaced, dropped, doubled, nested, swapped or moved."""
    tree = copy.deepcopy(tree)
    for _ in range(times):
        holder, key = _place(rng, tree)
        if holder is None:
            tree = odd_value(rng) if rng.random() < 0.2 else [tree]
            continue
        value = holder[key]
        action = rng.randrange(9)
        if action < 3:
            holder[key] = odd_value(rng)
        elif action == 3:
            del holder[key]
        elif action == 4 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(value))
        elif action == 5:
            for _ in range(rng.choice([1, 3, 100])):
                value = [value]
            holder[key] = value
        elif action == 6 and isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
            holder[key] = rng.choice([value + 1, value - 1, -value, float(value), str(value), value * rng.choice([0, 0.5, 3, 10**6])])
        elif action == 7:
            other, place = _place(rng, tree)
            if other is not None:
                holder[key] = copy.deepcopy(other[place])
        else:
            holder[key] = rng.choice([[value], {"x": value}, shown(value, 1000), None])
    return tree


def _place(rng: random.Random, tree: Any) -> tuple[Any, Any]:
    """Return a list or an object of a tree and one of its keys; deeper ones are likelier."""
    holder, key = None, None
    while isinstance(tree, dict | list) and tree:
        if holder is not None and rng.random() < 0.12:
            break
        key = rng.choice(list(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
        holder, tree = tree, tree[key]
    return holder, key


def json_bytes(rng: random.Random, tree: Any) -> bytes:
    """Return a value as a file, now and then in an odd way: another encoding, a doubled key, a mark in front."""
    try:
        text = json.dumps(tree, ensure_ascii=rng.random() < 0.7)
    except (ValueError, RecursionError):
        text = "[" * 5000
    content = text.encode("utf-8", "surrogatepass")
    action = rng.randrange(16)
    if action == 0:
        return b"\xef\xbb\xbf" + content
    if action == 1:
        return text.encode("utf-16", "surrogatepass")
    if action == 4:
        return content.replace(b"]", b"[" * rng.choice([2, 10**5]) + b"]", 1)
    if action == 2 and b'": ' in content:
        key = content[: content.index(b'": ') + 3].rpartition(b'"')[0].rpartition(b'"')[2]
        return content.replace(b'"' + key + b'": ', b'"' + key + b'": 1, "' + key + b'": ', 3)
    return mutate_bytes(rng, content) if action == 3 else content


def mutate_bytes(rng: random.Random, content: bytes, times: int = 1) -> bytes:
    """Return bytes with some cut off, altered, doubled, removed or put in."""
    for _ in range(times):
        if not content:
            return content
        place, length = rng.randrange(len(content)), rng.choice([1, 1, 2, 4, 16, 200])
        action = rng.randrange(7)
        if action == 0:
            content = content[:place]
        elif action == 1:
            content = content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]
        elif action == 2:
            content = content[:place] + rng.randbytes(length) + content[place + length :]
        elif action == 3:
            content = content[: place + length] + content[place:]
        elif action == 4:
            content = content[:place] + content[place + length :]
        elif action == 5:
            content = content[:place] + rng.choice([b"\x00", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\x00", b"&x;", b"<![CDATA[", b"9" * 30]) + content[place:]
        else:
            number = rng.choice([0, 1, 2, 255, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**32 - 1])
            content = content[:place] + struct.pack(rng.choice("<>") + "I", number) + content[place + 4 :]
    return content


def mutate_text(rng: random.Random, text: str, times: int) -> str:
    """Return lines of words with some words replaced, dropped or doubled, and lines likewise."""
    lines = [line.split(" ") for line in text.split("\n")]
    for _ in range(times):
        row = rng.randrange(len(lines))
        place = rng.randrange(len(lines[row])) if lines[row] else 0
        action = rng.randrange(6)
        if action < 2 and lines[row]:
            lines[row][place] = str(rng.choice([*NUMBERS[:-6], *TEXTS]))
        elif action == 2 and lines[row]:
            del lines[row][place]
        elif action == 3 and lines[row]:
            lines[row].insert(place, lines[row][place])
        elif action == 4:
            lines.insert(row, list(lines[row]))
        else:
            lines[row] = [rng.choice(TEXTS)]
    return "\n".join(" ".join(line) for line in lines)


def mutate_xml(rng: random.Random, content: bytes, times: int) -> bytes:
    """Return an XML file with elements and attributes replaced, dropped, doubled or renamed."""
    root = ElementTree.fromstring(content)
    for _ in range(times):
        elements = list(root.iter())
        element = rng.choice(elements)
        action = rng.randrange(7)
        if action < 3 and element.attrib:
            element.set(rng.choice(list(element.attrib)), _xml_text(rng))
        elif action == 3 and element.attrib:
            del element.attrib[rng.choice(list(element.attrib))]
        elif action == 4 and len(element):
            element.append(copy.deepcopy(rng.choice(list(element))))
        elif action == 5 and len(element):
            element.remove(rng.choice(list(element)))
        elif action == 6:
            element.tag = rng.choice([*(other.tag for other in elements), "box", "points", "skeleton", "tag", "x"])
        else:
            element.text = _xml_text(rng)
    found = ElementTree.tostring(root, "utf-8")
    kind = rng.randrange(16)
    if kind == 0:
        return b'<!DOCTYPE a [<!ENTITY x "' + b"y" * 100 + b'">]>' + found.replace(b">", b">&x;", 2)
    if kind == 1:
        return b'<?xml version="1.0" encoding="' + rng.choice([b"latin-1", b"utf-16", b"klingon", b"shift_jis", b""]) + b'"?>' + found
    return mutate_bytes(rng, found) if kind == 2 else found


def _xml_text(rng: random.Random) -> str:
    text = str(rng.choice([*NUMBERS[:-6], *TEXTS, "1,1;5,1;5,4", "1,1;5", "0, 1", "1,,2", f"0,{2**62},{2**62},{2**62},{2**62},80"]))
    return "".join(character for character in text if character.isprintable() or rng.random() < 0.02)


def mutate_png(rng: random.Random, content: bytes) -> bytes:
    """Return a PNG with its chunks altered, dropped, doubled or moved, and their checksums right."""
    chunks = []
    place = 8
    while place + 8 <= len(content):
        length = struct.unpack(">I", content[place : place + 4])[0]
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    for _ in range(rng.randrange(1, 4)):
        k = rng.randrange(len(chunks))
        name, body = chunks[k]
        action = rng.randrange(6)
        if action < 3:
            chunks[k] = name, mutate_bytes(rng, body) if body else rng.randbytes(4)
        elif action == 3 and len(chunks) > 1:
            del chunks[k]
        elif action == 4:
            chunks.insert(rng.randrange(len(chunks) + 1), (name, body))
        else:
            extra = rng.choice([b"tRNS", b"eXIf", b"iCCP", b"gAMA", b"acTL", b"fcTL", b"zTXt", b"iTXt", b"PLTE", b"pHYs", b"sBIT"])
            chunks.insert(rng.randrange(len(chunks) + 1), (extra, rng.choice([b"", rng.randbytes(8), bytes(30), b"x\x00\x00" + zlib.compress(bytes(10**6))])))
    parts = (struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks)
    return content[:8] + b"".join(parts)
