"""What a dialect must do, and what all dialects share."""

from __future__ import annotations

import json
from typing import Any, Protocol

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


class Dialect(Protocol):
    """How to talk to one kind of host. Every call ends within its `limit` (seconds)."""

    async def probe(self, host: Host, limit: float) -> None:
        """Return when the host is alive, else raise HostTroubleError."""

    async def send(self, host: Host, device: Device, body: Json, key: str, limit: float) -> Answer:
        """Have an action run; raise HostTroubleError when there is no answer."""

    async def cancel(self, host: Host, execution_id: str, attempt: int, limit: float) -> bool:
        """Tell the host to stop an attempt; True when it acknowledged."""


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
