"""What a driver must do, and the words it uses for that."""

import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vpt.host.responses import Refusal

DEFAULT_LIMIT_S = 300
LONGEST_LIMIT_S = 86400
OUTPUT_LIMIT = 1024 * 1024


class BadAction(Refusal):
    """This action makes no sense for this device; it was not tried."""

    def __init__(self, message: str, code: str = "bad_params") -> None:
        """Take the sentence for a person as `message`."""
        super().__init__(400, code, message)


class ActionFailed(Exception):  # noqa: N818 (not an error of ours: a verdict)
    """The action was done and the answer is no; `output` is what it printed so far."""

    def __init__(self, message: str, output: str | None = None) -> None:
        """Take the sentence for a person as `message`."""
        super().__init__(message)
        self.output = output


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a successful action gives; `screenshot` is a PNG."""

    output: str | None = None
    screenshot: bytes | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A checked action, ready to be done; it is stopped after `limit_s` seconds."""

    run: Callable[[], Awaitable[Outcome]]
    limit_s: float


class Params:
    """The parameters of an action, read with their types; BadAction names the wrong one."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Read from `values`; null is the same as absent."""
        self._values = {name: value for name, value in values.items() if value is not None}

    def __contains__(self, name: str) -> bool:
        """Whether a value was given."""
        return name in self._values

    def get(self, name: str) -> Any:
        """A value of any type."""
        return self._values.get(name)

    def text(self, name: str, default: str | None = None) -> str:
        """A string; without a default it must be there and not empty."""
        value = self._values.get(name, default)
        if not isinstance(value, str) or (default is None and not value):
            raise BadAction(f"{name}: a text is needed")
        return value

    def optional_text(self, name: str) -> str | None:
        """A string or None."""
        return self.text(name, "") or None

    def whole(self, name: str, default: int) -> int:
        """A whole number, also when it is written as a text."""
        value = self._values.get(name, default)
        if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise BadAction(f"{name}: a whole number is needed")
        return value

    def seconds(self, name: str, default: float, *, per_second: int = 1) -> float:
        """A time from 0 to a day, in seconds; `per_second` is 1000 for milliseconds."""
        try:
            value = float(self._values.get(name, default)) / per_second
        except (TypeError, ValueError):
            value = math.nan
        if not 0 <= value <= LONGEST_LIMIT_S:
            raise BadAction(f"{name}: a time from 0 to a day is needed")
        return value

    def mapping(self, name: str) -> dict[str, str]:
        """An object whose values are texts or numbers."""
        value = self._values.get(name, {})
        if not isinstance(value, dict) or not all(
            isinstance(item, str | int | float) for item in value.values()
        ):
            raise BadAction(f"{name}: an object of texts is needed")
        return {key: str(item) for key, item in value.items()}

    def limit(self) -> float:
        """The time limit of the action, in seconds."""
        return self.seconds("timeout", DEFAULT_LIMIT_S)


class Driver(ABC):
    """Does the actions of one device, one at a time (its lane sees to that)."""

    @property
    @abstractmethod
    def capabilities(self) -> tuple[str, ...]:
        """What a test case may require of this device."""

    @property
    @abstractmethod
    def commands(self) -> Mapping[str, Callable[[Params], Job]]:
        """What it can do, by name; each checks its parameters and raises BadAction."""

    def prepare(self, command: str, params: Params) -> Job:
        """Check an action without doing anything; BadAction says what is wrong."""
        make = self.commands.get(command)
        if make is None:
            known = ", ".join(sorted(self.commands))
            raise BadAction(f"unknown command {command!r}; known: {known}", "unknown_command")
        return make(params)

    @abstractmethod
    async def stop(self) -> None:
        """Return when nothing of an action whose job was cancelled is going on any more."""

    async def evidence(self) -> bytes | None:
        """A PNG that shows why the last action failed, where the device has a screen."""
        return None

    @abstractmethod
    async def close(self) -> None:
        """Let go of everything; no action runs any more."""


class Tail:
    """The last mebibyte of a stream, and whether a text went by anywhere in it."""

    def __init__(self, wanted: str | None = None) -> None:
        """Look for `wanted`; None is always found."""
        self._wanted = (wanted or "").encode()
        self._kept = bytearray()
        self._cut = 0
        self._carry = b""
        self.found = not self._wanted

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
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
        """What is kept, as a text that says how much is missing before it."""
        kept = self._kept.decode(errors="replace")
        return f"[{self._cut} bytes cut]\n{kept}" if self._cut else kept
