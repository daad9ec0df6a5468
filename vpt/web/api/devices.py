"""Devices: those that hosts declare and those that people add, their changes and leases."""

from __future__ import annotations

import uuid
from typing import Any

import orjson
import structlog
from aiohttp import web

from vpt.errors import ConflictError, InvalidError, LockedError, UnprocessableError
from vpt.model import Device, DeviceStatus, Json, Role
from vpt.names import check_clear, check_names
from vpt.web.http.auth import allowed, needs, user_of
from vpt.web.http.keys import DB, LAB
from vpt.web.http.lists import long_items
from vpt.web.http.operations import body_of, operation, page_of, query_of
from vpt.web.http.params import choice, text
from vpt.web.http.requests import (
    found,
    json_response,
    json_text,
    no_content,
    path_id,
)
from vpt.web.schemas.devices import (
    STATUSES_OF_PEOPLE,
    DeviceActionsResponse,
    DeviceBody,
    DeviceEditBody,
    DeviceResponse,
    LeaseBody,
    LeaseResponse,
)

log = structlog.get_logger(__name__)
routes = web.RouteTableDef()

_EDIT, _NEW, _LEASE = DeviceEditBody(), DeviceBody(), LeaseBody()


@routes.get("/api/devices")
@needs(Role.VIEWER)
@operation(
    lists=DeviceResponse,
    query=(
        choice("status", "Only those with this status.", DeviceStatus),
        text("model", "Only those of this model.", example="desktop"),
        text("host_id", "Only those of this host.", example="pi-1"),
        text("tag", "Only those with this tag."),
    ),
)
async def list_devices(request: web.Request) -> web.Response:
    """List devices, newest first."""
    page, filters = page_of(request), query_of(request)
    return await long_items(request.app[DB], "device_items", page, id=None, **filters)


@routes.post("/api/devices")
@needs(Role.OPERATOR)
@operation(DeviceResponse, 201, body=_NEW, refuses=(ConflictError, UnprocessableError))
async def add_device(request: web.Request) -> web.Response:
    """Add a device that no host declares; 422 when its host does not exist."""
    new = await body_of(request)
    host_id = new["host_id"]
    device_id = f"{host_id}:{new['local_id']}" if host_id else uuid.uuid4().hex
    if host_id and not await request.app[DB].value("host_exists", id=host_id):
        raise UnprocessableError(f"There is no host {host_id}.")
    label = new.pop("name")
    async with request.app[DB].transaction() as session:
        if host_id:
            named = Device(device_id, new["local_id"], label, new["model"])
            await check_names(session, host_id, [named])
        await session.value("add_device", id=device_id, label=label, **new)
    log.info("device_added", device_id=device_id, host_id=host_id)
    await _tell_host(request, host_id)
    return await _shown_live(request, device_id, 201)


@routes.get("/api/devices/{id}")
@needs(Role.VIEWER)
@operation(DeviceResponse)
async def show_device(request: web.Request) -> web.Response:
    """Show one device."""
    row = await _row(request, path_id(request))
    return json_text(row["item"])


@routes.get("/api/devices/{id}/schema")
@needs(Role.VIEWER)
@operation(DeviceActionsResponse)
async def show_device_schema(request: web.Request) -> web.Response:
    """Show the actions and verifications that its host describes; 404 when it describes none."""
    schema = await request.app[DB].value("device_schema", id=path_id(request))
    return json_text(found(schema))


@routes.put("/api/devices/{id}")
@needs(Role.OPERATOR)
@operation(DeviceResponse, body=_EDIT, refuses=(UnprocessableError,))
async def edit_device(request: web.Request) -> web.Response:
    """Change a device; the changes survive new registrations of its host."""
    device_id = path_id(request)
    row = await _row(request, device_id)
    body = await body_of(request)
    _check_unchanged(orjson.loads(row["item"]), body)
    await _check_clear(request, device_id)
    async with request.app[DB].transaction() as session:
        edited = await session.row(
            "edit_device",
            id=device_id,
            label=body.get("name"),
            capabilities=body.get("capabilities"),
            tags=body.get("tags"),
            status=body.get("status") if body.get("status") in STATUSES_OF_PEOPLE else None,
        )
        await session.row("edit_model", id=device_id, model=body.get("model"))
    await _tell_host(request, found(edited)["host_id"])
    log.info("device_edited", device_id=device_id, fields=sorted(body))
    return await _shown_live(request, device_id, 200)


@routes.delete("/api/devices/{id}")
@needs(Role.OPERATOR)
@operation(None, 204, refuses=(ConflictError, UnprocessableError))
async def delete_device(request: web.Request) -> web.Response:
    """Delete a device that its host does not declare and that is not in use."""
    device_id = path_id(request)
    row = await _row(request, device_id)
    await _check_clear(request, device_id)
    if await request.app[DB].value("drop_device", id=device_id) is None:
        raise ConflictError(
            "The device is declared by its host, or in use: only free devices that people added"
            " can be deleted."
        )
    log.info("device_deleted", device_id=device_id, host_id=row["host_id"])
    await _tell_host(request, row["host_id"])
    return no_content()


@routes.post("/api/devices/{id}/lease")
@needs(Role.OPERATOR)
@operation(LeaseResponse, body=_LEASE, refuses=(ConflictError, LockedError, UnprocessableError))
async def lease_device(request: web.Request) -> web.Response:
    """Reserve a device for yourself; a second request renews the lease."""
    device_id = path_id(request)
    await _row(request, device_id)
    body = await body_of(request)
    await _check_clear(request, device_id)
    user_id = user_of(request).user_id
    lease = await request.app[LAB].leases.take(device_id, user_id, body["ttl_s"])
    return json_response({"lease_id": lease["id"], "expires_at": lease["expires_at"]})


@routes.delete("/api/devices/{id}/lease")
@needs(Role.OPERATOR)
@operation(None, 204, refuses=(ConflictError, LockedError))
async def end_lease(request: web.Request) -> web.Response:
    """End the lease of a device, as its holder or as an admin."""
    user = user_of(request)
    admin = allowed(user, Role.ADMIN)
    await request.app[LAB].leases.end(path_id(request), user.user_id, anybodys=admin)
    return no_content()


@routes.post("/api/devices/{id}/resume")
@needs(Role.OPERATOR)
@operation(DeviceResponse, refuses=(UnprocessableError,))
async def resume_device(request: web.Request) -> web.Response:
    """Let a device that is held back have runs again, and forget its errors."""
    device_id = path_id(request)
    row = await _row(request, device_id)
    await _check_clear(request, device_id)
    if row["host_id"] is not None:
        await request.app[LAB].registry.forget_errors(row["host_id"], device_id)
    log.info("device_resumed", device_id=device_id, host_id=row["host_id"])
    return await _shown_live(request, device_id, 200)


async def _check_clear(request: web.Request, device_id: str) -> None:
    """Raise UnprocessableError when the id of a device is another device's name, too."""
    check_clear(
        device_id,
        await request.app[DB].rows("devices_named", device_id=device_id, host_id=None),
    )


def _check_unchanged(item: Json, body: Json) -> None:
    """Raise InvalidError when a body changes what nobody may change of a device."""
    kept = ["id", "host_id", "local_id"]
    if item["declared"] or body.get("model") is None:
        kept.append("model")
    wrong = [name for name in kept if body.get(name, item[name]) != item[name]]
    if wrong:
        reason = "Its host declares it" if item["declared"] else "It cannot be changed"
        raise InvalidError({name: [f"{reason}: leave it as it is."] for name in wrong})


async def _row(request: web.Request, device_id: str) -> Any:
    """Return the row of `device_items` of a device; NotFoundError when there is none."""
    return found(
        await request.app[DB].row(
            "device_items",
            id=device_id,
            status=None,
            model=None,
            host_id=None,
            tag=None,
            before_at=None,
            before_id=None,
            limit=1,
            bytes=0,
        )
    )


async def _shown_live(request: web.Request, device_id: str, status: int) -> web.Response:
    """Show a device after a change, with the status of its actor, which the database gets later."""
    row = await _row(request, device_id)
    item = orjson.loads(row["item"])
    for host in request.app[LAB].views():
        for view in host.devices if host.host.id == row["host_id"] else ():
            if view.device.id == device_id:
                item |= {"status": view.status, "reason": view.reason}
                item |= {"reason_text": view.reason_text}
                item["reason_until"] = item["reason_until"] if view.reason else None
    return json_response(item, status)


async def _tell_host(request: web.Request, host_id: str | None) -> None:
    if host_id is not None:
        await request.app[LAB].registry.devices_changed(host_id)
