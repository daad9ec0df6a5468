"""Processes of `vpt` that are forked from one that has imported it.

Python imports vpt in 0.2 s of processor for a client and 0.7 s for a server, some hundred times in
the suite; a fork takes a tenth of that. Everything else is as in `python -m vpt`: a process with
its own arguments, environment, folder and files, which ends by itself. What depends on how Python
starts (its options, what is installed) needs a real start.
"""

from __future__ import annotations

import array
import asyncio
import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import secrets
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]
_IMPORTED = (
    *("vpt.__main__", "vpt.commands.server_side", "vpt.client.run", "vpt.client.listing"),
    *("vpt.client.sync", "vpt.host.server", "uvloop"),
)
#: Made at import, for one process only.
_OF_A_PROCESS = (("vpt.store.pool", "_PROCESS"), ("vpt.web.http.middlewares", "_FIRST"))
_CODE = struct.Struct("i")
_LARGEST = 1 << 17  # bytes of a message
_FILES = 4  # standard input, output, error, and where its exit code is written


# ---------------------------------------------------------------- in the tests


class Forked:
    """A process, as asyncio's, whose standard streams the caller has."""

    def __init__(self, pid: int, ended: int) -> None:
        self.pid = pid
        self._ended = ended
        self._code: int | None = None
        os.set_blocking(ended, False)

    @property
    def returncode(self) -> int | None:
        """The exit code, as of subprocess; None while it runs."""
        if self._code is None:
            with contextlib.suppress(BlockingIOError):
                said = os.read(self._ended, _CODE.size)
                os.close(self._ended)
                self._code = _CODE.unpack(said)[0] if said else -signal.SIGKILL
        return self._code

    async def wait(self) -> int:
        """Wait for its end; return the exit code."""
        loop = asyncio.get_running_loop()
        while self.returncode is None:
            # Of its own, since several may wait at once: a file has one reader.
            file = os.dup(self._ended)
            readable = loop.create_future()
            loop.add_reader(file, lambda one=readable: one.done() or one.set_result(None))
            try:
                await readable
            finally:
                loop.remove_reader(file)
                os.close(file)
        assert self._code is not None
        return self._code

    def send_signal(self, number: int) -> None:
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Source:
    """The process that has imported vpt, started when the first fork is wanted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._near: socket.socket | None = None

    def fork(self, said: bytes, files: tuple[int, ...]) -> Forked:
        with self._lock:
            near = self._near = self._near or self._start()
            ended, end = os.pipe()
            rights = array.array("i", (*files, end))
            near.sendmsg([said], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            os.close(end)
            return Forked(_CODE.unpack(near.recv(_CODE.size))[0], ended)

    @staticmethod
    def _start() -> socket.socket:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.forks", str(far.fileno())]
        source = subprocess.Popen(command, cwd=ROOT, pass_fds=[far.fileno()])
        far.close()

        def end() -> None:
            near.close()
            source.wait()

        atexit.register(end)
        return near


_source = _Source()


def _can_fork(environment: dict[str, str]) -> bool:
    """Return whether these variables are read by vpt only, not at a start or an import."""
    early = {name for name in environment if name.startswith(("PYTHON", "SSL_"))} - {"PYTHONPATH"}
    path = environment.get("PYTHONPATH")
    known = all(environment.get(name) == os.environ.get(name) for name in ("LANG", "LC_ALL"))
    return hasattr(os, "pidfd_open") and not early and path == str(ROOT) and known


async def start(
    *args: str,
    env: dict[str, str],
    cwd: str | Path,
    stdout: IO[bytes],
    stderr: IO[bytes],
    stdin: IO[bytes] | None = None,
) -> Forked | asyncio.subprocess.Process:
    """Start `vpt` with these arguments and files, by a fork where that makes no difference."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    files = (nothing if stdin is None else stdin.fileno(), stdout.fileno(), stderr.fileno())
    try:
        if _can_fork(env):
            said = json.dumps({"args": args, "env": env, "cwd": str(cwd)}).encode()
            return await asyncio.to_thread(_source.fork, said, files)
        streams = dict(zip(("stdin", "stdout", "stderr"), files, strict=True))
        command = (sys.executable, "-m", "vpt", *args)
        return await asyncio.create_subprocess_exec(*command, env=env, cwd=cwd, **streams)
    finally:
        os.close(nothing)


# ---------------------------------------------------------------- in the process that forks


@dataclass(frozen=True)
class _Wanted:
    args: list[str]
    env: dict[str, str]
    cwd: str
    files: list[int]


def _serve(far: socket.socket) -> _Wanted | None:
    """Fork what is wanted until the tests end; return what a child has to do."""
    running: dict[int, tuple[int, int]] = {}  # by the pidfd: pid, and where its end is told
    with selectors.DefaultSelector() as selector:
        selector.register(far, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not far:
                    selector.unregister(key.fileobj)
                    _tell_end(key.fd, *running.pop(key.fd))
                    continue
                wanted = _receive(far)
                if wanted is None:
                    return None
                pid = os.fork()
                if pid == 0:
                    for file, (_, end) in running.items():
                        os.close(file)
                        os.close(end)
                    return wanted
                for one in wanted.files[:-1]:
                    os.close(one)
                file = os.pidfd_open(pid)
                running[file] = (pid, wanted.files[-1])
                selector.register(file, selectors.EVENT_READ)
                far.send(_CODE.pack(pid))


def _receive(far: socket.socket) -> _Wanted | None:
    said, files, _, _ = socket.recv_fds(far, _LARGEST, _FILES)
    return _Wanted(**json.loads(said), files=files) if said else None


def _tell_end(file: int, pid: int, end: int) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(file)
    with contextlib.suppress(BrokenPipeError):  # the test did not wait
        os.write(end, _CODE.pack(code))
    os.close(end)


def _become(wanted: _Wanted) -> None:
    """Make this process what was wanted, as Python would have started it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    *files, end = wanted.files
    os.close(end)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(wanted.cwd)
    os.environ.clear()
    os.environ.update(wanted.env)
    sys.argv[:] = [str(ROOT / "vpt" / "__main__.py"), *wanted.args]
    sys.stdin = _text(0, "r", "strict")
    sys.stdout = _text(1, "w", "strict")
    sys.stderr = _text(2, "w", "backslashreplace")
    for name, constant in _OF_A_PROCESS:
        module = sys.modules[name]
        setattr(module, constant, secrets.token_hex(len(getattr(module, constant)) // 2))


def _text(file: int, mode: str, errors: str) -> io.TextIOWrapper:
    opened: Any = open(file, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
    if mode == "w":
        opened.reconfigure(line_buffering=file == 2 or opened.isatty())
    return opened  # type: ignore[no-any-return]


def main() -> None:
    """Serve on the socket that was inherited; a child goes on as `vpt`."""
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    far = socket.socket(fileno=int(sys.argv[1]))
    wanted = _serve(far)
    far.close()
    if wanted is not None:
        _become(wanted)
        sys.modules["vpt.__main__"].main()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the tests
    main()
