"""Routes of tokens and of the audit, for admins; and the set-up of what checks tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import orjson
import structlog
from aiohttp import hdrs, web

from vpt.errors import UnavailableError
from vpt.model import Role
from vpt.store.audit import Audit
from vpt.store.tokens import Tokens, issue_token, make_token, new_id
from vpt.web.http.auth import needs, secret_of, user_of
from vpt.web.http.keys import AUDIT, CONFIG, DB, LAB, SUPABASE, TOKENS
from vpt.web.http.middlewares import count_refusals
from vpt.web.http.operations import JSON, ResponseSpec, body_of, operation, page_of, query_of
from vpt.web.http.params import choice, moment, text
from vpt.web.http.requests import found, json_response, list_response, no_content, path_id
from vpt.web.http.supabase import Supabase
from vpt.web.live.sockets import SOCKETS
from vpt.web.schemas.tokens import TOKEN, AuditEntryResponse, NewTokenResponse, TokenResponse

log = structlog.get_logger(__name__)
routes = web.RouteTableDef()

DEFAULT_DAYS = 30.0


def setup(app: web.Application) -> None:
    """Set TOKENS, AUDIT, REFUSALS and, when it is configured, SUPABASE."""
    config = app[CONFIG]
    app[TOKENS], app[AUDIT] = Tokens(app[DB]), Audit(app[DB])
    count_refusals(app)
    if config.supabase_url or config.supabase_jwt_secret:
        app[SUPABASE] = Supabase(config.supabase_url, config.supabase_jwt_secret)
    app.cleanup_ctx.append(_audit_running)


async def _audit_running(app: web.Application) -> AsyncIterator[None]:
    async with app[AUDIT].running():
        yield


@routes.get("/api/tokens")
@needs(Role.ADMIN)
@operation(lists=TokenResponse, query=(choice("role", "Only those with this role.", Role),))
async def list_tokens(request: web.Request) -> web.Response:
    """List tokens, without their secret texts, newest first."""
    page, filters = page_of(request), query_of(request)
    return list_response(await request.app[DB].rows("token_items", **filters, **page.args()), page)


@routes.post("/api/tokens")
@needs(Role.ADMIN)
@operation(ResponseSpec({JSON: NewTokenResponse}, headers=(hdrs.CACHE_CONTROL,)), 201, body=TOKEN)
async def create_token(request: web.Request) -> web.Response:
    """Create a token; its text is in this response only."""
    new, db = await body_of(request), request.app[DB]
    by, token_id = user_of(request).user_id, new_id()
    if new["role"] is Role.HOST:
        expires_at = _in_days(new["days"]) if new["days"] else None
        token = await make_token(
            db,
            new["host_id"],
            token_id=token_id,
            name=new["name"],
            created_by=by,
            expires_at=expires_at,
        )
    else:
        days = new["days"] or DEFAULT_DAYS
        await db.row(
            "insert_token",
            id=token_id,
            name=new["name"],
            role=new["role"],
            host_id=None,
            hash=None,
            created_by=by,
            expires_at=_in_days(days),
        )
        token = issue_token(secret_of(request.app), new["name"], new["role"], days, token_id)
    log.info("token_made", token_id=token_id, name=new["name"], role=new["role"])
    item = orjson.loads(found(await db.value("token_item", id=token_id)))
    response = json_response({**item, "token": token}, 201)
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    return response


def _in_days(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


@routes.delete("/api/tokens/{id}")
@needs(Role.ADMIN)
@operation(None, 204)
async def delete_token(request: web.Request) -> web.Response:
    """Revoke a token: requests with it are refused from now on."""
    token_id = path_id(request)
    row = found(await request.app[DB].row("delete_token", id=token_id))
    request.app[TOKENS].forget(row["hash"] or token_id)
    request.app[SOCKETS].end(token_id)
    log.info("token_revoked", token_id=token_id)
    if row["host_id"] is not None:
        with suppress(UnavailableError):  # the token is revoked: the sweep looks at the host again
            await request.app[LAB].registry.end_credential(row["host_id"])
    return no_content()


@routes.get("/api/audit")
@needs(Role.ADMIN)
@operation(
    lists=AuditEntryResponse,
    query=(
        text("user_id", "Only requests of this user."),
        text("method", "Only requests with this method.", example="DELETE"),
        moment("since", "Only requests at this time or later."),
        moment("until", "Only requests before this time."),
    ),
)
async def list_audit(request: web.Request) -> web.Response:
    """List the requests that could have changed something, newest first."""
    page, filters = page_of(request), query_of(request)
    await request.app[AUDIT].flush()  # so that a request answered a moment ago is listed
    rows = await request.app[DB].rows("audit_items", **filters, **page.args())
    return list_response(rows, page)
