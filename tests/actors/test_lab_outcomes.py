"""What a host says of a step without a verdict: its output is kept, and no test failed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.actors.conftest import Kit, StartLab
from tests.actors.fake_host import FakeHost, Gate, Reply, passes, replies
from tests.web.kit import PNG
from vpt.model import DeviceStatus, Json


def error(kind: str, **more: Any) -> Any:
    return replies(success=False, outcome="error", kind=kind, error="because", **more)


async def test_a_limit_that_the_host_kept_is_a_step_timeout_with_its_output(
    start_lab: StartLab,
) -> None:
    lab = await start_lab(cancel_grace=30.0)
    host = await lab.host()
    host.on("slow", error("step_timeout", output="so far"))
    row = await lab.done({"command": "slow", "timeout_s": 7}, "b")
    assert host.actions[0].body["limit_s"] == 7
    assert (row["status"], row["error_kind"], row["error"]) == ("error", "step_timeout", "because")
    [step] = await lab.steps(row["id"])
    assert (step["status"], step["output"], step["error"]) == ("error", "so far", "because")
    assert await lab.released(row["id"])
    assert not host.cancels
    assert lab.device() is DeviceStatus.ONLINE


@pytest.mark.parametrize("kind", ["host_error", "of another version", None])
async def test_an_error_of_the_host_is_no_verdict_and_is_tried_again(
    lab: Kit, kind: str | None
) -> None:
    host = await lab.host()
    outcomes = [error(str(kind), output="so far"), passes("well")]
    if kind is None:
        outcomes[0] = replies(success=True, outcome="error", output="so far")

    async def behave(fake: FakeHost, action: Json) -> Reply:
        reply: Reply = await outcomes.pop(0)(fake, action)
        return reply

    host.on("a", behave)
    row = await lab.done("a")
    assert (row["status"], row["attempt"]) == ("completed", 2)
    assert await lab.kinds(row["id"]) == [("h", "host_error"), ("h", None)]
    [first] = await lab.steps(row["id"], 1)
    assert (first["status"], first["output"]) == ("error", "so far")


async def test_a_refusal_keeps_what_was_printed(lab: Kit) -> None:
    host = await lab.host()
    host.on("a", replies(503, code="host_stopping", error="it stops", output="so far"))
    row = await lab.done("a")
    assert (row["status"], row["error_kind"]) == ("error", "host_error")
    assert (await lab.steps(row["id"]))[0]["output"] == "so far"


@pytest.mark.parametrize("by", ["cancel", "step", "run"])
async def test_what_a_stopped_step_printed_is_kept(start_lab: StartLab, by: str) -> None:
    lab = await start_lab(cancel_grace=30.0)
    host, gate = await lab.host(), Gate()
    host.on("slow", gate.held(error("cancelled", output="so far")))

    async def stop(fake: FakeHost, body: Json) -> Reply:
        asyncio.get_running_loop().call_later(0.1, gate.open)  # after its acknowledgement
        return await replies(200)(fake, body)

    host.on_cancel, host.obeys_cancel = stop, False  # it answers by itself
    limit = {"timeout_s": 0.2} if by == "step" else {}
    execution_id = await lab.run(
        {"command": "slow", **limit}, **({"timeout_s": 0.2} if by == "run" else {})
    )
    await gate.reached()
    if by == "cancel":
        await lab.lab.executions.cancel(execution_id, "ann")
    row = await lab.final(execution_id)
    kinds = {"cancel": None, "step": "step_timeout", "run": "run_timeout"}
    assert row["error_kind"] == kinds[by]
    [step] = await lab.steps(execution_id)
    assert (step["status"], step["output"]) == ("error", "so far")
    assert await lab.released(execution_id)


async def test_the_picture_of_a_step_that_did_not_end_in_time_is_kept(lab: Kit) -> None:
    host = await lab.host()
    left_out = "The screenshot was left out: it is not base64."
    pictures = {"whole": (PNG, ("png", None)), "no picture": ("-", (None, left_out))}
    for name, (picture, stored) in pictures.items():
        host.on(name, error("step_timeout", output="so far", screenshot=picture))
        row = await lab.done(name)
        assert row["error_kind"] == "step_timeout"
        [step] = await lab.steps(row["id"])
        assert (step["screenshot"], step["notes"]) == stored


async def test_a_call_for_another_host_is_no_verdict_and_is_tried_again(lab: Kit) -> None:
    host = await lab.host(idempotency=False)  # one that knows a repeated key may tell it again
    outcomes = [replies(421, code="another_host", error="this is x"), passes()]

    async def behave(fake: FakeHost, action: Json) -> Reply:
        reply: Reply = await outcomes.pop(0)(fake, action)
        return reply

    host.on("a", behave)
    row = await lab.done("a")
    assert (row["status"], row["attempt"]) == ("completed", 2)
    assert await lab.kinds(row["id"]) == [("h", "host_lost"), ("h", None)]
    assert {call.headers["Vpt-Host"] for call in host.actions} == {"h"}


async def test_a_person_sees_what_an_action_without_a_verdict_printed(lab: Kit) -> None:
    host = await lab.host()
    host.on("look", error("host_error", output="so far"))
    answer, _ = await lab.lab.act("h", None, {"command": "look"}, 5.0, "ann")
    assert (answer.success, answer.output, answer.error) == (False, "so far", "because")


async def test_actions_under_a_lease_name_it(lab: Kit) -> None:
    host = await lab.host()
    await lab.lab.act("h", None, {"command": "look"}, 5.0, "ann")
    lease = await lab.lab.leases.take("h:d1", "ann", 60)
    await lab.lab.act("h", None, {"command": "look"}, 5.0, "ann")
    assert [call.body.get("lease_id") for call in host.actions] == [None, lease["id"]]
