"""Whatever Label Studio, or somebody in its name, sends to /predict is answered or refused by a sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CONFIG = '<View><Image name="img" value="$photo"/><BrushLabels name="brush" toName="img"><Label value="ball"/></BrushLabels></View>'
TASK = {"id": 1, "data": {"photo": "/data/local-files/?d=photos/0.png"}}
POINT = {"type": "keypointlabels", "is_positive": 1, "value": {"x": 50, "y": 50, "keypointlabels": ["cat"]}}
BOX = {"type": "rectanglelabels", "value": {"x": 10, "y": 10, "width": 80, "height": 80, "rectanglelabels": ["cat"]}}
DEEP: Any = []
for _ in range(400):
    DEEP = [DEEP]


def drawn(*rows: Any) -> dict[str, Any]:
    return {"tasks": [TASK], "label_config": CONFIG, "params": {"context": {"result": list(rows)}}}


def point(**changes: Any) -> dict[str, Any]:
    return drawn(POINT | {"value": POINT["value"] | changes})  # type: ignore[operator]


def brush(rle: Any) -> dict[str, Any]:
    return drawn({"type": "brushlabels", "value": {"rle": rle, "brushlabels": ["cat"]}})


BODIES: dict[str, Any] = {
    "null": None,
    "a number": 7,
    "text": "tasks",
    "a list": [],
    "empty": {},
    "tasks null": {"tasks": None},
    "tasks text": {"tasks": "x"},
    "tasks of numbers": {"tasks": [1, 2]},
    "tasks of lists": {"tasks": [[]]},
    "tasks of null": {"tasks": [None]},
    "101 tasks": {"tasks": [TASK] * 101},
    "no tasks": {"tasks": []},
    "task without data": {"tasks": [{}]},
    "data null": {"tasks": [{"data": None}]},
    "data text": {"tasks": [{"data": "photos/0.png"}]},
    "data a list": {"tasks": [{"data": ["photos/0.png"]}]},
    "data empty": {"tasks": [{"data": {}}]},
    "url a number": {"tasks": [{"data": {"image": 5}}]},
    "url null": {"tasks": [{"data": {"image": None}}]},
    "url nested": {"tasks": [{"data": {"image": {"a": [1]}}}]},
    "url with a bracket": {"tasks": [{"data": {"image": "http://[/0.png"}}]},
    "url with a half address": {"tasks": [{"data": {"image": "http://[::1/0.png"}}]},
    "url with odd letters": {"tasks": [{"data": {"image": "http://\u2100/0.png"}}]},
    "url of surrogates": {"tasks": [{"data": {"image": "\ud800"}}]},
    "url of controls": {"tasks": [{"data": {"image": "\x00\n\r"}}]},
    "url of slashes": {"tasks": [{"data": {"image": "a/" * 100_000}}]},
    "url of a million letters": {"tasks": [{"data": {"image": "a" * 1_000_000}}]},
    "url of percents": {"tasks": [{"data": {"image": "%ff%00%zz"}}]},
    "url with many queries": {"tasks": [{"data": {"image": "/?" + "d=a&" * 400}}]},
    "id nested": {"tasks": [TASK | {"id": {"a": 1}}], "label_config": CONFIG},
    "id long": {"tasks": [TASK | {"id": "x" * 10_000}], "label_config": CONFIG},
    "id huge": {"tasks": [TASK | {"id": 10**300}], "label_config": CONFIG},
    "config a number": {"tasks": [TASK], "label_config": 5},
    "config no xml": {"tasks": [TASK], "label_config": "<View>"},
    "config of controls": {"tasks": [TASK], "label_config": "\x00"},
    "config of surrogates": {"tasks": [TASK], "label_config": "<View a='\ud800'/>"},
    "config with entities": {"tasks": [TASK], "label_config": '<!DOCTYPE v [<!ENTITY a "b"><!ENTITY c "&a;&a;">]><View>&c;</View>'},
    "config with a file": {"tasks": [TASK], "label_config": '<!DOCTYPE v [<!ENTITY a SYSTEM "file:///etc/passwd">]><View>&a;</View>'},
    "config huge": {"tasks": [TASK], "label_config": "<View>" + " " * 200_000 + "</View>"},
    "config deep": {"tasks": [TASK], "label_config": "<a>" * 10_000 + "</a>" * 10_000},
    "config without names": {"tasks": [TASK], "label_config": "<View><Image/><BrushLabels><Label/></BrushLabels></View>"},
    "config with a label of controls": {"tasks": [TASK], "label_config": CONFIG.replace("ball", "&#10;")},
    "config with a long label": {"tasks": [TASK], "label_config": CONFIG.replace("ball", "b" * 1000)},
    "config of a strange encoding": {"tasks": [TASK], "label_config": "<?xml version='1.0' encoding='utf-7'?>" + CONFIG},
    "params null": {"tasks": [TASK], "params": None},
    "params a list": {"tasks": [TASK], "params": []},
    "params empty": {"tasks": [TASK], "params": {}},
    "context null": {"tasks": [TASK], "params": {"context": None}},
    "context text": {"tasks": [TASK], "params": {"context": "x"}},
    "context a list": {"tasks": [TASK], "params": {"context": [1]}},
    "result null": {"tasks": [TASK], "params": {"context": {"result": None}}},
    "result a number": {"tasks": [TASK], "params": {"context": {"result": 5}}},
    "result text": {"tasks": [TASK], "params": {"context": {"result": "xyz"}}},
    "result an object": {"tasks": [TASK], "params": {"context": {"result": {"a": 1}}}},
    "result deep": {"tasks": [TASK], "params": {"context": {"result": DEEP}}},
    "row null": drawn(None),
    "row a number": drawn(3),
    "row a list": drawn([]),
    "row text": drawn("keypointlabels"),
    "row empty": drawn({}),
    "type a list": drawn({"type": ["keypointlabels"], "value": {}}),
    "type a number": drawn({"type": 5, "value": {}}),
    "type unknown": drawn({"type": "polygonlabels", "value": {"points": [[1, 2]]}}),
    "value null": drawn({"type": "keypointlabels", "value": None}),
    "value a list": drawn({"type": "keypointlabels", "value": [1]}),
    "value text": drawn({"type": "brushlabels", "value": "x"}),
    "x missing": drawn({"type": "keypointlabels", "value": {"y": 1}}),
    "x null": point(x=None),
    "x text": point(x="left"),
    "x not a number": point(x=float("nan")),
    "x infinite": point(x=float("inf")),
    "x huge": point(x=10**400),
    "x large": point(x=1e308),
    "x negative": point(x=-5),
    "x true": point(x=True),
    "x a list": point(x=[1]),
    "positive text": drawn(POINT | {"is_positive": "yes"}),
    "positive null": drawn(POINT | {"is_positive": None}),
    "positive a list": drawn(POINT | {"is_positive": [1]}),
    "positive infinite": drawn(POINT | {"is_positive": float("inf")}),
    "labels a number": point(keypointlabels=5),
    "labels text": point(keypointlabels="cat"),
    "labels null": point(keypointlabels=None),
    "labels empty": point(keypointlabels=[]),
    "labels nested": point(keypointlabels=[["cat"]]),
    "labels of numbers": point(keypointlabels=[5]),
    "labels an object": point(keypointlabels={"a": 1}),
    "labels of surrogates": point(keypointlabels=["\ud800"]),
    "labels of controls": point(keypointlabels=["a\nb"]),
    "labels long": point(keypointlabels=["a" * 10_000]),
    "box of no width": drawn(BOX | {"value": {"x": 10, "y": 10, "width": 0, "height": 5}}),
    "box backwards": drawn(BOX | {"value": {"x": 10, "y": 10, "width": -5, "height": 5}}),
    "box outside": drawn(BOX | {"value": {"x": 500, "y": 500, "width": 5, "height": 5}}),
    "box not a number": drawn(BOX | {"value": {"x": float("nan"), "y": 10, "width": 5, "height": 5}}),
    "box huge": drawn(BOX | {"value": {"x": 0, "y": 0, "width": 1e308, "height": 1e308}}),
    "box without height": drawn({"type": "rectangle", "value": {"x": 0, "y": 0, "width": 5}}),
    "brush without rle": drawn({"type": "brush", "value": {}}),
    "brush null": brush(None),
    "brush a giant number": brush(4_000_000_000),
    "brush text": brush("AAAA"),
    "brush empty": brush([]),
    "brush cut short": brush([0, 0, 168]),
    "brush too large": brush([300, -1]),
    "brush of floats": brush([1.5, 2.5]),
    "brush of lists": brush([[1]]),
    "brush of another size": brush([255] * 20),
    "a click and a bad brush": drawn(POINT, {"type": "brush", "value": {"rle": [1]}}),
    "ten thousand clicks": drawn(*[POINT] * 3000),
}


def check(client, body: Any) -> int:
    # Python's own JSON, with NaN and Infinity, which a client may send whatever the standard says.
    reply = client.post("/predict", content=json.dumps(body).encode(), headers={"content-type": "application/json"})
    assert reply.status_code < 500, (reply.status_code, reply.text[:300])
    if reply.status_code != 200:
        assert reply.json()["kind"] != "Defect"
        assert 0 < len(reply.json()["reason"]) <= 600
    return reply.status_code


@pytest.mark.parametrize("name", BODIES)
def test_odd_bodies_are_answered_or_refused(client, name):
    check(client, BODIES[name])


def test_what_is_only_unusual_is_answered(client):
    names = (
        "row empty",
        "type unknown",
        "positive null",
        "labels null",
        "labels empty",
        "x negative",
        "params null",
        "context null",
        "result null",
        "no tasks",
    )
    answered = {name: check(client, BODIES[name] if name == "no tasks" else {"label_config": CONFIG} | BODIES[name]) for name in names}
    assert answered == dict.fromkeys(names, 200)


def test_a_task_that_is_refused_says_what_is_wrong(client):
    for name, text in {
        "x text": "keypointlabels: expected x in percent, got 'left'",
        "positive text": "keypointlabels: expected is_positive 0 or 1, got 'yes'",
        "labels of controls": "keypointlabels: expected a label of up to 200 printable characters",
        "brush a giant number": "brushlabels: expected rle, a list of bytes 0 .. 255, got 4000000000",
        "result a number": "params.context.result: expected a list of what was drawn, got 5",
        "config with entities": "label_config: expected XML without declarations",
        "tasks of numbers": "tasks.0: Input should be",
    }.items():
        reply = client.post("/predict", json=BODIES[name])
        assert reply.status_code == 422
        assert text in reply.json()["reason"]


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]), st.just({}), st.just([None]), st.just(10**30), st.just("\ud800")
)


@st.composite
def mutated(draw: Any) -> Any:
    """A sound request in which one place, whichever, holds something odd or nothing."""
    rows = [POINT, BOX, {"type": "brushlabels", "value": {"rle": [0, 0, 168, 192], "brushlabels": ["cat"]}}]
    body = json.loads(json.dumps(drawn(*draw(st.lists(st.sampled_from(rows), max_size=3)))))
    for _ in range(draw(st.integers(1, 2))):
        place: Any = body
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and draw(st.integers(0, 3)):
                place = place[key]
                continue
            if draw(st.integers(0, 4)):
                place[key] = draw(ODD)
            else:
                del place[key]
            break
    return body


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(body=mutated())
def test_sound_bodies_with_one_odd_place_are_answered_or_refused(client, body):
    check(client, body)
