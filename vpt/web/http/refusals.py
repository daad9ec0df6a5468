"""Refused requests: the first ones of a second are logged and audited, the others are counted.

Whoever is refused can be refused thousands of times a second, and neither the disk of the log nor
the audit, which is kept for years, may fill by that.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import Counter
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field
from functools import lru_cache

import structlog
from msgspec.structs import replace

from vpt.store.audit import Entry

log = structlog.get_logger(__name__)

#: Refusals of one user or peer in a second that are logged and audited.
AT_ONCE = 10
#: Seconds between two sums of what was left out.
PAUSE = 10.0
#: Users and peers that are told apart at one time; the others share one count.
MOST = 10_000


@dataclass(slots=True)
class _Flood:
    """The refusals of one user or peer: those of the present second, and those left out."""

    second: int = 0
    admitted: int = 0
    left_out: Counter[int] = field(default_factory=Counter)
    writes: int = 0
    write: Entry | None = None


class Refusals:
    """Decides which refusals are logged, and tells how many were not."""

    def __init__(
        self, note: Callable[[Entry], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Audit by `note`; `clock` returns seconds."""
        self._note, self.clock = note, clock
        self._floods: dict[tuple[str, str], _Flood] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._floods)

    def left_out(self, user_id: str | None, peer: str, status: int, write: Entry | None) -> bool:
        """Return False when this refusal is to be logged, else count it.

        `write` is its entry of the audit, None when it is not one for the audit.
        """
        who = ("peer", _network(peer)) if user_id is None else ("user_id", user_id)
        if who not in self._floods and len(self._floods) >= MOST:
            who = ("peer", "others")
        flood = self._floods.setdefault(who, _Flood())
        if self._timer is None:
            self._later()
        if self._admits(flood):
            return False
        flood.left_out[status] += 1
        if write is not None:
            flood.writes, flood.write = flood.writes + 1, write
        return True

    def _admits(self, flood: _Flood) -> bool:
        second = int(self.clock())
        if flood.second != second:
            flood.second, flood.admitted = second, 0
        flood.admitted += 1
        return flood.admitted <= AT_ONCE

    def _later(self) -> None:
        # An empty context: the sums are not those of the request that happens to come first.
        self._timer = asyncio.get_running_loop().call_later(PAUSE, self._tick, context=Context())

    def _tick(self) -> None:
        self._timer = None
        try:
            self.tell()
        finally:
            if self._floods:
                self._later()

    def close(self) -> None:
        """Log the last sums, and start no timer any more."""
        if self._timer is not None:
            self._timer.cancel()
        self.tell()

    def tell(self) -> None:
        """Log and audit one sum for each user and peer, and forget those who stopped."""
        last = int(self.clock()) - 1
        for who, flood in list(self._floods.items()):
            if flood.second < last:
                del self._floods[who]
            else:
                self._floods[who] = _Flood(flood.second, flood.admitted)
            if flood.left_out:
                self._sum(who, flood)

    def _sum(self, who: tuple[str, str], flood: _Flood) -> None:
        name, value = who
        statuses = {str(status): count for status, count in sorted(flood.left_out.items())}
        log.warning(
            "http_refusals_counted",
            peer=value if name == "peer" else None,
            user_id=value if name == "user_id" else None,
            count=flood.left_out.total(),
            statuses=statuses,
        )
        if flood.write is not None:
            self._note(replace(flood.write, count=flood.writes))


@lru_cache(4096)
def _network(peer: str) -> str:
    """Return what one person has: an address of IPv4, a /64 of IPv6."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.ip_network((address, 64), strict=False))
        address = address.ipv4_mapped
    return str(address)
