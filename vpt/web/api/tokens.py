"""Routes of tokens and of the audit, for admins; and what the application needs to know tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import orjson
import structlog
from aiohttp import hdrs, web
from marshmallow import Schema, ValidationError, validate, validates_schema
from marshmallow import fields as f

from vpt.model import Json, Role
from vpt.store.audit import Audit
from vpt.store.tokens import HOST_NAME, Tokens, make_token, new_id
from vpt.web.http.auth import issue_token, needs, secret_of, user_of
from vpt.web.http.keys import AUDIT, CONFIG, DB, SUPABASE, TOKENS
from vpt.web.http.operations import JSON, Answer, body_of, operation, page_of, query_of
from vpt.web.http.params import choice, moment, text
from vpt.web.http.requests import found, json_response, list_response, no_content, path_id
from vpt.web.http.supabase import Supabase
from vpt.web.live.sockets import SOCKETS
from vpt.web.schemas import answers
from vpt.web.schemas.bodies import Number, about, title

log = structlog.get_logger(__name__)
routes = web.RouteTableDef()

USUAL_DAYS, MOST_DAYS = 30.0, 3650.0


class TokenSchema(Schema):
    """A token to make; a host's has the name of its host, and lasts for ever unless it says."""

    name = title("The user that it makes of who shows it.")
    role = f.Enum(
        Role,
        by_value=True,
        load_default=Role.OPERATOR,
        metadata=about("What it allows; `host` is for a host's own."),
    )
    host_id = f.String(
        load_default=None,
        allow_none=True,
        validate=validate.Regexp(rf"(?:{HOST_NAME.pattern})\Z"),
        metadata=about("Which host it speaks for; for role `host`, and only there."),
    )
    days = Number(
        load_default=None,
        allow_none=True,
        validate=validate.Range(0, MOST_DAYS, min_inclusive=False),
        metadata=about("How long it holds; 30 days, a host's for ever, unless it says."),
    )

    example: ClassVar[Json] = {"name": "nightly", "role": "operator", "days": 90}

    @validates_schema
    def _names_its_host(self, data: dict[str, Any], **_: Any) -> None:
        if not data["name"].isprintable():
            raise ValidationError("Expected printable characters.", "name")
        if (data["role"] is Role.HOST) != (data["host_id"] is not None):
            raise ValidationError("Expected for role host, and only there.", "host_id")


TOKEN = TokenSchema()


def setup(app: web.Application) -> None:
    """Set TOKENS, AUDIT and, where it is configured, SUPABASE."""
    config = app[CONFIG]
    app[TOKENS], app[AUDIT] = Tokens(app[DB]), Audit(app[DB])
    if config.supabase_url or config.supabase_jwt_secret:
        app[SUPABASE] = Supabase(config.supabase_url, config.supabase_jwt_secret)
    app.cleanup_ctx.append(_audit_running)


async def _audit_running(app: web.Application) -> AsyncIterator[None]:
    async with app[AUDIT].running():
        yield


@routes.get("/api/tokens")
@needs(Role.ADMIN)
@operation(lists=answers.Token, query=(choice("role", "What they may do.", Role),))
async def list_tokens(request: web.Request) -> web.Response:
    """List tokens, without the tokens themselves, newest first."""
    page, filters = page_of(request), query_of(request)
    return list_response(await request.app[DB].rows("token_items", **filters, **page.args()), page)


@routes.post("/api/tokens")
@needs(Role.ADMIN)
@operation(Answer({JSON: answers.NewToken}, headers=(hdrs.CACHE_CONTROL,)), 201, body=TOKEN)
async def create_token(request: web.Request) -> web.Response:
    """Make a token; it stands in this answer and nowhere else."""
    wish, db = await body_of(request), request.app[DB]
    by, token_id = user_of(request).user_id, new_id()
    if wish["role"] is Role.HOST:
        expires_at = _in_days(wish["days"]) if wish["days"] else None
        token = await make_token(
            db,
            wish["host_id"],
            token_id=token_id,
            name=wish["name"],
            created_by=by,
            expires_at=expires_at,
        )
    else:
        days = wish["days"] or USUAL_DAYS
        await db.row(
            "insert_token",
            id=token_id,
            name=wish["name"],
            role=wish["role"],
            host_id=None,
            hash=None,
            created_by=by,
            expires_at=_in_days(days),
        )
        token = issue_token(secret_of(request.app), wish["name"], wish["role"], days, token_id)
    log.info("token_made", token_id=token_id, name=wish["name"], role=wish["role"])
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
    """Revoke a token: from now on whoever shows it is nobody."""
    token_id = path_id(request)
    row = found(await request.app[DB].row("delete_token", id=token_id))
    request.app[TOKENS].forget(row["hash"] or token_id)
    request.app[SOCKETS].end(token_id)
    log.info("token_revoked", token_id=token_id)
    return no_content()


@routes.get("/api/audit")
@needs(Role.ADMIN)
@operation(
    lists=answers.AuditEntry,
    query=(
        text("user_id", "By whom."),
        text("method", "By which method.", example="DELETE"),
        moment("since", "Then or later."),
        moment("until", "Before."),
    ),
)
async def list_audit(request: web.Request) -> web.Response:
    """List who wanted to write what, newest first."""
    page, filters = page_of(request), query_of(request)
    await request.app[AUDIT].flush()  # what was answered a moment ago is in it
    rows = await request.app[DB].rows("audit_items", **filters, **page.args())
    return list_response(rows, page)
