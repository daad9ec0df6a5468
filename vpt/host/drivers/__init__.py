"""Drivers: execute the actions of each kind of device."""

from vpt.host.drivers.base import (
    ActionFailed,
    BadAction,
    Driver,
    DriverError,
    DriverHealth,
    Job,
    Outcome,
    Params,
)
from vpt.host.drivers.desktop import DesktopDriver

__all__ = [
    "ActionFailed",
    "BadAction",
    "DesktopDriver",
    "Driver",
    "DriverError",
    "DriverHealth",
    "Job",
    "Outcome",
    "Params",
]
