"""Which device fits which execution, and why not: pure functions."""

from __future__ import annotations

from collections.abc import Iterable

from vpt.model import (
    Device,
    DeviceRequest,
    DeviceStatus,
    DeviceView,
    Host,
    HostStatus,
    HostView,
    Reason,
    Wait,
    WaitReason,
)

_MOST_NAMES = 20
_OF_DEVICES = {
    DeviceStatus.BUSY: WaitReason.ALL_BUSY,
    DeviceStatus.LEASED: WaitReason.LEASED,
    DeviceStatus.OFFLINE: WaitReason.NO_ONLINE_HOST,
    DeviceStatus.DISABLED: WaitReason.NO_ONLINE_HOST,
}
#: The reason that is likely to pass soonest is the one to name.
_SOONEST = (
    WaitReason.ALL_BUSY,
    WaitReason.LANE_BUSY,
    WaitReason.LEASED,
    WaitReason.PAUSED,
    WaitReason.HOST_SUSPECT,
    WaitReason.DRAINING,
    WaitReason.NO_ONLINE_HOST,
)


def lacks(request: DeviceRequest, host: Host, device: Device) -> list[str]:
    """Return what this device lacks to ever run that; nothing when it fits."""
    missing = []
    if request.device_id is not None and request.device_id != device.id:
        missing.append(f"device {request.device_id}")
    if request.host_id is not None and request.host_id != host.id:
        missing.append(f"host {request.host_id}")
    if host.id in request.refused_by:
        missing.append("a host that has not refused it")
    if not _is_model(request.device_model, host, device):
        missing.append(f"device model {request.device_model}")
    # A device has what its host has; its model may be asked for as a capability, too.
    has = host.capabilities | device.capabilities
    missing += sorted(request.requirements - has - {device.model})
    return missing


def _is_model(model: str, host: Host, device: Device) -> bool:
    if device.model is not None:
        return device.model == model
    # A host without declared devices has one implicit device, and its capabilities are the models.
    return device.local_id is None and model in host.capabilities


def fits(request: DeviceRequest, host: Host, device: Device) -> bool:
    """Return True when the device could run that, whatever its status."""
    return not lacks(request, host, device)


def is_free(view: HostView, device: DeviceView) -> bool:
    """Return True when a run may begin there now."""
    return view.status is HostStatus.AVAILABLE and device.status is DeviceStatus.ONLINE


def impossible(request: DeviceRequest, views: Iterable[HostView]) -> str | None:
    """Return what the nearest device lacks, when no registered one could ever run that."""
    best: tuple[int, str, list[str]] | None = None
    for view in views:
        for device in view.devices:
            missing = lacks(request, view.host, device.device)
            if not missing:
                return None
            rank = (len(missing), device.device.id, missing)
            best = rank if best is None or rank < best else best
    if best is None:
        return "No host is registered that has a device: register one first."
    return f"No registered host can run this; the nearest, {best[1]}, lacks {', '.join(best[2])}."


def expiry_words(request: DeviceRequest, views: Iterable[HostView]) -> str:
    """Return that a request waited too long, and for which host that could not be reached."""
    for view in views:
        words = view.trouble.text if view.trouble else None
        if words and any(fits(request, view.host, item.device) for item in view.devices):
            return f"It waited too long for a device; {view.host.id}: {words}."
    return "It waited too long for a device."


def same(old: HostView, new: HostView) -> bool:
    """Return True when what fits the one fits the other: only statuses may differ."""
    # Comparing costs; most views share the very same host.
    if old.host is not new.host and old.host != new.host:
        return False
    return [item.device for item in old.devices] == [item.device for item in new.devices]


def why(fitting: Iterable[tuple[HostView, DeviceView]]) -> Wait:
    """Return why none of these devices, which fit, takes a run now, and which devices it is."""
    names: dict[WaitReason, dict[str, None]] = {}
    for view, device in fitting:
        reason = hindrance(view, device)
        named = names.setdefault(reason, {})
        of_device = reason in (WaitReason.ALL_BUSY, WaitReason.LEASED)
        named[device.device.id if of_device else view.host.id] = None
        if reason is _SOONEST[0] and len(named) == _MOST_NAMES:
            break  # nothing can change the answer any more
    reason = next((one for one in _SOONEST if one in names), WaitReason.NO_ONLINE_HOST)
    return Wait(reason, tuple(names.get(reason, ()))[:_MOST_NAMES])


def able(fitting: Iterable[tuple[HostView, DeviceView]]) -> int:
    """Count the devices that work through runs: only then is a usual duration any help."""
    at_work = (WaitReason.ALL_BUSY, WaitReason.LANE_BUSY)
    return len(
        {
            # A serial host runs one thing at a time, however many devices it has.
            view.host.id if view.host.serial else device.device.id
            for view, device in fitting
            if hindrance(view, device) in at_work
        }
    )


def hindrance(view: HostView, device: DeviceView) -> WaitReason:
    """Return what keeps a device from a run; a free one was just given to another execution."""
    if view.status is HostStatus.SUSPECT:
        flaps = view.reason is Reason.FLAPPING
        return WaitReason.PAUSED if flaps else WaitReason.HOST_SUSPECT
    if view.status is HostStatus.DRAINING:
        return WaitReason.DRAINING
    if view.status in (HostStatus.LOST, HostStatus.OFFLINE):
        return WaitReason.NO_ONLINE_HOST
    if view.status is HostStatus.BUSY and device.status is DeviceStatus.ONLINE:
        return WaitReason.LANE_BUSY
    return _OF_DEVICES.get(device.status, WaitReason.ALL_BUSY)
