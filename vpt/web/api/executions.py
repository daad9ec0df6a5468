"""Routes of executions."""

from __future__ import annotations

import re

import structlog
from aiohttp import hdrs, web

from vpt.errors import ConflictError, NotFoundError, NotQueuedError
from vpt.model import ErrorKind, ExecutionStatus, Role
from vpt.web.http.auth import needs, user_of
from vpt.web.http.keys import DB, LAB
from vpt.web.http.operations import ResponseSpec, body_of, operation, page_of, query_of
from vpt.web.http.params import HIGHEST_NUMBER, MOST_OF_PAGE, WAIT, choice, moment, number, text
from vpt.web.http.requests import (
    found,
    json_response,
    json_text,
    no_content,
    page_response,
    path_id,
)
from vpt.web.schemas.body import NOTHING
from vpt.web.schemas.executions import (
    ExecutionCancelledResponse,
    ExecutionResponse,
    ListedExecutionResponse,
    QueuePlaceResponse,
)

_ATTEMPT = number(
    "attempt",
    "The attempt whose steps to show; without it, the latest.",
    lowest=1,
    highest=HIGHEST_NUMBER,
)

_NUMBER = re.compile("[1-9][0-9]{0,8}")
_TEXT = ResponseSpec({"text/plain": None})
#: What a host said is shown as it is: no browser may take it for a page.
_TEXT_HEADERS = {
    hdrs.CONTENT_TYPE: "text/plain; charset=utf-8",
    "X-Content-Type-Options": "nosniff",
}

log = structlog.get_logger(__name__)
routes = web.RouteTableDef()


@routes.get("/api/executions")
@needs(Role.VIEWER)
@operation(
    lists=ListedExecutionResponse,
    query=(
        choice("status", "Only those with this status.", ExecutionStatus),
        text("test_case_id", "Only those of this test case."),
        text("host_id", "Only those on this host.", example="pi-1"),
        text("device_id", "Only those on this device.", example="pi-1:desktop"),
        text("device_model", "Only those that run or ran on this model.", example="desktop"),
        text("campaign_execution_id", "Only those of this campaign execution."),
        choice("error_kind", "Only those that ended with this kind of error.", ErrorKind),
        text("requested_by", "Only those that this user started.", example="ci"),
        moment("since", "Only those created at this time or later."),
        moment("until", "Only those created before this time."),
    ),
)
async def list_executions(request: web.Request) -> web.Response:
    """List executions, newest first."""
    page, filters = page_of(request), query_of(request)
    async with request.app[DB].transaction() as session:
        if any(filters.values()):
            await session.row("plan_anew")
        row = await session.row("execution_page", bytes=MOST_OF_PAGE, **page.args(), **filters)
    return page_response(row)


@routes.get("/api/executions/{id}")
@needs(Role.VIEWER)
@operation(ExecutionResponse, query=(WAIT, _ATTEMPT))
async def get_execution(request: web.Request) -> web.Response:
    """Show an execution, with its attempts and the steps of one attempt; long outputs are cut."""
    execution_id, query = path_id(request), query_of(request)
    seconds, attempt = query["wait"], query["attempt"]
    found(await request.app[DB].row("execution_status", execution_id=execution_id))
    if seconds:
        await request.app[LAB].executions.until_final(execution_id, seconds)
    item = await request.app[DB].value("execution_item", id=execution_id, attempt=attempt)
    return json_text(found(item))


@routes.get("/api/executions/{id}/attempts/{attempt}/steps/{step}/output")
@needs(Role.VIEWER)
@operation(_TEXT)
async def get_step_output(request: web.Request) -> web.Response:
    """Show the whole output of a step as plain text; empty when there was none."""
    return await _text_of_step(request, "output")


@routes.get("/api/executions/{id}/attempts/{attempt}/steps/{step}/error")
@needs(Role.VIEWER)
@operation(_TEXT)
async def get_step_error(request: web.Request) -> web.Response:
    """Show the whole error of a step as plain text; empty when there was none."""
    return await _text_of_step(request, "error")


async def _text_of_step(request: web.Request, column: str) -> web.Response:
    row = await request.app[DB].row(
        "step_texts",
        execution_id=path_id(request),
        attempt=_number_in(request, "attempt"),
        step=_number_in(request, "step"),
    )
    text = found(row)[column] or ""
    return web.Response(body=text.encode(), headers=_TEXT_HEADERS)


def _number_in(request: web.Request, name: str) -> int:
    """Return a number of the path; NotFoundError for what can be no attempt's or step's."""
    digits = request.match_info[name]
    if not _NUMBER.fullmatch(digits) or int(digits) > HIGHEST_NUMBER:
        raise NotFoundError
    return int(digits)


@routes.get("/api/executions/{id}/queue")
@needs(Role.VIEWER)
@operation(QueuePlaceResponse, refuses=(NotQueuedError,))
async def explain_wait(request: web.Request) -> web.Response:
    """Show why an execution waits, for what, its place in the queue and the estimated wait."""
    db, execution_id = request.app[DB], path_id(request)
    row = found(await db.row("execution_status", execution_id=execution_id))
    if row["status"] != ExecutionStatus.QUEUED:
        raise NotQueuedError
    lab = request.app[LAB]
    place = lab.place(execution_id)
    if not place.position:
        raise NotQueuedError("The execution has a device, where it is about to begin.")
    eta_s = await lab.eta_s(execution_id)
    return json_response(
        {
            "reason": place.wait.reason,
            "names": place.wait.names,
            "position": place.position,
            "eta_s": None if eta_s is None else round(eta_s, 1),
        }
    )


@routes.put("/api/executions/{id}/pin")
@needs(Role.OPERATOR)
@operation(ExecutionResponse, body=NOTHING)
async def pin_execution(request: web.Request) -> web.Response:
    """Pin an execution: it is kept with its steps and screenshots, whatever its age."""
    await _pin(request, pinned=True)
    item = await request.app[DB].value("execution_item", id=path_id(request), attempt=None)
    return json_text(found(item))


@routes.delete("/api/executions/{id}/pin")
@needs(Role.OPERATOR)
@operation(None, 204, body=NOTHING)
async def unpin_execution(request: web.Request) -> web.Response:
    """Unpin an execution: it is deleted at the same age as others."""
    await _pin(request, pinned=False)
    return no_content()


async def _pin(request: web.Request, *, pinned: bool) -> None:
    db, execution_id = request.app[DB], path_id(request)
    found(await db.row("execution_status", execution_id=execution_id))
    await body_of(request)
    found(await db.row("pin_execution", id=execution_id, pinned=pinned))
    log.info("test_execution_pinned", execution_id=execution_id, pinned=pinned)


@routes.post("/api/executions/{id}/cancel")
@needs(Role.OPERATOR)
@operation(ExecutionCancelledResponse, 202, body=NOTHING, refuses=(ConflictError,))
async def cancel_execution(request: web.Request) -> web.Response:
    """Request the cancellation of an execution."""
    execution_id = path_id(request)
    row = found(await request.app[DB].row("execution_status", execution_id=execution_id))
    await body_of(request)
    await request.app[LAB].executions.cancel(execution_id, user_of(request).user_id)
    return json_response({"execution_id": execution_id, "status": row["status"]}, 202)
