"""VirtualPyTest hosts run steps of every kind, one at a time, whatever breaks meanwhile."""

from __future__ import annotations

import asyncio
import base64
from itertools import pairwise
from typing import Any

import pytest

from tests.actors.conftest import execution
from tests.actors.fake_host import until
from vpt.errors import ConflictError
from vpt.model import Credential, Device, ExecutionStatus, Host, Json, Registration

from .conftest import KEY, StartLab, VKit
from .kit import TEAM
from .stand_in import PNG

BATCH = "/host/action/executeBatch"
POLL = "/host/action/execution"
SCRIPT = "/host/script/execute"


def act(command: str, **more: Any) -> Json:
    return {"command": command, "action_type": "remote", **more}


def check(command: str, **more: Any) -> Json:
    return {"command": command, "verification_type": "image", **more}


def script(name: str, **more: Any) -> Json:
    return {"script": name, **more}


def graph(command: str) -> Json:
    """Return a graph of one action."""
    nodes = [
        {"id": "start", "type": "start", "data": {}},
        {"id": "do", "type": "action", "data": {"command": command, "action_type": "remote"}},
        {"id": "good", "type": "success", "data": {}},
        {"id": "bad", "type": "failure", "data": {}},
    ]
    ways = [("start", "do", "success"), ("do", "good", "success"), ("do", "bad", "failure")]
    edges = [{"source": a, "target": b, "sourceHandle": c} for a, b, c in ways]
    return {"graph": {"nodes": nodes, "edges": edges}}


KINDS = {"action": act, "verification": check, "script": script, "graph": graph}


# ---------------------------------------------------------------- each kind, each end


@pytest.mark.parametrize("kind", KINDS)
async def test_a_step_of_each_kind_passes(lab: VKit, kind: str) -> None:
    host = await lab.pi()
    host.on("c", message="all is well")
    row = await lab.done(KINDS[kind]("c"))
    step = (await lab.steps(row["id"]))[0]
    assert (row["status"], step["status"], step["error"]) == ("completed", "passed", None)
    assert "all is well" in step["output"]
    assert step["handle"].startswith(f"{kind}:")
    assert host.done("d1") == ["c"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_step_of_each_kind_fails(lab: VKit, kind: str) -> None:
    host = await lab.pi()
    host.on("c", success=False, message="not there")
    row = await lab.done(KINDS[kind]("c"))
    step = (await lab.steps(row["id"]))[0]
    assert (row["status"], row["error_kind"], step["status"]) == ("failed", None, "failed")
    assert "not there" in step["output"]
    if kind != "script":
        assert step["error"] == "not there" or kind == "graph"
    assert step["error"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_host_that_cannot_do_it_is_no_failed_test(lab: VKit, kind: str) -> None:
    host = await lab.pi()
    host.on("c", error="the tuner is on fire")
    row = await lab.done(KINDS[kind]("c"))
    assert (row["status"], row["error_kind"]) == ("error", "host_error")
    assert "the tuner is on fire" in row["error"]
    assert len(await lab.attempts(row["id"])) == 2


async def test_what_goes_out_is_what_the_host_reads(lab: VKit) -> None:
    host = await lab.pi()
    steps = (
        act("press", params={"key": "HOME"}, timeout_s=9, retries=0, wait=1),
        {"actions": [{"command": "a"}, {"command": "b"}], "failure_actions": [{"command": "f"}]},
        check("see"),
        {"verifications": [check("one"), check("two")], "userinterface_name": "tv_app"},
        script("s.py", parameters={"edge": "a b", "loud": True, "not": False, "n": 2}),
        {**graph("do"), "name": "Zap"},
    )
    row = await lab.done(*steps)
    assert row["status"] == "completed", row["error"]
    first, several = host.asked(BATCH)
    pressed = {"command": "press", "action_type": "remote", "params": {"key": "HOME"}, "wait": 1}
    assert first.body == {"device_id": "d1", "actions": [pressed]}
    assert first.query == {"team_id": TEAM}
    assert [each["command"] for each in several.body["actions"]] == ["a", "b"]
    assert several.body["failure_actions"] == [{"command": "f"}]
    one, two = (each.body["verifications"] for each in host.asked("/host/verification/executeB"))
    assert [each.get("userinterface_name") for each in (*one, *two)] == ["default", "tv_app", None]
    line = "--edge 'a b' --loud true --not false --n 2 --host pi --device d1"
    assert host.asked(SCRIPT)[0].body["parameters"] == line
    told = host.asked("/host/testcase/execute")[0]
    assert (told.body["host_name"], told.body["testcase_name"]) == ("pi", "Zap")
    assert {each.key for each in host.requests} == {None, KEY}
    assert {each.path for each in host.requests if each.key is None} == {"/host/system/health"}


async def test_a_host_without_devices_is_its_own(lab: VKit) -> None:
    host = await lab.pi()
    host.devices.clear()
    host.devices["pi"] = "tv"
    await lab.lab.registry.delete_host("pi")
    host.devices = {}
    await lab.join_pi(host)
    host.devices = {"pi": "tv"}
    assert (await lab.done(act("a")))["status"] == "completed"
    assert host.done("pi") == ["a"]


@pytest.mark.parametrize(
    ("said", "status", "kind"),
    [
        ({"script_success": None, "exit_code": 0}, "completed", None),
        ({"script_success": None, "exit_code": 3}, "failed", None),
        ({"script_success": True, "exit_code": 1}, "completed", None),
        ({"script_success": None, "exit_code": True}, "error", "host_error"),
        ({"script_success": False, "exit_code": 0}, "failed", None),
        ({"script_success": None, "exit_code": None}, "error", "host_error"),
    ],
)
async def test_the_verdict_of_a_script(
    start_lab: StartLab, said: Json, status: str, kind: str | None
) -> None:
    lab = await start_lab(infra_retries=0)
    host = await lab.pi()
    host.on("s", result={**said, "report_url": "http://r/1", "stderr": "oh"})
    row = await lab.done(script("s"))
    assert (row["status"], row["error_kind"]) == (status, kind)
    if status != "error":
        output = (await lab.steps(row["id"]))[0]["output"]
        assert output == "report: http://r/1\ndone\nstderr:\noh"


async def test_a_manual_action_is_run_and_answered(lab: VKit) -> None:
    host = await lab.pi()
    host.on("a", message="by hand", screenshot=True)
    answer, _ = await lab.lab.act("pi", "d1", act("a"), 5.0, "ann")
    assert answer.success and answer.raw is not None
    assert answer.raw["output"] == "1. passed by hand"
    assert base64.b64decode(answer.raw["screenshot"]) == PNG
    assert host.control == []


# ---------------------------------------------------------------- polls and turns


async def test_polls_start_quickly_and_become_rarer(lab: VKit) -> None:
    host = await lab.pi()
    await lab.done(act("wait", params={"seconds": 4}))
    moments = [host.asked(BATCH)[0].at, *(each.at for each in host.asked(POLL))]
    gaps = [after - before for before, after in pairwise(moments)]
    assert 0.1 <= gaps[0] < 0.3, gaps
    assert all(0.1 * 1.5**i <= gap or gap >= 1 for i, gap in enumerate(gaps)), gaps
    assert 1 <= gaps[-1] < 1.3 and len(gaps) <= 10, gaps


async def test_requests_never_overlap(start_lab: StartLab) -> None:
    lab = await start_lab(host_probe_interval=0.01)
    host = await lab.pi("pi", "d1", "d2")
    host.on("a", seconds=0.15)
    steps = (act("a"), check("a"), graph("a"), script("a"))
    ids = [await lab.run(*steps, device_id=f"pi:d{1 + i % 2}") for i in range(4)]
    assert [(await lab.final(each))["status"] for each in ids] == ["completed"] * 4
    assert len(host.asked("/host/system/health")) > 4
    assert host.overlaps == [] and host.work.mixed_up == []
    assert len(host.done("d1")) == len(host.done("d2")) == 8


async def test_a_host_at_work_does_not_lose_its_name_to_another(lab: VKit) -> None:
    host = await lab.pi()
    host.on("a", seconds=0.5)
    execution_id = await lab.run(act("a"))
    await until(lambda: host.asked(BATCH))
    card = Host("pi", "http://127.0.0.1:9", dialect="virtualpytest")
    device = Device("pi:d1", "d1", "d1", "tv")
    with pytest.raises(ConflictError):
        await lab.lab.registry.register(
            Registration(card, (device,), {}, None, Credential.JOIN), peer="127.0.0.1"
        )
    assert (await lab.final(execution_id))["status"] == "completed"


async def test_control_is_taken_and_released_around_each_attempt(lab: VKit) -> None:
    host = await lab.pi()
    host.on("b", times=1, error="not now")
    row = await lab.done(act("a"), act("b"))
    assert row["status"] == "completed" and row["attempt"] == 2
    await until(lambda: len(host.control) == 4)
    assert host.control == [("take", "d1"), ("release", "d1")] * 2
    paths = [each.path for each in host.requests if each.method == "POST"]
    assert paths[0] == "/host/takeControl" and paths[-1] == "/host/releaseControl"


async def test_another_try_of_a_step_is_begun_anew(lab: VKit) -> None:
    host = await lab.pi()
    host.on("a", times=1, success=False)
    row = await lab.done(act("a", retries=1))
    assert (row["status"], row["attempt"]) == ("completed", 1)
    assert host.done("d1") == ["a", "a"]
    assert [verb for verb, _ in host.control].count("take") == 1


async def test_control_that_is_not_given_is_an_error_of_the_host(lab: VKit) -> None:
    host = await lab.pi()
    host.says["/host/takeControl"] = (200, b'{"success": false, "error": "in use"}')
    row = await lab.done(act("a"))
    assert (row["status"], row["error_kind"]) == ("error", "host_error")
    assert "in use" in row["error"] and host.done("d1") == []


async def test_where_a_long_step_stands_is_told(lab: VKit) -> None:
    host = await lab.pi()
    host.on("a", hang=True)
    row_id = await lab.run(graph("a"))
    await until(lab.moves)
    host.work.release.set()
    assert (await lab.final(row_id))["status"] == "completed"
    move = lab.moves()[0]
    assert (move.execution_id, move.attempt, move.step) == (row_id, 1, 1)
    states = {"start": "success", "do": "running", "good": "pending", "bad": "pending"}
    assert move.state == {"current_block": "do", "blocks": states}


async def test_the_same_is_not_told_twice(lab: VKit) -> None:
    host = await lab.pi()
    host.on("b", seconds=1.5)
    await lab.done({"actions": [{"command": "a"}, {"command": "b"}]})
    states = [move.state for move in lab.moves()]
    assert states == [{"progress": 50, "message": "b"}]
    assert len(host.asked(POLL)) > 3


# ---------------------------------------------------------------- outcomes


async def test_a_wrong_key_is_a_refusal(lab: VKit) -> None:
    host = await lab.pi()
    host.key = "another key"
    row = await lab.done(act("a"))
    assert (row["status"], row["error_kind"]) == ("error", "host_refused")
    assert "401" in (await lab.attempts(row["id"]))[0]["error"] and host.done("d1") == []


@pytest.mark.parametrize(
    ("path", "status", "content", "kind"),
    [
        (BATCH, 500, b"", "host_error"),
        (BATCH, 429, b"{}", "host_error"),
        (BATCH, 302, b"", "host_error"),
        (BATCH, 200, b"what?", "host_error"),
        (BATCH, 200, b'{"execution_id": "x"}', "host_error"),
        (BATCH, 200, b'{"success": false, "error": "no"}', "host_error"),
        (BATCH, 200, b'{"success": true, "execution_id": "../../x"}', "host_error"),
        (BATCH, 200, b'{"success": true, "x": "' + b"x" * 17 * 2**20 + b'"}', "host_error"),
        (BATCH, 400, b'{"error": "bad"}', "host_refused"),
        (BATCH, 404, b"{}", "host_refused"),
    ],
)
async def test_a_start_that_goes_wrong(
    start_lab: StartLab, path: str, status: int, content: bytes, kind: str
) -> None:
    lab = await start_lab(infra_retries=0)
    host = await lab.pi()
    host.says[path] = (status, content)
    row = await lab.done(act("a"))
    assert (row["status"], row["error_kind"]) == ("error", kind)
    assert host.asked(POLL) == []


async def test_a_step_without_end_times_out(start_lab: StartLab) -> None:
    lab = await start_lab(step_timeout=0.5)
    host = await lab.pi()
    host.on("a", hang=True)
    row = await lab.done(act("a"))
    assert (row["status"], row["error_kind"]) == ("error", "step_timeout")
    assert len(host.done("d1")) == 1


# ---------------------------------------------------------------- what breaks meanwhile


async def test_a_host_that_was_restarted_has_lost_the_attempt(lab: VKit) -> None:
    host = await lab.pi()
    host.on("a", times=1, hang=True)
    row_id = await lab.run(act("a"))
    await until(lambda: host.asked(POLL))
    await host.kill()
    await host.start()
    row = await lab.final(row_id)
    assert row["status"] == "completed"
    assert await lab.kinds(row_id) == [("pi", "host_lost"), ("pi", None)]


@pytest.mark.parametrize("away", [0.0, 1.0], ids=["a moment", "a second"])
async def test_a_cut_connection_costs_no_attempt(lab: VKit, away: float) -> None:
    host = await lab.pi()
    host.on("a", hang=True)
    row_id = await lab.run(act("a"))
    await until(lambda: host.asked(POLL))
    await host.vanish()
    host.work.release.set()
    await asyncio.sleep(away)  # longer than all tries of a poll, or not
    await host.appear()
    row = await lab.final(row_id)
    assert (row["status"], row["attempt"]) == ("completed", 1)
    assert host.done("d1") == ["a"]


@pytest.mark.parametrize(
    ("times", "ended"), [(2, ("completed", None)), (3, ("error", "host_error"))]
)
async def test_a_poll_that_goes_wrong_is_tried_again(
    start_lab: StartLab, times: int, ended: tuple[str, str | None]
) -> None:
    lab = await start_lab(infra_retries=0)
    host = await lab.pi()
    host.unwell = times
    row = await lab.done(act("a"))
    assert (row["status"], row["error_kind"]) == ended


async def test_a_start_whose_answer_is_lost_is_not_sent_again(start_lab: StartLab) -> None:
    lab = await start_lab(infra_retries=0)
    host = await lab.pi()
    host.cuts[BATCH] = 1
    row = await lab.done(act("a"))
    assert (row["status"], row["error_kind"]) == ("error", "host_lost")
    assert host.done("d1") == ["a"]


async def test_control_whose_answer_is_lost_is_taken_again(lab: VKit) -> None:
    host = await lab.pi()
    host.cuts["/host/takeControl"] = 1
    row = await lab.done(act("a"))
    assert (row["status"], row["attempt"]) == ("completed", 1)
    assert host.done("d1") == ["a"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_step_outlives_the_server(lab: VKit, kind: str) -> None:
    host = await lab.pi()
    host.on("a", hang=True)
    row_id = await lab.run(KINDS[kind]("a"))

    async def named() -> bool:
        return (await lab.steps(row_id))[0]["handle"] is not None

    await until(named)
    await lab.restart()
    host.work.release.set()
    row = await lab.final(row_id)
    assert (row["status"], row["attempt"]) == ("completed", 1)
    assert host.done("d1") == ["a"]


# ---------------------------------------------------------------- scripts


async def test_a_lost_callback_is_a_step_timeout(start_lab: StartLab) -> None:
    lab = await start_lab(step_timeout=0.5)
    host = await lab.pi()
    host.lose_callback = True
    row = await lab.done(script("s"))
    assert (row["status"], row["error_kind"]) == ("error", "step_timeout")
    assert host.callbacks


async def test_a_callback_may_come_before_the_start_is_answered(lab: VKit) -> None:
    host = await lab.pi()
    host.patient = True
    assert (await lab.done(script("s")))["status"] == "completed"
    assert lab.server.taken == [True]


async def test_a_callback_makes_good_for_a_lost_answer(lab: VKit) -> None:
    host = await lab.pi()
    host.patient, host.cuts[SCRIPT] = True, 1
    row = await lab.done(script("s"))
    assert (row["status"], row["attempt"]) == ("completed", 1)
    assert host.done("d1") == ["s"]


async def test_a_callback_is_taken_once_and_from_its_host_only(lab: VKit) -> None:
    host = await lab.pi()
    host.on("s", hang=True)
    row_id = await lab.run(script("s"))
    await until(lambda: host.asked(SCRIPT))
    said = {"task_id": host.asked(SCRIPT)[0].body["task_id"], "result": {"script_success": False}}
    assert not lab.lab.task_complete(said["task_id"], said, "another")
    assert not lab.lab.task_complete("unheard of", said, None)
    lab.server.speaks_for = "pi"
    host.work.release.set()
    assert (await lab.final(row_id))["status"] == "completed"
    assert lab.server.taken == [True]
    assert not lab.lab.task_complete(said["task_id"], said, "pi")


async def test_a_callback_is_kept_while_the_host_is_away(lab: VKit) -> None:
    host = await lab.pi()
    host.on("s", hang=True)
    row_id = await lab.run(script("s"))
    await until(lambda: len(host.asked("/host/system/health")) > 3 and host.done("d1"))
    await host.vanish()
    await lab.is_now("pi", "suspect")  # nobody waits for the script now
    host.work.release.set()
    await until(lambda: lab.server.taken == [True])
    await host.appear()
    row = await lab.final(row_id)
    assert (row["status"], row["attempt"]) == ("completed", 1)


async def test_a_callback_that_comes_before_its_run_is_taken_up_is_kept(lab: VKit) -> None:
    host = await lab.pi()
    host.on("s", hang=True)
    row_id = await lab.run(script("s"))

    async def named() -> bool:
        return (await lab.steps(row_id))[0]["handle"] is not None

    await until(named)
    await host.vanish()
    await lab.restart()
    host.work.release.set()
    await until(lambda: lab.server.taken == [False])
    await host.appear()
    row = await lab.final(row_id)
    assert (row["status"], row["attempt"]) == ("completed", 1)


async def test_a_host_that_is_busy_with_a_request_is_not_dead(lab: VKit) -> None:
    host = await lab.pi()
    host.on("s", hang=True)
    row_id = await lab.run(script("s"))
    await until(lambda: host.done("d1"))
    before = len(host.asked("/host/system/health"))
    await until(lambda: len(host.asked("/host/system/health")) > before)
    async with host._turn:  # it answers nothing now
        await asyncio.sleep(0.6)  # several looks, if one did not wait for the other
        assert lab.status("pi") == "busy"
    host.work.release.set()
    row = await lab.final(row_id)
    assert (row["status"], row["attempt"]) == ("completed", 1)


# ---------------------------------------------------------------- screenshots


async def screenshot_of(lab: VKit, execution_id: str) -> bytes | None:
    folder = lab.config.vpt_data_dir / "screenshots" / execution_id
    files = sorted(folder.glob("*")) if folder.exists() else []
    return files[-1].read_bytes() if files else None


@pytest.mark.parametrize("kind", ["action", "verification", "graph"])
@pytest.mark.parametrize("success", [True, False])
async def test_the_last_screenshot_is_kept(lab: VKit, kind: str, success: bool) -> None:
    host = await lab.pi()
    host.on("a", screenshot=True, success=success)
    row = await lab.done(KINDS[kind]("a"))
    assert await screenshot_of(lab, row["id"]) == PNG
    assert lab.progress(row["id"])[1].screenshot_url == f"/screenshots/{row['id']}/1/1.png"


async def test_a_screenshot_may_be_named_by_its_url(lab: VKit) -> None:
    host = await lab.pi()
    host.files["/x.png"] = PNG
    host.on("a", screenshot=f"{host.url}/x.png")
    row = await lab.done(act("a"))
    assert await screenshot_of(lab, row["id"]) == PNG


async def test_a_screenshot_from_elsewhere_is_not_fetched(lab: VKit) -> None:
    host, other = await lab.pi(), await lab.pi("other", model="radio")
    other.files["/x.png"] = PNG
    host.on("a", screenshot=f"{other.url}/x.png")
    row = await lab.done(act("a"))
    assert row["status"] == "completed"
    assert await screenshot_of(lab, row["id"]) is None
    assert other.asked("/x.png") == []


LEFT_OUT = {
    "too large": "The host answered 9.4 MB, more than 8 MiB.",
    "a redirect": "The host answered 302.",
    "gone": "The host answered 404.",
    "no picture": "it is neither PNG nor JPEG.",
}


@pytest.mark.parametrize("how", LEFT_OUT)
async def test_a_screenshot_that_cannot_be_had_is_no_failure(lab: VKit, how: str) -> None:
    host, other = await lab.pi(), await lab.pi("other", model="radio")
    other.files["/elsewhere"] = host.files["/elsewhere"] = PNG
    host.files["/x.png"] = PNG + bytes(9 * 2**20) if how == "too large" else PNG
    if how == "a redirect":
        host.says["/x.png"] = (302, b"")
    elif how == "gone":
        del host.files["/x.png"]
    elif how == "no picture":
        host.files["/x.png"] = b"<html>"
    host.on("a", screenshot="/x.png")
    row = await lab.done(act("a"))
    assert row["status"] == "completed"
    assert await screenshot_of(lab, row["id"]) is None
    assert host.asked("/x.png") and not host.asked("/elsewhere")
    assert (await lab.steps(row["id"]))[0][
        "notes"
    ] == f"The screenshot was left out: {LEFT_OUT[how]}"


# ---------------------------------------------------------------- a mixed lab


async def test_hosts_of_both_dialects_share_a_campaign(lab: VKit) -> None:
    pi, fake = await lab.pi("pi", "d1", "d2"), await lab.host("fake")
    pi.on("a", seconds=0.2)
    entries = [execution(act("a"), device_id=each) for each in ("pi:d1", "pi:d2", "fake:d1")]
    campaign_id = await lab.campaign(*entries, *entries, parallelism=6)
    row = await lab.campaign_final(campaign_id)
    assert row["status"] == ExecutionStatus.COMPLETED
    assert (pi.done("d1"), pi.done("d2"), fake.done("a")) == (["a", "a"], ["a", "a"], 2)
