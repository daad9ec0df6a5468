"""What changed of a host and its devices, as events and in the log."""

from __future__ import annotations

from datetime import datetime

import structlog

from vpt.events import Events
from vpt.model import (
    DeviceChanged,
    DeviceReason,
    DeviceStatus,
    DeviceView,
    HostChanged,
    HostStatus,
    HostTrouble,
    HostView,
    Reason,
)

log = structlog.get_logger(__name__)


def publish_changes(
    events: Events, old: HostView | None, new: HostView, last_seen: datetime | None
) -> None:
    """Publish and log what is other in `new` than in `old`: all, when there is no `old`."""
    seen = last_seen.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if last_seen else None
    # Compared by what is shown: a view also changes by what nobody is told, such as a pause.
    if old is None or _host(old) != _host(new):
        _publish_host(events, new, seen)
    was = {item.device.id: _device(item) for item in old.devices} if old else {}
    for item in new.devices:
        if was.get(item.device.id) != _device(item):
            _publish_device(events, item, seen)


def _publish_host(events: Events, view: HostView, seen: str | None) -> None:
    log.info(
        "host_status_changed",
        host_id=view.host.id,
        status=view.status,
        reason=view.reason,
        **({} if view.trouble is None else {"trouble": view.trouble.text}),
    )
    events.publish(
        HostChanged(view.host.id, view.status, view.reason, seen, view.reason_text, view.trouble)
    )


def _publish_device(events: Events, view: DeviceView, seen: str | None) -> None:
    log.info(
        "device_status_changed",
        device_id=view.device.id,
        status=view.status,
        **({} if view.reason is None else {"reason": view.reason_text or view.reason}),
    )
    events.publish(DeviceChanged(view.device.id, view.status, seen, view.reason, view.reason_text))


def _host(view: HostView) -> tuple[HostStatus, Reason | None, str | None, HostTrouble | None]:
    return view.status, view.reason, view.reason_text, view.trouble


def _device(view: DeviceView) -> tuple[DeviceStatus, DeviceReason | None, str | None]:
    return view.status, view.reason, view.reason_text
