"""The credentials of hosts: what a request proves, and for which host it may speak."""

from __future__ import annotations

import base64
import binascii
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hmac import compare_digest

from aiohttp import hdrs, web

from vpt.errors import (
    BadRequestError,
    ForbiddenError,
    InvalidTokenError,
    NoTokenError,
    NotRegisteredError,
)
from vpt.model import Credential, Role
from vpt.web.http.auth import bearer, user_of_token
from vpt.web.http.caller import is_in, peer_of
from vpt.web.http.keys import CONFIG, TOKENS, USER
from vpt.web.http.requests import json_response

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Speaker:
    """The credential of a request by a host; `host_id` None: it is valid for any host."""

    credential: Credential
    host_id: str | None = None

    def speaks_for(self, host_id: str) -> None:
        """Raise ForbiddenError when the credential belongs to another host."""
        if self.host_id not in (None, host_id):
            raise ForbiddenError("This token belongs to another host.")


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
    return Speaker(Credential.OWN, host_id) if host_id else await _signed(request, token)


def require_json(request: web.Request) -> None:
    """Refuse a body that is not declared as JSON, as a form of a foreign web page would send it."""
    if request.content_type != "application/json":
        raise BadRequestError("Send the body as Content-Type: application/json.")


def asked_to_register(handler: Handler) -> Handler:
    """Wrap a handler so that a host that is not registered gets the answer to register again."""

    @functools.wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except NotRegisteredError as error:
            return json_response(
                {"status": error.code, "action": "register", "error": error.message},
                status=error.status,
            )

    return answer


async def _signed(request: web.Request, token: str) -> Speaker:
    user = await user_of_token(request.app, token)
    if user.role is Role.HOST:
        return Speaker(Credential.OWN, user.user_id)
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
