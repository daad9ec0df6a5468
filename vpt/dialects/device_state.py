"""How a VirtualPyTest host's devices are: which controllers work, and whether the host is at work.

The routes differ by the host's version: what one does not have, it does not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from vpt.bounds import LONGEST_REASON
from vpt.dialects.base import HostTroubleError, clean
from vpt.dialects.serial import SerialClient
from vpt.dialects.start_requests import local_id
from vpt.model import Device, Host, Presence, TroubleKind

#: Controllers that a host looks at when control of a device is taken; it declares more families.
_LOOKED_AT = ("av", "remote")
_WHAT = {"av": "its picture (controller av)", "remote": "its remote control (controller remote)"}


async def at_work(client: SerialClient, host: Host, device: Device) -> bool | None:
    """Return whether the host works on a device for whomever; None when it does not say."""
    path = f"/host/system/device/{quote(local_id(host, device), safe='')}/is_busy"
    response = await client.get(host, path)
    body = await response.parsed() if response.good else None
    busy = body.get("busy") if body is not None else None
    return busy if isinstance(busy, bool) else None


async def look_at(client: SerialClient, host: Host, device: Device) -> Presence | None:
    """Return how a device is, by taking control of it and giving that back."""
    busy = await at_work(client, host, device)
    if busy:  # taking control may disturb what is under way
        return Presence(None, at_work=True)
    asked = {"device_id": local_id(host, device)}
    response = await client.post(host, "/host/takeControl", asked)
    body = await response.parsed() if response.good else None
    if body is None:
        return None if busy is None else Presence(None, at_work=False)
    await client.post(host, "/host/releaseControl", asked)
    missing = missing_controllers(device, body)
    return Presence(missing is None, missing, at_work=busy)


def missing_controllers(device: Device, body: Mapping[str, Any]) -> str | None:
    """Return in words which controllers of a device do not work, by the answer to takeControl.

    A device needs those that it declared. None when all of them work, or the host does not say.
    """
    there = body.get("available_controllers")
    if not isinstance(there, list):
        return None
    missing = [name for name in _LOOKED_AT if name in device.capabilities and name not in there]
    if not missing:
        return None
    warning = clean(body.get("warning") or None)
    words = f"Its host cannot use {' and '.join(_WHAT[name] for name in missing)}"
    return (f"{words}: {warning}" if warning else f"{words}.")[:LONGEST_REASON]


async def check_key(client: SerialClient, host: Host) -> None:
    """Raise HostTroubleError when the host answers 401 or 403 to the server's key.

    It is asked until a call was let through: its health needs no key.
    """
    if client.is_accepted(host):
        return
    try:
        await client.get(host, "/host/devices")
    except HostTroubleError as trouble:
        if trouble.reason is not None and trouble.reason.kind is TroubleKind.CREDENTIAL:
            raise
