"""What a host declares, as rows: its devices, facts about them, and what they can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from vpt.model import Json, Presence, Registration
from vpt.store.db import Database, Session

#: Devices of a host that it declares no more; beyond these the oldest go, if nobody needs them.
_MOST_WITHDRAWN = 1000
_WITHDRAWN_BYTES = 2 * 2**20


async def store_devices(session: Session, registration: Registration) -> None:
    """Store the devices that a host declares, and withdraw those that it declares no more."""
    host_id = registration.host.id
    rows = [
        {
            "id": device.id,
            "host_id": host_id,
            "local_id": device.local_id,
            "name": device.name,
            "model": device.model,
            "capabilities": sorted(device.capabilities),
            **_presence_row(registration.presences.get(device.id, Presence())),
        }
        for device in registration.devices
    ]
    await session.many("upsert_device", rows)
    await session.row("withdraw_devices", host_id=host_id, kept=[row["id"] for row in rows])
    kept = {"kept": _MOST_WITHDRAWN, "bytes": _WITHDRAWN_BYTES}
    await session.row("drop_withdrawn", host_id=host_id, **kept)


async def store_properties(db: Database, host_id: str, presences: Mapping[str, Presence]) -> None:
    """Store what a host says of its devices, where that is other than what is stored."""
    # One row at a time: statements that lock several could meet those of the actors halfway.
    told = {n: p.properties for n, p in presences.items() if p.properties is not None}
    if not told:
        return
    named = {"host_id": host_id, "names": list(told), "properties": list(told.values())}
    for row in await db.rows("changed_properties", **named):
        await db.row("store_properties", id=row["id"], properties=told[row["name"]])


def _presence_row(presence: Presence) -> Json:
    return {"away": presence.away, "properties": presence.properties}


async def store_schemas(session: Session, registration: Registration) -> None:
    """Store what its devices can do, each schema once.

    Mostly the database has all of them: then the lock that adding needs, which lets one
    registration at a time through, is not taken.
    """
    schemas = {schema.hash: schema.text for schema in registration.schemas.values()}
    named: dict[str, Any] = {
        "host_id": registration.host.id,
        "device_ids": list(registration.schemas),
        "hashes": [schema.hash for schema in registration.schemas.values()],
    }
    if not (await session.row("schemas_changed", **named))[0]:
        return
    await session.row("lock_schemas")
    missing = await session.rows("missing_schemas", hashes=list(schemas))
    rows = [
        {"hash": row["hash"], "schema": orjson.Fragment(schemas[row["hash"]])} for row in missing
    ]
    await session.many("add_schema", rows)
    await session.row("name_schemas", **named)
    await session.row("drop_unused_schemas")
