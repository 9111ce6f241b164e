"""What a server's pictures take: all of it is counted, and what they leave goes back to the system."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from fretsaw.server import heap, sessions
from fretsaw.server.records import ImageRecord, ObjectRecord
from fretsaw.types import Box, Stroke

HOLES = """
import resource
from pathlib import Path
from fretsaw.server.heap import give_back

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

blocks = [bytearray(60_000) for _ in range(4000)]
full, last = held(), blocks[-1]
del blocks
kept = held()
give_back()
print(full, kept, held())
"""


def test_memory_below_what_is_still_in_use_goes_back_to_the_system():
    if heap._glibc() is None:
        pytest.skip("needs glibc, whose heap this is about")
    full, kept, after = map(int, subprocess.run([sys.executable, "-c", HOLES], check=True, capture_output=True, text=True).stdout.split())
    assert kept > full - 2**20, "the last block keeps the heap from shrinking by itself"
    assert after < full - 200 * 2**20


def identities(bench):
    return [entry.id for entry in bench.gallery.entries()]


def test_memory_is_given_back_after_each_encoding_and_each_picture_that_leaves(make_bench, monkeypatch):
    calls = []
    monkeypatch.setattr(sessions, "give_back", lambda: calls.append(None))
    bench = make_bench(memory_bytes=1)
    for number, identity in enumerate(identities(bench), 1):
        with bench.sessions.encoding(identity) as encoding:
            encoding.result(60)
        assert bench.sessions.evicted == number - 1
        assert len(calls) == 2 * number - 1


def test_long_lines_count_and_are_kept_once(make_bench):
    """Each interaction's file holds all lines until then; read again, they are as many objects as there were lines."""
    bench = make_bench()
    identity, rng = identities(bench)[0], np.random.default_rng(0)
    with bench.sessions.use(identity) as picture:
        number, empty = picture.objects.add().id, picture.nbytes
        for _ in range(6):
            points = rng.uniform(5, 80, (2000, 2)).tolist()
            picture.objects.extend(number, "scribble", {}, lambda session, points=points: session.scribble(points))
        assert picture.nbytes > empty + 6 * 2000 * 100
    bench = make_bench()
    with bench.sessions.use(identity) as picture:
        picture.embed()
        before = picture.nbytes
        tracemalloc.start()
        picture.objects.result(number)
        taken = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert taken < 2 * 6 * 2000 * 128 + (picture.nbytes - before) + 2**20


def test_all_that_the_model_has_seen_of_a_picture_counts(make_bench):
    bench = make_bench()
    with bench.sessions.use(identities(bench)[0]) as picture:
        empty = picture.nbytes
        root = picture.embed()
        whole = picture.nbytes
        assert whole - empty == picture.pixels().nbytes + root.embedding.nbytes
        part = root.views.seen(Box(10, 10, 60, 60))
        assert picture.nbytes == whole + part.nbytes
        # A session of an object shares the views.
        number = picture.objects.add().id
        picture.objects.extend(number, "click", {}, lambda session: session.click(60, 45))
        picture.objects.change(number, "look", {}, lambda session: (session.views.seen(Box(0, 0, 40, 40)), session.result)[1])
        assert picture.nbytes > whole + 2 * part.nbytes


def test_every_part_of_a_record_counts():
    rle = {"size": [9, 9], "counts": "x" * 1000}
    plain = ImageRecord("a", "a.png", False, objects=[ObjectRecord(1, "", "#000000", rle)])
    drawn = ObjectRecord(1, "", "#000000", rle, scribbles=[Stroke(((1.0, 2.0),) * 2000)], clicks=[(1.0, 2.0, True)] * 100)
    assert plain.nbytes > 1000
    assert ImageRecord("a", "a.png", False, objects=[drawn]).nbytes > plain.nbytes + 2100 * 100
