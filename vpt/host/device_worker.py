"""A lane: one device, which does one action at a time in the order in which they came."""

import asyncio
import base64
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog

from vpt.host.drivers import ActionFailed, Driver, Job, Outcome
from vpt.host.journal import Journal, Pair
from vpt.host.responses import Refusal, Reply, refused
from vpt.host.settings import DeviceSpec

EVIDENCE_S = 10
OVERSLEPT_S = 0.5  # more than a busy loop is late

log = structlog.get_logger()

Why = Callable[[float], Reply]


def _future() -> "asyncio.Future[Any]":
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True, eq=False)
class Ticket:
    """An action that has come: what to do, for which attempt, and the answer it will get."""

    command: str
    job: Job
    key: str | None
    pair: Pair | None
    begun: bool = False
    stopped: "asyncio.Future[Why]" = field(default_factory=_future)
    reply: "asyncio.Future[Reply]" = field(default_factory=_future)

    def stop(self, why: Why) -> None:
        """Have it stopped; the first reason counts. `why` makes the answer from the seconds."""
        if not self.stopped.done():
            self.stopped.set_result(why)


class Lane:
    """Serves the tickets of one device."""

    def __init__(self, spec: DeviceSpec, driver: Driver, journal: Journal) -> None:
        """Do the actions with `driver`; what is begun is noted in `journal` first."""
        self.spec = spec
        self.driver = driver
        self._journal = journal
        self._waiting: deque[Ticket] = deque()
        self._came = asyncio.Event()
        self._current: Ticket | None = None

    @property
    def tickets(self) -> list[Ticket]:
        """All that run or wait."""
        return [*([self._current] if self._current else []), *self._waiting]

    def put(self, ticket: Ticket) -> None:
        """Have it done when its turn comes."""
        self._waiting.append(ticket)
        self._came.set()

    def stop(self, tickets: list[Ticket], why: Why) -> None:
        """Stop these: one that waits is answered at once, the running one when it is stopped."""
        for ticket in tickets:
            ticket.stop(why)
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                ticket.reply.set_result(why(0))

    async def serve(self) -> None:
        """Do what comes, until cancelled."""
        while True:
            while not self._waiting:
                self._came.clear()
                await self._came.wait()
            self._current = self._waiting.popleft()
            await self._turn(self._current)
            self._current = None

    async def _turn(self, ticket: Ticket) -> None:
        """One action; a driver that breaks answers 500 and does not end the lane."""
        acting = asyncio.create_task(self._act(ticket), name=f"action-{self.spec.local_id}")
        try:
            await asyncio.wait({acting})
        finally:
            acting.cancel()
        error = acting.exception()
        if error is not None:
            log.error("action_broke", device_id=self.spec.local_id, exc_info=error)
            ticket.reply.set_result(refused(500, "driver_error", "the driver broke; see the log"))
        else:
            ticket.reply.set_result(acting.result())

    async def _act(self, ticket: Ticket) -> Reply:
        if ticket.key is not None:
            try:
                await self._journal.begin(ticket.key)
            except OSError as error:
                return refused(503, "journal_unavailable", f"nothing was done: {error.strerror}")
            ticket.begun = True
        started = time.monotonic()
        names = {"device_id": self.spec.local_id, "command": ticket.command}
        log.info("action_started", **names, **_attempt(ticket.pair))
        reply = await self._do(ticket, started)
        duration_ms = round((time.monotonic() - started) * 1000)
        log.info("action_finished", **names, duration_ms=duration_ms, status=reply.status)
        return reply

    async def _do(self, ticket: Ticket, started: float) -> Reply:
        """Run the job until it ends, is stopped or runs out of time."""
        if ticket.stopped.done():
            return ticket.stopped.result()(0)
        doing = asyncio.ensure_future(ticket.job.run())
        await _either(doing, ticket.stopped, ticket.job.limit_s)
        if not doing.done():
            doing.cancel()
            await asyncio.wait({doing})
            await self.driver.stop()
        elapsed = time.monotonic() - started
        if doing.cancelled():
            if ticket.stopped.done():
                return ticket.stopped.result()(elapsed)
            return failure(f"no result within {ticket.job.limit_s:g} s; stopped", elapsed)
        return await self._reply(doing, elapsed)

    async def _reply(self, doing: "asyncio.Future[Outcome]", elapsed: float) -> Reply:
        error = doing.exception()
        if error is None:
            outcome = doing.result()
            return answer({"success": True, **_shown(outcome.output, outcome.screenshot)}, elapsed)
        if isinstance(error, Refusal):
            return error.reply()
        if not isinstance(error, ActionFailed):
            await self.driver.stop()
            raise error
        shown = _shown(error.output, await self._evidence())
        return answer({"success": False, "error": _sound(str(error)), **shown}, elapsed)

    async def _evidence(self) -> bytes | None:
        try:
            async with asyncio.timeout(EVIDENCE_S):
                return await self.driver.evidence()
        except TimeoutError:
            return None


async def _either(
    doing: "asyncio.Future[Any]", stopped: "asyncio.Future[Any]", limit: float
) -> None:
    """Return when one of them is done, after `limit` seconds at the latest.

    A host that was frozen (a paused machine, SIGSTOP) oversleeps; what the action did meanwhile
    was not noticed yet, and a time that nobody had is no failure: it begins anew.
    """
    late = True
    while late:
        began, first = time.monotonic(), asyncio.FIRST_COMPLETED
        done, _ = await asyncio.wait({doing, stopped}, timeout=limit, return_when=first)
        late = not done and time.monotonic() - began > limit + OVERSLEPT_S


def answer(fields: dict[str, Any], elapsed: float) -> Reply:
    """An answer about an action that was done; `elapsed` in seconds."""
    times = {
        "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "duration_ms": round(elapsed * 1000),
    }
    return Reply(200, orjson.dumps({**fields, **times}))


def failure(error: str, elapsed: float) -> Reply:
    """The answer of an action that did not succeed; `elapsed` in seconds."""
    return answer({"success": False, "error": error}, elapsed)


def _shown(output: str | None, screenshot: bytes | None) -> dict[str, str]:
    shown = {} if output is None else {"output": _sound(output)}
    if screenshot is not None:
        shown["screenshot"] = base64.b64encode(screenshot).decode()
    return shown


def _sound(text: str) -> str:
    """Without the lone surrogates that a page may hold: they cannot be sent."""
    return text.encode(errors="replace").decode()


def _attempt(pair: Pair | None) -> dict[str, Any]:
    return {} if pair is None else {"execution_id": pair.execution_id, "attempt": pair.attempt}
