"""The command line as in CI: a separate process, whose output and exit code are checked."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import IO, Any
from urllib.parse import urlsplit

from tests.actors.fake_host import until
from tests.forks import Forked, start
from tests.system.kit import ROOT, environment

_STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_TIME = re.compile(r"^\d\d:\d\d:\d\d ", re.MULTILINE)


@dataclass
class Cli:
    """Runs `vpt` for one server and one token."""

    url: str
    token: str
    settings: dict[str, str] = field(default_factory=dict)

    def environment(self, **more: Any) -> dict[str, str]:
        """Return the environment: server and token, and no setting of this machine."""
        where = {"PYTHONPATH": ROOT, "VPT_SERVER": self.url, "VPT_TOKEN": self.token}
        return environment(**where, **self.settings, **more)

    async def __call__(self, *args: object, said: str = "") -> Ended:
        """Run `vpt` to its end; `said` is its standard input."""
        async with self.under_way(*args, said=said) as running:
            return await running.ended()

    @asynccontextmanager
    async def under_way(self, *args: object, said: str = "") -> AsyncIterator[RunningCommand]:
        """Run `vpt`, and kill it at the end if it still runs."""
        running = await RunningCommand.start(self.environment(), said, *map(str, args))
        try:
            yield running
        finally:
            await running.gone()


@dataclass
class Ended:
    """The output and the exit code of a command."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of its output, without the times of day."""
        return _TIME.sub("", self.out).splitlines()


class RunningCommand:
    """A command that still runs."""

    def __init__(
        self,
        child: Forked | asyncio.subprocess.Process,
        out: asyncio.StreamReader,
        err: asyncio.StreamReader,
    ) -> None:
        self._child = child
        self.out, self.err = b"", b""
        self._readers = [
            asyncio.create_task(self._read("out", out)),
            asyncio.create_task(self._read("err", err)),
        ]

    @classmethod
    async def start(cls, environment: dict[str, str], said: str, *args: str) -> RunningCommand:
        """Start `vpt` in a folder without .env; `said` is its standard input."""
        out, stdout = await _pipe()
        err, stderr = await _pipe()
        with tempfile.TemporaryFile() as stdin, stdout, stderr:
            stdin.write(said.encode())
            stdin.seek(0)
            files = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
            child = await start(*args, env=environment, cwd="/", **files)
        return cls(child, out, err)

    async def _read(self, name: str, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(65536):
            setattr(self, name, getattr(self, name) + data)

    async def says(self, words: str) -> None:
        """Wait until it has printed that."""
        await until(
            lambda: words.encode() in self.out + self.err or self._child.returncode is not None
        )
        assert words.encode() in self.out + self.err, (self.out + self.err).decode()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self._child.pid, number)

    async def ended(self) -> Ended:
        async with asyncio.timeout(30):
            await asyncio.gather(*self._readers)
            code = await self._child.wait()
        assert "Traceback" not in self.err.decode(), self.err.decode()
        return Ended(code, self.out.decode(), self.err.decode())

    async def gone(self) -> None:
        if self._child.returncode is None:
            self._child.kill()
        await self._child.wait()
        await asyncio.gather(*self._readers)


async def _pipe() -> tuple[asyncio.StreamReader, IO[bytes]]:
    """Return the two ends of a pipe: one to read from here, and one for a process."""
    near, far = os.pipe()
    stream = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(near, "rb", buffering=0)
    )
    return stream, os.fdopen(far, "wb")


class Scissors:
    """A proxy that loses the first responses to some requests, and records all requests."""

    def __init__(self, url: str, *, cuts: str, times: int, refuses: str = "nothing") -> None:
        """Lose `times` responses to requests that start with `cuts`; refuse `refuses`."""
        self._far = urlsplit(url)
        self._cuts, self._times, self._refuses = cuts.encode(), times, refuses.encode()
        self._server: asyncio.Server | None = None
        self.url = ""
        self.carried: list[bytes] = []
        self._carriers: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Scissors:
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await asyncio.gather(*self._carriers)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._carriers.add(asyncio.create_task(self._carry(reader, writer)))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._far.hostname, self._far.port)
        back = asyncio.create_task(self._pump(far_reader, writer))
        try:
            while asked := await self._read(reader):
                self.carried.append(asked)
                if self._refuses in asked.split(b"\r\n")[0]:
                    return
                lost = asked.startswith(self._cuts) and self._times > 0
                if lost:
                    self._times -= 1
                    back.cancel()
                    await asyncio.wait({back})
                far_writer.write(asked)
                if lost:
                    assert b" 202 " in await far_reader.readline(), "it was accepted"
                    return
        finally:
            for one in (writer, far_writer):
                one.transport.abort()
                with contextlib.suppress(OSError):
                    await one.wait_closed()
            await asyncio.wait({back})

    @classmethod
    async def _pump(cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await cls._read(reader):
            writer.write(data)
        writer.close()

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> bytes:
        """Return the next bytes, or none at the end; a broken connection is an end, too."""
        try:
            return await reader.read(65536)
        except OSError:
            return b""


class Terminal:
    """A person at a terminal, who reads the screen, types, and presses Ctrl-C."""

    def __init__(self, cli: Cli, *args: object, columns: int = 120) -> None:
        self._far, near = os.openpty()
        os.set_blocking(self._far, False)
        fcntl.ioctl(near, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.drawn, self.steered = "", ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._child = subprocess.Popen(
            [sys.executable, "-m", "vpt", *map(str, args)],
            env=cli.environment(TERM="xterm"),
            cwd="/",
            stdin=near,
            stdout=near,
            stderr=near,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 (one call)
        )
        os.close(near)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        os.close(self._far)

    def _look(self) -> None:
        with contextlib.suppress(OSError):  # nothing new, or the command is over
            while data := os.read(self._far, 65536):
                self.steered += self._decoder.decode(data)  # a character may come in two pieces
                self.drawn = _STEERING.sub("", self.steered)

    async def shows(self, words: str, limit_s: float = 15) -> None:
        """Wait until the text was drawn, after the last key."""

        def shown() -> bool:
            self._look()
            return words in self.drawn or self._child.poll() is not None

        await until(shown, limit_s)
        self._look()
        assert words in self.drawn, self.drawn

    def types(self, keys: str) -> None:
        self.drawn, self.steered = "", ""
        os.write(self._far, keys.encode())

    async def ended(self, limit_s: float = 15) -> int:
        """Wait for its end and return its exit code."""

        def over() -> bool:
            self._look()
            return self._child.poll() is not None

        await until(over, limit_s)
        self._look()
        assert "Traceback" not in self.drawn, self.drawn
        return self._child.returncode
