"""Routes that VirtualPyTest hosts call, with the paths and fields of VirtualPyTest."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from aiohttp import web

from vpt.dialects.start_requests import StepKind
from vpt.errors import ConflictError, NotRegisteredError
from vpt.model import Heartbeat, Json, Registration
from vpt.web.http.auth import own_credential
from vpt.web.http.caller import peer_of
from vpt.web.http.joining import explains_refusal
from vpt.web.http.keys import LAB
from vpt.web.http.operations import HOST, operation
from vpt.web.http.requests import json_response, read_as, read_text_of_host
from vpt.web.http.speakers import (
    Speaker,
    asked_to_register,
    check_speaker,
    check_speaker_of_task,
    require_json,
    speaker_of,
)
from vpt.web.schemas.hosts import HeardResponse, RegisteredResponse
from vpt.web.schemas.virtualpytest import (
    HOST_OF_THE_FIELD,
    TASK_COMPLETE,
    TaskHeardResponse,
    end_of_script,
    health_of,
    host_name_of,
    host_work_of,
    registration_of,
)

routes = web.RouteTableDef()

#: Bytes. The output of a script has no bound, and the host reports its end only once.
LONGEST_END = 64 * 2**20
#: Errors for a host that is not registered, or registered with a stronger credential.
_TO_KNOWN = (NotRegisteredError, ConflictError)


@routes.post("/server/system/register")
@own_credential
@explains_refusal
@operation(RegisteredResponse, body=HOST_OF_THE_FIELD, refuses=(ConflictError,), credentials=HOST)
async def register_virtualpytest(request: web.Request) -> web.Response:
    """Register a host, or update its registration; always 200, as hosts expect."""
    speaker, peer = await speaker_of(request), peer_of(request)
    require_json(request)
    told = await read_as(request, partial(_registration, speaker=speaker, peer=peer))
    await request.app[LAB].registry.register(told, peer=peer)
    return json_response({"status": "success", "host_id": told.host.id})


def _registration(body: Json, *, speaker: Speaker, peer: str) -> Registration:
    """Read the body; a token of another host is refused before errors of the body."""
    speaker.speaks_for(host_name_of(body))
    told = registration_of(body, peer=peer, credential=speaker.credential)
    return replace(told, credential_until=speaker.until)


@routes.post("/server/system/ping")
@own_credential
@asked_to_register
@operation(HeardResponse, body=HOST_OF_THE_FIELD, refuses=_TO_KNOWN, credentials=HOST)
async def ping_virtualpytest(request: web.Request) -> web.Response:
    """Store the health figures of a host, and probe it."""
    speaker = await speaker_of(request)
    require_json(request)
    host_id, heartbeat = await read_as(request, lambda body: (host_name_of(body), _heartbeat(body)))
    await check_speaker(request, speaker, host_id)
    await request.app[LAB].registry.heartbeat(host_id, heartbeat, speaker.credential)
    return json_response({"status": "success", "host_id": host_id})


def _heartbeat(body: Json) -> Heartbeat:
    stats, metrics = health_of(body)
    return Heartbeat(stats, metrics, presences=host_work_of(body))


@routes.post("/server/system/unregister")
@own_credential
@asked_to_register
@operation(HeardResponse, body=HOST_OF_THE_FIELD, refuses=_TO_KNOWN, credentials=HOST)
async def unregister_virtualpytest(request: web.Request) -> web.Response:
    """Unregister a host: it is offline until it registers again."""
    speaker = await speaker_of(request)
    require_json(request)
    host_id = await read_as(request, host_name_of)
    await check_speaker(request, speaker, host_id)
    await request.app[LAB].registry.unregister(host_id, speaker.credential)
    return json_response({"status": "success", "host_id": host_id})


@routes.post("/server/script/taskComplete")
@own_credential
@operation(TaskHeardResponse, body=TASK_COMPLETE, credentials=HOST)
async def task_complete(request: web.Request) -> web.Response:
    """Accept the end of a script; 200 even when no execution waits for this task."""
    speaker = await speaker_of(request)
    require_json(request)
    task_id, said = await read_text_of_host(request, end_of_script, LONGEST_END)
    await check_speaker_of_task(request, speaker, f"{StepKind.SCRIPT}:{task_id}")
    request.app[LAB].task_complete(task_id, said, speaker.host_id)
    return json_response({"status": "success", "task_id": task_id})
