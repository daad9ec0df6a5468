"""What a dialect must do, and what all dialects share."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

from msgspec import Struct

from vpt.model import Answer, Device, Host, Json

MAX_TEXT = 2**20
MAX_ANSWER = 16 * 2**20
_CUT = "\n[cut at 1 MiB]"
_HARMLESS = str.maketrans({0: "\ufffd"} | dict.fromkeys(range(55296, 57344), "�"))


class HostTroubleError(Exception):
    """A call brought no answer; `trouble` is the name of the outcome in the actors' words."""

    def __init__(self, trouble: str, words: str) -> None:
        self.trouble = trouble
        self.words = clean(words) or ""
        super().__init__(words)


class Call(Struct, frozen=True):
    """An action to send, and whom to tell of it while it is under way.

    When there is no connection within `connect` (s) nothing is sent. `opens` is true of the first
    try of an attempt's first step. A `handle` is what the host called this very try: it was begun
    before, and is only to be asked for its end.
    """

    host: Host
    device: Device
    body: Json
    key: str
    limit: float  # seconds
    connect: float = 5.0
    opens: bool = False
    handle: str | None = None
    begun: Callable[[str], None] = lambda _: None
    moved: Callable[[Json], None] = lambda _: None


class Dialect(Protocol):
    """How to talk to one kind of host. Every call ends within its `limit` (seconds)."""

    async def close(self) -> None:
        """Close all connections."""

    async def probe(self, host: Host, limit: float) -> None:
        """Return when the host is alive, else raise HostTroubleError."""

    async def send(self, call: Call) -> Answer:
        """Have an action run; raise HostTroubleError when there is no answer."""

    async def cancel(self, host: Host, execution_id: str, attempt: int, limit: float) -> bool:
        """Tell the host to stop an attempt; True when it acknowledged."""

    async def leave(self, host: Host, device: Device, limit: float) -> None:
        """Tell the host that an attempt has no more use for the device; it need not hear it."""

    def task_complete(self, task_id: str, said: Json, host_id: str | None) -> bool:
        """Hand a host's word on a task to who waits for it; False when nobody does.

        `host_id` is whom the word's credential speaks for, None for any host.
        """


def clean(said: Any) -> str | None:
    """Keep a host's text as it is, but for NUL, lone surrogates and what is over 1 MiB."""
    if said is None:
        return None
    text = said if isinstance(said, str) else _as_text(said)
    if len(text) > MAX_TEXT:
        text = text[:MAX_TEXT] + _CUT
    if text.isascii() and "\0" not in text:
        return text
    text = text.translate(_HARMLESS)
    if len(text.encode()) > MAX_TEXT + len(_CUT):
        text = text.encode()[:MAX_TEXT].decode(errors="ignore") + _CUT
    return text


def _as_text(said: Any) -> str:
    """Write what should have been a text; a host may nest it deeper than anybody can read."""
    try:
        return json.dumps(said)
    except (RecursionError, ValueError, TypeError):
        return "[not a text]"
