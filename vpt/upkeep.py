"""Upkeep: work that is done again and again in the background, and never ends by an exception.

An error that ended such a task would be noticed by nobody until something is stuck. So one that
fails is logged, counted and called again. `vpt/background.py` builds on this; the reference host,
which does without what that imports, uses it directly.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

import structlog

from vpt.errors import DatabaseAwayError, SlowStatementError

log = structlog.get_logger(__name__)

Work = Callable[[], Awaitable[object]]

_sleep = asyncio.sleep  # tests shorten it
#: How often background tasks of this process failed, by the kind of task; read by /metrics.
failures: Counter[str] = Counter()


def count_failure(task: str) -> None:
    """Count a failure of a background task, by what stands before the colon of its name.

    The rest of a name is an id, and a metric has no label for each id.
    """
    failures[_kind(task)] += 1


def _kind(task: str) -> str:
    return task.partition(":")[0]


def note_failure(error: BaseException, task: str | None = None) -> None:
    """Count and log a failure of a background task, by default the one that calls this."""
    name = task or _current().get_name()
    count_failure(name)
    # The log itself may be what fails: its disk is full, or its reader is gone.
    with suppress(Exception):
        log.error("upkeep_failed", task=name, exc_info=error)


async def attempt(work: Work) -> bool:
    """Call `work` once; return whether it succeeded. One that fails is logged and counted.

    Raises CancelledError only when the task that calls this is to end: a library that was
    interrupted may raise it, too, and that would end the task without a word.
    """
    try:
        await work()
    except asyncio.CancelledError as error:
        if _current().cancelling():
            raise
        note_failure(error)
    except DatabaseAwayError:
        name = _current().get_name()
        count_failure(name)
        with suppress(Exception):
            log.warning("upkeep_waits_for_database", task=name)
    except Exception as error:  # noqa: BLE001 (it is logged, and the next call is not the last)
        note_failure(error)
    else:
        return True
    return False


async def every(seconds: float, work: Work) -> None:
    """Call `work` again and again, `seconds` after its last end, until the task is cancelled."""
    failures[_kind(_current().get_name())] += 0  # so that the metric shows it from the start
    # `work` may have swallowed the cancellation: then the task ends after it.
    while not _current().cancelling():
        await _sleep(seconds)
        await attempt(work)


async def each(works: Iterable[Work]) -> None:
    """Call these one after the other; one that fails is logged and holds up none after it.

    DatabaseAwayError is raised at once, as the others would fail alike.
    """
    for work in works:
        try:
            await work()
        except Exception as error:
            if isinstance(error, DatabaseAwayError) and not isinstance(error, SlowStatementError):
                raise
            note_failure(error)


def _current() -> asyncio.Task[object]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("upkeep runs in a task")
    return task
