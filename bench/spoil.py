"""What breaks scripted hosts, what the server shows of them meanwhile, and what has to hold."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from processes import quiet_port
from scripted import ANOTHER_HOST, ANOTHER_SERVICE, BROKEN, GOOD, SLOW, ScriptedHost

KINDS = ("spoil host", "device away", "exchange addresses", "move host", "copy host")
#: Every second fault is a bad answer, since there are so many kinds of them.
_SPOILS_EACH = 2
_LOOK = 0.1  # seconds between looks at what the server shows
_SHOWN = 5.0  # seconds within which a reason is shown once there is one
_IN_A_ROW = 3  # errors after which a device is held back
_BEHAVIOURS = (*BROKEN, SLOW, ANOTHER_HOST, ANOTHER_SERVICE)


@dataclass
class Spoiled:
    """A time in which a host behaved badly; times are of the wall clock."""

    host: ScriptedHost
    behaviour: str
    began: float
    ended: float = 0.0
    disturbed: bool = False  # the server was away meanwhile
    shown: set[str] = field(default_factory=set)  # why it gets no runs, by the server

    def failed(self) -> dict[str, set[str]]:
        """Return the attempts that were answered badly, by device."""
        found: dict[str, set[str]] = {}
        for answer in self.host.bad_answers:
            if self.began <= answer.at and (not self.ended or answer.at <= self.ended):
                found.setdefault(answer.device, set()).add(answer.attempt)
        return found

    @property
    def held_back(self) -> bool:
        """Return whether some device failed so often that it must be held back."""
        return any(len(attempts) >= _IN_A_ROW for attempts in self.failed().values())


@dataclass
class AwayTime:
    """A time in which the server knew that a device was away."""

    host: ScriptedHost
    device: str
    began: float
    ended: float = 0.0
    disturbed: bool = False


class Spoiler:
    """The scripted hosts, and the faults of theirs."""

    def __init__(self, folder: Path, server: str, token: str, count: int) -> None:
        self.hosts = [ScriptedHost(f"s{n}", folder, server, token, n) for n in range(count)]
        self.copies: list[ScriptedHost] = []
        self.counts: Counter[str] = Counter()
        self.spoiled: list[Spoiled] = []
        self.away: list[AwayTime] = []
        self._copied = lambda host: ScriptedHost(
            host.name, folder, server, token, self.hosts.index(host)
        )
        self._behaviours: list[str] = []
        self._session: aiohttp.ClientSession
        self._ready: asyncio.Event

    async def start(self, ready: asyncio.Event) -> None:
        """Start all hosts; `ready` is set while the server is there."""
        self._ready = ready
        for host in self.hosts:
            await host.start()

    def watch_by(self, session: aiohttp.ClientSession) -> None:
        """Ask the server by this session what it shows."""
        self._session = session

    async def close(self) -> None:
        """End all hosts."""
        for host in (*self.hosts, *self.copies):
            await host.close()

    async def spoil(self, what: str, seconds: float, dice: random.Random) -> None:
        """Break something for so long, and mend it."""
        doing: dict[str, Callable[..., Any]] = {
            "spoil host": self._spoil_host,
            "device away": self._device_away,
            "exchange addresses": self._exchange,
            "move host": self._move,
            "copy host": self._copy,
        }
        await doing[what](seconds, dice)
        self.counts[what] += 1

    @contextlib.asynccontextmanager
    async def _some(self, count: int, dice: random.Random) -> AsyncIterator[list[ScriptedHost]]:
        while len(sound := [h for h in self.hosts if not h.harmed]) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        hosts = dice.sample(sound, count)
        for host in hosts:
            host.harmed = True
        yield hosts
        for host in hosts:
            host.harmed = False

    async def _spoil_host(self, seconds: float, dice: random.Random) -> None:
        async with self._some(1, dice) as [host]:
            behaviour = self._next_behaviour(dice)
            self.counts[behaviour] += 1
            spoiled = Spoiled(host, behaviour, time.time())
            self.spoiled.append(spoiled)
            host.behaviour = behaviour
            host.quiet = behaviour in (ANOTHER_HOST, ANOTHER_SERVICE)
            await self._watch(spoiled, seconds)
            host.behaviour, host.quiet = GOOD, False
            spoiled.ended = time.time()

    def _next_behaviour(self, dice: random.Random) -> str:
        """Return one after the other, in an order of the seed."""
        if not self._behaviours:
            self._behaviours = dice.sample(_BEHAVIOURS, len(_BEHAVIOURS))
        return self._behaviours.pop()

    async def _watch(self, spoiled: Spoiled, seconds: float) -> None:
        """Note what is shown of a broken host; what must be shown gets a little more time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end or (
            spoiled.held_back and not spoiled.shown and time.monotonic() < end + _SHOWN
        ):
            spoiled.disturbed |= not self._ready.is_set()
            spoiled.shown |= await self._shown(spoiled.host)
            await asyncio.sleep(_LOOK)

    async def _shown(self, host: ScriptedHost) -> set[str]:
        """Return the reasons, in words, for which a host and its devices get no runs."""
        try:
            async with self._session.get(f"/api/hosts/{host.name}/status") as response:
                item = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return set()
        if response.status != 200:
            return set()
        found = {
            f"{device['reason']}: {device['reason_text']}"
            for device in item["devices"]
            if device.get("reason") and device.get("reason_text")
        }
        trouble = item.get("trouble")
        return found | ({f"{trouble['kind']}: {trouble['text']}"} if trouble else set())

    async def _device_away(self, seconds: float, dice: random.Random) -> None:
        async with self._some(1, dice) as [host]:
            device = dice.choice(host.devices)
            disturbed = not await host.shows_away(device, "its cable is out")
            away = AwayTime(host, device, time.time(), disturbed=disturbed)
            self.away.append(away)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                away.disturbed |= not self._ready.is_set()
                await asyncio.sleep(_LOOK)
            away.ended = time.time()
            await host.shows_away(device, None)

    async def _exchange(self, seconds: float, dice: random.Random) -> None:
        """Let two hosts have each other's address."""
        async with self._some(2, dice) as [one, other]:
            await asyncio.gather(one.leave_port(), other.leave_port())
            one.port, other.port = other.port, one.port
            await asyncio.gather(one.listen(), other.listen())
            await asyncio.sleep(seconds)

    async def _move(self, seconds: float, dice: random.Random) -> None:
        """Let a host be gone for a while and then have another address."""
        async with self._some(1, dice) as [host]:
            await host.leave_port()
            await asyncio.sleep(seconds / 4)
            host.port = quiet_port()
            await host.listen()

    async def _copy(self, seconds: float, dice: random.Random) -> None:
        """Start another host with the name of one, as a copied memory card would be."""
        async with self._some(1, dice) as [host]:
            copy = self._copied(host)
            self.copies.append(copy)
            await copy.start()
            await asyncio.sleep(seconds)
            await copy.close()
            if host.replaced:
                self.counts["hosts replaced by their copy"] += 1
                host.begin_heartbeats()
