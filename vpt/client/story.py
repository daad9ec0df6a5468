"""`vpt logs`: an execution attempt by attempt and step by step."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

import click

from vpt.client.api import Api, RefusedError
from vpt.client.exits import MisuseError
from vpt.client.kinds import CAMPAIGN, NOT_FOUND, TEST_CASE
from vpt.client.live import Wire
from vpt.client.shutdown import end
from vpt.client.words import harmless, one_line, seconds, summary, what_it_asks
from vpt.model import ExecutionStatus, Json, StepStatus

#: Seconds between looks, where no event says that there is something new.
_BETWEEN = 3.0


async def tell(api: Api, name: str, attempt: int | None, *, follow: bool) -> None:
    """Print an execution, or all of a campaign's; with `follow` until they are over."""
    teller = _Teller(api, attempt, follow)
    wire = asyncio.create_task(teller.wire.run(), name="wire") if follow else None
    try:
        if await _is_campaign(api, name):
            if attempt is not None:
                raise MisuseError("That is a campaign's execution: it has no attempts.")
            await _tell_campaign(api, name, teller)
        else:
            await teller.tell(name)
    finally:
        if wire is not None:
            await end([wire])


async def _is_campaign(api: Api, name: str) -> bool:
    """Return True for a campaign's. Raises MisuseError when it is neither."""
    for kind in (TEST_CASE, CAMPAIGN):
        try:
            await api.get(kind.run_path(name))
            return kind is CAMPAIGN
        except RefusedError as error:
            if error.status != NOT_FOUND:
                raise
    raise MisuseError(f"There is no execution {one_line(name)!r}.")


async def _tell_campaign(api: Api, name: str, teller: _Teller) -> None:
    """Print its tests, one after the other, in the campaign's order."""
    told: set[str] = set()
    teller.wire.follow(CAMPAIGN.run_id, name)
    while True:
        known = await api.get(CAMPAIGN.run_path(name))
        ids = [result["execution_id"] for result in known["results"]]
        for execution_id in ids:
            if execution_id is not None and execution_id not in told:
                told.add(execution_id)
                await teller.tell(execution_id)
        if not teller.follow or ExecutionStatus(known["status"]).final:
            words = summary(known["summary"])
            click.echo(f"campaign {one_line(known['name'])}: {_status(known)}, {words}")
            return
        await teller.something_new()


@dataclass
class _Teller:
    """Prints executions, each step once."""

    api: Api
    attempt: int | None
    follow: bool
    wire: Wire = field(init=False)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.wire = Wire(self.api, lambda _name, _event: self._news.set())

    async def something_new(self) -> None:
        """Wait for an event, or long enough to look without one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BETWEEN):
                await self._news.wait()
        self._news.clear()

    async def tell(self, execution_id: str) -> None:
        """Print one execution, to its end where that is wanted."""
        path = TEST_CASE.run_path(execution_id)
        if self.follow:
            self.wire.follow(TEST_CASE.run_id, execution_id)
        known = await self.api.get(path)
        click.echo(f"{one_line(known['test_case_name'])}, execution {execution_id}")
        told: set[tuple[int, int]] = set()
        while True:
            await self._tell_attempts(path, known, told)
            if not self.follow or ExecutionStatus(known["status"]).final:
                break
            await self.something_new()
            known = await self.api.get(path)
        if self.attempt is not None and (self.attempt, 0) not in told:
            raise MisuseError(f"There is no attempt {self.attempt}: there were {known['attempt']}.")
        click.echo(_verdict(known))

    async def _tell_attempts(self, path: str, known: Json, told: set[tuple[int, int]]) -> None:
        for attempt in known["attempts"]:
            number = attempt["attempt"]
            over = attempt["status"] != "running"
            if self.attempt not in (None, number) or (number, _ENDED) in told:
                continue
            if (number, 0) not in told:
                told.add((number, 0))
                click.echo(f"attempt {number} on {attempt['device_id']} of {attempt['host']}")
            for step in await self._steps(path, known, number):
                if (over or step["status"] != StepStatus.RUNNING) and (
                    (number, step["index"]) not in told
                ):
                    told.add((number, step["index"]))
                    await self._tell_step(f"{path}/attempts/{number}/steps/{step['index']}", step)
            if over:
                told.add((number, _ENDED))
                click.echo(f"attempt {number}: {_status(attempt)}")

    async def _steps(self, path: str, known: Json, attempt: int) -> list[Json]:
        if attempt != known["attempt"]:
            known = await self.api.get(path, attempt=attempt)
        steps: list[Json] = known["steps"]
        return steps

    async def _tell_step(self, path: str, step: Json) -> None:
        took = "" if step["duration_ms"] is None else f", {step['duration_ms']:.0f} ms"
        tries = f", {step['tries']} tries" if step["tries"] > 1 else ""
        asks = what_it_asks(step["step"])
        what = one_line(step["action"]) + (f" ({asks})" if asks else "")
        click.echo(f"  step {step['index']}, {what}: {step['status']}{took}{tries}")
        for kind in ("output", "error"):
            if step[kind]:
                click.echo(f"    {kind}:")
                text = await self._whole(path, step, kind)
                for line in harmless(text).rstrip().split("\n"):
                    click.echo(
                        f"    | {line}"
                    )  # a mark before it: no CI system takes it for its own
        if step["screenshot_url"]:
            click.echo(f"    screenshot: {await self._link(step['screenshot_url'])}")

    async def _whole(self, path: str, step: Json, kind: str) -> str:
        """Return a step's output or error, of which a long one is cut in the execution's answer."""
        if not step.get(f"{kind}_truncated"):
            return str(step[kind])
        return (await self.api.ask("GET", f"{path}/{kind}")).decode()

    async def _link(self, url: str) -> str:
        """Return a link that works without a token for an hour, or the one that needs it."""
        try:
            return self.api.page((await self.api.get(url, sign=1))["url"])
        except RefusedError:
            return self.api.page(url)


_ENDED = -1


def _status(thing: Json) -> str:
    words = str(thing["status"])
    if thing["error_kind"]:
        words += f" ({thing['error_kind']}: {one_line(thing['error'] or 'no reason given')})"
    return words


def _verdict(known: Json) -> str:
    took = f" in {seconds(known['duration_s'])}" if known["duration_s"] is not None else ""
    return f"{_status(known)}{took}"
