"""Pictures from an address (`https://...`) or inside one (`data:...`), for the library and the command line; the server fetches nothing.

SECURITY.md states the rules that this file keeps: which machines may be asked, how often a reply may lead elsewhere, how much and how long is read.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote, unquote_to_bytes, urljoin, urlsplit

from fretsaw.errors import ImageError
from fretsaw.weights.cache import is_offline

MOST_CHARACTERS = 2000
MOST_BYTES = 2**27
MOST_REDIRECTS = 5
CONNECT_SECONDS, SILENT_SECONDS, ALL_SECONDS = 10.0, 30.0, 120.0
AT_ONCE = 4
MOST_NAME = 100
PRIVATE_OPTION = "--allow-private-network"
_SLOTS = threading.BoundedSemaphore(AT_ONCE)
_PREFIX_64 = ipaddress.IPv6Network("64:ff9b::/96")
_REDIRECTS = (301, 302, 303, 307, 308)
_SHOWN = 100


def is_address(source: object) -> bool:
    """Whether something is an address of a picture, by how it begins: `http://`, `https://` or `data:`."""
    return isinstance(source, str) and re.match(r"(https?://|data:)", source[:8], re.IGNORECASE) is not None


@dataclass(frozen=True, slots=True)
class Address:
    """A picture that lies at an address.

    Attributes:
        url: The address.
        private: Whether machines of a private network, this one included, may be asked, and by http too.
    """

    url: str
    private: bool = False

    def __str__(self) -> str:
        text = self.url if self.url.isprintable() else ascii(self.url)
        return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."

    @property
    def name(self) -> str:
        """What a file about the picture is called: the last part of the address's path, cut to what every system can write; never from a reply."""
        path = "" if self.url[:5].lower() == "data:" else unquote(urlsplit(self.url).path)
        last = re.sub(r"[^A-Za-z0-9._-]+", "_", path.rpartition("/")[2]).strip("._")[-MOST_NAME:].lstrip("._")
        return last or "picture"

    def read(self) -> bytes:
        """Return the picture's file.

        Raises:
            ImageError: If the address cannot be used, may not be asked, does not answer in time, or answers with something else than up to 128 MiB.
        """
        if self.url[:5].lower() == "data:":
            return _inside(self.url)
        if is_offline():
            raise ImageError(f"{self}: expected a file, since FRETSAW_OFFLINE forbids downloads; got an address")
        with _SLOTS:
            return _fetched(self)


def _inside(url: str) -> bytes:
    """Return what a data: address holds (RFC 2397)."""
    head, comma, body = url.partition(",")
    if not comma or len(body) > 2 * MOST_BYTES:
        raise ImageError(f"{url[:40]}: expected a data: address with a comma and up to {MOST_BYTES} bytes behind it, got another")
    try:
        content = base64.b64decode(unquote(body), validate=False) if head.lower().endswith(";base64") else unquote_to_bytes(body)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"{url[:40]}: expected base64 behind the comma, got something else") from error
    if len(content) > MOST_BYTES:
        raise ImageError(f"{url[:40]}: expected at most {MOST_BYTES} bytes, got {len(content)}")
    return content


def _fetched(address: Address) -> bytes:
    url, deadline, left = address.url, time.monotonic() + ALL_SECONDS, False
    for _ in range(MOST_REDIRECTS + 1):
        host, port, target, secure = _checked(url, address)
        if left and not secure:
            raise ImageError(f"{address}: expected redirects that stay with https, got one to http")
        left = secure
        try:
            status, place, content = _asked(host, port, target, secure, address, deadline)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ImageError(f"{address}: expected a picture from {host}, got: {_reason(error)}") from error
        if status not in _REDIRECTS:
            return content
        if place is None:
            raise ImageError(f"{address}: expected a picture, got a reply that leads elsewhere without saying where")
        url = urljoin(url, place)
    raise ImageError(f"{address}: expected a picture after at most {MOST_REDIRECTS} redirects, got one more")


def _checked(url: str, address: Address) -> tuple[str, int, str, bool]:
    """Return host, port, path with query, and whether TLS is used; `ImageError` for what is no address of the kind that may be asked."""
    if len(url) > MOST_CHARACTERS:
        raise ImageError(f"{address}: expected an address of at most {MOST_CHARACTERS} characters, got {len(url)}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ImageError(f"{address}: expected an address, got one that cannot be read: {error}") from error
    schemes = ("https", "http") if address.private else ("https",)
    if parts.scheme not in schemes:
        hint = f"; {PRIVATE_OPTION} allows http" if parts.scheme == "http" else ""
        raise ImageError(f"{address}: expected an address that begins with {' or '.join(schemes)}, got {parts.scheme or 'none'}{hint}")
    if parts.username is not None or parts.password is not None:
        raise ImageError(f"{parts.scheme}://{host}: expected an address without a user's name or password, got one with")
    if not host or re.search(r"[\s\x00-\x20\x7f]", url):
        raise ImageError(f"{address}: expected an address with a host and without white space, got another")
    secure = parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return host, port or (443 if secure else 80), _quoted(target), secure


def _quoted(target: str) -> str:
    return "".join(letter if letter.isascii() else "".join(f"%{byte:02X}" for byte in letter.encode()) for letter in target)


def _asked(host: str, port: int, target: str, secure: bool, address: Address, deadline: float) -> tuple[int, str | None, bytes]:
    """Ask one machine; return status, where the reply leads, and its content."""
    place = _resolved(host, port, address)
    plain = socket.create_connection(place, timeout=max(0.1, min(CONNECT_SECONDS, deadline - time.monotonic())))
    # A machine that sends a byte now and then never lets a read run out of time: at the deadline the connection is cut.
    cut = threading.Timer(max(0.1, deadline - time.monotonic()), _shut, (plain,))
    cut.daemon = True
    cut.start()
    try:
        sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host) if secure else plain
        with sock:
            sock.settimeout(SILENT_SECONDS)
            connection = http.client.HTTPConnection(host, port)
            connection.sock = sock
            connection.putrequest("GET", target, skip_accept_encoding=True)
            for name, value in (("User-Agent", _agent()), ("Accept", "image/*, */*;q=0.5"), ("Accept-Encoding", "identity"), ("Connection", "close")):
                connection.putheader(name, value)
            connection.endheaders()
            reply = connection.getresponse()
            if reply.status in _REDIRECTS:
                return reply.status, reply.getheader("Location"), b""
            if reply.status != 200:
                raise ImageError(f"{address}: expected a picture, got status {reply.status} from {host}")
            if (coding := reply.getheader("Content-Encoding", "identity").strip().lower()) not in ("", "identity"):
                raise ImageError(f"{address}: expected a reply that is not compressed, got {coding[:20]!r}")
            content = bytearray()
            while piece := reply.read1(2**16):
                content += piece
                if len(content) > MOST_BYTES:
                    raise ImageError(f"{address}: expected at most {MOST_BYTES} bytes, got more")
            if time.monotonic() >= deadline:  # a connection that was cut looks like one that ended
                raise TimeoutError
            if reply.length:
                raise OSError(f"{reply.length} bytes are missing")
            return 200, None, bytes(content)
    except (OSError, http.client.HTTPException):
        if time.monotonic() >= deadline:
            raise ImageError(f"{address}: expected a picture within {ALL_SECONDS:g} seconds, got none") from None
        raise
    finally:
        cut.cancel()
        plain.close()


def _resolved(host: str, port: int, address: Address) -> tuple[str, int]:
    """Return a host's address, looked up once; every address it has must be one that may be asked."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ImageError(f"{address}: expected a host that is known, got {host[:100]!r}") from error
    for *_, place in found:
        if not address.private and not is_public(str(place[0])):
            raise ImageError(f"{address}: expected a host of the public network, got {host[:100]!r}, which is {place[0]}; {PRIVATE_OPTION} allows it")
    return str(found[0][4][0]), port


def is_public(place: str) -> bool:
    """Whether a numeric address is one of the public network, also where an IPv6 address wraps an IPv4 one."""
    try:
        number = ipaddress.ip_address(place.partition("%")[0])
    except ValueError:
        return False
    wrapped: list[ipaddress.IPv4Address | None] = []
    if isinstance(number, ipaddress.IPv6Address):
        wrapped = [number.ipv4_mapped, number.sixtofour, *(number.teredo or ())]
        if number in _PREFIX_64 or int(number) >> 32 == 0:
            wrapped.append(ipaddress.IPv4Address(int(number) & 0xFFFFFFFF))
    if any(inner is not None for inner in wrapped):
        return all(is_public(str(inner)) for inner in wrapped if inner is not None)
    return number.is_global and not (number.is_multicast or number.is_reserved or number.is_unspecified or number.is_loopback or number.is_link_local)


def _shut(plain: socket.socket) -> None:
    with suppress(OSError):
        plain.shutdown(socket.SHUT_RDWR)


def _agent() -> str:
    from fretsaw import __version__

    return f"fretsaw/{__version__}"


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing for {SILENT_SECONDS:g} seconds"
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return text if text.isprintable() else ascii(text)
