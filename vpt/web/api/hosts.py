"""Hosts: what they send, and what people see and do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import structlog
from aiohttp import web

from vpt.errors import (
    ActionTimeoutError,
    BadGatewayError,
    ConflictError,
    HostUnreachableError,
    LockedError,
    NotFoundError,
    NotRegisteredError,
    UnprocessableError,
    VptError,
)
from vpt.model import HostStatus, Json, Role
from vpt.secret_steps import secrets_in
from vpt.store.seal import Sealer
from vpt.web.http.auth import needs, own_credential, secret_of, user_of
from vpt.web.http.caller import peer_of
from vpt.web.http.joining import explains_refusal
from vpt.web.http.keys import DB, LAB
from vpt.web.http.lists import long_items
from vpt.web.http.operations import HOST, body_of, operation, page_of, query_of
from vpt.web.http.params import choice, text
from vpt.web.http.requests import (
    found,
    json_response,
    json_text,
    load,
    no_content,
    path_id,
    read_as,
)
from vpt.web.http.speakers import (
    Speaker,
    asked_to_register,
    check_speaker,
    require_json,
    speaker_of,
)
from vpt.web.schemas.hosts import (
    ActionBody,
    ActionResultResponse,
    HeardResponse,
    HeartbeatBody,
    HostEditBody,
    HostResponse,
    RegisteredResponse,
    RegistrationBody,
    heartbeat_of,
    registration,
)

log = structlog.get_logger(__name__)
routes = web.RouteTableDef()

#: Removed from a manual action, so that the host does not take it for a step of an execution.
_OF_STEPS = ("execution_id", "attempt", "step")

_REGISTRATION, _HEARTBEAT = RegistrationBody(), HeartbeatBody()
_EDIT, _ACTION = HostEditBody(), ActionBody()
#: Errors for a host that is not registered, or registered with a stronger credential.
_TO_KNOWN = (NotRegisteredError, ConflictError)


# --- what people see and do


@routes.get("/api/hosts")
@needs(Role.VIEWER)
@operation(
    lists=HostResponse,
    query=(
        choice("status", "Only those with this status.", HostStatus),
        text("tag", "Only those with this tag."),
        text("capability", "Only those with this capability.", example="desktop"),
    ),
)
async def list_hosts(request: web.Request) -> web.Response:
    """List hosts with their devices, newest first."""
    page, filters = page_of(request), query_of(request)
    return await long_items(request.app[DB], "host_items", page, id=None, **filters)


@routes.get("/api/hosts/{id}/status")
@needs(Role.VIEWER)
@operation(HostResponse)
async def show_host(request: web.Request) -> web.Response:
    """Show one host with its devices."""
    return await _shown(request, path_id(request))


@routes.put("/api/hosts/{id}")
@needs(Role.ADMIN)
@operation(HostResponse, body=_EDIT)
async def edit_host(request: web.Request) -> web.Response:
    """Set the tags of a host and the key that vpt sends to it; the key is never shown again."""
    host_id = await _known(request)
    body = await body_of(request)
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
        await request.app[LAB].registry.host_edited(host_id)
    return await _shown(request, host_id)


@routes.delete("/api/hosts/{id}")
@needs(Role.ADMIN)
@operation(None, 204, refuses=(ConflictError,))
async def delete_host(request: web.Request) -> web.Response:
    """Delete a host and its devices; 409 while something runs on it."""
    await request.app[LAB].registry.delete_host(path_id(request))
    return no_content()


@routes.post("/api/hosts/{id}/drain")
@needs(Role.OPERATOR)
@operation(HostResponse)
async def drain_host(request: web.Request) -> web.Response:
    """Drain a host: what runs on it goes on, nothing new is started."""
    return await _drained(request, on=True)


@routes.post("/api/hosts/{id}/resume")
@needs(Role.OPERATOR)
@operation(HostResponse)
async def resume_host(request: web.Request) -> web.Response:
    """End the drain of a host; its devices that are held back get runs again."""
    return await _drained(request, on=False)


@routes.post("/api/hosts/{id}/execute")
@needs(Role.OPERATOR)
@operation(
    ActionResultResponse,
    body=_ACTION,
    refuses=(
        *(ConflictError, LockedError, UnprocessableError),
        *(BadGatewayError, HostUnreachableError, ActionTimeoutError),
    ),
)
async def execute_on_host(request: web.Request) -> web.Response:
    """Run one action on a device now and answer with its result.

    `${secret:name}` in a text of it is the named secret, which is `***` in the answer.
    """
    host_id = path_id(request)
    action, names = await _action_body(request, host_id)
    device_id, timeout_s = action.pop("device_id", None), action.pop("timeout_s", None)
    answer, duration_ms = await request.app[LAB].act(
        host_id, device_id, action, timeout_s, user_of(request).user_id, names
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
        bytes=0,
    )


async def _known(request: web.Request) -> str:
    host_id = path_id(request)
    if not await request.app[DB].value("host_exists", id=host_id):
        raise NotFoundError
    return host_id


async def _drained(request: web.Request, *, on: bool) -> web.Response:
    host_id = path_id(request)
    lab = request.app[LAB]
    await lab.registry.drain(host_id, on=on)
    item = orjson.loads(found(await _row(request, host_id))["item"])
    for view in lab.views():  # the database gets the status of the actor later
        if view.host.id == host_id:
            item |= {"status": view.status, "reason": view.reason}
            item |= {"reason_text": view.reason_text}
    return json_response(item)


async def _action_body(request: web.Request, host_id: str) -> tuple[Json, tuple[str, ...]]:
    """Return the action and the secrets it names; 404 for an unknown host comes before errors."""
    try:
        return await read_as(request, _action_of)
    except VptError:
        if all(view.host.id != host_id for view in request.app[LAB].views()):
            raise NotFoundError from None
        raise


def _action_of(body: Json) -> tuple[Json, tuple[str, ...]]:
    action: Json = load(_ACTION, body)
    for name in _OF_STEPS:
        action.pop(name, None)
    return action, secrets_in(action)


# --- what hosts send


@routes.post("/api/hosts/register")
@own_credential
@explains_refusal
@operation(RegisteredResponse, body=_REGISTRATION, refuses=(ConflictError,), credentials=HOST)
async def register_host(request: web.Request) -> web.Response:
    """Register a host, or update its registration; always 200, as hosts expect."""
    speaker, peer = await speaker_of(request), peer_of(request)
    require_json(request)
    body = await body_of(request)
    speaker.speaks_for(body["host_name"])
    told = registration(body, peer=peer, credential=speaker.credential)
    told = replace(told, credential_until=speaker.until)
    await request.app[LAB].registry.register(told, peer=peer)
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
@operation(HeardResponse, body=_HEARTBEAT, refuses=_TO_KNOWN, credentials=HOST)
async def heartbeat(request: web.Request) -> web.Response:
    """Store a sign of life of a host, and its health figures."""
    host_id, speaker, body = await _message_of_host(request)
    await request.app[LAB].registry.heartbeat(host_id, heartbeat_of(body), speaker.credential)
    return json_response({"status": "success", "host_id": host_id})


@routes.post("/api/hosts/{id}/unregister")
@own_credential
@asked_to_register
@operation(HeardResponse, body=_HEARTBEAT, refuses=_TO_KNOWN, credentials=HOST)
async def unregister_host(request: web.Request) -> web.Response:
    """Unregister a host: it is offline until it registers again."""
    host_id, speaker, body = await _message_of_host(request)
    instance_id = body.get("instance_id")
    await request.app[LAB].registry.unregister(host_id, speaker.credential, instance_id)
    return json_response({"status": "success", "host_id": host_id})


async def _message_of_host(request: web.Request) -> tuple[str, Speaker, Json]:
    speaker, host_id = await speaker_of(request), path_id(request)
    await check_speaker(request, speaker, host_id)
    if not request.body_exists:
        return host_id, speaker, {}
    require_json(request)
    return host_id, speaker, await body_of(request)
