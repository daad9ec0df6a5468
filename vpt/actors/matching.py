"""Which device fits which execution, and why not: pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from vpt.device_models import models_of
from vpt.model import (
    Device,
    DeviceReason,
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

MOST_NAMES = 20
_OF_DEVICES = {
    DeviceStatus.BUSY: WaitReason.ALL_BUSY,
    DeviceStatus.LEASED: WaitReason.LEASED,
    DeviceStatus.OFFLINE: WaitReason.NO_ONLINE_HOST,
    DeviceStatus.DISABLED: WaitReason.NO_ONLINE_HOST,
}
_OF_SUSPECT: dict[Reason | None, WaitReason] = {
    Reason.FLAPPING: WaitReason.PAUSED,
    Reason.ERRORS: WaitReason.HELD_BACK,
}
_OF_REASON = {
    DeviceReason.AWAY: WaitReason.DEVICE_AWAY,
    DeviceReason.HELD_BACK: WaitReason.HELD_BACK,
}
#: Reasons that name devices; the others name hosts.
_BY_DEVICE = (
    WaitReason.ALL_BUSY,
    WaitReason.LEASED,
    WaitReason.HELD_BACK,
    WaitReason.DEVICE_AWAY,
)
#: The reason that is likely to pass soonest is the one to name.
_SOONEST = (
    WaitReason.ALL_BUSY,
    WaitReason.LANE_BUSY,
    WaitReason.LEASED,
    WaitReason.PAUSED,
    WaitReason.HELD_BACK,
    WaitReason.HOST_SUSPECT,
    WaitReason.DRAINING,
    WaitReason.DEVICE_AWAY,
    WaitReason.NO_ONLINE_HOST,
)


#: What keeps a device from a run and passes by itself before long: such a device is waited for. Not
#: so a lease: people renew it for as long as they like.
_PASSING = (WaitReason.ALL_BUSY, WaitReason.LANE_BUSY, WaitReason.HOST_SUSPECT)


class Failed(IntEnum):
    """Where an execution failed: devices of a lower level go before those of a higher one."""

    NOT_HERE = 0
    ON_HOST = 1  # on another device of this host, or whatever ran on this device last did
    ON_DEVICE = 2


def lacks(request: DeviceRequest, host: Host, device: Device) -> list[str]:
    """Return what this device lacks to ever run that; nothing when it fits."""
    missing = []
    if request.device_id is not None and request.device_id != device.id:
        missing.append(f"device {request.device_id}")
    if request.host_id is not None and request.host_id != host.id:
        missing.append(f"host {request.host_id}")
    if not request.refused_by.isdisjoint((host.id, device.id)):
        missing.append("a host that has not refused it")
    if not _is_model(models_of(request.device_model), host, device):
        missing.append(f"device model {_models(request)}")
    # A device has what its host has; its model may be asked for as a capability, too.
    has = host.capabilities | device.capabilities
    missing += sorted(request.requirements - has - {device.model})
    return missing


def _is_model(models: tuple[str, ...], host: Host, device: Device) -> bool:
    if device.model is not None:
        return device.model in models
    # A host without declared devices has one implicit device, and its capabilities are the models.
    return device.local_id is None and not host.capabilities.isdisjoint(models)


def _models(request: DeviceRequest) -> str:
    return " or ".join(models_of(request.device_model))


def fits(request: DeviceRequest, host: Host, device: Device) -> bool:
    """Return True when the device could run that, whatever its status."""
    return not lacks(request, host, device)


def is_free(view: HostView, device: DeviceView) -> bool:
    """Return True when a run may begin there now."""
    return view.status is HostStatus.AVAILABLE and device.status is DeviceStatus.ONLINE


def failed(request: DeviceRequest, view: HostView, device: DeviceView) -> Failed:
    """Return where the execution failed before, as seen from this device."""
    if device.device.id in request.failed_on:
        return Failed.ON_DEVICE
    doubtful = device.doubtful and request.failed_on  # it has no attempt to lose there
    return Failed.ON_HOST if doubtful or view.host.id in request.failed_hosts else Failed.NOT_HERE


def worth_waiting_for(view: HostView, device: DeviceView) -> bool:
    """Return True when the device takes runs, or will before long and without anybody's help."""
    if device.status in (DeviceStatus.OFFLINE, DeviceStatus.DISABLED):
        return False
    broken = view.status is HostStatus.SUSPECT and view.reason not in (None, Reason.PROBES)
    return not broken and hindrance(view, device) in _PASSING


def has_untried(request: DeviceRequest, views: Iterable[HostView]) -> bool:
    """Return True when a device that fits takes runs, on which the execution did not fail."""
    return any(
        item.device.id not in request.failed_on
        and worth_waiting_for(view, item)
        and fits(request, view.host, item.device)
        for view in views
        for item in view.devices
    )


def preferred(
    request: DeviceRequest, fitting: Iterable[tuple[HostView, DeviceView]]
) -> list[tuple[HostView, DeviceView]]:
    """Return those on which to wait, of devices that fit: none of a worse level than others."""
    found = list(fitting)
    levels = [failed(request, *pair) for pair in found]
    good = {level for level, pair in zip(levels, found, strict=True) if worth_waiting_for(*pair)}
    least = min(good, default=Failed.ON_DEVICE)
    return [pair for level, pair in zip(levels, found, strict=True) if level <= least]


def impossible(request: DeviceRequest, views: Iterable[HostView]) -> str | None:
    """Return what the nearest device lacks, when no registered one could ever run that.

    Of a device that the request names it is what that one lacks, whatever others have.
    """
    best: tuple[bool, int, str] | None = None
    nearest: tuple[Host, Device] | None = None
    for view in views:
        for item in view.devices:
            missing = lacks(request, view.host, item.device)
            if not missing:
                return None
            rank = (not _is_named(request, view.host, item.device), len(missing), item.device.id)
            if best is None or rank < best:
                best, nearest = rank, (view.host, item.device)
    if nearest is None:
        return "No host is registered that has a device: register one first."
    return _misfit(request, *nearest)


def _is_named(request: DeviceRequest, host: Host, device: Device) -> bool:
    """Return True for the device that a request names, or for those of the host that it names."""
    return device.id == request.device_id if request.device_id else host.id == request.host_id


def _misfit(request: DeviceRequest, host: Host, device: Device) -> str:
    """Return why the nearest device cannot run that."""
    named = device.id == request.device_id
    missing = lacks(request, host, device)
    model = f"device model {_models(request)}"
    if named and device.model is not None and model in missing:
        others = [one for one in missing if one != model]
        more = f" It lacks {', '.join(others)}, too." if others else ""
        return f"{device.id} is {_a(device.model)}; the test wants {_models(request)}.{more}"
    if request.device_id is not None and not named:
        return f"{request.device_id} is not registered any more: its host does not declare it."
    return f"No registered host can run this; the nearest, {device.id}, lacks {', '.join(missing)}."


def _a(word: str) -> str:
    return f"an {word}" if word[:1].lower() in tuple("aeiou") else f"a {word}"


def wanted(request: DeviceRequest) -> str:
    """Return what is asked of a device, in words."""
    words = [_models(request)]
    if request.requirements:
        words.append(f"with {', '.join(sorted(request.requirements))}")
    if request.device_id is not None:
        words.append(f"on {request.device_id}")
    elif request.host_id is not None:
        words.append(f"on a device of {request.host_id}")
    return " ".join(words)


def change(request: DeviceRequest, old: HostView, new: HostView | None) -> str | None:
    """Return why what fitted of a host fits no more, None when nothing of it fitted."""
    fitted = [item.device for item in old.devices if fits(request, old.host, item.device)]
    if not fitted:
        return None
    if new is None:
        return f"host {old.host.id} was deleted"
    now = {item.device.id: item.device for item in new.devices}
    device = now.get(fitted[0].id)
    if device is None:
        return f"{fitted[0].id} was withdrawn by its host"
    if device.model != fitted[0].model and device.model is not None:
        return f"{device.id} is {_a(device.model)} now"
    return f"{device.id} lacks {', '.join(lacks(request, new.host, device))} now"


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
        named[device.device.id if reason in _BY_DEVICE else view.host.id] = None
        if reason is _SOONEST[0] and len(named) == MOST_NAMES:
            break  # nothing can change the answer any more
    reason = next((one for one in _SOONEST if one in names), WaitReason.NO_ONLINE_HOST)
    return Wait(reason, tuple(names.get(reason, ()))[:MOST_NAMES])


def at_work(fitting: Iterable[tuple[HostView, DeviceView]]) -> dict[str, str]:
    """Return the devices that work through runs, each with what runs one thing at a time.

    Only of these a usual duration tells how long the wait is.
    """
    reasons = (WaitReason.ALL_BUSY, WaitReason.LANE_BUSY)
    return {
        # A serial host runs one thing at a time, however many devices it has.
        device.device.id: view.host.id if view.host.serial else device.device.id
        for view, device in fitting
        if hindrance(view, device) in reasons
    }


def hindrance(view: HostView, device: DeviceView) -> WaitReason:
    """Return what keeps a device from a run; a free one was just given to another execution."""
    if view.status is HostStatus.SUSPECT:
        return _OF_SUSPECT.get(view.reason, WaitReason.HOST_SUSPECT)
    if view.status is HostStatus.DRAINING:
        return WaitReason.DRAINING
    if view.status in (HostStatus.LOST, HostStatus.OFFLINE):
        return WaitReason.NO_ONLINE_HOST
    if view.status is HostStatus.BUSY and device.status is DeviceStatus.ONLINE:
        return WaitReason.LANE_BUSY
    if device.status is DeviceStatus.OFFLINE and device.reason is not None:
        return _OF_REASON[device.reason]
    return _OF_DEVICES.get(device.status, WaitReason.ALL_BUSY)
