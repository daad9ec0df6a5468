"""The path of a run, on real hosts of loopback and a real database."""

from __future__ import annotations

from tests.actors.conftest import Kit
from tests.actors.fake_host import Gate


async def test_a_run_passes(lab: Kit) -> None:
    host = await lab.host()
    row = await lab.done("a", "b")
    assert (row["status"], row["host_id"], row["device_id"]) == ("completed", "h", "h:d1")
    assert host.commands() == ["a", "b"]
    assert await lab.statuses(row["id"]) == ["passed", "passed"]


async def test_x(lab: Kit) -> None:
    host = await lab.host()
    gate = Gate()
    host.on("a", gate.held())
    e = await lab.run("a", "b")
    await gate.reached()
    gate.open()
    await lab.final(e)
