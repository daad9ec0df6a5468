"""Background tasks: each has an owner, which names it, logs what makes it fail, and ends it."""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import suppress
from contextvars import Context
from typing import Any

import aiojobs
import structlog

from vpt.upkeep import count_failure
from vpt.upkeep import each as each  # noqa: PLC0414  # others import it from here
from vpt.upkeep import every as every  # noqa: PLC0414

log = structlog.get_logger(__name__)

#: Seconds that the tasks of one owner have to end after they were cancelled.
_CLOSE_TIMEOUT = 5.0


class Background:
    """The owner of a group of background tasks; `close` cancels them and waits for their end.

    Owners are closed in the order in which their parts of the server stop, so that no task
    outlives what it uses.
    """

    def __init__(self) -> None:
        # No limit: a task that waits for a slot would be stuck behind those that live for ever.
        self._scheduler = aiojobs.Scheduler(
            limit=None, close_timeout=_CLOSE_TIMEOUT, exception_handler=_log_failure
        )

    def __len__(self) -> int:
        return len(self._scheduler)

    def start(self, work: Coroutine[Any, Any, object], name: str) -> None:
        """Start a task at once; after `close` it is dropped, as its owner is gone."""
        if self._scheduler.closed:
            work.close()
            return
        spawning = self._scheduler.spawn(work, name)
        try:
            # An empty context: the task outlives the request whose log fields it would inherit.
            Context().run(spawning.send, None)
        except StopIteration:
            return
        raise AssertionError("a scheduler without a limit never waits")

    async def close(self) -> None:
        """Cancel all tasks and wait for them, a few seconds at most."""
        await self._scheduler.close()


def _log_failure(_: aiojobs.Scheduler, context: dict[str, Any]) -> None:
    """Log and count a task that ended by an exception, or late after its owner was closed."""
    job, error = context["job"], context.get("exception")
    count_failure(job.get_name())
    with suppress(Exception):  # as in upkeep: the log may be what fails
        log.error("background_task_failed", task=job.get_name(), exc_info=error)
