"""Executions from POST to last step, a process of its own: a job as JSON on stdin, measures out.

It is client and hosts at once: 50 instant hosts with one device each, so that one clock tells how
long it takes from sending the POST to the arrival of the first action. The moment of sending goes
through the parameters of the execution into its steps. The client knows that an execution is over
when its last step arrives; that costs the server nothing, but is a moment before the server knows.

The job: `peers` (by name: `server`, the URL, `port`, `dsn`, `pids`), `token`, `join_token`,
`test_case`, `hosts`, `rate`, `seconds`, `rounds`. The peers are measured in turn, in another order
each round.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections import Counter
from typing import Any

import asyncpg
import hosts
import orjson
import uvloop
from cpu import all_used, since
from raw_http import BadAnswerError, RawClient

DRAIN_TIMEOUT = 60.0
PHASES = ("one", "paced", "full")


class Flow:
    """The executions in flight and their measurements."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._client = RawClient(job["port"], f"Bearer {job['token']}")
        self._path = f"/api/testcases/{job['test_case']}/execute"
        self._flights: dict[str, asyncio.Future[None]] = {}
        self._firsts: list[float] = []
        self._answers: list[float] = []
        self._statuses: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()

    def acted(self, action: dict[str, Any]) -> None:
        """Record the arrival of an action at a host."""
        sent, step = action["params"]["sent"], action["step"]
        self._counts["steps"] += 1
        if step == 1:
            self._counts["started"] += 1
            self._firsts.append((time.monotonic_ns() - int(sent)) / 1e6)
        if step == self._job["steps"] and (flight := self._flights.pop(sent, None)):
            flight.set_result(None)

    async def execute(self) -> None:
        """Start one execution and wait for its last step."""
        flight: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def body() -> bytes:
            sent = str(time.monotonic_ns())
            self._flights[sent] = flight
            return orjson.dumps({"parameters": {"sent": sent}})

        began = time.perf_counter()
        status, answer = await self._client.call("POST", self._path, body)
        if status != 202:
            raise BadAnswerError(f"answered {status}: {answer[:300]!r}")
        self._answers.append(1000 * (time.perf_counter() - began))
        self._statuses[orjson.loads(answer)["status"]] += 1
        await asyncio.wait_for(flight, DRAIN_TIMEOUT)

    async def one(self, until: float) -> None:
        """Run one at a time."""
        while time.perf_counter() < until:
            await self.execute()

    async def full(self, until: float) -> None:
        """Keep as many in flight as there are devices."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._job["hosts"]):
                group.create_task(self.one(until))

    async def paced(self, until: float) -> None:
        """Start `rate` a second, whether earlier ones have ended or not."""
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            asked = 0
            while (now := time.perf_counter()) < until:
                while asked < (now - began) * self._job["rate"]:
                    group.create_task(self.execute())
                    asked += 1
                await asyncio.sleep(0.001)

    async def measure(self, phase: str) -> dict[str, Any]:
        """Run a phase, wait for what is in flight, check, and return the measurements."""
        self._forget()
        began, before = time.perf_counter(), all_used(self._job["pids"])
        task = asyncio.create_task(getattr(self, phase)(began + self._job["seconds"]))
        await asyncio.wait([task], timeout=self._job["seconds"])
        took, counts = time.perf_counter() - began, self._counts.copy()
        spent = since(before, self._job["pids"])
        firsts, answers = sorted(self._firsts), sorted(self._answers)
        await task
        await self._all_completed()
        if not firsts or not answers:
            raise BadAnswerError("no action arrived")
        return {
            "started": counts["started"] / took,
            "steps": counts["steps"] / took,
            "p50": firsts[len(firsts) // 2],
            "p95": firsts[len(firsts) * 95 // 100],
            "answer": answers[len(answers) // 2],
            "queued": 100 * self._statuses["queued"] / self._statuses.total(),
            **{name: 1000 * value / counts["started"] for name, value in spent.items()},
        }

    def close(self) -> None:
        """Close the client's connections."""
        self._client.close()

    def _forget(self) -> None:
        self._firsts.clear()
        self._answers.clear()
        self._statuses.clear()
        self._counts.clear()

    async def _all_completed(self) -> None:
        """Wait until every execution in the database has ended; all must be `completed`."""
        connection = await asyncpg.connect(self._job["dsn"])
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT):
                while await connection.fetchval(_OPEN):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            if other := await connection.fetch(_OTHER):
                raise BadAnswerError(f"executions that did not pass: {[tuple(o) for o in other]}")
        finally:
            await connection.close()


_OPEN = "SELECT count(*) FROM test_executions WHERE completed_at IS NULL"
_OTHER = """
SELECT status, error_kind, error, count(*)
FROM test_executions
WHERE status <> 'completed'
GROUP BY 1, 2, 3
"""


async def _run(job: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    async with contextlib.AsyncExitStack() as stack:
        flows = {name: await _flow(stack, job | peer) for name, peer in job["peers"].items()}
        names, rounds = list(flows), {name: [] for name in flows}
        for number in range(job["rounds"]):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                rounds[name].append({phase: await flows[name].measure(phase) for phase in PHASES})
        return rounds


async def _flow(stack: contextlib.AsyncExitStack, job: dict[str, Any]) -> Flow:
    """Start the hosts of one peer, let them join, and warm up."""
    flow = Flow(job)
    stack.callback(flow.close)
    listening = [await hosts.listen(flow.acted) for _ in range(job["hosts"])]
    for runner, _ in listening:
        stack.push_async_callback(runner.cleanup)
    cards = [hosts.card(f"c-{n}", url, 1) for n, (_, url) in enumerate(listening, 1)]
    await hosts.join(job["server"], job["join_token"], job["token"], cards)
    await flow.measure("one")
    return flow


if __name__ == "__main__":
    try:
        print(json.dumps(uvloop.run(_run(json.load(sys.stdin)))))
    except* BadAnswerError as group:
        sys.exit(f"flow: {group.exceptions[0]}")
