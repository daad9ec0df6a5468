"""Hosts are killed and stopped in the middle of a step: the run goes on, nothing acts twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.actors.fake_host import FakeHost, until
from tests.faults.kit import (
    BOUND,
    SLACK,
    SOON,
    check_calm,
    continued,
    events,
    grown,
    host_is,
    kinds,
    reason,
    stopped,
)
from tests.system.kit import (
    Process,
    ask,
    begun,
    client,
    execute,
    final,
    joined,
    journal,
    make,
    open_folder,
    reference_host,
    server,
    shell,
)
from vpt.model import Json

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Floor:
    """A server that soon notices who is away."""

    folder: Path
    one: Process
    session: aiohttp.ClientSession

    async def run(self, *commands: str, **more: object) -> str:
        """Run shell commands on any desktop."""
        steps = [shell(command) for command in commands]
        return await execute(self.session, await make(self.session, *steps), **more)

    @asynccontextmanager
    async def host(self, name: str) -> AsyncIterator[Process]:
        """Give a reference host that has a free desktop."""
        async with reference_host(self.one, self.folder, name) as one:
            await host_is(self.session, name, "available")
            yield one

    async def tried_again(self, execution_id: str, limit_s: float) -> None:
        """Wait until the second attempt begins, so long at most."""

        async def look() -> bool:
            return (await ask(self.session, "GET", f"/api/executions/{execution_id}"))[
                "attempt"
            ] > 1

        await until(look, limit_s)

    def dropped(self, execution_id: str) -> list[Json]:
        """Give what was logged of late answers."""
        entries = events(self.one, "late_answer_dropped")
        return [entry for entry in entries if entry["execution_id"] == execution_id]

    async def is_up(self, name: str) -> bool:
        """True when its probes are good, whether it gets work or not."""
        host = await ask(self.session, "GET", f"/api/hosts/{name}/status")
        return host["status"] == "available" or host["reason"] == "flapping"

    async def reason_is(self, name: str, reason: str) -> Json | None:
        """Give what REST says of a host once that is its reason."""
        host: Json = await ask(self.session, "GET", f"/api/hosts/{name}/status")
        return host if host["reason"] == reason else None


@asynccontextmanager
async def _floor(**settings: object) -> AsyncIterator[Floor]:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(open_folder())
        one = await stack.enter_async_context(server(folder, **SOON | settings))
        yield Floor(folder, one, await stack.enter_async_context(client(one)))
        assert await one.stop() == 0
        check_calm(one)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def floor() -> AsyncIterator[Floor]:
    """Give one server to all; each test has hosts of its own."""
    async with _floor() as floor:
        yield floor


@pytest_asyncio.fixture(loop_scope="module")
async def patient() -> AsyncIterator[Floor]:
    """Give a server that waits for a host as long as its start may take on a busy machine."""
    async with _floor(RUN_GRACE=60) as floor:
        yield floor


def _slow_once(acted: Path, word: str, seconds: float) -> str:
    """Give a command that takes so long the first time only."""
    return f"echo {word} >> {acted}; ! mkdir {acted}.once || sleep {seconds}"


async def test_a_run_whose_host_is_killed_and_never_back_is_on_another_one_within_the_bound(
    floor: Floor,
) -> None:
    acted = floor.folder / "dies.acted"
    async with floor.host("dies") as dies:
        slow = _slow_once(acted, "two", 20)
        execution_id = await floor.run(f"echo one >> {acted}", slow)
        await grown(acted, "two")
        async with floor.host("other"):
            await dies.kill()
            await floor.tried_again(execution_id, BOUND + SLACK)
            execution = await final(floor.session, execution_id)
    assert kinds(execution) == [("dies", "host_lost"), ("other", None)]
    assert execution["status"] == "completed"
    assert acted.read_text().split() == ["one", "two", "one", "two"]
    keys = [*begun(floor.folder / "dies"), *begun(floor.folder / "other")]
    assert len(set(keys)) == len(keys) == 4


async def test_a_host_that_died_in_the_middle_of_a_step_does_not_act_on_it_again(
    patient: Floor,
) -> None:
    acted = patient.folder / "died.acted"
    async with patient.host("died") as died:
        commands = [f"echo one >> {acted}", f"echo two >> {acted}; sleep 1", "true"]
        execution_id = await patient.run(*commands, host_id="died")
        await grown(acted, "two")
        await died.kill()
        async with reference_host(patient.one, patient.folder, "died"):
            execution = await final(patient.session, execution_id)
    assert execution["status"] == "completed"
    assert kinds(execution) == [("died", "host_lost"), ("died", None)]
    assert "cannot tell" in execution["attempts"][0]["error"]
    assert acted.read_text().split() == ["one", "two", "one", "two"]
    keys = [f"{execution_id}/{key}/1" for key in ("1/1", "1/2", "2/1", "2/2", "2/3")]
    assert begun(patient.folder / "died") == keys


async def test_a_host_that_hangs_for_a_moment_is_suspect_and_its_run_ends_in_the_same_attempt(
    floor: Floor,
) -> None:
    acted = floor.folder / "hangs.acted"
    async with floor.host("hangs") as hangs:
        execution_id = await floor.run(f"echo one >> {acted}; sleep 0.5", f"echo two >> {acted}")
        await grown(acted, "one")
        stopped(hangs)
        await host_is(floor.session, "hangs", "suspect")
        waiting = await floor.run("true", host_id="hangs")
        assert await reason(floor.session, waiting) == "host_suspect"
        assert (await ask(floor.session, "GET", f"/api/executions/{execution_id}"))["attempt"] == 1
        continued(hangs)
        execution = await final(floor.session, execution_id)
        assert (await final(floor.session, waiting))["status"] == "completed"
    assert (execution["status"], kinds(execution)) == ("completed", [("hangs", None)])
    assert acted.read_text().split() == ["one", "two"]
    assert begun(floor.folder / "hangs")[:2] == [f"{execution_id}/1/{step}/1" for step in (1, 2)]


async def test_what_a_host_says_when_its_attempt_is_given_up_changes_nothing(floor: Floor) -> None:
    acted = floor.folder / "late.acted"
    async with floor.host("late") as late, floor.host("spare"):
        await ask(floor.session, "POST", "/api/hosts/spare/drain", {})
        execution_id = await floor.run(_slow_once(acted, "one", 1.5), "true")
        await grown(acted, "one")
        stopped(late)
        await ask(floor.session, "POST", "/api/hosts/spare/resume", {})
        await floor.tried_again(execution_id, BOUND + SLACK)
        execution = await final(floor.session, execution_id)
        assert kinds(execution) == [("late", "host_lost"), ("spare", None)]
        following = await floor.run("true", host_id="late")
        assert await reason(floor.session, following) == "no_online_host"
        assert floor.dropped(execution_id) == []
        continued(late)
        assert (await final(floor.session, following))["status"] == "completed"
        await until(lambda: floor.dropped(execution_id))
        [entry] = floor.dropped(execution_id)
    assert (entry["attempt"], entry["step"], entry["level"]) == (1, 1, "warning")
    again = await ask(floor.session, "GET", f"/api/executions/{execution_id}")
    assert again == execution
    assert acted.read_text().split() == ["one", "one"], "once in each attempt"
    told = [line["do"] for line in journal(floor.folder / "late")]
    assert told.index("cancel") < len(told) - 1 - told[::-1].index("begin"), (
        "the device is given out again when the cancel of the lost attempt is acknowledged"
    )


@pytest.mark.long
async def test_a_host_that_flaps_is_held_back_and_shown_so_until_it_finishes_a_run(
    floor: Floor,
) -> None:
    host = FakeHost("flaps", model="flapping")
    async with joined(floor.session, host):
        await host_is(floor.session, "flaps", "available")
        for _ in range(3):
            await _lose_and_find(floor, host)
        shown = await until(lambda: floor.reason_is("flaps", "flapping"))
        assert shown["status"] == "suspect"
        left = datetime.fromisoformat(shown["reason_until"]) - datetime.now(UTC)
        assert 5 < left.total_seconds() <= 10
        test_case_id = await make(floor.session, "a", model="flapping")
        execution_id = await execute(floor.session, test_case_id)
        assert await reason(floor.session, execution_id) == "paused"
        execution = await final(floor.session, execution_id)
        assert execution["status"] == "completed"
        started = datetime.fromisoformat(execution["started_at"])
        assert started >= datetime.fromisoformat(shown["reason_until"]) - timedelta(seconds=1.5)
        await _lose_and_find(floor, host)
        shown = await host_is(floor.session, "flaps", "available", "suspect")
        assert shown["status"] == "available", "what made it flap is forgotten"


async def _lose_and_find(floor: Floor, host: FakeHost) -> None:
    await host.vanish()
    await host_is(floor.session, host.name, "lost")
    await host.appear()
    await until(lambda: floor.is_up(host.name))
