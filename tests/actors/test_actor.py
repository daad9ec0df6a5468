"""The inbox: one message at a time, whole, in the order in which they came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from structlog.contextvars import bind_contextvars, get_contextvars

from vpt.actors.actor import Actor
from vpt.errors import UnavailableError


class Clerk(Actor[str]):
    """Notes what it is told; a word with `>` makes it leave itself the rest."""

    def __init__(self) -> None:
        super().__init__("clerk", inbox_limit=3)
        self.noted: list[str] = []

    def receive(self, message: str) -> bool:
        self.noted.append(f"{message} began")
        word, _, rest = message.partition(">")
        if rest:
            self.deliver(rest)
        if word == "crash":
            raise RuntimeError(word)
        if word == "bind":
            self.noted.append(str(get_contextvars()))
        self.noted.append(f"{message} ended")
        return word == "stop"


@pytest.fixture
async def clerk() -> AsyncIterator[Clerk]:
    """Give one that lives, as its owner would keep it."""
    clerk = Clerk()
    life = asyncio.create_task(clerk.run())
    life.add_done_callback(lambda _: clerk.ended())
    await asyncio.sleep(0)
    yield clerk
    life.cancel()
    with suppress(asyncio.CancelledError, ExceptionGroup):
        await life


async def test_what_is_brought_to_an_idle_actor_is_taken_at_once(clerk: Clerk) -> None:
    clerk.deliver("a")
    assert clerk.noted == ["a began", "a ended"]


async def test_what_is_told_waits_for_a_turn_and_nobody_overtakes_it(clerk: Clerk) -> None:
    clerk.tell("a")
    clerk.deliver("b")
    assert (clerk.noted, clerk.depth) == ([], 2)
    await asyncio.sleep(0)
    assert clerk.noted == ["a began", "a ended", "b began", "b ended"]


async def test_a_message_is_whole_before_the_next_one_begins(clerk: Clerk) -> None:
    clerk.deliver("a>b>c")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert clerk.noted == [f"{word} {end}" for word in ("a>b>c", "b>c", "c") for end in _ENDS]


_ENDS = ("began", "ended")


async def test_it_logs_in_its_own_name_whoever_brings_something(clerk: Clerk) -> None:
    bind_contextvars(request_id="r1")
    clerk.deliver("bind")
    assert clerk.noted[1] == "{}"


@pytest.mark.parametrize("end", ["stop", "crash"])
async def test_nothing_is_taken_after_the_end_and_who_asks_is_told(clerk: Clerk, end: str) -> None:
    asker = asyncio.create_task(clerk.ask(lambda _: end, 5))
    with pytest.raises(UnavailableError):
        await asker
    noted = list(clerk.noted)
    clerk.tell("a")
    clerk.deliver("b")
    await asyncio.sleep(0)
    assert clerk.noted == noted


async def test_a_full_inbox_refuses_askers_and_takes_facts() -> None:
    clerk = Clerk()  # it does not live yet
    for word in ("a", "b", "c", "d"):
        clerk.tell(word)
    with pytest.raises(UnavailableError):
        await clerk.ask(str, 5)
    assert clerk.depth == 4
