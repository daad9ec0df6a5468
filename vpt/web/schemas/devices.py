"""Devices: what people add and change, and leases."""

from __future__ import annotations

from typing import Any, ClassVar

from marshmallow import Schema, ValidationError, validate, validates_schema
from marshmallow import fields as f

from vpt.bounds import LONGEST_TIMEOUT_S, MOST_LABELS
from vpt.model import DeviceReason, DeviceStatus, Json
from vpt.web.schemas.fields import (
    CAPABILITIES,
    LABEL,
    LOCAL_NAME,
    NAME,
    TAGS,
    Number,
    about,
    labels,
)
from vpt.web.schemas.response import (
    EARLY,
    LATE,
    ResponseSchema,
    flag,
    moment,
    one_of,
    text,
    words,
)

#: The statuses that people set; the others follow from what the host does.
STATUSES_OF_PEOPLE = (DeviceStatus.ONLINE.value, DeviceStatus.DISABLED.value)
_STATUS = "`disabled` takes the device out of use, `online` puts it back."


class DeviceEditBody(Schema):
    """The fields of a device that people may change; a field left out stays as it is.

    A whole device, as it was read, is accepted too: then `id` and `declared` are in it.
    """

    name = f.String(validate=LABEL, metadata=about("A name for people."))
    model = f.String(
        allow_none=True,
        validate=LABEL,
        metadata=about("The model; of a device that its host declares it cannot be changed."),
    )
    capabilities = labels(CAPABILITIES, MOST_LABELS)
    tags = labels(TAGS, MOST_LABELS)
    status = f.String(
        validate=validate.OneOf([status.value for status in DeviceStatus]),
        metadata=about(_STATUS + " Of a whole device the others are ignored."),
    )
    id = f.String(metadata=about("Unchanged: the id of the device."))
    host_id = f.String(allow_none=True, metadata=about("Unchanged: the host of the device."))
    local_id = f.String(allow_none=True, metadata=about("Unchanged: its host's name for it."))
    declared = f.Raw(allow_none=True, metadata=about("Ignored: whether the host declares it."))
    properties = f.Raw(allow_none=True, metadata=about("Ignored: what its host says of it."))
    reason = f.Raw(allow_none=True, metadata=about("Ignored: why it gets no runs."))
    reason_text = f.Raw(allow_none=True, metadata=about("Ignored: why, in words."))
    reason_until = f.Raw(allow_none=True, metadata=about("Ignored: until when."))
    lease = f.Raw(allow_none=True, metadata=about("Ignored: who leases it."))
    last_seen = f.Raw(allow_none=True, metadata=about("Ignored: when its host was seen last."))
    created_at = f.Raw(allow_none=True, metadata=about("Ignored: when it was added."))
    example: ClassVar[Json] = {"name": "TV of the lobby", "tags": ["lobby"]}

    @validates_schema
    def _sets_a_status_of_people(self, data: Json, **_: Any) -> None:
        if "status" in data and "id" not in data and data["status"] not in STATUSES_OF_PEOPLE:
            raise ValidationError(f"Must be one of: {', '.join(STATUSES_OF_PEOPLE)}.", "status")


class DeviceBody(Schema):
    """A device that no host declares."""

    name = f.String(required=True, validate=LABEL, metadata=about("A name for people."))
    model = f.String(
        required=True,
        validate=LABEL,
        metadata=about("The model, which test cases name as `device_model`."),
    )
    host_id = f.String(
        load_default=None,
        allow_none=True,
        validate=NAME,
        metadata=about("The host that it is attached to; required together with `local_id`."),
    )
    local_id = f.String(
        load_default=None,
        allow_none=True,
        validate=LOCAL_NAME,
        metadata=about("The host's own name for the device."),
    )
    capabilities = labels(CAPABILITIES, MOST_LABELS, load_default=list)
    tags = labels(TAGS, MOST_LABELS, load_default=list)
    status = f.String(
        load_default=None, validate=validate.OneOf(STATUSES_OF_PEOPLE), metadata=about(_STATUS)
    )
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


class LeaseBody(Schema):
    """How long to reserve the device."""

    ttl_s = Number(
        load_default=600.0,
        validate=validate.Range(1, LONGEST_TIMEOUT_S),
        metadata=about("Seconds until the lease ends by itself."),
    )
    example: ClassVar[Json] = {"ttl_s": 1800}


class LeaseShown(ResponseSchema):
    """The lease of a device."""

    holder = text()
    expires_at = moment()


class DeviceResponse(ResponseSchema):
    """The device."""

    id = text()
    name = text()
    model = text(none=True)
    host_id = text(none=True)
    local_id = text("The host's own name for the device.", none=True)
    capabilities = words()
    tags = words()
    properties = f.Dict(metadata=about("What its host says of it: texts, numbers, booleans."))
    status = one_of(DeviceStatus)
    reason = one_of(DeviceReason, "Why it gets no runs though its host is well.", none=True)
    reason_text = text("The same in words.", none=True)
    reason_until = moment("When it is tried again; null: when the reason is gone.", none=True)
    declared = flag("True when the host declares the device itself; false when a person added it.")
    lease = f.Nested(LeaseShown, allow_none=True)
    last_seen = moment(none=True)
    created_at = moment()
    example: ClassVar[Json] = {
        "id": "pi-1:desktop",
        "name": "Desktop of pi-1",
        "model": "desktop",
        "host_id": "pi-1",
        "local_id": "desktop",
        "capabilities": [],
        "tags": ["second floor"],
        "properties": {"os": "Debian 12"},
        "status": "online",
        "reason": None,
        "reason_text": None,
        "reason_until": None,
        "declared": True,
        "lease": None,
        "last_seen": LATE,
        "created_at": EARLY,
    }


class DeviceActionsResponse(ResponseSchema):
    """The actions and verifications of a device, as its host describes them."""

    action_types = f.Dict()
    verification_types = f.Dict()
    example: ClassVar[Json] = {
        "action_types": {"remote": [{"command": "press_key", "params": {"key": "OK"}}]},
        "verification_types": {},
    }


class LeaseResponse(ResponseSchema):
    """The device is reserved for you."""

    lease_id = text()
    expires_at = moment()
    example: ClassVar[Json] = {"lease_id": "a3f1c2d4e5b60718", "expires_at": LATE}
