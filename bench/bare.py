"""The least that aiohttp + asyncpg can do: the same query and the same forwarding, nothing else.

No token, no middleware, no log, no check: what vpt is measured against.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import aiohttp
import asyncpg
import orjson
import uvloop
from aiohttp import web

from vpt.store.db import POOL_SIZE, read_queries

POOL = web.AppKey("pool", asyncpg.Pool)
SESSION = web.AppKey("session", aiohttp.ClientSession)
PAGE = read_queries()["test_case_items"]
JSON = "application/json"


async def _list(request: web.Request) -> web.Response:
    limit = int(request.query["limit"]) + 1  # one more tells whether there is a next page
    arguments = [limit if name == "limit" else None for name in PAGE.args]
    rows = await request.app[POOL].fetch(PAGE.sql, *arguments)
    more = "null"
    if len(rows) == limit:
        rows.pop()
        more = orjson.dumps([str(rows[-1]["created_at"]), rows[-1]["id"]]).decode()
    text = f'{{"items":[{",".join(row["item"] for row in rows)}],"next_cursor":{more}}}'
    return web.Response(text=text, content_type=JSON)


async def _execute(request: web.Request) -> web.Response:
    body = orjson.dumps(orjson.loads(await request.read()))
    url = f"{os.environ['HOST_URL']}/host/remote/executeAction"
    headers = {"Content-Type": JSON}
    async with request.app[SESSION].post(url, data=body, headers=headers) as answer:
        result = orjson.loads(await answer.read())
    return web.Response(body=orjson.dumps(result), content_type=JSON)


async def _resources(app: web.Application) -> Any:
    app[POOL] = await asyncpg.create_pool(
        os.environ["DATABASE_URL"], min_size=1, max_size=POOL_SIZE
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
