"""What stands before the application: names, origins, methods, sizes, a system that refuses, and a server that may only be looked at."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fretsaw.errors import ConfigError
from fretsaw.images import encode_image
from fretsaw.server import settings as server_settings
from serving import make_folder, photo, settings_of

PUBLIC = "https://cut.example.org"


def refused(reply, status: int, text: str) -> None:
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    assert text in reply.json()["reason"], reply.json()
    assert reply.json()["kind"]


# Names and origins


@pytest.mark.parametrize(
    "text", ["[", "]", "[::1", "[x]", "[::g]", "a b", "localhost:", "localhost:x", "localhost:99999", "a/b", "a@b", "a,b", "\xe9", "[1.2.3.4"]
)
@pytest.mark.parametrize("header", ["host", "origin"])
def test_headers_that_cannot_be_read_are_refused_by_a_sentence(client, header, text):
    for method, path in (("GET", "/api/images"), ("POST", "/api/auto"), ("GET", "/nowhere")):
        value = text if header == "host" else f"http://{text}"
        refused(
            client.request(method, path, headers=[(header.encode(), value.encode("latin-1"))]),
            400,
            f"expected a{'n' if header == 'origin' else ''} {header.title()} header like",
        )


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=40), st.booleans())
@example("[", True)
@example("http://[", True)
def test_reading_a_header_never_ends_in_anything_but_a_refusal(text, as_origin):
    from fretsaw.server.origins import read_host, read_origin
    from fretsaw.server.refusals import MalformedError

    with suppress(MalformedError):
        read_origin(text) if as_origin else read_host(text)


def test_two_hosts_are_no_host(client):
    refused(client.get("/api/images", headers=[("host", "testserver"), ("host", "evil.example")]), 400, "expected one Host header, got 2")
    refused(client.post("/api/auto", headers=[("origin", "http://testserver"), ("origin", "http://evil.example")]), 400, "expected one Origin header, got 2")


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("cut.example.org", PUBLIC, 202),  # the proxy passes the Host header on
        ("127.0.0.1:8000", PUBLIC, 202),  # or writes its own
        ("CUT.example.org.", PUBLIC, 202),
        ("cut.example.org:443", "https://cut.example.org:443", 202),
        ("localhost:8000", "http://localhost:8000", 202),  # past the proxy
        ("cut.example.org", None, 202),  # no browser
        ("cut.example.org", "http://cut.example.org", 403),  # anybody on the way could have written that page
        ("cut.example.org", "https://cut.example.org:8443", 403),
        ("cut.example.org", "https://evil.example", 403),
        ("cut.example.org", "https://cut.example.org.evil.example", 403),
        ("cut.example.org", "null", 403),
        ("cut.example.org", "chrome-extension://abcdef", 403),
        ("localhost:8000", "http://localhost:3000", 403),
        ("evil.example", "https://evil.example", 403),
        ("evil.example", PUBLIC, 403),
        ("", PUBLIC, 403),
    ],
)
def test_behind_a_proxy_the_public_page_is_the_servers_own(make_client, host, origin, status):
    client = make_client(public_url=PUBLIC, hosts=("localhost", "127.0.0.1", "cut.example.org"))
    headers = {"host": host, "sec-fetch-site": "same-origin" if status == 202 else "none"} | ({"origin": origin} if origin else {})
    reply = client.post("/api/auto", headers=headers)
    assert reply.status_code == status, reply.text
    if status == 403:
        assert reply.json()["reason"].startswith("expected ")


def test_what_a_proxy_adds_is_not_believed(client):
    headers = {"host": "evil.example", "x-forwarded-host": "testserver", "forwarded": "host=testserver", "x-forwarded-proto": "https"}
    refused(client.get("/api/images", headers=headers), 403, "expected to be called")


@pytest.mark.parametrize("host", ["127.0.0.2", "127.8.9.10", "localhost", "127.0.0.1", "::1", "0:0:0:0:0:0:0:1"])
def test_a_server_answers_to_the_name_by_which_it_listens(tmp_path, host):
    chosen = server_settings.for_command(tmp_path, host, None)
    assert chosen.token is None
    assert chosen.hosts != ("*",)
    client = _client(chosen)
    shown = f"[{host}]" if ":" in host else host
    assert client.get("/health", headers={"host": f"{shown}:8000"}).status_code == 200
    assert client.post("/setup", json={}, headers={"host": f"{shown}:8000", "origin": f"http://{shown}:8000"}).status_code == 200
    assert client.get("/health", headers={"host": "evil.example"}).status_code == 403


def _client(chosen):
    from starlette.testclient import TestClient

    from fretsaw.server.app import create_app
    from serving import tiny_segmenter

    return TestClient(create_app(tiny_segmenter(), chosen), raise_server_exceptions=False)


def test_who_lets_others_in_asks_for_a_token(tmp_path):
    of = server_settings.for_command
    public = of(tmp_path, "127.0.0.1", None, public_url=f"{PUBLIC}/")
    assert len(public.token or "") >= 24
    assert public.public_url == PUBLIC
    assert "cut.example.org" in public.hosts
    assert "*" not in public.hosts
    named = of(tmp_path, "0.0.0.0", None, allowed_hosts=["Box.LAN.", "192.168.1.5"])
    assert len(named.token or "") >= 24
    assert {"box.lan", "192.168.1.5", "localhost"} <= set(named.hosts)
    assert "*" not in named.hosts
    assert of(tmp_path, "127.0.0.1", None, allowed_hosts=["127.0.0.3"]).token is None
    assert of(tmp_path, "127.0.0.1", None, public_url="https://localhost:8443").token is None


@pytest.mark.parametrize("url", ["cut.example.org", "ftp://x", "https://", "https://x/y", "https://[", "https://a b", "https://x?y", "https://u:p@x", "null"])
def test_public_urls_that_are_none_are_refused(tmp_path, url):
    with pytest.raises(ConfigError, match="expected a public URL like"):
        server_settings.for_command(tmp_path, "127.0.0.1", None, public_url=url)


@pytest.mark.parametrize("name", ["https://x", "x/y", "x y", "x:80", "", "[", "a@b"])
def test_allowed_hosts_that_are_no_names_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="expected the name of a host"):
        server_settings.for_command(tmp_path, "127.0.0.1", None, allowed_hosts=[name])


def test_tokens_cookies_travel_by_tls_alone_where_the_page_does(make_client):
    token = "a token of some length"
    reply = make_client(token=token, public_url=PUBLIC).get("/", params={"token": token}, follow_redirects=False)
    assert "Secure" in reply.headers["set-cookie"]
    assert "SameSite=strict" in reply.headers["set-cookie"]


@pytest.mark.parametrize("given_header", ["Basic \xe9", "Basic ====", "Basic AAAA", "Bearer", "\x00", "Basic " + "A" * 5000])
def test_odd_credentials_are_wrong_ones(make_client, given_header):
    client = make_client(token="a token of some length")
    assert client.get("/api/images", headers=[(b"authorization", given_header.encode("latin-1"))]).status_code == 403


# Methods


def test_invented_methods_are_refused_and_do_not_multiply_the_metrics(client, first):
    for number in range(30):
        reply = client.request(f"ZAP{number}", "/api/images")
        refused(reply, 405, "expected one of GET, HEAD, OPTIONS, POST")
        assert "POST" in reply.headers["allow"]
        assert client.request(f"ZAP{number}", f"/nowhere/{number}").status_code == 405
        assert client.get(f"/api/nowhere/{number}").status_code == 404
        assert client.get(f"/static/{number}").status_code == 404
    client.put("/api/images")
    rows = [line for line in client.get("/metrics").text.splitlines() if line.startswith("fretsaw_requests_total")]
    assert not any("ZAP" in row for row in rows)
    assert 'fretsaw_requests_total{method="other",route="other",status="405"} 60.0' in rows
    assert len([row for row in rows if 'status="404"' in row]) <= 2
    assert len(rows) < 10


# Sizes


def test_a_click_may_not_be_as_large_as_a_mask(client, first):
    client.post(f"{first}/objects", json={})
    filler = " " * (300 * 1024)
    for path in ("clicks", "scribbles", "box"):
        reply = client.post(f"{first}/objects/1/{path}", content='{"x": 5, "y": 5' + filler + "}", headers={"content-type": "application/json"})
        refused(reply, 413, "expected at most 262144 bytes")
    rle = {"size": [90, 120], "counts": [90 * 120]}
    assert client.put(f"{first}/objects/1/mask", content=json.dumps({"rle": rle}) + filler, headers={"content-type": "application/json"}).status_code == 200
    too_large = (b"x" * 65536 for _ in range(8 * 16 + 1))
    refused(
        client.put(f"{first}/objects/1/mask", content=too_large, headers={"content-type": "application/json"}), 413, "expected at most 8388608 bytes, got more"
    )


# A system that refuses

REFUSALS = [
    (errno.ENOSPC, 507, "No space left on device"),
    (errno.EDQUOT, 507, "quota"),
    (errno.EROFS, 507, "Read-only file system"),
    (errno.EACCES, 507, "Permission denied"),
    (errno.EIO, 507, "Input/output error"),
    (errno.EMFILE, 503, "Too many open files"),
    (errno.ENOENT, 409, "No such file or directory"),
]


def error_of(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/secret/place/of/the/server")


@pytest.mark.parametrize(("number", "status", "said"), REFUSALS)
def test_what_the_system_refuses_is_a_sentence_and_no_defect(client, first, monkeypatch, number, status, said):
    from fretsaw.server import routes_images, routes_jobs
    from fretsaw.server.store import Store

    def failing(*_: object, **__: object):
        raise error_of(number)

    client.post(f"{first}/objects", json={})
    client.post(f"{first}/objects/1/auto")
    monkeypatch.setattr(Store, "incoming", failing)
    monkeypatch.setattr(routes_images, "one_download", failing)
    monkeypatch.setattr(routes_jobs, "sources_of", failing)
    for reply, doing in (
        (client.post("/api/images?name=cat.png", content=encode_image(photo(), ".png")), "taking the upload in"),
        (client.post("/api/annotations?name=a.json", content=b"{}"), "taking the annotations in"),
        (client.get(f"{first}/export?format=png"), "making the export"),
        (client.get("/api/annotations"), "reading"),
    ):
        refused(reply, status, f"{doing}: expected ")
        assert said.lower() in reply.json()["reason"].lower()
        assert "secret" not in reply.text
        assert ("retry-after" in reply.headers) == (status == 503)
    assert client.get(first).status_code == 200


@pytest.mark.parametrize(("number", "status", "said"), REFUSALS)
def test_a_job_says_what_the_system_refuses(client, first, monkeypatch, number, status, said):
    from fretsaw.server import routes_jobs

    def failing(*_: object, **__: object):
        raise error_of(number)

    client.post(f"{first}/objects", json={})
    client.post(f"{first}/objects/1/auto")
    monkeypatch.setattr(routes_jobs, "pack", failing)
    job = finished(client, client.post("/api/exports", json={"format": "png"}).json()["id"])
    assert job["state"] == "failed"
    assert job["reason"].startswith("export: expected ")
    assert said.lower() in job["reason"].lower()
    assert "secret" not in job["reason"]


def finished(client, identity: str) -> dict:
    while (job := client.get(f"/api/jobs/{identity}").json())["state"] in ("waiting", "running"):
        time.sleep(0.02)
    return job


@pytest.mark.parametrize("written", [0, 30])
def test_a_picture_whose_first_command_found_a_full_disk_is_no_damaged_one(make_client, first, monkeypatch, written):
    from fretsaw.server import picture_log

    client = make_client()
    image = f"/api/images/{client.get('/api/images').json()['images'][1]['id']}"

    def full(descriptor: int, content: bytes, place: int) -> None:
        os.write(descriptor, content[:written])
        raise error_of(errno.ENOSPC)

    with monkeypatch.context() as patched:
        patched.setattr(picture_log, "_write_all", full)
        patched.setattr(os, "ftruncate", lambda *_: None)  # as if the process had been killed before
        refused(client.get(image), 507, "No space left on device")
    assert client.get("/api/images").json()["images"][1]["damaged"] == ""
    assert client.get(image).status_code == 200
    assert client.post(f"{image}/objects", json={}).status_code == 201
    assert make_client().get(image).json()["objects"][0]["id"] == 1


def test_what_the_library_made_of_a_full_disk_stays_a_full_disk():
    from fretsaw.errors import ImageError, OutputError
    from fretsaw.server.refusals import NotHereError, status_of

    def caused(kind, number):
        try:
            raise kind("x") from error_of(number)
        except kind as error:
            return status_of(error)

    assert caused(ImageError, errno.EMFILE) == 503
    assert caused(OutputError, errno.ENOSPC) == 507
    assert caused(OutputError, errno.EMFILE) == 503
    assert caused(ImageError, errno.EACCES) == 422  # a picture that may not be read is no picture
    assert caused(NotHereError, errno.EMFILE) == 404


# Names, not places


def test_no_message_names_a_folder_of_the_server(make_client, folder, tmp_path):
    client = make_client()
    (folder / "broken.png").write_bytes(b"no picture at all")
    (folder / "empty.png").write_bytes(b"")
    (folder / "annotations.json").write_text('{"images": [], "annotations": 7}')
    ids = {row["name"]: row["id"] for row in client.get("/api/images").json()["images"]}
    image = f"/api/images/{ids['0.png']}"
    client.post(f"{image}/objects", json={"name": "a"})
    replies = {
        "an upload": client.post("/api/images?name=cat.png", content=b"no picture"),
        "an upload by path": client.post("/api/images?name=/etc/cat.png", content=b"no picture"),
        "annotations": client.post("/api/annotations?name=cat.json", content=b"no json"),
        "annotations of another kind": client.post("/api/annotations?name=cat.txt", content=b"no json"),
        "a broken picture": client.get(f"/api/images/{ids['broken.png']}"),
        "an empty picture": client.get(f"/api/images/{ids['empty.png']}/thumbnail.jpg"),
        "a wrong format": client.get(f"{image}/export?format=x"),
        "nothing to export": client.get(f"{image}/export?format=png"),
        "a wrong mask": client.put(f"{image}/objects/1/mask", json={"rle": {"size": [1, 1], "counts": [1]}}),
    }
    (folder / "1.png").unlink()
    replies["a deleted picture"] = client.get(f"/api/images/{ids['1.png']}")
    for what, reply in replies.items():
        assert 400 <= reply.status_code < 500 or reply.status_code == 507, (what, reply.text)
        for place in (tmp_path, folder, "/tmp", "/root", "/work", "incoming/"):
            assert str(place) not in reply.text, (what, reply.text)
    job = finished(client, client.post("/api/imports", json={}).json()["id"])
    assert job["state"] == "failed"
    assert not any(str(place) in job["reason"] + job["note"] for place in (tmp_path, folder, "/tmp", "/root", "/work")), job
    assert replies["an upload"].json()["reason"].startswith("cat.png: expected")
    assert replies["an upload by path"].json()["reason"].startswith("cat.png: expected")
    assert replies["a broken picture"].json()["reason"].startswith("broken.png: expected")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{data}/incoming/0123456789abcdef01234567: expected an image", "cat.png: expected an image"),
        ("{data}/incoming/0123456789abcdef01234567/my cat.json: expected JSON", "my cat.json: expected JSON"),
        ("{data}/images/0123456789abcdef01234567/record.json: expected", "record.json: expected"),
        ("{data}/images/0123456789abcdef01234567/original: expected", "the upload: expected"),
        ("{folder}/deep/my cat.png: expected", "deep/my cat.png: expected"),
        ("expected a folder, got {folder}", "expected a folder, got the served folder"),
        ("expected a folder, got {folder}-other", "expected a folder, got {folder}-other"),
        ("[Errno 28] No space left on device: '{data}/exports/x.zip'", "[Errno 28] No space left on device: 'x.zip'"),
        ("two {folder}/a.png and {folder}/b.png", "two a.png and b.png"),
        ("a\nb\x00\ud800\u202e\u00e9", "a b\\x00\\ud800\\u202e\u00e9"),
    ],
)
def test_places_are_taken_out_of_texts(text, told):
    from fretsaw.server.places import FolderHider

    data, folder = Path("/srv/pictures/of all/.fretsaw"), Path("/srv/pictures/of all")
    fill = {"data": data, "folder": folder}
    assert FolderHider(data, folder).hide(text.format(**fill), "cat.png") == told.format(**fill)


def test_texts_for_clients_are_short():
    from fretsaw.server.places import FolderHider

    assert len(FolderHider(Path("/data"), None).hide("x" * 10**6)) == 600


# Read-only


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a folder with its content and time, and the folders."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"", path.lstat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


CHANGES = [
    ("POST", "/api/images"),
    ("POST", "/api/auto"),
    ("POST", "/api/imports"),
    ("POST", "/api/annotations"),
    ("POST", "{image}/objects"),
    ("POST", "{image}/text"),
    ("DELETE", "{image}"),
    ("PATCH", "{image}/objects/1"),
    ("PUT", "{image}/objects/1/mask"),
    *[("POST", "{image}/objects/1/" + name) for name in ("clicks", "box", "scribbles", "strokes", "auto", "avoid", "split", "undo", "redo", "reset")],
]


def test_the_list_of_changes_is_whole(client):
    paths = client.get("/openapi.json").json()["paths"]
    known = {(method, path.replace("{image}", "/api/images/{identity}").replace("/objects/1", "/objects/{number}")) for method, path in CHANGES}
    allowed = {("POST", "/api/images/{identity}/preview"), ("POST", "/api/exports"), ("DELETE", "/api/jobs/{identity}")}
    allowed |= {("POST", f"/{name}") for name in ("predict", "setup", "webhook")}
    there = {(method.upper(), path) for path, methods in paths.items() for method in methods if method != "get"}
    assert there - known - allowed == set(), "say of every new route whether a server that is only looked at refuses it"


def test_a_server_that_is_only_looked_at_changes_nothing(make_client, folder, tmp_path):
    client = make_client(read_only=True)
    image = f"/api/images/{client.get('/api/images').json()['images'][0]['id']}"
    before = tree(folder)
    assert client.get("/api/about").json()["read_only"] is True
    for method, path in CHANGES:
        refused(client.request(method, path.format(image=image), json={}), 403, "this server was started with --read-only")
    assert client.get(image).json()["objects"] == []
    assert client.post(f"{image}/preview", json={"x": 60, "y": 45}).status_code == 200
    assert client.get("/api/about").json()["modes"]
    assert tree(folder) == before


def test_other_servers_say_that_they_can_be_changed(client):
    assert client.get("/api/about").json()["read_only"] is False


def test_saved_work_is_brought_to_a_folder_of_its_own(make_client, folder, tmp_path):
    client = make_client()
    image = f"/api/images/{client.get('/api/images').json()['images'][0]['id']}"
    client.post(f"{image}/objects", json={"name": "ball"})
    expected = client.post(f"{image}/objects/1/clicks", json={"x": 60, "y": 45}).json()
    upload = client.post("/api/images?name=cat.png", content=encode_image(photo(3), ".png")).json()
    client.post(f"/api/images/{upload['id']}/preview", json={"x": 5, "y": 5})  # encoded, and nothing else begins
    before = tree(tmp_path / "data" / "images")
    (tmp_path / "copy").mkdir()
    server_settings.copy_work(tmp_path / "data", tmp_path / "copy")
    with _client(settings_of(folder, tmp_path / "copy", read_only=True, shown=tmp_path / "data")) as looking:
        assert looking.get(f"{image}/objects/1").json() == expected
        assert looking.get(f"/api/images/{upload['id']}/view.jpg").status_code == 200
        assert looking.get(f"{image}/export?format=coco").status_code == 200
        assert looking.get(f"{image}/export?format=cutout").status_code == 200
        assert looking.get(f"{image}/objects/1/cutout.png").status_code == 200
    assert {name: row[0] for name, row in tree(tmp_path / "data" / "images").items()} == {name: row[0] for name, row in before.items()}


# Rules for what is to come


def test_looking_changes_nothing(make_client, folder, tmp_path):
    client = make_client()
    image = f"/api/images/{client.get('/api/images').json()['images'][0]['id']}"
    client.post(f"{image}/objects", json={"name": "ball"})
    client.post(f"{image}/objects/1/clicks", json={"x": 60, "y": 45})
    client.post(f"{image}/objects/1/clicks", json={"x": 5, "y": 5, "positive": False})
    job = client.post("/api/exports", json={"format": "coco"}).json()["id"]
    finished(client, job)

    def work() -> dict[str, bytes]:
        """All that is saved, but for what can be made again."""
        made_again = ("view.jpg", "embedding.safetensors")
        return {
            str(path.relative_to(tmp_path)): path.read_bytes()
            for root in (folder, tmp_path / "data")
            for path in sorted(root.rglob("*"))
            if path.is_file() and path.name not in made_again and "thumbnails" not in path.parts
        }

    before = work()
    asked = 0
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        if "get" in methods:
            address = path.replace("/api/jobs/{identity}", f"/api/jobs/{job}").replace("/api/images/{identity}", image).replace("{number}", "1")
            for query in ("", "?since=0", "?format=png", "?delete=1&deleted=true&name=x&_method=DELETE"):
                assert client.get(address + query, headers={"x-http-method-override": "DELETE"}).status_code < 500, address
                asked += 1
    assert asked >= 40
    assert work() == before


def test_every_connection_of_a_door_is_counted_until_it_is_closed():
    from fretsaw.server.listening import Door, most_connections

    listening = socket.create_server(("127.0.0.1", 0))
    with Door(listening, 3) as door:
        clients = [socket.create_connection(door.getsockname()) for _ in range(3)]
        taken = [door.accept()[0] for _ in clients]
        extra = socket.create_connection(door.getsockname())
        door.setblocking(False)
        with pytest.raises(BlockingIOError):
            door.accept()
        assert extra.recv(1000).startswith(b"HTTP/1.1 503 ")
        assert door.refused == 1
        taken[0].close()
        clients.append(socket.create_connection(door.getsockname()))
        time.sleep(0.05)
        taken.append(door.accept()[0])
        for connection in (*clients, *taken, extra):
            connection.close()
    assert most_connections(512, 1000) == 492
    assert most_connections(512, 50) == 17
    assert most_connections(512, 0) == 4


def test_addresses_that_are_not_to_be_had_are_refused(tmp_path):
    from fretsaw.server.listening import listen

    chosen = settings_of(make_folder(tmp_path / "photos"), tmp_path / "data")
    with listen("127.0.0.1", 0, chosen) as door, pytest.raises(ConfigError, match="expected an address to listen on"):
        listen("127.0.0.1", door.getsockname()[1], chosen)
    with pytest.raises(ConfigError, match="expected an address to listen on"):
        listen("203.0.113.7", 0, chosen)


UNKNOWN_VALUES = {
    "an export's format": ("GET", "{first}/export?format=tarot", None, 422),
    "a packed export's format": ("POST", "/api/exports", {"format": "tarot"}, 422),
    "a format with another case": ("GET", "{first}/export?format=COCO", None, 422),
    "an export of nothing": ("GET", "{first}/export?format=png", None, 422),
    "annotations": ("POST", "/api/imports", {"name": "tarot.json"}, 404),
    "a flag of a cut": ("POST", "{first}/objects/1/auto", {"instances": "perhaps"}, 422),
    "a click's sign": ("POST", "{first}/objects/1/clicks", {"x": 1, "y": 1, "positive": "negative"}, 422),
    "a colour": ("PATCH", "{first}/objects/1", {"color": "red"}, 422),
    "a field": ("PATCH", "{first}/objects/1", {"colour": "#123456"}, 422),
    "a number of an object": ("GET", "{first}/objects/one", None, 422),
    "a revision": ("POST", "{first}/objects/1/undo?since=last", None, 422),
    "an action": ("POST", "{first}/objects/1/paint", {}, 404),
    "a job": ("GET", "/api/jobs/tarot", None, 404),
    "a picture": ("GET", "/api/images/tarot", None, 404),
}


@pytest.mark.parametrize(("method", "path", "body", "status"), UNKNOWN_VALUES.values(), ids=UNKNOWN_VALUES)
def test_a_value_that_is_none_of_the_known_is_the_clients_mistake(client, first, method, path, body, status):
    client.post(f"{first}/objects", json={})
    reply = client.request(method, path.format(first=first), json=body)
    assert reply.status_code == status, reply.text
    if path.endswith("tarot") or (body or {}).get("format"):
        assert "expected" in reply.json()["reason"]
