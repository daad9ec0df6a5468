"""Which probes become rows."""

from __future__ import annotations

import pytest

from tests.actors.conftest import Kit, StartLab
from tests.actors.fake_host import replies, until
from vpt.actors import samples
from vpt.actors.samples import EVERY, Samples
from vpt.db import Database
from vpt.errors import DatabaseAwayError

ROWS = "SELECT host_id, ok, response_ms FROM host_health ORDER BY recorded_at"


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


async def test_a_host_has_a_sample_a_minute_and_one_for_each_change(lab: Kit, clock: Clock) -> None:
    await lab.host("far")
    kept = Samples(lab.db)
    answers: list[float | None] = [5.0] * 12 + [None] * 3 + [7.0] * 3
    for ms in answers:  # every 10 s
        kept.note("far", ms)
        clock.now += 10
    await kept.flush()
    rows = [tuple(row) for row in await lab.fetch(ROWS)]
    assert rows == [
        ("far", True, 5),
        ("far", True, 5),
        ("far", False, None),
        ("far", True, 7),
    ]
    await kept.flush()
    assert len(await lab.fetch(ROWS)) == 4


async def test_a_sample_has_the_time_of_its_probe(lab: Kit, clock: Clock) -> None:
    await lab.host("far")
    kept = Samples(lab.db)
    kept.note("far", 1.0)
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
    for _ in range(int(EVERY / 10)):
        for number in range(1, 201):
            kept.note(f"h{number}", 1.0)
        clock.now += 10
    await kept.flush()
    [counted] = await lab.fetch("SELECT count(*), count(DISTINCT xmin::text) FROM host_health")
    assert tuple(counted) == (200, 1)


async def test_samples_wait_for_the_database_and_are_bounded(
    dsn: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "_KEPT", 3)
    kept = Samples(Database(dsn))  # nobody opened it
    kept.note("a", 1.0)
    kept.note("a", None)
    with pytest.raises(DatabaseAwayError):
        await kept.flush()
    assert [sample.ms for sample in kept._waiting] == [1.0, None]


async def test_a_host_that_was_deleted_takes_nobody_down_with_it(lab: Kit, clock: Clock) -> None:
    await lab.host("far")
    kept = Samples(lab.db)
    kept.note("gone", 1.0)
    kept.note("far", 1.0)
    await kept.flush()
    assert [row["host_id"] for row in await lab.fetch(ROWS)] == ["far"]


async def test_probes_of_the_lab_become_samples(start_lab: StartLab) -> None:
    lab = await start_lab()
    host = await lab.host()
    host.health = replies(500)
    await until(lambda: lab.lab.tally.probes_missed)
    await lab.lab._samples.flush()
    assert [row["ok"] for row in await lab.fetch(ROWS)] == [True, False]
