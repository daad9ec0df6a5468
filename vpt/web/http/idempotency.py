"""Idempotency-Key: a repeated request starts nothing and gets the response of the first."""

from __future__ import annotations

import asyncio
import hmac
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

import orjson
from aiohttp import web

from vpt.errors import BadRequestError, KeyReusedError
from vpt.model import Json, RequestKey
from vpt.web.http.auth import secret_of, user_of
from vpt.web.http.caller import routed_path
from vpt.web.http.keys import DB
from vpt.web.http.params import Param
from vpt.web.http.requests import read_as

LONGEST_KEY = 200


def _read_key(key: str) -> str:
    if not 0 < len(key) <= LONGEST_KEY or not key.isprintable():
        raise BadRequestError(
            f"{IDEMPOTENCY_KEY.name} must be 1 to {LONGEST_KEY} printable characters."
        )
    return key


IDEMPOTENCY_KEY = Param(
    "Idempotency-Key",
    "A request with the same key and body within 24 hours starts nothing and gets the response of"
    " the first; a client that retries sends the same key again.",
    {"type": "string", "minLength": 1, "maxLength": LONGEST_KEY},
    _read_key,
    example="nightly-2026-01-31",
)


@dataclass(frozen=True, slots=True)
class _Scope:
    """Where a key is unique: requests of equal scope are handled one after another."""

    user_id: str
    method: str
    path: str
    key: str


#: One lock for each scope in use, so that a repeated request finds the row of the first.
_locks: weakref.WeakValueDictionary[_Scope, asyncio.Lock] = weakref.WeakValueDictionary()


async def once(
    request: web.Request,
    start: Callable[[RequestKey | None], Awaitable[web.Response]],
    again: Callable[[str], Awaitable[web.Response]],
) -> web.Response:
    """Answer by `start`, or by `again` with the id of what an equal request started before.

    `start` must store the key in the transaction that stores what it starts; a refused request
    stores no key. All other checks belong into `start`: a repeated request gets the response of
    the first even when a new one would be refused now. Raises KeyReusedError when the key was used
    with another body.
    """
    scope = _scope_of(request)
    if scope is None:
        return await start(None)
    async with _locks.setdefault(scope, asyncio.Lock()):
        row = await request.app[DB].row("known_request", **asdict(scope))
        if row is None:
            return await _start_first(request, scope, start)
    if row["body_hash"] != await _body_hash(request):
        raise KeyReusedError
    return await again(row["execution_id"])


async def _start_first(
    request: web.Request,
    scope: _Scope,
    start: Callable[[RequestKey | None], Awaitable[web.Response]],
) -> web.Response:
    try:
        body_hash = await _body_hash(request)
    except BadRequestError:  # `start` refuses it, after its checks that come before the body
        return await start(None)
    return await start(RequestKey(**asdict(scope), body_hash=body_hash))


def _scope_of(request: web.Request) -> _Scope | None:
    key = IDEMPOTENCY_KEY.of(request.headers)
    if key is None:
        return None
    return _Scope(user_of(request).user_id, request.method, routed_path(request), key)


async def _body_hash(request: web.Request) -> bytes:
    """Return the hash of the body, keyed: it is stored, and a body may hold a secret to guess."""
    key = secret_of(request.app).encode()
    return await read_as(request, lambda body: _hash(body, key))


def _hash(body: Json, key: bytes) -> bytes:
    return hmac.digest(key, orjson.dumps(body, option=orjson.OPT_SORT_KEYS), "sha256")
