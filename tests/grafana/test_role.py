"""The role that Grafana reads as: what it may, what it may not, and who may not make it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import structlog

from tests.conftest import Postgres
from tests.grafana.conftest import as_role
from vpt.config import Config
from vpt.store.grafana_role import ROLE, page_of, prepare, sql_to_run
from vpt.store.migrations import PATIENCE, migrate

CLOSED = (
    "SELECT * FROM hosts",
    "SELECT sealed_secret FROM hosts",
    "SELECT sealed_api_key FROM hosts",
    "SELECT host_url FROM hosts",
    "SELECT parameters FROM test_executions",
    "SELECT steps FROM test_executions",
    "SELECT steps FROM test_cases",
    "SELECT error FROM test_executions",
    "SELECT output FROM execution_steps",
    "SELECT request FROM campaign_results",
    "SELECT * FROM leases",
    "SELECT * FROM tokens",
    "SELECT * FROM audit",
    "SELECT * FROM idempotency_keys",
    "SELECT id FROM server_instance",
    "SELECT * FROM schema_migrations",
    "SELECT device_metrics FROM host_health",
    "DELETE FROM test_executions",
    "DELETE FROM health_means",
    "UPDATE grafana_page SET url = ''",
    "INSERT INTO host_health (host_id) VALUES ('x')",
    "CREATE TABLE mine (id int)",
    "TRUNCATE host_health",
    "CREATE TEMPORARY TABLE mine (id int)",
    "BEGIN; LOCK TABLE schema_migrations IN SHARE MODE",
    "BEGIN; LOCK TABLE device_schemas IN ACCESS SHARE MODE",
)


@pytest.mark.parametrize("statement", CLOSED)
async def test_what_it_may_not(statement: str, reader: Any) -> None:
    await reader.execute("SET default_transaction_read_only = off")  # each role may do that
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await reader.execute(statement)


async def test_it_may_only_select(reader: Any, owner: Any) -> None:
    kinds = await owner.fetch(
        "SELECT DISTINCT privilege_type FROM information_schema.column_privileges"
        " WHERE grantee = $1",
        ROLE,
    )
    assert [row[0] for row in kinds] == ["SELECT"]
    whole = "SELECT count(*) FROM information_schema.table_privileges WHERE grantee = $1"
    assert await owner.fetchval(whole, ROLE) == 0
    role = await owner.fetchrow(
        "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls"
        " FROM pg_roles WHERE rolname = $1",
        ROLE,
    )
    assert not any(role.values())


async def test_it_has_limits(reader: Any, owner: Any) -> None:
    limit = "SELECT rolconnlimit FROM pg_roles WHERE rolname = $1"
    assert await owner.fetchval(limit, ROLE) == 15
    for name, value in (
        ("statement_timeout", "30s"),
        ("lock_timeout", "2s"),
        ("idle_in_transaction_session_timeout", "1min"),
        ("default_transaction_read_only", "on"),
    ):
        assert await reader.fetchval("SELECT current_setting($1)", name) == value


async def test_an_advisory_lock_of_it_holds_up_no_start(
    reader: Any, dsn: str, settings: Config
) -> None:
    """Whoever may query Grafana's datasource can take one."""
    await reader.execute("SELECT pg_advisory_lock(7762036)")
    await reader.execute("SELECT pg_advisory_lock(hashtext('device_schemas'))")
    async with asyncio.timeout(PATIENCE / 4):
        assert await migrate(dsn) == []
        assert await prepare(dsn, settings)


async def test_twice_is_harmless_and_a_new_password_is_taken(
    reader: Any, dsn: str, settings: Config
) -> None:
    assert await prepare(dsn, settings)
    assert await prepare(dsn, replace(settings, vpt_grafana_db_password="another one"))
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(as_role(dsn))
    await (await asyncpg.connect(as_role(dsn, "another one"))).close()


async def test_a_grant_that_is_not_in_the_file_is_taken_back(
    reader: Any, owner: Any, dsn: str, settings: Config
) -> None:
    await owner.execute(f"GRANT SELECT ON hosts TO {ROLE}")
    await reader.fetch("SELECT sealed_secret FROM hosts")
    assert await prepare(dsn, settings)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await reader.fetch("SELECT sealed_secret FROM hosts")


async def test_starters_at_once_do_not_hinder_each_other(
    dsn: str, empty_dsn: str, postgres: Postgres, settings: Config
) -> None:
    """Those of other databases neither, though the role is the server's."""
    await migrate(empty_dsn)
    for _ in range(5):
        await _without_role(postgres)
        starters = [prepare(name, settings) for name in (dsn, empty_dsn) * 4]
        assert await asyncio.gather(*starters) == [True] * 8


# ---------------------------------------------------------------- who may not


@pytest.fixture
async def humble(postgres: Postgres, empty_dsn: str) -> AsyncIterator[str]:
    """Give a database of an account that may not create roles, on a server without ours."""
    name = urlsplit(empty_dsn).path.strip("/")
    await _without_role(postgres)
    await postgres.statement("CREATE ROLE humble LOGIN PASSWORD 'humble'")
    await postgres.statement(f"ALTER DATABASE {name} OWNER TO humble")
    parts = urlsplit(empty_dsn)
    server = parts.netloc.rpartition("@")[2]
    yield urlunsplit(parts._replace(netloc=f"humble:humble@{server}"))
    for statement in ("REASSIGN OWNED BY humble TO vpt", "DROP OWNED BY humble CASCADE"):
        connection = await asyncpg.connect(empty_dsn)
        await connection.execute(statement)
        await connection.close()
    await postgres.statement("DROP ROLE humble")


async def _without_role(postgres: Postgres) -> None:
    connection = await asyncpg.connect(postgres.dsn)
    names = await connection.fetch("SELECT datname FROM pg_database WHERE datallowconn")
    known = await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", ROLE)
    await connection.close()
    if not known:
        return
    for row in names:
        other = await asyncpg.connect(postgres.dsn, database=row[0])
        await other.execute(f"DROP OWNED BY {ROLE}")
        await other.close()
    await postgres.statement(f"DROP ROLE {ROLE}")


async def test_who_may_not_create_roles_is_told_what_to_run(
    humble: str, postgres: Postgres, empty_dsn: str, settings: Config
) -> None:
    assert await migrate(humble)
    with structlog.testing.capture_logs() as logs:
        assert not await prepare(humble, settings)
    (warning,) = (entry for entry in logs if entry["log_level"] == "warning")
    sql = warning["run_as_administrator"]
    assert sql == sql_to_run()
    assert str(settings.vpt_grafana_db_password) not in str(logs)
    administrator = await asyncpg.connect(empty_dsn)
    await administrator.execute(sql.replace("<VPT_GRAFANA_DB_PASSWORD>", "by hand"))
    await administrator.close()
    reader = await asyncpg.connect(as_role(humble, "by hand"))
    assert await reader.fetch("SELECT id FROM hosts") == []
    with structlog.testing.capture_logs() as logs:
        assert await prepare(humble, settings), "a role made by hand gets its grants"
    assert [entry for entry in logs if entry["log_level"] == "warning"] == []
    await reader.close()
    await (await asyncpg.connect(as_role(humble, "by hand"))).close()


async def migrated_by_command(env: dict[str, str]) -> str:
    """Run `vpt migrate` as a process, since it sets up the logs of its process."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vpt", "migrate"),
        env=os.environ | env,
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said
    return said.decode()


async def test_migrate_goes_on_without_the_role(humble: str, tmp_path: Any) -> None:
    env = {"DATABASE_URL": humble, "VPT_DATA_DIR": str(tmp_path)}
    said = await migrated_by_command(env)
    assert "migrations applied" in said
    assert "grafana_role_missing" in said


# ---------------------------------------------------------------- by the command


async def test_migrate_makes_the_role_with_a_password_that_is_kept(
    empty_dsn: str, tmp_path: Any
) -> None:
    env = {"DATABASE_URL": empty_dsn, "VPT_DATA_DIR": str(tmp_path)}
    for _ in range(2):
        await migrated_by_command(env)
    kept = tmp_path / "vpt_grafana_db_password"
    assert kept.stat().st_mode & 0o777 == 0o600
    reader = await asyncpg.connect(as_role(empty_dsn, kept.read_text()))
    url = await reader.fetchval("SELECT url FROM grafana_page")
    await reader.close()
    assert url == "http://127.0.0.1:5109"


def test_the_page_is_where_people_reach_it() -> None:
    assert page_of(Config(server_url="https://lab.example/")) == "https://lab.example"
    assert page_of(Config(server_host="0.0.0.0", server_port=80)) == "http://127.0.0.1:80"
    assert page_of(Config(server_host="fd00::1")) == "http://[fd00::1]:5109"
