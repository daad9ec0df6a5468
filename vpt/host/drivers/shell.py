"""Shell commands in process groups of their own, which can be ended for good."""

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress
from dataclasses import dataclass

import psutil

from vpt.host.drivers.base import Tail

TERM_S = 2
POLL_S = 0.02
DRAIN_S = 1
CHUNK = 64 * 1024

# Is told which group runs now; when the host is gone, however it died, ends that group.
WARDEN = 'g=0; while read -r n; do g=$n; done; [ "$g" -gt 1 ] && kill -KILL -- "-$g"'
# A command first tells the warden its group, so that there is no moment in which nobody knows it.
# It does not see the host's join token.
TELL = 'echo $$ >&{warden}; exec {warden}>&-; exec env -u HOST_JOIN_TOKEN bash -c "$1"'


@dataclass(frozen=True, slots=True)
class Running:
    """A command that was started, and the end of the pipe into which it prints."""

    process: Process
    output: asyncio.StreamReader
    pipe: asyncio.ReadTransport


@dataclass(frozen=True, slots=True)
class Warden:
    """The process that outlives the host, and the pipe by which it is told; the pipe is ours."""

    process: Process
    pipe: int


class Shell:
    """Runs one command at a time."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._starting: asyncio.Task[Running] | None = None
        self._warden: Warden | None = None

    async def run(self, command: str, tail: Tail) -> int:
        """Run `bash -c command` and feed its output to `tail`; the exit code (signals < 0).

        What the command leaves in its process group is ended too. When this is cancelled
        the command goes on: call `stop`.
        """
        if self._warden is None or self._warden.process.returncode is not None:
            await self._drop_warden()
            self._warden = await _start_warden()
        self._starting = asyncio.create_task(_start(command, self._warden.pipe), name="shell")
        running = await asyncio.shield(self._starting)
        pump = asyncio.create_task(_pump(running.output, tail), name="shell-output")
        try:
            code = await running.process.wait()
            await end_group(running.process.pid)
            # A daemon in a session of its own may hold the pipe open for ever.
            await asyncio.wait({pump}, timeout=DRAIN_S)
        finally:
            pump.cancel()
        await self.stop()
        return code

    async def stop(self) -> None:
        """Return when nothing of the last command runs any more."""
        if self._starting is None:
            return
        await asyncio.wait({self._starting})
        if self._starting.exception() is None:
            running = self._starting.result()
            await end_group(running.process.pid)
            await running.process.wait()
            running.pipe.close()
        self._starting = None
        if self._warden is not None:
            with suppress(BrokenPipeError):
                os.write(self._warden.pipe, b"0\n")

    async def close(self) -> None:
        """End the warden."""
        await self.stop()
        await self._drop_warden()

    async def _drop_warden(self) -> None:
        warden, self._warden = self._warden, None
        if warden is not None:
            os.close(warden.pipe)
            await warden.process.wait()


async def _start_warden() -> Warden:
    read, write = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", WARDEN),
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
    return Warden(process, write)


async def _start(command: str, warden: int) -> Running:
    """Start it; the pipe for its output is our own, so that waiting for the exit is only that."""
    words = ("bash", "-c", TELL.format(warden=warden), "bash", command)
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
                pass_fds=(warden,),
            )
        except BaseException:
            pipe.close()
            raise
    finally:
        os.close(write)
    return Running(process, output, pipe)


async def _reader(descriptor: int) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    file = os.fdopen(descriptor, "rb", buffering=0)
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, file)
    return reader, pipe


async def _pump(reader: asyncio.StreamReader, tail: Tail) -> None:
    while chunk := await reader.read(CHUNK):
        tail.feed(chunk)


async def end_group(group: int) -> None:
    """End a process group, kindly for two seconds and then by force; returns when it is gone."""
    for number, patience in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while group_lives(group):  # noqa: ASYNC110 (nobody tells when a group is gone)
                    await asyncio.sleep(POLL_S)
                return


def group_lives(group: int) -> bool:
    """Whether a process of this group still runs; zombies do not."""
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
