"""Hosts: what they say of themselves, what people see and order."""

from __future__ import annotations

import base64
import binascii
import functools
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hmac import compare_digest
from typing import Any

import orjson
import structlog
from aiohttp import hdrs, web
from marshmallow import Schema, validate
from marshmallow import fields as f

from vpt.config import Network
from vpt.errors import (
    BadRequestError,
    ForbiddenError,
    InvalidError,
    InvalidTokenError,
    NotFoundError,
    NoTokenError,
    NotRegisteredError,
    VptError,
)
from vpt.model import Credential, HostStatus, Json, Role
from vpt.seal import Sealer
from vpt.urls import parse_address
from vpt.web.auth import bearer, needs, own_credential, read_token, secret_of, user_of
from vpt.web.host_schemas import RegistrationBody, registration, stats_of, words
from vpt.web.keys import CONFIG, DB, LAB
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

log = structlog.get_logger(__name__)
routes = web.RouteTableDef()

#: Seconds that a manual action may be given.
LONGEST_ACTION = 86_400.0
#: A manual action belongs to no execution: a host must not take it for a step of one.
_OF_STEPS = ("execution_id", "attempt", "step")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HostEdit(Schema):
    """The body of PUT /api/hosts/<id>; an api_key of null takes the key away."""

    tags = words()
    api_key = f.String(allow_none=True, validate=validate.Length(1, 4096))


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


@dataclass(frozen=True, slots=True)
class _Speaker:
    """How a host proved that it may speak, and for whom: None means for any host."""

    credential: Credential
    host_id: str | None = None

    def speaks_for(self, host_id: str) -> None:
        """Raise ForbiddenError when its credential is another host's."""
        if self.host_id not in (None, host_id):
            raise ForbiddenError("This token speaks for another host.")


def _asked_to_register(handler: Handler) -> Handler:
    """Answer a host that is not registered in the words which make it register again."""

    @functools.wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except NotRegisteredError as error:
            return json_response(
                {"status": error.code, "action": "register", "error": error.message},
                status=error.status,
            )

    return answer


@routes.post("/api/hosts/register")
@own_credential
async def register(request: web.Request) -> web.Response:
    """Take a host in, or take it again with what it says now; exactly 200, as hosts expect."""
    speaker, peer = _speaker(request), peer_of(request)
    _require_json(request)
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
@_asked_to_register
async def heartbeat(request: web.Request) -> web.Response:
    """Note that a host lives, and what it says of its own health."""
    host_id, speaker, body = await _word_of_host(request)
    await request.app[LAB].heartbeat(host_id, stats_of(body), speaker.credential)
    return json_response({"status": "success", "host_id": host_id})


@routes.post("/api/hosts/{id}/unregister")
@own_credential
@_asked_to_register
async def unregister(request: web.Request) -> web.Response:
    """Let a host say goodbye: it is offline until it registers again."""
    host_id, speaker, _body = await _word_of_host(request)
    await request.app[LAB].unregister(host_id, speaker.credential)
    return json_response({"status": "success", "host_id": host_id})


async def _word_of_host(request: web.Request) -> tuple[str, _Speaker, Json]:
    speaker, host_id = _speaker(request), path_id(request)
    speaker.speaks_for(host_id)
    if not request.body_exists:
        return host_id, speaker, {}
    _require_json(request)
    return host_id, speaker, await read_json(request)


def peer_of(request: web.Request) -> str:
    """Give the address at the other end of the socket, whatever headers say; "" without one."""
    peername = request.transport.get_extra_info("peername") if request.transport else None
    return str(peername[0]) if isinstance(peername, tuple) else ""


def _speaker(request: web.Request) -> _Speaker:
    """Judge a host's credential: NoTokenError, InvalidTokenError, or what it is worth."""
    header = request.headers.get(hdrs.AUTHORIZATION)
    if header is None:
        return _without_credential(request)
    token = _presented(header)
    join_token = request.app[CONFIG].host_join_token
    if join_token and compare_digest(_bytes(token), _bytes(join_token)):
        return _Speaker(Credential.JOIN)
    user = read_token(secret_of(request.app), token)
    if user.role is Role.HOST:
        return _Speaker(Credential.OWN, user.user_id)
    if user.role is Role.ADMIN:
        return _Speaker(Credential.JOIN)
    raise InvalidTokenError


def _without_credential(request: web.Request) -> _Speaker:
    """Let a peer of an open network in; a page in a browser there (it has an Origin) is no host."""
    networks = request.app[CONFIG].host_open_networks
    if hdrs.ORIGIN in request.headers or not _is_in(peer_of(request), networks):
        raise NoTokenError
    return _Speaker(Credential.OPEN)


def _is_in(peer: str, networks: tuple[Network, ...]) -> bool:
    address = parse_address(peer)
    return address is not None and any(address in network for network in networks)


def _presented(header: str) -> str:
    """Give the token of an Authorization header; with Basic it is the password."""
    scheme, _, rest = header.strip().partition(" ")
    if scheme.lower() != "basic":
        token = bearer(header)
    else:
        try:
            pair = base64.b64decode(rest.strip(), validate=True).decode()
        except (binascii.Error, ValueError) as error:
            raise InvalidTokenError from error
        token = pair.partition(":")[2]
    if not token:
        raise InvalidTokenError
    return token


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")  # headers may hold any byte


def _require_json(request: web.Request) -> None:
    """Refuse what a form of a foreign page could send."""
    if request.content_type != "application/json":
        raise BadRequestError("Send the body as Content-Type: application/json.")
