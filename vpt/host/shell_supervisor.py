"""The process that runs the shell commands of one device, and ends all that they started.

It is a script of its own, `python -I -S shell_supervisor.py` with a socket as standard input, and
imports only the standard library: it starts fast and stays small on a small machine.

On Linux it is a child subreaper: a process whose parent has ended becomes its child, in whatever
session or process group it is. So all that a command started is below this process, and is ended
by ending children until none is left. Elsewhere only the command's process group is ended.

There are two of these processes, since a command may kill its parent. Above the supervisor, which
runs the commands, is the guard: when the supervisor ends, what it had below it becomes the
guard's and is ended there. When the guard is killed, the supervisor notices and ends everything.

The socket carries requests, each a length in four bytes: 0 stops the command; otherwise that many
bytes follow, the folder and the command with a NUL between them, and the descriptor of its output
comes with the length. The answer to a
command is one line of JSON, sent when nothing of the command runs any more: `{"code", "left"}`,
with the exit code (a signal is negative) and the number of processes that could not be ended since
they belong to another account, or `{"error"}` when the command did not start. The end of the
socket ends everything: the host has ended.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

TERM_S = 2
POLL_S = 0.02
#: While it kills, it looks this often without a pause: faster than a process that forks and ends.
EAGER_ROUNDS = 2000
HEADER = 4

LINUX = sys.platform.startswith("linux")
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36


def prctl(option: int, value: int) -> bool:
    """Set a property of this process; return False where the system has no such property."""
    try:
        if not LINUX:
            return False
        import ctypes  # noqa: PLC0415 (a small Python may be built without)

        return bool(ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def forbid_inspection() -> bool:
    """Close this process's memory and environment to other processes of the account; Linux only.

    They cannot read /proc/PID/environ nor attach a debugger any more. Return False elsewhere.
    """
    return prctl(PR_SET_DUMPABLE, 0)


class Children:
    """The children of this process, which on Linux are in the end all of its descendants."""

    def __init__(self) -> None:
        """Know nothing yet."""
        #: The exit code of the command, once it has ended.
        self.code: int | None = None
        self.command: int | None = None

    def start(self, command: str, folder: str, output: int) -> None:
        """Start `bash -c command` in a session of its own; raise OSError when that fails."""
        self.code = self.command = None
        process = subprocess.Popen(  # noqa: S603 (to run commands is what it is for)
            ["bash", "-c", command],  # noqa: S607 (the bash of this host's PATH)
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        process.returncode = 0  # `reap` waits for it, not Popen
        self.command = process.pid

    def reap(self) -> None:
        """Collect the exit codes of children that have ended."""
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self.command and self.code is None:
                    self.code = os.waitstatus_to_exitcode(status)

    def living(self) -> set[int]:
        """Return the ids of children that run."""
        self.reap()
        if LINUX:
            return set(_children())
        return {self.command} if self.command and _signal(-self.command, 0) else set()

    def end(self, patience_s: float) -> int:
        """End them by SIGTERM, after `patience_s` by SIGKILL; return how many cannot be ended.

        Only children are signalled, since the id of a child stays its own until it is reaped here.
        What is below them becomes a child when its parent has ended.
        """
        kill_from = time.monotonic() + patience_s
        asked: set[int] = set()
        rounds = 0
        while children := self.living():
            late = time.monotonic() >= kill_from
            number = signal.SIGKILL if late else signal.SIGTERM
            # Two calls each: all are to be signalled, the first refusal must not stop the others.
            refused = {pid for pid in children - asked if not _end_group(pid, number)}
            if refused == children:
                return len(refused)
            asked = set() if late else asked | children - refused
            rounds += late
            time.sleep(0 if late and rounds < EAGER_ROUNDS else POLL_S)
        return 0


def _children() -> Iterator[int]:
    """Yield the ids of this process's children; /proc has a list of them on most kernels."""
    own = os.getpid()
    try:
        yield from map(int, Path(f"/proc/{own}/task/{own}/children").read_text("ascii").split())
    except FileNotFoundError:
        numbers = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())
        yield from (pid for pid in numbers if _is_child(pid, own))


def _is_child(pid: int, parent: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
        # The name before the last bracket may hold anything; after it: state, parent.
        return int(stat.rpartition(")")[2].split()[1]) == parent
    except (OSError, IndexError, ValueError):
        return False


def _end_group(pid: int, number: int) -> bool:
    """Signal a child and its process group; return False when it belongs to another account."""
    try:
        group = os.getpgid(pid)
    except ProcessLookupError:
        group = pid
    if group != os.getpgrp():  # a child that has not left our group yet
        _signal(-group, number)
    return _signal(pid, number)


def _signal(target: int, number: int) -> bool:
    try:
        os.kill(target, number)
    except PermissionError:
        return False
    except ProcessLookupError:
        return number != 0
    return True


class ShellSupervisor:
    """Runs the commands that come by `control`, one at a time, until the host or the guard ends."""

    def __init__(self, control: socket.socket, guard: int) -> None:
        """Prepare to be woken up when a child ends, and when `guard` does."""
        self._control = control
        self._guard = guard
        self._children = Children()
        self._running = False
        self._woken, wake = os.pipe()
        for end in (self._woken, wake):
            os.set_blocking(end, False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    def serve(self) -> None:
        """Run commands; end what runs when the host has ended or the guard was killed."""
        going = True
        while going and os.getppid() == self._guard:
            ready, _, _ = select.select([self._control.fileno(), self._woken], [], [])
            self._look_for_the_end()
            going = self._control.fileno() not in ready or self._serve_one()
        self._children.end(0)

    def _look_for_the_end(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._woken, 4096)
        self._children.reap()
        if self._running and self._children.code is not None:
            self._finish()

    def _serve_one(self) -> bool:
        """Carry out one request; return False when the host has ended."""
        header, outputs, _, _ = socket.recv_fds(self._control, HEADER, 1)
        try:
            command = self._receive(int.from_bytes(header, "big")) if header else None
            if command is None:
                return False
            if command:
                self._start(command.decode(errors="surrogateescape"), outputs[0])
            elif self._running:
                self._finish()
        finally:
            for output in outputs:
                os.close(output)
        return True

    def _receive(self, length: int) -> bytes | None:
        """Return so many bytes, or None when the socket ends before."""
        received = bytearray()
        while len(received) < length:
            chunk = self._control.recv(min(length - len(received), 65536))
            if not chunk:
                return None
            received += chunk
        return bytes(received)

    def _start(self, request: str, output: int) -> None:
        folder, _, command = request.partition("\0")
        try:
            self._children.start(command, folder, output)
            self._running = True
        except OSError as error:
            self._answer({"error": f"{error.strerror}: {error.filename}"})
        except ValueError as error:
            self._answer({"error": str(error)})

    def _finish(self) -> None:
        """End what the command left behind, then answer."""
        self._running = False
        left = self._children.end(TERM_S)
        self._answer({"code": self._children.code, "left": left})

    def _answer(self, fields: dict[str, object]) -> None:
        with suppress(OSError):
            self._control.sendall(json.dumps(fields).encode() + b"\n")


def guard(supervisor: int) -> None:
    """Wait for the end of the supervisor, however it came, and end what it left behind.

    A command may also freeze the supervisor, which then would not notice the end of the host.
    """
    with suppress(ChildProcessError):
        while os.WIFSTOPPED(os.waitpid(supervisor, os.WUNTRACED)[1]):
            os.kill(supervisor, signal.SIGCONT)
    Children().end(0)


def main() -> None:
    """Become guard and supervisor; the socket ends with both, so its end means that all is gone."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    forbid_inspection()
    control = socket.socket(fileno=os.dup(0))
    own = os.getpid()
    supervisor = os.fork()
    if supervisor:
        guard(supervisor)
    else:
        prctl(PR_SET_CHILD_SUBREAPER, 1)  # not inherited by a fork
        ShellSupervisor(control, own).serve()


if __name__ == "__main__":
    main()
