"""One actor a host: starts them, finds them by host id, and starts them again when they end."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

import structlog
from msgspec.structs import replace
from structlog.contextvars import bind_contextvars

from vpt.actors import messages as m
from vpt.actors.host import HostActor
from vpt.actors.restore import Keys, Restored, restore, restore_all
from vpt.actors.services import HostServices
from vpt.actors.state import Limits, device_reason, must_register, view_of
from vpt.background import Background
from vpt.errors import ActionTimeoutError, NotFoundError, UnavailableError
from vpt.model import DeviceStatus, DeviceView, HostStatus, HostView, Presence, Reason
from vpt.store.patience import patiently

log = structlog.get_logger(__name__)

_RESTARTS = 5  # in
_WINDOW = 60.0  # seconds; more, and the host is held back that long
_ASK = 10.0  # seconds
_NO_ASKER = 0  # the number of an ask without an asker; those of real asks begin at 1


class Supervisor:
    """All host actors, and the hosts whose actor ended and is to be started again.

    A host's `lock` is held from the last read of its rows until its actor has them: by what starts
    the actor, deletes the host, leases a device, or sends what was changed in the database. So no
    actor works with rows that are older than the database's, and none is started for a host that
    is being deleted.
    """

    def __init__(self, services: HostServices, keys: Keys, limits: Limits) -> None:
        self._services = services
        self._keys = keys
        self._limits = limits
        self._actors: dict[str, HostActor] = {}
        self._ended: dict[str, HostActor] = {}  # the last actors of hosts that are to get another
        self._unloaded: set[str] = set()  # hosts that could not be loaded at the start
        self._crashes: dict[str, deque[float]] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._background = Background()
        self._quieting = False  # the server stops: hosts are sent nothing more
        self._closing = False

    def __len__(self) -> int:
        return len(self._actors)

    @property
    def inbox_depth(self) -> int:
        """How many messages wait in all inboxes."""
        return sum(actor.depth for actor in self._actors.values())

    def lock(self, host_id: str) -> asyncio.Lock:
        """Return the host's lock; it exists as long as it is held or waited for."""
        return self._locks.setdefault(host_id, asyncio.Lock())

    # ------------------------------------------------------------ messages

    def tell(self, host_id: str, message: m.Message) -> None:
        """Leave a message; nothing happens when the host has no actor.

        The next actor begins with what the database has.
        """
        actor = self._actors.get(host_id)
        if actor is not None:
            actor.tell(message)

    async def ask(
        self, host_id: str, make: Callable[[int], m.Message], seconds: float = _ASK
    ) -> Any:
        """Leave a command and return its answer; NotFoundError when there is no such host."""
        actor = self._actors.get(host_id)
        if actor is None and (host_id in self._ended or host_id in self._unloaded):
            raise UnavailableError("The host's actor is being started again: try again soon.")
        if actor is None:
            raise NotFoundError("There is no such host.")
        return await actor.ask(make, seconds)

    async def inform(self, host_id: str, make: Callable[[int], m.Message]) -> None:
        """Send an actor a command that makes it know what is stored, and wait until it does.

        This never fails, since the change is stored already. An actor whose inbox is full gets
        the command all the same, a slow one handles it later, and when there is none, the next
        one reads the change from the database. The caller holds the host's lock.
        """
        with suppress(NotFoundError, ActionTimeoutError):
            try:
                await self.ask(host_id, make)
            except UnavailableError:
                self.tell(host_id, make(_NO_ASKER))

    def must_register(self, host_id: str) -> bool:
        """Return whether a host that is heard of is to be told to register anew."""
        actor = self._actors.get(host_id)
        return actor is not None and must_register(actor.state)

    async def masked_presences(
        self, host_id: str, presences: Mapping[str, Presence]
    ) -> Mapping[str, Presence]:
        """Return what a host says of its devices without the secrets that it was told lately."""
        return await self._services.secrets.masked_presences(host_id, presences)

    # ------------------------------------------------------------ starting

    async def start(self) -> None:
        """Load every registered host and begin to probe it.

        One that cannot be loaded is shown as broken and tried again later: it keeps no other out.
        """
        db = self._services.shared.db
        restored, failed = await restore_all(db, self._keys, self._limits)
        for host in restored:
            self._start(host)
        for one in failed:
            log.error("host_actor_not_started", host_id=one.host_id, exc_info=one.error)
            self._unloaded.add(one.host_id)
            self._services.dispatcher.announce(one.view)
            self._background.start(self._load_later(one.host_id), f"host: {one.host_id}")

    async def _load_later(self, host_id: str) -> None:
        """Try to load a host that could not be loaded at the start, until it has an actor."""
        while host_id in self._unloaded:
            await asyncio.sleep(_WINDOW)
            try:
                await patiently("host", lambda: self._load_unloaded(host_id), host_id=host_id)
            except Exception:
                log.exception("host_actor_not_started", host_id=host_id)

    async def _load_unloaded(self, host_id: str) -> None:
        async with self.lock(host_id):
            if host_id in self._unloaded and not self._closing:
                await self.load(host_id)

    async def load(self, host_id: str) -> bool:
        """Start the actor of a registered host from the database; False when it has one.

        The caller holds the host's lock.
        """
        if host_id in self._actors or self._closing:
            return False
        db, crashes = self._services.shared.db, self._crashes_lately(host_id)
        restored = await restore(db, self._keys, self._limits, host_id, crashes)
        if restored is None:
            self.forget(host_id)
            return False
        self._start(restored)
        return True

    def _crashes_lately(self, host_id: str) -> int:
        now = asyncio.get_running_loop().time()
        return sum(now - moment < _WINDOW for moment in self._crashes.get(host_id, ()))

    def _start(self, restored: Restored) -> None:
        if self._closing:  # the task below would not start, and the actor would never end
            return
        # The other actors were told ShutdownBegun: a new one must not send anything either.
        state = replace(restored.state, halted=self._quieting)
        actor = HostActor(state, restored.resumed, self._services, restored.last_seen)
        self._actors[actor.name] = actor
        self._ended.pop(actor.name, None)
        self._unloaded.discard(actor.name)
        self._services.dispatcher.announce(view_of(state))
        self._background.start(self._live(actor), f"host: {actor.name}")

    # ------------------------------------------------------------ ends

    async def retire(self, host_id: str) -> None:
        """End the actor of a host that is about to be deleted, when it has one.

        Raises ConflictError while it runs something. The caller holds the host's lock. If the
        host is still registered when the lock is released, it gets another actor, whatever the
        reason. So a deletion that fails or is cancelled halfway leaves the host as it was.
        """
        actor = self._actors.get(host_id)
        if actor is not None:
            await self.ask(host_id, m.Retire)
            self._remove(actor)  # it reads nothing more, so it must not be sent anything

    def forget(self, host_id: str) -> None:
        """Drop what is known of a host that has no actor and is not registered any more."""
        self._ended.pop(host_id, None)
        self._unloaded.discard(host_id)
        self._crashes.pop(host_id, None)
        self._services.dispatcher.host_gone(host_id)

    async def quiet(self, seconds: float) -> None:
        """Send hosts nothing more, and wait for what is in flight, `seconds` at most."""
        self._quieting = True
        for actor in self._actors.values():
            actor.tell(m.ShutdownBegun())
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until and not all(  # noqa: ASYNC110 (many, and only at the stop)
            actor.quiet for actor in self._actors.values()
        ):
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """End all actors; none is started any more."""
        self._closing = True
        await self._background.close()
        await self._services.shared.close()

    async def _live(self, actor: HostActor) -> None:
        """Run an actor until it ends, then start the host's next one.

        That it ended without a crash does not mean that its host was deleted: only the database
        knows that.
        """
        bind_contextvars(host_id=actor.name)  # all that it logs belongs to this host
        crashed = False
        try:
            await actor.run()
        except Exception:  # a crash ends one actor and nothing else
            crashed = True
            log.exception("host_actor_crashed", host_id=actor.name)
        finally:
            actor.ended()
            self._remove(actor)
        if crashed:
            await self._count_crash(actor)
        await self._start_next(actor)

    def _remove(self, actor: HostActor) -> None:
        """Remove an actor that ended, and show its host as held back until there is a next one."""
        if self._actors.get(actor.name) is not actor:
            return
        del self._actors[actor.name]
        # What was sent to the actor and has not begun goes back into the queue ...
        self._services.dispatcher.host_gone(actor.name)
        if not self._closing:
            # ... and is not refused there, as its host is registered still.
            self._ended[actor.name] = actor
            self._services.dispatcher.announce(_held_back(actor, Reason.PROBES))

    def _awaits_next(self, actor: HostActor) -> bool:
        """Return whether the host still waits for the actor after this one.

        It does not when it was deleted meanwhile, or registered, which starts one at once.
        """
        return self._ended.get(actor.name) is actor and not self._closing

    async def _count_crash(self, actor: HostActor) -> None:
        """Note a crash, and hold the host back for a while when there were too many."""
        self._services.tally.restarts += 1
        now = asyncio.get_running_loop().time()
        crashes = self._crashes.setdefault(actor.name, deque(maxlen=_RESTARTS + 1))
        crashes.append(now)
        if len(crashes) > _RESTARTS and now - crashes[0] < _WINDOW and self._awaits_next(actor):
            await self._hold_back(actor)

    async def _hold_back(self, actor: HostActor) -> None:
        """Show the host as broken for a while: its actor cannot be kept alive."""
        log.critical("host_actor_broken", host_id=actor.name, held_back_s=_WINDOW)
        view = _held_back(actor, Reason.BROKEN)
        self._services.dispatcher.announce(view)
        try:
            await patiently("store_statuses", lambda: self._show(actor, view), host_id=actor.name)
        except Exception:  # it is only shown: the host gets its next actor all the same
            log.exception("host_actor_not_started", host_id=actor.name)
        await asyncio.sleep(_WINDOW)
        self._crashes.pop(actor.name, None)

    async def _show(self, actor: HostActor, view: HostView) -> None:
        """Store how the host looks, unless it has another actor by now, which stores its own."""
        if self._awaits_next(actor):
            await actor.ledger.statuses(view)

    async def _start_next(self, actor: HostActor) -> None:
        """Start the host's next actor as soon as the database answers."""
        while self._awaits_next(actor):
            try:
                await patiently("host", lambda: self._load_next(actor), host_id=actor.name)
            except Exception:
                log.exception("host_actor_not_started", host_id=actor.name)
                await asyncio.sleep(_WINDOW)

    async def _load_next(self, actor: HostActor) -> None:
        async with self.lock(actor.name):
            if self._awaits_next(actor):
                await self.load(actor.name)


def _held_back(actor: HostActor, reason: Reason) -> HostView:
    """Return how a host looks that has no actor now: it is registered, and gets nothing."""
    devices = tuple(
        DeviceView(lane.device, DeviceStatus.OFFLINE, *device_reason(lane))
        for lane in actor.state.lanes.values()
    )
    return HostView(actor.state.host, HostStatus.SUSPECT, reason, devices)
