"""Routes of campaigns and of their executions."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import hdrs, web

from vpt.errors import (
    ConflictError,
    InvalidError,
    PreconditionError,
    UnprocessableError,
)
from vpt.model import Json, NewCampaign, NewExecution, RequestKey, Role
from vpt.store.db import Session
from vpt.web.api.testcases import (
    NOT_STARTED,
    filled_steps,
    new_execution,
    resolve_device,
    test_cases,
)
from vpt.web.http.auth import needs, user_of
from vpt.web.http.idempotency import IDEMPOTENCY_KEY, once
from vpt.web.http.keys import DB, LAB
from vpt.web.http.operations import JSON, ResponseSpec, body_of, operation, page_of, query_of
from vpt.web.http.params import IF_MATCH, WAIT, Page, choice, etag, text
from vpt.web.http.requests import (
    found,
    json_response,
    json_text,
    list_response,
    no_content,
    path_id,
)
from vpt.web.schemas.body import NOTHING
from vpt.web.schemas.campaigns import (
    CAMPAIGN,
    CampaignCancelledResponse,
    CampaignExecutionResponse,
    CampaignResponse,
    CampaignStartedResponse,
    CampaignStatus,
)

routes = web.RouteTableDef()

_ONE = ResponseSpec({JSON: CampaignResponse}, headers=(hdrs.ETAG,))


@routes.get("/api/campaigns")
@needs(Role.VIEWER)
@operation(lists=CampaignResponse, query=(text("q", "Only those whose name contains this text."),))
async def list_campaigns(request: web.Request) -> web.Response:
    """List campaigns, newest first."""
    page, filters = page_of(request), query_of(request)
    rows = await request.app[DB].rows("campaign_items", id=None, **filters, **page.args())
    return list_response(rows, page)


@routes.post("/api/campaigns")
@needs(Role.OPERATOR)
@operation(_ONE, 201, body=CAMPAIGN, refuses=(UnprocessableError,))
async def create_campaign(request: web.Request) -> web.Response:
    """Create a campaign."""
    campaign = await body_of(request)
    entries = campaign.pop("test_cases")
    campaign_id = f"ca_{secrets.token_hex(8)}"
    async with request.app[DB].transaction() as session:
        await _check_references(session, entries)
        await session.row("insert_campaign", id=campaign_id, **campaign)
        await _store_entries(session, campaign_id, entries)
    return await _answer(request, campaign_id, 201)


@routes.get("/api/campaigns/{id}")
@needs(Role.VIEWER)
@operation(_ONE)
async def get_campaign(request: web.Request) -> web.Response:
    """Show a campaign, with its version as ETag."""
    return await _answer(request, path_id(request))


@routes.put("/api/campaigns/{id}")
@needs(Role.OPERATOR)
@operation(
    _ONE, headers=(IF_MATCH,), body=CAMPAIGN, refuses=(PreconditionError, UnprocessableError)
)
async def put_campaign(request: web.Request) -> web.Response:
    """Replace a campaign; its running executions go on unchanged."""
    db, campaign_id = request.app[DB], path_id(request)
    found(await db.row("campaign_to_run", id=campaign_id))
    campaign = await body_of(request)
    entries = campaign.pop("test_cases")
    async with db.transaction() as session:
        await _check_references(session, entries)
        versions = IF_MATCH.of(request.headers)
        if (
            await session.row("update_campaign", id=campaign_id, versions=versions, **campaign)
            is None
        ):
            raise PreconditionError
        await session.row("delete_campaign_entries", campaign_id=campaign_id)
        await _store_entries(session, campaign_id, entries)
    return await _answer(request, campaign_id)


@routes.delete("/api/campaigns/{id}")
@needs(Role.OPERATOR)
@operation(None, 204, headers=(IF_MATCH,), refuses=(PreconditionError,))
async def delete_campaign(request: web.Request) -> web.Response:
    """Delete a campaign; its executions are kept."""
    db, campaign_id = request.app[DB], path_id(request)
    found(await db.row("campaign_to_run", id=campaign_id))
    versions = IF_MATCH.of(request.headers)
    if await db.row("delete_campaign", id=campaign_id, versions=versions) is None:
        raise PreconditionError
    return no_content()


@routes.post("/api/campaigns/{id}/execute")
@needs(Role.OPERATOR)
@operation(
    CampaignStartedResponse,
    202,
    headers=(IDEMPOTENCY_KEY,),
    body=NOTHING,
    refuses=NOT_STARTED,
)
async def execute_campaign(request: web.Request) -> web.Response:
    """Start a campaign execution."""
    db, campaign_id = request.app[DB], path_id(request)

    async def start(key: RequestKey | None) -> web.Response:
        found(await db.row("campaign_to_run", id=campaign_id))
        await body_of(request)
        async with db.session() as session:
            new = await _new_campaign(session, campaign_id, user_of(request).user_id)
        execution_id = await request.app[LAB].campaigns.start(new, key)
        return json_text(found(await db.value("campaign_execution_start", id=execution_id)), 202)

    async def again(execution_id: str) -> web.Response:
        return json_text(await _execution_item(request, execution_id), 202)

    return await once(request, start, again)


@routes.get("/api/campaign-executions")
@needs(Role.VIEWER)
@operation(
    lists=CampaignExecutionResponse,
    query=(
        choice("status", "Only those with this status.", CampaignStatus),
        text("campaign_id", "Only those of this campaign."),
    ),
)
async def list_campaign_executions(request: web.Request) -> web.Response:
    """List campaign executions, newest first."""
    page, filters = page_of(request), query_of(request)
    rows = await request.app[DB].rows("campaign_execution_items", id=None, **filters, **page.args())
    return list_response(rows, page)


@routes.get("/api/campaign-executions/{id}")
@needs(Role.VIEWER)
@operation(CampaignExecutionResponse, query=(WAIT,))
async def get_campaign_execution(request: web.Request) -> web.Response:
    """Show a campaign execution."""
    execution_id, seconds = path_id(request), query_of(request)["wait"]
    item = await _execution_item(request, execution_id)
    if seconds:
        await request.app[LAB].campaigns.until_final(execution_id, seconds)
        item = await _execution_item(request, execution_id)
    return json_text(item)


@routes.post("/api/campaign-executions/{id}/cancel")
@needs(Role.OPERATOR)
@operation(CampaignCancelledResponse, 202, body=NOTHING, refuses=(ConflictError,))
async def cancel_campaign_execution(request: web.Request) -> web.Response:
    """Request the cancellation of a campaign execution."""
    execution_id = path_id(request)
    status = found(await request.app[DB].value("campaign_status", id=execution_id))
    await body_of(request)
    await request.app[LAB].campaigns.cancel(execution_id, user_of(request).user_id)
    return json_response({"campaign_execution_id": execution_id, "status": status}, 202)


async def _answer(request: web.Request, campaign_id: str, status: int = 200) -> web.Response:
    args = Page(0).args()
    row = found(await request.app[DB].row("campaign_items", id=campaign_id, q=None, **args))
    return json_text(row["item"], status, etag=etag(row["version"]))


async def _execution_item(request: web.Request, execution_id: str) -> str:
    row = await request.app[DB].row(
        "campaign_execution_items", id=execution_id, status=None, campaign_id=None, **Page(0).args()
    )
    return str(found(row)["item"])


async def _check_references(session: Session, entries: Sequence[Mapping[str, Any]]) -> None:
    """Raise UnprocessableError when an entry names what does not exist."""
    ids = {entry["test_case_id"] for entry in entries}
    missing = ids - (await test_cases(session, ids)).keys()
    if missing:
        raise UnprocessableError(f"There is no test case {', '.join(sorted(missing)[:5])}.")
    for device_id, host_id in {(entry["device_id"], entry["host_id"]) for entry in entries}:
        await resolve_device(session, device_id, host_id)


async def _store_entries(
    session: Session, campaign_id: str, entries: Sequence[Mapping[str, Any]]
) -> None:
    numbered = [
        {"campaign_id": campaign_id, "position": position, **entry}
        for position, entry in enumerate(entries)
    ]
    await session.many("insert_campaign_entry", numbered)


async def _new_campaign(session: Session, campaign_id: str, user_id: str) -> NewCampaign:
    campaign = found(await session.row("campaign_to_run", id=campaign_id))
    rows = await session.rows("campaign_entries_to_run", id=campaign_id)
    cases = await test_cases(session, [row["test_case_id"] for row in rows])
    entries: list[NewExecution] = []
    for position, row in enumerate(rows):
        test_case = cases[row["test_case_id"]]
        wish = {**row, "priority": campaign["priority"]}
        steps = _entry_steps(position, test_case, row)
        wish["device_id"] = await resolve_device(session, row["device_id"], row["host_id"])
        entries.append(new_execution(test_case, steps, wish, user_id))
    return NewCampaign(
        campaign_id=campaign_id,
        name=campaign["name"],
        entries=tuple(entries),
        stop_on_failure=campaign["stop_on_failure"],
        parallelism=campaign["parallelism"],
        priority=campaign["priority"],
        requested_by=user_id,
    )


def _entry_steps(position: int, test_case: Any, row: Any) -> tuple[Json, ...]:
    """Fill in an entry's steps; InvalidError that names the entry at fault."""
    try:
        return filled_steps(test_case, row["parameters"])
    except InvalidError as error:
        raise InvalidError({"test_cases": {position: error.errors}}) from error
