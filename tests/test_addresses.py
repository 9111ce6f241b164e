"""Pictures from addresses, by the rules of SECURITY.md: a server on loopback stands for the machines that are asked."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import pytest

from fretsaw import addresses
from fretsaw.addresses import Address, is_address, is_public
from fretsaw.errors import ImageError
from fretsaw.images import encode_image, read_image

PHOTO = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
CONTENT = encode_image(PHOTO, ".png")


class Handler(BaseHTTPRequestHandler):
    replies: ClassVar[dict[str, Callable[[Handler], None]]] = {}
    seen: ClassVar[list[tuple[str, dict[str, str]]]] = []

    def do_GET(self) -> None:
        self.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.replies.get(self.path, lambda handler: handler.send_error(404))(self)

    def answer(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **{name.replace("_", "-"): value for name, value in headers.items()}}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch) -> Iterator[str]:
    monkeypatch.delenv("FRETSAW_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Handler.replies, Handler.seen = {"/a/photo.png?v=1": lambda handler: handler.answer(CONTENT)}, []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def refused(url: str, match: str, private: bool = True) -> None:
    with pytest.raises(ImageError, match=match) as error:
        Address(url, private).read()
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


def test_a_picture_is_fetched_without_telling_who_asks(site):
    address = Address(f"{site}/a/photo.png?v=1", private=True)
    assert (read_image(address.read()) == PHOTO).all()
    [(path, headers)] = Handler.seen
    assert path == "/a/photo.png?v=1"
    assert set(headers) == {"host", "user-agent", "accept", "accept-encoding", "connection"}
    assert headers["user-agent"].startswith("fretsaw/")
    assert headers["accept-encoding"] == "identity"


def test_private_machines_are_asked_only_if_that_is_allowed(site):
    refused(f"{site}/a/photo.png?v=1", "expected an address that begins with https, got http; --allow-private-network allows http", private=False)
    refused(
        f"{site.replace('http:', 'https:')}/a", "expected a host of the public network, got '127.0.0.1', which is 127.0.0.1; --allow-private", private=False
    )
    refused("https://localhost/a.png", "expected a host of the public network", private=False)
    assert Handler.seen == []


@pytest.mark.parametrize(
    ("place", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::808:808", True),
        *((place, False) for place in ("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "240.0.0.1")),
        *((place, False) for place in ("0.0.0.0", "::", "::1", "fc00::1", "fe80::1%eth0", "ff02::1", "192.0.2.1", "255.255.255.255", "no number")),
        *((place, False) for place in ("::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1")),
    ],
)
def test_what_is_public(place, public):
    assert is_public(place) is public


def test_every_address_of_a_host_must_be_public_and_it_is_looked_up_once(monkeypatch):
    asked = []

    def look_up(host, port, **options):
        asked.append(host)
        return [(2, 1, 6, "", (place, port)) for place in ("8.8.8.8", "10.0.0.1")]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", look_up)
    monkeypatch.setattr(addresses.socket, "create_connection", lambda *arguments, **options: pytest.fail("a machine was asked"))
    monkeypatch.delenv("FRETSAW_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    refused("https://two.example/a.png", "which is 10.0.0.1", private=False)
    assert asked == ["two.example"]


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("ftp://host/a.png", "expected an address that begins with https or http, got ftp"),
        ("file:///etc/passwd", "got file"),
        ("https://me:secret@host/a.png", "without a user's name or password"),
        ("https://me@host/a.png", "without a user's name or password"),
        ("https:///a.png", "with a host"),
        ("https://host/a b.png", "without white space"),
        ("https://host:99999/a.png", "cannot be read"),
        ("https://[x/a.png", "cannot be read"),
        ("https://host/" + "a" * 2000, "at most 2000 characters"),
    ],
)
def test_addresses_that_are_not_asked(url, match, monkeypatch):
    monkeypatch.delenv("FRETSAW_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda *arguments, **options: pytest.fail("a host was looked up"))
    with pytest.raises(ImageError, match=match) as error:
        Address(url, private=True).read()
    assert "secret" not in str(error.value)


def test_offline_asks_nobody(monkeypatch):
    monkeypatch.setenv("FRETSAW_OFFLINE", "1")
    monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda *arguments, **options: pytest.fail("a host was looked up"))
    refused("https://host/a.png", "FRETSAW_OFFLINE forbids")


def test_five_redirects_are_followed_and_no_more(site):
    for number in range(7):
        Handler.replies[f"/{number}"] = lambda handler, number=number: handler.answer(b"", 302, Location=f"{site}/{number + 1}")
    Handler.replies["/7"] = Handler.replies["/a/photo.png?v=1"]
    assert Address(f"{site}/2", private=True).read() == CONTENT
    refused(f"{site}/1", "at most 5 redirects")


def test_each_redirect_is_checked_as_the_first_address_is(site):
    Handler.replies |= {"/ftp": lambda handler: handler.answer(b"", 301, Location="ftp://host/x"), "/none": lambda handler: handler.answer(b"", 301)}
    Handler.replies["/user"] = lambda handler: handler.answer(b"", 307, Location="https://me:pw@host/x")
    refused(f"{site}/ftp", "got ftp")
    refused(f"{site}/user", "without a user's name")
    refused(f"{site}/none", "without saying where")


def test_no_redirect_leaves_https(monkeypatch):
    monkeypatch.delenv("FRETSAW_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(addresses, "_asked", lambda host, port, target, secure, address, deadline: (302, "http://other/x", b""))
    refused("https://host/a.png", "stay with https")


def test_no_more_is_read_than_the_limit_whatever_the_reply_says(site, monkeypatch):
    monkeypatch.setattr(addresses, "MOST_BYTES", 1000)
    Handler.replies["/large"] = lambda handler: handler.answer(bytes(1001))

    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(bytes(10**6))

    Handler.replies["/endless"] = endless
    refused(f"{site}/large", "at most 1000 bytes, got more")
    refused(f"{site}/endless", "at most 1000 bytes, got more")


def test_replies_that_are_no_picture(site):
    Handler.replies["/packed"] = lambda handler: handler.answer(CONTENT, Content_Encoding="gzip")
    Handler.replies["/short"] = lambda handler: handler.answer(CONTENT, Content_Length=str(len(CONTENT) + 5))
    refused(f"{site}/nothing", "got status 404")
    refused(f"{site}/packed", "not compressed, got 'gzip'")
    refused(f"{site}/short", "missing|IncompleteRead|incomplete")
    refused("http://127.0.0.1:1/x.png", "expected a picture from 127.0.0.1, got")


def test_a_machine_that_is_silent_or_slow_is_given_up(site, monkeypatch):
    monkeypatch.setattr(addresses, "SILENT_SECONDS", 0.2)
    Handler.replies["/silent"] = lambda handler: time.sleep(1)

    def slow(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
        for _ in range(40):
            handler.wfile.write(b"x")
            time.sleep(0.05)

    Handler.replies["/slow"] = slow
    refused(f"{site}/silent", "nothing for 0.2 seconds")
    monkeypatch.setattr(addresses, "ALL_SECONDS", 0.4)
    began = time.monotonic()
    refused(f"{site}/slow", "within 0.4 seconds")
    assert time.monotonic() - began < 1.5


def test_the_limits_are_those_of_the_document():
    assert (addresses.MOST_CHARACTERS, addresses.MOST_REDIRECTS, addresses.MOST_BYTES, addresses.AT_ONCE) == (2000, 5, 128 * 2**20, 4)
    assert (addresses.CONNECT_SECONDS, addresses.SILENT_SECONDS, addresses.ALL_SECONDS, addresses.MOST_NAME) == (10, 30, 120, 100)


def test_a_data_address_holds_its_picture():
    encoded = base64.b64encode(CONTENT).decode()
    for url in (
        f"data:image/png;base64,{encoded}",
        f"DATA:;BASE64,{encoded.replace('+', '%2B')}",
        "data:image/png," + "".join(f"%{byte:02x}" for byte in CONTENT),
    ):
        assert is_address(url)
        assert Address(url).read() == CONTENT
    with pytest.raises(ImageError, match="base64"):
        Address("data:image/png;base64,A").read()
    with pytest.raises(ImageError, match="with a comma"):
        Address("data:image/png").read()
    assert len(str(Address(f"data:image/png;base64,{encoded}"))) <= 100


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://host/a/photo.png?v=1", "photo.png"),
        ("https://host/a%20b/%2e%2e%2fc%00d.jpg", "c_d.jpg"),
        ("https://host/", "picture"),
        ("https://host/.htaccess", "htaccess"),
        ("https://host/" + "x" * 300 + ".png", "x" * 96 + ".png"),
        ("data:image/png;base64,AAAA", "picture"),
    ],
)
def test_what_a_file_about_it_is_called(url, name):
    assert Address(url).name == name
