"""Writes of many in one statement: what arrives while a statement runs shares the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from vpt.background import Background
from vpt.errors import DatabaseAwayError, SlowStatementError
from vpt.upkeep import attempt, note_failure

T = TypeVar("T")
_MOST = 100  # values of one statement
_HEAVIEST = 2**20  # and about as many bytes: a statement must end within its time limit
_AWAY = 1.0  # seconds between tries while the database is away

_Waiter = asyncio.Future[None]


class BatchWriter(Generic[T]):
    """Writes values in their order; alone a value waits for nothing, in a crowd it shares a commit.

    `put` waits until its value is stored, and leaves it to its caller to try again. `note` returns
    at once, and the value is kept until it is stored. `write` must be harmless when it is sent the
    same values again, since a connection may break after COMMIT.
    """

    def __init__(
        self,
        write: Callable[[list[T]], Awaitable[object]],
        *,
        name: str,
        weigh: Callable[[T], int] = lambda _: 0,
        most: int = _MOST,
        pause: float = 0.0,
        lost: Callable[[Sequence[T], Exception | None], None] = lambda _values, _error: None,
    ) -> None:
        """Set `write` and its limits: `most` values a statement, `weigh` their bytes.

        `pause` is in seconds, between two statements of noted values. `lost` is told of noted
        values that the database refuses.
        """
        self._write = write
        self._name = name
        self._weigh = weigh
        self._most = most
        self.pause = pause
        self._lost = lost
        self.waiting: deque[tuple[T, _Waiter | None]] = deque()
        self._background = Background()
        self._busy = False
        self._closed = False
        self._turn = asyncio.Lock()  # one statement at a time, also beside a flush

    async def put(self, value: T) -> None:
        """Return when `value` is stored; raise what its statement raised."""
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        self._add(value, waiter)
        await waiter

    def note(self, value: T) -> None:
        """Keep `value` until it is stored; never waits."""
        self._add(value, None)

    async def flush(self) -> None:
        """Write what waits now; DatabaseAwayError when it has to wait on."""
        left = len(self.waiting)
        while left > 0 and self.waiting:
            left -= await self._write_batch()

    async def close(self) -> None:
        """End the writing; noted values that are not stored are left in `waiting`.

        Whoever waits is cancelled, and so is who comes later: nobody would write for them.
        """
        self._closed = True
        await self._background.close()
        left, self.waiting = self.waiting, deque()
        for value, waiter in left:
            self._add(value, waiter)

    def _add(self, value: T, waiter: _Waiter | None) -> None:
        if self._closed and waiter is not None:
            waiter.cancel()
            return
        self.waiting.append((value, waiter))
        if not self._busy:
            self._busy = True
            self._background.start(self._work(), self._name)

    async def _work(self) -> None:
        try:
            while self.waiting:
                if not await attempt(self._write_next):
                    await asyncio.sleep(_AWAY)
        finally:
            self._busy = False

    async def _write_next(self) -> None:
        """Write one statement, and pause after it or until the database may be back."""
        try:
            await self._write_batch()
            if self.pause:
                await asyncio.sleep(self.pause)
        except DatabaseAwayError:
            await asyncio.sleep(_AWAY)

    async def _write_batch(self) -> int:
        """Write as much as fits into one statement; return how many values it took.

        While the database is away, those who wait get DatabaseAwayError, and noted values go back
        to the front: then it is raised here, too.
        """
        async with self._turn:
            if not self.waiting:
                return 0
            batch = self._next()
            taken = len(batch)
            try:
                await self._store(batch)
            except DatabaseAwayError as error:
                self._settle(batch, error)
                if self._put_back(batch):
                    raise
            except asyncio.CancelledError:
                for _, waiter in batch:
                    if waiter is not None:
                        waiter.cancel()
                self._put_back(batch)
                raise
            return taken

    def _put_back(self, batch: list[tuple[T, _Waiter | None]]) -> bool:
        """Return noted values to the front; return whether there are any."""
        noted = [item for item in batch if item[1] is None]
        self.waiting.extendleft(reversed(noted))
        return bool(noted)

    def _next(self) -> list[tuple[T, _Waiter | None]]:
        """Remove and return as many values as fit into one statement, at least one."""
        batch = [self.waiting.popleft()]
        weight = self._weigh(batch[0][0])
        while self.waiting and len(batch) < self._most:
            weight += self._weigh(self.waiting[0][0])
            if weight > _HEAVIEST:
                break
            batch.append(self.waiting.popleft())
        return batch

    async def _store(self, batch: list[tuple[T, _Waiter | None]]) -> None:
        try:
            await self._write([value for value, _ in batch])
        except SlowStatementError as error:  # it was too much, or one of them is too slow
            await self._apart(batch, error)
        except DatabaseAwayError:  # for all of them alike
            raise
        except Exception as error:  # noqa: BLE001 (it goes to those who wait for it)
            await self._apart(batch, error)
        else:
            self._settle(batch, None)

    async def _apart(self, batch: list[tuple[T, _Waiter | None]], error: Exception) -> None:
        """Write the values one by one: one that cannot be stored must not take others with it.

        What is done leaves `batch`, so that only the rest is put back when the database goes away.
        """
        if len(batch) > 1:
            while batch:
                await self._store(batch[:1])
                del batch[0]
            return
        value, waiter = batch[0]
        # It waits on, as while the database is away: nobody else would try it again.
        if waiter is None and isinstance(error, SlowStatementError):
            raise error
        self._settle(batch, error)
        if waiter is None:
            self._report_lost(value, error)

    def _report_lost(self, value: T, error: Exception) -> None:
        """Report a value that the database refuses; a report that fails takes no other along."""
        try:
            self._lost([value], error)
        except Exception as failure:  # noqa: BLE001 (it is logged)
            note_failure(failure, self._name)

    @staticmethod
    def _settle(batch: list[tuple[T, _Waiter | None]], error: Exception | None) -> None:
        for _, waiter in batch:
            if waiter is None or waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)
