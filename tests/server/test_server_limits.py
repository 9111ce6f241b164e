"""The command itself, in a process of its own: it stays calm with few descriptors, slow and silent clients and large bodies, and it ends when it is told to."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from serve_command import Command
from serving import make_folder

MILLION = 10**6


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> Iterator[Command]:
    """One server for the tests that leave it as it was."""
    place = tmp_path_factory.mktemp("limits")
    with Command(make_folder(place / "photos"), "--data", place / "data") as command:
        yield command


def talk(port: int, *parts: bytes, patience: float = 20.0) -> bytes:
    """Send parts and return all that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as connection:
        for part in parts:
            connection.sendall(part)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    said = b""
    try:
        while part := connection.recv(65536):
            said += part
    except ConnectionResetError:
        pass
    return said


def address(command: Command) -> str:
    return f"http://127.0.0.1:{command.port}"


@pytest.mark.slow
def test_with_64_descriptors_and_70_idle_connections_it_goes_on_answering(tmp_path):
    with Command(make_folder(tmp_path / "photos"), "--data", tmp_path / "data", descriptors=64) as command:
        url = address(command)
        image = f"{url}/api/images/{httpx.get(f'{url}/api/images', timeout=30).json()['images'][0]['id']}"
        idle = [socket.create_connection(("127.0.0.1", command.port)) for _ in range(70)]
        # Some are told at once that they are too many; the others stay open, and the longest idle make room for whoever comes.
        statuses, began = [], time.monotonic()
        while time.monotonic() - began < 20 and statuses[-5:] != [200] * 5:
            try:
                reply = httpx.get(f"{url}/health", timeout=10)
                statuses.append(reply.status_code)
                assert reply.status_code == 200 or "try again in a moment" in reply.json()["reason"]
            except httpx.TransportError:
                statuses.append(0)
            time.sleep(0.3)
        assert statuses[-5:] == [200] * 5, statuses
        assert httpx.post(f"{image}/objects", json={}, timeout=30).status_code == 201
        assert httpx.post(f"{image}/objects/1/clicks", json={"x": 60, "y": 45}, timeout=60).status_code == 200
        for connection in idle:
            connection.close()
        time.sleep(0.5)
        assert all(httpx.get(f"{url}/health", timeout=10).status_code == 200 for _ in range(20))
        command.terminate()
        assert len(command.said) <= 5, command.said[:10]  # 10,000 lines, when asyncio logged every failure


def _descriptors_of(command: Command) -> int:
    return len(list(Path(f"/proc/{command.process.pid}/fd").iterdir()))


@pytest.mark.slow
def test_connections_that_come_and_go_leave_no_descriptor_open(command):
    httpx.get(f"{address(command)}/health")
    time.sleep(0.5)
    before = _descriptors_of(command)
    for _ in range(200):
        with socket.create_connection(("127.0.0.1", command.port)) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: local")
    time.sleep(1.5)
    assert _descriptors_of(command) <= before + 2


@pytest.fixture(scope="module")
def impatient(tmp_path_factory) -> Iterator[int]:
    """The port of a server that waits a second for headers and bodies."""
    from fretsaw.server.app import create_app
    from serving import settings_of, tiny_segmenter

    place = tmp_path_factory.mktemp("impatient")
    chosen = settings_of(
        make_folder(place / "photos"), place / "data", head_seconds=1.0, body_seconds=3.0, body_rate=100_000, idle_seconds=1, send_seconds=1.0, connections=20
    )
    with in_thread(create_app(tiny_segmenter(), chosen), chosen) as port:
        yield port


@contextmanager
def in_thread(app, chosen) -> Iterator[int]:
    """Serve an application with the command's own listening, in a thread of this process."""
    from fretsaw.server.listening import listen, make_server

    with listen("127.0.0.1", 0, chosen) as door:
        server = make_server(app, door, chosen)
        thread = threading.Thread(target=server.run, args=([door],), daemon=True)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.02)
            yield door.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)


POST = b"POST /api/images?name=x.png HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"


def test_a_body_that_does_not_come_is_not_waited_for(impatient):
    began = time.monotonic()
    said = talk(impatient, POST + b"x" * 1000)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"expected a body of at least 100000 bytes a second, got 1000 bytes in 1 s" in said
    assert b"connection: close" in said
    assert time.monotonic() - began < 10


def test_a_body_that_trickles_is_stopped_and_one_that_is_only_slow_is_not(impatient):
    with socket.create_connection(("127.0.0.1", impatient), timeout=20) as connection:
        connection.sendall(POST)
        began = time.monotonic()
        try:
            while time.monotonic() - began < 10:
                connection.sendall(b"x" * 100)
                time.sleep(0.1)
        except OSError:
            pass
        assert time.monotonic() - began < 8
    with socket.create_connection(("127.0.0.1", impatient), timeout=20) as connection:
        connection.sendall(POST)
        for _ in range(20):  # 500 kB a second, for 2 s
            connection.sendall(b"x" * 50_000)
            time.sleep(0.1)
        assert read_all(connection).startswith(b"HTTP/1.1 422 ")


def test_headers_that_trickle_are_stopped(impatient):
    with socket.create_connection(("127.0.0.1", impatient), timeout=20) as connection:
        began = time.monotonic()
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        try:
            while time.monotonic() - began < 10:
                connection.sendall(b"x-a: b\r\n")
                time.sleep(0.1)
        except OSError:
            pass
        assert 0.5 < time.monotonic() - began < 6
    assert b"408" in talk(impatient, b"GET /health HTTP/1.1\r\n")
    assert talk(impatient) == b""


def test_idle_connections_are_closed_and_a_second_request_may_not_trickle_either(impatient):
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    began = time.monotonic()
    assert talk(impatient, request).count(b"HTTP/1.1 200") == 1
    assert talk(impatient, request, request).count(b"HTTP/1.1 200") == 2
    assert b"HTTP/1.1 200" in talk(impatient, request + b"GET /hea")
    assert time.monotonic() - began < 20


def test_who_does_not_take_up_what_is_sent_is_let_go(impatient):
    """Many large replies are asked for in one go and never read; others are answered meanwhile, and the connection ends."""
    page = b"GET /static/main.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", impatient))
        connection.sendall(page * 400)
        time.sleep(4)
        assert httpx.get(f"http://127.0.0.1:{impatient}/health").status_code == 200
        assert _is_closed(connection)


def _is_closed(connection: socket.socket) -> bool:
    try:
        for _ in range(50):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(0.05)
    except OSError:
        return True
    return False


def test_one_connection_too_many_is_told_so(tmp_path):
    from fretsaw.server.app import create_app
    from serving import settings_of, tiny_segmenter

    chosen = settings_of(make_folder(tmp_path / "photos"), tmp_path / "data", connections=4)
    with in_thread(create_app(tiny_segmenter(pause=3.0), chosen), chosen) as port:
        busy = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(4)]
        for connection in busy:
            connection.sendall(b"POST /api/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n")
        time.sleep(0.3)
        reply = httpx.get(f"http://127.0.0.1:{port}/health")
        assert (reply.status_code, reply.headers["connection"], reply.headers["retry-after"]) == (503, "close", "1")
        assert reply.json() == {"reason": "expected fewer connections at once; try again in a moment", "kind": "ConnectionLimitError"}
        busy.pop().close()
        time.sleep(0.3)
        assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
        for connection in busy:
            connection.close()


LARGE = {
    "too many points": ("POST", "scribbles", b'{"points": [' + b"[50.5, 40.5]," * MILLION + b"[1, 1]]}"),
    "wrong points": ("POST", "scribbles", b'{"points": [' + b'["a","b"],' * MILLION + b"[1, 1]]}"),
    "wrong points, fewer": ("POST", "scribbles", b'{"points": [' + b'["a","b"],' * 20_000 + b"[1, 1]]}"),
    "wrong counts": ("PUT", "mask", b'{"rle": {"size": [90, 120], "counts": [' + b'"x",' * MILLION + b"1]}}"),
    "many counts": ("PUT", "mask", b'{"rle": {"size": [90, 120], "counts": [' + b"1," * 4 * MILLION + b"1]}}"),
    "deep": ("PUT", "mask", b"[" * 4 * MILLION),
    "many names": ("PATCH", "", b"{" + b",".join(b'"%d": 1' % n for n in range(25_000)) + b"}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_large_bodies_stop_nobody_else(command, name):
    url = address(command)
    image = f"{url}/api/images/{httpx.get(f'{url}/api/images', timeout=30).json()['images'][0]['id']}"
    item = f"{image}/objects/{httpx.post(f'{image}/objects', json={}, timeout=30).json()['id']}"
    method, path, content = LARGE[name]
    answered: list[float] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            while not stop.is_set():
                began = time.perf_counter()
                assert client.get(f"{url}/health").status_code == 200
                answered.append(time.perf_counter() - began)
                time.sleep(0.01)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        time.sleep(0.2)
        try:
            reply = httpx.request(method, f"{item}/{path}".rstrip("/"), content=content, headers={"content-type": "application/json"}, timeout=60)
            assert reply.status_code in (400, 413, 422), reply.text[:200]
            assert len(reply.content) < 2000
        except httpx.TransportError:
            pass  # refused by its length, and closed before it was sent in full
    finally:
        stop.set()
        asking.join()
    began = time.perf_counter()
    with suppress(ValueError, RecursionError):
        json.loads(content)
    alone = time.perf_counter() - began  # on this machine, with all that runs on it now
    assert max(answered) < 2.0 + 4 * alone, max(answered)  # 10 s and more, when a million errors were described


@pytest.mark.slow
def test_it_ends_though_a_job_hangs_and_somebody_listens(tmp_path):
    with Command(make_folder(tmp_path / "photos"), "--data", tmp_path / "data", pause=600) as command:
        url = address(command)
        job = httpx.post(f"{url}/api/auto", timeout=30).json()
        with httpx.stream("GET", f"{url}/api/jobs/{job['id']}/events", timeout=30) as events:
            assert next(events.iter_lines()).startswith("data: ")
            seconds = command.terminate(patience=60)
        assert seconds < 20
        assert not any("Traceback" in line for line in command.said), command.said


@pytest.mark.slow
def test_read_only_writes_nothing_beside_the_pictures_and_leaves_nothing_behind(tmp_path):
    from starlette.testclient import TestClient

    from fretsaw.server.app import create_app
    from serving import settings_of, tiny_segmenter

    folder = make_folder(tmp_path / "photos")
    with TestClient(create_app(tiny_segmenter(), settings_of(folder, folder / ".fretsaw"))) as client:
        image = f"/api/images/{client.get('/api/images').json()['images'][0]['id']}"
        client.post(f"{image}/objects", json={"name": "ball"})
        expected = client.post(f"{image}/objects/1/clicks", json={"x": 60, "y": 45}).json()

    def seen() -> dict[str, tuple[int, int]]:
        return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in sorted(folder.rglob("*"))}

    before = seen()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with Command(folder, "--read-only", environment={"TMPDIR": str(temporary)}) as command:
        url = address(command)
        assert httpx.get(f"{url}{image}/objects/1", timeout=30).json() == expected
        for row in httpx.get(f"{url}/api/images", timeout=30).json()["images"]:
            assert httpx.get(f"{url}/api/images/{row['id']}/view.jpg", timeout=30).status_code == 200
            assert httpx.post(f"{url}/api/images/{row['id']}/preview", json={"x": 5, "y": 5}, timeout=60).status_code == 200
        assert httpx.post(f"{url}{image}/objects/1/undo", timeout=30).status_code == 403
        assert list(temporary.glob("fretsaw-read-only-*"))
        command.terminate()
        assert command.process.returncode == 143
        assert not any("Traceback" in line for line in command.said), command.said
    assert seen() == before
    assert not list(temporary.glob("fretsaw-read-only-*"))
