"""JSON that is read piece by piece: the same values as Python's own reader gives, wherever the pieces end."""

from __future__ import annotations

import io
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fretsaw.interchange import json_stream
from fretsaw.interchange.json_stream import Groups, elements

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4), max_leaves=12)
OBJECTS = st.dictionaries(st.sampled_from(["rows", "others", "info", ""]), VALUES | st.lists(VALUES))


def put_together(content: bytes, lists=("rows", "others")) -> dict:
    found: dict = {}
    for key, number, value in elements(io.BytesIO(content), lists):
        if number is None:
            found[key] = value
        elif number == 0:
            found[key] = []
        else:
            found[key].append(value)
            assert len(found[key]) == number
    return found


@settings(max_examples=200, deadline=None)
@given(OBJECTS, st.integers(1, 40), st.sampled_from([None, 1]), st.booleans())
def test_any_object_comes_back_whatever_is_read_at_once(value, chunk, indent, mark):
    content = (b"\xef\xbb\xbf" if mark else b"") + json.dumps(value, indent=indent, ensure_ascii=chunk % 2 == 0).encode("utf-8", "surrogatepass")
    before, json_stream.CHUNK = json_stream.CHUNK, chunk
    try:
        if not any(0xD800 <= ord(letter) < 0xE000 for letter in content.decode("utf-8", "surrogatepass")):
            assert put_together(content) == value
    finally:
        json_stream.CHUNK = before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"3",
        b'{"rows": [1, 2',
        b'{"rows": [1,, 2]}',
        b'{"rows": [1 2]}',
        b'{"rows": [1], }',
        b'{"rows": []} x',
        b"{3: 4}",
        b'{"rows" []}',
        b"\xff{}",
    ],
)
def test_what_is_no_json_object_is_refused(content):
    with pytest.raises(ValueError, match=r"."):
        put_together(content)


def test_numbers_that_json_lacks_are_read():
    found = put_together(b'{"rows": [NaN, -Infinity, 1e5]}')["rows"]
    assert math.isnan(found[0])
    assert found[1:] == [-math.inf, 1e5]


def test_a_fault_at_the_beginning_does_not_read_the_whole_file():
    file = io.BytesIO(b'{"rows": [{"a" 3}, ' + b"0, " * 2**22 + b"0]}")
    with pytest.raises(ValueError, match="Expecting"):
        put_together(file.getvalue())


def test_groups_give_rows_back_in_order_and_once():
    with Groups() as groups:
        for number in range(1000):
            groups.put(number % 7, [number, {"text": "ä\ud800", "nan": math.inf}])
        assert [row[0] for row in groups.take(3)] == list(range(3, 1000, 7))
        assert groups.take(3) == []
        assert sorted(groups.keys()) == [0, 1, 2, 4, 5, 6]
        groups.put("new", 1)
        assert groups.take(0)[-1] == [994, {"text": "ä\ud800", "nan": math.inf}]
        assert groups.take("new") == [1]
