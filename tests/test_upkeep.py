"""No background task ends by an exception: each is made to fail, in all ways, and goes on."""

from __future__ import annotations

import asyncio
import errno
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from tests.actors.fake_host import until
from tests.conftest import token
from tests.test_connections import no_descriptors
from vpt import upkeep
from vpt.config import Config
from vpt.embedded.home import Home
from vpt.embedded.server import EmbeddedPostgres
from vpt.errors import DatabaseAwayError
from vpt.model import Role
from vpt.serve import running
from vpt.store import instance
from vpt.upkeep import Work, attempt, every

#: Every task of a server that lives as long as the server, or until nothing is left to do.
TASKS = {
    *(
        "queue sweep",
        "lab sweep",
        "queue reasons",
        "queue without a fit",
        "last seen",
        "samples",
        "means of samples",
    ),
    *("pruning", "disk", "pulse", "external-checks", "claim on the database", "connections"),
    *("socket-strangers", "socket-recheck", "socket-revoked-tokens", "audit", "unread answers"),
}
ERRORS = (
    OSError(errno.EMFILE, "Too many open files"),
    DatabaseAwayError(),
    asyncio.CancelledError(),
    ValueError("a defect"),
)


class Killer:
    """Stands before each call of a background task, and lets it fail by each of ERRORS first."""

    def __init__(self) -> None:
        self.left: dict[str, list[BaseException]] = defaultdict(lambda: list(ERRORS))
        self.survived: Counter[str] = Counter()

    async def attempt(self, work: Work) -> bool:
        task = asyncio.current_task()
        assert task is not None
        name = task.get_name()
        errors = self.left[name]
        good = await attempt(self.failing(errors.pop()) if errors else work)
        if not errors and good:
            self.survived[name] += 1
        return good

    def failing(self, error: BaseException) -> Work:
        async def fail() -> None:
            raise error

        return fail


@contextmanager
def killing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Killer]:
    """Let every background task fail, and hurry."""
    killer = Killer()
    for module in tuple(sys.modules.values()):
        if getattr(module, "attempt", None) is attempt and module.__name__.startswith("vpt."):
            monkeypatch.setattr(module, "attempt", killer.attempt)
    monkeypatch.setattr(upkeep, "_sleep", lambda _: asyncio.sleep(0.01))
    monkeypatch.setattr(instance, "RENEW", 0.01)
    monkeypatch.setattr(instance, "AWAY", 0.01)
    monkeypatch.setattr("vpt.store.batch._AWAY", 0.01)
    yield killer


async def test_every_background_task_of_a_server_survives_every_error(
    config: Config, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(config, database_url=dsn, server_port=0, grafana_url="http://127.0.0.1:9")
    before = Counter(upkeep.failures)
    with killing(monkeypatch) as killer, capture_logs() as logs:
        async with running(settings) as server:
            await change_something(server.url)
            await until(lambda: killer.survived.keys() >= TASKS, 30)
            names = {task.get_name() for task in asyncio.all_tasks()}
            failed = upkeep.failures - before
            await go_on_without_descriptors(failed)
            shown = await metrics(server.url)
    assert {name for name in names if not unnamed(name)} <= TASKS, "a new task needs its place here"
    assert {name: failed[name] for name in TASKS} == dict.fromkeys(TASKS, len(ERRORS))
    assert {line["task"] for line in logs if line["event"] == "upkeep_failed"} == TASKS
    for name in TASKS:
        assert f'vpt_background_failures_total{{task="{name}"}}' in shown


def unnamed(name: str) -> bool:
    """Return whether a task is no task of ours that goes on: a request, this test, aiohttp's."""
    return name.startswith(("Task-", "accepted"))


async def change_something(url: str) -> None:
    """Send a write, which the audit notes."""
    headers = {"Authorization": f"Bearer {token(Role.OPERATOR)}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{url}/api/testcases", json={}) as response,
    ):
        assert response.status == 400


async def metrics(url: str) -> str:
    headers = {"Authorization": f"Bearer {token(Role.VIEWER)}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{url}/metrics") as response,
    ):
        return await response.text()


async def go_on_without_descriptors(failed: Counter[str]) -> None:
    """See the pulse go on that cannot read how busy the process is, for want of descriptors."""
    pulses = upkeep.failures["pulse"]
    with no_descriptors():
        await until(lambda: upkeep.failures["pulse"] >= pulses + 2)
    assert failed["pulse"]


async def test_the_watch_over_the_database_survives_a_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    async def restore(_: Any) -> None:
        nonlocal calls
        calls += 1
        raise ValueError("a defect")

    monkeypatch.setattr("vpt.embedded.server.RETRY", 0)
    monkeypatch.setattr("vpt.embedded.server.WATCH", 0)
    monkeypatch.setattr(EmbeddedPostgres, "_restore", restore)
    before = upkeep.failures["embedded-postgres"]
    server = EmbeddedPostgres(Home(tmp_path, None, None), None, None, None)  # type: ignore[arg-type]
    watch = asyncio.create_task(every(0, server._watch))
    await until(lambda: calls >= 3)
    watch.cancel()
    assert upkeep.failures["embedded-postgres"] - before >= 2


async def test_a_task_that_is_to_end_ends() -> None:
    """Also when what it does swallows its cancellation."""
    swallowed = asyncio.Event()

    async def swallow() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed.set()

    task = asyncio.create_task(every(0, swallow))
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait_for(task, 10)
    assert swallowed.is_set()


async def test_a_log_that_cannot_be_written_ends_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk:
        def error(self, *_: Any, **__: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        warning = error

    calls = 0

    async def fail() -> None:
        nonlocal calls
        calls += 1
        raise DatabaseAwayError if calls % 2 else ValueError("a defect")

    monkeypatch.setattr(upkeep, "log", FullDisk())
    task = asyncio.create_task(every(0, fail))
    await until(lambda: calls > 4)
    assert not task.done()
    task.cancel()
