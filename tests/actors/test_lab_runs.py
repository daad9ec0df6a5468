"""The path of a run, on real hosts of loopback and a real database."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from tests.actors.conftest import Kit, StartLab
from tests.actors.fake_host import (
    HUGE,
    BlackHole,
    FakeHost,
    Gate,
    Reply,
    fails,
    hangs,
    passes,
    replies,
    says,
    until,
)
from vpt.errors import ConflictError, NotFoundError, UnprocessableError
from vpt.model import DeviceStatus, HostStatus

# ---------------------------------------------------------------- steps


async def test_a_run_passes_and_tells_each_step(lab: Kit) -> None:
    host = await lab.host()
    submitted = await lab.submit("a", "b")
    assert (submitted.status, submitted.host, submitted.device_id) == ("running", "h", "h:d1")
    row = await lab.final(submitted.execution_id)
    assert (row["status"], row["host_id"], row["device_id"]) == ("completed", "h", "h:d1")
    assert host.commands() == ["a", "b"]
    assert await lab.statuses(row["id"]) == ["passed", "passed"]
    told = [(event.step, event.step_status, event.status) for event in lab.progress(row["id"])]
    assert told == [
        (0, None, "running"),
        (1, "passed", "running"),
        (2, "passed", "running"),
        (2, None, "completed"),
    ]
    assert all(event.total_steps == 2 for event in lab.progress(row["id"]))


async def test_a_step_carries_what_the_host_must_know(lab: Kit) -> None:
    host = await lab.host()
    step = {"command": "press", "action_type": "remote", "params": {"key": "OK"}}
    execution_id = (await lab.done(step))["id"]
    [call] = host.actions
    names = {"execution_id": execution_id, "attempt": 1, "step": 1}
    limit = {"limit_s": lab.config.step_timeout}
    assert call.body == step | names | {"device_id": "d1", "device_model": "tv"} | limit
    assert call.headers["Vpt-Host"] == "h"
    assert call.key == f"{execution_id}/1/1/1"


async def test_an_implicit_device_is_called_null(lab: Kit) -> None:
    host = await lab.stranger(capabilities=("tv",))
    host.devices = ()
    await lab.join(host)
    assert (await lab.done("a"))["device_id"] == "h"
    assert host.actions[0].body["device_id"] is None


async def test_a_result_is_stored_before_the_next_step_goes_out(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.on("a", passes("done so"))
    host.on("b", gate.held())
    execution_id = await lab.run("a", "b")
    await gate.reached()
    first, second = await lab.steps(execution_id)
    assert (first["status"], first["output"]) == ("passed", "done so")
    assert first["finished_at"] is not None
    assert second["status"] == "running"
    gate.open()
    await lab.final(execution_id)


async def test_a_failed_step_ends_the_run(lab: Kit) -> None:
    host = await lab.host()
    host.on("b", fails("no picture"))
    row = await lab.done("a", "b", "c")
    assert row["status"] == "failed"
    assert host.commands() == ["a", "b"]
    steps = await lab.steps(row["id"])
    assert [step["status"] for step in steps] == ["passed", "failed"]
    assert steps[1]["error"] == "no picture"


async def test_continue_on_failure_goes_on_and_the_verdict_stays_failed(lab: Kit) -> None:
    host = await lab.host()
    host.on("a", fails())
    row = await lab.done({"command": "a", "continue_on_failure": True}, "b")
    assert row["status"] == "failed"
    assert await lab.statuses(row["id"]) == ["failed", "passed"]


async def test_retries_try_the_step_again_under_a_key_of_its_own(lab: Kit) -> None:
    host = await lab.host()
    host.on("a", fails(), fails(), passes())
    row = await lab.done({"command": "a", "retries": 2}, "b")
    assert row["status"] == "completed"
    keys = [call.key for call in host.actions]
    assert keys == [f"{row['id']}/1/{end}" for end in ("1/1", "1/2", "1/3", "2/1")]
    assert [step["tries"] for step in await lab.steps(row["id"])] == [3, 1]


async def test_retries_come_to_an_end(lab: Kit) -> None:
    host = await lab.host()
    host.on("a", fails())
    row = await lab.done({"command": "a", "retries": 1})
    assert (row["status"], len(host.actions)) == ("failed", 2)


async def test_of_test_retries_the_last_one_decides(lab: Kit) -> None:
    host = await lab.host()
    host.on("a", fails(), passes())
    row = await lab.done("a", test_retries=3)
    assert (row["status"], row["attempt"]) == ("completed", 2)
    assert [item["status"] for item in await lab.attempts(row["id"])] == ["failed", "completed"]
    host.on("a", fails())
    row = await lab.done("a", test_retries=1)
    assert (row["status"], row["attempt"]) == ("failed", 2)


async def test_delay_s_is_waited_before_the_step(lab: Kit) -> None:
    host = await lab.host()
    await lab.done("a", {"command": "b", "delay_s": 0.3})
    first, second = host.actions
    assert second.at - first.at >= 0.3


async def test_the_text_of_a_host_is_kept_but_for_what_no_database_takes(lab: Kit) -> None:
    host = await lab.host()
    host.on("a", says(Reply(body=b'{"success": true, "output": "x\\u0000\\ud800y\\u00fc"}')))
    host.on("b", passes("y" * (2**20 + 5)))
    row = await lab.done("a", "b")
    first, second = await lab.steps(row["id"])
    assert first["output"] == "x\ufffd\ufffdyü"
    assert second["output"].startswith("y" * 2**20)
    assert second["output"].endswith("[cut at 1 MiB]")


# ---------------------------------------------------------------- limits


async def _timed_out(lab: Kit, host: FakeHost, gate: Gate) -> str:
    """Let a step run out of time while the host goes on; the device is held then."""
    host.on("slow", gate.held())
    row = await lab.done({"command": "slow", "timeout_s": 0.2}, "b")
    assert (row["status"], row["error_kind"], row["attempt"]) == ("error", "step_timeout", 1)
    assert await lab.statuses(row["id"]) == ["error"]
    execution_id: str = row["id"]
    return execution_id


async def test_a_step_that_never_reached_its_host_in_its_short_time_did_not_time_out(
    start_lab: StartLab,
) -> None:
    lab = await start_lab(host_probe_interval=3.0)
    host = await lab.host()
    execution_id = await lab.run("a", {"command": "b", "delay_s": 0.1, "timeout_s": 1})
    await until(lambda: len(lab.progress(execution_id)) == 2)
    await host.vanish()
    hole = BlackHole(host.port)
    await lab.is_now("h", HostStatus.SUSPECT)
    hole.close()
    await host.appear()
    row = await lab.final(execution_id)
    assert (row["status"], row["attempt"], host.commands()) == ("completed", 1, ["a", "b"])


async def test_a_step_timeout_holds_the_device_until_the_answer_comes(start_lab: StartLab) -> None:
    lab = await start_lab(cancel_grace=30.0)
    host, gate = await lab.host(cancel=False), Gate()
    execution_id = await _timed_out(lab, host, gate)
    following = await lab.submit("b")
    assert following.status == "queued"
    assert lab.device() is DeviceStatus.BUSY
    told = lab.progress(execution_id)
    gate.open()
    assert (await lab.final(following.execution_id))["status"] == "completed"
    assert await lab.released(execution_id)
    assert lab.progress(execution_id) == told, "the late answer is dropped"
    assert await lab.statuses(execution_id) == ["error"]


async def test_a_late_5xx_is_an_answer_too(start_lab: StartLab) -> None:
    lab = await start_lab(cancel_grace=30.0)
    host, gate = await lab.host(cancel=False), Gate()
    host.on("slow", gate.held(replies(500)))
    row = await lab.done({"command": "slow", "timeout_s": 0.2})
    assert row["error_kind"] == "step_timeout"
    gate.open()
    assert (await lab.done("b"))["status"] == "completed"


async def test_a_step_timeout_frees_the_device_when_the_cancel_is_acknowledged(
    start_lab: StartLab,
) -> None:
    lab = await start_lab(cancel_grace=30.0)
    host, gate = await lab.host(), Gate()
    acknowledges = Gate()
    host.on_cancel = acknowledges.held(replies(200))
    execution_id = await _timed_out(lab, host, gate)
    await acknowledges.reached()
    assert host.cancels[0].body == {"execution_id": execution_id, "attempt": 1}
    assert not await lab.released(execution_id)
    acknowledges.open()
    assert (await lab.done("b"))["status"] == "completed"


async def test_a_step_timeout_frees_the_device_when_the_host_registers_anew(
    start_lab: StartLab,
) -> None:
    lab = await start_lab(cancel_grace=30.0)
    host, gate = await lab.host(cancel=False), Gate()
    host.may_overlap = True  # it only says that it began anew
    await _timed_out(lab, host, gate)
    await lab.join(host)
    assert (await lab.done("b"))["status"] == "completed"


async def test_a_step_timeout_frees_the_device_after_cancel_grace_at_the_latest(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.may_overlap = True
    host.on_cancel = replies(500)
    await _timed_out(lab, host, gate)
    assert (await lab.done("b"))["status"] == "completed"


async def test_a_run_that_takes_too_long_ends_in_run_timeout(lab: Kit) -> None:
    host = await lab.host()
    host.on("a", hangs())
    row = await lab.done("a", timeout_s=0.3)
    assert (row["status"], row["error_kind"], row["attempt"]) == ("error", "run_timeout", 1)
    assert [call.body["execution_id"] for call in host.cancels] == [row["id"]]
    assert (await lab.done("b"))["status"] == "completed"


async def test_the_delay_before_a_step_counts_for_the_run(lab: Kit) -> None:
    host = await lab.host()
    row = await lab.done("a", {"command": "b", "delay_s": 60}, timeout_s=0.3)
    assert row["error_kind"] == "run_timeout"
    assert host.commands() == ["a"]


# ---------------------------------------------------------------- answers that are none

_NO_ANSWERS = {
    "500": replies(500, error="oh"),
    "503": replies(503),
    "408": replies(408),
    "429": replies(429),
    "not json": says(Reply(body=b"<html>")),
    "no object": says(Reply(body=b"[true]")),
    "no success": replies(output="yes"),
    "success is no bool": replies(success="yes"),
    "empty": says(Reply(204, b"")),
    "over 16 MiB": says(Reply(body=b'{"success": true, "output": "' + b"x" * HUGE + b'"}')),
    "over 16 MiB in chunks": says(
        Reply(body=b'{"success": true, "output": "' + b"x" * HUGE + b'"}', chunked=True)
    ),
    "too many values": says(
        Reply(body=b'{"success": true, "output": [' + b"[]," * 100_000 + b"0]}")
    ),
    "not HTTP": says(Reply(200, b"{}", {"Content-Encoding": "gzip"})),
}


async def test_what_is_no_answer_is_a_host_error_and_tried_again(start_lab: StartLab) -> None:
    lab = await start_lab(infra_retries=0)
    host = await lab.host()
    for name, behaviour in _NO_ANSWERS.items():
        host.on(name, behaviour)
    ids = {name: await lab.run(name) for name in _NO_ANSWERS}
    rows = {name: await lab.final(execution_id) for name, execution_id in ids.items()}
    ends = {name: (row["status"], row["error_kind"]) for name, row in rows.items()}
    assert ends == dict.fromkeys(_NO_ANSWERS, ("error", "host_error"))
    assert sorted(host.commands()) == sorted(_NO_ANSWERS), "a 5xx is not sent again"


async def test_a_host_error_is_tried_again_and_counts(lab: Kit) -> None:
    host = await lab.host()
    host.on("a", replies(500), passes())
    row = await lab.done("a")
    assert (row["status"], row["attempt"]) == ("completed", 2)
    assert await lab.kinds(row["id"]) == [("h", "host_error"), ("h", None)]
    host.on("a", replies(500))
    row = await lab.done("a")
    assert (row["status"], row["error_kind"]) == ("error", "host_error")
    assert len(await lab.attempts(row["id"])) == 2, "INFRA_RETRIES is 1"


async def test_a_redirect_is_a_host_error_and_not_followed(start_lab: StartLab) -> None:
    lab = await start_lab(infra_retries=0)
    host = await lab.host(secret="s" * 40)
    other = await lab.stranger("other")
    target = {"Location": f"{other.url}/host/remote/executeAction"}
    host.on("a", replies(307, headers=target))
    row = await lab.done("a")
    assert row["error_kind"] == "host_error"
    assert other.actions == []


@pytest.mark.parametrize("status", [400, 404, 413])
async def test_a_refused_run_goes_to_another_host_only(lab: Kit, status: int) -> None:
    one = await lab.host("one")
    one.on("a", replies(status, error="never"))
    execution_id = await lab.run("a", queue_timeout_s=60)
    assert (await lab.final(execution_id))["error_kind"] == "host_refused", "there is no other"
    assert one.commands() == ["a"]
    two = await lab.host("two")
    two.on("a", replies(status, error="neither"))
    three = await lab.host("three")
    three.on("a", replies(status, error="neither"))
    row = await lab.done("a")
    kinds = await lab.kinds(row["id"])
    assert len({host for host, _ in kinds}) == len(kinds) == 2, "INFRA_RETRIES is 1"
    assert (row["status"], row["error_kind"]) == ("error", "host_refused")


async def test_a_run_that_one_host_refused_passes_on_another(lab: Kit) -> None:
    one, _ = await lab.host("one"), await lab.host("two")
    one.on("a", replies(404))
    ends = [await lab.done("a") for _ in range(2)]
    assert [row["status"] for row in ends] == ["completed"] * 2
    assert len(one.actions) >= 1


# ---------------------------------------------------------------- connections


async def test_an_idempotent_host_is_asked_again_with_the_same_key(lab: Kit) -> None:
    host = await lab.host()
    host.on("a", passes("once"))
    host.loses = 3
    row = await lab.done("a", "b")
    assert (row["status"], row["attempt"]) == ("completed", 1)
    keys = [call.key for call in host.actions if call.command == "a"]
    assert len(keys) == 4
    assert len(set(keys)) == 1
    assert host.done("a") == 1
    assert (await lab.steps(row["id"]))[0]["output"] == "once"


async def test_a_broken_connection_to_any_other_host_ends_the_attempt(lab: Kit) -> None:
    host = await lab.host(idempotency=False)
    host.loses = 1
    row = await lab.done("a")
    assert (row["status"], row["attempt"]) == ("completed", 2)
    assert await lab.kinds(row["id"]) == [("h", "host_lost"), ("h", None)]
    assert [call.body["attempt"] for call in host.acted] == [1, 2]
    assert [call.body["attempt"] for call in host.cancels][:1] == [1]


async def test_a_host_without_idempotency_gets_a_fresh_connection_for_each_step(lab: Kit) -> None:
    host = await lab.host(idempotency=False)
    await lab.done("a", "b", "c")
    assert len({call.peer for call in host.actions}) == 3


@pytest.mark.parametrize("idempotency", [True, False])
async def test_what_was_not_sent_goes_again_when_the_host_is_back(
    start_lab: StartLab, idempotency: bool
) -> None:
    lab = await start_lab(host_lost_after=1000)
    host = await lab.host(idempotency=idempotency)
    execution_id = await lab.run("a", {"command": "b", "delay_s": 0.3})
    await until(lambda: host.commands() == ["a"] and len(lab.progress(execution_id)) > 1)
    await host.vanish()
    await lab.is_now("h", HostStatus.SUSPECT)
    await host.appear()
    row = await lab.final(execution_id)
    assert (row["status"], row["attempt"]) == ("completed", 1)
    assert host.commands() == ["a", "b"]
    assert HostStatus.SUSPECT in lab.host_changes()


async def test_a_failed_connection_makes_the_host_suspect_at_once(start_lab: StartLab) -> None:
    lab = await start_lab(host_probe_interval=60.0)
    host = await lab.host()
    execution_id = await lab.run("a", {"command": "b", "delay_s": 0.3})
    await until(lambda: host.commands() == ["a"] and len(lab.progress(execution_id)) > 1)
    await host.vanish()
    await lab.is_now("h", HostStatus.SUSPECT)
    await host.appear()
    assert (await lab.final(execution_id))["status"] == "completed", "it looks again soon"


# ---------------------------------------------------------------- lost hosts


async def test_a_run_of_a_lost_host_ends_in_host_lost_after_its_retries(lab: Kit) -> None:
    host = await lab.host()
    delayed = {"command": "b", "delay_s": 0.3}
    execution_id = await lab.run("a", delayed)
    for attempt in (1, 2):
        await until(lambda n=attempt: host.done("a") == n)
        await host.vanish()
        await lab.is_now("h", HostStatus.LOST)
        if attempt == 1:
            await until(lambda: _attempt_is_over(lab, execution_id))
            assert (await lab.execution(execution_id))["status"] == "queued"
            await host.appear()
    row = await lab.final(execution_id)
    assert (row["status"], row["error_kind"]) == ("error", "host_lost")
    assert await lab.kinds(execution_id) == [("h", "host_lost")] * 2


async def _attempt_is_over(lab: Kit, execution_id: str, attempt: int = 1) -> bool:
    attempts = await lab.attempts(execution_id)
    return len(attempts) >= attempt and attempts[attempt - 1]["completed_at"] is not None


async def test_a_run_of_a_lost_host_goes_to_another_one_first(lab: Kit) -> None:
    one = await lab.host("one")
    execution_id = await lab.run("a", {"command": "b", "delay_s": 0.3})
    await until(lambda: one.done("a"))
    await lab.host("two")
    await one.vanish()
    row = await lab.final(execution_id)
    assert row["status"] == "completed"
    assert await lab.kinds(execution_id) == [("one", "host_lost"), ("two", None)]


async def test_a_device_of_a_lost_host_is_held_until_the_host_is_well_and_has_acknowledged(
    start_lab: StartLab,
) -> None:
    lab = await start_lab(infra_retries=0)
    host, gate, acknowledges = await lab.host(), Gate(), Gate()
    host.on("slow", gate.held())
    host.on_cancel = acknowledges.held(replies(200))
    execution_id = await lab.run("slow")
    await gate.reached()
    await host.vanish()  # it goes on acting
    assert (await lab.final(execution_id))["error_kind"] == "host_lost"
    assert not await lab.released(execution_id)
    following = await lab.run("b")
    await host.appear()
    await acknowledges.reached()
    assert not await lab.released(execution_id)
    assert lab.device() is DeviceStatus.BUSY
    acknowledges.open()
    assert (await lab.final(following))["status"] == "completed"
    assert await lab.released(execution_id)


async def test_a_device_of_a_lost_host_without_cancel_is_held_until_it_is_well(
    start_lab: StartLab,
) -> None:
    lab = await start_lab(infra_retries=0)
    host, gate = await lab.host(idempotency=False, cancel=False), Gate()
    host.may_overlap = True
    host.on("slow", gate.held())
    execution_id = await lab.run("slow")
    await gate.reached()
    await host.vanish()
    assert (await lab.final(execution_id))["error_kind"] == "host_lost"
    assert not await lab.released(execution_id)
    following = await lab.run("b")
    probes = len(host.probes)
    await host.appear()
    assert (await lab.final(following))["status"] == "completed"
    assert len(host.probes) - probes >= 2, "HOST_RECOVER_AFTER is 2"


async def test_a_host_that_died_in_the_middle_cannot_tell_and_the_run_begins_anew(
    start_lab: StartLab,
) -> None:
    lab = await start_lab(host_lost_after=1000)
    host, gate = await lab.host(), Gate()
    host.on("a", gate.held(), passes())
    execution_id = await lab.run("a")
    await gate.reached()
    await host.die()
    await host.appear()
    row = await lab.final(execution_id)
    assert row["status"] == "completed"
    assert await lab.kinds(execution_id) == [("h", "host_lost"), ("h", None)]


async def test_a_step_in_flight_survives_a_short_absence_of_its_host(start_lab: StartLab) -> None:
    lab = await start_lab(host_lost_after=1000)
    host, gate = await lab.host(), Gate()
    host.on("a", gate.held())
    execution_id = await lab.run("a", "b")
    await gate.reached()
    await host.vanish()
    await lab.is_now("h", HostStatus.SUSPECT)
    await host.appear()
    gate.open()
    row = await lab.final(execution_id)
    assert (row["status"], row["attempt"], host.done("a")) == ("completed", 1, 1)


# ---------------------------------------------------------------- the queue


async def test_the_queue_is_first_in_first_out_and_starts_the_moment_a_device_is_free(
    lab: Kit,
) -> None:
    host, gate = await lab.host(), Gate()
    host.on("hold", gate.held())
    first = await lab.run("hold")
    others = [await lab.submit(name) for name in ("b", "c", "d")]
    assert [other.status for other in others] == ["queued"] * 3
    gate.open()
    rows = [await lab.final(id_) for id_ in (first, *(other.execution_id for other in others))]
    assert host.commands() == ["hold", "b", "c", "d"]
    for earlier, later in pairwise(rows):
        assert later["started_at"] >= earlier["completed_at"]
        assert (later["started_at"] - earlier["completed_at"]).total_seconds() < 2


async def test_priority_goes_first(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.on("hold", gate.held())
    await lab.run("hold")
    ids = [await lab.run(name, priority=n) for name, n in (("low", 10), ("mid", 50), ("top", 90))]
    gate.open()
    for execution_id in ids:
        await lab.final(execution_id)
    assert host.commands() == ["hold", "top", "mid", "low"]


async def test_what_waits_too_long_ends_in_queue_timeout(lab: Kit) -> None:
    host = await lab.host()
    host.on("hold", hangs())
    await lab.run("hold")
    await lab.submit("c", queue_timeout_s=60)
    row = await lab.done("b", queue_timeout_s=0.3)
    assert (row["status"], row["error_kind"], row["attempt"]) == ("error", "queue_timeout", 0)
    waited = (row["completed_at"] - row["queued_at"]).total_seconds()
    assert 0.3 <= waited < 2, "the sweep, which finds everything, takes up to 5 s"
    [event] = lab.progress(row["id"])
    assert (event.attempt, event.step, event.status, event.seq) == (0, 0, "error", 1)


async def test_what_nobody_could_ever_run_is_refused_and_says_why(lab: Kit) -> None:
    with pytest.raises(UnprocessableError, match="No host is registered"):
        await lab.run("a")
    await lab.host("h", "d1", "d2", capabilities=("hdmi",))
    with pytest.raises(UnprocessableError, match=r"nearest, h:d1, lacks device model phone"):
        await lab.run("a", device_model="phone")
    with pytest.raises(UnprocessableError, match=r"nearest, h:d2, lacks gps"):
        await lab.run("a", requirements=("gps", "hdmi", "tv"), device_id="h:d2")
    with pytest.raises(UnprocessableError, match=r"lacks host elsewhere"):
        await lab.run("a", host_id="elsewhere")
    assert await lab.fetch("SELECT id FROM test_executions") == []


async def test_a_host_that_is_away_may_be_waited_for(lab: Kit) -> None:
    host = await lab.host()
    await host.vanish()
    await lab.is_now("h", HostStatus.LOST)
    submitted = await lab.submit("a")
    assert submitted.status == "queued"
    await host.appear()
    assert (await lab.final(submitted.execution_id))["status"] == "completed"


async def test_two_devices_of_one_host_run_side_by_side(lab: Kit) -> None:
    host, gate = await lab.host("h", "d1", "d2"), Gate()
    host.on("a", gate.held())
    ids = [await lab.run("a") for _ in range(2)]
    await gate.reached(2)
    assert lab.status() is HostStatus.BUSY
    gate.open()
    for execution_id in ids:
        assert (await lab.final(execution_id))["status"] == "completed"
    assert {call.body["device_id"] for call in host.actions} == {"d1", "d2"}


async def test_one_device_never_has_two_runs(lab: Kit) -> None:
    host = await lab.host()
    ids = await asyncio.gather(*(lab.run("a", "b") for _ in range(12)))
    for execution_id in ids:
        assert (await lab.final(execution_id))["status"] == "completed"
    runs = [call.body["execution_id"] for call in host.actions]
    assert runs[::2] == runs[1::2], "the steps of two runs were mixed"
    overlapping = """
        SELECT a.execution_id FROM execution_attempts a JOIN execution_attempts b
            ON a.device_id = b.device_id AND a.execution_id < b.execution_id
        WHERE tstzrange(a.started_at, a.released_at) && tstzrange(b.started_at, b.released_at)
    """
    assert await lab.fetch(overlapping) == []


# ---------------------------------------------------------------- cancel


async def test_cancel_takes_a_queued_run_out_of_the_line(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.on("hold", gate.held())
    first, second = await lab.run("hold"), await lab.run("b")
    await lab.lab.executions.cancel(second, "ann")
    assert (await lab.execution(second))["status"] == "cancelled"
    assert [event.attempt for event in lab.progress(second)] == [0]
    gate.open()
    assert (await lab.final(first))["status"] == "completed"
    assert host.commands() == ["hold"]


async def test_cancel_stops_the_action_on_the_host_and_frees_the_device(
    start_lab: StartLab,
) -> None:
    lab = await start_lab(cancel_grace=30.0)
    host, gate = await lab.host(), Gate()
    host.on("slow", gate.held())
    execution_id = await lab.run("slow", "b")
    await gate.reached()
    await lab.lab.executions.cancel(execution_id, "ann")
    row = await lab.final(execution_id)
    assert (row["status"], row["error_kind"]) == ("cancelled", None)
    assert host.cancels[0].body == {"execution_id": execution_id, "attempt": 1}
    assert (await lab.done("c"))["status"] == "completed"
    assert host.commands() == ["slow", "c"]
    assert (await lab.execution(execution_id))["status"] == "cancelled"


async def test_a_cancel_that_nobody_acknowledges_is_carried_out_after_cancel_grace(
    lab: Kit,
) -> None:
    host, gate = await lab.host(), Gate()
    host.may_overlap = True
    host.on("slow", gate.held())
    host.on_cancel = replies(503)
    execution_id = await lab.run("slow")
    await gate.reached()
    await lab.lab.executions.cancel(execution_id, "ann")
    assert (await lab.execution(execution_id))["status"] == "running"
    assert (await lab.final(execution_id))["status"] == "cancelled"
    assert not await lab.released(execution_id), "the host may still be acting"
    assert (await lab.done("b"))["status"] == "completed"
    told = lab.progress(execution_id)
    gate.open()
    assert (await lab.done("b"))["status"] == "completed"
    assert lab.progress(execution_id) == told


async def test_a_cancelled_run_without_cancel_on_its_host_ends_with_its_step(
    start_lab: StartLab,
) -> None:
    lab = await start_lab(cancel_grace=30.0)
    host, gate = await lab.host(cancel=False), Gate()
    host.on("slow", gate.held())
    execution_id = await lab.run("slow", "b")
    await gate.reached()
    await lab.lab.executions.cancel(execution_id, "ann")
    gate.open()
    assert (await lab.final(execution_id))["status"] == "cancelled"
    assert await lab.statuses(execution_id) == ["passed"]
    assert host.commands() == ["slow"]
    assert host.cancels == []


async def test_a_run_that_waits_before_a_step_is_cancelled_at_once(start_lab: StartLab) -> None:
    lab = await start_lab(cancel_grace=30.0)
    host = await lab.host()
    execution_id = await lab.run("a", {"command": "b", "delay_s": 60})
    await until(lambda: len(lab.progress(execution_id)) == 2)
    await lab.lab.executions.cancel(execution_id, "ann")
    assert (await lab.final(execution_id))["status"] == "cancelled"
    assert (await lab.done("c"))["status"] == "completed"
    assert host.commands() == ["a", "c"]


async def test_a_run_on_a_host_that_is_away_is_cancelled(start_lab: StartLab) -> None:
    lab = await start_lab(run_grace=60.0)
    host = await lab.host()
    execution_id = await lab.run("a", {"command": "b", "delay_s": 0.2})
    await until(lambda: host.done("a"))
    await host.vanish()
    await lab.is_now("h", HostStatus.LOST)
    await lab.lab.executions.cancel(execution_id, "ann")
    assert (await lab.final(execution_id))["status"] == "cancelled"


async def test_a_cancel_beats_another_attempt(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.on("a", gate.held(replies(500)))
    host.on_cancel = hangs()
    execution_id = await lab.run("a")
    await gate.reached()
    await lab.lab.executions.cancel(execution_id, "ann")
    gate.open()
    assert (await lab.final(execution_id))["status"] == "cancelled"
    assert len(host.actions) == 1


async def test_what_is_over_cannot_be_cancelled(lab: Kit) -> None:
    await lab.host()
    row = await lab.done("a")
    with pytest.raises(ConflictError):
        await lab.lab.executions.cancel(row["id"], "ann")
    with pytest.raises(NotFoundError):
        await lab.lab.executions.cancel("never-was", "ann")


async def test_runs_may_be_cancelled_at_any_moment(lab: Kit) -> None:
    host = await lab.host("h", "d1", "d2")
    ids: list[str] = []

    async def one(number: int) -> None:
        execution_id = await lab.run("a", "b", "c")
        ids.append(execution_id)
        await asyncio.sleep(number * 0.002)  # any moment will do
        try:
            await lab.lab.executions.cancel(execution_id, "ann")
        except ConflictError:
            assert (await lab.execution(execution_id))["status"] == "completed"

    await asyncio.gather(*(one(number) for number in range(24)))
    rows: list[Any] = [await lab.final(execution_id) for execution_id in ids]
    assert {row["status"] for row in rows} <= {"cancelled", "completed"}
    assert (await lab.done("a"))["status"] == "completed"
    assert host.overlaps == []
