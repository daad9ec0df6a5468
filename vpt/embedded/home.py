"""The data folder of the embedded PostgreSQL, and the OS account that it runs as."""

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

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
# Looked up here, because importing and allocating are not safe between fork and exec.
_LIBC = ctypes.CDLL(None)
_PRCTL = _LIBC.prctl if sys.platform == "linux" else None
_CLONE_NEWUSER = 0x10000000


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot run; the message says why and what to do."""


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
    """Where the server listens: a Unix socket and, with `host`, a TCP port."""

    folder: Path
    port: int
    host: str

    @property
    def socket(self) -> Path:
        return self.folder / f".s.PGSQL.{self.port}"

    def dsn(self, password: str, database: str = "vpt") -> str:
        # Without a port asyncpg would use PGPORT.
        query = urlencode({"host": str(self.folder), "port": self.port}, safe="/")
        return f"postgresql://vpt:{quote(password, safe='')}@/{database}?{query}"


def prepare(data_dir: Path) -> Home:
    """Create the data folder if needed; raise EmbeddedError when its account cannot use it."""
    data = data_dir.resolve()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    home = Home(data, *_account(data / "pg"))
    if os.geteuid() == 0:
        if data.stat().st_uid == 0:
            data.chmod(0o711)
        if (closed := closed_to(home, data)) is not None:
            name = pwd.getpwuid(home.uid).pw_name
            raise EmbeddedError(
                f"{closed} cannot be entered by the user {name}, who runs PostgreSQL: choose a "
                f"VPT_DATA_DIR outside it"
            )
    return home


def _account(cluster: Path) -> tuple[int, int]:
    """Return the user and group that PostgreSQL runs as: the owner of an existing cluster."""
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
        # A failure is fine: the user may exist, and the loop below tries others.
        subprocess.run(  # noqa: S603 - our own arguments, no shell
            [useradd, *options, "vpt-postgres"],
            capture_output=True,
            check=False,
            timeout=COMMAND_TIMEOUT,
            start_new_session=True,  # a Ctrl-C is for vpt
        )
    for name in ("vpt-postgres", "postgres", "nobody"):
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            return found.pw_uid, found.pw_gid
    raise EmbeddedError("PostgreSQL does not run as root: create a user named vpt-postgres")


def closed_to(home: Home, path: Path) -> Path | None:
    """Return the first part of `path` that the account may not enter or execute, or None."""
    for part in (*reversed(path.parents), path):
        info = part.stat()
        bit = 0o100 if info.st_uid == home.uid else 0o010 if info.st_gid == home.gid else 0o001
        if not info.st_mode & bit:
            return part
    return None


def socket_folder(home: Home) -> Path:
    """Return where the socket goes: a path short enough for the OS, the same at each start."""
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
    raise EmbeddedError(
        "no folder for the database's socket: set TMPDIR to a folder with a short path"
    )


def make_socket_folder(folder: Path, home: Home) -> None:
    """Create the folder of the socket; raise EmbeddedError when others can use it."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    info = folder.lstat()
    if stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() != home.uid:
        os.chown(folder, home.uid, home.gid, follow_symlinks=False)
        info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != home.uid or info.st_mode & 0o077:
        raise EmbeddedError(f"{folder} is not only ours: other users can access it, remove it")


def try_lock(home: Home) -> int | None:
    """Lock the data folder; return the file descriptor, or None when another process has it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    lock = os.open(home.data / "lock", flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def has_account(uid: int) -> bool:
    """Return whether the system knows a name for this user id."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def known_uid(uid: int) -> int | None:
    """Return an id that initdb can look up, for a user id without an account; None if not needed.

    Containers may run with any user id, and initdb refuses one that has no name.
    """
    if sys.platform != "linux" or has_account(uid):
        return None
    return next((entry.pw_uid for entry in reversed(pwd.getpwall()) if entry.pw_uid), None)


def _become_known(uid: int, gid: int, known_as: int) -> None:
    """Enter a user namespace in which our user id is called by another number.

    Files stay ours outside of it. Where the kernel permits no namespace, initdb says why it fails.
    """
    if _LIBC.unshare(_CLONE_NEWUSER) != 0:
        return
    # The server is closed to others of its account, and its child with it: the files are root's.
    _LIBC.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{known_as} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        file = os.open(f"/proc/self/{name}", os.O_WRONLY)
        os.write(file, text.encode())
        os.close(file)


def before_exec(home: Home, death_signal: int, known_as: int | None = None) -> Callable[[], None]:
    """Return what a child runs before exec: switch to the account, and die with its parent.

    With `known_as` it runs under that user id for itself, and under its own for everybody else.
    """
    parent, drop = os.getpid(), os.geteuid() == 0

    def prepare() -> None:
        if known_as is not None:
            with contextlib.suppress(OSError):
                _become_known(home.uid, home.gid, known_as)
        if drop:
            os.setgroups([])
            os.setgid(home.gid)
            os.setuid(home.uid)
        if _PRCTL is not None:  # after setuid, which resets it
            _PRCTL(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    return prepare


def environment() -> dict[str, str]:
    """Return the environment of PostgreSQL's programs, without settings of this machine."""
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}


def publish(new: Path, path: Path) -> None:
    """Rename a file or folder so that the new name survives a power cut."""
    new.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
