"""Routes of campaigns and of their executions."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import orjson
from aiohttp import hdrs, web

from vpt.bounds import LONGEST_CAMPAIGN
from vpt.errors import (
    ConflictError,
    PreconditionError,
    UnprocessableError,
)
from vpt.model import RequestKey, Role
from vpt.store.db import Session
from vpt.submission import TestCaseChangedError, prepare_campaign, resolve_references
from vpt.web.api.testcases import NOT_STARTED
from vpt.web.http.auth import needs, user_of
from vpt.web.http.idempotency import IDEMPOTENCY_KEY, once
from vpt.web.http.keys import DB, LAB
from vpt.web.http.lists import long_items
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
    ListedCampaignExecutionResponse,
)

routes = web.RouteTableDef()

_ONE = ResponseSpec({JSON: CampaignResponse}, headers=(hdrs.ETAG,))
_MOST_TRIES = 3
#: What a start answers, also to a repeated Idempotency-Key.
_STARTED = tuple(CampaignStartedResponse().fields)


@routes.get("/api/campaigns")
@needs(Role.VIEWER)
@operation(lists=CampaignResponse, query=(text("q", "Only those whose name contains this text."),))
async def list_campaigns(request: web.Request) -> web.Response:
    """List campaigns, newest first."""
    page, filters = page_of(request), query_of(request)
    return await long_items(request.app[DB], "campaign_items", page, id=None, **filters)


@routes.post("/api/campaigns")
@needs(Role.OPERATOR)
@operation(_ONE, 201, body=CAMPAIGN, most=LONGEST_CAMPAIGN, refuses=(UnprocessableError,))
async def create_campaign(request: web.Request) -> web.Response:
    """Create a campaign."""
    campaign = await body_of(request)
    entries = campaign.pop("test_cases")
    campaign_id = f"ca_{secrets.token_hex(8)}"
    async with request.app[DB].transaction() as session:
        entries = await resolve_references(session, entries)
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
    _ONE,
    headers=(IF_MATCH,),
    body=CAMPAIGN,
    most=LONGEST_CAMPAIGN,
    refuses=(PreconditionError, UnprocessableError),
)
async def put_campaign(request: web.Request) -> web.Response:
    """Replace a campaign; its running executions go on unchanged."""
    db, campaign_id = request.app[DB], path_id(request)
    found(await db.row("campaign_to_run", id=campaign_id))
    campaign = await body_of(request)
    entries = campaign.pop("test_cases")
    async with db.transaction() as session:
        entries = await resolve_references(session, entries)
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
        execution_id = await _start(request, campaign_id, key)
        return json_text(found(await db.value("campaign_execution_start", id=execution_id)), 202)

    async def again(execution_id: str) -> web.Response:
        item = orjson.loads(await _execution_item(request, execution_id))
        return json_response({name: item[name] for name in _STARTED}, 202)

    return await once(request, start, again)


@routes.get("/api/campaign-executions")
@needs(Role.VIEWER)
@operation(
    lists=ListedCampaignExecutionResponse,
    query=(
        choice("status", "Only those with this status.", CampaignStatus),
        text("campaign_id", "Only those of this campaign."),
    ),
)
async def list_campaign_executions(request: web.Request) -> web.Response:
    """List campaign executions, newest first, without the results of their tests."""
    page, filters = page_of(request), query_of(request)
    async with request.app[DB].transaction() as session:
        if any(filters.values()):  # a plan for any filter would not use the index of this one
            await session.row("plan_anew")
        rows = await session.rows("campaign_execution_items", **filters, **page.args())
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


async def _start(request: web.Request, campaign_id: str, key: RequestKey | None) -> str:
    """Start a campaign as it is now; again when a test case of it is edited just then."""
    campaigns = request.app[LAB].campaigns
    for _ in range(_MOST_TRIES):
        with suppress(TestCaseChangedError):
            async with campaigns.preparing:
                new = await prepare_campaign(request.app[DB], campaign_id, user_of(request).user_id)
            return await campaigns.start(new, key)
    raise TestCaseChangedError


async def _answer(request: web.Request, campaign_id: str, status: int = 200) -> web.Response:
    args = Page(0).args()
    row = found(
        await request.app[DB].row("campaign_items", id=campaign_id, q=None, bytes=0, **args)
    )
    return json_text(row["item"], status, etag=etag(row["version"]))


async def _execution_item(request: web.Request, execution_id: str) -> str:
    return str(found(await request.app[DB].value("campaign_execution_item", id=execution_id)))


async def _store_entries(
    session: Session, campaign_id: str, entries: Sequence[Mapping[str, Any]]
) -> None:
    numbered = [
        {"campaign_id": campaign_id, "position": position, **entry}
        for position, entry in enumerate(entries)
    ]
    await session.many("insert_campaign_entry", numbered)
