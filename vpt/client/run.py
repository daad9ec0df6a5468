"""`vpt run`: start a test case or a campaign, follow it, and return its exit code.

The REST API decides how a run ended; live events only show its progress.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import click

from vpt.client.api import Api, RefusedError
from vpt.client.exits import ExitCode, InfrastructureError
from vpt.client.interrupts import Interrupts, ask_yes_no
from vpt.client.live import LiveEvents
from vpt.client.progress import Display, RunProgress, TestState, display_for
from vpt.client.runnables import TEST_CASE, Runnable, find_by_id_or_name
from vpt.client.shutdown import cancel_and_wait
from vpt.client.text import failure_reason, format_seconds, format_summary, one_line, print_line
from vpt.model import ExecutionStatus, Json

#: Seconds: of the first long poll and of the longest; between requests for campaign results.
_FIRST_POLL, _LONGEST_POLL, _BETWEEN = 0.5, 25.0, 0.3
#: Seconds: for the last live events after the end; for a start or a cancel that is in flight.
_CATCH_UP, _IN_FLIGHT = 2.0, 5.0
#: The most tests whose wait reason, or failure, is asked for: one request each.
_MOST_WAITS, _MOST_FAILURES = 5, 50
CONFLICT = 409

_EXITS = {"completed": ExitCode.PASSED, "failed": ExitCode.FAILED}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What to run, with the body of the request, and how long to follow it."""

    kind: Runnable
    name: str
    body: Json = field(default_factory=dict)
    wait: bool = True
    wait_timeout_s: float | None = None
    junit: Path | None = None
    may_ask: bool = True  # the person at the terminal whether to cancel, at Ctrl-C


async def run(api: Api, request: RunRequest) -> ExitCode:
    """Start a run and, with `wait`, follow it to its end.

    Raises MisuseError, RefusedError and InfrastructureError, which carry their exit codes.
    """
    command = asyncio.current_task()
    if command is None:
        raise AssertionError
    with Interrupts(command.cancel) as interrupts:
        return await run_until(interrupts, api, request)


async def run_until(interrupts: Interrupts, api: Api, request: RunRequest) -> ExitCode:
    """Start and follow a run like `run`, with signals that the caller listens to."""
    try:
        until = time.monotonic() + (request.wait_timeout_s or float("inf"))
        async with asyncio.timeout(request.wait_timeout_s):
            subject = await _before_interrupt(
                interrupts, find_by_id_or_name(api, request.kind, request.name)
            )
            started = await _started(api, request, subject["id"], interrupts)
        one = _FollowedRun(api, request, subject["name"], started, interrupts, until)
        if request.wait:
            return await one.follow()
        return one.print_id()
    except asyncio.CancelledError:
        raise InfrastructureError("Interrupted.") from None
    except TimeoutError:
        click.echo("--wait-timeout ran out before the server confirmed the start.", err=True)
        return ExitCode.WAIT_TIMEOUT


async def _before_interrupt(interrupts: Interrupts, work: Awaitable[T]) -> T:
    """Return the result of `work`; InfrastructureError when a signal comes first."""
    task = asyncio.ensure_future(work)
    if not await _wait_or_interrupt(interrupts, task):
        task.cancel()
        raise InfrastructureError("Interrupted; nothing was started.")
    return task.result()


async def _started(api: Api, request: RunRequest, subject_id: str, interrupts: Interrupts) -> Json:
    """Start the run once, however often the request is sent: the Idempotency-Key stays the same."""
    path = f"{request.kind.path}/{subject_id}/execute"
    key = {"Idempotency-Key": f"vpt-run-{secrets.token_urlsafe(16)}"}
    task = asyncio.create_task(api.write("POST", path, request.body, key), name="start")
    if not await _wait_or_interrupt(interrupts, task):
        await asyncio.wait({task}, timeout=_IN_FLIGHT)  # a run that was started must not be lost
        if not task.done():
            task.cancel()
            raise InfrastructureError("Interrupted; it is not known whether the run was started.")
    started: Json = task.result()
    return started


async def _wait_or_interrupt(interrupts: Interrupts, task: asyncio.Future[T]) -> bool:
    """Wait for `task`; return False when a signal comes first."""
    signal = asyncio.create_task(interrupts.came.wait(), name="signal")
    try:
        await asyncio.wait((task, signal), return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        task.cancel()
        raise
    finally:
        signal.cancel()
    return task.done()


class _FollowedRun:
    """One run on the server, which is followed to its end."""

    def __init__(
        self,
        api: Api,
        request: RunRequest,
        name: str,
        started: Json,
        interrupts: Interrupts,
        until: float,
    ) -> None:
        self._api, self._request, self._kind = api, request, request.kind
        self._interrupts, self._until = interrupts, until
        self._name = one_line(name, 100)
        self._id: str = started[request.kind.id_field]
        self._path = request.kind.execution_path(self._id)
        self._progress = RunProgress(self._name)
        self._display: Display = display_for(self._progress)
        if request.wait:
            api.notify = self._display.print
        self._live = LiveEvents(api, self._on_event)
        self._news = asyncio.Event()
        self._state_text = "The run continues"
        if request.kind is TEST_CASE:
            self._progress.tests[self._id] = TestState(self._name)

    @property
    def _page(self) -> str:
        return self._api.page_url(f"{self._kind.page_path}{self._id}")

    def print_id(self) -> ExitCode:
        """Print the id to standard output, for scripts, and the link to standard error."""
        click.echo(self._id)
        click.echo(f"{self._kind.label} {self._name} was started: {self._page}", err=True)
        return ExitCode.PASSED

    async def follow(self) -> ExitCode:
        """Show the run until it ends, --wait-timeout runs out, or a signal comes."""
        self._display.print(f"{self._kind.label} {self._name}: {self._page}")
        self._display.resume()
        self._live.follow(self._kind.id_field, self._id)
        live = [
            asyncio.create_task(self._live.run(), name="live-events"),
            asyncio.create_task(self._fetch_on_news(), name="news"),
        ]
        ending = asyncio.create_task(self._poll_until_final(), name="final")
        try:
            return await self._followed(ending)
        finally:
            self._display.pause()
            await cancel_and_wait((*live, ending))

    async def _followed(self, ending: asyncio.Task[Json]) -> ExitCode:
        try:
            left = await self._watched(ending)
        except TimeoutError:
            return await self._report_wait_timeout()
        except (click.ClickException, asyncio.CancelledError):
            self._display.pause()
            click.echo(self._how_to_follow(), err=True)
            raise
        return await self._report_end(ending.result()) if left is None else left

    async def _watched(self, ending: asyncio.Task[Json]) -> ExitCode | None:
        """Wait until the run ends; return an exit code when it is left before that."""
        async with asyncio.timeout(self._left_s()):
            if not await _wait_or_interrupt(self._interrupts, ending):
                if not (self._display.interactive and self._request.may_ask):
                    return await self._cancel_on_signal()
                if not await self._ask_to_cancel(ending):
                    return self._leave_running()
            await ending
        return None

    def _left_s(self) -> float | None:
        left = self._until - time.monotonic()
        return None if left == float("inf") else left

    # --- its state

    def _on_event(self, name: str, event: Json) -> None:
        self._display.print_events(self._progress.on_event(name, event))
        unnamed = "execution_id" in event and not self._progress.test(event["execution_id"]).name
        if unnamed or name == "campaign_progress":
            self._news.set()

    async def _fetch_on_news(self) -> None:
        """Fetch the campaign when an event names a test that is not known yet."""
        while True:
            await self._news.wait()
            self._news.clear()
            with contextlib.suppress(click.ClickException):
                await self._fetch()
            await asyncio.sleep(_BETWEEN)

    async def _poll_until_final(self) -> Json:
        """Poll until the run ends, through restarts of the server."""
        poll = _FIRST_POLL
        known = await self._fetch()
        while not ExecutionStatus(known["status"]).final:
            known = await self._fetch(poll)
            poll = min(2 * poll, _LONGEST_POLL)
        return known

    async def _fetch(self, wait: float | None = None) -> Json:
        known: Json = await self._api.get(self._path, wait=wait)
        if self._kind is not TEST_CASE:
            self._progress.total = known["summary"]["total"]
        for number, one in enumerate(self._tests(known)):
            if one["execution_id"] is None:
                one = {**one, "execution_id": f"entry {number}"}  # noqa: PLW2901
            else:
                self._live.follow("execution_id", one["execution_id"])
            self._display.print_events(self._progress.update(one))
        await self._fetch_wait_reasons()
        return known

    def _tests(self, known: Json) -> list[Json]:
        """Return the results of a campaign execution, or the execution itself."""
        tests: list[Json] = known["results"] if self._kind is not TEST_CASE else [known]
        return tests

    async def _fetch_wait_reasons(self) -> None:
        """Ask for the wait reasons of queued tests: events tell later changes only."""
        silent = [
            execution_id
            for execution_id, test in self._progress.tests.items()
            if test.status == ExecutionStatus.QUEUED and not test.wait_reason
        ]
        for execution_id in silent[:_MOST_WAITS]:
            with contextlib.suppress(RefusedError):  # it is no longer queued
                path = f"{TEST_CASE.execution_path(execution_id)}/queue"
                self._on_event(
                    "queue_changed",
                    {"execution_id": execution_id, **await self._api.get(path)},
                )

    # --- its end

    async def _report_end(self, known: Json) -> ExitCode:
        if not self._display.interactive:
            await self._live.caught_up(_CATCH_UP)
        self._display.pause()
        tests = self._tests(known)
        reported = 0
        for test in tests:
            bad = test["status"] in ("failed", "error")
            why = await self._failure_reason(test) if bad and reported < _MOST_FAILURES else ""
            reported += bad
            print_line(_result_line(test, why))
        if self._kind is not TEST_CASE:
            print_line(format_summary(known["summary"]))
            if known["error_kind"]:  # the campaign itself could not go on
                print_line(one_line(f"{known['error_kind']}: {known['error']}"))
        print_line(self._page)
        return await self._write_report(_EXITS.get(known["status"], ExitCode.INFRASTRUCTURE))

    async def _failure_reason(self, test: Json) -> str:
        whole = test if "steps" in test else None
        if whole is None:
            try:
                whole = await self._api.get(TEST_CASE.execution_path(test["execution_id"]))
            except click.ClickException:  # the reason is optional: the result is known
                return ""
        return failure_reason(whole)

    async def _report_wait_timeout(self) -> ExitCode:
        self._display.pause()
        print_line(
            f"Not finished after {format_seconds(self._request.wait_timeout_s)}. "
            f"{self._how_to_follow()}"
        )
        return await self._write_report(ExitCode.WAIT_TIMEOUT)

    def _leave_running(self) -> ExitCode:
        print_line(self._how_to_follow())
        return ExitCode.WAIT_TIMEOUT

    def _how_to_follow(self) -> str:
        return f"{self._state_text}: {self._page}\nTo follow it: vpt logs {self._id} --follow"

    async def _ask_to_cancel(self, ending: asyncio.Task[Json]) -> bool:
        """Ask whether to cancel the run; return True when it has ended or is being cancelled."""
        self._display.pause()
        answer = asyncio.create_task(ask_yes_no("Cancel the run on the server?"), name="question")
        try:
            await asyncio.wait({answer, ending}, return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                return True
            if answer.result():
                await self._cancel()
                self._display.resume()
                return True
            return False
        finally:
            answer.cancel()

    async def _cancel_on_signal(self) -> ExitCode:
        """Cancel the run and end at once: a CI system kills a job that is slow to stop."""
        self._display.print("interrupted: cancelling the run on the server")
        try:
            async with asyncio.timeout(_IN_FLIGHT):
                await self._cancel()
                await self._write_report(ExitCode.INFRASTRUCTURE)
        except TimeoutError:
            click.echo(f"The server did not confirm in time. {self._how_to_follow()}", err=True)
        return ExitCode.INFRASTRUCTURE

    async def _cancel(self) -> None:
        try:
            await self._api.write("POST", f"{self._path}/cancel")
            self._state_text = "The run is being cancelled"
        except RefusedError as error:
            if error.status != CONFLICT:  # it has just ended
                raise

    async def _write_report(self, code: ExitCode) -> ExitCode:
        """Write the JUnit report, if asked for; without it the exit code is never 0."""
        if self._request.junit is None:
            return code
        try:
            write(self._request.junit, await self._api.request("GET", f"{self._path}/junit"))
        except (click.ClickException, OSError) as error:
            words = error.message if isinstance(error, click.ClickException) else str(error)
            click.echo(f"Error: {self._request.junit} was not written: {words}", err=True)
            return code or ExitCode.INFRASTRUCTURE
        return code


def is_plain(path: Path) -> bool:
    """Return True for a file that can be replaced, False for a device or pipe (/dev/stdout)."""
    return path.absolute().parts[1:2] != ("dev",) and (path.is_file() or not path.exists())


def write(path: Path, text: bytes) -> None:
    """Write a file: a plain one is replaced as a whole or not at all."""
    if not is_plain(path):
        with path.open("ab") as device:  # "wb" would delete what was printed to /dev/stdout
            device.write(text)
        return
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        draft.write_bytes(text)
        os.replace(draft, path)  # noqa: PTH105
    finally:
        draft.unlink(missing_ok=True)


def _result_line(test: Json, why: str) -> str:
    words = {"completed": "passed", "failed": "FAILED", "error": "ERROR"}
    where = ", ".join(
        part for part in (test["device_id"], format_seconds(test["duration_s"])) if part
    )
    line = f"{words.get(test['status'], test['status']):9} {one_line(test['test_case_name'], 100)}"
    return line + (f" ({where})" if where else "") + (f": {why}" if why else "")
