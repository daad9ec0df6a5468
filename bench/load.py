"""The load generator, in its own process: a job as JSON on stdin, measurements on stdout.

The job: `port`, `token`, `requests` ([method, path, body or null] for each connection), `expect`
(every answer must be 200 and have this in its body), `seconds`, `warmup`, `pids` (whose CPU
seconds to report). A closed loop: each connection sends again as soon as it has its answer, and
connects again when the server closes (gunicorn's sync workers do after each answer); that is part
of the time measured, as it is for any client.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import uvloop
from cpu import all_used, since
from raw_http import BadAnswerError, RawConnection, request


class Looper:
    """One connection that sends the same request again and again."""

    def __init__(self, load: Load, data: bytes) -> None:
        self._load = load
        self._data = data
        self._connection: RawConnection | None = None
        self._began = 0.0
        self._connecting: asyncio.Task[None] | None = None

    def go(self) -> None:
        """Send the next request, on a new connection if there is none."""
        self._began = time.perf_counter()
        if self._connection is None:
            self._connecting = asyncio.create_task(self._connect())
        else:
            self._connection.send(self._data)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, self._connection = await loop.create_connection(
                self._make, "127.0.0.1", self._load.port
            )
            self._connection.send(self._data)
        except OSError as error:
            self._load.fail(f"cannot connect: {error}")

    def _make(self) -> RawConnection:
        return RawConnection(self._answered, self._lost)

    def _answered(self, status: int, body: bytes) -> None:
        self._load.answered(status, body, time.perf_counter() - self._began)
        if self._load.over:
            return
        if self._connection is not None and not self._connection.kept:
            connection, self._connection = self._connection, None
            connection.close()
        self.go()

    def _lost(self) -> None:
        if (
            self._connection is not None
            and self._connection.transport is None
            and not self._load.over
        ):
            self._load.fail("the server closed a connection that it had promised to keep")


class Load:
    """All connections of a job and their measurements."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.port: int = job["port"]
        self.over = False
        self._job = job
        self._expect = job["expect"].encode()
        self._times: list[float] = []
        self._errors: list[str] = []
        self._loopers = [
            Looper(self, request(method, path, job["token"], (body or "").encode()))
            for method, path, body in job["requests"]
        ]

    def answered(self, status: int, body: bytes, seconds: float) -> None:
        """Count a response."""
        if status == 200 and self._expect in body:
            self._times.append(seconds)
        else:
            self.fail(f"answered {status}: {body[:300]!r}")

    def fail(self, what: str) -> None:
        """Count a failure; the first few are kept."""
        self._errors.append(what)
        if len(self._errors) > 100:
            self.over = True

    async def run(self) -> dict[str, Any]:
        """Warm up, measure and return the measurements."""
        self.begin()
        await asyncio.sleep(self._job["warmup"])
        self._times.clear()
        before = all_used(self._job["pids"])
        began, own = time.perf_counter(), time.process_time()
        await asyncio.sleep(self._job["seconds"])
        self.over = True
        own, took = time.process_time() - own, time.perf_counter() - began
        spent = since(before, self._job["pids"])
        self.end()
        return self._measures(took, own, spent)

    def begin(self) -> None:
        """Send the first request of each connection."""
        for looper in self._loopers:
            looper.go()

    def end(self) -> None:
        """Send no more and close all connections."""
        self.over = True
        for looper in self._loopers:
            looper.close()

    def _measures(self, took: float, own: float, spent: dict[str, float]) -> dict[str, Any]:
        times = sorted(self._times)
        if self._errors or not times:
            raise BadAnswerError(f"{len(self._errors)} errors: {self._errors[:3]}")
        return {
            "rate": len(times) / took,
            "p50": 1000 * times[len(times) // 2],
            "p99": 1000 * times[len(times) * 99 // 100],
            "client": own / took,
            **{f"{name} cpu": 1000 * value / len(times) for name, value in spent.items()},
        }


async def _main() -> dict[str, Any]:
    return await Load(json.load(sys.stdin)).run()


if __name__ == "__main__":
    try:
        print(json.dumps(uvloop.run(_main())))
    except BadAnswerError as error:
        sys.exit(f"load: {error}")
