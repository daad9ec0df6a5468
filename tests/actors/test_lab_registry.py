"""Hosts that are registered, changed and deleted while something else goes on or goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.actors.conftest import Kit, StartLab
from tests.actors.fake_host import hangs, replies, until
from tests.actors.hooks import Pause, after_reading, at_statement, away, crash_actor
from vpt.actors import messages as m
from vpt.actors import supervisor
from vpt.dialects.document import DocumentDialect
from vpt.errors import ConflictError, DatabaseAwayError, NotFoundError, UnavailableError
from vpt.model import DeviceStatus, Host, HostStatus, Reason


def actors(lab: Kit) -> int:
    number: int = lab.lab.measures()["actors"]
    return number


async def is_registered(lab: Kit) -> bool:
    return bool(await lab.fetch("SELECT FROM hosts WHERE id = 'h'"))


async def _lose_actor(lab: Kit) -> None:
    """Let the host's actor crash; return in the turn of the loop in which there is none."""
    crash_actor(lab)
    # The next one is loaded from the database, which takes many turns of the loop.
    while actors(lab):  # noqa: ASYNC110 (nothing tells that a crash is dealt with)
        await asyncio.sleep(0)


async def is_whole(lab: Kit) -> bool:
    """See whether the host is there for all, or for nobody; wait for what is under way."""
    if await is_registered(lab):
        await lab.is_now("h", HostStatus.AVAILABLE)
        return (await lab.done("a", host_id="h"))["status"] == "completed"
    # Between an actor's end and the look at the database the host is shown as held back.
    await until(lambda: actors(lab) == 0 and lab.status() is None)
    return True


# ---------------------------------------------------------------- deleted


async def test_a_host_that_is_deleted_while_its_actor_is_started_again_is_gone(lab: Kit) -> None:
    await lab.host()
    pause = Pause()
    with after_reading(lab, "transaction", pause.here):
        crash_actor(lab)
        await pause.reached.wait()
        deleting = asyncio.create_task(lab.lab.registry.delete_host("h"))
        await asyncio.wait([deleting], timeout=0.3)
        pause.go.set()
        await deleting
    for _ in range(20):
        await asyncio.sleep(0)
    assert (actors(lab), lab.status(), await is_registered(lab)) == (0, None, False)


async def test_a_host_that_is_deleted_while_it_registers_is_gone(lab: Kit) -> None:
    host, pause = await lab.stranger(), Pause()
    with after_reading(lab, "transaction", pause.here, skip=1):
        joining = asyncio.create_task(lab.join(host))
        await pause.reached.wait()
        deleting = asyncio.create_task(lab.lab.registry.delete_host("h"))
        await asyncio.wait([deleting], timeout=0.3)
        pause.go.set()
        await asyncio.gather(joining, deleting)
    assert (actors(lab), lab.status(), await is_registered(lab)) == (0, None, False)
    await lab.join(host)
    assert (await lab.done("a"))["status"] == "completed"


@pytest.mark.parametrize("turns", range(8))
async def test_a_delete_that_is_given_up_early_is_done_or_not_done(lab: Kit, turns: int) -> None:
    await lab.host()
    deleting = asyncio.create_task(lab.lab.registry.delete_host("h"))
    for _ in range(turns):
        await asyncio.sleep(0)
    deleting.cancel()
    await asyncio.gather(deleting, return_exceptions=True)
    assert await is_whole(lab)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_delete_that_is_given_up_at_its_statement_is_done_or_not_done(
    lab: Kit, when: str
) -> None:
    await lab.host()
    pause = Pause()
    with at_statement(lab, "delete_host", **{when: pause.here}):
        deleting = asyncio.create_task(lab.lab.registry.delete_host("h"))
        await pause.reached.wait()
        deleting.cancel()
        await asyncio.gather(deleting, return_exceptions=True)
    assert await is_registered(lab) is (when == "before")
    assert await is_whole(lab)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_delete_while_the_database_goes_away_is_done_or_not_done(
    lab: Kit, when: str
) -> None:
    await lab.host()
    with at_statement(lab, "delete_host", **{when: away}), pytest.raises(DatabaseAwayError):
        await lab.lab.registry.delete_host("h")
    assert await is_registered(lab) is (when == "before")
    assert await is_whole(lab)


async def test_a_host_that_the_database_does_not_delete_goes_on(lab: Kit) -> None:
    """The database knows of an attempt there that the actor does not know of."""
    await lab.host()
    execution_id = (await lab.done("a"))["id"]
    begun = """
        INSERT INTO execution_attempts (execution_id, attempt, host_id, device_id, seq)
        VALUES ($1, 2, 'h', 'gone', 9)
    """

    async def begin() -> None:
        await lab.fetch(begun, execution_id)

    async def undo() -> None:
        await lab.fetch("DELETE FROM execution_attempts WHERE device_id = 'gone'")

    with at_statement(lab, "delete_host", before=begin, after=undo), pytest.raises(ConflictError):
        await lab.lab.registry.delete_host("h")
    assert await is_registered(lab)
    assert await is_whole(lab)


class Lingering(DocumentDialect):
    """Has probes that take their time to end when they are cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end = asyncio.Event()

    async def probe(self, host: Host, limit: float) -> None:
        try:
            await super().probe(host, limit)
        except asyncio.CancelledError:
            await self.may_end.wait()
            raise


async def test_a_name_is_free_though_the_deleted_hosts_actor_takes_its_time_to_end(
    start_lab: StartLab,
) -> None:
    lab = await start_lab(dialect_type=Lingering, host_probe_timeout=30.0)
    host = await lab.host()
    probes = len(host.probes)
    host.health = hangs()
    await until(lambda: len(host.probes) > probes)
    await lab.lab.registry.delete_host("h")
    assert (actors(lab), lab.status()) == (0, None)
    host.health = replies(200)
    await lab.join(host)
    await lab.is_now("h", HostStatus.AVAILABLE)
    assert isinstance(lab.dialect, Lingering)
    lab.dialect.may_end.set()
    assert await is_whole(lab)
    assert actors(lab) == 1


async def test_of_two_deletes_at_once_one_finds_no_host(lab: Kit) -> None:
    await lab.host()
    both = (lab.lab.registry.delete_host("h"), lab.lab.registry.delete_host("h"))
    outcomes = await asyncio.gather(*both, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "NotFoundError"]
    assert await is_whole(lab)


async def test_a_deleted_host_is_unknown_at_once_also_when_its_actor_crashed(lab: Kit) -> None:
    await lab.host()
    await _lose_actor(lab)
    await lab.lab.registry.delete_host("h")
    assert lab.status() is None
    with pytest.raises(NotFoundError):
        await lab.lab.act("h", None, {"command": "a"}, 5, "ann")


# ---------------------------------------------------------------- registered


async def test_a_registration_that_was_stored_gets_its_actor_when_the_database_is_back(
    lab: Kit,
) -> None:
    host = await lab.stranger()
    with after_reading(lab, "transaction", away, skip=1), pytest.raises(DatabaseAwayError):
        await lab.join(host)
    assert (actors(lab), await is_registered(lab)) == (0, True)
    await lab.lab._sweep()
    assert await is_whole(lab)


#: Rows that no vpt stores, and with which no actor can begin: a run is at a step that it has not.
_BAD_RUN = (
    """
    INSERT INTO test_executions (id, test_case_id, test_case_name, test_case_version, device_model,
        steps, actions, queue_timeout_s, requested_by, status, attempt)
    VALUES ('e' || $1, 't', 't', 1, 'tv', '[]', '{a}', 60, 'ann', 'running', 1)
    """,
    """
    INSERT INTO execution_attempts (execution_id, attempt, host_id, device_id, seq)
    VALUES ('e' || $1, 1, $1, $1 || ':d1', 1)
    """,
    """
    INSERT INTO execution_steps (execution_id, attempt, step, action)
    VALUES ('e' || $1, 1, 1, 'a')
    """,
)
_CAMPAIGN_WITHOUT_JOB = """
    INSERT INTO campaign_executions (id, campaign_id, name, stop_on_failure, parallelism, priority,
        requested_by, total, seq)
    VALUES ('c', 'c', 'c', false, 1, 50, 'ann', 0, 1)
"""


async def test_a_host_that_cannot_be_loaded_holds_up_no_other_upkeep(lab: Kit) -> None:
    for name in ("bad1", "bad2", "bad3"):
        for insert in _BAD_RUN:
            await lab.fetch(insert, name)
        with pytest.raises(IndexError):
            await lab.join(await lab.stranger(name))
    good = await lab.stranger("good")
    with after_reading(lab, "transaction", away, skip=1), pytest.raises(DatabaseAwayError):
        await lab.join(good)
    await lab.fetch(_CAMPAIGN_WITHOUT_JOB)
    with capture_logs() as logs:
        await lab.lab._sweep()
    assert actors(lab) == 1
    await lab.campaign_final("c")
    assert [line["event"] for line in logs].count("upkeep_failed") >= 3
    await lab.fetch("DELETE FROM campaign_executions")
    await lab.fetch("DELETE FROM test_executions")


async def test_a_registration_while_the_actor_is_started_again_is_taken(lab: Kit) -> None:
    host = await lab.host()
    pause = Pause()
    with after_reading(lab, "transaction", pause.here):
        crash_actor(lab)
        await pause.reached.wait()
        host.devices = ("d1", "d2")
        joining = asyncio.create_task(lab.join(host))
        await asyncio.wait([joining], timeout=0.3)
        pause.go.set()
        await joining
    await lab.device_is("h:d2", DeviceStatus.ONLINE)


# ---------------------------------------------------------------- changed


async def _while_started_again(lab: Kit, work: Callable[[], Any]) -> None:
    """Do it when the next actor has read its rows and does not live yet."""
    pause = Pause()
    with after_reading(lab, "transaction", pause.here):
        crash_actor(lab)
        await pause.reached.wait()
        doing = asyncio.create_task(work())
        await asyncio.wait([doing], timeout=0.3)
        pause.go.set()
        await doing


async def _disable(lab: Kit) -> None:
    await lab.fetch("UPDATE devices SET disabled = true WHERE id = 'h:d1'")
    await lab.lab.registry.devices_changed("h")


async def test_an_edit_of_a_device_while_its_actor_is_started_again_is_taken(lab: Kit) -> None:
    await lab.host()
    await _while_started_again(lab, lambda: _disable(lab))
    await lab.device_is("h:d1", DeviceStatus.DISABLED)


async def test_a_drain_while_the_actor_is_started_again_is_taken(lab: Kit) -> None:
    await lab.host()
    await _while_started_again(lab, lambda: lab.lab.registry.drain("h", on=True))
    await lab.is_now("h", HostStatus.DRAINING)


async def test_an_edit_of_a_host_while_its_actor_is_started_again_is_taken(lab: Kit) -> None:
    await lab.host()

    async def edit() -> None:
        await lab.fetch("UPDATE hosts SET cancel = NOT cancel")
        await lab.lab.registry.host_edited("h")

    before = lab.lab.views()[0].host.cancel
    await _while_started_again(lab, edit)
    await until(lambda: lab.lab._supervisor._actors["h"].state.host.cancel is not before)


async def test_an_edit_whose_actor_crashes_while_it_hears_of_it_is_taken(lab: Kit) -> None:
    await lab.host()

    async def crash() -> None:
        crash_actor(lab)

    await lab.fetch("UPDATE devices SET disabled = true WHERE id = 'h:d1'")
    with after_reading(lab, "session", crash):
        await lab.lab.registry.devices_changed("h")
    await lab.device_is("h:d1", DeviceStatus.DISABLED)


async def test_an_edit_is_taken_by_an_actor_that_has_a_full_inbox(start_lab: StartLab) -> None:
    lab = await start_lab(inbox_limit=3)
    await lab.host()

    async def fill() -> None:
        for _ in range(3):
            lab.lab._supervisor.tell("h", m.HeartbeatSeen())

    await lab.fetch("UPDATE devices SET disabled = true WHERE id = 'h:d1'")
    with after_reading(lab, "session", fill):
        await lab.lab.registry.devices_changed("h")
    await lab.device_is("h:d1", DeviceStatus.DISABLED)


@pytest.mark.parametrize("what", ["device", "host", "drain"])
async def test_an_edit_that_no_actor_heard_of_is_told_when_the_database_is_back(
    lab: Kit, what: str
) -> None:
    await lab.host()
    before = lab.lab.views()[0].host.cancel
    with after_reading(lab, "session", away):
        if what == "device":
            await _disable(lab)
        elif what == "drain":
            await lab.lab.registry.drain("h", on=True)
        else:
            await lab.fetch("UPDATE hosts SET cancel = NOT cancel")
            await lab.lab.registry.host_edited("h")
    await lab.lab._sweep()
    if what == "device":
        await lab.device_is("h:d1", DeviceStatus.DISABLED)
    elif what == "drain":
        await lab.is_now("h", HostStatus.DRAINING)
    else:
        await until(lambda: lab.lab._supervisor._actors["h"].state.host.cancel is not before)


async def test_what_stores_nothing_is_refused_while_the_actor_is_started_again(lab: Kit) -> None:
    await lab.host()
    await _lose_actor(lab)
    with pytest.raises(UnavailableError):
        await lab.lab.act("h", None, {"command": "a"}, 5, "ann")
    await until(lambda: actors(lab) == 1)


# ---------------------------------------------------------------- held back


async def _crash_again(lab: Kit) -> None:
    """Let the host's actor crash when it is there, and wait until that was noted."""
    await until(lambda: actors(lab) == 1)
    tally = lab.lab.tally
    before = tally.restarts
    crash_actor(lab)
    await until(lambda: tally.restarts > before)


def _reason(lab: Kit) -> Reason | None:
    return next((view.reason for view in lab.lab.views() if view.host.id == "h"), None)


async def test_a_host_that_is_held_back_may_be_deleted_and_registered(lab: Kit) -> None:
    host = await lab.host()
    for _ in range(6):
        await _crash_again(lab)
    await until(lambda: _reason(lab) is Reason.BROKEN)
    await lab.lab.registry.delete_host("h")
    assert lab.status() is None
    await lab.join(host)
    assert await is_whole(lab)
    await _crash_again(lab)  # its crashes are those of a new host
    await until(lambda: actors(lab) == 1)


async def test_an_actor_that_could_not_be_loaded_is_tried_again(
    lab: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lab.host()
    monkeypatch.setattr(supervisor, "_WINDOW", 0.1)
    tries = 0

    async def fail_twice() -> None:
        nonlocal tries
        tries += 1
        if tries <= 2:
            raise ValueError("a row that nobody understands")

    with after_reading(lab, "transaction", fail_twice), capture_logs() as logs:
        crash_actor(lab)
        await until(lambda: tries == 1)
        await until(lambda: actors(lab) == 1 and tries > 2)
    assert [line["event"] for line in logs].count("host_actor_not_started") == 2
    assert await is_whole(lab)


async def test_a_stop_does_not_wait_for_a_host_that_is_held_back(lab: Kit) -> None:
    await lab.host()
    for _ in range(6):
        await _crash_again(lab)
    await until(lambda: _reason(lab) is Reason.BROKEN)
    with capture_logs() as logs:
        await lab.stop()
    assert not [line for line in logs if line["event"] == "background_task_failed"]
    await lab.start()
    assert await is_whole(lab)


async def test_every_task_of_a_lab_has_its_name(lab: Kit) -> None:
    before = {task.get_name() for task in asyncio.all_tasks()}
    await lab.host()
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert {"queue sweep", "lab sweep", "queue reasons", "last seen"} <= before
    assert {"samples", "means of samples", "pruning", "disk"} <= before
    assert {"host: h", "h: writer"} <= names


# ---------------------------------------------------------------- the start


class Counted(dict[str, Any]):
    """Named queries that count how often each was asked for."""

    def __init__(self, queries: Any) -> None:
        super().__init__(queries)
        self.asked: list[str] = []

    def __getitem__(self, name: str) -> Any:
        self.asked.append(name)
        return super().__getitem__(name)


async def test_a_start_asks_the_database_as_often_for_many_hosts_as_for_few(lab: Kit) -> None:
    for number in range(2):
        await lab.host(f"h{number}", "d1", "d2")
    few = await _loading(lab)
    await lab.fetch(
        """
        INSERT INTO hosts (id, host_url, dialect, credential, capabilities, hardware, idempotency,
            cancel, status)
        SELECT 'far-' || n, 'http://127.0.0.1:9', 'document', 'open', '{}', '{}', false, false,
            'offline'
        FROM generate_series(1, 300) AS n
        """
    )
    many = await _loading(lab)
    assert (few, actors(lab)) == (many, 302)
    assert many <= 5


async def _loading(lab: Kit) -> int:
    """Count the statements by which a new server loads its hosts."""
    await lab.crash()
    starting = lab.db_type
    counted: list[Counted] = []

    def counting(dsn: str) -> Any:
        db = starting(dsn)
        db.queries = Counted(db.queries)
        counted.append(db.queries)
        return db

    lab.db_type = counting
    try:
        await lab.start()
    finally:
        lab.db_type = starting
    asked = counted[0].asked
    return sum(name.startswith("lab_") for name in asked[: asked.index("queued_page")])


# ---------------------------------------------------------------- a start that meets a bad row


async def test_a_host_that_cannot_be_loaded_keeps_no_server_from_starting(
    lab: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_WINDOW", 0.1)
    await lab.host("good")
    await lab.host("bad")
    await lab.crash()
    for insert in _BAD_RUN:
        await lab.fetch(insert, "bad")
    with capture_logs() as logs:
        await lab.start()
        assert _reasons(lab)["bad"] is Reason.BROKEN
        with pytest.raises(UnavailableError):
            await lab.lab.act("bad", None, {"command": "a"}, 5, "ann")
        await lab.is_now("good", HostStatus.AVAILABLE)
        assert (await lab.done("a", host_id="good"))["status"] == "completed"
        started = [line["host_id"] for line in logs if line["event"] == "host_actor_not_started"]
        assert set(started) == {"bad"}
    await lab.fetch("DELETE FROM test_executions WHERE id = 'ebad'")
    await lab.is_now("bad", HostStatus.AVAILABLE)
    assert (await lab.done("a", host_id="bad"))["status"] == "completed"


async def test_a_host_that_could_not_be_loaded_may_be_deleted(lab: Kit) -> None:
    await lab.host("bad")
    await lab.crash()
    for insert in _BAD_RUN:
        await lab.fetch(insert, "bad")
    await lab.start()
    await lab.fetch("DELETE FROM test_executions WHERE id = 'ebad'")
    await lab.lab.registry.delete_host("bad")
    assert lab.status("bad") is None


def _reasons(lab: Kit) -> dict[str, Reason | None]:
    return {view.host.id: view.reason for view in lab.lab.views()}
