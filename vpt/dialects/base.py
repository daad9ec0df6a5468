"""The interface of a dialect, and what all dialects share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import Enum, auto
from typing import Any, NoReturn, Protocol

import orjson
from msgspec import Struct

from vpt.bounds import LONGEST_REASON
from vpt.model import Answer, Device, Host, HostTrouble, Json, Presence, TroubleKind

MAX_TEXT = 2**20
MAX_ANSWER = 16 * 2**20
CUT = "\n[cut at 1 MiB]"
_MORE_THAN_TEXT = MAX_TEXT + 2 * len(CUT)  # bytes: so that `clean` sees that there is more
_MOST_SAID = 64 * 1024  # bytes of JSON that are formatted as Python does
_SURROGATE = re.compile("[\ud800-\udfff]")


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
    INVALID_STEP = auto()  # no host can do it: the test case must be mended
    NO_SECRET = auto()  # not sent: a secret of the step is not there any more
    NO_DATABASE = auto()  # not sent: the database did not return the step's secrets in time
    SOMEBODY_ELSE = auto()  # never acted on: what answers at the host's URL is not this host
    TIMEOUT = auto()  # no answer in time: it may be acting
    STOPPED = auto()  # the host stopped the step at its time limit
    IDLE = auto()  # the host does nothing of the step any more, and did not tell its end


class HostTroubleError(Exception):
    """A call brought no verdict; `message` is for people.

    `reason` is why the host cannot be reached or is not taken for itself; None: it was reached.
    `same_again`: the answer came and cannot be understood, so that sending the step once more would
    bring the same.
    `answer` is what the host answered all the same, such as what the step printed.
    `presence` is what it said of the device all the same.
    """

    def __init__(
        self,
        trouble: Trouble,
        message: str,
        *,
        reason: HostTrouble | None = None,
        same_again: bool = False,
        answer: Answer | None = None,
        presence: Presence | None = None,
    ) -> None:
        self.trouble = trouble
        self.reason = reason
        self.same_again = same_again
        self.answer = answer
        self.presence = presence
        self.message = clean(message) or ""
        super().__init__(message)

    @property
    def is_of_another_host(self) -> bool:
        """Return whether it may be another host that answered: see `may_be_another_host`."""
        return may_be_another_host(self.reason)


def may_be_another_host(reason: HostTrouble | None) -> bool:
    """Return whether a call may have been refused by another host at the same URL.

    So it does when it says so, and when it does not know the secret.
    """
    kinds = (TroubleKind.SOMEBODY_ELSE, TroubleKind.CREDENTIAL)
    return reason is not None and reason.kind in kinds


class Identity(Struct, frozen=True):
    """Who a host says it is in its health; None: it does not say."""

    host_name: str | None = None
    instance_id: str | None = None


def check_identity(host: Host, identity: Identity) -> None:
    """Raise HostTroubleError when what answers at a host's URL says that it is somebody else.

    A host that does not say who it is may be any; one that said so when it registered must do so
    again, or another service at its address would pass for it.
    """
    if identity.host_name not in (None, host.id):
        _raise_somebody_else(f"another host answers at its URL: {identity.host_name}")
    known, said = host.instance_id, identity.instance_id
    if known is not None and said is not None and known != said:
        _raise_somebody_else("another installation with its name answers at its URL")
    if host.named and identity.host_name is None:
        _raise_somebody_else("what answers at its URL does not say that it is this host")


def _raise_somebody_else(words: str) -> NoReturn:
    reason = HostTrouble(TroubleKind.SOMEBODY_ELSE, words)
    raise HostTroubleError(Trouble.SOMEBODY_ELSE, words, reason=reason)


def not_understood(
    message: str, presence: Presence | None = None, reason: HostTrouble | None = None
) -> HostTroubleError:
    """Return the trouble of an answer that came and cannot be understood."""
    return HostTroubleError(
        Trouble.HOST_ERROR, message, same_again=True, presence=presence, reason=reason
    )


class Call(Struct, frozen=True):
    """An action to send, and the callbacks for what becomes known while it is under way.

    When there is no connection within `connect` (s) nothing is sent. `step_limit` (s) is the time
    after which the host is to stop the action. `opens` is true of the first
    try of an attempt's first step. A `handle` is the host's name for this very try: it was begun
    before, and the host is only asked for its end; `anew`: the host registered anew since. A manual
    action under a lease names that.
    """

    host: Host
    device: Device
    body: Json
    key: str
    limit: float  # seconds
    connect: float = 5.0
    step_limit: float | None = None
    lease_id: str | None = None
    opens: bool = False
    handle: str | None = None
    anew: bool = False
    on_begun: Callable[[str], None] = lambda _: None  # gets the handle
    on_progress: Callable[[Json], None] = lambda _: None


class Dialect(Protocol):
    """How to talk to one kind of host. Every call ends within its `limit` (seconds)."""

    async def close(self) -> None:
        """Close all connections."""

    async def probe(self, host: Host, limit: float) -> Identity:
        """Return who a host says it is that is alive and is itself, else raise HostTroubleError."""

    async def send(self, call: Call) -> Answer:
        """Run an action on the host; raise HostTroubleError when there is no answer."""

    async def cancel(self, host: Host, execution_id: str, attempt: int, limit: float) -> bool:
        """Ask the host to stop an attempt; return whether it acknowledged that."""

    async def look(self, host: Host, device: Device, limit: float) -> Presence | None:
        """Return what a host says of a device when it is asked; None when it cannot say.

        HostTroubleError when it does not answer.
        """

    async def check_key(self, host: Host, limit: float) -> None:
        """Raise HostTroubleError when the host answers that it does not accept the server's key."""

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
    text = said if isinstance(said, str) else as_text(said)
    cut = len(text) > MAX_TEXT
    text = (text[:MAX_TEXT] if cut else text).replace("\0", "\ufffd")
    if text.isascii():
        return text + CUT if cut else text
    text = _SURROGATE.sub("\ufffd", text)
    encoded = text.encode()
    if not cut and len(encoded) <= MAX_TEXT + len(CUT):
        return text
    del text  # of four bytes a character: one copy fewer at a time
    return (encoded[:MAX_TEXT] + CUT.encode()).decode(errors="ignore")


def shortened(text: str, most: int) -> str:
    """Return at most `most` characters of a text; `…` says that there are more.

    Secrets are masked later: by the sign the mask knows that a value may have been cut in two.
    """
    return text if len(text) <= most else f"{text[: most - 1]}…"


class _Beginning:
    """Copies the beginning of a JSON value, of which more than 1 MiB would be cut off again."""

    def __init__(self) -> None:
        self._room = _MORE_THAN_TEXT  # characters, of which each is at least a byte of JSON

    def of(self, value: Any) -> Any:
        """Return what there is room for; a value that is shorter stays what it is."""
        match value:
            case str():
                self._room -= len(value)
                return value[: len(value) + self._room] if self._room < 0 else value
            case list():
                return [self.of(item) for item in value if self._has_room()]
            case dict():
                return {self.of(k): self.of(item) for k, item in value.items() if self._has_room()}
        return value

    def _has_room(self) -> bool:
        self._room -= 1  # for a comma
        return self._room >= 0


def presence_of(raw: Mapping[str, Any]) -> Presence | None:
    """Return what an answer says of its device beside the outcome; None when that is nothing.

    What cannot be understood is nothing: it must not spoil the outcome.
    """
    said = raw.get("device")
    if not isinstance(said, Mapping) or not isinstance(said.get("available"), bool):
        return None
    reason = clean(said.get("reason"))
    return Presence(said["available"], reason[:LONGEST_REASON] if reason else None)


def as_text(said: Any, *, ensure_ascii: bool = True) -> str:
    """Return JSON of what should have been a text, cut at 1 MiB; a host may nest it too deep."""
    with suppress(TypeError, RecursionError):  # lone surrogates, only in short bodies; or too deep
        text = orjson.dumps(_Beginning().of(said))
        if len(text) > _MOST_SAID:
            return text[:_MORE_THAN_TEXT].decode(errors="ignore")
    try:
        return json.dumps(said, ensure_ascii=ensure_ascii)
    except (RecursionError, ValueError, TypeError):
        return "[not a text]"
