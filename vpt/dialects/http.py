"""HTTP to a host: sessions, errors as troubles, and responses read with a limit."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import aiohttp
from aiohttp.connector import SocketFactoryType

from vpt import bodies
from vpt.dialects.base import MAX_ANSWER, HostTroubleError, Identity, Trouble, clean
from vpt.dialects.reasons import MISDIRECTED, reason_of, reason_of_status
from vpt.model import HostTrouble, TroubleKind
from vpt.urls import CheckedResolver, checked_socket

CONNECT = 5.0  # seconds
_KEEP = 1.5  # seconds; some hosts close an idle connection after 2
#: Of the time for a probe, the part within which it must be connected: so a host that is too slow
#: is told from one that is not there.
PROBE_CONNECT = 0.9
MAX_HEALTH = 2**20
_LONGEST_IDENTITY = 200
_BUSY = (408, 429)  # the host would do it another time: no refusal

#: What a connection fails with when this process, or its machine, has no more to give.
_OWN_ERRORS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_OWN_LACK = "The server has no free file descriptor or memory for a connection."

_NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_BROKEN = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError)

Made = TypeVar("Made")


def open_session(
    resolver: CheckedResolver, *, keep: bool, socket_factory: SocketFactoryType = checked_socket
) -> aiohttp.ClientSession:
    """Return a session whose connections are kept for the next call, or fresh for each.

    A kept connection may be closed by the host just when a request is sent over it, and nobody
    can tell whether that was read: so they are for hosts that know a repeated request.
    """
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


class _ErrorsAsTrouble:
    """Raises what goes wrong with a request as HostTroubleError."""

    def __enter__(self) -> None:
        """Do nothing yet."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None:
            _raise_trouble(error)


#: One for all: it has no state, and costs a tenth of what a generator would.
ERRORS_AS_TROUBLE = _ErrorsAsTrouble()


def _raise_trouble(error: BaseException) -> None:
    """Raise the trouble that an error means; the order counts, since the classes overlap."""
    if isinstance(error, _NOT_SENT):
        raise not_connected(error) from error
    if isinstance(error, TimeoutError):
        raise HostTroubleError(Trouble.TIMEOUT, "The action did not end in time.") from error
    if isinstance(error, _BROKEN):
        raise _trouble(Trouble.BROKEN, reason_of(error)) from error
    if isinstance(error, (aiohttp.ClientError, ValueError)):
        raise _trouble(Trouble.HOST_ERROR, reason_of(error)) from error


def not_connected(error: BaseException) -> HostTroubleError:
    """Return the trouble of a connection that could not be made, and whose fault that is."""
    reason = getattr(error, "os_error", None) or error
    if isinstance(reason, OSError) and reason.errno in _OWN_ERRORS:
        return HostTroubleError(Trouble.HELD_BACK, _OWN_LACK)
    return _trouble(Trouble.NOT_CONNECTED, reason_of(error))


def _trouble(trouble: Trouble, reason: HostTrouble) -> HostTroubleError:
    return HostTroubleError(trouble, reason.text, reason=reason)


def check_probe(status: int) -> None:
    """Raise HostTroubleError when a probe got another status than a 2xx."""
    if is_good(status):
        return
    reason = reason_of_status(status)
    trouble = Trouble.SOMEBODY_ELSE if status == MISDIRECTED else Trouble.HOST_ERROR
    raise HostTroubleError(trouble, f"The probe got {status}.", reason=reason)


async def read_health(response: aiohttp.ClientResponse) -> bytes:
    """Return the body of a host's health, nothing when it is too long to say only who it is."""
    try:
        return await read(response, MAX_HEALTH)
    except HostTroubleError:
        return b""


async def identity_of(content: bytes) -> Identity:
    """Return who a host says it is in the body of its health; it need not say anything."""
    try:
        return await read_as(content, _identity)
    except HostTroubleError:
        return Identity()


def _identity(body: Mapping[str, Any] | None) -> Identity:
    said = body or {}
    return Identity(_word(said.get("host_name")), _word(said.get("instance_id")))


def _word(said: Any) -> str | None:
    return said[:_LONGEST_IDENTITY] if isinstance(said, str) and said else None


async def read(response: aiohttp.ClientResponse, max_bytes: int = MAX_ANSWER) -> bytes:
    """Return the body; raise HostTroubleError when it has more than `max_bytes`."""
    if (response.content_length or max_bytes + 1) <= max_bytes:
        return await response.read()
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            message = f"The host's answer is over {max_bytes // 2**20} MiB."
            raise HostTroubleError(Trouble.HOST_ERROR, message)
    return b"".join(chunks)


def is_good(status: int) -> bool:
    """Return whether the status is a 2xx."""
    return status // 100 == 2  # noqa: PLR2004


def raise_for_status(status: int, body: Mapping[str, Any]) -> NoReturn:
    """Raise what a status means that is no 2xx."""
    reason = clean(body.get("error") or body.get("code"))
    message = f"The host answered {status}" + (f": {reason[:500]}" if reason else ".")
    if status == 503 and body.get("code") == "fate_unknown":  # noqa: PLR2004
        raise HostTroubleError(Trouble.FATE_UNKNOWN, "The host died and cannot tell what it did.")
    if status == MISDIRECTED:
        raise HostTroubleError(Trouble.SOMEBODY_ELSE, message, reason=reason_of_status(status))
    refused = 400 <= status < 500 and status not in _BUSY  # noqa: PLR2004
    trouble = Trouble.HOST_REFUSED if refused else Trouble.HOST_ERROR
    raise HostTroubleError(trouble, message, reason=_reason_if_credential(status))


def _reason_if_credential(status: int) -> HostTrouble | None:
    # Other statuses are about the step, not about the host.
    reason = reason_of_status(status)
    return reason if reason.kind is TroubleKind.CREDENTIAL else None


async def read_as(content: bytes, make: Callable[[Mapping[str, Any] | None], Made]) -> Made:
    """Return what `make` builds from the JSON object in a body, or from None when there is none.

    A long body is read in a thread, `make` included: its work grows with what the host sent.
    """
    return await bodies.beside_loop(content, lambda: make(_object(content)))


def _object(content: bytes) -> Mapping[str, Any] | None:
    try:
        return bodies.object_of_host(content)
    except bodies.TooMuchError as error:
        message = f"The host's answer has more than {error}."
        raise HostTroubleError(Trouble.HOST_ERROR, message) from error
