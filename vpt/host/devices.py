"""The bench: all devices of the host, and the promise that a key is acted on once."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from vpt.host.device_worker import Lane, Ticket, Why, failure
from vpt.host.drivers import Params
from vpt.host.journal import Journal, Pair
from vpt.host.responses import Refusal, Reply, refused

CANCEL_S = 30
CLOSE_S = 8

log = structlog.get_logger()


def cancelled(elapsed: float) -> Reply:
    """The answer of an action that was cancelled after `elapsed` seconds."""
    return failure("cancelled", elapsed)


def stopping(_elapsed: float) -> Reply:
    """The answer of what the host cannot do because it stops."""
    return refused(503, "host_stopping", "the host is stopping")


class Bench:
    """Takes actions and cancels; owned by the server."""

    def __init__(self, lanes: Sequence[Lane], journal: Journal) -> None:
        """Work on these devices."""
        self.lanes = {lane.spec.local_id: lane for lane in lanes}
        self._journal = journal
        self._working: dict[str, asyncio.Task[Reply]] = {}
        self._manual: set[asyncio.Task[Reply]] = set()
        self._serving: list[asyncio.Task[None]] = []
        self._stopping = False

    def start(self) -> None:
        """Let the devices work."""
        for name, lane in self.lanes.items():
            self._serving.append(asyncio.create_task(lane.serve(), name=f"lane-{name}"))

    async def act(self, body: Mapping[str, Any], key: str | None) -> Reply:
        """Do an action and answer; a repeated key gets the first answer and does nothing.

        The action goes on when the caller is cancelled.
        """
        if key is None:
            manual = asyncio.create_task(self._work(body, None), name="manual-action")
            self._manual.add(manual)
            manual.add_done_callback(self._manual.discard)
            return await asyncio.shield(manual)
        working = self._working.get(key)
        if working is None:
            line = self._journal.find(key)
            if line is not None and line.answered:
                return await self._journal.read(line)
            if line is not None:
                return refused(503, "fate_unknown", "begun before the host restarted; not redone")
            working = asyncio.create_task(self._work(body, key), name=f"key-{key}")
            self._working[key] = working
            working.add_done_callback(lambda _: self._working.pop(key))
        return await asyncio.shield(working)

    async def cancel(self, pair: Pair) -> int:
        """Stop all of an attempt and never begin anything of it again; tells how many were stopped.

        Returns when they are gone and the cancel is on the disk; Refusal when that fails.
        """
        self._journal.mark_cancelled(pair)
        found = [ticket for ticket in self._tickets() if ticket.pair == pair]
        await self._stop(found, cancelled, CANCEL_S)
        try:
            await self._journal.cancel(pair)
        except OSError as error:
            raise Refusal(503, "journal_unavailable", f"not kept: {error.strerror}") from error
        log.info(
            "attempt_cancelled",
            execution_id=pair.execution_id,
            attempt=pair.attempt,
            stopped=len(found),
        )
        return len(found)

    def refuse(self) -> None:
        """Take nothing more."""
        self._stopping = True

    async def close(self) -> None:
        """Stop what runs, answer what waits, let go of the devices; harmless when repeated."""
        self.refuse()
        try:
            await self._stop(self._tickets(), stopping, CLOSE_S)
        except Refusal as refusal:
            log.warning("host_stop_incomplete", error=str(refusal))
        for serving in self._serving:
            serving.cancel()
        answering = {*self._serving, *self._working.values(), *self._manual}
        if answering:
            await asyncio.wait(answering, timeout=CLOSE_S)
        for lane in self.lanes.values():
            await lane.driver.close()

    def _tickets(self) -> list[Ticket]:
        return [ticket for lane in self.lanes.values() for ticket in lane.tickets]

    async def _stop(self, tickets: list[Ticket], why: Why, limit_s: float) -> None:
        for lane in self.lanes.values():
            lane.stop([ticket for ticket in lane.tickets if ticket in tickets], why)
        if not tickets:
            return
        _, running = await asyncio.wait({ticket.reply for ticket in tickets}, timeout=limit_s)
        if running:
            raise Refusal(504, "not_stopped", f"still running after {limit_s} s")

    async def _work(self, body: Mapping[str, Any], key: str | None) -> Reply:
        try:
            lane, ticket = self._take(body, key)
        except Refusal as refusal:
            return refusal.reply()
        lane.put(ticket)
        reply = await ticket.reply
        if key is not None and ticket.begun:
            await self._note(key, reply)
        return reply

    async def _note(self, key: str, reply: Reply) -> None:
        try:
            await self._journal.end(key, reply)
        except OSError:
            # The caller gets the true answer all the same; asked again, the fate is unknown.
            log.warning("action_answer_not_kept", key=key)

    def _take(self, body: Mapping[str, Any], key: str | None) -> tuple[Lane, Ticket]:
        """Check an action and make its ticket; Refusal when it will not be done."""
        if self._stopping:
            raise Refusal(503, "host_stopping", "the host is stopping")
        pair = attempt_of(body)
        if pair is not None and self._journal.is_cancelled(pair):
            raise Refusal(409, "cancelled", "this attempt was cancelled")
        lane = self._lane(body.get("device_id"))
        command, params = body.get("command"), body.get("params")
        if not isinstance(command, str):
            raise Refusal(400, "bad_request", "command: a text is needed")
        if not isinstance(params or {}, dict):
            raise Refusal(400, "bad_request", "params: an object is needed")
        job = lane.driver.prepare(command, Params(params or {}))
        return lane, Ticket(command, job, key, pair)

    def _lane(self, device_id: object) -> Lane:
        if device_id is None and len(self.lanes) == 1:
            return next(iter(self.lanes.values()))
        if device_id is None:
            raise Refusal(400, "device_needed", "device_id: this host has several devices")
        if not isinstance(device_id, str) or device_id not in self.lanes:
            raise Refusal(404, "unknown_device", f"this host has no device {device_id!r}")
        return self.lanes[device_id]


def attempt_of(body: Mapping[str, Any]) -> Pair | None:
    """The attempt that a body names, or None; Refusal when it is neither."""
    execution_id, attempt = body.get("execution_id"), body.get("attempt")
    if execution_id is None:
        return None
    if not isinstance(execution_id, str) or type(attempt) is not int:
        raise Refusal(400, "bad_request", "execution_id: a text, attempt: a whole number")
    return Pair(execution_id, attempt)
