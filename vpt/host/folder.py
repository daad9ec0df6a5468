"""The host's folder on disk: locked by one process, with the secret that identifies the host."""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECRET_LENGTH = 32
INSTANCE_LENGTH = 16


@contextmanager
def own_folder(folder: Path) -> Iterator[Path]:
    """Lock the folder for this process; raise OSError when it is locked or cannot be created."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"another vpt host is using {folder}") from None
        yield folder
    finally:
        os.close(lock)


def host_secret(folder: Path) -> str:
    """Return the secret that the server must send to this host, created at the first start."""
    path = folder / "host_secret"
    if path.exists():
        path.chmod(0o600)
        kept = path.read_text(encoding="ascii", errors="replace").strip()
        if len(kept) >= SECRET_LENGTH:
            return kept
    made = secrets.token_urlsafe(SECRET_LENGTH)
    _write_private(path, made)
    return made


def instance_id(folder: Path) -> str:
    """Return the random name of this installation, created at the first start.

    It is bound to the file that keeps it, so a copy of the folder is another installation.
    """
    path = folder / "instance_id"
    if path.exists():
        kept, _, file = path.read_text(encoding="ascii", errors="replace").partition("\n")
        if len(kept) >= INSTANCE_LENGTH and file.strip() == str(path.stat().st_ino):
            return kept
    made = secrets.token_urlsafe(INSTANCE_LENGTH)
    _write_private(path, made)
    with path.open("a", encoding="ascii") as opened:
        opened.write(f"\n{path.stat().st_ino}\n")
    return made


def kept_token(folder: Path, server: str) -> str | None:
    """Return the join token that was kept for this server.

    A token is kept together with its server, so that no other server is ever sent it.
    """
    path = folder / "join_token"
    if not path.exists():
        return None
    kept_for, _, token = path.read_text(encoding="utf-8", errors="replace").partition("\n")
    return token.strip() if kept_for == server.rstrip("/") else None


def keep_token(folder: Path, server: str, token: str) -> None:
    """Keep the join token, which this server has accepted, for later starts."""
    if token != kept_token(folder, server):
        _write_private(folder / "join_token", f"{server.rstrip('/')}\n{token}\n")


def sync_folder(folder: Path) -> None:
    """Fsync a folder, so that new file names in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_private(path: Path, text: str) -> None:
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    sync_folder(path.parent)
