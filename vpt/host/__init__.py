"""The reference host: runs the actions of its devices for the vpt server it is registered at."""

from vpt.host.server import run_host
from vpt.host.settings import HostSettings

__all__ = ["HostSettings", "run_host"]
