"""Routes of executions."""

from __future__ import annotations

from typing import Any

import structlog
from aiohttp import web

from vpt.errors import NotQueuedError
from vpt.model import ExecutionStatus, Role
from vpt.web.auth import needs, user_of
from vpt.web.keys import DB, LAB
from vpt.web.requests import (
    choice_param,
    found,
    json_response,
    json_text,
    load_body,
    no_content,
    number_param,
    page_of,
    page_response,
    path_id,
    text_param,
    time_param,
    wait_param,
)
from vpt.web.schemas import NOTHING

HIGHEST_ATTEMPT = 1_000_000

log = structlog.get_logger(__name__)
routes = web.RouteTableDef()


@routes.get("/api/executions")
@needs(Role.VIEWER)
async def list_executions(request: web.Request) -> web.Response:
    """Answer with a page; filters of what they are, `since` and `until` of when they were made."""
    page, filters = page_of(request), _filters(request)
    async with request.app[DB].transaction() as session:
        if any(filters.values()):
            await session.row("plan_anew")
        row = await session.row("execution_page", **page.args(), **filters)
    return page_response(row)


def _filters(request: web.Request) -> dict[str, Any]:
    texts = ("test_case_id", "host_id", "device_id", "campaign_execution_id")
    return {
        "status": choice_param(request, "status", ExecutionStatus),
        "since": time_param(request, "since"),
        "until": time_param(request, "until"),
        **{name: text_param(request, name) for name in texts},
    }


@routes.get("/api/executions/{id}")
@needs(Role.VIEWER)
async def get_execution(request: web.Request) -> web.Response:
    """Answer with an execution, with `?wait=` as soon as it is final; `?attempt=` picks steps."""
    execution_id, seconds = path_id(request), wait_param(request)
    attempt = number_param(request, "attempt", lowest=1, highest=HIGHEST_ATTEMPT)
    found(await request.app[DB].row("execution_status", execution_id=execution_id))
    if seconds:
        await request.app[LAB].until_final(execution_id, seconds)
    item = await request.app[DB].value("execution_item", id=execution_id, attempt=attempt)
    return json_text(found(item))


@routes.get("/api/executions/{id}/queue")
@needs(Role.VIEWER)
async def explain_wait(request: web.Request) -> web.Response:
    """Say why an execution waits, for what, its place, and about how long (s) it will."""
    db, execution_id = request.app[DB], path_id(request)
    usual_s = await db.value("usual_duration", execution_id=execution_id)
    row = found(await db.row("execution_status", execution_id=execution_id))
    if row["status"] != ExecutionStatus.QUEUED:
        raise NotQueuedError
    place = request.app[LAB].place(execution_id)
    known = usual_s is not None and place.able > 0
    return json_response(
        {
            "reason": place.wait.reason,
            "names": place.wait.names,
            "position": place.position,
            "eta_s": round(usual_s * place.position / place.able, 1) if known else None,
        }
    )


@routes.put("/api/executions/{id}/pin")
@needs(Role.OPERATOR)
async def pin_execution(request: web.Request) -> web.Response:
    """Keep an execution with its steps and screenshots, however old it grows."""
    await _pin(request, pinned=True)
    item = await request.app[DB].value("execution_item", id=path_id(request), attempt=None)
    return json_text(found(item))


@routes.delete("/api/executions/{id}/pin")
@needs(Role.OPERATOR)
async def unpin_execution(request: web.Request) -> web.Response:
    """Let an execution go when it is as old as the others that go."""
    await _pin(request, pinned=False)
    return no_content()


async def _pin(request: web.Request, *, pinned: bool) -> None:
    db, execution_id = request.app[DB], path_id(request)
    found(await db.row("execution_status", execution_id=execution_id))
    await load_body(request, NOTHING)
    found(await db.row("pin_execution", id=execution_id, pinned=pinned))
    log.info("test_execution_pinned", execution_id=execution_id, pinned=pinned)


@routes.post("/api/executions/{id}/cancel")
@needs(Role.OPERATOR)
async def cancel_execution(request: web.Request) -> web.Response:
    """Wish the end of an execution."""
    execution_id = path_id(request)
    row = found(await request.app[DB].row("execution_status", execution_id=execution_id))
    await load_body(request, NOTHING)
    await request.app[LAB].cancel(execution_id, user_of(request).user_id)
    return json_response({"execution_id": execution_id, "status": row["status"]}, 202)
