"""Hosts: what they say of themselves, what people see and order."""

from __future__ import annotations

import math
from typing import Any

import orjson
import structlog
from aiohttp import web
from marshmallow import Schema, validate
from marshmallow import fields as f

from vpt.errors import InvalidError, NotFoundError, VptError
from vpt.model import HostStatus, Json, Role
from vpt.seal import Sealer
from vpt.web.auth import needs, own_credential, secret_of, user_of
from vpt.web.host_schemas import RegistrationBody, registration, stats_of, words
from vpt.web.keys import DB, LAB
from vpt.web.requests import (
    LONGEST_ID,
    choice_param,
    found,
    json_response,
    json_text,
    list_response,
    load_body,
    no_content,
    page_of,
    path_id,
    read_json,
    text_param,
)
from vpt.web.speakers import Speaker, asked_to_register, peer_of, require_json, speaker_of

log = structlog.get_logger(__name__)
routes = web.RouteTableDef()

#: Seconds that a manual action may be given.
LONGEST_ACTION = 86_400.0
#: A manual action belongs to no execution: a host must not take it for a step of one.
_OF_STEPS = ("execution_id", "attempt", "step")
_HEADER = validate.Regexp(
    r"[!-~]{1,4096}\Z", error="expected at most 4096 visible ASCII characters"
)


class HostEdit(Schema):
    """The body of PUT /api/hosts/<id>; an api_key of null takes the key away."""

    tags = words()
    api_key = f.String(allow_none=True, validate=_HEADER)


_REGISTRATION, _EDIT = RegistrationBody(), HostEdit()


# --- what people see and order


@routes.get("/api/hosts")
@needs(Role.VIEWER)
async def list_hosts(request: web.Request) -> web.Response:
    """List hosts, newest first; filters status, tag and capability."""
    page = page_of(request)
    rows = await request.app[DB].rows(
        "host_items",
        id=None,
        status=choice_param(request, "status", HostStatus),
        tag=text_param(request, "tag"),
        capability=text_param(request, "capability"),
        **page.args(),
    )
    return list_response(rows, page)


@routes.get("/api/hosts/{id}/status")
@needs(Role.VIEWER)
async def show_host(request: web.Request) -> web.Response:
    """Show one host with its devices."""
    return await _shown(request, path_id(request))


@routes.put("/api/hosts/{id}")
@needs(Role.ADMIN)
async def edit_host(request: web.Request) -> web.Response:
    """Set a host's tags and the key with which vpt calls it; the key is never read back."""
    host_id = await _known(request)
    body = await load_body(request, _EDIT)
    key = body.get("api_key")
    edited = await request.app[DB].value(
        "edit_host",
        id=host_id,
        tags=body.get("tags"),
        sealed_api_key=None if key is None else Sealer(secret_of(request.app)).seal(key),
        set_api_key="api_key" in body,
    )
    log.info("host_edited", host_id=found(edited), fields=sorted(body))
    if "api_key" in body:
        await request.app[LAB].host_edited(host_id)
    return await _shown(request, host_id)


@routes.delete("/api/hosts/{id}")
@needs(Role.ADMIN)
async def delete_host(request: web.Request) -> web.Response:
    """Forget a host and its devices; 409 while it runs something."""
    await request.app[LAB].delete_host(path_id(request))
    return no_content()


@routes.post("/api/hosts/{id}/drain")
@needs(Role.OPERATOR)
async def drain_host(request: web.Request) -> web.Response:
    """Let a host finish what it runs and give it nothing new."""
    return await _drained(request, on=True)


@routes.post("/api/hosts/{id}/resume")
@needs(Role.OPERATOR)
async def resume_host(request: web.Request) -> web.Response:
    """End a drain."""
    return await _drained(request, on=False)


@routes.post("/api/hosts/{id}/execute")
@needs(Role.OPERATOR)
async def execute(request: web.Request) -> web.Response:
    """Run one action on a device now and answer with what the host said."""
    host_id = path_id(request)
    action = await _action_body(request, host_id)
    device_id, timeout_s = action.pop("device_id", None), action.pop("timeout_s", None)
    answer, duration_ms = await request.app[LAB].act(
        host_id, device_id, action, timeout_s, user_of(request).user_id
    )
    result = {"success": answer.success, "output": answer.output, "error": answer.error}
    return json_response(
        {
            "success": answer.success,
            "result": result if answer.raw is None else answer.raw,
            "duration_ms": round(duration_ms, 3),
        }
    )


async def _shown(request: web.Request, host_id: str) -> web.Response:
    return json_text(found(await _row(request, host_id))["item"])


async def _row(request: web.Request, host_id: str) -> Any:
    return await request.app[DB].row(
        "host_items",
        id=host_id,
        status=None,
        tag=None,
        capability=None,
        before_at=None,
        before_id=None,
        limit=1,
    )


async def _known(request: web.Request) -> str:
    host_id = path_id(request)
    if not await request.app[DB].value("host_exists", id=host_id):
        raise NotFoundError
    return host_id


async def _drained(request: web.Request, *, on: bool) -> web.Response:
    host_id = path_id(request)
    lab = request.app[LAB]
    await lab.drain(host_id, on=on)
    item = orjson.loads(found(await _row(request, host_id))["item"])
    for view in lab.views():  # the actor knows what the database learns in a moment
        if view.host.id == host_id:
            item |= {"status": view.status, "reason": view.reason}
    return json_response(item)


async def _action_body(request: web.Request, host_id: str) -> Json:
    """Read the action; that there is no such host goes before what is wrong with the body."""
    try:
        body = await read_json(request)
        _check_action(body)
    except VptError:
        if all(view.host.id != host_id for view in request.app[LAB].views()):
            raise NotFoundError from None
        raise
    for name in _OF_STEPS:
        body.pop(name, None)
    return body


def _check_action(body: Json) -> None:
    """Check by hand what a schema would check: this is the path on which milliseconds count."""
    device_id, timeout_s = body.get("device_id"), body.get("timeout_s")
    if device_id is not None and not (
        isinstance(device_id, str) and 0 < len(device_id) <= LONGEST_ID
    ):
        raise InvalidError({"device_id": ["Not a valid string."]})
    if timeout_s is None:
        return
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float):
        raise InvalidError({"timeout_s": ["Not a valid number."]})
    if not math.isfinite(timeout_s) or not 0 < timeout_s <= LONGEST_ACTION:
        raise InvalidError({"timeout_s": [f"Expected seconds above 0, at most {LONGEST_ACTION}."]})


# --- what hosts say


@routes.post("/api/hosts/register")
@own_credential
async def register(request: web.Request) -> web.Response:
    """Take a host in, or take it again with what it says now; exactly 200, as hosts expect."""
    speaker, peer = await speaker_of(request), peer_of(request)
    require_json(request)
    body = await load_body(request, _REGISTRATION)
    speaker.speaks_for(body["host_name"])
    told = registration(body, peer=peer, credential=speaker.credential)
    await request.app[LAB].register(told, peer=peer)
    return json_response(
        {
            "status": "success",
            "host_id": told.host.id,
            "devices": [device.id for device in told.devices],
        }
    )


@routes.post("/api/hosts/{id}/heartbeat")
@own_credential
@asked_to_register
async def heartbeat(request: web.Request) -> web.Response:
    """Note that a host lives, and what it says of its own health."""
    host_id, speaker, body = await _word_of_host(request)
    await request.app[LAB].heartbeat(host_id, stats_of(body), speaker.credential)
    return json_response({"status": "success", "host_id": host_id})


@routes.post("/api/hosts/{id}/unregister")
@own_credential
@asked_to_register
async def unregister(request: web.Request) -> web.Response:
    """Let a host say goodbye: it is offline until it registers again."""
    host_id, speaker, _body = await _word_of_host(request)
    await request.app[LAB].unregister(host_id, speaker.credential)
    return json_response({"status": "success", "host_id": host_id})


async def _word_of_host(request: web.Request) -> tuple[str, Speaker, Json]:
    speaker, host_id = await speaker_of(request), path_id(request)
    speaker.speaks_for(host_id)
    if not request.body_exists:
        return host_id, speaker, {}
    require_json(request)
    return host_id, speaker, await read_json(request)
