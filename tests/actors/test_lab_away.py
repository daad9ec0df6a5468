"""Devices that are away: what hosts say of them reaches runs, rows and a restarted server."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from tests.actors.conftest import Kit, StartLab
from tests.actors.fake_host import FakeHost, Gate, replies, until
from tests.actors.hooks import crash_actor
from vpt.model import (
    Credential,
    DeviceChanged,
    DeviceReason,
    DeviceStatus,
    DeviceView,
    Heartbeat,
    HostStatus,
    Json,
    Presence,
    Registration,
)

AWAY = Presence(available=False, reason="adb: device offline")
SAYS_AWAY = {"available": False, "reason": "adb: device offline"}


async def beat(lab: Kit, **presences: Presence) -> None:
    await lab.lab.registry.heartbeat("h", Heartbeat(presences=presences), Credential.JOIN)


async def away(lab: Kit, device_id: str) -> None:
    await until(lambda: seen(lab, device_id).reason is DeviceReason.AWAY)


def seen(lab: Kit, device_id: str) -> DeviceView:
    devices = (item for view in lab.lab.views() for item in view.devices)
    return next(item for item in devices if item.device.id == device_id)


async def rows(lab: Kit) -> list[tuple[str, str, str | None, str | None]]:
    found = await lab.fetch("SELECT id, status, reason, reason_text FROM devices ORDER BY id")
    return [tuple(row) for row in found]


def joins(host: FakeHost, **presences: Presence) -> Registration:
    named = {f"{host.name}:{name}": presence for name, presence in presences.items()}
    return replace(host.registration(), presences=named)


async def register(lab: Kit, registration: Registration) -> None:
    await lab.lab.registry.register(registration, peer="127.0.0.1")


async def test_of_two_devices_no_run_goes_to_the_one_that_is_away(lab: Kit) -> None:
    """And with the next heartbeat that says so it is back."""
    await lab.host("h", "d1", "d2")
    await beat(lab, d1=AWAY)
    await away(lab, "h:d1")
    ended = [await lab.done("a") for _ in range(4)]
    assert {row["device_id"] for row in ended} == {"h:d2"}
    assert {row["status"] for row in ended} == {"completed"}
    await beat(lab, d1=Presence())
    await lab.device_is("h:d1", DeviceStatus.ONLINE)
    assert (await lab.done("a"))["device_id"] == "h:d1"


async def test_a_run_for_a_device_that_is_away_waits_for_it_and_says_so(lab: Kit) -> None:
    await lab.host()
    await beat(lab, d1=AWAY)
    await away(lab, "h:d1")
    submitted = await lab.submit("a")
    wait = lab.lab.place(submitted.execution_id).wait
    assert (submitted.status, wait.reason, wait.names) == ("queued", "device_away", ("h:d1",))
    await beat(lab, d1=Presence())
    assert (await lab.final(submitted.execution_id))["status"] == "completed"


async def test_a_device_that_goes_away_keeps_its_run_and_the_verdict_counts(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.on("a", gate.held(replies(success=False, error="no")))
    run = await lab.run("a")
    await gate.reached()
    await beat(lab, d1=AWAY)
    await away(lab, "h:d1")
    gate.open()
    assert (await lab.final(run))["status"] == "failed"


@pytest.mark.parametrize(
    ("status", "body", "kinds"),
    [
        (200, {"success": False, "error": "no"}, [None]),
        (500, {"error": "adb died"}, ["host_error", None]),
        (409, {"error": "adb died"}, ["host_refused"]),
        (200, {"adb": "died"}, ["host_error", None]),
        (503, {"code": "fate_unknown"}, ["host_lost", None]),
    ],
)
async def test_an_answer_of_a_step_may_say_that_its_device_is_away(
    lab: Kit, status: int, body: Json, kinds: list[str | None]
) -> None:
    host = await lab.host("h", "d1", "d2")
    host.on("a", replies(status, **body, device=SAYS_AWAY), replies(success=True))
    run = await lab.run("a")
    attempts = await until(lambda: _ended(lab, run))
    first = attempts[0]["device_id"]
    assert [row["error_kind"] for row in attempts] == kinds
    assert all(row["device_id"] != first for row in attempts[1:])
    assert seen(lab, first).reason_text == "adb: device offline"


async def _ended(lab: Kit, run: str) -> list[Any]:
    done = (await lab.final(run))["status"] in ("completed", "failed", "error")
    return await lab.attempts(run) if done else []


async def test_an_answer_of_an_action_may_say_it(lab: Kit) -> None:
    host = await lab.host()
    host.on("a", replies(success=True, device=SAYS_AWAY))
    answer, _ = await lab.lab.act("h", "h:d1", {"command": "a"}, 5, "ann")
    assert answer.success
    await away(lab, "h:d1")
    host.on("a", replies(success=True, device={"available": True}))
    await lab.lab.act("h", "h:d1", {"command": "a"}, 5, "ann")
    await lab.device_is("h:d1", DeviceStatus.ONLINE)


@pytest.mark.parametrize(
    "said", ["away", None, {}, {"available": "no"}, {"reason": "x"}, [False], 3, {"available": 0}]
)
async def test_what_an_answer_says_of_its_device_cannot_spoil_it(lab: Kit, said: Any) -> None:
    host = await lab.host()
    host.on("a", replies(success=True, device=said))
    assert (await lab.done("a"))["status"] == "completed"
    assert lab.device() is DeviceStatus.ONLINE


async def test_a_reason_is_bounded_and_can_be_stored(lab: Kit) -> None:
    host = await lab.host()
    said = {"available": False, "reason": "\0\ud800" + "x" * 5000}
    host.on("a", replies(success=True, device=said))
    await lab.done("a")
    await until(lambda: _is_stored(lab, "away", "\ufffd\ufffd" + "x" * 498))


async def _is_stored(lab: Kit, reason: str | None, text: str | None) -> bool:
    return [row[2:] for row in await rows(lab)] == [(reason, text)]


async def test_events_say_why_a_device_is_offline(lab: Kit) -> None:
    await lab.host()
    await beat(lab, d1=AWAY)
    await away(lab, "h:d1")
    await beat(lab, d1=Presence(available=False, reason="no power"))
    await until(lambda: seen(lab, "h:d1").reason_text == "no power")
    changes = [event for event in lab.told if isinstance(event, DeviceChanged)][-2:]
    assert [(one.status, one.reason, one.reason_text) for one in changes] == [
        ("offline", "away", "adb: device offline"),
        ("offline", "away", "no power"),
    ]


# ---------------------------------------------------------------- registrations


async def test_a_heartbeat_that_overtakes_a_registration_is_the_newer_word(lab: Kit) -> None:
    host, gate = await lab.host("h", "d1", "d2"), Gate()
    host.health = gate.held(replies(status="ok"))
    registering = asyncio.create_task(lab.join(host))
    await gate.reached()
    await beat(lab, d1=AWAY)

    async def is_stored() -> bool:
        return "away" in (await rows(lab))[0]

    await until(is_stored)
    gate.open()
    await registering
    await lab.is_now("h", HostStatus.AVAILABLE)
    await away(lab, "h:d1")
    assert (await lab.done("a"))["device_id"] == "h:d2"
    await lab.join(host)
    await lab.device_is("h:d1", DeviceStatus.ONLINE)


async def test_a_registration_says_which_devices_are_away(lab: Kit) -> None:
    host = await lab.stranger("h", "d1", "d2")
    await register(lab, joins(host, d1=AWAY))
    await lab.is_now("h", HostStatus.AVAILABLE)
    assert (lab.device("h:d1"), lab.device("h:d2")) == ("offline", "online")
    assert seen(lab, "h:d1").reason_text == "adb: device offline"
    assert (await lab.done("a"))["device_id"] == "h:d2"
    await register(lab, joins(host, d2=AWAY))
    await away(lab, "h:d2")
    assert lab.device("h:d1") == "online"
    await register(lab, joins(host))
    await lab.device_is("h:d2", DeviceStatus.ONLINE)


async def test_a_restarted_server_knows_who_is_away(lab: Kit) -> None:
    host = await lab.host("h", "d1", "d2")
    await beat(lab, d1=AWAY)
    await until(lambda: _stored(lab, "h:d1"))
    await lab.restart()
    await lab.is_now("h", HostStatus.AVAILABLE)
    assert seen(lab, "h:d1").reason_text == "adb: device offline"
    assert (await lab.done("a"))["device_id"] == "h:d2"
    await lab.stop()
    await lab.start()
    await lab.is_now("h", HostStatus.AVAILABLE)
    await away(lab, "h:d1")
    assert host.done("a") == 1


async def _stored(lab: Kit, device_id: str) -> bool:
    return any(row[0] == device_id and row[2] == "away" for row in await rows(lab))


async def test_away_goes_before_held_back_and_ends_neither(start_lab: StartLab) -> None:
    lab = await start_lab(device_pause=600, infra_retries=0)
    host = await lab.host()
    host.on("a", replies(500, error="adb died"))
    for _ in range(3):
        await lab.done("a")
    await until(lambda: seen(lab, "h:d1").reason is DeviceReason.HELD_BACK)
    assert lab.status() is HostStatus.SUSPECT
    await beat(lab, d1=AWAY)
    await away(lab, "h:d1")
    assert lab.status() is HostStatus.BUSY
    await until(lambda: _is_stored(lab, "away", "adb: device offline"))
    await lab.restart()
    await away(lab, "h:d1")
    await beat(lab, d1=Presence())
    await until(lambda: seen(lab, "h:d1").reason is DeviceReason.HELD_BACK)
    await until(lambda: _is_stored(lab, "held_back", "The host answered 500: adb died"))
    assert await lab.fetch("SELECT FROM devices WHERE reason_until > now() + interval '1 min'")


async def test_a_restarted_server_knows_it_of_a_device_that_is_at_work(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.on("a", gate.held())
    run = await lab.run("a")
    await gate.reached()
    await beat(lab, d1=AWAY)
    await until(lambda: _stored(lab, "h:d1"))
    await lab.restart()
    gate.open()
    assert (await lab.final(run))["status"] == "completed"
    await away(lab, "h:d1")


async def test_the_crash_of_an_actor_forgets_nothing(lab: Kit) -> None:
    await lab.host()
    await beat(lab, d1=AWAY)
    await until(lambda: _stored(lab, "h:d1"))
    actor = lab.lab._supervisor._actors["h"]
    crash_actor(lab)
    await until(lambda: lab.lab._supervisor._actors.get("h") not in (None, actor))
    await lab.is_now("h", HostStatus.BUSY)
    assert seen(lab, "h:d1").reason_text == "adb: device offline"


# ---------------------------------------------------------------- properties, and what is written


async def test_properties_are_stored_as_a_whole_for_each_device(lab: Kit) -> None:
    host = await lab.stranger("h", "d1", "d2")
    await register(lab, joins(host, d1=Presence(properties={"os": "14", "api": 34})))
    assert await _properties(lab) == {"h:d1": {"os": "14", "api": 34}, "h:d2": {}}
    await beat(lab, d1=Presence(properties={"os": "15"}), d2=Presence(properties={"rooted": True}))
    assert await _properties(lab) == {"h:d1": {"os": "15"}, "h:d2": {"rooted": True}}
    await beat(lab, d1=Presence(properties=None), d2=Presence(properties={}))
    assert await _properties(lab) == {"h:d1": {"os": "15"}, "h:d2": {}}
    await register(lab, joins(host))
    assert await _properties(lab) == {"h:d1": {"os": "15"}, "h:d2": {}}


async def _properties(lab: Kit) -> dict[str, Json]:
    found = await lab.fetch("SELECT id, properties FROM devices")
    return {row["id"]: json.loads(row["properties"]) for row in found}


async def test_equal_heartbeats_write_no_row(lab: Kit) -> None:
    """But when the host was seen, which is written for all hosts together."""
    await lab.host("h", "d1", "d2")
    told = {"d1": AWAY, "d2": Presence(properties={"os": "14"}), "d9": AWAY}
    await beat(lab, **told)
    await until(lambda: _stored(lab, "h:d1"))
    await lab._beside.execute(COUNT_WRITES)
    for _ in range(50):
        await beat(lab, **told)
    assert await _writes(lab) == []
    await beat(lab, d1=Presence(properties={"os": "15"}))
    await until(lambda: _writes(lab))


#: Counts the updates of devices but for those of `last_seen`.
COUNT_WRITES = """
CREATE TABLE writes (id text);
CREATE FUNCTION count_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO writes VALUES (NEW.id);
    RETURN NULL;
END
$$;
CREATE TRIGGER count_writes AFTER UPDATE ON devices FOR EACH ROW
WHEN (OLD.last_seen IS NOT DISTINCT FROM NEW.last_seen)
EXECUTE FUNCTION count_write()
"""


async def _writes(lab: Kit) -> list[str]:
    return [row["id"] for row in await lab.fetch("SELECT id FROM writes")]
