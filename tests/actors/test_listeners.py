"""A subscriber of events that fails harms nobody else."""

from __future__ import annotations

from structlog.testing import capture_logs

from tests.actors.conftest import StartLab
from vpt.model import Event


async def test_a_subscriber_that_raises_stops_no_host_and_no_other_subscriber(
    start_lab: StartLab,
) -> None:
    lab, later = await start_lab(), []

    def raises(_: Event) -> None:
        raise RuntimeError("a fault of a subscriber")

    lab.lab._events.subscribe(raises)
    lab.lab._events.subscribe(later.append)
    with capture_logs() as logs:
        host = await lab.host("h1")
        assert (await lab.final(await lab.run("a", host_id=host.name)))["status"] == "completed"
    assert lab.lab.tally.restarts == 0
    assert len(later) == len([line for line in logs if line["event"] == "subscriber_failed"]) > 0
