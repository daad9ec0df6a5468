"""`vpt logs`: print an execution attempt by attempt and step by step."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

import click

from vpt.client.api import Api, RefusedError
from vpt.client.exits import MisuseError
from vpt.client.live import LiveEvents
from vpt.client.runnables import CAMPAIGN, NOT_FOUND, TEST_CASE
from vpt.client.shutdown import cancel_and_wait
from vpt.client.text import format_seconds, format_step_params, format_summary, one_line
from vpt.model import ExecutionStatus, Json, StepStatus
from vpt.printable import sanitized

#: Seconds between requests while no live event comes.
_POLL = 3.0


async def print_execution(api: Api, name: str, attempt: int | None, *, follow: bool) -> None:
    """Print an execution, or those of a campaign execution; with `follow` until they end.

    Raises MisuseError for an unknown execution or attempt.
    """
    printer = _ExecutionPrinter(api, attempt, follow)
    live = asyncio.create_task(printer.live.run(), name="live-events") if follow else None
    try:
        if await _is_campaign(api, name):
            if attempt is not None:
                raise MisuseError(
                    "This is a campaign execution, which has no attempts: leave out --attempt."
                )
            await _print_campaign(api, name, printer)
        else:
            await printer.print(name)
    finally:
        if live is not None:
            await cancel_and_wait([live])


async def _is_campaign(api: Api, name: str) -> bool:
    """Return True for a campaign execution, False for an execution; else raise MisuseError."""
    for kind in (TEST_CASE, CAMPAIGN):
        try:
            await api.get(kind.execution_path(name))
            return kind is CAMPAIGN
        except RefusedError as error:
            if error.status != NOT_FOUND:
                raise
    raise MisuseError(f"There is no execution {one_line(name)!r}.")


async def _print_campaign(api: Api, name: str, printer: _ExecutionPrinter) -> None:
    """Print the executions of a campaign one after the other, in the campaign's order."""
    printed: set[str] = set()
    printer.live.follow(CAMPAIGN.id_field, name)
    while True:
        known = await api.get(CAMPAIGN.execution_path(name))
        ids = [result["execution_id"] for result in known["results"]]
        for execution_id in ids:
            if execution_id is not None and execution_id not in printed:
                printed.add(execution_id)
                await printer.print(execution_id)
        if not printer.follow or ExecutionStatus(known["status"]).final:
            text = format_summary(known["summary"])
            click.echo(f"campaign {one_line(known['name'])}: {_status(known)}, {text}")
            return
        await printer.wait_for_change()


@dataclass
class _ExecutionPrinter:
    """Prints executions, each step once."""

    api: Api
    attempt: int | None
    follow: bool
    live: LiveEvents = field(init=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.live = LiveEvents(self.api, lambda _name, _event: self._changed.set())

    async def wait_for_change(self) -> None:
        """Wait for a live event, `_POLL` seconds at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_POLL):
                await self._changed.wait()
        self._changed.clear()

    async def print(self, execution_id: str) -> None:
        """Print one execution; with `follow` until it ends."""
        path = TEST_CASE.execution_path(execution_id)
        if self.follow:
            self.live.follow(TEST_CASE.id_field, execution_id)
        known = await self.api.get(path)
        click.echo(f"test case {one_line(known['test_case_name'])}, execution {execution_id}")
        printed: set[tuple[int, int]] = set()
        while True:
            await self._print_attempts(path, known, printed)
            if not self.follow or ExecutionStatus(known["status"]).final:
                break
            await self.wait_for_change()
            known = await self.api.get(path)
        if self.attempt is not None and (self.attempt, 0) not in printed:
            raise MisuseError(f"There is no attempt {self.attempt}: there were {known['attempt']}.")
        click.echo(_result_line(known))

    async def _print_attempts(self, path: str, known: Json, printed: set[tuple[int, int]]) -> None:
        for attempt in known["attempts"]:
            number = attempt["attempt"]
            over = attempt["status"] != "running"
            if self.attempt not in (None, number) or (number, _ENDED) in printed:
                continue
            if (number, 0) not in printed:
                printed.add((number, 0))
                click.echo(f"attempt {number} on {attempt['device_id']} of {attempt['host']}")
            for step in await self._steps(path, known, number):
                if (over or step["status"] != StepStatus.RUNNING) and (
                    (number, step["index"]) not in printed
                ):
                    printed.add((number, step["index"]))
                    at = f"{path}/attempts/{number}/steps/{step['index']}"
                    await self._print_step(at, step)
            if over:
                printed.add((number, _ENDED))
                click.echo(f"attempt {number}: {_status(attempt)}")

    async def _steps(self, path: str, known: Json, attempt: int) -> list[Json]:
        if attempt != known["attempt"]:
            known = await self.api.get(path, attempt=attempt)
        steps: list[Json] = known["steps"]
        return steps

    async def _print_step(self, path: str, step: Json) -> None:
        took = "" if step["duration_ms"] is None else f", {step['duration_ms']:.0f} ms"
        tries = f", {step['tries']} tries" if step["tries"] > 1 else ""
        asks = format_step_params(step["step"])
        what = one_line(step["action"]) + (f" ({asks})" if asks else "")
        click.echo(f"  step {step['index']}, {what}: {step['status']}{took}{tries}")
        for kind in ("output", "error"):
            if step[kind]:
                click.echo(f"    {kind}:")
                text = await self._whole(path, step, kind)
                for line in sanitized(text).rstrip().split("\n"):
                    # The mark before it: no CI system takes the line for a command.
                    click.echo(f"    | {line}")
        if step.get("notes"):  # an older server says nothing of it
            click.echo(f"    note: {one_line(step['notes'])}")
        if step["screenshot_url"]:
            click.echo(f"    screenshot: {await self._link(step['screenshot_url'])}")
        for picture in step.get("pictures", ()):
            click.echo(f"    {one_line(picture['caption'])}: {await self._link(picture['url'])}")

    async def _whole(self, path: str, step: Json, kind: str) -> str:
        """Return the whole output or error; the execution has the beginning of a long one."""
        if not step.get(f"{kind}_truncated"):
            return str(step[kind])
        return (await self.api.request("GET", f"{path}/{kind}")).decode()

    async def _link(self, url: str) -> str:
        """Return a link that works without a token for an hour, else the one that needs a token."""
        try:
            return self.api.page_url((await self.api.get(url, sign=1))["url"])
        except RefusedError:
            return self.api.page_url(url)


_ENDED = -1


def _status(thing: Json) -> str:
    text = str(thing["status"])
    if thing["error_kind"]:
        text += f" ({thing['error_kind']}: {one_line(thing['error'] or 'no reason given')})"
    return text


def _result_line(known: Json) -> str:
    took = f" in {format_seconds(known['duration_s'])}" if known["duration_s"] is not None else ""
    return f"{_status(known)}{took}"
