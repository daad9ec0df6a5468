"""Routes of named secrets: admins store them, operators refer to them, nobody reads a value."""

from __future__ import annotations

import re

import structlog
from aiohttp import web

from vpt.errors import BadRequestError
from vpt.model import Role
from vpt.store.seal import Sealer
from vpt.web.http.auth import needs, secret_of, user_of
from vpt.web.http.keys import DB
from vpt.web.http.operations import body_of, operation, page_of
from vpt.web.http.requests import found, json_text, list_response, no_content, path_id
from vpt.web.schemas.secrets import SECRET, SecretResponse

log = structlog.get_logger(__name__)
routes = web.RouteTableDef()

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@routes.get("/api/secrets")
@needs(Role.OPERATOR)
@operation(lists=SecretResponse)
async def list_secrets(request: web.Request) -> web.Response:
    """List named secrets, without their values, newest first."""
    page = page_of(request)
    return list_response(await request.app[DB].rows("secret_items", **page.args()), page)


@routes.get("/api/secrets/{secret_name}")
@needs(Role.OPERATOR)
@operation(SecretResponse)
async def get_secret(request: web.Request) -> web.Response:
    """Show who stored a secret and when; its value is never shown."""
    return await _answer(request)


@routes.put("/api/secrets/{secret_name}")
@needs(Role.ADMIN)
@operation(SecretResponse, body=SECRET)
async def put_secret(request: web.Request) -> web.Response:
    """Store a secret under a name, or replace its value; runs under way send the new one."""
    name, user_id = path_id(request, "secret_name"), user_of(request).user_id
    if not _NAME.fullmatch(name):
        raise BadRequestError("A secret's name is 1 to 64 letters, digits, '.', '_' or '-'.")
    body = await body_of(request)
    sealed = Sealer(secret_of(request.app)).seal(body["value"])
    await request.app[DB].row("put_secret", name=name, sealed_value=sealed, user_id=user_id)
    log.info("secret_stored", name=name, user_id=user_id)
    return await _answer(request)


@routes.delete("/api/secrets/{secret_name}")
@needs(Role.ADMIN)
@operation(None, 204)
async def delete_secret(request: web.Request) -> web.Response:
    """Delete a secret: a run that still needs it ends as `error`, kind `config`."""
    name = path_id(request, "secret_name")
    found(await request.app[DB].row("delete_secret", name=name))
    log.info("secret_deleted", name=name, user_id=user_of(request).user_id)
    return no_content()


async def _answer(request: web.Request) -> web.Response:
    return json_text(
        found(await request.app[DB].value("secret_item", name=path_id(request, "secret_name")))
    )
