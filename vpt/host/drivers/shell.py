"""Shell commands, each in its own process group, so that all its processes can be ended."""

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress
from dataclasses import dataclass

import psutil

from vpt.host.drivers.base import OutputTail

TERM_S = 2
POLL_S = 0.02
DRAIN_S = 1
CHUNK = 64 * 1024

# Reads the number of the running group; when the host dies, however, its pipe closes and the
# watchdog ends that group.
WATCHDOG = 'g=0; while read -r n; do g=$n; done; [ "$g" -gt 1 ] && kill -KILL -- "-$g"'
# A command first writes its own group to the watchdog, so that it never runs unwatched. The host's
# join token is removed from its environment.
RUN = 'echo $$ >&{watchdog}; exec {watchdog}>&-; exec env -u HOST_JOIN_TOKEN bash -c "$1"'


@dataclass(frozen=True, slots=True)
class ShellProcess:
    """A started command, and the pipe to which it prints."""

    process: Process
    output: asyncio.StreamReader
    pipe: asyncio.ReadTransport


@dataclass(frozen=True, slots=True)
class Watchdog:
    """The process that outlives the host, and our end of the pipe that it reads."""

    process: Process
    pipe: int


class Shell:
    """Runs shell commands, one at a time."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._starting: asyncio.Task[ShellProcess] | None = None
        self._watchdog: Watchdog | None = None

    async def run(self, command: str, tail: OutputTail) -> int:
        """Run `bash -c command`, add its output to `tail`, and return the exit code (signals < 0).

        Background processes in its group are ended, too. When this is cancelled, the command
        continues: call `stop`.
        """
        if self._watchdog is None or self._watchdog.process.returncode is not None:
            await self._drop_watchdog()
            self._watchdog = await _start_watchdog()
        self._starting = asyncio.create_task(_start(command, self._watchdog.pipe), name="shell")
        shell = await asyncio.shield(self._starting)
        pump = asyncio.create_task(_pump(shell.output, tail), name="shell-output")
        try:
            code = await shell.process.wait()
            await end_group(shell.process.pid)
            # A daemon in its own session may keep the pipe open for ever.
            await asyncio.wait({pump}, timeout=DRAIN_S)
        finally:
            pump.cancel()
        await self.stop()
        return code

    async def stop(self) -> None:
        """End the last command; return when none of its processes runs."""
        if self._starting is None:
            return
        await asyncio.wait({self._starting})
        if self._starting.exception() is None:
            shell = self._starting.result()
            await end_group(shell.process.pid)
            await shell.process.wait()
            shell.pipe.close()
        self._starting = None
        if self._watchdog is not None:
            with suppress(BrokenPipeError):
                os.write(self._watchdog.pipe, b"0\n")

    async def close(self) -> None:
        """End the watchdog."""
        await self.stop()
        await self._drop_watchdog()

    async def _drop_watchdog(self) -> None:
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            os.close(watchdog.pipe)
            await watchdog.process.wait()


async def _start_watchdog() -> Watchdog:
    read, write = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", WATCHDOG),
            stdin=read,
            stdout=DEVNULL,
            stderr=DEVNULL,
            start_new_session=True,
        )
    except BaseException:
        os.close(write)
        raise
    finally:
        os.close(read)
    return Watchdog(process, write)


async def _start(command: str, watchdog: int) -> ShellProcess:
    """Start a command with our own output pipe: asyncio's may delay the exit until it closes."""
    words = ("bash", "-c", RUN.format(watchdog=watchdog), "bash", command)
    read, write = os.pipe()
    try:
        output, pipe = await _reader(read)
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=DEVNULL,
                stdout=write,
                stderr=write,
                start_new_session=True,
                pass_fds=(watchdog,),
            )
        except BaseException:
            pipe.close()
            raise
    finally:
        os.close(write)
    return ShellProcess(process, output, pipe)


async def _reader(descriptor: int) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    file = os.fdopen(descriptor, "rb", buffering=0)
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, file)
    return reader, pipe


async def _pump(reader: asyncio.StreamReader, tail: OutputTail) -> None:
    while chunk := await reader.read(CHUNK):
        tail.feed(chunk)


async def end_group(group: int) -> None:
    """End a process group by SIGTERM, after two seconds by SIGKILL; return when it has ended."""
    for number, patience in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while group_lives(group):  # noqa: ASYNC110 (no event tells it)
                    await asyncio.sleep(POLL_S)
                return


def group_lives(group: int) -> bool:
    """Return True when a process of this group still runs; zombies do not count."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return any(_runs_in(process, group) for process in psutil.pids())


def _runs_in(process: int, group: int) -> bool:
    try:
        return (
            os.getpgid(process) == group
            and psutil.Process(process).status() != psutil.STATUS_ZOMBIE
        )
    except (ProcessLookupError, PermissionError, psutil.Error):
        return False
