"""`vpt run`: start a test case or a campaign, follow it to its end, and tell CI how it ended."""

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
from vpt.client.board import RunView, Screen, Test, screen_for
from vpt.client.exits import Exit, TroubleError
from vpt.client.interrupts import Interrupts, says_yes
from vpt.client.kinds import TEST_CASE, Kind, find
from vpt.client.live import Wire
from vpt.client.shutdown import end
from vpt.client.words import one_line, seconds, summary, tell, why_not_passed
from vpt.model import ExecutionStatus, Json

#: Seconds: of a long poll, at the beginning and later; between looks at a campaign's results.
_FIRST_POLL, _LONGEST_POLL, _BETWEEN = 0.5, 25.0, 0.3
#: Seconds: for the live lines to arrive after the end; for a start or a cancel that is under way.
_CATCH_UP, _LAST_WORDS = 2.0, 5.0
#: Tests whose wait is explained at once, and whose failure is told.
_EXPLAINED, _TOLD = 5, 50
CONFLICT = 409

_EXITS = {"completed": Exit.PASSED, "failed": Exit.FAILED}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What to run, and how long to stay with it."""

    kind: Kind
    name: str
    body: Json = field(default_factory=dict)
    wait: bool = True
    wait_timeout_s: float | None = None
    junit: Path | None = None


async def run(api: Api, options: RunOptions) -> Exit:
    """Start it, and follow it to its end where `options` say so."""
    command = asyncio.current_task()
    if command is None:
        raise AssertionError
    with Interrupts(command.cancel) as interrupts:
        try:
            until = time.monotonic() + (options.wait_timeout_s or float("inf"))
            async with asyncio.timeout(options.wait_timeout_s):
                subject = await _before_interrupt(interrupts, find(api, options.kind, options.name))
                started = await _started(api, options, subject["id"], interrupts)
            one = _FollowedRun(api, options, subject["name"], started, interrupts, until)
            if options.wait:
                return await one.followed()
            return one.left_alone()
        except asyncio.CancelledError:
            raise TroubleError("Interrupted.") from None
        except TimeoutError:
            click.echo("The wait ran out before the server said that it was started.", err=True)
            return Exit.WAITED


async def _before_interrupt(interrupts: Interrupts, work: Awaitable[T]) -> T:
    """Return the result of `work`; TroubleError when a signal came before."""
    task = asyncio.ensure_future(work)
    if not await _until_interrupt(interrupts, task):
        task.cancel()
        raise TroubleError("Interrupted; nothing was started.")
    return task.result()


async def _started(api: Api, options: RunOptions, subject_id: str, interrupts: Interrupts) -> Json:
    """Start it once, however often it is sent: the key is the same each time."""
    path = f"{options.kind.path}/{subject_id}/execute"
    key = {"Idempotency-Key": f"vpt-run-{secrets.token_urlsafe(16)}"}
    task = asyncio.create_task(api.write("POST", path, options.body, key), name="start")
    if not await _until_interrupt(interrupts, task):
        await asyncio.wait({task}, timeout=_LAST_WORDS)  # what was started must not be lost
        if not task.done():
            task.cancel()
            raise TroubleError("Interrupted; whether it was started is not known.")
    started: Json = task.result()
    return started


async def _until_interrupt(interrupts: Interrupts, task: asyncio.Future[T]) -> bool:
    """Wait for `task`; False when a signal came first."""
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
    """A run on the server, followed to its end."""

    def __init__(
        self,
        api: Api,
        options: RunOptions,
        name: str,
        started: Json,
        interrupts: Interrupts,
        until: float,
    ) -> None:
        self._api, self._options, self._kind = api, options, options.kind
        self._interrupts, self._until = interrupts, until
        self._name = one_line(name, 100)
        self._id: str = started[options.kind.run_id]
        self._path = options.kind.run_path(self._id)
        self._board = RunView(self._name)
        self._screen: Screen = screen_for(self._board)
        if options.wait:
            api.say = self._screen.say
        self._wire = Wire(api, self._heard)
        self._news = asyncio.Event()
        self._fate = "It goes on"
        if options.kind is TEST_CASE:
            self._board.tests[self._id] = Test(self._name)

    @property
    def _page(self) -> str:
        return self._api.page(f"{self._kind.page}{self._id}")

    def left_alone(self) -> Exit:
        """Print its id, for scripts, and where to look, for people."""
        click.echo(self._id)
        click.echo(f"{self._name} was started: {self._page}", err=True)
        return Exit.PASSED

    async def followed(self) -> Exit:
        """Show it until it is over, the time is, or somebody interrupts."""
        self._screen.say(f"{self._kind.word} {self._name}: {self._page}")
        self._screen.resume()
        self._wire.follow(self._kind.run_id, self._id)
        live = [
            asyncio.create_task(self._wire.run(), name="wire"),
            asyncio.create_task(self._look_at_news(), name="news"),
        ]
        ending = asyncio.create_task(self._final(), name="final")
        try:
            return await self._followed(ending)
        finally:
            self._screen.pause()
            await end((*live, ending))

    async def _followed(self, ending: asyncio.Task[Json]) -> Exit:
        try:
            left = await self._watched(ending)
        except TimeoutError:
            return await self._gave_up()
        except (click.ClickException, asyncio.CancelledError):
            self._screen.pause()
            click.echo(self._how_to_follow(), err=True)
            raise
        return await self._over(ending.result()) if left is None else left

    async def _watched(self, ending: asyncio.Task[Json]) -> Exit | None:
        """Wait until it is over; return an exit code when it is left before that."""
        async with asyncio.timeout(self._left_s()):
            if not await _until_interrupt(self._interrupts, ending):
                if not self._screen.terminal:
                    return await self._stopped()
                if not await self._is_to_end(ending):
                    return self._left()
            await ending
        return None

    def _left_s(self) -> float | None:
        left = self._until - time.monotonic()
        return None if left == float("inf") else left

    # --- what is known of it

    def _heard(self, name: str, event: Json) -> None:
        self._screen.event(self._board.hear(name, event))
        unnamed = "execution_id" in event and not self._board.test(event["execution_id"]).name
        if unnamed or name == "campaign_progress":
            self._news.set()

    async def _look_at_news(self) -> None:
        """Read a campaign's tests as they begin; whether it is over, `_final` finds out."""
        while True:
            await self._news.wait()
            self._news.clear()
            with contextlib.suppress(click.ClickException):
                await self._look()
            await asyncio.sleep(_BETWEEN)

    async def _final(self) -> Json:
        """Ask until it is over, through restarts of the server."""
        poll = _FIRST_POLL
        known = await self._look()
        while not ExecutionStatus(known["status"]).final:
            known = await self._look(poll)
            poll = min(2 * poll, _LONGEST_POLL)
        return known

    async def _look(self, wait: float | None = None) -> Json:
        known: Json = await self._api.get(self._path, wait=wait)
        if self._kind is not TEST_CASE:
            self._board.total = known["summary"]["total"]
        for number, one in enumerate(self._tests(known)):
            if one["execution_id"] is None:
                one = {**one, "execution_id": f"entry {number}"}  # noqa: PLW2901
            else:
                self._wire.follow("execution_id", one["execution_id"])
            self._screen.event(self._board.learn(one))
        await self._explain()
        return known

    def _tests(self, known: Json) -> list[Json]:
        """Return the tests of a campaign execution; an execution is one by itself."""
        tests: list[Json] = known["results"] if self._kind is not TEST_CASE else [known]
        return tests

    async def _explain(self) -> None:
        """Ask why those wait for which no event said it."""
        silent = [
            execution_id
            for execution_id, test in self._board.tests.items()
            if test.status == ExecutionStatus.QUEUED and not test.waits
        ]
        for execution_id in silent[:_EXPLAINED]:
            with contextlib.suppress(RefusedError):  # it does not wait any more
                path = f"{TEST_CASE.run_path(execution_id)}/queue"
                self._heard(
                    "queue_changed",
                    {"execution_id": execution_id, **await self._api.get(path)},
                )

    # --- how it ends

    async def _over(self, known: Json) -> Exit:
        if not self._screen.terminal:
            await self._wire.caught_up(_CATCH_UP)
        self._screen.pause()
        tests = self._tests(known)
        told = 0
        for test in tests:
            bad = test["status"] in ("failed", "error")
            why = await self._why(test) if bad and told < _TOLD else ""
            told += bad
            tell(_verdict(test, why))
        if self._kind is not TEST_CASE:
            tell(summary(known["summary"]))
            if known["error_kind"]:  # none of its tests says why
                tell(one_line(f"{known['error_kind']}: {known['error']}"))
        tell(self._page)
        return await self._reported(_EXITS.get(known["status"], Exit.TROUBLE))

    async def _why(self, test: Json) -> str:
        whole = test if "steps" in test else None
        if whole is None:
            try:
                whole = await self._api.get(TEST_CASE.run_path(test["execution_id"]))
            except click.ClickException:  # the verdict is known, and that counts
                return ""
        return why_not_passed(whole)

    async def _gave_up(self) -> Exit:
        self._screen.pause()
        tell(f"It was not over in {seconds(self._options.wait_timeout_s)}. {self._how_to_follow()}")
        return await self._reported(Exit.WAITED)

    def _left(self) -> Exit:
        tell(self._how_to_follow())
        return Exit.WAITED

    def _how_to_follow(self) -> str:
        return f"{self._fate}: {self._page}\nTo follow it: vpt logs {self._id} --follow"

    async def _is_to_end(self, ending: asyncio.Task[Json]) -> bool:
        """Ask the person; True when it is over or shall be."""
        self._screen.pause()
        answer = asyncio.create_task(says_yes("Cancel the run on the server?"), name="question")
        try:
            await asyncio.wait({answer, ending}, return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                return True
            if answer.result():
                await self._cancel()
                self._screen.resume()
                return True
            return False
        finally:
            answer.cancel()

    async def _stopped(self) -> Exit:
        """End what nobody waits for any more, at once: a CI system kills who is slow to go."""
        self._screen.say("interrupted: cancelling the run on the server")
        try:
            async with asyncio.timeout(_LAST_WORDS):
                await self._cancel()
                await self._reported(Exit.TROUBLE)
        except TimeoutError:
            click.echo(f"The server did not take it in time. {self._how_to_follow()}", err=True)
        return Exit.TROUBLE

    async def _cancel(self) -> None:
        try:
            await self._api.write("POST", f"{self._path}/cancel")
            self._fate = "It is being cancelled"
        except RefusedError as error:
            if error.status != CONFLICT:  # it was over just then
                raise

    async def _reported(self, code: Exit) -> Exit:
        """Write the report, if it is wanted; without it nothing counts as passed."""
        if self._options.junit is None:
            return code
        try:
            write(self._options.junit, await self._api.ask("GET", f"{self._path}/junit"))
        except (click.ClickException, OSError) as error:
            words = error.message if isinstance(error, click.ClickException) else str(error)
            click.echo(f"Error: {self._options.junit} was not written: {words}", err=True)
            return code or Exit.TROUBLE
        return code


def is_plain(path: Path) -> bool:
    """Return True for a file, which may be replaced, False for a device or pipe (/dev/stdout)."""
    return path.absolute().parts[1:2] != ("dev",) and (path.is_file() or not path.exists())


def write(path: Path, text: bytes) -> None:
    """Write a plain file whole or not at all."""
    if not is_plain(path):
        with path.open("ab") as device:  # the lines that went to /dev/stdout stay, too
            device.write(text)
        return
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        draft.write_bytes(text)
        os.replace(draft, path)  # noqa: PTH105
    finally:
        draft.unlink(missing_ok=True)


def _verdict(test: Json, why: str) -> str:
    words = {"completed": "passed", "failed": "FAILED", "error": "ERROR"}
    where = ", ".join(part for part in (test["device_id"], seconds(test["duration_s"])) if part)
    line = f"{words.get(test['status'], test['status']):9} {one_line(test['test_case_name'], 100)}"
    return line + (f" ({where})" if where else "") + (f": {why}" if why else "")
