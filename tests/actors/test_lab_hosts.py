"""Hosts that join, go, come back, and are driven by hand."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.actors.conftest import Kit, StartLab
from tests.actors.fake_host import (
    BlackHole,
    FakeHost,
    Gate,
    Reply,
    hangs,
    passes,
    replies,
    says,
    until,
)
from vpt.errors import (
    ActionTimeoutError,
    BadGatewayError,
    ConflictError,
    HostUnreachableError,
    InvalidError,
    NotFoundError,
    NotRegisteredError,
    UnavailableError,
    UnprocessableError,
)
from vpt.model import Credential, DeviceStatus, Heartbeat, HostStatus, Json, Reason
from vpt.store.tokens import make_token

# ---------------------------------------------------------------- joining and leaving


async def test_a_host_that_joins_is_known_at_once_and_available_after_its_probe(lab: Kit) -> None:
    host = await lab.stranger()
    host.health = hangs()
    await lab.join(host)
    submitted = await lab.submit("a")
    assert (submitted.status, lab.status()) == ("queued", HostStatus.SUSPECT)
    host.health = replies(204)
    await lab.final(submitted.execution_id)
    assert lab.host_changes()[:2] == [HostStatus.SUSPECT, HostStatus.AVAILABLE]


async def test_a_host_is_suspect_and_then_lost_and_recovers(start_lab: StartLab) -> None:
    lab = await start_lab()
    host = await lab.host()
    host.health = replies(500)
    await lab.is_now("h", HostStatus.SUSPECT)
    await lab.is_now("h", HostStatus.LOST)
    await until(lambda: lab.device() is DeviceStatus.OFFLINE)
    host.health = replies(200)
    await lab.is_now("h", HostStatus.AVAILABLE)
    changes = lab.host_changes()
    assert changes == ["suspect", "available", "suspect", "lost", "available"]
    limits, tally = lab.config, lab.lab.tally
    assert tally.probes_missed >= limits.host_lost_after
    assert tally.probes.total >= limits.host_recover_after
    await until(lambda: _stored_as(lab, "available"))
    assert await lab.fetch("SELECT FROM hosts WHERE reason IS NOT NULL") == []


async def test_one_missed_probe_is_not_enough(lab: Kit) -> None:
    host = await lab.host()
    for _ in range(3):
        probes = len(host.probes)
        host.health = _once(replies(500), replies(200))
        await until(lambda n=probes: len(host.probes) >= n + 4)
    assert lab.host_changes() == ["suspect", "available"]


def _once(first: Any, then: Any) -> Any:
    left = [first]

    async def behave(host: FakeHost, body: Json) -> Reply:
        reply: Reply = await (left.pop() if left else then)(host, body)
        return reply

    return behave


async def test_a_host_that_says_goodbye_is_offline_and_not_probed(lab: Kit) -> None:
    host = await lab.host()
    await lab.lab.registry.unregister("h", Credential.JOIN)
    await lab.is_now("h", HostStatus.OFFLINE)
    submitted = await lab.submit("a")
    assert submitted.status == "queued"
    with pytest.raises(NotRegisteredError):
        await until(lambda: lab.lab.registry.heartbeat("h", Heartbeat(), Credential.JOIN))
    probes = len(host.probes)
    await lab.join(host)
    assert (await lab.final(submitted.execution_id))["status"] == "completed"
    assert len(host.probes) > probes


async def test_a_host_that_comes_back_may_send_a_heartbeat_at_once(lab: Kit) -> None:
    host = await lab.host()
    for _ in range(5):
        await lab.lab.registry.unregister("h", Credential.JOIN)
        await until(lambda: _stored_as(lab, "offline"))
        await lab.join(host)
        await lab.lab.registry.heartbeat("h", Heartbeat({"cpu_percent": 3.0}), Credential.JOIN)
    await lab.lab._samples.flush()
    assert len(await lab.fetch("SELECT FROM host_health WHERE cpu_percent = 3")) == 1


async def _stored_as(lab: Kit, status: str) -> bool:
    return [row["status"] for row in await lab.fetch("SELECT status FROM hosts")] == [status]


async def test_a_heartbeat_sets_last_seen_and_never_makes_a_host_available(lab: Kit) -> None:
    host = await lab.host()
    await host.vanish()
    await lab.is_now("h", HostStatus.LOST)
    changes = len(lab.host_changes())
    for _ in range(5):
        with pytest.raises(NotRegisteredError):  # it may have another address by now
            await lab.lab.registry.heartbeat("h", Heartbeat(), Credential.JOIN)
    await asyncio.sleep(0)
    assert lab.status() is HostStatus.LOST
    assert len(lab.host_changes()) == changes
    with pytest.raises(NotRegisteredError):
        await lab.lab.registry.heartbeat("unknown", Heartbeat(), Credential.JOIN)


async def test_a_heartbeat_triggers_a_probe(start_lab: StartLab) -> None:
    lab = await start_lab(host_probe_interval=60.0)
    host = await lab.host()
    probes = len(host.probes)
    await lab.lab.registry.heartbeat("h", Heartbeat(), Credential.JOIN)
    await until(lambda: len(host.probes) == probes + 1)


async def test_what_a_host_runs_when_it_says_goodbye_gets_run_grace(start_lab: StartLab) -> None:
    lab = await start_lab(infra_retries=0)
    host = await lab.host()
    execution_id = await lab.run("a", {"command": "b", "delay_s": 0.2})
    await until(lambda: host.done("a"))
    await lab.lab.registry.unregister("h", Credential.JOIN)
    row = await lab.final(execution_id)
    assert (row["status"], row["error_kind"]) == ("error", "host_lost")
    assert host.commands() == ["a"]


async def test_a_step_that_ends_after_the_goodbye_still_counts(start_lab: StartLab) -> None:
    lab = await start_lab(run_grace=30.0)
    host, gate = await lab.host(), Gate()
    host.on("a", gate.held())
    execution_id = await lab.run("a")
    await gate.reached()
    await lab.lab.registry.unregister("h", Credential.JOIN)
    gate.open()
    assert (await lab.final(execution_id))["status"] == "completed"


async def test_a_deleted_host_is_gone_and_its_name_is_free_at_once(start_lab: StartLab) -> None:
    lab = await start_lab(host_probe_interval=0.1, host_probe_timeout=30.0)
    host = await lab.host()
    probes = len(host.probes)
    host.health = hangs()
    await until(lambda: len(host.probes) > probes)
    await lab.lab.registry.delete_host("h")
    assert lab.status() is None
    with pytest.raises(UnprocessableError):
        await lab.run("a")
    with pytest.raises(NotFoundError):
        await lab.lab.registry.delete_host("h")
    host.health = replies(200)
    await lab.join(host)
    assert (await lab.done("a"))["status"] == "completed"


async def test_a_host_that_runs_something_is_not_deleted(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.on("a", gate.held())
    execution_id = await lab.run("a")
    await gate.reached()
    with pytest.raises(ConflictError):
        await lab.lab.registry.delete_host("h")
    gate.open()
    assert (await lab.final(execution_id))["status"] == "completed"


async def test_a_draining_host_finishes_and_gets_nothing_new_until_it_resumes(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.on("a", gate.held())
    first = await lab.run("a", "b")
    await gate.reached()
    await lab.lab.registry.drain("h", on=True)
    assert lab.status() is HostStatus.DRAINING
    second = await lab.submit("c")
    assert second.status == "queued"
    gate.open()
    assert (await lab.final(first))["status"] == "completed"
    await lab.device_is("h:d1", DeviceStatus.ONLINE)
    assert (await lab.execution(second.execution_id))["status"] == "queued"
    await lab.lab.registry.drain("h", on=False)
    assert (await lab.final(second.execution_id))["status"] == "completed"
    with pytest.raises(NotFoundError):
        await lab.lab.registry.drain("unknown", on=True)


async def test_registering_again_keeps_what_people_set(lab: Kit) -> None:
    host = await lab.host("h", "d1", "d2")
    await lab.fetch("UPDATE hosts SET tags = '{rack-3}'")
    await lab.fetch(
        """
        UPDATE devices SET tags = '{mine}', name = 'TV', name_edited = true, disabled = true
        WHERE id = 'h:d1'
        """
    )
    await lab.lab.registry.devices_changed("h")
    await lab.lab.registry.drain("h", on=True)
    await lab.join(host)
    await lab.is_now("h", HostStatus.DRAINING)
    assert lab.device("h:d1") is DeviceStatus.DISABLED
    [row] = await lab.fetch("SELECT tags, draining FROM hosts")
    assert (row["tags"], row["draining"]) == (["rack-3"], True)
    sql = "SELECT tags, name, disabled FROM devices ORDER BY id"
    rows = [tuple(row) for row in await lab.fetch(sql)]
    assert rows == [(["mine"], "TV", True), ([], "d2", False)]


async def test_a_run_goes_on_while_its_host_registers_again(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.on("a", gate.held())
    execution_id = await lab.run("a", "b")
    await gate.reached()
    for _ in range(3):
        await lab.join(host)
    gate.open()
    row = await lab.final(execution_id)
    assert (row["status"], row["attempt"], host.done("a")) == ("completed", 1, 1)


async def test_a_disabled_device_gets_nothing(lab: Kit) -> None:
    host = await lab.host()
    await lab.fetch("UPDATE devices SET disabled = true")
    await lab.lab.registry.devices_changed("h")
    assert lab.device() is DeviceStatus.DISABLED
    submitted = await lab.submit("a")
    assert submitted.status == "queued"
    await lab.fetch("UPDATE devices SET disabled = false")
    await lab.lab.registry.devices_changed("h")
    assert (await lab.final(submitted.execution_id))["status"] == "completed"
    assert host.commands() == ["a"]


async def test_a_device_that_is_withdrawn_finishes_and_may_come_back(lab: Kit) -> None:
    host, gate = await lab.host("h", "d1", "d2"), Gate()
    await lab.fetch("UPDATE devices SET tags = '{mine}'")
    host.on("a", gate.held())
    execution_id = await lab.run("a", "b", device_id="h:d2")
    await gate.reached()
    host.devices = ("d1",)
    await lab.join(host)
    assert lab.device("h:d2") is DeviceStatus.OFFLINE
    gate.open()
    assert (await lab.final(execution_id))["status"] == "completed"
    await until(lambda: lab.device("h:d2") is None)
    with pytest.raises(UnprocessableError):
        await lab.run("b", device_id="h:d2")
    sql = "SELECT withdrawn, tags FROM devices WHERE id = 'h:d2'"
    assert tuple((await lab.fetch(sql))[0]) == (True, ["mine"])
    host.devices = ("d1", "d2")
    await lab.join(host)
    assert (await lab.done("b", device_id="h:d2"))["status"] == "completed"
    assert tuple((await lab.fetch(sql))[0]) == (False, ["mine"])


# ---------------------------------------------------------------- who may be what


async def test_a_name_belongs_to_the_url_that_answers(lab: Kit) -> None:
    old = await lab.host()
    new = await lab.stranger()
    with pytest.raises(ConflictError, match="old URL"):
        await lab.join(new)
    assert (await lab.done("a"))["status"] == "completed"
    assert (old.commands(), new.commands()) == (["a"], [])
    await old.vanish()
    await lab.join(new)
    assert (await lab.done("b"))["status"] == "completed"
    assert new.commands() == ["b"]
    [row] = await lab.fetch("SELECT host_url FROM hosts")
    assert row["host_url"] == new.url


async def test_a_run_moves_with_its_host_to_another_url(start_lab: StartLab) -> None:
    lab = await start_lab(run_grace=30.0)
    old = await lab.host()
    execution_id = await lab.run("a", {"command": "b", "delay_s": 0.2})
    await until(lambda: any(event.step == 1 for event in lab.progress(execution_id)))
    await old.vanish()
    new = await lab.stranger()
    await lab.join(new)
    row = await lab.final(execution_id)
    assert (row["status"], row["attempt"]) == ("completed", 1)
    assert (old.commands(), new.commands()) == (["a"], ["b"])


async def test_a_weaker_credential_does_not_take_a_name(lab: Kit) -> None:
    host = await lab.stranger()
    await make_token(lab.db, "h")  # without one the credential counts as revoked
    await lab.join(host, credential=Credential.OWN)
    for credential in (Credential.JOIN, Credential.OPEN):
        with pytest.raises(ConflictError):
            await lab.join(host, credential=credential)
        with pytest.raises(ConflictError):
            await lab.lab.registry.heartbeat("h", Heartbeat(), credential)
        with pytest.raises(ConflictError):
            await lab.lab.registry.unregister("h", credential)
    other = await lab.stranger("other")
    await lab.join(other, credential=Credential.OPEN)
    await lab.join(other, credential=Credential.JOIN)
    with pytest.raises(ConflictError):
        await lab.join(other, credential=Credential.OPEN)


async def test_a_secret_is_sent_to_its_host_only(lab: Kit) -> None:
    one = await lab.host("one", secret="1" * 40)
    two = await lab.host("two", secret="2" * 40)
    open_one = await lab.host("open")
    for host in (one, two, open_one):
        host.on("slow", hangs())
        row = await lab.done("a", {"command": "slow", "timeout_s": 0.1}, host_id=host.name)
        assert row["error_kind"] == "step_timeout"
        await until(lambda h=host: h.cancels)
    for host in (one, two, open_one):
        calls = [*host.actions, *host.probes, *host.cancels]
        said = {call.headers.get("Authorization") for call in calls}
        assert said == {host.secret and f"Bearer {host.secret}"}
    rows = await lab.fetch("SELECT sealed_secret FROM hosts WHERE id <> 'open'")
    assert not any(b"1111" in row[0] or b"2222" in row[0] for row in rows)


async def test_a_host_that_asks_for_another_secret_is_not_well(start_lab: StartLab) -> None:
    lab = await start_lab(infra_retries=0)
    host = await lab.host(secret="1" * 40)
    host.believes = "2" * 40
    row = await lab.done("a")
    assert (row["status"], row["error_kind"]) == ("error", "host_refused")
    await lab.is_now("h", HostStatus.LOST)
    assert host.acted == []
    host.secret = host.believes
    await lab.join(host)
    assert (await lab.done("b"))["status"] == "completed"


# ---------------------------------------------------------------- by hand


async def _act(lab: Kit, command: str, seconds: float = 10, **more: Any) -> Any:
    host_id, device_id = more.pop("host_id", "h"), more.pop("device_id", None)
    answer, ms = await lab.lab.act(host_id, device_id, {"command": command}, seconds, "ann")
    assert ms >= 0
    return answer


async def test_an_action_by_hand_answers_what_the_host_said(lab: Kit) -> None:
    host = await lab.host()
    host.on("look", passes("a picture"))
    answer = await _act(lab, "look")
    assert (answer.success, answer.output) == (True, "a picture")
    answer = await _act(lab, "look")
    bodies = [call.body for call in host.actions]
    limit = {"limit_s": 10}
    assert bodies == [{"command": "look", "device_id": "d1", "device_model": "tv"} | limit] * 2
    keys = {call.key for call in host.actions}
    assert len(keys) == 2
    assert None not in keys


async def test_actions_by_hand_wait_for_each_other(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.on("slow", gate.held())
    first = asyncio.create_task(_act(lab, "slow"))
    await gate.reached()
    others = [asyncio.create_task(_act(lab, name)) for name in ("b", "c")]
    probes = len(host.probes)
    await until(lambda: len(host.probes) > probes + 2)
    assert host.commands() == ["slow"]
    gate.open()
    await asyncio.gather(first, *others)
    assert host.commands() == ["slow", "b", "c"]


async def test_actions_on_two_devices_do_not_wait_for_each_other(lab: Kit) -> None:
    host, gate = await lab.host("h", "d1", "d2"), Gate()
    host.on("slow", gate.held())
    first = asyncio.create_task(_act(lab, "slow", device_id="d1"))
    await gate.reached()
    assert (await _act(lab, "quick", device_id="h:d2")).success
    gate.open()
    await first
    with pytest.raises(InvalidError):
        await _act(lab, "which")
    with pytest.raises(UnprocessableError):
        await _act(lab, "where", device_id="d3")
    with pytest.raises(NotFoundError):
        await _act(lab, "who", host_id="unknown")


async def test_nobody_acts_by_hand_on_a_device_that_an_execution_holds(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.on("a", gate.held())
    execution_id = await lab.run("a")
    await gate.reached()
    with pytest.raises(ConflictError):
        await _act(lab, "b")
    gate.open()
    await lab.final(execution_id)
    await lab.device_is("h:d1", DeviceStatus.ONLINE)
    assert (await _act(lab, "b")).success


async def test_a_run_waits_for_the_action_by_hand_and_starts_when_it_ends(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.on("slow", gate.held())
    acting = asyncio.create_task(_act(lab, "slow"))
    await gate.reached()
    async with asyncio.timeout(1.5):
        submitted = await lab.submit("a")
    assert submitted.status == "queued"
    with pytest.raises(ConflictError):
        await lab.lab.registry.delete_host("h")
    gate.open()
    await acting
    await until(lambda: host.done("a"), 2.5)  # the sweep, which finds everything, takes 5 s
    assert (await lab.final(submitted.execution_id))["status"] == "completed"
    assert host.commands() == ["slow", "a"]


async def test_acting_on_a_host_that_is_away_is_refused(lab: Kit) -> None:
    host = await lab.host()
    await host.vanish()
    with pytest.raises(HostUnreachableError):
        await _act(lab, "a")
    await lab.is_now("h", HostStatus.LOST)
    with pytest.raises(HostUnreachableError):
        await _act(lab, "a")
    await lab.is_now("h", HostStatus.LOST)
    assert host.commands() == []


async def test_an_action_that_never_reached_its_host_is_answered_so(start_lab: StartLab) -> None:
    lab = await start_lab(host_probe_interval=3.0)
    host = await lab.host()
    await host.vanish()
    hole = BlackHole(host.port)
    with pytest.raises(HostUnreachableError):
        await _act(lab, "a", 0.5)
    hole.close()


async def test_an_action_past_its_time_is_answered_so(lab: Kit) -> None:
    host = await lab.host()
    host.on("slow", hangs())
    with pytest.raises(ActionTimeoutError):
        await _act(lab, "slow", 0.2)


async def test_an_action_that_nobody_waits_for_is_not_acted_later(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.on("slow", gate.held())
    first = asyncio.create_task(_act(lab, "slow"))
    await gate.reached()
    with pytest.raises(ActionTimeoutError):
        await _act(lab, "late", 0.1)
    gate.open()
    await first
    assert (await _act(lab, "next")).success
    assert host.commands() == ["slow", "next"]


@pytest.mark.parametrize(
    "behaviour",
    [replies(500), replies(404), replies(output="x"), says(Reply(body=b"<html>"))],
    ids=["500", "404", "no success", "not json"],
)
async def test_what_is_no_answer_to_an_action_is_a_bad_gateway(lab: Kit, behaviour: Any) -> None:
    host = await lab.host()
    host.on("a", behaviour)
    with pytest.raises(BadGatewayError):
        await _act(lab, "a")
    assert len(host.actions) == 1
    assert lab.status() is HostStatus.AVAILABLE


async def test_the_line_of_actions_has_an_end(start_lab: StartLab) -> None:
    lab = await start_lab(inbox_limit=3)
    host, gate = await lab.host(), Gate()
    host.on("slow", gate.held())
    acting = [asyncio.create_task(_act(lab, "slow")) for _ in range(3)]
    await gate.reached()
    acting.append(asyncio.create_task(_act(lab, "slow")))  # one is under way, three wait
    await until(lambda: len(lab.lab._supervisor._actors["h"].state.lanes["h:d1"].actions) == 4)
    with pytest.raises(UnavailableError):
        await _act(lab, "more")
    gate.open()
    await asyncio.gather(*acting)


async def test_a_broken_idempotent_host_is_asked_by_hand_with_the_same_key(lab: Kit) -> None:
    host = await lab.host()
    host.loses = 1
    assert (await _act(lab, "a")).success
    assert host.done("a") == 1
    assert len({call.key for call in host.actions}) == 1


async def test_a_new_url_of_a_host_needs_no_secret_of_the_old(lab: Kit) -> None:
    old = await lab.host(secret="1" * 40)
    await old.vanish()
    new = await lab.stranger()
    registration = new.registration()
    await lab.lab.registry.register(replace(registration, secret=None), peer="127.0.0.1")
    assert (await lab.done("a"))["status"] == "completed"
    assert {call.headers.get("Authorization") for call in (*new.probes, *new.actions)} == {None}


async def test_a_host_that_flaps_is_held_back_and_shown_as_such(lab: Kit) -> None:
    host = await lab.host()
    for _ in range(3):
        await host.vanish()
        await lab.is_now("h", HostStatus.LOST)
        await host.appear()
        await lab.is_now("h", HostStatus.AVAILABLE, HostStatus.SUSPECT)
        await until(lambda: lab.lab.views()[0].reason is not Reason.PROBES)
    view = lab.lab.views()[0]
    assert (view.status, view.reason, view.pause_s) == (HostStatus.SUSPECT, Reason.FLAPPING, 10)

    async def stored() -> bool:
        rows = await lab.fetch(
            "SELECT reason, reason_until > now() AS held FROM hosts WHERE reason = 'flapping'"
        )
        return bool(rows and rows[0]["held"])

    async with asyncio.timeout(15):
        while not await stored():
            pass
    submitted = await lab.submit("a")
    assert submitted.device_id is None
    await lab.restart()
    await until(lambda: lab.lab.views()[0].reason is Reason.FLAPPING)
    assert host.done("a") == 0


async def test_devices_are_told_as_they_are_after_what_is_being_told_already(lab: Kit) -> None:
    await lab.host()
    turn = lab.lab._supervisor.lock("h")
    async with turn:  # a registration is being told
        telling = asyncio.create_task(lab.lab.registry.devices_changed("h"))
        await asyncio.wait([telling], timeout=0.2)
        await lab.fetch("UPDATE devices SET disabled = true WHERE id = 'h:d1'")
    await telling
    await lab.device_is("h:d1", DeviceStatus.DISABLED)
