"""Writes of many hosts in one statement: what comes while one is under way goes with the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from vpt.errors import DatabaseAwayError

T = TypeVar("T")
_MOST = 100  # items of one statement
_HEAVIEST = 2**20  # and about as many bytes: a statement must end within its time limit


class Batcher(Generic[T]):
    """Natural batching: alone an item waits for nobody, in a crowd it shares the commit."""

    def __init__(
        self,
        write: Callable[[list[T]], Awaitable[object]],
        weigh: Callable[[T], int] = lambda _: 0,
    ) -> None:
        self._write = write
        self._weigh = weigh
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def put(self, item: T) -> None:
        """Return when the item stands; raise what its write raised."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="batcher")
        await future

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._try(self._next())
        finally:
            self._worker = None

    def _next(self) -> list[tuple[T, asyncio.Future[None]]]:
        """Take as much as fits into one statement, the first at least."""
        count, weight = 1, self._weigh(self._waiting[0][0])
        for item, _ in self._waiting[1:_MOST]:
            weight += self._weigh(item)
            if weight > _HEAVIEST:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def _try(self, batch: list[tuple[T, asyncio.Future[None]]]) -> None:
        try:
            await self._write([item for item, _ in batch])
        except DatabaseAwayError as error:  # for all of them, and they come again
            for _, future in batch:
                _settle(future, error)
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 (it goes to those who wait for it)
            await self._apart(batch, error)
        else:
            for _, future in batch:
                _settle(future, None)

    async def _apart(self, batch: list[tuple[T, asyncio.Future[None]]], error: Exception) -> None:
        """One bad item must not take the others down: write them one by one."""
        if len(batch) == 1:
            _settle(batch[0][1], error)
            return
        for one in batch:
            await self._try([one])


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
