"""The lab: all that handlers may ask of the actors, by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from random import uniform
from typing import Any
from uuid import uuid4
from weakref import WeakValueDictionary

import aiojobs
import structlog

from vpt.actors import messages as m
from vpt.actors.campaign import CampaignJob, store_campaign
from vpt.actors.dispatcher import Dispatcher
from vpt.actors.host import Surroundings
from vpt.actors.ledger import Shared
from vpt.actors.queue import Queue
from vpt.actors.restore import Keys, device_of, host_of
from vpt.actors.samples import Samples
from vpt.actors.state import Limits
from vpt.actors.supervisor import Hosts, every
from vpt.actors.waits import Waits
from vpt.config import Config
from vpt.dialects.base import Dialect, HostTroubleError
from vpt.errors import (
    ConflictError,
    DatabaseAwayError,
    LockedError,
    NotFoundError,
    NotRegisteredError,
    UnavailableError,
)
from vpt.events import Events
from vpt.measures import Tally
from vpt.model import (
    Answer,
    CampaignProgress,
    Credential,
    Device,
    DeviceStatus,
    Event,
    ExecutionStatus,
    Host,
    HostStatus,
    HostView,
    Json,
    NewCampaign,
    NewExecution,
    Place,
    Registration,
    RequestKey,
    Submitted,
    TestProgress,
)
from vpt.store.artifacts import Artifacts
from vpt.store.db import Database, Session
from vpt.store.disk import EVERY as DISK_EVERY
from vpt.store.disk import Disk
from vpt.store.prune import Ages, Pruning
from vpt.store.seal import Sealer

log = structlog.get_logger(__name__)

_SWEEP = 5.0  # seconds
_EXPLAIN = 0.25  # seconds between looks at why executions wait
_FLUSH = 2.0  # seconds between writes of when hosts were seen
_SAMPLE = 5.0  # seconds between writes of how hosts fare
_MEANS = 600.0  # seconds; so an hour has means soon after it is over
_PRUNE = (120.0, 600.0)  # seconds between looks whether a day is over, other ones at each start
_RANK = {Credential.OPEN: 0, Credential.JOIN: 1, Credential.OWN: 2}
_LOOK_AGAIN = 5.0  # seconds; news may be lost with a connection, the database's word is not
_LOOKS = 100  # a second at most, however many wait
_MARGIN = 2.0  # seconds that an asker waits longer than what it asked for


class Lab:
    """Hosts, queue and campaigns, started and stopped together."""

    def __init__(
        self,
        config: Config,
        db: Database,
        events: Events,
        dialect: Dialect,
        *,
        may_act: Callable[[], bool] = lambda: True,
    ) -> None:
        if config.secret_key is None:
            raise ValueError("SECRET_KEY is missing: see config.with_keys")
        self._config = config
        self._db = db
        self._events = events
        self._dialect = dialect
        self._may_act = may_act
        self._sealer = Sealer(config.secret_key)
        self.tally = Tally()
        self.disk = Disk(config.vpt_data_dir, config.min_free_disk)
        self._dispatcher = Dispatcher(self._tell)
        self._queue = Queue(db, events, self._dispatcher, max_queued=config.max_queued)
        self._waits = Waits(self._dispatcher, events)
        self._keys = Keys(self._sealer, config.api_key)
        self._hosts = Hosts(self._surroundings(), self._keys, limits_of(config))
        self._campaigns: dict[str, CampaignJob] = {}
        self._seen: set[str] = set()
        self._samples = Samples(db)
        self._pruning = Pruning(db, Artifacts(config.vpt_data_dir), Ages.of(config))
        self._unsure: set[str] = set()  # leases that may stand in the database, and must not
        self._renewed: dict[str, tuple[str, str]] = {}  # leases that may run on: host and device
        self._telling: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._finals: dict[str, set[asyncio.Future[None]]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._jobs: aiojobs.Scheduler | None = None
        self._closing = False
        self._started, self._acts = uuid4().hex, count(1)  # together a key that no action had
        events.subscribe(self._on_event)

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            shared=Shared(self._db),
            dialect=self._dialect,
            events=self._events,
            dispatcher=self._dispatcher,
            artifacts=Artifacts(self._config.vpt_data_dir),
            probe_timeout=self._config.host_probe_timeout,
            probed=self._probed,
            requeue=self._queue.requeue,
            not_taken=self._queue.not_taken,
            tally=self.tally,
            may_act=self._may_act,
        )

    def _probed(self, host_id: str, ms: float | None) -> None:
        if ms is not None:
            self._seen.add(host_id)
        self._samples.probed(host_id, ms)

    def _tell(self, host_id: str, message: m.Message) -> None:
        self._hosts.tell(host_id, message)

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        """Load hosts, queue and campaigns, and go on where the last server stopped."""
        self._jobs = aiojobs.Scheduler(limit=None, close_timeout=5)
        await self.disk.look()
        await self._hosts.start()
        await self._queue.load()
        for row in await self._db.rows("running_campaigns"):
            await self._run_campaign(row["id"])
        loop = asyncio.get_running_loop()
        look = uniform(*_PRUNE)  # noqa: S311 (no secret)
        self._tasks = [
            loop.create_task(every(_SWEEP, self._queue.sweep), name="queue sweep"),
            loop.create_task(every(_SWEEP, self._sweep), name="lab sweep"),
            loop.create_task(every(_EXPLAIN, self._waits.tell), name="queue reasons"),
            loop.create_task(every(_FLUSH, self._flush_seen), name="last seen"),
            loop.create_task(every(_SAMPLE, self._samples.flush), name="samples"),
            loop.create_task(every(_MEANS, self._pruning.prune_samples), name="means of samples"),
            loop.create_task(every(look, self._pruning.prune_daily), name="pruning"),
            loop.create_task(every(DISK_EVERY, self.disk.look), name="disk"),
        ]
        log.info("lab_started", hosts=len(self._hosts), queued=len(self._dispatcher))

    async def settle(self, grace: float) -> None:
        """Refuse new work, and let steps in flight end within `grace` (s)."""
        self._closing = True
        self._dispatcher.close()
        await self._hosts.quiet(grace)

    async def stop(self) -> None:
        """End all; what is not over is left to the next start."""
        if self._jobs is not None:
            await self._jobs.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._queue.close()
        await self._hosts.stop()
        log.info("lab_stopped")

    def _open(self) -> None:
        if self._closing:
            raise UnavailableError("The server is stopping.", retry_after=5)

    # ------------------------------------------------------------ executions

    async def submit(self, new: NewExecution, key: RequestKey | None = None) -> Submitted:
        """Run it, at once or when a device is free; `key` is stored with it.

        Raises NothingFitsError when no registered host could ever run it, UnavailableError
        when the queue or the disk is full or the server stops.
        """
        self._open()
        self.disk.check()
        timeout_s = new.queue_timeout_s or self._config.queue_timeout
        return await self._queue.submit(new, timeout_s, key)

    async def cancel(self, execution_id: str, user_id: str) -> None:
        """Store the wish, then end it; NotFoundError, ConflictError when it is final."""
        row = await self._db.row("request_cancel", execution_id=execution_id)
        if row is None:
            if await self._db.row("execution_status", execution_id=execution_id) is None:
                raise NotFoundError("There is no such execution.")
            raise ConflictError("The execution is over already.")
        log.info("test_execution_cancel_requested", execution_id=execution_id, user_id=user_id)
        await self._carry_out_cancel(execution_id)

    async def _carry_out_cancel(self, execution_id: str) -> None:
        """End it in the queue, or tell the host that it runs on."""
        if await self._queue.end(execution_id, ExecutionStatus.CANCELLED, None, None):
            return
        row = await self._db.row("execution_status", execution_id=execution_id)
        if row is not None and row["host_id"] is not None:
            self._hosts.tell(row["host_id"], m.Cancel(execution_id))

    async def until_final(self, execution_id: str, seconds: float) -> None:
        """Return when the execution is final, after `seconds` at the latest."""
        await self._until(execution_id, seconds, "execution_status", "execution_id")

    async def until_campaign_final(self, campaign_execution_id: str, seconds: float) -> None:
        """Return when the campaign execution is final, after `seconds` at the latest."""
        await self._until(campaign_execution_id, seconds, "campaign_status", "id")

    async def final_status(self, execution_id: str) -> ExecutionStatus:
        """Wait until an execution is final, however long it takes; give its status."""
        while True:
            with suppress(DatabaseAwayError):
                await self.until_final(execution_id, _LOOK_AGAIN + len(self._finals) / _LOOKS)
                row = await self._db.row("execution_status", execution_id=execution_id)
                status = ExecutionStatus(row["status"]) if row else ExecutionStatus.CANCELLED
                if status.final:
                    return status
                continue
            await asyncio.sleep(_MARGIN)

    async def _until(self, thing: str, seconds: float, query: str, arg: str) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._finals.setdefault(thing, set())
        waiters.add(future)
        try:
            row = await self._db.row(query, **{arg: thing})
            if row is not None and not ExecutionStatus(row["status"]).final:
                await asyncio.wait([future], timeout=seconds)
        finally:
            waiters.discard(future)
            if not waiters:
                self._finals.pop(thing, None)

    def _on_event(self, event: Event) -> None:
        match event:
            case TestProgress():
                thing = event.execution_id
            case CampaignProgress():
                thing = event.campaign_execution_id
            case _:
                return
        for future in self._finals.pop(thing, ()) if event.status.final else ():
            if not future.done():
                future.set_result(None)

    # ------------------------------------------------------------ campaigns

    async def start_campaign(self, new: NewCampaign, key: RequestKey | None = None) -> str:
        """Run a campaign; give its execution's id. Raises like submit."""
        self._open()
        self.disk.check()
        self._queue.check_room(sum(job.pending for job in self._campaigns.values()))
        await self._queue.all_possible(new.entries)
        campaign_execution_id = await store_campaign(self._db, new, key)
        began = CampaignProgress(
            campaign_execution_id, 0, len(new.entries), ExecutionStatus.RUNNING, 1
        )
        self._events.publish(began)
        await self._run_campaign(campaign_execution_id)
        return campaign_execution_id

    async def _run_campaign(self, campaign_execution_id: str) -> None:
        job = CampaignJob(
            campaign_execution_id,
            self._db,
            self._queue,
            self._events,
            self,
            self._config.campaign_queue_timeout,
        )
        self._campaigns[campaign_execution_id] = job
        if self._jobs is None:
            raise AssertionError("the lab was not started")
        await self._jobs.spawn(self._campaign(job))

    async def _campaign(self, job: CampaignJob) -> None:
        try:
            await job.run()
        except Exception:  # the sweep starts it anew from the database
            log.exception("campaign_crashed", campaign_execution_id=job.id)
        finally:
            self._campaigns.pop(job.id, None)

    async def cancel_campaign(self, campaign_execution_id: str, user_id: str) -> None:
        """Cancel what runs and skip the rest; NotFoundError, ConflictError when it is final."""
        row = await self._db.row("request_campaign_cancel", id=campaign_execution_id)
        if row is None:
            if await self._db.row("campaign_status", id=campaign_execution_id) is None:
                raise NotFoundError("There is no such campaign execution.")
            raise ConflictError("The campaign execution is over already.")
        log.info(
            "campaign_cancel_requested",
            campaign_execution_id=campaign_execution_id,
            user_id=user_id,
        )
        job = self._campaigns.get(campaign_execution_id)
        if job is not None:
            job.cancelled = True
        for entry in await self._db.rows("campaign_entries_of", id=campaign_execution_id):
            if entry["execution_id"] and not ExecutionStatus(entry["status"]).final:
                with suppress(ConflictError):
                    await self.cancel(entry["execution_id"], user_id)

    # ------------------------------------------------------------ hosts

    async def register(self, registration: Registration, *, peer: str) -> None:
        """Let a host join, or join anew.

        Raises ConflictError when the name belongs to a better credential, or to a host that
        still answers at another URL.
        """
        self._open()
        host = registration.host
        row = await self._db.row("lab_host", id=host.id)
        if row is not None:
            await self._check_successor(registration, row)
        await self._store_registration(registration, row)
        log.info("host_registered", host_id=host.id, host_url=host.url, peer=peer)
        async with self._known_anew(host.id) as known:
            if known is not None and not await self._hosts.load(host.id):
                await self._hosts.ask(host.id, lambda ask: m.Register(ask, *known))

    @asynccontextmanager
    async def _known_anew(
        self, host_id: str
    ) -> AsyncIterator[tuple[Host, tuple[Device, ...]] | None]:
        """Give a host and its devices as they are stored, one teller at a time.

        So the actor is never left with an older word than the database has.
        """
        async with self._telling.setdefault(host_id, asyncio.Lock()):
            async with self._db.session() as session:
                row = await session.row("lab_host", id=host_id)
                devices = await _devices(session, host_id)
            yield None if row is None else (host_of(row, self._keys), devices)

    async def _check_successor(self, registration: Registration, row: Any) -> None:
        if _RANK[registration.credential] < _RANK[Credential(row["credential"])]:
            raise ConflictError("The name belongs to a host that joined with a better credential.")
        old, new = host_of(row, self._keys), registration.host
        if (old.url, old.dialect) == (new.url, new.dialect):
            return
        if any(view.host.id == old.id and _at_work(view) for view in self.views()):
            raise ConflictError("A host of that name is at work at its old URL.")
        with suppress(HostTroubleError):
            await self._dialect.probe(old, self._config.host_probe_timeout)
            what = "at its old URL" if old.url != new.url else "in its old dialect"
            raise ConflictError(f"A host of that name still answers {what}.")
        log.warning(
            "host_url_changed",
            host_id=old.id,
            old_url=old.url,
            new_url=new.url,
            old_dialect=old.dialect,
            new_dialect=new.dialect,
        )

    async def _store_registration(self, registration: Registration, row: Any) -> None:
        host = registration.host
        secret = registration.secret
        async with self._db.transaction() as session:
            stored = await session.row(
                "upsert_host",
                id=host.id,
                host_url=host.url,
                old_url=row["host_url"] if row is not None else None,
                dialect=host.dialect,
                credential=registration.credential,
                capabilities=sorted(host.capabilities),
                hardware=registration.hardware,
                idempotency=host.idempotency,
                cancel=host.cancel,
                sealed_secret=self._sealer.seal(secret) if secret is not None else None,
                old_credential=row["credential"] if row is not None else None,
                old_dialect=row["dialect"] if row is not None else None,
                page_url=registration.page_url,
            )
            if stored is None:
                raise ConflictError("Another host registered under that name just now.")
            await _store_devices(session, registration)
            await _store_schemas(session, registration)

    async def host_edited(self, host_id: str) -> None:
        """Tell the host's actor that people changed what vpt knows of the host."""
        async with self._known_anew(host_id) as known:
            if known is not None:
                self._hosts.tell(host_id, m.ChangeHost(known[0]))

    async def heartbeat(
        self,
        host_id: str,
        stats: Json | None,
        credential: Credential,
        device_metrics: Json | None = None,
    ) -> None:
        """Note that a host spoke, and probe it; NotRegisteredError when it must register."""
        await self._known(host_id, credential)
        self._seen.add(host_id)
        self._hosts.tell(host_id, m.HeartbeatSeen())
        if stats or device_metrics:
            self._samples.told(host_id, stats, device_metrics)

    def task_complete(self, task_id: str, said: Json, host_id: str | None) -> bool:
        """Hand the end of a script to who waits for it; False when nobody does (any more).

        `host_id` is the host that says so, None when its credential could be any host's.
        """
        taken = self._dialect.task_complete(task_id, said, host_id)
        if not taken:
            log.warning("task_unknown", task_id=task_id, host_id=host_id)
        return taken

    async def unregister(self, host_id: str, credential: Credential) -> None:
        """Take a host's goodbye; what it runs gets RUN_GRACE."""
        await self._known(host_id, credential)
        await self._hosts.ask(host_id, m.Unregister)
        log.info("host_unregistered", host_id=host_id)

    async def _known(self, host_id: str, credential: Credential) -> None:
        row = await self._db.row("lab_host", id=host_id)
        if row is None or row["status"] == HostStatus.OFFLINE:
            raise NotRegisteredError
        if _RANK[credential] < _RANK[Credential(row["credential"])]:
            raise ConflictError("The host joined with a better credential.")
        unreadable = row["sealed_secret"] and self._sealer.open(row["sealed_secret"]) is None
        if unreadable:  # SECRET_KEY changed: only the host can tell its secret
            raise NotRegisteredError

    async def delete_host(self, host_id: str) -> None:
        """Forget a host; NotFoundError, ConflictError while it runs something."""
        if host_id in self._hosts:
            await self._hosts.ask(host_id, m.Retire)
        try:
            deleted = await self._db.row("delete_host", id=host_id)
        except DatabaseAwayError:
            self._hosts.bring_back(host_id)
            raise
        if deleted is not None:
            log.info("host_deleted", host_id=host_id)
            return
        if await self._db.row("lab_host", id=host_id) is None:
            raise NotFoundError("There is no such host.")
        await self._hosts.load(host_id)
        raise ConflictError("The host runs something: drain it and wait, or cancel that.")

    async def drain(self, host_id: str, *, on: bool) -> None:
        """Let a host finish what it runs and give it nothing new, or end that."""
        if await self._db.row("store_draining", host_id=host_id, draining=on) is None:
            raise NotFoundError("There is no such host.")
        await self._hosts.ask(host_id, lambda ask: m.Drain(ask, on))

    async def act(
        self,
        host_id: str,
        device_id: str | None,
        action: Json,
        timeout_s: float | None,
        user_id: str,
    ) -> tuple[Answer, float]:
        """Run one manual action; give the host's answer and how long it took (ms)."""
        seconds = timeout_s or self._config.step_timeout
        key = f"manual/{self._started}/{next(self._acts)}"
        answer: tuple[Answer, float] = await self._hosts.ask(
            host_id,
            lambda ask: m.Act(ask, device_id, action, seconds, key, user_id),
            seconds + _MARGIN,
        )
        return answer

    # ------------------------------------------------------------ leases

    async def lease(self, device_id: str, holder: str, ttl_s: float) -> Any:
        """Give a person the device, or renew his lease; give the row of it.

        Raises NotFoundError, LockedError when it is somebody else's, ConflictError while a run
        holds it.
        """
        self._open()
        host_id = await self._host_of(device_id)
        lease_id = new = f"lease_{uuid4().hex}"
        try:
            lease_id = await self._hosts.ask(
                host_id, lambda ask: m.TakeLease(ask, device_id, new, holder, ttl_s)
            )
            row = await self._db.row(
                "store_lease", id=lease_id, device_id=device_id, holder=holder, ttl_s=ttl_s
            )
        except BaseException:  # what is not stored must not hold a device
            if lease_id == new:
                self._hosts.tell(host_id, m.LeaseOver(device_id, new))
                self._unsure.add(new)
            else:
                self._renewed[lease_id] = (host_id, device_id)
            raise
        if row is None:
            self._hosts.tell(host_id, m.LeaseOver(device_id, new))
            raise LockedError
        log.info("device_leased", device_id=device_id, holder=holder, ttl_s=ttl_s)
        return row

    async def end_lease(self, device_id: str, user_id: str, *, anybodys: bool) -> None:
        """Give a device back; NotFoundError without a lease, LockedError when it is another's."""
        host_id = await self._host_of(device_id)
        row = await self._db.row("lease_of", device_id=device_id)
        if row is None:
            raise NotFoundError("Nobody leases the device.")
        if row["holder"] != user_id and not anybodys:
            raise LockedError
        try:
            await self._db.row("end_lease", id=row["id"])
        except BaseException:  # it may be gone: nobody could give it back once more
            self._unsure.add(row["id"])
            raise
        finally:
            self._hosts.tell(host_id, m.LeaseOver(device_id, row["id"]))

    async def _host_of(self, device_id: str) -> str:
        row = await self._db.row("device_host", id=device_id)
        if row is None:
            raise NotFoundError("There is no such device.")
        if row["host_id"] is None:
            raise ConflictError("The device has no host: nothing could drive it.")
        host_id: str = row["host_id"]
        return host_id

    async def devices_changed(self, host_id: str) -> None:
        """Tell the host's actor that people changed its devices."""
        async with self._known_anew(host_id) as known:
            if known is not None:
                with suppress(NotFoundError):
                    await self._hosts.ask(host_id, lambda ask: m.ChangeDevices(ask, known[1]))

    # ------------------------------------------------------------ looking

    def views(self) -> Sequence[HostView]:
        """Give all hosts as their actors announced them."""
        return self._dispatcher.views

    def place(self, execution_id: str) -> Place:
        """Say where an execution stands in line and why it waits."""
        return self._dispatcher.place(execution_id)

    def measures(self) -> dict[str, Any]:
        """Give the figures that only the memory has."""
        return {
            "queue_length": len(self._dispatcher),
            "queue_oldest_s": self._queue.oldest_s,
            "actors": len(self._hosts),
            "inbox_depth": self._hosts.inbox_depth,
            "campaigns_running": len(self._campaigns),
        }

    async def _flush_seen(self) -> None:
        seen, self._seen = self._seen, set()
        if seen:
            await self._db.row("store_seen", host_ids=sorted(seen))

    async def _drop_leases(self) -> None:
        """Delete leases that ran out, and those that their holders were told they did not get."""
        await self._db.row("drop_old_leases")
        for lease_id in tuple(self._unsure):
            await self._db.row("end_lease", id=lease_id)
            self._unsure.discard(lease_id)
        for lease_id, place in tuple(self._renewed.items()):
            await self._as_stored(lease_id, *place)
            self._renewed.pop(lease_id, None)

    async def _as_stored(self, lease_id: str, host_id: str, device_id: str) -> None:
        """Let a lease run as long as the database says, since its renewal may not stand."""
        row = await self._db.row("lease_of", device_id=device_id)
        if row is None or row["id"] != lease_id:
            self._hosts.tell(host_id, m.LeaseOver(device_id, lease_id))
            return
        holder, seconds = row["holder"], row["seconds"]
        with suppress(NotFoundError, ConflictError, LockedError):
            await self._hosts.ask(
                host_id, lambda ask: m.TakeLease(ask, device_id, lease_id, holder, seconds)
            )

    async def _sweep(self) -> None:
        """Carry out what was stored and then not done, and forget what is too old to count."""
        for row in await self._db.rows("cancels_wished"):
            await self._carry_out_cancel(row["id"])
        await self._drop_leases()
        await self._db.row("forget_requests")
        for row in await self._db.rows("running_campaigns"):
            if row["id"] not in self._campaigns and not self._closing:
                await self._run_campaign(row["id"])


def limits_of(config: Config) -> Limits:
    """Give the settings by which host actors decide."""
    return Limits(
        suspect_after=config.host_suspect_after,
        lost_after=config.host_lost_after,
        recover_after=config.host_recover_after,
        run_grace=config.run_grace,
        step_timeout=config.step_timeout,
        run_timeout=config.run_timeout,
        cancel_grace=config.cancel_grace,
        infra_retries=config.infra_retries,
        inbox_limit=config.inbox_limit,
        probe_interval=config.host_probe_interval,
    )


def _at_work(view: HostView) -> bool:
    """True of a host that cannot answer a probe now: it serves one request at a time."""
    up = view.status in (HostStatus.AVAILABLE, HostStatus.BUSY, HostStatus.DRAINING)
    busy = any(device.status is DeviceStatus.BUSY for device in view.devices)
    return view.host.serial and up and busy


async def _store_devices(session: Session, registration: Registration) -> None:
    host_id = registration.host.id
    rows = [
        {
            "id": device.id,
            "host_id": host_id,
            "local_id": device.local_id,
            "name": device.name,
            "model": device.model,
            "capabilities": sorted(device.capabilities),
        }
        for device in registration.devices
    ]
    await session.many("upsert_device", rows)
    await session.row("withdraw_devices", host_id=host_id, kept=[row["id"] for row in rows])


async def _store_schemas(session: Session, registration: Registration) -> None:
    """Store what its devices can do, each once; mostly it is what the database has already."""
    schemas = {schema.hash: schema.text for schema in registration.schemas.values()}
    named: dict[str, Any] = {
        "host_id": registration.host.id,
        "device_ids": list(registration.schemas),
        "hashes": [schema.hash for schema in registration.schemas.values()],
    }
    if not (await session.row("schemas_changed", **named))[0]:
        return
    await session.row("lock_schemas")
    missing = await session.rows("missing_schemas", hashes=list(schemas))
    rows = [{"hash": row["hash"], "schema": schemas[row["hash"]]} for row in missing]
    await session.many("add_schema", rows)
    await session.row("name_schemas", **named)
    await session.row("drop_unused_schemas")


async def _devices(session: Session, host_id: str) -> tuple[Any, ...]:
    return tuple(device_of(row) for row in await session.rows("lab_devices", host_id=host_id))
