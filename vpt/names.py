"""The names of devices: each means one device, and what means several is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vpt.errors import ConflictError, UnprocessableError
from vpt.model import Device
from vpt.store.db import Session


def check_clear(name: str, rows: Sequence[Any]) -> None:
    """Raise UnprocessableError when a name means several devices, rows of `devices_named`."""
    # Not even a device's id wins over another device's local_id: what ran on the one yesterday must
    # not run on the other today because a host joined under that name.
    if len(rows) > 1:
        ids = ", ".join(row["id"] for row in rows)
        raise UnprocessableError(
            f"The name {name} means several devices ({ids}):"
            " use another id, or name the host_id, too."
        )


async def check_names(session: Session, host_id: str, devices: Sequence[Device]) -> None:
    """Raise ConflictError when one of these devices of a host would make a name mean two devices.

    A device is named by its id or by its host's own name for it, so neither may be the other one of
    another device; a host without devices is one itself, so its name counts as an id. Hosts may use
    the same names of their own: then the name alone means none of them.
    """
    ids = [device.id for device in devices]
    local_ids = [device.local_id for device in devices]
    if twice := set(ids).intersection(local_ids):
        raise _taken(min(twice), f"{host_id}'s own")
    if not await session.value("names_are_new", host_id=host_id, device_ids=ids):
        return
    await session.row("lock_names")  # or two hosts could take one name at the same moment
    taken = await session.row("names_taken", host_id=host_id, device_ids=ids, local_ids=local_ids)
    if taken is not None:
        raise _taken(taken["name"], taken["by"])


def _taken(name: str, by: str) -> ConflictError:
    return ConflictError(
        f"The name {name} is taken by {by}, and would mean two devices: choose another name, or"
        " delete what has it."
    )
