"""The stand-in keeps to what was seen of real hosts, or tests with it would show nothing."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ..actors.fake_host import until
from .kit import Caller, NotingServer, StandInProcess
from .membership import Pace
from .stand_in import HEALTH, PNG, StandIn, running

KEY = "the lab's key"
KINDS = ("action", "verification", "testcase", "script")  # how the names of its tasks begin
HURRY = Pace(start=0.02, boundary=0.3, retry=0.02, again=0.02)
NEVER = Pace(start=0.02, boundary=3600, retry=0.02, again=0.02)


@pytest.fixture
async def server() -> AsyncIterator[NotingServer]:
    server = NotingServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def host(server: NotingServer) -> AsyncIterator[StandIn]:
    async with running(StandIn(server.url, key=KEY, pace=HURRY)) as host:
        yield host
    left = {task.get_name() for task in asyncio.all_tasks()}
    assert not {name for name in left if name.startswith((*KINDS, host.name))}


@pytest.fixture
async def caller(host: StandIn) -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession() as session:
        yield Caller(session, host.url, KEY)


# ---------------------------------------------------------------- joining


async def test_it_registers_with_all_it_has_and_pings(server: NotingServer) -> None:
    async with running(StandIn(server.url, pace=HURRY)) as host:
        await until(lambda: server.count("ping") >= 3)
    said, ping = server.bodies["register"][0], server.bodies["ping"][0]
    assert server.count("register") == 1
    assert said["host_name"] == "pi" and said["host_api_url"] == host.url
    assert [each["device_model"] for each in said["devices"]] == ["android_mobile", "stb", "web"]
    assert list(said["devices"][2]["device_verification_types"]) == ["web"]
    assert [each["device_id"] for each in ping["per_device_metrics"]] == list(host.devices)
    assert all(30_000 < size < 50_000 for size in server.sizes[:2])


async def test_pings_come_at_boundaries_of_the_wall_clock(server: NotingServer) -> None:
    async with running(StandIn(server.url, pace=Pace(start=0.02, boundary=1))) as host:
        await until(lambda: host.membership.statuses("ping") == [200] * 4)
    later = [said.at for said in host.membership.sent if said.call == "ping"][1:]
    # It wakes a little late on a machine that is busy.
    assert all(at % 1 < 0.5 for at in later), later
    assert [int(at) - int(later[0]) for at in later] == [0, 1, 2]


@pytest.mark.parametrize("status", [201, 400, 409])
async def test_it_gives_up_until_the_next_boundary(server: NotingServer, status: int) -> None:
    server.say = {"register": [status, 200], "ping": [404, 200]}
    async with running(StandIn(server.url, pace=HURRY)) as host:
        await until(lambda: host.membership.joined)
    calls = [(said.call, said.status) for said in host.membership.sent]
    begun = [("register", status), ("ping", 404), ("register", 200), ("ping", 200)]
    assert calls[:4] == begun
    first, ping = (int(said.at / HURRY.boundary) for said in host.membership.sent[:2])
    assert ping > first


async def test_a_server_in_trouble_is_asked_three_times(server: NotingServer) -> None:
    server.say = {"register": [503]}
    async with running(StandIn(server.url, pace=NEVER)) as host:
        await until(lambda: server.count("register") == 3)
        await until(lambda: len(host.membership.sent) == 3)
    assert host.membership.statuses("register") == [503] * 3
    assert host.membership.statuses("ping") == []


@pytest.mark.parametrize("status", [404, 500, 401])
async def test_a_ping_that_fails_makes_it_register(server: NotingServer, status: int) -> None:
    server.say = {"ping": [200, status, 200]}
    async with running(StandIn(server.url, pace=HURRY)) as host:
        await until(lambda: server.count("register") == 2)
        await until(lambda: host.membership.joined)
    assert host.membership.statuses("ping")[:3] == [200, status, 200]
    failed, again = host.membership.sent[2:4]
    assert again.call == "register" and again.at - failed.at < 1


async def test_only_a_clean_stop_unregisters(server: NotingServer) -> None:
    host = StandIn(server.url, pace=HURRY)
    await host.start()
    await until(lambda: host.membership.joined)
    await host.kill()
    assert server.count("unregister") == 0
    await host.start()
    await host.stop()
    assert server.count("unregister") == 1


async def test_user_info_in_the_server_is_sent_as_basic(server: NotingServer) -> None:
    url = server.url.replace("://", "://pi:token@")
    async with running(StandIn(url, pace=HURRY)) as host, aiohttp.ClientSession() as session:
        await Caller(session, host.url).post(
            "/host/script/execute", script_name="s", device_id="device1", task_id="t"
        )
        await until(lambda: host.membership.joined and host.callbacks)
    basic = aiohttp.encode_basic_auth("pi", "token")
    assert {each.get("Authorization") for each in server.headers} == {basic}


async def test_pings_prove_nothing(host: StandIn, caller: Caller, server: NotingServer) -> None:
    await host.vanish()
    before = server.count("ping")
    await until(lambda: server.count("ping") >= before + 2)
    with pytest.raises(aiohttp.ClientError):
        await caller.get(HEALTH)
    await host.appear()
    assert (await caller.get(HEALTH))[0] == 200


# ---------------------------------------------------------------- one thing at a time


async def test_one_request_waits_for_the_other(host: StandIn, caller: Caller) -> None:
    host.on("long", hang=True)
    script = {"script_name": "long", "device_id": "device1"}  # no task: it blocks
    slow = asyncio.create_task(caller.post("/host/script/execute", **script))
    await until(lambda: host.done("device1"))
    probe = asyncio.create_task(caller.get(HEALTH))
    await until(lambda: host.overlaps == [("/host/script/execute", HEALTH)])
    assert host.asked(HEALTH) == [] and not probe.done()
    host.work.release.set()
    assert (await slow)[1]["result"]["script_success"] is True
    assert (await probe)[0] == 200


async def test_requests_in_turn_do_not_overlap(host: StandIn, caller: Caller) -> None:
    for _ in range(3):
        await caller.acts("device1", "a", "b")
        await caller.get(HEALTH)
    assert host.overlaps == [] and host.work.mixed_up == []
    assert host.done("device1") == ["a", "b"] * 3


@pytest.mark.parametrize("other", ["device1", "device2"])
async def test_what_overlaps_goes_to_the_wrong_device(
    host: StandIn, caller: Caller, other: str
) -> None:
    host.on("long", hang=True)
    first = await caller.begin(other, "long")
    await until(lambda: host.done(other))
    assert (await caller.acts("device1", "mine"))["result"]["success"] is True
    wrong = "device2"
    assert host.work.mixed_up == [("device1", wrong)]
    assert "mine" not in host.done("device1") and host.done(wrong)[-1] == "mine"
    host.work.release.set()
    await caller.ended(first)
    await caller.acts("device1", "later")
    assert host.done("device1")[-1] == "later"


async def test_a_script_is_over_before_its_callback_is_heard(
    host: StandIn, caller: Caller, server: NotingServer
) -> None:
    await until(lambda: host.membership.joined)
    server.answers.clear()
    script = {"script_name": "s", "device_id": "device1", "task_id": "t1"}
    assert await caller.post("/host/script/execute", **script) == (202, {"task_id": "t1"})
    await until(lambda: server.count("taskComplete"))
    await caller.acts("device2", "a")
    assert host.callbacks == [] and host.work.mixed_up == []
    server.answers.set()


async def test_a_restart_forgets_executions(host: StandIn, caller: Caller) -> None:
    path = await caller.begin("device1", "hang")
    assert (await caller.get(path))[1]["status"] == "running"
    await host.restart()
    assert (await caller.get(path))[0] == 404


async def test_the_end_of_the_host_ends_a_request_in_hand(host: StandIn, caller: Caller) -> None:
    script = {"script_name": "hang", "device_id": "device1"}
    slow = asyncio.create_task(caller.post("/host/script/execute", **script))
    await until(lambda: host.done("device1"))
    await host.restart()
    with pytest.raises(aiohttp.ClientError):
        await slow
    assert (await caller.get(HEALTH))[0] == 200 and host.overlaps == []


# ---------------------------------------------------------------- its answers


async def test_only_health_is_answered_to_a_wrong_key(host: StandIn, caller: Caller) -> None:
    caller.key = "another"
    assert await caller.get(HEALTH) == (200, {"status": "ok", "host_name": "pi"})
    assert (await caller.post("/host/takeControl", device_id="device1"))[0] == 401
    assert (await caller.get("/host/action/execution/x/status"))[0] == 401
    assert [each.key for each in host.refused] == ["another", "another"]
    assert host.control == []


async def test_control_is_noted_even_of_a_strange_device(host: StandIn, caller: Caller) -> None:
    await caller.post("/host/takeControl", device_id="nobody")
    assert (await caller.post("/host/releaseControl", device_id="nobody"))[1]["success"] is True
    assert host.control == [("take", "nobody"), ("release", "nobody")]


async def test_a_failed_action_is_completed(host: StandIn, caller: Caller) -> None:
    state = await caller.acts("device1", "tap", "fail", "never")
    assert state["status"] == "completed" and state["result"]["success"] is False
    assert (state["result"]["passed_count"], state["result"]["failed_count"]) == (1, 1)
    assert host.done("device1") == ["tap", "fail"]


async def test_a_failed_verification_is_an_error(host: StandIn, caller: Caller) -> None:
    host.on("see", success=False, message="nothing seen", times=1)
    check = {"command": "see", "verification_type": "image", "params": {}}
    body: dict[str, Any] = {"device_id": "device1", "verifications": [check]}
    path = "/host/verification/executeBatch"
    assert (await caller.post(path, **body))[0] == 400
    check["userinterface_name"] = "default"
    states = []
    for _ in range(2):
        told = (await caller.post(path, **body))[1]
        poll = f"/host/verification/execution/{told['execution_id']}/status?device_id=device1"
        states.append(await caller.ended(poll))
    assert [each["status"] for each in states] == ["error", "completed"]
    assert states[0]["result"]["results"][0]["message"] == "nothing seen"


async def test_a_host_that_breaks_says_error(host: StandIn, caller: Caller) -> None:
    host.on("tap", error="adb is gone")
    state = await caller.acts("device1", "tap")
    assert (state["status"], state["error"], state["result"]) == ("error", "adb is gone", None)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("action/executeBatch", {"device_id": "no", "actions": [{"command": "a"}]}, 404),
        ("action/executeBatch", {"actions": [{"command": "a"}]}, 400),
        ("action/executeBatch", {"device_id": "device1", "actions": []}, 400),
        ("script/execute", {"device_id": "device1"}, 400),
        ("script/execute", {"device_id": "no", "script_name": "s", "task_id": "t"}, 404),
        ("testcase/execute", {"device_id": "device1", "testcase_name": "t"}, 400),
        ("nothing", {}, 404),
    ],
)
async def test_what_makes_no_sense_is_refused(
    host: StandIn, caller: Caller, path: str, body: dict[str, Any], status: int
) -> None:
    answered, told = await caller.post(f"/host/{path}", **body)
    assert answered == status and told["error"]
    assert host.work.acts == []


async def test_a_poll_names_the_device(host: StandIn, caller: Caller) -> None:
    path = await caller.begin("device1", "a")
    assert (await caller.get(path.replace("device1", "device2")))[0] == 404
    assert (await caller.get(path.partition("?")[0]))[0] == 400


GRAPH = {
    "nodes": [
        {"id": "s", "type": "start"},
        {"id": "a", "type": "action", "data": {"command": "tap", "action_type": "remote"}},
        {"id": "v", "type": "verification", "data": {"command": "see"}},
        {"id": "ok", "type": "success"},
        {"id": "no", "type": "failure"},
    ],
    "edges": [
        {"source": "s", "target": "a"},
        {"source": "a", "target": "v", "sourceHandle": "success"},
        {"source": "v", "target": "ok", "sourceHandle": "success"},
        {"source": "v", "target": "no", "sourceHandle": "failure"},
    ],
}


async def begin_graph(caller: Caller) -> str:
    said = {"graph_json": GRAPH, "host_name": "pi", "device_id": "device1"}
    more = {"testcase_name": "t", "async_execution": True}
    status, told = await caller.post("/host/testcase/execute", **said, **more)
    assert status == 200, told
    return f"/host/testcase/execution/{told['execution_id']}/status"


async def test_a_graph_goes_block_by_block(host: StandIn, caller: Caller) -> None:
    host.on("see", hang=True)
    path = await begin_graph(caller)
    await until(lambda: host.done("device1") == ["tap", "see"])
    told = (await caller.get(path))[1]["status"]
    assert (told["status"], told["current_block_id"]) == ("running", "v")
    words = {block: each["status"] for block, each in told["block_states"].items()}
    assert words == {
        "s": "success",
        "a": "success",
        "v": "running",
        "ok": "pending",
        "no": "pending",
    }
    host.work.release.set()
    state = await caller.ended(path)
    assert state["status"] == "completed" and state["result"]["result_type"] == "success"
    assert [each["block_id"] for each in state["result"]["step_results"]] == ["a", "v"]


@pytest.mark.parametrize(("command", "end"), [("see", "failure"), ("tap", "error")])
async def test_a_graph_ends_where_its_edges_lead(
    host: StandIn, caller: Caller, command: str, end: str
) -> None:
    host.on(command, success=False)
    state = await caller.ended(await begin_graph(caller))
    assert state["status"] == "failed" and state["result"]["result_type"] == end


async def test_a_script_calls_back_once(
    host: StandIn, caller: Caller, server: NotingServer
) -> None:
    server.say = {"taskComplete": [500]}
    host.on("s", success=False, message="out", result={"script_success": None, "exit_code": 3})
    host.on("broken", error="no such script")
    for task, script in (("t1", "s"), ("t2", "broken")):
        said = {"script_name": script, "parameters": "--a b", "device_id": "device1"}
        await caller.post("/host/script/execute", **said, task_id=task)
        await until(lambda task=task: (task, 500) in host.callbacks)
    first, second = server.bodies["taskComplete"]
    assert first["task_id"] == "t1" and first["result"]["stdout"] == "out"
    assert first["result"]["script_success"] is None and first["result"]["exit_code"] == 3
    assert second == {"task_id": "t2", "error": "no such script"}


async def test_a_callback_may_be_lost(host: StandIn, caller: Caller, server: NotingServer) -> None:
    host.lose_callback = True
    said = {"script_name": "s", "device_id": "device1", "task_id": "t"}
    await caller.post("/host/script/execute", **said)
    await until(lambda: host.callbacks == [("t", None)])
    assert server.count("taskComplete") == 0


async def test_screenshots_are_real(host: StandIn, caller: Caller) -> None:
    host.on("look", screenshot="http://elsewhere.example/x.png")
    state = await caller.acts("device1", "screenshot", "look")
    path, strange = state["result"]["action_screenshots"]
    assert strange == "http://elsewhere.example/x.png"
    headers = {"X-API-Key": KEY}
    assert path == "/var/www/html/stream/capture1/captures/capture_000000001.jpg"
    assert (await caller.get(path))[0] == 404  # nginx would have it, on another port
    url = f"{host.url}/host/av/images?path={path}"
    async with caller.session.get(url, headers=headers) as answer:
        assert await answer.read() == PNG and answer.content_type == "image/jpeg"
    by_path = (await caller.post("/host/av/takeScreenshot", device_id="device1"))[1]
    assert by_path["screenshot_path"] in host.files
    assert (await caller.post("/host/remote/takeScreenshot", device_id="device1"))[1]["screenshot"]


# ---------------------------------------------------------------- as a process


async def test_a_killed_process_forgets_and_tells_nobody(
    server: NotingServer, tmp_path: Path
) -> None:
    slow = 'long={"seconds": 60}'
    pace = '{"start": 0.02, "boundary": 0.3, "again": 0.02}'
    options = ("--key", KEY, "--device", "d=tv", "--on", slow, "--pace", pace)
    process = StandInProcess(server.url, tmp_path / "journal", *options)
    await process.start()
    try:
        async with aiohttp.ClientSession() as session:
            caller = Caller(session, process.url, KEY)
            await until(lambda: server.count("ping"))
            path = await caller.begin("d", "long")
            await until(process.lines)
            assert await process.end(signal.SIGKILL) == -signal.SIGKILL
            await process.start()
            assert (await caller.get(path))[0] == 404
        assert server.count("unregister") == 0
        assert [line["command"] for line in process.lines()] == ["long"]
        assert await process.end(signal.SIGTERM) == 0
        assert server.count("unregister") == 1
    finally:
        await process.end()
