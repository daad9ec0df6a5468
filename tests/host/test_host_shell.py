"""Shell commands: what they see of the host, and that nothing they started outlives them."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from vpt.host import shell_supervisor
from vpt.host.drivers.base import OutputTail
from vpt.host.drivers.shell import Shell
from vpt.host.environment import child_environment
from vpt.host.settings import HostSettings

from .kit import Caller, FakeServer, alive, process, running, until, written

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs a child subreaper")

#: Ways to leave a command's process group and session; each writes its process's id to a file.
ESCAPES = {
    "session": "setsid sh -c 'echo $$ > {file}; exec sleep 1000' &",
    "double fork": "(setsid sh -c '(setsid sh -c \"echo \\$\\$ > {file}; exec sleep 1000\" &)' &);",
    "no environment": "setsid env -i sh -c 'echo $$ > {file}; exec sleep 1000' &",
    "stubborn": "setsid bash -c 'trap \"\" TERM; echo $$ > {file}; while :; do sleep 1; done' &",
    "stopped": "setsid sh -c 'echo $$ > {file}; kill -STOP $$; sleep 1000' &",
}
GUARD = "$(cut -d' ' -f4 /proc/$PPID/stat)"
#: Forks, ends, and goes on in its child and a new session, so that no id is valid for long.
RUNNER = """
import os, sys
file = open(sys.argv[1], "w")
while True:
    if os.fork():
        os._exit(0)
    os.setsid()
    file.seek(0)
    file.write(f"{os.getpid():10}")
    file.flush()
"""


def escape(kind: str, file: Path) -> str:
    return f"{ESCAPES[kind].format(file=file)} until [ -s {file} ]; do sleep 0.01; done; "


@linux_only
@pytest.mark.parametrize("kind", ESCAPES)
async def test_nothing_outlives_a_command(host: Caller, tmp_path: Path, kind: str) -> None:
    answer = (await host.bash(escape(kind, tmp_path / "pid") + "echo done"))[1]
    assert (answer["success"], answer["output"]) == (True, "done\n")
    assert not alive(int(await written(tmp_path / "pid")))


@linux_only
async def test_nothing_outlives_a_cancel_nor_a_time_limit(host: Caller, tmp_path: Path) -> None:
    for end, file in (("cancel", tmp_path / "1"), ("timeout", tmp_path / "2")):
        params = {"command": escape("double fork", file) + f"echo > {file}.up; sleep 1000"}
        limit = {"timeout": 1} if end == "timeout" else {}
        call = host.act("execute_bash_command", {**params, **limit}, execution_id=end, attempt=1)
        acting = asyncio.create_task(call)
        if end == "cancel":
            await until(Path(f"{file}.up").exists)
            assert (await host.cancel(end))[1]["cancelled"] == 1
            assert not alive(int(await written(file)))
        assert (await acting)[1]["success"] is False
        assert not alive(int(await written(file)))


@linux_only
async def test_the_end_of_a_command_leaves_the_other_device_alone(
    server: FakeServer, tmp_path: Path
) -> None:
    gate, file = tmp_path / "gate", tmp_path / "pid"
    async with running(server, tmp_path / "data", devices=("desktop=a", "desktop=b")) as host:
        command = escape("double fork", file) + f"until [ -e {gate} ]; do sleep 0.01; done"
        other = asyncio.create_task(host.bash(command, device_id="a"))
        pid = int(await written(file))
        answer = await host.bash(escape("session", tmp_path / "own"), device_id="b")
        assert answer[1]["success"] is True
        assert alive(pid)
        gate.touch()
        assert (await other)[1]["success"] is True
        assert not alive(pid)


@linux_only
async def test_a_process_that_forks_faster_than_it_is_looked_for_is_ended(
    host: Caller, tmp_path: Path
) -> None:
    script, file = tmp_path / "runner.py", tmp_path / "pid"
    script.write_text(RUNNER, encoding="utf-8")
    start = f"{sys.executable} -I -S {script} {file} & until [ -s {file} ]; do sleep 0.01; done"
    assert (await host.bash(start))[1]["success"] is True
    assert not alive(int(file.read_text()))
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(script) in str(p.info)]


@linux_only
@pytest.mark.parametrize("whom", ["its parent", "the guard", "one after the other"])
async def test_a_command_that_kills_who_watches_it_is_ended_too(
    host: Caller, tmp_path: Path, whom: str
) -> None:
    file = tmp_path / "pid"
    kill = {
        "its parent": "kill -9 $PPID",
        "the guard": f"kill -9 {GUARD}",
        "one after the other": f"g={GUARD}; kill -9 $PPID; sleep 0.2; kill -9 $g",
    }[whom]
    status, answer = await host.bash(escape("session", file) + f"{kill}; sleep 1000")
    assert (status, answer["code"]) == (500, "driver_error")
    assert not alive(int(await written(file)))
    assert (await host.bash("echo again"))[1]["output"] == "again\n"


@linux_only
async def test_a_command_that_freezes_its_supervisor_ends(host: Caller) -> None:
    assert (await host.bash("kill -STOP $PPID; echo out"))[1]["output"] == "out\n"


@linux_only
async def test_a_command_that_freezes_all_who_watch_it_can_be_cancelled(
    host: Caller, tmp_path: Path
) -> None:
    file = tmp_path / "pid"
    command = f"kill -STOP {GUARD} $PPID; echo $$ > {file}; sleep 1000"
    acting = asyncio.create_task(host.bash(command, execution_id="e", attempt=1))
    pid = int(await written(file))
    assert (await host.cancel("e"))[0] == 200
    assert not alive(pid)
    assert (await acting)[1]["error"] == "cancelled"


@linux_only
async def test_nothing_outlives_a_killed_host(server: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    async with process(server, tmp_path / "data") as (child, host):
        acting = asyncio.create_task(host.bash(escape("double fork", file) + "sleep 1000"))
        pid = int(await written(file))
        started = psutil.Process(child.pid).children(recursive=True)
        os.kill(child.pid, signal.SIGKILL)
        await asyncio.wait({acting})
    await until(lambda: not alive(pid) and not any(alive(one.pid) for one in started))


async def test_a_command_that_does_not_start_fails_with_the_reason(host: Caller) -> None:
    answer = (await host.bash(": " + "x" * 200_000))[1]
    assert answer["success"] is False
    assert "did not start: " in answer["error"]
    assert (await host.bash("echo again"))[1]["output"] == "again\n"


async def test_a_command_that_is_stopped_while_its_supervisor_starts_is_ended(
    tmp_path: Path,
) -> None:
    mark = tmp_path / "mark"
    shell = Shell(child_environment(os.environ))
    running = asyncio.create_task(
        shell.run(f"sleep 2; echo x >> {mark}", str(tmp_path), OutputTail())
    )
    await asyncio.sleep(0)
    running.cancel()
    await shell.stop()
    await shell.close()
    assert not mark.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_children_are_found_without_a_list_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_text

    def without_list(path: Path, *arguments: str, **options: str) -> str:
        if path.name == "children":
            raise FileNotFoundError
        return read(path, *arguments, **options)

    listed = set(shell_supervisor._children())
    monkeypatch.setattr(Path, "read_text", without_list)
    assert listed <= set(shell_supervisor._children())


async def test_a_command_gets_listed_variables_only(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOST_JOIN_TOKEN", "VPT_TOKEN", "API_KEY", "SECRET_KEY", "AWS_SECRET", "ANY"):
        monkeypatch.setenv(name, "must-not-be-seen")
    monkeypatch.setenv("JAVA_HOME", "/opt/java")
    monkeypatch.setenv("LC_TIME", "C.UTF-8")
    async with running(server, tmp_path / "data", pass_env=("JAVA_HOME", "ABSENT")) as host:
        output = (await host.bash("env; cat /proc/$PPID/environ | tr '\\0' '\\n'"))[1]["output"]
    lines = output.splitlines()
    assert "must-not-be-seen" not in output
    assert {"JAVA_HOME=/opt/java", "LC_TIME=C.UTF-8", f"PATH={os.environ['PATH']}"} <= set(lines)


def test_a_proxy_with_a_password_is_not_passed() -> None:
    environ = {"http_proxy": "http://p:1", "HTTPS_PROXY": "http://me:pw@p:1", "no_proxy": "::1"}
    assert child_environment(environ) == {"http_proxy": "http://p:1", "no_proxy": "::1"}
    assert child_environment(environ, ["HTTPS_PROXY"]) == environ


@pytest.mark.parametrize("name", ["HOST_JOIN_TOKEN", "VPT_TOKEN", "SECRET_KEY", "A=B", ""])
def test_what_is_vpts_own_cannot_be_passed(name: str) -> None:
    with pytest.raises(ValueError, match="pass-env"):
        HostSettings(server="http://s", name="n", pass_env=(name,))


@linux_only
async def test_no_process_reads_the_hosts_environment(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "must-not-be-seen")
    # Root may read everything, unless it gives up the capabilities to.
    plain = (
        ("setpriv", "--bounding-set=-sys_ptrace,-sys_admin,-perfmon") if os.geteuid() == 0 else ()
    )
    if plain and await (await asyncio.create_subprocess_exec(*plain, "true")).wait():
        pytest.skip("root needs a setpriv that knows these capabilities")
    async with process(server, tmp_path / "data", prefix=plain) as (child, host):
        readable = (await host.bash("cat /proc/$$/environ | tr '\\0' '\\n'"))[1]
        hidden = (await host.bash(f"cat /proc/{child.pid}/environ /proc/$PPID/environ; true"))[1]
        own = psutil.Process(child.pid).children(recursive=True)
        assert own
        assert not any("API_KEY" in one.environ() for one in own)
    assert "PATH=" in readable["output"]
    assert hidden["output"].count("Permission denied") == 2
