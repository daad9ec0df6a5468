"""Which probes become rows."""

from __future__ import annotations

import pytest

from tests.actors.conftest import Kit, StartLab
from tests.actors.fake_host import replies, until
from vpt.actors import samples
from vpt.actors.samples import EVERY, Samples
from vpt.errors import DatabaseAwayError
from vpt.store.db import Database

ROWS = "SELECT host_id, ok, probes, response_ms, cpu_percent FROM host_health ORDER BY recorded_at"
STATS = {"cpu_percent": 3.0, "load_1m": 0.5}


class Clock:
    """Stands in for the module `time`: stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Give the time that the test set."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(samples, "time", clock)
    return clock


async def rows(lab: Kit) -> list[tuple[object, ...]]:
    return [tuple(row) for row in await lab.fetch(ROWS)]


async def test_a_host_has_a_sample_a_minute_and_more_when_a_probe_goes_otherwise(
    lab: Kit, clock: Clock
) -> None:
    await lab.host("far")
    kept = Samples(lab.db)
    answers: list[float | None] = [5.0, *[4.0, 6.0] * 3, 5.0, None, None, 7.0, *[9.0] * 6]
    for ms in answers:  # every 10 s
        kept.probed("far", ms)
        kept._end_due()
        clock.now += 10
    await kept.flush()
    assert await rows(lab) == [
        ("far", True, 1, 5, None),
        ("far", True, 6, 5, None),
        ("far", True, 1, 5, None),  # all until the first that was missed
        ("far", False, 1, None, None),
        ("far", False, 1, None, None),
        ("far", True, 1, 7, None),
        ("far", True, 6, 9, None),
    ]


async def test_every_probe_is_in_one_sample(lab: Kit, clock: Clock) -> None:
    await lab.host("far")
    kept = Samples(lab.db)
    for number in range(200):
        kept.probed("far", None if number % 7 in (0, 3, 4) else 1.0)
        if number % 3 == 0:
            kept.reported("far", STATS, None)
        if number % 2 == 0:
            await kept.flush()
        clock.now += 10
    clock.now += EVERY
    await kept.flush()
    sql = "SELECT sum(probes) FILTER (WHERE ok), sum(probes) FILTER (WHERE NOT ok) FROM host_health"
    assert [tuple(row) for row in await lab.fetch(sql)] == [(114, 86)]


async def test_what_a_host_says_goes_into_the_samples_of_its_probes(lab: Kit, clock: Clock) -> None:
    await lab.host("far")
    kept = Samples(lab.db)
    for cpu in (1.0, 2.0, 3.0, 4.0):  # a heartbeat every 30 s, a probe every 10 s
        kept.reported("far", {"cpu_percent": cpu}, None)
        for _ in range(3):
            kept.probed("far", 5.0)
            await kept.flush()
            clock.now += 10
    assert await rows(lab) == [("far", True, 1, 5, 1), ("far", True, 6, 5, 3)]


async def test_what_a_host_says_is_stored_while_it_is_not_probed(lab: Kit, clock: Clock) -> None:
    await lab.host("far")
    kept = Samples(lab.db)
    kept.probed("far", 5.0)
    await kept.flush()
    for _ in range(3):  # it works, and pings every 5 minutes
        clock.now += 300
        kept.reported("far", STATS, {"d1": {"temperature": 40}})
        await kept.flush()
    clock.now += EVERY
    kept.probed("far", None)
    await kept.flush()
    assert await rows(lab) == [
        ("far", True, 1, 5, None),
        *[("far", None, 0, None, 3)] * 3,
        ("far", False, 1, None, None),
    ]
    hot = "SELECT FROM host_health WHERE device_metrics #>> '{d1,temperature}' = '40'"
    assert len(await lab.fetch(hot)) == 3


async def test_a_sample_has_the_time_of_its_probe(lab: Kit, clock: Clock) -> None:
    await lab.host("far")
    kept = Samples(lab.db)
    kept.probed("far", 1.0)
    clock.now += 120
    await kept.flush()
    sql = "SELECT abs(extract(epoch FROM now() - recorded_at) - 120) < 30 FROM host_health"
    assert [tuple(row) for row in await lab.fetch(sql)] == [(True,)]


async def test_200_hosts_at_10_s_make_200_rows_a_minute_in_one_statement(
    lab: Kit, clock: Clock
) -> None:
    kept = Samples(lab.db)
    await lab.fetch(
        "INSERT INTO hosts (id, host_url, dialect, credential, capabilities)"
        " SELECT 'h' || n, 'http://h', 'document', 'join', '{}' FROM generate_series(1, 200) n"
    )
    for second in range(0, int(EVERY), 10):
        for number in range(1, 201):
            kept.probed(f"h{number}", 1.0)
            if second % 30 == 0:
                kept.reported(f"h{number}", STATS, None)
        clock.now += 10
    await kept.flush()
    [counted] = await lab.fetch("SELECT count(*), count(DISTINCT xmin::text) FROM host_health")
    assert tuple(counted) == (200, 1)


async def test_samples_wait_for_the_database_and_are_bounded(
    dsn: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "_KEPT", 3)
    kept = Samples(Database(dsn))  # nobody opened it
    for number in range(5):
        kept.probed("a", 1.0 if number % 2 else None)
        with pytest.raises(DatabaseAwayError):
            await kept.flush()
    assert [sample.ok for sample in kept._waiting] == [False, True, False]


async def test_hosts_that_say_nothing_any_more_are_forgotten(lab: Kit, clock: Clock) -> None:
    kept = Samples(lab.db)
    kept.probed("gone", 1.0)
    await kept.flush()
    clock.now += 3 * EVERY
    await kept.flush()
    assert kept._growing == kept._ended == {}


async def test_a_host_that_was_deleted_takes_nobody_down_with_it(lab: Kit, clock: Clock) -> None:
    await lab.host("far")
    kept = Samples(lab.db)
    kept.probed("gone", 1.0)
    kept.probed("far", 1.0)
    await kept.flush()
    assert [row["host_id"] for row in await lab.fetch(ROWS)] == ["far"]


async def test_probes_of_the_lab_become_samples(start_lab: StartLab) -> None:
    lab = await start_lab()
    host = await lab.host()
    host.health = replies(500)
    await until(lambda: lab.lab.tally.probes_missed)
    await lab.lab._samples.flush()
    assert [row["ok"] for row in await lab.fetch(ROWS)] == [True, False]
