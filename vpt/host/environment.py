"""The environment that the host's child processes get: listed variables, never the host's own."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

NAMES = frozenset({"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM"})
#: Where temporary files and certificates are, and what a program needs to show a window.
PLACES = frozenset({"TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"})
DESKTOP = frozenset({"DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "DBUS_SESSION_BUS_ADDRESS"})
PREFIXES = ("LC_", "XDG_")
PROXIES = frozenset({"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"})
#: Variables of vpt itself; some of them are credentials of the whole lab.
OWN = re.compile(
    r"VPT_.*|HOST_JOIN_TOKEN|SECRET_KEY|API_KEY|DATABASE_URL|METRICS_TOKEN|SUPABASE_.*"
)
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def check_passed(names: Iterable[str]) -> None:
    """Raise ValueError for a name that is no variable's, or is one of vpt's own."""
    for name in names:
        if not VARIABLE.fullmatch(name):
            raise ValueError(f"pass-env: {name!r} is not the name of a variable")
        if OWN.fullmatch(name):
            raise ValueError(f"pass-env: {name} is vpt's own and is never passed to a command")


def child_environment(environ: Mapping[str, str], passed: Iterable[str] = ()) -> dict[str, str]:
    """Return the variables that a child process gets: the listed ones, and those of `passed`.

    A proxy whose URL has a user or a password is left out: it is a credential.
    """
    wanted = NAMES | PLACES | DESKTOP | set(passed)
    return {
        name: value
        for name, value in environ.items()
        if name in wanted or name.startswith(PREFIXES) or _is_proxy(name, value)
    }


def _is_proxy(name: str, value: str) -> bool:
    return name.lower() in PROXIES and "@" not in value


@contextmanager
def reduced_environment(passed: Iterable[str]) -> Iterator[None]:
    """Reduce this process's environment to what its children get, until the end of the block.

    So a library that starts a process (Playwright starts the browser) passes no secret on.
    """
    whole = dict(os.environ)
    _replace_environment(child_environment(whole, passed))
    try:
        yield
    finally:
        _replace_environment(whole)


def _replace_environment(environ: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environ)
