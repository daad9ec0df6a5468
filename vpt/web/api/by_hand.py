"""Devices by hand: what is on their screens, taps, single actions, and the care of their hosts.

Seeing needs the role viewer; doing needs operator and a lease of the device, and care needs admin.
Nothing here says where a host is or which key it has. What is done stands in the audit, with its
path.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import structlog
from aiohttp import hdrs, web

from vpt.actors.screens import HLS_TYPE, MP4_TYPE, TS_TYPE, Shown
from vpt.bodies import in_thread
from vpt.controls import ELEMENTS, TAP, abilities_of, actions_of, elements_of
from vpt.dialects.base import Touch
from vpt.errors import (
    ActionTimeoutError,
    BadGatewayError,
    ConflictError,
    HostUnreachableError,
    LockedError,
    NotFoundError,
    UnprocessableError,
)
from vpt.model import Answer, DeviceView, HostView, Json, Role
from vpt.secret_steps import secrets_in
from vpt.web.http.auth import needs, user_of
from vpt.web.http.keys import DB, LAB
from vpt.web.http.operations import UNCHANGED, ResponseSpec, body_of, operation
from vpt.web.http.params import is_known
from vpt.web.http.requests import json_response, path_id
from vpt.web.schemas.body import NOTHING
from vpt.web.schemas.by_hand import (
    ActionKind,
    Care,
    ControlsResponse,
    ElementsResponse,
    HandActionBody,
    TapBody,
)
from vpt.web.schemas.hosts import ActionResultResponse

log = structlog.get_logger(__name__)
routes = web.RouteTableDef()

SKIPPED = "Vpt-Skipped"
_AT_WORK = "The host is at work: it is asked for a picture when it has time."
_TAP, _ACTION = TapBody(), HandActionBody()
_SHOW_LIMIT, _CARE_LIMIT = 30.0, 60.0  # seconds
_OF_LOOKS = (BadGatewayError, HostUnreachableError, ActionTimeoutError)
_OF_TOUCHES = (ConflictError, LockedError, UnprocessableError, *_OF_LOOKS)
_PICTURES = {"image/png": None, "image/jpeg": None}
_VIDEO = {HLS_TYPE: None, TS_TYPE: None, MP4_TYPE: None}
_POWER: dict[Care, str] = {
    Care.POWER_ON: "power_on",
    Care.POWER_OFF: "power_off",
    Care.POWER_REBOOT: "reboot",
}
_TOUCHES = {
    Care.RESTART_SERVICE: Touch.RESTART_SERVICE,
    Care.REBOOT: Touch.REBOOT,
    Care.RESTART_STREAM: Touch.RESTART_STREAM,
}


# --- seeing


@routes.get("/api/devices/{id}/controls")
@needs(Role.VIEWER)
@operation(ControlsResponse)
async def show_controls(request: web.Request) -> web.Response:
    """Show what can be seen and done by hand, with a form for each action of the device."""
    host, device = _device(request)
    schema = await request.app[DB].value("device_schema", id=device.device.id)
    actions = await in_thread(lambda: actions_of(orjson.loads(schema or "{}")))
    commands = [action["command"] for action in actions]
    words = device.device.capabilities
    abilities = abilities_of(host.host.dialect, words, commands)
    return json_response({**abilities, "actions": actions})


@routes.get("/api/devices/{id}/screenshot")
@needs(Role.VIEWER)
@operation(
    ResponseSpec(_PICTURES, headers=(hdrs.ETAG,)),
    also={**UNCHANGED, 204: ResponseSpec({}, headers=(SKIPPED,))},
    refuses=_OF_LOOKS,
)
async def show_screen(request: web.Request) -> web.Response:
    """Show a picture of the last second; 204 while the host is at work, and takes none.

    All who ask at a time share one picture, so it may be asked for each second.
    """
    shown = await request.app[LAB].screens.picture(path_id(request))
    if shown is None:
        return web.Response(status=204, headers={SKIPPED: _AT_WORK})
    if is_known(request, shown.digest):
        return web.Response(status=304, headers={hdrs.ETAG: f'"{shown.digest}"'})
    return _response(shown)


@routes.get("/api/devices/{id}/stream/{name:.+}")
@needs(Role.VIEWER)
@operation(ResponseSpec(_VIDEO), refuses=_OF_LOOKS)
async def show_stream(request: web.Request) -> web.Response:
    """Show a file of the device's live stream (HLS); the playlist is `index.m3u8`."""
    name = request.match_info["name"]
    return _response(await request.app[LAB].screens.stream(path_id(request), name))


def _response(shown: Shown) -> web.Response:
    headers = {hdrs.ETAG: f'"{shown.digest}"', hdrs.CACHE_CONTROL: "private, no-cache"}
    return web.Response(body=shown.content, content_type=shown.kind, headers=headers)


# --- doing


@routes.post("/api/devices/{id}/tap")
@needs(Role.OPERATOR)
@operation(ActionResultResponse, body=_TAP, refuses=_OF_TOUCHES)
async def tap(request: web.Request) -> web.Response:
    """Tap on the screen of a device that you lease."""
    host, device = _device(request)
    where = await body_of(request)
    action = {"command": TAP, "action_type": "remote", "params": where}
    return _result(*await _touched(request, host, device, action, Touch.TAP))


@routes.post("/api/devices/{id}/elements")
@needs(Role.OPERATOR)
@operation(ElementsResponse, body=NOTHING, refuses=_OF_TOUCHES)
async def list_elements(request: web.Request) -> web.Response:
    """List the elements on the screen of a device that you lease."""
    host, device = _device(request)
    await body_of(request)
    action = {"command": ELEMENTS, "params": {}}
    answer, _ = await _touched(request, host, device, action, Touch.ELEMENTS)
    if not answer.success:
        raise BadGatewayError(answer.error)
    return json_response({"elements": await in_thread(lambda: elements_of(_dumped(answer)))})


@routes.post("/api/devices/{id}/actions/{command}")
@needs(Role.OPERATOR)
@operation(ActionResultResponse, body=_ACTION, refuses=_OF_TOUCHES)
async def act_by_hand(request: web.Request) -> web.Response:
    """Run one action or verification on a device that you lease.

    `${secret:name}` in a text of its parameters is the named secret, which is `***` in the answer.
    """
    host, device = _device(request)
    body = await body_of(request)
    kind = body["kind"]
    named = {f"{kind}_type": body["type"]} if body["type"] else {}
    command = path_id(request, "command")
    action = {"command": command, **named, "params": body["params"]}
    if kind is ActionKind.VERIFICATION and not named:
        action["action_type"] = kind.value
    names = await asyncio.to_thread(secrets_in, action)
    answer, duration_ms = await request.app[LAB].act(
        host.host.id,
        device.device.id,
        action,
        body["timeout_s"],
        user_of(request).user_id,
        names,
        needs_lease=True,
    )
    return _result(answer, duration_ms)


@routes.post("/api/devices/{id}/care/{care}")
@needs(Role.ADMIN)
@operation(ActionResultResponse, body=NOTHING, refuses=_OF_TOUCHES)
async def care_for(request: web.Request) -> web.Response:
    """Restart the service, the streams or the machine of a device's host, or switch its power.

    `care` is restart_service, restart_stream, reboot, power_on, power_off or power_reboot. It is
    refused while something runs on the host, and while somebody else leases the device.
    """
    host, device = _device(request)
    await body_of(request)
    try:
        care = Care(request.match_info["care"])
    except ValueError:
        raise NotFoundError(f"The care of a host is one of: {', '.join(Care)}.") from None
    if host.host.dialect != "virtualpytest":
        raise UnprocessableError("The host does not offer that: restart it on its machine.")
    params = {"command": _POWER[care], "params": {}} if care in _POWER else {}
    action = {"command": care.value, "params": params}
    touch = _TOUCHES.get(care, Touch.POWER)
    log.info("host_cared_for", host_id=host.host.id, device_id=device.device.id, care=care.value)
    answer, duration_ms = await request.app[LAB].act(
        *(host.host.id, device.device.id, action, _CARE_LIMIT, user_of(request).user_id),
        touch=touch,
    )
    return _result(answer, duration_ms)


async def _touched(
    request: web.Request, host: HostView, device: DeviceView, action: Json, touch: Touch
) -> tuple[Answer, float]:
    return await request.app[LAB].act(
        *(host.host.id, device.device.id, action, _SHOW_LIMIT, user_of(request).user_id),
        touch=touch,
        needs_lease=True,
    )


def _result(answer: Answer, duration_ms: float) -> web.Response:
    said = {"success": answer.success, "output": answer.output, "error": answer.error}
    result = said if answer.raw is None else answer.raw
    shown = {"success": answer.success, "result": result, "duration_ms": round(duration_ms, 3)}
    return json_response(shown)


def _dumped(answer: Answer) -> Any:
    """Return the elements of an answer; a host of the document dialect prints them as JSON."""
    listed = (answer.raw or {}).get("elements")
    if listed is not None:
        return listed
    try:
        return orjson.loads(answer.output or "[]")
    except orjson.JSONDecodeError:
        return []


def _device(request: web.Request) -> tuple[HostView, DeviceView]:
    """Return a device and its host as they are now; NotFoundError when no host has it."""
    device_id = path_id(request)
    for host in request.app[LAB].views():
        for device in host.devices:
            if device.device.id == device_id:
                return host, device
    raise NotFoundError("No host has this device now.")
