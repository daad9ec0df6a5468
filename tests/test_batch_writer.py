"""The batching writer: who waits for what, and what is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from vpt.errors import DatabaseAwayError, SlowStatementError
from vpt.store import batch as batch_module
from vpt.store.batch import BatchWriter

Write = Callable[[list[int]], Awaitable[None]]


class Statements:
    """The statements that a writer sent; `errors` end the next ones, `refused` its own."""

    def __init__(self, *errors: Exception, refused: int | None = None) -> None:
        self.sent: list[list[int]] = []
        self.stored: list[int] = []
        self.errors = list(errors)
        self.refused = refused
        self.free = asyncio.Event()
        self.free.set()

    async def write(self, values: list[int]) -> None:
        self.sent.append(values)
        await self.free.wait()
        if self.errors:
            raise self.errors.pop(0)
        if self.refused in values:
            raise ValueError("refused")
        self.stored += values


async def test_what_comes_while_a_statement_runs_shares_the_next_one() -> None:
    statements = Statements()
    writer = BatchWriter(statements.write, name="w", most=3)
    statements.free.clear()
    putting = [asyncio.create_task(writer.put(0))]
    while not statements.sent:  # noqa: ASYNC110
        await asyncio.sleep(0)
    putting += [asyncio.create_task(writer.put(number)) for number in range(1, 6)]
    await asyncio.sleep(0)
    statements.free.set()
    await asyncio.gather(*putting)
    assert statements.sent == [[0], [1, 2, 3], [4, 5]]
    await writer.close()


async def test_a_value_that_is_refused_takes_no_other_with_it() -> None:
    statements = Statements(refused=2)
    writer = BatchWriter(statements.write, name="w")
    results = await asyncio.gather(*map(writer.put, range(4)), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), type(None), ValueError, type(None)]
    assert sorted(statements.stored) == [0, 1, 3]
    await writer.close()


async def test_a_statement_that_is_too_slow_is_sent_in_parts() -> None:
    statements = Statements(SlowStatementError())
    writer = BatchWriter(statements.write, name="w")
    await asyncio.gather(*map(writer.put, range(3)))
    assert sorted(statements.stored) == [0, 1, 2]
    assert [1] in statements.sent
    await writer.close()


async def test_who_waits_is_told_that_the_database_is_away() -> None:
    statements = Statements(DatabaseAwayError())
    writer = BatchWriter(statements.write, name="w")
    results = await asyncio.gather(*map(writer.put, range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [DatabaseAwayError] * 3
    await writer.put(9)
    assert statements.stored == [9]
    await writer.close()


async def test_noted_values_are_kept_in_order_until_the_database_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch_module, "_AWAY", 0)
    statements = Statements(DatabaseAwayError(), DatabaseAwayError())
    writer = BatchWriter(statements.write, name="w", most=2)
    for number in range(5):
        writer.note(number)
    while len(statements.stored) < 5:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert statements.stored == [0, 1, 2, 3, 4]
    await writer.close()


async def test_a_flush_that_fails_loses_nothing_and_a_noted_value_that_is_refused_is_told() -> None:
    lost: list[Sequence[int]] = []
    statements = Statements(DatabaseAwayError(), refused=1)
    writer = BatchWriter(
        statements.write, name="w", lost=lambda values, _error: lost.append(values)
    )
    await writer.close()  # nothing is written by itself from here on
    for number in range(3):
        writer.note(number)
    with pytest.raises(DatabaseAwayError):
        await writer.flush()
    assert [value for value, _ in writer.waiting] == [0, 1, 2]
    await writer.flush()
    assert statements.stored == [0, 2]
    assert lost == [[1]]


@pytest.mark.parametrize("values", [1, 3])
async def test_noted_values_are_kept_while_their_statements_are_too_slow(
    monkeypatch: pytest.MonkeyPatch, values: int
) -> None:
    """A disk that stands still for a while lets reading go on, so that writing looks slow."""
    monkeypatch.setattr(batch_module, "_AWAY", 0)
    lost: list[Sequence[int]] = []
    statements = Statements(*(SlowStatementError() for _ in range(2 * values + 1)))
    writer = BatchWriter(
        statements.write, name="w", lost=lambda values, _error: lost.append(values)
    )
    for number in range(values):
        writer.note(number)
    while writer.waiting or len(statements.stored) < values - len(lost):  # noqa: ASYNC110
        await asyncio.sleep(0)
    await writer.close()
    assert (sorted(statements.stored), lost) == (list(range(values)), [])


async def test_closing_in_the_middle_of_a_statement_keeps_noted_values() -> None:
    statements = Statements()
    statements.free.clear()
    writer = BatchWriter(statements.write, name="w")
    writer.note(1)
    while not statements.sent:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await writer.close()
    statements.free.set()
    await writer.flush()
    assert statements.stored == [1]


async def test_whoever_waits_at_the_end_or_comes_after_it_is_not_left_waiting() -> None:
    statements = Statements()
    writer = BatchWriter(statements.write, name="w", most=1)
    statements.free.clear()
    putting = [asyncio.create_task(writer.put(number)) for number in range(3)]
    while not statements.sent:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await writer.close()
    putting.append(asyncio.create_task(writer.put(3)))
    _, left = await asyncio.wait(putting, timeout=5)
    assert not left
    assert all(put.cancelled() for put in putting)


async def test_what_is_noted_after_the_end_is_kept() -> None:
    writer = BatchWriter(Statements().write, name="w")
    await writer.close()
    writer.note(1)
    assert [value for value, _ in writer.waiting] == [1]


async def test_what_was_stored_alone_is_not_written_again_when_the_rest_has_to_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch_module, "_AWAY", 0)
    stored: list[int] = []
    errors: list[Exception | None] = [SlowStatementError(), None, DatabaseAwayError()]

    async def write(values: list[int]) -> None:
        error = errors.pop(0) if errors else None
        if error is not None:
            raise error
        stored.extend(values)

    writer = BatchWriter(write, name="w")
    for number in range(3):
        writer.note(number)
    while writer.waiting or len(stored) < 3:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await writer.close()
    assert stored == [0, 1, 2]
