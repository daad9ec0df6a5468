"""Actions: what the desktop does, one at a time, and how it is stopped."""

import asyncio
import zlib
from pathlib import Path

import aiohttp
import psutil
import pytest
from aiohttp import http_parser, web
from aiohttp.test_utils import TestServer

from vpt.host.drivers import desktop
from vpt.host.drivers.base import DriverError, Params

from .kit import Caller, FakeServer, alive, running, until_actions, written


async def test_a_command_answers_its_output(host: Caller) -> None:
    status, answer = await host.bash("echo hello; echo oops >&2")
    assert (status, answer["success"]) == (200, True)
    assert answer["output"] == "hello\noops\n"
    assert answer["timestamp"].endswith("Z")
    assert answer["duration_ms"] >= 0


async def test_a_wrong_exit_code_says_what_was_expected(host: Caller) -> None:
    status, answer = await host.bash("echo so; exit 3")
    assert (status, answer["success"]) == (200, False)
    assert answer["error"] == "exit code: expected 0, got 3"
    assert answer["output"] == "so\n"


async def test_an_expected_exit_code_is_a_success(host: Caller) -> None:
    params = {"command": "exit 3", "expected_exit_code": 3}
    assert (await host.act("execute_bash_command", params))[1]["success"] is True


async def test_a_missing_output_says_what_was_expected(host: Caller) -> None:
    params = {"command": "echo cat", "expected_output": "dog"}
    answer = (await host.act("execute_bash_command", params))[1]
    assert answer["success"] is False
    assert "'dog'" in answer["error"]
    assert answer["output"] == "cat\n"


async def test_a_flood_of_output_is_cut_and_still_searched(host: Caller) -> None:
    command = "echo needle; head -c 20000000 /dev/zero | tr '\\0' x; echo end"
    params = {"command": command, "expected_output": "needle"}
    answer = (await host.act("execute_bash_command", params))[1]
    assert answer["success"] is True
    assert answer["output"].startswith("[")
    assert "bytes cut]" in answer["output"][:40]
    assert answer["output"].endswith("xend\n")
    assert len(answer["output"]) < 1024 * 1024 + 100


async def test_a_command_reads_nothing_and_does_not_see_the_join_token(
    host: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST_JOIN_TOKEN", "must-not-be-seen")
    answer = (await host.bash("cat; env | grep -c must-not-be-seen; true"))[1]
    assert answer["output"] == "0\n"


async def test_what_a_command_leaves_behind_is_ended_with_it(host: Caller, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    answer = (await host.bash(f"sleep 1000 & echo $! > {file}"))[1]
    assert answer["success"] is True
    assert answer["duration_ms"] < 5000
    assert not alive(int(await written(file)))


async def test_a_daemon_that_holds_the_output_does_not_hold_the_device(
    host: Caller, tmp_path: Path
) -> None:
    file = tmp_path / "pid"
    answer = (await host.bash(f"setsid sleep 5 & echo $! > {file}; echo out; wait -n 2>&1 & true"))[
        1
    ]
    assert answer["success"] is True
    assert answer["duration_ms"] < 4000


async def test_an_action_past_its_time_is_stopped_and_fails(host: Caller, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    params = {"command": f"echo $$ > {file}; exec sleep 1000", "timeout": 0.5}
    answer = (await host.act("execute_bash_command", params))[1]
    assert answer["success"] is False
    assert answer["error"] == "no result within 0.5 s; stopped"
    assert not alive(int(await written(file)))


async def test_waiting_takes_seconds_or_milliseconds(host: Caller) -> None:
    assert (await host.act("wait", {"seconds": 0.01}))[1]["output"] == "waited 0.01 s"
    assert (await host.act("wait", {"wait_time": 20}))[1]["output"] == "waited 0.02 s"


@pytest.mark.parametrize(
    ("command", "params"),
    [
        ("execute_bash_command", {}),
        ("execute_bash_command", {"command": 7}),
        ("execute_bash_command", {"command": "a\0b"}),
        ("execute_bash_command", {"command": "true", "expected_exit_code": "zero"}),
        ("execute_bash_command", {"command": "true", "timeout": -1}),
        ("wait", {}),
        ("wait", {"seconds": "long"}),
        ("wait", {"wait_time": 1e12}),
        ("http_request", {"url": "file:///etc/passwd"}),
        ("http_request", {"url": "http://"}),
        ("http_request", {"url": "http://x:port/"}),
        ("http_request", {"url": "http://x", "method": "STEAL"}),
        ("http_request", {"url": "http://x", "headers": [1]}),
    ],
)
async def test_wrong_parameters_are_refused(host: Caller, command: str, params: object) -> None:
    status, answer = await host.act(command, params)  # type: ignore[arg-type]
    assert (status, answer["code"]) == (400, "bad_params")


async def test_what_cannot_be_done_is_refused_with_a_code(host: Caller) -> None:
    status, answer = await host.act("fly")
    assert (status, answer["code"]) == (400, "unknown_command")
    assert "http_request" in answer["error"]
    status, answer = await host.act("wait", {"seconds": 0}, device_id="tv")
    assert (status, answer["code"]) == (404, "unknown_device")
    status, answer = await host.post("/host/remote/executeAction", {"params": {}})
    assert (status, answer["code"]) == (400, "bad_request")
    status, answer = await host.post("/host/remote/executeAction", [1])
    assert (status, answer["code"]) == (400, "bad_request")
    status, answer = await host.act("wait", {"seconds": 0}, key="k" * 1001)
    assert (status, answer["code"]) == (400, "bad_request")
    status, answer = await host.post("/host/nowhere", {})
    assert (status, answer["code"]) == (404, "not_found")
    status, answer = await host.post("/host/health", {})
    assert (status, answer["code"]) == (405, "method_not_allowed")


async def test_the_shell_is_off_unless_allowed(server: FakeServer, tmp_path: Path) -> None:
    async with running(server, tmp_path / "data", allow_shell=False) as host:
        status, answer = await host.bash(f"touch {tmp_path / 'touched'}")
        assert (status, answer["code"]) == (400, "shell_disabled")
        assert "--allow-shell" in answer["error"]
        assert not (tmp_path / "touched").exists()
        assert "shell" not in (await server.heard("register"))["capabilities"]


async def test_every_route_needs_the_secret(host: Caller) -> None:
    for secret in ("wrong", "", host.secret[:-1], host.secret + "x"):
        for headers in ({"Authorization": f"Bearer {secret}"}, {"Authorization": secret}, {}):
            async with aiohttp.ClientSession(headers=headers) as session:
                for call in (
                    session.get(host.url + "/host/health"),
                    session.post(host.url + "/host/remote/executeAction", json={}),
                    session.post(host.url + "/host/cancel", json={}),
                    session.get(host.url + "/nowhere"),
                ):
                    async with call as response:
                        assert response.status == 401
                        assert (await response.json())["code"] == "unauthorized"


async def test_a_device_does_one_action_at_a_time_in_order(host: Caller, tmp_path: Path) -> None:
    file = tmp_path / "order"
    many = []
    for number in range(5):
        command = f"echo begin {number} >> {file}; sleep 0.05; echo end {number} >> {file}"
        many.append(asyncio.create_task(host.bash(command)))
        await until_actions(host, number + 1) if number == 0 else await asyncio.sleep(0)
    assert all(answer["success"] for _, answer in await asyncio.gather(*many))
    words = file.read_text().split("\n")[:-1]
    for begin, end in zip(words[::2], words[1::2], strict=True):
        assert begin.replace("begin", "end") == end


async def test_two_devices_work_side_by_side(server: FakeServer, tmp_path: Path) -> None:
    devices = ("desktop=a", "desktop=b")
    async with running(server, tmp_path / "data", devices=devices) as host:
        file = tmp_path / "go"
        blocked = asyncio.create_task(
            host.bash(f"until [ -e {file} ]; do sleep 0.01; done", device_id="a")
        )
        assert (await host.bash(f"touch {file}", device_id="b"))[1]["success"] is True
        assert (await blocked)[1]["success"] is True
        assert (await host.bash("true"))[0] == 400


async def test_cancel_ends_the_whole_process_group(host: Caller, tmp_path: Path) -> None:
    file = tmp_path / "pids"
    stubborn = f"trap '' TERM; sleep 1000 & echo $$ $! > {file}; wait; sleep 1000"
    acting = asyncio.create_task(host.bash(stubborn, execution_id="e1", attempt=1, key="e1/1/1/1"))
    pids = [int(word) for word in (await written(file)).split()]
    assert all(alive(pid) for pid in pids)
    assert await host.cancel("e1") == (200, {"success": True, "cancelled": 1})
    assert not any(alive(pid) for pid in pids)
    status, answer = await acting
    assert (status, answer["success"], answer["error"]) == (200, False, "cancelled")
    assert await host.bash(stubborn, execution_id="e1", attempt=1, key="e1/1/1/1") == (200, answer)


async def test_cancel_forgets_what_waits_and_leaves_others_alone(
    host: Caller, tmp_path: Path
) -> None:
    gate, mark = tmp_path / "gate", tmp_path / "mark"
    other = f"until [ -e {gate} ]; do sleep 0.01; done"
    first = asyncio.create_task(host.bash(other, execution_id="e1", attempt=1))
    await until_actions(host, 1)
    second = asyncio.create_task(host.bash(f"touch {mark}", execution_id="e1", attempt=2, key="k"))
    await until_actions(host, 2)
    assert await host.cancel("e1", 2) == (200, {"success": True, "cancelled": 1})
    assert (await second)[1]["error"] == "cancelled"
    assert not first.done()
    gate.touch()
    assert (await first)[1]["success"] is True
    assert not mark.exists()


async def test_cancel_stops_a_wait_and_a_request_at_once(host: Caller) -> None:
    stuck = asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        stuck.set()
        await asyncio.Event().wait()
        return web.Response()

    app = web.Application()
    app.router.add_get("/", hang)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    request = host.act("http_request", {"url": url}, execution_id="r", attempt=1)
    requesting = asyncio.create_task(request)
    await stuck.wait()
    assert (await host.cancel("r"))[1]["cancelled"] == 1
    assert (await requesting)[1]["error"] == "cancelled"
    waiting = asyncio.create_task(host.act("wait", {"seconds": 1000}, execution_id="w", attempt=1))
    await until_actions(host, 1)
    assert (await host.cancel("w"))[1]["cancelled"] == 1
    assert (await waiting)[1]["error"] == "cancelled"
    await runner.cleanup()


async def test_a_late_action_of_a_cancelled_attempt_does_nothing_even_after_a_restart(
    server: FakeServer, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    async with running(server, tmp_path / "data") as host:
        assert await host.cancel("e9", 3) == (200, {"success": True, "cancelled": 0})
        status, answer = await host.bash(f"touch {mark}", execution_id="e9", attempt=3, key="late")
        assert (status, answer["code"]) == (409, "cancelled")
    async with running(server, tmp_path / "data") as host:
        host.url = (await server.heard("register", 2))["host_url"]
        status, answer = await host.bash(f"touch {mark}", execution_id="e9", attempt=3, key="late")
        assert (status, answer["code"]) == (409, "cancelled")
        assert (await host.bash("true", execution_id="e9", attempt=4))[1]["success"] is True
    assert not mark.exists()


async def test_two_cancels_at_once_both_wait_for_the_end(host: Caller, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    command = f"trap '' TERM; echo $$ > {file}; while :; do sleep 0.1; done"
    acting = asyncio.create_task(host.bash(command, execution_id="e", attempt=1))
    pid = int(await written(file))

    async def cancel() -> bool:
        await host.cancel("e")
        return alive(pid)

    assert await asyncio.gather(cancel(), cancel(), cancel()) == [False, False, False]
    assert (await acting)[1]["error"] == "cancelled"


async def test_a_wrong_cancel_is_refused(host: Caller) -> None:
    for body in ({}, {"execution_id": "e"}, {"execution_id": 1, "attempt": 1}):
        status, answer = await host.post("/host/cancel", body)
        assert (status, answer["code"]) == (400, "bad_request")


async def test_an_action_goes_on_when_the_caller_hangs_up(host: Caller, tmp_path: Path) -> None:
    gate, mark = tmp_path / "gate", tmp_path / "mark"
    command = f"echo x >> {mark}; until [ -e {gate} ]; do sleep 0.01; done; echo done"
    calling = asyncio.create_task(host.bash(command, key="k1", execution_id="e", attempt=1))
    await written(mark)
    calling.cancel()
    await asyncio.wait({calling})
    again = asyncio.create_task(host.bash(command, key="k1", execution_id="e", attempt=1))
    gate.touch()
    assert (await again)[1]["output"] == "done\n"
    assert mark.read_text() == "x\n"


async def test_requests_are_checked_for_status_and_text(host: Caller, server: FakeServer) -> None:
    url = f"{server.url}/api/hosts/x/thing"
    params = {"method": "post", "url": url, "json": {"a": 1}, "expected_text": "said"}
    answer = (await host.act("http_request", params))[1]
    assert answer["success"] is True
    assert answer["output"].startswith("HTTP 200 OK\n")
    answer = (await host.act("http_request", {**params, "expected_text": "unsaid"}))[1]
    assert (answer["success"], "'unsaid'" in answer["error"]) == (False, True)
    answer = (await host.act("http_request", {**params, "expected_status": 404}))[1]
    assert answer["error"] == "status: expected 404, got 200"
    assert (await server.heard("thing"))["a"] == 1


async def test_a_request_that_finds_nobody_fails_with_a_reason(host: Caller) -> None:
    answer = (await host.act("http_request", {"url": "http://127.0.0.1:1/"}))[1]
    assert answer["success"] is False
    assert "127.0.0.1:1" in answer["error"]


async def test_nothing_is_left_when_the_host_stops(server: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    own = psutil.Process()
    before = set(own.children(recursive=True))
    async with running(server, tmp_path / "data") as host:
        acting = asyncio.create_task(host.bash(f"sleep 1000 & echo $$ > {file}; wait"))
        await written(file)
        started = set(own.children(recursive=True)) - before
        assert len(started) >= 3  # bash, sleep, and the warden that watches them
    await asyncio.wait({acting})
    assert not any(alive(child.pid) for child in started)


async def test_a_strangers_body_is_not_unpacked_and_a_compressed_one_is_refused(
    host: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked: list[object] = []
    monkeypatch.setattr(http_parser.DeflateBuffer, "feed_data", lambda *_: unpacked.append(_))
    url = f"{host.url}/host/cancel"
    packed = zlib.compress(b'{"execution_id": "x", "attempt": 1}')
    headers = {"Content-Encoding": "deflate", "Content-Type": "application/json"}
    async with host.session.post(url, data=packed, headers=headers) as response:
        assert response.status == 401
    headers["Authorization"] = f"Bearer {host.secret}"
    async with host.session.post(url, data=packed, headers=headers) as response:
        assert (response.status, (await response.json())["code"]) == (415, "unsupported_media_type")
    assert unpacked == []


async def test_a_body_of_too_many_values_is_refused(host: Caller) -> None:
    status, answer = await host.post("/host/cancel", {"execution_id": [[]] * 100_000})
    assert (status, answer["code"]) == (413, "too_large")


async def test_a_compressed_response_is_read_up_to_a_limit(
    host: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desktop, "MOST_UNPACKED", 2**20)

    async def bomb(_: web.Request) -> web.Response:
        body = zlib.compress(b"x" * 5 * 2**20)
        return web.Response(body=body, headers={"Content-Encoding": "deflate"})

    app = web.Application()
    app.router.add_get("/", bomb)
    async with TestServer(app) as site:
        answer = (await host.act("http_request", {"url": str(site.make_url("/"))}))[1]
    assert (answer["success"], answer["error"]) == (
        False,
        "the response is compressed and over 1 MiB",
    )


async def test_a_request_that_begins_while_its_driver_is_closed_opens_no_session(
    tmp_path: Path,
) -> None:
    driver = desktop.DesktopDriver(allow_shell=False, environment={}, work_folder=tmp_path)
    job = driver.prepare("http_request", Params({"url": "http://127.0.0.1:9/"}))
    await driver.close()
    with pytest.raises(DriverError, match="stopping"):
        await job.run()
    assert driver._session is None
