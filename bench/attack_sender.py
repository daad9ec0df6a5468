"""The attacker, in its own process: a job as JSON on stdin, a list of what it did on stdout.

A job has a `kind` (a function below), the attacked `port` and `pid`, and what the kind needs. Each
item of the list says `name`, `answers` (how often which status), `began` and `ended` (seconds of
the machine's monotonic clock), `bytes` that were sent or asked for, `connections`, and `growth` of
the attacked process's memory. An attacker is usually another machine, so this process leaves the
processor to all others.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, fields
from typing import Any

import uvloop
from attack_process import Memory, prefer
from load import Load
from shapes import MIB, body

#: The attacker's address: another one than the prober's.
SOURCE = "127.0.0.2"
NO_ANSWER = "no answer"
ACCEPTED = 202
_PIECE = 256 * 1024
_SMALL = 4096  # bytes that a slow reader's machine takes in advance
_ANSWER_S = 120.0  # seconds for an answer
_DROP_S, _PARTS = 1.0, 20  # seconds between two drops of a slow sender; not all send at once

Job = dict[str, Any]


@dataclass(slots=True)
class Item:
    """One thing that was done, and what came of it."""

    name: str
    bytes: int
    connections: int = 1
    answers: Counter[str] = field(default_factory=Counter)
    began: float = 0.0
    ended: float = 0.0
    growth: int = 0


@contextlib.asynccontextmanager
async def measured(job: Job, item: Item) -> AsyncIterator[Item]:
    """Measure time and memory of what is done meanwhile."""
    memory = Memory(job["pid"])
    memory.begin()
    item.began = time.monotonic()
    yield item
    item.ended = time.monotonic()
    item.growth = memory.growth()


async def connect(job: Job) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect from the attacker's address; what is not read stays in the system's buffers."""
    return await asyncio.open_connection(
        "127.0.0.1", job["port"], local_addr=(SOURCE, 0), limit=_PIECE
    )


def head(job: Job, method: str, path: str, length: int | None) -> bytes:
    """Return the head of a request with a body of `length` bytes, None: of unknown length."""
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    token = f"Authorization: Bearer {job['token']}\r\n" if job.get("token") else ""
    return (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{token}"
        f"Content-Type: application/json\r\nConnection: close\r\n{size}\r\n\r\n"
    ).encode()


async def ask(job: Job, method: str, path: str, data: bytes = b"", *, chunked: bool = False) -> str:
    """Send a request and return the status of its answer."""
    try:
        reader, writer = await connect(job)
    except OSError:
        return NO_ANSWER
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(head(job, method, path, None if chunked else len(data)))
            for start in range(0, len(data), _PIECE):
                piece = data[start : start + _PIECE]
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                await writer.drain()
            if chunked:
                writer.write(b"0\r\n\r\n")
        async with asyncio.timeout(_ANSWER_S):
            return (await reader.readexactly(12))[9:].decode()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return NO_ANSWER
    finally:
        writer.transport.abort()


# ---------------------------------------------------------------- kinds of jobs


async def bodies(job: Job) -> list[Item]:
    """Send a body of each of `shapes`, `together` at once."""
    items = []
    size = int(job["mib"] * MIB) - 100
    for shape in job["shapes"]:
        data = body(shape, size, job["head"].encode(), job["tail"].encode())
        times = job["together"]
        async with measured(job, Item(shape, size * times, times)) as item:
            asked = [
                ask(job, "POST", job["path"], data, chunked=job["chunked"]) for _ in range(times)
            ]
            item.answers.update(await asyncio.gather(*asked))
        items.append(item)
    return items


async def requests(job: Job) -> list[Item]:
    """Send each of `requests` (name, method, path, body, bytes that it leads to), one by one."""
    items = []
    for name, method, path, data, size in job["requests"]:
        async with measured(job, Item(name, size)) as item:
            item.answers[await ask(job, method, path, data.encode())] += 1
        items.append(item)
    return items


async def executions(job: Job) -> list[Item]:
    """Run a test case on each of `devices` (name, id, bytes), one by one, to its end."""
    import aiohttp  # noqa: PLC0415 (takes longer than some attacks)

    items = []
    headers = {"Authorization": f"Bearer {job['token']}"}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{job['port']}", headers=headers) as session:
        for name, device, size in job["devices"]:
            async with measured(job, Item(name, size)) as item:
                item.answers[await _run(session, job, device)] += 1
            items.append(item)
    return items


async def _run(session: Any, job: Job, device: str) -> str:
    async with session.post(job["path"], json={"device_id": device}) as response:
        answer = await response.json()
        if response.status != ACCEPTED:
            return str(response.status)
    path = f"/api/executions/{answer['execution_id']}"
    async with session.get(f"{path}?wait={job['wait']}") as response:
        told = await response.json()
    if told["completed_at"] is None:
        await session.post(f"{path}/cancel")
    return f"{told['status']} {told['error_kind'] or ''}".strip()


async def all_at_once(job: Job) -> list[Item]:
    """Send all of `requests` at once."""
    size = sum(one[4] for one in job["requests"])
    async with measured(job, Item(job["name"], size, len(job["requests"]))) as item:
        asked = [ask(job, one[1], one[2], one[3].encode()) for one in job["requests"]]
        item.answers.update(await asyncio.gather(*asked))
    return [item]


async def silent(job: Job) -> list[Item]:
    """Hold `count` connections for `seconds`, each of which sent `first`, and drips `drop`."""
    first, drop = job["first"].encode(), job["drop"].encode()
    item = Item(job["name"], len(first) * job["count"], job["count"])
    async with measured(job, item):
        held = [await _begun(job, first) for _ in range(job["count"])]
        until = time.monotonic() + job["seconds"]
        number = 0
        while time.monotonic() < until:
            await asyncio.sleep(_DROP_S / _PARTS)
            number += 1
            for _, writer in held[number % _PARTS :: _PARTS] if drop else ():
                if not writer.is_closing():
                    writer.write(drop)
        asked = [await ask(job, "GET", "/api/health/live") for _ in range(job["askers"])]
        item.answers.update(asked)
    item.answers["still open"] = sum(not _is_over(*one) for one in held)
    for _, writer in held:
        writer.transport.abort()
    return [item]


async def _begun(job: Job, first: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await connect(job)
    with contextlib.suppress(OSError):
        writer.write(first)
    return reader, writer


def _is_over(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    return reader.at_eof() or reader.exception() is not None or writer.is_closing()


async def readers(job: Job) -> list[Item]:
    """Ask for `path` over `count` connections, and read `drip` bytes a second of each answer."""
    item = Item(job["name"], job["answer"] * job["count"], job["count"])
    async with measured(job, item):
        held = [await _unread(job) for _ in range(job["count"])]
        until = time.monotonic() + job["seconds"]
        while time.monotonic() < until:
            await asyncio.sleep(1)
            for reader, _ in held:
                with contextlib.suppress(OSError, asyncio.TimeoutError):
                    async with asyncio.timeout(1):
                        await reader.read(job["drip"])
    for _, writer in held:
        writer.transport.abort()
    return [item]


async def _unread(job: Job) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL)  # or the system reads it all
    one.bind((SOURCE, 0))
    one.setblocking(False)
    await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", job["port"]))
    reader, writer = await asyncio.open_connection(sock=one, limit=_SMALL)
    writer.write(head(job, "GET", job["path"], 0))
    return reader, writer


class Flood(Load):
    """Connections that ask again and again for what is refused."""

    def __init__(self, job: Job) -> None:
        super().__init__(job | {"expect": "", "warmup": 0, "pids": {}})
        self.answers: Counter[str] = Counter()

    def answered(self, status: int, body: bytes, seconds: float) -> None:  # noqa: ARG002
        """Count a refusal."""
        self.answers[str(status)] += 1

    def fail(self, what: str) -> None:
        """Count a connection that was not served."""
        self.answers[what] += 1


async def flood(job: Job) -> list[Item]:
    """Ask for what is refused for `seconds`, over a connection for each of `requests`."""
    loads = [Flood(job | one) for one in job["floods"]]
    count = sum(len(one["requests"]) for one in job["floods"])
    async with measured(job, Item(job["name"], 0, count)) as item:
        for load in loads:
            load.begin()
        await asyncio.sleep(job["seconds"])
        for load in loads:
            load.end()
            item.answers.update(load.answers)
    return [item]


async def wait(job: Job) -> list[Item]:
    """Do nothing: what was set up before, attacks by itself."""
    async with measured(job, Item(job["name"], job["bytes"], job["connections"])) as item:
        await asyncio.sleep(job["seconds"])
    return [item]


KINDS: dict[str, Callable[[Job], Awaitable[list[Item]]]] = {
    kind.__name__: kind
    for kind in (bodies, requests, all_at_once, silent, readers, flood, wait, executions)
}


async def _main() -> list[Job]:
    job = json.load(sys.stdin)
    items = await KINDS[job["kind"]](job)
    return [{told.name: getattr(item, told.name) for told in fields(item)} for item in items]


if __name__ == "__main__":
    prefer(os.getpid(), 5)
    print(json.dumps(uvloop.run(_main())))
