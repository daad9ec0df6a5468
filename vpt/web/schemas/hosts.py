"""Hosts: what they send in vpt's own dialect, and what people see and change of them.

Unknown fields of what hosts send are ignored, since a host may be newer than the server.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, ClassVar

import orjson
from marshmallow import EXCLUDE, INCLUDE, Schema, ValidationError, validate, validates_schema
from marshmallow import fields as f

from vpt.bounds import LONGEST_ID, LONGEST_REASON, LONGEST_TIMEOUT_S, MOST_LABELS
from vpt.model import (
    Credential,
    Device,
    DeviceSchema,
    Heartbeat,
    Host,
    HostStatus,
    Json,
    Presence,
    Reason,
    Registration,
    TroubleKind,
)
from vpt.urls import LONGEST_URL, check_host_url
from vpt.web.schemas.devices import DeviceResponse
from vpt.web.schemas.fields import (
    CAPABILITIES,
    INSTANCE,
    LABEL,
    LOCAL_NAME,
    NAME,
    TAGS,
    BoundedList,
    Flag,
    Number,
    Properties,
    about,
    labels,
)
from vpt.web.schemas.response import (
    EARLY,
    LATE,
    ResponseSchema,
    flag,
    moment,
    number,
    one_of,
    text,
    words,
)

#: Sent in a header, so visible ASCII.
_SECRET = validate.Regexp(r"[!-~]{32,4096}\Z", error="expected 32 to 4096 visible ASCII characters")
MOST_DEVICES = 1000
#: Figures of a heartbeat, each with the field names under which hosts send it: percent, degrees
#: Celsius, and the load of the last minute.
STATS = {
    "cpu_percent": ("cpu_percent",),
    "memory_percent": ("memory_percent",),
    "disk_percent": ("disk_percent",),
    "temperature": ("temperature",),
    "load_1m": ("load_1m", "load", "load_average_1m"),
}


class _FromHost(Schema):
    class Meta:
        unknown = EXCLUDE


class PresenceBody(_FromHost):
    """What a host says of a device: whether it is there, and facts about it."""

    available = Flag(
        load_default=True,
        metadata=about("False while the device cannot be used; it gets no run then."),
    )
    reason = f.String(
        load_default=None,
        allow_none=True,
        metadata=about(f"Why it cannot be used, for people; cut at {LONGEST_REASON} characters."),
    )
    properties = Properties(
        load_default=None,
        allow_none=True,
        metadata=about("Facts about the device by name: texts, numbers, booleans."),
    )


class DeclaredDeviceBody(PresenceBody):
    """A device of a registration."""

    device_id = f.String(
        required=True, validate=LOCAL_NAME, metadata=about("The host's own name for the device.")
    )
    name = f.String(required=True, validate=LABEL, metadata=about("A name for people."))
    model = f.String(
        required=True,
        validate=LABEL,
        metadata=about("The model, which test cases name as `device_model`."),
    )
    capabilities = labels(CAPABILITIES, MOST_LABELS, load_default=list, allow_none=True)
    action_types = f.Raw(
        load_default=None,
        allow_none=True,
        metadata=about(
            "Its actions for forms: by category a list of objects with `command`, `label`,"
            " `description` and `params`, an object of `type`, `required`, `default` and more."
        ),
    )


class ProtocolBody(_FromHost):
    """Optional parts of the protocol that the host supports."""

    idempotency = Flag(
        load_default=False,
        metadata=about(
            "It answers a repeated Idempotency-Key with the first response, even after a restart."
        ),
    )
    cancel = Flag(load_default=False, metadata=about("It supports POST /host/cancel."))


class RegistrationBody(_FromHost):
    """A host and its devices, as the host registers them."""

    host_name = f.String(
        required=True, validate=NAME, metadata=about("The name of the host, which becomes its id.")
    )
    host_url = f.String(
        required=True,
        validate=validate.Length(1, LONGEST_URL),
        metadata=about("The URL at which the server calls the host: http or https, host and port."),
    )
    capabilities = labels(CAPABILITIES, MOST_LABELS, load_default=list, allow_none=True)
    hardware = f.Dict(
        keys=f.String(),
        load_default=dict,
        allow_none=True,
        metadata=about("Facts about the machine, for people."),
    )
    devices = BoundedList(
        f.Nested(DeclaredDeviceBody),
        MOST_DEVICES,
        load_default=list,
        allow_none=True,
        metadata=about("The attached devices; a host without any counts as one device itself."),
    )
    protocol = f.Nested(
        ProtocolBody,
        load_default=dict,
        allow_none=True,
        metadata=about("Optional parts of the protocol that the host supports."),
    )
    host_secret = f.String(
        load_default=None,
        allow_none=True,
        validate=_SECRET,
        metadata=about(
            "The secret that the server sends with each call to the host; never shown again."
        ),
    )
    instance_id = f.String(
        load_default=None,
        allow_none=True,
        validate=INSTANCE,
        metadata=about("A random name of this installation of the host, kept on its disk."),
    )
    example: ClassVar[Json] = {
        "host_name": "pi-1",
        "host_url": "http://10.0.0.7:5110",
        "instance_id": "5b0c7f1de2a94c38",
        "capabilities": ["desktop"],
        "devices": [{"device_id": "desktop", "name": "Desktop of pi-1", "model": "desktop"}],
        "protocol": {"idempotency": True, "cancel": True},
        "host_secret": "0123456789abcdef0123456789abcdef",
    }

    @validates_schema
    def _names_each_device_once(self, data: Json, **_: Any) -> None:
        seen: set[str] = set()
        for device in data.get("devices") or ():
            if device["device_id"] in seen:
                raise ValidationError(f"{device['device_id']} is declared twice", "devices")
            seen.add(device["device_id"])


class HeartbeatBody(_FromHost):
    """A sign of life; values of `system_stats` that are not usable numbers are ignored."""

    system_stats = f.Raw(
        allow_none=True,
        metadata={"description": f"An object of numbers: {', '.join(sorted(STATS))}."},
    )
    host_url = f.String(
        load_default=None,
        allow_none=True,
        validate=validate.Length(1, LONGEST_URL),
        metadata=about("The URL at which the server calls the host now."),
    )
    instance_id = f.String(
        load_default=None,
        allow_none=True,
        validate=INSTANCE,
        metadata=about("The `instance_id` of its registration."),
    )
    devices = f.Dict(
        keys=f.String(),
        values=f.Nested(PresenceBody),
        load_default=dict,
        allow_none=True,
        validate=validate.Length(max=MOST_DEVICES),
        metadata=about("What it says of its devices, by its own names for them."),
    )
    example: ClassVar[Json] = {
        "system_stats": {"cpu_percent": 12.5, "load_1m": 0.4},
        "devices": {"desktop": {"available": False, "reason": "The screen is off."}},
    }


def registration(body: Json, *, peer: str, credential: Credential) -> Registration:
    """Build the registration from a loaded RegistrationBody; InvalidError for a wrong URL."""
    protocol = body["protocol"] or {}
    host = Host(
        id=body["host_name"],
        url=check_host_url(body["host_url"], peer=peer, credential=credential),
        capabilities=frozenset(body["capabilities"] or ()),
        idempotency=protocol.get("idempotency", False),
        cancel=protocol.get("cancel", False),
    )
    return Registration(
        host=host,
        devices=_devices(host.id, body["devices"] or ()),
        hardware=body["hardware"] or {},
        secret=body["host_secret"],
        credential=credential,
        instance_id=body["instance_id"],
        schemas=_schemas(host.id, body["devices"] or ()),
        presences={
            f"{host.id}:{item['device_id']}": _presence(item) for item in body["devices"] or ()
        },
    )


def _schemas(host_id: str, declared: Any) -> dict[str, DeviceSchema]:
    told = {item["device_id"]: item["action_types"] for item in declared}
    return {
        f"{host_id}:{name}": device_schema(actions, {})
        for name, actions in told.items()
        if actions and isinstance(actions, dict)
    }


def device_schema(actions: Json, verifications: Json) -> DeviceSchema:
    """Return what a device can do, as it is stored: equal ones have one hash."""
    schema = {"action_types": actions, "verification_types": verifications}
    canonical = orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)
    return DeviceSchema(hashlib.sha256(canonical).digest(), canonical)


def heartbeat_of(body: Json) -> Heartbeat:
    """Build the heartbeat from a loaded HeartbeatBody, or from no body at all."""
    return Heartbeat(
        stats_of(body),
        host_url=body.get("host_url"),
        instance_id=body.get("instance_id"),
        presences={name: _presence(item) for name, item in (body.get("devices") or {}).items()},
    )


def _presence(item: Json) -> Presence:
    reason = item["reason"]
    # Cut rather than refused: a host passes on what a tool printed.
    words = None if reason is None else (reason[:LONGEST_REASON] or None)
    return Presence(item["available"], words, item["properties"])


def _devices(host_id: str, declared: Any) -> tuple[Device, ...]:
    """Return the declared devices with their global ids, or the host itself as one device."""
    if not declared:
        return (Device(id=host_id, local_id=None, name=host_id, model=None),)
    return tuple(
        Device(
            id=f"{host_id}:{item['device_id']}",
            local_id=item["device_id"],
            name=item["name"],
            model=item["model"],
            capabilities=frozenset(item["capabilities"] or ()),
        )
        for item in declared
    )


def stats_of(body: Json) -> Json | None:
    """Return the usable numbers of a heartbeat by STATS name, None when there are none."""
    told = body.get("system_stats")
    if not isinstance(told, dict):
        return None
    known = {
        name: float(told[spelt])
        for name, spellings in STATS.items()
        for spelt in spellings
        if _is_number(told.get(spelt))
    }
    return known or None


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e9 and math.isfinite(value)  # noqa: PLR2004 (no load or temperature is larger)


_HEADER = validate.Regexp(
    r"[!-~]{1,4096}\Z", error="expected at most 4096 visible ASCII characters"
)


class HostEditBody(Schema):
    """The fields of a host that people may change; a field left out stays as it is."""

    tags = labels(TAGS, MOST_LABELS)
    api_key = f.String(
        allow_none=True,
        validate=_HEADER,
        metadata=about("The key that vpt sends with each call to the host; null removes it."),
    )
    example: ClassVar[Json] = {"tags": ["second floor"]}


class ActionBody(Schema):
    """An action: the fields below are read by the server, all others go to the host unchanged."""

    class Meta:
        """All other fields are for the host."""

        unknown = INCLUDE

    device_id = f.String(
        allow_none=True,
        validate=validate.Length(1, LONGEST_ID),
        metadata=about("Required when the host has several devices."),
    )
    timeout_s = Number(
        allow_none=True,
        validate=validate.Range(0, LONGEST_TIMEOUT_S, min_inclusive=False),
        metadata=about("Seconds that the action may take."),
    )
    example: ClassVar[Json] = {
        "device_id": "pi-1:desktop",
        "command": "http_request",
        "action_type": "desktop",
        "params": {"url": "http://127.0.0.1:5109/api/health/live"},
        "timeout_s": 10,
    }


class ProtocolShown(ResponseSchema):
    """Optional parts of the protocol that the host supports."""

    idempotency = flag()
    cancel = flag()


class TroubleShown(ResponseSchema):
    """Why the host cannot be reached."""

    kind = one_of(TroubleKind)
    text = text("The same in words.")
    since = moment()


class HostResponse(ResponseSchema):
    """The host with its devices."""

    id = text()
    host_name = text()
    host_url = text()
    page_url = text("The URL of the host for browsers.", none=True)
    dialect = text("`document` or `virtualpytest`.")
    status = one_of(HostStatus)
    reason = one_of(Reason, none=True)
    reason_text = text("The reason in words.", none=True)
    reason_until = moment(none=True)
    trouble = f.Nested(TroubleShown, allow_none=True)
    capabilities = words()
    devices = f.List(f.Nested(DeviceResponse))
    devices_left_out = flag("True where it is larger than a page: list its devices by host_id.")
    maybe = frozenset({"devices_left_out"})
    tags = words()
    hardware = f.Dict()
    protocol = f.Nested(ProtocolShown)
    draining = flag()
    last_seen = moment(none=True)
    registered_at = moment()
    example: ClassVar[Json] = {
        "id": "pi-1",
        "host_name": "pi-1",
        "host_url": "http://10.0.0.7:5110",
        "page_url": None,
        "dialect": "document",
        "status": "available",
        "reason": None,
        "reason_text": None,
        "reason_until": None,
        "trouble": None,
        "capabilities": ["desktop"],
        "devices": [DeviceResponse.example],
        "tags": [],
        "hardware": {"machine": "aarch64"},
        "protocol": {"idempotency": True, "cancel": True},
        "draining": False,
        "last_seen": LATE,
        "registered_at": EARLY,
    }


class ActionResultResponse(ResponseSchema):
    """The result of the action."""

    success = flag()
    result = f.Dict(
        metadata=about("`success`, `output` and `error`, or the whole response of the host.")
    )
    duration_ms = number()
    example: ClassVar[Json] = {
        "success": True,
        "result": {"success": True, "output": "200 OK", "error": None},
        "duration_ms": 41.7,
    }


class RegisteredResponse(ResponseSchema):
    """The host is registered."""

    status = text("Always `success`.")
    host_id = text()
    devices = words("The ids of its devices on this server.")
    maybe = frozenset({"devices"})
    example: ClassVar[Json] = {"status": "success", "host_id": "pi-1", "devices": ["pi-1:desktop"]}


class HeardResponse(ResponseSchema):
    """The message of the host was accepted."""

    status = text("Always `success`.")
    host_id = text()
    example: ClassVar[Json] = {"status": "success", "host_id": "pi-1"}


class AskedToRegisterResponse(ResponseSchema):
    """The answer to a host that is not registered."""

    status = text()
    action = text()
    error = text()
    code = text()
    maybe = frozenset({"status", "action", "code"})
    example: ClassVar[Json] = {
        "status": "not_registered",
        "action": "register",
        "error": "The host is not registered: register it first.",
    }
