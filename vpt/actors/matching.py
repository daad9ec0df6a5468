"""Which device for which execution, and why not: pure."""

from __future__ import annotations

from collections.abc import Iterable

from vpt.model import Device, DeviceStatus, DeviceView, Host, HostStatus, HostView, Wish


def lacks(wish: Wish, host: Host, device: Device) -> list[str]:
    """Name what this device lacks to ever run that; nothing when it fits."""
    missing = []
    if wish.device_id is not None and wish.device_id != device.id:
        missing.append(f"device {wish.device_id}")
    if wish.host_id is not None and wish.host_id != host.id:
        missing.append(f"host {wish.host_id}")
    if host.id in wish.refused_by:
        missing.append("a host that has not refused it")
    if not _is_model(wish.device_model, host, device):
        missing.append(f"device model {wish.device_model}")
    has = host.capabilities | device.capabilities
    missing += sorted(wish.requirements - has - {device.model})
    return missing


def _is_model(model: str, host: Host, device: Device) -> bool:
    if device.model is not None:
        return device.model == model
    return device.local_id is None and model in host.capabilities


def fits(wish: Wish, host: Host, device: Device) -> bool:
    """True when the device could run that, whatever its status."""
    return not lacks(wish, host, device)


def is_free(view: HostView, device: DeviceView) -> bool:
    """True when a run may begin there now."""
    return view.status is HostStatus.AVAILABLE and device.status is DeviceStatus.ONLINE


def impossible(wish: Wish, views: Iterable[HostView]) -> str | None:
    """Say what is missing and who comes nearest, when nobody registered could ever run that."""
    best: tuple[int, str, list[str]] | None = None
    for view in views:
        for device in view.devices:
            missing = lacks(wish, view.host, device.device)
            if not missing:
                return None
            rank = (len(missing), device.device.id, missing)
            best = rank if best is None or rank < best else best
    if best is None:
        return "No host is registered that has a device: register one first."
    return f"No registered host can run this; the nearest, {best[1]}, lacks {', '.join(best[2])}."
