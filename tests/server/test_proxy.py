"""The recipe for a proxy with TLS in docs/http.md works: a real nginx runs it, word for word, in front of the real command."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from fretsaw.images import encode_image
from serve_command import Command
from serving import make_folder, photo
from tools import need

NAME = "cut.example.org"
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "http.md"


def recipe() -> str:
    """The one block of nginx's language in the document."""
    [block] = re.findall(r"```nginx\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return block


@dataclass
class Proxied:
    url: str
    token: str
    certificate: Path
    command: Command

    def client(self, **more) -> httpx.Client:
        return httpx.Client(base_url=self.url, transport=HereTransport(self.certificate), timeout=60, **more)


class HereTransport(httpx.HTTPTransport):
    """Finds the proxy's name on this machine, as a name server would; certificate, cookies and headers are those of the name."""

    def __init__(self, certificate: Path) -> None:
        super().__init__(verify=ssl.create_default_context(cafile=str(certificate)))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url, more = request.url.copy_with(host="127.0.0.1"), {**request.extensions, "sni_hostname": NAME}
        return super().handle_request(httpx.Request(request.method, url, headers=request.headers, stream=request.stream, extensions=more))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


@pytest.fixture(scope="module")
def proxied(tmp_path_factory) -> Iterator[Proxied]:
    nginx, openssl = need("nginx"), need("openssl")
    place = tmp_path_factory.mktemp("proxy")
    key, certificate = place / "key.pem", place / "certificate.pem"
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    subprocess.run([openssl, *made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    port = free_port()
    url = f"https://{NAME}:{port}"
    with Command(make_folder(place / "photos"), "--data", place / "data", "--public-url", url, pause=0.7) as command:
        block = recipe()
        for written, here in (
            ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
            ("/etc/ssl/cut.example.org.pem", str(certificate)),
            ("/etc/ssl/cut.example.org.key", str(key)),
            ("http://127.0.0.1:8000", f"http://127.0.0.1:{command.port}"),
        ):
            assert written in block, f"the recipe has changed: {written}"
            block = block.replace(written, here)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        folders = "".join(f"{kind}_temp_path {place / kind}; " for kind in kinds)
        # What a distribution's own nginx.conf holds, and nothing that changes how requests are passed on.
        around = f"daemon off; pid {place / 'pid'}; error_log {place / 'errors.log'}; events {{}} http {{ access_log off; {folders}\n{block}\n}}"
        (place / "nginx.conf").write_text(around)
        process = subprocess.Popen([nginx, "-c", place / "nginx.conf", "-p", place, "-g", "user root;" if Path("/proc/self").owner() == "root" else ""])
        try:
            wait_for(port, process)
            token = re.search(r"token=(\S+)", command.line)
            assert command.line.startswith(f"fretsaw: open {url}/?token=")
            assert token is not None
            yield Proxied(url, token[1], certificate, command)
        finally:
            process.terminate()
            process.wait(20)


def wait_for(port: int, process: subprocess.Popen) -> None:
    ends = time.monotonic() + 20
    while time.monotonic() < ends and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"nginx did not start (status {process.poll()})")


@pytest.mark.slow
def test_a_whole_job_through_the_proxy(proxied):
    own = {"origin": proxied.url, "sec-fetch-site": "same-origin"}
    with proxied.client(headers=own) as client:
        assert client.get("/api/images").status_code == 403
        entered = client.get("/", params={"token": proxied.token})
        assert (entered.status_code, entered.headers["location"]) == (303, "/")
        assert {"Secure", "HttpOnly"} <= {part.strip() for part in entered.headers["set-cookie"].split(";")}
        assert "<html" in client.get("/").text
        assert client.get("/static/main.js").status_code == 200
        # An upload of 5 MB, which is larger than what nginx takes unasked.
        content = encode_image(photo(5), ".png") + b"\0" * 5_000_000
        uploaded = client.post("/api/images?name=cat.png", content=content)
        assert uploaded.status_code == 201, uploaded.text
        image = f"/api/images/{uploaded.json()['id']}"
        assert client.post(f"{image}/objects", json={"name": "cat"}).status_code == 201
        clicked = client.post(f"{image}/objects/1/clicks", json={"x": 60, "y": 45})
        assert clicked.json()["undoable"] == 1
        assert client.get(f"{image}/view.jpg").headers["content-type"] == "image/jpeg"
        assert client.request("PATCH", f"{image}/objects/1", json={"name": "dog"}).json()["name"] == "dog"
        assert client.get(f"{image}/export?format=coco").status_code == 200
        assert client.delete(image).status_code == 204


@pytest.mark.slow
def test_events_come_one_by_one_through_the_proxy(proxied):
    with proxied.client(headers={"authorization": f"Bearer {proxied.token}", "origin": proxied.url}) as client:
        job = client.post("/api/auto").json()
        arrived: list[tuple[float, dict]] = []
        with client.stream("GET", f"/api/jobs/{job['id']}/events") as events:
            for line in events.iter_lines():
                if line.startswith("data: "):
                    arrived.append((time.monotonic(), json.loads(line.removeprefix("data: "))))
        assert arrived[-1][1]["state"] == "done"
        assert arrived[-1][1]["done"] == 3
        first = next(moment for moment, event in arrived if event["done"] >= 1)
        assert arrived[-1][0] - first > 1.0  # two more pictures of 0.7 s each: it was not held back until the end


@pytest.mark.slow
def test_other_sites_get_nothing_through_the_proxy(proxied):
    bearer = {"authorization": f"Bearer {proxied.token}"}
    with proxied.client(headers=bearer) as client:
        for headers in (
            {"origin": "https://evil.example"},
            {"origin": proxied.url.replace("https", "http")},
            {"origin": "null"},
            {"sec-fetch-site": "cross-site", "origin": proxied.url},
            {"host": "evil.example"},
            {"host": "evil.example", "x-forwarded-host": NAME, "origin": proxied.url},
        ):
            reply = client.post("/api/exports", json={"format": "coco"}, headers=headers)
            assert (reply.status_code, reply.json()["kind"]) == (403, "ForbiddenError"), headers
        assert client.post("/api/exports", json={"format": "coco"}, headers={"origin": proxied.url}).status_code == 202
    # Past the proxy, on the same machine, the server goes on as before.
    direct = f"http://127.0.0.1:{proxied.command.port}"
    assert httpx.post(f"{direct}/api/exports", json={"format": "coco"}, headers=bearer | {"origin": direct}).status_code == 202
