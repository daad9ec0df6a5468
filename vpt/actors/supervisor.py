"""One actor a host: starts them, finds them by name, and starts them anew when they crash."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

import structlog
from structlog.contextvars import bind_contextvars

from vpt.actors import messages as m
from vpt.actors.host import HostActor, Surroundings
from vpt.actors.restore import Keys, restore
from vpt.actors.state import Limits, view_of
from vpt.errors import DatabaseAwayError, NotFoundError, UnavailableError
from vpt.model import DeviceStatus, DeviceView, HostStatus, HostView, Reason

log = structlog.get_logger(__name__)

_RESTARTS = 5  # in
_WINDOW = 60.0  # seconds; more, and the host is held back that long
_PAUSE = 0.5  # seconds between tries while the database is away
_ASK = 10.0  # seconds


class Hosts:
    """All host actors by name."""

    def __init__(self, world: Surroundings, keys: Keys, limits: Limits) -> None:
        self._world = world
        self._keys = keys
        self._limits = limits
        self._actors: dict[str, HostActor] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._restarting: set[asyncio.Task[None]] = set()
        self._down: set[str] = set()  # registered, but their actor crashed
        self._crashes: dict[str, deque[float]] = {}
        self._closing = False

    def __contains__(self, host_id: str) -> bool:
        return host_id in self._actors

    def __len__(self) -> int:
        return len(self._actors)

    @property
    def inbox_depth(self) -> int:
        """How many messages wait in all inboxes."""
        return sum(actor.depth for actor in self._actors.values())

    async def start(self) -> None:
        """Load every registered host and begin to probe it."""
        for row in await self._world.shared.db.rows("lab_hosts"):
            await self.load(row["id"])

    async def load(self, host_id: str) -> bool:
        """Start the actor of a registered host from the database; False when it lives already."""
        if host_id in self._actors:
            return False
        now = asyncio.get_running_loop().time()
        crashes = sum(now - moment < _WINDOW for moment in self._crashes.get(host_id, ()))
        restored = await restore(self._world.shared.db, self._keys, self._limits, host_id, crashes)
        if restored is None or host_id in self._actors or self._closing:
            return False
        actor = HostActor(restored.state, restored.resumed, self._world, restored.last_seen)
        self._actors[host_id] = actor
        self._world.dispatcher.announce(view_of(restored.state))
        context = Context()  # its log lines belong to no request, but all to this host
        context.run(bind_contextvars, host_id=host_id)
        task = context.run(asyncio.create_task, actor.run(), name=f"host {host_id}")
        self._tasks[host_id] = task
        task.add_done_callback(lambda done: self._ended(host_id, actor, done))
        return True

    def tell(self, host_id: str, message: m.Message) -> None:
        """Leave a message; for a host without an actor the database has to do."""
        actor = self._actors.get(host_id)
        if actor is not None:
            actor.tell(message)

    async def ask(
        self, host_id: str, make: Callable[[int], m.Message], seconds: float = _ASK
    ) -> Any:
        """Leave a command and wait for its answer; NotFoundError when there is no such host."""
        actor = self._actors.get(host_id)
        if actor is None and host_id in self._down:
            raise UnavailableError("The host's actor crashed: try again in a moment.")
        if actor is None:
            raise NotFoundError("There is no such host.")
        return await actor.ask(make, seconds)

    # ------------------------------------------------------------ ends

    async def quiet(self, seconds: float) -> None:
        """Let what is in flight end, `seconds` at most; nothing more goes out."""
        for actor in self._actors.values():
            actor.tell(m.ShutdownBegun())
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until and not all(  # noqa: ASYNC110 (many, and only at the stop)
            actor.quiet for actor in self._actors.values()
        ):
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """End all actors."""
        self._closing = True
        tasks = [*self._tasks.values(), *self._restarting]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._world.shared.close()

    def _ended(self, host_id: str, actor: HostActor, task: asyncio.Task[None]) -> None:
        actor.ended()
        self._actors.pop(host_id, None)
        self._tasks.pop(host_id, None)
        self._world.dispatcher.host_gone(host_id)
        if task.cancelled() or self._closing:
            return
        error = task.exception()
        if error is None:
            return
        log.error("host_actor_crashed", host_id=host_id, exc_info=error)
        self._world.tally.restarts += 1
        self._world.dispatcher.announce(_held_back(actor, Reason.PROBES))
        self._start_again(host_id, self._restart(host_id, actor))

    def bring_back(self, host_id: str) -> None:
        """Start the actor of a host that is registered still, as soon as the database answers."""
        self._start_again(host_id, self._load_patiently(host_id))

    def _start_again(self, host_id: str, work: Coroutine[Any, Any, None]) -> None:
        self._down.add(host_id)
        again = asyncio.get_running_loop().create_task(work, name=f"restart {host_id}")
        self._restarting.add(again)
        again.add_done_callback(lambda done: self._restarted(host_id, done))

    def _restarted(self, host_id: str, task: asyncio.Task[None]) -> None:
        self._restarting.discard(task)
        self._down.discard(host_id)
        if host_id not in self._actors:  # it was deleted meanwhile
            self._world.dispatcher.host_gone(host_id)

    async def _restart(self, host_id: str, actor: HostActor) -> None:
        now = asyncio.get_running_loop().time()
        crashes = self._crashes.setdefault(host_id, deque(maxlen=_RESTARTS + 1))
        crashes.append(now)
        if len(crashes) > _RESTARTS and now - crashes[0] < _WINDOW:
            await self._hold_back(host_id, actor)
        await self._load_patiently(host_id)

    async def _load_patiently(self, host_id: str) -> None:
        while True:
            try:
                await self.load(host_id)
                return
            except DatabaseAwayError:
                await asyncio.sleep(_PAUSE)
            except Exception:
                log.exception("host_actor_not_started", host_id=host_id)
                await asyncio.sleep(_WINDOW)

    async def _hold_back(self, host_id: str, actor: HostActor) -> None:
        """Show the host as broken for a while: its actor cannot be kept alive."""
        log.critical("host_actor_broken", host_id=host_id, held_back_s=_WINDOW)
        view = _held_back(actor, Reason.BROKEN)
        self._world.dispatcher.announce(view)
        try:
            await actor.ledger.statuses(view)
        finally:
            await asyncio.sleep(_WINDOW)
            self._crashes.pop(host_id, None)


def _held_back(actor: HostActor, reason: Reason) -> HostView:
    """Show a host whose actor is dead: it is still registered, and gets nothing."""
    devices = tuple(
        DeviceView(lane.device, DeviceStatus.OFFLINE) for lane in actor.state.lanes.values()
    )
    return HostView(actor.state.host, HostStatus.SUSPECT, reason, devices)
