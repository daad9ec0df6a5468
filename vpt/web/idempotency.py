"""Idempotency-Key: the same request sent again starts nothing and gets the first one's answer."""

from __future__ import annotations

import asyncio
import hashlib
import weakref
from collections.abc import Awaitable, Callable

import orjson
from aiohttp import web

from vpt.errors import BadRequestError, KeyReusedError
from vpt.model import RequestKey
from vpt.web.auth import user_of
from vpt.web.keys import DB
from vpt.web.requests import read_json

HEADER = "Idempotency-Key"
LONGEST_KEY = 200

_Name = tuple[str, str, str, str]
#: Requests with equal keys go one after another, so that the later ones find the first one's row.
_turns: weakref.WeakValueDictionary[_Name, asyncio.Lock] = weakref.WeakValueDictionary()


async def once(
    request: web.Request,
    start: Callable[[RequestKey | None], Awaitable[web.Response]],
    again: Callable[[str], Awaitable[web.Response]],
) -> web.Response:
    """Answer by `start`, or by `again` with the id of what an equal request started before.

    `start` must store the key together with what it starts, so that neither is without the other;
    a refused request leaves no key. Raises KeyReusedError for a key with another body.
    """
    key = await _key_of(request)
    if key is None:
        return await start(None)
    name = (key.user_id, key.method, key.path, key.key)
    turn = _turns.setdefault(name, asyncio.Lock())
    async with turn:
        row = await request.app[DB].row(
            "known_request", user_id=key.user_id, method=key.method, path=key.path, key=key.key
        )
        if row is None:
            return await start(key)
    if row["body_hash"] != key.body_hash:
        raise KeyReusedError
    return await again(row["execution_id"])


async def _key_of(request: web.Request) -> RequestKey | None:
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if not 0 < len(key) <= LONGEST_KEY or not key.isprintable():
        raise BadRequestError(f"{HEADER} is 1 to {LONGEST_KEY} printable characters.")
    body = orjson.dumps(await read_json(request), option=orjson.OPT_SORT_KEYS)
    digest = hashlib.sha256(body).digest()
    return RequestKey(user_of(request).user_id, request.method, request.path, key, digest)
