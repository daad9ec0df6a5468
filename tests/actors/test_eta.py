"""How long an execution will wait, by what runs and by who is before it."""

from __future__ import annotations

from time import perf_counter

import pytest

from tests.actors.conftest import Kit
from tests.actors.fake_host import FakeHost, Gate
from vpt.actors import eta as eta_module
from vpt.actors.dispatcher import Dispatcher
from vpt.actors.eta import SOON, Ahead, ahead, wait_s
from vpt.model import (
    Device,
    DeviceRequest,
    DeviceStatus,
    DeviceView,
    Host,
    HostStatus,
    HostView,
    Waiting,
)

_HISTORY = """
    WITH ended AS (
        INSERT INTO test_executions (
            id, test_case_id, test_case_name, test_case_version, device_model, steps, actions,
            priority, queue_timeout_s, requested_by, status, attempt, seq, completed_at, created_at
        )
        SELECT gen_random_uuid()::text, $1, 't', 1, $2, '[{"command": "a"}]', ARRAY['a'], 50, 60,
            'ann', 'completed', 1, 3, now(), now()
        RETURNING id
    ), attempts AS (
        INSERT INTO execution_attempts (
            execution_id, attempt, host_id, device_id, seq, status, started_at, completed_at,
            released_at
        )
        SELECT id, 1, 'h', 'h:d1', 1, 'completed', now() - make_interval(secs => $3), now(), now()
        FROM ended
    )
    INSERT INTO execution_steps (execution_id, attempt, step, action, status, finished_at, seq)
    SELECT id, 1, 1, 'a', 'passed', now(), 2
    FROM ended
"""


async def history(lab: Kit, test_case_id: str, *seconds: float, model: str = "tv") -> None:
    """Let runs of a test case on a device model have taken so long."""
    for each in seconds:
        await lab.fetch(_HISTORY, test_case_id, model, each)


async def began(lab: Kit, execution_id: str, ago: float) -> None:
    """Let a run have begun so many seconds ago."""
    sql = "UPDATE execution_attempts SET started_at = now() - make_interval(secs => $2)"
    await lab.fetch(f"{sql} WHERE execution_id = $1", execution_id, ago)


async def check(lab: Kit, waiting: list[str], *seconds: float, since: float) -> None:
    """Check the estimates of what waits, which fell by as much as time passed `since`."""
    for execution_id, expected in zip(waiting, seconds, strict=True):
        eta = await lab.lab.eta_s(execution_id)
        assert eta is not None
        assert expected - (perf_counter() - since) - 0.01 <= eta <= expected + 0.01


async def held(lab: Kit, *devices: str) -> tuple[FakeHost, Gate]:
    """Return a host whose action `hold` waits for the gate."""
    host, gate = await lab.host("h", *devices), Gate()
    host.on("hold", gate.held())
    return host, gate


async def test_it_counts_down_by_what_runs_and_adds_who_is_before(lab: Kit) -> None:
    _, gate = await held(lab, "d1")
    await history(lab, "long", 8.0, 8.0)
    await history(lab, "short", 0.5)
    running = await lab.run("hold", test_case_id="long")
    await gate.reached()
    waiting = [await lab.run("a", test_case_id=case) for case in ("short", "long", "long")]
    for ago in (2.0, 4.0, 6.0):
        left, since = 8.0 - ago, perf_counter()
        await began(lab, running, ago)
        await check(lab, waiting, left, left + 0.5, left + 8.5, since=since)
    await began(lab, running, 100.0)
    assert await lab.lab.eta_s(waiting[0]) == SOON, "it may end at any moment"
    gate.open()
    await lab.final(waiting[-1])


async def test_each_device_that_fits_counts(lab: Kit) -> None:
    _, gate = await held(lab, "d1", "d2")
    await history(lab, "long", 10.0)
    await history(lab, "short", 2.0)
    runs = [await lab.run("hold", test_case_id=case) for case in ("long", "short")]
    await gate.reached(2)
    waiting = [await lab.run("a", test_case_id="long") for _ in range(3)]
    since = perf_counter()
    for each in runs:
        await began(lab, each, 0.0)
    await check(lab, waiting, 2.0, 10.0, 12.0, since=since)
    gate.open()
    await lab.final(waiting[-1])


async def test_the_history_is_that_of_the_test_on_the_model(lab: Kit) -> None:
    _, gate = await held(lab, "d1")
    await history(lab, "x", 10.0)
    await history(lab, "x", 30.0, model="phone")
    await history(lab, "y", 20.0)
    for case, usual in (("x", 10.0), ("new", 15.0)):  # of a new test: all on its model
        arrived = gate.arrived
        gate.close()
        running = await lab.run("hold", test_case_id=case)
        await gate.reached(arrived + 1)
        waiting, since = await lab.run("a", test_case_id="y"), perf_counter()
        await began(lab, running, 0.0)
        await check(lab, [waiting], usual, since=since)
        gate.open()
        await lab.final(waiting)
        await lab.fetch("DELETE FROM test_executions WHERE id = ANY($1)", [running, waiting])


async def test_without_history_nothing_is_told(lab: Kit) -> None:
    _, gate = await held(lab, "d1")
    await lab.run("hold")
    await gate.reached()
    waiting = await lab.run("a")
    assert await lab.lab.eta_s(waiting) is None
    gate.open()
    await lab.final(waiting)


# ---------------------------------------------------------------- what is ahead


def view(name: str, *devices: str, serial: bool = False) -> HostView:
    host = Host(name, f"http://{name}", dialect="virtualpytest" if serial else "document")
    items = (DeviceView(Device(f"{name}:{d}", d, d, "tv"), DeviceStatus.BUSY) for d in devices)
    return HostView(host, HostStatus.BUSY, None, tuple(items))


def queue_of(dispatcher: Dispatcher, *requests: DeviceRequest) -> list[Waiting]:
    entries = [Waiting(f"e{n}", each, 50, float(n), 1e9) for n, each in enumerate(requests)]
    for entry in entries:
        dispatcher.add(entry)
    return entries


TV = DeviceRequest("tv")


def test_a_serial_host_is_one_machine() -> None:
    dispatcher = Dispatcher(lambda _host, _message: None)
    dispatcher.announce(view("h", "d1", "d2", serial=True))
    [waiting] = queue_of(dispatcher, TV)
    found = ahead(dispatcher, waiting)
    assert found is not None and found.mine == {"h"}


def test_who_waits_for_another_device_is_not_before() -> None:
    dispatcher = Dispatcher(lambda _host, _message: None)
    dispatcher.announce(view("h", "d1", "d2"))
    one, two = DeviceRequest("tv", device_id="h:d1"), DeviceRequest("tv", device_id="h:d2")
    *_, waiting = queue_of(dispatcher, one, two, TV, one)
    found = ahead(dispatcher, waiting)
    assert found is not None
    assert found.before == {"e0": {"h:d1"}, "e2": {"h:d1", "h:d2"}}
    lasts = {"e0": 5.0, "e2": 1.0}
    assert wait_s(found, {"h:d1": 3.0, "h:d2": 1.0}, lasts) == 8.0, "e2 goes to d2"


def test_of_a_long_queue_the_first_are_looked_at_and_their_mean_stands_for_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(eta_module, "_MOST_BEFORE", 10)
    dispatcher = Dispatcher(lambda _host, _message: None)
    dispatcher.announce(view("h", "d1", "d2"))
    waiting = queue_of(dispatcher, *[TV] * 101)[-1]
    found = ahead(dispatcher, waiting)
    assert found is not None
    assert (len(found.before), found.more) == (10, 90)
    assert wait_s(found, {}, dict.fromkeys(found.before, 2.0)) == 100.0


def test_a_machine_of_nobody_is_free_at_once() -> None:
    assert wait_s(Ahead({"a", "b"}, {}, 0, {"a": "a", "b": "b"}), {"a": 3.0}, {}) == 0.0
