"""What hosts say of themselves, checked; what vpt does not know is ignored, as hosts are older."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from marshmallow import EXCLUDE, Schema, ValidationError, validate, validates_schema
from marshmallow import fields as f

from vpt.model import Credential, Device, Host, Json, Registration
from vpt.urls import LONGEST_URL, check_host_url
from vpt.web.schemas.bodies import Flag, about

NAME = validate.Regexp(
    r"[A-Za-z0-9._-]{1,64}\Z", error="expected 1 to 64 letters, digits, '.', '_' or '-'"
)
#: It travels in a header, so it is visible ASCII.
_SECRET = validate.Regexp(r"[!-~]{32,4096}\Z", error="expected 32 to 4096 visible ASCII characters")
LABEL = validate.Length(1, 100)
MANY = validate.Length(max=200)
MOST_DEVICES = 1000
#: What a heartbeat may tell: percent, degrees Celsius, and the load of the last minute.
STATS = {
    "cpu_percent": ("cpu_percent",),
    "memory_percent": ("memory_percent",),
    "disk_percent": ("disk_percent",),
    "temperature": ("temperature",),
    "load_1m": ("load_1m", "load", "load_average_1m"),
}


def words(sentence: str, **kwargs: Any) -> f.List[str]:
    """Give a field for a list of at most 200 labels."""
    label = f.String(validate=LABEL)
    return f.List(label, validate=MANY, metadata=about(sentence), **kwargs)


CAPABILITIES, TAGS = "What it can do, for tests that require it.", "Words to find it by."


class _Told(Schema):
    class Meta:
        unknown = EXCLUDE


class DeclaredDeviceSchema(_Told):
    """One device of a registration."""

    device_id = f.String(
        required=True, validate=NAME, metadata=about("The host's own name for it.")
    )
    name = f.String(required=True, validate=LABEL, metadata=about("What people call it."))
    model = f.String(required=True, validate=LABEL, metadata=about("Which tests fit it."))
    capabilities = words(CAPABILITIES, load_default=list, allow_none=True)


class ProtocolSchema(_Told):
    """What more than the least a host can do."""

    idempotency = Flag(
        load_default=False,
        metadata=about("It gives a repeated Idempotency-Key the first answer, over restarts too."),
    )
    cancel = Flag(load_default=False, metadata=about("It takes POST /host/cancel."))


class RegistrationSchema(_Told):
    """What a host says of itself when it joins."""

    host_name = f.String(required=True, validate=NAME, metadata=about("Its id from now on."))
    host_url = f.String(
        required=True,
        validate=validate.Length(1, LONGEST_URL),
        metadata=about("Where the server reaches it: http or https, host and port."),
    )
    capabilities = words(CAPABILITIES, load_default=list, allow_none=True)
    hardware = f.Dict(
        keys=f.String(),
        load_default=dict,
        allow_none=True,
        metadata=about("What people may want to know of the machine."),
    )
    devices = f.List(
        f.Nested(DeclaredDeviceSchema),
        load_default=list,
        allow_none=True,
        validate=validate.Length(max=MOST_DEVICES),
        metadata=about("What is attached to it; with none it is a device itself."),
    )
    protocol = f.Nested(
        ProtocolSchema,
        load_default=dict,
        allow_none=True,
        metadata=about("What more than the least it can do."),
    )
    host_secret = f.String(
        load_default=None,
        allow_none=True,
        validate=_SECRET,
        metadata=about("What the server shows it at each call; never read back."),
    )
    example: ClassVar[Json] = {
        "host_name": "pi-1",
        "host_url": "http://10.0.0.7:5110",
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


class HeartbeatSchema(_Told):
    """A sign of life; what of `system_stats` makes no sense is left out."""

    system_stats = f.Raw(
        allow_none=True,
        metadata={"description": f"An object of numbers: {', '.join(sorted(STATS))}."},
    )
    example: ClassVar[Json] = {"system_stats": {"cpu_percent": 12.5, "load_1m": 0.4}}


def registration(body: Json, *, peer: str, credential: Credential) -> Registration:
    """Make the registration out of a loaded RegistrationSchema; InvalidError for a wrong URL."""
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
    )


def _devices(host_id: str, declared: Any) -> tuple[Device, ...]:
    """Give the declared devices under their global ids, or the implicit one."""
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
    """Give the numbers of a heartbeat that make sense, None when there are none."""
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
    return abs(value) < 1e9 and math.isfinite(value)  # noqa: PLR2004 (no such load, no such heat)
