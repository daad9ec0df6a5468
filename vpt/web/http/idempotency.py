"""Idempotency-Key: the same request sent again starts nothing and gets the first one's answer."""

from __future__ import annotations

import asyncio
import hashlib
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

import orjson
from aiohttp import web

from vpt.errors import BadRequestError, KeyReusedError
from vpt.model import RequestKey
from vpt.web.http.auth import user_of
from vpt.web.http.keys import DB
from vpt.web.http.params import Param
from vpt.web.http.requests import read_json

LONGEST_KEY = 200


def _read_key(key: str) -> str:
    if not 0 < len(key) <= LONGEST_KEY or not key.isprintable():
        raise BadRequestError(f"{IDEMPOTENCY_KEY.name} is 1 to {LONGEST_KEY} printable characters.")
    return key


IDEMPOTENCY_KEY = Param(
    "Idempotency-Key",
    "The same key with the same body within 24 hours starts nothing and is answered as the first.",
    {"type": "string", "minLength": 1, "maxLength": LONGEST_KEY},
    _read_key,
    example="nightly-2026-01-31",
)


@dataclass(frozen=True, slots=True)
class _Name:
    """What a key is one of: no two requests with equal names are under way at once."""

    user_id: str
    method: str
    path: str
    key: str


#: Requests with equal keys go one after another, so that the later ones find the first one's row.
_turns: weakref.WeakValueDictionary[_Name, asyncio.Lock] = weakref.WeakValueDictionary()


async def once(
    request: web.Request,
    start: Callable[[RequestKey | None], Awaitable[web.Response]],
    again: Callable[[str], Awaitable[web.Response]],
) -> web.Response:
    """Answer by `start`, or by `again` with the id of what an equal request started before.

    `start` must store the key together with what it starts, so that neither is without the other;
    a refused request leaves no key. All other checks belong into `start`: what an equal request
    started is told even when the same would be refused today. Raises KeyReusedError for a key
    with another body.
    """
    name = _name_of(request)
    if name is None:
        return await start(None)
    turn = _turns.setdefault(name, asyncio.Lock())
    async with turn:
        row = await request.app[DB].row("known_request", **asdict(name))
        if row is None:
            return await _start_first(request, name, start)
    if row["body_hash"] != await _body_hash(request):
        raise KeyReusedError
    return await again(row["execution_id"])


async def _start_first(
    request: web.Request,
    name: _Name,
    start: Callable[[RequestKey | None], Awaitable[web.Response]],
) -> web.Response:
    try:
        body_hash = await _body_hash(request)
    except BadRequestError:  # `start` refuses it, after what it has to check before a body
        return await start(None)
    return await start(RequestKey(**asdict(name), body_hash=body_hash))


def _name_of(request: web.Request) -> _Name | None:
    key = IDEMPOTENCY_KEY.of(request.headers)
    if key is None:
        return None
    return _Name(user_of(request).user_id, request.method, request.path, key)


async def _body_hash(request: web.Request) -> bytes:
    body = orjson.dumps(await read_json(request), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(body).digest()
