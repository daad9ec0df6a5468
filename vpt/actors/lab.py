"""The lab: builds the parts that deal with hosts and runs, starts them and stops them in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from random import uniform
from typing import Any
from uuid import uuid4

import structlog

from vpt.actors import messages as m
from vpt.actors.campaign_jobs import CampaignJobs
from vpt.actors.dispatcher import Dispatcher
from vpt.actors.eta import Etas
from vpt.actors.executions import Executions
from vpt.actors.finals import FinalWaits
from vpt.actors.host_secrets import HostSecrets
from vpt.actors.leases import Leases
from vpt.actors.ledger import Shared
from vpt.actors.queue import Queue
from vpt.actors.registry import Registry
from vpt.actors.restore import Keys
from vpt.actors.samples import Samples
from vpt.actors.screens import Screens
from vpt.actors.secrets import Secrets
from vpt.actors.services import HostServices
from vpt.actors.state import Limits
from vpt.actors.supervisor import Supervisor
from vpt.actors.unfit import Unfit
from vpt.actors.waits import Waits
from vpt.background import Background, each, every
from vpt.config import Config
from vpt.dialects.base import Dialect, Touch
from vpt.errors import UnavailableError
from vpt.events import Events
from vpt.measures import Tally
from vpt.model import Answer, HostView, Json, Place
from vpt.store.artifacts import Artifacts
from vpt.store.db import Database
from vpt.store.disk import EVERY as DISK_EVERY
from vpt.store.disk import Disk
from vpt.store.patience import patiently
from vpt.store.prune import Ages, Pruning
from vpt.store.seal import Sealer

log = structlog.get_logger(__name__)

_SWEEP = 5.0  # seconds
_EXPLAIN = 0.25  # seconds between looks at why executions wait
_FIT = 1.0  # seconds between looks at what no registered device fits any more
_FLUSH = 2.0  # seconds between writes of when hosts were seen
_SAMPLE = 5.0  # seconds between writes of how hosts fare
_MEANS = 600.0  # seconds; so an hour has means soon after it is over
_PRUNE = (120.0, 600.0)  # seconds between looks whether a day is over, other ones at each start
_DATABASE_BACK = 30.0  # seconds in which a database that goes away at the start must be back
_MARGIN = 2.0  # seconds that a request waits longer than the action that it asked for


class Lab:
    """All that handlers ask of hosts and runs.

    Its parts do the work: `registry` (hosts), `leases`, `screens`, `executions`, `campaigns`.
    """

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
        self.tally = Tally()
        self.disk = Disk(config.vpt_data_dir, config.min_free_disk)
        self._dispatcher = Dispatcher(self._tell)
        self._queue = Queue(
            db,
            events,
            self._dispatcher,
            max_queued=config.max_queued,
            retry_backoff=config.retry_backoff,
            infra_retries=config.infra_retries,
        )
        self._waits = Waits(self._dispatcher, events)
        self._unfit = Unfit(self._dispatcher, self._queue.end_unfit, grace=config.fit_grace)
        self._etas = Etas(db, self._dispatcher)
        self._samples = Samples(db)
        self._pruning = Pruning(db, Artifacts(config.vpt_data_dir), Ages.of(config))
        keys = Keys(Sealer(config.secret_key), config.api_key)
        self._host_secrets = HostSecrets((config.api_key, config.host_join_token))
        self._supervisor = Supervisor(self._services(may_act, keys.sealer), keys, limits_of(config))
        self.registry = self._new_registry(keys)
        self.leases = Leases(db, self._supervisor, check_open=self._check_open)
        self.screens = Screens(db, self._supervisor, self.views)
        self.executions, self.campaigns = self._new_runs(FinalWaits(db, events))
        self._upkeep = Background()
        self._closing = False
        # Together they make a key that no action ever had, also none before a restart.
        self._started, self._acts = uuid4().hex, count(1)

    def _services(self, may_act: Callable[[], bool], sealer: Sealer) -> HostServices:
        return HostServices(
            shared=Shared(self._db),
            dialect=self._dialect,
            events=self._events,
            dispatcher=self._dispatcher,
            artifacts=Artifacts(self._config.vpt_data_dir),
            probe_timeout=self._config.host_probe_timeout,
            probed=self._probed,
            requeue=self._queue.requeue,
            not_taken=self._queue.not_taken,
            waited_s=self._queue.waited_s,
            tally=self.tally,
            secrets=Secrets(self._db, sealer, self._host_secrets),
            may_act=may_act,
        )

    def _new_registry(self, keys: Keys) -> Registry:
        return Registry(
            self._db,
            self._supervisor,
            self._dispatcher,
            self._samples,
            self._dialect,
            keys,
            self._host_secrets,
            probe_timeout=self._config.host_probe_timeout,
            check_open=self._check_open,
        )

    def _new_runs(self, finals: FinalWaits) -> tuple[Executions, CampaignJobs]:
        executions = Executions(
            self._db,
            self._queue,
            self._supervisor,
            finals,
            queue_timeout=self._config.queue_timeout,
            check_open=self._check_room,
        )
        campaigns = CampaignJobs(
            self._db,
            self._events,
            self._queue,
            executions,
            finals,
            queue_timeout=self._config.campaign_queue_timeout,
            check_open=self._check_room,
        )
        return executions, campaigns

    # These two look their part up when they are called: each part needs one that is made later.

    def _tell(self, host_id: str, message: m.Message) -> None:
        self._supervisor.tell(host_id, message)

    def _probed(self, host_id: str, ms: float | None) -> None:
        self.registry.probed(host_id, ms)

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        """Load hosts, queue and campaigns, and go on where the last server stopped."""
        await self.disk.look()
        # The database of a server that just stopped may go away once more.
        for name, step in (
            ("hosts", self._supervisor.start),
            ("queue", self._queue.load),
            ("campaigns", self.campaigns.start_missing),
        ):
            await patiently(name, step, limit_s=_DATABASE_BACK)
        self._start_upkeep()
        log.info("lab_started", hosts=len(self._supervisor), queued=len(self._dispatcher))

    def _start_upkeep(self) -> None:
        # Servers that were started together need not all prune at the same moment.
        prune = uniform(*_PRUNE)  # noqa: S311 (no secret)
        for name, seconds, work in (
            ("queue sweep", _SWEEP, self._queue.sweep),
            ("lab sweep", _SWEEP, self._sweep),
            ("queue reasons", _EXPLAIN, self._waits.tell),
            ("queue without a fit", _FIT, self._unfit.look),
            ("last seen", _FLUSH, self.registry.store_seen),
            ("samples", _SAMPLE, self._samples.flush),
            ("means of samples", _MEANS, self._pruning.prune_samples),
            ("pruning", prune, self._pruning.prune_daily),
            ("disk", DISK_EVERY, self.disk.look),
        ):
            self._upkeep.start(every(seconds, work), name)

    async def settle(self, grace: float) -> None:
        """Refuse new work, and wait until steps in flight have ended, `grace` (s) at most."""
        self._closing = True
        self._dispatcher.close()
        await self._supervisor.quiet(grace)

    async def stop(self) -> None:
        """End all tasks; what is not over is left to the next start.

        They are cancelled in this order: first what makes work, then what does it. Their time
        limits run side by side, so that the whole stop ends before supervisord loses patience.
        """
        self._closing = True
        await asyncio.gather(
            self.campaigns.stop(),
            self._upkeep.close(),
            self._queue.close(),
            self.screens.close(),
            self._supervisor.stop(),
        )
        log.info("lab_stopped")

    def _check_open(self) -> None:
        if self._closing:
            raise UnavailableError("The server is stopping.", retry_after=5)

    def _check_room(self) -> None:
        """Refuse what would leave results on the disk when there is no room for them."""
        self._check_open()
        self.disk.check()

    async def _sweep(self) -> None:
        """Carry out what was stored and then not done, and forget what is too old to count."""
        await each(
            (
                self.executions.sweep,
                self.leases.sweep,
                self.registry.sweep,
                partial(self._db.row, "forget_requests"),
                self._start_missing,
            )
        )

    async def _start_missing(self) -> None:
        if not self._closing:
            await self.campaigns.start_missing()

    # ------------------------------------------------------------ by hand

    async def act(
        self,
        host_id: str,
        device_id: str | None,
        action: Json,
        timeout_s: float | None,
        user_id: str,
        secrets: tuple[str, ...] = (),
        *,
        touch: Touch | None = None,
        needs_lease: bool = False,
    ) -> tuple[Answer, float]:
        """Run one manual action; return the host's answer and how long it took (ms).

        `secrets` are the names of those that it refers to. `touch` is what it is when it is no
        step; with `needs_lease` it is refused unless the user leases the device.
        """
        seconds = timeout_s or self._config.step_timeout
        key = f"manual/{self._started}/{next(self._acts)}"
        answer: tuple[Answer, float] = await self._supervisor.ask(
            host_id,
            lambda ask: m.RunAction(
                ask, device_id, action, seconds, key, user_id, secrets, touch, needs_lease
            ),
            seconds + _MARGIN,
        )
        return answer

    def task_complete(self, task_id: str, result: Json, host_id: str | None) -> bool:
        """Hand the result of a script to the step that waits for it; False when none does.

        `host_id` is the host that sent it, None when its credential could be any host's.
        """
        taken = self._dialect.task_complete(task_id, result, host_id)
        if not taken:
            log.warning("task_unknown", task_id=task_id, host_id=host_id)
        return taken

    # ------------------------------------------------------------ looking

    def views(self) -> Sequence[HostView]:
        """Return all hosts as their actors announced them."""
        return self._dispatcher.views

    def place(self, execution_id: str) -> Place:
        """Return where an execution is in the queue and why it waits."""
        return self._dispatcher.place(execution_id)

    async def eta_s(self, execution_id: str) -> float | None:
        """Return for how long (s) an execution will wait; None when nothing tells."""
        return await self._etas.of(execution_id)

    def measures(self) -> dict[str, Any]:
        """Return the figures that only the memory has."""
        return {
            "queue_length": len(self._dispatcher),
            "queue_oldest_s": self._queue.oldest_s,
            "actors": len(self._supervisor),
            "inbox_depth": self._supervisor.inbox_depth,
            "campaigns_running": len(self.campaigns),
        }


def limits_of(config: Config) -> Limits:
    """Return the settings by which host actors decide."""
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
        device_pause=config.device_pause,
    )
