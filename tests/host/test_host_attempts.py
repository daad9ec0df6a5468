"""What an action's response says when nothing was judged, and what is left for the next attempt."""

import asyncio
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from .kit import Caller, FakeServer, process, running, until_actions, written


def error_of(answered: tuple[int, dict[str, Any]]) -> tuple[str, str]:
    """Return kind and error of a response without a verdict."""
    status, answer = answered
    assert (status, answer["success"], answer["outcome"]) == (200, False, "error"), answer
    return answer["kind"], answer["error"]


# ---------------------------------------------------------------- infrastructure by the shell


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("echo so far; /no/such/tool --version", "exit code 127: a program was not found"),
        ("echo so far; /etc", "exit code 126: a program could not be executed"),
        (
            "echo so far; printf '#!/no/such/python\\n' > t; chmod +x t; ./t",
            "a program",  # 126 or 127, by the version of bash
        ),
    ],
)
async def test_what_bash_could_not_run_is_no_verdict(
    host: Caller, command: str, words: str
) -> None:
    answered = await host.bash(command)
    kind, error = error_of(answered)
    assert kind == "host_error"
    assert words in error
    assert answered[1]["output"].startswith("so far\n")


async def test_a_step_names_other_codes_of_the_infrastructure(host: Caller) -> None:
    params = {"command": "echo collected 0; exit 4", "infra_exit_codes": [3, 4]}
    answered = await host.act("execute_bash_command", params)
    assert error_of(answered) == ("host_error", "exit code 4, one of infra_exit_codes")
    assert answered[1]["output"] == "collected 0\n"
    params["command"] = "exit 1"
    answer = (await host.act("execute_bash_command", params))[1]
    assert (answer["success"], "outcome" in answer) == (False, False)
    for expected in (4, 127):
        params |= {"command": f"exit {expected}", "expected_exit_code": expected}
        assert (await host.act("execute_bash_command", params))[1]["success"] is True
    answered = await host.bash("exit 5", infra_exit_codes=[5])  # beside the params
    assert error_of(answered) == ("host_error", "exit code 5, one of infra_exit_codes")
    params["infra_exit_codes"] = ["4"]
    assert (await host.act("execute_bash_command", params))[1]["code"] == "bad_params"


async def test_a_working_folder_that_is_missing_is_no_verdict(host: Caller) -> None:
    kind, error = error_of(
        await host.act("execute_bash_command", {"command": "true", "cwd": "no/such/folder"})
    )
    assert kind == "host_error"
    assert "No such file or directory" in error
    assert "no/such/folder" in error
    params = {"command": "pwd", "cwd": "/"}
    assert (await host.act("execute_bash_command", params))[1]["output"] == "/\n"
    run = {"execution_id": "e", "attempt": 1}
    assert (await host.bash('rm -r "$PWD"', **run))[1]["success"] is True
    assert error_of(await host.bash("true", **run))[0] == "host_error"
    assert (await host.bash("true", execution_id="e", attempt=2))[1]["success"] is True


async def test_a_host_without_bash_gives_no_verdict(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    async with running(server, tmp_path / "data") as host:
        kind, error = error_of(await host.bash("true"))
    assert (kind, error) == (
        "host_error",
        "the command did not start: No such file or directory: bash",
    )


# ---------------------------------------------------------------- the limit of a step


async def test_the_limit_of_a_step_ends_it_without_a_verdict_and_keeps_its_output(
    host: Caller, tmp_path: Path
) -> None:
    file = tmp_path / "pid"
    params = {"command": f"echo so far; echo $$ > {file}; exec sleep 1000", "timeout": 900}
    answered = await host.act("execute_bash_command", params, limit_s=0.5)
    assert error_of(answered) == (
        "step_timeout",
        "the step did not end within 0.5 s; stopped",
    )
    assert answered[1]["output"] == "so far\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int(await written(file)), 0)


async def test_an_action_may_expect_less_time_than_its_step_has(host: Caller) -> None:
    params = {"command": "echo so far; exec sleep 1000", "timeout": 0.3}
    answer = (await host.act("execute_bash_command", params, limit_s=900))[1]
    assert (answer["success"], "outcome" in answer) == (False, False)
    assert answer["error"] == "no result within 0.3 s; stopped"
    assert answer["output"] == "so far\n"


@pytest.mark.parametrize("limit", [0, -1, "30", True, [1]])
async def test_a_wrong_limit_is_refused(host: Caller, limit: object) -> None:
    status, answer = await host.bash("true", limit_s=limit)
    assert (status, answer["code"]) == (400, "bad_request")


async def test_a_cancelled_action_keeps_its_output(host: Caller, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    command = f"echo so far; echo x > {mark}; exec sleep 1000"
    acting = asyncio.create_task(host.bash(command, key="k", execution_id="e", attempt=1))
    await written(mark)
    await host.cancel("e")
    answered = await acting
    assert error_of(answered) == ("cancelled", "cancelled")
    assert answered[1]["output"] == "so far\n"
    assert await host.bash(command, key="k", execution_id="e", attempt=1) == answered


async def test_an_action_that_a_stop_ends_keeps_its_output(
    server: FakeServer, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    async with process(server, tmp_path / "data") as (child, host):
        command = f"echo so far; echo x > {mark}; exec sleep 1000"
        acting = asyncio.create_task(host.bash(command, key="k"))
        await written(mark)
        os.kill(child.pid, signal.SIGTERM)
        status, answer = await acting
        assert (status, answer["code"], answer["output"]) == (503, "host_stopping", "so far\n")


# ---------------------------------------------------------------- another attempt


RUNS: tuple[dict[str, Any], ...] = (
    {"execution_id": "a", "attempt": 1},
    {"execution_id": "a", "attempt": 2},
    {"execution_id": "b", "attempt": 1},
    {"lease_id": "l1"},
    {"lease_id": "l2"},
    {},
)


async def test_the_files_of_an_attempt_are_its_own(host: Caller) -> None:
    leave = 'echo x > left; mkdir -p ro/in; chmod 500 ro; echo y > "$(mktemp)"'
    for number, run in enumerate(RUNS):
        seen = (await host.bash('ls -A . "$TMPDIR" | grep -v :; true', key=f"l{number}", **run))[1]
        assert seen["output"].strip() == "", run
        assert (await host.bash(leave, key=f"w{number}", **run))[1]["success"] is True
        again = (await host.bash('cat left "$TMPDIR"/*', key=f"r{number}", **run))[1]
        assert again["output"] == "x\ny\n", run


async def test_the_files_of_an_attempt_survive_a_restart_of_the_host(
    server: FakeServer, tmp_path: Path
) -> None:
    run = RUNS[0]
    async with running(server, tmp_path / "data") as host:
        await host.bash("echo x > left", key="1", **run)
    async with running(server, tmp_path / "data") as host:
        assert (await host.bash("cat left", key="2", **run))[1]["output"] == "x\n"
        assert (await host.bash("ls", key="3", **RUNS[1]))[1]["output"] == ""


async def test_nothing_outside_the_work_folder_is_removed(host: Caller, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o500)
    (kept / "file").write_text("x")
    await host.bash(f"ln -s {kept} link; mkdir in; ln -s {kept} in/link", **RUNS[0])
    assert (await host.bash("ls", **RUNS[1]))[1]["output"] == ""
    assert (kept / "file").read_text() == "x"
    assert kept.stat().st_mode & 0o777 == 0o500


async def test_a_device_that_cannot_be_made_fresh_runs_nothing(
    host: Caller, tmp_path: Path
) -> None:
    await host.bash("true", **RUNS[0])
    work = tmp_path / "data" / "work"
    shutil.rmtree(work)
    work.write_text("in the way")
    for run in (RUNS[1], RUNS[0]):  # nor does the last one go on, of whose files some may be gone
        kind, error = error_of(await host.bash(f"touch {tmp_path}/ran", **run))
        assert kind == "host_error"
        assert "the files of the last run cannot be removed: Not a directory" in error
    assert not (tmp_path / "ran").exists()
    work.unlink()
    assert (await host.bash("true", **RUNS[1]))[1]["success"] is True
    await until_actions(host, 0)
