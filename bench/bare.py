"""The least that aiohttp + asyncpg can do: the same query and the same forwarding, nothing else.

No token, no middleware, no log, no check: what vpt is measured against.
"""

from __future__ import annotations

import datetime as dt
import os
import sys
from typing import Any

import aiohttp
import asyncpg
import orjson
import uvloop
from aiohttp import web

from vpt.db import POOL_SIZE, read_queries

POOL = web.AppKey("pool", asyncpg.Pool)
SESSION = web.AppKey("session", aiohttp.ClientSession)
LIST = read_queries()["list_testcases"]
JSON = "application/json"


def _arguments(limit: int) -> list[Any]:
    return [limit if name == "limit" else None for name in LIST.args]


async def _list(request: web.Request) -> web.Response:
    rows = await request.app[POOL].fetch(LIST.sql, *_arguments(int(request.query["limit"])))
    body = orjson.dumps({"items": [_item(row) for row in rows], "next_cursor": None})
    return web.Response(body=body, content_type=JSON)


def _item(row: asyncpg.Record) -> Any:
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    return value


async def _execute(request: web.Request) -> web.Response:
    body = orjson.dumps(orjson.loads(await request.read()))
    url = f"{os.environ['HOST_URL']}/host/remote/executeAction"
    headers = {"Content-Type": JSON}
    async with request.app[SESSION].post(url, data=body, headers=headers) as answer:
        result = orjson.loads(await answer.read())
    return web.Response(body=orjson.dumps(result), content_type=JSON)


async def _init(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=str, decoder=orjson.Fragment
    )


async def _resources(app: web.Application) -> Any:
    app[POOL] = await asyncpg.create_pool(
        os.environ["DATABASE_URL"], min_size=1, max_size=POOL_SIZE, init=_init
    )
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
    app[SESSION] = aiohttp.ClientSession(connector=connector)
    yield
    await app[SESSION].close()
    await app[POOL].close()


def _app() -> web.Application:
    app = web.Application()
    app.cleanup_ctx.append(_resources)
    app.router.add_get("/api/testcases", _list)
    app.router.add_post("/api/hosts/{host_id}/execute", _execute)
    return app


if __name__ == "__main__":
    port = int(sys.argv[1])
    web.run_app(
        _app(),
        host="127.0.0.1",
        port=port,
        access_log=None,
        print=None,
        loop=uvloop.new_event_loop(),
    )
