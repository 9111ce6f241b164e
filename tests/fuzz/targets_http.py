"""Targets: every route of the server, with real ids, in this process: requests that are sound but for a place or two, of any method, header and body.

A request is answered, or refused with one line of JSON. A status of 500, a reply that is no JSON, and a request that is never answered are failures.
"""

from __future__ import annotations

import asyncio
import atexit
import copy
import itertools
import json
import logging
import shutil
import tempfile
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from hypothesis import strategies as st

from fretsaw.errors import FretsawError

from .harness import Refused, Target

PATIENCE = 30.0
"""Seconds for an answer."""

RENEWED = 400
"""Requests after which a server with an empty folder takes the place of the old one, so that lists stay short."""

RLE = {"size": [90, 120], "counts": [30, 40, 10_730]}
SMALL = {"size": [10, 20], "counts": [50, 100, 50]}
CONFIG = '<View><Image name="img" value="$photo"/><BrushLabels name="brush" toName="img"><Label value="ball"/></BrushLabels></View>'
DRAWN = [
    {"type": "keypointlabels", "is_positive": 1, "value": {"x": 50, "y": 50, "keypointlabels": ["cat"]}},
    {"type": "rectanglelabels", "value": {"x": 10, "y": 10, "width": 80, "height": 80, "rectanglelabels": ["cat"]}},
    {"type": "brushlabels", "value": {"rle": [0, 0, 168, 192, 57, 222, 224], "brushlabels": ["cat"]}},
]
PREDICT = {"tasks": [{"id": 1, "data": {"photo": "/data/local-files/?d=photos/0.png"}}], "label_config": CONFIG, "params": {"context": {"result": DRAWN}}}
COCO = {
    "images": [{"id": 1, "file_name": "1.png", "width": 120, "height": 90}],
    "categories": [{"id": 1, "name": "ball"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0, "segmentation": [[1, 1, 9, 1, 9, 9, 1, 9]]}],
}
PNG = "a picture"
IMAGE, OBJECT = "/api/images/{identity}", "/api/images/{identity}/objects/{number}"

# Method, address, a sound body, the weight. What only starts a job is rare: a job goes on while other inputs are tried.
ROUTES: list[tuple[str, str, Any, int]] = [
    ("GET", "/api/images", None, 1),
    ("POST", "/api/images", PNG, 3),
    ("GET", IMAGE, None, 1),
    ("DELETE", IMAGE, None, 1),
    ("GET", f"{IMAGE}/view.jpg", None, 1),
    ("GET", f"{IMAGE}/thumbnail.jpg", None, 1),
    ("POST", f"{IMAGE}/text", {"names": ["left", "right"]}, 3),
    ("GET", f"{IMAGE}/state", None, 1),
    ("GET", f"{IMAGE}/export", None, 4),
    ("GET", f"{IMAGE}/log", None, 1),
    ("POST", f"{IMAGE}/objects", {"name": "ball", "color": "#aabbcc"}, 4),
    ("GET", OBJECT, None, 2),
    ("PATCH", OBJECT, {"name": "ball", "color": "#aabbcc", "hidden": True, "deleted": False}, 6),
    ("POST", f"{OBJECT}/clicks", {"x": 60.5, "y": 45, "positive": True}, 8),
    ("POST", f"{OBJECT}/box", {"x0": 5, "y0": 5, "x1": 90, "y1": 80}, 6),
    ("POST", f"{OBJECT}/scribbles", {"points": [[5, 5], [60.5, 40], [100, 80]], "positive": False}, 8),
    ("PUT", f"{OBJECT}/mask", {"rle": RLE}, 8),
    ("POST", f"{OBJECT}/strokes", {"x": 5, "y": 7, "rle": SMALL, "adds": True}, 8),
    ("POST", f"{OBJECT}/auto", {"instances": True}, 3),
    ("POST", f"{OBJECT}/avoid", None, 1),
    ("POST", f"{OBJECT}/split", None, 1),
    ("POST", f"{OBJECT}/undo", None, 3),
    ("POST", f"{OBJECT}/redo", None, 3),
    ("POST", f"{OBJECT}/reset", None, 1),
    ("POST", f"{IMAGE}/preview", {"x": 60.5, "y": 45, "positive": True, "object": 1}, 5),
    ("GET", f"{OBJECT}/mask.png", None, 1),
    ("GET", f"{OBJECT}/cutout.png", None, 1),
    ("GET", "/api/annotations", None, 1),
    ("POST", "/api/imports", {"name": "annotations.json"}, 1),
    ("POST", "/api/annotations", COCO, 2),
    ("POST", "/api/auto", None, 1),
    ("POST", "/api/exports", {"format": "coco", "images": []}, 2),
    ("GET", "/api/jobs/{job}", None, 1),
    ("GET", "/api/jobs/{job}/events", None, 1),
    ("DELETE", "/api/jobs/{job}", None, 1),
    ("GET", "/api/jobs/{job}/file", None, 1),
    ("POST", "/setup", {"project": "1", "schema": CONFIG}, 1),
    ("POST", "/predict", PREDICT, 10),
    ("POST", "/webhook", {}, 1),
    ("GET", "/api/about", None, 1),
    ("GET", "/health", None, 1),
    ("GET", "/metrics", None, 1),
    ("GET", "/openapi.json", None, 1),
    ("GET", "/", None, 1),
    ("GET", "/static/main.js", None, 1),
]


@dataclass(frozen=True)
class HttpInput:
    """A request; `{identity}`, `{number}` and `{job}` stand for the ids of a picture, an object and a job that are there."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**62, 2**63, 2**64, 10**30, -(10**30), 1e308, -1e-308, float("nan"), float("inf")]),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["", "\ud800", "\x00", "x" * 300, "a\nb", "\u202e", "../../etc/passwd", "{identity}", "coco", "#12345g", "[", "<!DOCTYPE a>"]),
    st.sampled_from([[], {}, [None], [[]], {"": None}, [1] * 300, [[[[[[[[[[]]]]]]]]]], {"size": [90, 120], "counts": [2**62] * 4 + [10_800]}]),
)
ODD_IDS = st.sampled_from(
    ["0" * 24, "f" * 24, "..", ".", "%00", "1", "0", "-1", "x", "1e3", "9" * 50, "\u0661", " ", "\ud800", "a" * 3000, "{identity}{identity}"]
)
TEXTS = st.one_of(st.text(st.characters(max_codepoint=255), max_size=12), st.sampled_from(["", "[", "http://[", "null", "testserver", "a" * 3000]))
HEADERS = st.tuples(
    st.sampled_from(
        ["host", "origin", "sec-fetch-site", "authorization", "cookie", "content-type", "content-length", "transfer-encoding", "range", "accept",
         "if-none-match", "if-modified-since", "x-forwarded-host", "x-http-method-override", "expect", "accept-encoding"]
    ),
    st.one_of(TEXTS, st.sampled_from(["bytes=0-1", "bytes=9-1,2-3,-0", "bytes=-5", "application/json", "text/plain", "application/x-www-form-urlencoded",
                                      "multipart/form-data; boundary=x", "-1", "10", "chunked", "cross-site", "Basic !", "Bearer x"])),
)  # fmt: skip
QUERIES = st.tuples(
    st.sampled_from(["since", "name", "format", "token", "v", "x"]),
    st.one_of(TEXTS, st.sampled_from(["0", "1", "-1", "9" * 30, "png", "coco", "yolo", "voc", "labelme", "cvat", "cutout", "../a.json", "\ud800", "a.xml"])),
)


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """Return every container in a value with each of its keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [(value, key) for key in keys] + [place for key in keys for place in places_in(value[key])]


@st.composite
def mutated(draw: st.DrawFn, sound: Any) -> Any:
    """A sound value in which a place or two hold something odd, something twice, or nothing."""
    value = copy.deepcopy(sound)
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 1, 2]))):
        places = places_in(value)
        if not places:
            return copy.deepcopy(draw(ODD))
        container, key = draw(st.sampled_from(places))
        kind = draw(st.integers(0, 9))
        if kind < 6:
            container[key] = copy.deepcopy(draw(ODD))
        elif kind == 6:
            del container[key]
        elif kind == 7 and isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        elif kind == 7:
            container[draw(st.text(max_size=4))] = container[key]
        else:
            container[key] = draw(st.one_of(st.integers(0, 130), st.floats(0, 130)))
    return value


@st.composite
def bodies(draw: st.DrawFn, sound: Any) -> bytes:
    """The bytes of a body: JSON as Python writes it, NaN included, now and then cut or altered."""
    if sound is None:
        return draw(st.sampled_from([b"", b"", b"", b"{}", b"null", b"x", b"\xff"]))
    content = picture() if sound is PNG else json.dumps(draw(mutated(sound))).encode()
    kind = draw(st.integers(0, 19))
    if kind == 0:
        return content[: draw(st.integers(0, len(content)))]
    if kind == 1:
        place = draw(st.integers(0, max(0, len(content) - 1)))
        return content[:place] + draw(st.binary(max_size=3)) + content[place + 1 :]
    if kind == 2:
        return draw(st.sampled_from([b"", b"\xff\xfe", b"[" * 20_000, b"{" * 9, b"1" * 5000, b'{"a": 1, "a": 2}', b"\xef\xbb\xbf{}"]))
    return content


@cache
def picture() -> bytes:
    from fretsaw.images import encode_image
    from serving import photo

    return encode_image(photo(7, 24, 32), ".png")


@st.composite
def requests(draw: st.DrawFn) -> HttpInput:
    """A request of one of the routes."""
    method, path, sound, _ = draw(st.sampled_from([route for route in ROUTES for _ in range(route[3])]))
    rarely = st.integers(0, 24)
    if draw(rarely) == 0:
        method = draw(st.sampled_from(["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "ZAP", "get", "\x00"]))
    if draw(rarely) == 0:
        name = draw(st.sampled_from(["{identity}", "{number}", "{job}"]))
        path = path.replace(name, draw(ODD_IDS))
    if draw(rarely) == 0:
        path += draw(st.sampled_from(["/", "//", "/..", "/%2e%2e", "?", ";x", "\x00", "/x"]))
    query = draw(st.lists(QUERIES, max_size=2)) if draw(st.integers(0, 3)) == 0 else []
    if path.endswith("/export") or (method, path) == ("POST", "/api/annotations"):
        query.append(draw(QUERIES))
    headers = draw(st.lists(HEADERS, max_size=2)) if draw(st.integers(0, 9)) == 0 else []
    return HttpInput(method, path, tuple(query), tuple(headers), draw(bodies(sound)))


class Defects(logging.Handler):
    """Keeps what the server logs as an error: a job has nobody else to tell. That a file was deleted under a job, by `renew`, is a warning."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self.found.append(f"{record.getMessage()}: {error!r:.200}")


class Server:
    """The application over a tiny model, a loop in a thread that runs it, and what is asked of it by name."""

    def __init__(self) -> None:
        import torch

        from serving import tiny_segmenter

        # The workers share the cores by this number, which torch refuses to be told twice from another thread.
        torch.set_num_threads(1)
        self._segmenter = tiny_segmenter()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._number = itertools.count()
        self.defects = Defects()
        logger = logging.getLogger("fretsaw.server")
        logger.addHandler(self.defects)
        logger.propagate = False
        self._place: Path | None = None
        self._identity = self._job = ""
        atexit.register(lambda: self._place is not None and shutil.rmtree(self._place, ignore_errors=True))
        self.renew()
        self._check_routes()

    def renew(self) -> None:
        """Begin anew with an empty folder of work."""
        from fretsaw.server.app import create_app
        from fretsaw.server.workbench import Workbench
        from serving import make_folder, settings_of

        if self._place is not None:
            self._bench.close()
            shutil.rmtree(self._place, ignore_errors=True)
        self._place = Path(tempfile.mkdtemp(prefix="fuzz-http-"))
        folder = make_folder(self._place / "photos")
        (folder / "annotations.json").write_text(json.dumps(COCO))
        benches: list[Workbench] = []
        made = Workbench.__init__

        def noted(bench: Workbench, *arguments: Any) -> None:
            made(bench, *arguments)
            benches.append(bench)

        Workbench.__init__ = noted  # type: ignore[method-assign]
        try:
            self._app = create_app(self._segmenter, settings_of(folder, self._place / "data", workers=2))
        finally:
            Workbench.__init__ = made  # type: ignore[method-assign]
        [self._bench] = benches
        self._identity = self.json(HttpInput("GET", "/api/images"))["images"][0]["id"]
        self._job = ""
        self.prepare()
        self._job = self.json(HttpInput("POST", "/api/exports", body=b'{"format": "coco"}'))["id"]

    def prepare(self) -> None:
        """Have the picture with its object, whatever was deleted since."""
        if next(self._number) % RENEWED == RENEWED - 1:
            self.renew()
        status, _ = self.ask(HttpInput("GET", OBJECT))
        if status != 200:
            for path, body in (("", {"name": "ball"}), ("/1/clicks", {"x": 60, "y": 45}), ("/1/clicks", {"x": 5, "y": 5, "positive": False})):
                self.ask(HttpInput("POST", f"{IMAGE}/objects{path}", body=json.dumps(body).encode()))

    def json(self, request: HttpInput) -> Any:
        return json.loads(self.ask(request)[1])

    def ask(self, request: HttpInput) -> tuple[int, bytes]:
        """Return status and body of the answer."""
        return asyncio.run_coroutine_threadsafe(self._ask(request), self._loop).result(PATIENCE + 5)

    async def _ask(self, request: HttpInput) -> tuple[int, bytes]:
        path = request.path.replace("{identity}", self._identity).replace("{number}", "1").replace("{job}", self._job)
        given = {name for name, _ in request.headers}
        usual = [("host", "testserver"), ("content-type", "application/json"), ("content-length", str(len(request.body)))]
        headers = [row for row in usual if row[0] not in given] + list(request.headers)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": path,
            "raw_path": quote(path, errors="replace").encode(),
            "query_string": urlencode(request.query, errors="replace").encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers],
            "client": ("127.0.0.1", 5),
            "server": ("testserver", 80),
        }
        parts = [request.body[: len(request.body) // 2], request.body[len(request.body) // 2 :]]
        sent = iter([{"type": "http.request", "body": part, "more_body": not last} for last, part in enumerate(parts)])
        received: list[Any] = []

        async def receive() -> Any:
            if (message := next(sent, None)) is not None:
                return message
            return await asyncio.Event().wait()

        async def send(message: Any) -> None:
            received.append(message)

        await asyncio.wait_for(self._app(scope, receive, send), PATIENCE)
        starts = [message for message in received if message["type"] == "http.response.start"]
        assert len(starts) == 1, f"{len(starts)} answers"
        return starts[0]["status"], b"".join(message.get("body", b"") for message in received)

    def _check_routes(self) -> None:
        """Every route of the OpenAPI document is tried."""
        names = {"/api/jobs/{identity}": "/api/jobs/{job}"}
        for path, methods in self.json(HttpInput("GET", "/openapi.json"))["paths"].items():
            for method in methods:
                known = next((path.replace(old, new) for old, new in names.items() if path.startswith(old)), path)
                assert any((method.upper(), known) == route[:2] for route in ROUTES), f"{method.upper()} {path} is not tried"


@cache
def server() -> Server:
    return Server()


def request(value: HttpInput, folder: Path) -> bool:
    """Send a request. It got past the header if it reached its handler: it was not turned away by its address, its method, its origin or its form."""
    server().prepare()
    status, content = server().ask(value)
    defects, server().defects.found = server().defects.found, []
    assert not defects, defects
    if status < 400:
        return True
    if value.method == "HEAD":
        return False
    refusal = json.loads(content)
    assert set(refusal) == {"reason", "kind"}, refusal
    assert refusal["kind"] != "Defect", refusal["reason"]
    assert status < 500 or status in (503, 507), (status, refusal)
    past = status not in (400, 403, 404, 405, 408, 413) and refusal["kind"] != "RequestError"
    raise Refused(past_header=past) from FretsawError(refusal["reason"])


COVERS = (
    *(f"fretsaw.server.{name}" for name in ("guard", "bodies", "origins", "places", "replies", "app", "label_studio")),
    *(f"fretsaw.server.{name}" for name in ("routes_images", "routes_objects", "routes_jobs", "imports", "exports")),
)
server()  # now, when nothing is timed: it takes longer than any input may
TARGETS = [Target("http", requests(), request, COVERS, seconds=10.0)]
