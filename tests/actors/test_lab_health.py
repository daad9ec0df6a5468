"""Who fails fast costs nobody a result: a bad host beside a good one, in a real lab."""

from __future__ import annotations

import asyncio

import pytest

from tests.actors.conftest import Kit, StartLab
from tests.actors.fake_host import Behaviour, FakeHost, Gate, Reply, passes, replies, says, until
from vpt.model import (
    DeviceReason,
    DeviceStatus,
    DeviceView,
    Event,
    HostChanged,
    HostStatus,
    Json,
    Reason,
)


def slow() -> Behaviour:
    """Answer after a moment: the host is mostly busy."""

    async def behave(host: FakeHost, action: Json) -> Reply:
        await asyncio.sleep(0.02)
        return Reply()

    return behave


_BAD = {
    "500": replies(500, error="disk full"),
    "503": replies(503),
    "401": replies(401),
    "403": replies(403),
    "empty object": says(Reply(body=b"{}")),
    "not json": says(Reply(body=b"<html>")),
    "error of the infrastructure": replies(502, error="exit code 126: not executable"),
}

#: Further ways, and what is said of each.
_BAD_TOO = {
    "404": (replies(404), "answered 404"),
    "429": (replies(429), "answered 429"),
    "redirect": (replies(302, headers={"Location": "http://elsewhere.invalid/"}), "answered 302"),
    "nothing": (says(Reply(body=b"")), "answered nothing, not a JSON object"),
    "no content": (says(Reply(204, b"")), "answered nothing, not a JSON object"),
    "a page": (says(Reply(body=b"<html>Welcome</html>")), "answered HTML or XML"),
    "an array": (says(Reply(body=b"[]")), "answered an array"),
    "success as text": (replies(success="yes"), "answered success as text"),
    "no outcome that is known": (replies(outcome="error", kind="weather"), "gives no reason"),
    "an encoding that is none": (
        says(Reply(headers={"Content-Encoding": "br"})),
        "in the Content-Encoding br, which is not unpacked",
    ),
}

#: What is said of the device or host then.
_BAD_WORDS = {
    "500": "disk full",
    "503": "answered 503",
    "401": "answers 401: it does not accept",
    "403": "answers 403: it does not accept",
    "empty object": "answered without success",
    "not json": "answered HTML or XML",
    "error of the infrastructure": "exit code 126",
}

HELD_BACK = DeviceReason.HELD_BACK


def shown(lab: Kit, device_id: str) -> DeviceView:
    items = (item for view in lab.lab.views() for item in view.devices)
    return next(item for item in items if item.device.id == device_id)


def held_back(lab: Kit, device_id: str) -> bool:
    return shown(lab, device_id).reason is DeviceReason.HELD_BACK


def _trouble(event: Event) -> str:
    trouble = event.trouble if isinstance(event, HostChanged) else None
    return trouble.text if trouble else ""


async def _twenty_runs(lab: Kit) -> None:
    ids = [await lab.run("a") for _ in range(20)]
    rows = [await lab.final(execution_id) for execution_id in ids]
    assert [row["status"] for row in rows] == ["completed"] * 20


async def _mended(lab: Kit, bad: FakeHost) -> None:
    """It works again without anybody's help, once its pause is over."""
    bad.on("a", passes("well again"))
    done = len(bad.actions)
    await until(lambda: not held_back(lab, "bad:d1"))
    row = await lab.done("a", host_id="bad")
    assert (row["status"], row["host_id"]) == ("completed", "bad")
    assert len(bad.actions) == done + 1
    stored = "SELECT infra_errors, last_error, held_until FROM devices WHERE id = 'bad:d1'"
    assert [tuple(row) for row in await lab.fetch(stored)] == [(0, None, None)]


@pytest.mark.parametrize("bad_way", _BAD)
async def test_a_host_that_fails_at_once_costs_nobody_a_result(
    start_lab: StartLab, bad_way: str
) -> None:
    lab = await start_lab(device_pause=0.5)
    bad, good = await lab.host("bad"), await lab.host("good")
    bad.on("a", _BAD[bad_way])
    good.on("a", slow())
    await _twenty_runs(lab)
    # A refused credential takes the whole host out at once, the others a device after three.
    reason, least = (HELD_BACK, 3) if bad_way not in ("401", "403") else (Reason.PROBES, 1)
    assert least <= len(bad.actions) <= 9, "three, and a trial after each pause"
    told = [event for event in lab.told if getattr(event, "reason", None) is reason]
    said = {str(getattr(event, "reason_text", None) or _trouble(event)) for event in told}
    assert any(_BAD_WORDS[bad_way] in words for words in said), said
    await _mended(lab, bad)


async def test_whatever_a_bad_host_answers_is_no_verdict_and_holds_its_device_back(
    start_lab: StartLab,
) -> None:
    lab = await start_lab(device_pause=3600.0)
    bad, good = await lab.host("bad"), await lab.host("good")
    good.on("a", slow())
    for way, (behaviour, words) in _BAD_TOO.items():
        bad.on("a", behaviour)
        while not held_back(lab, "bad:d1"):
            ids = [await lab.run("a") for _ in range(4)]
            rows = [await lab.final(execution_id) for execution_id in ids]
            assert {(row["status"], row["host_id"]) for row in rows} == {("completed", "good")}, way
        assert words in (shown(lab, "bad:d1").reason_text or ""), way
        await lab.lab.registry.forget_errors("bad")
        await until(lambda: not held_back(lab, "bad:d1"))
    assert len(bad.actions) == 3 * len(_BAD_TOO)


@pytest.mark.parametrize("idempotency", [True, False])
async def test_a_host_that_closes_each_connection_costs_nobody_a_result(
    start_lab: StartLab, idempotency: bool
) -> None:
    lab = await start_lab(device_pause=0.5, host_probe_interval=0.05)
    bad, good = await lab.host("bad", idempotency=idempotency), await lab.host("good")
    good.on("a", slow())
    bad.loses = 10**9
    await _twenty_runs(lab)
    kinds = await lab.fetch("SELECT DISTINCT error_kind FROM execution_attempts")
    assert {row["error_kind"] for row in kinds} <= {None, "host_lost"}
    bad.loses = 0
    await lab.is_now("bad", HostStatus.AVAILABLE)
    await until(lambda: not held_back(lab, "bad:d1"))
    row = await lab.done("a", host_id="bad")
    assert row["status"] == "completed"


async def test_a_device_with_a_verdict_after_each_error_goes_on_and_costs_nobody_a_result(
    start_lab: StartLab,
) -> None:
    lab = await start_lab(device_pause=3600.0)
    moody, good = await lab.host("moody"), await lab.host("good")
    good.on("a", slow())

    async def by_turns(host: FakeHost, action: Json) -> Reply:
        return Reply(*((500, b"{}") if len(host.actions) % 2 else ()))

    moody.on("a", by_turns)
    while len(moody.actions) < 8:
        await _twenty_runs(lab)
    assert moody.done("a") == len(moody.actions)
    assert not held_back(lab, "moody:d1")


async def test_a_device_whose_answers_take_too_long_is_held_back(start_lab: StartLab) -> None:
    """A byte now and then is no end: that is a limit of the step, which is not tried again."""
    lab = await start_lab(device_pause=3600.0, step_timeout=0.2)
    bad, good = await lab.host("bad"), await lab.host("good")
    bad.drips = 0.05
    for _ in range(3):
        row = await lab.done("a", device_id="bad:d1")
        assert (row["status"], row["error_kind"]) == ("error", "step_timeout")
    await until(lambda: held_back(lab, "bad:d1"))
    bad.drips = 0.0
    await _twenty_runs(lab)
    assert (good.done("a"), len(bad.actions)) == (20, 3)


async def test_a_retry_waits_for_the_busy_twin_of_the_device_that_failed(lab: Kit) -> None:
    """Two devices of one host, one of them dead."""
    host = await lab.host("h", "d1", "d2")
    gate = Gate()
    host.on("long", gate.held())
    long = await lab.run("long")
    await gate.reached()
    dead = "d2" if (await lab.execution(long))["device_id"] == "h:d1" else "d1"

    async def behave(host: FakeHost, action: Json) -> Reply:
        if action["device_id"] == dead:
            return Reply(502, b'{"error": "device offline"}')
        return Reply()

    host.on("a", behave)
    retried = await lab.run("a")
    await until(lambda: host.commands().count("a") == 1)
    await until(lambda: lab.device(f"h:{dead}") is DeviceStatus.ONLINE)
    await lab.lab._queue.sweep()
    assert (await lab.execution(retried))["status"] == "queued"
    gate.open()
    row = await lab.final(retried)
    assert (row["status"], row["attempt"]) == ("completed", 2)
    assert row["device_id"] != f"h:{dead}"


async def test_the_same_device_is_tried_again_after_a_back_off(start_lab: StartLab) -> None:
    lab = await start_lab(retry_backoff=0.2, infra_retries=2)
    host = await lab.host()
    host.on("a", replies(500), replies(500), passes())
    row = await lab.done("a")
    assert (row["status"], row["attempt"]) == ("completed", 3)
    first, second, third = (call.at for call in host.actions)
    assert second - first >= 0.2
    assert third - second >= 0.8


async def test_where_it_failed_is_known_after_a_restart(start_lab: StartLab) -> None:
    lab = await start_lab(retry_backoff=3600.0)
    bad = await lab.host("bad")
    bad.on("a", replies(500))
    execution_id = await lab.run("a")
    await until(lambda: lab.device("bad:d1") is DeviceStatus.ONLINE and bad.actions)
    await lab.restart()
    await lab.is_now("bad", HostStatus.AVAILABLE)
    place = lab.lab.place(execution_id)
    assert (place.wait.reason, place.wait.names) == ("backoff", ("bad:d1",))
    good = await lab.host("good")
    row = await lab.final(execution_id)
    assert (row["status"], row["host_id"], len(bad.actions)) == ("completed", "good", 1)
    assert len(good.actions) == 1


async def test_a_device_stays_held_back_through_a_restart_and_a_registration(
    start_lab: StartLab,
) -> None:
    lab = await start_lab(infra_retries=0, device_pause=3600.0)
    host = await lab.host("h", "d1", "d2")
    host.on("a", replies(500, error="no cable"))
    for _ in range(3):
        await lab.done("a", device_id="h:d1")
    await until(lambda: held_back(lab, "h:d1"))
    before = shown(lab, "h:d1")
    assert before.reason_text is not None
    assert "no cable" in before.reason_text
    await lab.restart()
    await lab.join(host)
    await lab.is_now("h", HostStatus.AVAILABLE)
    after = shown(lab, "h:d1")
    assert (after.status, after.reason_text) == (DeviceStatus.OFFLINE, before.reason_text)
    assert after.pause_s is not None
    assert 0 < after.pause_s <= 3600
    waits = await lab.run("b", device_id="h:d1")
    place = lab.lab.place(waits)
    assert (place.wait.reason, place.wait.names) == ("held_back", ("h:d1",))
    await lab.lab.registry.forget_errors("h", "h:d1")
    assert (await lab.final(waits))["status"] == "completed"


async def test_a_host_says_that_all_its_devices_are_held_back_and_is_resumed(
    start_lab: StartLab,
) -> None:
    lab = await start_lab(infra_retries=0, device_pause=3600.0)
    host = await lab.host()
    host.on("a", replies(500, error="disk full"))
    for _ in range(3):
        await lab.done("a")
    await lab.is_now("h", HostStatus.SUSPECT)
    view = lab.lab.views()[0]
    assert view.reason is Reason.ERRORS
    assert view.reason_text is not None
    assert "h:d1" in view.reason_text
    stored = """
        SELECT h.reason, h.reason_until > now() + interval '59 minutes' AS host_waits,
            d.reason_until > now() + interval '59 minutes' AS device_waits,
            d.reason_text LIKE '%disk full%' AS says_why
        FROM hosts h JOIN devices d ON d.host_id = h.id
    """

    async def is_stored() -> bool:
        return [tuple(row) for row in await lab.fetch(stored)] == [("errors", True, True, True)]

    await until(is_stored)
    await lab.restart()
    await until(lambda: lab.lab.views()[0].reason is Reason.ERRORS)
    await lab.lab.registry.drain("h", on=False)
    await lab.is_now("h", HostStatus.AVAILABLE)
    await lab.restart()
    await lab.is_now("h", HostStatus.AVAILABLE)


async def test_two_bad_hosts_at_once_cost_nobody_a_result(start_lab: StartLab) -> None:
    """Each has as many devices as there are attempts, and the good one is busy."""
    lab = await start_lab(device_pause=0.5, infra_retries=2)
    one, two = await lab.host("one", "d1", "d2", "d3"), await lab.host("two", "d1", "d2", "d3")
    good = await lab.host("good")
    one.on("a", replies(500))
    two.on("a", says(Reply(body=b"{}")))
    good.on("a", slow())
    await _twenty_runs(lab)


# ---------------------------------------------------------------- more broken ones than retries


def broken() -> list[Behaviour]:
    """Return ways to fail at once: most of them a device's, one the whole host's."""
    return [replies(500), says(Reply(body=b"{}")), replies(401), replies(503)]


async def test_more_broken_hosts_than_retries_cost_nobody_a_result(start_lab: StartLab) -> None:
    lab = await start_lab(infra_retries=1, device_pause=0.5)
    for number, way in enumerate(broken()):
        (await lab.host(f"bad{number}", "d1", "d2")).on("a", way)
    good, gate = await lab.host("good"), Gate()
    good.on("long", gate.held())
    long = await lab.run("long", host_id="good")
    await gate.reached()
    ids = [await lab.run("a") for _ in range(5)]
    gate.open()
    for execution_id in (long, *ids):
        assert (await lab.final(execution_id))["status"] == "completed"
    for execution_id in ids:
        tried = [row["device_id"] for row in await lab.attempts(execution_id)]
        assert len(tried) == len(set(tried))


async def test_without_a_good_device_each_is_tried_once_and_the_run_ends(
    start_lab: StartLab,
) -> None:
    lab = await start_lab(infra_retries=1, device_pause=60.0)
    for number, way in enumerate(broken()):
        (await lab.host(f"bad{number}")).on("a", way)
    row = await lab.done("a")
    tried = [(attempt["device_id"], attempt["error"]) for attempt in await lab.attempts(row["id"])]
    assert sorted(device_id for device_id, _ in tried) == [f"bad{n}:d1" for n in range(4)]
    assert (row["status"], row["device_id"]) == ("error", tried[-1][0])
    assert row["error"].startswith(tried[0][1])


async def test_what_fits_and_is_not_there_is_not_waited_for(start_lab: StartLab) -> None:
    lab = await start_lab(infra_retries=1)
    for name in ("one", "two"):
        (await lab.host(name)).on("a", replies(500))
    await (await lab.host("gone")).vanish()
    await lab.is_now("gone", HostStatus.LOST)
    assert (await lab.done("a"))["attempt"] == 2


async def test_what_may_go_on_elsewhere_only_waits_for_that(start_lab: StartLab) -> None:
    """Also when it is lost meanwhile: the device that failed has had its retries."""
    lab = await start_lab(infra_retries=1)
    good, gate = await lab.host("good"), Gate()
    good.on("long", gate.held())
    await lab.run("long", host_id="good")
    await gate.reached()
    for name in ("one", "two"):
        (await lab.host(name)).on("a", replies(500))
    execution_id = await lab.run("a")

    async def tried() -> bool:
        row = await lab.execution(execution_id)
        return bool(row["attempt"] == 2 and row["status"] == "queued")

    await until(tried)
    await good.vanish()
    await lab.is_now("good", HostStatus.LOST)
    await lab.lab._queue.sweep()
    assert await tried()
    await good.appear()
    gate.open()
    row = await lab.final(execution_id)
    assert (row["status"], row["device_id"], row["attempt"]) == ("completed", "good:d1", 3)


@pytest.mark.parametrize("did", ["a step before", "perhaps this one", "may not be tried again"])
async def test_what_did_something_goes_not_from_one_device_to_the_next(
    start_lab: StartLab, did: str
) -> None:
    lab = await start_lab(infra_retries=0 if did == "may not be tried again" else 1)
    for number in range(4):
        host = await lab.host(f"bad{number}", idempotency=False)
        host.on("a", replies(500))
        host.loses = 10**9 if did == "perhaps this one" else 0
    steps = ("first", "a") if did == "a step before" else ("a",)
    row = await lab.done(*steps)
    assert (row["status"], row["attempt"]) == ("error", min(2, lab.config.infra_retries + 1))
