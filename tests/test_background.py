"""Background tasks: named, logged when they fail, ended by their owner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import structlog
from structlog.testing import capture_logs

from vpt.background import Background, every
from vpt.errors import DatabaseAwayError


@pytest.fixture
async def background() -> AsyncIterator[Background]:
    owner = Background()
    yield owner
    await owner.close()


async def test_a_task_starts_at_once_and_is_named(background: Background) -> None:
    named: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        named.set_result(task.get_name())

    background.start(work(), "a job")
    assert await named == "a job"


async def test_a_task_that_fails_is_logged_and_ends_no_other(background: Background) -> None:
    failed, gone_on = asyncio.Event(), asyncio.Event()

    async def fails() -> None:
        failed.set()
        raise ValueError("wrong")

    async def goes_on() -> None:
        await failed.wait()
        gone_on.set()

    with capture_logs() as logs:
        background.start(goes_on(), "good")
        background.start(fails(), "bad")
        await gone_on.wait()
        while not logs:  # noqa: ASYNC110 (a log line has no event)
            await asyncio.sleep(0)
    (line,) = logs
    assert (line["event"], line["task"]) == ("background_task_failed", "bad")
    assert isinstance(line["exc_info"], ValueError)


async def test_close_cancels_all_and_waits_for_their_end() -> None:
    background, ended = Background(), []

    async def work(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(number)

    for number in range(200):  # more than the limit that a scheduler has by itself
        background.start(work(number), f"job {number}")
    await asyncio.sleep(0)
    await background.close()
    assert sorted(ended) == list(range(200))
    assert len(background) == 0


async def test_after_close_nothing_starts(background: Background) -> None:
    async def work() -> None:
        raise AssertionError("started")

    await background.close()
    background.start(work(), "late")
    assert len(background) == 0


async def test_a_task_has_no_log_fields_of_the_request_that_started_it(
    background: Background,
) -> None:
    seen: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        seen.set_result(structlog.contextvars.get_contextvars())

    with structlog.contextvars.bound_contextvars(request_id="r1"):
        background.start(work(), "job")
    assert await seen == {}


@pytest.mark.parametrize("error", [DatabaseAwayError(), ValueError("wrong")])
async def test_upkeep_that_fails_goes_on(background: Background, error: Exception) -> None:
    done, calls = asyncio.Event(), 0

    async def work() -> None:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise error
        done.set()

    with capture_logs():
        background.start(every(0, work), "upkeep")
        await done.wait()
