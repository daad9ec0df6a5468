"""Devices: what hosts declare and people add, and what people change of them."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

import orjson
import structlog
from aiohttp import web
from marshmallow import Schema, ValidationError, validate, validates_schema
from marshmallow import fields as f

from vpt.errors import ConflictError, LockedError, UnprocessableError
from vpt.model import DeviceStatus, Json, Role
from vpt.web.http.auth import allowed, needs, user_of
from vpt.web.http.keys import DB, LAB
from vpt.web.http.operations import body_of, operation, page_of, query_of
from vpt.web.http.params import choice, text
from vpt.web.http.requests import (
    found,
    json_response,
    json_text,
    list_response,
    no_content,
    path_id,
)
from vpt.web.schemas import answers
from vpt.web.schemas.bodies import Number, about
from vpt.web.schemas.hosts import CAPABILITIES, LABEL, NAME, TAGS, words

log = structlog.get_logger(__name__)
routes = web.RouteTableDef()

#: What a person may wish; the rest comes of what the host does.
_USE = "Whether it is to be used at all."
_WISHES = (DeviceStatus.ONLINE.value, DeviceStatus.DISABLED.value)


class DeviceEditSchema(Schema):
    """What people may change of a device; what is not named stays as it is."""

    name = f.String(validate=LABEL, metadata=about("What people call it."))
    capabilities = words(CAPABILITIES)
    tags = words(TAGS)
    status = f.String(validate=validate.OneOf(_WISHES), metadata=about(_USE))
    example: ClassVar[Json] = {"name": "TV of the lobby", "tags": ["lobby"]}


class DeviceSchema(Schema):
    """A device that no host declares."""

    name = f.String(required=True, validate=LABEL, metadata=about("What people call it."))
    model = f.String(required=True, validate=LABEL, metadata=about("Which tests fit it."))
    host_id = f.String(
        load_default=None,
        allow_none=True,
        validate=NAME,
        metadata=about("Which host it hangs on; together with local_id."),
    )
    local_id = f.String(
        load_default=None,
        allow_none=True,
        validate=NAME,
        metadata=about("That host's own name for it."),
    )
    capabilities = words(CAPABILITIES, load_default=list)
    tags = words(TAGS, load_default=list)
    status = f.String(load_default=None, validate=validate.OneOf(_WISHES), metadata=about(_USE))
    example: ClassVar[Json] = {
        "name": "TV of the lobby",
        "model": "tv",
        "host_id": "pi-1",
        "local_id": "tv-lobby",
    }

    @validates_schema
    def _host_and_local_id_go_together(self, data: Json, **_: Any) -> None:
        if data.get("host_id") and not data.get("local_id"):
            raise ValidationError("Required together with host_id.", "local_id")
        if data.get("local_id") and not data.get("host_id"):
            raise ValidationError("Required together with local_id.", "host_id")


class LeaseSchema(Schema):
    """For how many seconds to have the device for oneself."""

    ttl_s = Number(
        load_default=600.0,
        validate=validate.Range(1, 86_400),
        metadata=about("Seconds until it ends by itself."),
    )
    example: ClassVar[Json] = {"ttl_s": 1800}


_EDIT, _NEW, _LEASE = DeviceEditSchema(), DeviceSchema(), LeaseSchema()


@routes.get("/api/devices")
@needs(Role.VIEWER)
@operation(
    lists=answers.Device,
    query=(
        choice("status", "What they are good for now.", DeviceStatus),
        text("model", "Of which model.", example="desktop"),
        text("host_id", "On which host.", example="pi-1"),
        text("tag", "A tag it has."),
    ),
)
async def list_devices(request: web.Request) -> web.Response:
    """List devices, newest first."""
    page, filters = page_of(request), query_of(request)
    rows = await request.app[DB].rows("device_items", id=None, **filters, **page.args())
    return list_response(rows, page)


@routes.post("/api/devices")
@needs(Role.OPERATOR)
@operation(answers.Device, 201, body=_NEW, refuses=(ConflictError, UnprocessableError))
async def add_device(request: web.Request) -> web.Response:
    """Add a device that no host declares; 422 when its host does not exist."""
    new = await body_of(request)
    host_id = new["host_id"]
    device_id = f"{host_id}:{new['local_id']}" if host_id else uuid.uuid4().hex
    if host_id and not await request.app[DB].value("host_exists", id=host_id):
        raise UnprocessableError(f"There is no host {host_id}.")
    label = new.pop("name")
    await request.app[DB].value("add_device", id=device_id, label=label, **new)
    log.info("device_added", device_id=device_id, host_id=host_id)
    await _tell_host(request, host_id)
    return await _shown_live(request, device_id, 201)


@routes.get("/api/devices/{id}")
@needs(Role.VIEWER)
@operation(answers.Device)
async def show_device(request: web.Request) -> web.Response:
    """Show one device."""
    row = await _row(request, path_id(request))
    return json_text(row["item"])


@routes.get("/api/devices/{id}/schema")
@needs(Role.VIEWER)
@operation(answers.DeviceActions)
async def show_device_schema(request: web.Request) -> web.Response:
    """Show what a VirtualPyTest device's actions and verifications look like; 404 without."""
    schema = await request.app[DB].value("device_schema", id=path_id(request))
    return json_text(found(schema))


@routes.put("/api/devices/{id}")
@needs(Role.OPERATOR)
@operation(answers.Device, body=_EDIT)
async def edit_device(request: web.Request) -> web.Response:
    """Change what people may change; it outlives every re-registration of the host."""
    device_id = path_id(request)
    await _row(request, device_id)
    body = await body_of(request)
    edited = await request.app[DB].row(
        "edit_device",
        id=device_id,
        label=body.get("name"),
        capabilities=body.get("capabilities"),
        tags=body.get("tags"),
        status=body.get("status"),
    )
    await _tell_host(request, found(edited)["host_id"])
    log.info("device_edited", device_id=device_id, fields=sorted(body))
    return await _shown_live(request, device_id, 200)


@routes.delete("/api/devices/{id}")
@needs(Role.OPERATOR)
@operation(None, 204, refuses=(ConflictError,))
async def delete_device(request: web.Request) -> web.Response:
    """Delete a device that its host does not declare and that nothing holds."""
    device_id = path_id(request)
    row = await _row(request, device_id)
    if await request.app[DB].value("drop_device", id=device_id) is None:
        raise ConflictError("The device is declared by its host, or busy.")
    log.info("device_deleted", device_id=device_id, host_id=row["host_id"])
    await _tell_host(request, row["host_id"])
    return no_content()


@routes.post("/api/devices/{id}/lease")
@needs(Role.OPERATOR)
@operation(answers.Lease, body=_LEASE, refuses=(ConflictError, LockedError))
async def lease_device(request: web.Request) -> web.Response:
    """Have the device for oneself; asking again renews."""
    device_id = path_id(request)
    await _row(request, device_id)
    body = await body_of(request)
    user_id = user_of(request).user_id
    lease = await request.app[LAB].leases.take(device_id, user_id, body["ttl_s"])
    return json_response({"lease_id": lease["id"], "expires_at": lease["expires_at"]})


@routes.delete("/api/devices/{id}/lease")
@needs(Role.OPERATOR)
@operation(None, 204, refuses=(ConflictError, LockedError))
async def end_lease(request: web.Request) -> web.Response:
    """Give a device back, as its holder or as an admin."""
    user = user_of(request)
    admin = allowed(user, Role.ADMIN)
    await request.app[LAB].leases.end(path_id(request), user.user_id, anybodys=admin)
    return no_content()


async def _row(request: web.Request, device_id: str) -> Any:
    """Give the device's row of `device_items`; NotFoundError when there is none."""
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
        )
    )


async def _shown_live(request: web.Request, device_id: str, status: int) -> web.Response:
    """Show a device after a change; its actor knows what the database learns in a moment."""
    row = await _row(request, device_id)
    item = orjson.loads(row["item"])
    for host in request.app[LAB].views():
        for view in host.devices if host.host.id == row["host_id"] else ():
            if view.device.id == device_id:
                item["status"] = view.status
    return json_response(item, status)


async def _tell_host(request: web.Request, host_id: str | None) -> None:
    if host_id is not None:
        await request.app[LAB].registry.devices_changed(host_id)
