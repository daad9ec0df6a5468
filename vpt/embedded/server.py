"""The PostgreSQL server: started or found, watched, restarted when it dies, stopped in order."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import asyncpg
import structlog

from vpt.embedded.binaries import Binaries, find_binaries
from vpt.embedded.cluster import (
    claim,
    kill_leftovers,
    last_log_line,
    make_cluster,
    open_log,
    postmaster,
    running_address,
)
from vpt.embedded.home import (
    COMMAND_TIMEOUT,
    Address,
    EmbeddedError,
    Home,
    before_exec,
    environment,
    make_socket_folder,
    prepare,
    socket_folder,
    try_lock,
)
from vpt.upkeep import count_failure, every

log = structlog.get_logger()

DEFAULT_PORT = 5432
# Seconds.
POLL, WATCH, ORPHAN_GRACE, RETRY = 0.02, 0.2, 1.0, 3.0
START_TIMEOUT, STOP_TIMEOUT, CONNECT_TIMEOUT = 120.0, 30.0, 10.0
_WATCHDOG = "embedded-postgres"  # the name of the task that watches

_SETTINGS = (
    "fsync=on",
    "synchronous_commit=on",
    "max_connections=50",
    "shared_buffers=64MB",
    "wal_compression=on",
    "jit=off",
    "timezone=UTC",
    "log_timezone=UTC",
    "log_checkpoints=off",
    "log_min_error_statement=panic",  # a statement may hold a password
)


class EmbeddedPostgres:
    """A running embedded PostgreSQL, which is restarted when it dies, until `stop`."""

    def __init__(self, home: Home, address: Address, chosen: Path | None, lock: int | None) -> None:
        self.dsn = ""
        self._home = home
        self._address = address
        self._chosen = chosen
        self._lock = lock
        self._process: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._watchdog: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self._pid or postmaster(self._home.cluster) or 0

    @property
    def owned(self) -> bool:
        """True when this process runs the server, False when it attached to another process's."""
        return self._lock is not None

    async def stop(self) -> None:
        """Stop the server if this process owns it, then release the lock; can be repeated."""
        if self._watchdog is not None:
            self._watchdog.cancel()
            await asyncio.gather(self._watchdog, return_exceptions=True)
            self._watchdog = None
        if self._lock is None:
            return
        try:
            await self._shut_down()
            with contextlib.suppress(OSError):
                self._address.folder.rmdir()
        finally:
            os.close(self._lock)
            self._lock = None
        log.info("embedded_postgres_stopped", data_dir=str(self._home.data))

    async def bring_up(self) -> None:
        """Attach to a running server or start one, then watch it; clean up after a failure."""
        try:
            if self._lock is None:
                await self._attach()
            if self._lock is not None:
                await self._serve()
        except BaseException:
            await self.stop()
            raise
        self._watchdog = asyncio.create_task(every(WATCH, self._watch), name=_WATCHDOG)

    async def _attach(self) -> None:
        """Wait until the server of another process answers, or until we have the lock."""
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            address = running_address(self._home.cluster)
            if address is not None and await self._answers(address):
                log.info("embedded_postgres_attached", pid=self.pid)
                return
            self._lock = try_lock(self._home)
            if self._lock is not None:
                return
            await asyncio.sleep(POLL)
        raise EmbeddedError(
            f"another process holds {self._home.data / 'lock'} but its PostgreSQL does not "
            f"answer: stop that process or read {self._home.log}"
        )

    async def _serve(self) -> None:
        """Start our own server, or adopt one that runs; requires the lock."""
        began = time.monotonic()
        self._process, self._pid = None, await self._outlive_orphan()
        if self._pid is None or not await self._ready():
            await self._spawn_until_ready()
        log.info(
            "embedded_postgres_started",
            pid=self._pid,
            data_dir=str(self._home.data),
            port=self._address.port if self._address.host else None,
            adopted=self._process is None,
            seconds=round(time.monotonic() - began, 3),
        )

    async def _outlive_orphan(self) -> int | None:
        """Wait for the server of a killed owner to end; adopt one that stays (macOS): its pid."""
        began = time.monotonic()
        while (pid := postmaster(self._home.cluster)) is not None:
            waited = time.monotonic() - began
            address = running_address(self._home.cluster)
            if address is not None and waited > ORPHAN_GRACE:
                self._address = address
                return pid
            if waited > STOP_TIMEOUT:
                raise EmbeddedError(f"process {pid} uses {self._home.cluster}: stop it first")
            await asyncio.sleep(POLL)
        return None

    async def _spawn_until_ready(self) -> None:
        binaries = await asyncio.to_thread(find_binaries, self._home, self._chosen)
        if not self._home.cluster.exists():
            await make_cluster(self._home, binaries)
        give_up = time.monotonic() + RETRY
        while True:
            self._spawn(binaries)
            if await self._ready():
                return
            if time.monotonic() > give_up:
                raise EmbeddedError(
                    f"PostgreSQL does not start, correct that: {last_log_line(self._home.log)}"
                )
            await asyncio.to_thread(kill_leftovers, self._home.cluster)
            await asyncio.sleep(POLL)

    def _spawn(self, binaries: Binaries) -> None:
        """Start PostgreSQL on this thread, whose end sends its death signal: no helper thread."""
        make_socket_folder(self._address.folder, self._home)
        claim(self._home.cluster / "postmaster.pid")
        claim(self._address.socket.with_name(f"{self._address.socket.name}.lock"))
        settings = (
            *_SETTINGS,
            f"listen_addresses={self._address.host}",
            f"port={self._address.port}",
            f"unix_socket_directories={self._address.folder}",
            "unix_socket_permissions=0700",
        )
        flags = (part for setting in settings for part in ("-c", setting))
        command = [str(binaries.folder / "postgres"), "-D", str(self._home.cluster), *flags]
        with open_log(self._home.log) as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own arguments, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment(),
                start_new_session=True,
                preexec_fn=before_exec(self._home, signal.SIGINT),  # noqa: PLW1509 - see there
            )
        self._pid = self._process.pid

    async def _ready(self) -> bool:
        """Wait until the server answers; return False when it ends instead."""
        deadline = time.monotonic() + START_TIMEOUT
        while self._alive():
            if await self._answers(self._address):
                return True
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"PostgreSQL is not ready after {START_TIMEOUT:.0f} s: read {self._home.log}"
                )
            await asyncio.sleep(POLL)
        return False

    async def _answers(self, address: Address) -> bool:
        """Return True when the database answers, and set the DSN; create it in a new server."""
        password = self._home.password.read_text(encoding="ascii", errors="replace")
        try:
            await self._ask(address, password)
        except asyncpg.InvalidPasswordError as error:
            raise EmbeddedError(
                f"PostgreSQL refuses the password in {self._home.password}: restore the right one"
            ) from error
        except asyncpg.TooManyConnectionsError:
            pass  # it runs and is only busy
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        self._address, self.dsn = address, address.dsn(password)
        return True

    async def _ask(self, address: Address, password: str) -> None:
        try:
            await _execute(address.dsn(password), "SELECT 1")
        except asyncpg.InvalidCatalogNameError:
            if not self.owned:
                raise
            await _execute(address.dsn(password, "postgres"), "CREATE DATABASE vpt")

    def _alive(self) -> bool:
        if self._process is not None:
            return self._process.poll() is None
        return self._pid is not None and postmaster(self._home.cluster) == self._pid

    async def _watch(self) -> None:
        try:
            await self._restore()
        except (EmbeddedError, OSError, subprocess.SubprocessError) as error:
            log.error("embedded_postgres_unavailable", error=str(error))  # noqa: TRY400 - the message is enough
            await asyncio.sleep(RETRY)
        except Exception:  # a defect of ours must not leave the database unwatched
            count_failure(_WATCHDOG)
            log.exception("embedded_postgres_watch_failed")
            await asyncio.sleep(RETRY)

    async def _restore(self) -> None:
        """Restart the server after its death, or take over when the process that owned it ended."""
        if self._lock is None:
            self._lock = try_lock(self._home)
            if self._lock is None:
                return
            log.info("embedded_postgres_taken_over", data_dir=str(self._home.data))
        elif self._alive():
            return
        else:
            code = self._process.returncode if self._process is not None else None
            log.error("embedded_postgres_died", pid=self._pid, exit_code=code)
        await self._serve()

    async def _shut_down(self) -> None:
        """Stop the server: fast, immediate, then killed, after which the next start recovers."""
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            deadline = time.monotonic() + STOP_TIMEOUT
            if self._pid is not None and self._alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._pid, number)
            while self._alive() and time.monotonic() < deadline:  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(POLL)


async def start(
    data_dir: Path, *, port: int | None = None, bin_dir: Path | None = None
) -> EmbeddedPostgres:
    """Start the PostgreSQL of `data_dir`, or attach to it when another process runs it.

    With `port` it also listens on 127.0.0.1. Call it on the main thread: PostgreSQL is stopped
    when the thread that started it ends. Raises EmbeddedError.
    """
    try:
        home = await asyncio.to_thread(prepare, data_dir)
        host = "" if port is None else "127.0.0.1"
        address = Address(socket_folder(home), port or DEFAULT_PORT, host)
        server = EmbeddedPostgres(home, address, bin_dir, try_lock(home))
        await server.bring_up()
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedError(f"{data_dir} cannot be used, correct that: {error}") from error
    return server


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT)
    try:
        await connection.execute(statement, timeout=COMMAND_TIMEOUT)
    finally:
        await connection.close(timeout=CONNECT_TIMEOUT)
