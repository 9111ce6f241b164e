"""What comes from outside with ill will, or in too large a size, is refused by name, and a server that is killed loses nothing that it had answered."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

import hostile
from fretsaw import cli, masks
from fretsaw.errors import ConfigError, ImageError
from fretsaw.images import encode_image
from fretsaw.interchange.label_studio import decode_brush
from fretsaw.server.refusals import QueueFullError, ReplacedError
from fretsaw.server.routes_images import plain_name
from fretsaw.server.settings import for_command
from fretsaw.server.store import Store
from fretsaw.server.workers import Lane, Workers
from served import SERVING, ServerProcess
from serving import make_folder, photo, tiny_segmenter


def refused(reply, status: int, text: str) -> None:
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    assert text in reply.json()["reason"], reply.json()
    assert reply.json()["kind"]


@pytest.mark.parametrize("name", sorted(hostile.REFUSED))
def test_uploads_that_are_no_pictures_are_refused_and_leave_nothing(client, tmp_path, name):
    refused(client.post(f"/api/images?name={name}", content=hostile.REFUSED[name]()), 422, "expected")
    assert list((tmp_path / "data" / "images").iterdir()) == []
    assert list((tmp_path / "data" / "incoming").iterdir()) == []


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("....", "picture"),
        ("", "picture"),
        ("a/../../b.png", "b.png"),
        ("\x00\n.png", "png"),
        ("<script>.png", "<script>.png"),
        ("x" * 500, "x" * 120),
    ],
)
def test_upload_names_are_only_names(given, kept):
    assert plain_name(given) == kept


def test_a_body_that_promises_too_much_is_refused_before_it_is_read(make_client):
    client = make_client(upload_bytes=10_000, body_bytes=1000)

    def never():
        yield b"first bytes"
        raise AssertionError("the body was read on")

    refused(client.post("/api/images", content=b"x" * 10_001), 413, "expected at most 10000 bytes")
    refused(client.post("/api/auto", headers={"content-length": "500000000"}, content=never()), 413, "500000000")
    assert client.post("/api/images", content=encode_image(photo(), ".png")).status_code == 201


def test_a_body_that_streams_on_is_cut_off(make_client, tmp_path):
    client = make_client(upload_bytes=100_000)
    sent = 0

    def endless():
        nonlocal sent
        while sent < 5_000_000:
            sent += 10_000
            yield b"x" * 10_000

    refused(client.post("/api/images", content=endless()), 413, "expected at most 100000 bytes")
    assert list((tmp_path / "data" / "incoming").iterdir()) == []


def test_more_pixels_than_allowed_are_refused(make_client):
    refused(make_client(pixels=1000).post("/api/images", content=encode_image(photo(), ".png")), 422, "expected at most 1000 pixels")


def test_more_uploads_objects_and_steps_than_allowed_are_refused(make_client, first):
    client = make_client(uploads=1, objects=2, steps=2)
    assert client.post("/api/images", content=encode_image(photo(), ".png")).status_code == 201
    refused(client.post("/api/images", content=encode_image(photo(1), ".png")), 429, "expected at most 1 pictures")
    for _ in range(2):
        assert client.post(f"{first}/objects", json={}).status_code == 201
    refused(client.post(f"{first}/objects", json={}), 429, "expected at most 2 objects")
    for x in (10, 20):
        assert client.post(f"{first}/objects/1/clicks", json={"x": x, "y": 10}).status_code == 200
    refused(client.post(f"{first}/objects/1/clicks", json={"x": 5, "y": 5}), 429, "expected at most 2 interactions")
    assert client.post(f"{first}/objects/1/undo").status_code == 200


@pytest.mark.parametrize("path", ["../record.json", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "0" * 24, "0" * 23, "..", "0.png", "A" * 24, "0" * 24 + "%00"])
def test_ids_that_are_none_lead_nowhere(client, path):
    for address in (f"/api/images/{path}", f"/api/images/{path}/view.jpg", f"/api/images/{path}/export"):
        reply = client.get(address)
        assert reply.status_code in (404, 405), (address, reply.text)
        assert b"root:" not in reply.content
    assert client.get("/static/../app.py").status_code == 404
    assert client.get("/static/%2e%2e/app.py").status_code == 404


def test_links_out_of_the_folder_and_hidden_files_are_not_served(make_client, folder, tmp_path):
    (tmp_path / "secret.png").write_bytes(encode_image(photo(), ".png"))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / ".hidden.png").write_bytes(encode_image(photo(), ".png"))
    (folder / os.fsdecode(b"bytes-\xff.png")).write_bytes(encode_image(photo(), ".png"))
    assert [row["name"] for row in make_client().get("/api/images").json()["images"]] == ["0.png", "1.png", "deep/2.png"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("post", "/objects/1/clicks", {"x": 500, "y": 5}, 422, "expected a click inside the image"),
        ("post", "/objects/1/clicks", {"x": 1}, 422, "y: Field required"),
        ("post", "/objects/1/clicks", {"x": 1, "y": 1, "z": 1}, 422, "z: Extra inputs"),
        ("post", "/objects/7/clicks", {"x": 1, "y": 1}, 404, "expected an object of this picture (1), got 7"),
        ("post", "/objects/1/clicks", {"x": "NaN", "y": 5}, 422, 'x: Input should be a finite number, got "NaN"'),
        ("post", "/objects/1/scribbles", {"points": []}, 422, "points: List should have at least 1 item after validation, not 0"),
        ("post", "/objects/1/scribbles", {}, 422, "points: Field required"),
        ("post", "/objects/1/scribbles", {"points": [[5, 5], [500, 5]]}, 422, "a line inside the image, x in 0 .. 119 and y in 0 .. 89, got (500.0, 5.0)"),
        ("post", "/objects/1/scribbles", {"points": [[5, 5], [5, "Infinity"]]}, 422, 'points.1.1: Input should be a finite number, got "Infinity"'),
        ("post", "/objects/1/scribbles", {"points": [[5, 5, 5]]}, 422, "points.0: Tuple should have at most 2 items after validation, not 3"),
        ("post", "/objects/1/scribbles", {"points": [5, 5]}, 422, "points.0: Input should be a valid tuple, got 5"),
        ("post", "/objects/1/scribbles", {"points": [[5, 5]], "adds": True}, 422, "adds: Extra inputs are not permitted, got true"),
        ("post", "/objects/7/scribbles", {"points": [[5, 5]]}, 404, "expected an object of this picture (1), got 7"),
        ("post", "/objects/1/box", {"x0": 9, "y0": 0, "x1": 1, "y1": 5}, 422, "expected a box x0 < x1"),
        ("put", "/objects/1/mask", {"rle": {"size": [2, 2], "counts": [4]}}, 422, "expected a mask of the image's size"),
        ("put", "/objects/1/mask", {"rle": {"size": [90, 120], "counts": [10**12]}}, 422, "run lengths"),
        ("put", "/objects/1/mask", {"rle": {"size": [90, 120], "counts": "\u0000"}}, 422, "run lengths"),
        ("put", "/objects/1/mask", {"rle": {"size": [60000, 60000], "counts": [3600000000]}}, 422, "size"),
        ("post", "/objects/1/strokes", {"x": 0, "y": 0, "rle": {"size": [46000, 46000], "counts": [2116000000]}}, 422, "expected a stroke inside the picture"),
        ("post", "/objects/1/strokes", {"x": 0, "y": 0, "rle": {"size": [2, 2], "counts": [5]}}, 422, "run lengths"),
        ("post", "/objects/1/split", None, 422, "expected a mask of several pieces"),
        ("patch", "/objects/1", {"name": "x" * 300}, 422, "name"),
        ("patch", "/objects/1", {"name": "a\nb"}, 422, "name"),
        ("patch", "/objects/1", {"color": "red; background: url(x)"}, 422, "color"),
        ("post", "/text", {"names": []}, 422, "names"),
        ("post", "/text", {"names": ["x"] * 101}, 422, "names"),
        ("get", "/export?format=../../x", None, 422, "expected a format out of"),
    ],
)
def test_wrong_requests_say_what_is_wrong(client, first, method, path, body, status, text):
    client.post(f"{first}/objects", json={})
    reply = client.request(method, f"{first}{path}", json=body)
    refused(reply, status, text)


def test_numbers_that_only_python_takes_for_json_are_refused(client, first):
    client.post(f"{first}/objects", json={})
    for number in ("NaN", "-Infinity", "1e999"):
        content = f'{{"points": [[5, 5], [{number}, 5]]}}'
        reply = client.post(f"{first}/objects/1/scribbles", content=content, headers={"content-type": "application/json"})
        refused(reply, 422, "points.1.0: Input should be a finite number, got ")
    assert client.get(f"{first}/objects/1").json()["undoable"] == 0


def test_bodies_that_are_no_json_are_refused(client, first):
    refused(client.post(f"{first}/objects", content=b"{", headers={"content-type": "application/json"}), 422, "JSON decode error")
    refused(client.post(f"{first}/objects", content=b"<x/>", headers={"content-type": "text/xml"}), 422, "")
    refused(client.get("/api/nowhere"), 404, "Not Found")
    refused(client.put("/api/images"), 405, "Method Not Allowed")
    refused(client.get("/api/jobs/1"), 404, "expected the id of a job")


def test_every_reply_tells_the_browser_to_trust_nothing_else(client):
    for path in ("/", "/api/images", "/static/main.js", "/api/nowhere"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"


def test_the_page_asks_for_nothing_from_elsewhere():
    static = Path(SERVING).parents[1] / "src" / "fretsaw" / "server" / "static"
    for path in static.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, path
        assert "https://" not in text, path
        assert "innerHTML" not in text, path
        assert " style=" not in text, path


def test_other_sites_reach_nothing(client):
    assert client.get("/api/images", headers={"host": "evil.example"}).status_code == 403
    assert client.post("/api/auto", headers={"origin": "http://evil.example"}).status_code == 403
    assert client.post("/api/auto", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.post("/api/auto", headers={"origin": "http://testserver"}).status_code == 202


TOKEN = "a token of some length"


def test_without_the_token_nothing_is_answered_but_health(make_client):
    client = make_client(token=TOKEN)
    for path in ("/", "/api/images", "/static/main.js", "/metrics", "/openapi.json"):
        refused(client.get(path), 403, "expected the server's token")
    assert client.get("/health").status_code == 200
    refused(client.get("/?token=wrong"), 403, "expected the token")
    assert client.get("/api/images", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert client.get("/api/images", headers={"authorization": b"Bearer \xe9"}).status_code == 403
    basic = base64.b64encode(f"label-studio:{TOKEN}".encode()).decode()
    assert client.get("/api/images", headers={"authorization": f"Basic {basic}"}).status_code == 200
    assert client.get("/api/images", headers={"authorization": "Basic !"}).status_code == 403
    entered = client.get("/", params={"token": TOKEN}, follow_redirects=False)
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    assert "HttpOnly" in entered.headers["set-cookie"]
    assert client.get("/api/images").status_code == 200  # by the cookie


def test_the_command_lets_nobody_in_from_outside_without_a_token(tmp_path):
    assert for_command(tmp_path, "127.0.0.1", None).token is None
    assert for_command(tmp_path, "::1", None).token is None
    assert len(for_command(tmp_path, "0.0.0.0", None).token or "") >= 24
    assert for_command(tmp_path, "localhost", TOKEN).token == TOKEN
    with pytest.raises(ConfigError, match="at least 16 characters"):
        for_command(tmp_path, "0.0.0.0", "short")
    with pytest.raises(ImageError, match="not there"):
        for_command(tmp_path / "nowhere", "localhost", None)


def test_the_commands_help_shows_examples():
    result = CliRunner().invoke(cli.app, ["serve", "--help"])
    assert result.exit_code == 0
    assert "fretsaw serve photos/" in result.output


# Label Studio

CONFIG = '<View><Image name="img" value="$photo"/><BrushLabels name="brush" toName="img"><Label value="ball"/></BrushLabels></View>'


def test_label_studio_gets_its_masks(client, segmenter):
    assert client.get("/health").json()["status"] == "UP"
    assert client.post("/setup", json={"project": "1.2", "schema": CONFIG, "hostname": "x"}).json()["model_version"] == "fretsaw tiny"
    task = {"id": 3, "data": {"photo": "/data/local-files/?d=photos/deep/2.png"}}
    reply = client.post("/predict", json={"tasks": [task], "label_config": CONFIG}).json()
    [row] = reply["results"][0]["result"]
    assert (row["from_name"], row["to_name"], row["value"]["brushlabels"]) == ("brush", "img", ["ball"])
    assert np.array_equal(decode_brush(row["value"]["rle"], (90, 120)), photo(2).mean(axis=2) > 127.5)
    drawn = [
        {"type": "keypointlabels", "is_positive": 1, "value": {"x": 50, "y": 50, "width": 1, "keypointlabels": ["cat"]}},
        {"type": "rectanglelabels", "value": {"x": 10, "y": 10, "width": 80, "height": 80, "rectanglelabels": ["cat"]}},
    ]
    task = {"id": 4, "data": {"photo": "http://somewhere/data/upload/1/abcdef12-1.png"}}
    reply = client.post("/predict", json={"tasks": [task], "label_config": CONFIG, "params": {"context": {"result": drawn}}}).json()
    [row] = reply["results"][0]["result"]
    session = segmenter.open(photo(1))
    from fretsaw.types import Box, Click

    expected = session.clicks([Click(59.5, 44.5)], Box(12, 9, 108, 81))
    assert row["value"]["brushlabels"] == ["cat"]
    assert np.array_equal(decode_brush(row["value"]["rle"], (90, 120)), expected.mask)


@pytest.mark.parametrize("url", ["http://169.254.169.254/latest", "file:///etc/passwd", "/data/../../etc/passwd", "data:image/png;base64,AAAA", ""])
def test_label_studio_makes_the_server_fetch_nothing(client, url):
    refused(client.post("/predict", json={"tasks": [{"data": {"image": url}}]}), 404, "nothing is fetched from elsewhere")


def test_label_studio_configurations_that_are_no_xml_are_refused(client):
    refused(client.post("/predict", json={"tasks": [], "label_config": "<View>"}), 422, "expected XML")


# The queue


def test_slow_work_leaves_a_worker_for_clicks():
    workers, gate = Workers(2, 10, "test"), threading.Event()
    slow = [workers.submit(lambda: gate.wait(10), Lane.SLOW) for _ in range(4)]
    assert workers.submit(lambda: "quick").result(5) == "quick"
    assert not any(future.done() for future in slow)
    gate.set()
    assert all(future.result(5) for future in slow)
    workers.close()


def test_a_full_queue_refuses_and_newer_previews_replace_older_ones():
    workers, gate = Workers(1, 2, "test"), threading.Event()
    running = workers.submit(lambda: gate.wait(10))
    while not workers.running:
        time.sleep(0.01)
    old = workers.submit(lambda: "old", Lane.PREVIEW, "key")
    new = workers.submit(lambda: "new", Lane.PREVIEW, "key")
    assert old.cancelled()
    click = workers.submit(lambda: "click")
    with pytest.raises(QueueFullError, match="fewer than 2"):
        workers.submit(lambda: None)
    gate.set()
    assert (running.result(5), click.result(5), new.result(5)) == (True, "click", "new")

    async def replaced() -> None:
        gate.clear()
        workers.submit(lambda: gate.wait(10))
        waiting = asyncio.create_task(workers.run(None, lambda: "older", Lane.PREVIEW, "key"))
        await asyncio.sleep(0.1)
        workers.submit(lambda: "newer", Lane.PREVIEW, "key")
        gate.set()
        with pytest.raises(ReplacedError):
            await waiting

    asyncio.run(replaced())
    workers.close()


# A process of its own


@pytest.mark.slow
def test_killed_in_the_middle_of_a_job_nothing_answered_is_lost(tmp_path):
    folder = make_folder(tmp_path / "photos", 12)
    server = ServerProcess(folder, tmp_path / "data", pause=0.25)
    try:
        images = server.client.get("/api/images").json()["images"]
        last = f"/api/images/{images[-1]['id']}"
        server.client.post(f"{last}/objects", json={"name": "mine"})
        for x in (30, 60, 90):
            answered = server.client.post(f"{last}/objects/1/clicks", json={"x": x, "y": 45}).json()
        job = server.client.post("/api/auto").json()
        while server.client.get(f"/api/jobs/{job['id']}").json()["done"] < 3:
            time.sleep(0.05)
    finally:
        server.kill()
    store = Store(tmp_path / "data")
    records = [(identity, store.read(identity)) for identity in store.identities()]
    store.close()
    assert 4 <= len(records) < 12
    assert all(record.id == identity for identity, record in records)
    server = ServerProcess(folder, tmp_path / "data")
    try:
        assert server.client.get(f"{last}/objects/1").json() == answered
        assert server.client.post(f"{last}/objects/1/undo").json()["undoable"] == 2
        job = server.client.post("/api/auto").json()
        while server.client.get(f"/api/jobs/{job['id']}").json()["state"] in ("waiting", "running"):
            time.sleep(0.05)
        for number, row in enumerate(images[:2]):
            [item] = server.client.get(f"/api/images/{row['id']}").json()["objects"]
            assert item["undoable"] == 1
            assert np.array_equal(masks.decode_rle(item["rle"]), photo(int(Path(row["name"]).stem)).mean(axis=2) > 127.5), number
    finally:
        server.kill()


@pytest.mark.slow
def test_a_flood_of_hostile_uploads_leaves_memory_flat_and_gone_clients_work_undone(tmp_path):
    server = ServerProcess(make_folder(tmp_path / "photos"), tmp_path / "data", pause=1.0)
    try:
        bomb, page = hostile.REFUSED["bomb.png"](), hostile.REFUSED["page.jpg"]()
        assert server.client.post("/api/images?name=a.png", content=encode_image(photo(), ".png")).status_code == 201
        before = server.memory
        for content in (bomb, page) * 10:
            assert server.client.post("/api/images?name=x.png", content=content).status_code == 422
        said, sent = stream(server.port, 500_000_000)
        assert b"413" in said
        assert sent < 200_000_000
        assert server.memory - before < 60_000_000
        # Many clients ask for slow work and hang up; what has not begun is never done, and the next one is served soon.
        image = f"/api/images/{server.client.get('/api/images').json()['images'][0]['id']}"
        server.client.post(f"{image}/objects", json={})
        server.client.post(f"{image}/objects/1/clicks", json={"x": 60, "y": 45})

        def hang_up(_: int) -> None:
            with pytest.raises(httpx.TimeoutException):
                httpx.post(f"http://127.0.0.1:{server.port}{image}/objects/1/auto", timeout=0.4)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(hang_up, range(16)))
        time.sleep(3)
        assert server.client.get("/health").json()["waiting"] == 0
        assert server.client.get(f"{image}/objects/1").json()["undoable"] < 10
    finally:
        server.kill()


def stream(port: int, total: int) -> tuple[bytes, int]:
    """Send an upload without a length in chunks until the server has had enough; return what it said and how much was sent."""
    sent, chunk = 0, b"x" * 1_000_000
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(20)
        connection.sendall(b"POST /api/images HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while sent < total:
                connection.sendall(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                sent += len(chunk)
        except OSError:
            pass
        try:
            return connection.recv(4096), sent
        except OSError:
            return b"413 (the connection was closed before the answer could be read)", sent


def test_segmenters_without_clicks_are_refused(tmp_path):
    from fretsaw.errors import ModelError
    from fretsaw.server.app import create_app
    from serving import settings_of

    with pytest.raises(ModelError, match="takes clicks"):
        create_app(tiny_segmenter(clicks=None), settings_of(None, tmp_path))
