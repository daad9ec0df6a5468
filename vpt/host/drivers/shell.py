"""Shell commands: the host's side of the supervisor, which runs them and ends all they started."""

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
import structlog

from vpt.host import shell_supervisor
from vpt.host.drivers.base import DriverError, OutputTail
from vpt.host.responses import Refusal

STOP_AGAIN_S = 0.5
DRAIN_S = 1
CHUNK = 64 * 1024
STOP = bytes(shell_supervisor.HEADER)

log = structlog.get_logger()


class SupervisorLostError(Exception):
    """The supervisor ended while a command ran; by then all that the command started is ended."""


@dataclass(slots=True)
class SupervisorProcess:
    """A started supervisor, and our end of its socket."""

    process: Process
    control: socket.socket
    _sending: asyncio.Lock = field(default_factory=asyncio.Lock)
    _received: bytearray = field(default_factory=bytearray)

    async def execute(self, command: str, folder: str, output: int) -> dict[str, Any]:
        """Run a command that prints to `output`; return the answer when nothing of it runs."""
        text = f"{folder}\0{command}".encode(errors="surrogateescape")
        try:
            async with self._sending:
                header = len(text).to_bytes(shell_supervisor.HEADER, "big")
                socket.send_fds(self.control, [header], [output])
                await asyncio.get_running_loop().sock_sendall(self.control, text)
            return await self._answer()
        except ConnectionError as error:
            raise SupervisorLostError from error

    async def ask_to_stop(self) -> None:
        """Ask for the end of the command, if one runs; can be repeated.

        A command may have frozen its supervisor and the guard, so they are woken up, too.
        """
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGCONT)
        async with self._sending:
            with suppress(BlockingIOError, ConnectionError):
                self.control.send(STOP)

    async def close(self) -> None:
        """End the supervisor, and what still runs below it."""
        self.control.close()
        await self.process.wait()

    async def _answer(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        while b"\n" not in self._received:
            chunk = await loop.sock_recv(self.control, CHUNK)
            if not chunk:
                raise SupervisorLostError
            self._received += chunk
        answer, _, rest = bytes(self._received).partition(b"\n")
        self._received[:] = rest
        fields: dict[str, Any] = orjson.loads(answer)
        return fields


class Shell:
    """Runs shell commands, one at a time."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Run commands with these variables and no others; start nothing yet."""
        self._environment = environment
        self._supervisor: SupervisorProcess | None = None
        self._running: asyncio.Task[int] | None = None

    async def run(self, command: str, folder: str, tail: OutputTail) -> int:
        """Run `bash -c command` in `folder`, add its output to `tail`, return the exit code.

        A command that was ended by a signal has its negative number.

        All that it started is ended, too. When this is cancelled, the command continues: call
        `stop`. Raises DriverError when the command cannot start, Refusal when the supervisor was
        killed.
        """
        self._running = asyncio.create_task(self._run(command, folder, tail), name="shell")
        return await asyncio.shield(self._running)

    async def stop(self) -> None:
        """End the last command; return when nothing that it started runs."""
        running = self._running
        while running is not None and not running.done():
            if self._supervisor is not None:
                await self._supervisor.ask_to_stop()
            await asyncio.wait({running}, timeout=STOP_AGAIN_S)

    async def close(self) -> None:
        """End the supervisor."""
        await self.stop()
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            await supervisor.close()

    async def _run(self, command: str, folder: str, tail: OutputTail) -> int:
        if self._supervisor is None:
            self._supervisor = await _start_supervisor(self._environment)
        try:
            answer = await _execute(self._supervisor, command, folder, tail)
        except SupervisorLostError:
            await self._supervisor.close()
            self._supervisor = None
            message = "the process that watches the command was killed; all it started is ended"
            raise Refusal(500, "driver_error", message) from None
        if "error" in answer:
            raise DriverError(f"the command did not start: {answer['error']}")
        if answer["left"]:
            log.warning("shell_processes_left", count=answer["left"], reason="another account's")
        return int(answer["code"])


async def _execute(
    supervisor: SupervisorProcess, command: str, folder: str, tail: OutputTail
) -> dict[str, Any]:
    read, write = os.pipe()
    try:
        output, pipe = await _reader(read)
    except BaseException:
        os.close(write)
        raise
    pump = asyncio.create_task(_pump(output, tail), name="shell-output")
    try:
        try:
            answer = await supervisor.execute(command, folder, write)
        finally:
            os.close(write)
        # A process of another account, which nobody here can end, may keep the pipe open.
        await asyncio.wait({pump}, timeout=DRAIN_S)
        return answer
    finally:
        pump.cancel()
        pipe.close()


async def _start_supervisor(environment: Mapping[str, str]) -> SupervisorProcess:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", shell_supervisor.__file__),
                stdin=theirs.fileno(),
                stdout=DEVNULL,
                stderr=DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
    return SupervisorProcess(process, ours)


async def _reader(descriptor: int) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    file = os.fdopen(descriptor, "rb", buffering=0)
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, file)
    return reader, pipe


async def _pump(reader: asyncio.StreamReader, tail: OutputTail) -> None:
    while chunk := await reader.read(CHUNK):
        tail.feed(chunk)
