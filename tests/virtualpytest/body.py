"""What such a host says of itself: the bodies of its registration and of its pings, 40 KB each."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

Json = dict[str, Any]

DEVICES = {"device1": "android_mobile", "device2": "stb", "device3": "web"}
CAPABILITIES: dict[str, Json] = {
    "android_mobile": {"av": "hdmi_stream", "remote": "android_mobile"},
    "android_tv": {"av": "hdmi_stream", "remote": ["android_tv", "bluetooth"], "power": "tapo"},
    "web": {"desktop": "bash", "web": "playwright"},
}
SET_TOP_BOX = {"av": "hdmi_stream", "remote": "ir_remote"}
ACTIONS = {
    "remote": ("press_key", "click_element", "launch_app", "swipe"),
    "web": ("open_browser", "close_browser", "navigate_to_url"),
    "desktop": ("execute_bash_command", "execute_pyautogui_click"),
    "power": ("power_on", "power_off"),
}
VERIFICATIONS = {
    "av": ("video", "image", "text", "audio"),
    "web": ("web",),
}
PER_CATEGORY = 5  # of each command's variants: this makes the body as large as a real one


def capabilities_of(model: str) -> Json:
    """Return the controllers of a device, by family."""
    return CAPABILITIES.get(model, SET_TOP_BOX)


def device(name: str, model: str) -> Json:
    """Return all that is said of a device, its schemas too."""
    families = capabilities_of(model)
    names = ("av", "remote", "desktop", "web", "power", "ai")
    return {
        "device_id": name,
        "device_name": f"{model} {name}",
        "device_model": model,
        "device_ip": None,
        "device_port": None,
        "ir_type": None,
        # The families that it has; what it verifies stands only among the types.
        "device_capabilities": {each: families.get(each) for each in names} | {"verification": []},
        "device_verification_types": {
            kind: [verification(kind, number) for number in range(2)]
            for family in families
            for kind in VERIFICATIONS.get(family, ())
        },
        "device_action_types": {
            family.capitalize(): [
                action(family, command, number)
                for command in ACTIONS[family]
                for number in range(PER_CATEGORY)
            ]
            for family in families
            if family in ACTIONS
        },
        "video_stream_path": f"/host/stream/{name}",
        "video_capture_path": f"/var/www/html/stream/{name}",
    }


def action(family: str, command: str, number: int) -> Json:
    """Return the schema of an action."""
    return {
        "id": f"{command}_{number}",
        "label": f"{command.replace('_', ' ').capitalize()} {number}",
        "command": command,
        "action_type": family,
        "params": {"target": "", "wait_time": 500},
        "description": f"Does {command} on the device, in the manner that has number {number}",
        "requiresInput": True,
        "inputLabel": "Target",
        "inputPlaceholder": "Home tab, a key's name, or whatever else is to be reached",
        "inputParam": "target",
    }


def verification(kind: str, number: int) -> Json:
    """Return the schema of a verification."""
    text = {"type": "string", "required": True, "default": "", "description": "What is expected"}
    limit = {"type": "number", "required": False, "default": 10.0, "description": "Seconds"}
    area = {"type": "area", "required": False, "default": None, "description": "Where to look"}
    return {
        "command": f"waitFor{kind.capitalize()}To{('Appear', 'Disappear')[number]}",
        "label": f"Wait for {kind} {number}",
        "description": f"Waits until {kind} that is described by its parameters is there or gone",
        "params": {
            "expected": text,
            "timeout": limit,
            "area": area,
            "threshold": {**limit, "default": 0.8, "min": 0.0, "max": 1.0},
        },
        "verification_type": kind,
    }


def stats() -> Json:
    """Return the load of the host."""
    return {
        "cpu_percent": 1.0,
        "memory_percent": 2.8,
        "disk_percent": 25.1,
        "uptime_seconds": 643,
        "platform": "Linux",
        "architecture": "x86_64",
        "load_average_1m": 1.21,
    }


def registration(name: str, url: str, devices: Mapping[str, str]) -> Json:
    """Return the body of a registration."""
    said = [device(each, model) for each, model in devices.items()]
    return {
        "host_name": name,
        "host_url": url,
        "host_api_url": url,
        "host_port": int(url.rpartition(":")[2]),
        "host_ip": "127.0.0.1",
        "device_count": len(said),
        "devices": said,
        "capabilities": sorted(
            {family for each in said for family, has in each["device_capabilities"].items() if has}
            | {"verification"}
        ),
        "system_stats": stats(),
    }


def ping(name: str, devices: Mapping[str, str], deploying: Collection[str] = ()) -> Json:
    """Return the body of a ping, which says all of the devices again."""
    return {
        "host_name": name,
        "timestamp": time.time(),
        "device_count": len(devices),
        "system_stats": stats(),
        "per_device_metrics": [
            {
                "device_id": each,
                "device_model": model,
                "capture_folder": each,
                "disk_usage": "20K",
                "ffmpeg_status": "stopped",
                "monitor_status": "stopped",
            }
            for each, model in devices.items()
        ],
        "devices": [
            device(each, model) | {"has_running_deployment": each in deploying}
            for each, model in devices.items()
        ],
    }
