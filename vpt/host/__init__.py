"""The reference host: holds devices, runs their actions, and belongs to a vpt server."""

from vpt.host.server import run_host
from vpt.host.settings import HostSettings

__all__ = ["HostSettings", "run_host"]
