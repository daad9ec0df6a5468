"""Fetches that are shared: many who want one thing cause one fetch of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from vpt.background import Background
from vpt.errors import VptError

T = TypeVar("T")
_REFUSED_AGE = 1.0  # seconds


@dataclass(slots=True, eq=False)
class _Fetch(Generic[T]):
    """One fetch: its end, and when it came."""

    end: asyncio.Future[T | VptError]
    size: int = 0
    ended: float | None = None
    refused: bool = False

    def is_older(self, now: float, max_age: float) -> bool:
        """Return whether it ended longer ago; a refusal counts for a second only."""
        age = 0.0 if self.ended is None else now - self.ended
        return age > (min(max_age, _REFUSED_AGE) if self.refused else max_age)


class SharedFetches(Generic[T]):
    """Fetches each thing once for all who ask for it together, and keeps it for a moment.

    Refusals are kept for a second at most, so that a host which is away is not asked more often.
    Beyond `most` bytes the oldest things go; what is old is dropped with the next fetch.
    """

    OLDEST = 30.0  # seconds

    def __init__(self, size_of: Callable[[T], int], most: int) -> None:
        self._size_of = size_of
        self._most = most
        self._fetches: dict[Hashable, _Fetch[T]] = {}
        self._background = Background()

    async def close(self) -> None:
        """End all fetches."""
        await self._background.close()

    async def get(self, key: Hashable, max_age: float, fetch: Callable[[], Awaitable[T]]) -> T:
        """Return what `fetch` brings, or what it brought at most `max_age` seconds ago."""
        now = asyncio.get_running_loop().time()
        one = self._fetches.get(key)
        if one is None or one.is_older(now, max_age):
            one = self._begin(key, fetch, now)
        # Whoever asked may go away: the fetch is for the others, too.
        outcome = await asyncio.shield(one.end)
        if isinstance(outcome, VptError):
            raise outcome
        return outcome

    def _begin(self, key: Hashable, fetch: Callable[[], Awaitable[T]], now: float) -> _Fetch[T]:
        self._forget(now)
        one = _Fetch[T](asyncio.get_running_loop().create_future())
        self._fetches[key] = one
        self._background.start(self._fetch(one, fetch), f"fetch of {key}")
        return one

    async def _fetch(self, one: _Fetch[T], fetch: Callable[[], Awaitable[T]]) -> None:
        # Whatever ends it, those who wait are answered: what is no VptError is logged by its owner.
        outcome: T | VptError = VptError()
        try:
            outcome = await fetch()
            one.size = self._size_of(outcome)
        except VptError as error:
            outcome = error
        finally:
            one.refused = isinstance(outcome, VptError)
            one.ended = asyncio.get_running_loop().time()
            if not one.end.done():
                one.end.set_result(outcome)

    def _forget(self, now: float) -> None:
        """Drop what is old, and the oldest beyond the bytes that may be kept."""
        # What is under way stays: it is waited for, and each of its kind has a limit of its own.
        over = {key: one for key, one in self._fetches.items() if one.ended is not None}
        held = sum(one.size for one in over.values())
        for key, one in sorted(over.items(), key=lambda item: item[1].ended or 0.0):
            if held <= self._most and now - (one.ended or 0.0) <= self.OLDEST:
                return
            held -= one.size
            del self._fetches[key]
