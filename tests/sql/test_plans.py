"""No named query reads a table whole, whatever the tables had in them when it was planned.

A connection keeps the plan of a query for minutes. On a new database that plan is made while all
tables are empty, when to read a table whole seems cheapest; it is kept while they fill.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from tests.conftest import Postgres
from tests.sql.kit import HERE, make_database
from vpt.store.db import SETTINGS, Database, Query, read_queries

pytestmark = pytest.mark.asyncio(loop_scope="module")

STATES = ("empty", "filled", "filled and analysed")
Plan = dict[str, Any]
Plans = dict[str, dict[str, list[str]]]

#: Queries that read all of a table, and why they may.
EXCEPTIONS = {
    "a_server_lives": "one row",
    "renew_instance": "one row",
    "drop_instance": "one row",
    "clear_instance": "one row",
    "leave_pruning": "one row",
    "pruned_ago": "one row",
    "pruning_holders": "one row",
    "claim_holders": "one row",
    "schema_names": "a row a migration",
    "sealed_of_hosts": "all hosts, once a restore",
    "sealed_secrets": "all of them, once a restore",
    "lab_hosts": "all hosts, once a start",
    "lab_leases": "all leases, once a start; one a device at most",
    "keep_hosts": "locks all hosts, once an hour",
    "lab_counts": "counts all hosts and devices",
    "device_metrics": "counts all executions, from an index that has all it needs",
    "host_tokens": "counts all tokens of hosts",
    "drop_unused_schemas": "looks at each schema, of which there are a few a device model",
    "missing_schemas": "a few a device model",
    "drop_old_leases": "one lease a device at most",
}
#: Indexes that have rows of what is under way only: to read one whole is no scan of a table.
OF_WHAT_IS_UNDER_WAY = {
    "one_attempt_a_device",
    "one_running_attempt_an_execution",
    "test_executions_open",
    "campaign_executions_running",
}
#: What each step and each execution takes. These need no setting of the connection either.
PATH_OF_A_RUN = (
    "insert_execution",
    "start_attempt",
    "begun_attempt",
    "finish_steps",
    "store_handle",
    "retry_step",
    "end_attempt",
    "release_device",
)
#: SET and LOCK.
NOT_PLANNED = {"plan_anew", "lock_instance", "lock_schemas"}
#: Lists that give one item, too.
BY_ID = ("campaign_items", "device_items", "host_items")
_INDEX_SCANS = {"Index Scan", "Index Only Scan", "Bitmap Index Scan"}
GENERIC = {**SETTINGS, "plan_cache_mode": "force_generic_plan"}
_DEFAULTS = {"enable_seqscan": "on"}


def nodes(plan: Plan, *, limited: bool = False) -> Iterator[tuple[Plan, bool]]:
    """Walk through a plan; tell of each node whether a LIMIT above ends it early."""
    yield plan, limited
    for child in plan.get("Plans", ()):
        yield from nodes(child, limited=limited or plan["Node Type"] == "Limit")


def read_whole(plan: Plan) -> Iterator[str]:
    """Name what a plan reads from its first to its last row.

    The catalogue may be read whole: it grows with tables, not with what is in them.
    """
    for node, limited in nodes(plan):
        kind = node["Node Type"]
        if kind == "Seq Scan":
            if not node["Relation Name"].startswith("pg_"):
                yield node["Relation Name"]
            continue
        if "Index Cond" in node or kind not in _INDEX_SCANS:
            continue
        if not limited and node["Index Name"] not in OF_WHAT_IS_UNDER_WAY:
            yield node["Index Name"]


async def plan_of(connection: Any, query: Query) -> Plan:
    """Return the plan that is kept for a query: the one for any arguments."""
    await connection.execute(f"PREPARE named AS {query.sql}")
    args = f"({', '.join(['NULL'] * len(query.args))})" if query.args else ""
    (explained,) = json.loads(
        await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE named{args}")
    )
    await connection.execute("DEALLOCATE named")
    return explained["Plan"]


async def scans(connection: Any) -> dict[str, list[str]]:
    """Return what each named query reads whole."""
    found = {}
    for name, query in read_queries().items():
        if name in NOT_PLANNED:
            continue
        whole = sorted(set(read_whole(await plan_of(connection, query))))
        if whole:
            found[name] = whole
    return found


@pytest.fixture(scope="module")
def lab_dsn(postgres: Postgres) -> str:
    """Return the DSN of a database that is still empty."""
    return make_database(postgres)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plans(lab_dsn: str) -> Plans:
    """Return what is read whole in each state of the database."""
    found: Plans = {}
    connection = await asyncpg.connect(lab_dsn, statement_cache_size=0, server_settings=GENERIC)
    plain = await asyncpg.connect(
        lab_dsn, statement_cache_size=0, server_settings=GENERIC | _DEFAULTS
    )

    async def look(state: str) -> None:
        found[state] = await scans(connection)
        found[f"{state}, default settings"] = await scans(plain)

    await look("empty")
    await connection.execute((HERE / "filled.sql").read_text(encoding="utf-8"))
    await look("filled")
    await connection.execute("ANALYZE")
    await look("filled and analysed")
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    await connection.execute(f"TRUNCATE {', '.join(row['tablename'] for row in tables)}")
    await connection.execute("ANALYZE")
    await look("emptied and analysed")
    await connection.close()
    await plain.close()
    return found


async def test_connections_of_the_server_plan_without_scans(lab_dsn: str) -> None:
    db = Database(lab_dsn)
    await db.open()
    async with db.session() as session:
        shown = {name: await session._connection.fetchval(f"SHOW {name}") for name in SETTINGS}
    await db.close()
    assert shown == SETTINGS


@pytest.mark.parametrize("name", BY_ID)
async def test_a_list_that_gives_one_finds_it_by_its_key(lab_dsn: str, name: str) -> None:
    connection = await asyncpg.connect(lab_dsn, statement_cache_size=0, server_settings=GENERIC)
    plan = await plan_of(connection, read_queries()[name])
    await connection.close()
    assert any("(id = $1)" in node.get("Index Cond", "") for node, _ in nodes(plan))


@pytest.mark.parametrize("state", STATES)
async def test_no_query_reads_a_table_whole(plans: Plans, state: str) -> None:
    assert {name: of for name, of in plans[state].items() if name not in EXCEPTIONS} == {}


@pytest.mark.parametrize("state", STATES)
async def test_the_path_of_a_run_needs_no_setting(plans: Plans, state: str) -> None:
    found = plans[f"{state}, default settings"]
    assert {name: found[name] for name in PATH_OF_A_RUN if name in found} == {}


async def test_the_path_of_a_run_is_no_scan_after_all_was_deleted(plans: Plans) -> None:
    found = plans["emptied and analysed"]
    assert {name: found[name] for name in PATH_OF_A_RUN if name in found} == {}


async def test_each_exception_is_one(plans: Plans) -> None:
    used = {name for state in STATES for name in plans[state]}
    assert EXCEPTIONS.keys() - used == set()
