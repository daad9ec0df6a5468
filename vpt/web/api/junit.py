"""Routes of reports for CI."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import hdrs, web

from vpt.model import Role
from vpt.web.http.auth import needs
from vpt.web.http.keys import DB, LAB
from vpt.web.http.operations import ResponseSpec, operation, query_of
from vpt.web.http.params import WAIT
from vpt.web.http.requests import found, path_id

routes = web.RouteTableDef()

_XML = ResponseSpec({"application/xml": None})


@routes.get("/api/executions/{id}/junit")
@needs(Role.VIEWER)
@operation(_XML, query=(WAIT,))
async def execution_junit(request: web.Request) -> web.Response:
    """Show an execution as JUnit XML; one that has not ended is marked as such."""
    return await _answer(request, "execution_id", request.app[LAB].executions.until_final)


@routes.get("/api/campaign-executions/{id}/junit")
@needs(Role.VIEWER)
@operation(_XML, query=(WAIT,))
async def campaign_junit(request: web.Request) -> web.Response:
    """Show a campaign execution as JUnit XML, with all its entries in order."""
    return await _answer(request, "campaign_execution_id", request.app[LAB].campaigns.until_final)


async def _answer(
    request: web.Request, kind: str, until_final: Callable[[str, float], Awaitable[None]]
) -> web.Response:
    name, seconds = path_id(request), query_of(request)["wait"]
    wanted: dict[str, Any] = {"execution_id": None, "campaign_execution_id": None} | {kind: name}
    found(await request.app[DB].row("junit_head", **wanted))
    if seconds:
        await until_final(name, seconds)
    head = found(await request.app[DB].row("junit_head", **wanted))
    rows = await request.app[DB].rows("junit_cases", **wanted)
    about = {kind: name}
    text = await asyncio.to_thread(_report, head, about, rows)
    return web.Response(body=text, headers={hdrs.CONTENT_TYPE: "application/xml; charset=utf-8"})


def _report(head: Any, about: dict[str, str], rows: list[Any]) -> bytes:
    from vpt.junit import report  # noqa: PLC0415 (loads its XML library only when needed)

    return report(head, about, rows)
