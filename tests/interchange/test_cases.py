"""The program that runs reported cases is honest: what it does not know it does not count, and a wrong outcome is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from cases import Outcome, cases, judge
from fretsaw.images import write_bytes


def outcome(code: int = 0, said: str = "", *objects: tuple[str, int | None, str], files: tuple[str, ...] = ()) -> Outcome:
    return Outcome(code, said, said if code else "", list(files), Path(), list(objects), [[30, 40]])


CAT = ("cat", 70, "a.jpg")


@pytest.mark.parametrize(
    ("right", "found", "verdict"),
    [
        ("1 object of 70 px", outcome(0, "", CAT), True),
        ("1 object of 70 px", outcome(0, "", ("cat", 69, "a.jpg")), False),
        ("1 object of 70 px", outcome(0, "", CAT, CAT), False),
        ("1 object of 70 px", outcome(1, "fretsaw: no"), False),
        ('1 object "cat"', outcome(0, "", ("dog", 70, "a.jpg")), False),
        ("1 object, or a refusal that names the formats", outcome(1, "fretsaw: expected a file of coco or labelme"), True),
        ("1 object, or a refusal that names the formats", outcome(1, "fretsaw: no"), False),
        ("one line, no traceback", outcome(1, "fretsaw: no"), True),
        ("one line, no traceback", outcome(1, "fretsaw: no\nfretsaw: never"), False),
        ("one line, no traceback", outcome(1, "Traceback (most recent call last):\n  x"), False),
        ("1 object and a word on the box and the points left out", outcome(0, "left out: 1 box, 1 point", CAT), True),
        ("1 object and a word on the box and the points left out", outcome(0, "left out: 1 box", CAT), False),
        ("size [30, 40] as read_image gives it", outcome(0, "", CAT), True),
        ("size [40, 30] as read_image gives it", outcome(0, "", CAT), False),
        ("labels/a.txt (or labels/img/a.txt)", outcome(files=("labels/img/a.txt",)), True),
        ("it feels right", outcome(0, "", CAT), None),
    ],
)
def test_judgements(right, found, verdict):
    assert judge(right, found)[0] is verdict


def test_a_folder_of_cases_is_run(tmp_path):
    write_bytes(tmp_path / "good" / "a.json", b'{"images": [], "annotations": 3}')
    (tmp_path / "good.README").write_text("here | run: fretsaw convert good/a.json -o OUT --to png | right: one line, no traceback")
    (tmp_path / "bad.README").write_text("here | run: fretsaw convert good/a.json -o OUT --to png | right: 1 object of 70 px")
    (tmp_path / "odd.README").write_text("here | run: fretsaw convert good/a.json -o OUT --to png | right: whatever pleases")
    assert {row.name: row.right for row in cases(tmp_path)} == {"good": True, "bad": False, "odd": None}
