"""Facts about the machine: its hardware for the registration, its load for the heartbeat."""

import os
import platform
from pathlib import Path
from typing import Any

import psutil

SENSORS = ("coretemp", "k10temp", "cpu_thermal", "cpu-thermal", "soc_thermal", "acpitz")


def hardware() -> dict[str, Any]:
    """Return the facts that do not change; memory in bytes."""
    return {
        "cpu_count": psutil.cpu_count() or 1,
        "memory_total": psutil.virtual_memory().total,
        "machine": platform.machine(),
        "system": platform.system(),
        "release": platform.release(),
        "python": platform.python_version(),
    }


def system_stats(folder: Path) -> dict[str, float]:
    """Return the use of processor, memory and the disk of `folder` in percent, and the temperature.

    The processor's use is the mean since the last call; the temperature is in degrees Celsius.
    """
    stats = {
        "cpu_percent": psutil.cpu_percent(),
        "memory_percent": psutil.virtual_memory().percent,
        "disk_percent": psutil.disk_usage(str(folder)).percent,
        "load": round(os.getloadavg()[0], 2),
    }
    warmth = _temperature()
    return stats if warmth is None else {**stats, "temperature": warmth}


def _temperature() -> float | None:
    read = getattr(psutil, "sensors_temperatures", None)
    sensors = read() if read is not None else {}
    for name in (*SENSORS, *sensors):
        for sensor in sensors.get(name, ()):
            if sensor.current:
                return float(sensor.current)
    return None
