"""The credentials of hosts: what a request proves, and for which host it may speak."""

from __future__ import annotations

import base64
import binascii
import functools
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from hmac import compare_digest

from aiohttp import hdrs, web

from vpt.actors.host_secrets import PRESENTED
from vpt.errors import (
    BadRequestError,
    ForbiddenError,
    InvalidTokenError,
    NoTokenError,
    NotRegisteredError,
    ReplacedError,
    UnavailableError,
)
from vpt.model import Credential, Role
from vpt.urls import is_at
from vpt.web.http.auth import bearer, user_of_token
from vpt.web.http.caller import is_in, peer_of
from vpt.web.http.keys import CONFIG, DB, TOKENS, USER
from vpt.web.http.requests import json_response

_RANK = {Credential.OPEN: 0, Credential.JOIN: 1, Credential.OWN: 2}
_FAR = 2.0**33  # seconds since the epoch, in the year 2242: PostgreSQL's calendar has an end
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Speaker:
    """The credential of a request by a host; `host_id` None: it is valid for any host.

    `until` is the end of a signed token in seconds since the epoch, infinity for never.
    """

    credential: Credential
    host_id: str | None = None
    until: float | None = None

    def speaks_for(self, host_id: str) -> None:
        """Raise ForbiddenError when the credential belongs to another host."""
        if self.host_id not in (None, host_id):
            raise ForbiddenError("This token belongs to another host.")


async def check_speaker(request: web.Request, speaker: Speaker, host_id: str) -> None:
    """Raise ForbiddenError when a message about a registered host is not from that host.

    A host of an open network has no credential but its address, so it speaks from there only. The
    end of a signed token is stored, since that of the newest one shown counts.
    """
    speaker.speaks_for(host_id)
    if speaker.credential is Credential.OPEN:
        url = await request.app[DB].value("host_url", id=host_id)
        _check_address(request, host_id, url)
    if speaker.until is not None:
        await request.app[DB].row("renew_credential", id=host_id, until_s=speaker.until)


async def check_speaker_of_task(request: web.Request, speaker: Speaker, handle: str) -> None:
    """Raise ForbiddenError when the step with that handle is of a host that is not the speaker."""
    # A host reports an end once only, so this must not cost a report while the database is away.
    with suppress(UnavailableError):
        host = await request.app[DB].row("host_of_handle", handle=handle)
        if host is None:  # it is over, or not stored yet: then nobody else knows its id either
            return
        if speaker.credential is Credential.OPEN:
            _check_address(request, host["id"], host["host_url"])
        if _RANK[speaker.credential] < _RANK[Credential(host["credential"])]:
            raise ForbiddenError("The host joined with a better credential.")


def _check_address(request: web.Request, host_id: str, url: str | None) -> None:
    if url is not None and not is_at(url, peer_of(request)):
        raise ForbiddenError(
            f"Without a credential only the address of {host_id} speaks for it: send a token."
        )


async def speaker_of(request: web.Request) -> Speaker:
    """Return what the credential of a host proves; raises NoTokenError or InvalidTokenError."""
    header = request.headers.get(hdrs.AUTHORIZATION)
    if header is None:
        return _without_credential(request)
    token = _presented(header)
    join_token = request.app[CONFIG].host_join_token
    if join_token and compare_digest(_bytes(token), _bytes(join_token)):
        return Speaker(Credential.JOIN)
    host_id = await request.app[TOKENS].host_of(token)
    speaker = Speaker(Credential.OWN, host_id) if host_id else await _signed(request, token)
    if speaker.host_id is not None:
        PRESENTED.note(speaker.host_id, token)  # to be masked in what the host says
    return speaker


def require_json(request: web.Request) -> None:
    """Refuse a body that is not declared as JSON, as a form of a foreign web page would send it."""
    if request.content_type != "application/json":
        raise BadRequestError("Send the body as Content-Type: application/json.")


def asked_to_register(handler: Handler) -> Handler:
    """Wrap a handler so that a host is told to register again, or that it was replaced."""

    @functools.wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except NotRegisteredError as error:
            return json_response(
                {"status": error.code, "action": "register", "error": error.message},
                status=error.status,
            )
        except ReplacedError as error:
            return json_response(
                {"status": error.code, "action": "stop", "error": error.message},
                status=error.status,
            )

    return answer


async def _signed(request: web.Request, token: str) -> Speaker:
    user = await user_of_token(request.app, token)
    if user.role is Role.HOST:
        until = user.expires_at if user.expires_at is not None else math.inf
        return Speaker(Credential.OWN, user.user_id, until if until < _FAR else math.inf)
    if user.role is Role.ADMIN:
        request[USER] = user  # for the audit
        return Speaker(Credential.JOIN)
    raise InvalidTokenError


def _without_credential(request: web.Request) -> Speaker:
    """Accept a peer in an open network, unless it is a browser, which sends an Origin."""
    networks = request.app[CONFIG].host_open_networks
    if hdrs.ORIGIN in request.headers or not is_in(peer_of(request), networks):
        raise NoTokenError
    return Speaker(Credential.OPEN)


def _presented(header: str) -> str:
    """Return the token of an Authorization header; with Basic it is the password."""
    scheme, _, rest = header.strip().partition(" ")
    if scheme.lower() != "basic":
        token = bearer(header)
    else:
        try:
            pair = base64.b64decode(rest.strip(), validate=True).decode()
        except (binascii.Error, ValueError) as error:
            raise InvalidTokenError from error
        token = pair.partition(":")[2]
    if not token:
        raise InvalidTokenError
    return token


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")  # headers may hold any byte
