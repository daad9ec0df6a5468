"""Shared by the benches: PostgreSQL, the servers and their data, all removed at the end.

Every process is a child in a session of its own, is ended with its children when the lab closes
(also on Ctrl-C or a failure), and by the kernel when the bench itself is killed (Linux).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import datetime as dt
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import hosts
import jwt
import structlog
from raw_http import BadAnswerError

from vpt import embedded
from vpt.store.migrations import migrate

BENCH = Path(__file__).resolve().parent
ENV = BENCH / "env"
REQUIREMENTS = BENCH / "requirements.txt"
TEST_CASES = 200
STEPS = 10
DEVICES = 16
START_TIMEOUT = 60.0
#: `before` is the vpt of another checkout, with a database of its own.
PEERS = ("vpt", "before", "bare", "flask")
OURS = ("vpt", "before")
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def die_with_parent() -> None:
    """Let the kernel end this process with its parent; for preexec_fn."""
    if _PRCTL is not None:
        _PRCTL(1, signal.SIGKILL)


def free_port() -> int:
    """Return a free port of 127.0.0.1."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def steps() -> list[dict[str, Any]]:
    """Return the ten steps of a typical test case; `${sent}` is the time of the request."""
    return [
        {
            "command": "press_key",
            "action_type": "remote",
            "params": {"key": f"KEY_{n}", "wait_time": 0, "sent": "${sent}"},
        }
        for n in range(1, STEPS + 1)
    ]


class BenchLab:
    """A temporary lab: `async with BenchLab() as lab`, then `serve` the wanted peers."""

    def __init__(self, before: Path | None = None) -> None:
        """Set the checkout whose server is the peer `before`."""
        self._before_checkout = before
        self.secret = secrets.token_hex(32)
        self.join_token = secrets.token_hex(16)
        self.token = self._user_token()
        self.dsn = ""
        self.host_url, self.host_pid = "", 0
        self.ports: dict[str, int] = {}
        self.pids: dict[str, int] = {}
        self.newest = ""
        self.folder = Path()
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> BenchLab:
        """Start PostgreSQL, fill it, and start the instant host."""
        async with contextlib.AsyncExitStack() as stack:
            self.folder = Path(tempfile.mkdtemp(prefix="vpt-bench-"))
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.folder.chmod(0o711)  # as root PostgreSQL runs as another user
            structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
            database = await embedded.start(self.folder / "data")
            stack.push_async_callback(database.stop)
            self.dsn, self.pids["db"] = database.dsn, database.pid
            await migrate(self.dsn)
            self.newest = await _fill(self.dsn)
            self._stack = stack.pop_all()
        try:
            await self._start_host()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """End everything."""
        await self._stack.aclose()

    async def serve(self, peer: str) -> None:
        """Start one of PEERS and wait until it answers."""
        if peer == "before":
            await self._make_database("before")
        port = self.ports[peer] = free_port()
        command, env = getattr(self, f"_{peer}")(port)
        process = await self.start(peer, command, env)
        self.pids[peer] = process.pid
        await self.answers(peer, self.ports[peer], process)
        if peer == "before":
            await _fill(self.dsn_of(peer))
        if peer in OURS:
            await self.join([hosts.card("b-1", self.host_url, DEVICES)], peer)

    async def join(self, cards: list[dict[str, Any]], peer: str = "vpt") -> None:
        """Register hosts at vpt."""
        url = f"http://127.0.0.1:{self.ports[peer]}"
        await hosts.join(url, self.join_token, self.token, cards)

    def dsn_of(self, peer: str) -> str:
        """Give the URL of the peer's database."""
        if peer != "before":
            return self.dsn
        parts = urlsplit(self.dsn)
        return urlunsplit(parts._replace(path="/before"))

    async def start(
        self, name: str, command: list[str], env: dict[str, str], *, piped: bool = False
    ) -> asyncio.subprocess.Process:
        """Start a process that ends with the lab; its output goes to its log or the pipe."""
        with self._log(name).open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                env={**clean_environment(), **env},
                cwd=self.folder,
                stdin=asyncio.subprocess.PIPE if piped else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if piped else log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self._stack.push_async_callback(end, process)
        return process

    async def ask(self, script: str, job: dict[str, Any]) -> dict[str, Any]:
        """Run one of our scripts with a job on stdin and return its output."""
        process = await self.start(script, [sys.executable, str(BENCH / script)], {}, piped=True)
        answer, _ = await process.communicate(json.dumps(job).encode())
        if process.returncode:
            raise BadAnswerError(f"{script} failed:\n{self.tail(script)}")
        result: dict[str, Any] = json.loads(answer)
        return result

    async def answers(self, peer: str, port: int, process: asyncio.subprocess.Process) -> None:
        """Wait until the server on a port answers; BadAnswerError when it ends instead."""
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while process.returncode is None:
                    if await _speaks(port):
                        return
                    await asyncio.sleep(0.1)
        except TimeoutError:
            pass
        raise BadAnswerError(f"{peer} did not start:\n{self.tail(peer)}")

    def tail(self, name: str) -> str:
        """Return the last lines of a process's log."""
        return "\n".join(self._log(name).read_text(errors="replace").splitlines()[-20:])

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    async def _start_host(self) -> None:
        command = [sys.executable, str(BENCH / "hosts.py")]
        process = await self.start("hosts.py", command, {}, piped=True)
        assert process.stdout is not None
        self.host_pid = process.pid
        self.host_url = (await process.stdout.readline()).decode().strip()
        if not self.host_url:
            raise BadAnswerError(f"hosts.py did not start:\n{self.tail('hosts.py')}")

    def _vpt(self, port: int) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, "-m", "vpt", "serve"], {
            "DATABASE_URL": self.dsn,
            "HOST_JOIN_TOKEN": self.join_token,
            "LOG_FORMAT": "json",
            "SECRET_KEY": self.secret,
            "SERVER_PORT": str(port),
            "VPT_DATA_DIR": str(self.folder / "vpt"),
        }

    def _before(self, port: int) -> tuple[list[str], dict[str, str]]:
        command, env = self._vpt(port)
        return command, env | {
            "DATABASE_URL": self.dsn_of("before"),
            "PYTHONPATH": str(self._before_checkout),
            "VPT_DATA_DIR": str(self.folder / "before"),
        }

    async def _make_database(self, name: str) -> None:
        connection = await asyncpg.connect(self.dsn)
        try:
            await connection.execute(f"CREATE DATABASE {name}")
        finally:
            await connection.close()

    def _bare(self, port: int) -> tuple[list[str], dict[str, str]]:
        command = [sys.executable, str(BENCH / "bare.py"), str(port)]
        return command, {"DATABASE_URL": self.dsn, "HOST_URL": self.host_url}

    def _flask(self, port: int) -> tuple[list[str], dict[str, str]]:
        gunicorn = [str(ENV / "bin" / "gunicorn"), "-w", "2", "-b", f"127.0.0.1:{port}"]
        return [*gunicorn, "--chdir", str(BENCH), "flask_app:app"], {
            "DATABASE_URL": self.dsn,
            "HOST_URL": self.host_url,
            "SECRET_KEY": self.secret,
            "HOME": str(self.folder),
        }

    def _user_token(self) -> str:
        until = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
        claims = {"user_id": "bench", "role": "operator", "exp": until}
        return jwt.encode(claims, self.secret, algorithm="HS256")


async def make_env() -> None:
    """Create the virtual environment of the Flask peer, again when its requirements changed."""
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    made = ENV / "made-of"
    if made.is_file() and made.read_text() == wanted:
        return
    print("making bench/env (once) ...", flush=True)
    await _call(sys.executable, "-m", "venv", "--clear", str(ENV))
    await _call(str(ENV / "bin" / "pip"), "install", "-q", "-r", str(REQUIREMENTS))
    made.write_text(wanted)


async def _call(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command)
    if await process.wait():
        raise BadAnswerError(f"{' '.join(command)}: exit code {process.returncode}")


async def _speaks(port: int) -> bool:
    """Return whether a request is answered, whatever the response."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        return bool(await reader.read(1))
    except ConnectionError:
        return False
    finally:
        writer.close()


async def end(process: asyncio.subprocess.Process) -> None:
    """End a process that has its own session, with all processes of its group."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), 15)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def clean_environment() -> dict[str, str]:
    """Return the environment of our processes, without settings of this machine."""
    keep = {"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "XDG_RUNTIME_DIR"}
    kept = {name: value for name, value in os.environ.items() if name in keep}
    return {**kept, "PYTHONPATH": str(BENCH.parent)}


async def _fill(dsn: str) -> str:
    """Store the same test cases for all peers; return the id of the last one on the first page."""
    began = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    rows = [
        (
            f"bench-{n:04}",
            f"Zapping test {n}",
            "Opens the live view, zaps through ten channels and checks that each one plays.",
            json.dumps(steps()),
            "c",
            began + dt.timedelta(minutes=n),
        )
        for n in range(TEST_CASES)
    ]
    connection = await asyncpg.connect(dsn)
    try:
        await connection.executemany(_INSERT, rows)
        await connection.execute(_COPY)
        await connection.execute("ANALYZE")
    finally:
        await connection.close()
    return f"bench-{TEST_CASES - 50:04}"


_INSERT = """
INSERT INTO test_cases (id, name, description, steps, device_model, created_at)
VALUES ($1, $2, $3, $4, $5, $6)
"""
_COPY = """
CREATE TABLE test_case AS
SELECT id, name, description, steps::json AS steps, device_model,
       created_at AT TIME ZONE 'UTC' AS created_at
FROM test_cases;
ALTER TABLE test_case ADD PRIMARY KEY (id)
"""
