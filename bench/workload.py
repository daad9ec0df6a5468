"""The workload of chaos: test cases whose result is known, and the client that starts them.

Every shell step leaves a line `tag step` in the file `acts` of its host's folder, which the host
knows as ACTS, so that the files tell what was really done, whatever journals and databases say.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp

_LIMIT = aiohttp.ClientTimeout(total=8)
_AGAIN = (0.2, 1.5)  # seconds before the same is sent again: at least, at most
_UNSURE = (aiohttp.ClientError, TimeoutError)
_NOT_SENT, _NO_ANSWER = 0, 1  # in the place of a status


def _shell(step: int, then: str = "true", **more: Any) -> dict[str, Any]:
    """Return a step with an effect; it takes less time than hosts are frozen."""
    params = {"command": f'echo ${{tag}} {step} >> "$ACTS"; {then}', "timeout": 5}
    return {"command": "execute_bash_command", "action_type": "desktop", "params": params, **more}


def _wait(seconds: float) -> dict[str, Any]:
    return {"command": "wait", "action_type": "desktop", "params": {"seconds": seconds}}


_SECOND_TIME = 'test "$(grep -c "^${tag} 2$" "$ACTS")" -ge 2'

#: By kind: what the hosts say in the end, and the test case.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "yes": ("completed", {"steps": [_shell(1), _wait(1), _shell(3, "sleep 1.2"), _wait(0.5)]}),
    "waits": ("completed", {"steps": [_wait(0.5), _wait(1.5), _wait(0.1), _shell(4)]}),
    "delayed": ("completed", {"steps": [_shell(1), _shell(2, delay_s=0.7), _wait(0.2)]}),
    "second time": ("completed", {"steps": [_shell(1), _shell(2, _SECOND_TIME, retries=2)]}),
    "no": ("failed", {"steps": [_shell(1), _wait(1), _shell(3, "sleep 0.5; false"), _shell(4)]}),
    "goes on": (
        "failed",
        {"steps": [_shell(1, "false", continue_on_failure=True), _wait(0.5), _shell(3)]},
    ),
    "no, twice": ("failed", {"steps": [_shell(1), _shell(2, "false")], "test_retries": 1}),
}
_WEIGHTS = (8, 3, 2, 2, 2, 1, 1)
ENTRIES = 5  # of a campaign


@dataclass
class PlannedRun:
    """One request to run a test case, or a campaign of ENTRIES."""

    tag: str
    path: str
    body: dict[str, Any]
    key: str | None = None
    at: float = 0.0  # seconds after the beginning
    resend_after: float = 0.0  # it was accepted; only with a key
    cancel_after: float | None = None
    accepted: str | None = None  # the id that the server answered
    cancelled: bool = False


@dataclass
class Workload:
    """All planned runs, the expected result of each tag, and the errors of requests."""

    verdicts: dict[str, str] = field(default_factory=dict)
    orders: list[PlannedRun] = field(default_factory=list)
    campaigns: list[PlannedRun] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    async def make(
        self, session: aiohttp.ClientSession, dice: random.Random, executions: int, seconds: float
    ) -> None:
        """Store the test cases and campaigns, and plan the times of all runs."""
        ids = {}
        for kind, (_, case) in KINDS.items():
            body = {"name": kind, "device_model": "desktop", **case}
            ids[kind] = await _create(session, "/api/testcases", body)
        campaigns = executions // ENTRIES // 5
        for number in range(campaigns):
            await self._plan_campaign(session, dice, ids, number)
        for number in range(executions - campaigns * ENTRIES):
            self._plan_one(dice, ids, f"e{number}")
        for order in (*self.orders, *self.campaigns):
            order.at = dice.uniform(0, seconds)
            order.resend_after *= seconds / 5

    async def _plan_campaign(
        self, session: aiohttp.ClientSession, dice: random.Random, ids: dict[str, str], number: int
    ) -> None:
        entries = []
        for place in range(ENTRIES):
            kind, tag = self._kind(dice, f"c{number}-{place}")
            entries.append({"test_case_id": ids[kind], "parameters": {"tag": tag}})
        body = {
            "name": f"campaign {number}",
            "test_cases": entries,
            "parallelism": dice.randint(1, 3),
            "stop_on_failure": dice.random() < 0.3,
        }
        campaign_id = await _create(session, "/api/campaigns", body)
        path = f"/api/campaigns/{campaign_id}/execute"
        order = PlannedRun(f"c{number}", path, {}, key=f"key of c{number}")
        if dice.random() < 0.5:
            order.resend_after = dice.random()
        self.campaigns.append(order)

    def _plan_one(self, dice: random.Random, ids: dict[str, str], tag: str) -> None:
        kind, tag = self._kind(dice, tag)
        body = {"parameters": {"tag": tag}, "priority": dice.choice((10, 50, 50, 90))}
        order = PlannedRun(tag, f"/api/testcases/{ids[kind]}/execute", body)
        if dice.random() < 0.6:
            order.key = f"key of {tag}"
            if dice.random() < 0.4:
                order.resend_after = dice.random()
        if dice.random() < 0.04:
            order.cancel_after = dice.uniform(0, 4)
        self.orders.append(order)

    def _kind(self, dice: random.Random, tag: str) -> tuple[str, str]:
        kind = dice.choices(list(KINDS), _WEIGHTS)[0]
        self.verdicts[tag] = KINDS[kind][0]
        return kind, tag

    async def place(self, session: aiohttp.ClientSession) -> None:
        """Send all requests at their times; return when all were answered or given up."""
        async with asyncio.TaskGroup() as group:
            for order in (*self.orders, *self.campaigns):
                group.create_task(self._order(session, order))

    async def _order(self, session: aiohttp.ClientSession, order: PlannedRun) -> None:
        await asyncio.sleep(order.at)
        order.accepted = await self._until_accepted(session, order)
        if order.accepted is None:
            return
        self.counts["accepted"] += 1
        if order.cancel_after is not None:
            await asyncio.sleep(order.cancel_after)
            await self._cancel(session, order)
        if order.resend_after:
            await asyncio.sleep(order.resend_after)
            again = await self._until_accepted(session, order)
            self.counts["resends"] += 1
            if again != order.accepted:
                self._note(f"{order.tag}: sent again with its key it is {again}, {order}")

    async def _until_accepted(
        self, session: aiohttp.ClientSession, order: PlannedRun
    ) -> str | None:
        """Send until accepted; without a key, one that may have been accepted is not repeated."""
        while True:
            status, answer = await _ask(session, order)
            if status == 202:
                return str(answer.get("execution_id") or answer["campaign_execution_id"])
            if status not in {_NOT_SENT, _NO_ANSWER, 409, 503}:
                self._note(f"{order.tag}: answered {status} {answer}")
                return None
            if status != _NOT_SENT and order.key is None:
                self.counts["unsure"] += 1
                return None
            self.counts["asked again"] += 1
            await asyncio.sleep(random.uniform(*_AGAIN))

    async def _cancel(self, session: aiohttp.ClientSession, order: PlannedRun) -> None:
        order.cancelled = True  # whatever is answered, it may be
        path = f"/api/executions/{order.accepted}/cancel"
        try:
            async with session.post(path, timeout=_LIMIT) as response:
                if response.status not in {202, 409, 503}:
                    self._note(f"{order.tag}: cancel answered {response.status}")
        except _UNSURE:
            self.counts["cancels unanswered"] += 1

    def _note(self, words: str) -> None:
        self.wrong.append(words)


async def _ask(session: aiohttp.ClientSession, order: PlannedRun) -> tuple[int, dict[str, Any]]:
    """Send a request once; return the status and the body."""
    headers = {} if order.key is None else {"Idempotency-Key": order.key}
    try:
        async with session.post(
            order.path, json=order.body, headers=headers, timeout=_LIMIT
        ) as response:
            answer: dict[str, Any] = await response.json(content_type=None)
            return response.status, answer
    except aiohttp.ClientConnectorError:
        return _NOT_SENT, {}
    except _UNSURE:
        return _NO_ANSWER, {}


async def _create(session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> str:
    async with session.post(path, json=body) as response:
        answer: dict[str, Any] = await response.json()
        response.raise_for_status()
        return str(answer["id"])
