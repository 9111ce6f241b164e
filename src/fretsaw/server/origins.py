"""By which names a server is called, and from whose pages requests come: the Host and Origin headers, read strictly.

A browser writes both headers itself; everybody else may write anything. Whatever cannot be read is a `MalformedError`, never a guess.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from fretsaw.errors import ConfigError
from fretsaw.server.refusals import MalformedError

DEFAULT_PORTS = {"http": 80, "https": 443}
_AUTHORITY = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,253}))(?::(?P<port>[0-9]{1,5}))?")
_ORIGIN = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,30})://(?P<authority>[^/?#]*)")


@dataclass(frozen=True, slots=True)
class Authority:
    """What a Host header says.

    Attributes:
        name: A host name in lower case, or an address in its shortest form, without brackets.
        port: None where it is not written.
    """

    name: str
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose page sends a request: scheme, name and port have to agree, all three."""

    scheme: str
    name: str
    port: int

    def __str__(self) -> str:
        shown = f"[{self.name}]" if ":" in self.name else self.name
        return f"{self.scheme}://{shown}" + ("" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}")


def plain_host(name: str) -> str:
    """Return a host name in the one spelling in which names are compared: lower case, without brackets or a last dot, addresses in their shortest form."""
    bare = name.strip().lower().removeprefix("[").removesuffix("]").removesuffix(".")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return bare


def read_host(text: str) -> Authority:
    """Return what a Host header says.

    Raises:
        MalformedError: If it is no name, address or name and port.
    """
    found = _AUTHORITY.fullmatch(text)
    port = int(found["port"]) if found and found["port"] else None
    if found is None or (port is not None and not 0 < port < 65536) or (found["name"].startswith("[") and not _is_address(found["name"][1:-1])):
        raise MalformedError(f"expected a Host header like example.org:8000, got {text[:60]!r}")
    return Authority(plain_host(found["name"]), port)


def read_origin(text: str) -> Origin | None:
    """Return whose page an Origin header names; None for a page of no address ("null") or of another scheme, which is never the server's own.

    Raises:
        MalformedError: If it is no origin at all.
    """
    if text == "null":
        return None
    found = _ORIGIN.fullmatch(text)
    if found is None:
        raise MalformedError(f"expected an Origin header like https://example.org, got {text[:60]!r}")
    scheme = found["scheme"].lower()
    if scheme not in DEFAULT_PORTS:
        return None
    try:
        authority = read_host(found["authority"])
    except MalformedError as error:
        raise MalformedError(f"expected an Origin header like https://example.org, got {text[:60]!r}") from error
    return Origin(scheme, authority.name, authority.port or DEFAULT_PORTS[scheme])


def read_public_url(text: str) -> Origin:
    """Return the origin of the address under which a proxy shows the server.

    Raises:
        ConfigError: If it is no http or https address, or has a path: the page asks for everything from the root of its host.
    """
    try:
        origin = read_origin(text.removesuffix("/"))
    except MalformedError:
        origin = None
    if origin is None:
        raise ConfigError(f"expected a public URL like https://example.org, a host without a path, got {text[:80]!r}")
    return origin


def is_own_page(origin: Origin | None, host: Authority | None, public: Origin | None) -> bool:
    """Return whether a request comes from the server's own page.

    Args:
        origin: Whose page sends it.
        host: By which name the server was called, where that is known.
        public: Where a proxy shows the server. The proxy may pass the Host header on or write its own.
    """
    if origin is None or host is None:
        return origin is not None and origin == public
    if public is not None and host.name == public.name and (host.port or DEFAULT_PORTS[public.scheme]) == public.port:
        return origin == public  # not the same name without TLS: anybody on the way could have written that page
    return origin == public or (origin.name, origin.port) == (host.name, host.port or DEFAULT_PORTS[origin.scheme])


def _is_address(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False
