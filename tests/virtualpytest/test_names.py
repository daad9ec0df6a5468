"""VirtualPyTest hosts share one key, so only the name in their health tells one from another."""

from __future__ import annotations

import pytest

from tests.actors.fake_host import until
from vpt.errors import HostUnreachableError
from vpt.model import HostStatus, TroubleKind

from .conftest import StartLab, VKit
from .test_dialect import act, script


@pytest.mark.parametrize("step", [act("c"), script("c")], ids=["action", "script"])
async def test_a_step_begins_nothing_on_another_host_at_the_same_url(
    start_lab: StartLab, step: dict[str, object]
) -> None:
    lab = await start_lab(host_probe_interval=3600.0, infra_retries=0)
    host = await lab.pi()
    host.name = "other"
    row = await lab.done(step)
    assert (row["status"], row["error_kind"]) == ("error", "host_lost")
    assert row["error"] == "pi: another host answers at its URL: other"
    assert (host.control, host.done("d1")) == ([], [])


async def test_nothing_is_sent_while_somebody_else_answers(lab: VKit) -> None:
    host = await lab.pi()
    host.name = "other"
    await until(lambda: lab.status("pi") is not HostStatus.AVAILABLE)
    view = lab.lab.views()[0]
    assert view.trouble is not None and view.trouble.kind is TroubleKind.SOMEBODY_ELSE
    with pytest.raises(HostUnreachableError, match="another host answers"):
        await lab.lab.act("pi", None, act("c"), 5, "ann")
    execution_id = await lab.run(act("c"))
    host.name = "pi"
    assert (await lab.final(execution_id))["status"] == "completed"
    assert host.done("d1") == ["c"]


async def test_a_renamed_host_keeps_its_url_and_the_old_name_loses_it(lab: VKit) -> None:
    host = await lab.pi()
    host.name = "pi-2"
    await lab.join_pi(host)
    await lab.is_now("pi-2", HostStatus.AVAILABLE)
    await lab.is_now("pi", HostStatus.OFFLINE)
    assert (await lab.done(act("c")))["status"] == "completed"
    assert [
        row["host_id"] for row in await lab.fetch("SELECT host_id FROM execution_attempts")
    ] == ["pi-2"]
