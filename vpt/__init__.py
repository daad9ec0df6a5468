"""vpt: a device-lab test orchestrator."""

__version__ = "0.1.0"
