"""Who sent a request and under which URL, also when reverse proxies have passed it on.

Headers such as X-Forwarded-For can be sent by anybody. They count when the TCP peer is in
TRUSTED_PROXIES. A request of anybody else that has one of them was passed on by a proxy of which we
know nothing, or is a lie: its address proves nothing then, so it gets no right that an address
gives (HOST_OPEN_NETWORKS, and host_urls on loopback).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from aiohttp import hdrs, web
from multidict import CIMultiDictProxy

from vpt.config import Config, Network, is_prefix
from vpt.urls import is_loopback, parse_address
from vpt.web.http.keys import CONFIG

Headers = CIMultiDictProxy[str]

_FOR, _PROTO = hdrs.X_FORWARDED_FOR, hdrs.X_FORWARDED_PROTO
_HOST, _PREFIX = hdrs.X_FORWARDED_HOST, "X-Forwarded-Prefix"
#: Each of them shows that somebody passed the request on.
_PASSED_ON = (_FOR, _PROTO, _HOST, _PREFIX, hdrs.FORWARDED, "X-Real-IP", hdrs.VIA)
_SCHEMES = ("http", "https")
_HOST_NAME = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")
#: An address of X-Forwarded-For, with or without a port: 192.0.2.1:80, [2001:db8::1]:80.
_WITH_PORT = re.compile(r"\[(?P<six>[^\]]*)\](?::[0-9]+)?|(?P<four>[0-9.]+):[0-9]+")
#: More proxies than this are no chain, but an attempt to keep the server busy.
_LONGEST_CHAIN = 32


@dataclass(frozen=True, slots=True)
class Caller:
    """The client of a request, and the URL that it used.

    `address` is "" when it is unknown. `proven` says that it is the client's: only then an address
    may give a right. `host` may have a port; `prefix` is "" or a path such as "/vpt".
    """

    address: str
    proven: bool
    scheme: str
    host: str
    prefix: str


_CALLER = web.RequestKey("caller", Caller)
#: The path by which a route was found, when a prefix had to be removed for it.
ROUTED_PATH = web.RequestKey("routed_path", str)


def caller_of(request: web.Request, config: Config | None = None) -> Caller:
    """Return who sent the request, and under which URL; looked up once for each request.

    `config` is needed only while its route is not known yet.
    """
    caller = request.get(_CALLER)
    if caller is None:
        caller = request[_CALLER] = _read(request, config or request.app[CONFIG])
    return caller


def peer_of(request: web.Request) -> str:
    """Return the address of the client where it is proven, else "": it may give a right."""
    caller = caller_of(request)
    return caller.address if caller.proven else ""


def is_trusted_proxy(config: Config, address: str) -> bool:
    """Return whether the TCP peer at `address` is in TRUSTED_PROXIES: many clients come from it."""
    return bool(config.trusted_proxies) and is_in(address, config.trusted_proxies)


def is_in(text: str, networks: Iterable[Network]) -> bool:
    """Return whether an address is in one of the networks; False for a text that is none."""
    address = parse_address(text)
    return address is not None and any(address in network for network in networks)


def routed_path(request: web.Request) -> str:
    """Return the path by which the route was found: without the prefix of SERVER_URL."""
    return request.get(ROUTED_PATH) or request.path


def _read(request: web.Request, config: Config) -> Caller:
    peername = request.transport.get_extra_info("peername") if request.transport else None
    peer = _plain(str(peername[0])) if isinstance(peername, tuple) else ""
    headers = request.headers
    if not any(name in headers for name in _PASSED_ON):
        return Caller(peer, bool(peer), request.scheme, request.host, config.prefix)
    if not is_trusted_proxy(config, peer):
        return Caller(peer, False, request.scheme, request.host, config.prefix)
    address = client_address(headers, config.trusted_proxies, peer)
    last = (_forwarded(headers) or [{}])[-1]
    proto, host, prefix = (_parts(headers, name)[-1] for name in (_PROTO, _HOST, _PREFIX))
    return Caller(
        address or peer,
        bool(address),
        _first(proto.lower(), last.get("proto", "").lower(), allowed=_is_scheme) or request.scheme,
        _first(host, last.get("host", ""), allowed=_is_host) or request.host,
        _first(prefix.rstrip("/"), allowed=is_prefix) or config.prefix,
    )


def client_address(headers: Headers, trusted: tuple[Network, ...], peer: str) -> str:
    """Return the address of the client as the trusted proxies tell it, "" when they do not.

    A proxy that knows one of the two headers passes the other one on as its client sent it. So
    when both are there they must name the same client.
    """
    chains = []
    if _FOR in headers:
        chains.append([_address(part) for part in _parts(headers, _FOR)])
    elements = _forwarded(headers)
    if any("for" in element for element in elements):
        chains.append([_address(element.get("for", "")) for element in elements])
    found = {_last_stranger(chain, trusted) for chain in chains}
    address = found.pop() if len(found) == 1 else ""
    # Loopback is "the server's own machine" only when the proxy is there, too.
    if address and _is_here(address) and not _is_here(peer):
        return ""
    return address


def _last_stranger(chain: list[str], trusted: tuple[Network, ...]) -> str:
    """Return the last address that is no trusted proxy's: what is before it anybody may have sent.

    When all are trusted it is the first one; "" when one on the way is not an address.
    """
    if len(chain) > _LONGEST_CHAIN:
        return ""
    for address in reversed(chain):
        if not address or not is_in(address, trusted):
            return address
    return chain[0] if chain else ""


def _parts(headers: Headers, name: str) -> list[str]:
    """Return the parts of a header, over all its lines; that of the nearest proxy is the last.

    Of a chain that is too long the rest is one part: its thousands cost a request's time otherwise.
    """
    text = ",".join(headers.getall(name, []))
    return [part.strip() for part in text.rsplit(",", _LONGEST_CHAIN)]


def _forwarded(headers: Headers) -> list[dict[str, str]]:
    """Return the elements of `Forwarded` (RFC 7239), each with its names in lower case."""
    return [
        {name.strip().lower(): value.strip().strip('"') for name, _, value in map(_pair, fields)}
        for fields in (element.split(";") for element in _parts(headers, hdrs.FORWARDED) if element)
    ]


def _pair(text: str) -> tuple[str, str, str]:
    return text.partition("=")


def _address(text: str) -> str:
    """Return the address in a part of X-Forwarded-For or `for=`, "" when there is none."""
    match = _WITH_PORT.fullmatch(text)
    return _plain((match["six"] or match["four"] or "") if match else text)


@lru_cache(maxsize=10_000)  # each request has one of a few peers
def _plain(text: str) -> str:
    """Return an address in its usual form, IPv4 in IPv6 as IPv4; "" for another text."""
    address = parse_address(text.partition("%")[0])
    return "" if address is None else str(address)


def _is_here(text: str) -> bool:
    return is_loopback(ipaddress.ip_address(text))


def _is_scheme(text: str) -> bool:
    return text in _SCHEMES


def _is_host(text: str) -> bool:
    return bool(_HOST_NAME.fullmatch(text))


def _first(*texts: str, allowed: Callable[[str], bool]) -> str:
    """Return the first text that is allowed, else ""."""
    return next((text for text in texts if text and allowed(text)), "")
