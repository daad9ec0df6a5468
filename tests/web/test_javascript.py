"""The socket.io-client of npm, in Node: signing in, order, and a replay after a cut connection."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.actors.fake_host import FakeHost, Gate, passes, until
from tests.conftest import JOIN_TOKEN, Client, token
from tests.web.kit import Json, got, made, test_case
from tests.web.test_asyncapi import payload
from vpt.model import Role
from vpt.web import pages

SOCKETS_PAGE = Path(__file__).parents[2] / "docs" / "sockets.md"
FOLLOW = Path(__file__).with_name("follow.mjs")
CLIENT = Path(pages.__file__).parent / "console" / "vendor" / "socket.io.esm.min.js"
NODE = shutil.which("node")
WEB_SOCKET = "--experimental-websocket"  # in 20 it has to be asked for, before there is none


def transports() -> list[tuple[str, ...]]:
    """Return what this Node can do, with the options that it takes."""
    if NODE is None:
        return []
    for options in ((), (WEB_SOCKET,)):
        ask = (NODE, *options, "-p", "typeof WebSocket")
        asked = subprocess.run(ask, capture_output=True, check=False)
        if asked.stdout.strip() == b"function":
            return [("polling",), ("websocket", *options)]
    return [("polling",)]


class Line:
    """A TCP line to the server that can be cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Break what is connected, and refuse what comes."""
        assert self._server is not None
        self._server.close()
        for end in tuple(self._ends):
            end.transport.abort()
        await until(lambda: not self._ends)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        ends = {writer, far_writer}
        self._ends |= ends
        await asyncio.gather(_pour(reader, far_writer), _pour(far_reader, writer))
        self._ends -= ends


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


class Follower:
    """A Node that follows an execution; what it says comes as it is said."""

    def __init__(self) -> None:
        self.said: list[Json] = []

    def events(self) -> list[Json]:
        return [item["event"] for item in self.said if "event" in item]

    def count(self, word: str) -> int:
        return sum(word in item for item in self.said)

    async def listen(self, output: asyncio.StreamReader) -> None:
        async for line in output:
            self.said.append(json.loads(line))


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the URL of our copy of the client under a name that every Node takes for a module."""
    copy = tmp_path_factory.mktemp("client") / "socket.io.mjs"
    shutil.copyfile(CLIENT, copy)
    return copy.as_uri()


@asynccontextmanager
async def following(options: tuple[str, ...], *args: str) -> AsyncIterator[Follower]:
    """Run it until it ends by itself, with the execution."""
    assert NODE is not None
    child = await asyncio.create_subprocess_exec(
        *(NODE, *options, str(FOLLOW), *args), stdout=asyncio.subprocess.PIPE
    )
    one = Follower()
    assert child.stdout is not None
    listening = asyncio.create_task(one.listen(child.stdout))
    try:
        yield one
        assert await asyncio.wait_for(child.wait(), 10) == 0
        await listening
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
        listening.cancel()


async def tried_example(library: str, url: str, execution: str) -> str:
    """Run the example of the document with our copy of the client; give what it says."""
    assert NODE is not None
    code = SOCKETS_PAGE.read_text(encoding="utf-8").split("```js\n")[1].split("```")[0]
    code = code.replace('{ io } from "socket.io-client"', f'{{ io, Fetch }} from "{library}"')
    code = code.replace("{ auth: { token } }", "{ auth: { token }, transports: [Fetch] }")
    child = await asyncio.create_subprocess_exec(
        *(NODE, "--input-type=module", "-", url, token(Role.VIEWER), execution),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(child.communicate(code.encode()), 10)
    assert child.returncode == 0
    return said.decode()


@asynccontextmanager
async def joined(operator: Client) -> AsyncIterator[FakeHost]:
    host = FakeHost("tvs", ("tv1",))
    await host.appear()
    card: dict[str, Any] = {
        "host_name": host.name,
        "host_url": host.url,
        "devices": [{"device_id": "tv1", "name": "tv1", "model": "pixel"}],
        "protocol": {"idempotency": True, "cancel": True},
    }
    headers = {"Authorization": f"Bearer {JOIN_TOKEN}"}
    response = await operator.post("/api/hosts/register", json=card, headers=headers)
    assert response.status == 200, await response.text()
    yield host
    await host.close()


@pytest.mark.skipif(NODE is None, reason="needs Node")
@pytest.mark.parametrize(("transport", "options"), [(one, rest) for one, *rest in transports()])
async def test_a_javascript_client_misses_nothing_when_its_connection_is_cut(
    operator: Client, library: str, transport: str, options: tuple[str, ...]
) -> None:
    first, second = Gate(), Gate()
    async with joined(operator) as host:
        host.on("quick", passes())
        host.on("first", first.held())
        host.on("second", second.held())
        words = ("quick", "quick", "first", "quick", "quick", "second", "quick")
        case = await made(
            operator, "/api/testcases", test_case(steps=[{"command": word} for word in words])
        )
        run = (await made(operator, f"/api/testcases/{case['id']}/execute", {}))["execution_id"]
        await first.reached()

        line = Line(operator.port or 0)
        await line.open()
        url = f"http://127.0.0.1:{line.port}"
        async with following(options, library, url, transport, token(Role.VIEWER), run) as node:
            await until(lambda: len(node.events()) == 3)
            await until(lambda: node.count("answer") == 1)  # it comes after the events
            await line.cut()
            await until(lambda: node.count("disconnected"))
            first.open()
            await second.reached()
            assert len(node.events()) == 3
            await line.open()
            await until(lambda: len(node.events()) == 6)
            await until(lambda: node.count("answer") == 2)
            second.open()
        await line.cut()

        execution = await got(operator, f"/api/executions/{run}")
        example = await tried_example(library, str(operator.make_url("/")), run)
        unknown = await tried_example(library, str(operator.make_url("/")), "no such")
        document = await got(operator, "/api/asyncapi.json")
    assert execution["status"] == "completed"
    steps = [f"step {n} of {len(words)}: passed" for n in range(1, len(words) + 1)]
    assert example.splitlines()[1:-1] == steps
    assert unknown == "There is no such execution.\n"
    assert [item["refused"] for item in node.said if "refused" in item] == [
        "No token provided",
        "Invalid token",
    ]
    events = node.events()
    assert [event["seq"] for event in events] == list(range(1, len(words) + 3))
    assert [event["step"] for event in events[1:-1]] == list(range(1, len(words) + 1))
    assert events[-1]["status"] == "completed"
    for event in events:
        payload(document, "test_progress").validate(event)
    answers = [item["answer"] for item in node.said if "answer" in item]
    assert answers == [{"ok": True, "seq": 3}, {"ok": True, "seq": 6}]
    for number, answer in enumerate(item for item in node.said if "answer" in item):
        told = node.said[: node.said.index(answer)]
        assert sum("event" in item for item in told) == (3, 6)[number]  # first the replay
