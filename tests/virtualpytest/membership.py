"""How such a host joins a server and pings it, by rules of its own, beside what it serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp

from . import body
from .body import Json

NO_ANSWER = 0  # stands where no status came


@dataclass(frozen=True)
class Pace:
    """Its waits in seconds; real ones in comments."""

    start: float = 0.05  # 2
    boundary: float = 2.0  # 300, of the wall clock: all hosts at the same second
    retry: float = 0.05  # 5
    again: float = 0.05  # less than 1
    handling: float = 0.004  # what any request takes at least, so that overlaps are seen
    limit: float = 10.0


QUICK = Pace()


@dataclass(frozen=True)
class Said:
    """One call of its own, and what came of it."""

    call: str  # register, ping or unregister
    status: int
    at: float  # wall clock, when it was sent
    seconds: float  # until the answer


@dataclass
class Membership:
    """Registers, pings at boundaries, and unregisters on a clean stop only.

    `server` may hold user info, which goes out as HTTP Basic.
    `says` takes the place of fields of the registration.
    """

    server: str
    name: str
    url: str
    devices: Mapping[str, str]
    pace: Pace = QUICK
    says: Json = field(default_factory=dict)
    sent: list[Said] = field(default_factory=list)
    deploying: set[str] = field(default_factory=set)  # devices that run a deployment of its own
    _task: asyncio.Task[None] | None = None

    def statuses(self, call: str) -> list[int]:
        """Return what it was answered, in order, to `register`, `ping` or `unregister`."""
        return [said.status for said in self.sent if said.call == call]

    @property
    def joined(self) -> bool:
        """Whether the last that it heard was a 200."""
        return bool(self.sent) and (self.sent[-1].call, self.sent[-1].status) == ("ping", 200)

    def start(self) -> None:
        """Begin; the first registration is a while off."""
        self._task = asyncio.create_task(self._live(), name=f"{self.name} belongs")

    async def end(self) -> None:
        """Send nothing any more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def leave(self) -> None:
        """End, and tell the server."""
        await self.end()
        async with aiohttp.ClientSession() as session:
            leaving = {"host_name": self.name, "timestamp": time.time()}
            await self._post(session, "unregister", leaving)

    async def _live(self) -> None:
        await asyncio.sleep(self.pace.start)
        async with aiohttp.ClientSession() as session:
            await self._join(session)
            while True:
                # A little past it: a timer that wakes early would find the same one again.
                left = self.pace.boundary - time.time() % self.pace.boundary
                await asyncio.sleep(left + 0.001)
                if not await self._ping(session):
                    await asyncio.sleep(self.pace.again)
                    await self._join(session)

    async def _join(self, session: aiohttp.ClientSession) -> None:
        """Register and ping, until both went well or the server does not take it."""
        while await self._register(session):
            if await self._ping(session):
                return
            await asyncio.sleep(self.pace.again)

    async def _register(self, session: aiohttp.ClientSession) -> bool:
        said = body.registration(self.name, self.url, self.devices) | self.says
        for left in (2, 1, 0):
            status = await self._post(session, "register", said)
            if status != NO_ANSWER and status < 500:
                return status == 200  # even a 201 is a failure to it
            if left:
                await asyncio.sleep(self.pace.retry)
        return False

    async def _ping(self, session: aiohttp.ClientSession) -> bool:
        return (
            await self._post(session, "ping", body.ping(self.name, self.devices, self.deploying))
            == 200
        )

    async def _post(self, session: aiohttp.ClientSession, call: str, said: Json) -> int:
        url = f"{self.server}/server/system/{call}"
        limit = aiohttp.ClientTimeout(self.pace.limit)
        at, begun = time.time(), time.monotonic()
        try:
            async with session.post(url, json=said, timeout=limit) as answer:
                status = answer.status
        except (aiohttp.ClientError, TimeoutError):
            status = NO_ANSWER
        self.sent.append(Said(call, status, at, time.monotonic() - begun))
        return status
