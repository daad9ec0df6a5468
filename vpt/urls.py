"""Which URLs a host may register: the rules that prevent server-side request forgery (SSRF).

A URL is checked when a host registers; what its name resolves to is checked at each connect.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import SplitResult, urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import AddrInfoType
from yarl import URL

from vpt.errors import InvalidError
from vpt.model import Credential

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

LONGEST_URL = 2048
_LONGEST_NAME = 253
_LOOKUPS = 16  # threads
_VISIBLE = re.compile(r"[!-~]+")
_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
#: Names that resolvers read as an IPv4 address: 2130706433, 0x7f.1, 0177.0.0.1, 127.1.
_NUMBER = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")

#: Cloud metadata services, which return credentials; 169.254.169.254 is link-local.
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd20:ce::254"),
    )
)
#: All services that AWS has beside a machine: metadata, credentials of its containers, time, names.
_METADATA_NETWORK = ipaddress.IPv6Network("fd00:ec2::/32")
_METADATA_NAMES = frozenset(
    (
        "metadata",
        "metadata.google.internal",
        "metadata.goog",
        "instance-data",
        "instance-data.ec2.internal",
    )
)
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")
#: NAT64 (also for local use), IPv4-compatible and IPv4-translated: the last 32 bits are IPv4.
_CARRIERS = tuple(
    map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "::/96", "::ffff:0:0:0/96"))
)
#: Bits 32 to 63 from the right of an ISATAP address, whose last 32 bits are an IPv4 address.
_ISATAP = (0x00005EFE, 0x02005EFE)


def check_host_url(url: str, *, peer: str, credential: Credential) -> str:
    """Return `url` normalised and without a trailing slash.

    `peer` is the remote address of the connection over which the host registers, or "".
    Raises InvalidError (400) for `host_url` when such a host must not use this URL.
    """
    parts = _split(url)
    name = (parts.hostname or "").rstrip(".").lower()
    address = _address_of(name)
    peer_address = parse_address(peer)
    _check_place(name, address, peer_address)
    if credential is Credential.OPEN and not _is_peer(name, address, peer_address):
        raise _refused("a host without a credential must use the address it registers from")
    shown = f"[{address}]" if isinstance(address, ipaddress.IPv6Address) else str(address or name)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{shown}{port}{parts.path.rstrip('/')}"


def parse_address(text: str) -> Address | None:
    """Parse an IP address of a socket or resolver, or return None; IPv4 in IPv6 becomes IPv4."""
    try:
        return _plain(ipaddress.ip_address(text))
    except ValueError:
        return None


def forbidden(address: Address) -> str | None:
    """Return why no host can be at `address`, or None; the caller has to judge loopback."""
    for each in _with_embedded(address):
        if each in _METADATA or each in _METADATA_NETWORK:
            return "metadata addresses are refused"
        if each.is_link_local:
            return "link-local addresses are refused"
        if isinstance(each, ipaddress.IPv6Address) and each.is_site_local:
            return "site-local addresses are refused"
        if _is_unusable(each):
            return "unspecified, multicast, broadcast and reserved addresses are refused"
    return None


def is_at(url: str, peer: str) -> bool:
    """Return whether a host with this URL is the peer of a connection, by its address."""
    name = (urlsplit(url).hostname or "").rstrip(".").lower()
    return _is_peer(name, parse_address(name), parse_address(peer))


def checked_socket(address: AddrInfoType) -> socket.socket:
    """Return a socket to connect to `address`; raise OSError where no host may be.

    It judges literal addresses as well, which no resolver sees: they may have come with a dump.
    """
    target = parse_address(str(address[4][0]).partition("%")[0])
    if target is None or forbidden(target):
        raise OSError(None, "no host may be at this address")
    return socket.socket(*address[:3])


def is_loopback(address: Address) -> bool:
    """Return True for a loopback address, also one inside an IPv6 address."""
    return any(each.is_loopback for each in _with_embedded(address))


def is_local_name(name: str) -> bool:
    """Return True for localhost and its subdomains, which alone may resolve to loopback."""
    name = name.rstrip(".").lower()
    return name == "localhost" or name.endswith(".localhost")


class _OwnThreadsResolver(AbstractResolver):
    """Resolves names on its own threads, so that a name server that hangs blocks nothing else.

    Concurrent requests for a name share one look-up, so that a few dead names cannot use up the
    threads.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="resolve")
        self._under_way: dict[tuple[str, int], asyncio.Future[list[ResolveResult]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of `host`; raise OSError when it has none."""
        key = (host, port)
        found = self._under_way.get(key)
        if found is None:
            loop = asyncio.get_running_loop()
            found = loop.run_in_executor(self._threads, _look_up, host, port, family)
            self._under_way[key] = found
            found.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(found)

    def _ended(self, key: tuple[str, int], done: asyncio.Future[list[ResolveResult]]) -> None:
        del self._under_way[key]
        if not done.cancelled():
            done.exception()  # marks it as seen: the request that waited may be gone

    async def close(self) -> None:
        """Shut down; the threads end after their current look-ups."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    flags = socket.AI_ADDRCONFIG
    found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=flags)
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return [
        ResolveResult(
            hostname=host,
            host=str(address[0]),
            port=int(address[1]),
            family=kind,
            proto=protocol,
            flags=numeric,
        )
        for kind, _, protocol, _, address in found
    ]


class CheckedResolver(AbstractResolver):
    """Resolves names and removes every address where no host may be.

    A loopback address is removed unless the name is localhost. aiohttp does not resolve literal
    addresses: check_host_url has checked those, and checked_socket does at each connect.
    """

    def __init__(self, inner: AbstractResolver | None = None) -> None:
        self._inner = inner or _OwnThreadsResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the allowed addresses of `host`; raise OSError when it has none."""
        found = await self._inner.resolve(host, port, family)
        allowed = [entry for entry in found if self._allows(host, entry["host"])]
        if not allowed:
            raise OSError(None, f"{host} resolves to addresses where no host may be")
        return allowed

    async def close(self) -> None:
        """Close the inner resolver."""
        await self._inner.close()

    @staticmethod
    def _allows(name: str, text: str) -> bool:
        address = parse_address(text)
        if address is None or forbidden(address):
            return False
        return is_local_name(name) or not is_loopback(address)


def _split(url: str) -> SplitResult:
    """Split the URL; refuse what two parsers could understand differently."""
    if len(url) > LONGEST_URL or not _VISIBLE.fullmatch(url) or "\\" in url:
        raise _refused("expected a URL of visible ASCII characters, at most 2048")
    if any(sign in url for sign in "?#@"):
        raise _refused("a URL with user info, query or fragment is refused")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _refused("expected a URL such as http://10.0.0.5:6109") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _refused("expected http:// or https:// and a host")
    if parts.netloc.startswith("[") and ":" not in parts.hostname:
        raise _refused("expected an IPv6 address between the brackets")
    if port == 0 or parts.netloc.endswith(":"):
        raise _refused("expected a port from 1 to 65535")
    return parts


def _address_of(name: str) -> Address | None:
    """Return the address that `name` spells, None for a host name; refuse anything else."""
    address = None if "%" in name else parse_address(name)
    if address is not None:
        return address
    if _NUMBER.fullmatch(name):
        raise _refused("expected IPv4 addresses as four decimal numbers")
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise _refused("expected a host name of letters, digits, '-', '_' and '.'")
    return None


def _check_place(name: str, address: Address | None, peer: Address | None) -> None:
    why = forbidden(address) if address else None
    if why or name in _METADATA_NAMES:
        raise _refused(why or "metadata addresses are refused")
    here = is_loopback(address) if address else is_local_name(name)
    if here and not (peer and is_loopback(peer)):
        raise _refused("a loopback address is only allowed for a host on the server's own machine")


def _is_peer(name: str, address: Address | None, peer: Address | None) -> bool:
    if peer is None:
        return False
    if is_loopback(peer):  # all loopback addresses are the same machine
        return is_loopback(address) if address else is_local_name(name)
    return address == peer


def _is_unusable(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        reserved = address.is_reserved or address in _THIS_NETWORK
    else:
        reserved = address.is_unspecified
    return reserved or address.is_multicast


def _plain(address: Address) -> Address:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _with_embedded(address: Address) -> Iterable[Address]:
    """Yield the address, and the IPv4 address that an IPv6 one embeds, if any."""
    plain = _plain(address)
    yield plain
    if isinstance(plain, ipaddress.IPv6Address):
        if plain.sixtofour:
            yield plain.sixtofour
        # ::1 and :: are in ::/96 but embed no IPv4 address
        carried = int(plain) > 1 and any(plain in network for network in _CARRIERS)
        if carried or (int(plain) >> 32) & 0xFFFFFFFF in _ISATAP:
            yield ipaddress.IPv4Address(int(plain) & 0xFFFFFFFF)
        if plain.teredo:
            yield from plain.teredo


def _refused(why: str) -> InvalidError:
    return InvalidError({"host_url": [why]})


def is_same_server(one: URL, other: URL) -> bool:
    """Return whether two URLs are of one server; `http://a` and `http://a:80` are."""
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)
