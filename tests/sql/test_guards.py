"""Each statement that writes does its work in its good state, and nothing in any other."""

from __future__ import annotations

import re

import pytest

from tests.sql.kit import all_rows, changes, run, undone
from tests.sql.rules import CAMPAIGNS, LAB, RULES, RUNS, UNGUARDED, State, good, state_of
from vpt.store.db import SQL, read_queries

QUERIES = read_queries()
_WRITES = re.compile(r"\b(INSERT INTO|UPDATE \w+\b|DELETE FROM)")


def named(name: str, state: str) -> object:
    """Build the parameters of a test from a statement and one of its states."""
    return pytest.param(name, state, id=f"{name}: {state}".replace(" ", "_"))


async def done(dsn: str, name: str, state: State) -> tuple[object, bool]:
    """Run the statement in this state; return what it changed, and whether it gave a row."""
    async with undone(dsn) as connection:
        await connection.execute(f"SELECT; {state.sql}")
        before = await all_rows(connection)
        if state.raises is not None:
            with pytest.raises(state.raises):
                async with connection.transaction():
                    await run(connection, QUERIES[name], state.args)
            return await changes(connection, before, await all_rows(connection)), False
        rows = await run(connection, QUERIES[name], state.args)
        assert len(rows) <= 1, "its caller reads one"
        return await changes(connection, before, await all_rows(connection)), bool(rows)


@pytest.mark.parametrize("name", RULES)
async def test_it_does_its_work_in_the_good_state(seeded: str, name: str) -> None:
    did, answered = await done(seeded, name, good(name))
    assert did == good(name).does
    assert answered or not RULES[name].answers


@pytest.mark.parametrize(
    ("name", "state"), [named(name, one) for name, rule in RULES.items() for one in rule.other]
)
async def test_it_does_what_another_good_state_needs(seeded: str, name: str, state: str) -> None:
    did, answered = await done(seeded, name, state_of(name, state))
    assert did == state_of(name, state).does
    assert answered or not RULES[name].answers


@pytest.mark.parametrize(
    ("name", "state"), [named(name, one) for name, rule in RULES.items() for one in rule.nothing]
)
async def test_it_changes_nothing_in_any_other(seeded: str, name: str, state: str) -> None:
    did, answered = await done(seeded, name, state_of(name, state))
    assert did == state_of(name, state).does
    assert not (answered and RULES[name].answers), "its caller would take it for done"


@pytest.mark.parametrize("file", ["runs", "lab", "campaigns"])
def test_every_statement_that_writes_has_its_rule(file: str) -> None:
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
