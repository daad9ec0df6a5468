"""The interface of a dialect, and what all dialects share."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Protocol

from msgspec import Struct

from vpt.model import Answer, Device, Host, Json

MAX_TEXT = 2**20
MAX_ANSWER = 16 * 2**20
CUT = "\n[cut at 1 MiB]"
_HARMLESS = str.maketrans({0: "\ufffd"} | dict.fromkeys(range(55296, 57344), "�"))


class Trouble(Enum):
    """Why a call to a host brought no answer of a step.

    The values differ in what the host may be doing now, which decides whether the step may be sent
    again and whether its device is free.
    """

    HELD_BACK = auto()  # not sent: the server's claim or its descriptors ran out, not the host's
    NOT_CONNECTED = auto()  # not sent: no connection
    BROKEN = auto()  # the connection broke after something was sent: it may be acting
    FATE_UNKNOWN = auto()  # the host began the step, died, and cannot tell what became of it
    HOST_ERROR = auto()  # the host could not do it, or its answer cannot be read
    HOST_REFUSED = auto()  # the host will not do it: a 4xx
    NO_SECRET = auto()  # not sent: a secret of the step is not there any more
    TIMEOUT = auto()  # no answer in time: it may be acting


class HostTroubleError(Exception):
    """A call brought no answer; `message` is for people.

    `unauthorized`: the host answered 401, so the secret that the server sends is not its own.
    """

    def __init__(self, trouble: Trouble, message: str, *, unauthorized: bool = False) -> None:
        self.trouble = trouble
        self.unauthorized = unauthorized
        self.message = clean(message) or ""
        super().__init__(message)


class Call(Struct, frozen=True):
    """An action to send, and the callbacks for what becomes known while it is under way.

    When there is no connection within `connect` (s) nothing is sent. `opens` is true of the first
    try of an attempt's first step. A `handle` is the host's name for this very try: it was begun
    before, and the host is only asked for its end.
    """

    host: Host
    device: Device
    body: Json
    key: str
    limit: float  # seconds
    connect: float = 5.0
    opens: bool = False
    handle: str | None = None
    on_begun: Callable[[str], None] = lambda _: None  # gets the handle
    on_progress: Callable[[Json], None] = lambda _: None


class Dialect(Protocol):
    """How to talk to one kind of host. Every call ends within its `limit` (seconds)."""

    async def close(self) -> None:
        """Close all connections."""

    async def probe(self, host: Host, limit: float) -> None:
        """Return when the host is alive, else raise HostTroubleError."""

    async def send(self, call: Call) -> Answer:
        """Run an action on the host; raise HostTroubleError when there is no answer."""

    async def cancel(self, host: Host, execution_id: str, attempt: int, limit: float) -> bool:
        """Ask the host to stop an attempt; return whether it acknowledged that."""

    async def leave(self, host: Host, device: Device, limit: float) -> None:
        """Notify the host that an attempt needs the device no more; failures are ignored."""

    def task_complete(self, task_id: str, report: Json, host_id: str | None) -> bool:
        """Deliver a host's report on a task to the call that waits for it; False when none does.

        `host_id` is the host that the report's credential belongs to, None when that is good for
        any host.
        """


def clean(said: Any) -> str | None:
    """Return a host's text without NUL and lone surrogates, cut at 1 MiB.

    PostgreSQL stores neither of the two, and a host may send anything.
    """
    if said is None:
        return None
    text = said if isinstance(said, str) else _as_text(said)
    if len(text) > MAX_TEXT:
        text = text[:MAX_TEXT] + CUT
    if text.isascii() and "\0" not in text:
        return text
    text = text.translate(_HARMLESS)
    if len(text.encode()) > MAX_TEXT + len(CUT):
        text = text.encode()[:MAX_TEXT].decode(errors="ignore") + CUT
    return text


def _as_text(said: Any) -> str:
    """Format what should have been a text; a host may nest it too deep for the encoder."""
    try:
        return json.dumps(said)
    except (RecursionError, ValueError, TypeError):
        return "[not a text]"
