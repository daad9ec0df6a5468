"""Nobody's work is disturbed: what such a host does by itself, and what outlives its attempt."""

from __future__ import annotations

import asyncio

import pytest

from tests.actors.fake_host import until
from vpt.errors import ConflictError
from vpt.model import Credential, DeviceReason, DeviceView, Heartbeat, HostStatus, Presence

from .conftest import CALM, StartLab, VKit, Wilful
from .test_dialect import KINDS, act, script

WORKS = (DeviceReason.HOST_WORKS, "busy")


def seen(lab: VKit, device_id: str = "pi:d1") -> DeviceView:
    devices = (item for view in lab.lab.views() for item in view.devices)
    return next(item for item in devices if item.device.id == device_id)


def shown(lab: VKit, device_id: str = "pi:d1") -> tuple[str | None, str]:
    device = seen(lab, device_id)
    return device.reason, device.status


async def pings(lab: VKit, host: Wilful) -> None:
    """Let the lab hear what a ping of the host says of deployments."""
    deploying = host.membership.deploying
    said = {name: Presence(None, at_work=name in deploying) for name in host.devices}
    await lab.lab.registry.heartbeat("pi", Heartbeat(presences=said), Credential.JOIN)


async def named(lab: VKit, execution_id: str) -> None:
    """Wait until the handle of the execution's first step is stored."""

    async def is_named() -> bool:
        return (await lab.steps(execution_id))[0]["handle"] is not None

    await until(is_named)


# ---------------------------------------------------------------- the host's own deployments


async def test_a_device_on_which_its_host_runs_a_deployment_is_busy_until_that_is_over(
    lab: VKit,
) -> None:
    host = await lab.pi("pi", "d1", "d2")
    host.membership.deploying.add("d1")
    await pings(lab, host)
    await until(lambda: shown(lab) == WORKS)
    assert "deployment of its own" in (seen(lab).reason_text or "")
    waiting = [await lab.submit(act("a"), device_id=each) for each in ("pi:d1", "pi:d2")]
    with pytest.raises(ConflictError, match="deployment of its own"):
        await lab.lab.act("pi", "pi:d1", act("a"), 5, "ann")
    await pings(lab, host)  # still
    assert not host.done("d1") + host.done("d2"), "a serial host does one thing at a time"
    host.membership.deploying.clear()
    await pings(lab, host)
    ended = [await lab.final(one.execution_id) for one in waiting]
    assert [row["status"] for row in ended] == ["completed"] * 2


async def test_a_host_that_can_say_it_gives_the_device_back_before_its_next_ping(
    lab: VKit,
) -> None:
    host = await lab.pi()
    host.says_busy = True
    host.membership.deploying.add("d1")
    await pings(lab, host)
    await until(lambda: shown(lab) == WORKS)
    waiting = await lab.submit(act("a"))
    asked = len(host.asked("/host/system/device/d1/is_busy"))
    await until(lambda: len(host.asked("/host/system/device/d1/is_busy")) > asked + 1)
    assert shown(lab) == WORKS and not host.control, "control is not taken from a deployment"
    host.membership.deploying.clear()
    assert (await lab.final(waiting.execution_id))["status"] == "completed"


async def test_a_deployment_that_began_since_the_last_ping_is_seen_before_anything_is_sent(
    lab: VKit,
) -> None:
    host = await lab.pi()
    host.says_busy = True
    host.membership.deploying.add("d1")
    run = await lab.submit(act("a"))
    await until(lambda: shown(lab) == WORKS)
    assert not host.control and not host.done("d1")
    host.membership.deploying.clear()
    row = await lab.final(run.execution_id)
    assert row["status"] == "completed"
    assert await lab.kinds(row["id"]) == [("pi", "host_error"), ("pi", None)]


async def test_a_restarted_server_knows_that_the_host_works_there(lab: VKit) -> None:
    host = await lab.pi()
    host.membership.deploying.add("d1")
    await pings(lab, host)

    async def stored() -> bool:
        rows = await lab.fetch("SELECT reason FROM devices")
        return [row["reason"] for row in rows] == ["host_works"]

    await until(stored)
    await lab.restart()
    await until(lambda: shown(lab) == WORKS)


# ---------------------------------------------------------------- what outlives its attempt


@pytest.mark.parametrize("kind", KINDS)
async def test_a_step_that_outlives_its_limit_holds_the_device_until_it_is_over(
    start_lab: StartLab, kind: str
) -> None:
    lab = await start_lab(step_timeout=0.5)
    host = await lab.pi()
    host.on("a", hang=True)
    row = await lab.done(KINDS[kind]("a"))
    assert row["error_kind"] == "step_timeout"
    await until(lambda: shown(lab) == WORKS)
    assert row["id"] in (seen(lab).reason_text or "")
    next_one = await lab.submit(act("b"))
    await asyncio.sleep(3 * lab.config.cancel_grace)
    assert shown(lab) == WORKS and host.done("d1") == ["a"]
    host.work.release.set()
    assert (await lab.final(next_one.execution_id))["status"] == "completed"


async def test_a_host_that_can_say_it_lets_the_device_go_though_the_report_is_lost(
    start_lab: StartLab,
) -> None:
    lab = await start_lab(step_timeout=0.5)
    host = await lab.pi()
    host.says_busy = host.lose_callback = True
    host.on("a", hang=True)
    assert (await lab.done(script("a")))["error_kind"] == "step_timeout"
    next_one = await lab.submit(act("b"))
    await asyncio.sleep(2 * lab.config.cancel_grace)
    assert host.done("d1") == ["a"]
    host.work.release.set()
    assert (await lab.final(next_one.execution_id))["status"] == "completed"


@pytest.mark.parametrize("kind", ["action", "script"])
async def test_a_restarted_server_goes_on_to_wait_for_a_step_that_outlived_its_limit(
    start_lab: StartLab, kind: str
) -> None:
    lab = await start_lab(step_timeout=0.5)
    host = await lab.pi()
    host.on("a", hang=True)
    await lab.done(KINDS[kind]("a"))
    await until(lambda: shown(lab) == WORKS)
    await lab.restart()
    await lab.is_now("pi", HostStatus.BUSY)
    next_one = await lab.submit(act("b"))
    await asyncio.sleep(3 * lab.config.cancel_grace)
    assert host.done("d1") == ["a"]
    host.work.release.set()
    assert (await lab.final(next_one.execution_id))["status"] == "completed"


@pytest.mark.parametrize("says_busy", [False, True])
async def test_a_host_that_restarts_lets_go_what_outlived_its_limit(
    start_lab: StartLab, says_busy: bool
) -> None:
    lab = await start_lab(step_timeout=0.5)
    host = await lab.pi()
    host.says_busy = says_busy
    host.on("a", times=1, hang=True)
    await lab.done(script("a"))
    await until(lambda: shown(lab) == WORKS)
    await host.restart()
    await lab.join_pi(host)
    assert (await lab.done(act("b")))["status"] == "completed"


# ---------------------------------------------------------------- hosts that restart


@pytest.mark.parametrize("says_busy", [False, True])
async def test_a_host_that_restarts_in_the_middle_of_a_script_is_lost_at_once(
    lab: VKit, says_busy: bool
) -> None:
    host = await lab.pi()
    host.says_busy = says_busy
    host.on("a", times=1, hang=True)
    run = await lab.run(script("a"))
    await named(lab, run)
    await host.kill()
    await lab.is_now("pi", HostStatus.SUSPECT)
    await host.start()
    row = await lab.final(run)  # long before the step's limit, or the test would fail
    assert row["status"] == "completed"
    assert await lab.kinds(run) == [("pi", "host_lost"), ("pi", None)]
    assert "restarted" in (await lab.attempts(run))[0]["error"] or says_busy


@pytest.mark.parametrize("says_busy", [False, True])
async def test_one_that_was_away_too_shortly_to_be_missed_is_known_by_its_registration(
    lab: VKit, says_busy: bool
) -> None:
    host = await lab.pi()
    host.says_busy = says_busy
    host.on("a", times=1, hang=True)
    run = await lab.run(script("a"))
    await named(lab, run)
    await host.restart()
    await lab.join_pi(host)
    assert (await lab.final(run))["status"] == "completed"
    assert await lab.kinds(run) == [("pi", "host_lost"), ("pi", None)]


async def test_an_end_that_was_told_while_no_server_was_up_is_looked_for_at_the_host(
    lab: VKit,
) -> None:
    host = await lab.pi()
    host.says_busy = True
    host.on("a", times=1, hang=True)
    run = await lab.run(script("a"))
    await named(lab, run)
    host.lose_callback = True
    await lab.stop()
    host.work.release.set()
    await until(lambda: host.callbacks)
    host.lose_callback = False
    await lab.start()
    row = await lab.final(run)
    assert row["status"] == "completed"
    assert await lab.kinds(run) == [("pi", "host_lost"), ("pi", None)]
    assert "did not report" in (await lab.attempts(run))[0]["error"]


# ---------------------------------------------------------------- hosts that move


async def moved(lab: VKit, host: Wilful) -> Wilful:
    """Let the host run at another port, with all that it had."""
    there = Wilful(lab.server.url, host.name, devices=host.devices, key=host.key, pace=CALM)
    lab.stand_ins.append(there)
    await there.start()
    return there


async def test_a_host_that_moved_is_let_in_when_its_old_url_is_silent(
    start_lab: StartLab,
) -> None:
    lab = await start_lab(step_timeout=0.5)
    host = await lab.pi()
    host.on("a", hang=True)
    await lab.done(script("a"))
    await until(lambda: shown(lab) == WORKS)
    await host.kill()
    there = await moved(lab, host)
    await lab.join_pi(there)
    assert (await lab.done(act("b")))["status"] == "completed"
    assert there.done("d1") == ["b"]


async def test_a_host_that_answers_at_its_old_url_keeps_its_name(start_lab: StartLab) -> None:
    lab = await start_lab(step_timeout=0.5, host_probe_timeout=0.5)
    host = await lab.pi()
    host.on("a", hang=True)
    await lab.done(script("a"))
    there = await moved(lab, host)
    with pytest.raises(ConflictError, match="answers"):
        await lab.join_pi(there)
    async with host._turn:  # it answers nothing now
        with pytest.raises(ConflictError, match="at work at its old URL"):
            await lab.join_pi(there)
