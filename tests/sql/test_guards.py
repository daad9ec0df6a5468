"""Each statement that writes does its work in its good state, and nothing in any other."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.sql.conftest import Seeded
from tests.sql.kit import all_rows, changes, run, undone
from tests.sql.rules import CAMPAIGNS, LAB, RULES, RUNS, UNGUARDED, State, good, state_of
from vpt.store.db import SQL, read_queries

pytestmark = pytest.mark.asyncio(loop_scope="module")
QUERIES = read_queries()
_WRITES = re.compile(r"\b(INSERT INTO|UPDATE \w+\b|DELETE FROM)")


def named(name: str, state: str) -> object:
    """Build the parameters of a test from a statement and one of its states."""
    return pytest.param(name, state, id=f"{name}: {state}".replace(" ", "_"))


async def done(lab: Seeded, name: str, state: State) -> tuple[object, bool]:
    """Run the statement in this state; return what it changed, and whether it gave a row."""
    connection = lab.connection
    async with undone(connection):
        await connection.execute(f"SELECT; {state.sql}")
        before = await all_rows(connection, lab.everything)
        rows = await outcome(connection, name, state)
        after = await all_rows(connection, lab.everything)
        return await changes(connection, before, after), bool(rows)


async def outcome(connection: Any, name: str, state: State) -> list[Any]:
    """Run the statement; return its rows, none when it raises what it should."""
    if state.raises is None:
        rows = await run(connection, QUERIES[name], state.args)
        assert len(rows) <= 1, "its caller reads one"
        return rows
    with pytest.raises(state.raises):
        async with connection.transaction():
            await run(connection, QUERIES[name], state.args)
    return []


@pytest.mark.parametrize("name", RULES)
async def test_it_does_its_work_in_the_good_state(seeded: Seeded, name: str) -> None:
    did, answered = await done(seeded, name, good(name))
    assert did == good(name).does
    assert answered or not RULES[name].answers


@pytest.mark.parametrize(
    ("name", "state"), [named(name, one) for name, rule in RULES.items() for one in rule.other]
)
async def test_it_does_what_another_good_state_needs(seeded: Seeded, name: str, state: str) -> None:
    did, answered = await done(seeded, name, state_of(name, state))
    assert did == state_of(name, state).does
    assert answered or not RULES[name].answers


@pytest.mark.parametrize(
    ("name", "state"), [named(name, one) for name, rule in RULES.items() for one in rule.nothing]
)
async def test_it_changes_nothing_in_any_other(seeded: Seeded, name: str, state: str) -> None:
    did, answered = await done(seeded, name, state_of(name, state))
    assert did == state_of(name, state).does
    assert not (answered and RULES[name].answers), "its caller would take it for done"


@pytest.mark.parametrize("file", ["runs", "lab", "campaigns"])
async def test_every_statement_that_writes_has_its_rule(file: str) -> None:
    writing = {
        name
        for name, query in read_queries_of(file).items()
        if _WRITES.search(re.sub(r"--.*|FOR (NO KEY )?UPDATE|DO UPDATE", "", query))
    }
    ruled = {"runs": RUNS, "lab": LAB, "campaigns": CAMPAIGNS}[file]
    assert writing - UNGUARDED.keys() == ruled.keys()
    assert UNGUARDED.keys() <= QUERIES.keys()


def read_queries_of(file: str) -> dict[str, str]:
    """Return the statements of one file by their names."""
    text = (SQL / f"{file}.sql").read_text(encoding="utf-8")
    return {name: query.sql for name, query in QUERIES.items() if f"\n-- {name}(" in text}
