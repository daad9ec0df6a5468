"""HTTP to a host: sessions, errors as troubles, and responses read with a limit."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import ContextVar
from typing import Any, NoReturn, TypeVar

import aiohttp
from aiohttp import hdrs
from aiohttp.connector import SocketFactoryType

from vpt import bodies
from vpt.dialects.base import (
    MAX_ANSWER,
    HostTroubleError,
    Identity,
    Trouble,
    clean,
    not_understood,
    presence_of,
    shortened,
)
from vpt.dialects.reasons import MISDIRECTED, reason_of, reason_of_status
from vpt.model import HostTrouble, TroubleKind
from vpt.urls import CheckedResolver, checked_socket

CONNECT = 5.0  # seconds
_PIECE = 32 * 1024  # bytes of an answer that are counted without a turn for others
_KEEP = 1.5  # seconds; some hosts close an idle connection after 2
UNAUTHORIZED = 401
_UNKNOWN_SECRET = (UNAUTHORIZED, 403)  # refused whatever was asked
_MAX_HEAD = 64 * 1024  # bytes of a line or a field of a response's head
#: What an answer is that begins so.
_BEGINNINGS = {b"": "nothing", b"[": "an array", b'"': "a JSON text", b"<": "HTML or XML"}
#: Of the time for a probe, the part within which it must be connected: so a host that is too slow
#: is told from one that is not there.
PROBE_CONNECT = 0.9
MAX_HEALTH = 2**20
LONGEST_WHY = 500  # characters of a host's reason for a refusal that are shown
_LONGEST_IDENTITY = 200
_BUSY = (408, 429)  # the host would do it another time: no refusal

#: What a connection fails with when this process, or its machine, has no more to give.
_OWN_ERRORS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_OWN_LACK = "The server has no free file descriptor or memory for a connection."

_NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_BROKEN = (aiohttp.ClientConnectionError, ConnectionError)
BROKE_OFF = "The host broke off its answer before the end."

Made = TypeVar("Made")


#: Set while a request may go out over a kept connection only.
ONLY_KEPT: ContextVar[bool] = ContextVar("only_kept", default=False)


class NewConnectionError(Exception):
    """There was no kept connection, so nothing was sent."""


class _Connector(aiohttp.TCPConnector):
    """Makes no connection for requests that are meant for a kept one."""

    async def _create_connection(self, *args: Any) -> Any:
        if ONLY_KEPT.get():
            raise NewConnectionError
        return await super()._create_connection(*args)


def open_session(
    resolver: CheckedResolver, *, keep: bool, socket_factory: SocketFactoryType = checked_socket
) -> aiohttp.ClientSession:
    """Return a session whose connections are kept for the next call, or fresh for each.

    A kept connection may be closed by the host just when a request is sent over it, and nobody
    can tell whether that was read: so they are for hosts that know a repeated request.
    """
    connector = _Connector(
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
        max_line_size=_MAX_HEAD,
        max_field_size=_MAX_HEAD,
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


class _TooMuchAsTrouble:
    """Raises TooMuchError as HostTroubleError."""

    def __enter__(self) -> None:
        """Do nothing yet."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, bodies.TooMuchError):
            raise not_understood(f"The host answered more than {error}.") from error


_TOO_MUCH_AS_TROUBLE = _TooMuchAsTrouble()


def _raise_trouble(error: BaseException) -> None:
    """Raise the trouble that an error means; the order counts, since the classes overlap."""
    if isinstance(error, _NOT_SENT):
        raise not_connected(error) from error
    if isinstance(error, TimeoutError):
        raise HostTroubleError(Trouble.TIMEOUT, "The action did not end in time.") from error
    if isinstance(error, aiohttp.ClientPayloadError):
        raise HostTroubleError(Trouble.BROKEN, BROKE_OFF, reason=reason_of(error)) from error
    if isinstance(error, _BROKEN):
        raise _trouble(Trouble.BROKEN, reason_of(error)) from error
    if isinstance(error, aiohttp.ClientResponseError):
        # What follows the colon is the host's: it may hold secrets, of which it may be a part.
        why = error.message.partition(":")[0]
        message = f"The host answered with a head that is not HTTP: {why}."
        raise not_understood(message, reason=reason_of(error)) from error
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
    """Return the body, unpacked; raise HostTroubleError when it has more than `max_bytes`."""
    if _is_short(response):
        return await response.read()
    chunks = [chunk async for chunk in _pieces(response, max_bytes)]
    return await _joined(lambda: b"".join(chunks), sum(map(len, chunks)))


async def read_text(response: aiohttp.ClientResponse) -> bytes:
    """Return the JSON text in a body as UTF-8, of a long one what `bodies` keeps of a host's text.

    It is counted as it comes. Raises HostTroubleError when it has more than is read.
    """
    utf8 = bodies.Utf8()
    if _is_short(response):
        return utf8.add(await response.read(), last=True)
    intake = bodies.Intake(of_host=True)
    with _TOO_MUCH_AS_TROUBLE:
        async for piece in _pieces(response, MAX_ANSWER):
            intake.add(utf8.add(piece))
            await asyncio.sleep(0)
        intake.add(utf8.add(b"", last=True))
        return await _joined(intake.text, intake.size)


def _is_short(response: aiohttp.ClientResponse) -> bool:
    return 0 < (response.content_length or 0) <= bodies.LONG and _encoding_of(response) is None


def _encoding_of(response: aiohttp.ClientResponse) -> str | None:
    """Return how the body is packed, None when it is not."""
    encoding = response.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower()
    return None if encoding in ("", "identity") else encoding


async def _pieces(response: aiohttp.ClientResponse, max_bytes: int) -> AsyncIterator[bytes]:
    """Yield a body, unpacked, in pieces of at most _PIECE bytes."""
    encoding, size = _encoding_of(response), 0
    if encoding is None:
        async for piece in _received(response, max_bytes):
            yield piece
        return
    try:
        unpacker = bodies.Unpacker(encoding)
        async for packed in _received(response, max_bytes):
            for piece in unpacker.add(packed):
                size += len(piece)
                if size > max_bytes:
                    raise _too_large("", max_bytes, " when it is unpacked")
                yield piece
    except ValueError as error:
        said = f"The host answered in the Content-Encoding {encoding[:60]}, which is not unpacked."
        raise not_understood(said) from error


async def _received(response: aiohttp.ClientResponse, max_bytes: int) -> AsyncIterator[bytes]:
    size = response.content_length or 0
    if size > max_bytes:
        raise _too_large(f"{size / 1e6:.1f} MB, ", max_bytes)
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > max_bytes:
            raise _too_large("", max_bytes)
        for start in range(0, len(chunk), _PIECE):
            yield chunk[start : start + _PIECE]


async def _joined(join: Callable[[], bytes], size: int) -> bytes:
    """Join in the thread what is long: the memory for it alone takes tens of milliseconds."""
    return await bodies.in_thread(join) if size > bodies.LONG else join()


def _too_large(size: str, max_bytes: int, when: str = "") -> HostTroubleError:
    return not_understood(f"The host answered {size}more than {max_bytes // 2**20} MiB{when}.")


def is_good(status: int) -> bool:
    """Return whether the status is a 2xx."""
    return status // 100 == 2  # noqa: PLR2004


def raise_for_status(status: int, body: Mapping[str, Any]) -> NoReturn:
    """Raise what a status means that is no 2xx."""
    reason = clean(body.get("error") or body.get("code"))
    presence = presence_of(body)
    if status == 503 and body.get("code") == "fate_unknown":  # noqa: PLR2004
        raise HostTroubleError(
            Trouble.FATE_UNKNOWN, "The host died and cannot tell what it did.", presence=presence
        )
    if status == MISDIRECTED:
        why = reason_of_status(status)
        raise HostTroubleError(Trouble.SOMEBODY_ELSE, why.text, reason=why)
    refused = 400 <= status < 500 and status not in _BUSY  # noqa: PLR2004
    trouble = Trouble.HOST_REFUSED if refused else Trouble.HOST_ERROR
    told = refused and reason and status not in _UNKNOWN_SECRET
    said = "refused it" if told else f"answered {status}"
    message = f"The host {said}" + (f": {shortened(reason, LONGEST_WHY)}" if reason else ".")
    why_not = _reason_if_credential(status)
    raise HostTroubleError(trouble, message, reason=why_not, presence=presence)


def no_object(content: bytes) -> HostTroubleError:
    """Return the trouble of an answer that is no JSON object, with what it is instead."""
    # Of the text itself nothing is shown: it may hold secrets, of which a cut could leave a part.
    what = _BEGINNINGS.get(content.lstrip()[:1], "text that is not JSON")
    return not_understood(f"The host answered {what}, not a JSON object.")


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
    with _TOO_MUCH_AS_TROUBLE:
        return bodies.object_of_host(content)


async def made_of(text: bytes, make: Callable[[Mapping[str, Any] | None], Made]) -> Made:
    """Return what `make` builds from the object in what `read_text` returned, or from None."""
    return await bodies.beside_loop(text, lambda: make(bodies.parse_of_host(text)))
