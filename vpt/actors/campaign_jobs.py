"""All campaign executions under way: started, cancelled, started again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from vpt.actors.campaign import CampaignJob, store_campaign
from vpt.actors.executions import Executions
from vpt.actors.finals import FinalWaits
from vpt.actors.queue import Queue
from vpt.background import Background
from vpt.errors import ConflictError, NotFoundError
from vpt.events import Events
from vpt.model import CampaignProgress, ExecutionStatus, NewCampaign, RequestKey
from vpt.store.db import Database

log = structlog.get_logger(__name__)


class CampaignJobs:
    """Runs a job for each campaign execution that is not final."""

    def __init__(
        self,
        db: Database,
        events: Events,
        queue: Queue,
        executions: Executions,
        finals: FinalWaits,
        *,
        queue_timeout: float,
        check_open: Callable[[], None],
    ) -> None:
        self._db = db
        self._events = events
        self._queue = queue
        self._executions = executions
        self._finals = finals
        self._queue_timeout = queue_timeout
        self._check_open = check_open
        self._jobs: dict[str, CampaignJob] = {}
        self._background = Background()

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def preparing(self) -> asyncio.Semaphore:
        """Held by whoever has steps of test cases in memory: few may at a time."""
        return self._queue.preparing

    async def start(self, new: NewCampaign, key: RequestKey | None = None) -> str:
        """Run a campaign; return its execution's id. Raises like `Executions.submit`."""
        self._check_open()
        # Entries that have not begun wait in their job, but they are to come into the queue.
        self._queue.check_room(sum(job.pending for job in self._jobs.values()))
        await self._queue.all_possible(new.entries)
        campaign_execution_id = await store_campaign(self._db, new, key)
        began = CampaignProgress(
            campaign_execution_id, 0, len(new.entries), ExecutionStatus.RUNNING, 1
        )
        self._events.publish(began)
        self._start_job(campaign_execution_id)
        return campaign_execution_id

    async def cancel(self, campaign_execution_id: str, user_id: str) -> None:
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
        job = self._jobs.get(campaign_execution_id)
        if job is not None:
            job.cancelled = True  # first, or it would start entries while others are cancelled
        for entry in await self._db.rows("campaign_entries_of", id=campaign_execution_id):
            if entry["execution_id"] and not ExecutionStatus(entry["status"]).final:
                with suppress(ConflictError):
                    await self._executions.cancel(entry["execution_id"], user_id)

    async def until_final(self, campaign_execution_id: str, seconds: float) -> None:
        """Return when the campaign execution is final, after `seconds` at the latest."""
        await self._finals.until(
            campaign_execution_id, seconds, "campaign_status", id=campaign_execution_id
        )

    async def start_missing(self) -> None:
        """Start the job of each campaign execution that is not final and has none.

        At a start of the server these are all; later they are those whose job crashed.
        """
        for row in await self._db.rows("running_campaigns"):
            if row["id"] not in self._jobs:
                self._start_job(row["id"])

    async def stop(self) -> None:
        """End all jobs; the next start takes them up."""
        await self._background.close()

    def _start_job(self, campaign_execution_id: str) -> None:
        job = CampaignJob(
            campaign_execution_id,
            self._db,
            self._queue,
            self._events,
            self._executions,
            self._queue_timeout,
        )
        self._jobs[job.id] = job
        self._background.start(self._run(job), f"campaign: {job.id}")

    async def _run(self, job: CampaignJob) -> None:
        try:
            await job.run()
        except Exception:  # the next sweep starts it again from the database
            log.exception("campaign_crashed", campaign_execution_id=job.id)
        finally:
            self._jobs.pop(job.id, None)
