"""The prober, in its own process: how long others wait for an answer while something is attacked.

A job as JSON on stdin: `{"targets": {NAME: [port, path, token, pid]}, "pause": seconds}`. Each
target is asked again and again, over a new connection each time, as somebody who just comes has to.
For each further line on stdin the prober prints what it measured since the line before, as JSON:
`worst` is a time by the clock, `blocked` the longest one without what the machine took of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from typing import Any

from attack_process import Processor

TIMEOUT = 20.0  # seconds after which a probe counts as not answered


class Target:
    """One server that is asked, and what it answered since the last look."""

    def __init__(self, port: int, path: str, token: str, pid: int) -> None:
        self._port = port
        self._processor = Processor(pid)
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        self._request = f"{head}Authorization: Bearer {token}\r\n\r\n".encode()
        #: Milliseconds, those of them that the process is to blame for, and when it was sent.
        self._times: list[tuple[float, float, float]] = []
        self._failed: list[str] = []
        self._ended = asyncio.Event()

    async def probe_for_ever(self, pause: float) -> None:
        """Ask until cancelled."""
        while True:
            self._processor.begin()
            began = time.monotonic()
            try:
                async with asyncio.timeout(TIMEOUT):
                    status = await self._ask()
            except (OSError, TimeoutError) as error:
                self._failed.append(repr(error))
            else:
                if status != b"200":
                    self._failed.append(f"answered {status!r}")
            seconds = time.monotonic() - began
            blocked = self._processor.blocked(seconds)
            self._times.append((1000 * seconds, 1000 * blocked, began))
            self._ended.set()
            await asyncio.sleep(pause)

    async def measured(self) -> dict[str, Any]:
        """Return what was measured since the last call, after the probe that is under way."""
        self._ended.clear()
        await self._ended.wait()
        times, self._times = self._times, []
        failed, self._failed = self._failed, []
        none = (0.0, 0.0, 0.0)
        _, blocked, at = max(times, key=lambda one: one[1], default=none)
        worst = max(times, default=none)[0]
        return {"count": len(times), "worst": worst, "blocked": blocked, "at": at, "failed": failed}

    async def _ask(self) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(self._request)
            return (await reader.read())[9:12]
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _main() -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    job = json.loads(await reader.readline())
    targets = {name: Target(*told) for name, told in job["targets"].items()}
    tasks = [asyncio.create_task(one.probe_for_ever(job["pause"])) for one in targets.values()]
    while await reader.readline():
        measured = await asyncio.gather(*(one.measured() for one in targets.values()))
        print(json.dumps(dict(zip(targets, measured, strict=True))), flush=True)
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(_main())
