"""The interface of a driver, and the types it uses."""

import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vpt.host.responses import Refusal

LONGEST_LIMIT_S = 86400
OUTPUT_LIMIT = 1024 * 1024
LONGEST_REASON = 500
LONGEST_PROPERTY = 256


class BadAction(Refusal):
    """The action is invalid for this device and was not executed."""

    def __init__(self, message: str, code: str = "bad_params") -> None:
        """Store `message` for people and `code` for programs; the status is 400."""
        super().__init__(400, code, message)


class ActionFailed(Exception):  # noqa: N818 (a test result, not an error)
    """The action was executed and failed; `output` is what it printed so far."""

    def __init__(self, message: str, output: str | None = None) -> None:
        """Store `message` for people and the output."""
        super().__init__(message)
        self.output = output


class DriverError(Exception):
    """The driver could not execute the action, which says nothing about the product.

    It is answered as `{"success": false, "outcome": "error", "kind": "host_error"}`.
    """

    def __init__(self, message: str, output: str | None = None) -> None:
        """Store `message` for people and what the action printed so far."""
        super().__init__(message)
        self.output = output


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a successful action; `screenshot` is a PNG."""

    output: str | None = None
    screenshot: bytes | None = None


@dataclass(frozen=True, slots=True)
class DriverHealth:
    """Whether a device can be used, why not, and facts about it: texts, numbers, booleans."""

    available: bool = True
    reason: str | None = None
    properties: Mapping[str, str | float | bool] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """Return it as it stands in registrations, heartbeats and responses."""
        words = (self.reason or "").encode(errors="replace").decode()[:LONGEST_REASON]
        reason = {"reason": words} if words else {}
        facts = {name: _short(value) for name, value in self.properties.items()}
        properties = {"properties": facts} if facts else {}
        return {"available": self.available, **reason, **properties}


def _short(value: str | float | bool) -> str | float | bool:
    """Return a property as the server takes it."""
    return value[:LONGEST_PROPERTY] if isinstance(value, str) else value


def _nothing() -> None:
    """Return what an action printed that prints nothing."""


@dataclass(frozen=True, slots=True)
class Job:
    """A checked action, ready to run.

    It is stopped after `limit_s` seconds, and has failed then: the limit is part of what the action
    expects. The time limit of the step is not the driver's concern. `printed` returns what the
    action printed so far, for the response to one that is stopped.
    """

    run: Callable[[], Awaitable[Outcome]]
    limit_s: float | None = None
    printed: Callable[[], str | None] = _nothing


class Params:
    """The parameters of an action, read by type; raises BadAction that names a wrong one."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Store the values; null counts as absent."""
        self._values = {name: value for name, value in values.items() if value is not None}

    def __contains__(self, name: str) -> bool:
        """Return True when a value was sent."""
        return name in self._values

    def get(self, name: str) -> Any:
        """Return a value of any type, or None."""
        return self._values.get(name)

    def text(self, name: str, default: str | None = None) -> str:
        """Return a string; without a default it is required and must not be empty."""
        value = self._values.get(name, default)
        if not isinstance(value, str) or (default is None and not value):
            more = ", and not empty" if default is None else ""
            raise BadAction(f"{name}: must be a string{more}")
        return value

    def optional_text(self, name: str) -> str | None:
        """Return a string, or None for an absent or empty one."""
        return self.text(name, "") or None

    def whole(self, name: str, default: int) -> int:
        """Return an integer, which may be sent as a string."""
        value = self._values.get(name, default)
        if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise BadAction(f"{name}: must be an integer")
        return value

    def seconds(self, name: str, default: float, *, per_second: int = 1) -> float:
        """Return a time of 0 to 86400 seconds; `per_second` is 1000 for a value in milliseconds."""
        try:
            value = float(self._values.get(name, default)) / per_second
        except (TypeError, ValueError):
            value = math.nan
        if not 0 <= value <= LONGEST_LIMIT_S:
            raise BadAction(f"{name}: must be a time from 0 to one day")
        return value

    def whole_numbers(self, name: str) -> frozenset[int]:
        """Return a list of integers as a set; an absent one is empty."""
        values = self._values.get(name, [])
        if not isinstance(values, list) or not all(type(value) is int for value in values):
            raise BadAction(f"{name}: must be a list of integers")
        return frozenset(values)

    def mapping(self, name: str) -> dict[str, str]:
        """Return an object of strings; numbers in it are converted."""
        value = self._values.get(name, {})
        if not isinstance(value, dict) or not all(
            isinstance(item, str | int | float) for item in value.values()
        ):
            raise BadAction(f"{name}: must be an object of strings")
        return {key: str(item) for key, item in value.items()}

    def limit(self) -> float | None:
        """Return the time within which the action is expected to end, in seconds, if any."""
        return self.seconds("timeout", 0) if "timeout" in self else None


def param(kind: str, description: str, *, required: bool = False, **more: Any) -> Mapping[str, Any]:
    """Return how a parameter is described: `kind` is string, number, boolean or object."""
    return {"type": kind, "required": required, "description": description, **more}


def describe(
    command: str, label: str, description: str, params: Mapping[str, Any] | None = None
) -> Mapping[str, Any]:
    """Return how an action is described in a registration: a form can be made of it."""
    texts = {"command": command, "label": label, "description": description}
    return {**texts, "params": params or {}}


class Driver(ABC):
    """Executes the actions of one device; its DeviceWorker runs one at a time."""

    @property
    @abstractmethod
    def capabilities(self) -> tuple[str, ...]:
        """The capabilities of the device, which a test case can require."""

    @property
    @abstractmethod
    def commands(self) -> Mapping[str, Callable[[Params], Job]]:
        """The commands of the device by name; each checks its parameters or raises BadAction."""

    @property
    def descriptions(self) -> tuple[Mapping[str, Any], ...]:
        """Descriptions of the commands, each made by `describe`; they go out when registering."""
        return ()

    def prepare(self, command: str, params: Params) -> Job:
        """Check an action without executing it; raise BadAction for what is wrong."""
        make = self.commands.get(command)
        if make is None:
            known = ", ".join(sorted(self.commands))
            raise BadAction(f"unknown command {command!r}; known: {known}", "unknown_command")
        return make(params)

    async def health(self) -> DriverHealth:
        """Return whether the device can be used now; called at any time, also during an action.

        It is sent with the registration, each heartbeat, and the response to a failed action.
        """
        return DriverHealth()

    @abstractmethod
    async def fresh(self) -> None:
        """Remove what earlier actions left, since somebody else uses the device from now on.

        It is called before the first action of each attempt, and may be cancelled. Raises
        DriverError when something stays.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Return when nothing of an action whose job was cancelled still runs."""

    async def evidence(self) -> bytes | None:
        """Return a PNG that shows why the last action failed, or None without a screen."""
        return None

    async def screenshot(self) -> bytes | None:
        """Return a PNG of what the device shows now, or None while it shows nothing.

        It is called at any time when no action runs, once a second while somebody looks.
        """
        return None

    @abstractmethod
    async def close(self) -> None:
        """Release all resources; called when no action runs."""


class OutputTail:
    """Keeps the last MiB of a stream, and finds a text anywhere in the stream."""

    def __init__(self, wanted: str | None = None) -> None:
        """Search for `wanted`; None counts as found."""
        self.wanted = wanted
        self._wanted = (wanted or "").encode()
        self._kept = bytearray()
        self._cut = 0
        self._carry = b""
        self.found = not self._wanted

    def feed(self, chunk: bytes) -> None:
        """Add the next bytes."""
        if not self.found:
            seam = self._carry + chunk
            self.found = self._wanted in seam
            self._carry = seam[max(0, len(seam) - len(self._wanted) + 1) :]
        self._kept += chunk
        over = len(self._kept) - OUTPUT_LIMIT
        if over > 0:
            del self._kept[:over]
            self._cut += over

    def text(self) -> str:
        """Return the kept text, with a note of how many bytes before it are missing."""
        kept = self._kept.decode(errors="replace")
        return f"[{self._cut} bytes cut]\n{kept}" if self._cut else kept
