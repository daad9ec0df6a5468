"""Where the data folder is, and the private modes of what is in it."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import platformdirs

#: What vpt makes in its data folder and nobody else has to read. PostgreSQL makes its own folder
#: private, and the copies of its programs have to be run by another account.
_PRIVATE = (
    *("secret_key", "host_join_token", "vpt_grafana_db_password"),
    *("grafana_admin_password", "grafana_secret_key", "pg.password", "lock"),
    *("pg.log", "pg.log.1", "demo.log", "demo-file", "screenshots", "host"),
)


def default_data_dir() -> Path:
    """Return the platform's user data folder + vpt; as root /var/lib/vpt.

    A container may run with a user id that has no account and no home: then it is
    /var/tmp/vpt-<user id>, which `is_homeless_folder` knows.
    """
    if sys.platform == "win32":
        return Path(platformdirs.user_data_dir("vpt", appauthor=False))
    if os.geteuid() == 0:
        return Path("/var/lib/vpt")
    if not has_home():
        return _homeless_folder()
    return Path(platformdirs.user_data_dir("vpt", appauthor=False))


def has_home() -> bool:
    """Return False for an account whose home is unknown, or is not its own as / of a container."""
    if sys.platform == "win32":
        return True
    import pwd  # noqa: PLC0415 (not on Windows)

    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        home = os.environ.get("HOME", "")
        return home != "" and os.access(home, os.W_OK | os.X_OK)
    return True


def is_homeless_folder(folder: Path) -> bool:
    """Return True for the folder below /var/tmp, which another user could have made before us."""
    return sys.platform != "win32" and folder == _homeless_folder()


def _homeless_folder() -> Path:
    return Path(f"/var/tmp/vpt-{os.geteuid()}")  # noqa: S108 - its owner is checked


def make_private(folder: Path) -> None:
    """Remove what others may do with what an older vpt left in the data folder."""
    for path in (folder / name for name in _PRIVATE):
        try:
            info = path.lstat()
            if info.st_uid == os.geteuid() and not stat.S_ISLNK(info.st_mode):
                path.chmod(stat.S_IMODE(info.st_mode) & ~0o077)
        except FileNotFoundError:
            continue
