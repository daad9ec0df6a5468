"""The cluster in the data folder: its creation, and what a server that died leaves in it."""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import BinaryIO

import psutil

from vpt.embedded.binaries import Binaries
from vpt.embedded.home import (
    COMMAND_TIMEOUT,
    Address,
    EmbeddedError,
    Home,
    before_exec,
    environment,
    has_account,
    known_uid,
    publish,
)

FIRST_BUILTIN_LOCALE = 17
LOG_LIMIT = 5_000_000
LEFTOVER_TIMEOUT = 3.0  # seconds


async def make_cluster(home: Home, binaries: Binaries) -> None:
    """Create the cluster under another name and rename it, so that a kill leaves no half of it.

    Raises EmbeddedError when initdb fails.
    """
    new = home.data / "pg.new"
    await asyncio.to_thread(_make_room, new, home)
    encoding = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    if binaries.major < FIRST_BUILTIN_LOCALE:
        encoding = ["--locale=C.UTF-8"]
    child = await asyncio.create_subprocess_exec(
        binaries.folder / "initdb",
        *("-D", new, "--username=vpt", f"--pwfile={home.password}", "--auth=scram-sha-256"),
        *("--data-checksums", "--encoding=UTF8", *encoding),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(),
        start_new_session=True,
        preexec_fn=before_exec(home, signal.SIGKILL, known_as=known_uid(home.uid)),
    )
    try:
        output, _ = await asyncio.wait_for(child.communicate(), COMMAND_TIMEOUT)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        reason = output.decode(errors="replace").strip().rpartition("\n")[2]
        if not has_account(home.uid):
            raise EmbeddedError(
                f"PostgreSQL's initdb does not run as user {home.uid}, which has no account here:"
                f" set DATABASE_URL to another PostgreSQL, or add {home.uid} to /etc/passwd"
                f" ({reason})"
            )
        raise EmbeddedError(f"initdb failed in {home.data}, correct that: {reason}")
    await asyncio.to_thread(publish, new, home.cluster)


def _make_room(new: Path, home: Home) -> None:
    deadline = time.monotonic() + LEFTOVER_TIMEOUT
    while new.exists():
        # A child of a killed initdb may still write for a moment.
        shutil.rmtree(new, ignore_errors=time.monotonic() < deadline)
    new.mkdir(mode=0o700)
    os.chown(new, home.uid, home.gid)
    if not home.password.exists():
        _make_password(home)


def _make_password(home: Home) -> None:
    new = home.data / "pg.password.new"
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(32))
        file.flush()
        os.fchown(file.fileno(), home.uid, home.gid)  # initdb reads it
        os.fsync(file.fileno())
    publish(new, home.password)


def _pid_file(cluster: Path) -> list[str]:
    """Return the lines: pid, folder, start, port, socket folder, address, memory key, status."""
    try:
        text = (cluster / "postmaster.pid").read_text(errors="replace")
    except FileNotFoundError:
        return []
    return [line.strip() for line in text.splitlines()]


def postmaster(cluster: Path) -> int | None:
    """Return the pid of the running server of this folder, or None.

    The command line is checked, since the pid in the file may belong to another program by now.
    """
    try:
        pid = abs(int(_pid_file(cluster)[0]))
        process = psutil.Process(pid)
        ours = str(cluster) in process.cmdline() or process.cwd() == str(cluster)
    except (IndexError, ValueError, psutil.Error):
        return None
    return pid if ours else None


def running_address(cluster: Path) -> Address | None:
    """Return where the server of this folder listens once it is ready, else None."""
    match _pid_file(cluster):
        case [_, _, _, port, folder, host, _, "ready"]:
            return Address(Path(folder), int(port), host)
    return None


def claim(path: Path) -> None:
    """Write our pid into a left-over lock file, so that PostgreSQL, our child, accepts it.

    Deleting it would lose its memory key, by which PostgreSQL notices a left-over backend.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        _, _, rest = os.read(file, 4096).partition(b"\n")
        text = b"%d\n%s" % (os.getpid(), rest)
        os.pwrite(file, text, 0)
        os.ftruncate(file, len(text))
    finally:
        os.close(file)


def kill_leftovers(cluster: Path) -> None:
    """Kill backends whose server is dead: a busy one does not notice that and blocks a start."""
    here: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(cluster):
                here[process.pid] = process
    for process in here.values():
        with contextlib.suppress(psutil.Error, IndexError):
            if process.ppid() not in here and process.cmdline()[0].startswith("postgres: "):
                process.kill()


def open_log(path: Path) -> BinaryIO:
    """Open the log of PostgreSQL for appending; rotate it when it is over `LOG_LIMIT` bytes."""
    if path.exists() and path.stat().st_size > LOG_LIMIT:
        path.replace(path.with_name("pg.log.1"))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "ab")


def last_log_line(path: Path) -> str:
    """Return the last fatal line of the log, else its last line."""
    lines = path.read_text(errors="replace")[-4096:].splitlines() or ["its log is empty"]
    fatal = [line for line in lines if "FATAL:" in line or "PANIC:" in line]
    return (fatal or lines)[-1]
