"""The data folder of the embedded PostgreSQL, and the account that it runs as."""

import contextlib
import ctypes
import fcntl
import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

LONGEST_SOCKET = 107
COMMAND_TIMEOUT = 120.0  # seconds

_PR_SET_PDEATHSIG = 1
# Looked up here because little is safe between fork and exec.
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot run; the message says in one sentence what to do."""


@dataclass(frozen=True, slots=True)
class Home:
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
class Address:
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


def prepare(data_dir: Path) -> Home:
    data = data_dir.resolve()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    home = Home(data, *_account(data / "pg"))
    if os.geteuid() == 0:
        if data.stat().st_uid == 0:
            data.chmod(0o711)
        if (closed := closed_to(home, data)) is not None:
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


def closed_to(home: Home, path: Path) -> Path | None:
    """The first folder on the way to `path`, or itself, that the account may not enter or run."""
    for part in (*reversed(path.parents), path):
        info = part.stat()
        bit = 0o100 if info.st_uid == home.uid else 0o010 if info.st_gid == home.gid else 0o001
        if not info.st_mode & bit:
            return part
    return None


def socket_folder(home: Home) -> Path:
    name = f"vpt-pg-{home.uid}-{hashlib.sha256(os.fsencode(home.data)).hexdigest()[:12]}"
    root = os.geteuid() == 0
    runtime = "" if root else os.environ.get("XDG_RUNTIME_DIR", "")
    for parent in (runtime, tempfile.gettempdir(), "/tmp"):  # noqa: S108 - owner and mode are checked
        folder = Path(parent).resolve() / name
        if not parent or not folder.parent.is_dir():
            continue
        fits = len(os.fsencode(folder / ".s.PGSQL.65535")) <= LONGEST_SOCKET
        if fits and (not root or closed_to(home, folder.parent) is None):
            return folder
    raise EmbeddedError("no folder for the database's socket: set TMPDIR to one with a short name")


def make_socket_folder(folder: Path, home: Home) -> None:
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    info = folder.lstat()
    if stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() != home.uid:
        os.chown(folder, home.uid, home.gid, follow_symlinks=False)
        info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != home.uid or info.st_mode & 0o077:
        raise EmbeddedError(f"{folder} is not ours alone: remove it")


def try_lock(home: Home) -> int | None:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    lock = os.open(home.data / "lock", flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def before_exec(home: Home, death_signal: int) -> Callable[[], None]:
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


def environment() -> dict[str, str]:
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}


def publish(new: Path, path: Path) -> None:
    """Rename it so that the name survives a power cut."""
    new.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
