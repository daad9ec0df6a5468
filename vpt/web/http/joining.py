"""Registrations that are refused: the log says of which host, from where, and why.

Whoever starts a host sees nothing but that it does not appear. The host itself logs a status at
most, and tries again minutes later.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import functools
from collections.abc import Awaitable, Callable
from contextlib import suppress

from aiohttp import hdrs, web

from vpt.errors import InvalidError, InvalidTokenError, NoTokenError, VptError
from vpt.model import Json
from vpt.store.tokens import HOST_NAME
from vpt.web.http.keys import REFUSED_HOST, RefusedHost
from vpt.web.http.requests import read_as

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: What is read of a refused registration to find its name: it may come from anybody.
_LONGEST_BODY, _LONGEST_WAIT = 256 * 2**10, 2.0  # bytes, seconds
_WHAT_TO_SET = {
    NoTokenError: "No credential: a VirtualPyTest host sends that of SERVER_URL=http://name:TOKEN@…",
    InvalidTokenError: "Its token is unknown, revoked or expired: give it a valid one.",
}


def explains_refusal(handler: Handler) -> Handler:
    """Wrap a handler of registrations so that one that it refuses is logged with its reason."""

    @functools.wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except VptError as error:
            request[REFUSED_HOST] = RefusedHost(await _name_of(request), _words(error))
            raise

    return answer


def _words(error: VptError) -> str:
    if isinstance(error, InvalidError):
        return "; ".join(f"{name}: {_said(said)}" for name, said in error.errors.items())
    return _WHAT_TO_SET.get(type(error), error.message)


def _said(said: object) -> str:
    return " ".join(map(str, said)) if isinstance(said, list) else str(said)


async def _name_of(request: web.Request) -> str | None:
    """Return the name that the host says; None when it is not to be found in what it sent."""
    name: object = _name_in(request.headers.get(hdrs.AUTHORIZATION, ""))
    with suppress(VptError, TimeoutError):
        async with asyncio.timeout(_LONGEST_WAIT):
            name = await read_as(request, _host_name, _LONGEST_BODY) or name
    return name if isinstance(name, str) and HOST_NAME.fullmatch(name) else None


def _host_name(body: Json) -> object:
    return body.get("host_name")


def _name_in(authorization: str) -> str | None:
    """Return the user of HTTP Basic, which is the host's name in most SERVER_URLs."""
    scheme, _, rest = authorization.strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(rest.strip(), validate=True).decode().partition(":")[0]
    except (binascii.Error, ValueError):
        return None
