"""Hosts: what they say of themselves, what people see and order."""

from __future__ import annotations

from typing import Any, ClassVar

import orjson
import structlog
from aiohttp import web
from marshmallow import INCLUDE, Schema, validate
from marshmallow import fields as f

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
from vpt.store.seal import Sealer
from vpt.web.http.auth import needs, own_credential, secret_of, user_of
from vpt.web.http.keys import DB, LAB
from vpt.web.http.operations import HOST, body_of, operation, page_of, query_of
from vpt.web.http.params import choice, text
from vpt.web.http.requests import (
    LONGEST_ID,
    found,
    json_response,
    json_text,
    list_response,
    no_content,
    path_id,
)
from vpt.web.http.speakers import Speaker, asked_to_register, peer_of, require_json, speaker_of
from vpt.web.schemas import answers
from vpt.web.schemas.bodies import Number, about
from vpt.web.schemas.hosts import (
    TAGS,
    HeartbeatSchema,
    RegistrationSchema,
    registration,
    stats_of,
    words,
)

log = structlog.get_logger(__name__)
routes = web.RouteTableDef()

#: Seconds that a manual action may be given.
LONGEST_ACTION = 86_400.0
#: A manual action belongs to no execution: a host must not take it for a step of one.
_OF_STEPS = ("execution_id", "attempt", "step")
_HEADER = validate.Regexp(
    r"[!-~]{1,4096}\Z", error="expected at most 4096 visible ASCII characters"
)


class HostEditSchema(Schema):
    """What people may change of a host; an api_key of null takes the key away."""

    tags = words(TAGS)
    api_key = f.String(
        allow_none=True,
        validate=_HEADER,
        metadata=about("The key with which vpt calls it; null takes it away."),
    )
    example: ClassVar[Json] = {"tags": ["second floor"]}


class ActionSchema(Schema):
    """An action, which goes to the host as it is, and what the server reads of it."""

    class Meta:
        """All else is for the host."""

        unknown = INCLUDE

    device_id = f.String(
        allow_none=True,
        validate=validate.Length(1, LONGEST_ID),
        metadata=about("Required where the host has several."),
    )
    timeout_s = Number(
        allow_none=True,
        validate=validate.Range(0, LONGEST_ACTION, min_inclusive=False),
        metadata=about("Seconds that it may take."),
    )
    example: ClassVar[Json] = {
        "device_id": "pi-1:desktop",
        "command": "http_request",
        "action_type": "desktop",
        "params": {"url": "http://127.0.0.1:5109/api/health/live"},
        "timeout_s": 10,
    }


_REGISTRATION, _HEARTBEAT = RegistrationSchema(), HeartbeatSchema()
_EDIT, _ACTION = HostEditSchema(), ActionSchema()
#: What a host may be told that nobody knows, or knows as a better one.
_TO_KNOWN = (NotRegisteredError, ConflictError)


# --- what people see and order


@routes.get("/api/hosts")
@needs(Role.VIEWER)
@operation(
    lists=answers.Host,
    query=(
        choice("status", "What they are good for now.", HostStatus),
        text("tag", "A tag it has."),
        text("capability", "A capability it has.", example="desktop"),
    ),
)
async def list_hosts(request: web.Request) -> web.Response:
    """List hosts with their devices, newest first."""
    page, filters = page_of(request), query_of(request)
    rows = await request.app[DB].rows("host_items", id=None, **filters, **page.args())
    return list_response(rows, page)


@routes.get("/api/hosts/{id}/status")
@needs(Role.VIEWER)
@operation(answers.Host)
async def show_host(request: web.Request) -> web.Response:
    """Show one host with its devices."""
    return await _shown(request, path_id(request))


@routes.put("/api/hosts/{id}")
@needs(Role.ADMIN)
@operation(answers.Host, body=_EDIT)
async def edit_host(request: web.Request) -> web.Response:
    """Set a host's tags and the key with which vpt calls it; the key is never read back."""
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
    """Forget a host and its devices; 409 while it runs something."""
    await request.app[LAB].registry.delete_host(path_id(request))
    return no_content()


@routes.post("/api/hosts/{id}/drain")
@needs(Role.OPERATOR)
@operation(answers.Host)
async def drain_host(request: web.Request) -> web.Response:
    """Let a host finish what it runs and give it nothing new."""
    return await _drained(request, on=True)


@routes.post("/api/hosts/{id}/resume")
@needs(Role.OPERATOR)
@operation(answers.Host)
async def resume_host(request: web.Request) -> web.Response:
    """End a drain."""
    return await _drained(request, on=False)


@routes.post("/api/hosts/{id}/execute")
@needs(Role.OPERATOR)
@operation(
    answers.ActionResult,
    body=_ACTION,
    refuses=(
        *(ConflictError, LockedError, UnprocessableError),
        *(BadGatewayError, HostUnreachableError, ActionTimeoutError),
    ),
)
async def execute_on_host(request: web.Request) -> web.Response:
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
    await lab.registry.drain(host_id, on=on)
    item = orjson.loads(found(await _row(request, host_id))["item"])
    for view in lab.views():  # the actor knows what the database learns in a moment
        if view.host.id == host_id:
            item |= {"status": view.status, "reason": view.reason}
    return json_response(item)


async def _action_body(request: web.Request, host_id: str) -> Json:
    """Read the action; that there is no such host goes before what is wrong with the body."""
    try:
        body: Json = await body_of(request)
    except VptError:
        if all(view.host.id != host_id for view in request.app[LAB].views()):
            raise NotFoundError from None
        raise
    for name in _OF_STEPS:
        body.pop(name, None)
    return body


# --- what hosts say


@routes.post("/api/hosts/register")
@own_credential
@operation(answers.Registered, body=_REGISTRATION, refuses=(ConflictError,), credentials=HOST)
async def register_host(request: web.Request) -> web.Response:
    """Take a host in, or take it again with what it says now; exactly 200, as hosts expect."""
    speaker, peer = await speaker_of(request), peer_of(request)
    require_json(request)
    body = await body_of(request)
    speaker.speaks_for(body["host_name"])
    told = registration(body, peer=peer, credential=speaker.credential)
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
@operation(answers.Heard, body=_HEARTBEAT, refuses=_TO_KNOWN, credentials=HOST)
async def heartbeat(request: web.Request) -> web.Response:
    """Note that a host lives, and what it says of its own health."""
    host_id, speaker, body = await _word_of_host(request)
    await request.app[LAB].registry.heartbeat(host_id, stats_of(body), speaker.credential)
    return json_response({"status": "success", "host_id": host_id})


@routes.post("/api/hosts/{id}/unregister")
@own_credential
@asked_to_register
@operation(answers.Heard, body=_HEARTBEAT, refuses=_TO_KNOWN, credentials=HOST)
async def unregister_host(request: web.Request) -> web.Response:
    """Let a host say goodbye: it is offline until it registers again."""
    host_id, speaker, _body = await _word_of_host(request)
    await request.app[LAB].registry.unregister(host_id, speaker.credential)
    return json_response({"status": "success", "host_id": host_id})


async def _word_of_host(request: web.Request) -> tuple[str, Speaker, Json]:
    speaker, host_id = await speaker_of(request), path_id(request)
    speaker.speaks_for(host_id)
    if not request.body_exists:
        return host_id, speaker, {}
    require_json(request)
    return host_id, speaker, await body_of(request)
