"""`vpt run`: what CI is told, whatever happens to the run, the server and the wire."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import xmlschema
from rich.console import Console

from tests.actors.fake_host import until
from tests.client.kit import Cli, Ended, Scissors, Terminal
from tests.conftest import Client, token
from tests.system.kit import free_port
from tests.web.kit import FakeHost, got, made, test_case
from vpt.client.board import RunView, Test
from vpt.model import Json, Role

XSD = Path(__file__).parents[1] / "data" / "junit-10.xsd"
NO = {"command": "press_key", "success": False, "answers": {"error": "the key\x1b[2J is\nstuck"}}


async def _case(operator: Client, name: str, *steps: Json, **more: Any) -> str:
    body = test_case(name=name, steps=list(steps) or [{"command": "launch_app"}], **more)
    case_id: str = (await made(operator, "/api/testcases", body))["id"]
    return case_id


async def _campaign(operator: Client, name: str, *cases: str, **more: Any) -> str:
    body = {"name": name, "test_cases": [{"test_case_id": case} for case in cases], **more}
    campaign_id: str = (await made(operator, "/api/campaigns", body))["id"]
    return campaign_id


def _page(ended: Ended) -> str:
    """Give the id in the URL that is the last line."""
    return ended.out.splitlines()[-1].rpartition("/")[2]


async def test_a_test_that_passes_is_told_step_by_step_and_exits_with_0(
    operator: Client, host: FakeHost, vpt: Cli, tmp_path: Path
) -> None:
    await _case(operator, "Start the app", {"command": "launch_app"}, {"command": "press_key"})
    report = tmp_path / "new folder" / "report.xml"
    ended = await vpt("run", "testcase", "Start the app", "--junit", report)
    assert (ended.code, ended.err) == (0, "")
    page = f"{vpt.url}/#/executions/{_page(ended)}"
    assert ended.lines[:-2] == [
        f"test case Start the app: {page}",
        "Start the app: attempt 1 begins, 2 steps (host-1:tv-1)",
        "Start the app: step 1/2 passed (host-1:tv-1)",
        "Start the app: step 2/2 passed (host-1:tv-1)",
        "Start the app: passed (host-1:tv-1)",
    ]
    assert ended.lines[-2].startswith("passed    Start the app (host-1:tv-1, 0.")
    assert ended.lines[-1] == page
    xmlschema.validate(report, XSD)
    assert [path.name for path in report.parent.iterdir()] == ["report.xml"]


async def test_a_test_that_fails_is_told_in_the_words_of_its_step_and_exits_with_1(
    operator: Client, host: FakeHost, vpt: Cli, tmp_path: Path
) -> None:
    await _case(operator, "Press", {"command": "launch_app"}, NO)
    ended = await vpt("run", "testcase", "Press", "--junit", tmp_path / "r.xml")
    assert ended.code == 1
    assert ended.lines[-2].endswith("): step 2, press_key: the key\ufffd[2J is stuck")
    assert "\x1b" not in ended.out
    assert "<failure" in (tmp_path / "r.xml").read_text()


async def test_the_verdict_does_not_depend_on_who_reads_the_lines(
    operator: Client, host: FakeHost, vpt: Cli, tmp_path: Path
) -> None:
    await _case(operator, "Press", {"command": "launch_app"}, NO)
    reader, writer = os.pipe()
    os.close(reader)
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vpt", "run", "testcase", "Press", "--junit", tmp_path / "r.xml"),
        env=vpt.environment(),
        stdout=writer,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writer)
    _, said = await child.communicate()
    assert (child.returncode, said) == (1, b"")
    assert "<failure" in (tmp_path / "r.xml").read_text()


async def test_a_report_that_cannot_be_written_is_told_before_the_run(
    operator: Client, host: FakeHost, vpt: Cli, tmp_path: Path
) -> None:
    await _case(operator, "Never")
    (tmp_path / "file").touch()
    for path in ("", tmp_path, "/proc/r.xml", tmp_path / "file" / "r.xml", tmp_path / ("x" * 256)):
        ended = await vpt("run", "testcase", "Never", "--junit", path)
        assert (ended.code, "--junit" in ended.err) == (4, True), (path, ended)
    assert (await got(operator, "/api/executions"))["items"] == []
    old = tmp_path / "old.xml"
    old.write_text("of another run")
    assert (await vpt("run", "testcase", "Unknown", "--junit", old)).code == 4
    assert not old.exists()


async def test_a_report_goes_through_links_and_into_pipes(
    operator: Client, host: FakeHost, vpt: Cli, tmp_path: Path
) -> None:
    await _case(operator, "Linked")
    link = tmp_path / "link.xml"
    link.symlink_to("far.xml")
    assert (await vpt("run", "testcase", "Linked", "--junit", link)).code == 0
    assert link.is_symlink() and "<testsuite" in (tmp_path / "far.xml").read_text()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert (await vpt("run", "testcase", "Linked", "--junit", pipe)).code == 0
    assert pipe.is_fifo() and b"<testsuite" in os.read(reader, 65536)
    os.close(reader)


def test_a_fault_of_vpt_itself_is_no_failed_test() -> None:
    faulty = (
        "from vpt import __main__ as m; m.cli.callback = m.cli.main = lambda **_: 1 / 0; m.main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", faulty], check=False, capture_output=True, text=True
    )
    assert (ended.returncode, "ZeroDivisionError" in ended.stderr) == (2, True)


async def test_a_token_that_is_revoked_meanwhile_leaves_the_run_and_says_where(
    operator: Client, host: FakeHost, vpt: Cli
) -> None:
    await _case(operator, "Long")
    host.gate.clear()
    admin = {"Authorization": f"Bearer {token(Role.ADMIN)}"}
    async with operator.post("/api/tokens", json={"name": "ci"}, headers=admin) as answer:
        new = await answer.json()
    async with Cli(vpt.url, new["token"] + "\n").under_way("run", "testcase", "Long") as running:
        await running.says("attempt 1 begins")
        await operator.delete(f"/api/tokens/{new['id']}", headers=admin)
        ended = await running.ended()
    assert (ended.code, "has expired or was revoked" in ended.err) == (4, True), ended
    [execution] = (await got(operator, "/api/executions"))["items"]
    assert f"It goes on: {vpt.url}/#/executions/{execution['execution_id']}" in ended.err
    assert execution["status"] == "running"


def test_on_a_small_terminal_what_runs_is_seen() -> None:
    board = RunView("Nightly", total=90)
    for number in range(60):
        status = "completed" if number < 38 else "running" if number < 40 else "queued"
        board.tests[str(number)] = Test(f"Number {number} {'long ' * 9}", status, where="pi-1:tv")
    for width, height in ((60, 24), (80, 20), (120, 12)):
        console = Console(width=width, height=height, file=io.StringIO())
        console.print(board.table(*console.size))
        assert isinstance(console.file, io.StringIO)
        lines = console.file.getvalue().splitlines()
        assert len(lines) <= height - 3
        assert lines[0].rstrip() == "Nightly: 38 of 90 are over"
        running = [line for line in lines if "running" in line]
        assert [line[2:11] for line in running] == ["Number 38", "Number 39"], lines
        assert all("pi-1:tv " in line for line in running)


async def test_an_infrastructure_error_exits_with_2(
    operator: Client, host: FakeHost, vpt: Cli
) -> None:
    case_id = await _case(operator, "Slow", {"command": "a", "timeout_s": 0.05})
    host.gate.clear()
    ended = await vpt("run", "testcase", case_id)
    assert ended.code == 2
    assert "ERROR     Slow" in ended.out and "step_timeout: " in ended.lines[-2]


async def test_a_wait_that_runs_out_exits_with_3_and_the_run_goes_on(
    operator: Client, host: FakeHost, vpt: Cli, tmp_path: Path
) -> None:
    await _case(operator, "Long")
    host.gate.clear()
    ended = await vpt(
        "run", "testcase", "Long", "--wait-timeout", "0.7", "--junit", tmp_path / "r.xml"
    )
    assert ended.code == 3
    [execution] = (await got(operator, "/api/executions"))["items"]
    assert execution["status"] == "running"
    assert f"vpt logs {execution['execution_id']} --follow" in ended.out
    assert "It is not over" in (tmp_path / "r.xml").read_text()


async def test_wrong_usage_exits_with_4_and_starts_nothing(
    operator: Client, host: FakeHost, vpt: Cli
) -> None:
    first = await _case(operator, "Twice", {"command": "${key}"})
    second = await _case(operator, "Twice")
    await _campaign(operator, "Twice or more", first)
    viewer = Cli(vpt.url, token(Role.VIEWER))
    stranger = Cli(vpt.url, "no.such.token")
    for cli, words, *args in (
        (vpt, "No such option", "run", "testcase", "Twice", "--devise", "x"),
        (vpt, f"name one of {second}, {first}", "run", "testcase", "Twice"),
        (vpt, "no campaign 'wic'. There is: 'Twice or more'", "run", "campaign", "wic"),
        (vpt, "parameters: Missing: key", "run", "testcase", first),
        (vpt, "There is no device x", "run", "testcase", second, "--device", "x"),
        (viewer, "Your role", "run", "testcase", second),
        (stranger, "has expired or was revoked", "run", "testcase", second),
        (Cli(f"{vpt.url}/api", vpt.token), "Is that the URL of", "run", "testcase", second),
        (Cli(vpt.url, ""), "set VPT_TOKEN", "run", "testcase", second),
        (Cli("ftp://x", "t"), "VPT_SERVER: expected a URL", "run", "testcase", second),
    ):
        ended = await cli(*args)
        assert (ended.code, words in ended.err) == (4, True), (args, ended)
    assert (await got(operator, "/api/executions"))["items"] == []


async def test_what_no_host_could_ever_run_and_a_server_that_is_away_are_infrastructure(
    operator: Client, host: FakeHost, vpt: Cli
) -> None:
    await _case(operator, "On a toaster", device_model="toaster")
    ended = await vpt("run", "testcase", "On a toaster")
    assert ended.code == 2 and "toaster" in ended.err
    nobody = Cli(f"http://127.0.0.1:{free_port()}", token())
    ended = await nobody("run", "testcase", "x", "--patience", "0.3")
    assert ended.code == 2 and "does not answer: connection refused" in ended.err
    ended = await nobody("run", "testcase", "x", "--wait-timeout", "0.3")
    assert ended.code == 3 and "ran out before" in ended.err


async def test_a_campaign_is_told_test_by_test_and_its_worst_decides(
    operator: Client, host: FakeHost, vpt: Cli, tmp_path: Path
) -> None:
    cases = [await _case(operator, "Good"), await _case(operator, "Bad", NO)]
    await _campaign(operator, "Nightly", *cases, cases[0], stop_on_failure=True)
    ended = await vpt("run", "campaign", "Nightly", "--junit", tmp_path / "r.xml")
    assert ended.code == 1
    told = ended.lines
    assert "Good: step 1/1 passed (host-1:tv-1)" in told
    assert "Bad: step 1/1 failed (host-1:tv-1)" in told
    assert [line.split("(")[0].strip() for line in told[-5:-2]] == [
        "passed    Good",
        "FAILED    Bad",
        "skipped   Good",
    ]
    assert told[-2].startswith("3 tests: 1 passed, 1 failed, 1 skipped in ")
    assert told[-1] == f"{vpt.url}/#/campaign-executions/{_page(ended)}"
    xmlschema.validate(tmp_path / "r.xml", XSD)


async def test_why_it_waits_is_told(operator: Client, host: FakeHost, vpt: Cli) -> None:
    case_id = await _case(operator, "Wait")
    host.gate.clear()
    await made(operator, f"/api/testcases/{case_id}/execute", {})
    async with vpt.under_way("run", "testcase", "Wait") as running:
        await running.says("Wait: waits: all that fit are busy (host-1:tv-1), place 1 in line")
        host.gate.set()
        assert (await running.ended()).code == 0


async def test_options_reach_the_server(operator: Client, host: FakeHost, vpt: Cli) -> None:
    case_id = await _case(operator, "Options", {"command": "a", "given": "${all}"})
    params = {"all": '{"a": [1]}', "v": "1.10", "n": "-2.5", "t": "true", "q": '"7"', "e": "x=y"}
    given = [f"--param={name}={value}" for name, value in params.items()]
    limits = "--priority=70 --timeout=20 --queue-timeout=30 --host=host-1 --device=tv-1 --no-wait"
    ended = await vpt("run", "testcase", case_id, *given, *limits.split())
    assert ended.code == 0
    execution = await got(operator, f"/api/executions/{ended.out.strip()}", wait=10)
    assert execution["parameters"] == {
        "all": {"a": [1]}, "v": "1.10", "n": -2.5, "t": True, "q": "7", "e": "x=y",
    }  # fmt: skip
    names = ("priority", "timeout_s", "queue_timeout_s", "wanted_host_id", "wanted_device_id")
    assert [execution[name] for name in names] == [70, 20, 30, "host-1", "host-1:tv-1"]


async def test_a_signal_without_a_terminal_cancels_the_run_and_exits_with_2(
    operator: Client, host: FakeHost, vpt: Cli, tmp_path: Path
) -> None:
    await _case(operator, "Long")
    await _campaign(operator, "Long ones", await _case(operator, "Longer"))
    host.gate.clear()
    report = tmp_path / "r.xml"
    for number, *what in (
        (signal.SIGINT, "testcase", "Long", "--junit", report),
        (signal.SIGTERM, "campaign", "Long ones"),
    ):
        async with vpt.under_way("run", *what) as running:
            await running.says("attempt 1 begins")
            running.signal(number)
            ended = await running.ended()
        assert (ended.code, "cancelling the run" in ended.out) == (2, True), ended

    async def all_cancelled() -> bool:
        items = (await got(operator, "/api/executions"))["items"]
        return [item["status"] for item in items] == ["cancelled"] * 2

    await until(all_cancelled)
    xmlschema.validate(report, XSD)


async def test_a_start_whose_answer_gets_lost_starts_one_run_and_needs_no_socket(
    operator: Client, host: FakeHost, vpt: Cli
) -> None:
    case_id = await _case(operator, "Once")
    start = f"POST /api/testcases/{case_id}/execute"
    async with Scissors(vpt.url, cuts=start, times=2, refuses="/socket.io/") as scissors:
        ended = await Cli(scissors.url, vpt.token)("run", "testcase", case_id)
        carried = b"\n".join(scissors.carried).decode()
    assert (ended.code, carried.count(start)) == (0, 3)
    assert "does not answer" in ended.err and "answers again" in ended.err
    assert len((await got(operator, "/api/executions"))["items"]) == 1
    assert "passed    Once" in ended.lines[-2]


async def test_lines_arrive_and_the_end_is_quick_where_no_web_socket_gets_through(
    operator: Client, host: FakeHost, vpt: Cli
) -> None:
    await _case(operator, "Polled")
    async with Scissors(vpt.url, cuts="-", times=0, refuses="transport=websocket") as scissors:
        began = time.monotonic()
        ended = await Cli(scissors.url, vpt.token)("run", "testcase", "Polled")
    assert (ended.code, time.monotonic() - began < 10) == (0, True)
    assert "Polled: step 1/1 passed (host-1:tv-1)" in ended.lines


async def test_on_a_terminal_ctrl_c_asks_and_yes_cancels_the_run(
    operator: Client, host: FakeHost, vpt: Cli
) -> None:
    await _case(operator, "Long", {"command": "a"}, {"command": "b"})
    host.gate.clear()
    with Terminal(vpt, "run", "testcase", "Long") as terminal:
        await terminal.shows("0/2")
        assert "verdict" in terminal.drawn and "running" in terminal.drawn
        terminal.types("\x03")
        await terminal.shows("Cancel the run on the server? [y/N]")
        terminal.types("y\n")
        assert await terminal.ended() == 2
        assert "cancelled Long" in terminal.drawn
        assert "\x1b[1A" not in terminal.steered.partition("┏")[0], "the question stays"
    [execution] = (await got(operator, "/api/executions"))["items"]
    assert execution["status"] == "cancelled"


async def test_on_a_terminal_no_leaves_the_run_and_a_second_ctrl_c_leaves_at_once(
    operator: Client, host: FakeHost, vpt: Cli
) -> None:
    await _case(operator, "Long")
    host.gate.clear()
    for keys, code in (("n\n", 3), ("\x03", 2)):
        with Terminal(vpt, "run", "testcase", "Long") as terminal:
            await terminal.shows("verdict")
            terminal.types("\x03")
            await terminal.shows("[y/N]")
            terminal.types(keys)
            assert await terminal.ended() == code
            assert "It goes on: " in terminal.drawn
    statuses = {item["status"] for item in (await got(operator, "/api/executions"))["items"]}
    assert statuses == {"queued", "running"}
