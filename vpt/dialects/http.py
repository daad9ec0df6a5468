"""The wire to a host: sessions, what went wrong on it, and answers read with a limit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NoReturn

import aiohttp
import orjson
from aiohttp.connector import SocketFactoryType

from vpt.dialects.base import MAX_ANSWER, HostTroubleError, Trouble, clean
from vpt.urls import CheckedResolver

CONNECT = 5.0  # seconds
_KEEP = 1.5  # seconds; some hosts close an idle connection after 2
_BIG = 256 * 1024  # bytes; a larger answer is parsed beside the loop
_BUSY = (408, 429)

_NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_BROKEN = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError)


def open_session(
    resolver: CheckedResolver, *, keep: bool, socket_factory: SocketFactoryType | None = None
) -> aiohttp.ClientSession:
    """Open a session whose connections are kept for the next call, or fresh for each."""
    connector = aiohttp.TCPConnector(
        limit=0,
        resolver=resolver,
        socket_factory=socket_factory,
        **({"keepalive_timeout": _KEEP} if keep else {"force_close": True}),
    )
    return aiohttp.ClientSession(
        connector=connector,
        connector_owner=True,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept-Encoding"),
    )


class _Troubles:
    """Says in the actors' words what goes wrong with a request."""

    def __enter__(self) -> None:
        """Do nothing yet."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None:
            _say(error)


#: One for all: it keeps nothing, and costs a tenth of what a generator would.
TROUBLES = _Troubles()


def _say(error: BaseException) -> None:
    if isinstance(error, _NOT_SENT):
        raise HostTroubleError(Trouble.NOT_CONNECTED, words_of(error)) from error
    if isinstance(error, TimeoutError):
        raise HostTroubleError(Trouble.TIMEOUT, "The action did not end in time.") from error
    if isinstance(error, _BROKEN):
        raise HostTroubleError(Trouble.BROKEN, words_of(error)) from error
    if isinstance(error, (aiohttp.ClientError, ValueError)):
        raise HostTroubleError(Trouble.HOST_ERROR, words_of(error)) from error


def words_of(error: BaseException) -> str:
    """Say what went wrong, without the host's URL."""
    reason = getattr(error, "os_error", None) or error
    return f"{type(error).__name__}: {getattr(reason, 'strerror', None) or 'no connection'}"


async def read(response: aiohttp.ClientResponse, most: int = MAX_ANSWER) -> bytes:
    """Read an answer of `most` bytes at most."""
    if (response.content_length or most + 1) <= most:
        return await response.read()
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > most:
            words = f"The host's answer is over {most // 2**20} MiB."
            raise HostTroubleError(Trouble.HOST_ERROR, words)
    return b"".join(chunks)


def is_good(status: int) -> bool:
    """Tell a 2xx from the rest."""
    return status // 100 == 2  # noqa: PLR2004


def refuse(status: int, raw: Mapping[str, Any]) -> NoReturn:
    """Say what a status means that is no 2xx."""
    said = clean(raw.get("error") or raw.get("code"))
    words = f"The host answered {status}" + (f": {said[:500]}" if said else ".")
    if status == 503 and raw.get("code") == "fate_unknown":  # noqa: PLR2004
        raise HostTroubleError(Trouble.FATE_UNKNOWN, "The host died and cannot tell what it did.")
    refused = 400 <= status < 500 and status not in _BUSY  # noqa: PLR2004
    raise HostTroubleError(Trouble.HOST_REFUSED if refused else Trouble.HOST_ERROR, words)


async def parsed(content: bytes) -> Mapping[str, Any] | None:
    """Give the object that an answer is, or None."""
    if len(content) > _BIG:
        return await asyncio.to_thread(_loads, content)
    return _loads(content)


def _loads(content: bytes) -> Mapping[str, Any] | None:
    """Parse an object; orjson refuses lone surrogates, which a host may well send."""
    try:
        raw = orjson.loads(content)
    except orjson.JSONDecodeError:
        try:
            raw = json.loads(content)
        except (ValueError, RecursionError):
            return None
    return raw if isinstance(raw, dict) else None
